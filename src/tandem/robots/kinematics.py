"""Forward kinematics and Jacobians, compiled. Kernels take plain float64 C-contiguous arrays, so other kernels can call them.

An arm is the product of fixed placements and one-parameter joint motions: ``T_i = T_{i-1} placement_i exp(axis_i q_i)``, with
``T_0`` the base. Frame ``i`` (1..n) is the frame of joint ``i-1`` after its motion, as in URDF (child link frame).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numba import njit, prange
from numpy.typing import ArrayLike, NDArray

from tandem.core.errors import InputError

if TYPE_CHECKING:
    from tandem.robots.model import ArmModel

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


@njit(cache=True, inline="never", error_model="numpy")
def fk_single(joint_type: IntArray, placement: Array, axis: Array, q: Array, frames: Array) -> None:
    """Link frames of one configuration.

    Args:
        joint_type: (n,) 0 revolute, 1 prismatic. placement: (n, 4, 4). axis: (n, 3) unit. q: (n,) [rad or m].
        frames: (n+1, 4, 4) overwritten; ``frames[0]`` becomes the identity, rows ``(0, 0, 0, 1)`` are written too.
    """
    n = q.shape[0]
    for r in range(4):
        for c in range(4):
            frames[0, r, c] = 1.0 if r == c else 0.0
    for i in range(n):
        for r in range(3):
            p0, p1, p2 = frames[i, r, 0], frames[i, r, 1], frames[i, r, 2]
            for c in range(4):
                frames[i + 1, r, c] = p0 * placement[i, 0, c] + p1 * placement[i, 1, c] + p2 * placement[i, 2, c]
            frames[i + 1, r, 3] += frames[i, r, 3]
        frames[i + 1, 3, 0] = 0.0
        frames[i + 1, 3, 1] = 0.0
        frames[i + 1, 3, 2] = 0.0
        frames[i + 1, 3, 3] = 1.0
        x, y, z = axis[i, 0], axis[i, 1], axis[i, 2]
        if joint_type[i] == 1:
            for r in range(3):
                f = frames[i + 1]
                f[r, 3] += q[i] * (f[r, 0] * x + f[r, 1] * y + f[r, 2] * z)
            continue
        s, co = math.sin(q[i]), math.cos(q[i])
        if z == 1.0:
            for r in range(3):
                a, b = frames[i + 1, r, 0], frames[i + 1, r, 1]
                frames[i + 1, r, 0] = co * a + s * b
                frames[i + 1, r, 1] = co * b - s * a
            continue
        v = 1.0 - co
        for r in range(3):
            a, b, c2 = frames[i + 1, r, 0], frames[i + 1, r, 1], frames[i + 1, r, 2]
            frames[i + 1, r, 0] = a * (co + x * x * v) + b * (y * x * v + z * s) + c2 * (z * x * v - y * s)
            frames[i + 1, r, 1] = a * (x * y * v - z * s) + b * (co + y * y * v) + c2 * (z * y * v + x * s)
            frames[i + 1, r, 2] = a * (x * z * v + y * s) + b * (y * z * v - x * s) + c2 * (co + z * z * v)


@njit(cache=True, error_model="numpy")
def compose(a: Array, b: Array, out: Array) -> None:
    """``out = a @ b`` for (4, 4) rigid transforms; ``out`` must be neither ``a`` nor ``b``."""
    for r in range(3):
        for c in range(4):
            out[r, c] = a[r, 0] * b[0, c] + a[r, 1] * b[1, c] + a[r, 2] * b[2, c]
        out[r, 3] += a[r, 3]
        out[3, r] = 0.0
    out[3, 3] = 1.0


@njit(cache=True, error_model="numpy")
def jacobian_single(joint_type: IntArray, axis: Array, frames: Array, px: float, py: float, pz: float, out: Array) -> None:
    """Geometric Jacobian at a point that moves with the last link, for frames from :func:`fk_single`.

    Args:
        px, py, pz: the point in the base frame [m].
        out: (6, n) overwritten; rows 0..2 linear velocity, 3..5 angular velocity, in the base frame, a unit joint velocity each.
    """
    n = joint_type.shape[0]
    for i in range(n):
        f = frames[i + 1]
        x = f[0, 0] * axis[i, 0] + f[0, 1] * axis[i, 1] + f[0, 2] * axis[i, 2]
        y = f[1, 0] * axis[i, 0] + f[1, 1] * axis[i, 1] + f[1, 2] * axis[i, 2]
        z = f[2, 0] * axis[i, 0] + f[2, 1] * axis[i, 1] + f[2, 2] * axis[i, 2]
        if joint_type[i] == 1:
            out[0, i], out[1, i], out[2, i] = x, y, z
            out[3, i] = out[4, i] = out[5, i] = 0.0
        else:
            dx, dy, dz = px - f[0, 3], py - f[1, 3], pz - f[2, 3]
            out[0, i] = y * dz - z * dy
            out[1, i] = z * dx - x * dz
            out[2, i] = x * dy - y * dx
            out[3, i], out[4, i], out[5, i] = x, y, z


@njit(cache=True, error_model="numpy")
def fk_batch(joint_type: IntArray, placement: Array, axis: Array, q: Array, out: Array) -> None:
    """:func:`fk_single` for q (B, n) into out (B, n+1, 4, 4)."""
    for b in range(q.shape[0]):
        fk_single(joint_type, placement, axis, q[b], out[b])


@njit(cache=True, parallel=True, error_model="numpy")
def fk_batch_parallel(joint_type: IntArray, placement: Array, axis: Array, q: Array, out: Array) -> None:
    """:func:`fk_batch` over all numba threads."""
    for b in prange(q.shape[0]):
        fk_single(joint_type, placement, axis, q[b], out[b])


@njit(cache=True, error_model="numpy")
def tcp_batch(joint_type: IntArray, placement: Array, axis: Array, tool: Array, q: Array, out: Array) -> None:
    """Tool frames (B, 4, 4) for q (B, n)."""
    frames = np.empty((q.shape[1] + 1, 4, 4))
    for b in range(q.shape[0]):
        fk_single(joint_type, placement, axis, q[b], frames)
        compose(frames[q.shape[1]], tool, out[b])


@njit(cache=True, error_model="numpy")
def jacobian_batch(joint_type: IntArray, placement: Array, axis: Array, tool: Array, q: Array, out: Array) -> None:
    """Tool Jacobians (B, 6, n) for q (B, n)."""
    n = q.shape[1]
    frames = np.empty((n + 1, 4, 4))
    tcp = np.empty((4, 4))
    for b in range(q.shape[0]):
        fk_single(joint_type, placement, axis, q[b], frames)
        compose(frames[n], tool, tcp)
        jacobian_single(joint_type, axis, frames, tcp[0, 3], tcp[1, 3], tcp[2, 3], out[b])


@njit(cache=True, error_model="numpy")
def place_spheres(frames: Array, sphere_link: IntArray, sphere_center: Array, out: Array) -> None:
    """Sphere centres in the base frame, (S, 3), for one configuration's frames (n+1, 4, 4)."""
    for s in range(sphere_link.shape[0]):
        f = frames[sphere_link[s]]
        x, y, z = sphere_center[s, 0], sphere_center[s, 1], sphere_center[s, 2]
        for r in range(3):
            out[s, r] = f[r, 0] * x + f[r, 1] * y + f[r, 2] * z + f[r, 3]


def _batch(arm: ArmModel, q: ArrayLike) -> tuple[Array, tuple[int, ...]]:
    """q as a C-contiguous (B, n) array, and the leading shape it came with."""
    q = np.asarray(q, dtype=np.float64)
    if q.ndim < 1 or q.shape[-1] != arm.n:
        raise InputError(f"q: shape {q.shape}; the last axis must hold the {arm.n} joints of {arm.name}")
    return np.ascontiguousarray(q.reshape(-1, arm.n)), q.shape[:-1]


def fk(arm: ArmModel, q: ArrayLike, *, parallel: bool = False) -> Array:
    """Link frames (..., n+1, 4, 4) in the base frame for q (..., n) [rad]; index 0 is the base. NaN in, NaN out.

    ``parallel`` spreads the batch over all numba threads (worth it from a few thousand configurations on).

    Raises:
        InputError: the last axis of ``q`` is not the number of joints.
    """
    rows, lead = _batch(arm, q)
    out = np.empty((rows.shape[0], arm.n + 1, 4, 4))
    (fk_batch_parallel if parallel else fk_batch)(arm.joint_type, arm.placement, arm.axis, rows, out)
    return out.reshape(*lead, arm.n + 1, 4, 4)


def tcp_pose(arm: ArmModel, q: ArrayLike) -> Array:
    """Tool poses (..., 4, 4) in the base frame for q (..., n) [rad]."""
    rows, lead = _batch(arm, q)
    out = np.empty((rows.shape[0], 4, 4))
    tcp_batch(arm.joint_type, arm.placement, arm.axis, arm.tool, rows, out)
    return out.reshape(*lead, 4, 4)


def jacobian(arm: ArmModel, q: ArrayLike) -> Array:
    """Geometric tool Jacobians (..., 6, n): linear [m/rad] over angular [rad/rad] rows, base frame, at the tool centre point."""
    rows, lead = _batch(arm, q)
    out = np.empty((rows.shape[0], 6, arm.n))
    jacobian_batch(arm.joint_type, arm.placement, arm.axis, arm.tool, rows, out)
    return out.reshape(*lead, 6, arm.n)


def sphere_centers(arm: ArmModel, q: ArrayLike) -> Array:
    """Centres (..., S, 3) [m] of the collision spheres in the base frame for q (..., n) [rad]."""
    frames = fk(arm, q)
    f = frames[..., arm.sphere_link, :3, :]
    return np.einsum("...sij,sj->...si", f[..., :3], arm.sphere_center) + f[..., 3]
