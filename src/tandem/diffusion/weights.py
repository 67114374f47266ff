"""Weights on disk: ``NAME.safetensors`` (EMA weights and normalisers) with ``NAME.json`` (manifest: what, trained how, on what,
SHA-256).

Nothing is unpickled. Loading checks the file's digest against the manifest and every tensor's shape against the configuration.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from tandem.core.config import from_dict, setting, to_dict
from tandem.core.errors import ConfigError
from tandem.diffusion.denoiser import NetworkDenoiser, Normaliser
from tandem.diffusion.networks import MLPConfig, ResidualMLP
from tandem.diffusion.schedules import ScheduleConfig, make_schedule


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the tensors' shapes and their meaning."""

    horizon: int = setting(16, "steps a chunk, H", lo=1, hi=4096)
    dim: int = setting(10, "values a step, D", lo=1, hi=4096)
    cond_dim: int = setting(0, "values of the conditioning, C", lo=0, hi=65536)
    parametrisation: str = setting("x0", "what the network predicts", choices=("x0", "eps", "v"))
    clip: float | None = setting(1.05, "clamp of the clean estimate in normalised space", lo=0.1, hi=100.0)
    network: MLPConfig = field(default_factory=MLPConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


def manifest_path(path: str | Path) -> Path:
    """Where the manifest of a weight file lies."""
    return Path(path).with_suffix(".json")


def save(
    path: str | Path, denoiser: NetworkDenoiser, model: ModelConfig, training: dict[str, Any], notes: dict[str, Any] | None = None
) -> None:
    """Write weights and manifest. ``training``: seed, steps, loss, data_sha256 and what else reproduces it."""
    path = Path(path)
    tensors = {f"network.{name}": t for name, t in denoiser.network.state_dict().items()}
    tensors["x_centre"], tensors["x_scale"] = denoiser.x_normaliser.centre, denoiser.x_normaliser.scale
    tensors["cond_centre"], tensors["cond_scale"] = denoiser.cond_normaliser.centre, denoiser.cond_normaliser.scale
    data = save_tensors({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    manifest = {
        "format": 1, "weights": path.name, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data),
        "model": to_dict(model), "training": training, "notes": notes or {},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    manifest_path(path).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of weight file ``path``.

    Raises:
        ConfigError: missing or malformed.
    """
    place = manifest_path(path)
    try:
        manifest = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{place}: manifest of the weights cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != 1:
        raise ConfigError(f"{place}: format: accepted: 1")
    for key, kind in (("sha256", str), ("model", dict), ("training", dict)):
        if not isinstance(manifest.get(key), kind):
            raise ConfigError(f"{place}: {key}: missing or not a {kind.__name__}")
    return manifest


def _tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """The file's tensors, after its digest was compared."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: weights cannot be read: {error}") from error
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise ConfigError(f"{path}: sha256 is {digest}, {manifest_path(path).name} says {sha256}: damaged or replaced")
    try:
        return load_tensors(data)
    except SafetensorError as error:
        raise ConfigError(f"{path}: not a safetensors file: {error}") from error


def load_denoiser(
    path: str | Path, device: torch.device | str = "cpu", *, expected: tuple[int, int, int] | None = None
) -> NetworkDenoiser:
    """The denoiser stored in ``path`` (.safetensors).

    Args:
        path: weight file; its manifest lies beside it.
        device: where to put it.
        expected: (H, D, C) the caller's task has.

    Raises:
        ConfigError: file or manifest missing, digest wrong, tensors missing, of wrong shape or not finite, or not the task's
        sizes.
    """
    path = Path(path)
    manifest = read_manifest(path)
    model = from_dict(ModelConfig, manifest["model"], f"{manifest_path(path)}: model")
    found = (model.horizon, model.dim, model.cond_dim)
    if expected is not None and found != expected:
        raise ConfigError(f"{path}: made for (horizon, dim, cond_dim) = {found}; this task has {expected}")
    tensors = _tensors(path, manifest["sha256"])
    network = ResidualMLP(model.horizon, model.dim, model.cond_dim, model.network)
    shapes = {f"network.{name}": tuple(t.shape) for name, t in network.state_dict().items()}
    shapes |= {"x_centre": (model.dim,), "x_scale": (model.dim,)}
    shapes |= {"cond_centre": (model.cond_dim,), "cond_scale": (model.cond_dim,)}
    if set(shapes) != set(tensors):
        raise ConfigError(f"{path}: tensors differ from the manifest's model: {', '.join(sorted(set(shapes) ^ set(tensors)))}")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise ConfigError(f"{path}: {name} has shape {tuple(tensors[name].shape)}; the manifest's model takes {shape}")
        if not bool(torch.isfinite(tensors[name]).all()):
            raise ConfigError(f"{path}: {name} contains NaN or infinity")
    network.load_state_dict({name: tensors[f"network.{name}"] for name in network.state_dict()})
    x_norm = Normaliser(tensors["x_centre"], tensors["x_scale"])
    cond_norm = Normaliser(tensors["cond_centre"], tensors["cond_scale"])
    return NetworkDenoiser(network.to(device), make_schedule(model.schedule), model.parametrisation, x_norm, cond_norm,
    model.clip)
