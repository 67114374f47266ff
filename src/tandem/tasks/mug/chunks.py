"""What the policy sees and says: conditioning and chunks, both in the mug's frame.

A *step* is position (3) [m], 6-D rotation (6) and gripper width (1) [m] of the hand relative to the mug as last seen, so that a
grasp is the same numbers wherever the mug stands. The network is given the present step and its change over the last 0.1 s (a
value of its own: otherwise the speed hides in the difference of two nearly equal numbers), and says where the hand is to be.
:func:`decode` returns the absolute poses that are executed; they leave the present step smoothly, see :func:`entered`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tandem.core.se3 import inverse, matrix_from_rot6d, pose, rot6d_from_matrix

Array = NDArray[np.float64]

#: conditioning: mug position (3) and 6-D rotation (6) in the base frame, the present step, its change since the step before
COND_DIM = 9 + 2 * 10
#: how fast a chunk's distance from the present step fades [s]
ENTRY = 0.4


def encode_steps(mug: Array, tcp: Array, width: Array) -> Array:
    """(..., 10) steps from mug (..., 4, 4) and tcp (..., 4, 4) poses in the base frame, width (...) [m]."""
    relative = inverse(mug) @ tcp
    return np.concatenate([relative[..., :3, 3], rot6d_from_matrix(relative[..., :3, :3]), width[..., None]], axis=-1)


def encode_condition(mug: Array, tcp: Array, width: Array) -> Array:
    """(..., COND_DIM) from mug (..., 4, 4), tcp (..., 2, 4, 4) at one step before and at the start, width (..., 2)."""
    history = encode_steps(mug[..., None, :, :], tcp, width)
    own = np.concatenate([mug[..., :3, 3], rot6d_from_matrix(mug[..., :3, :3])], axis=-1)
    return np.concatenate([own, history[..., 1, :], history[..., 1, :] - history[..., 0, :]], axis=-1)


def present_step(cond: Array) -> Array:
    """(..., 10) the present step, from conditioning (..., COND_DIM)."""
    return cond[..., 9:19]


def entered(chunk: Array, present: Array, dt: float) -> Array:
    """Chunks (..., H, 10) that begin at the present step (10,).

    A sampled chunk passes near the present step, not through it. What it misses it by (extrapolated from its first two waypoints)
    is added to it and fades out over :data:`ENTRY` seconds.
    """
    missed = present - (2.0 * chunk[..., 0, :] - chunk[..., 1, :])
    times = dt * np.arange(1, chunk.shape[-2] + 1)
    return chunk + missed[..., None, :] * np.exp(-((times / ENTRY) ** 2))[:, None]


def decode(mug: Array, chunk: Array, present: Array, dt: float = 0.1) -> tuple[Array, Array]:
    """Absolute tcp poses (N, H, 4, 4) and widths (N, H) [m] of chunks (N, H, 10), for mug (4, 4) and the present step (10,)."""
    steps = entered(chunk, present, dt)
    relative = pose(steps[..., :3], matrix_from_rot6d(steps[..., 3:9]))
    return mug @ relative, np.clip(steps[..., 9], 0.0, 0.08)
