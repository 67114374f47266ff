"""A Franka arm over the Franka Control Interface, by libfranka. Factory: ``tandem.execution.backends.fci:make``.

The arm keeps the time: :meth:`FciBackend.wait` blocks until its next state, and the loop ticks once for each of its cycles. What
is sent is what the executor plays. Nothing filters it: the calls used here (``writeOnce``) have neither rate limiter nor
low-pass. After lost cycles the way back onto the trajectory is smoothed where a jump would be a discontinuity, and counted
(:mod:`tandem.execution.fci.rejoin`).

pylibfranka holds Python's lock while it waits, so this needs a process without other work (the fast loop), the gripper another.
franka-rs, which does not, plans its own way to targets: what was certified could not be played with it.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.core.config import from_dict
from tandem.core.errors import ConfigError
from tandem.execution.backends.base import BackendError, BackendState, GripperTarget
from tandem.execution.fci import details
from tandem.execution.fci.config import JOINTS, FciOptions, load_profile
from tandem.execution.fci.faults import STATES, STEPS, connection_text, reflex_text
from tandem.execution.fci.gripper import Gripper
from tandem.execution.fci.rejoin import PERIOD, Rejoin
from tandem.execution.types import ArmReport, ArmState, Command, Mode

Array = NDArray[np.float64]

PORT = 1337
#: fastest joint at which control is taken over [rad/s]
AT_REST = 0.02
#: share of a new measurement in the velocities by which rest is judged: about 20 ms, an encoder's noise is not motion
SMOOTHING = 0.05
#: where the arm's reference is further than this from where it is, the measured joints are held instead [rad]
NEAR = 0.01
#: torque rate limit with room for rounding [Nm/s] (libfranka, kMaxTorqueRate 1000)
TORQUE_RATE = 999.0
#: states looked at before control is taken again
SETTLING = 60
#: what libfranka says when a safety function (user stop, for one) has ended a motion
SAFETY_FUNCTION = "safety function"
#: cycles of a motion before its success rate counts
SETTLED = 200
#: cycles between looks at the gripper; least change of width that is sent on [m]
GRIPPER_EVERY, GRIPPER_STEP = 20, 0.002
_log = logging.getLogger(__name__)


class FciBackend:
    """One arm with its hand. Raises BackendError from all that talks to it, with the step to take."""

    joints = JOINTS

    def __init__(self, options: FciOptions) -> None:
        try:
            import pylibfranka
        except ImportError as error:
            text = f"backend fci: {error}; install pylibfranka (docker/realtime.requirements.txt names the version)"
            raise ConfigError(text) from error
        self._lib: Any = pylibfranka
        self.options = options
        self._profile = load_profile(options.profile)
        self._robot: Any = None
        self._control: Any = None
        self._model: Any = None
        self._state: Any = None
        self._speed: Array = np.zeros(JOINTS)  #: measured joint velocities without their noise [rad/s]
        self._ready = False  #: whether control may be taken as soon as there is something to follow
        self._armed = False  #: whether it is to be taken in the next cycle
        self._clock = 0.0  #: the arm's clock at the last state [s]
        self._elapsed = PERIOD
        self._in_motion = 0  #: cycles since control was taken
        self._wall = time.monotonic()
        self._fault: BackendError | None = None  #: to be raised once
        self._mode, self._text = ArmState.DISCONNECTED, ""
        self._rejoin = Rejoin(JOINTS)
        self._sent: Array = np.zeros(JOINTS)  #: position commanded last, or its integral
        self._torque: Array = np.zeros(JOINTS)
        self._unanswered = False  #: the last state came, but the answer would have been too late
        self._lost = self._reflexes = self._recoveries = 0
        self._rate = 0.0
        self._gripper: Gripper | None = None
        self._target = GripperTarget()
        self._width_sent: float | None = None
        self._cycle = 0

    # ---- connection -------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Connect and set what is set once a connection."""
        ip, lib = self.options.ip, self._lib
        if not ip:
            raise BackendError("robot_ip is not given; accepted: the IP address of the arm's controller")
        self._answers(ip)
        _log.info("connected to %s, waiting for its answer: FCI serves one program at a time, is another one using the arm?", ip)
        config = lib.RealtimeConfig.kEnforce if self.options.realtime else lib.RealtimeConfig.kIgnore
        try:
            self._robot = lib.Robot(ip, config)
            self._configure()
            self._read_state()
        except BackendError:
            self._drop()
            raise
        except Exception as error:  # libfranka raises plain RuntimeErrors too
            self._drop()
            raise BackendError(connection_text(ip, str(error)), halted=True) from error

    def _answers(self, ip: str) -> None:
        """libfranka waits for minutes where nobody answers: find that out before."""
        try:
            with socket.create_connection((ip, PORT), timeout=self.options.connect_timeout):
                return
        except TimeoutError as error:
            text = f"nobody answers at {ip}:{PORT} within {self.options.connect_timeout:.0f} s; check robot_ip, cable and power"
            raise BackendError(text, halted=True) from error
        except socket.gaierror as error:
            raise BackendError(connection_text(ip, "not found"), halted=True) from error
        except OSError as error:
            raise BackendError(connection_text(ip, str(error)), halted=True) from error

    def _configure(self) -> None:
        p, load, robot = self._profile, self.options.load, self._robot
        robot.set_collision_behavior(p.torque_lower, p.torque_upper, p.force_lower, p.force_upper)
        robot.set_joint_impedance(p.joint_impedance)
        robot.set_load(load.mass, load.centre, load.inertia)
        if self.options.interface == "torque":
            self._model = robot.load_model()

    def _drop(self) -> None:
        self._control = self._robot = self._model = None

    def connect(self, now: float) -> BackendState:
        """Connect. An arm that is not ready (reflex, user stop, guiding) is connected too; the first cycle tells why it waits."""
        self._open()
        if self.options.gripper:
            self._gripper = Gripper(self.options.ip)
            limit = time.monotonic() + self.options.gripper_timeout
            while not self._gripper.ready and not self._gripper.fault and time.monotonic() < limit:
                time.sleep(0.01)
                self._gripper.poll()
            if not self._gripper.ready:
                text = self._gripper.fault or "it does not answer"
                self.close()
                raise BackendError(f"gripper: {text.removeprefix('gripper: ')}; connect the hand, or start with gripper:=false")
            if self.options.home_gripper:
                self._gripper.ask("homing")
        if self._mode is ArmState.IDLE:
            self._ready, self._text = True, ""
        else:
            self._fail(self._mode, self._why())
        return self._held(now)

    def _why(self) -> str:
        errors = self._state.current_errors
        return reflex_text(str(errors)) if self._mode is ArmState.REFLEX or bool(errors) else STEPS[self._mode]

    def _read_state(self) -> None:
        self._take(self._robot.read_once())

    def _take(self, state: Any) -> None:
        self._state = state
        mode = STATES.get(state.robot_mode.name, ArmState.LOCKED)
        if mode is not self._mode and self._control is None and not self._ready and mode in STEPS:
            self._text = STEPS[mode]  # the operator has done something
        self._mode = mode
        self._speed = self._speed + SMOOTHING * (np.array(state.dq) - self._speed)
        self._rate = state.control_command_success_rate

    def _held(self, now: float) -> BackendState:
        """Where the arm holds itself: its own reference, which the first command must equal."""
        measured, reference = np.array(self._state.q), np.array(self._state.q_d)
        hold = reference if np.abs(reference - measured).max() <= NEAR else measured
        self._sent = hold.copy()
        return BackendState(hold, self._speed, self._width(), now)

    # ---- the cycle --------------------------------------------------------------------------------------------------------

    def wait(self) -> float:
        """Block until the arm's next state [s]; at most about a second when its controller is lost."""
        self._elapsed = PERIOD
        fresh = False
        if self._robot is None:
            time.sleep(PERIOD)
            now = time.monotonic()
            self._elapsed, self._wall = min(max(now - self._wall, 1e-4), 0.1), now
            return self._elapsed
        try:
            if self._armed and self._control is None:
                self._engage()
                fresh = True
            state = self._control.readOnce()[0] if self._control is not None else self._robot.read_once()
            self._take(state)
            clock = state.time.to_sec()
            if not fresh and self._clock:
                self._elapsed = max(clock - self._clock, 1e-4)
            self._clock = clock
            self._after_reading()
        except Exception as error:
            self._lose(error)
        self._wall = time.monotonic()
        return self._elapsed

    def _engage(self) -> None:
        mode, robot = self._lib.ControllerMode.JointImpedance, self._robot
        if self.options.interface == "position":
            self._control = robot.start_joint_position_control(mode)
        elif self.options.interface == "velocity":
            self._control = robot.start_joint_velocity_control(mode)
        else:
            self._control = robot.start_torque_control()
            self._torque = np.zeros(JOINTS)
        self._rejoin.drop()
        self._in_motion, self._unanswered = 0, False

    def _after_reading(self) -> None:
        """Watch what the new state says; called with each."""
        if self._control is None:
            if self._ready and self._mode is not ArmState.IDLE:
                self._fail(self._mode, self._why())
            return
        gap = round(self._elapsed / PERIOD) - 1
        self._in_motion += 1
        if gap > 0 and self._in_motion > 1:
            self._lost += gap
        if self._in_motion > SETTLED and 0.0 < self._rate < self.options.min_success_rate:
            text = f"only {self._rate:.0%} of the last cycles were answered in time; at least {self.options.min_success_rate:.0%}"
            self._fault = self._fault or BackendError(f"{text}: real-time kernel, CPU isolation and network are to be checked")
            self._in_motion = 0  # counts anew after the stop

    def read(self, now: float) -> BackendState | None:
        """The state that :meth:`wait` brought."""
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault
        if self._robot is None or self._state is None:
            return None
        return BackendState(np.array(self._state.q), np.array(self._state.dq), self._width(), now)

    def write(self, command: Command, now: float) -> None:
        """Send one cycle's command; nothing while the arm follows none."""
        self._drive_gripper(command.width)
        if self._control is None:
            self._armed = self._ready and command.mode < Mode.STOPPING
            return
        if time.monotonic() - self._wall > self.options.answer_within:
            self._unanswered = True  # held up in between: the arm goes on by itself, as in a cycle that was lost
            self._lost += 1
            return
        try:
            self._control.writeOnce(self._message(command))
        except Exception as error:
            self._lose(error)
            fault, self._fault = self._fault, None
            if fault is not None:
                raise fault from error

    def _message(self, command: Command) -> Any:
        gap, self._unanswered = self._elapsed > 1.5 * PERIOD or self._unanswered, False
        if self.options.interface == "torque":
            self._sent = command.q
            return self._torques(command)
        if gap:
            s = self._state
            reference = (np.array(s.q_d), np.array(s.dq_d), np.array(s.ddq_d))
            if not self._rejoin.after_gap(reference, (command.q, command.v, command.a)):
                raise BackendError(f"{self._elapsed * 1e3:.0f} ms without commands: too far from the certified motion to go on")
            self._sent = reference[0]
        q = command.q + self._rejoin.advance(PERIOD) if self._rejoin.active else command.q
        before, self._sent = self._sent, q
        if self.options.interface == "position":
            return self._lib.JointPositions(q.tolist())
        # the mean velocity over the cycle: its integral, which the arm forms, is the certified position exactly
        return self._lib.JointVelocities(((q - before) / PERIOD).tolist())

    def _torques(self, command: Command) -> Any:
        """Joint impedance about the certified motion with the arm's dynamics; gravity is the arm's own business.

        ``tau = M(q) a + c(q, dq) + K (q_c - q) + D (v_c - dq)``, each torque changing by no more than the interface allows.
        Mass matrix and Coriolis forces are those of the model that the arm serves, by pinocchio within libfranka.
        """
        s, p = self._state, self._profile
        mass = np.reshape(self._model.mass(s), (JOINTS, JOINTS))
        error, slip = command.q - np.array(s.q), command.v - np.array(s.dq)
        tau = mass @ command.a + np.array(self._model.coriolis(s))
        tau += np.asarray(p.torque_stiffness) * error + np.asarray(p.torque_damping) * slip
        step = TORQUE_RATE * PERIOD
        self._torque = self._torque + np.clip(tau - self._torque, -step, step)
        return self._lib.Torques(self._torque.tolist())

    # ---- faults -----------------------------------------------------------------------------------------------------------

    def _fail(self, state: ArmState, text: str) -> None:
        """The arm follows nothing any more."""
        self._control, self._ready, self._armed = None, False, False
        self._mode, self._text = state, text
        self._fault = BackendError(text, halted=True)
        if state is ArmState.REFLEX:
            self._reflexes += 1
        self._rejoin.drop()
        _log.error("%s", text)

    def _lose(self, error: Exception) -> None:
        """libfranka raised: find out what has become of the arm."""
        if isinstance(error, BackendError):
            self._control = None
            self._fail(ArmState.IDLE, str(error))
            return
        said = str(error) or type(error).__name__
        self._control = None
        if isinstance(error, (self._lib.ControlException, self._lib.CommandException, self._lib.InvalidOperationException)):
            try:
                for _ in range(SETTLING):  # a safety function's mode may show some states after it has ended the motion
                    self._read_state()
                    if self._mode is not ArmState.IDLE or SAFETY_FUNCTION not in said:
                        break
            except Exception as second:
                said = str(second)
            else:
                if self._mode is ArmState.REFLEX:
                    self._fail(ArmState.REFLEX, reflex_text(str(self._state.current_errors)))
                elif self._mode is ArmState.IDLE:
                    self._fail(ArmState.IDLE, f"{STEPS[ArmState.IDLE]} ({said})")
                else:
                    self._fail(self._mode, STEPS[self._mode])
                return
        self._drop()
        self._clock = 0.0
        self._fail(ArmState.DISCONNECTED, f"{STEPS[ArmState.DISCONNECTED]} ({said})")

    def recover(self, now: float) -> BackendState:
        """After an operator's confirmation: connect where that is lost, clear errors, take control in the next cycle.

        Raises:
            BackendError: with what is still in the way.
        """
        if self._control is not None:  # it has followed to the end of the stop, and stands
            off = float(np.abs(self._sent - np.array(self._state.q)).max())
            if off > NEAR:
                text = f"the arm is held {off:.3f} rad from where it was told to stop; at most {NEAR}"
                raise BackendError(f"{text}: let go of it, then resume")
            self._fault = None
            self._restore_gripper()
            return self._held_now(now)
        self._mode = ArmState.RECOVERING
        try:
            lost = self._robot is None
            if lost:
                self._open()
            for _ in range(SETTLING):  # what is at rest now must have been so for a while
                self._read_state()
            if self._mode in (ArmState.USER_STOPPED, ArmState.GUIDING, ArmState.LOCKED):
                raise BackendError(STEPS[self._mode], halted=True)
            if self._mode is not ArmState.IDLE or bool(self._state.current_errors):
                self._robot.automatic_error_recovery()
                for _ in range(SETTLING):
                    self._read_state()
            if self._mode is not ArmState.IDLE or bool(self._state.current_errors):
                raise BackendError(self._why(), halted=True)
            speed = float(np.abs(self._speed).max())
            if speed > AT_REST:
                raise BackendError(f"the arm still moves at {speed:.3f} rad/s; at most {AT_REST}", halted=True)
            self._restore_gripper(lost)
        except BackendError as error:
            self._text = str(error)
            raise
        except Exception as error:
            self._drop()
            self._mode, self._text = ArmState.DISCONNECTED, f"{STEPS[ArmState.DISCONNECTED]} ({error})"
            raise BackendError(self._text, halted=True) from error
        self._fault, self._text, self._ready = None, "", True
        self._clock = 0.0
        self._recoveries += 1
        return self._held(now)

    def _held_now(self, now: float) -> BackendState:
        """The position commanded last: the arm goes on from it without a jump."""
        return BackendState(self._sent.copy(), self._speed, self._width(), now)

    def report(self) -> ArmReport:
        """The arm's own view."""
        gripper = "off"
        if self._gripper is not None:
            hand = self._gripper
            gripper = hand.fault or ("connecting" if not hand.ready else "busy" if hand.busy else "ready")
        return ArmReport(
            self._mode, self._text, self._rate, self._lost, self._rejoin.count, self._reflexes, self._recoveries, gripper
        )

    def details(self) -> bytes:
        """The whole state where that is asked for (``details.decode``)."""
        return details.encode(self._state) if self.options.details and self._state is not None else b""

    # ---- gripper ----------------------------------------------------------------------------------------------------------

    def _width(self) -> float:
        return self._gripper.width if self._gripper is not None else 0.0

    def _drive_gripper(self, streamed: float) -> None:
        """Send on the commanded width when it has changed and the hand is free: it takes one request after the other."""
        gripper = self._gripper
        if gripper is None:
            return
        width = self._target.update(streamed)
        self._cycle += 1
        if self._cycle % GRIPPER_EVERY:
            return
        healthy = not gripper.fault
        gripper.poll()
        if gripper.fault:
            if healthy:
                self._fault = self._fault or BackendError(f"{gripper.fault}; reconnect the hand, then resume")
            return
        if self._width_sent is None:
            self._width_sent = width  # where it is, it stays
        if gripper.busy or abs(width - self._width_sent) < GRIPPER_STEP:
            return
        o = self.options
        if width < o.grasp_below and width < self._width_sent:
            gripper.ask("grasp", width=width, speed=o.gripper_speed, force=o.grasp_force)
        else:
            gripper.ask("move", width=width, speed=o.gripper_speed)
        self._width_sent = width

    def _restore_gripper(self, lost: bool = False) -> None:
        """Connect the hand anew; it hangs on the arm's controller, so that a lost controller (``lost``) has lost it too."""
        if self._gripper is None or not (lost or self._gripper.fault):
            return
        self._gripper.close()
        self._gripper = Gripper(self.options.ip)
        self._width_sent = None

    def move_gripper(self, width: float, speed: float) -> None:
        """Drive to ``width`` [m] at ``speed`` [m/s]."""
        self._target.request(width)
        self._width_sent = width
        if self._gripper is not None:
            self._gripper.ask("move", width=width, speed=speed)

    def grasp(self, width: float, force: float) -> None:
        """Close on what is between the fingers with ``force`` [N]."""
        self._target.request(width)
        self._width_sent = width
        if self._gripper is not None:
            self._gripper.ask("grasp", width=width, speed=self.options.gripper_speed, force=force)

    def home_gripper(self) -> None:
        """Let the hand find its stroke: the fingers close and open."""
        if self._gripper is not None:
            self._gripper.ask("homing")

    def reset(self, request: dict[str, Any], now: float) -> BackendState:
        """Raises BackendError: a real arm cannot be put somewhere."""
        raise BackendError("a real arm cannot be reset; guide it there by hand, or plan a motion")

    def close(self) -> None:
        """End the motion where the arm stands, let go of arm and gripper; may be called again."""
        if self._control is not None and self.options.interface != "torque":
            try:
                self._control.readOnce()
                kind = self._lib.JointPositions if self.options.interface == "position" else self._lib.JointVelocities
                last = kind((self._sent if self.options.interface == "position" else np.zeros(JOINTS)).tolist())
                last.motion_finished = True
                self._control.writeOnce(last)
            except Exception as error:
                _log.info("the motion did not end in order: %s", error)
        self._drop()
        self._mode = ArmState.DISCONNECTED
        if self._gripper is not None:
            self._gripper.close()
            self._gripper = None


def make(options: dict[str, Any]) -> FciBackend:
    """The factory; ``options`` as in :class:`~tandem.execution.fci.config.FciOptions`."""
    config = from_dict(FciOptions, options, "fci")
    if config.ip:
        try:
            ipaddress.ip_address(config.ip)
        except ValueError:
            if not config.ip.replace("-", "").replace(".", "").isalnum():
                raise ConfigError(f"robot_ip = {config.ip!r}: accepted: the IP address of the arm's controller") from None
    return FciBackend(config)
