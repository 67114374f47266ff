"""The keys of ``tandem jog`` on a terminal of the test's own: what is pressed while the arm moves."""

from __future__ import annotations

import io
import os
import pty
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rich.console import Console

from tandem.cli import jog
from tandem.cli.moving import Moved
from tandem.nodes.operator import GraphError
from tandem.robots.model import load_arm

ARM = load_arm("fr3")


class Desk:
    """Operator and mover: a step takes a second, or until the arm is stopped.

    Attributes:
        asked: what was called, and when. steps: how many were begun. moving: set while the arm moves.
    """

    arm = ARM

    def __init__(self) -> None:
        self.operator = self
        self.asked: list[tuple[str, bool]] = []
        self.steps = 0
        self.moving, self.stopped = threading.Event(), threading.Event()

    def call(self, service: str) -> tuple[bool, str]:
        self.asked.append((service, self.moving.is_set()))
        self.stopped.set()
        return True, ""

    def width(self) -> float:
        return 0.04

    def settle(self) -> None:
        pass

    def rest(self) -> Any:
        return ARM.home.copy()

    def must_be_within(self, q: Any) -> None:
        pass

    def follow(self, way: Any, name: str) -> Moved:
        self.steps += 1
        self.moving.set()
        try:
            if self.stopped.wait(1.0):
                raise GraphError("the arm has stopped")
        finally:
            self.moving.clear()
        return Moved(True)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Types on the terminal that is standard input."""
    master, slave = pty.openpty()
    with os.fdopen(slave, "rb", buffering=0) as stdin:
        monkeypatch.setattr(jog.sys, "stdin", stdin)
        yield lambda keys: (os.write(master, keys.encode()), None)[1]
    os.close(master)


def _ready(shown: io.StringIO) -> None:
    """Wait until keys are taken: what was typed before is not."""
    while "joint 1, base frame" not in shown.getvalue():
        time.sleep(0.01)


def _typed(desk: Desk, terminal: Callable[[str], None], while_moving: str) -> str:
    """What is shown when "+" is pressed, then other keys while the arm moves, then q."""
    shown = io.StringIO()

    def type_keys() -> None:
        _ready(shown)
        terminal("+")
        desk.moving.wait(10.0)
        time.sleep(0.1)
        terminal(while_moving)
        while desk.moving.is_set():
            time.sleep(0.01)
        time.sleep(0.3)
        terminal("q")

    typist = threading.Thread(target=type_keys, daemon=True)
    typist.start()
    assert jog.keyboard(desk, desk, Console(file=shown), lambda: False, "base") == 0  # type: ignore[arg-type]
    typist.join(10.0)
    return shown.getvalue()


def test_space_stops_an_arm_that_moves(terminal: Callable[[str], None]) -> None:
    desk = Desk()
    began = time.monotonic()
    shown = _typed(desk, terminal, " ")
    assert desk.asked == [("franka/stop", True)] and "stopped" in shown and "the arm has stopped" in shown
    assert desk.steps == 1 and time.monotonic() - began < 5.0


def test_keys_that_are_held_down_do_not_run_on(terminal: Callable[[str], None]) -> None:
    desk = Desk()
    _typed(desk, terminal, "+" * 40)
    assert desk.steps == 1 and desk.asked == []


def test_space_among_other_keys_is_not_lost(terminal: Callable[[str], None]) -> None:
    desk = Desk()
    _typed(desk, terminal, "++- +")
    assert desk.steps == 1 and desk.asked == [("franka/stop", True)]


def test_quitting_in_motion_quits_after_it(terminal: Callable[[str], None]) -> None:
    desk = Desk()
    _typed(desk, terminal, "+q+")
    assert desk.steps == 1 and desk.asked == []


def test_space_at_rest_stops_too(terminal: Callable[[str], None]) -> None:
    desk, shown = Desk(), io.StringIO()
    typist = threading.Thread(target=lambda: (_ready(shown), terminal(" "), time.sleep(0.3), terminal("q")), daemon=True)
    typist.start()
    jog.keyboard(desk, desk, Console(file=shown), lambda: False, "base")  # type: ignore[arg-type]
    assert desk.asked == [("franka/stop", False)] and desk.steps == 0
