"""Model-based diffusion (MBD; Pan et al. 2024; JM2D, Cor. 3, second half): k alone is denoised, guided by V(x, .) for a fixed x.

x is one plain sample of the policy, so this is sequential sampling whose optimiser is MBD. From k_I ~ N(0, I),

    k0 = sum_l w_l k_l,   k_l ~ q(k_0 | k_i) (JM2D Eq. 6),   w_l = V(x, k_l) p(k_l),   k_{i-1} = sqrt(ab_{i-1}) k0

without noise (MBD, Eq. 6). ``standardise`` divides J by its spread before the temperature, as MBD's code does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from tandem.core.config import setting
from tandem.core.errors import ConfigError
from tandem.diffusion.problem import PotentialGrid
from tandem.diffusion.result import SampleResult
from tandem.diffusion.reverse import SolverConfig
from tandem.diffusion.samplers.base import Archive, Pairs, Run, Sampler, finish, register, repair
from tandem.diffusion.samplers.jm2d import clean_parameters
from tandem.diffusion.samplers.potential import graded, standardised
from tandem.diffusion.schedules import ScheduleConfig, make_schedule


@dataclass(frozen=True)
class MBDConfig:
    """Settings of model-based diffusion."""

    k_samples: int = setting(128, "clean parameters a step", lo=1, hi=100_000)
    k_steps: int = setting(100, "denoising steps of k", lo=1, hi=4000)
    k_schedule: str = setting("mbd", "schedule of k", choices=("cosine", "linear", "mbd"))
    k_final: float | None = setting(None, "alpha_bar^k at the last step; none: the schedule's own (mbd: 0.60)", lo=1e-6, hi=0.99)
    temperature: float | None = setting(None, "lambda of V = exp(-J / lambda); none: the problem's own", lo=1e-6, hi=1e6)
    standardise: bool = setting(False, "standardise J before the temperature (needs temperature; MBD: 0.1)")
    graded_temperature: float = setting(0.1, "temperature of the standardised depth where V = 0 everywhere", lo=1e-3, hi=1e3)
    selection: str = setting("rejection", "the best k of all steps, or k_0 itself", choices=("rejection", "final"))
    solver: SolverConfig = field(default_factory=SolverConfig)

    def __post_init__(self) -> None:
        if self.standardise and self.temperature is None:
            raise ConfigError("mbd: standardise = true: takes a temperature (MBD: 0.1), for J has no unit left")


@register
class MBD(Sampler[MBDConfig]):
    """x from the policy, k by model-based diffusion."""

    name: ClassVar[str] = "mbd"
    config_type: ClassVar[type[MBDConfig]] = MBDConfig

    def network_rows(self, steps: int) -> int:
        """Network rows of a call."""
        return steps if self.config.solver.steps == 0 else min(steps, self.config.solver.steps)

    def _sample(self, run: Run) -> SampleResult:
        c = self.config
        x, level = run.denoise(run.noise(1), run.schedule.steps, c.solver, stop_early=True)
        if level > 0:
            return finish(run, None, None, False)
        raw, e = run.evaluate(x)
        schedule = make_schedule(ScheduleConfig(c.k_schedule, c.k_steps, c.k_final))
        k = torch.randn((1, run.problem.k_dim), generator=run.generator, device=x.device, dtype=x.dtype)
        archive, complete = Archive(1), True
        for i in range(schedule.steps, 0, -1):
            if run.expired():
                complete = False
                break
            ks = clean_parameters(run, k, schedule, i, c.k_samples, "truncated")
            grid = run.grid(e, ks)
            log_prior = run.log_prior(ks)
            archive.add(Pairs.best(raw, ks, grid, log_prior))
            k = schedule.signal(i - 1) * self._mean(run, ks, grid, log_prior, k / schedule.signal(i))
        if archive.pairs is None:
            return finish(run, None, None, complete)
        if c.selection == "final" and complete:
            return finish(run, Pairs.best(raw, k, run.grid(e, k), run.log_prior(k)), 0, complete)
        return finish(run, repair(run, e, archive.pairs), 0, complete)

    def _mean(self, run: Run, ks: Tensor, grid: PotentialGrid, log_prior: Tensor, proposal_mean: Tensor) -> Tensor:
        """(1, dk) weighted mean of ``ks`` (K, dk); the proposal's own mean where nothing can be said."""
        c = self.config
        log_w = (standardised(grid, c.temperature) if c.standardise and c.temperature else grid.log_v)[0] + log_prior
        if not bool((log_w > -torch.inf).any()):
            run.counters.fail("no feasible pair in a step")
            log_w = graded(grid, c.graded_temperature)[0] + log_prior
            if not bool((log_w > -torch.inf).any()):
                return proposal_mean
        return (torch.softmax(log_w, 0).to(ks.dtype) @ ks)[None]
