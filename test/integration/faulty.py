"""A loopback arm whose measurements fail while a file exists: ``<switch>.freeze`` or ``<switch>.deviate``."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from tandem.execution.backends.base import BackendState
from tandem.execution.backends.loopback import Loopback, LoopbackConfig
from tandem.robots.model import load_arm

OFFSET = 0.03


class Faulty(Loopback):
    """See the module's text."""

    def __init__(self, switch: str) -> None:
        super().__init__(LoopbackConfig(q=load_arm("fr3").home.tolist()))
        self._switch = switch

    def read(self, now: float) -> BackendState | None:
        """The loopback's state; none while frozen, joint 3 off by OFFSET while deviating."""
        if os.path.exists(f"{self._switch}.freeze"):
            return None
        state = super().read(now)
        if state is not None and os.path.exists(f"{self._switch}.deviate"):
            q = state.q.copy()
            q[2] += OFFSET
            return replace(state, q=q)
        return state


def make(options: dict[str, Any]) -> Faulty:
    """Factory for the fast loop."""
    return Faulty(options["switch"])
