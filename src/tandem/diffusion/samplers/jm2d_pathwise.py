"""JM2D with a differentiable potential (Jung, Mishra et al. 2025, Appx. B): pathwise gradients instead of importance weights.

By Thm. 2, p_i(y_i) is proportional to p^x_i(x_i) E_q[V(x0, k0) p(k0)] with q(y_0 | y_i) = p(x_0 | x_i) q^k(k_0 | k_i). Where V
can be differentiated the joint score follows by the reparametrisation of q (Kingma & Welling 2013), with fixed noise eps and u:

    grad log p_i(y_i) = [s_theta(x_i); 0] + grad_{x_i, k_i} log (1 / N N_K) sum_jl V(x0_j(x_i, eps_j), k0_l(k_i, u_l)) p(k0_l)

x0_j is the reverse process run from x_i with its noise held fixed, back-propagated through the network; k0_l is q^k's
inverse CDF, restricted to the prior's box (its mass there is part of the gradient). In terms of clean estimates the score is a
shift of Tweedie's mean by (1 - ab) / sqrt(ab) times the gradient, and the step is JM2D's own. Needs a
:class:`~tandem.diffusion.constraints.DifferentiableProblem`. Where V = 0 there is no gradient: a step without any pair of V > 0
is model-free.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tandem.core.config import setting
from tandem.core.errors import InputError
from tandem.diffusion.constraints import offered
from tandem.diffusion.problem import PotentialError
from tandem.diffusion.result import SampleResult
from tandem.diffusion.reverse import step
from tandem.diffusion.samplers.base import Archive, OutOfTimeError, Pairs, Run, Sampler, finish, register, repair
from tandem.diffusion.samplers.clean import CleanConfig, clean_chunks, clean_rows
from tandem.diffusion.schedules import ScheduleConfig, make_schedule


@dataclass(frozen=True)
class JM2DPathwiseConfig(CleanConfig):
    """Settings of pathwise JM2D."""

    x_samples: int = setting(16, "clean chunks a step, N", lo=1, hi=100_000)
    k_samples: int = setting(32, "clean parameters a step, N_K", lo=1, hi=100_000)
    k_schedule: str = setting("mbd", "schedule of k", choices=("cosine", "linear", "mbd"))
    k_final: float | None = setting(None, "alpha_bar^k at step I; none: the schedule's own (mbd: 0.60)", lo=1e-6, hi=0.99)
    clip: float = setting(1.0, "largest norm of the shift of the clean estimate, normalised space", lo=1e-6, hi=1e6)
    eta: float = setting(1.0, "stochasticity sigma of the outer step: 1 DDPM, 0 DDIM", lo=0.0, hi=1.0)
    selection: str = setting("rejection", "rejection among the final pairs, or (x_0, k_0) itself", choices=("rejection", "final"))


@register
class JM2DPathwise(Sampler[JM2DPathwiseConfig]):
    """JM2D by gradients of V."""

    name: ClassVar[str] = "jm2d_pathwise"
    config_type: ClassVar[type[JM2DPathwiseConfig]] = JM2DPathwiseConfig

    def network_rows(self, steps: int) -> int:
        """Network rows of a call: the clean chunks, and one Tweedie mean a step."""
        return clean_rows(self.config, steps, self.config.x_samples) + steps

    def _sample(self, run: Run) -> SampleResult:
        c, schedule = self.config, run.schedule
        log_potential = offered(run.problem, "log_potential", self.name, "the differentiable log V")
        k_schedule = make_schedule(ScheduleConfig(c.k_schedule, schedule.steps, c.k_final))
        x = run.noise(1)
        k = torch.randn((1, run.problem.k_dim), generator=run.generator, device=x.device, dtype=x.dtype)
        archive, complete, took = Archive(), True, 0.0
        last: Pairs | None = None
        for i in range(schedule.steps, 0, -1):
            started = time.perf_counter()
            if run.expired(ahead=took):
                complete = False
                break
            with torch.inference_mode(False), torch.enable_grad():
                y, kappa = x.clone().requires_grad_(True), k.clone().requires_grad_(True)
                try:
                    clean = clean_chunks(run, c, y, i, c.x_samples)
                except OutOfTimeError:
                    complete = False
                    break
                std = math.sqrt(1.0 / k_schedule.alpha_bar[i] - 1.0)
                ks, log_mass = reparametrised(kappa / k_schedule.signal(i), std, c.k_samples, run)
                raw = run.denoiser.denormalise(clean)
                log_v = log_potential(raw, ks)
                self._check(log_v, (raw.shape[0], c.k_samples))
                total = (log_v.double() + run.log_prior(ks)).logsumexp((0, 1)) + log_mass
                slopes: tuple[Tensor, ...] = (torch.zeros_like(y), torch.zeros_like(kappa))
                if bool(torch.isfinite(total)):
                    slopes = torch.autograd.grad(total, (y, kappa), allow_unused=True, materialize_grads=True)
                else:
                    run.counters.fail("model-free step")
            raw = run.denormalise(clean.detach())
            x0 = run.clean(x, i) + self._shift(slopes[0].detach(), schedule.alpha_bar[i])
            k0 = k / k_schedule.signal(i) + self._shift(slopes[1].detach(), k_schedule.alpha_bar[i])
            draws = ks.detach()
            last = Pairs.best(raw, draws, run.grid(run.problem.evaluate(raw), draws), run.log_prior(draws))
            archive.add(last)
            x = step(schedule, x, x0, i, i - 1, c.eta, run.generator)
            k = (k_schedule.signal(i - 1) * k0).to(x.dtype)
            took = time.perf_counter() - started
        if last is None:
            return finish(run, None, None, complete)
        if not complete and archive.has_feasible() and archive.pairs is not None:
            return finish(run, archive.pairs, 0, complete)
        if c.selection == "final" and complete:
            raw, e = run.evaluate(x)
            k = k.clamp(-1.0, 1.0)
            return finish(run, Pairs.best(raw, k, run.grid(e, k), run.log_prior(k)), None, complete)
        return finish(run, repair(run, run.problem.evaluate(last.x), last), None, complete)

    @staticmethod
    def _check(log_v: Tensor, shape: tuple[int, int]) -> None:
        """PotentialError: not of ``shape``, NaN or +inf."""
        if tuple(log_v.shape) != shape:
            raise PotentialError(f"potential (log_potential): shape {tuple(log_v.shape)}, expected {shape}")
        if bool((torch.isnan(log_v) | (log_v == torch.inf)).any()):
            raise PotentialError("potential (log_potential): NaN or +inf; accepted: -inf or a finite number")

    def _shift(self, slope: Tensor, alpha_bar: float) -> Tensor:
        """What a gradient of log p_i moves the clean estimate by, clipped: (1 - ab) / sqrt(ab) * slope."""
        if not bool(torch.isfinite(slope).all()):
            raise InputError(f"jm2d_pathwise: gradient of log V is not finite in {int((~torch.isfinite(slope)).sum())} values")
        shift = (1.0 - alpha_bar) / math.sqrt(alpha_bar) * slope
        return shift * min(1.0, self.config.clip / max(float(shift.norm()), 1e-12))


def reparametrised(mean: Tensor, std: float, count: int, run: Run) -> tuple[Tensor, Tensor]:
    """Draws (count, dk) of N(mean, std^2) restricted to [-1, 1], differentiable in ``mean`` (1, dk), and log of the box's
    mass.
    """
    centre = mean.double().clamp(-1.0 - 6.0 * std, 1.0 + 6.0 * std)
    low, high = torch.special.ndtr((-1.0 - centre) / std), torch.special.ndtr((1.0 - centre) / std)
    u = low + (high - low) * run.uniform(count, mean.shape[1])
    draw = centre + std * torch.special.ndtri(u.clamp(1e-12, 1.0 - 1e-12))
    return draw.clamp(-1.0, 1.0).to(mean.dtype), (high - low).clamp(min=1e-300).log().sum()
