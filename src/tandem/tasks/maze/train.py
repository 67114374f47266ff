"""``tandem train maze``: demonstrations in the simulator, windows of them, then the network. Reproduces the shipped weights."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tandem.core.errors import InputError
from tandem.core.paths import share_dir
from tandem.diffusion.denoiser import NetworkDenoiser
from tandem.diffusion.networks import MLPConfig
from tandem.diffusion.schedules import ScheduleConfig
from tandem.diffusion.training import TrainingConfig, train
from tandem.diffusion.weights import load_denoiser
from tandem.tasks.maze.demonstrations import Demonstration, DemonstrationConfig, demonstrate
from tandem.tasks.maze.layout import OFFSET
from tandem.tasks.maze.physics import MazeWorld

Array = NDArray[np.float64]

#: controls a chunk holds, H, and values of the conditioning
HORIZON, COND_DIM = 32, 10
_log = logging.getLogger(__name__)


def weights_path() -> Path:
    """``models/maze.safetensors``."""
    return share_dir() / "models" / "maze.safetensors"


def load_policy(device: str = "cpu", weights: Path | None = None) -> NetworkDenoiser:
    """The shipped policy, or the one in ``weights``.

    Raises:
        ConfigError: weights missing, not matching their manifest, or made for another task.
    """
    return load_denoiser(weights or weights_path(), device, expected=(HORIZON, 2, COND_DIM))


def encode(p: Array, v: Array, goal: Array) -> NDArray[np.float32]:
    """(..., 10) conditioning: position, speed and goal (..., 2) [m, m/s], and the place within the cell as sine and cosine."""
    phase = 2.0 * np.pi * (p - OFFSET)
    return np.concatenate([p, v, np.broadcast_to(goal, p.shape), np.sin(phase), np.cos(phase)], axis=-1).astype(np.float32)


def windows(demonstrations: list[Demonstration]) -> tuple[torch.Tensor, torch.Tensor]:
    """Every moment that has a whole chunk after it: controls (N, 32, 2) and conditioning (N, 10)."""
    chunks, conds = [], []
    for d in demonstrations:
        count = len(d.u) - HORIZON + 1
        chunks.append(np.moveaxis(np.lib.stride_tricks.sliding_window_view(d.u, HORIZON, axis=0), -1, 1).astype(np.float32))
        conds.append(encode(d.p[:count], d.v[:count], d.goal))
    return torch.from_numpy(np.concatenate(chunks)), torch.from_numpy(np.concatenate(conds))


def training_settings(steps: int = 16_000, seed: int = 0) -> TrainingConfig:
    """How the shipped weights are trained.

    A network twice as wide makes no better policy (.92 of 60 episodes against .93, tuning seeds, no padding) at four times the
    cost a row.
    """
    network = MLPConfig(width=128, blocks=3, embedding=128)
    return TrainingConfig(
        network=network, schedule=ScheduleConfig("cosine", 16), steps=steps, seed=seed, batch=256, ema=0.999, clip=1.0
    )


def demonstrations(config: DemonstrationConfig) -> list[Demonstration]:
    """Those that reached their target without touching a wall."""
    world = MazeWorld()
    found = [demonstrate(world, config, index, HORIZON) for index in range(config.episodes)]
    return [d for d in found if d is not None and not d.touched]


def run(
    out: Path | None = None, *, steps: int = 16_000, seed: int = 0, device: str = "cpu",
    progress: Callable[[int, float], None] | None = None, config: DemonstrationConfig | None = None,
) -> Path:
    """Demonstrate, train, save weights and manifest.

    Args:
        out: ``.safetensors`` to write; default the shipped weights' place. steps: optimiser steps.
        progress: called with (steps done, loss). config: the demonstrations.

    Raises:
        InputError: ``out`` is not a .safetensors file.
    """
    out, config = out or weights_path(), config or DemonstrationConfig(seed=seed)
    if out.suffix != ".safetensors":
        raise InputError(f"out = {out}: accepted: a file name ending in .safetensors")
    began = time.monotonic()
    kept = demonstrations(config)
    x, cond = windows(kept)
    _log.info("%d demonstrations, %d windows, %.0f s", len(kept), len(x), time.monotonic() - began)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order give other weights
    try:
        outcome = train(x, cond, training_settings(steps, seed), progress=progress, device=device)
    finally:
        torch.set_num_threads(threads)
    outcome.save(
        out, task="maze", demonstrations=len(kept), windows=len(x), **dataclasses.asdict(config),
        command=f"tandem train maze --steps {steps} --seed {seed}", minutes=round((time.monotonic() - began) / 60.0, 1),
    )
    return out
