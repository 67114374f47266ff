"""The FCI simulator as a fixture: the real network interface of the arm, served on a loopback address of this test run's own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("pylibfranka")

from tandem.bench.fci_arm import KEY, simulated_loop
from tandem.bench.fci_server import FciServer, FciServerError, server_python
from tandem.bench.wander import Wanderer
from tandem.execution.client import FastLoopClient
from tandem.execution.types import CertifiedTrajectory, Mode
from tandem.robots.model import ArmModel, load_arm
from tandem.safety.bounds import load_bounds

#: an unanswered cycle is held open for so long: the arm's time stands still while a busy machine keeps the loop from running [s]
PATIENCE = 2.0
HOST = f"127.{64 + os.getpid() % 64}.{os.getpid() // 64 % 250 + 1}.1"


@pytest.fixture(scope="session")
def server() -> Iterator[FciServer]:
    """The simulator, waiting for its client."""
    try:
        server_python()
    except FciServerError as error:
        pytest.skip(str(error))
    with FciServer(HOST, PATIENCE) as made:
        yield made


@pytest.fixture(scope="session")
def arm() -> ArmModel:
    """The FR3."""
    return load_arm("fr3")


class Rig:
    """A fast loop on the simulator, and certified motions for it. Times are the loop's own: right on a machine of any speed."""

    def __init__(self, arm: ArmModel, host: str, patient: bool = True, own_clock: bool = False, **options: Any) -> None:
        self.arm = arm
        config = replace(simulated_loop(arm, host, patient=patient, **options), priority=0, own_clock=own_clock)
        self.client = FastLoopClient(config, KEY)
        self.wanderer = Wanderer(arm, load_bounds(), KEY)
        self.played: list[CertifiedTrajectory] = []

    def __enter__(self) -> Rig:
        self.client.start(60.0)
        self.until(lambda: self.client.state().cycle > 20)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close(20.0)

    def until(self, condition: Callable[[], bool], timeout: float = 60.0) -> None:
        """Wait for ``condition``; on time-out say what the loop says."""
        limit = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > limit:
                state = self.client.state()
                raise AssertionError(f"timed out: {state.mode!r} {state.text!r} {state.arm} {self.client.log()[-500:]}")
            time.sleep(0.005)

    def move(self, seconds: float = 0.0) -> None:
        """One certified motion, or a chain of them spliced into each other for ``seconds`` on the loop's clock."""
        end = self.client.state().stamp + seconds
        switch = 0.0
        while True:
            now = self.client.state().stamp
            switch = max(switch + 0.5, now + 0.25)
            plan = self.wanderer.plan(self.client.commitment(), now, switch)
            assert plan is not None, "no motion was certified"
            result = self.client.submit(plan, timeout=30.0)
            if result.accepted:
                self.played.append(plan)
            else:
                assert result.code.name in ("LATE", "START_MISMATCH"), result  # a busy machine
            if switch >= end:
                break
            self.until(lambda at=switch: self.client.state().stamp > at - 0.25 or self.client.state().mode >= Mode.STOPPING)
            assert self.client.state().mode < Mode.STOPPING, self.client.state().text

    def moving(self) -> None:
        """Start a motion and wait until the arm is in it."""
        while True:
            self.move()
            splices = len(self.played)
            if splices:
                break
        self.until(lambda: self.client.state().mode is Mode.HEAD)

    def resume(self) -> None:
        """Resume as soon as that is possible."""
        said = ""

        def resumed() -> bool:
            nonlocal said
            result = self.client.resume(60.0)
            said = result.text
            return result.accepted

        try:
            self.until(resumed)
        except AssertionError as error:
            raise AssertionError(f"not resumed: {said}; {error}") from None
        self.played.clear()

    def stopped(self) -> str:
        """Wait until the executor has latched; the reason given."""
        self.until(lambda: self.client.state().mode is Mode.STOPPED)
        return self.client.state().text


@pytest.fixture
def rig(server: FciServer, arm: ArmModel) -> Iterator[Rig]:
    """The fast loop on the simulator, position interface."""
    server.ask("mode", mode="execution")
    with Rig(arm, HOST) as made:
        yield made
