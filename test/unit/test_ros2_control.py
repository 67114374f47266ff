"""The backend for ros2_control against a controller built from the documentation: what it interpolates is what was certified."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import numpy as np
import pytest

pytest.importorskip("rclpy")

from controller_bench import FAMILY, JOINTS, TRACKING, points
from stand_in_controller import Controller
from trajectory_msgs.msg import JointTrajectory

from tandem.core.config import from_dict
from tandem.core.errors import InputError
from tandem.core.trajectory import Trajectory
from tandem.core.types import Commitment, Proposal
from tandem.execution.backends.base import BackendError, FollowingBackend, PacedBackend
from tandem.execution.backends.courses import HOLD, LONG_WAY, WAY, Courses, Dispatch, Heard, without_rest
from tandem.execution.backends.ros2_control import (
    Ros2Control,
    Ros2ControlOptions,
    decode_course,
    decode_state,
    encode_course,
    encode_state,
    loop_config,
)
from tandem.execution.executor import Executor
from tandem.execution.fast_loop import LoopConfig
from tandem.execution.types import CertifiedTrajectory, Command, Mode, StopReason
from tandem.nodes import messages
from tandem.nodes.controller import Reference, course_to_msg, fingers_to_msg
from tandem.robots.model import load_arm

ARM = load_arm("fr3")
EPOCH = 1.76e9


def courses_for() -> Courses:
    config = loop_config(ARM, TRACKING, Ros2ControlOptions()).executor
    courses = Courses(np.asarray(config.acceleration), np.asarray(config.jerk), TRACKING)
    courses.begin(ARM.home, 0.0, 0.0)
    return courses


def brakes(kept: Commitment | None, told: Commitment, latest: float) -> bool:
    """Whether ``kept`` is ``told`` until word has reached the controller, and then comes to rest along its path."""
    assert kept is not None
    same = np.linspace(latest, latest + WAY, 20)
    for t in same:
        assert np.abs(kept.state_at(t)[0] - told.state_at(t)[0]).max() < 1e-6
        assert np.abs(kept.state_at(t)[1] - told.state_at(t)[1]).max() < 1e-3
    path = told.trajectory.sample(np.arange(0.0, told.trajectory.duration + 1e-3, 1e-3))[0]
    t = np.arange(latest, kept.end, 0.01)
    assert max(np.abs(path - kept.state_at(x)[0]).max(1).min() for x in t) < 1.5e-3
    assert kept.trajectory.ends_at_rest() and np.abs(kept.state_at(kept.end - 0.9 * HOLD)[1]).max() < 1e-9
    return kept.end - HOLD < latest + WAY + 0.4


def motion(seed: int, start: np.ndarray | None = None) -> Trajectory:
    rng = np.random.default_rng(seed)
    first = FAMILY.trajectory(ARM.home if start is None else start, np.zeros(7), np.zeros(7), rng.uniform(-2.5, 2.5, 7))
    return messages.quantise_trajectory(first)


@pytest.mark.parametrize("fields", [3, 2])
def test_the_controllers_polynomials_are_the_certified_ones(fields: int) -> None:
    worst = 0.0
    for seed in range(4):
        course = Commitment(motion(seed), 12.0, np.zeros(6))
        controller = Controller(ARM.home, now=12.05)
        assert controller.receive(points(course_to_msg(decode_course(encode_course(course, 1))[0], JOINTS), fields))
        for t in np.arange(12.05, 13.2, 0.001):
            worst = max(worst, float(np.abs(controller.step(t) - course.state_at(t)[0]).max()))
    assert worst < 1e-11


def test_positions_alone_would_not_do() -> None:
    course = Commitment(motion(0), 12.0, np.zeros(6))
    controller = Controller(ARM.home, now=12.0)
    controller.receive(points(course_to_msg(course, JOINTS), 1))
    gap = max(np.abs(controller.step(t) - course.state_at(t)[0]).max() for t in np.arange(12.0, 13.2, 0.001))
    assert gap > 10.0 * TRACKING


class Rig:
    """Executor and controller in lockstep; each course takes ``delay`` [s] to arrive. Times are epoch seconds, as in life."""

    def __init__(self, delay: Callable[[], float], offset: float = 0.0) -> None:
        self.now = EPOCH
        self.executor = Executor(loop_config(ARM, TRACKING, Ros2ControlOptions()).executor, ARM.home, self.now)
        self.controller = Controller(ARM.home + offset, now=self.now)
        self._delay, self._told, self._courses = delay, -1, courses_for()
        self._on_the_way: list[tuple[float, JointTrajectory]] = []
        self._course = self.executor.course()
        self.gap: list[float] = []
        self.step: list[float] = []

    def run(self, seconds: float) -> None:
        """1 ms at a time; the executor every tenth. The gap is between the controller and the executor's newest course."""
        for _ in range(round(seconds * 1e3)):
            self.now += 0.001
            before = self.controller.desired[0]
            wanted = self.controller.step(self.now)
            self.step.append(float(np.abs(wanted - before).max()))
            cycle = round((self.now - EPOCH) * 1e3)
            if cycle % 10 == 0:
                self.executor.ahead = WAY
                self.executor.tick(self.now, self.executor.command.q)
                self._course = self.executor.course()
                if self.executor.revision != self._told:
                    told, done = self._courses.next(self._course, self.now, self.now)
                    self._told = self.executor.revision if done else self._told
                    if told is not None:
                        self._courses.sent(told, self.now)
                        self._on_the_way.append((self.now + self._delay(), course_to_msg(told, JOINTS)))
            self.gap.append(float(np.abs(wanted - self._course.state_at(self.now)[0]).max()))
            while self._on_the_way and self._on_the_way[0][0] <= self.now:
                self.controller.receive(points(self._on_the_way.pop(0)[1]))

    def submit(self, trajectory: Trajectory, at: float) -> None:
        proposal = Proposal(trajectory, np.zeros(len(trajectory.times)), messages.quantise_time(at), 0.5)
        result = self.executor.submit(CertifiedTrajectory(proposal, "", ""), self.now)
        assert result.accepted, result

    def chain(self, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        at = self.now + 0.12
        for _ in range(count):
            q, v, a = self.executor.commitment().state_at(at)
            k = np.clip(3.0 * (ARM.home - q) - 2.0 * v + rng.uniform(-1.5, 1.5, 7), -3.0, 3.0)
            self.submit(messages.quantise_trajectory(FAMILY.trajectory(q, v, a, k)), at)
            self.run(0.5)
            at += 0.5


@pytest.mark.parametrize("late", [0.0, 0.005, 0.04])
def test_splices_and_the_rest_after_them_are_followed(late: float) -> None:
    rng = np.random.default_rng(1)
    rig = Rig(lambda: late * rng.uniform(0.2, 1.0))
    rig.run(0.1)
    rig.chain(6, 2)
    rig.run(1.2)
    assert rig.controller.taken >= 6 and not rig.controller.refused
    assert rig.executor.mode is Mode.IDLE and rig.executor.counters.splices == 6
    # what is left: stamps in double precision since 1970
    assert max(rig.gap) < 2e-6 and max(rig.gap) < 1e-3 * TRACKING
    assert max(rig.step) > 2e-4, "it has moved"


def test_a_motion_that_is_over_is_not_sent_again() -> None:
    """An arm whose clock is slow: its stamps are set anew whenever it rests, and nothing else is to be played then."""
    rig = Rig(lambda: 0.02)
    rig.run(0.1)
    rig.chain(2, 3)
    rig.run(1.2)
    assert rig.executor.mode is Mode.IDLE
    taken = rig.controller.taken
    for n in range(3):
        rig.executor.rebase(round(-1e9 * (n + 1)))
        rig.run(0.2)
    assert not rig.controller.refused and rig.controller.taken == taken
    assert np.array_equal(rig.controller.desired[0], rig.executor.command.q)
    over = Commitment(motion(1), 3.0, np.zeros(6))
    ends = 3.0 + float(motion(1).times[-1])
    assert without_rest(over, ends) is None and without_rest(over, ends - 1e-3) is over


@pytest.mark.parametrize("late", [0.002, 0.04])
@pytest.mark.parametrize("how", ["stop", "clock set anew"])
def test_a_motion_that_is_dropped_before_it_begins_is_not_played(late: float, how: str) -> None:
    rig = Rig(lambda: late)
    rig.run(0.1)
    at = rig.now + 0.3
    rig.submit(messages.quantise_trajectory(FAMILY.trajectory(ARM.home, np.zeros(7), np.zeros(7), np.linspace(1.0, 2.0, 7))), at)
    rig.run(0.1)
    assert rig.controller.taken == 1, "it waits for its time to begin"
    if how == "stop":
        rig.executor.stop(StopReason.OPERATOR, "test")
    else:
        rig.executor.rebase(-(10**9))
    rig.run(1.8)
    assert rig.executor.counters.splices == 0 and rig.controller.taken == 2 and not rig.controller.refused
    assert max(rig.step) < 1e-9 and max(rig.gap) < 1e-9, "the arm never moves"
    for n in range(10):
        rig.executor.rebase(n)
        rig.run(0.01)
    assert rig.controller.taken == 2, "rest is sent once"


@pytest.mark.parametrize("late", [0.002, 0.04])
def test_a_stop_in_the_rest_between_two_motions_is_one(late: float) -> None:
    rig = Rig(lambda: late)
    rig.run(0.1)
    rig.chain(1, 4)
    rig.run(1.0)
    rest = rig.executor.command.q
    assert rig.executor.mode is Mode.IDLE
    back = np.linspace(-1.5, 1.5, 7)
    rig.submit(messages.quantise_trajectory(FAMILY.trajectory(rest, np.zeros(7), np.zeros(7), back)), rig.now + 0.4)
    rig.run(0.05)
    rig.executor.stop(StopReason.OPERATOR, "test")
    rig.run(0.3)
    begun = len(rig.step)
    rig.run(1.5)
    assert max(rig.step[begun:]) < 1e-9 and np.abs(rig.controller.desired[0] - rest).max() < 1e-9
    assert not rig.controller.refused


@pytest.mark.parametrize(("until", "begun"), [(0.175, False), (0.195, True)])
@pytest.mark.parametrize("late", [0.002, 0.04])
def test_a_stop_as_a_motion_begins_is_soon_at_rest(until: float, begun: bool, late: float) -> None:
    """Taken back where word of it comes before the motion; else what begins is braked, at once and without a jump."""
    rig = Rig(lambda: late)
    rig.run(0.1)
    at = rig.now + 0.2
    rig.submit(messages.quantise_trajectory(FAMILY.trajectory(ARM.home, np.zeros(7), np.zeros(7), np.full(7, 2.0))), at)
    rig.run(until)
    rig.executor.stop(StopReason.OPERATOR, "test")
    assert (rig.executor.mode is Mode.STOPPING) == begun
    rig.run(late + HOLD + 0.1)
    assert rig.executor.mode is Mode.STOPPED
    assert max(rig.gap) < (0.05 if begun or late < 0.01 else 0.5) * TRACKING
    assert max(rig.step) < (2e-5 if late < 0.01 else 2e-4)
    assert (np.abs(rig.executor.command.q - ARM.home).max() > 1e-9) == begun
    assert np.abs(rig.controller.desired[0] - rig.executor.command.q).max() < 1e-9
    assert np.abs(rig.controller.desired[1:]).max() < 1e-9


def through_at(told: Commitment, clock: float) -> Commitment:
    """Rest where ``told`` passes at ``clock``."""
    assert np.abs(told.state_at(clock)[1]).max() > 0.1
    return Commitment(Trajectory.at_rest(told.state_at(clock)[0], 0.1), 5.5, np.zeros(2))


def courses_of(told: Commitment) -> Courses:
    """To a controller that plays ``told``."""
    courses = courses_for()
    courses.sent(told, 0.0)
    return courses


def test_rest_does_not_replace_a_motion_under_way() -> None:
    """After a halt (the arm follows nothing) the executor's course is rest: what the controller plays is braked."""
    courses, still = courses_for(), Commitment(Trajectory.at_rest(ARM.home, 0.1), 5.5, np.zeros(2))
    assert courses.next(still, 5.5, 100.0) == (None, True), "it holds already"
    told, done = courses.next(Commitment(motion(1), 5.5, np.zeros(6)), 5.5, 100.0)
    assert told is not None and told.start == pytest.approx(100.0) and done
    courses.sent(told, 0.0)
    kept, done = courses.next(still, 5.9, 100.4)
    assert brakes(kept, told, 100.4) and not done, "to be told again"
    assert courses_of(told).next(through_at(told, 100.4), 5.9, 100.4)[1] is False, "where it only passes it does not rest"
    courses.sent(kept, 0.0)
    assert courses.next(still, 5.9, 100.41) == (None, False), "once"
    assert courses.next(still, 9.0, 103.5) == (None, True), "nor what is over"


def test_what_may_have_begun_while_nothing_is_heard_is_braked() -> None:
    courses, still = courses_for(), Commitment(Trajectory.at_rest(ARM.home, 0.1), 5.0, np.zeros(2))
    told, _ = courses.next(Commitment(motion(1), 5.5, np.zeros(6)), 5.0, 100.0)
    assert told is not None
    courses.sent(told, 0.0)
    for ahead in (0.7, 1.2):  # it may be anywhere from its rest into the motion
        kept, done = courses_of(told).next(still, 5.0, 100.0, ahead)
        assert brakes(kept, told, 100.0 + ahead) and not done
    rest, done = courses.next(still, 5.0, 100.0, 0.3)
    assert done and rest is not None and rest.start == pytest.approx(100.3 + HOLD), "after the latest that it can be at"
    courses.sent(rest, 0.0)
    assert courses.next(still, 5.0, 100.0, 0.3) == (None, True), "once"
    out = motion(1)
    back = Trajectory(out.times[-1] - out.times[::-1], out.q[::-1], -out.v[::-1], out.a[::-1])
    to_and_fro = out.then(back).then(Trajectory.at_rest(ARM.home, 0.5)).then(out)
    courses.sent(Commitment(to_and_fro, 100.5, np.zeros(len(to_and_fro.times))), 0.0)
    rests = 0.5 + 2.0 * out.duration + 0.25
    kept, done = courses.next(still, 5.0, 100.0, rests)
    assert not done, "at rest by the latest, but perhaps not yet back"
    assert kept is not None and kept.start == 100.5 and np.abs(kept.trajectory.q[-1] - ARM.home).max() < 1e-9
    assert kept.end < 100.5 + 2.0 * out.duration + 0.5 + HOLD, "what it plays, without what begins later"
    assert courses.next(still, 5.0, 100.0 + rests)[0] is not None


def test_a_course_from_another_place_waits_until_the_controller_rests() -> None:
    courses = courses_for()
    told, _ = courses.next(Commitment(motion(1), 5.0, np.zeros(6)), 5.0, 100.0)
    assert told is not None
    courses.sent(told, 0.0)
    back = Commitment(motion(1), 5.6, np.zeros(6))  # the same, put off
    assert courses.next(back, 6.0, 101.0) == (None, False)
    assert courses.next(Commitment(motion(1), 5.0, np.zeros(6)), 5.5, 100.5)[0] is not None, "what it plays itself may come again"
    again = Commitment(motion(2, motion(1).q[-1]), 8.0, np.zeros(6))
    assert courses.next(again, 7.8, told.end + 0.1)[0] is not None
    assert courses.next(Commitment(motion(2), 8.0, np.zeros(6)), 7.8, told.end + 0.1) == (None, False), "too far for .2 s"


@pytest.mark.parametrize(("at", "n"), [(0.3, -1), (-0.2, 0)], ids=["under way", "announced"])
@pytest.mark.parametrize("stopping", [True, False], ids=["braking", "halted"])
def test_what_is_not_followed_is_braked(at: float, n: int, stopping: bool) -> None:
    """A stop in a gap of the joint states is apart from what is played; what was announced after it must not begin."""
    courses, out = courses_for(), motion(1)
    there = out.then(Trajectory.at_rest(out.q[-1], 1.0)).then(motion(2, out.q[-1]))
    told, _ = courses.next(Commitment(there, 5.0, np.zeros(len(there.times))), 4.5, 99.5)
    assert told is not None
    courses.sent(told, 0.0)
    if stopping:  # a brake is a motion, too
        elsewhere = Commitment(motion(3, ARM.home + 0.1), 4.9 + at, np.zeros(6))
    else:
        elsewhere = Commitment(Trajectory.at_rest(ARM.home + 0.1, 0.1), 4.0, np.zeros(2))
    kept, done = courses.next(elsewhere, 5.0 + at, 100.0 + at)
    assert kept is not None and not done
    assert brakes(kept, told, 100.0 + at)
    assert np.abs(kept.trajectory.q - ARM.home).max() > 0.05 if n else np.abs(kept.trajectory.q - ARM.home).max() < 1e-9
    courses.sent(kept, 0.0)
    assert courses.next(elsewhere, 5.0 + at, 100.0 + at)[0] is None, "once"


@pytest.mark.parametrize("published", [0, 1])
def test_an_arm_is_compared_with_what_had_gone_out_by_then(published: int) -> None:
    """One that stands because word of its motion is on its way has a controller that will yet play it: that is braked."""
    courses, still = courses_for(), Commitment(Trajectory.at_rest(ARM.home, 0.1), 5.5, np.zeros(2))
    told, _ = courses.next(Commitment(motion(1), 5.5, np.zeros(6)), 5.4, 99.9)
    assert told is not None and told.start == pytest.approx(100.0)
    courses.sent(told, 0.0)
    stands = Heard(100.4, ARM.home, np.zeros(7), 0.08, 0.0, published, 0)
    kept, done = courses.next(still, 5.9, 100.4, 0.0, stands)
    if not published:
        assert brakes(kept, told, 100.4) and not done and courses.settled < 0.0
        return
    assert kept is not None and done and np.abs(kept.trajectory.q - ARM.home).max() < 1e-9
    at, v, _ = told.state_at(100.4)
    takes = kept.start - 100.4
    assert 5.8 * np.abs(at - ARM.home).max() / takes**2 + 6.0 * np.abs(v).max() / takes < 10.0 + 1e-6
    courses.sent(kept, 0.0)
    assert courses.settled == kept.start
    again = Commitment(motion(1), 6.1, np.zeros(6))
    assert courses.next(again, 5.95, 100.45, 0.0, stands) == (None, False), "nothing else meanwhile"
    assert courses.next(still, 5.95, 100.45, 0.0, stands) == (None, True)
    now = 5.5 + kept.start - 100.0
    later = Commitment(motion(1), now + 0.3, np.zeros(6))
    assert courses.next(later, now, kept.start, 0.0, stands._replace(stamp=kept.start))[0] is not None


def test_a_place_that_is_only_passed_is_not_one_to_go_on_from() -> None:
    courses = courses_for()
    told, _ = courses.next(Commitment(motion(1), 5.0, np.zeros(6)), 4.5, 99.5)
    assert told is not None
    courses.sent(told, 0.0)
    q, v, _ = told.state_at(100.3)
    assert np.abs(v).max() > 0.5
    assert courses.next(Commitment(motion(2, q), 5.6, np.zeros(6)), 5.3, 100.3)[1] is False


@pytest.mark.parametrize(("lead", "sent"), [(0.03, False), (0.3, True)])
def test_from_elsewhere_a_motion_is_not_begun_at_once(lead: float, sent: bool) -> None:
    courses = courses_for()
    told, _ = courses.next(Commitment(motion(1), 5.0, np.zeros(6)), 4.5, 99.5)
    assert told is not None
    courses.sent(told, 0.0)
    off = Commitment(motion(2, motion(1).q[-1] + 0.1), 8.0 + lead, np.zeros(6))
    assert (courses.next(off, 8.0, 103.0)[0] is not None) == sent


@pytest.mark.parametrize(("off", "sent"), [(0.8e-3, True), (1.2e-3, False)])
def test_a_reference_that_differs_by_more_than_a_quarter_of_the_tracking_bound_is_not_set(off: float, sent: bool) -> None:
    courses = courses_for()
    told, _ = courses.next(Commitment(motion(1), 5.0, np.zeros(6)), 4.5, 99.5)
    assert told is not None
    courses.sent(told, 0.0)
    beside = Commitment(motion(1, ARM.home + off), 5.0, np.zeros(6))
    course, done = courses.next(beside, 5.3, 100.3)
    assert done == sent and (sent or brakes(course, told, 100.3))


def test_a_motion_that_is_no_longer_slow_is_not_taken_back() -> None:
    """Rest would pull the reference back from a motion that carries on."""
    courses, still = courses_for(), Commitment(Trajectory.at_rest(ARM.home, 0.1), 5.0, np.zeros(2))
    told, _ = courses.next(Commitment(motion(1), 5.5, np.zeros(6)), 5.0, 100.0)
    assert told is not None
    courses.sent(told, 0.0)
    times = 100.5 + np.arange(0.0, 0.1, 1e-3)
    speed = np.array([np.abs(told.state_at(t)[1]).max() for t in times])
    off = np.array([np.abs(told.state_at(t)[0] - ARM.home).max() for t in times])
    begun = times[(speed > 0.03) & (off < 1e-3)]
    assert len(begun) > 3
    for t in begun:
        kept, done = courses_of(told).next(still, t - 95.0, t)
        assert brakes(kept, told, t) and not done


def test_fingers_that_were_to_move_are_taken_back_too() -> None:
    courses, still = courses_for(), Commitment(Trajectory.at_rest(ARM.home, 0.1), 5.0, np.full(2, 0.08))
    closing = Commitment(Trajectory.at_rest(ARM.home, 0.5), 5.5, np.array([0.08, 0.02]))
    told, _ = courses.next(closing, 5.0, 100.0)
    assert told is not None
    courses.sent(told, 0.0)
    rest, done = courses.next(still, 5.0, 100.0)
    assert done and rest is not None and np.all(rest.width == 0.08)


@pytest.mark.parametrize("moved", [True, False], ids=["at the end of another", "never told"])
def test_a_motion_under_way_is_not_sent_to_a_controller_that_rests_elsewhere(moved: bool) -> None:
    """As after a stall: what it had has ended, the executor's stop has not."""
    courses, ends = courses_for(), ARM.home
    if moved:
        told, _ = courses.next(Commitment(motion(1), 5.0, np.zeros(6)), 5.0, 100.0)
        assert told is not None
        courses.sent(told, 0.0)
        ends = motion(1).q[-1]
    course = Commitment(motion(2), 8.0, np.zeros(6))
    assert np.abs(course.state_at(8.3)[0] - ends).max() > 1e-2
    assert courses.next(course, 8.3, 103.3) == (None, False)
    assert courses.next(course, 7.9, 102.9, 0.4) == (None, False), "it may have begun"
    assert courses.next(course, 7.0, 102.0)[0] is not None, "it is yet to begin: the controller comes over smoothly"
    on = Commitment(motion(2, ends), 8.0, np.zeros(6))
    assert courses.next(on, 8.02, 103.02)[0] is not None, "a little late, from where the controller rests"


def test_after_a_stall_in_motion_the_reference_does_not_jump() -> None:
    """The executor puts the motion off and brakes; the controller, which went on, ends what it has at its certified rest."""
    rig = Rig(lambda: 0.005)
    rig.run(0.1)
    rig.chain(1, 7)
    course = rig.executor.course()
    ends = course.trajectory.q[-1]
    fastest = max(rig.step)
    for _ in range(600):
        rig.now += 0.001
        before = rig.controller.desired[0]
        rig.step.append(float(np.abs(rig.controller.step(rig.now) - before).max()))
    rig.run(1.5)
    assert rig.executor.mode is Mode.STOPPED and not rig.controller.refused
    assert max(rig.step) < 1.5 * fastest
    assert np.abs(rig.controller.desired[0] - ends).max() < 1e-6
    assert np.abs(rig.executor.command.q - ends).max() > 1e-3, "the executor knows of less"


def test_word_of_a_stop_that_comes_after_its_end_is_no_past() -> None:
    """What follows it in the controller's course would be played."""
    rig = Rig(lambda: 0.15)
    rig.run(0.1)
    trajectory = messages.quantise_trajectory(FAMILY.trajectory(ARM.home, np.zeros(7), np.zeros(7), np.linspace(1.0, 2.0, 7)))
    at = rig.now + 0.2
    rig.submit(trajectory, at)
    rig.submit(messages.quantise_trajectory(FAMILY.trajectory(trajectory.q[-1], np.zeros(7), np.zeros(7), np.full(7, -2.0))),
               at + trajectory.duration + 0.2)
    rig.run(0.2 + trajectory.duration - 0.03)
    rig.executor.stop(StopReason.OPERATOR, "test")
    rig.run(2.5)
    assert not rig.controller.refused
    assert np.abs(rig.controller.desired[0] - rig.executor.command.q).max() < 1e-6


@pytest.mark.parametrize(("late", "share"), [(0.0, 0.005), (0.02, 0.1)])
def test_a_stop_is_followed_to_its_rest(late: float, share: float) -> None:
    """In the middle of a motion; until the message comes the controller goes on along the certified path."""
    for seed in range(2):
        rig = Rig(lambda: late)
        rig.run(0.1)
        rig.chain(3, seed)
        rig.executor.stop(StopReason.OPERATOR, "test")
        rig.run(1.5)
        assert rig.executor.mode is Mode.STOPPED and not rig.controller.refused
        after = rig.gap[round(1e3 * (0.1 + 1.5 + late)) + 12 :]
        assert max(after) < share * TRACKING, "what the points of the braking leave out, as a share of the certified bound"
        assert np.abs(rig.controller.desired[0] - rig.executor.command.q).max() < 1e-9
        assert np.abs(rig.controller.desired[1:]).max() < 1e-9


def test_a_controller_that_holds_something_else_is_brought_over_smoothly() -> None:
    rig = Rig(lambda: 0.005, offset=0.003)
    rig.run(0.1)
    rig.chain(2, 5)
    assert max(rig.step) < 3e-3 and rig.gap[-1] < 2e-6
    early = rig.step[:220]
    assert max(early) < 1.5e-4, "no jump: 0.15 rad/s at most while it is brought over"


def test_what_is_refused_is_not_what_the_controller_plays() -> None:
    courses, still = courses_for(), Commitment(Trajectory.at_rest(ARM.home, 0.1), 5.0, np.zeros(2))
    first = Commitment(motion(1), 100.5, np.zeros(6))
    courses.sent(first, 10.0)
    assert courses.confirm(0, 0, 10.0) and not courses.reached(0) and courses.confirm(1, 0, 10.01) and courses.reached(1)
    courses.sent(Commitment(Trajectory.at_rest(ARM.home, 0.1), 100.3, np.zeros(2)), 10.1)
    assert courses.next(still, 5.0, 100.1) == (None, True), "it rests, as it was told"
    assert not courses.confirm(1, 2, 10.2) and courses.confirm(1, 2, 10.21), "said once"
    assert courses.way == pytest.approx(WAY + 0.1), "so long did it take"
    rest, done = courses.next(still, 5.0, 100.2)
    assert done and rest is not None, "what was announced is taken back again"
    courses.sent(rest, 10.25)
    assert courses.confirm(1, 2, 10.26) and courses.way > WAY, "an older refusal"
    assert courses.confirm(3, 2, 10.3) and courses.way == WAY and courses.next(still, 5.0, 100.3) == (None, True)
    for n in range(4, 20):
        courses.sent(first, 11.0)
        courses.confirm(n, 2, 11.0)
    assert len(courses._sent) == 1
    courses.sent(first, 12.0)
    assert not courses.confirm(0, 20, 20.0) and courses.way == LONG_WAY and courses._told is courses._first


@pytest.mark.parametrize(
    ("course", "clock", "why"),
    [
        (Commitment(motion(1), 100.0, np.zeros(6)), 100.4, ""),
        (Commitment(motion(1), 98.0, np.zeros(6)), 100.4, "has ended"),
        (Commitment(motion(1, ARM.home + 0.0018), 100.0, np.zeros(6)), 100.4, ""),
        (Commitment(motion(1, ARM.home + 0.0022), 100.0, np.zeros(6)), 100.4, "jump by 2.2 mrad"),
        (Commitment(motion(2, motion(1).q[-1]), 103.0, np.zeros(6)), 102.9, ""),
        (Commitment(motion(2, motion(1).q[-1] + 0.02), 103.0, np.zeros(6)), 102.9, ""),
        (Commitment(motion(2, motion(1).q[-1] + 0.02), 103.0, np.zeros(6)), 102.95, "turn by 46 rad"),
        (Commitment(motion(2, motion(1).q[-1] + 0.5), 103.0, np.zeros(6)), 102.9, "turn by 290 rad"),
        (Commitment(Trajectory.at_rest(motion(1).sample(0.4)[0] + 0.08, 0.25), 100.65, np.zeros(2)), 100.4, "turn by"),
        (Commitment(motion(2, motion(1).q[-1]), 112.8, np.zeros(6)), 102.9, ""),
        (Commitment(motion(2, motion(1).q[-1]), 113.0, np.zeros(6)), 102.9, "begins 10.1 s ahead"),
        (Commitment(Trajectory.at_rest(ARM.home, 0.25), 100.02 + 0.25, np.zeros(2)), 100.02, ""),
        (Commitment(Trajectory.at_rest(ARM.home, 0.25), 100.02 + 0.25, np.zeros(2)), 100.2, "turn by"),
    ],
)
def test_what_comes_too_late_is_found_out(course: Commitment, clock: float, why: str) -> None:
    """To a controller that plays the first motion from 100 s to 101.2 s."""
    dispatch = Dispatch()
    assert "no joint states" in dispatch.refuses(Commitment(motion(1), 100.0, np.zeros(6)), 0, 0.0)
    dispatch.heard(100.0, 0.0, ARM.home)
    assert not dispatch.refuses(Commitment(motion(1), 100.0, np.zeros(6)), 1, 0.0)
    dispatch.heard(100.0, 0.0, ARM.home + 0.1)
    said = dispatch.refuses(course, 2, clock - 100.0)
    assert why in said and bool(said) == bool(why)
    assert dispatch.known == ((1, 2) if why else (2, 0))


def test_the_first_course_is_one_from_where_the_arm_rests() -> None:
    """What begins under way is the stop of a motion that did not go out."""
    dispatch, out = Dispatch(), motion(1)
    dispatch.heard(99.9, 0.0, ARM.home)
    assert "jump" in dispatch.refuses(Commitment(out, 99.6, np.zeros(6)), 1, 0.1)
    under_way = Commitment(messages.quantise_trajectory(out.tail(0.4)), 100.0, np.zeros(len(out.tail(0.4).times)))
    assert dispatch.refuses(under_way, 2, 0.05)
    assert not dispatch.refuses(Commitment(out, 100.0, np.zeros(6)), 3, 0.05)
    dispatch.heard(3.0, 0.2, ARM.home)
    assert not dispatch.refuses(Commitment(out, 3.1, np.zeros(6)), 4, 0.2), "its clock has begun anew, and so has it"


def test_a_reference_that_would_only_change_its_speed_is_found_out() -> None:
    dispatch, out = Dispatch(), motion(1)
    dispatch.heard(0.0, 0.0, ARM.home)
    assert not dispatch.refuses(Commitment(out, 0.0, np.zeros(6)), 1, 0.0)
    q, v, a = out.sample(0.4)
    assert np.abs(v).max() > 0.8
    other = FAMILY.trajectory(q, 0.2 * v, a, np.zeros(7))
    assert "jump by 0.0 mrad" in dispatch.refuses(Commitment(other, 0.4, np.zeros(len(other.times))), 2, 0.4)
    aside = Commitment(Trajectory.at_rest(q, 0.2), 0.6, np.zeros(2))
    assert "turn by" in dispatch.refuses(aside, 3, 0.4), "from its speed, not from the distance"


def test_rest_is_not_sent_and_motion_begins_at_its_own_time() -> None:
    still = Commitment(Trajectory.at_rest(ARM.home, 0.5), 3.0, np.zeros(2))
    assert without_rest(still, 3.1) is None
    gripping = Commitment(Trajectory.at_rest(ARM.home, 0.5), 3.0, np.array([0.08, 0.02]))
    assert without_rest(gripping, 3.1) is gripping, "fingers move"
    waiting = Commitment(Trajectory.at_rest(ARM.home, 0.5).then(motion(1)), 3.0, np.zeros(7))
    cut = without_rest(waiting, 3.1)
    assert cut is not None and cut.start == 3.5 and np.allclose(cut.trajectory.times, motion(1).times, atol=1e-12)
    fingers = fingers_to_msg(gripping, "fr3_finger_joint1")
    assert [p.positions[0] for p in fingers.points] == [0.04, 0.01]


def test_the_reference_of_another_motion_is_found_out() -> None:
    reference = Reference(JOINTS)
    course = Commitment(motion(3), 20.0, np.zeros(6))
    reference.expect(course)
    names = [*reversed(JOINTS), "fr3_finger_joint1"]
    times = 20.0 + np.arange(0.01, 1.2, 0.01)

    def said(t: float, other: float = 0.0) -> str:
        return reference.fault(t, names, np.append(course.state_at(t)[0][::-1] + other, 0.04))

    assert not any(said(t) for t in times)
    assert not any(said(t, 0.003) for t in times[:9]), "a few late states are no fault"
    assert "off the certified motion" in said(times[9], 0.003)
    assert "expected fr3_joint1" in reference.fault(21.0, names[1:], np.zeros(7))


# ---- the fast loop's side of the sockets ------------------------------------------------------------------------------------


@pytest.fixture
def ends() -> tuple[Ros2Control, socket.socket]:
    far, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    options = options_of(loop_config(ARM, 0.002, Ros2ControlOptions(connect_timeout=0.3, silence=0.05)))
    return Ros2Control(options, near), far


def test_the_controllers_clock_paces_the_loop(ends: tuple[Ros2Control, socket.socket]) -> None:
    backend, far = ends
    assert isinstance(backend, PacedBackend) and isinstance(backend, FollowingBackend)
    with pytest.raises(BackendError, match="no joint states on joint_states"):
        backend.connect(0.0)
    far.send(encode_state(Heard(100.0, ARM.home, np.zeros(7), 0.08, time.monotonic())))
    assert np.array_equal(backend.connect(5.0).q, ARM.home)
    far.send(encode_state(Heard(100.01, ARM.home + 0.1, np.zeros(7), 0.08, time.monotonic())))
    far.send(encode_state(Heard(100.02, ARM.home + 0.2, np.zeros(7), 0.08, time.monotonic())))
    assert backend.wait() == pytest.approx(0.02) and backend.read(5.02) is None
    far.send(encode_state(Heard(100.03, ARM.home + 0.3, np.zeros(7), 0.08, time.monotonic())))
    backend.wait()
    before = backend.read(5.03)
    assert before is not None and before.q[0] == pytest.approx(0.2) and before.stamp == 5.02, "of the moment of the last command"
    far.send(encode_state(Heard(100.015, ARM.home, np.zeros(7), 0.08, time.monotonic())))  # overtaken: not taken
    backend.wait()
    assert backend.read(5.04) is None
    assert backend.wait() < 1e-5, "time stands still while nothing is measured"
    with pytest.raises(BackendError, match="no joint states for"):
        for _ in range(20):
            backend.wait()
            backend.read(6.0)
    assert "no joint states" in backend.report().text
    far.send(encode_state(Heard(101.0, ARM.home, np.zeros(7), 0.08, time.monotonic())))
    assert np.array_equal(backend.recover(7.0).q, ARM.home)
    assert backend.follow(Commitment(motion(1), 7.5, np.zeros(6)), 7.0)
    course = decode_course(far.recv(1 << 20))[0]
    assert course.start == pytest.approx(101.5) and np.array_equal(course.trajectory.q[:-1], motion(1).q)
    assert course.end == pytest.approx(101.5 + motion(1).duration + HOLD), "its rest is held"
    assert np.array_equal(course.trajectory.q[-1], motion(1).q[-1])


def test_a_clock_that_runs_ahead_of_this_machines_is_allowed_for(ends: tuple[Ros2Control, socket.socket]) -> None:
    """A simulation faster than real time goes on faster while word is on its way."""
    backend, far = ends
    now = time.monotonic()
    for n in range(60):
        far.send(encode_state(Heard(100.0 + 0.02 * n, ARM.home, np.zeros(7), 0.08, now + 0.01 * n)))
        if n == 0:
            backend.connect(5.0)
        backend.wait()
    assert backend._courses.pace == pytest.approx(2.0) and backend.ahead() == pytest.approx(2.0 * WAY)
    told = Commitment(motion(1), 100.8, np.zeros(6))
    backend._courses.sent(told, now)
    kept, _ = backend._courses.next(Commitment(Trajectory.at_rest(ARM.home, 0.1), 5.0, np.zeros(2)), 5.0, 101.2)
    assert kept is not None
    for t in (101.2 + 1.9 * WAY, 101.2 + 4.0 * WAY):
        same = np.abs(kept.state_at(t)[1] - told.state_at(t)[1]).max() < 1e-3
        assert same == (t < 101.2 + 2.0 * WAY)


def test_a_malformed_state_does_not_end_the_loop(ends: tuple[Ros2Control, socket.socket]) -> None:
    backend, far = ends
    far.send(encode_state(Heard(100.0, ARM.home, np.zeros(7), 0.08, time.monotonic())))
    backend.connect(5.0)
    far.send(b"nonsense")
    far.send(encode_state(Heard(100.01, ARM.home, np.zeros(7), 0.08, time.monotonic())))
    assert backend.wait() == pytest.approx(0.01)


def test_a_motion_that_may_have_begun_while_the_controller_is_not_heard_is_braked(
    ends: tuple[Ros2Control, socket.socket],
) -> None:
    """From where it can be by then; what has surely not begun is taken back."""
    backend, far = ends
    far.send(encode_state(Heard(100.0, ARM.home, np.zeros(7), 0.08, time.monotonic())))
    backend.connect(5.0)
    assert backend.follow(Commitment(motion(1), 5.05, np.zeros(6)), 5.0)
    told = decode_course(far.recv(1 << 20))[0]
    assert told.start == pytest.approx(100.05)
    with pytest.raises(BackendError, match="no joint states for"):
        for _ in range(20):
            backend.wait()
            backend.read(5.0)
    still = Commitment(Trajectory.at_rest(ARM.home, 0.1), 5.0, np.zeros(2))
    assert backend._heard is not None
    backend._heard = backend._heard._replace(sent=time.monotonic() - 0.6)
    assert not backend.follow(still, 5.0)
    kept = decode_course(far.recv(1 << 20))[0]
    assert brakes(kept, told, 100.6) and not backend.follow(still, 5.0)
    backend._courses = courses_of(Commitment(motion(1), 100.5, np.zeros(6)))
    far.send(encode_state(Heard(100.02, ARM.home, np.zeros(7), 0.08, time.monotonic())))
    backend.recover(5.0)
    assert backend.follow(still, 5.0)
    rest = decode_course(far.recv(1 << 20))[0]
    assert rest.start == pytest.approx(100.02 + HOLD, abs=0.05) and np.array_equal(rest.trajectory.q, np.stack([ARM.home] * 2))


def announced(ends: tuple[Ros2Control, socket.socket]) -> tuple[Ros2Control, socket.socket]:
    """Connected at 100.0 s of the controller's clock; it is told of a motion half a second later."""
    backend, far = ends
    far.send(encode_state(Heard(100.0, ARM.home, np.zeros(7), 0.08, time.monotonic())))
    backend.connect(5.0)
    assert backend.follow(Commitment(motion(1), 5.5, np.zeros(6)), 5.0)
    far.recv(1 << 20)
    return backend, far


def test_a_course_that_could_not_be_handed_over_is_sent_again(ends: tuple[Ros2Control, socket.socket]) -> None:
    backend, far = announced(ends)
    far.close()
    still = Commitment(Trajectory.at_rest(ARM.home, 0.1), 5.0, np.zeros(2))
    for _ in range(2):  # nor is it taken for sent
        with pytest.raises(BackendError, match="could not be handed"):
            backend.follow(still, 5.0)


def test_once_it_is_heard_again_the_controller_is_where_its_clock_says(ends: tuple[Ros2Control, socket.socket]) -> None:
    backend, far = announced(ends)
    far.send(encode_state(Heard(100.01, ARM.home, np.zeros(7), 0.08, time.monotonic())))
    assert backend.wait() == pytest.approx(0.01)
    assert backend.follow(Commitment(Trajectory.at_rest(ARM.home, 0.1), 5.0, np.zeros(2)), 5.01)
    assert decode_course(far.recv(1 << 20))[0].start == pytest.approx(100.01 + HOLD, abs=0.05), "the motion has surely not begun"


def test_after_a_stop_the_command_is_held_only_where_the_arm_is_within_the_tracking_bound(
    ends: tuple[Ros2Control, socket.socket],
) -> None:
    backend, far = ends
    assert 0.0 < options_of(loop_config(ARM, 0.004, Ros2ControlOptions())).near < 0.004, "or the next cycle would stop the arm"
    far.send(encode_state(Heard(100.0, ARM.home, np.zeros(7), 0.08, time.monotonic())))
    backend.connect(5.0)
    for n, (away, held) in enumerate([(0.5, True), (1.5, False)]):
        commanded = ARM.home + away * backend.options.near
        backend.write(Command(commanded, np.zeros(7), np.zeros(7), 0.08, Mode.HEAD), 5.0)
        far.send(encode_state(Heard(101.0 + n, ARM.home, np.zeros(7), 0.08, time.monotonic())))
        assert np.array_equal(backend.recover(6.0).q, commanded if held else ARM.home)


def options_of(config: LoopConfig) -> Ros2ControlOptions:
    return from_dict(Ros2ControlOptions, config.backend_options, "ros2_control")


def test_malformed_states_are_errors() -> None:
    good = encode_state(Heard(1.0, ARM.home, np.zeros(7), 0.08, time.monotonic()))
    assert decode_state(good, 7).stamp == 1.0
    for bad in (good[:-8], encode_state(Heard(float("nan"), ARM.home, np.zeros(7), 0.08, time.monotonic()))):
        with pytest.raises(InputError, match="expected"):
            decode_state(bad, 7)
