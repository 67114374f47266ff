"""JM2D: Joint Model-based Model-free Diffusion (Jung, Mishra et al. 2025), Alg. C.1 with SAMPLEMC of Alg. C.2.

One noisy pair (x_i, k_i) is carried from i = I to 0. At every step (Alg. C.2) N clean chunks are drawn from x_i by completing the
reverse process, and N_K clean parameters from q(k_0 | k_i) = N(k_i / sqrt(ab^k_i), (1 / ab^k_i - 1) I). The joint score (Eq. 7)
is the average of the Tweedie scores weighted with V(x, k) p(k) over the N x N_K grid. Since a Tweedie score is linear in the
clean sample, that average is the Tweedie score of the weighted means x0, k0, and the weights factorise:

    w_j = sum_l V(x_j, k_l) p(k_l),    w_l = sum_j V(x_j, k_l) p(k_l).

Hence line 5 of Alg. C.1 is an ordinary DDPM/DDIM step of x towards x0 (with the minus sign of Eq. 2, which Alg. C.1 misprints)
and k_{i-1} = sqrt(ab^k_{i-1}) k0 without noise, as in model-based diffusion. Cost: I (I + 1) / 2 passes of N rows with ``full``
estimates.

What the paper leaves open, and what is done here:

- V = 0 for all pairs: the score is undefined. ``fallback: graded`` weights the grid by the violation depth instead;
  where even that says nothing (or with ``model_free``) x takes the model-free step, towards the mean of its N clean chunks, and k
  keeps its proposal's mean. Counted under ``failures``.
- ``k_proposal: truncated`` draws from q(k_0 | k_i) restricted to the box that carries p(k). A draw outside has weight 0 anyway,
  so the estimator is the same; in seven dimensions only 2 of 128 draws would be inside at i = I. ``paper`` draws unrestricted.
- lambda is the problem's, unless ``temperature`` replaces it; ``standardise`` standardises J first, as MBD does.
- Its law is near p(x) p(k) V(x, k), not equal to it: k moves without noise, and a reverse pass of few steps understates the
  spread of p(x_0 | x_i), so that V tilts less than it should. Gaussian x tilted by V of x alone, mean 0.29 in the limit: 0.10,
  0.17, 0.24 with I = 6, 25, 60.
- ``tighten`` weighs the Monte-Carlo pairs by V under tightened constraints ("Tight", Table A.2) and judges the outcome by V
  itself; ``project`` projects every noisy x onto the feasible chunks (Appx. B). The pathwise gradient of Appx. B is
  :mod:`tandem.diffusion.samplers.jm2d_pathwise`; conditional generation and model-based diffusion (Cor. 3) are
  :mod:`~tandem.diffusion.samplers.conditional` and :mod:`~tandem.diffusion.samplers.mbd`.
- ``selection: rejection`` (Table A.1): the least J among the final Monte-Carlo pairs with V > 0; none: one optimisation of k
  for the best chunk; still none: infeasible. ``final`` returns (x_0, k_0) itself, ``archive`` chooses among the best pairs of
  *all* steps.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tandem.core.config import setting
from tandem.core.errors import ConfigError
from tandem.diffusion.constraints import offered
from tandem.diffusion.problem import Evaluated, PotentialGrid
from tandem.diffusion.result import SampleResult
from tandem.diffusion.reverse import step
from tandem.diffusion.samplers.base import Archive, OutOfTimeError, Pairs, Run, Sampler, finish, register, repair, rescued
from tandem.diffusion.samplers.clean import CleanConfig, clean_chunks, clean_rows, step_target, target_rows
from tandem.diffusion.samplers.potential import graded, standardised
from tandem.diffusion.schedules import Schedule, ScheduleConfig, make_schedule


@dataclass(frozen=True)
class JM2DConfig(CleanConfig):
    """Settings of JM2D; the defaults are Table A.1 (I = 25 and the cosine schedule of x are the denoiser's own)."""

    x_samples: int = setting(128, "clean chunks a step, N", lo=1, hi=100_000)
    k_samples: int = setting(128, "clean parameters a step, N_K", lo=1, hi=100_000)
    k_schedule: str = setting("mbd", "schedule of k; mbd is Table A.1's 'linear'", choices=("cosine", "linear", "mbd"))
    k_final: float | None = setting(None, "alpha_bar^k at step I; none: the schedule's own (mbd: 0.60)", lo=1e-6, hi=0.99)
    k_proposal: str = setting("truncated", "draw k_0 | k_i in the prior's box, or unrestricted", choices=("truncated", "paper"))
    temperature: float | None = setting(None, "lambda of V = exp(-J / lambda); none: the problem's own", lo=1e-6, hi=1e6)
    standardise: bool = setting(False, "standardise J over the feasible pairs before the temperature (MBD; needs temperature)")
    fallback: str = setting("graded", "when V = 0 everywhere", choices=("graded", "model_free"))
    graded_temperature: float = setting(0.1, "temperature of the standardised depth", lo=1e-3, hi=1e3)
    eta: float = setting(1.0, "stochasticity sigma of the outer step: 1 DDPM, 0 DDIM", lo=0.0, hi=1.0)
    selection: str = setting("rejection", "rejection among the final pairs, or (x_0, k_0) itself", choices=("rejection", "final"))
    archive: bool = setting(False, "choose among the best pairs of all steps, not of the last only")
    tighten: float = setting(0.0, "margin on the constraints while denoising (Table A.2, Tight)", lo=0.0, hi=1e3)
    project: bool = setting(False, "project each noisy x onto the feasible chunks (Appx. B, constraint enforcement)")

    def __post_init__(self) -> None:
        if self.standardise and self.temperature is None:
            raise ConfigError("jm2d: standardise = true: takes a temperature (MBD: 0.1), for J has no unit left")


@register
class JM2D(Sampler[JM2DConfig]):
    """Faithful JM2D. With a deadline it stops before a step that would not end in time and returns the best pair so far."""

    name: ClassVar[str] = "jm2d"
    config_type: ClassVar[type[JM2DConfig]] = JM2DConfig

    def network_rows(self, steps: int) -> int:
        """Network rows of a call: N I (I + 1) / 2 with full clean estimates."""
        return clean_rows(self.config, steps, self.config.x_samples) + target_rows(self.config, steps)

    def _sample(self, run: Run) -> SampleResult:
        c, schedule = self.config, run.schedule
        k_schedule = make_schedule(ScheduleConfig(c.k_schedule, schedule.steps, c.k_final))
        x = run.noise(1)
        k = torch.randn((1, run.problem.k_dim), generator=run.generator, device=x.device, dtype=x.dtype)
        guide = run.tightened(c.tighten, self.name)
        if c.project:
            offered(run.problem, "project", self.name, "the projection")  # told before anything is drawn
        archive, complete, took = Archive(), True, 0.0
        x0, k0 = x, k
        final: tuple[Evaluated, Pairs] | None = None
        ks = k
        for i in range(schedule.steps, 0, -1):
            started = time.perf_counter()
            if run.expired(ahead=took):
                complete = False
                break
            try:
                clean = clean_chunks(run, c, x, i, c.x_samples)
            except OutOfTimeError:
                complete = False
                break
            ks = clean_parameters(run, k, k_schedule, i, c.k_samples, c.k_proposal)
            raw, e = guide.evaluate(clean)
            grid = guide.grid(e, ks)
            log_prior = run.log_prior(ks)
            target = step_target(run, c, x, i, clean)
            x0, k0 = self._means(run, target, ks, grid, log_prior, k / k_schedule.signal(i))
            pairs = Pairs.best(raw, ks, grid, log_prior)
            archive.add(pairs)
            final = (e, pairs)
            x = step(schedule, x, x0, i, i - 1, c.eta, run.generator)
            if c.project:
                x = run.project(x, self.name)
            k = k_schedule.signal(i - 1) * k0
            took = time.perf_counter() - started
        if guide is not run and (c.archive or not complete):
            archive = rescued(run, archive)
        cut = not complete and archive.has_feasible()  # then the archive is returned: no time for another evaluation
        if guide is not run and final is not None and not cut:  # what is returned answers to the constraints themselves
            e = run.problem.evaluate(final[1].x)
            final = (e, Pairs.best(final[1].x, ks, run.grid(e, ks), run.log_prior(ks)))
        return self._choose(run, archive, final, x, k, complete)

    def _means(
        self, run: Run, clean: Tensor, ks: Tensor, grid: PotentialGrid, log_prior: Tensor, proposal_mean: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Eq. 7 as weighted means: x0 (1, H, D) and k0 (1, dk)."""
        c = self.config
        log_w = (standardised(grid, c.temperature) if c.standardise and c.temperature else grid.log_v) + log_prior
        run.record(feasible_share=float((log_w > -torch.inf).double().mean()))
        if not bool((log_w > -torch.inf).any()):
            run.counters.fail("no feasible pair in a step")
            log_w = graded(grid, c.graded_temperature) + log_prior
            if c.fallback == "model_free" or not bool((log_w > -torch.inf).any()):
                run.counters.fail("model-free step")
                return clean.mean(0, keepdim=True), proposal_mean
        w_x = torch.softmax(log_w.logsumexp(1), 0)
        w_k = torch.softmax(log_w.logsumexp(0), 0)
        run.record(ess_x=float(1.0 / (w_x * w_x).sum()), ess_k=float(1.0 / (w_k * w_k).sum()))
        x0 = torch.einsum("n,nhd->hd", w_x.to(clean.dtype), clean)[None]
        return x0, (w_k.to(ks.dtype) @ ks)[None]

    def _choose(
        self, run: Run, archive: Archive, final: tuple[Evaluated, Pairs] | None, x: Tensor, k: Tensor, complete: bool
    ) -> SampleResult:
        """The selection strategy; see the module's text."""
        if final is None:
            return finish(run, None, None, complete)
        e, pairs = final
        if self.config.selection == "final" and complete:
            raw, e = run.evaluate(x)
            inside = run.log_prior(k)
            pairs = Pairs.best(raw, k, run.grid(e, k), inside)
        elif archive.has_feasible() and (self.config.archive or not complete) and archive.pairs is not None:
            return finish(run, archive.pairs, 0, complete)
        return finish(run, repair(run, e, pairs), None, complete)


def clean_parameters(run: Run, k: Tensor, schedule: Schedule, i: int, count: int, proposal: str) -> Tensor:
    """Alg. C.2 line 5: (count, dk) draws of q(k_0 | k_i) for ``k`` (1, dk), in the box [-1, 1] with ``truncated``."""
    mean = k / schedule.signal(i)
    std = math.sqrt(1.0 / schedule.alpha_bar[i] - 1.0)
    if proposal == "paper":
        return mean + std * torch.randn((count, k.shape[1]), generator=run.generator, device=k.device, dtype=k.dtype)
    return truncated_normal(mean.expand(count, -1), std, run)


def truncated_normal(mean: Tensor, std: float, run: Run) -> Tensor:
    """Draws of N(mean, std^2) restricted to [-1, 1], elementwise, by inverse CDF in float64; shape of ``mean``.

    A mean far outside is first moved to the nearest face: there the restricted density is within rounding a point.
    """
    centre = mean.double().clamp(-1.0 - 6.0 * std, 1.0 + 6.0 * std)
    low, high = torch.special.ndtr((-1.0 - centre) / std), torch.special.ndtr((1.0 - centre) / std)
    u = low + (high - low) * run.uniform(*mean.shape)
    draw = centre + std * torch.special.ndtri(u.clamp(1e-300, 1.0 - 1e-16))
    return draw.clamp(-1.0, 1.0).to(mean.dtype)
