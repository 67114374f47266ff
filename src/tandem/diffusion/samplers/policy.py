"""The plain diffusion policy (Chi et al. 2023): one sample of p(x), no knowledge of V."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from tandem.core.config import setting
from tandem.diffusion.result import Candidates, SampleResult
from tandem.diffusion.reverse import SolverConfig
from tandem.diffusion.samplers.base import Run, Sampler, register


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
        k, cost, feasible = None, float("inf"), False
        if self.config.with_backup and level == 0 and not run.expired():
            e = run.problem.evaluate(raw)
            k, cost, feasible = run.problem.optimise_k(e, 0)
            run.counters.solver_iterations += 1
            grid = run.grid(e, k[None])
            feasible = feasible and bool(grid.feasible[0, 0])
            cost = float(grid.cost[0, 0]) if feasible else float("inf")
        candidates = Candidates(
            raw, None if k is None else k[None], torch.tensor([feasible], device=raw.device), torch.tensor([cost],
            device=raw.device)
        )
        return SampleResult(raw[0], k, feasible, cost, candidates, level == 0, run.in_time(), run.counters, run.trace)
