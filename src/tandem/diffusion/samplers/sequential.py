"""Sequential sampling, as RAIL does it (Jung et al. 2024; JM2D Sec. 4.1): x ~ p(x) first, then k by optimisation for that x."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from tandem.diffusion.result import SampleResult
from tandem.diffusion.reverse import SolverConfig
from tandem.diffusion.samplers.base import Pairs, Run, Sampler, finish, register, repair


@dataclass(frozen=True)
class SequentialConfig:
    """Settings of sequential sampling."""

    solver: SolverConfig = field(default_factory=SolverConfig)


@register
class Sequential(Sampler[SequentialConfig]):
    """One policy sample and one optimisation of k; infeasible stays infeasible."""

    name: ClassVar[str] = "sequential"
    config_type: ClassVar[type[SequentialConfig]] = SequentialConfig

    def network_rows(self, steps: int) -> int:
        """Network rows of a call."""
        return steps if self.config.solver.steps == 0 else min(steps, self.config.solver.steps)

    def _sample(self, run: Run) -> SampleResult:
        x, level = run.denoise(run.noise(1), run.schedule.steps, self.config.solver, stop_early=True)
        raw, e = run.evaluate(x)
        nothing = torch.full((1,), torch.inf, device=raw.device, dtype=torch.float64)
        pairs = Pairs(raw, torch.zeros((1, run.problem.k_dim), device=raw.device, dtype=raw.dtype), nothing, nothing)
        if level == 0:
            pairs = repair(run, e, pairs)
        return finish(run, pairs, 0, level == 0)
