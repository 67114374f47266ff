"""Conditional generation (JM2D, Cor. 3, first half): x alone is denoised, guided by a potential V^x(x) that is only evaluated.

The special case of JM2D without a k to carry: at every step N clean chunks are drawn from x_i and weighted,

    x0 = sum_j w_j x_j,    w_j = V^x(x_j),    x_{i-1} by DDPM/DDIM towards x0

(the gradient-free guidance of Huang et al. 2024). Where V depends on k too, V^x(x) = E_{p(k)} V(x, k) is its average over fresh
draws of the prior, so that the target is the joint's own marginal. k for the outcome is the best of the last draws.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import torch

from tandem.core.config import setting
from tandem.diffusion.problem import Evaluated
from tandem.diffusion.result import SampleResult
from tandem.diffusion.reverse import step
from tandem.diffusion.samplers.base import Archive, OutOfTimeError, Pairs, Run, Sampler, finish, register, repair, rescued
from tandem.diffusion.samplers.clean import CleanConfig, clean_chunks, clean_rows, step_target, target_rows
from tandem.diffusion.samplers.potential import graded


@dataclass(frozen=True)
class ConditionalConfig(CleanConfig):
    """Settings of conditional generation."""

    x_samples: int = setting(128, "clean chunks a step, N", lo=1, hi=100_000)
    k_samples: int = setting(128, "draws of p(k) a step to average V over; 1 where V is of x alone", lo=1, hi=100_000)
    temperature: float | None = setting(None, "lambda of V = exp(-J / lambda); none: the problem's own", lo=1e-6, hi=1e6)
    graded_temperature: float = setting(0.1, "temperature of the standardised depth where V = 0 everywhere", lo=1e-3, hi=1e3)
    eta: float = setting(1.0, "stochasticity of the outer step: 1 DDPM, 0 DDIM", lo=0.0, hi=1.0)
    tighten: float = setting(0.0, "margin on the constraints while denoising (Table A.2, Tight)", lo=0.0, hi=1e3)
    selection: str = setting("rejection", "rejection among the final chunks, or x_0 itself", choices=("rejection", "final"))
    archive: bool = setting(False, "choose among the best pairs of all steps, not of the last only")


@register
class Conditional(Sampler[ConditionalConfig]):
    """JM2D over x alone."""

    name: ClassVar[str] = "conditional"
    config_type: ClassVar[type[ConditionalConfig]] = ConditionalConfig

    def network_rows(self, steps: int) -> int:
        """Network rows of a call: N I (I + 1) / 2 with full clean estimates."""
        return clean_rows(self.config, steps, self.config.x_samples) + target_rows(self.config, steps)

    def _sample(self, run: Run) -> SampleResult:
        c, x = self.config, run.noise(1)
        guide = run.tightened(c.tighten, self.name)
        archive, complete, took = Archive(), True, 0.0
        final: tuple[Evaluated, Pairs] | None = None
        ks = x.new_zeros((0, run.problem.k_dim))
        for i in range(run.schedule.steps, 0, -1):
            started = time.perf_counter()
            if run.expired(ahead=took):
                complete = False
                break
            try:
                clean = clean_chunks(run, c, x, i, c.x_samples)
            except OutOfTimeError:
                complete = False
                break
            ks = run.sample_k(c.k_samples)
            raw, e = guide.evaluate(clean)
            grid = guide.grid(e, ks)
            log_w = grid.log_v.logsumexp(1)
            run.record(feasible_share=float(grid.feasible.double().mean()))
            if not bool((log_w > -torch.inf).any()):
                run.counters.fail("no feasible pair in a step")
                log_w = graded(grid, c.graded_temperature).logsumexp(1)
            alive = bool((log_w > -torch.inf).any())
            if not alive:
                run.counters.fail("model-free step")
            w = torch.softmax(log_w if alive else torch.zeros_like(log_w), 0).to(clean.dtype)
            pairs = Pairs.best(raw, ks, grid, run.log_prior(ks))
            archive.add(pairs)
            final = (e, pairs)
            x0 = torch.einsum("n,nhd->hd", w, step_target(run, c, x, i, clean))[None]
            x = step(run.schedule, x, x0, i, i - 1, c.eta, run.generator)
            took = time.perf_counter() - started
        if final is None:
            return finish(run, None, None, complete)
        if c.archive or not complete:
            archive = rescued(run, archive) if guide is not run else archive
            if archive.has_feasible() and archive.pairs is not None and (c.selection == "rejection" or not complete):
                return finish(run, archive.pairs, 0, complete)
        # what is returned answers to the constraints themselves, not to the tightened ones
        if c.selection == "final" and complete:
            raw, e = run.evaluate(x)
            ks = run.sample_k(c.k_samples)
            final = (e, Pairs.best(raw, ks, run.grid(e, ks), run.log_prior(ks)))
        elif guide is not run:
            e = run.problem.evaluate(final[1].x)
            final = (e, Pairs.best(final[1].x, ks, run.grid(e, ks), run.log_prior(ks)))
        return finish(run, repair(run, *final), None, complete)
