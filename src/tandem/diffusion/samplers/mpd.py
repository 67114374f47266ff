"""Motion Planning Diffusion (Carvalho et al. 2025) and its Tweedie version (JM2D, Alg. E.3): gradient guidance.

Each step takes the posterior mean mu of x_{i-1}, adds ``-weight * grad`` of the soft cost with respect to mu, then the noise.
Plain MPD evaluates the cost at mu itself (lines 4-5 left out), the Tweedie version at the clean estimate of mu, through the
network, for one more pass a step. The gradient is taken in normalised space and clipped in norm. A k for the outcome comes from
p(k) and, where none of its draws fits, from one optimisation. Needs a :class:`~tandem.diffusion.constraints.GuidedProblem`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tandem.core.config import setting
from tandem.core.errors import InputError
from tandem.diffusion.constraints import offered
from tandem.diffusion.result import SampleResult
from tandem.diffusion.reverse import normal_like, step_mean
from tandem.diffusion.samplers.base import Run, Sampler, finish, pair_with_prior, register

Cost = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MPDConfig:
    """Settings of motion planning diffusion."""

    tweedie: bool = setting(True, "cost at the clean estimate of the mean (Alg. E.3) rather than at the noisy mean")
    weight: float = setting(0.1, "lambda: step along the negative gradient", lo=0.0, hi=1e6)
    clip: float = setting(1.0, "largest norm of a chunk's guidance step in normalised space", lo=1e-6, hi=1e6)
    samples: int = setting(1, "chunks guided at once; the best is chosen", lo=1, hi=100_000)
    k_samples: int = setting(128, "draws of p(k) tried with the outcome", lo=1, hi=100_000)


@register
class MPD(Sampler[MPDConfig]):
    """Gradient-guided ancestral sampling."""

    name: ClassVar[str] = "mpd"
    config_type: ClassVar[type[MPDConfig]] = MPDConfig

    def network_rows(self, steps: int) -> int:
        """Network rows of a call: one pass a step, and with Tweedie one more but for the last."""
        return self.config.samples * (steps + (steps - 1 if self.config.tweedie else 0))

    def _sample(self, run: Run) -> SampleResult:
        guidance: Cost = offered(run.problem, "guidance", "mpd", "the differentiable cost")
        x = run.noise(self.config.samples)
        for i in range(run.schedule.steps, 0, -1):
            if run.expired():
                return finish(run, None, None, False)
            mean, sigma = step_mean(run.schedule, x, run.clean(x, i), i, i - 1, 1.0)
            x = mean + self._guidance(run, guidance, mean, i - 1)
            if sigma > 0.0:
                x = x + sigma * normal_like(x, run.generator)
        raw, e = run.evaluate(x)
        return finish(run, pair_with_prior(run, raw, e, self.config.k_samples), None, True)

    def _guidance(self, run: Run, guidance: Cost, mean: Tensor, i: int) -> Tensor:
        """(N, H, D) step: minus the clipped gradient of the cost with respect to ``mean``, a sample at level ``i``."""
        c = self.config
        with torch.inference_mode(False), torch.enable_grad():
            y = mean.clone().requires_grad_(True)
            clean = run.clean(y, i) if c.tweedie and i > 0 else y
            cost = guidance(run.denoiser.denormalise(clean))
            if cost.shape != y.shape[:1] or not cost.requires_grad or not bool(torch.isfinite(cost).all()):
                raise InputError(
                    f"mpd: cost (guidance): shape {tuple(cost.shape)}; expected ({len(y)},), finite and differentiable by torch"
                )
            (grad,) = torch.autograd.grad(cost.sum(), y, allow_unused=True, materialize_grads=True)
        if not bool(torch.isfinite(grad).all()):
            raise InputError(f"guidance: gradient is not finite in {int((~torch.isfinite(grad)).sum())} of {grad.numel()} values")
        step = -c.weight * grad
        norm = step.flatten(1).norm(dim=1).clamp(min=1e-12)
        return step * (c.clip / norm).clamp(max=1.0)[:, None, None]
