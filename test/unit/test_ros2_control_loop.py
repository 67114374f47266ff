"""The fast loop and a controller that plays by itself: states stay away, word comes late, one of them stops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy")

from controller_bench import ARM, FAMILY, TRACKING, ControllerBench
from numpy.typing import NDArray

from tandem.execution.types import Mode, StopReason

Array = NDArray[np.float64]

#: what the reference may move in a millisecond, and its speed change, in a motion of :meth:`ControllerBench.wander` [rad, rad/s]
STEP, CHANGE = 1.5e-3, 0.05


def smooth(path: Array, change: float = CHANGE) -> bool:
    """Whether the reference moves as in a motion."""
    steps = np.diff(path, axis=0)
    return bool(np.abs(steps).max() < STEP and np.abs(np.diff(steps, axis=0)).max() < 1e-3 * change)


def moves_for(path: Array) -> float:
    """Until the reference stands [s]."""
    moving = np.flatnonzero(np.abs(np.diff(path, axis=0)).max(1) > 1e-8)
    return 1e-3 * (moving[-1] + 1) if moving.size else 0.0


def wandering(patch: pytest.MonkeyPatch, seed: int, **options: float) -> ControllerBench:
    """In the middle of a motion, the next one pending."""
    bench = ControllerBench(patch, **options)  # type: ignore[arg-type]
    bench.run(0.1)
    bench.wander(3, seed)
    at = bench.t + 0.12
    q, v, a = bench.executor.commitment().state_at(1.76e9 + at)
    bench.submit(FAMILY.trajectory(q, v, a, np.clip(3.0 * (ARM.home - q) - 2.0 * v, -3.0, 3.0)), at)
    return bench


def resting(patch: pytest.MonkeyPatch, **options: float) -> ControllerBench:
    """Before the first motion."""
    bench = ControllerBench(patch, **options)  # type: ignore[arg-type]
    bench.run(0.1)
    return bench


def resumed_at_the_arm(bench: ControllerBench) -> None:
    """The reference is there already when the loop says that it has resumed."""
    bench.resume()
    bench.run(0.02)
    assert bench.executor.mode is Mode.IDLE, bench.executor.status()
    assert np.abs(bench.controller.desired[0] - bench.stuck).max() < 1e-9
    bench.run(0.02)  # at rest the loop takes over how far this machine's clock has gone on


@pytest.mark.parametrize("gap", [0.0, 0.02, 0.06, 0.1, 0.2])
@pytest.mark.parametrize("seed", [2, 5])
def test_a_stop_in_a_gap_of_the_states_brakes_at_once(monkeypatch: pytest.MonkeyPatch, gap: float, seed: int) -> None:
    """Also where the next motion has begun in the gap."""
    bench = wandering(monkeypatch, seed)
    bench.run(0.06)
    begun = bench.t
    bench.silent = gap > 0.0
    bench.run(max(gap - 0.01, 0.0))
    if bench.executor.mode < Mode.STOPPING:  # from 50 ms on the drift of the clocks has stopped it
        bench.stop()
    bench.run(0.01)
    bench.silent = False
    stopped = bench.t
    bench.run(2.0)
    assert bench.executor.mode is Mode.STOPPED and not bench.refused and not bench.controller.refused
    assert smooth(bench.since(begun))
    assert moves_for(bench.since(stopped)) < 0.25, "motion and backup would go on for more than half a second"
    assert np.abs(bench.controller.desired[0] - bench.executor.command.q).max() < 1e-6


@pytest.mark.parametrize("reason", ["operator", "terminated", "contact"])
@pytest.mark.parametrize("rate", [40.0, 100.0])
def test_a_stop_begins_where_the_controller_is(monkeypatch: pytest.MonkeyPatch, reason: str, rate: float) -> None:
    bench = wandering(monkeypatch, 1, rate=rate, drift=0.3)
    bench.run(0.06)
    begun = bench.t
    if reason == "operator":
        bench.stop()
    elif reason == "terminated":
        bench.loop.terminated = True
    else:
        bench.stuck = bench.controller.desired[0] + 0.02
    bench.run(1.5)
    assert bench.executor.mode is Mode.STOPPED and not bench.refused
    assert bench.executor.reason is (StopReason.TRACKING if reason == "contact" else StopReason.OPERATOR)
    assert smooth(bench.since(begun), 0.15 if reason == "contact" else CHANGE)
    assert moves_for(bench.since(begun)) < (0.9 if reason == "contact" else 0.3)


@pytest.mark.parametrize("queue", [10, 1000])
@pytest.mark.parametrize("held", [0.1, 0.2, 0.3, 0.45])
@pytest.mark.parametrize("stop", [True, False])
def test_a_loop_that_was_held_up_knows_that_its_states_are_old(
    monkeypatch: pytest.MonkeyPatch, queue: int, held: float, stop: bool
) -> None:
    """A full socket has kept the oldest ones. The drift of the clocks is let pass, as for a simulation."""
    bench = wandering(monkeypatch, 2, queue=queue, drift=30.0)
    bench.run(0.02)
    begun = bench.t
    if stop:
        bench.stop()
    bench.hold_up(held)
    again = bench.t
    bench.run(2.5)
    assert bench.executor.mode is (Mode.STOPPED if stop else Mode.IDLE) and not bench.refused
    assert smooth(bench.since(begun))
    assert np.abs(bench.controller.desired[0] - bench.executor.command.q).max() < 1e-6
    if stop:
        assert moves_for(bench.since(again)) < 0.25


@pytest.mark.parametrize("where", ["wait", "settle", "write"])
@pytest.mark.parametrize("held", [0.06, 0.1, 0.2])
def test_a_loop_that_was_held_up_within_a_cycle_knows_that_the_controller_has_gone_on(
    monkeypatch: pytest.MonkeyPatch, where: str, held: float
) -> None:
    """After what it last heard: before the drift of the clocks stops it, and before an operator's request is answered."""
    bench = wandering(monkeypatch, 2, drift=0.05 if where == "settle" else 30.0)
    bench.run(0.03)
    begun = bench.t
    part = bench.backend if where != "settle" else bench.loop
    name = {"wait": "wait", "write": "write", "settle": "_settle"}[where]
    ordinary = getattr(part, name)

    def held_up(*given: object) -> object:
        monkeypatch.setattr(part, name, ordinary)
        bench.hold_up(held)
        return ordinary(*given)

    if where != "settle":
        bench.stop()
    monkeypatch.setattr(part, name, held_up)
    bench.run(0.02)
    stopped = bench.t
    bench.run(2.0)
    assert bench.executor.mode is Mode.STOPPED and not bench.refused
    assert bench.executor.reason is (StopReason.CLOCK if where == "settle" else StopReason.OPERATOR)
    assert smooth(bench.since(begun))
    assert moves_for(bench.since(stopped)) < 0.25
    assert np.abs(bench.controller.desired[0] - bench.executor.command.q).max() < 1e-6


@pytest.mark.parametrize("late", [0.015, 0.04, 0.1, 0.2])
def test_word_of_a_stop_that_is_too_late_does_not_go_out(monkeypatch: pytest.MonkeyPatch, late: float) -> None:
    """What comes within the way that is allowed for changes nothing; later it is braked anew, from where word can reach it."""
    bench = wandering(monkeypatch, 2)
    bench.run(0.08)
    begun, bench.late = bench.t, late
    assert bench.executor._pending, "which the controller has, too"
    bench.stop()
    bench.run(2.5)
    assert bench.executor.mode is Mode.STOPPED and not bench.controller.refused
    assert smooth(bench.since(begun), CHANGE if late < 0.02 or bench.refused else 2.0)
    assert bool(bench.refused) == (late >= 0.1)
    assert moves_for(bench.since(begun)) < 0.25 + 3.5 * bench.late
    assert bench.backend._courses.number < 12, "it is not sent again and again"
    if not bench.refused:
        assert np.abs(bench.controller.desired[0] - bench.executor.command.q).max() < 1e-6


@pytest.mark.parametrize("late", [0.2, 0.3])
def test_the_first_motion_that_is_too_late_does_not_go_out(monkeypatch: pytest.MonkeyPatch, late: float) -> None:
    bench = ControllerBench(monkeypatch)
    bench.run(0.1)
    bench.late = late
    bench.submit(FAMILY.trajectory(ARM.home, np.zeros(7), np.zeros(7), np.full(7, 1.5)), bench.t + 0.06)
    bench.run(2.0)
    assert bench.refused and bench.executor.mode is Mode.STOPPED
    assert np.abs(np.array(bench.path) - bench.path[0]).max() < 1e-9


def test_the_loop_does_not_leave_while_word_of_rest_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, it would have to be sent again."""
    bench = ControllerBench(monkeypatch)
    bench.run(0.1)
    bench.submit(FAMILY.trajectory(ARM.home, np.zeros(7), np.zeros(7), np.full(7, 1.5)), bench.t + 0.6)
    bench.run(0.1)
    bench.late = 0.1
    bench.stop()
    bench.run(0.05)
    assert bench.executor.mode is Mode.STOPPED and not bench.loop._rests()
    bench.run(0.1)
    assert bench.loop._rests()
    bench.run(1.5)
    assert np.abs(np.array(bench.path) - bench.path[0]).max() < 1e-9


def test_a_motion_that_is_too_late_stops_the_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = ControllerBench(monkeypatch)
    bench.run(0.1)
    bench.wander(1, 3)
    begun, bench.late = bench.t, 0.3
    at = bench.t + 0.12
    q, v, a = bench.executor.commitment().state_at(1.76e9 + at)
    bench.submit(FAMILY.trajectory(q, v, a, np.full(7, 1.5)), at)
    bench.run(0.5)
    bench.late = 0.0
    bench.run(1.5)
    assert bench.refused and "jump" in bench.refused[0]
    assert bench.executor.mode is Mode.STOPPED and bench.executor.reason in (StopReason.BACKEND, StopReason.TRACKING)
    assert smooth(bench.since(begun))


@pytest.mark.parametrize("seed", [2, 5])
def test_a_controller_that_has_stopped_by_itself_is_not_sent_under_way(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """As one whose path tolerance was violated: it holds, and says so to nobody."""
    bench = wandering(monkeypatch, seed)
    bench.run(0.3)
    controller, still = bench.controller, np.zeros(7)
    assert np.abs(controller.desired[1]).max() > 0.2
    held = controller.desired[0].copy()
    controller.desired, controller._points = np.stack([held, still, still]), None
    begun = bench.t
    bench.run(2.0)
    assert bench.executor.mode is Mode.STOPPED and bench.executor.reason is StopReason.TRACKING
    assert np.abs(bench.since(begun + 2e-3) - held).max() < 1e-9
    assert not bench.refused


def test_a_held_arms_reference_comes_back_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something holds the arm, the controller goes on: it must not go on to press."""
    bench = wandering(monkeypatch, 2)
    bench.run(0.3)
    bench.stuck = bench.controller.desired[0].copy()
    begun = bench.t
    course = bench.executor.course()
    bench.run(2.0)
    assert bench.executor.reason is StopReason.TRACKING and not bench.refused
    assert smooth(bench.since(begun), 0.1)
    assert np.abs(np.diff(bench.since(begun), 2, axis=0)).max() < 25e-6, "gently, though it was fast: 25 rad/s^2"
    away = np.abs(bench.since(begun) - bench.stuck).max()
    assert np.abs(course.trajectory.q[-1] - bench.stuck).max() > 1.5 * away
    assert np.abs(bench.controller.desired[0] - bench.stuck).max() < 1e-9
    assert away > TRACKING, "it had gone on"


@pytest.mark.parametrize("rate", [40.0, 100.0])
@pytest.mark.parametrize("slowing", [6.0, 10.0, 1e3])
@pytest.mark.parametrize(("k", "at"), [(0.3, 0.45), (1.0, 0.3), (1.0, 0.7), (2.0, 0.5)])
def test_an_arm_runs_out_after_its_controller_has_stopped_by_itself(
    monkeypatch: pytest.MonkeyPatch, rate: float, slowing: float, k: float, at: float
) -> None:
    """Nor does it stand when the deviation is seen, nor need the course be fast: the course is not to be sent to it."""
    bench = resting(monkeypatch, rate=rate)
    bench.submit(FAMILY.trajectory(ARM.home, np.zeros(7), np.zeros(7), np.full(7, k)), bench.t + 0.15)
    bench.run(0.15 + at)
    controller, still, begun = bench.controller, np.zeros(7), bench.t
    q, v = controller.desired[0].copy(), controller.desired[1].copy()
    controller.desired, controller._points = np.stack([q, still, still]), None
    takes = float(np.abs(v).max()) / slowing

    def runs_out() -> tuple[Array, Array]:
        t = min(bench.t - begun, takes)
        return q + v * (t - 0.5 * t * t / max(takes, 1e-9)), v * (1.0 - t / max(takes, 1e-9))

    bench.arm = runs_out
    bench.run(1.5)
    assert bench.executor.mode is Mode.STOPPED and bench.executor.reason is StopReason.TRACKING and not bench.refused
    assert np.abs(np.diff(bench.since(begun + 2e-3), axis=0)).max() < STEP
    ran_out = np.abs(runs_out()[0] - q).max()
    assert np.abs(bench.controller.desired[0] - runs_out()[0]).max() < max(ran_out, 1e-6), "not on from there"


@pytest.mark.parametrize("lag", [0.012, 0.02])
@pytest.mark.parametrize("at", [0.25, 0.4])
def test_an_arm_that_lags_is_braked_along_its_path(monkeypatch: pytest.MonkeyPatch, lag: float, at: float) -> None:
    """It is stopped, for it is not where it was to be; but it follows."""
    bench = resting(monkeypatch)
    bench.submit(FAMILY.trajectory(ARM.home, np.zeros(7), np.zeros(7), np.linspace(-3.0, 3.0, 7)), bench.t + 0.12)
    bench.run(0.12 + at)
    told, begun = bench.backend._courses._told, bench.t

    def lagging() -> tuple[Array, Array]:
        back = round(1e3 * lag)
        return bench.path[-1 - back], 1e3 * (bench.path[-1 - back] - bench.path[-2 - back])

    bench.arm = lagging
    bench.run(1.5)
    assert bench.executor.reason is StopReason.TRACKING and not bench.refused and smooth(bench.since(begun), 0.1)
    certified = told.trajectory.sample(np.arange(0.0, told.trajectory.duration, 1e-3))[0]
    assert max(np.abs(certified - q).max(1).min() for q in bench.since(begun)[::5]) < 1.5e-3
    assert moves_for(bench.since(begun)) < 0.6


@pytest.mark.parametrize("queue", [10, 1000])
@pytest.mark.parametrize("held", [0.15, 0.25, 0.4])
@pytest.mark.parametrize("lead", [0.06, 0.12, 0.2])
def test_the_stop_of_a_first_motion_that_did_not_go_out_does_not_go_out_either(
    monkeypatch: pytest.MonkeyPatch, queue: int, held: float, lead: float
) -> None:
    """The request lies in the inbox, the loop is held up: the executor plays a motion of which the controller knows nothing."""
    bench = resting(monkeypatch, queue=queue, drift=0.3)
    begun, ordinary = bench.t, bench.backend.wait
    bench.push(FAMILY.trajectory(ARM.home, np.zeros(7), np.zeros(7), np.full(7, 2.0)), bench.t + lead)

    def held_up() -> float:
        monkeypatch.setattr(bench.backend, "wait", ordinary)
        bench.hold_up(held)
        return ordinary()

    monkeypatch.setattr(bench.backend, "wait", held_up)
    bench.run(2.0)
    assert np.abs(np.diff(bench.since(begun), axis=0)).max() < STEP, "at most what two references may differ by"
    assert bench.executor.mode in (Mode.STOPPED, Mode.IDLE)


@pytest.mark.parametrize("late", [0.03, 0.1])
@pytest.mark.parametrize("held", [0.0, 0.1])
def test_the_stop_of_a_first_motion_that_was_refused_is_refused_too(
    monkeypatch: pytest.MonkeyPatch, late: float, held: float
) -> None:
    bench = resting(monkeypatch)
    begun, bench.late = bench.t, late
    bench.submit(FAMILY.trajectory(ARM.home, np.zeros(7), np.zeros(7), np.full(7, 2.0)), bench.t + 0.02)
    bench.run(0.02)
    bench.late = 0.0
    bench.hold_up(held)
    bench.run(1.5)
    assert np.abs(np.diff(bench.since(begun), axis=0)).max() < STEP, "at most what two references may differ by"


@pytest.mark.parametrize("k", [1.0, 3.0])
@pytest.mark.parametrize("lead", [0.03, 0.12])
def test_resuming_waits_until_the_controller_has_come_over(monkeypatch: pytest.MonkeyPatch, k: float, lead: float) -> None:
    """To the arm, which something held: what begins before then would begin elsewhere."""
    bench = resting(monkeypatch)
    bench.submit(FAMILY.trajectory(ARM.home, np.zeros(7), np.zeros(7), np.full(7, k)), bench.t + 0.12)
    bench.run(0.12 + 0.3)
    bench.stuck, begun = bench.controller.desired[0].copy(), bench.t
    while bench.executor.mode is not Mode.STOPPED:
        bench.run(0.01)
    away = np.abs(bench.controller.desired[0] - bench.stuck).max()
    assert away > 2.0 * TRACKING, "it is on its way"
    resumed_at_the_arm(bench)
    bench.stuck = None
    bench.submit(FAMILY.trajectory(bench.executor.command.q, np.zeros(7), np.zeros(7), np.full(7, -k)), bench.t + lead)
    bench.run(1.5)
    assert bench.executor.mode is Mode.IDLE and smooth(bench.since(begun), 0.15)
    assert np.abs(bench.controller.desired[0] - bench.executor.command.q).max() < 1e-6


@pytest.mark.parametrize(("k", "at"), [(2.0, 0.3), (3.0, 0.45)])
@pytest.mark.parametrize("once_stopped", [False, True])
def test_an_arm_that_is_held_during_a_stop_is_not_pressed_on(
    monkeypatch: pytest.MonkeyPatch, k: float, at: float, once_stopped: bool
) -> None:
    """The reference comes back to it when the stop has ended; where it was moved later, before it goes on."""
    bench = resting(monkeypatch)
    bench.submit(FAMILY.trajectory(ARM.home, np.zeros(7), np.zeros(7), np.full(7, k)), bench.t + 0.12)
    bench.run(0.12 + at)
    bench.stop()
    bench.run(0.7 if once_stopped else 0.02)
    bench.stuck, begun = bench.controller.desired[0] + (0.05 if once_stopped else 0.0), bench.t
    bench.run(1.2)
    assert bench.executor.mode is Mode.STOPPED and bench.executor.reason is StopReason.OPERATOR
    away = np.abs(bench.controller.desired[0] - bench.stuck).max()
    assert away > 0.04 if once_stopped else away < 1e-9
    resumed_at_the_arm(bench)
    bench.stuck = None
    bench.submit(FAMILY.trajectory(bench.executor.command.q, np.zeros(7), np.zeros(7), np.full(7, -0.5)), bench.t + 0.14)
    bench.run(1.5)
    assert bench.executor.mode is Mode.IDLE and smooth(bench.since(begun))
    assert np.abs(np.diff(bench.since(begun), 2, axis=0)).max() < 25e-6


def test_a_controllers_clock_that_was_set_back_is_taken_when_resuming(monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulation that was reset: until then there are no states, and nothing is sent into the future."""
    bench = wandering(monkeypatch, 2, drift=30.0)
    bench.run(0.06)
    bench.back, begun = 900.0, bench.t
    bench.controller._points = None
    bench.controller.desired[1:] = 0.0
    bench.controller.now -= 900.0
    bench.run(1.0)
    assert bench.executor.mode is Mode.STOPPED and "gone back by" in bench.executor.status().text
    assert len(bench.refused) == 1 and "begins 899" in bench.refused[0]
    assert np.abs(np.diff(bench.since(begun + 2e-3), axis=0)).max() < 1e-9
    bench.resume()
    bench.run(0.3)
    assert bench.executor.mode is Mode.IDLE, bench.executor.status()
    again = bench.t
    bench.submit(FAMILY.trajectory(bench.executor.command.q, np.zeros(7), np.zeros(7), np.full(7, -0.5)), bench.t + 0.14)
    bench.run(1.5)
    assert bench.executor.mode is Mode.IDLE and smooth(bench.since(again))
    assert np.abs(bench.controller.desired[0] - bench.executor.command.q).max() < 1e-6


@pytest.mark.parametrize("at", [4, 5, 6, 7])
def test_requests_are_answered_in_each_cycle_of_an_arm_that_sets_the_pace(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Also where its states come at half the rate that was asked for, and each cycle is a long one."""
    bench = resting(monkeypatch, rate=50.0)
    bench.loop.config = replace(bench.loop.config, executor=replace(bench.loop.config.executor, period=0.01))
    taken: list[float] = []

    def wait() -> float:
        if len(taken) > 8:
            raise KeyboardInterrupt
        bench.link.beat_owner(bench.loop._mono_ns())
        taken.append(ordinary())
        if len(taken) == at:
            bench.stop()
        return taken[-1]

    ordinary = bench.backend.wait
    monkeypatch.setattr(bench.backend, "wait", wait)
    modes: list[Mode] = []
    cycle = bench.loop.cycle

    def watched(deadline: int, late: bool = False) -> object:
        command = cycle(deadline, late)
        modes.append(bench.executor.mode)
        return command

    monkeypatch.setattr(bench.loop, "cycle", watched)
    with pytest.raises(KeyboardInterrupt):
        bench.loop.run()
    assert min(taken[1:]) > 0.015, "each is late"
    assert modes.index(Mode.STOPPED) == at - 1
