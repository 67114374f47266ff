"""What the parts hand to each other. Times are seconds on one clock (the caller's); poses are 4x4, base frame, metres."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from tandem.core.trajectory import Trajectory

Array = NDArray[np.float64]

#: layout of one step of an end-effector chunk: position (3) [m], 6-D rotation (6), gripper width (1) [m]
CHUNK_DIM = 10


@dataclass(frozen=True)
class ObjectPose:
    """An object as perception sees it.

    Attributes:
        pose: (4, 4) in the base frame. covariance: (6, 6) of x, y, z [m], rotation about x, y, z [rad]. stamp: image time [s].
    """

    pose: Array
    covariance: Array
    stamp: float


@dataclass(frozen=True)
class Proprioception:
    """The arm at one moment: joint positions (n,) [rad], velocities (n,) [rad/s], gripper width [m], time [s]."""

    q: Array
    v: Array
    width: float
    stamp: float


@dataclass(frozen=True)
class Commitment:
    """What the executor will do if nothing new arrives: ``trajectory`` starts at time ``start`` [s] and ends at rest.

    ``width``: (M,) gripper widths [m] at the trajectory's knots.
    """

    trajectory: Trajectory
    start: float
    width: Array

    def state_at(self, time: float) -> tuple[Array, Array, Array]:
        """Commanded q, v, a (n,) at ``time`` [s]."""
        return self.trajectory.sample(time - self.start)

    def width_at(self, time: float) -> float:
        """Commanded gripper width [m] at ``time`` [s]."""
        return float(np.interp(time - self.start, self.trajectory.times, self.width))

    @property
    def end(self) -> float:
        """Time at which the arm is at rest [s]."""
        return self.start + self.trajectory.duration


def motion_digest(trajectory: Trajectory, width: Array) -> str:
    """SHA-256 over a trajectory and the gripper widths (M,) [m] at its knots."""
    widths = np.ascontiguousarray(width, dtype=np.float64)
    return hashlib.sha256(trajectory.digest().encode() + widths.tobytes()).hexdigest()


@dataclass(frozen=True)
class Proposal:
    """A plan for the filter: head and backup as one trajectory that starts at ``switch_time`` and ends at rest.

    ``width`` (M,): gripper width [m] at each knot. ``head_duration``: where the backup begins [s]. ``name`` identifies the plan.
    """

    trajectory: Trajectory
    width: Array
    switch_time: float
    head_duration: float
    name: str = ""

    def digest(self) -> str:
        """SHA-256 over trajectory and gripper widths: what a certificate is bound to."""
        return motion_digest(self.trajectory, self.width)


class Reason(Enum):
    """Why a trajectory was, or was not, certified."""

    CERTIFIED = "certified"
    MALFORMED = "malformed: wrong shape, joint names, NaN or non-monotone times"
    LATE = "switch time already passed"
    START_MISMATCH = "does not start where the executor will be at the switch time"
    INCONSISTENT = "positions, velocities and accelerations disagree"
    NOT_AT_REST = "does not end at rest"
    POSITION_LIMIT = "joint position limit"
    VELOCITY_LIMIT = "joint velocity limit"
    ACCELERATION_LIMIT = "joint acceleration limit"
    JERK_LIMIT = "joint jerk limit"
    SELF_COLLISION = "self-collision not excluded"
    COLLISION = "collision not excluded"
    STALE_SCENE = "obstacle data too old"
    STOPPED = "executor stopped; operator must resume"


@dataclass(frozen=True)
class Verdict:
    """The filter's word on one trajectory.

    ``clearance`` [m]: signed lower bound over the motion (negative: not excluded). ``time`` [s] from the trajectory's start,
    ``link`` and ``obstacle``: the worst case. ``digest``: SHA-256 over all inputs (trajectory, scene, bounds, arm).
    """

    reason: Reason
    clearance: float
    time: float
    link: str
    obstacle: str
    digest: str

    @property
    def certified(self) -> bool:
        """Whether the motion may be played."""
        return self.reason is Reason.CERTIFIED


@dataclass(frozen=True)
class Candidate:
    """One sampled plan, for inspection: end-effector path (H, 3) [m], whether feasible, its cost, whether chosen."""

    path: Array
    feasible: bool
    cost: float
    chosen: bool = False
    backup_path: Array | None = None


@dataclass
class Counters:
    """Work done for one plan."""

    network_rows: int = 0
    potential_evals: int = 0
    barrier_evals: int = 0
    solver_iterations: int = 0
    failures: dict[str, int] = field(default_factory=dict)

    def fail(self, kind: str, count: int = 1) -> None:
        """Count a failure by kind."""
        self.failures[kind] = self.failures.get(kind, 0) + count
