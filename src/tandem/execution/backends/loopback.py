"""An arm that does what it is told, exactly or with injected faults. For tests, dry runs and timing."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.core.config import from_dict, setting
from tandem.execution.backends.base import BackendError, BackendState, GripperTarget
from tandem.execution.types import Command

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LoopbackConfig:
    """Start and faults of the loopback arm. Fault times count from the connection; a negative one means never."""

    q: list[float] = setting([], "joints at the start", unit="rad", lo=-100.0, hi=100.0)
    width: float = setting(0.08, "gripper width at the start", unit="m", lo=0.0, hi=1.0)
    gripper_speed: float = setting(0.1, "speed of the fingers' distance", unit="m/s", lo=1e-3, hi=10.0)
    lag: int = setting(0, "cycles by which the arm follows late", lo=0, hi=1000)
    offset: float = setting(0.0, "tracking error added to joint 1 from deviate_at on", unit="rad", lo=-10.0, hi=10.0)
    deviate_at: float = setting(-1.0, "when the tracking error begins", unit="s", lo=-1.0, hi=1e6)
    freeze_at: float = setting(-1.0, "when measurements stop", unit="s", lo=-1.0, hi=1e6)
    fail_at: float = setting(-1.0, "when the backend reports an error", unit="s", lo=-1.0, hi=1e6)
    fault_duration: float = setting(1e6, "how long each fault lasts", unit="s", lo=0.0, hi=1e6)


class Loopback:
    """A perfect follower of n joints, n given by ``config.q``."""

    def __init__(self, config: LoopbackConfig) -> None:
        self.config = config
        self.joints = len(config.q)
        self._q: Array = np.array(config.q, dtype=np.float64)
        self._v = np.zeros(self.joints)
        self._width, self._begin, self._last = config.width, 0.0, 0.0
        self._queue: deque[tuple[Array, Array]] = deque()
        self._target = GripperTarget()

    def _during(self, at: float, now: float) -> bool:
        return at >= 0.0 and at <= now - self._begin < at + self.config.fault_duration

    def connect(self, now: float) -> BackendState:
        """At ``config.q``, at rest."""
        self._begin = self._last = now
        return BackendState(self._q.copy(), self._v.copy(), self._width, now)

    def read(self, now: float) -> BackendState | None:
        """The last command (``lag`` cycles old), with the tracking error where one is injected."""
        if self._during(self.config.fail_at, now):
            raise BackendError("injected failure")
        if self._during(self.config.freeze_at, now):
            return None
        q = self._q.copy()
        if self._during(self.config.deviate_at, now):
            q[0] += self.config.offset
        return BackendState(q, self._v.copy(), self._width, now)

    def write(self, command: Command, now: float) -> None:
        """Follow the command."""
        self._queue.append((command.q, command.v))
        if len(self._queue) > self.config.lag:
            self._q, self._v = self._queue.popleft()
        step = self.config.gripper_speed * max(now - self._last, 0.0)
        self._last = now
        self._width += min(max(self._target.update(command.width) - self._width, -step), step)

    def move_gripper(self, width: float, speed: float) -> None:
        """Drive to ``width`` [m]."""
        self._target.request(width)

    def grasp(self, width: float, force: float) -> None:
        """Drive to ``width`` [m]; there is nothing to grasp."""
        self._target.request(width)

    def home_gripper(self) -> None:
        """Nothing to find."""

    def recover(self, now: float) -> BackendState:
        """Where it is; raises BackendError while a failure lasts."""
        if self._during(self.config.fail_at, now):
            raise BackendError("injected failure lasts")
        state = self.read(now)
        if state is None:
            raise BackendError("no measurement")
        self._queue.clear()
        self._q, self._v = state.q.copy(), np.zeros(self.joints)
        return state

    def reset(self, request: dict[str, Any], now: float) -> BackendState:
        """Back to the start, at rest."""
        self._queue.clear()
        self._q, self._v, self._width = np.array(self.config.q, dtype=np.float64), np.zeros(self.joints), self.config.width
        return self.connect(now)

    def close(self) -> None:
        """Nothing to let go of."""
        self._queue.clear()


def make(options: dict[str, Any]) -> Loopback:
    """The factory named by ``tandem.execution.backends.loopback:make``; ``options`` as in :class:`LoopbackConfig`."""
    return Loopback(from_dict(LoopbackConfig, options, "backend options"))
