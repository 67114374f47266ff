"""Inverse kinematics of end-effector chunks: damped least squares from waypoint to waypoint, compiled and batched.

Each waypoint starts at the previous one's solution, so a chunk stays on one branch of the kinematics. Step of an iteration:
``dq = z + J^T (J J^T + mu I)^-1 (e - J z)`` with the pose error ``e``, damping ``mu`` in proportion to ``|e|^2``
(Levenberg-Marquardt; Sugihara, "Solvability-unconcerned inverse kinematics by the Levenberg-Marquardt method", IEEE T-RO 27(5),
2011) and, on the first iteration, a pull ``z`` towards a posture, which the projection confines to the null space so that the
redundancy does not drift.
A joint that would leave its range is held at the limit and the others are asked to make up for it. Results are re-evaluated with
forward kinematics; nothing is clamped without a status that says so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import ArrayLike, NDArray

from tandem.core.errors import InputError
from tandem.robots.kinematics import compose, fk_single, jacobian_single
from tandem.robots.model import ArmModel

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: how far the rows of a pose's rotation may be from orthonormal (poses may have been float32), and its position from the base [m]
ROTATION_SLACK = 1e-4
MAX_COORDINATE = 100.0
#: longest joint step of one iteration [rad]
MAX_STEP = 0.5
OK, NOT_CONVERGED, BRANCH_JUMP, POSITION_LIMIT, VELOCITY_LIMIT = 0, 1, 2, 3, 4


class IkStatus(IntEnum):
    """What became of one waypoint."""

    OK = OK
    #: pose not reached within the tolerances, not finite, or no rigid pose
    NOT_CONVERGED = NOT_CONVERGED
    #: reached, but only by a jump of a joint
    BRANCH_JUMP = BRANCH_JUMP
    #: reached beyond a joint's position limit
    POSITION_LIMIT = POSITION_LIMIT
    #: reached, but faster than a joint's velocity limit
    VELOCITY_LIMIT = VELOCITY_LIMIT


class IkModel(NamedTuple):
    """The arrays of :class:`~tandem.robots.model.ArmModel` that the kernels need, under the same names."""

    joint_type: IntArray
    placement: Array
    axis: Array
    tool: Array
    lower: Array
    upper: Array
    velocity: Array
    velocity_position: Array


class IkSettings(NamedTuple):
    """Parameters of :func:`solve_chunk`, under the same names."""

    posture: Array
    dt: float
    posture_gain: float
    position_tolerance: float
    rotation_tolerance: float
    jump: float
    iterations: int


@dataclass(frozen=True)
class IkResult:
    """Solutions of a batch of chunks.

    Attributes:
        q: (B, H, n) [rad], always finite if the start is. status: (B, H) :class:`IkStatus`.
        position_error: (B, H) [m]. rotation_error: (B, H) [rad]; infinite where it was no usable pose.
    """

    q: Array
    status: IntArray
    position_error: Array
    rotation_error: Array

    @property
    def ok(self) -> NDArray[np.bool_]:
        """(B,) whether every waypoint of the chunk is OK."""
        return np.all(self.status == OK, axis=1)


@njit(cache=True, error_model="numpy")
def pose_error(current: Array, target: Array, e: Array) -> None:
    """Position [m] and rotation vector [rad] from ``current`` to ``target`` (4, 4), base frame, into e (6,). Exact up to pi."""
    for k in range(3):
        e[k] = target[k, 3] - current[k, 3]
    r = np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            r[i, j] = target[i, 0] * current[j, 0] + target[i, 1] * current[j, 1] + target[i, 2] * current[j, 2]
    x, y, z = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
    s = 0.5 * math.sqrt(x * x + y * y + z * z)
    c = 0.5 * (r[0, 0] + r[1, 1] + r[2, 2] - 1.0)
    if s > 1e-6 or c > 0.0:
        f = 0.5 * (math.atan2(s, c) / s if s > 1e-9 else 1.0)
        e[3], e[4], e[5] = f * x, f * y, f * z
        return
    # rotation by pi: the axis is the largest column of R + I
    k = 0
    for i in range(1, 3):
        if r[i, i] > r[k, k]:
            k = i
    norm = 0.0
    for i in range(3):
        e[3 + i] = r[i, k] + (1.0 if i == k else 0.0)
        norm += e[3 + i] ** 2
    for i in range(3):
        e[3 + i] *= math.pi / math.sqrt(norm)


@njit(cache=True, error_model="numpy")
def is_pose(t: Array) -> bool:
    """Whether (4, 4) is finite with a rotation matrix to within ``ROTATION_SLACK`` and a last row 0, 0, 0, 1."""
    for r in range(3):
        if not (abs(t[r, 3]) < MAX_COORDINATE and t[3, r] == 0.0):
            return False
        for c in range(r + 1):
            dot = t[r, 0] * t[c, 0] + t[r, 1] * t[c, 1] + t[r, 2] * t[c, 2]
            if not abs(dot - (1.0 if r == c else 0.0)) <= ROTATION_SLACK:
                return False
    x = t[0, 1] * t[1, 2] - t[0, 2] * t[1, 1]
    y = t[0, 2] * t[1, 0] - t[0, 0] * t[1, 2]
    z = t[0, 0] * t[1, 1] - t[0, 1] * t[1, 0]
    return x * t[2, 0] + y * t[2, 1] + z * t[2, 2] > 0.0 and t[3, 3] == 1.0


@njit(cache=True, error_model="numpy")
def solve6(a: Array, b: Array) -> None:
    """Solve ``a x = b`` in place for a symmetric positive definite a (6, 6), destroyed, by Cholesky; x overwrites b (6,)."""
    for j in range(6):
        for k in range(j):
            a[j, j] -= a[j, k] * a[j, k]
        a[j, j] = math.sqrt(a[j, j])
        inv = 1.0 / a[j, j]
        for i in range(j + 1, 6):
            for k in range(j):
                a[i, j] -= a[i, k] * a[j, k]
            a[i, j] *= inv
    for i in range(6):
        for k in range(i):
            b[i] -= a[i, k] * b[k]
        b[i] /= a[i, i]
    for i in range(5, -1, -1):
        for k in range(i + 1, 6):
            b[i] -= a[k, i] * b[k]
        b[i] /= a[i, i]


@njit(cache=True, error_model="numpy")
def damped_step(jac: Array, e: Array, z: Array, held: NDArray[np.bool_], mu: float, dq: Array) -> None:
    """One damped least-squares step into dq (n,); joints in ``held`` (n,) do not move, ``z`` (n,) is the null-space pull."""
    n = z.shape[0]
    gram, rhs = np.empty((6, 6)), np.empty(6)
    for i in range(6):
        rhs[i] = e[i]
        for k in range(n):
            if not held[k]:
                rhs[i] -= jac[i, k] * z[k]
        for j in range(i + 1):
            s = mu if i == j else 0.0
            for k in range(n):
                if not held[k]:
                    s += jac[i, k] * jac[j, k]
            gram[i, j] = s
    solve6(gram, rhs)
    for k in range(n):
        dq[k] = 0.0
        if not held[k]:
            dq[k] = z[k]
            for i in range(6):
                dq[k] += jac[i, k] * rhs[i]


@njit(cache=True, error_model="numpy")
def reach_pose(arm: IkModel, settings: IkSettings, target: Array, pull: Array, hold: bool, q: Array) -> tuple[float, float]:
    """Move q (n,) in place until the tool is at ``target`` (4, 4).

    Args:
        pull: (n,) null-space displacement of the first iteration [rad].
        hold: keep joints within their limits by holding them there; otherwise limits are ignored.

    Returns:
        position error [m] and rotation error [rad] at the final q, by forward kinematics.
    """
    n = q.shape[0]
    frames, tcp, jac = np.empty((n + 1, 4, 4)), np.empty((4, 4)), np.empty((6, n))
    e, dq, z, held = np.empty(6), np.empty(n), pull.copy(), np.zeros(n, dtype=np.bool_)
    position, rotation = np.inf, np.inf
    for step in range(settings.iterations + 1):
        fk_single(arm.joint_type, arm.placement, arm.axis, q, frames)
        compose(frames[n], arm.tool, tcp)
        pose_error(tcp, target, e)
        position = math.sqrt(e[0] * e[0] + e[1] * e[1] + e[2] * e[2])
        rotation = math.sqrt(e[3] * e[3] + e[4] * e[4] + e[5] * e[5])
        done = position <= settings.position_tolerance and rotation <= settings.rotation_tolerance
        if step == settings.iterations or (done and step > 0) or not math.isfinite(position + rotation):
            break
        jacobian_single(arm.joint_type, arm.axis, frames, tcp[0, 3], tcp[1, 3], tcp[2, 3], jac)
        mu = 0.1 * (position * position + rotation * rotation) + 1e-9
        damped_step(jac, e, z, held, mu, dq)
        if hold:
            stopped = False
            for k in range(n):
                if not held[k] and (q[k] + dq[k] < arm.lower[k] or q[k] + dq[k] > arm.upper[k]):
                    stopped = held[k] = True
                    q[k] = arm.lower[k] if q[k] + dq[k] < arm.lower[k] else arm.upper[k]
            if stopped:
                continue
        largest = 0.0
        for k in range(n):
            largest = max(largest, abs(dq[k]))
            z[k] = 0.0
        for k in range(n):
            q[k] += dq[k] * (1.0 if largest <= MAX_STEP else MAX_STEP / largest)
        if step % 8 == 7:
            for k in range(n):
                held[k] = False
    return position, rotation


@njit(cache=True, error_model="numpy")
def judge(arm: IkModel, settings: IkSettings, before: Array, q: Array) -> int:
    """Status of a converged waypoint q (n,) reached from ``before`` (n,).

    The mean velocity is held against the position-dependent limit at whichever end of the step is tighter.
    """
    fast = jumped = False
    for k in range(q.shape[0]):
        if not arm.lower[k] <= q[k] <= arm.upper[k]:
            return POSITION_LIMIT
        move = q[k] - before[k]
        limit = arm.velocity[k]
        a, b = arm.velocity_position[k, 0], arm.velocity_position[k, 1]
        up, low = arm.velocity_position[k, 2], arm.velocity_position[k, 3]
        if not math.isnan(a):
            room = up - max(q[k], before[k]) if move > 0.0 else min(q[k], before[k]) - low
            limit = min(limit, max(0.0, math.sqrt(max(b * room, 0.0)) - a))
        fast = fast or abs(move) > limit * settings.dt
        jumped = jumped or abs(move) > settings.jump
    return BRANCH_JUMP if jumped else (VELOCITY_LIMIT if fast else OK)


@njit(cache=True, error_model="numpy")
def solve_one(
    arm: IkModel, settings: IkSettings, start: Array, poses: Array, q_out: Array, status: IntArray, error: Array
) -> None:
    """One chunk: start (n,), poses (H, 4, 4) -> q_out (H, n), status (H,), error (H, 2) [m, rad]."""
    n = start.shape[0]
    before, q, free, pull = start.copy(), np.empty(n), np.empty(n), np.empty(n)
    for h in range(poses.shape[0]):
        usable = is_pose(poses[h])
        for k in range(n):
            usable = usable and math.isfinite(before[k])
            pull[k] = settings.posture_gain * settings.dt * (settings.posture[k] - before[k])
            q[k] = free[k] = before[k]
        if not usable:
            status[h], error[h, 0], error[h, 1] = NOT_CONVERGED, np.inf, np.inf
            for k in range(n):
                q_out[h, k] = before[k]
            continue
        error[h, 0], error[h, 1] = reach_pose(arm, settings, poses[h], pull, True, q)
        reached = error[h, 0] <= settings.position_tolerance and error[h, 1] <= settings.rotation_tolerance
        if not reached:
            position, rotation = reach_pose(arm, settings, poses[h], pull, False, free)
            if position <= settings.position_tolerance and rotation <= settings.rotation_tolerance:
                error[h, 0], error[h, 1], reached = position, rotation, True
                for k in range(n):
                    q[k] = free[k]
        status[h] = judge(arm, settings, before, q) if reached else NOT_CONVERGED
        for k in range(n):
            q_out[h, k] = before[k] = q[k]


@njit(cache=True, error_model="numpy")
def solve_batch(
    arm: IkModel, settings: IkSettings, start: Array, poses: Array, q_out: Array, status: IntArray, error: Array
) -> None:
    """:func:`solve_one` for start (B, n), poses (B, H, 4, 4)."""
    for b in range(start.shape[0]):
        solve_one(arm, settings, start[b], poses[b], q_out[b], status[b], error[b])


@njit(cache=True, parallel=True, error_model="numpy")
def solve_batch_parallel(
    arm: IkModel, settings: IkSettings, start: Array, poses: Array, q_out: Array, status: IntArray, error: Array
) -> None:
    """:func:`solve_batch` over all numba threads."""
    for b in prange(start.shape[0]):
        solve_one(arm, settings, start[b], poses[b], q_out[b], status[b], error[b])


def ik_model(arm: ArmModel) -> IkModel:
    """The part of ``arm`` that the kernels need."""
    return IkModel(*(getattr(arm, name) for name in IkModel._fields))


def _vector(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Array:
    try:
        return np.ascontiguousarray(np.broadcast_to(np.asarray(value, dtype=np.float64), shape))
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: expected numbers of shape {shape}: {error}") from error


def solve_chunk(
    arm: ArmModel,
    q_start: ArrayLike,
    poses: ArrayLike,
    *,
    dt: float,
    posture: ArrayLike | None = None,
    posture_gain: float = 0.5,
    position_tolerance: float = 1e-4,
    rotation_tolerance: float = 1e-3,
    jump: float = 0.8,
    iterations: int = 40,
    parallel: bool = False,
) -> IkResult:
    """Joint waypoints of batches of tool-pose chunks.

    Args:
        q_start: (n,) or (B, n) joint positions before the first waypoint [rad].
        poses: (B, H, 4, 4) tool poses in the base frame, ``dt`` [s] apart, the first one ``dt`` after the start.
        posture: (n,) configuration the redundancy is pulled to, at ``posture_gain`` [1/s]; default the arm's home.
        position_tolerance, rotation_tolerance: of convergence [m, rad].
        jump: joint step [rad] above which a waypoint counts as BRANCH_JUMP.
        iterations: at most this many steps a waypoint. parallel: spread the batch over all numba threads.

    Returns:
        One status a waypoint. A waypoint that was not reached holds the last configuration tried and the next one starts there;
        what is not finite or no rigid pose repeats the one before. The first waypoint is judged from ``q_start``.

    Raises:
        InputError: wrong shapes, or a parameter that is not finite and positive. NaN in ``q_start`` or ``poses`` is no error.
    """
    poses = np.ascontiguousarray(poses, dtype=np.float64)
    if poses.ndim != 4 or poses.shape[2:] != (4, 4):
        raise InputError(f"poses: shape {poses.shape}; expected (batch, horizon, 4, 4)")
    batch, horizon = poses.shape[:2]
    positive = {"dt": dt, "position_tolerance": position_tolerance, "rotation_tolerance": rotation_tolerance, "jump": jump}
    for name, value in positive.items():
        if not (math.isfinite(value) and value > 0.0):
            raise InputError(f"{name} = {value}: must be finite and > 0")
    if iterations < 1:
        raise InputError(f"iterations = {iterations}: must be >= 1")
    if not (math.isfinite(posture_gain) and 0.0 <= posture_gain * dt <= 1.0):
        raise InputError(f"posture_gain = {posture_gain}: posture_gain * dt must lie in 0 .. 1")
    start = _vector("q_start", q_start, (batch, arm.n))
    rest = _vector("posture", arm.home if posture is None else posture, (arm.n,))
    if not np.all(np.isfinite(rest)):
        raise InputError("posture: contains NaN or infinity")
    q = np.empty((batch, horizon, arm.n))
    status, error = np.empty((batch, horizon), dtype=np.int64), np.empty((batch, horizon, 2))
    settings = IkSettings(
        rest, float(dt), float(posture_gain), float(position_tolerance), float(rotation_tolerance), float(jump), int(iterations)
    )
    (solve_batch_parallel if parallel else solve_batch)(ik_model(arm), settings, start, poses, q, status, error)
    return IkResult(q, status, np.ascontiguousarray(error[..., 0]), np.ascontiguousarray(error[..., 1]))
