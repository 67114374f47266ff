"""What the policy sees and says: conditioning and chunks, both in the mug's frame.

The policy's inputs and outputs are end-effector poses relative to the mug as last seen, so a grasp is the same numbers wherever
the mug stands; :func:`decode` returns the absolute poses that are executed. One step of a chunk is position (3) [m],
6-D rotation (6), gripper width (1) [m] (``core.types.CHUNK_DIM``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tandem.core.se3 import inverse, matrix_from_rot6d, pose, rot6d_from_matrix

Array = NDArray[np.float64]

#: conditioning: mug position (3) and 6-D rotation (6) in the base frame, then two steps of history in the mug's frame
COND_DIM = 9 + 2 * 10


def encode_steps(mug: Array, tcp: Array, width: Array) -> Array:
    """(..., 10) steps in the mug's frame from mug (..., 4, 4) and tcp (..., 4, 4) poses in the base frame, width (...) [m]."""
    relative = inverse(mug) @ tcp
    return np.concatenate([relative[..., :3, 3], rot6d_from_matrix(relative[..., :3, :3]), width[..., None]], axis=-1)


def encode_condition(mug: Array, tcp: Array, width: Array) -> Array:
    """(..., COND_DIM) from mug (..., 4, 4), tcp (..., 2, 4, 4) at one step before and at the start, width (..., 2)."""
    history = encode_steps(mug[..., None, :, :], tcp, width)
    own = np.concatenate([mug[..., :3, 3], rot6d_from_matrix(mug[..., :3, :3])], axis=-1)
    return np.concatenate([own, history.reshape(*history.shape[:-2], 20)], axis=-1)


def decode(mug: Array, chunk: Array) -> tuple[Array, Array]:
    """Absolute tcp poses (N, H, 4, 4) and widths (N, H) [m] of chunks (N, H, 10) for the mug pose (4, 4)."""
    relative = pose(chunk[..., :3], matrix_from_rot6d(chunk[..., 3:9]))
    return mug @ relative, np.clip(chunk[..., 9], 0.0, 0.08)
