"""Samplers against their papers' recursions, written out step by step under the same random numbers.

The formulas are JM2D's (Jung, Mishra et al. 2025) in its own form, with scores and a double sum over the pairs; ``ab`` is the
cumulative coefficient, which the paper writes as alpha. Data's units are 3 y + 1 for normalised y, and p(k) is not uniform.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from contract.closed_forms import STEPS, PairProblem, Stretched, gaussian
from scipy import stats
from torch import Tensor

from tandem.diffusion.result import SampleResult
from tandem.diffusion.samplers import make_sampler
from tandem.diffusion.samplers.base import Pairs, Run, refine_k, repair
from tandem.diffusion.schedules import ScheduleConfig, make_schedule

STD = 0.35
DENOISER = Stretched([[0.0]], STD)
AB = DENOISER.schedule.alpha_bar


def log_v(x: Tensor, k: Tensor) -> Tensor:
    """A potential that couples x and k, wide enough for x of standard deviation 1 about 1."""
    return (-0.5 * ((x - k) / 0.8) ** 2 - 0.5 * ((k - 0.5) / 0.4) ** 2).sum(-1)


class Triangular(PairProblem):
    """p(k) = 1 - |k|."""

    def sample_k(self, count: int, generator: torch.Generator) -> Tensor:
        """Sums of two uniform numbers."""
        return torch.rand((count, 2), generator=generator, dtype=torch.float64).sum(1, keepdim=True) - 1.0

    def log_prior_k(self, k: Tensor) -> Tensor:
        """Relative to the uniform density 1/2."""
        return (2.0 * (1.0 - k.abs()).clamp(min=0.0)).log().sum(-1)


def draw(problem: Any, seed: int, **settings: Any) -> SampleResult:
    """One call."""
    return make_sampler(settings).sample(problem, DENOISER, generator=torch.Generator().manual_seed(seed))


def normal(g: torch.Generator, *shape: int) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=g, dtype=torch.float64)


def tweedie(x: Tensor, i: int) -> Tensor:
    """E[x_0 | x_i]."""
    return DENOISER.clean(x, i, torch.zeros(0))


def score_of(x: Tensor, x0: Tensor, ab: float) -> Tensor:
    """Tweedie score s(x_0 | x_i)."""
    return -(x - math.sqrt(ab) * x0) / (1.0 - ab)


def denoised(x: Tensor, score: Tensor, i: int, j: int, eta: float, g: torch.Generator) -> Tensor:
    """Eq. 2: the step i -> j along ``score``, with DDIM's minus sign; no noise is drawn where there is none."""
    sigma = eta * math.sqrt((1.0 - AB[j]) / (1.0 - AB[i]) * (1.0 - AB[i] / AB[j]))
    mean = math.sqrt(AB[j] / AB[i]) * (x + (1.0 - AB[i]) * score)
    mean = mean - math.sqrt(max(1.0 - AB[j] - sigma**2, 0.0)) * math.sqrt(1.0 - AB[i]) * score
    return mean if sigma == 0.0 else mean + sigma * normal(g, *x.shape)


def ancestral(x: Tensor, start: int, end: int, g: torch.Generator) -> Tensor:
    """Steps of the model itself from level ``start`` down to ``end``."""
    for i in range(start, end, -1):
        x = denoised(x, score_of(x, tweedie(x, i), AB[i]), i, i - 1, 1.0, g)
    return x


def clean_x(x: Tensor, i: int, count: int, u: int | None, g: torch.Generator) -> Tensor:
    """Alg. C.2 lines 1-4; with ``u`` Appx. A.2: u ancestral steps, then Tweedie at the level they end at."""
    if u is None:
        return ancestral(x.expand(count, -1, -1), i, 0, g)
    u = min(u, i - 1)
    return tweedie(ancestral(x.expand(count if u else 1, -1, -1), i, i - u, g), i - u)


def box_normal(mean: Tensor, std: float) -> Any:
    """N(mean, std^2) restricted to [-1, 1]."""
    m = mean.numpy()
    return stats.truncnorm((-1.0 - m) / std, (1.0 - m) / std, loc=m, scale=std)


def clean_k(k: Tensor, ab: float, count: int, proposal: str, g: torch.Generator) -> Tensor:
    """Alg. C.2 line 5 with Eq. 6: N(k / sqrt(ab), (1 / ab - 1) I), restricted to the box with ``truncated``."""
    mean, std = k / math.sqrt(ab), math.sqrt(1.0 / ab - 1.0)
    if proposal == "paper":
        return mean + std * normal(g, count, 1)
    return torch.from_numpy(box_normal(mean, std).ppf(torch.rand((count, 1), generator=g, dtype=torch.float64).numpy()))


def grid(problem: PairProblem, clean: Tensor, ks: Tensor) -> Tensor:
    """Log V at all pairs of normalised chunks (N, 1, 1) and ks (K, 1): (N, K)."""
    return problem.log_v(DENOISER.denormalise(clean)[:, 0][:, None], ks[None])


def potential(problem: PairProblem, clean: Tensor, ks: Tensor, settings: dict[str, Any]) -> Tensor:
    """V at all pairs; at its own temperature, of the standardised J, where ``settings`` say so."""
    j = -grid(problem, clean, ks)
    if settings.get("standardise"):
        j = (j - j[torch.isfinite(j)].mean()) / j[torch.isfinite(j)].std()
    return (-j / settings.get("temperature", 1.0)).exp()


def picked(w: Tensor, g: torch.Generator) -> Tensor:
    """Index along the last axis in proportion to ``w``, by inverse CDF."""
    u = torch.rand((*w.shape[:-1], 1), generator=g, dtype=torch.float64)
    return (w.cumsum(-1) <= u * w.sum(-1, keepdim=True)).sum(-1)


def k_levels(settings: dict[str, Any], steps: int = STEPS) -> tuple[float, ...]:
    """ab of k."""
    return make_schedule(ScheduleConfig(settings.get("k_schedule", "mbd"), steps, settings.get("k_final"))).alpha_bar


JM2D: list[dict[str, Any]] = [
    {}, {"k_proposal": "paper"}, {"eta": 0.0}, {"eta": 0.5}, {"k_schedule": "linear"}, {"k_final": 0.3},
    {"clean": "steps", "clean_steps": 2}, {"clean": "steps", "clean_steps": 0}, {"project": True},
    {"temperature": 0.3}, {"standardise": True, "temperature": 0.5},
]


@pytest.mark.parametrize("settings", JM2D, ids=str)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_jm2d_is_algorithm_c1(settings: dict[str, Any], seed: int) -> None:
    problem, n, n_k = Triangular(log_v), 5, 6
    ab_k, u = k_levels(settings), settings.get("clean_steps")
    g = torch.Generator().manual_seed(seed)
    x, k = normal(g, 1, 1, 1), normal(g, 1, 1)
    for i in range(STEPS, 0, -1):
        xs = clean_x(x, i, n, u, g)
        ks = clean_k(k, ab_k[i], n_k, settings.get("k_proposal", "truncated"), g)
        weight = potential(problem, xs, ks, settings) * problem.log_prior_k(ks).exp()
        score_x, score_k = torch.zeros_like(x), torch.zeros_like(k)
        for j, m in itertools.product(range(len(xs)), range(n_k)):  # Eq. 7
            score_x += weight[j, m] * score_of(x, xs[j], AB[i]) / weight.sum()
            score_k += weight[j, m] * score_of(k, ks[m], ab_k[i]) / weight.sum()
        x = denoised(x, score_x, i, i - 1, settings.get("eta", 1.0), g)
        if settings.get("project"):
            x = DENOISER.normalise(DENOISER.denormalise(x).clamp(min=0.2))
        k = math.sqrt(ab_k[i - 1] / ab_k[i]) * (k + (1.0 - ab_k[i]) * score_k)
    r = draw(problem, seed, method="jm2d", selection="final", x_samples=n, k_samples=n_k, **settings)
    assert r.x is not None and r.k is not None
    assert torch.allclose(r.x, DENOISER.denormalise(x)[0], atol=1e-7) and torch.allclose(r.k, k[0], atol=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_pathwise_jm2d_adds_the_gradient_of_log_v_to_the_model_score(seed: int) -> None:
    """Appx. B: the score is [s_theta(x_i); 0] + grad log mean V p(k), the draws' noise held fixed; then Alg. C.1 line 5."""
    problem, n, n_k = PairProblem(log_v), 3, 5
    ab_k, g = k_levels({}), torch.Generator().manual_seed(seed)
    x, k = normal(g, 1, 1, 1), normal(g, 1, 1)
    for i in range(STEPS, 0, -1):
        y, kappa = x.clone().requires_grad_(True), k.clone().requires_grad_(True)
        xs, std = clean_x(y, i, n, None, g), math.sqrt(1.0 / ab_k[i] - 1.0)
        mean = kappa / math.sqrt(ab_k[i])
        low, high = torch.special.ndtr((-1.0 - mean) / std), torch.special.ndtr((1.0 - mean) / std)
        ks = mean + std * torch.special.ndtri(low + (high - low) * torch.rand((n_k, 1), generator=g, dtype=torch.float64))
        expected = (high - low).sum() * grid(problem, xs, ks).exp().mean()
        slope_x, slope_k = torch.autograd.grad(expected.log(), (y, kappa))
        x = denoised(x, score_of(x, tweedie(x, i), AB[i]) + slope_x, i, i - 1, 1.0, g)
        k = math.sqrt(ab_k[i - 1] / ab_k[i]) * (k + (1.0 - ab_k[i]) * slope_k)
    r = draw(problem, seed, method="jm2d_pathwise", selection="final", x_samples=n, k_samples=n_k, clip=1e6)
    assert r.x is not None and r.k is not None
    assert torch.allclose(r.x, DENOISER.denormalise(x)[0], atol=1e-7)
    assert torch.allclose(r.k, k[0].clamp(-1.0, 1.0), atol=1e-7)


def half_space_v(edge: float) -> Any:
    """Log V of ``log_v`` where x >= edge."""
    return lambda x, k: torch.where((x >= edge).all(-1), log_v(x, k), -torch.inf)


@pytest.mark.parametrize("tighten", [0.0, 0.6])
@pytest.mark.parametrize("seed", range(6))
def test_conditional_generation_weighs_chunks_by_their_mean_v_and_archives_the_best_pair(tighten: float, seed: int) -> None:
    """Cor. 3; V under tightened constraints on the way, under the constraints themselves for what is returned."""
    problem, n, n_k = PairProblem(half_space_v(0.2), depth=lambda x, k: (0.2 - x).clamp(min=0.0).sum(-1) + 0.0 * k[..., 0]), 6, 4
    tight, g = PairProblem(half_space_v(0.2 + tighten)), torch.Generator().manual_seed(seed)
    x, costs, xs = normal(g, 1, 1, 1), [], torch.empty(0)
    for i in range(STEPS, 0, -1):
        xs, ks = clean_x(x, i, n, None, g), problem.sample_k(n_k, g)
        v = potential(tight, xs, ks, {}).mean(1)
        if not bool((v > 0.0).any()):
            lack = (0.2 + tighten - DENOISER.denormalise(xs)[:, 0, 0]).clamp(min=0.0)
            v = torch.exp(-(lack - lack.min()) / (0.1 * lack.std(unbiased=False).clamp(min=1e-12)))
        costs.append(float(-grid(tight, xs, ks).max()))
        score = sum(v[j] * score_of(x, xs[j], AB[i]) for j in range(n)) / v.sum()
        x = denoised(x, torch.as_tensor(score), i, i - 1, 1.0, g)
    settings = {"method": "conditional", "x_samples": n, "k_samples": n_k, "tighten": tighten}
    final = draw(problem, seed, **settings, selection="final")
    assert final.x is not None and torch.allclose(final.x, DENOISER.denormalise(x)[0], atol=1e-9)
    assert final.feasible == bool(final.x >= 0.2)
    last = draw(problem, seed, **settings)
    assert torch.allclose(last.candidates.x, DENOISER.denormalise(xs), atol=1e-9)
    assert torch.equal(last.candidates.feasible, (last.candidates.x >= 0.2).all(-1)[:, 0])
    if math.isfinite(min(costs)):
        assert draw(problem, seed, **settings, archive=True).cost == pytest.approx(min(costs), abs=1e-9)


@pytest.mark.parametrize(
    "settings", [{}, {"k_schedule": "linear"}, {"k_final": 0.3}, {"standardise": True, "temperature": 0.5}], ids=str
)
def test_model_based_diffusion_moves_k_to_the_weighted_mean_without_noise(settings: dict[str, Any]) -> None:
    """Pan et al. 2024, Eq. 6, for one plain sample of the policy."""
    problem, n_k, steps = Triangular(log_v), 6, 8
    ab_k, g = k_levels(settings, steps), torch.Generator().manual_seed(3)
    x = ancestral(normal(g, 1, 1, 1), STEPS, 0, g)
    k = normal(g, 1, 1)
    for i in range(steps, 0, -1):
        ks = clean_k(k, ab_k[i], n_k, "truncated", g)
        weight = potential(problem, x, ks, settings)[0] * problem.log_prior_k(ks).exp()
        k = math.sqrt(ab_k[i - 1]) * (weight @ ks / weight.sum())[None]
    r = draw(problem, 3, method="mbd", selection="final", k_steps=steps, k_samples=n_k, **settings)
    assert r.x is not None and r.k is not None
    assert torch.allclose(r.x, DENOISER.denormalise(x)[0], atol=1e-9) and torch.allclose(r.k, k[0], atol=1e-7)


@pytest.mark.parametrize("seed", range(6))
def test_gibbs_draws_each_block_from_its_current_value_and_fresh_ones(seed: int) -> None:
    """i-SIR (Andrieu et al. 2018): x ~ p(x | k), then k ~ p(k | x)."""
    problem, sweeps, n, n_k = PairProblem(log_v), 5, 3, 2
    g = torch.Generator().manual_seed(seed)
    k, x = problem.sample_k(1, g), torch.empty((0, 1, 1), dtype=torch.float64)
    for _ in range(sweeps):
        xs = torch.cat([x, ancestral(normal(g, n, 1, 1), STEPS, 0, g)])
        x = xs[picked(potential(problem, xs, k, {})[:, 0], g)][None]
        ks = torch.cat([k, problem.sample_k(n_k, g)])
        k = ks[picked(potential(problem, x, ks, {})[0], g)][None]
    r = draw(problem, seed, method="gibbs", selection="final", sweeps=sweeps, x_samples=n, k_samples=n_k)
    assert r.x is not None and r.k is not None
    assert torch.allclose(r.x, DENOISER.denormalise(x)[0], atol=1e-9) and torch.allclose(r.k, k[0])


@pytest.mark.parametrize(("tweedie_cost", "clip"), [(True, 1e6), (False, 1e6), (True, 0.05)])
def test_mpd_is_algorithm_e3(tweedie_cost: bool, clip: float) -> None:
    """Cost (x - 0.4)^2 / 2 in the data's units; Tweedie's mean of a Gaussian is linear, with the slope written here."""
    problem, weight, count = gaussian()[0], 0.07, 16
    g = torch.Generator().manual_seed(0)
    x = normal(g, count, 1, 1)
    for t in range(STEPS, 0, -1):
        alpha = AB[t] / AB[t - 1]
        eps = (x - math.sqrt(AB[t]) * tweedie(x, t)) / math.sqrt(1.0 - AB[t])
        mean = (x - (1.0 - alpha) / math.sqrt(1.0 - AB[t]) * eps) / math.sqrt(alpha)  # line 3
        at, slope = mean, 1.0
        if tweedie_cost and t > 1:  # line 4
            at, slope = tweedie(mean, t - 1), math.sqrt(AB[t - 1]) * STD**2 / (AB[t - 1] * STD**2 + 1.0 - AB[t - 1])
        grad = (DENOISER.denormalise(at) - 0.4) * 3.0 * slope  # lines 5 and 6
        x = mean - (weight * grad).clamp(-clip, clip)
        if t > 1:
            x = x + math.sqrt((1.0 - AB[t - 1]) / (1.0 - AB[t]) * (1.0 - alpha)) * normal(g, count, 1, 1)
    got = draw(problem, 0, method="mpd", samples=count, weight=weight, clip=clip, tweedie=tweedie_cost).candidates.x
    assert torch.allclose(got, DENOISER.denormalise(x), atol=1e-9)


@pytest.mark.parametrize(("resample_below", "times"), [(0.0, [0]), (0.9, [1, 2, 3, 4]), (1.0, [5])])
@pytest.mark.parametrize("lookahead", [0, 1, 3])
@pytest.mark.parametrize("prior_share", [1.0, 0.5])
def test_steering_is_twisted_sequential_monte_carlo(
    resample_below: float, times: list[int], lookahead: int, prior_share: float
) -> None:
    """Weights psi_i^tau_i / psi_{i+1}^tau_{i+1}, tau_i = ab_i and tau_1 = 1; systematic resampling.

    psi = mean over K draws of q_j of V p(k) / q_j, q_j = p(k) and, with a share of 0.5, normals in the box around the particle's
    own k and the problem's guess.
    """
    problem, n, n_k = Triangular(log_v), 12, 6
    g = torch.Generator().manual_seed(4)
    x, k = normal(g, n, 1, 1), torch.empty(0)
    log_w, paid, resampled = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64), 0
    for i in range(STEPS, 0, -1):
        sharp, levels = x, DENOISER.schedule.levels(i, min(lookahead, i - 1) + 1)
        for a, b in itertools.pairwise(levels):  # DDIM
            sharp = denoised(sharp, score_of(sharp, tweedie(sharp, a), AB[a]), a, b, 0.0, g)
        raw = DENOISER.denormalise(sharp)
        guess, std = (0.5 * raw + 0.3).clamp(-1.0, 1.0), 0.02 * (0.5 / 0.02) ** ((i - 1) / (STEPS - 1))
        laws = [box_normal(c, std) for c in ([guess] if i == STEPS else [k[:, None], guess])]
        from_prior = round(prior_share * n_k)
        counts = [len(part) for part in torch.arange(n_k - from_prior).tensor_split(len(laws))]  # the first ones get more
        ks = [problem.sample_k(n * from_prior, g).view(n, from_prior, 1)]
        for law, count in zip(laws, counts, strict=True):
            ks.append(torch.from_numpy(law.ppf(torch.rand((n, count, 1), generator=g, dtype=torch.float64).numpy())))
        pool = torch.cat(ks, dim=1)
        p = problem.log_prior_k(pool).exp()  # relative to the density 1/2, as what follows
        q = from_prior / n_k * p
        for law, count in zip(laws, counts, strict=True):
            q = q + count / n_k * 2.0 * torch.from_numpy(law.pdf(pool.numpy()))[..., 0]
        v = problem.log_v(raw, pool).exp() * p / q
        k = pool[torch.arange(n), picked(v, g)]
        tempered = (1.0 if i == 1 else AB[i]) * v.mean(1).log()
        log_w, paid = log_w + tempered - paid, tempered
        w = torch.softmax(log_w, 0)
        if i > 1 and float(1.0 / (w * w).sum()) < resample_below * n:
            resampled += 1
            points = (torch.arange(n) + torch.rand(1, generator=g, dtype=torch.float64)) / n
            survivors = (w.cumsum(0)[None] <= points[:, None]).sum(1)
            x, k, paid, log_w = x[survivors], k[survivors], paid[survivors], torch.zeros(n, dtype=torch.float64)
        x = denoised(x, score_of(x, tweedie(x, i), AB[i]), i, i - 1, 1.0, g)
    assert resampled in times
    r = draw(
        problem, 4, method="steered", particles=n, k_samples=n_k, prior_share=prior_share, k_scale_first=0.5, k_scale_last=0.02,
        looks=0, min_signal=0.0, floor=1e3, depth_weight=0.0, resample_below=resample_below, lookahead=lookahead,
        selection="sample",
    )
    assert r.x is not None and r.candidates.k is not None
    assert torch.allclose(r.candidates.x, DENOISER.denormalise(sharp), atol=1e-8)
    assert torch.allclose(r.candidates.k, k, atol=1e-7)
    assert torch.equal(r.x, r.candidates.x[int(picked(w, g))])
    assert r.trace["ess"][-1] == pytest.approx(float(1.0 / (w * w).sum()), rel=1e-6)


def test_local_search_of_k_halves_its_steps_and_takes_the_least_j() -> None:
    problem, count = gaussian()[0], 3
    run = Run(problem, DENOISER, torch.Generator().manual_seed(0), None)
    x = torch.linspace(-0.8, 0.8, 9, dtype=torch.float64)[:, None, None]
    k, e, g = torch.full((9, 1), -0.7, dtype=torch.float64), problem.evaluate(x), torch.Generator().manual_seed(0)
    cost = problem.pairs(e, k[:, None]).cost[:, 0]
    got = refine_k(run, Pairs(x, k, cost, torch.zeros_like(cost)), 4, count, 0.4)
    for scale in (0.4, 0.2, 0.1, 0.05):
        tried = torch.cat([k[:, None], (k[:, None] + scale * normal(g, 9, count, 1)).clamp(-1.0, 1.0)], dim=1)
        k = tried[torch.arange(9), problem.pairs(e, tried).cost.argmin(1)]
    assert torch.allclose(got.k, k) and torch.allclose(got.cost, problem.pairs(e, k[:, None]).cost[:, 0])


def test_the_one_optimisation_of_k_goes_to_the_least_violating_chunk() -> None:
    """JM2D Sec. 4.2, remark."""
    problem = gaussian()[0]
    run = Run(problem, DENOISER, torch.Generator().manual_seed(0), None)
    x = torch.tensor([0.1, 0.3, -0.2], dtype=torch.float64)[:, None, None]
    depth = torch.tensor([0.5, 0.1, 0.3], dtype=torch.float64)
    e, k = problem.evaluate(x), torch.full((3, 1), -0.9, dtype=torch.float64)
    repaired = repair(run, e, Pairs(x, k, torch.full_like(depth, math.inf), depth))
    assert repaired.feasible.tolist() == [False, True, False]
    assert torch.equal(repaired.k[1], problem.optimise_k(e, 1)[0]) and torch.equal(repaired.k[[0, 2]], k[[0, 2]])
