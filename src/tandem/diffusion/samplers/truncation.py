"""Truncation (SafeDiffuser's baseline, after Brockman et al. 2016): each noisy waypoint that violates a specification is put on
its boundary.

Meant for simple specifications: each waypoint by itself, its worst specification first, a few Newton steps along its gradient.
Where specifications meet, the last one handled wins; the problem's own V judges the outcome.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from tandem.core.config import setting
from tandem.diffusion.result import SampleResult
from tandem.diffusion.reverse import step
from tandem.diffusion.samplers.base import Run, Sampler, finish, pair_with_prior, register


@dataclass(frozen=True)
class TruncationConfig:
    """Settings of truncation."""

    rounds: int = setting(3, "Newton steps after each denoising step", lo=1, hi=100)
    samples: int = setting(1, "chunks drawn at once; the best is chosen", lo=1, hi=100_000)
    k_samples: int = setting(128, "draws of p(k) tried with the outcome", lo=1, hi=100_000)


@register
class Truncation(Sampler[TruncationConfig]):
    """Ancestral sampling, clipped onto the specifications after each step."""

    name: ClassVar[str] = "truncation"
    config_type: ClassVar[type[TruncationConfig]] = TruncationConfig

    def network_rows(self, steps: int) -> int:
        """Network rows of a call."""
        return self.config.samples * steps

    def _sample(self, run: Run) -> SampleResult:
        x = run.noise(self.config.samples)
        for i in range(run.schedule.steps, 0, -1):
            if run.expired():
                return finish(run, None, None, False)
            x = step(run.schedule, x, run.clean(x, i), i, i - 1, 1.0, run.generator)
            x = self._truncated(run, x)
        raw, e = run.evaluate(x)
        return finish(run, pair_with_prior(run, raw, e, self.config.k_samples), None, True)

    def _truncated(self, run: Run, x: Tensor) -> Tensor:
        """Waypoints moved to ``b = 0`` of their worst specification, measured in normalised space."""
        for _ in range(self.config.rounds):
            b, slope = run.barrier(x, self.name)
            if b.shape[-1] == 0:
                return x
            worst, index = b.min(-1)
            lack = (-worst).clamp(min=0.0)
            if not bool((lack > 1e-9).any()):
                return x
            normal = slope.gather(2, index[..., None, None].expand(*index.shape, 1, slope.shape[-1]))[:, :, 0]
            square = (normal * normal).sum(-1)
            flat = (lack > 0.0) & (square < 1e-12)
            if bool(flat.any()):
                run.counters.fail("specification without a gradient", int(flat.sum()))
            x = x + ((lack / square.clamp(min=1e-12))[..., None] * normal).to(x.dtype)
        return x
