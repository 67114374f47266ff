"""The search for a point of the arm outside its occupancy: random and worst-case states, intervals and tracking errors.

Kinematics come from :mod:`tandem.robots`, geometry from the hulls' vertices; the occupancy from the kernels. Used by the
property tests and by ``tandem bench soundness``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem.core.scene import Obstacle, Scene
from tandem.core.trajectory import Trajectory, integrate_knots
from tandem.robots.kinematics import fk, sphere_centers
from tandem.robots.model import ArmModel
from tandem.robots.urdf import Shape
from tandem.safety.bounds import Bounds
from tandem.safety.certify import certify, occupancy
from tandem.safety.geometry import pack_scene

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Escapes:
    """``samples`` points tried, ``escaped`` of them outside, least ``margin`` [m] (negative: outside), ``where`` it was found."""

    samples: int
    escaped: int
    margin: float
    where: str


def wild_motion(arm: ArmModel, rng: np.random.Generator) -> Trajectory:
    """A motion of 1 s with random knots; positions may run through several turns, speeds beyond the limits."""
    knots = np.array([0.0, 0.07, 0.31, 0.6, 1.0])
    fast = rng.choice([0.3, 1.0, 3.0])
    turn = rng.choice([0.0, 1.0, 3.0]) * 2.0 * np.pi * rng.integers(-1, 2, arm.n) * (arm.joint_type == 0)
    a = rng.uniform(-1.0, 1.0, (5, arm.n)) * fast * np.minimum(arm.acceleration, 10.0)
    q0, v0 = rng.uniform(arm.lower, arm.upper) + turn, rng.uniform(-1.0, 1.0, arm.n) * fast * np.minimum(arm.velocity, 5.0)
    if rng.uniform() < 0.2:
        a = np.zeros_like(a)  # at constant speed nothing hides behind curvature
    q, v = integrate_knots(knots, q0, v0, a)
    return Trajectory(knots, q, v, a)


def escapes(
    arm: ArmModel, shapes: Sequence[Shape], bounds: Bounds, motions: int, rng: np.random.Generator, *,
    travel: float = 1.0, actual_tracking: float | None = None, interval: float | None = None, adversarial: bool = True,
) -> Escapes:
    """Try to find a vertex of a shape outside the balls of its link.

    Args:
        bounds: what the occupancy allows for. motions: how many motions are tried, four configurations each.
        travel: factor of the displacement bound; actual_tracking: the true tracking error [rad] where it differs from the bound's
            (both for the mutation check). interval: length [s]; default random up to 0.25 s.
        adversarial: tracking errors at corners of their range and times at the ends; otherwise uniform.

    Returns:
        The tally; a link without shapes counts nothing.
    """
    tracking = np.broadcast_to(np.asarray(bounds.tracking_error if actual_tracking is None else actual_tracking), (arm.n,))
    samples = escaped = 0
    margin, where = np.inf, ""
    for _ in range(motions):
        t = wild_motion(arm, rng)
        length = rng.choice([0.002, 0.0078, 0.03, 0.125, 0.25]) if interval is None else interval
        begin = rng.uniform(0.0, t.duration - length)
        centers, radii, link = occupancy(arm, t, bounds, np.array([begin, begin + length]), travel=travel)
        corner = rng.choice([-1.0, 1.0], (4, arm.n)) if adversarial else rng.uniform(-1.0, 1.0, (4, arm.n))
        corner[0] = np.sign(t.sample(begin)[1])  # ahead of the motion, all joints together
        share = np.array([1.0, 0.0, rng.uniform(), rng.uniform()]) if adversarial else rng.uniform(0.0, 1.0, 4)
        frames = fk(arm, t.sample(begin + share * length)[0] + corner * tracking)
        for shape in shapes:
            points = np.einsum("fij,vj->fvi", frames[:, shape.link, :3, :3], shape.vertices) + frames[:, shape.link, None, :3, 3]
            mine = link == shape.link
            gap = radii[0, mine] - np.linalg.norm(points[:, :, None] - centers[0, mine], axis=-1) - shape.radius
            inside = gap.max(axis=2)
            samples += inside.size
            escaped += int((inside < 0.0).sum())
            if inside.min() < margin:
                margin, where = float(inside.min()), f"{shape.name}, interval {length:.4f} s"
    return Escapes(samples, escaped, margin, where)


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
