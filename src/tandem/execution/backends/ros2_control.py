"""An arm behind a ``joint_trajectory_controller`` (ros2_control: Gazebo, franka_ros2). Factory: ``...ros2_control:make``.

The controller plays whole trajectories by itself, so the executor's stream of commands is not sent; what goes out, whenever it
changes, is the course: all that will be commanded if nothing new arrives, up to the rest at its end. The executor stays the
authority: it decides what is played, follows the same course on the controller's clock, and compares what is measured with it.

ROS is not spoken here. Measurements come in, courses go out as datagrams through a pair of sockets, whose other end is a ROS node
(:mod:`tandem.nodes.controller`). The controller's clock, the stamps of its joint states, paces the loop: a simulation that runs
slower than real time plays certified trajectories in its own time.
"""

from __future__ import annotations

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
from tandem.execution.fast_loop import LoopConfig
from tandem.execution.types import ArmReport, ArmState, Command, ExecutorConfig

if TYPE_CHECKING:
    from tandem.robots.model import ArmModel

Array = NDArray[np.float64]

BACKEND = "tandem.execution.backends.ros2_control:make"
#: a velocity or acceleration smaller than this is rest: what the controller accepts at a trajectory's end
REST = 1e-7
#: two references are as good as one within this, a quarter of the certified tracking bound [rad], and within this, what a brake
#: takes off in two cycles [rad/s]; so slow, a motion has only just begun [rad/s]
NEAR, PACE, SLOW = 1e-3, 0.3, 0.02
#: acceleration up to which a controller that rests elsewhere is brought to where a motion begins [rad/s^2]; word of it takes [s]
GENTLE, WAY = 10.0, 0.02
#: an arm at rest so far from where the controller was told to hold it is held elsewhere: the controller has begun anew [rad]
ELSEWHERE = 0.02
#: plans repeat where they begin to within this [rad, m]
ROUNDING = 1e-6
#: rest in the place of a motion that was dropped begins so long after it is sent; rest is sent for so long [s]
HOLD = 0.25
#: least progress of the loop's time in a cycle [s]
STEP = 1e-6
_COURSE = struct.Struct("<dii")
_BUFFER = 1 << 20


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
    fd: int = setting(-1, "descriptor of the socket; set by the bridge", lo=-1)
    joints: int = setting(7, "number of joints; set by the bridge", lo=1, hi=8)


def encode_state(stamp: float, q: Array, v: Array, width: float) -> bytes:
    """Measured at ``stamp`` [s, the controller's clock]: q, v (n,) [rad, rad/s], gripper width [m]."""
    return struct.pack(f"<2d{2 * len(q)}d", stamp, width, *q, *v)


def decode_state(data: bytes, joints: int) -> tuple[float, Array, Array, float]:
    """Inverse of :func:`encode_state`: stamp, q, v, width.

    Raises:
        InputError: another length, or not finite.
    """
    numbers = np.frombuffer(data)
    if len(numbers) != 2 + 2 * joints or not np.isfinite(numbers).all():
        raise InputError(f"state of {len(data)} bytes: expected {8 * (2 + 2 * joints)} with finite numbers")
    return float(numbers[0]), numbers[2 : 2 + joints].copy(), numbers[2 + joints :].copy(), float(numbers[1])


def encode_course(course: Commitment) -> bytes:
    """A course whose ``start`` [s] is on the controller's clock."""
    t = course.trajectory
    head = _COURSE.pack(course.start, *t.q.shape)
    return head + b"".join(x.tobytes() for x in (t.times, t.q, t.v, t.a, np.ascontiguousarray(course.width, dtype=np.float64)))


def decode_course(data: bytes) -> Commitment:
    """Inverse of :func:`encode_course`."""
    start, knots, joints = _COURSE.unpack_from(data)
    numbers = np.frombuffer(data, np.float64, offset=_COURSE.size)
    n = knots * joints
    times, rest = numbers[:knots], numbers[knots:]
    q, v, a = (rest[i * n : (i + 1) * n].reshape(knots, joints) for i in range(3))
    return Commitment(Trajectory(times, q, v, a), start, rest[3 * n :].copy())


def without_rest(course: Commitment, now: float) -> Commitment | None:
    """The course from where it begins to move; None when it is all rest, or over at ``now`` [s]: controllers refuse the past.

    Until then the controller holds what it holds. It reaches the first point, which is at rest, on a smooth way of its own from
    its own reference: that takes up what the two may differ by, where a first point in the past would be a jump.
    """
    t = course.trajectory
    held = np.abs(t.q - t.q[0]).max(1) <= 1e-12
    still = (np.abs(t.v).max(1) <= REST) & (np.abs(t.a).max(1) <= REST) & held & (np.asarray(course.width) == course.width[0])
    moving = np.flatnonzero(~still)
    if not moving.size or course.start + float(t.times[-1]) <= now:
        return None
    first = max(int(moving[0]) - 1, 0)
    if first == 0:
        return course
    kept = Trajectory(t.times[first:] - t.times[first], t.q[first:], t.v[first:], t.a[first:])
    return Commitment(kept, course.start + float(t.times[first]), np.asarray(course.width)[first:])


class Courses:
    """What the controller has been told, and from that what it has to be told next.

    It plays by itself, so two things must not happen: that it begins what the executor has dropped, and that its reference jumps.
    """

    def __init__(self) -> None:
        self._told: Commitment | None = None  #: the last one, on the controller's clock

    def next(self, course: Commitment, now: float, clock: float, ahead: float = 0.0) -> tuple[Commitment | None, bool]:
        """What to send, so that it follows ``course``, of whose clock ``now`` is the present; and whether it then follows it.

        Nothing is sent where it need not be told: it holds, or it plays what it has to a certified rest. Rest is sent where a
        motion was dropped that has not begun, or only just. Not followed is what would make its reference jump: where the two
        differ at present (and it does not rest, with time enough to come over before the motion begins), it plays what it has as
        far as the next rest in it, and is told again later.

        Args:
            clock: the controller's, when it was last heard [s]. ahead: how far it may have gone on since [s].

        Returns:
            The course to send, on the controller's clock, or None; and False where it ought to be told again.
        """
        told, moving = self._told, without_rest(course, now)
        latest = clock + ahead
        over = told is None or latest >= told.end
        if moving is not None:
            at, v, _ = moving.trajectory.sample(0.0) if told is None else told.state_at(latest)
            q, rate, _ = course.state_at(now + ahead)
            lead = moving.start - (now + ahead) if over else -np.inf  # from rest to rest it finds a smooth way
            if (_apart(at, q) or _apart(v, rate, PACE)) and lead < _time_to(np.abs(at - q).max()):
                return (None if over or told is None else _to_its_rest(told, latest)), False
            return _held(Commitment(moving.trajectory, clock + (moving.start - now), moving.width)), True
        if told is None or over:
            return None, True  # it rests already
        q, width = course.state_at(now)[0], course.width_at(now)
        times = told.start + told.trajectory.times
        past, left = (times > clock) & (times <= latest), times > latest
        at, v, _ = told.state_at(latest)
        if not (_changes(told, left, q) or np.any(np.abs(told.width[left] - width) > ROUNDING)):
            return None, True
        if _apart(at, q, 2.0 * NEAR) or np.abs(v).max() > SLOW or _changes(told, past, q, 2.0 * NEAR):
            return _to_its_rest(told, latest), False
        return Commitment(Trajectory.at_rest(q, HOLD), latest + HOLD, np.full(2, width)), True

    def sent(self, course: Commitment) -> None:
        """``course`` of :meth:`next` is on its way."""
        self._told = course


def _time_to(distance: float) -> float:
    """How long before a motion a controller at rest ``distance`` [rad] off has to be told of it [s]: a quintic's 5.8 d / T^2."""
    return WAY + float(np.sqrt(5.8 * min(distance, ELSEWHERE) / GENTLE))


def _to_its_rest(told: Commitment, latest: float) -> Commitment | None:
    """``told`` as far as where it rests next after ``latest``; None where nothing comes after that in any case."""
    t, width = told.trajectory, np.asarray(told.width)
    still = (np.abs(t.v).max(1) <= REST) & (np.abs(t.a).max(1) <= REST) & (told.start + t.times > latest)
    if not still.any():
        return None
    n = int(np.argmax(still))
    after = np.arange(len(t.times)) > n
    if not (_changes(told, after, t.q[n]) or np.any(np.abs(width[after] - width[n]) > ROUNDING)):
        return None
    if n == 0:  # it has not begun
        return Commitment(Trajectory.at_rest(t.q[0], HOLD), latest + HOLD, np.full(2, width[0]))
    to = slice(0, n + 1)
    return _held(Commitment(Trajectory(t.times[to], t.q[to], t.v[to], t.a[to]), told.start, width[to]))


def _apart(a: Array, b: Array, bound: float = NEAR) -> bool:
    return bool(np.abs(a - b).max() > bound)


def _changes(course: Commitment, knots: NDArray[np.bool_], q: Array, bound: float = ROUNDING) -> bool:
    """Whether one of these knots is away from ``q`` (n,) [rad]."""
    return bool(np.any(np.abs(course.trajectory.q[knots] - q) > bound))


def _held(course: Commitment) -> Commitment:
    """The course with its rest held for a while: one that is over when it arrives is refused, and an older one played."""
    t = course.trajectory
    end, zero = t.q[-1:], np.zeros_like(t.q[-1:])
    held = Trajectory(
        np.append(t.times, t.times[-1] + HOLD), np.vstack([t.q, end]), np.vstack([t.v, zero]), np.vstack([t.a, zero])
    )
    return Commitment(held, course.start, np.append(course.width, course.width[-1]))


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
        self._last = time.monotonic()
        self._silent = 0.0
        self._commanded: Array | None = None
        self._courses = Courses()
        self._lost = False

    def _receive(self, timeout: float) -> bool:
        """Take what has come, waiting for the first; whether there was something."""
        self._link.settimeout(timeout)
        found = False
        try:
            while True:
                stamp, q, v, width = decode_state(self._link.recv(_BUFFER), self.joints)
                if self._state is None or stamp > self._state.stamp:
                    self._state, self._fresh, found = BackendState(q, v, width, stamp), True, True
                self._link.settimeout(0.0)
        except (TimeoutError, BlockingIOError, InterruptedError):
            return found
        except OSError as error:
            raise BackendError(f"the bridge's end of the link is gone: {error}", halted=True) from error

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
        return elapsed

    def read(self, now: float) -> BackendState | None:
        """What :meth:`wait` brought the last time but one; None while nothing new comes.

        The executor compares a measurement with the command before: at the controller's pace the two are of one moment so.
        """
        if self._silent > self.options.silence and not self._lost:
            self._lost = True
            raise BackendError(
                f"no joint states for {self._silent:.2f} s; the controller plays to the end of what it has. Check "
                "controller_manager, then resume", halted=True
            )
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
        told, done = self._courses.next(course, now, self._clock, self._silent)
        if told is not None:
            try:
                self._link.send(encode_course(told))
            except OSError as error:
                raise BackendError(f"the course could not be handed to the bridge: {error}") from error
            self._courses.sent(told)
        return done

    def report(self) -> ArmReport:
        """What is known of the controller."""
        if self._silent > self.options.silence:
            return ArmReport(ArmState.DISCONNECTED, f"no joint states for {self._silent:.1f} s")
        return ArmReport(ArmState.MOVING, "", 1.0)

    # ---- the rest -----------------------------------------------------------------------------------------------------------

    def recover(self, now: float) -> BackendState:
        """Where the arm goes on: what was commanded last, where it is near that; else where it is.

        Raises:
            BackendError: no joint states.
        """
        limit = time.monotonic() + 1.0
        while not self._receive(0.1):
            if time.monotonic() > limit:
                raise BackendError(f"no joint states on {self.options.states}; check controller_manager")
        assert self._state is not None
        self._clock, self._silent, self._lost, self._last = self._state.stamp, 0.0, False, time.monotonic()
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
    options = replace(options, near=0.5 * float(np.min(tracking)))
    return LoopConfig(
        backend=BACKEND, backend_options=to_dict(options), executor=executor, priority=priority, cpu=cpu, owner_timeout=1.0
    )


def make(options: dict[str, Any]) -> Ros2Control:
    """The factory; ``options`` as in :class:`Ros2ControlOptions`, with the socket's descriptor."""
    config = from_dict(Ros2ControlOptions, options, "ros2_control")
    if config.fd < 0:
        raise InputError("ros2_control: fd is not set; the bridge makes the link, start the backend through it")
    return Ros2Control(config, socket.socket(fileno=config.fd))
