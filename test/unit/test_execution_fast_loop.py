"""The fast loop cycle by cycle, in this process, with clocks of our own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import motions
import numpy as np
import pytest

from tandem.core.errors import ConfigError
from tandem.core.types import Commitment
from tandem.execution.backends.base import BackendError
from tandem.execution.backends.courses import Courses
from tandem.execution.backends.loopback import Loopback, make
from tandem.execution.fast_loop import FastLoop, LoopConfig, load_backend, main
from tandem.execution.link import Link
from tandem.execution.messages import (
    LoopState,
    Reply,
    Request,
    decode_commitment,
    decode_reply,
    decode_state,
    encode_request,
    encode_submit,
)
from tandem.execution.types import Mode, StopReason, SubmitCode, from_ns

MS = 1_000_000
WALL = 1_795_302_263_009_144_832
HOME = [0.1, -0.4, 0.2, -0.3, 0.0, 0.5, -0.2]


class Bench:
    """A loop with a loopback arm whose clocks and owner are variables."""

    def __init__(self, loop: dict[str, Any] | None = None, **options: Any) -> None:
        self.mono, self.step, self.parent = 5_000 * MS, 0, 42
        self.link = Link.create()
        self.backend: Loopback = make({"q": HOME, **options})
        config = LoopConfig(executor=motions.LIMITS, owner_pid=42, **(loop or {}))
        self.link.beat_owner(self.mono)
        clocks = {"wall_ns": lambda: WALL + self.mono + self.step, "mono_ns": lambda: self.mono, "parent": lambda: self.parent}
        self.loop = FastLoop(config, self.link, self.backend, motions.KEY, **clocks)  # type: ignore[arg-type]

    def run(self, seconds: float, beating: bool = True) -> LoopState:
        for _ in range(round(seconds * 1000)):
            self.mono += MS
            if beating:
                self.link.beat_owner(self.mono)
            self.loop.cycle(self.mono)
        return self.state()

    def state(self) -> LoopState:
        data = self.link.state.read()
        assert data is not None
        return decode_state(data)

    def ask(self, kind: Request, **body: Any) -> Reply:
        return self.send(encode_request(9, kind, body))

    def send(self, data: bytes) -> Reply:
        assert self.link.inbox.push(data)
        self.run(0.001)
        reply = self.link.replies.pop()
        assert reply is not None
        return decode_reply(reply)

    def move(self, after: float = 0.05) -> Reply:
        data = self.link.commitment.read()
        assert data is not None
        plan, _ = decode_commitment(data)
        switch = from_ns(WALL + self.step + self.mono) + after
        return self.send(encode_submit(1, motions.certify(motions.proposal(plan, switch, np.random.default_rng(1)))))


@pytest.fixture
def bench() -> Iterator[Bench]:
    b = Bench()
    yield b
    b.link.close()


def test_moves_and_publishes(bench: Bench) -> None:
    assert bench.move().code is SubmitCode.ACCEPTED
    state = bench.run(0.2)
    assert state.mode is Mode.HEAD
    assert state.stamp == from_ns(WALL + bench.mono)
    data = bench.link.commitment.read()
    assert data is not None
    plan, revision = decode_commitment(data)
    assert revision == state.revision
    np.testing.assert_allclose(plan.state_at(state.stamp)[0], state.command_q, atol=2e-6)
    np.testing.assert_array_equal(bench.backend.read(0.0).q, state.command_q)  # type: ignore[union-attr]
    assert bench.run(1.0).mode is Mode.IDLE


class Follower:
    """An arm that plays by itself: what it is told, and what of that it makes of a motion that has not begun."""

    def __init__(self) -> None:
        self.courses = Courses(np.full(7, 10.0), np.full(7, 500.0), 2e-3)
        self.courses.begin(np.array(HOME), 0.08, 0.0)
        self.told, self.failing = list[tuple[float, Commitment]](), ""

    def ahead(self) -> float:
        return 0.0

    def untold(self) -> bool:
        return False

    def reached(self) -> bool:
        return True

    def follow(self, course: Commitment, now: float) -> bool:
        if self.failing == "error":
            raise BackendError("not to be had now")
        if self.failing:
            return False
        told, done = self.courses.next(course, now, now)
        if told is not None:
            self.courses.sent(told, now)
            self.told.append((now, told))
        return done


def test_a_course_that_is_to_be_told_again_is_told_until_it_is_followed(bench: Bench) -> None:
    """Also one that had been followed, and then did not reach the arm."""
    follower = Follower()
    bench.loop._follower = follower  # type: ignore[assignment]
    bench.run(0.01)
    assert bench.loop._followed == bench.loop.executor.revision
    lost = [True]
    follower.untold = lambda: lost[0]  # type: ignore[method-assign]
    follower.failing = "not now"
    bench.run(0.001)
    lost[0], asked = False, list[float]()
    follower.follow = lambda course, now: bool(asked.append(now)) or len(asked) > 2  # type: ignore[method-assign]
    bench.run(0.01)
    assert len(asked) == 3


@pytest.mark.parametrize("left", [1, 2, 20])
@pytest.mark.parametrize("failing", ["", "error", "not now"])
def test_a_stop_just_before_a_motion_begins_takes_it_back_in_the_same_cycle(bench: Bench, left: int, failing: str) -> None:
    """In the next cycle it would have begun; ``left``: cycles until then, of which the first takes the request."""
    follower = Follower()
    bench.loop._follower = follower  # type: ignore[assignment]
    bench.run(0.01)
    assert bench.move(0.05).code is SubmitCode.ACCEPTED
    motion, begins = follower.told[-1][1], bench.loop.executor._pending[0].start
    bench.run(0.001 * (round((begins - bench.loop.executor._now) * 1e3) - 1 - left))
    follower.failing = failing if left > 2 else ""
    assert bench.ask(Request.STOP).code is SubmitCode.ACCEPTED
    assert bench.loop.executor.mode is Mode.STOPPED and bench.loop.executor._now < begins
    assert bench.loop._rests() == (not follower.failing), "nor does it leave before it is told"
    if follower.failing:
        assert follower.told[-1][1] is motion
        follower.failing = ""
        bench.run(0.001)
    at, rest = follower.told[-1]
    assert at < begins and rest is not motion and not np.ptp(rest.trajectory.q, axis=0).any()
    count = len(follower.told)
    bench.run(0.3)
    assert len(follower.told) == count


def test_the_owners_silence_stops_the_arm(bench: Bench) -> None:
    bench.move()
    bench.run(0.1)
    state = bench.run(0.7, beating=False)
    assert state.reason is StopReason.PARENT
    assert "silent" in state.text
    assert bench.run(1.0).mode is Mode.STOPPED
    assert bench.ask(Request.RESUME).code is SubmitCode.ACCEPTED
    assert bench.move().code is SubmitCode.ACCEPTED


def test_the_owners_death_stops_the_arm_and_ends_the_loop(bench: Bench) -> None:
    bench.move()
    bench.run(0.1)
    bench.parent = 1
    state = bench.run(1.0)
    assert (state.mode, state.reason) == (Mode.STOPPED, StopReason.PARENT)
    assert bench.loop.leaving


@pytest.mark.parametrize("step", [0.5, -3600.0])
def test_a_stepped_wall_clock_stops_the_arm_and_resuming_takes_it_over(bench: Bench, step: float) -> None:
    bench.move()
    bench.run(0.1)
    bench.step = round(step * 1e9)
    state = bench.run(1.0)
    assert (state.mode, state.reason) == (Mode.STOPPED, StopReason.CLOCK)
    assert bench.ask(Request.RESUME).code is SubmitCode.ACCEPTED
    assert bench.move().code is SubmitCode.ACCEPTED
    assert bench.run(0.2).mode is Mode.HEAD


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"freeze_at": 0.1, "fault_duration": 0.5}, StopReason.STALE),
        ({"fail_at": 0.1, "fault_duration": 0.5}, StopReason.BACKEND),
        ({"deviate_at": 0.1, "offset": 0.05, "fault_duration": 0.5}, StopReason.TRACKING),
        ({"lag": 400}, StopReason.TRACKING),
    ],
)
def test_faults_of_the_arm_latch_and_resume_works(options: dict[str, Any], reason: StopReason) -> None:
    bench = Bench(**options)
    bench.move(0.02)
    state = bench.run(0.4)
    assert state.reason is reason
    assert state.mode >= Mode.STOPPING
    if reason is StopReason.BACKEND:
        bench.run(0.05)
        assert bench.ask(Request.RESUME).code is SubmitCode.INTERNAL
    assert bench.run(1.0).mode is Mode.STOPPED
    assert bench.move().code is SubmitCode.STOPPED
    assert bench.ask(Request.RESUME).code is SubmitCode.ACCEPTED
    assert bench.run(0.1).mode is Mode.IDLE
    assert bench.move().code is SubmitCode.ACCEPTED


@pytest.mark.parametrize("own_clock", [False, True])
def test_an_arm_that_keeps_the_time(own_clock: bool) -> None:
    """Its clock is set by this machine's while it rests, unless everybody goes by it."""
    bench = Bench({"own_clock": own_clock})
    before = bench.run(0.1).stamp
    arms, bench.mono = bench.mono, bench.mono + 3_000 * MS
    bench.link.beat_owner(bench.mono)
    taken = bench.loop._settle(arms)
    assert taken == (arms if own_clock else bench.mono)
    bench.loop.cycle(taken + MS)
    state = bench.state()
    assert state.mode is Mode.IDLE and abs(state.stamp - before - (0.001 if own_clock else 3.001)) < 1e-6


def test_an_arm_that_falls_behind_in_motion_stops_unless_everybody_goes_by_it() -> None:
    for own_clock in (False, True):
        bench = Bench({"own_clock": own_clock})
        bench.move()
        bench.run(0.1)
        arms, bench.mono = bench.mono, bench.mono + 80 * MS
        assert bench.loop._settle(arms) == arms
        bench.loop.cycle(arms + MS)
        state = bench.state()
        assert (state.reason is StopReason.CLOCK) != own_clock and (state.mode is Mode.HEAD) == own_clock
        bench.link.close()


def test_a_stepped_wall_clock_is_nothing_to_an_arm_that_everybody_goes_by() -> None:
    bench = Bench({"own_clock": True})
    bench.move()
    bench.run(0.1)
    before, bench.step = bench.state().stamp, -3600_000 * MS
    state = bench.run(0.1)
    assert state.mode is Mode.HEAD and abs(state.stamp - before - 0.1) < 1e-6
    bench.loop.executor.stop(StopReason.OPERATOR, "test")
    bench.run(1.0)
    assert bench.ask(Request.RESUME).code is SubmitCode.ACCEPTED
    assert abs(bench.run(0.001).stamp - before - 1.102) < 1e-3, "resuming does not set it either"
    bench.link.close()


def test_requests(bench: Bench) -> None:
    assert bench.send(b"nonsense, not a request").code is SubmitCode.MALFORMED
    assert bench.send(b"").code is SubmitCode.MALFORMED
    assert bench.ask(Request.GRIPPER, width=0.02, speed=0.1).code is SubmitCode.ACCEPTED
    assert bench.run(1.0).width == pytest.approx(0.02)
    assert bench.ask(Request.GRASP, width=0.01, force=20.0).code is SubmitCode.ACCEPTED
    assert bench.run(1.0).width == pytest.approx(0.01)
    assert bench.ask(Request.GRIPPER, speed=0.1).code is SubmitCode.INTERNAL
    assert bench.ask(Request.GRIPPER, width=9.0, speed=0.1).code is SubmitCode.MALFORMED
    assert bench.ask(Request.STOP, text="enough").code is SubmitCode.ACCEPTED
    assert bench.state().text == "enough"
    assert bench.ask(Request.RESET).code is SubmitCode.ACCEPTED
    state = bench.state()
    assert (state.mode, state.resets, state.reason) == (Mode.IDLE, 1, StopReason.NONE)
    assert bench.ask(Request.SHUTDOWN).code is SubmitCode.ACCEPTED
    assert bench.loop.leaving


def test_a_trajectory_with_nan_is_malformed_and_counted(bench: Bench) -> None:
    data = bytearray(encode_submit(3, motions.certify(motions.proposal(_plan(bench), 1.0, np.random.default_rng(0)))))
    data[-8 * 30 : -8 * 29] = np.array([np.nan]).tobytes()
    assert bench.send(bytes(data)).code is SubmitCode.MALFORMED
    bench.run(0.001)
    assert bench.state().counters.rejected == {SubmitCode.MALFORMED: 1}


def _plan(bench: Bench) -> Any:
    data = bench.link.commitment.read()
    assert data is not None
    return decode_commitment(data)[0]


def test_configuration_errors() -> None:
    with pytest.raises(ConfigError, match="module:callable"):
        load_backend("tandem.nowhere:make", {})
    with pytest.raises(ConfigError, match="unknown key"):
        load_backend("tandem.execution.backends.loopback:make", {"qq": 1})
    with pytest.raises(ConfigError, match="key"):
        FastLoop(LoopConfig(executor=motions.LIMITS), Link.create(), make({"q": HOME}), b"")
    with pytest.raises(ConfigError, match="6 joints"):
        FastLoop(LoopConfig(executor=motions.LIMITS), Link.create(), make({"q": HOME[:6]}), motions.KEY)
    assert main(["--config", json.dumps({"periodd": 1})]) == 2
