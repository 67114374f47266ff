"""Certification of quintic trajectories.

The kernels take piecewise-linear accelerations. A quintic is certified through the trajectory that is played for it, whose
distance from the quintic is bounded by proof (:meth:`tandem.core.quintic.QuinticTrajectory.apart`): with the tracking error
widened by that bound, the occupancy encloses the arm on either. The limits of the quintic itself are checked with its own exact
extrema.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import InputError
from tandem.core.quintic import QuinticTrajectory, cut
from tandem.core.scene import Scene
from tandem.core.trajectory import MAX_KNOTS, Trajectory
from tandem.core.types import Reason, Verdict
from tandem.robots.model import ArmModel
from tandem.safety.bounds import Bounds
from tandem.safety.certify import certify_one
from tandem.safety.geometry import Polytope
from tandem.safety.kernels import LIMIT_SLACK, SPEED_SPLITS

Array = NDArray[np.float64]


@dataclass(frozen=True)
class QuinticVerdict:
    """The ``verdict`` on the quintic and on the ``trajectory`` played for it; ``apart`` (n,) [rad]: their distance at most."""

    verdict: Verdict
    trajectory: Trajectory
    apart: Array


def _speed_law_holds(law: Array, position: Array, velocity: Array, splits: int) -> bool:
    """Whether ``|v| <= max(0, sqrt(b d) - a)``, d the distance to the anchor, on a piece with control points (6,) and (5,).

    Sufficient: the greatest velocity against the limit at the place nearest to the anchor, both by their control points; a piece
    that fails is halved.
    """
    a, b, up, low = law
    fast, slow = max(0.0, velocity.max() - LIMIT_SLACK), max(0.0, -velocity.min() - LIMIT_SLACK)
    room_up, room_low = up - position.max(), position.min() - low
    good = fast == 0.0 or (room_up >= 0.0 and (fast + a) ** 2 <= b * room_up)
    if good and (slow == 0.0 or (room_low >= 0.0 and (slow + a) ** 2 <= b * room_low)):
        return True
    if splits == 0:
        return False
    halves = ((0.0, 0.5), (0.5, 1.0))
    return all(_speed_law_holds(law, cut(position, *half), cut(velocity, *half), splits - 1) for half in halves)


def broken_limit(arm: ArmModel, t: QuinticTrajectory) -> tuple[Reason, float, int] | None:
    """The first limit that a quintic breaks: reason, start of the segment [s], joint; None: it keeps all of them."""
    tops = (None, arm.velocity, arm.acceleration, arm.jerk)
    reasons = (Reason.POSITION_LIMIT, Reason.VELOCITY_LIMIT, Reason.ACCELERATION_LIMIT, Reason.JERK_LIMIT)
    for order, (top, reason) in enumerate(zip(tops, reasons, strict=True)):
        for begin, end in pairwise(t.times.tolist()):
            lo, hi = t.extrema(begin, end, order)
            if top is None:
                wrong = (lo < arm.lower - LIMIT_SLACK) | (hi > arm.upper + LIMIT_SLACK)
            else:
                wrong = np.maximum(hi, -lo) > top * (1.0 + LIMIT_SLACK)
            if wrong.any():
                return reason, begin, int(np.argmax(wrong))
    position, velocity = t.control(0), t.control(1)
    for j in np.flatnonzero(~np.isnan(arm.velocity_position[:, 0])):
        for i, begin in enumerate(t.times[:-1]):
            if not _speed_law_holds(arm.velocity_position[j], position[i, :, j], velocity[i, :, j], SPEED_SPLITS):
                return Reason.VELOCITY_LIMIT, float(begin), int(j)
    return None


def certify_quintic(
    arm: ArmModel, trajectory: QuinticTrajectory, scene: Scene, bounds: Bounds, now: float, start_time: float | None = None, *,
    pieces: int | None = None, polytopes: tuple[Polytope, ...] = (), widened: bool = True,
) -> QuinticVerdict:
    """The verdict on a quintic trajectory that must end at rest, and what to play for it.

    Args:
        pieces: of linear acceleration a segment; default as many as may be sent to the arm (MAX_KNOTS), at most 32.
        widened: False leaves out the distance of the two trajectories: only for the mutation check.

    Raises:
        InputError: the trajectory is not of this arm, ``pieces`` below 3, ``now`` or ``start_time`` not finite.
    """
    if trajectory.joints != arm.n:
        raise InputError(f"trajectory has {trajectory.joints} joints; {arm.name} has {arm.n}")
    count = max(3, min(32, (MAX_KNOTS - 1) // (len(trajectory.times) - 1))) if pieces is None else pieces
    played, apart = trajectory.played(count)
    tracking = np.broadcast_to(np.asarray(bounds.tracking_error, dtype=np.float64), (arm.n,))
    wider = dataclasses.replace(bounds, tracking_error=tuple(float(x) for x in tracking + (apart if widened else 0.0)))
    found = certify_one(arm, played, scene, wider, now, start_time, polytopes=polytopes)
    digest = hashlib.sha256(f"{found.digest}|{trajectory.digest()}".encode()).hexdigest()
    broken = broken_limit(arm, trajectory)
    if not trajectory.ends_at_rest():
        found = dataclasses.replace(found, reason=Reason.NOT_AT_REST, time=trajectory.duration)
    elif broken is not None and found.certified:
        reason, time, joint = broken
        found = dataclasses.replace(found, reason=reason, time=time, link=arm.link_names[joint + 1], obstacle="")
    return QuinticVerdict(dataclasses.replace(found, digest=digest), played, apart)
