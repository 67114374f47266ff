"""Poses as 4x4 homogeneous matrices and the 6-D rotation of learned policies (the matrix' first two columns)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def pose(position: Array, rotation: Array) -> Array:
    """(..., 4, 4) from (..., 3) position [m] and (..., 3, 3) rotation."""
    out = np.zeros((*position.shape[:-1], 4, 4))
    out[..., :3, :3] = rotation
    out[..., :3, 3] = position
    out[..., 3, 3] = 1.0
    return out


def inverse(t: Array) -> Array:
    """Inverse of (..., 4, 4) rigid transforms."""
    r = np.swapaxes(t[..., :3, :3], -1, -2)
    return pose(-(r @ t[..., :3, 3:])[..., 0], r)


def rot6d_from_matrix(r: Array) -> Array:
    """(..., 6): first column, then second column of (..., 3, 3)."""
    return np.concatenate([r[..., :, 0], r[..., :, 1]], axis=-1)


def matrix_from_rot6d(x: Array) -> Array:
    """(..., 3, 3) by Gram-Schmidt from (..., 6); degenerate input gives NaN, which every checker refuses."""
    with np.errstate(divide="ignore", invalid="ignore"):
        a = x[..., :3] / np.linalg.norm(x[..., :3], axis=-1, keepdims=True)
        b = x[..., 3:] - np.sum(a * x[..., 3:], axis=-1, keepdims=True) * a
        b = b / np.linalg.norm(b, axis=-1, keepdims=True)
    return np.stack([a, b, np.cross(a, b)], axis=-1)


def rotation_angle(r: Array) -> Array:
    """Angle [rad] of (..., 3, 3) rotations, accurate near zero."""
    s = np.stack([r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]], -1)
    return np.arctan2(0.5 * np.linalg.norm(s, axis=-1), 0.5 * (np.trace(r, axis1=-2, axis2=-1) - 1.0))
