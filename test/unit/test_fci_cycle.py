"""The backend for a real arm cycle by cycle, against a stand-in for libfranka's robot that does what the interface says."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tandem.core.types import Proposal
from tandem.execution.backends.base import BackendError, BackendState
from tandem.execution.backends.fci import NEAR, FciBackend, make
from tandem.execution.executor import Executor
from tandem.execution.fci.config import INTERFACES
from tandem.execution.fci.setup import ACCELERATION, loop_config
from tandem.execution.types import ArmState, CertifiedTrajectory, Command, Mode, StopReason
from tandem.robots.model import load_arm
from tandem.safety.backup import BackupFamily

pylibfranka = pytest.importorskip("pylibfranka")
PERIOD = 1e-3
ARM = load_arm("fr3")


class Robot:
    """An arm that follows its reference exactly, and goes on with its last acceleration where nothing is sent.

    Attributes:
        q: (7,) where it is. reference: (3, 7) position, velocity, acceleration that it commanded itself last, by backward
            differences. sent: everything that was sent.
    """

    def __init__(self) -> None:
        self.q = ARM.home.copy()
        self.reference = np.stack([self.q, np.zeros(7), np.zeros(7)])
        self.speed = np.zeros(7)
        self.ticks, self.mode, self.errors, self.engaged = 0, "Idle", False, 0
        self.sent: list[Any] = []
        self.clears = True  #: whether automatic_error_recovery helps
        self._message: Any = None
        self._raise: Exception | None = None
        self.recovered = 0

    def _state(self) -> Any:
        stamp = PERIOD * self.ticks
        return SimpleNamespace(
            robot_mode=SimpleNamespace(name=self.mode), q=self.q.tolist(), dq=self.speed.tolist(), time=SimpleNamespace(
                to_sec=lambda: stamp), q_d=self.reference[0].tolist(), dq_d=self.reference[1].tolist(),
            ddq_d=self.reference[2].tolist(), control_command_success_rate=1.0,
            current_errors='["joint_reflex"]' if self.errors else "",
        )

    def read_once(self) -> Any:
        self.ticks += 1
        return self._state()

    def readOnce(self) -> tuple[Any, None]:
        if self._raise is not None:
            error, self._raise = self._raise, None
            raise error
        self.ticks += 1
        if self.ticks > self.engaged + 1:  # the cycle that ends here
            self._go_on()
        return self._state(), None

    def _go_on(self) -> None:
        (q, v, a), sent = self.reference, self._message
        self._message = None
        if isinstance(sent, pylibfranka.JointPositions):
            new = np.array(sent.q)
        elif isinstance(sent, pylibfranka.JointVelocities):
            new = q + PERIOD * np.array(sent.dq)
        else:
            new = q + PERIOD * (v + PERIOD * a)
        velocity = (new - q) / PERIOD
        self.reference = np.stack([new, velocity, (velocity - v) / PERIOD])
        self.q = new.copy()

    def writeOnce(self, message: Any) -> None:
        self._message = message
        self.sent.append(message)

    def _start(self, *_: Any) -> Robot:
        self.mode, self.engaged = "Move", self.ticks
        self.reference = np.stack([self.reference[0], np.zeros(7), np.zeros(7)])
        return self

    start_joint_position_control = start_joint_velocity_control = start_torque_control = _start

    def automatic_error_recovery(self) -> None:
        self.recovered += 1
        if self.clears:
            self.mode, self.errors = "Idle", False

    def reflex(self) -> None:
        self.mode, self.errors = "Reflex", True
        self._raise = pylibfranka.ControlException("libfranka: Move command aborted: motion aborted by reflex!")


class Stand:
    """Backend and executor, in the order of the fast loop."""

    def __init__(self, interface: str) -> None:
        self.robot = Robot()
        self.backend: FciBackend = make({"ip": "127.0.0.1", "interface": interface, "gripper": False, "answer_within": 0.5})
        self.backend._open = self._open  # type: ignore[method-assign]
        self.state: BackendState = self.backend.connect(0.0)
        config = loop_config(ARM, 0.004, {"ip": "127.0.0.1"}).executor
        self.executor = Executor(config, self.state.q, 0.0, self.state.width)
        self.interface, self.now = interface, 0.0
        self.texts: list[str] = []

    def _open(self) -> None:
        self.backend._robot = self.robot
        mass, coriolis = np.eye(7).ravel().tolist(), [0.0] * 7
        self.backend._model = SimpleNamespace(mass=lambda _: mass, coriolis=lambda _: coriolis)
        self.backend._read_state()

    def cycle(self, *, held_up: bool = False) -> Command:
        self.now += self.backend.wait()
        state = None
        try:
            state = self.backend.read(self.now)
        except BackendError as error:
            self._failed(error)
        self.state = state or self.state
        command = self.executor.tick(self.now, *((None,) if state is None else (state.q, state.v, state.stamp)))
        if held_up:
            self.backend._wall -= 1.0
        try:
            self.backend.write(command, self.now)
        except BackendError as error:
            self._failed(error)
        if self.interface == "torque" and self.backend._control is not None:  # its own controller would, nearly
            self.robot.reference = np.stack([command.q, command.v, command.a])
            self.robot.q = command.q.copy()
        return command

    def _failed(self, error: BackendError) -> None:
        self.texts.append(str(error))
        if error.halted:
            self.executor.halt(StopReason.BACKEND, str(error), self.state.q)
        else:
            self.executor.stop(StopReason.BACKEND, str(error))

    def cycles(self, count: int) -> None:
        for _ in range(count):
            self.cycle()

    def move(self, k: float = 2.0, joint: int = 3) -> None:
        """Commit to a motion of 1 s from here."""
        peak = np.zeros(7)
        peak[joint] = k
        here = self.executor.commitment().trajectory.q[-1]
        motion = BackupFamily().trajectory(here, np.zeros(7), np.zeros(7), peak)
        proposal = Proposal(motion, np.zeros(len(motion.times)), round(self.now + 0.05, 3), 0.5)
        result = self.executor.submit(CertifiedTrajectory(proposal, "", ""), self.now)
        assert result.accepted, result

    def resume(self) -> bool:
        state = self.backend.recover(self.now)
        self.state = state
        return self.executor.resume(self.now, state.q, state.v).accepted


def _stopped(interface: str) -> Stand:
    """Stopped by an operator in the middle of a motion, and at rest."""
    s = Stand(interface)
    s.cycles(5)
    s.move()
    s.cycles(400)
    s.executor.stop(StopReason.OPERATOR, "operator")
    s.cycles(1500)
    return s


@pytest.mark.parametrize("interface", INTERFACES)
def test_after_a_stop_the_arm_goes_on_from_where_it_stands(interface: str) -> None:
    s = _stopped(interface)
    assert s.executor.mode is Mode.STOPPED and np.abs(s.robot.q - ARM.home).max() > 0.05
    there = s.robot.q.copy()
    held = s.backend.recover(s.now)
    np.testing.assert_allclose(held.q, there, atol=1e-9)
    assert s.resume()
    for _ in range(100):
        np.testing.assert_allclose(s.cycle().q, there, atol=1e-9)
    assert s.executor.mode < Mode.STOPPING
    s.move()
    s.cycles(100)
    assert s.executor.mode < Mode.STOPPING and np.abs(s.robot.q - there).max() > 1e-4


@pytest.mark.parametrize("interface", INTERFACES)
def test_an_arm_that_something_holds_away_from_its_stop_is_not_resumed(interface: str) -> None:
    s = _stopped(interface)
    s.robot.q[3] += 2.0 * NEAR
    s.backend._state.q[3] += 2.0 * NEAR
    with pytest.raises(BackendError, match=r"held 0\.020 rad from where it was told to stop"):
        s.backend.recover(s.now)
    s.robot.q[3] -= 2.0 * NEAR
    s.cycles(2)
    assert s.resume()


@pytest.mark.parametrize("interface", ["position", "velocity"])
@pytest.mark.parametrize("at", [0, 120, 250, 333])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_an_answer_that_is_held_up_is_not_sent_and_counts_as_lost(interface: str, at: int, count: int) -> None:
    s = Stand(interface)
    s.cycles(60)
    s.move()
    s.cycles(60 + at)
    path, sent = [], len(s.robot.sent)
    for i in range(1700):
        command = s.cycle(held_up=i < count)
        if i < count:
            assert len(s.robot.sent) == sent, "an answer to a state that is over is not sent"
        path.append(s.robot.reference[0].copy())
    assert s.backend.report().lost_cycles == count and s.executor.mode < Mode.STOPPING
    np.testing.assert_allclose(s.robot.reference[0], command.q, atol=1e-9, err_msg="what is commanded ends where it is certified")
    acceleration = np.diff(np.array(path), 2, axis=0) / PERIOD**2
    assert np.abs(acceleration).max() <= ACCELERATION


def test_control_is_taken_only_where_something_is_to_be_followed() -> None:
    s = Stand("position")
    s.executor.stop(StopReason.OPERATOR, "before anything has moved")
    s.cycles(50)
    assert s.robot.mode == "Idle" and not s.robot.sent
    assert s.resume()
    s.cycles(5)
    assert s.robot.mode == "Move"


@pytest.mark.parametrize("interface", INTERFACES)
def test_after_a_reflex_nothing_is_sent_until_somebody_resumes(interface: str) -> None:
    s = Stand(interface)
    s.cycles(5)
    s.move()
    s.cycles(300)
    s.robot.reflex()
    s.cycles(1)
    sent = len(s.robot.sent)
    s.robot.mode, s.robot.errors = "Idle", False  # somebody clears it in Desk
    s.cycles(300)
    assert len(s.robot.sent) == sent and s.executor.mode in (Mode.STOPPED, Mode.FAULT) and s.robot.mode == "Idle"
    assert s.resume()
    s.cycles(5)
    assert s.robot.mode == "Move" and len(s.robot.sent) > sent


def _broken(change: Callable[[Robot], None]) -> Stand:
    """An arm after a reflex, changed."""
    s = Stand("position")
    s.cycles(5)
    s.robot.reflex()
    s.cycles(3)
    change(s.robot)
    return s


def test_recovery_is_refused_while_the_arm_moves() -> None:
    s = _broken(lambda r: setattr(r, "speed", np.full(7, 0.1)))
    with pytest.raises(BackendError, match=r"still moves at 0\.\d+ rad/s"):
        s.backend.recover(s.now)
    s.robot.speed = np.zeros(7)
    s.cycles(200)
    assert s.resume()


def test_recovery_is_refused_while_errors_are_left() -> None:
    s = _broken(lambda r: setattr(r, "clears", False))
    with pytest.raises(BackendError, match="joint_reflex"):
        s.backend.recover(s.now)
    assert s.robot.recovered == 1
    s.cycles(50)
    assert s.robot.mode != "Move"


def test_errors_that_outlast_the_mode_are_errors() -> None:
    def leave(robot: Robot) -> None:
        robot.clears, robot.mode = False, "Idle"

    s = _broken(leave)
    with pytest.raises(BackendError, match="joint_reflex"):
        s.backend.recover(s.now)


@pytest.mark.parametrize(("mode", "state"), [("UserStopped", ArmState.USER_STOPPED), ("Guiding", ArmState.GUIDING)])
def test_recovery_is_refused_while_a_person_has_the_arm(mode: str, state: ArmState) -> None:
    s = _broken(lambda r: setattr(r, "mode", mode))
    with pytest.raises(BackendError):
        s.backend.recover(s.now)
    assert s.robot.recovered == 0 and s.backend.report().state is state


def test_where_the_reference_is_far_from_the_arm_the_arm_is_held() -> None:
    for off, expected in ((0.5 * NEAR, 0.0), (2.0 * NEAR, 1.0)):
        s = _broken(lambda r, off=off: r.q.__setitem__(2, r.q[2] + off))  # type: ignore[misc]
        held = s.backend.recover(s.now)
        assert held.q[2] - ARM.home[2] == pytest.approx(expected * off, abs=1e-12)


def test_torques_change_no_faster_than_the_interface_allows() -> None:
    s = Stand("torque")
    s.cycles(5)
    s.robot.q = ARM.home + 0.003  # within the tracking bound: the stiffness asks for a step
    s.backend._take(s.robot._state())
    before = np.array(s.robot.sent[-1].tau_J)
    jump = Command(*(getattr(s.executor.command, f) for f in s.executor.command.__slots__))
    s.backend.write(jump, s.now)
    step = np.abs(np.array(s.robot.sent[-1].tau_J) - before)
    assert 0.5 < step.max() <= 1.0
