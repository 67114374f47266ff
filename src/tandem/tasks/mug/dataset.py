"""Demonstrations -> training windows (x, cond), and the noise put on the conditioning."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from tandem.tasks.mug.chunks import COND_DIM, encode_condition, encode_steps

Array = NDArray[np.float64]


def windows(
    tcp: Array, width: Array, mug: Array, *, rate: float, dt: float, horizon: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """All windows of one demonstration, at every phase of the fine recording.

    Args:
        tcp: (T, 4, 4) commanded end-effector poses, base frame. width: (T,) commanded gripper width [m].
        mug: (4, 4) the mug's pose before it is touched. rate: of the recording [Hz].
        dt: spacing of waypoints [s]. horizon: waypoints a chunk holds.

    Returns:
        x (W, horizon, 10) and cond (W, COND_DIM). Before the first sample the arm stood still; after the last it stays.
    """
    stride = round(rate * dt)
    start = np.arange(len(tcp))
    steps = np.minimum(start[:, None] + stride * np.arange(1, horizon + 1), len(tcp) - 1)
    past = np.maximum(start[:, None] + np.array([-stride, 0]), 0)
    x = encode_steps(mug, tcp, width)[steps]
    cond = encode_condition(np.broadcast_to(mug, (len(tcp), 4, 4)), tcp[past], width[past])
    return x.astype(np.float32), cond.astype(np.float32)


def condition_noise(
    cond: torch.Tensor, generator: torch.Generator, *, shared: float = 0.03, independent: float = 0.006, rest: float = 0.15
) -> torch.Tensor:
    """Noise on normalised conditioning (B, COND_DIM): without it the policy memorises the demonstrations' states.

    ``shared`` moves both steps of history together (the arm is a little elsewhere), ``independent`` each alone (its speed
    is a little different); with probability ``rest`` the earlier step repeats the later one: the arm stands still, as it
    does after a backup. The scale is drawn per sample, so that exact states are seen too.
    """
    batch = cond.shape[0]

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=cond.device, dtype=cond.dtype)

    scale = torch.rand(batch, 1, generator=generator, device=cond.device, dtype=cond.dtype)
    out = cond.clone()
    out[:, :9] += 0.01 * scale * normal(batch, 9)
    both = shared * scale * normal(batch, 10)
    both[:, 9] *= 0.3
    history = out[:, 9:COND_DIM].reshape(batch, 2, 10) + both[:, None] + independent * scale[:, None] * normal(batch, 2, 10)
    still = torch.rand(batch, generator=generator, device=cond.device) < rest
    history[still, 0] = history[still, 1]
    out[:, 9:COND_DIM] = history.reshape(batch, 20)
    return out
