"""Events that can be emitted."""

from __future__ import annotations

from dataclasses import dataclass

from ._core import refuse

__all__ = ["Shutdown"]
__getattr__ = refuse("launch.events")


@dataclass(frozen=True)
class Shutdown:
    """The launch ends."""

    reason: str = "reason not given"
    due_to_sigint: bool = False
