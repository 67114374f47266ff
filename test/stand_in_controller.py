"""A ``joint_trajectory_controller`` as its documentation describes it (ros2_controllers, Jazzy), for tests.

Interpolation by the fields that points have: linear (positions), cubic (and velocities), quintic (and accelerations), each the
polynomial of least degree through both ends. A message replaces the trajectory that is being played. It is stamped with its start
(zero: now); points in the past are passed over, and until the first point the controller interpolates from the state that it had
when the message came. A message is refused when it ends in the past, when its times do not rise, when it does not end at rest or
when joints are missing. Where a joint leaves its path tolerance, the trajectory is aborted and the position is held.

``python -m stand_in_controller`` runs it as a node, with a perfect or a lagging arm.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class Points:
    """A message: start [s] (0: now), times from there [s], positions (M, n), and velocities and accelerations or None."""

    start: float
    times: Array
    q: Array
    v: Array | None = None
    a: Array | None = None


class Polynomial:
    """Of least degree through the states (q, perhaps v, a) at t0 and t1 [s], found by solving for its coefficients."""

    def __init__(self, t0: float, t1: float, left: list[Array], right: list[Array]) -> None:
        self.t0, self._h, count = t0, t1 - t0, len(left)
        rows = [_derivatives(x, 2 * count)[:count] for x in (0.0, 1.0)]
        values = [[state * self._h**d for d, state in enumerate(side)] for side in (left, right)]
        self._c = np.linalg.solve(np.concatenate(rows), np.concatenate(values))

    def __call__(self, t: float) -> Array:
        """(3, n) q, v, a at t."""
        value = _derivatives((t - self.t0) / self._h, len(self._c)) @ self._c
        return value / self._h ** np.arange(3)[:, None]


def _derivatives(x: float, count: int) -> Array:
    """(3, count) the powers of x, their first and second derivatives."""
    p = np.arange(count)
    powers = x ** p.astype(float)
    first = np.concatenate([[0.0], p[1:] * powers[:-1]])
    return np.stack([powers, first, np.concatenate([[0.0], p[1:] * first[:-1]])])


@dataclass
class Controller:
    """See the module's text.

    Attributes:
        desired: (3, n) what it wants now. refused: why messages were refused. aborted: whether a tolerance was violated.
    """

    q: Array
    tolerance: float = 0.0  #: of positions [rad]; 0: none
    now: float = 0.0
    desired: Array = field(init=False)
    refused: list[str] = field(default_factory=list)
    aborted: int = 0
    taken: int = 0
    _points: Points | None = None
    _piece: tuple[int, Polynomial] | None = None
    _before: tuple[float, Array] = field(init=False)

    def __post_init__(self) -> None:
        self.desired = np.stack([self.q, np.zeros_like(self.q), np.zeros_like(self.q)])
        self._before = (self.now, self.desired)

    def receive(self, points: Points) -> bool:
        """A message; whether it is taken."""
        if points.start == 0.0:
            points.start = self.now
        why = ""
        if points.q.shape[1] != len(self.q):
            why = "wrong joints"
        elif len(points.times) < 1 or (np.diff(points.times) <= 0.0).any():
            why = "times do not rise"
        elif points.start + points.times[-1] < self.now:
            why = "ends in the past"
        elif points.v is not None and np.abs(points.v[-1]).max() > np.finfo(np.float32).eps:
            why = "does not end at rest"
        if why:
            self.refused.append(why)
            return False
        self._points, self._before, self._piece = points, (self.now, self.desired.copy()), None
        self.taken += 1
        return True

    def step(self, now: float, measured: Array | None = None) -> Array:
        """(n,) the positions commanded at ``now`` [s]."""
        self.now = now
        if self._points is not None:
            self.desired = self._sample(self._points, now)
            if self.tolerance and measured is not None and np.abs(measured - self.desired[0]).max() > self.tolerance:
                self.desired = np.stack([measured, np.zeros_like(measured), np.zeros_like(measured)])
                self._points = None
                self.aborted += 1
        return self.desired[0]

    def _sample(self, p: Points, now: float) -> Array:
        times = p.start + p.times
        if now >= times[-1]:
            still = np.zeros_like(p.q[-1])
            return np.stack([p.q[-1], still, still])
        i = int(np.searchsorted(times, now, side="right")) - 1
        if self._piece is None or self._piece[0] != i:
            known = [x for x in (p.q, p.v, p.a) if x is not None]
            since, state = self._before
            begin, left = (since, list(state[: len(known)])) if i < 0 else (float(times[i]), [x[i] for x in known])
            self._piece = i, Polynomial(begin, float(times[i + 1]), left, [x[i + 1] for x in known])
        return self._piece[1](now)


def main() -> int:
    """The node: 250 Hz, joint states at the same rate."""
    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.node import Node
    from sensor_msgs.msg import JointState
    from std_msgs.msg import String
    from trajectory_msgs.msg import JointTrajectory

    from tandem.nodes import messages
    from tandem.robots.model import load_arm

    parser = argparse.ArgumentParser()
    parser.add_argument("--pace", type=float, default=1.0, help="seconds of its clock a second")
    parser.add_argument("--offset", type=float, default=0.0, help="its clock less this machine's [s]")
    parser.add_argument("--lag", type=float, default=0.0, help="time constant of the arm behind it [s]")
    options = parser.parse_args(sys.argv[1:])
    rclpy.init(args=[])
    node, names = Node("controller_manager"), messages.Names().joints
    wall = node.get_clock().now().nanoseconds * 1e-9
    arm = load_arm("fr3")
    controller = Controller(arm.home.copy())
    measured = arm.home.copy()
    last = [0.0]

    def clock() -> float:
        now = node.get_clock().now().nanoseconds * 1e-9
        return wall + options.offset + options.pace * (now - wall)

    def arrived(msg: JointTrajectory) -> None:
        if list(msg.joint_names) != names[:-1]:
            controller.refused.append("wrong joints")
            return
        times = np.array([messages.seconds_from_stamp(p.time_from_start) for p in msg.points])
        q, v, a = (np.array([getattr(p, k) for p in msg.points]) for k in ("positions", "velocities", "accelerations"))
        controller.receive(Points(messages.seconds_from_stamp(msg.header.stamp), times, q, v, a))

    node.create_subscription(JointTrajectory, "joint_trajectory_controller/joint_trajectory", arrived, 10)
    states = node.create_publisher(JointState, "joint_states", 10)
    told = node.create_publisher(String, "stand_in", 10)

    def cycle() -> None:
        nonlocal measured
        now = clock()
        before, wanted = measured, controller.step(now)
        dt, last[0] = now - last[0], now
        share = 1.0 if options.lag == 0.0 else 1.0 - np.exp(-min(dt, 1.0) / options.lag)
        measured = before + share * (wanted - before)
        msg = JointState(name=names, position=[*measured.tolist(), 0.04], velocity=[*((measured - before) / dt).tolist(), 0.0])
        msg.effort = [0.0] * len(names)
        msg.header.stamp = messages.stamp_from_seconds(now)
        states.publish(msg)
        told.publish(String(data=f"{controller.taken} {controller.refused}"))

    node.create_timer(0.004, cycle)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
