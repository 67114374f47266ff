"""The ROS side of the backend ``ros2_control``: joint states to the fast loop, its courses to a trajectory controller.

A course goes out as one ``trajectory_msgs/JointTrajectory`` with absolute times on the controller's clock, whose first point
mostly lies a little in the past: the controller then samples the course itself at once, and how long the message took does not
matter. Points carry position, velocity and acceleration, so that its quintic interpolation gives back the certified polynomials.

A course that comes so late from the fast loop that the controller's reference would jump does not go out; the loop is told.

What the controller says is checked. Measured joints go to the executor, which compares them with the course; the controller's own
reference is compared here, where ``control_msgs`` is installed; and nobody else may publish on the controller's topic.
"""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Callable

import numpy as np
from builtin_interfaces.msg import Duration
from numpy.typing import NDArray
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.utilities import get_default_context
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from tandem.core.errors import ConfigError
from tandem.core.types import Commitment
from tandem.execution.backends.courses import BACK, Dispatch, Heard
from tandem.execution.backends.ros2_control import Ros2ControlOptions, decode_course, encode_state
from tandem.nodes import messages
from tandem.nodes.base import RELIABLE_QOS, SENSOR_QOS

Array = NDArray[np.float64]

#: the controller's reference may differ so far from the course [rad], for so many states in a row
REFERENCE_TOLERANCE, REFERENCE_COUNT = 2e-3, 10
#: joint state broadcasters need not be alone on the topic: states without any of the arm's joints are left alone
_BUFFER = 1 << 20


def course_to_msg(course: Commitment, joints: list[str]) -> JointTrajectory:
    """The course, stamped with its start, for the arm's joints (``time_from_start`` and stamp on the nanosecond grid)."""
    msg = JointTrajectory(joint_names=joints)
    msg.header.stamp = messages.stamp_from_seconds(course.start)
    t = course.trajectory
    for moment, q, v, a in zip(t.times, t.q, t.v, t.a, strict=True):
        msg.points.append(JointTrajectoryPoint(
            positions=q.tolist(), velocities=v.tolist(), accelerations=a.tolist(), time_from_start=_duration(float(moment)),
        ))
    return msg


def fingers_to_msg(course: Commitment, joint: str) -> JointTrajectory:
    """The gripper's part of the course: positions of one finger, linear in between."""
    msg = JointTrajectory(joint_names=[joint])
    msg.header.stamp = messages.stamp_from_seconds(course.start)
    for moment, width in zip(course.trajectory.times, course.width, strict=True):
        msg.points.append(JointTrajectoryPoint(positions=[0.5 * float(width)], time_from_start=_duration(float(moment))))
    return msg


def _duration(seconds: float) -> Duration:
    stamp = messages.stamp_from_seconds(seconds)
    return Duration(sec=stamp.sec, nanosec=stamp.nanosec)


class Reference:
    """Compares what the controller says it plays with the course that it was given."""

    def __init__(self, joints: list[str]) -> None:
        self._joints = joints
        self._course: Commitment | None = None
        self._count = 0

    def expect(self, course: Commitment) -> None:
        """From now on the controller plays this."""
        self._course, self._count = course, 0

    def fault(self, stamp: float, names: list[str], positions: Array) -> str:
        """What is wrong with a reference ``positions`` [rad] of ``stamp`` [s]; empty when nothing is, or not for long enough."""
        course = self._course
        if course is None or stamp <= course.start:
            return ""
        where = {name: i for i, name in enumerate(names)}
        if any(name not in where for name in self._joints):
            return f"its reference has the joints {', '.join(names)}; expected {', '.join(self._joints)}"
        error = np.abs(positions[[where[n] for n in self._joints]] - course.state_at(stamp)[0])
        if (error <= REFERENCE_TOLERANCE).all():
            self._count = 0
            return ""
        self._count += 1
        if self._count < REFERENCE_COUNT:
            return ""
        worst = int(error.argmax())
        return f"its reference for {self._joints[worst]} is {error[worst]:.4f} rad off the certified motion"


class ControllerLink:
    """Between the fast loop's backend and a ``joint_trajectory_controller``; spins a node of its own in a thread of its own.

    Args:
        options: topics and rate. names: joints of the arm. context: of the bridge's node, its namespace; ``stop``: called with
            the reason when the controller is found to do something else.
    """

    def __init__(
        self, options: Ros2ControlOptions, names: messages.Names, namespace: str, stop: Callable[[str], None],
        context: Context | None = None,
    ) -> None:
        self.options = options
        self._joints, self._finger = names.joints[:-1], names.joints[-1]
        self._stop = stop
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._link, self.far = ours, theirs
        self._context = context or get_default_context()
        self._node = Node("franka_controller_link", namespace=namespace, context=self._context)
        self._trajectories = self._node.create_publisher(JointTrajectory, options.topic, RELIABLE_QOS)
        self._fingers = (
            self._node.create_publisher(JointTrajectory, options.finger_topic, RELIABLE_QOS) if options.finger_topic else None
        )
        self._node.create_subscription(JointState, options.states, self._on_states, SENSOR_QOS)
        self._reference = Reference(self._joints)
        self._watch_reference()
        self._heard = -math.inf
        self._dispatch = Dispatch()
        self._width = 0.0
        self._complaint = ""
        self.sent = 0
        self._ending = False
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._threads = [
            threading.Thread(target=self._spin, name="controller states", daemon=True),
            threading.Thread(target=self._forward, name="controller courses", daemon=True),
        ]

    def start(self, timeout: float | None = None) -> None:
        """Begin; waits until a controller listens.

        Raises:
            ConfigError: nobody listens on the topic within ``timeout`` [s], default ``connect_timeout``.
        """
        for thread in self._threads:
            thread.start()
        limit = time.monotonic() + (self.options.connect_timeout if timeout is None else timeout)
        while not self._trajectories.get_subscription_count():
            if time.monotonic() > limit:
                topic = self._trajectories.topic_name
                self.close()
                raise ConfigError(
                    f"nobody listens on {topic}: is the trajectory controller active (ros2 control list_controllers)?"
                )
            time.sleep(0.02)

    def close(self) -> None:
        """End the threads and the node; may be called again."""
        if self._ending:
            return
        self._ending = True
        self._executor.shutdown(timeout_sec=1.0)
        self._link.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=2.0)
        self._link.close()
        self.far.close()
        self._node.destroy_node()

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    # ---- in ---------------------------------------------------------------------------------------------------------------
    def _on_states(self, msg: JointState) -> None:
        stamp = messages.seconds_from_stamp(msg.header.stamp)
        if stamp < self._heard + 0.8 / self.options.rate and stamp > self._heard - BACK:
            return
        where = {name: i for i, name in enumerate(msg.name)}
        if self._finger in where:
            self._width = 2.0 * msg.position[where[self._finger]]
        if any(name not in where for name in self._joints):
            return
        rows = [where[name] for name in self._joints]
        if len(msg.position) <= max(rows) or len(msg.velocity) <= max(rows):
            self._complain("joint states without positions or velocities: joint_state_broadcaster must offer both")
            return
        self._heard = stamp
        now = time.monotonic()
        q, v = np.array(msg.position)[rows], np.array(msg.velocity)[rows]
        if not (np.isfinite(q).all() and np.isfinite(v).all() and math.isfinite(self._width)):
            self._complain("joint states that are not finite")
            return
        self._dispatch.heard(stamp, now, q)
        try:
            self._link.send(encode_state(Heard(stamp, q, v, self._width, now, *self._dispatch.known)), socket.MSG_DONTWAIT)
        except (BlockingIOError, OSError):
            return  # the loop is held up or gone: it, or its owner, sees that for itself

    def _watch_reference(self) -> None:
        """Listen to the controller's state where its message type is installed."""
        if not self.options.controller_state:
            return
        try:
            from control_msgs.msg import JointTrajectoryControllerState
        except ImportError:
            text = "control_msgs is not installed: the controller's reference is not checked, the measured joints are"
            self._node.get_logger().info(text)
            return

        def heard(msg: JointTrajectoryControllerState) -> None:
            stamp = messages.seconds_from_stamp(msg.header.stamp)
            fault = self._reference.fault(stamp, list(msg.joint_names), np.array(msg.reference.positions))
            if fault:
                self._complain(f"the controller does something else: {fault}", stop=True)

        self._node.create_subscription(JointTrajectoryControllerState, self.options.controller_state, heard, SENSOR_QOS)

    # ---- out --------------------------------------------------------------------------------------------------------------
    def _forward(self) -> None:
        while not self._ending:
            try:
                data = self._link.recv(_BUFFER)
            except OSError:
                return
            if not data:
                return
            course, number = decode_course(data)
            late = self._dispatch.refuses(course, number, time.monotonic())
            if late:  # the loop hears of it with the next states
                self._complain(f"a course came too late and was not sent to the controller: {late}")
                continue
            others = self._node.count_publishers(self._trajectories.topic_name) - 1
            if others > 0:
                text = f"{others} other publisher(s) on {self._trajectories.topic_name}; accepted: the bridge alone"
                self._complain(text, stop=True)
            self._reference.expect(course)
            self._trajectories.publish(course_to_msg(course, self._joints))
            if self._fingers is not None:
                self._fingers.publish(fingers_to_msg(course, self._finger))
            self.sent += 1

    def _complain(self, text: str, stop: bool = False) -> None:
        if text != self._complaint:
            self._complaint = text
            self._node.get_logger().error(text)
        if stop:
            self._stop(text)

    @property
    def complaint(self) -> str:
        """What is wrong; empty when nothing is."""
        return self._complaint
