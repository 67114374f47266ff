"""The donut's geometry and problems against plain computations, and that both are proper joint problems."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tandem.core.errors import InputError
from tandem.diffusion.problem import checked
from tandem.diffusion.reverse import SolverConfig, denoise
from tandem.tasks.donut.data import INNER, OUTER, TOLERANCE, chamfer, in_distribution, off_donut, pairs
from tandem.tasks.donut.problem import FIG5_DISKS, REACH, TEMPERATURE, DonutConstraint, DonutPath, DonutScene
from tandem.tasks.donut.train import load_policy


def points(count: int, seed: int = 0, spread: float = 0.8) -> torch.Tensor:
    """(count, 2, 2) Gaussian pairs: on the donut and off it."""
    return spread * torch.randn((count, 2, 2), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_data_are_uniform_over_the_annulus_and_reproducible() -> None:
    x = pairs(20_000, 3)
    radius = np.linalg.norm(x, axis=-1)
    assert x.shape == (20_000, 2, 2) and radius.min() >= INNER - 1e-6 and radius.max() <= OUTER + 1e-6
    half = math.sqrt(0.5 * (INNER**2 + OUTER**2))  # as much area inside this radius as outside it
    assert np.mean(radius < half) == pytest.approx(0.5, abs=0.01)
    assert np.abs(x.mean(axis=0)).max() < 0.02 and abs(np.corrcoef(x[:, 0, 0], x[:, 1, 0])[0, 1]) < 0.03
    assert np.array_equal(x, pairs(20_000, 3)) and not np.array_equal(x, pairs(20_000, 4))
    assert bool(in_distribution(torch.from_numpy(x)).all())


def test_in_distribution_is_a_distance_from_the_annulus() -> None:
    p = torch.tensor([[0.3, 0.0], [0.7, 0.0], [0.0, -1.2], [0.0, 1.0 + 0.5 * TOLERANCE]], dtype=torch.float64)
    assert off_donut(p).tolist() == pytest.approx([0.2, 0.0, 0.2, 0.5 * TOLERANCE])
    assert in_distribution(torch.stack([p[[1, 3]], p[[1, 2]]])).tolist() == [True, False]


def test_chamfer_is_the_mean_distance_to_the_nearest_both_ways() -> None:
    a, b = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert chamfer(a, b) == pytest.approx(0.5 * ((1.0 + math.sqrt(2.0)) / 2.0 + 1.0))
    assert chamfer(a, a) == 0.0


def test_paths_are_feasible_exactly_when_no_sampled_point_of_them_is_in_a_circle() -> None:
    scene = DonutScene(10, 5)
    problem, circles = scene.problem(), scene.circles()
    x, k = points(30), problem.sample_k(20, torch.Generator().manual_seed(1))
    grid = checked(problem.grid(problem.evaluate(x), k), (30, 20), "grid")
    t = torch.linspace(0.0, 1.0, 400, dtype=torch.float64)[:, None]
    for n in range(30):
        for j in range(20):
            w = REACH * k[j].double()
            way = torch.cat([x[n, 0] + t * (w - x[n, 0]), w + t * (x[n, 1] - w)])
            gap = float(((way[:, None] - circles[:, :2]).norm(dim=-1) - circles[:, 2]).min())
            if abs(gap) > 5e-3:
                assert bool(grid.feasible[n, j]) == (gap > 0.0)
                assert float(grid.depth[n, j]) == pytest.approx(max(0.0, -gap), abs=5e-3)
            if bool(grid.feasible[n, j]):
                length = float((w - x[n, 0]).norm() + (x[n, 1] - w).norm())
                assert float(grid.cost[n, j]) == pytest.approx(-length)
                assert float(grid.log_v[n, j]) == pytest.approx(length / TEMPERATURE)
    own = problem.pairs(problem.evaluate(x), k[None].expand(30, -1, -1))
    assert torch.equal(own.log_v, grid.log_v)
    assert 0 < int(grid.feasible.sum()) < grid.feasible.numel()


def test_optimised_waypoints_are_as_long_as_a_dense_search_finds_and_feasible() -> None:
    problem = DonutScene(4, 2).problem()
    e = problem.evaluate(points(6, 2, 0.5))
    line = torch.linspace(-1.0, 1.0, 201, dtype=torch.float64)
    dense = problem.grid(e, torch.cartesian_prod(line, line)).cost
    for n in range(6):
        k, cost, ok = problem.optimise_k(e, n)
        assert ok == bool(torch.isfinite(dense[n]).any())
        if ok:
            assert cost <= float(dense[n].min()) + 0.02 and bool((k.abs() <= 1.0).all())
            assert float(problem.grid(e, k[None]).cost[n, 0]) == pytest.approx(cost)


def test_the_differentiable_potential_is_the_same_one_with_its_slope() -> None:
    """log V of all pairs as the grid has it; its gradient by finite differences where V > 0, and none where V = 0."""
    problem, generator = DonutScene(4, 3).problem(), torch.Generator().manual_seed(0)
    x = torch.from_numpy(pairs(24, 5)).double().requires_grad_(True)
    k = problem.sample_k(16, generator).double().requires_grad_(True)
    log_v = problem.log_potential(x, k)
    grid = problem.grid(problem.evaluate(x.detach()), k.detach())
    assert torch.equal(log_v.detach(), grid.log_v) and bool(grid.feasible.any()) and not bool(grid.feasible.all())

    def total(x: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return torch.where(grid.feasible, problem.log_potential(x, k), 0.0).sum()

    assert torch.autograd.gradcheck(total, (x, k), eps=1e-7, atol=1e-5)
    slopes = torch.autograd.grad(log_v.logsumexp((0, 1)), (x, k))
    assert all(bool(torch.isfinite(s).all()) and float(s.abs().max()) > 0.0 for s in slopes)
    nowhere = ~grid.feasible.any(1)
    assert bool(nowhere.any()) and bool((slopes[0][nowhere] == 0.0).all())


def test_tightened_circles_keep_further_away_and_a_covered_donut_is_refused() -> None:
    problem = DonutScene(4, 2).problem()
    e, k = problem.evaluate(points(40, 3)), problem.sample_k(40, torch.Generator().manual_seed(0))
    plain, tight = problem.grid(e, k).feasible, problem.tightened(0.1).grid(e, k).feasible
    assert bool((tight <= plain).all()) and int(tight.sum()) < int(plain.sum())
    with pytest.raises(InputError, match="cover the whole donut"):
        DonutPath(torch.tensor([[0.0, 0.0, 1.5]]))
    with pytest.raises(InputError, match="radius > 0"):
        DonutPath(torch.tensor([[0.0, 0.0, -1.0]]))
    with pytest.raises(InputError, match="expected"):
        DonutPath(torch.zeros(3))


def test_constraint_is_a_union_of_disks_with_its_projection() -> None:
    problem = DonutConstraint(torch.tensor(FIG5_DISKS))
    x = points(200, 4)
    want = torch.zeros(200, 2, dtype=torch.bool)
    for cx, cy, r in FIG5_DISKS:
        want |= (x - torch.tensor([cx, cy])).norm(dim=-1) <= r
    assert torch.equal(problem.feasible(x), want.all(-1)) and bool(want.any()) and not bool(want.all())
    put = problem.project(x)
    assert bool(problem.feasible(put).all()) and torch.allclose(problem.project(put), put)
    angle = torch.linspace(0.0, 2.0 * torch.pi, 721, dtype=torch.float64)
    ring = torch.cat([
        torch.tensor([cx, cy]) + r * torch.stack([angle.cos(), angle.sin()], dim=-1) for cx, cy, r in FIG5_DISKS
    ])
    nearest = torch.cdist(x.flatten(0, 1), ring).amin(1).view(200, 2)
    moved = (put - x).norm(dim=-1)
    assert torch.allclose(moved, torch.where(want, 0.0, nearest), atol=2e-3)
    value, slope = problem.barrier(x)
    assert torch.equal(value[..., 0] >= 0.0, want) and torch.allclose(slope.norm(dim=-1), torch.ones_like(value))
    grid = checked(problem.grid(problem.evaluate(x), torch.zeros(3, 0)), (200, 3), "grid")
    assert torch.equal(grid.feasible[:, 0], problem.feasible(x))


def test_empty_feasible_sets_are_typed_errors() -> None:
    problem = DonutConstraint(torch.tensor(FIG5_DISKS))
    with pytest.raises(InputError, match="empty feasible set"):
        problem.tightened(0.5)
    with pytest.raises(InputError, match="expected"):
        DonutConstraint(torch.zeros(0, 3))


def test_the_shipped_policy_keeps_to_the_donut() -> None:
    """One that predicts x0 has .06 of its samples off it."""
    policy, cond = load_policy(), torch.zeros(0)
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn((2000, 2, 2), generator=generator)
    with torch.inference_mode():
        x, _ = denoise(
            policy.schedule, lambda y, i: policy.clean(y, i, cond), noise, policy.schedule.steps, SolverConfig(), generator
        )
    assert float((~in_distribution(policy.denormalise(x))).double().mean()) < 0.01
