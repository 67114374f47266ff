"""The plain diffusion policy (Chi et al. 2023): one sample of p(x), no knowledge of V."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from tandem.core.config import setting
from tandem.diffusion.result import Candidates, SampleResult
from tandem.diffusion.reverse import SolverConfig
from tandem.diffusion.samplers.base import Pairs, Run, Sampler, finish, register, repair


@dataclass(frozen=True)
class PolicyConfig:
    """Settings of the plain policy."""

    solver: SolverConfig = field(default_factory=SolverConfig)
    with_backup: bool = setting(False, "ask the model-based module for a k of the sampled chunk (x stays as it is)")


@register
class Policy(Sampler[PolicyConfig]):
    """One ancestral pass. ``feasible`` is False unless ``with_backup`` found a k: nothing else here looks at V."""

    name: ClassVar[str] = "policy"
    config_type: ClassVar[type[PolicyConfig]] = PolicyConfig

    def network_rows(self, steps: int) -> int:
        """Network rows of a call."""
        return steps if self.config.solver.steps == 0 else min(steps, self.config.solver.steps)

    def _sample(self, run: Run) -> SampleResult:
        x, level = run.denoise(run.noise(1), run.schedule.steps, self.config.solver, stop_early=True)
        raw = run.denormalise(x)
        nothing = torch.full((1,), torch.inf, device=raw.device, dtype=torch.float64)
        if self.config.with_backup:
            pairs = Pairs(raw, torch.zeros((1, run.problem.k_dim), device=raw.device, dtype=raw.dtype), nothing, nothing)
            if level == 0 and not run.expired():
                pairs = repair(run, run.problem.evaluate(raw), pairs)
            return finish(run, pairs, 0, level == 0)
        candidates = Candidates(raw, None, torch.isfinite(nothing), nothing)
        return SampleResult(raw[0], None, False, float("inf"), candidates, level == 0, run.in_time(), run.counters, run.trace)
