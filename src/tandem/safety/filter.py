"""The safety filter: the last word on every proposal, and the watch over what is committed. Trusts no sampler and no planner."""

from __future__ import annotations

import logging
import math

import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import TandemError
from tandem.core.scene import Scene
from tandem.core.trajectory import MAX_KNOTS, MIN_SPACING, Trajectory
from tandem.core.types import Commitment, Proposal, Reason, Verdict
from tandem.robots.model import ArmModel
from tandem.safety.backup import BackupFamily
from tandem.safety.bounds import Bounds
from tandem.safety.certify import certify_one, verdict_digest
from tandem.safety.geometry import Polytope, pack_scene
from tandem.safety.search import find_backup
from tandem.safety.stop import stop_trajectory

Array = NDArray[np.float64]
log = logging.getLogger(__name__)

#: accepted gripper widths beyond the stroke [m]
WIDTH_SLACK = 2e-3


class SafetyFilter:
    """Certifies proposals and watches the committed motion. Holds no state between calls; never raises on what others send it."""

    def __init__(self, arm: ArmModel, bounds: Bounds, family: BackupFamily | None = None) -> None:
        """``family``: the manoeuvres :meth:`rescue` may choose from; default the standard one."""
        self.arm = arm
        self.bounds = bounds
        self.family = family or BackupFamily(k_max=(2.0,) * arm.n)

    def check(
        self, proposal: Proposal, commitment: Commitment, scene: Scene, now: float, polytopes: tuple[Polytope, ...] = ()
    ) -> Verdict:
        """The verdict on a proposal.

        In order: shapes and finite values, switch time not passed, start equal to the committed state at the switch time, then
        consistency, rest at the end, limits, occupancy and age of the scene (:func:`certify_one`). Anything unforeseen is refused
        as malformed.
        """
        try:
            early = self._refuse(proposal, commitment, now)
            if early is not None:
                return self._verdict(early, proposal, scene, now)
            return certify_one(
                self.arm, proposal.trajectory, scene, self.bounds, now, proposal.switch_time, polytopes=polytopes
            )
        except (TandemError, ValueError, TypeError, AttributeError, IndexError, ArithmeticError) as error:
            log.warning("proposal refused: %s", error)
            return Verdict(Reason.MALFORMED, -math.inf, 0.0, "", "", "")

    def guard(self, commitment: Commitment, scene: Scene, now: float, polytopes: tuple[Polytope, ...] = ()) -> Verdict:
        """The verdict on what is left of the committed motion in the scene as it is now (after its end: on standing there)."""
        try:
            left = commitment.trajectory.tail(now - commitment.start)
            return certify_one(self.arm, left, scene, self.bounds, now, max(now, commitment.start), polytopes=polytopes)
        except (TandemError, ValueError, TypeError, AttributeError, IndexError, ArithmeticError) as error:
            log.warning("commitment cannot be checked: %s", error)
            return Verdict(Reason.MALFORMED, -math.inf, 0.0, "", "", "")

    def rescue(
        self, commitment: Commitment, scene: Scene, now: float, switch_time: float, *,
        deadline: float | None = None, rng: np.random.Generator | None = None, polytopes: tuple[Polytope, ...] = (),
    ) -> tuple[Proposal, Verdict] | None:
        """A certified way out of a committed motion that is no longer clear: the fastest stop, else the best backup found.

        The motion until ``switch_time`` is committed and cannot be changed any more; the proposal begins there. None: no
        certified way out was found. ``deadline``: as in :func:`find_backup`.
        """
        state = commitment.state_at(switch_time)
        candidates = [("stop", stop_trajectory(self.arm, *state)), ("stop gently", stop_trajectory(self.arm, *state, scale=0.5))]
        for name, trajectory in candidates:
            result = self._proposed(trajectory, name, commitment, scene, now, switch_time, polytopes)
            if result is not None:
                return result
        packed = pack_scene(scene, self.arm, self.bounds, now, start=switch_time, polytopes=polytopes)
        found = find_backup(self.arm, self.family, state, packed, self.bounds, rng=rng, deadline=deadline)
        if found is None:
            return None
        return self._proposed(found.trajectory, "backup", commitment, scene, now, switch_time, polytopes)

    def _proposed(
        self, trajectory: Trajectory, name: str, commitment: Commitment, scene: Scene, now: float, switch_time: float,
        polytopes: tuple[Polytope, ...],
    ) -> tuple[Proposal, Verdict] | None:
        width = np.full(len(trajectory.times), commitment.width_at(switch_time))
        proposal = Proposal(trajectory, width, switch_time, 0.0, name)
        verdict = self.check(proposal, commitment, scene, now, polytopes)
        return (proposal, verdict) if verdict.certified else None

    def _refuse(self, proposal: Proposal, commitment: Commitment, now: float) -> Reason | None:
        """The reason to refuse before any geometry, or None."""
        t, width = proposal.trajectory, np.asarray(proposal.width, dtype=np.float64)
        numbers = (now, proposal.switch_time, proposal.head_duration)
        if t.joints != self.arm.n or width.shape != t.times.shape:
            return Reason.MALFORMED
        if not np.isfinite(width).all() or not all(map(math.isfinite, numbers)):
            return Reason.MALFORMED
        if width.min() < -WIDTH_SLACK or width.max() > self.arm.stroke + WIDTH_SLACK:
            return Reason.MALFORMED
        if len(t.times) > MAX_KNOTS or np.diff(t.times).min() <= MIN_SPACING:
            return Reason.MALFORMED
        if not 0.0 <= proposal.head_duration <= t.duration + 1e-9:
            return Reason.MALFORMED
        if proposal.switch_time < now:
            return Reason.LATE
        if commitment.trajectory.joints != self.arm.n:
            return Reason.START_MISMATCH
        tolerances = (self.bounds.start_tolerance_q, self.bounds.start_tolerance_v, self.bounds.start_tolerance_a)
        committed = commitment.state_at(proposal.switch_time)
        for ours, theirs, tolerance in zip((t.q[0], t.v[0], t.a[0]), committed, tolerances, strict=True):
            if not np.abs(ours - theirs).max() <= tolerance:
                return Reason.START_MISMATCH
        return None

    def _verdict(self, reason: Reason, proposal: Proposal, scene: Scene, now: float) -> Verdict:
        packed = pack_scene(scene, self.arm, self.bounds, now if math.isfinite(now) else 0.0)
        return Verdict(reason, -math.inf, 0.0, "", "", verdict_digest(self.arm, proposal.trajectory, packed, self.bounds))
