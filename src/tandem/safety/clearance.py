"""Clearance of single configurations from obstacles with its gradient: a barrier function for samplers. It certifies nothing.

The least signed distance between any of the arm's spheres and any obstacle, grown for what is not known about it as the
certificate grows it; self-collision is left out. The gradient is that of the nearest pair: the obstacle's distance field there
(central differences of the certificate's own distance function) through the Jacobian of the sphere's centre.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from tandem.core.errors import InputError
from tandem.core.scene import TABLE, Scene
from tandem.robots.kinematics import fk_single, jacobian_single, place_spheres
from tandem.robots.model import ArmModel
from tandem.safety.bounds import Bounds
from tandem.safety.geometry import PackedScene, pack_scene
from tandem.safety.kernels import O_GROW, O_SKIP, O_SPEED, distance

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: step of the differences of a distance field [m]
DIFFERENCE = 1e-5


@njit(cache=True, error_model="numpy")
def _clearance_batch(
    joint_type: IntArray, placement: Array, axis: Array, link: IntArray, center: Array, radius: Array, body: Array, face: Array,
    q: Array, t: Array, value: Array, gradient: Array,
) -> None:
    """Rows of q (B, n) at times t (B,) into value (B,) and gradient (B, n)."""
    n = q.shape[1]
    frames, at, jac, slope = np.empty((n + 1, 4, 4)), np.empty((link.shape[0], 3)), np.empty((6, n)), np.empty(3)
    for row in range(q.shape[0]):
        fk_single(joint_type, placement, axis, q[row], frames)
        place_spheres(frames, link, center, at)
        least, sphere, other = math.inf, -1, -1
        for o in range(body.shape[0]):
            grown = body[o, O_GROW] + body[o, O_SPEED] * t[row]
            for s in range(link.shape[0]):
                if body[o, O_SKIP + link[s]] != 0.0:
                    continue
                gap = distance(body, face, o, at[s, 0], at[s, 1], at[s, 2]) - radius[s] - grown
                if gap < least:
                    least, sphere, other = gap, s, o
        value[row] = least
        gradient[row] = 0.0
        if sphere < 0:
            continue
        x, y, z = at[sphere, 0], at[sphere, 1], at[sphere, 2]
        h = DIFFERENCE
        slope[0] = distance(body, face, other, x + h, y, z) - distance(body, face, other, x - h, y, z)
        slope[1] = distance(body, face, other, x, y + h, z) - distance(body, face, other, x, y - h, z)
        slope[2] = distance(body, face, other, x, y, z + h) - distance(body, face, other, x, y, z - h)
        jacobian_single(joint_type, axis, frames, x, y, z, jac)
        for i in range(link[sphere]):  # later joints do not move this sphere
            gradient[row, i] = (slope[0] * jac[0, i] + slope[1] * jac[1, i] + slope[2] * jac[2, i]) / (2.0 * h)


def clearance(arm: ArmModel, scene: PackedScene, q: ArrayLike, times: ArrayLike = 0.0) -> tuple[Array, Array]:
    """Clearance (...) [m] of configurations q (..., n) [rad] at ``times`` (...) [s] after the scene's start, gradient (..., n)
    [m/rad].

    +inf with gradient 0 where there is no obstacle to check.

    Raises:
        InputError: the last axis of ``q`` is not the number of joints, or q or times is not finite.
    """
    q = np.asarray(q, dtype=np.float64)
    if q.ndim < 1 or q.shape[-1] != arm.n:
        raise InputError(f"clearance: q has shape {q.shape}; the last axis must hold the {arm.n} joints of {arm.name}")
    rows = np.ascontiguousarray(q.reshape(-1, arm.n))
    t = np.ascontiguousarray(np.broadcast_to(np.asarray(times, dtype=np.float64), q.shape[:-1]).reshape(-1))
    if not (np.isfinite(rows).all() and np.isfinite(t).all()):
        raise InputError("clearance: q or times is not finite")
    value, gradient = np.empty(len(rows)), np.empty_like(rows)
    _clearance_batch(
        arm.joint_type, arm.placement, arm.axis, arm.sphere_link, arm.sphere_center, arm.sphere_radius, scene.arrays.obstacle,
        scene.arrays.face, rows, t, value, gradient,
    )
    return value.reshape(q.shape[:-1]), gradient.reshape(q.shape)


def compile_clearance(arm: ArmModel) -> None:
    """Fill Numba's cache."""
    clearance(arm, pack_scene(Scene((TABLE,)), arm, Bounds(), 0.0), arm.home)
