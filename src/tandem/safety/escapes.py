"""The search for a point of the arm outside its occupancy: random and worst-case motions, intervals and tracking errors.

Kinematics come from :mod:`tandem.robots`, geometry from the collision shapes; the occupancy from the kernels. Used by the
property tests and by ``tandem bench soundness``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem.core.trajectory import Trajectory, integrate_knots
from tandem.robots.geometry import convex_hull, surface_points
from tandem.robots.kinematics import fk
from tandem.robots.model import ArmModel
from tandem.robots.urdf import Shape
from tandem.safety.backup import BackupFamily
from tandem.safety.bounds import Bounds
from tandem.safety.certify import occupancy
from tandem.safety.geometry import parts_of

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: points of each shape that are tried on every motion: the least covered ones, and others drawn anew
CRITICAL, DRAWN = 4, 2
#: configurations tried first on a motion, and rounds of improving the worst of them
CONFIGURATIONS, ROUNDS = 12, 3


@dataclass(frozen=True)
class Escapes:
    """What a search found.

    Attributes:
        samples: points tried. escaped: of these outside their link's balls, or balls' centres moved farther than their bound.
        margin: least margin of a point [m] (negative: outside). where: shape and interval it was found at.
        share: greatest motion of a ball's centre as a share of its bound (above 1: the bound is wrong).
    """

    samples: int
    escaped: int
    margin: float
    where: str
    share: float


@dataclass(frozen=True)
class _Target:
    """Surface points (P, 3) [m] of one shape in its link's frame, the CRITICAL least covered ones first; their link."""

    name: str
    link: int
    points: Array
    radius: float


def _targets(arm: ArmModel, shapes: Sequence[Shape]) -> list[_Target]:
    out = []
    for shape in shapes:
        points = shape.vertices
        if len(points) > 3:
            points = surface_points(convex_hull(points), 0.15 * float(np.ptp(points, axis=0).max()))
        mine = np.asarray(arm.sphere_link) == shape.link
        room = arm.sphere_radius[mine] - np.linalg.norm(points[:, None] - arm.sphere_center[mine], axis=-1)
        out.append(_Target(shape.name, shape.link, points[np.argsort(room.max(axis=1), kind="stable")], shape.radius))
    return out


def wild_motion(arm: ArmModel, rng: np.random.Generator) -> Trajectory:
    """A motion of 1 s: random knots, constant speed, or a backup with k at its bounds from a state at its limits.

    Positions may run through several turns, speeds go beyond the limits: the occupancy has to hold for those too.
    """
    knots = np.array([0.0, 0.07, 0.31, 0.6, 1.0])
    fast = rng.choice([0.3, 1.0, 3.0])
    turn = rng.choice([0.0, 1.0, 3.0]) * 2.0 * np.pi * rng.integers(-1, 2, arm.n) * (arm.joint_type == 0)
    q0, v0 = rng.uniform(arm.lower, arm.upper) + turn, rng.uniform(-1.0, 1.0, arm.n) * fast * np.minimum(arm.velocity, 5.0)
    kind = rng.integers(5)
    if kind == 0:  # at constant speed nothing hides behind curvature
        a = np.zeros((5, arm.n))
    elif kind < 3:
        a = rng.uniform(-1.0, 1.0, (5, arm.n)) * fast * np.minimum(arm.acceleration, 10.0)
    else:
        limit = fast * np.minimum(arm.acceleration, 10.0)
        v0 = rng.choice([-1.0, 1.0], arm.n) * fast * np.minimum(arm.velocity, 5.0)
        q0 = np.where(rng.uniform(size=arm.n) < 0.5, rng.choice([arm.lower, arm.upper]), q0)
        family = BackupFamily(k_max=tuple(limit))
        return family.trajectory(q0, v0, rng.choice([-1.0, 0.0, 1.0], arm.n) * limit, rng.choice([-1.0, 1.0], arm.n) * limit)
    q, v = integrate_knots(knots, q0, v0, a)
    return Trajectory(knots, q, v, a)


class _Motion:
    """One motion, one interval, and how much room each configuration in it leaves."""

    def __init__(
        self, arm: ArmModel, order: IntArray, t: Trajectory, bounds: Bounds, span: tuple[float, float], travel: float,
        targets: list[_Target], rng: np.random.Generator,
    ) -> None:
        self.arm, self.order, self.t, self.span = arm, order, t, span
        centers, radii, self.link = occupancy(arm, t, bounds, np.array(span), travel=travel)
        self.centers, self.radii = centers[0], radii[0]
        picks = [np.concatenate([np.arange(CRITICAL), rng.integers(0, len(x.points), DRAWN)]) % len(x.points) for x in targets]
        self.tried = [(x, x.points[pick]) for x, pick in zip(targets, picks, strict=True)]

    def room(self, at: Array, off: Array) -> tuple[Array, Array, Array]:
        """For C configurations, at shares ``at`` (C,) of the interval and ``off`` (C, n) the nominal position.

        Returns:
            room [m] of the targets' points (C, targets, points); how far the balls moved (C, S) and at most may [m] (S,).
        """
        begin, end = self.span
        frames = fk(self.arm, self.t.sample(begin + at * (end - begin))[0] + off)
        out = []
        for target, local in self.tried:
            turn, shift = frames[:, target.link, :3, :3], frames[:, target.link, :3, 3]
            points = np.einsum("cij,pj->cpi", turn, local) + shift[:, None]
            mine = self.link == target.link
            gap = self.radii[mine] - np.linalg.norm(points[:, :, None] - self.centers[mine], axis=-1)
            out.append(gap.max(axis=2) - target.radius)
        own = frames[:, np.asarray(self.arm.sphere_link)[self.order]]
        balls = np.einsum("csij,sj->csi", own[..., :3, :3], self.arm.sphere_center[self.order]) + own[..., :3, 3]
        moved = np.linalg.norm(balls - self.centers, axis=-1)
        bound = self.radii - self.arm.sphere_radius[self.order]
        return np.stack(out, axis=1), moved, bound


def escapes(
    arm: ArmModel, shapes: Sequence[Shape], bounds: Bounds, motions: int, rng: np.random.Generator, *,
    travel: float = 1.0, actual_tracking: float | None = None, interval: float | None = None, adversarial: bool = True,
) -> Escapes:
    """Try to find a point of a shape outside the balls of its link, or a ball that moves farther than its bound.

    Args:
        bounds: what the occupancy allows for. motions: how many motions are tried, an interval of each.
        travel: factor of the displacement bound; actual_tracking: the true tracking error [rad] where it differs from the bound's
            (both for the mutation check). interval: length [s]; default random up to 0.25 s.
        adversarial: tracking errors at corners of their range and times at the ends, then improved sign by sign towards an
            escape; otherwise uniform.

    Returns:
        The tally; a link without shapes counts nothing.
    """
    tracking = np.broadcast_to(np.asarray(bounds.tracking_error if actual_tracking is None else actual_tracking), (arm.n,))
    targets = _targets(arm, shapes)
    order = np.array([s for part in parts_of(arm) for s in part.spheres], dtype=np.int64)  # as the kernels have the balls
    samples = escaped = 0
    margin, where, share = np.inf, "", 0.0
    for _ in range(motions):
        t = wild_motion(arm, rng)
        length = rng.choice([0.002, 0.0078, 0.03, 0.125, 0.25]) if interval is None else interval
        begin = rng.uniform(0.0, t.duration - length)
        motion = _Motion(arm, order, t, bounds, (begin, begin + length), travel, targets, rng)
        at, signs = _first(t, begin, arm.n, adversarial, rng)
        for step in range(ROUNDS + 1 if adversarial else 1):
            room, moved, bound = motion.room(at, signs * tracking)
            samples += room.size + moved.size
            escaped += int((room < 0.0).sum()) + int((moved > bound).sum())
            share = max(share, float((moved / bound).max()))
            worst = np.unravel_index(int(room.argmin()), room.shape)
            if room[worst] < margin:
                margin, where = float(room[worst]), f"{targets[worst[1]].name}, interval {length:.4f} s"
            # alternate between the least room and the longest way
            best = int(worst[0]) if step % 2 == 0 else int((moved / bound).max(axis=1).argmax())
            at, signs = _around(at[best], signs[best], rng)
    return Escapes(samples, escaped, margin, where, share)


def _first(t: Trajectory, begin: float, n: int, adversarial: bool, rng: np.random.Generator) -> tuple[Array, Array]:
    """Shares of the interval (C,) and tracking errors (C, n) in units of their bound to begin with."""
    if not adversarial:
        return rng.uniform(0.0, 1.0, CONFIGURATIONS), rng.uniform(-1.0, 1.0, (CONFIGURATIONS, n))
    signs = rng.choice([-1.0, 1.0], (CONFIGURATIONS, n))
    signs[0] = np.where(t.sample(begin)[1] >= 0.0, 1.0, -1.0)  # ahead of the motion, all joints together
    signs[1] = -signs[0]
    at = rng.uniform(0.0, 1.0, CONFIGURATIONS)
    at[:6] = (1.0, 0.0, 1.0, 0.0, 0.0, 1.0)
    return at, signs


def _around(at: float, signs: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Neighbours of a configuration: each joint's sign flipped, other times."""
    n = len(signs)
    flipped = np.repeat(signs[None], n, axis=0) * (1.0 - 2.0 * np.eye(n))
    times = np.array([0.0, 1.0, rng.uniform(), np.clip(at + rng.normal(0.0, 0.1), 0.0, 1.0)])
    return np.concatenate([np.full(n, at), times]), np.concatenate([flipped, np.repeat(signs[None], 4, axis=0)])
