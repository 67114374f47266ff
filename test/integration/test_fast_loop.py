"""The fast loop as a process: real time, real deaths."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import motions
import numpy as np
import pytest

from tandem.execution.client import FastLoopClient, FastLoopError
from tandem.execution.fast_loop import LoopConfig
from tandem.execution.link import Link
from tandem.execution.messages import LoopState, decode_state
from tandem.execution.types import Mode, StopReason, SubmitCode

HOME = [0.1, -0.4, 0.2, -0.3, 0.0, 0.5, -0.2]
LOOPBACK = "tandem.execution.backends.loopback:make"


def loop_config(**options: Any) -> LoopConfig:
    # tests share their machine: no real-time priority, and a loop held up for less than a second is no fault
    executor = {"latch_step": 1.0, "stale_after": 0.5}
    limits = LoopConfig(executor=motions.LIMITS).executor
    changed = type(limits)(**{**limits.__dict__, **executor})
    options = {"q": HOME, **options}
    return LoopConfig(backend=LOOPBACK, backend_options=options, executor=changed, priority=0, catch_up=200, owner_timeout=1.0)


@pytest.fixture
def client() -> Iterator[FastLoopClient]:
    before = set(os.listdir("/dev/shm"))
    with FastLoopClient(loop_config(), motions.KEY) as c:
        yield c
    left = set(os.listdir("/dev/shm")) - before
    assert not [name for name in left if "tandem" in name or "psm_" in name]


def until(condition: Callable[[], bool], timeout: float = 5.0) -> None:
    limit = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < limit, "timed out"
        time.sleep(0.002)


def move(client: FastLoopClient, after: float = 0.3, seed: int = 0) -> Any:
    plan = motions.proposal(client.commitment(), time.time() + after, np.random.default_rng(seed))
    return motions.certify(plan)


def gone(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_accepts_splices_and_comes_to_rest(client: FastLoopClient) -> None:
    first = move(client)
    assert client.submit(first).accepted
    until(lambda: client.state().mode is Mode.HEAD)
    assert client.submit(move(client, 0.2, 1)).accepted
    until(lambda: client.state().counters.splices == 2)
    until(lambda: client.state().mode is Mode.IDLE)
    state = client.state()
    np.testing.assert_array_equal(state.command_v, np.zeros(7))
    assert client.submit(first).code is SubmitCode.LATE
    until(lambda: client.state().last_rejection is SubmitCode.LATE)  # published at the end of the cycle that replies
    assert client.alive


def test_stop_resume_reset_gripper(client: FastLoopClient) -> None:
    assert client.submit(move(client, 0.1)).accepted
    until(lambda: client.state().mode is Mode.HEAD)
    assert client.stop("enough").accepted
    until(lambda: client.state().mode is Mode.STOPPED)
    assert client.state().reason is StopReason.OPERATOR
    assert client.submit(move(client)).code is SubmitCode.STOPPED
    assert client.resume().accepted
    assert client.move_gripper(0.02).accepted
    until(lambda: abs(client.state().width - 0.02) < 1e-6)
    assert client.reset().accepted
    until(lambda: client.state().resets == 1)
    np.testing.assert_array_equal(client.state().command_q, HOME)
    assert client.submit(move(client)).accepted


def test_a_flood_costs_requests_not_motion(client: FastLoopClient) -> None:
    assert client.submit(move(client)).accepted
    forged = motions.certify(motions.proposal(client.commitment(), time.time() + 5.0, np.random.default_rng(0)), b"z" * 16)
    refused = 0
    begin = client.state().cycle
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        refused += client.send(forged) == 0
    state = client.state()
    assert refused > 0
    assert state.cycle - begin > 500
    assert state.counters.rejected[SubmitCode.FORGED] > 50
    assert state.counters.splices == 1
    until(lambda: client.state().mode is Mode.IDLE)
    until(lambda: client.submit(move(client)).accepted)


def test_the_death_of_the_loop_is_noticed(client: FastLoopClient) -> None:
    os.kill(client.pid, signal.SIGKILL)
    until(lambda: not client.alive)
    assert "-9" in client.fault()
    with pytest.raises(FastLoopError, match="ended"):
        client.resume(timeout=0.2)


def test_a_paused_loop_is_noticed_and_its_gap_is_not_played_through(client: FastLoopClient) -> None:
    assert client.submit(move(client, 0.1)).accepted
    until(lambda: client.state().mode is Mode.HEAD)
    os.kill(client.pid, signal.SIGSTOP)
    until(lambda: "silent" in client.fault(0.3))
    before = client.state()
    time.sleep(1.0)
    os.kill(client.pid, signal.SIGCONT)
    until(lambda: client.state().cycle > before.cycle)
    assert np.abs(client.state().command_q - before.command_q).max() < 0.2
    until(lambda: client.state().mode is Mode.STOPPED)
    state = client.state()
    assert state.reason in (StopReason.CLOCK, StopReason.STALE)
    assert state.missed_cycles > 900
    assert client.resume().accepted


def test_termination_rests_first(client: FastLoopClient) -> None:
    assert client.submit(move(client, 0.05)).accepted
    until(lambda: client.state().mode is Mode.HEAD)
    os.kill(client.pid, signal.SIGTERM)
    until(lambda: not client.alive)
    state = client.state()
    assert state.mode is Mode.STOPPED
    assert state.text == "terminated"
    assert "status 0" in client.fault()


_OWNER = """
import sys, time
import numpy as np
import motions
from tandem.execution.client import FastLoopClient
from test_fast_loop import loop_config
client = FastLoopClient(loop_config(), motions.KEY)
client.start()
plan = motions.proposal(client.commitment(), time.time() + 0.3, np.random.default_rng(0))
assert client.submit(motions.certify(plan)).accepted
sys.stdout.write(f"{client.pid} {client._link.fd}\\n")
sys.stdout.flush()
time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_the_owners_end_brings_the_arm_to_rest(how: signal.Signals) -> None:
    before = set(os.listdir("/dev/shm"))
    here = os.path.dirname(os.path.abspath(__file__))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, *(p for p in sys.path if p)])}
    owner = subprocess.Popen([sys.executable, "-c", _OWNER], stdout=subprocess.PIPE, env=environment)
    assert owner.stdout is not None
    pid, fd = (int(x) for x in owner.stdout.readline().split())
    link = Link(os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR))

    def state() -> LoopState:
        data = link.state.read()
        assert data is not None
        return decode_state(data)

    until(lambda: state().mode is Mode.HEAD)
    owner.send_signal(how)
    until(lambda: state().mode is Mode.STOPPED)
    last = state()
    assert last.reason is StopReason.PARENT
    assert np.abs(last.command_v).max() == 0.0
    if how is signal.SIGSTOP:
        assert not gone(pid)
        owner.kill()
    owner.wait()
    until(lambda: gone(pid))
    link.close()
    assert not [name for name in set(os.listdir("/dev/shm")) - before if "tandem" in name or "psm_" in name]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"backend": "tandem.nowhere:make"}, "tandem.nowhere"),
        ({"backend_options": {"q": HOME, "speed": 3}}, "unknown key"),
        ({"backend_options": {"q": HOME[:5]}}, "5 joints"),
    ],
)
def test_a_start_that_fails_says_why(change: dict[str, Any], text: str) -> None:
    client = FastLoopClient(LoopConfig(**{**loop_config().__dict__, **change}), motions.KEY)
    with pytest.raises(FastLoopError, match=text):
        client.start()
    with pytest.raises(FastLoopError, match="not running"):
        client.state()
    client.close()
