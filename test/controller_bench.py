"""The fast loop, its backend for ros2_control and a controller on one simulated clock, and what may go wrong between them."""

from __future__ import annotations

import collections
import types
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from stand_in_controller import Controller, Points
from trajectory_msgs.msg import JointTrajectory

from tandem.core.config import from_dict
from tandem.core.trajectory import Trajectory
from tandem.core.types import Commitment, Proposal
from tandem.execution.backends import ros2_control
from tandem.execution.backends.courses import Dispatch, Heard
from tandem.execution.backends.ros2_control import Ros2Control, Ros2ControlOptions, decode_course, encode_state, loop_config
from tandem.execution.fast_loop import FastLoop
from tandem.execution.link import Link
from tandem.execution.messages import Request, encode_request, encode_submit
from tandem.execution.types import CertifiedTrajectory
from tandem.nodes import messages
from tandem.nodes.controller import course_to_msg
from tandem.robots.model import load_arm
from tandem.safety.backup import BackupFamily

Array = NDArray[np.float64]

ARM = load_arm("fr3")
JOINTS = messages.Names().joints[:-1]
FAMILY = BackupFamily(k_max=(3.0,) * 7)
TRACKING = 0.004
#: the wall clock, and the controller's, less the simulated one [s]
WALL, CONTROLLER = 1.76e9, 1000.0
MS = 1e-3


def points(msg: JointTrajectory, fields: int = 3) -> Points:
    """What a controller reads of a message; ``fields``: 3 positions, velocities, accelerations, 2 the first two, 1 the first."""
    times = np.array([messages.seconds_from_stamp(p.time_from_start) for p in msg.points])
    q, v, a = (np.array([getattr(p, k) for p in msg.points]) for k in ("positions", "velocities", "accelerations"))
    return Points(messages.seconds_from_stamp(msg.header.stamp), times, q, v if fields > 1 else None, a if fields > 2 else None)


class _Socket:
    """The loop's end: waiting lets the simulated time pass."""

    def __init__(self, bench: ControllerBench) -> None:
        self._bench, self._timeout = bench, 0.0

    def settimeout(self, timeout: float) -> None:
        self._timeout = timeout

    def recv(self, size: int) -> bytes:
        limit = self._bench.t + self._timeout
        while not self._bench.states:
            if self._bench.t >= limit - 1e-9:
                raise TimeoutError
            self._bench.step()
        return self._bench.states.popleft()

    def send(self, data: bytes) -> None:
        self._bench.courses.append((self._bench.t + self._bench.late, data))

    def close(self) -> None:
        pass


class ControllerBench:
    """1 ms at a time, a cycle of the loop whenever states come.

    Attributes:
        silent: no states come. queue: how many fit between link and loop. late: word of a course takes so long to the link [s],
            way: and from there [s]. back: its clock has been set back by so much [s]. stuck: the arm stays behind the controller
            there (n,) [rad]; arm: or is there, and as fast (n,) [rad, rad/s]. path: (n,) the controller's reference, each
            millisecond from the start.
    """

    def __init__(self, patch: pytest.MonkeyPatch, queue: int = 1000, rate: float = 100.0, drift: float = 0.05) -> None:
        self.t = 10.0
        self.states: collections.deque[bytes] = collections.deque()
        self.courses: list[tuple[float, bytes]] = []
        self.silent, self.queue, self.late, self.way = False, queue, 0.0, 0.003
        self.back = 0.0
        self.stuck: Array | None = None
        self.arm: Callable[[], tuple[Array, Array]] | None = None
        self.refused: list[str] = []
        self.path: list[Array] = []
        self._published: list[tuple[float, Commitment]] = []
        self._dispatch = Dispatch()
        self._every = round(1e3 / rate)
        self.controller = Controller(ARM.home.copy(), now=CONTROLLER + self.t)
        config = replace(loop_config(ARM, TRACKING, Ros2ControlOptions(rate=rate)), max_drift=drift)
        patch.setattr(ros2_control, "time", types.SimpleNamespace(monotonic=lambda: self.t))
        for _ in range(30):
            self.step()
        options = from_dict(Ros2ControlOptions, config.backend_options, "ros2_control")
        self.backend = Ros2Control(options, _Socket(self))  # type: ignore[arg-type]
        self.link = Link.create()
        self.loop = FastLoop(
            config, self.link, self.backend, b"k" * 16, wall_ns=lambda: round((WALL + self.t) * 1e9),
            mono_ns=lambda: round(self.t * 1e9), parent=lambda: config.owner_pid,
        )
        self.executor = self.loop.executor
        self.executor._key = None
        self._deadline = self.loop._mono_ns()

    def step(self) -> None:
        """A millisecond of the controller, of the link and of what lies between."""
        self.t = round(self.t + MS, 6)
        clock = CONTROLLER + self.t - self.back
        self.controller.step(clock)
        q, v, _ = self.controller.desired
        self.path.append(q.copy())
        if round(self.t / MS) % self._every == 0 and not self.silent:
            measured = (q.copy(), v.copy()) if self.stuck is None else (self.stuck, np.zeros(7))
            measured = measured if self.arm is None else self.arm()
            self._dispatch.heard(clock, self.t, measured[0])
            if len(self.states) < self.queue:  # the link does not wait
                self.states.append(encode_state(Heard(clock, *measured, 0.08, self.t, *self._dispatch.known)))
        while self.courses and self.courses[0][0] <= self.t + 1e-9:
            course, number = decode_course(self.courses.pop(0)[1])
            why = self._dispatch.refuses(course, number, self.t)
            if why:
                self.refused.append(why)
            else:
                self._published.append((self.t + self.way, course))
        while self._published and self._published[0][0] <= self.t + 1e-9:
            self.controller.receive(points(course_to_msg(self._published.pop(0)[1], JOINTS)))

    def hold_up(self, seconds: float) -> None:
        """The loop's process does not run."""
        for _ in range(round(seconds / MS)):
            self.step()

    def run(self, seconds: float) -> None:
        """As :meth:`FastLoop.run`."""
        end = self.t + seconds
        while self.t < end - 1e-9:
            self.link.beat_owner(self.loop._mono_ns())
            self._deadline = self.loop._settle(self._deadline)
            self._deadline += round(self.backend.wait() * 1e9)
            self.link.beat_owner(self.loop._mono_ns())
            self.loop.cycle(self._deadline)
            while self.link.replies.pop() is not None:
                pass

    def stop(self) -> None:
        """The operator's."""
        self.link.inbox.push(encode_request(1, Request.STOP, {"text": "operator"}))

    def resume(self) -> None:
        """The operator's, answered in the next cycle."""
        self.link.inbox.push(encode_request(1, Request.RESUME, {}))

    def certified(self, trajectory: Trajectory, at: float) -> CertifiedTrajectory:
        """To begin ``at`` [s, the simulated clock]."""
        widths = np.full(len(trajectory.times), 0.08)
        proposal = Proposal(messages.quantise_trajectory(trajectory), widths, messages.quantise_time(WALL + at), 0.5)
        return CertifiedTrajectory(proposal, "", "")

    def push(self, trajectory: Trajectory, at: float) -> None:
        """The same, which lies in the inbox until the loop looks."""
        self.link.inbox.push(encode_submit(1, self.certified(trajectory, at)))

    def submit(self, trajectory: Trajectory, at: float) -> None:
        """The same, at once."""
        now = (self._deadline - self.loop._zero_ns) * 1e-9
        result = self.executor.submit(self.certified(trajectory, at), now)
        assert result.accepted, result

    def wander(self, count: int, seed: int, between: Callable[[], None] = lambda: None) -> None:
        """Motions spliced into each other, one each half a second, .12 s before it begins."""
        rng = np.random.default_rng(seed)
        at = self.t + 0.12
        for _ in range(count):
            q, v, a = self.executor.commitment().state_at(WALL + at)
            k = np.clip(3.0 * (ARM.home - q) - 2.0 * v + rng.uniform(-1.5, 1.5, 7), -3.0, 3.0)
            self.submit(FAMILY.trajectory(q, v, a, k), at)
            self.run(0.5)
            at += 0.5

    def since(self, t: float) -> Array:
        """(M, n) the controller's reference from ``t`` [s] on, each millisecond."""
        return np.array(self.path[round((t - 10.0) / MS) - 1 :])
