"""``tandem train mug``: demonstrations from the scripted expert, then the policy. Reproduces the shipped weights by seed."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tandem.core.errors import InputError
from tandem.core.paths import share_dir
from tandem.diffusion.training import TrainingConfig, TrainingOutcome, train
from tandem.robots.kinematics import tcp_pose
from tandem.robots.model import load_arm
from tandem.sim import demonstrations
from tandem.tasks.mug.config import MugConfig, load_mug_config
from tandem.tasks.mug.dataset import corrections, windows
from tandem.tasks.mug.policy import weights_path

#: demonstrations are recorded at this rate for training [Hz]
RATE = 100.0


def training_settings(steps: int = 26_000, seed: int = 0) -> TrainingConfig:
    """How the shipped weights are trained.

    Chunks are normalised to unit variance, not to their range: most waypoints lie near the mug, and two opposite faces of its rim
    (85 mm apart, the same hand yaw) must stay apart under the noise of all but the first denoising steps. Normalised to the range
    of the whole way they are a tenth of a unit from their mean, and one episode in fifteen came down between them.
    """
    return TrainingConfig(steps=steps, seed=seed, batch=128, ema=0.9995, normaliser="gaussian", clip=None)


def training_windows(
    data: dict[str, NDArray[np.generic]], config: MugConfig
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Chunks (W, H, 10), conditioning (W, COND_DIM) and episode numbers (W,) of a demonstration file."""
    arm = load_arm(config.robot)
    coarse, fine = data["offsets"].astype(int), data["offsets_100"].astype(int)
    x, cond, episode = [], [], []
    for e in range(len(coarse) - 1):
        q = data["q_100"][fine[e] : fine[e + 1]].astype(np.float64)
        slow = data["width"][coarse[e] : coarse[e + 1]].astype(np.float64)
        width = np.interp(np.arange(len(q)) / RATE, np.arange(len(slow)) * 0.1, slow)
        mug = data["mug"][coarse[e]].astype(np.float64)
        chunk, condition = windows(tcp_pose(arm, q), width, mug, rate=RATE, dt=config.dt, horizon=config.horizon)
        x.append(chunk)
        cond.append(condition)
        episode.append(np.full(len(chunk), e))
    return np.concatenate(x), np.concatenate(cond), np.concatenate(episode)


def fit(
    data: dict[str, NDArray[np.generic]], settings: TrainingConfig, progress: Callable[[int, float], None] | None = None,
    device: str = "cpu",
) -> TrainingOutcome:
    """Train on a demonstration file's arrays."""
    x, cond, _ = training_windows(data, load_mug_config())
    return train(
        torch.from_numpy(x), torch.from_numpy(cond), settings, augment=corrections, progress=progress, device=device
    )


def run(
    out: Path | None = None, *, demonstrations_file: Path | None = None, count: int = 100, steps: int = 26_000, seed: int = 0,
    device: str = "cpu", progress: Callable[[int, float], None] | None = None,
) -> Path:
    """Demonstrate (unless a file is given), train, save weights and manifest.

    Args:
        out: ``.safetensors`` to write; default the shipped weights' place.
        demonstrations_file: made by ``python -m tandem.sim.demonstrations``; default: ``count`` made anew from ``seed``.
        steps: optimiser steps. progress: called with (steps done, loss).

    Raises:
        InputError: ``out`` is not a .safetensors file.
    """
    out = out or weights_path("mug")
    if out.suffix != ".safetensors":
        raise InputError(f"out = {out}: accepted: a file name ending in .safetensors")
    began = time.monotonic()
    made = f"--count {count}" if demonstrations_file is None else f"--demonstrations-file {shlex.quote(str(demonstrations_file))}"
    if demonstrations_file is None:
        demonstrations_file = share_dir() / "models" / "mug_demonstrations.npz"
        demonstrations.save(demonstrations_file, count, seed)
    data = demonstrations.load(demonstrations_file)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order give other weights
    try:
        outcome = fit(data, training_settings(steps, seed), progress, device)
    finally:
        torch.set_num_threads(threads)
    outcome.save(
        out, task="mug", demonstrations=len(data["way"]), demonstration_seed=int(data["seed"]),
        command=f"tandem train mug {made} --steps {steps} --seed {seed}", minutes=round((time.monotonic() - began) / 60.0, 1),
    )
    return out
