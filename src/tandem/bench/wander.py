"""Certified motions without a task: the arm wanders about a posture. For what measures execution and not planning."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tandem.core.certificate import sign
from tandem.core.scene import TABLE, Scene
from tandem.core.types import Commitment, Proposal
from tandem.execution.types import CertifiedTrajectory, to_ns
from tandem.robots.model import ArmModel
from tandem.safety.backup import BackupFamily
from tandem.safety.bounds import Bounds
from tandem.safety.filter import SafetyFilter

Array = NDArray[np.float64]

#: share of a motion that is its head; the rest brakes to rest [s]
HEAD = 0.5
ATTEMPTS = 8


class Wanderer:
    """Plans and certifies random motions about ``centre`` (n,) [rad] (default: home), accelerating by ``vigour`` [rad/s^2].

    The same filter as the safety filter's node certifies them, over a bare table; ``key`` signs.
    """

    def __init__(
        self, arm: ArmModel, bounds: Bounds, key: bytes, seed: int = 0, vigour: float = 1.5, centre: ArrayLike | None = None
    ) -> None:
        self.arm = arm
        self._filter, self._key, self._vigour = SafetyFilter(arm, bounds), key, vigour
        self._family = BackupFamily(k_max=(10.0,) * arm.n)
        self._centre = np.asarray(arm.home if centre is None else centre, dtype=np.float64)
        self._rng = np.random.default_rng(seed)
        self._scene = Scene((TABLE,))

    def plan(
        self, commitment: Commitment, now: float, switch_time: float, width: float | None = None
    ) -> CertifiedTrajectory | None:
        """A certified motion from what is committed at ``switch_time`` [s], ending at rest; None when some tries were refused."""
        q, v, a = commitment.state_at(switch_time)
        for _ in range(ATTEMPTS):
            pull = 4.0 * (self._centre - q) - 2.5 * v
            k = np.clip(pull + self._rng.uniform(-1.0, 1.0, self.arm.n) * self._vigour, -2.0 * self._vigour, 2.0 * self._vigour)
            trajectory = self._family.trajectory(q, v, a, k)
            hold = commitment.width_at(switch_time) if width is None else width
            proposal = Proposal(trajectory, np.full(len(trajectory.times), hold), switch_time, HEAD, "wander")
            certified = self.certify(proposal, commitment, now)
            if certified is not None:
                return certified
        return None

    def certify(self, proposal: Proposal, commitment: Commitment, now: float) -> CertifiedTrajectory | None:
        """The proposal with its certificate, None when the filter refuses it."""
        verdict = self._filter.check(proposal, commitment, self._scene, now)
        if not verdict.certified:
            return None
        signature = sign(self._key, verdict.digest, proposal.digest(), to_ns(proposal.switch_time))
        return CertifiedTrajectory(proposal, verdict.digest, signature)
