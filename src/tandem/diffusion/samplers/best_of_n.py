"""Best of N: plain samples of p(x) against draws of p(k), the least J among feasible pairs. Rejection at a budget of network
rows.

The baseline no paper reports and that is hard to beat where x alone decides: with ``rows`` set to another method's count it
spends exactly that method's network budget. ``selection: sample`` draws a pair in proportion to V instead, which makes it
self-normalised importance sampling of p(x) p(k) V(x, k).
``tighten`` prefers pairs that keep a margin from the constraints, as JM2D's "Tight" does (Table A.2); where none does, the
constraints themselves decide.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from tandem.core.config import setting
from tandem.core.errors import ConfigError
from tandem.diffusion.problem import Evaluated
from tandem.diffusion.result import SampleResult
from tandem.diffusion.reverse import SolverConfig
from tandem.diffusion.samplers.base import Pairs, Run, Sampler, finish, guessed, refine_k, register, rejudged, repair


@dataclass(frozen=True)
class BestOfNConfig:
    """Settings of best-of-N."""

    rows: int = setting(3200, "budget of network rows; N = rows / passes", lo=1, hi=10_000_000)
    batch: int = setting(0, "samples drawn at a time (0: all at once); the deadline counts between batches", lo=0, hi=100_000)
    k_samples: int = setting(128, "draws of k from its prior, shared by all chunks of a batch", lo=1, hi=100_000)
    refine_top: int = setting(16, "chunks whose k is refined locally", lo=1, hi=4096)
    refine_rounds: int = setting(2, "rounds of local search on k; 0: none", lo=0, hi=100)
    refine_count: int = setting(16, "steps tried in a round", lo=1, hi=4096)
    refine_scale: float = setting(0.2, "first round's standard deviation, of k's range [-1, 1]", lo=1e-4, hi=2.0)
    selection: str = setting("best", "best: least J; sample: in proportion to V (no refinement)", choices=("best", "sample"))
    temperature: float | None = setting(None, "lambda of V = exp(-J / lambda); none: the problem's own", lo=1e-6, hi=1e6)
    tighten: float = setting(0.0, "margin on the constraints that the choice keeps where any pair does", lo=0.0, hi=1e3)
    solver: SolverConfig = field(default_factory=SolverConfig)

    def __post_init__(self) -> None:
        if self.tighten > 0.0 and self.selection == "sample":
            raise ConfigError(f"best_of_n: tighten = {self.tighten}: with selection = sample it draws from V itself; accepted: 0")


@register
class BestOfN(Sampler[BestOfNConfig]):
    """N independent samples, one choice."""

    name: ClassVar[str] = "best_of_n"
    config_type: ClassVar[type[BestOfNConfig]] = BestOfNConfig

    def count(self, steps: int) -> int:
        """N for a denoiser of ``steps`` steps."""
        passes = steps if self.config.solver.steps == 0 else min(steps, self.config.solver.steps)
        return max(1, self.config.rows // passes)

    def network_rows(self, steps: int) -> int:
        """Network rows of a call."""
        return self.count(steps) * (steps if self.config.solver.steps == 0 else min(steps, self.config.solver.steps))

    def _sample(self, run: Run) -> SampleResult:
        c, left = self.config, self.count(run.schedule.steps)
        batch = left if c.batch == 0 else min(c.batch, left)
        guide = run.tightened(c.tighten, self.name)
        everything: Pairs | None = None
        roomy: Pairs | None = None  # the same chunks, judged by the tightened constraints
        log_w: list[Tensor] = []
        complete = True
        while left > 0:
            x, level = run.denoise(run.noise(min(batch, left)), run.schedule.steps, c.solver, stop_early=True)
            if level > 0:
                complete = False
                break
            left -= x.shape[0]
            raw, e = run.evaluate(x)
            k = run.sample_k(c.k_samples)
            if c.selection == "sample":  # chunks by their mean V over k; each chunk's k in proportion to V
                grid = run.grid(e, k)
                log_w.append(grid.log_v.logsumexp(-1))
                pairs = Pairs.best(raw, k, grid, run.log_prior(k)).redrawn(run, k, grid)
            else:
                pairs = self._paired(run, raw, e, k)
            everything = pairs if everything is None else everything + pairs
            if guide is not run:
                wide = self._paired(guide, raw, guide.problem.evaluate(raw), k)
                roomy = wide if roomy is None else roomy + wide
        if everything is None:
            return finish(run, None, None, False)
        run.record(feasible_share=float(everything.feasible.double().mean()))
        if c.selection == "sample":
            return finish(run, everything, int(run.categorical(torch.cat(log_w))), complete)
        if roomy is not None and bool(roomy.feasible.any()):
            top = self._refined(guide, roomy)
            best, top = top.best_index(), rejudged(run, top)
            if bool(top.feasible[best]):
                return finish(run, top + everything, best, complete)
        return self._best(run, everything, complete)

    def _paired(self, run: Run, raw: Tensor, e: Evaluated, k: Tensor) -> Pairs:
        """Each chunk with the best of ``k`` (K, dk) and the problem's guess."""
        return guessed(run, e, Pairs.best(raw, k, run.grid(e, k), run.log_prior(k)))

    def _refined(self, run: Run, everything: Pairs) -> Pairs:
        """The best chunks, their k searched locally."""
        c = self.config
        top = everything.with_best_first(c.refine_top)
        return top if run.expired() else refine_k(run, top, c.refine_rounds, c.refine_count, c.refine_scale)

    def _best(self, run: Run, everything: Pairs, complete: bool) -> SampleResult:
        """Refine k of the best chunks, or optimise one k when nothing is feasible, and take the least J."""
        top = self._refined(run, everything)
        if not bool(top.feasible.any()) and not run.expired():
            top = repair(run, run.problem.evaluate(top.x), top)
        return finish(run, top + everything, top.best_index(), complete)
