"""Demonstrations -> training windows (x, cond), and states beside the demonstrations with the motion that leads back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tandem.tasks.mug.chunks import encode_condition, encode_steps

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
    cond = encode_condition(np.broadcast_to(mug, (len(tcp), 4, 4)), tcp[past], width[past])
    x = encode_steps(mug, tcp, width)[steps]
    return x.astype(np.float32), cond.astype(np.float32)


def _standing_start(steps: int, dt: float, lag: float) -> Array:
    """(steps, steps + 1) weights that replay a chunk from standstill: waypoints at ``t - lag (1 - exp(-t / lag))``.

    Columns: the state at the start, then the chunk's waypoints. The replay starts without speed and ends ``lag`` [s] behind.
    """
    t = dt * np.arange(1, steps + 1)
    at = (t - lag * (1.0 - np.exp(-t / lag))) / dt
    weights = np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(steps + 1)[None]))
    return weights


def turn_far(step: torch.Tensor, angle: torch.Tensor, near: float = 0.15, far: float = 0.4) -> torch.Tensor:
    """Steps (B, ..., 10) turned about the mug's axis by ``angle`` (B,) [rad] where ``far`` [m] from it, not at all ``near``.

    What a demonstration would have looked like with the mug turned the other way: the grasp is the same in the mug's frame, the
    way there begins elsewhere.
    """
    share = ((step[..., :2].norm(dim=-1) - near) / (far - near)).clamp(0.0, 1.0)
    turn = angle.reshape(-1, *[1] * (step.ndim - 2)) * share * share * (3.0 - 2.0 * share)
    c, s = turn.cos()[..., None], turn.sin()[..., None]
    out = step.clone()
    for i in (0, 3, 6):
        x, y = step[..., i : i + 1], step[..., i + 1 : i + 2]
        out[..., i : i + 2] = torch.cat([c * x - s * y, s * x + c * y], dim=-1)
    return out


def corrections(
    chunk: torch.Tensor, cond: torch.Tensor, generator: torch.Generator, *, dt: float = 0.1, position: float = 0.06,
    rotation: float = 0.06, back: float = 0.7, rest: float = 0.25, lag: float = 0.25, turn: float = 0.45, blur: float = 0.04,
) -> tuple[torch.Tensor, torch.Tensor]:
    """States that no demonstration visits, with the motion that leads back (``diffusion.training.Augment``).

    After a backup the arm stands still, somewhere beside the demonstrated ways; from demonstrations alone the policy would answer
    with a jump back to one of them. And where states are few and far apart a policy learns which demonstration each belongs to,
    and forgets that there are other ways. So, for each sample: the mug is turned under the way to it (:func:`turn_far`, up to
    ``turn`` [rad]); the state is moved off by a random step (``position`` [m], ``rotation``
    in the entries of the 6-D rotation; smaller near the mug) and the chunk begins there and comes back within ``2 back`` [s];
    with probability ``rest`` the arm stands still and the chunk starts from standstill; and what is seen carries noise:
    millimetres near the mug, ``blur`` [m] far from it.

    Args:
        chunk: (B, H, 10). cond: (B, COND_DIM), both in the data's units; generator on their device.
    """
    batch, steps = chunk.shape[:2]
    tensor: dict[str, Any] = {"device": cond.device, "dtype": cond.dtype}

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, **tensor)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator, **tensor)

    present, change = cond[:, 9:19], cond[:, 19:]
    angle = turn * (2.0 * uniform(batch) - 1.0)
    before, present, chunk = (turn_far(s, angle) for s in (present - change, present, chunk))
    change = present - before
    own = torch.cat([cond[:, :3], _turned(cond[:, 3:9], -angle)], dim=1)
    still = (uniform(batch) < rest)[:, None]
    whole = torch.cat([present[:, None], chunk], dim=1)
    chunk = torch.where(still[..., None], torch.as_tensor(_standing_start(steps, dt, lag), **tensor) @ whole, chunk)
    distance = present[:, :3].norm(dim=1)
    size = uniform(batch) * ((distance - 0.1) / 0.2).clamp(0.1, 1.0)
    sigma = torch.tensor([position] * 3 + [rotation] * 6 + [0.0], **tensor)
    step = size[:, None] * sigma * normal(batch, 10)
    times = dt * torch.arange(1, steps + 1, **tensor)
    chunk = chunk + step[:, None] * torch.exp(-((times / back) ** 2))[None, :, None]
    fine = torch.tensor([0.002] * 3 + [0.005] * 6 + [0.0005], **tensor)
    coarse = torch.tensor([blur] * 3 + [2.0 * blur] * 6 + [0.0], **tensor)
    noise = fine + coarse * uniform(batch, 1) * ((distance - 0.15) / 0.25).clamp(0.0, 1.0)[:, None]
    seen, speed = present + step + noise * normal(batch, 10), change + 0.5 * fine * normal(batch, 10)
    own = own + 1.5 * noise[:, :9] * normal(batch, 9)
    return chunk, torch.cat([own, seen, torch.where(still, 0.0, speed)], dim=1)


def _turned(columns: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """6-D rotations (B, 6) of the mug, turned about its own (upright) axis by ``angle`` (B,) [rad]."""
    c, s = angle.cos()[:, None], angle.sin()[:, None]
    x, y = columns[:, :3], columns[:, 3:]
    return torch.cat([c * x + s * y, c * y - s * x], dim=1)
