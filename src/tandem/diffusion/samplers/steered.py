"""Joint particle steering (ours): one population of (x, k) carried once through the reverse process by twisted sequential Monte
Carlo.

Where JM2D completes the reverse process anew at every step, N particles here make it once. At level i particle j has a noisy
chunk x_i and a clean estimate x0(x_i); a set of K parameters k_l drawn for it estimates the marginal potential

    psi_i(x_i) = (1 / K) sum_l V(x0(x_i), k_l) p(k_l) / q_j(k_l),     q_j = share * p(k) + (1 - share) * N_box(k_j, s_i^2),

which is unbiased for the integral of V(x0, k) p(k) over k. Particles move by the model's own reverse step and gain the
incremental weight psi_i^tau_i / psi_{i+1}^tau_{i+1} (twisted SMC: Wu et al. 2023; Feynman-Kac steering: Singhal et al. 2025).
The product telescopes: at i = 1, where the clean estimate *is* the sample and tau_1 = 1, the weights are those of p(x) E_k[V],
and k drawn from the last set in proportion to V p / q makes (x, k) consistent for p(x) p(k) V(x, k) as N grows, for any K,
tempering and depth floor (pseudo-marginal argument: K draws are auxiliary variables). Resampling (systematic, on effective
sample size) happens in between.

Zero potentials must not kill a particle before the end, since x0(x_i) is only a guess there: psi gets a floor some
way below the feasible particles' median, lower for deeper violations, which keeps the weights finite. At i = 1 there is no floor.
The particle's own k_j is drawn from its set in proportion to V p / q, so the proposal follows it: a local refinement of k with
shrinking s_i. Where the problem offers ``guess_k`` (:class:`~tandem.diffusion.problem.GuessingProblem`), q_j has a third part,
around that guess. Cost: I N rows (Tweedie), or more with ``lookahead`` deterministic passes for sharper clean estimates.
``tighten`` steers by V under tightened constraints (JM2D's "Tight", Table A.2) and prefers pairs that keep that margin; the
outcome is judged by V itself, which decides alone where no pair keeps it.
"""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tandem.core.config import setting
from tandem.core.errors import ConfigError
from tandem.diffusion.problem import Evaluated
from tandem.diffusion.result import SampleResult
from tandem.diffusion.reverse import step
from tandem.diffusion.samplers.base import Archive, Pairs, Run, Sampler, finish, refine_k, register, rejudged, repair
from tandem.diffusion.samplers.jm2d import truncated_normal
from tandem.diffusion.schedules import Schedule, ScheduleConfig, make_schedule


@dataclass(frozen=True)
class SteeredConfig:
    """Settings of joint particle steering."""

    particles: int = setting(128, "particles N", lo=2, hi=100_000)
    k_samples: int = setting(16, "draws of k a particle and step, K", lo=1, hi=4096)
    prior_share: float = setting(0.5, "share of those from p(k); the rest around the particle's k and the guess", lo=0.05, hi=1.0)
    k_scale_first: float = setting(0.5, "standard deviation of the draws around k_j at step I", lo=1e-4, hi=2.0)
    k_scale_last: float = setting(0.1, "the same at step 1", lo=1e-4, hi=2.0)
    min_signal: float = setting(0.05, "alpha_bar below which the potential is not looked at (psi = 1)", lo=0.0, hi=1.0)
    looks: int = setting(6, "how often the potential is looked at, evenly spread, always at step 1; 0: every step", lo=0, hi=4000)
    temper_power: float = setting(1.0, "tau_i = alpha_bar_i ^ power for i > 1, tau_1 = 1", lo=0.0, hi=10.0)
    floor: float = setting(3.0, "how far, in log psi, the floor lies below the feasible particles' median", lo=0.0, hi=1e3)
    depth_weight: float = setting(1.0, "further penalty a standard deviation of violation depth", lo=0.0, hi=1e3)
    resample_below: float = setting(0.5, "resample when the effective sample size falls below this share of N", lo=0.0, hi=1.0)
    lookahead: int = setting(0, "deterministic passes that sharpen the clean estimate before V; 0: Tweedie alone", lo=0, hi=100)
    archive_steps: int = setting(3, "last steps whose clean estimates count as samples worth returning", lo=1, hi=4000)
    refine_top: int = setting(16, "pairs whose k is refined locally at the end", lo=1, hi=4096)
    refine_rounds: int = setting(2, "rounds of that search; 0: none", lo=0, hi=100)
    refine_count: int = setting(16, "steps tried in a round", lo=1, hi=4096)
    refine_scale: float = setting(0.1, "first round's standard deviation", lo=1e-4, hi=2.0)
    temperature: float | None = setting(None, "lambda of V = exp(-J / lambda); none: the problem's own", lo=1e-6, hi=1e6)
    selection: str = setting("best", "best: least J among all kept; sample: a draw of the target", choices=("best", "sample"))
    tighten: float = setting(0.0, "margin on the constraints while denoising, kept where any pair does", lo=0.0, hi=1e3)

    def __post_init__(self) -> None:
        if self.tighten > 0.0 and self.selection == "sample":
            raise ConfigError(f"steered: tighten = {self.tighten}: with selection = sample it draws from V itself; accepted: 0")


@dataclass
class _Population:
    """Particles: x (N, H, D) noisy, k (N, dk) each one's own, log_w (N,), log_psi (N,) tempered potential paid for so far."""

    x: Tensor
    k: Tensor | None
    log_w: Tensor
    log_psi: Tensor

    def take(self, index: Tensor) -> None:
        """Resample: copy particles ``index`` (N,) and make the weights equal."""
        self.x, self.log_psi = self.x[index], self.log_psi[index]
        self.k = None if self.k is None else self.k[index]
        self.log_w = torch.zeros_like(self.log_w)


#: what a look is taken to cost before the first one, in network passes
LOOK_COSTS = 4.0


@dataclass
class _Pace:
    """Times of one network pass and of one look lately [s]; none before the first."""

    network: float | None = None
    look: float | None = None


def smoothed(before: float | None, now: float) -> float:
    """Exponential average."""
    return now if before is None else 0.7 * before + 0.3 * now


@register
class Steered(Sampler[SteeredConfig]):
    """Twisted SMC over (x, k) in one reverse pass."""

    name: ClassVar[str] = "steered"
    config_type: ClassVar[type[SteeredConfig]] = SteeredConfig

    def network_rows(self, steps: int) -> int:
        """Network rows of a call under a cosine schedule: N I, and N a lookahead pass at every look."""
        looks = self._look_levels(make_schedule(ScheduleConfig(steps=steps)))
        return self.config.particles * (steps + sum(min(self.config.lookahead, i - 1) for i in looks))

    def _sample(self, run: Run) -> SampleResult:
        c, schedule, guide = self.config, run.schedule, run.tightened(self.config.tighten, self.name)
        zeros = torch.zeros(c.particles, device=run.denoiser.device, dtype=torch.float64)
        p = _Population(run.noise(c.particles), None, zeros, zeros.clone())
        kept, rough = Archive(), Archive()
        looks = self._look_levels(schedule)
        drawn: Pairs | None = None
        complete, i, pace = True, schedule.steps, _Pace()
        while i > 0:
            if run.expired(ahead=pace.network or 0.0):
                complete = False
                break
            to = self._next_level(run, i, looks, pace)
            complete &= to == i - 1
            started = time.perf_counter()
            x0 = run.clean(p.x, i)
            pace.network = smoothed(pace.network, time.perf_counter() - started)
            if any(to < level <= i for level in looks):
                started = time.perf_counter()
                best, drawn = self._weigh(guide, p, self._look(run, p.x, x0, i), i)
                (kept if i <= c.archive_steps else rough).add(best)
                x0 = self._resample(run, p, x0, i)
                pace.look = smoothed(pace.look, time.perf_counter() - started)
            p.x, i = step(schedule, p.x, x0, i, to, 1.0, run.generator), to
        if drawn is None:
            return finish(run, None, None, False)
        if c.selection == "sample" and complete and bool((p.log_w > -torch.inf).any()):
            return finish(run, drawn, int(run.categorical(p.log_w)), complete)
        archive = rough if not complete and not kept.has_feasible() else kept
        return self._best(run, guide, archive.pairs if archive.pairs is not None else drawn, drawn, complete)

    def _next_level(self, run: Run, i: int, looks: frozenset[int], pace: _Pace) -> int:
        """The level after ``i``: the next one, or further on where the deadline leaves no time for all of them.

        Clean estimates of a high level are averages over modes, of no use as plans: it is better to take fewer, longer steps down
        to level 1 (where the last look is) than to break off above it.
        """
        left = run.left()
        if math.isinf(left) or not pace.network or i == 1:
            return i - 1
        ahead = sum(level <= i for level in looks)
        look = LOOK_COSTS * pace.network if pace.look is None else pace.look
        affordable = int((left - (ahead + 1) * look) / pace.network)  # one more look's worth for the choice at the end
        stride = math.ceil((i - 1) / max(affordable - 2, 1))  # this pass, and one to spare
        return max(1, i - (min(stride, 2) if pace.look is None else stride))  # no great leap on a guess

    def _look_levels(self, schedule: Schedule) -> frozenset[int]:
        """Levels at which the potential is evaluated: evenly spread over those with enough signal, 1 always among them."""
        seen = [i for i in range(1, schedule.steps + 1) if i == 1 or schedule.alpha_bar[i] >= self.config.min_signal]
        if self.config.looks == 0 or self.config.looks >= len(seen):
            return frozenset(seen)
        spread = torch.linspace(0.0, len(seen) - 1.0, self.config.looks) if self.config.looks > 1 else torch.zeros(1)
        return frozenset(seen[round(float(n))] for n in spread)

    def _look(self, run: Run, x: Tensor, x0: Tensor, i: int) -> Tensor:
        """Clean estimates (N, H, D) to evaluate: Tweedie ``x0``, or what a few deterministic steps from ``x`` make of it."""
        levels = run.schedule.levels(i, min(self.config.lookahead, i - 1) + 1)
        for a, b in itertools.pairwise(levels):
            if a != i:
                x0 = run.clean(x, a)
            x = step(run.schedule, x, x0, a, b, 0.0, run.generator)
        return x

    def _weigh(self, run: Run, p: _Population, clean: Tensor, i: int) -> tuple[Pairs, Pairs]:
        """Multiply the weights by psi_i^tau_i / psi_{i+1}^tau_{i+1}, renew each particle's k: its best pair, its drawn pair."""
        raw, e = run.evaluate(clean)
        k, log_ratio = self._propose_k(run, self._centres(run, p, e), i)
        grid = run.pairs(e, k)
        log_psi = (grid.log_v + log_ratio).logsumexp(1) - math.log(k.shape[1])
        best = Pairs.best(raw, k, grid, log_ratio)
        drawn = best.redrawn(run, k, grid, log_ratio)
        p.k = drawn.k
        run.record(feasible_share=float((log_psi > -torch.inf).double().mean()))
        if i > 1:
            log_psi = run.schedule.alpha_bar[i] ** self.config.temper_power * self._floored(log_psi, best.depth)
        p.log_w = p.log_w + log_psi - p.log_psi
        p.log_psi = log_psi
        return best, drawn

    def _centres(self, run: Run, p: _Population, e: Evaluated) -> list[Tensor]:
        """What k is proposed around: the particle's own k, and the problem's guess for its chunk where it offers one."""
        centres = [] if p.k is None else [p.k]
        guess = run.guess_k(e)
        return centres if guess is None else [*centres, guess]

    def _propose_k(self, run: Run, centres: list[Tensor], i: int) -> tuple[Tensor, Tensor]:
        """(N, K, dk) draws of the mixture q_j around p(k) and the ``centres`` (N, dk), and log p / q_j (N, K).

        Stratified over the mixture's parts (deterministic mixture, Owen & Zhou 2000): each part gets a fixed number of draws.
        """
        c, dk = self.config, run.problem.k_dim
        local = c.k_samples - max(1, round(c.prior_share * c.k_samples)) if centres else 0
        counts = [local // len(centres) + (n < local % len(centres)) for n in range(len(centres))]
        from_prior = c.k_samples - local
        draws = [run.sample_k(c.particles * from_prior).view(c.particles, from_prior, dk)]
        fraction = (i - 1) / max(run.schedule.steps - 1, 1)
        std = c.k_scale_last * (c.k_scale_first / c.k_scale_last) ** fraction
        for centre, count in zip(centres, counts, strict=True):
            mean = centre.to(draws[0].dtype)[:, None].expand(-1, count, -1)
            draws.append(truncated_normal(mean, std, run))
        k = torch.cat(draws, dim=1)
        log_p = run.log_prior(k)
        log_q = log_p + math.log(from_prior / c.k_samples)
        for centre, count in zip(centres, counts, strict=True):
            if count:
                part = log_box_normal(k, centre[:, None], std) + math.log(count / c.k_samples)
                log_q = torch.logaddexp(log_q, part)
        return k, log_p - log_q

    def _floored(self, log_psi: Tensor, depth: Tensor) -> Tensor:
        """psi + floor: the floor lies ``floor`` below the feasible particles' median, less for shallow violations than for deep
        ones.

        Any positive function is a valid twist; one computed from the population is adaptive SMC (Beskos et al. 2016), still
        consistent.
        """
        c, alive = self.config, log_psi > -torch.inf
        base = log_psi[alive].median() if bool(alive.any()) else log_psi.new_zeros(())
        known = depth.clamp(max=float(depth[torch.isfinite(depth)].max()) if bool(torch.isfinite(depth).any()) else 0.0)
        spread = (known - known.min()) / known.std(unbiased=False).clamp(min=1e-12)
        return torch.logaddexp(log_psi, base - c.floor - c.depth_weight * spread)

    def _resample(self, run: Run, p: _Population, x0: Tensor, i: int) -> Tensor:
        """Systematic resampling when the effective sample size is low; returns the clean estimates of the survivors."""
        w = torch.softmax(p.log_w, 0) if bool((p.log_w > -torch.inf).any()) else torch.full_like(p.log_w, 1.0 / len(p.log_w))
        ess = float(1.0 / (w * w).sum())
        run.record(ess=ess)
        if i == 1 or ess >= self.config.resample_below * self.config.particles:
            return x0
        n = self.config.particles
        points = (torch.arange(n, device=w.device, dtype=w.dtype) + run.uniform(1)) / n
        index = torch.searchsorted(w.cumsum(0), points, right=True).clamp(max=n - 1)
        p.take(index)
        return x0[index]

    def _best(self, run: Run, guide: Run, pairs: Pairs, drawn: Pairs, complete: bool) -> SampleResult:
        """Refine k of the best pairs kept, or optimise one k when nothing is feasible, and take the least J.

        Pairs with the guide's margin go before all others.
        """
        c = self.config
        judge = guide if bool(pairs.feasible.any()) else run
        if guide is not run:
            drawn = rejudged(run, drawn)
            pairs = pairs if judge is guide else rejudged(run, pairs)
        top = pairs.with_best_first(c.refine_top)
        if not run.expired():
            top = refine_k(judge, top, c.refine_rounds, c.refine_count, c.refine_scale)
        if not bool(top.feasible.any()) and not run.expired():
            top = repair(run, run.problem.evaluate(top.x), top)
        best = top.best_index()
        return finish(run, (top if judge is run else rejudged(run, top)) + drawn, best, complete)


def log_box_normal(k: Tensor, mean: Tensor, std: float) -> Tensor:
    """Log density of N(mean, std^2) restricted to [-1, 1]^dk, relative to the uniform density on that box.

    ``k`` (..., dk), ``mean`` broadcastable and inside the box -> (...,) float64.
    """
    mean = mean.double()
    z = (k.double() - mean) / std
    mass = torch.special.ndtr((1.0 - mean) / std) - torch.special.ndtr((-1.0 - mean) / std)
    return (math.log(2.0) - 0.5 * z * z - 0.5 * math.log(2.0 * math.pi) - math.log(std) - mass.log()).sum(-1)
