"""The executor case by case."""

from __future__ import annotations

import dataclasses

import motions
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tandem.core.errors import ConfigError, InputError
from tandem.core.trajectory import Trajectory, integrate_knots
from tandem.core.types import Proposal
from tandem.execution import executor as module
from tandem.execution.braking import Stop, soonest_stop, stop_duration
from tandem.execution.checks import check_motion, check_shape, segment_extrema
from tandem.execution.executor import Executor
from tandem.execution.types import (
    CertifiedTrajectory,
    Command,
    ExecutorConfig,
    Mode,
    StopReason,
    SubmitCode,
    from_ns,
    to_ns,
)

Array = NDArray[np.float64]
C = motions.LIMITS
START = np.array([0.1, -0.4, 0.2, -0.3, 0.0, 0.5, -0.2])


def make(config: ExecutorConfig = C, key: bytes | None = motions.KEY, epoch_ns: int = 0) -> Executor:
    return Executor(config, START, 0.0, 0.04, key, epoch_ns)


def play(executor: Executor, begin: float, end: float, offset: Array | float = 0.0) -> list[Command]:
    """Ticks from ``begin`` (left out) to ``end`` with the last command plus ``offset`` as measurement."""
    ticks = range(round(begin * 1000) + 1, round(end * 1000) + 1)
    return [executor.tick(k * 0.001, executor.command.q + offset) for k in ticks]


def good(executor: Executor, switch: float, seed: int = 0) -> CertifiedTrajectory:
    return motions.certify(motions.proposal(executor.commitment(), switch, np.random.default_rng(seed)))


def test_plays_exactly_what_was_certified() -> None:
    executor = make()
    certified = good(executor, 0.0205)
    assert executor.submit(certified, 0.0).accepted
    commands = play(executor, 0.0, 1.0)
    for k, command in enumerate(commands, start=1):
        q, v, a = certified.proposal.trajectory.sample(k * 0.001 - 0.0205)
        if k * 0.001 < 0.0205:
            v, a = 0.0 * v, 0.0 * a
        np.testing.assert_allclose(command.q, q, atol=1e-12)
        np.testing.assert_allclose(command.v, v, atol=1e-11)
        np.testing.assert_allclose(command.a, a, atol=1e-9)
    assert [commands[k].mode for k in (10, 100, 500, 900)] == [Mode.IDLE, Mode.HEAD, Mode.BACKUP, Mode.IDLE]
    width = np.interp(0.2 - 0.0205, certified.proposal.trajectory.times, certified.proposal.width)
    assert commands[199].width == pytest.approx(width, abs=1e-12)
    counters = executor.status().counters
    assert counters.splices == counters.accepted == 1
    assert counters.head_time == pytest.approx(0.3, abs=0.002)
    assert counters.backup_time == pytest.approx(0.5, abs=0.002)


def test_commitment_is_what_will_be_played() -> None:
    executor = make()
    assert executor.submit(good(executor, 0.05, 1), 0.0).accepted
    assert executor.submit(good(executor, 0.30, 2), 0.0).accepted  # chained on the first
    play(executor, 0.0, 0.1)
    plan = executor.commitment()
    times = np.arange(0.101, 1.3, 0.001)
    expected = np.stack([plan.state_at(t)[0] for t in times])
    played = np.stack([c.q for c in play(executor, 0.1, 1.299)])
    np.testing.assert_allclose(played, expected[: len(played)], atol=1e-9)
    assert plan.trajectory.consistency() < 1e-5
    assert plan.trajectory.ends_at_rest()


def test_a_newer_plan_for_an_earlier_time_supersedes_and_a_rejected_one_changes_nothing() -> None:
    executor = make()
    first = good(executor, 0.2, 1)
    assert executor.submit(first, 0.0).accepted
    revision = executor.revision
    assert executor.submit(motions.certify(first.proposal, b"x" * 16), 0.0).code is SubmitCode.FORGED
    shut = dataclasses.replace(first, proposal=dataclasses.replace(first.proposal, width=0.0 * first.proposal.width))
    assert executor.submit(shut, 0.0).code is SubmitCode.FORGED  # the certificate binds the gripper too
    assert executor.revision == revision
    at_rest = motions.proposal(make().commitment(), 0.1, np.random.default_rng(5))
    assert executor.submit(motions.certify(at_rest), 0.0).accepted
    assert executor.status().counters.superseded == 1
    commands = play(executor, 0.0, 0.5)
    np.testing.assert_allclose(commands[-1].q, at_rest.trajectory.sample(0.4)[0], atol=1e-12)


def test_late_by_less_than_a_cycle_is_late() -> None:
    executor = make()
    play(executor, 0.0, 0.1)
    assert executor.submit(good(executor, 0.1005), 0.1).code is SubmitCode.LATE
    assert executor.submit(good(executor, 0.101), 0.1).accepted
    assert play(executor, 0.1, 0.11)[-1].mode is Mode.HEAD


@pytest.mark.parametrize("speed", [0, 1])
def test_stop_follows_the_path_and_latches(speed: int) -> None:
    executor = make()
    certified = good(executor, 0.01)
    executor.submit(certified, 0.0)
    play(executor, 0.0, (0.25, 0.55)[speed])
    executor.stop(StopReason.OPERATOR, "hand up")
    commands = play(executor, (0.25, 0.55)[speed], 3.0)
    assert commands[0].mode is Mode.STOPPING
    assert commands[-1].mode is Mode.STOPPED
    path = certified.proposal.trajectory.sample(np.arange(0.0, 0.8, 1e-4))[0]
    assert max(np.abs(path - c.q).max(1).min() for c in commands) < 3e-4
    assert sum(c.mode is Mode.STOPPING for c in commands) < 600
    result = executor.submit(certified, 3.0)
    assert result.code is SubmitCode.STOPPED
    assert "operator must resume" in result.text
    status = executor.status()
    assert (status.mode, status.reason, status.text) == (Mode.STOPPED, StopReason.OPERATOR, "hand up")


QUICK = dataclasses.replace(C, jerk=[5000.0] * 7)


def along(knots: list[tuple[float, float]], joint: int = 0) -> Trajectory:
    """One joint's motion from START by (time [s], acceleration [rad/s^2]) of its knots."""
    times = np.array([t for t, _ in knots])
    a = np.zeros((len(times), 7))
    a[:, joint] = [x for _, x in knots]
    start = START.copy()
    start[joint] = -1.5
    q, v = integrate_knots(times, start, np.zeros(7), a)
    assert np.abs(v[-1]).max() < 1e-9
    v[-1] = 0.0
    return Trajectory(times, q, v, a)


def stopped(motion: Trajectory, at: float) -> tuple[list[Command], float]:
    """Commands of a stop at trajectory time ``at`` [s], each of a millisecond, and its time [s]."""
    executor = Executor(QUICK, motion.q[0], 0.0, 0.04, motions.KEY)
    plan = motions.certify(Proposal(motion, np.full(len(motion.times), 0.04), 0.01, 0.0, "x"))
    assert executor.submit(plan, 0.0).accepted
    begin = round(at + 0.01, 3)
    before = play(executor, 0.0, begin)
    executor.stop(StopReason.OPERATOR)
    after = play(executor, begin, begin + 4.0)
    count = next(i for i, c in enumerate(after) if c.mode is Mode.STOPPED)
    return before[-3:] + after[: count + 3], 0.001 * count


@pytest.mark.parametrize("spike", np.arange(0.30, 0.60, 0.012).tolist())
def test_a_stop_keeps_the_limits_where_the_path_has_a_spike_of_12_ms(spike: float) -> None:
    up = 1.6 / 9.0
    s = up + 0.06 + spike - 0.3
    end = up + 0.75
    motion = along([
        (0.0, 0.0), (0.01, 9.0), (up, 9.0), (up + 0.01, 0.0), (s, 0.0), (s + 0.003, -9.9), (s + 0.006, 0.0), (s + 0.009, 9.9),
        (s + 0.012, 0.0), (end, 0.0), (end + 0.01, -9.0), (end + up, -9.0), (end + up + 0.01, 0.0),
    ])  # fmt: skip
    commands, _ = stopped(motion, up + 0.02)
    told, q = np.array([c.a for c in commands]), np.array([c.q for c in commands])
    assert np.abs(told).max() <= 10.0
    assert np.abs(np.diff(q, 2, axis=0)).max() * 1e6 <= 10.0 * 1.005


@given(st.integers(0, 10_000), st.floats(0.2, 0.7), st.sampled_from([0.005, 0.01, 0.02, 0.03]))
@settings(max_examples=60, deadline=None)
def test_stops_of_fine_motions_keep_the_limits(seed: int, share: float, h: float) -> None:
    rng = np.random.default_rng(seed)
    ripple = rng.uniform(2.0, 9.8) * rng.choice([-1.0, 1.0], 24) * (rng.random(24) < 0.7)
    ripple[1::2] = -ripple[::2]  # ends as fast as it begins
    ramp = [(0.02 * i, 6.0 if 0 < i < 8 else 0.0) for i in range(9)]
    at = ramp[-1][0]
    middle = [(at + 0.01 + h * i, float(a)) for i, a in enumerate(np.stack([0 * ripple, ripple, 0 * ripple], 1).ravel())]
    knots = [*ramp, *middle[:40], *((middle[39][0] + 0.01 + t, -a) for t, a in ramp)]
    times = np.array([t for t, _ in knots])
    a = np.zeros((len(times), 7))
    a[:, 2] = [x for _, x in knots]
    _, v = integrate_knots(times, START, np.zeros(7), a)
    a[-8:-1, 2] -= v[-1, 2] / (0.02 * 7)
    q, v = integrate_knots(times, START, np.zeros(7), a)
    v[-1] = 0.0
    motion = Trajectory(times, q, v, a)
    assume(check_motion(motion, QUICK).accepted)
    duration = stop_duration(motion, share * motion.duration, np.asarray(QUICK.acceleration), np.asarray(QUICK.jerk))
    assume(np.isfinite(duration))
    t = np.arange(0.0, duration, 1e-4)
    path = motion.sample(Stop(share * motion.duration, duration).at(t)[0])[0]
    assert np.abs(np.diff(path, 2, axis=0)).max() * 1e8 <= 10.0 * 1.01


@pytest.mark.parametrize(("acceleration", "jerk", "least", "most"), [
    (10.0, 5000.0, 0.15, 0.2025), (5.0, 5000.0, 0.30, 0.405), (1000.0, 100.0, 0.27, 0.37), (1000.0, 1e6, 0.08, 0.08),
])  # fmt: skip
def test_a_stop_takes_no_longer_than_the_limits_ask_for(acceleration: float, jerk: float, least: float, most: float) -> None:
    """At 1 rad/s the cubic asks for 1.5 / T [rad/s^2] and 6 / T^2 [rad/s^3], of which .8 of the limit is used."""
    cruise = Trajectory(np.array([0.0, 9.0]), np.array([[0.0], [9.0]]), np.ones((2, 1)), np.zeros((2, 1)))
    duration = stop_duration(cruise, 1.0, np.array([acceleration]), np.array([jerk]))
    assert least <= duration <= most


def test_a_stop_in_hard_braking_waits_for_room() -> None:
    up = 1.6 / 9.0
    motion = along([
        (0.0, 0.0), (0.01, 9.0), (up, 9.0), (up + 0.01, 0.0), (0.5, 0.0), (0.51, -9.9), (0.6, -9.9), (0.61, 0.0),
        (1.6, 0.0), (1.7, -(1.6 - 0.99) / 0.9), (2.5, -(1.6 - 0.99) / 0.9), (2.6, 0.0),
    ])  # fmt: skip
    acceleration, jerk = np.asarray(QUICK.acceleration), np.asarray(QUICK.jerk)
    alone = stop_duration(motion, 0.52, acceleration, jerk)
    later, duration = soonest_stop(motion, 0.52, acceleration, jerk)
    assert alone > 1.0 and later > 0.0 and later + duration < 0.7
    commands, time = stopped(motion, 0.52)
    assert time == pytest.approx(later + duration, abs=0.003)
    q = np.array([c.q for c in commands])
    assert np.abs(np.diff(q, 2, axis=0)).max() * 1e6 <= 10.0 * 1.005
    path = motion.sample(np.arange(0.0, motion.duration, 1e-4))[0]
    assert max(np.abs(path - row).max(1).min() for row in q) < 2e-4


@pytest.mark.parametrize("seed", range(12))
def test_a_stop_leaves_what_an_arm_plays_ahead_as_it_is(seed: int) -> None:
    """Until ``ahead`` it is the course of before, with a motion that begins there; and what is announced is what is commanded."""
    rng = np.random.default_rng(seed)
    at, ahead = round(rng.uniform(0.02, 0.6), 3), rng.uniform(0.001, 0.3)
    begins = at + rng.uniform(0.02, 0.4)
    executor = make()
    executor.submit(good(executor, 0.01, seed), 0.0)
    play(executor, 0.0, at)
    follows = executor.submit(good(executor, begins, seed + 1), at).accepted
    assert follows
    executor.ahead = ahead
    before = executor.course()
    moving = np.abs(before.state_at(at)[1]).max() > 0.0
    executor.stop(StopReason.OPERATOR)
    course = executor.course()
    t = np.linspace(at, at + ahead, 100)
    after, same = course.trajectory.sample(t - at), before.trajectory.sample(t - before.start)
    for x, y, bound in zip(after, same, (1e-5, 5e-3, 2.0), strict=True):
        assert np.abs(x - y).max() < bound, "its points lie 5 ms apart"
    assert np.median([abs(course.width_at(x) - before.width_at(x)) for x in t]) < 1e-4, "they jump where one follows another"
    commands = play(executor, at, at + ahead + 2.0)
    assert commands[-1].mode is Mode.STOPPED and not executor._pending
    announced = course.trajectory.sample(0.001 * np.arange(1, len(commands) + 1))[0]
    assert np.abs(np.array([c.q for c in commands]) - announced).max() < 2e-5
    splices = executor.status().counters.splices
    assert splices == 1 + (begins <= at + ahead)
    assert splices == 2 or not moving or np.abs(commands[-1].q - before.trajectory.q[-1]).max() > 0.0
    steps = np.diff([command.v for command in commands], axis=0)
    assert np.abs(steps).max() < 1.05e-2, "10 rad/s^2"


def test_a_stop_made_of_a_measurement_begins_ahead_of_the_present_cycle() -> None:
    """Of a course that the arm follows by itself the command of the cycle before is past."""
    executor = make(dataclasses.replace(C, period=0.01, stale_after=0.05, max_step=0.05))
    executor.submit(good(executor, 0.02), 0.0)
    for k in range(1, 26):
        executor.tick(0.01 * k, executor.command.q)
    before = executor.course()
    executor.ahead = 0.02
    assert executor.submit(good(executor, 0.335, 1), 0.25).accepted, "the stop comes at 0.31 s"
    for k in range(26, 40):
        executor.tick(0.01 * k, None)
        if executor.mode is Mode.STOPPING:
            break
    assert executor.reason is StopReason.STALE and k == 31 and not executor._pending
    course = executor.course()
    for t in 0.01 * k + np.array([0.0, 0.01, 0.019]):
        np.testing.assert_allclose(course.state_at(t)[0], before.state_at(t)[0], atol=1e-9 + 2e-6)
    assert np.abs(course.state_at(0.01 * k + 0.06)[0] - before.state_at(0.01 * k + 0.06)[0]).max() > 1e-4


def test_a_gap_in_what_a_stop_leaves_as_it_is_slows_at_once() -> None:
    """What was to follow has been dropped, and the motion put off."""
    executor = make()
    executor.submit(good(executor, 0.01), 0.0)
    play(executor, 0.0, 0.2)
    executor.submit(good(executor, 0.3, 1), 0.2)
    executor.ahead = 0.15
    executor.stop(StopReason.OPERATOR)
    assert play(executor, 0.2, 0.25)[-1].mode is Mode.STOPPING and executor._pending
    last = executor.command
    executor.ahead = 0.0
    commands = [executor.tick(0.25 + 0.05 + 0.001 * k, executor.command.q) for k in range(1000)]
    assert not executor._pending and executor.status().counters.splices == 1
    assert np.abs(commands[0].q - last.q).max() < 2e-3 and commands[-1].mode is Mode.STOPPED
    assert np.abs(np.diff([c.v for c in [last, *commands]], axis=0)).max() < 1.05e-2


def test_a_stop_is_no_stop_until_it_begins() -> None:
    stop = Stop(0.7, 0.2, 0.05)
    for k in range(1, 6):
        time, rate, slope, over = stop.advance(0.01)
        assert (time, rate, slope) == pytest.approx((0.65 + 0.01 * k, 1.0, 0.0), abs=1e-12) and not over
    time, rate, slope, over = stop.advance(0.1)
    assert (rate, over) == (pytest.approx(0.5), False) and 0.7 < time < 0.8 and slope < 0.0
    time, rate, slope, over = stop.advance(0.1 + 1e-12)
    assert (time, rate, slope) == pytest.approx((0.8, 0.0, 0.0), abs=1e-9) and over, "half of what it would have gone"


@pytest.mark.parametrize("gap", [0.05, 0.5])
def test_a_motion_that_a_stop_let_begin_is_dropped_by_a_gap(gap: float) -> None:
    """The arm rests, the motion is within ``ahead``: whatever comes, it does not begin after the stop is over."""
    executor = make()
    play(executor, 0.0, 0.1)
    executor.submit(good(executor, 0.38), 0.1)
    executor.ahead = 0.3
    executor.stop(StopReason.OPERATOR)
    assert executor.mode is Mode.STOPPING and executor._pending
    commands = [executor.tick(0.1 + gap + 0.001 * k, executor.command.q) for k in range(1000)]
    assert commands[-1].mode is Mode.STOPPED and not executor._pending
    assert all(np.array_equal(c.q, START) for c in commands)


def test_tracking_error_stops_only_after_the_debounce_and_resume_starts_from_the_measurement() -> None:
    executor = make()
    play(executor, 0.0, 0.1)
    play(executor, 0.1, 0.109, 0.03)
    play(executor, 0.109, 0.2)
    assert executor.mode is Mode.IDLE
    play(executor, 0.2, 0.215, np.eye(7)[3] * 0.03)
    status = executor.status()
    assert status.mode is Mode.STOPPED
    assert status.reason is StopReason.TRACKING
    assert "joint 4" in status.text
    measured = START + 0.03 * np.eye(7)[3]
    assert executor.resume(0.3, measured, np.full(7, 0.5)).code is SubmitCode.VELOCITY_LIMIT
    assert executor.resume(0.3, measured * np.nan).code is SubmitCode.MALFORMED
    assert executor.resume(0.3, measured + 10.0).code is SubmitCode.POSITION_LIMIT
    assert executor.resume(0.3, measured, np.zeros(7)).accepted
    assert executor.resume(0.3, measured).code is SubmitCode.NOT_STOPPED
    np.testing.assert_array_equal(executor.commitment().trajectory.q[-1], measured)
    assert executor.submit(good(executor, 0.4), 0.3).accepted
    assert play(executor, 0.3, 0.5)[-1].mode is Mode.HEAD


def test_one_measurement_that_fits_among_many_that_do_not_is_no_tracking() -> None:
    executor = make()
    play(executor, 0.0, 0.1)
    for k in range(101, 200):
        executor.tick(0.001 * k, executor.command.q + (0.0 if k % 10 == 0 else 0.3))
    assert executor.status().reason is StopReason.TRACKING
    executor = make()
    for k in range(1, 400):
        executor.tick(0.001 * k, executor.command.q + (0.3 if k % 10 == 0 else 0.0))
    assert executor.mode is Mode.IDLE, "single outliers are none either"


def test_a_measurement_of_the_future_does_not_stay_new() -> None:
    executor = make()
    play(executor, 0.0, 0.1)
    for k in range(101, 200):
        executor.tick(0.001 * k, executor.command.q, None, 10.0)
    assert executor.status().reason is StopReason.STALE


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_measurements_that_are_no_numbers_stop_the_arm(value: float) -> None:
    executor = make()
    play(executor, 0.0, 0.05, value)
    assert executor.reason is StopReason.TRACKING


def test_old_measurements_stop_the_arm() -> None:
    executor = make()
    executor.submit(good(executor, 0.01), 0.0)
    play(executor, 0.0, 0.1)
    for k in range(101, 200):
        executor.tick(k * 0.001, executor.command.q, stamp=0.1)
    status = executor.status()
    assert status.reason is StopReason.STALE
    assert status.mode in (Mode.STOPPING, Mode.STOPPED)


@pytest.mark.parametrize(
    ("gap", "latched"), [(0.02, False), (-0.02, False), (0.0, False), (0.2, True), (-5.0, True), (1e4, True)]
)
def test_clock_jumps_are_not_played_through(gap: float, latched: bool) -> None:
    executor = make()
    certified = good(executor, 0.001)
    executor.submit(certified, 0.0)
    before = play(executor, 0.0, 0.2)[-1]
    after = executor.tick(0.2 + gap, executor.command.q)
    assert np.abs(after.q - before.q).max() < 2.0 * 0.001
    assert np.abs(after.v - before.v).max() < 10.0 * 0.001
    assert (executor.reason is StopReason.CLOCK) == latched
    for k in range(1, 3000):
        last = executor.tick(0.2 + gap + 0.001 * k, executor.command.q)
    assert last.mode is (Mode.STOPPED if latched else Mode.IDLE)
    if not latched:
        np.testing.assert_allclose(last.q, certified.proposal.trajectory.q[-1], atol=1e-12)


def test_many_small_gaps_add_up_to_a_stop() -> None:
    executor = make()
    executor.submit(good(executor, 0.001), 0.0)
    play(executor, 0.0, 0.1)
    for k in range(1, 20):
        executor.tick(0.1 + 0.008 * k, executor.command.q)
    assert executor.reason is StopReason.CLOCK


def test_a_gap_drops_what_no_longer_fits() -> None:
    at_rest = make()
    at_rest.submit(good(at_rest, 0.5), 0.0)
    play(at_rest, 0.0, 0.1)
    at_rest.tick(0.13, at_rest.command.q)  # nothing moved: what is pending still fits
    assert play(at_rest, 0.13, 0.6)[-1].mode is Mode.HEAD

    passed = make()
    passed.submit(good(passed, 0.12), 0.0)
    play(passed, 0.0, 0.1)
    passed.tick(0.13, passed.command.q)  # its switch time fell into the gap
    assert play(passed, 0.13, 1.0)[-1].mode is Mode.IDLE
    np.testing.assert_array_equal(passed.command.q, START)

    moving = make()
    moving.submit(good(moving, 0.01), 0.0)
    moving.submit(good(moving, 0.4), 0.0)
    play(moving, 0.0, 0.1)
    moving.tick(0.13, moving.command.q)  # the motion is put off, so the next plan would not start from where the arm is
    assert play(moving, 0.13, 2.0)[-1].mode is Mode.IDLE
    counters = moving.status().counters
    assert (counters.dropped, counters.splices) == (1, 1)


def test_wrong_input_to_a_cycle_becomes_a_latched_stop() -> None:
    executor = make()
    executor.submit(good(executor, 0.001), 0.0)
    play(executor, 0.0, 0.2)
    executor.tick(0.201, np.zeros(3))
    assert executor.reason is StopReason.INTERNAL
    last = play(executor, 0.201, 2.0)[-1]
    assert last.mode is Mode.STOPPED
    executor = make()
    executor.submit(good(executor, 0.001), 0.0)
    play(executor, 0.0, 0.2)
    for _ in range(1000):
        last = executor.tick(float("nan"), executor.command.q)
    assert last.mode is Mode.STOPPED
    assert np.all(last.v == 0.0)


def test_an_error_in_the_stop_itself_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = make()
    executor.submit(good(executor, 0.001), 0.0)
    before = play(executor, 0.0, 0.2)[-1]
    monkeypatch.setattr(module.Playback, "state", lambda *_: 1 / 0)
    command = executor.tick(0.201, before.q)
    assert command.mode is Mode.FAULT
    np.testing.assert_array_equal(command.q, before.q)
    monkeypatch.undo()
    assert executor.tick(0.202, before.q).mode is Mode.FAULT
    assert executor.resume(0.203, before.q).accepted


def test_gripper_width_only_while_idle() -> None:
    executor = make()
    assert executor.set_width(0.0, 0.01).accepted
    assert play(executor, 0.0, 0.01)[-1].width == 0.01
    assert executor.set_width(0.01, 0.5).code is SubmitCode.MALFORMED
    executor.submit(good(executor, 0.02), 0.01)
    play(executor, 0.01, 0.1)
    assert not executor.set_width(0.1, 0.02).accepted


def test_stamps_on_another_clock() -> None:
    epoch = 1_795_302_263_009_144_832
    executor = make(epoch_ns=epoch)
    certified = good(executor, from_ns(epoch + 50_000_000))
    assert executor.submit(certified, 0.0).accepted
    play(executor, 0.0, 0.2)
    assert executor.submit(good(executor, from_ns(epoch + 300_000_000), 3), 0.2).accepted
    play(executor, 0.2, 0.4)
    assert executor.mode is Mode.HEAD
    assert executor.status().counters.splices == 2


@given(st.floats(1.0, 4e9))
def test_stamps_survive_nanoseconds(time: float) -> None:
    if time > 5e8:
        assert from_ns(to_ns(time)) == time
    assert from_ns(to_ns(time)) == pytest.approx(time, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_extrema_enclose_a_dense_sampling(seed: int) -> None:
    rng = np.random.default_rng(seed)
    trajectory = motions.motion(rng.uniform(-1, 1, 7), rng.uniform(-1, 1, 7), rng.uniform(-3, 3, 7), rng, 5.0)
    low, high, speed = segment_extrema(trajectory)
    q, v, _ = trajectory.sample(np.linspace(0.0, trajectory.duration, 4001))
    assert np.all(low <= q.min(0) + 1e-12) and np.all(high >= q.max(0) - 1e-12) and np.all(speed >= np.abs(v).max(0) - 1e-12)
    np.testing.assert_allclose(low, q.min(0), atol=1e-5)
    np.testing.assert_allclose(high, q.max(0), atol=1e-5)
    np.testing.assert_allclose(speed, np.abs(v).max(0), atol=1e-3)


def test_limits_between_knots_are_seen() -> None:
    plan = motions.proposal(make().commitment(), 0.1, np.random.default_rng(0))
    low, high, speed = segment_extrema(plan.trajectory)
    for name, value, code in (
        ("upper", high.tolist(), SubmitCode.POSITION_LIMIT),
        ("velocity", speed.tolist(), SubmitCode.VELOCITY_LIMIT),
        ("acceleration", np.abs(plan.trajectory.a).max(0).tolist(), SubmitCode.ACCELERATION_LIMIT),
        ("jerk", np.abs(plan.trajectory.jerk()).max(0).tolist(), SubmitCode.JERK_LIMIT),
    ):
        assert check_motion(plan.trajectory, dataclasses.replace(C, **{name: value})).accepted
        value[2] -= 1e-4
        assert check_motion(plan.trajectory, dataclasses.replace(C, **{name: value})).code is code
    low[5] += 1e-4
    assert check_motion(plan.trajectory, dataclasses.replace(C, lower=low.tolist())).code is SubmitCode.POSITION_LIMIT
    rows: list[list[float]] = [[] for _ in range(7)]
    rows[1] = [0.1, 0.01, 2.8, -2.8]
    result = check_motion(plan.trajectory, dataclasses.replace(C, velocity_position=rows))
    assert result.code is SubmitCode.VELOCITY_LIMIT
    assert "joint 2" in result.text


def test_shapes_are_checked() -> None:
    plan = motions.proposal(make().commitment(), 0.1, np.random.default_rng(0))
    for wrong, text in (
        (
            dataclasses.replace(
                C, **{k: getattr(C, k)[:6] for k in ("lower", "upper", "velocity", "acceleration", "jerk", "tracking")}
            ),
            "6",
        ),
        (dataclasses.replace(C, max_knots=5), "at most 5"),
        (dataclasses.replace(C, max_duration=0.5), "0.5 s"),
        (dataclasses.replace(C, stroke=0.01), "0.01"),
    ):
        result = check_shape(plan, wrong)
        assert result.code is SubmitCode.MALFORMED
        assert text in result.text
    zero = np.zeros((3, 7))
    for gap, accepted in ((5e-7, False), (2e-6, True)):
        still = Trajectory(np.array([0.0, 1.0, 1.0 + gap]), zero + START, zero, zero)
        assert check_shape(Proposal(still, np.zeros(3), 0.1, 0.5), C).accepted is accepted
    assert not check_shape(Proposal(plan.trajectory, plan.width, 0.1, 5.0), C).accepted


def test_configuration_errors_name_the_field() -> None:
    with pytest.raises(ConfigError, match=r"executor\.jerk"):
        dataclasses.replace(C, jerk=[1.0])
    with pytest.raises(ConfigError, match=r"executor\.lower"):
        dataclasses.replace(C, lower=[3.0] * 7)
    with pytest.raises(InputError, match="finite"):
        Executor(C, np.full(7, np.nan), 0.0)


def test_submit_never_raises() -> None:
    executor = make()
    assert executor.submit(None, 0.0).code is SubmitCode.INTERNAL  # type: ignore[arg-type]
    plan = good(executor, 0.1)
    assert executor.submit(dataclasses.replace(plan, certificate=None), 0.0).code is SubmitCode.FORGED  # type: ignore[type-var]
    assert executor.status().counters.rejected == {SubmitCode.INTERNAL: 1, SubmitCode.FORGED: 1}


def test_without_a_key_certificates_are_not_looked_at() -> None:
    executor = make(key=None)
    assert executor.submit(dataclasses.replace(good(executor, 0.1), certificate=""), 0.0).accepted
