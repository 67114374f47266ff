"""Whole runs of samplers against their papers' recursions, written out plainly and driven by the same random numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from contract.closed_forms import STEPS, MixtureDenoiser, PairProblem, gaussian, guided, mixture, moments, reference
from torch import Tensor

from tandem.diffusion.problem import Chunks
from tandem.diffusion.samplers import make_sampler
from tandem.diffusion.samplers.base import Run
from tandem.diffusion.samplers.steered import Steered, SteeredConfig, _Population
from tandem.diffusion.schedules import ScheduleConfig, make_schedule


class Triangular(PairProblem):
    """The Gaussian potential under a prior p(k) that is not uniform: it must count in Eq. 7. Its projection always bites."""

    def log_prior_k(self, k: Tensor) -> Tensor:
        """Density 1 + k on [-1, 1], relative to the uniform one."""
        return torch.where((k.abs() <= 1.0).all(-1), torch.log1p(k[..., 0].clamp(min=-1.0)), -torch.inf)

    def project(self, x: Tensor) -> Tensor:
        """Onto x <= 0.1, from where the potential pulls away."""
        return x.clamp(max=0.1)


def reverse(ab: tuple[float, ...], x: Tensor, x0: Tensor, i: int, eta: float, g: torch.Generator) -> Tensor:
    """Song et al. 2020, Eq. 12, one step i -> i - 1 towards the clean ``x0``."""
    sigma = eta * math.sqrt((1 - ab[i - 1]) / (1 - ab[i]) * (1 - ab[i] / ab[i - 1]))
    eps = (x - math.sqrt(ab[i]) * x0) / math.sqrt(1 - ab[i])
    mean = math.sqrt(ab[i - 1]) * x0 + math.sqrt(1 - ab[i - 1] - sigma**2) * eps
    return mean if sigma == 0.0 else mean + sigma * torch.randn(mean.shape, generator=g, dtype=mean.dtype)


JM2D = {"method": "jm2d", "x_samples": 3, "k_samples": 5, "k_proposal": "paper", "selection": "final"}


@pytest.mark.parametrize(
    ("settings", "kind", "final", "eta", "u"),
    [
        ({}, "mbd", None, 1.0, STEPS), ({"k_schedule": "linear", "k_final": 0.2}, "linear", 0.2, 1.0, STEPS),
        ({"eta": 0.5}, "mbd", None, 0.5, STEPS), ({"clean": "steps", "clean_steps": 2}, "mbd", None, 1.0, 2),
        ({"clean": "steps", "clean_steps": 1, "project": True}, "mbd", None, 1.0, 1),
    ],
    ids=["defaults", "k schedule", "eta", "u steps", "project"],
)
def test_jm2d_is_alg_c1_with_alg_c2(settings: dict[str, Any], kind: str, final: float | None, eta: float, u: int) -> None:
    problem, denoiser = gaussian()
    problem = Triangular(problem.log_v)
    ab, kab = denoiser.schedule.alpha_bar, make_schedule(ScheduleConfig(kind, STEPS, final)).alpha_bar
    g = torch.Generator().manual_seed(7)
    x = torch.randn((1, 1, 1), generator=g, dtype=torch.float64)
    k = torch.randn((1, 1), generator=g, dtype=torch.float64)
    for i in range(STEPS, 0, -1):
        clean, level = x.expand(3, -1, -1), i  # lines 1-4: the reverse process, to its end or u steps and then Tweedie
        for level in range(i, max(i - u, 1 if "clean" in settings else 0), -1):
            clean = reverse(ab, clean, denoiser.clean(clean, level, problem.cond), level, 1.0, g)
        if "clean" in settings:
            tweedie = level - 1 if i > 1 else 1
            clean = denoiser.clean(clean if i > 1 else x, tweedie, problem.cond)
        std = math.sqrt(1 / kab[i] - 1)  # line 5
        ks = k / math.sqrt(kab[i]) + std * torch.randn((5, 1), generator=g, dtype=torch.float64)
        grid = problem.grid(Chunks(clean), ks)
        weights = (grid.log_v + problem.log_prior_k(ks)[None]).exp()
        if not bool(weights.sum() > 0.0):
            pytest.fail("no feasible pair: choose another seed")
        x0 = sum(weights[j, n] * clean[j] for j in range(len(clean)) for n in range(5)) / weights.sum()
        k0 = sum(weights[j, n] * ks[n] for j in range(len(clean)) for n in range(5)) / weights.sum()
        x = reverse(ab, x, x0[None], i, eta, g)
        if settings.get("project"):
            x = x.clamp(max=0.1)
        k = math.sqrt(kab[i - 1]) * k0[None]
    r = make_sampler({**JM2D, **settings}).sample(problem, denoiser, generator=torch.Generator().manual_seed(7))
    assert r.x is not None and r.k is not None
    assert torch.allclose(r.x, x[0], atol=1e-9) and torch.allclose(r.k, k[0], atol=1e-9)


class Scaled(MixtureDenoiser):
    """Normalised and raw units differ: raw = 3 x + 0.1."""

    def denormalise(self, x: Tensor) -> Tensor:
        """To raw units."""
        return 3.0 * x + 0.1

    def normalise(self, x: Tensor) -> Tensor:
        """From raw units."""
        return (x - 0.1) / 3.0


@pytest.mark.parametrize("tweedie", [False, True])
def test_mpd_is_alg_e3(tweedie: bool) -> None:
    problem, _ = gaussian()
    denoiser = Scaled([[0.0]], 0.35)
    schedule = denoiser.schedule
    g = torch.Generator().manual_seed(3)
    x = torch.randn((1, 1, 1), generator=g, dtype=torch.float64)
    for i in range(STEPS, 0, -1):
        ab_i, ab_j = schedule.alpha_bar[i], schedule.alpha_bar[i - 1]
        x0 = denoiser.clean(x, i, problem.cond)  # line 3: the posterior's mean, of x_0 and x_i
        alpha = ab_i / ab_j
        mean = (math.sqrt(ab_j) * (1 - alpha) * x0 + math.sqrt(alpha) * (1 - ab_j) * x) / (1 - ab_i)
        y = mean.clone().requires_grad_(True)
        seen = denoiser.clean(y, i - 1, problem.cond) if tweedie and i > 1 else y  # line 4
        (gradient,) = torch.autograd.grad(problem.guidance(denoiser.denormalise(seen)).sum(), y)  # lines 5-6, raw units
        x = mean - 0.1 * gradient  # line 7
        sigma = math.sqrt((1 - ab_j) / (1 - ab_i) * (1 - ab_i / ab_j))
        if sigma > 0.0:
            x = x + sigma * torch.randn(x.shape, generator=g, dtype=x.dtype)
    sampler = make_sampler({"method": "mpd", "tweedie": tweedie, "weight": 0.1, "clip": 1e6})
    r = sampler.sample(problem, denoiser, generator=torch.Generator().manual_seed(3))
    assert r.x is not None and torch.allclose(r.x, denoiser.denormalise(x)[0], atol=1e-9)


def test_pdm_projects_after_every_step() -> None:
    problem, _ = gaussian()
    denoiser = Scaled([[0.0]], 0.35)
    g = torch.Generator().manual_seed(5)
    x = torch.randn((1, 1, 1), generator=g, dtype=torch.float64)
    for i in range(STEPS, 0, -1):
        x = reverse(denoiser.schedule.alpha_bar, x, denoiser.clean(x, i, problem.cond), i, 1.0, g)
        x = denoiser.normalise(problem.project(denoiser.denormalise(x)))
    r = make_sampler({"method": "pdm"}).sample(problem, denoiser, generator=torch.Generator().manual_seed(5))
    assert r.x is not None and torch.allclose(r.x, denoiser.denormalise(x)[0], atol=1e-9)


@pytest.mark.parametrize(("case", "lookahead"), [(gaussian, 0), (guided, 0), (mixture, 0), (gaussian, 2)])
def test_steering_keeps_its_law_when_it_resamples_at_every_step(
    case: Callable[[], tuple[PairProblem, MixtureDenoiser]], lookahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resampled = []
    take = _Population.take
    monkeypatch.setattr(_Population, "take", lambda self, index: (resampled.append(1), take(self, index))[1])
    problem, denoiser = case()
    want, runs, g = reference(problem, denoiser), 400, torch.Generator().manual_seed(7)
    sampler = make_sampler({
        "method": "steered", "particles": 64, "selection": "sample", "resample_below": 1.0, "looks": 0, "min_signal": 0.0,
        "lookahead": lookahead,
    })
    found = [sampler.sample(problem, denoiser, generator=g) for _ in range(runs)]
    x = torch.stack([r.x[0, 0].double() for r in found if r.x is not None])
    k = torch.stack([r.k[0].double() for r in found if r.k is not None])
    got = moments(x, k)
    assert len(resampled) == runs * (STEPS - 1) and len(x) == runs
    assert got.x == pytest.approx(want.x, abs=3.5 * want.x_std / math.sqrt(runs))
    assert got.k == pytest.approx(want.k, abs=3.5 * want.k_std / math.sqrt(runs))
    assert got.right == pytest.approx(want.right, abs=3.5 * 0.5 / math.sqrt(runs))
    assert got.x_std == pytest.approx(want.x_std, rel=0.15) and got.k_std == pytest.approx(want.k_std, rel=0.15)


def test_resampled_particles_keep_their_own_clean_estimates() -> None:
    problem, denoiser = gaussian()
    run = Run(problem, denoiser, torch.Generator().manual_seed(0), None)
    x = torch.arange(16.0, dtype=torch.float64).view(16, 1, 1)
    p = _Population(x, x[:, 0], -x[:, 0, 0], 2.0 * x[:, 0, 0])
    x0 = Steered(SteeredConfig(particles=16))._resample(run, p, x + 100.0, 3)
    assert torch.equal(x0, p.x + 100.0) and p.k is not None and torch.equal(p.k, p.x[:, 0])
    assert torch.equal(p.log_psi, 2.0 * p.x[:, 0, 0]) and not bool(p.log_w.any()) and len(p.x.unique()) < 16


def test_a_lookahead_is_a_deterministic_pass_to_the_end() -> None:
    problem, denoiser = gaussian()
    run, ab = Run(problem, denoiser, torch.Generator().manual_seed(0), None), denoiser.schedule.alpha_bar
    x = torch.linspace(-1.0, 1.0, 4, dtype=torch.float64).view(4, 1, 1)
    looked = Steered(SteeredConfig(particles=4, lookahead=2))._look(run, x, denoiser.clean(x, 3, run.cond), 3)
    for i in (3, 2, 1):
        x = reverse(ab, x, denoiser.clean(x, i, run.cond), i, 0.0, run.generator)
    assert torch.allclose(looked, x, atol=1e-12)
