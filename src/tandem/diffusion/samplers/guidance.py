"""Classifier guidance (Dhariwal & Nichol 2021, Alg. 1) with the specifications as classifier, and its epsilon form.

Each reverse step draws from N(mu + scale * sigma^2 * grad log p(safe | mu), sigma^2). The classifier is made of the barrier
functions, p(safe | x) = prod sigmoid(b_m(x_h) / width), so its gradient is ``sum_m sigmoid(-b_m / width) / width * grad b_m``
(``classifier``). The ``epsilon`` form (SafeDiffuser, Table 1: "classifier guidance-epsilon") pushes only waypoints that are
within epsilon of a boundary or beyond it, by ``grad b_m`` itself. Neither guarantees anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tandem.core.config import setting
from tandem.diffusion.result import SampleResult
from tandem.diffusion.reverse import normal_like, step_mean
from tandem.diffusion.samplers.base import Run, Sampler, finish, pair_with_prior, register


@dataclass(frozen=True)
class GuidanceConfig:
    """Settings of classifier guidance."""

    form: str = setting("classifier", "logistic classifier, or a push near the boundary", choices=("classifier", "epsilon"))
    scale: float = setting(1.0, "gradient scale s", lo=0.0, hi=1e6)
    width: float = setting(0.05, "classifier: width of the logistic, b's own unit", lo=1e-6, hi=1e6)
    epsilon: float = setting(0.02, "epsilon: distance below which a waypoint is pushed, b's own unit", lo=0.0, hi=1e6)
    samples: int = setting(1, "chunks drawn at once; the best is chosen", lo=1, hi=100_000)
    k_samples: int = setting(128, "draws of p(k) tried with the outcome", lo=1, hi=100_000)


@register
class Guidance(Sampler[GuidanceConfig]):
    """Ancestral sampling with shifted means."""

    name: ClassVar[str] = "guidance"
    config_type: ClassVar[type[GuidanceConfig]] = GuidanceConfig

    def network_rows(self, steps: int) -> int:
        """Network rows of a call."""
        return self.config.samples * steps

    def _sample(self, run: Run) -> SampleResult:
        x = run.noise(self.config.samples)
        for i in range(run.schedule.steps, 0, -1):
            if run.expired():
                return finish(run, None, None, False)
            mean, sigma = step_mean(run.schedule, x, run.clean(x, i), i, i - 1, 1.0)
            x = mean
            if sigma > 0.0:
                push = (self.config.scale * sigma * sigma) * self._gradient(run, mean)
                x = mean + push.to(mean.dtype) + sigma * normal_like(mean, run.generator)
        raw, e = run.evaluate(x)
        return finish(run, pair_with_prior(run, raw, e, self.config.k_samples), None, True)

    def _gradient(self, run: Run, x: Tensor) -> Tensor:
        """(N, H, D) gradient of log p(safe | x), or of the epsilon form's hinge, in normalised space."""
        c = self.config
        b, slope = run.barrier(x, self.name)
        weight = torch.sigmoid(-b / c.width) / c.width if c.form == "classifier" else (b < c.epsilon).to(b.dtype)
        return (weight[..., None] * slope).sum(2)
