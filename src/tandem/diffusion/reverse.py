"""Reverse steps of a diffusion model, and whole reverse passes built from them.

One formula serves DDPM and DDIM (JM2D Eq. 2 with the minus sign; Song et al. 2020, Eq. 12), written with the clean estimate x0:

    x_j = sqrt(ab_j) x0 + sqrt(1 - ab_j - sigma^2) eps + sigma z,    eps = (x_i - sqrt(ab_i) x0) / sqrt(1 - ab_i)

with sigma = eta sqrt((1 - ab_j) / (1 - ab_i) (1 - ab_i / ab_j)); eta = 1 is DDPM's ancestral step, eta = 0 DDIM. j need not be
i - 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.core.config import setting
from tandem.diffusion.schedules import Schedule

CleanFn = Callable[[Tensor, int], Tensor]
"""(N, H, D) clean estimate of (N, H, D) at step i."""


@dataclass(frozen=True)
class SolverConfig:
    """How a reverse pass is made."""

    kind: str = setting(
        "ddpm", "ddpm: ancestral; ddim: deterministic; dpmpp: DPM-Solver++ 2M; dpmpp_sde: its stochastic form",
        choices=("ddpm", "ddim", "dpmpp", "dpmpp_sde"),
    )
    steps: int = setting(0, "network passes of a whole reverse pass; 0: the schedule's own number", lo=0, hi=4000)

    def passes(self, schedule: Schedule, start: int | None = None) -> int:
        """Network passes from level ``start`` (default: I) down to 0; a shorter way takes a proportional share."""
        total = schedule.steps if self.steps == 0 else min(self.steps, schedule.steps)
        if start is None or start == schedule.steps:
            return total
        return max(1, min(start, math.ceil(total * start / schedule.steps)))


def normal_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise of the shape, device and type of ``x``."""
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def step_mean(schedule: Schedule, x: Tensor, x0: Tensor, i: int, j: int, eta: float) -> tuple[Tensor, float]:
    """Mean (N, H, D) and standard deviation of the reverse step i -> j < i given the clean estimate ``x0``."""
    sigma = schedule.sigma(i, j, eta)
    keep = math.sqrt(max(1.0 - schedule.alpha_bar[j] - sigma * sigma, 0.0)) / schedule.noise(i)
    return torch.add(keep * x, x0, alpha=schedule.signal(j) - keep * schedule.signal(i)), sigma


def step(schedule: Schedule, x: Tensor, x0: Tensor, i: int, j: int, eta: float, generator: torch.Generator) -> Tensor:
    """One reverse step i -> j < i of ``x`` (N, H, D) given the clean estimate ``x0`` (N, H, D) or (1, H, D)."""
    mean, sigma = step_mean(schedule, x, x0, i, j, eta)
    return mean if sigma == 0.0 else mean.add_(normal_like(mean, generator), alpha=sigma)


def dpmpp_step(
    schedule: Schedule, x: Tensor, x0: Tensor, last: tuple[Tensor, int] | None, i: int, j: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One DPM-Solver++(2M) step i -> j (Lu et al. 2022, Alg. 2), data prediction; ``last`` = previous (clean estimate, level).

    With a ``generator`` the step is that of SDE-DPM-Solver++(2M) (their Appx. C): for the reverse SDE, not for its probability
    flow.
    """
    if j == 0:
        return x0
    half_log_snr = [0.5 * (math.log(schedule.alpha_bar[n]) - math.log1p(-schedule.alpha_bar[n])) for n in (i, j)]
    h = half_log_snr[1] - half_log_snr[0]
    direction = x0
    if last is not None:
        previous = 0.5 * (math.log(schedule.alpha_bar[last[1]]) - math.log1p(-schedule.alpha_bar[last[1]]))
        ratio = 0.5 * h / (half_log_snr[0] - previous)
        direction = (1.0 + ratio) * x0 - ratio * last[0]
    keep, span = schedule.noise(j) / schedule.noise(i), -math.expm1(-h)
    if generator is None:
        return keep * x + schedule.signal(j) * span * direction
    span = -math.expm1(-2.0 * h)
    mean = keep * math.exp(-h) * x + schedule.signal(j) * span * direction
    return mean + schedule.noise(j) * math.sqrt(span) * normal_like(mean, generator)


def denoise(
    schedule: Schedule, clean: CleanFn, x: Tensor, start: int, solver: SolverConfig, generator: torch.Generator,
    expired: Callable[[], bool] | None = None,
) -> tuple[Tensor, int]:
    """Run the reverse process on ``x`` (N, H, D) from level ``start`` to 0.

    ``expired`` is asked before each pass; when it says yes the way stops early.

    Returns:
        (N, H, D) samples and the level reached (0: done; otherwise the samples are the last clean estimates made, or ``x``
        itself).
    """
    levels = schedule.levels(start, solver.passes(schedule, start))
    last: tuple[Tensor, int] | None = None
    for i, j in itertools.pairwise(levels):
        if expired is not None and expired():
            return (x if last is None else last[0]), i
        x0 = clean(x, i)
        if solver.kind.startswith("dpmpp"):
            x = dpmpp_step(schedule, x, x0, last, i, j, generator if solver.kind == "dpmpp_sde" else None)
        else:
            x = step(schedule, x, x0, i, j, 1.0 if solver.kind == "ddpm" else 0.0, generator)
        last = (x0, i)
    return x, 0
