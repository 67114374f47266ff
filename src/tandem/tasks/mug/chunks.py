"""What the policy sees and says: conditioning and chunks, both in the mug's frame.

A *step* is position (3) [m], 6-D rotation (6) and gripper width (1) [m] of the hand relative to the mug as last seen, so that a
grasp is the same numbers wherever the mug stands. Its x and y are compressed far from the mug (:func:`compress`): grasps lie
within centimetres of each other, ways within decimetres, and a diffusion of few steps blurs what is small against the whole range. The network is given the present step and its change over the last 0.1 s (a
value of its own: otherwise the speed hides in the difference of two nearly equal numbers), and says by how much the hand is to
move from there: waypoint h is stored as ``(step_h - step_0) / sqrt(h)``, so that chunks begin where the hand is and near
waypoints are as finely resolved as far ones. :func:`decode` returns the absolute poses that are executed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tandem.core.se3 import inverse, matrix_from_rot6d, pose, rot6d_from_matrix

Array = NDArray[np.float64]

#: conditioning: mug position (3) and 6-D rotation (6) in the base frame, the present step, its change since the step before
COND_DIM = 9 + 2 * 10


#: distance up to which x and y are (nearly) themselves [m]
NEAR = 0.06


def compress(step: Array) -> Array:
    """Steps (..., 10) with x and y replaced by ``NEAR asinh(. / NEAR)``."""
    return np.concatenate([NEAR * np.arcsinh(step[..., :2] / NEAR), step[..., 2:]], axis=-1)


def expand(step: Array) -> Array:
    """The inverse of :func:`compress`."""
    return np.concatenate([NEAR * np.sinh(step[..., :2] / NEAR), step[..., 2:]], axis=-1)


def encode_steps(mug: Array, tcp: Array, width: Array) -> Array:
    """(..., 10) steps from mug (..., 4, 4) and tcp (..., 4, 4) poses in the base frame, width (...) [m]; compressed."""
    relative = inverse(mug) @ tcp
    step = np.concatenate([relative[..., :3, 3], rot6d_from_matrix(relative[..., :3, :3]), width[..., None]], axis=-1)
    return compress(step)


def encode_condition(mug: Array, tcp: Array, width: Array) -> Array:
    """(..., COND_DIM) from mug (..., 4, 4), tcp (..., 2, 4, 4) at one step before and at the start, width (..., 2)."""
    history = encode_steps(mug[..., None, :, :], tcp, width)
    own = np.concatenate([mug[..., :3, 3], rot6d_from_matrix(mug[..., :3, :3])], axis=-1)
    return np.concatenate([own, history[..., 1, :], history[..., 1, :] - history[..., 0, :]], axis=-1)


def present_step(cond: Array) -> Array:
    """(..., 10) the present step, from conditioning (..., COND_DIM)."""
    return cond[..., 9:19]


def step_scale(horizon: int) -> Array:
    """(horizon, 1) what a waypoint's displacement is divided by."""
    return np.sqrt(np.arange(1.0, horizon + 1.0))[:, None]


def encode_chunk(steps: Array, present: Array) -> Array:
    """Chunks (..., H, 10) from steps (..., H, 10) and the present step (..., 10)."""
    return (steps - present[..., None, :]) / step_scale(steps.shape[-2])


def decode(mug: Array, chunk: Array, present: Array) -> tuple[Array, Array]:
    """Absolute tcp poses (N, H, 4, 4) and widths (N, H) [m] of chunks (N, H, 10), for mug (4, 4) and the present step (10,)."""
    steps = expand(present + chunk * step_scale(chunk.shape[-2]))
    relative = pose(steps[..., :3], matrix_from_rot6d(steps[..., 3:9]))
    return mug @ relative, np.clip(steps[..., 9], 0.0, 0.08)
