"""The scripted expert: from a start posture to a lifted mug, along one of several distinct ways, with one of several grasps.

Ways (how the hand travels from the robot's right to the point above the grasp): ``straight``; ``left`` and ``right`` of the line
of travel (left is the robot's side); ``high``; ``back`` (up and left). They part within the first second.
Grasps: ``handle``, and ``rim1`` .. ``rim5``: one finger inside, on the face whose normal is 60, 120, .. 300 deg from the handle.
The hand points straight down throughout; redundancy is resolved by staying as close to :data:`~tandem.sim.world.HOME` as the pose
allows, so that joint positions are a function of the pose and inherit its smoothness.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from tandem.core.objects import MarkerObject
from tandem.core.se3 import pose
from tandem.sim.world import HOME, MAX_WIDTH

Array = NDArray[np.float64]

WAYS = ("straight", "left", "right", "high", "back")
#: where the tcp is when an episode starts [m] and how the hand is turned [rad]
START_POSITION = (0.36, -0.44, 0.42)
START_YAW = -0.4
GRASPS = ("handle", "rim1", "rim2", "rim3", "rim4", "rim5")
#: spacing of the expert's set-points [s]
DT = 0.01
CLOSE_TIME, LIFT_TIME, HOLD = 0.9, 1.3, 0.8
CLOSING_RAMP = 0.8
LIFT = 0.2
MAX_TCP_SPEED = 0.33
MAX_JOINT_SPEED = 1.0
MAX_JOINT_ACCELERATION = 3.9
MAX_HAND_YAW = math.radians(65.0)
#: fingertips reach this far beyond the tcp [m]
TIP = 0.0088
_POINT_DOWN = np.diag([1.0, -1.0, -1.0])
#: distance kept from every joint limit [rad]
LIMIT_MARGIN = 0.15


class NoPlan(Exception):
    """The expert has no motion for this request; the message says why."""


@dataclass(frozen=True)
class ExpertPlan:
    """Set-points every :data:`DT`.

    Attributes:
        q: (T, 7) joint positions [rad]. tcp: (T, 4, 4) pose of ``fr3_hand_tcp``. width: (T,) commanded gripper width [m].
        approach_end: index of the first set-point of the closing phase; lift_start: of the lift.
    """

    q: Array
    tcp: Array
    width: Array
    approach_end: int
    lift_start: int

    def trajectory(self) -> CubicSpline:
        """Joint positions as a twice differentiable function of time [s], at rest at both ends."""
        return CubicSpline(DT * np.arange(len(self.q)), self.q, bc_type="clamped")


def hand_pose(position: Array, yaw: float) -> Array:
    """(4, 4) pose of a hand that points down, turned by ``yaw`` [rad] about z; yaw 0 opens the fingers along y."""
    c, s = math.cos(yaw), math.sin(yaw)
    return pose(np.asarray(position, dtype=np.float64), np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ _POINT_DOWN)


def grasp_pose(mug: MarkerObject, mug_pose: Array, grasp: str, along: float = 0.0, deeper: float = 0.0) -> tuple[Array, float]:
    """Where the hand closes.

    Args:
        mug_pose: (4, 4). grasp: one of :data:`GRASPS`. along: offset along the rim [m] (rim grasps only).
        deeper: tcp lower by this much [m].

    Returns:
        (4, 4) tcp pose, and the hand's yaw [rad] in (-pi/2, pi/2].
    """
    body, handle = mug.body, mug.handle
    heading = math.atan2(mug_pose[1, 0], mug_pose[0, 0])
    if grasp == "handle":
        local = np.array([body.apothem + handle.reach - handle.thickness / 2, 0.0, handle.high - 0.014 - deeper])
        closing = heading + math.pi / 2
    else:
        angle = 2.0 * math.pi * int(grasp[3:]) / body.sides
        normal = np.array([math.cos(angle), math.sin(angle), 0.0])
        tangent = np.array([-normal[1], normal[0], 0.0])
        local = (body.apothem - body.wall / 2) * normal + along * tangent
        local[2] = body.height - 0.022 + TIP - deeper
        closing = heading + angle
    yaw = (closing + math.pi / 2) % math.pi
    yaw = yaw - math.pi if yaw > math.pi / 2 else yaw
    return hand_pose(mug_pose[:3, :3] @ local + mug_pose[:3, 3], yaw), yaw


class ArmSolver:
    """Inverse kinematics on a MuJoCo model's ``tcp`` site; of all postures that reach a pose, the one nearest to ``HOME``."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self.model = model
        self.data = mujoco.MjData(model)
        self.site = model.site("tcp").id
        self.low, self.high = model.jnt_range[:7].T
        self._jacobian = np.zeros((6, model.nv))

    def forward(self, q: Array) -> Array:
        """(4, 4) tcp pose at q (7,)."""
        self.data.qpos[:7] = q
        mujoco.mj_kinematics(self.model, self.data)
        return pose(self.data.site_xpos[self.site], self.data.site_xmat[self.site].reshape(3, 3))

    def solve(self, target: Array, start: Array, iterations: int = 60) -> Array:
        """(7,) posture that reaches ``target`` (4, 4), continued from ``start`` (7,).

        Raises:
            NoPlan: no convergence to 1e-8, or nearer to a joint limit than :data:`LIMIT_MARGIN`.
        """
        q = np.array(start, dtype=np.float64)
        eye = np.eye(7)
        for _ in range(iterations):
            here = self.forward(q)
            mujoco.mj_comPos(self.model, self.data)
            mujoco.mj_jacSite(self.model, self.data, self._jacobian[:3], self._jacobian[3:], self.site)
            jac = self._jacobian[:, :7]
            turn = target[:3, :3] @ here[:3, :3].T
            vec = 0.5 * np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
            error = np.concatenate([target[:3, 3] - here[:3, 3], vec])
            inverse = jac.T @ np.linalg.inv(jac @ jac.T + 1e-10 * np.eye(6))
            centre = (eye - inverse @ jac) @ (HOME - q)
            step = inverse @ error + centre
            size = float(np.abs(step).max())
            q = q + step * min(1.0, 0.3 / max(size, 1e-12))
            if np.abs(error).max() < 1e-8 and np.abs(centre).max() < 1e-7:
                if np.any(q < self.low + LIMIT_MARGIN) or np.any(q > self.high - LIMIT_MARGIN):
                    raise NoPlan("joint limit")
                return q
        raise NoPlan("inverse kinematics did not converge")


def _progress(duration: float, rise: float, fall: float) -> Array:
    """Path parameter 0 .. 1 every DT: speed rises smoothly over ``rise`` [s], is constant, falls over ``fall`` [s]."""
    t: Array = DT * np.arange(round(duration / DT) + 1, dtype=np.float64)

    def ease(x: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Integral of the smoothstep 10x^3 - 15x^4 + 6x^5 from 0 to x, x clipped to 0 .. 1, continued with slope 1."""
        c = np.clip(x, 0.0, 1.0)
        return 2.5 * c**4 - 3.0 * c**5 + c**6 + np.maximum(x - 1.0, 0.0)

    raw = rise * ease(t / rise) - fall * ease((t - (duration - fall)) / fall)
    return np.asarray(raw / raw[-1], dtype=np.float64)


def minimum_jerk(duration: float) -> Array:
    """(T,) 0 .. 1 every DT along the minimum-jerk profile."""
    s = DT * np.arange(round(duration / DT) + 1) / duration
    return s**3 * (10.0 - 15.0 * s + 6.0 * s * s)


def way_points(start: Array, goal: Array, way: str, size: float, above: float = 0.09) -> tuple[Array, Array, Array]:
    """Points (P, 3) the tcp passes from ``start`` to ``goal`` (3,) and the directions (3,) of departure and arrival.

    Args:
        size: 0 .. 1, how wide the way is: 0.15 .. 0.22 m off the straight line.
        above: the last leg begins this far above the goal [m].
    """
    top = goal + np.array([0.0, 0.0, above])
    line = top - start
    flat = np.array([line[0], line[1], 0.0]) / max(float(np.hypot(line[0], line[1])), 1e-6)
    side = np.array([-flat[1], flat[0], 0.0])
    up = np.array([0.0, 0.0, 1.0])
    bulge = {
        "straight": np.zeros(3),
        "left": (0.14 + 0.05 * size) * side + 0.06 * up,
        "right": -(0.16 + 0.06 * size) * side,
        "high": (0.17 + 0.06 * size) * up,
        "back": (0.09 + 0.02 * size) * side + (0.13 + 0.05 * size) * up,
    }[way]
    vias = [start + 0.22 * line + 0.8 * bulge, start + 0.58 * line + bulge]
    departure = 0.8 * bulge + 0.1 * line
    return np.array([start, *vias, top, goal]), departure / np.linalg.norm(departure), -up


def _arc_length_curve(points: Array, departure: Array, arrival: Array) -> tuple[CubicSpline, float]:
    """Cubic spline through the points as a function of arc length 0 .. 1, and its length [m]."""
    chord = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    curve = CubicSpline(chord, points, bc_type=((1, departure), (1, arrival)))
    fine = np.linspace(0.0, chord[-1], 801)
    dense = curve(fine)
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(dense, axis=0), axis=1))])
    knots = np.interp(np.linspace(0.0, length[-1], 41), length, fine)
    return CubicSpline(np.linspace(0.0, 1.0, 41), curve(knots)), float(length[-1])


def _approach(curve: CubicSpline, length: float, yaws: tuple[float, float], stretch: float) -> Array:
    """(T, 4, 4) tcp poses from start to goal; the hand turns during the first three quarters."""
    rise, fall = 0.7, 1.3
    duration = max(3.0, length / MAX_TCP_SPEED + 0.5 * (rise + fall)) * stretch
    duration = math.ceil(round(duration * 10.0, 6)) / 10.0
    where = curve(_progress(duration, rise, fall))
    turn = np.minimum(np.arange(len(where)) / (0.75 * (len(where) - 1)), 1.0)
    turn = turn**3 * (10.0 - 15.0 * turn + 6.0 * turn * turn)
    yaw = yaws[0] + turn * (yaws[1] - yaws[0])
    return np.stack([hand_pose(p, float(a)) for p, a in zip(where, yaw, strict=True)])


def sketch(
    solver: ArmSolver, mug: MarkerObject, mug_pose: Array, q_start: Array, way: str, grasp: str, size: float = 0.5
) -> tuple[Array, Array, int]:
    """The geometry of :func:`plan` without its timing, about every 15 mm: many times quicker.

    Returns:
        q (P, 7), tcp positions (P, 3) and the index at which the hand is at the grasp; the rest is the lift.

    Raises:
        NoPlan: hand turned too far, or outside the joint limits.
    """
    goal, yaw = grasp_pose(mug, mug_pose, grasp)
    if abs(yaw) > MAX_HAND_YAW:
        raise NoPlan("hand turned too far")
    here = solver.forward(q_start)
    points, departure, arrival = way_points(here[:3, 3], goal[:3, 3], way, size)
    curve, length = _arc_length_curve(points, departure, arrival)
    approach = _approach(curve, length, (math.atan2(here[1, 0], here[0, 0]), yaw), 1.0)
    approach = np.concatenate([approach[:-1:5], approach[-1:]])
    rising = np.repeat(goal[None], 9, axis=0)
    rising[:, 2, 3] += np.linspace(0.0, LIFT, 9)
    joints = [q_start]
    for target in [*approach[1:], *rising[1:]]:
        joints.append(solver.solve(target, joints[-1]))
    return np.array(joints), np.concatenate([approach, rising[1:]])[:, :3, 3], len(approach) - 1


def plan(
    solver: ArmSolver, mug: MarkerObject, mug_pose: Array, q_start: Array, way: str, grasp: str,
    size: float = 0.5, along: float = 0.0, deeper: float = 0.0,
) -> ExpertPlan:
    """The whole motion: approach, close, lift, hold.

    Args:
        solver: kinematics. mug_pose: (4, 4). q_start: (7,) posture at rest whose hand points down.
        way, grasp: of :data:`WAYS`, :data:`GRASPS`. size: see :func:`way_points`. along, deeper: see :func:`grasp_pose`.

    Raises:
        NoPlan: hand turned too far, outside the joint limits, or too fast for the joints at every stretch tried.
    """
    goal, yaw = grasp_pose(mug, mug_pose, grasp, along, deeper)
    if abs(yaw) > MAX_HAND_YAW:
        raise NoPlan("hand turned too far")
    here = solver.forward(q_start)
    begin = math.atan2(here[1, 0], here[0, 0])
    points, departure, arrival = way_points(here[:3, 3], goal[:3, 3], way, size)
    curve, length = _arc_length_curve(points, departure, arrival)
    for stretch in (1.0, 1.1, 1.2, 1.35, 1.5):
        approach = _approach(curve, length, (begin, yaw), stretch)
        rising = np.repeat(goal[None], round(LIFT_TIME / DT) + 1, axis=0)
        rising[:, 2, 3] += LIFT * minimum_jerk(LIFT_TIME)
        joints = [q_start]
        for target in [*approach[1:], *rising[1:]]:
            joints.append(solver.solve(target, joints[-1]))
        reach, pause, rest = len(approach), round(CLOSE_TIME / DT), round(HOLD / DT)
        q = np.array(joints)
        still, end = np.repeat(q[reach - 1 : reach], pause, axis=0), np.repeat(q[-1:], rest, axis=0)
        q = np.concatenate([q[:reach], still, q[reach:], end])
        tcp = np.concatenate([approach, np.repeat(goal[None], pause, axis=0), rising[1:], np.repeat(rising[-1:], rest, axis=0)])
        closing = MAX_WIDTH * np.clip(1.0 - DT * (np.arange(len(q)) - (reach - 1)) / CLOSING_RAMP, 0.0, 1.0)
        result = ExpertPlan(q, tcp, closing, reach - 1, reach - 1 + pause)
        speed, acceleration = np.abs(np.diff(q, axis=0)).max() / DT, np.abs(np.diff(q, 2, axis=0)).max() / DT**2
        if speed <= MAX_JOINT_SPEED and acceleration <= MAX_JOINT_ACCELERATION:
            return result
    raise NoPlan("too fast for the joints")
