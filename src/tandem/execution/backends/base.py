"""The protocol of a backend. The fast loop calls it from one thread, once a cycle; nothing in it may block for a cycle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import TandemError
from tandem.core.types import Commitment
from tandem.execution.types import ArmReport, Command

Array = NDArray[np.float64]


class BackendError(TandemError):
    """The arm cannot be reached or has refused; the executor latches a stop with this text.

    ``halted``: the arm follows no commands any more, so that there is nothing left to play to its end.
    """

    def __init__(self, text: str, halted: bool = False) -> None:
        super().__init__(text)
        self.halted = halted


@dataclass(frozen=True, slots=True)
class BackendState:
    """What was measured.

    Attributes:
        q, v: (n,) joints [rad, rad/s]. width: distance between the fingertips [m].
        stamp: when it was measured [s], on the clock of the ``now`` handed to :meth:`Backend.read`.
        world: (k,) k <= 64 numbers for a picture of the world elsewhere (the simulator's qpos); empty on a real arm.
    """

    q: Array
    v: Array
    width: float
    stamp: float
    world: Array = field(default_factory=lambda: np.zeros(0))


class Backend(Protocol):
    """One arm with its gripper."""

    joints: int

    def connect(self, now: float) -> BackendState:
        """Take hold of the arm, at rest, and say where it is. Raises: BackendError."""
        ...

    def read(self, now: float) -> BackendState | None:
        """The newest measurement at time ``now`` [s], None when there is none newer. Raises: BackendError."""
        ...

    def write(self, command: Command, now: float) -> None:
        """Command one cycle: joints and gripper width. Raises: BackendError."""
        ...

    def move_gripper(self, width: float, speed: float) -> None:
        """Open or close to ``width`` [m] at ``speed`` [m/s]; holds until the commanded width changes. Returns at once."""
        ...

    def grasp(self, width: float, force: float) -> None:
        """Close on an object about ``width`` [m] wide with ``force`` [N]; holds until the commanded width changes."""
        ...

    def home_gripper(self) -> None:
        """Let the gripper find its stroke, where it needs that. Returns at once."""
        ...

    def recover(self, now: float) -> BackendState:
        """After an operator's confirmation: clear errors and say where the arm is. Raises: BackendError."""
        ...

    def reset(self, request: dict[str, Any], now: float) -> BackendState:
        """Put the world back to a start (simulators only). Raises: BackendError where that is impossible."""
        ...

    def close(self) -> None:
        """Let go of the arm; may be called again."""
        ...


@runtime_checkable
class PacedBackend(Protocol):
    """A backend whose arm keeps the time: the loop ticks once for each of its cycles."""

    def wait(self) -> float:
        """Block until the arm's next cycle; time [s] that its clock went on since the last one. Never longer than some cycles."""
        ...

    def report(self) -> ArmReport:
        """The arm's own view; cheap, called every cycle."""
        ...


@runtime_checkable
class DetailedBackend(Protocol):
    """A backend whose arm says more of itself than the loop needs."""

    def details(self) -> bytes:
        """All of it, for who asks through the loop's owner; empty for nothing. Called 50 times a second."""
        ...


@runtime_checkable
class FollowingBackend(Protocol):
    """A backend whose arm plays whole motions by itself: it is told the course whenever that changes."""

    def follow(self, course: Commitment, now: float) -> bool:
        """All that will be commanded from ``now`` [s] on if nothing new arrives; ``course.start`` [s] on the same clock.

        Returns: whether the arm follows it; False: tell it again in the next cycle. Raises: BackendError.
        """
        ...

    def ahead(self) -> float:
        """How far beyond the present cycle's time [s] the arm may be when word of a new course reaches it; more than 0."""
        ...

    def untold(self) -> bool:
        """Whether what it was told last will not reach the arm, and the course has to be told again."""
        ...

    def reached(self) -> bool:
        """Whether what it was told last has reached the arm, as far as can be known."""
        ...


class GripperTarget:
    """Which width counts: the streamed one, or an explicit request until the stream changes."""

    def __init__(self) -> None:
        self._requested: float | None = None
        self._streamed: float | None = None

    def request(self, width: float) -> None:
        """An explicit request [m]."""
        self._requested = width

    def update(self, streamed: float) -> float:
        """The width [m] to drive to, given this cycle's streamed one."""
        if self._streamed is None or abs(streamed - self._streamed) > 1e-6:
            if self._streamed is not None:
                self._requested = None
            self._streamed = streamed
        return streamed if self._requested is None else self._requested
