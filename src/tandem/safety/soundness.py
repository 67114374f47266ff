"""Certified motions against the truth: an obstacle that flies at the arm, exact arithmetic.

Used by the property tests and by ``tandem bench soundness``; the search for escapes is in :mod:`tandem.safety.escapes`,
distances of the meshes are in :mod:`tandem.safety.meshes`.
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from tandem.core.scene import Obstacle, Scene
from tandem.core.trajectory import Trajectory
from tandem.robots.kinematics import sphere_centers
from tandem.robots.model import ArmModel
from tandem.safety.bounds import Bounds
from tandem.safety.certify import certify
from tandem.safety.geometry import pack_scene

Array = NDArray[np.float64]


def moving_ball(
    arm: ArmModel, bounds: Bounds, declared_speed: float, speed: float = 0.5, latency: float = 0.1, age: float = 0.05
) -> float:
    """Least true clearance [m] among certified cases of a ball that flies at the arm's foremost collision ball.

    It flies at ``speed`` [m/s] and was last seen ``latency + age`` before the motion begins; ``bounds`` and ``declared_speed``
    say what the filter is told of that. Negative: certified although they meet.
    """
    t = Trajectory.at_rest(arm.home, 0.3)
    balls = sphere_centers(arm, arm.home)
    foremost = balls[int(np.argmax(balls[:, 0]))]
    ahead = np.array([1.0, 0.0, 0.0])
    least = np.inf
    for distance in np.linspace(0.1, 0.6, 101):
        seen = foremost + distance * ahead
        ball = Obstacle("ball", "sphere", (0.05,), (seen[0], seen[1], seen[2]), speed=declared_speed, stamp=-age)
        packed = pack_scene(Scene((ball,)), arm, bounds, 0.0)
        if certify(arm, t.times, t.q[None], t.v[None], t.a[None], packed, bounds).certified[0]:
            there = seen - speed * (latency + age + t.duration) * ahead
            least = min(least, float((np.linalg.norm(balls - there, axis=1) - arm.sphere_radius).min()) - 0.05)
    return least


def rounding_touches(arm: ArmModel, pad: float, count: int = 300, seed: int = 5) -> int:
    """How many of ``count`` certified resting motions touch by exact rational arithmetic.

    One ball of the base and one spherical obstacle 50 m away, grown to the last bit that is still certified with ``pad`` [m] as
    the only allowance. Above 0: the pad does not cover the rounding of float64.
    """
    center, radius = (0.1, 0.2, 0.3), 0.1
    bounds = Bounds(tracking_error=(0.0,), joint_pad=0.0, rounding_pad=pad)
    t = Trajectory.at_rest(arm.home, 0.1)
    ball = dataclasses.replace(
        arm, sphere_link=np.array([0]), sphere_center=np.array([center]), sphere_radius=np.array([radius]),
        self_pairs=np.zeros((0, 2), np.int64), exclusions=(), digest="one ball",
    )
    rng, far, touching = np.random.default_rng(seed), 50.0, 0
    for _ in range(count):
        way = rng.normal(size=3)
        x, y, z = (c + far * float(u) for c, u in zip(center, way / np.linalg.norm(way), strict=True))
        lo, hi = far - 0.2, far
        while (size := 0.5 * (lo + hi)) not in (lo, hi):  # largest certified radius
            scene = pack_scene(Scene((Obstacle("o", "sphere", (size,), (x, y, z)),)), ball, bounds, 0.0)
            good = certify(ball, t.times, t.q[None], t.v[None], t.a[None], scene, bounds).certified[0]
            lo, hi = (size, hi) if good else (lo, size)
        apart = sum((Fraction(a) - Fraction(b)) ** 2 for a, b in zip((x, y, z), center, strict=True))
        touching += int(apart < (Fraction(lo) + Fraction(radius)) ** 2)
    return touching
