"""Where the trained policy is, and how it is loaded."""

from __future__ import annotations

from pathlib import Path

from tandem.core.paths import share_dir
from tandem.core.types import CHUNK_DIM
from tandem.diffusion.denoiser import NetworkDenoiser
from tandem.diffusion.weights import load_denoiser
from tandem.tasks.mug.chunks import COND_DIM
from tandem.tasks.mug.config import MugConfig


def weights_path(name: str) -> Path:
    """``models/<name>.safetensors``, or the path itself if it is one."""
    return Path(name) if name.endswith(".safetensors") else share_dir() / "models" / f"{name}.safetensors"


def load_policy(config: MugConfig, device: str = "cpu") -> NetworkDenoiser:
    """The task's policy.

    Raises:
        ConfigError: weights missing, not matching their manifest, or made for another task.
    """
    return load_denoiser(weights_path(config.weights), device, expected=(config.horizon, CHUNK_DIM, COND_DIM))
