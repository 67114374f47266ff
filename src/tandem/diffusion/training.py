"""Training a denoiser from data: chunks (N, H, D) and conditioning (N, C) in, EMA weights out. Seeded and deterministic.

The denoising loss of Ho et al. 2020 for any parametrisation, AdamW, linear warm-up then cosine decay, exponential moving
average of the weights with the usual ramp. Step indices are drawn stratified over a batch, which lowers the variance of the loss.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from tandem.core.config import setting
from tandem.core.errors import InputError
from tandem.diffusion.denoiser import NetworkDenoiser, Normaliser, target
from tandem.diffusion.devices import check_device
from tandem.diffusion.networks import MLPConfig, ResidualMLP
from tandem.diffusion.schedules import ScheduleConfig, make_schedule
from tandem.diffusion.weights import ModelConfig, save

Augment = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]
"""(chunks (B, H, D), conditioning (B, C), generator) -> the same, augmented; in the data's own units, once a batch."""
Progress = Callable[[int, float], None]
"""(steps done, running loss); called every ``report_every`` steps and at the end."""


@dataclass(frozen=True)
class TrainingConfig:
    """What to train and how."""

    network: MLPConfig = field(default_factory=MLPConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    parametrisation: str = setting("x0", "what the network predicts", choices=("x0", "eps", "v"))
    normaliser: str = setting("range", "range: to [-1, 1]; gaussian: zero mean, unit variance", choices=("range", "gaussian"))
    clip: float | None = setting(1.05, "clamp of the clean estimate in normalised space", lo=0.1, hi=100.0)
    steps: int = setting(20_000, "optimiser steps", lo=1, hi=10_000_000)
    batch: int = setting(256, "rows a step", lo=1, hi=1_000_000)
    rate: float = setting(1e-3, "peak learning rate", lo=1e-7, hi=1.0)
    warmup: int = setting(200, "steps of linear warm-up", lo=0, hi=1_000_000)
    weight_decay: float = setting(1e-4, "AdamW's weight decay", lo=0.0, hi=1.0)
    clip_gradient: float = setting(1.0, "largest gradient norm", lo=1e-3, hi=1e6)
    ema: float = setting(0.999, "decay of the moving average at the end of its ramp", lo=0.0, hi=0.999999)
    report_every: int = setting(200, "steps between progress reports", lo=1, hi=1_000_000)
    seed: int = setting(0, "seed of weights, batches and noise", lo=0, hi=2**31 - 1)


@dataclass(frozen=True)
class TrainingOutcome:
    """The trained model and what it took. ``losses``: running loss at each report."""

    denoiser: NetworkDenoiser
    model: ModelConfig
    config: TrainingConfig
    data_sha256: str
    losses: tuple[float, ...]

    def save(self, path: str | Path, **notes: object) -> None:
        """Write ``path`` (.safetensors) and its manifest beside it; ``notes`` (JSON values) are kept under ``notes``."""
        training = {
            "seed": self.config.seed, "steps": self.config.steps, "loss": self.losses[-1], "data_sha256": self.data_sha256,
            "rate": self.config.rate, "batch": self.config.batch, "ema": self.config.ema,
            "weight_decay": self.config.weight_decay, "normaliser": self.config.normaliser,
        }
        save(path, self.denoiser, self.model, training, dict(notes))


def data_digest(*tensors: Tensor) -> str:
    """SHA-256 over shapes and float32 bytes of the data."""
    h = hashlib.sha256()
    for t in tensors:
        h.update(repr(tuple(t.shape)).encode())
        h.update(t.detach().cpu().to(torch.float32).contiguous().numpy().tobytes())
    return h.hexdigest()


def condition_noise(share: float, cond: Tensor) -> Augment:
    """Gaussian noise on the conditioning, ``share`` of each value's range in ``cond`` (N, C): keeps a policy from memorising."""
    scale = share * (cond.amax(0) - cond.amin(0))

    def augment(x: Tensor, c: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return x, c + scale.to(c) * torch.randn(c.shape, generator=generator, device=c.device, dtype=c.dtype)

    return augment


def _rate(step: int, config: TrainingConfig) -> float:
    """Learning rate relative to its peak."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    done = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))


def _check(x: Tensor, cond: Tensor) -> None:
    if x.ndim != 3 or cond.ndim != 2 or x.shape[0] != cond.shape[0] or x.shape[0] == 0:
        raise InputError(f"training data: x {tuple(x.shape)}, cond {tuple(cond.shape)}; expected (N, H, D), (N, C), N >= 1")
    for name, value in (("x", x), ("cond", cond)):
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"training data: {name} contains NaN or infinity")


@torch.no_grad()
def _average(shadow: list[Tensor], weights: list[Tensor], decay: float) -> None:
    """Move the average towards the weights, all tensors in one call."""
    torch._foreach_lerp_(shadow, weights, 1.0 - decay)


def train(
    x: Tensor, cond: Tensor, config: TrainingConfig | None = None, *, augment: Augment | None = None,
    progress: Progress | None = None, device: torch.device | str = "cpu",
) -> TrainingOutcome:
    """Train a residual MLP on chunks ``x`` (N, H, D) under ``cond`` (N, C), both in the data's own units.

    Raises:
        InputError: shapes do not fit, data are not finite, or torch cannot use the device.
    """
    check_device(device, who="training")
    config = config or TrainingConfig()
    _check(x, cond)
    digest = data_digest(x, cond)
    x, cond = x.to(device, torch.float32), cond.to(device, torch.float32)
    norm_x = Normaliser.fit(x, config.normaliser).to(device, torch.float32)
    norm_c = Normaliser.fit(cond, config.normaliser).to(device, torch.float32)
    model = ModelConfig(
        x.shape[1], x.shape[2], cond.shape[1], config.parametrisation, config.clip, config.network, config.schedule,
    )
    schedule = make_schedule(config.schedule)
    generator = torch.Generator(device=device).manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = ResidualMLP(model.horizon, model.dim, model.cond_dim, config.network).to(device)
        shadow = ResidualMLP(model.horizon, model.dim, model.cond_dim, config.network).to(device)
    shadow.load_state_dict(network.state_dict())
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.rate, weight_decay=config.weight_decay, fused=True)
    averages, weights = [p.data for p in shadow.parameters()], [p.data for p in network.parameters()]
    table = schedule.table(device, torch.float32)
    losses: list[float] = []
    running = torch.zeros((), device=device)
    for n in range(config.steps):
        rows = torch.randint(x.shape[0], (config.batch,), generator=generator, device=device)
        bx, bc = x[rows], cond[rows]
        if augment is not None:
            bx, bc = augment(bx, bc, generator)
        loss = _loss(network, norm_x.normalise(bx), norm_c.normalise(bc), table, config.parametrisation, generator)
        for group in optimiser.param_groups:
            group["lr"] = config.rate * _rate(n, config)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), config.clip_gradient)
        optimiser.step()
        _average(averages, weights, min(config.ema, (1.0 + n) / (10.0 + n)))
        running = loss.detach() if n == 0 else torch.lerp(running, loss.detach(), 0.01)
        if (n + 1) % config.report_every == 0 or n + 1 == config.steps:
            losses.append(float(running))
            if not math.isfinite(losses[-1]):
                raise InputError(f"training: loss is {losses[-1]} after {n + 1} steps; lower rate ({config.rate})")
            if progress is not None:
                progress(n + 1, losses[-1])
    denoiser = NetworkDenoiser(shadow, schedule, config.parametrisation, norm_x, norm_c, config.clip)
    return TrainingOutcome(denoiser, model, config, digest, tuple(losses))


def _loss(
    network: nn.Module, x0: Tensor, cond: Tensor, alpha_bar: Tensor, parametrisation: str, generator: torch.Generator
) -> Tensor:
    """Mean squared error of one batch of normalised ``x0`` (B, H, D); steps 1..I stratified over the batch."""
    batch, steps = x0.shape[0], alpha_bar.shape[0] - 1
    u = torch.rand((), generator=generator, device=x0.device)
    strata = (torch.arange(batch, device=x0.device) / batch + u) % 1.0
    i = 1 + (strata * steps).long().clamp(max=steps - 1)
    ab = alpha_bar[i][:, None, None]
    eps = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
    signal, noise = ab.sqrt(), (1.0 - ab).sqrt()
    output = network(signal * x0 + noise * eps, i, cond)
    return nn.functional.mse_loss(output, target(parametrisation, x0, eps, signal, noise))
