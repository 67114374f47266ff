"""The samplers' parts: draws, densities, bookkeeping of pairs, and JM2D's update against the paper's own formula."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from contract.closed_forms import MixtureDenoiser, PairProblem, gaussian
from scipy import stats

from tandem.diffusion.problem import PotentialGrid
from tandem.diffusion.reverse import step
from tandem.diffusion.samplers import make_sampler
from tandem.diffusion.samplers.base import Archive, Pairs, Run, refine_k
from tandem.diffusion.samplers.jm2d import JM2D, JM2DConfig, truncated_normal
from tandem.diffusion.samplers.steered import Steered, SteeredConfig, log_box_normal
from tandem.diffusion.schedules import ScheduleConfig, make_schedule


def run(seed: int = 0) -> Run:
    """Bookkeeping around the Gaussian closed form."""
    problem, denoiser = gaussian()
    return Run(problem, denoiser, torch.Generator().manual_seed(seed), None)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.3), (0.9, 0.5), (1.6, 0.4), (-2.5, 0.8), (0.2, 5.0)])
def test_truncated_normal_has_its_law(mean: float, std: float) -> None:
    draws = truncated_normal(torch.full((40_000, 1), mean, dtype=torch.float64), std, run())
    want = stats.truncnorm((-1.0 - mean) / std, (1.0 - mean) / std, loc=mean, scale=std)
    assert float(draws.min()) >= -1.0 and float(draws.max()) <= 1.0
    assert float(draws.mean()) == pytest.approx(want.mean(), abs=4.0 * want.std() / 200.0)
    assert float(draws.std()) == pytest.approx(want.std(), rel=0.03)


def test_truncated_normal_far_outside_is_the_nearest_face() -> None:
    for mean in (-50.0, 50.0):
        draws = truncated_normal(torch.full((100, 2), mean), 0.1, run())
        assert bool(torch.isfinite(draws).all()) and float((draws - math.copysign(1.0, mean)).abs().max()) < 0.1


@pytest.mark.parametrize("std", [0.1, 0.5, 3.0])
def test_box_normal_is_a_density_relative_to_uniform(std: float) -> None:
    generator = torch.Generator().manual_seed(0)
    k = 2.0 * torch.rand((400_000, 2), generator=generator, dtype=torch.float64) - 1.0
    density = log_box_normal(k, torch.tensor([0.4, -0.9], dtype=torch.float64), std).exp()
    assert float(density.mean()) == pytest.approx(1.0, abs=0.05)


def test_categorical_draws_in_proportion_and_never_what_has_no_weight() -> None:
    weights = torch.tensor([0.0, 0.2, 0.5, 0.3], dtype=torch.float64)
    index = run().categorical(weights.log().expand(50_000, 4))
    share = torch.bincount(index, minlength=4).double() / 50_000
    assert float(share[0]) == 0.0 and torch.allclose(share, weights, atol=0.01)
    shifted = run().categorical((weights.log() - 5000.0).expand(50_000, 4))
    assert torch.equal(index, shifted)
    dead = run().categorical(torch.full((1000, 4), -torch.inf, dtype=torch.float64))
    assert set(dead.tolist()) == {0, 1, 2, 3}


def test_pairs_take_least_cost_else_least_depth_and_never_a_k_outside_the_prior() -> None:
    inf = math.inf
    grid = PotentialGrid(
        torch.tensor([[-1.0, -inf, -0.5], [-inf, -inf, -inf]]).double(),
        torch.tensor([[1.0, inf, 0.5], [inf, inf, inf]]).double(),
        torch.tensor([[0.0, 2.0, 0.0], [3.0, 1.0, 0.5]]).double(),
    )
    x, k = torch.zeros(2, 1, 1), torch.tensor([[0.0], [0.5], [0.9]])
    pairs = Pairs.best(x, k, grid, torch.zeros(3))
    assert pairs.feasible.tolist() == [True, False]
    assert pairs.cost.tolist() == [0.5, inf] and pairs.k[:, 0].tolist() == pytest.approx([0.9, 0.9])
    outside = Pairs.best(x, k, grid, torch.tensor([0.0, 0.0, -inf]))
    assert outside.cost.tolist() == [1.0, inf] and outside.k[:, 0].tolist() == pytest.approx([0.0, 0.5])
    archive = Archive(capacity=2)
    archive.add(outside)
    archive.add(pairs)
    assert archive.pairs is not None and archive.pairs.cost.tolist() == [0.5, 1.0] and archive.has_feasible()


def test_local_search_never_makes_a_pair_worse() -> None:
    r = run()
    x = torch.linspace(-0.8, 0.8, 9, dtype=torch.float64)[:, None, None]
    k = torch.zeros((1, 1), dtype=torch.float64)
    before = Pairs.best(x, k, r.grid(r.problem.evaluate(x), k), torch.zeros(1))
    after = refine_k(r, before, rounds=4, count=16, scale=0.3)
    assert bool((after.cost <= before.cost).all()) and float(after.cost.mean()) < 0.7 * float(before.cost.mean())
    assert torch.equal(after.x, before.x) and bool((after.k.abs() <= 1.0).all())


def test_jm2d_update_is_equation_seven_and_line_five_with_the_sign_of_equation_two() -> None:
    """The factorised weighted means against the double sum over the grid of Tweedie scores, written as in the paper."""
    g = torch.Generator().manual_seed(2)
    schedule, k_schedule = make_schedule(ScheduleConfig(steps=10)), make_schedule(ScheduleConfig("mbd", 10))
    i, clean = 6, torch.randn((5, 2, 3), generator=g, dtype=torch.float64)
    ks = torch.rand((4, 2), generator=g, dtype=torch.float64) - 0.5
    log_v = torch.randn((5, 4), generator=g, dtype=torch.float64)
    log_v[1] = -math.inf
    grid = PotentialGrid(log_v, -log_v, torch.zeros_like(log_v))
    x = torch.randn((1, 2, 3), generator=g, dtype=torch.float64)
    k = torch.randn((1, 2), generator=g, dtype=torch.float64)
    x0, k0 = JM2D(JM2DConfig())._means(run(), clean, ks, grid, torch.zeros(4, dtype=torch.float64), k)

    a_i, a_j, ak_i, ak_j = schedule.alpha_bar[i], schedule.alpha_bar[i - 1], k_schedule.alpha_bar[i], k_schedule.alpha_bar[i - 1]
    v = log_v.exp()
    score_x = sum(v[j, n] * -(x - math.sqrt(a_i) * clean[j]) / (1 - a_i) for j in range(5) for n in range(4)) / v.sum()
    score_k = sum(v[j, n] * -(k - math.sqrt(ak_i) * ks[n]) / (1 - ak_i) for j in range(5) for n in range(4)) / v.sum()
    sigma = schedule.sigma(i, i - 1)
    paper_x = math.sqrt(a_j / a_i) * (x + (1 - a_i) * score_x) - math.sqrt(1 - a_j - sigma**2) * math.sqrt(1 - a_i) * score_x
    paper_k = math.sqrt(ak_j / ak_i) * (k + (1 - ak_i) * score_k)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    ours_x = step(schedule, x, x0, i, i - 1, 1.0, torch.Generator().manual_seed(5))
    assert torch.allclose(ours_x, paper_x + sigma * noise)
    assert torch.allclose(k_schedule.signal(i - 1) * k0, paper_k)


def test_jm2d_without_any_feasible_pair_takes_the_model_free_step() -> None:
    clean, ks = torch.randn((5, 1, 1), dtype=torch.float64), torch.zeros((4, 1), dtype=torch.float64)
    never = torch.full((5, 4), -math.inf, dtype=torch.float64)
    mean = torch.tensor([[0.3]], dtype=torch.float64)
    for fallback, depth in (("model_free", 1.0), ("graded", math.inf)):
        r = run()
        grid = PotentialGrid(never, never.abs(), torch.full((5, 4), depth, dtype=torch.float64))
        x0, k0 = JM2D(JM2DConfig(fallback=fallback))._means(r, clean, ks, grid, torch.zeros(4, dtype=torch.float64), mean)
        assert torch.allclose(x0, clean.mean(0, keepdim=True)) and torch.equal(k0, mean)
        assert r.counters.failures == {"no feasible pair in a step": 1, "model-free step": 1}
    r = run()
    depth_of_x = torch.arange(5, dtype=torch.float64)[:, None].expand(5, 4)
    x0, _ = JM2D(JM2DConfig())._means(r, clean, ks, PotentialGrid(never, never.abs(), depth_of_x), torch.zeros(4), mean)
    assert torch.allclose(x0, clean[:1], atol=1e-2) and r.counters.failures == {"no feasible pair in a step": 1}


@pytest.mark.parametrize("looks", [0, 1, 2, 8, 100])
def test_steering_always_looks_at_the_last_step(looks: int) -> None:
    schedule = make_schedule(ScheduleConfig(steps=25))
    levels = Steered(SteeredConfig(looks=looks))._look_levels(schedule)
    assert 1 in levels and len(levels) == (looks if 0 < looks < 22 else len(levels))
    assert all(schedule.alpha_bar[i] >= 0.05 for i in levels)


def test_lookahead_rows_are_counted() -> None:
    problem, denoiser = PairProblem(lambda x, k: -((x - k) ** 2).sum(-1)), MixtureDenoiser([[0.0]], 0.3)
    sampler = Steered(SteeredConfig(particles=8, k_samples=4, lookahead=2))
    result = sampler.sample(problem, denoiser, generator=torch.Generator().manual_seed(0))
    assert result.counters.network_rows == sampler.network_rows(denoiser.schedule.steps) > 8 * denoiser.schedule.steps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pairs_are_ordered_by_cost_and_the_infeasible_ones_by_depth(dtype: torch.dtype) -> None:
    x, k = torch.arange(6.0).view(6, 1, 1), torch.zeros(6, 1)
    cost = torch.tensor([math.inf, 3.0, math.inf, -2.0, math.inf, math.inf], dtype=dtype)
    depth = torch.tensor([0.9, 0.0, 0.01, 0.0, 0.3, math.inf], dtype=dtype)
    pairs = Pairs(x, k, cost, depth)
    assert pairs.with_best_first(6).x.flatten().tolist() == [3.0, 1.0, 2.0, 4.0, 0.0, 5.0] and pairs.best_index() == 3
    hopeless = pairs.take(torch.tensor([0, 4, 2, 5]))
    assert hopeless.best_index() == 2 and hopeless.with_best_first(2).depth.tolist() == depth[[2, 4]].tolist()
    archive = Archive(2)
    for n in (0, 5, 4, 2):
        archive.add(pairs.take(torch.tensor([n])))
    assert archive.pairs is not None and archive.pairs.x.flatten().tolist() == [2.0, 4.0] and not archive.has_feasible()


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "best_of_n", "rows": 64 * 6, "k_samples": 4, "refine_rounds": 0},
        {"method": "steered", "particles": 64, "k_samples": 4, "refine_rounds": 0},
    ],
)
def test_with_nothing_feasible_the_least_violating_chunk_is_returned(settings: dict[str, Any]) -> None:
    def never(x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return torch.full(torch.broadcast_shapes(x.shape[:-1], k.shape[:-1]), -math.inf, dtype=torch.float64)

    problem = PairProblem(never, depth=lambda x, k: (x[..., 0] - 1.0).abs() + 0.0 * k[..., 0])
    r = make_sampler(settings).sample(problem, MixtureDenoiser([[0.0]], 0.3), generator=torch.Generator().manual_seed(0))
    assert r.x is not None and not r.feasible
    drawn = (r.candidates.x[..., 0, 0].double() - 1.0).abs()
    assert float((r.x[0, 0].double() - 1.0).abs()) == float(drawn.min()) < float(drawn.max())
