"""A planner that needs no network: swings the arm about its home configuration, each plan with a backup that brakes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np

from tandem.core.scene import Scene
from tandem.core.spline import head_knots
from tandem.core.trajectory import Trajectory
from tandem.core.types import Candidate, Commitment, Counters, ObjectPose, Proposal
from tandem.robots.model import load_arm
from tandem.safety.backup import BackupFamily

AMPLITUDE = np.array([0.35, 0.08, 0.2, 0.08, 0.0, 0.05, 0.4])
RATE = 1.4
DT, STEPS = 0.1, 8


@dataclass
class Result:
    """What the planner node expects."""

    proposal: Proposal | None
    candidates: list[Candidate]
    counters: Counters = field(default_factory=Counters)
    plan_ms: float = 0.0
    reason: str = "planned"


class ScriptedPlanner:
    """Plans a swing; ``plan_time`` [s] is how long it pretends to think."""

    def __init__(self, plan_time: float = 0.02) -> None:
        self._arm = load_arm("fr3")
        self._plan_time = plan_time
        self._plans = 0

    def plan(
        self, object_pose: ObjectPose | None, commitment: Commitment, scene: Scene, switch_time: float, now: float,
        deadline: float | None = None, width: float | None = None,
    ) -> Result:
        """Head along the swing, backup that brakes at once."""
        time.sleep(self._plan_time)
        if object_pose is None:
            return Result(None, [], reason="no valid object pose")
        self._plans += 1
        proposal = swing(commitment, switch_time, self._arm.home, f"swing-{self._plans}")
        path = np.stack([proposal.trajectory.q[:, 0], proposal.trajectory.q[:, 1], proposal.trajectory.q[:, 3]], axis=1)
        return Result(proposal, [Candidate(path, True, 0.0, chosen=True)], Counters(network_rows=1, potential_evals=1))

    def resumed(self) -> None:
        """Nothing is remembered."""


def swing(commitment: Commitment, switch_time: float, home: np.ndarray, name: str) -> Proposal:
    """A plan from the commitment's state at ``switch_time``: 0.8 s of swing about ``home``, then a backup."""
    q, v, a = commitment.state_at(switch_time)
    times = DT * np.arange(1, STEPS + 1)
    waypoints = home + AMPLITUDE * np.sin(RATE * (switch_time % 1000.0 + times))[:, None]
    start = np.linalg.norm(q - waypoints[0])
    if start > 0.1:  # come back gently
        fraction = min(1.0, 0.35 / start) * (times / times[-1])[:, None]
        waypoints = q + fraction * (waypoints - q)
    t, hq, hv, ha = head_knots(q, v, a, waypoints[None], DT, cutoff=8.0)
    head = Trajectory(t, hq[0], hv[0], ha[0])
    backup = BackupFamily(accelerate=0.1, stop=0.8).trajectory(hq[0, -1], hv[0, -1], ha[0, -1], np.zeros(7))
    whole = head.then(backup)
    return Proposal(whole, np.full(len(whole.times), commitment.width_at(switch_time)), switch_time, head.duration, name)


def make(sampler: str, seed: int, bounds: str) -> ScriptedPlanner:
    """Factory for the planner node."""
    return ScriptedPlanner()
