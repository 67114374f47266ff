"""Gibbs sampling of p(x, k): alternate x ~ p(x | k) and k ~ p(k | x) (JM2D Sec. 4.1, baseline b of Sec. 5.1).

The paper does not say how the conditionals are drawn. Here both are drawn by iterated sampling-importance-resampling
(Tjelmeland 2004; Andrieu et al. 2018, i-SIR): the current value and fresh draws of the prior form a pool, one is drawn in
proportion to V. This leaves p(x, k) invariant for any pool size, so the chain is exact in the limit of many sweeps, and a sweep
costs ``x_samples`` whole reverse passes: 13 sweeps of 128 chunks at I = 25 are JM2D's 41,600 network rows. Where V = 0 over the
whole pool the conditional is ill-defined (the paper's point): the least violation depth is taken, and counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from tandem.core.config import setting
from tandem.diffusion.problem import PotentialGrid
from tandem.diffusion.result import SampleResult
from tandem.diffusion.reverse import SolverConfig
from tandem.diffusion.samplers.base import Archive, Pairs, Run, Sampler, finish, register, repair


@dataclass(frozen=True)
class GibbsConfig:
    """Settings of Gibbs sampling."""

    sweeps: int = setting(13, "alternations; 13 x 128 x 25 = JM2D's 41,600 rows", lo=1, hi=100_000)
    x_samples: int = setting(128, "fresh chunks a sweep", lo=1, hi=100_000)
    k_samples: int = setting(128, "fresh draws of p(k) a sweep", lo=1, hi=100_000)
    selection: str = setting("rejection", "least J of the last pool of k, or the chain's state", choices=("rejection", "final"))
    archive: bool = setting(False, "choose among the best pairs of all sweeps")
    temperature: float | None = setting(None, "lambda of V = exp(-J / lambda); none: the problem's own", lo=1e-6, hi=1e6)
    solver: SolverConfig = field(default_factory=SolverConfig)


@register
class Gibbs(Sampler[GibbsConfig]):
    """Two-block Gibbs with i-SIR conditionals."""

    name: ClassVar[str] = "gibbs"
    config_type: ClassVar[type[GibbsConfig]] = GibbsConfig

    def network_rows(self, steps: int) -> int:
        """Network rows of a call."""
        c = self.config
        return c.sweeps * c.x_samples * (steps if c.solver.steps == 0 else min(steps, c.solver.steps))

    def _sample(self, run: Run) -> SampleResult:
        c = self.config
        k = run.sample_k(1)
        x: Tensor | None = None
        archive, complete, last = Archive(), True, None
        for _ in range(c.sweeps):
            fresh, level = run.denoise(run.noise(c.x_samples), run.schedule.steps, c.solver, stop_early=True)
            if level > 0:
                complete = False
                break
            pool = fresh if x is None else torch.cat([x, fresh])
            raw, e = run.evaluate(pool)
            grid = run.grid(e, k)
            archive.add(Pairs.best(raw, k, grid, run.log_prior(k)))
            j = self._draw(run, grid, "x")
            x = pool[j : j + 1]
            ks = torch.cat([k, run.sample_k(c.k_samples)])
            e_one = run.problem.evaluate(raw[j : j + 1])
            grid = run.grid(e_one, ks)
            pairs = Pairs.best(raw[j : j + 1], ks, grid, run.log_prior(ks))
            archive.add(pairs)
            i = self._draw(run, grid, "k")
            k = ks[i : i + 1]
            last = (e_one, pairs, Pairs.single(raw[j : j + 1], ks, grid, i))
        if last is None:
            return finish(run, archive.pairs, None, False)
        e_one, pairs, state = last
        if c.selection == "final" and complete:
            return finish(run, state, 0, complete)
        if archive.pairs is not None and archive.has_feasible() and (c.archive or not complete):
            return finish(run, archive.pairs, 0, complete)
        return finish(run, repair(run, e_one, pairs), 0, complete)

    def _draw(self, run: Run, grid: PotentialGrid, block: str) -> int:
        """Index into a grid that is 1 wide in one direction: in proportion to V, or the least depth."""
        log_v, depth = grid.log_v.flatten(), grid.depth.flatten()
        run.record(**{f"feasible_{block}": float((log_v > -torch.inf).double().mean())})
        if bool((log_v > -torch.inf).any()):
            return int(run.categorical(log_v))
        run.counters.fail(f"p({'x | k' if block == 'x' else 'k | x'}) ill-defined")
        return int(depth.argmin())
