"""What to do when a process starts or ends, or the launch ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ._core import LaunchContext, LaunchDescriptionEntity, LaunchError, refuse

__all__ = ["OnProcessExit", "OnProcessStart", "OnShutdown"]
__getattr__ = refuse("launch.event_handlers")


@dataclass(frozen=True)
class ProcessEvent:
    """A process started or ended."""

    action: Any
    process_name: str
    pid: int
    returncode: int | None = None


@dataclass(frozen=True)
class ShutdownEvent:
    """The launch ends."""

    reason: str


class _Handler:
    def __init__(self, response: Any) -> None:
        if response is None:
            raise LaunchError(f"{type(self).__name__}: no response given")
        self.response = response

    def respond(self, event: Any, context: LaunchContext) -> Iterable[LaunchDescriptionEntity]:
        """The entities to visit."""
        answer: Any = self.response
        if isinstance(answer, Callable):  # type: ignore[arg-type]
            answer = answer(event, context)
        if answer is None:
            return ()
        return [answer] if isinstance(answer, LaunchDescriptionEntity) else answer


class _ProcessHandler(_Handler):
    def __init__(self, target_action: Any, response: Any) -> None:
        super().__init__(response)
        self.target_action = target_action

    def matches(self, action: Any) -> bool:
        """Whether the handler is about this process; without target it is about all."""
        return self.target_action is None or self.target_action is action


class OnProcessExit(_ProcessHandler):
    """A process ended."""

    def __init__(self, *, target_action: Any = None, on_exit: Any = None) -> None:
        super().__init__(target_action, on_exit)


class OnProcessStart(_ProcessHandler):
    """A process started."""

    def __init__(self, *, target_action: Any = None, on_start: Any = None) -> None:
        super().__init__(target_action, on_start)


class OnShutdown(_Handler):
    """The launch ends."""

    def __init__(self, *, on_shutdown: Any) -> None:
        super().__init__(on_shutdown)
