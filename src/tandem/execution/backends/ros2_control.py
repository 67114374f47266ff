"""An arm behind a ``joint_trajectory_controller`` (ros2_control: Gazebo, franka_ros2). Factory: ``...ros2_control:make``.

The controller plays whole trajectories by itself, so the executor's stream of commands is not sent; what goes out, whenever it
changes, is the course: all that will be commanded if nothing new arrives, up to the rest at its end. The executor stays the
authority: it decides what is played, follows the same course on the controller's clock, and compares what is measured with it.

ROS is not spoken here. Measurements come in, courses go out as datagrams through a pair of sockets, whose other end is a ROS node
(:mod:`tandem.nodes.controller`). The controller's clock, the stamps of its joint states, paces the loop: a simulation that runs
slower than real time plays certified trajectories in its own time.
"""

from __future__ import annotations

import logging
import socket
import struct
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tandem.core.config import from_dict, setting, to_dict
from tandem.core.errors import InputError
from tandem.core.trajectory import Trajectory
from tandem.core.types import Commitment
from tandem.execution.backends.base import BackendError, BackendState
from tandem.execution.backends.courses import BACK, Courses, Heard
from tandem.execution.fast_loop import LoopConfig
from tandem.execution.types import ArmReport, ArmState, Command, ExecutorConfig

if TYPE_CHECKING:
    from tandem.robots.model import ArmModel

Array = NDArray[np.float64]

_log = logging.getLogger(__name__)

BACKEND = "tandem.execution.backends.ros2_control:make"
#: least progress of the loop's time in a cycle [s]
STEP = 1e-6
_COURSE = struct.Struct("<qdii")
_STATE = struct.Struct("<2q3d")
_BUFFER = 1 << 20
#: the controller's pace is measured over so long, and taken to be this at most [s, 1]
_PACE_OVER, _PACE_MOST = 0.2, 10.0
#: how long resuming may take: states to come, and the controller to come over to the arm [s]
_ANSWER, _COMING = 1.0, 8.0


@dataclass(frozen=True)
class Ros2ControlOptions:
    """Options of the backend; topics are used by the node at the other end."""

    topic: str = setting("joint_trajectory_controller/joint_trajectory", "the controller's topic for trajectories")
    states: str = setting("joint_states", "measured joints, with the controller's clock in their stamps")
    controller_state: str = setting("joint_trajectory_controller/controller_state", "what the controller says it plays; '': none")
    finger_topic: str = setting("", "topic of a trajectory controller for one finger; '': none")
    rate: float = setting(100.0, "measurements taken a second; the controller may send more", unit="Hz", lo=40.0, hi=1000.0)
    connect_timeout: float = setting(20.0, "wait for the controller at the start", unit="s", lo=0.1, hi=600.0)
    silence: float = setting(0.25, "silence of the joint states that stops the arm", unit="s", lo=0.02, hi=2.0)
    near: float = setting(
        1e-3, "how near the arm must be, after a stop, to what was commanded last for that to be held, not what is measured; set "
        "by the bridge: half the tracking bound", unit="rad", lo=0.0, hi=0.1,
    )
    acceleration: list[float] = setting([], "(n,) within which a course is braked; set by the bridge", unit="rad/s^2", lo=0.0)
    jerk: list[float] = setting([], "(n,) and this; set by the bridge", unit="rad/s^3", lo=0.0)
    fd: int = setting(-1, "descriptor of the socket; set by the bridge", lo=-1)
    joints: int = setting(7, "number of joints; set by the bridge", lo=1, hi=8)


def encode_state(heard: Heard) -> bytes:
    """A datagram to the fast loop."""
    head = _STATE.pack(heard.published, heard.refused, heard.stamp, heard.width, heard.sent)
    return head + struct.pack(f"<{2 * len(heard.q)}d", *heard.q, *heard.v)


def decode_state(data: bytes, joints: int) -> Heard:
    """Inverse of :func:`encode_state`.

    Raises:
        InputError: another length, or not finite.
    """
    expected = _STATE.size + 16 * joints
    if len(data) == expected:
        published, refused, stamp, width, sent = _STATE.unpack_from(data)
        numbers = np.frombuffer(data, np.float64, offset=_STATE.size)
        if np.isfinite(numbers).all() and np.isfinite([stamp, width, sent]).all():
            return Heard(stamp, numbers[:joints].copy(), numbers[joints:].copy(), width, sent, published, refused)
    raise InputError(f"state of {len(data)} bytes: expected {expected} with finite numbers")


def encode_course(course: Commitment, number: int) -> bytes:
    """A course whose ``start`` [s] is on the controller's clock; courses are numbered from 1."""
    t = course.trajectory
    head = _COURSE.pack(number, course.start, *t.q.shape)
    return head + b"".join(x.tobytes() for x in (t.times, t.q, t.v, t.a, np.ascontiguousarray(course.width, dtype=np.float64)))


def decode_course(data: bytes) -> tuple[Commitment, int]:
    """Inverse of :func:`encode_course`."""
    number, start, knots, joints = _COURSE.unpack_from(data)
    numbers = np.frombuffer(data, np.float64, offset=_COURSE.size)
    n = knots * joints
    times, rest = numbers[:knots], numbers[knots:]
    q, v, a = (rest[i * n : (i + 1) * n].reshape(knots, joints) for i in range(3))
    return Commitment(Trajectory(times, q, v, a), start, rest[3 * n :].copy()), number


class Ros2Control:
    """The fast loop's side of the sockets; paced by the controller's joint states."""

    def __init__(self, options: Ros2ControlOptions, link: socket.socket) -> None:
        self.joints = options.joints
        self.options = options
        self._link = link
        self._state: BackendState | None = None  #: newest measurement; ``stamp`` on the controller's clock
        self._before: BackendState | None = None  #: the measurement of the last cycle
        self._fresh = False
        self._clock: float | None = None  #: the controller's clock at the loop's present cycle [s]
        self._heard: Heard | None = None
        self._anchor: Heard | None = None  #: from which its pace is measured
        self._back = 0.0  #: how far its clock has gone back [s]
        self._last = time.monotonic()
        self._silent = 0.0  #: how long nothing has come [s]
        self._untold = False  #: the last course came too late to go out
        self._late = False  #: which is yet to be said
        self._commanded: Array | None = None
        limits = np.asarray(options.acceleration), np.asarray(options.jerk)
        self._courses = Courses(*limits, 2.0 * options.near)
        self._lost = False

    def _receive(self, timeout: float, anew: bool = False) -> bool:
        """Take what has come, waiting for the first; whether there was something. ``anew``: also from a clock set back."""
        self._link.settimeout(timeout)
        found = False
        try:
            while True:
                found = self._take(self._link.recv(_BUFFER), anew) or found
                self._link.settimeout(0.0)
        except (TimeoutError, BlockingIOError, InterruptedError):
            return found
        except OSError as error:
            raise BackendError(f"the bridge's end of the link is gone: {error}", halted=True) from error

    def _take(self, data: bytes, anew: bool) -> bool:
        """One datagram; whether it was a newer measurement."""
        try:
            heard = decode_state(data, self.joints)
        except InputError as error:  # the loop goes on; without others it is as if nothing came
            _log.warning("%s", error)
            return False
        back = 0.0 if self._state is None else self._state.stamp - heard.stamp
        if back >= 0.0 and self._state is not None and not (anew and back > BACK):
            self._back = back if back > BACK else self._back
            return False
        if self._anchor is None or back > BACK:
            self._anchor = heard
        elif heard.sent - self._anchor.sent >= _PACE_OVER:
            pace = (heard.stamp - self._anchor.stamp) / (heard.sent - self._anchor.sent)
            self._courses.pace, self._anchor = min(max(pace, 1.0), _PACE_MOST), heard
        if back > BACK:
            self._courses.begin(heard.q, heard.width, heard.stamp)
        self._state, self._fresh = BackendState(heard.q, heard.v, heard.width, heard.stamp), True
        self._heard, self._back = heard, 0.0
        return True

    def connect(self, now: float) -> BackendState:
        """Wait for the first joint states, at rest."""
        limit = time.monotonic() + self.options.connect_timeout
        while not self._receive(0.1) or self._state is None:
            if time.monotonic() > limit:
                raise BackendError(
                    f"no joint states on {self.options.states} within {self.options.connect_timeout:.0f} s: is "
                    "joint_state_broadcaster active, do its joints have the arm's names?"
                )
        self._clock, self._last = self._state.stamp, time.monotonic()
        self._courses.begin(self._state.q, self._state.width, self._clock)
        return BackendState(self._state.q, self._state.v, self._state.width, now)

    # ---- the cycle --------------------------------------------------------------------------------------------------------

    def wait(self) -> float:
        """Until the next joint states; how far the controller's clock went on [s]. It stands still while they stay away.

        What is measured is so always compared with what was to be commanded at that very moment, however late word of it comes.
        """
        assert self._clock is not None and self._state is not None
        came = self._receive(2.0 / self.options.rate)
        now = time.monotonic()
        passed, self._last = now - self._last, now
        elapsed = max(self._state.stamp - self._clock, STEP) if came else STEP
        self._silent = 0.0 if came else self._silent + passed
        self._clock += elapsed
        heard = self._heard
        if heard is not None and not self._courses.confirm(heard.published, heard.refused, now):
            self._untold = self._late = True
        return elapsed

    def read(self, now: float) -> BackendState | None:
        """What :meth:`wait` brought the last time but one; None while nothing new comes.

        The executor compares a measurement with the command before: at the controller's pace the two are of one moment so.
        """
        if self._silent > self.options.silence and not self._lost:
            self._lost = True
            why = f", its clock has gone back by {self._back:.1f} s" if self._back else ""
            raise BackendError(
                f"no joint states for {self._silent:.2f} s{why}; the controller is told to brake. Check "
                "controller_manager, then resume", halted=True
            )
        if self._late:
            self._late = False
            raise BackendError("a course came too late to go out; the controller plays what it has. Is this machine busy?")
        if not self._fresh or self._state is None:
            return None
        self._fresh = False
        before, self._before = self._before, BackendState(self._state.q, self._state.v, self._state.width, now)
        return before

    def write(self, command: Command, now: float) -> None:
        """Nothing goes out each cycle; what was commanded last is where a motion goes on after a stop."""
        self._commanded = command.q

    def follow(self, course: Commitment, now: float) -> bool:
        """Send a new course, whose ``start`` is on the loop's clock, of which ``now`` is the present; False: try again later."""
        if self._clock is None:
            return False
        told, done = self._courses.next(course, now, self._clock, self._since(), self._heard)
        if told is not None:
            self._send(told)
        self._untold = False
        return done

    def _send(self, told: Commitment) -> None:
        try:
            self._link.send(encode_course(told, self._courses.number + 1))
        except OSError as error:
            raise BackendError(f"the course could not be handed to the bridge: {error}") from error
        self._courses.sent(told, time.monotonic())

    def ahead(self) -> float:
        """How far the controller may have gone on when word of a course reaches it [s, its clock]."""
        return self._since() + self._courses.way * self._courses.pace

    def _since(self) -> float:
        """How far the controller may have gone on since it was heard [s, its clock]: a full queue keeps the oldest states."""
        return 0.0 if self._heard is None else max(time.monotonic() - self._heard.sent, 0.0) * self._courses.pace

    def untold(self) -> bool:
        """Whether the last course came too late to go out."""
        return self._untold

    def reached(self) -> bool:
        """Whether the last course is known to have gone out, or nothing more is heard."""
        return self._heard is None or self._courses.reached(self._heard.published) or self._silent > self.options.silence

    def report(self) -> ArmReport:
        """What is known of the controller."""
        if self._silent > self.options.silence:
            return ArmReport(ArmState.DISCONNECTED, f"no joint states for {self._silent:.1f} s")
        return ArmReport(ArmState.MOVING, "", 1.0)

    # ---- the rest -----------------------------------------------------------------------------------------------------------

    def recover(self, now: float) -> BackendState:
        """Where the arm goes on: what was commanded last, where it is near that; else where it is.

        A controller that holds the arm elsewhere than it stands comes over first: from there a motion would begin with a jump.

        Raises:
            BackendError: no joint states, or the controller has not come over in time.
        """
        limit = time.monotonic() + _ANSWER
        while not self._receive(0.1, anew=True):
            if time.monotonic() > limit:
                raise BackendError(f"no joint states on {self.options.states}; check controller_manager")
        assert self._state is not None and self._heard is not None
        over = self._courses.aside(self._heard, self._state.stamp + self.ahead())
        if over is not None:
            self._send(over)
        limit = time.monotonic() + _COMING
        while self._state.stamp < self._courses.settled:
            self._receive(0.1)
            if time.monotonic() > limit:
                raise BackendError("the controller is still on its way to where the arm stands; resume again")
        if not self._courses.confirm(self._heard.published, self._heard.refused, time.monotonic()):
            self._untold = True
            raise BackendError("word to the controller came too late; resume again")
        self._clock, self._last = self._state.stamp, time.monotonic()
        self._silent, self._lost = 0.0, False
        self._before = None
        q = self._state.q
        if self._commanded is not None and np.abs(self._commanded - q).max() <= self.options.near:
            q = self._commanded
        return BackendState(q.copy(), self._state.v, self._state.width, now)

    def move_gripper(self, width: float, speed: float) -> None:
        """Refused: the width goes with trajectories."""
        raise BackendError("a gripper behind ros2_control moves with trajectories only (finger_topic)")

    def grasp(self, width: float, force: float) -> None:
        """Refused, as :meth:`move_gripper`."""
        self.move_gripper(width, 0.0)

    def home_gripper(self) -> None:
        """Refused, as :meth:`move_gripper`."""
        self.move_gripper(0.0, 0.0)

    def reset(self, request: dict[str, Any], now: float) -> BackendState:
        """Raises BackendError: an arm behind a controller cannot be put somewhere."""
        raise BackendError("an arm behind ros2_control cannot be reset; move it there (tandem home)")

    def close(self) -> None:
        """Let go; the controller plays to the end of what it has, which is rest."""
        self._link.close()


def loop_config(
    arm: ArmModel, tracking: list[float] | float, options: Ros2ControlOptions, priority: int = 0, cpu: int = -1
) -> LoopConfig:
    """The fast loop's configuration for ``arm`` with the certified tracking bound [rad]: a cycle for each measurement.

    Any gap shorter than ``silence`` is played through, since the controller plays through it; a longer one stops the arm.
    """
    period = 1.0 / options.rate
    executor = ExecutorConfig.for_arm(arm, tracking)
    executor = replace(
        executor, period=period, max_step=2.0 * options.silence, stale_after=2.0 * options.silence,
        latch_step=2.0 * options.silence, debounce=max(0.02, 2.5 * period),
    )
    near = 0.5 * float(np.min(tracking))
    options = replace(options, near=near, acceleration=list(executor.acceleration), jerk=list(executor.jerk))
    return LoopConfig(
        backend=BACKEND, backend_options=to_dict(options), executor=executor, priority=priority, cpu=cpu, owner_timeout=1.0
    )


def make(options: dict[str, Any]) -> Ros2Control:
    """The factory; ``options`` as in :class:`Ros2ControlOptions`, with the socket's descriptor."""
    config = from_dict(Ros2ControlOptions, options, "ros2_control")
    if config.fd < 0:
        raise InputError("ros2_control: fd is not set; the bridge makes the link, start the backend through it")
    for name, values in (("acceleration", config.acceleration), ("jerk", config.jerk)):
        if len(values) != config.joints:
            raise InputError(f"ros2_control: {name} has {len(values)} values; expected one for each of {config.joints} joints")
    return Ros2Control(config, socket.socket(fileno=config.fd))
