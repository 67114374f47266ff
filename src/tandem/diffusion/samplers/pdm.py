"""Projected diffusion models (Christopher, Baek & Fioretto 2025): project every noisy sample onto the feasible chunks.

After each reverse step the sample is mapped to the nearest feasible chunk, noise and all: feasibility is enforced from the first
step on, which is what JM2D's Fig. 5 shows to leave the data distribution. ``last_steps`` restricts the projection to the end of
the way (1: projection of the outcome only). Needs a :class:`~tandem.diffusion.constraints.ProjectableProblem`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tandem.core.config import setting
from tandem.diffusion.result import SampleResult
from tandem.diffusion.reverse import step
from tandem.diffusion.samplers.base import Run, Sampler, finish, pair_with_prior, register


@dataclass(frozen=True)
class PDMConfig:
    """Settings of projected diffusion."""

    last_steps: int = setting(0, "steps at the end that project; 0: all", lo=0, hi=4000)
    samples: int = setting(1, "chunks drawn at once; the best is chosen", lo=1, hi=100_000)
    k_samples: int = setting(128, "draws of p(k) tried with the outcome", lo=1, hi=100_000)


@register
class PDM(Sampler[PDMConfig]):
    """Ancestral sampling with a projection after each step."""

    name: ClassVar[str] = "pdm"
    config_type: ClassVar[type[PDMConfig]] = PDMConfig

    def network_rows(self, steps: int) -> int:
        """Network rows of a call."""
        return self.config.samples * steps

    def _sample(self, run: Run) -> SampleResult:
        first = self.config.last_steps or run.schedule.steps
        x = run.noise(self.config.samples)
        for i in range(run.schedule.steps, 0, -1):
            if run.expired():
                return finish(run, None, None, False)
            x = step(run.schedule, x, run.clean(x, i), i, i - 1, 1.0, run.generator)
            if i <= first:
                x = run.project(x, self.name)
        raw, e = run.evaluate(x)
        return finish(run, pair_with_prior(run, raw, e, self.config.k_samples), None, True)
