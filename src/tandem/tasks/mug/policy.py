"""The mug task assembled: arm, bounds, policy weights and a sampler make a planner."""

from __future__ import annotations

from pathlib import Path

from tandem.core.paths import share_dir
from tandem.core.types import CHUNK_DIM
from tandem.diffusion.samplers import load_sampler
from tandem.diffusion.weights import load_denoiser
from tandem.robots.model import load_arm
from tandem.safety import BackupFamily, load_bounds
from tandem.tasks.mug.chunks import COND_DIM
from tandem.tasks.mug.config import load_mug_config
from tandem.tasks.mug.planner import MugPlanner

#: the sampler that the benchmark shows to be best
DEFAULT_SAMPLER = "steered"


def weights_path(name: str) -> Path:
    """``models/<name>.safetensors``, or the path itself if it is one."""
    return Path(name) if name.endswith(".safetensors") else share_dir() / "models" / f"{name}.safetensors"


def load_planner(sampler: str = DEFAULT_SAMPLER, seed: int = 0, config: str = "mug", device: str = "cpu") -> MugPlanner:
    """A planner with the shipped policy and the sampler of ``config/samplers/<sampler>.yaml``.

    Raises:
        ConfigError: a file is missing or malformed, or the weights do not match their manifest.
    """
    task = load_mug_config(config)
    arm = load_arm(task.robot)
    family = BackupFamily(k_max=(task.backup_peak,) * arm.n)
    method = load_sampler(sampler)
    denoiser = load_denoiser(weights_path(task.weights), device, expected=(task.horizon, CHUNK_DIM, COND_DIM))
    return MugPlanner(
        arm, load_bounds(task.safety), family, task, denoiser, method, seed=seed, certified_only=method.name != "policy"
    )
