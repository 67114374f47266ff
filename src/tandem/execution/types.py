"""What the executor, its process and its clients hand to each other. SI units; arrays (n,) are joints in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tandem.core.config import setting
from tandem.core.errors import ConfigError
from tandem.core.types import Proposal

if TYPE_CHECKING:
    from tandem.robots.model import ArmModel

Array = NDArray[np.float64]


def to_ns(time: float) -> int:
    """Nanoseconds of a time in seconds, exact to the nearest; ``from_ns(to_ns(t)) == t`` for any time after 1970."""
    whole = int(time // 1.0)
    return whole * 1_000_000_000 + round((time - whole) * 1e9)


def from_ns(stamp: int) -> float:
    """Seconds of a time in nanoseconds, correctly rounded."""
    return stamp / 1_000_000_000


class Mode(IntEnum):
    """What the executor is doing."""

    IDLE = 0  #: at rest, holding; takes trajectories
    HEAD = 1  #: playing a plan's head
    BACKUP = 2  #: playing a plan's backup: nothing newer arrived in time
    STOPPING = 3  #: slowing down along the certified path after a fault; takes nothing
    STOPPED = 4  #: at rest, latched until an operator resumes
    FAULT = 5  #: the last command is held because not even a stop could be computed; latched


class StopReason(IntEnum):
    """Why the executor stopped."""

    NONE = 0
    OPERATOR = 1
    TRACKING = 2
    STALE = 3
    CLOCK = 4
    PARENT = 5
    BACKEND = 6
    INTERNAL = 7

    @property
    def text(self) -> str:
        """One line for an operator."""
        return _STOP_TEXT[self]


_STOP_TEXT = {
    StopReason.NONE: "not stopped",
    StopReason.OPERATOR: "stopped by the operator",
    StopReason.TRACKING: "measured joints deviate from the commanded ones by more than the certified bound",
    StopReason.STALE: "no recent measurement of the joints",
    StopReason.CLOCK: "the clock jumped, or the fast loop was held up for too long",
    StopReason.PARENT: "the process that owns the fast loop is gone or hangs",
    StopReason.BACKEND: "the backend reported an error",
    StopReason.INTERNAL: "an internal error; see the text",
}


class ArmState(IntEnum):
    """What a real arm's controller says of itself."""

    UNREPORTED = 0  #: a backend without a controller (simulation)
    DISCONNECTED = 1  #: no connection
    IDLE = 2  #: connected, holding by itself
    MOVING = 3  #: following what is commanded, standing still included
    REFLEX = 4  #: stopped itself; errors must be cleared
    USER_STOPPED = 5  #: the user stop is pressed
    GUIDING = 6  #: being guided by hand
    LOCKED = 7  #: brakes locked, or in another mode without execution
    RECOVERING = 8  #: after an operator's confirmation, on the way back


@dataclass(frozen=True, slots=True)
class ArmReport:
    """A real arm's own view.

    Attributes:
        state, text: mode and the reason or step to take. success_rate: share of the last 100 cycles that were answered in time, 0
            while nothing is commanded. lost_cycles: cycles without an answer. rejoins: how often the commands left the certified
            trajectory's samples to meet it again smoothly after lost cycles. reflexes, recoveries: since the start.
        gripper: "off", "ready", "busy" or what is wrong with it.
    """

    state: ArmState = ArmState.UNREPORTED
    text: str = ""
    success_rate: float = 0.0
    lost_cycles: int = 0
    rejoins: int = 0
    reflexes: int = 0
    recoveries: int = 0
    gripper: str = "off"


class SubmitCode(IntEnum):
    """What became of a submitted trajectory (or of another request to the executor)."""

    ACCEPTED = 0
    MALFORMED = 1
    FORGED = 2
    LATE = 3
    TOO_EARLY = 4
    START_MISMATCH = 5
    INCONSISTENT = 6
    NOT_AT_REST = 7
    POSITION_LIMIT = 8
    VELOCITY_LIMIT = 9
    ACCELERATION_LIMIT = 10
    JERK_LIMIT = 11
    STOPPED = 12
    NOT_STOPPED = 13
    QUEUE_FULL = 14
    INTERNAL = 15


@dataclass(frozen=True)
class SubmitResult:
    """Outcome of a request; ``text`` names what was wrong, its value and what is accepted."""

    code: SubmitCode
    text: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the request was granted."""
        return self.code is SubmitCode.ACCEPTED


@dataclass(frozen=True)
class CertifiedTrajectory:
    """A proposal with the filter's certificate.

    Attributes:
        proposal: head and backup; ``switch_time`` [s] on the clock that stamps trajectories.
        verdict_digest: the verdict's SHA-256 (hex). certificate: HMAC of verdict, trajectory and switch time (hex).
    """

    proposal: Proposal
    verdict_digest: str
    certificate: str

    @property
    def switch_time_ns(self) -> int:
        """The switch time as it enters the certificate."""
        return to_ns(self.proposal.switch_time)


@dataclass(frozen=True, slots=True)
class Command:
    """One cycle's command: q (n,) [rad], v (n,) [rad/s], a (n,) [rad/s^2], gripper width [m]."""

    q: Array
    v: Array
    a: Array
    width: float
    mode: Mode


@dataclass(frozen=True)
class ExecutorConfig:
    """Limits the executor checks again, tolerances and time-outs. All lists have one value a joint."""

    lower: list[float] = setting([], "lower position limits", unit="rad", lo=-100.0, hi=100.0)
    upper: list[float] = setting([], "upper position limits", unit="rad", lo=-100.0, hi=100.0)
    velocity: list[float] = setting([], "velocity limits", unit="rad/s", lo=1e-3, hi=100.0)
    velocity_position: list[list[float]] = setting(
        [],
        "offset, factor, upper, lower anchor of each joint's position-dependent velocity limit; [] for none",
        lo=-100.0,
        hi=100.0,
    )
    acceleration: list[float] = setting([], "acceleration limits", unit="rad/s^2", lo=1e-3, hi=1e4)
    jerk: list[float] = setting([], "jerk limits", unit="rad/s^3", lo=1e-3, hi=1e6)
    tracking: list[float] = setting([], "certified bound on |measured - commanded| joint positions", unit="rad", lo=1e-6, hi=1.0)
    stroke: float = setting(0.08, "largest gripper width", unit="m", lo=0.0, hi=1.0)
    period: float = setting(0.001, "cycle", unit="s", lo=1e-4, hi=0.1)
    splice_position: float = setting(2e-6, "largest position step at a splice", unit="rad", lo=0.0, hi=1e-3)
    splice_velocity: float = setting(1e-4, "largest velocity step at a splice", unit="rad/s", lo=0.0, hi=1e-2)
    splice_acceleration: float = setting(1e-2, "largest acceleration step at a splice", unit="rad/s^2", lo=0.0, hi=1.0)
    consistency: float = setting(1e-6, "largest disagreement of q, v with the integral of a", unit="rad, rad/s", lo=0.0, hi=1e-3)
    max_lead: float = setting(5.0, "how far ahead a switch time may lie", unit="s", lo=0.01, hi=60.0)
    max_duration: float = setting(60.0, "longest trajectory", unit="s", lo=0.1, hi=3600.0)
    max_knots: int = setting(64, "most knots a trajectory may have", lo=2, hi=64)
    max_pending: int = setting(4, "most trajectories waiting for their switch time", lo=1, hi=16)
    debounce: float = setting(0.01, "how long the tracking bound may be exceeded before the arm stops", unit="s", lo=0.0, hi=1.0)
    stale_after: float = setting(0.02, "age of the last measurement at which the arm stops", unit="s", lo=1e-3, hi=5.0)
    max_step: float = setting(0.005, "longest time between cycles that is played through", unit="s", lo=1e-3, hi=5.0)
    latch_step: float = setting(0.05, "clock step or delay from which on the arm stops", unit="s", lo=1e-3, hi=10.0)
    resume_velocity: float = setting(0.02, "fastest measured joint at which resuming is allowed", unit="rad/s", lo=1e-4, hi=1.0)

    def __post_init__(self) -> None:
        for name in ("upper", "velocity", "acceleration", "jerk", "tracking"):
            if len(getattr(self, name)) != len(self.lower):
                raise ConfigError(f"executor.{name}: {len(getattr(self, name))} values; expected {len(self.lower)}, one a joint")
        rows = self.velocity_position
        if rows and (len(rows) != len(self.lower) or any(len(row) not in (0, 4) for row in rows)):
            raise ConfigError(f"executor.velocity_position: {rows}; expected {len(self.lower)} rows of 4 values or none")
        if not 1 <= len(self.lower) <= 8:
            raise ConfigError(f"executor.lower: {len(self.lower)} values; an arm has 1 .. 8 joints")
        if any(lo >= up for lo, up in zip(self.lower, self.upper, strict=True)):
            raise ConfigError(f"executor.lower {self.lower}: each must lie below executor.upper {self.upper}")

    @property
    def joints(self) -> int:
        """Number of joints n."""
        return len(self.lower)

    @classmethod
    def for_arm(cls, arm: ArmModel, tracking: list[float] | float = 0.02, **changes: float | int) -> ExecutorConfig:
        """Limits of ``arm``; ``tracking`` [rad] for each joint or for all; ``changes`` to the other settings."""
        bound = [float(tracking)] * arm.n if isinstance(tracking, (int, float)) else [float(x) for x in tracking]
        limits = {k: getattr(arm, k).tolist() for k in ("lower", "upper", "velocity", "acceleration", "jerk")}
        rows = [row.tolist() if np.isfinite(row).all() else [] for row in arm.velocity_position]
        return cls(**limits, velocity_position=rows, tracking=bound, stroke=float(arm.stroke), **changes)  # type: ignore[arg-type]


@dataclass
class ExecutorCounters:
    """What the executor has done since it started. Times in seconds."""

    ticks: int = 0
    missed_cycles: int = 0
    accepted: int = 0
    splices: int = 0
    superseded: int = 0
    dropped: int = 0
    clock_jumps: int = 0
    stops: int = 0
    resumes: int = 0
    head_time: float = 0.0
    backup_time: float = 0.0
    rejected: dict[SubmitCode, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ExecutorStatus:
    """Mode, why it stopped (if it did), the last rejection, and a copy of the counters."""

    mode: Mode
    reason: StopReason
    text: str
    last_rejection: SubmitCode
    counters: ExecutorCounters
