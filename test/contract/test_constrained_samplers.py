"""Samplers that use barriers, projections and dynamics, each against its own recursion written out or a general solver."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from contract.closed_forms import STEPS, MixtureDenoiser, PairProblem, Stretched, gaussian, half_space, reference
from scipy.optimize import minimize
from torch import Tensor

from tandem.core.errors import ConfigError, InputError
from tandem.diffusion.constraints import LinearConstraints, autograd_barrier, hinge_cost, onto_barrier
from tandem.diffusion.problem import Chunks
from tandem.diffusion.result import SampleResult
from tandem.diffusion.reverse import step
from tandem.diffusion.samplers import base, make_sampler
from tandem.diffusion.samplers.base import Run
from tandem.diffusion.samplers.jm2d_pathwise import reparametrised

BARRIER: list[dict[str, Any]] = [
    {"method": "safediffuser"}, {"method": "safediffuser", "variant": "relaxed", "extra_steps": 3},
    {"method": "safediffuser", "variant": "time_varying"}, {"method": "truncation"}, {"method": "dpcc"},
]


def draw(data: dict[str, Any], problem: Any, denoiser: Any, seed: int = 0, **more: Any) -> Any:
    """One call."""
    return make_sampler({**data, **more}).sample(problem, denoiser, generator=torch.Generator().manual_seed(seed))


def recursion(denoiser: MixtureDenoiser, keep: Any, count: int, seed: int = 0) -> Tensor:
    """Ancestral sampling with ``keep`` (x before the step, x after it, level after it) applied after each step: (count, 1, 1)."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn((count, 1, 1), generator=g, dtype=torch.float64)
    for i in range(STEPS, 0, -1):
        after = step(denoiser.schedule, x, denoiser.clean(x, i, torch.zeros(0)), i, i - 1, 1.0, g)
        x = keep(x, after, i - 1)
    return denoiser.denormalise(x)


@pytest.mark.parametrize("data", [*BARRIER, {"method": "guidance"}, {"method": "guidance", "form": "epsilon"}], ids=str)
def test_far_from_every_boundary_it_is_the_plain_policy(data: dict[str, Any]) -> None:
    problem, denoiser = gaussian()
    problem.edge = -100.0
    if data["method"] == "dpcc":
        data = {**data, "samples": 1}
    data = {k: v for k, v in data.items() if k != "extra_steps"}
    assert torch.allclose(draw(data, problem, denoiser).x, draw({"method": "policy"}, problem, denoiser).x, atol=1e-12)


@pytest.mark.parametrize("data", BARRIER, ids=str)
@pytest.mark.parametrize("kind", [MixtureDenoiser, Stretched])
def test_the_half_space_is_kept(data: dict[str, Any], kind: type[MixtureDenoiser]) -> None:
    problem, _ = gaussian()
    x = draw(data, problem, kind([[0.0]], 0.35), samples=32).candidates.x
    assert bool((x >= 0.2 - 1e-9).all())
    assert bool((x > 0.2 + 1e-3).any()) or "extra_steps" in data  # repeated steps at time 0 draw everything to the boundary


@pytest.mark.parametrize("kind", [MixtureDenoiser, Stretched])
def test_robust_safediffuser_and_truncation_are_their_recursions(kind: type[MixtureDenoiser]) -> None:
    """b = x - 0.2 with gain 1: after each step max(x, edge), in whatever units the data are."""
    problem, denoiser = gaussian()[0], kind([[0.0]], 0.35)
    edge = float(denoiser.normalise(torch.tensor(0.2, dtype=torch.float64)))
    want = recursion(denoiser, lambda before, after, j: after.clamp(min=edge), 16)
    for method in ("safediffuser", "truncation"):
        assert torch.allclose(draw({"method": method}, problem, denoiser, samples=16).candidates.x, want, atol=1e-9)


@pytest.mark.parametrize("last_steps", [0, 2])
def test_projected_diffusion_projects_after_each_of_its_steps(last_steps: int) -> None:
    problem, denoiser = gaussian()[0], Stretched([[0.0]], 0.35)
    edge, first = float(denoiser.normalise(torch.tensor(0.2, dtype=torch.float64))), last_steps or STEPS
    want = recursion(denoiser, lambda before, after, j: after.clamp(min=edge) if j < first else after, 16)
    got = draw({"method": "pdm"}, problem, denoiser, samples=16, last_steps=last_steps).candidates.x
    assert torch.allclose(got, want, atol=1e-9)


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_truncation_takes_that_many_newton_steps(rounds: int) -> None:
    """b = 0.5 - exp(-2 x), concave: each Newton step stops short of the boundary, so that every further one shows."""
    problem, denoiser = gaussian()[0], Stretched([[0.0]], 0.35)
    problem.barrier = lambda x: (0.5 - torch.exp(-2.0 * x), 2.0 * torch.exp(-2.0 * x)[..., None])  # type: ignore[method-assign]

    def newton(before: Tensor, after: Tensor, j: int) -> Tensor:
        x = denoiser.denormalise(after)
        for _ in range(rounds):
            x = x + (torch.exp(-2.0 * x) - 0.5).clamp(min=0.0) / (2.0 * torch.exp(-2.0 * x))
        return denoiser.normalise(x)

    got = draw({"method": "truncation"}, problem, denoiser, samples=16, rounds=rounds).candidates.x
    assert torch.allclose(got, recursion(denoiser, newton, 16), atol=1e-8)


def test_safediffuser_keeps_its_margin_and_repeats_the_last_step_as_often_as_theorem_3_asks() -> None:
    problem, denoiser, gain, margin = gaussian()[0], Stretched([[0.0]], 0.35), 0.4, 0.3
    edge = float(denoiser.normalise(torch.tensor(0.2 + margin, dtype=torch.float64)))

    def keep(before: Tensor, after: Tensor, j: int) -> Tensor:
        return torch.maximum(after, before - gain * (before - edge))

    for extra in (0, 1, 3):
        y = denoiser.normalise(recursion(denoiser, keep, 16))
        for _ in range(extra):
            y = keep(y, denoiser.clean(y, 1, problem.cond), 0)
        more: dict[str, Any] = {"gain": gain, "margin": margin, "extra_steps": extra}
        got = draw({"method": "safediffuser"}, problem, denoiser, samples=16, **more).candidates.x
        assert torch.allclose(got, denoiser.denormalise(y), atol=1e-9)


def test_dpcc_c_takes_the_least_cost_of_all_its_projections_together() -> None:
    problem, denoiser = gaussian()[0], Stretched([[0.0]], 0.35)
    edge = float(denoiser.normalise(torch.tensor(0.2, dtype=torch.float64)))
    for seed in range(8):
        cost = torch.zeros(4, dtype=torch.float64)

        def keep(before: Tensor, after: Tensor, j: int, cost: Tensor = cost) -> Tensor:
            cost += (after.clamp(min=edge) - after).square().sum((1, 2))
            return after.clamp(min=edge)

        want = recursion(denoiser, keep, 4, seed)
        r = draw({"method": "dpcc", "select": "cost"}, problem, denoiser, seed, samples=4, project_from=1.0)
        assert torch.allclose(r.candidates.x, want, atol=1e-9)
        assert torch.equal(r.x, r.candidates.x[int(cost.argmin())])


def test_gain_time_variation_and_relaxation_are_equations_8_to_12() -> None:
    problem, denoiser = gaussian()
    gain, weight, relax_steps = 0.4, 3.0, 4
    start = torch.randn((16, 1, 1), generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.2
    gamma = start.clamp(max=0.0)

    def robust(before: Tensor, after: Tensor, j: int) -> Tensor:
        return torch.maximum(after, before - gain * (before - 0.2))

    def varying(before: Tensor, after: Tensor, j: int) -> Tensor:
        g_i, g_j = gamma * (j + 1) / STEPS, gamma * j / STEPS
        return torch.maximum(after, before + (g_j - g_i) - gain * (before - 0.2 - g_i))

    def relaxed(before: Tensor, after: Tensor, j: int) -> Tensor:
        """min (u - v)^2 + r^2 with u + alpha(b) - w r >= 0: u = v + lack / (1 + w^2)."""
        w = weight * min(1.0, j / relax_steps)
        lack = (-gain * (before - 0.2) - (after - before)).clamp(min=0.0)
        return after + lack / (1.0 + w * w)

    more: dict[str, Any] = {"relax_weight": weight, "relax_steps": relax_steps}
    for variant, keep in (("robust", robust), ("time_varying", varying), ("relaxed", relaxed)):
        got = draw({"method": "safediffuser"}, problem, denoiser, samples=16, gain=gain, variant=variant, **more).candidates.x
        assert torch.allclose(got, recursion(denoiser, keep, 16), atol=1e-9), variant


def test_guidance_is_dhariwal_and_nichols_shift() -> None:
    problem, denoiser = gaussian()
    for form, push in (
        ("classifier", lambda m: torch.sigmoid(-(m - 0.2) / 0.05) / 0.05), ("epsilon", lambda m: (m - 0.2 < 0.02).double()),
    ):
        got = draw({"method": "guidance", "form": form, "scale": 2.0}, problem, denoiser, samples=16).candidates.x
        g = torch.Generator().manual_seed(0)
        x = torch.randn((16, 1, 1), generator=g, dtype=torch.float64)
        a = denoiser.schedule.alpha_bar
        for i in range(STEPS, 0, -1):
            clean, beta = denoiser.clean(x, i, problem.cond), 1.0 - a[i] / a[i - 1]
            mean = math.sqrt(a[i - 1]) * beta / (1 - a[i]) * clean + math.sqrt(1 - beta) * (1 - a[i - 1]) / (1 - a[i]) * x
            var = (1 - a[i - 1]) / (1 - a[i]) * beta
            x = mean
            if i > 1:
                x = mean + 2.0 * var * push(mean) + math.sqrt(var) * torch.randn(x.shape, generator=g, dtype=torch.float64)
        assert torch.allclose(got, x, atol=1e-9)


class Waypoints(MixtureDenoiser):
    """One Gaussian for every waypoint by itself, whatever the horizon."""

    def clean(self, x: Tensor, i: int, cond: Tensor) -> Tensor:
        """Posterior mean (N, H, D)."""
        a = self.schedule.alpha_bar[i]
        mean = self.means[0]
        return mean + math.sqrt(a) * self.var / (a * self.var + 1.0 - a) * (x - math.sqrt(a) * mean)


class Planar(PairProblem):
    """D = 2, H = 3 waypoints kept out of a disk; linear dynamics x_{h+1} = x_h + s, and bounds."""

    horizon = 3

    def __init__(self, centre: tuple[float, float] = (0.4, 0.1), radius: float = 0.3) -> None:
        super().__init__(lambda x, k: torch.zeros_like((x + k).sum(-1)), dim=2)
        self.centre, self.radius = torch.tensor(centre, dtype=torch.float64), radius

    def barrier(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distance to the disk."""
        return autograd_barrier(lambda y: (y - self.centre).norm(dim=-1, keepdim=True) - self.radius, x)

    def linear(self) -> LinearConstraints:
        """x_1 - x_0 = x_2 - x_1 (constant velocity), y >= -0.6."""
        rows = torch.zeros((2, 6), dtype=torch.float64)
        for d in range(2):
            rows[d, d], rows[d, 2 + d], rows[d, 4 + d] = 1.0, -2.0, 1.0
        free = torch.full((3, 2), math.inf, dtype=torch.float64)
        lower = -free
        lower[:, 1] = -0.6
        return LinearConstraints(rows, torch.zeros(2, dtype=torch.float64), lower, free)


def test_dpcc_projects_onto_dynamics_bounds_and_obstacles_as_a_general_solver_does() -> None:
    problem, denoiser = Planar(), Waypoints([[0.3, 0.0]], 0.4)
    # post-processing: the outcome is the policy's own, projected once
    got = draw({"method": "dpcc", "select": "cost"}, problem, denoiser, samples=8, project_from=0.0, iterations=30).candidates.x
    free = LinearConstraints.none(3, 2)
    problem.linear = lambda: free  # type: ignore[method-assign]
    problem.centre = torch.tensor([50.0, 50.0], dtype=torch.float64)
    plain = draw({"method": "dpcc", "select": "cost"}, problem, denoiser, samples=8, project_from=0.0).candidates.x
    disk, linear = Planar(), Planar().linear()
    for y, x in zip(plain.flatten(1).numpy(), got.flatten(1).numpy(), strict=True):
        assert np.abs(linear.matrix.numpy() @ x).max() < 1e-9 and x[1::2].min() >= -0.6 - 1e-9
        assert float(disk.barrier(torch.from_numpy(x).view(1, 3, 2))[0].min()) > -1e-6
        best = minimize(
            lambda z, y=y: float(((z - y) ** 2).sum()), x, jac=lambda z, y=y: 2.0 * (z - y), method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
            bounds=[(None, None), (-0.6, None)] * 3,
            constraints=[
                {"type": "eq", "fun": lambda z: linear.matrix.numpy() @ z},
                {"type": "ineq", "fun": lambda z: np.linalg.norm(z.reshape(3, 2) - [0.4, 0.1], axis=1) - 0.3},
            ],
        )
        assert float(((x - y) ** 2).sum()) <= best.fun + 1e-5


def test_dpcc_chooses_by_cost_by_the_last_plan_or_at_random_and_its_margin_is_kept() -> None:
    problem, denoiser = Planar(), Waypoints([[0.3, 0.0]], 0.4)
    r = draw({"method": "dpcc", "select": "temporal"}, problem, denoiser, samples=16)
    assert torch.equal(r.x, draw({"method": "dpcc", "select": "cost"}, problem, denoiser, samples=16).x)
    problem.previous = r.candidates.x[11] + 1e-3
    assert torch.equal(draw({"method": "dpcc", "select": "temporal"}, problem, denoiser, samples=16).x, r.candidates.x[11])
    picks = {
        tuple(draw({"method": "dpcc", "select": "random"}, problem, denoiser, seed, samples=4).x.flatten().tolist())
        for seed in range(4)
    }
    assert len(picks) == 4
    tight = draw({"method": "dpcc"}, problem, denoiser, samples=16, tighten=0.1, iterations=30).candidates.x
    assert float(problem.barrier(tight)[0].min()) > 0.1 - 1e-6 > float(problem.barrier(r.candidates.x)[0].min())
    loose = draw({"method": "dpcc"}, problem, denoiser, samples=4, dynamics=False).candidates.x
    assert float((loose[:, 0] - 2.0 * loose[:, 1] + loose[:, 2]).abs().max()) > 1e-3


@pytest.mark.parametrize("data", BARRIER, ids=str)
def test_contradictory_specifications_end_in_an_honest_infeasible(data: dict[str, Any]) -> None:
    class Contradictory(PairProblem):
        def barrier(self, x: Tensor) -> tuple[Tensor, Tensor]:
            slope = torch.tensor([[1.0], [-1.0]], dtype=x.dtype).expand(*x.shape[:2], 2, 1)
            return torch.cat([x - 0.5, -0.5 - x], dim=-1), slope

    def never(x: Tensor, k: Tensor) -> Tensor:
        return torch.full_like((x + k).sum(-1), -math.inf)

    r = draw(data, Contradictory(never), MixtureDenoiser([[0.0]], 0.35))
    assert not r.feasible and r.complete and bool(torch.isfinite(r.x).all())
    if data["method"] != "truncation":  # it knows one specification at a time
        assert any("contradictory" in kind for kind in r.counters.failures)


def test_malformed_barriers_and_constraints_are_typed_errors() -> None:
    denoiser = MixtureDenoiser([[0.0]], 0.35)
    for broken, what in (
        (lambda x: (x[..., 0], x), "expected"), (lambda x: (x * math.nan, x[..., None]), "nan"),
        (lambda x: (x, x[..., None] * math.inf), "accepted: finite"),
    ):
        problem, _ = gaussian()
        problem.barrier = broken  # type: ignore[method-assign]
        for method in ("safediffuser", "truncation", "guidance", "dpcc"):
            with pytest.raises(InputError, match=what):
                draw({"method": method}, problem, denoiser)
    empty, one = torch.zeros((0, 2)), torch.ones(1, 2)
    with pytest.raises(InputError, match="empty set at waypoint 0, value 1"):
        LinearConstraints(empty, empty[:, 0], torch.tensor([[0.0, 2.0]]), one)
    with pytest.raises(InputError, match="expected"):
        LinearConstraints(torch.zeros(1, 3), torch.zeros(1), -one, one)
    twice = LinearConstraints(torch.ones(2, 2), torch.tensor([0.0, 1.0]), -one, one)
    with pytest.raises(InputError, match="contradictory"):
        twice.null_space()


def test_autograd_barriers_hinge_and_projection_agree_with_finite_differences() -> None:
    problem = Planar()
    x = 0.5 * torch.randn((6, 3, 2), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    value, slope = problem.barrier(x)
    for d in range(2):
        moved = torch.zeros(2, dtype=torch.float64)
        moved[d] = 1e-6
        assert torch.allclose((problem.barrier(x + moved)[0] - value) / 1e-6, slope[..., d], atol=1e-4)
    y = x.clone().requires_grad_(True)
    cost = hinge_cost(problem, y, margin=0.1)
    assert torch.allclose(cost, (0.1 - value).clamp(min=0.0).sum((1, 2)))
    (grad,) = torch.autograd.grad(cost.sum(), y)
    assert torch.allclose(grad, -torch.where(value < 0.1, 1.0, 0.0) * slope[:, :, 0])
    put = onto_barrier(problem, x, margin=0.1)
    assert float(problem.barrier(put)[0].min()) > 0.1 - 1e-8
    away = x - problem.centre
    nearest = problem.centre + away * (0.4 / away.norm(dim=-1, keepdim=True)).clamp(min=1.0)
    assert torch.allclose(put, nearest, atol=1e-7)


def test_corollary_3_jm2d_splits_into_conditional_generation_and_model_based_diffusion() -> None:
    """V(x, k) = V^x(x) V^k(k): x has the law of conditional generation, k that of model-based diffusion."""
    def log_v(x: Tensor, k: Tensor) -> Tensor:
        return (-0.5 * ((x - 0.5) / 0.3) ** 2 - 0.5 * ((k + 0.4) / 0.25) ** 2).sum(-1)

    problem, denoiser = PairProblem(log_v), MixtureDenoiser([[0.0]], 0.35)
    settings: dict[str, Any] = {"selection": "final", "k_samples": 32}
    found: dict[str, list[Tensor]] = {}
    for name, more in (("jm2d", {"x_samples": 32}), ("conditional", {"x_samples": 32}), ("mbd", {"k_steps": STEPS})):
        g = torch.Generator().manual_seed(5)
        rs = [make_sampler({"method": name, **settings, **more}).sample(problem, denoiser, generator=g) for _ in range(40)]
        found[name] = [torch.stack([r.x[0, 0] for r in rs]), torch.stack([r.k[0] for r in rs])]
    for which, other in ((0, "conditional"), (1, "mbd")):
        a, b = found["jm2d"][which].double(), found[other][which].double()
        error = math.sqrt(float(a.var() + b.var()) / 40)
        assert abs(float(a.mean() - b.mean())) < 4.0 * error
        assert 0.6 < float(a.std() / b.std()) < 1.6
    assert abs(float(found["mbd"][1].mean()) + 0.4) < 0.05


def test_tight_jm2d_weighs_by_the_tightened_potential_and_is_judged_by_the_plain_one() -> None:
    def log_v(x: Tensor, k: Tensor) -> Tensor:
        return torch.where((x >= 0.2).all(-1), 0.0 * (x + k).sum(-1), -math.inf)

    def depth(x: Tensor, k: Tensor) -> Tensor:
        return (0.2 - x).clamp(min=0.0).sum(-1) + 0.0 * k.sum(-1)

    problem, denoiser = PairProblem(log_v, depth=depth), MixtureDenoiser([[0.0]], 0.35)
    for name in ("jm2d", "conditional"):
        means = []
        for margin in (0.0, 0.2):
            g = torch.Generator().manual_seed(2)
            sampler = make_sampler({"method": name, "x_samples": 16, "k_samples": 4, "tighten": margin, "selection": "final"})
            rs = [sampler.sample(problem, denoiser, generator=g) for _ in range(30)]
            assert all(r.feasible == bool(r.x[0, 0] >= 0.2) for r in rs)
            means.append(float(torch.stack([r.x for r in rs]).mean()))
        assert means[1] > means[0] + 0.02
        r = make_sampler({"method": name, "x_samples": 16, "k_samples": 4, "tighten": 5.0}).sample(
            problem, denoiser, generator=torch.Generator().manual_seed(0)
        )
        assert bool((torch.isfinite(r.candidates.cost) == (r.candidates.x[:, 0, 0] >= 0.2)).all())


@pytest.mark.parametrize("name", ["jm2d", "conditional"])
@pytest.mark.parametrize("late", [False, True])
def test_a_pair_that_only_the_margin_forbids_is_found_among_all_steps(
    name: str, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the archive, or when time is up: no tightened pair exists, and one of the problem's own in most runs' first steps."""
    problem, denoiser = half_space()
    seen: list[bool] = []

    class Watched(base.Archive):
        def add(self, pairs: base.Pairs) -> None:
            seen.append(bool(problem.pairs(problem.evaluate(pairs.x), pairs.k[:, None]).feasible.any()))
            super().add(pairs)

    monkeypatch.setattr(f"tandem.diffusion.samplers.{name}.Archive", Watched)
    settings = {"method": name, "x_samples": 4, "k_samples": 4, "tighten": 0.6, "archive": not late}
    if late:
        monkeypatch.setattr(base.Run, "expired", lambda run, ahead=0.0: len(seen) >= STEPS - 1)
    outcomes = []
    for seed in range(40):
        seen.clear()
        r = make_sampler(settings).sample(problem, denoiser, generator=torch.Generator().manual_seed(seed))
        outcomes.append((any(seen), r.feasible))
    assert all(feasible or not there for there, feasible in outcomes)
    assert sum(there for there, _ in outcomes) > 10 and not all(there for there, _ in outcomes)
    assert r.complete != late


@pytest.mark.parametrize("name", ["jm2d", "conditional"])
def test_a_pair_that_keeps_the_margin_at_the_last_step_is_not_lost(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged anew, by the constraints themselves, with the k that it was found with."""
    problem, denoiser = half_space()
    last: list[bool] = []

    class Watched(base.Archive):
        def add(self, pairs: base.Pairs) -> None:
            last[:] = [bool(pairs.feasible.any())]
            super().add(pairs)

    monkeypatch.setattr(f"tandem.diffusion.samplers.{name}.Archive", Watched)
    monkeypatch.setattr(f"tandem.diffusion.samplers.{name}.repair", lambda run, e, pairs: pairs)
    sampler, found = make_sampler({"method": name, "x_samples": 4, "k_samples": 2, "tighten": 0.05}), 0
    for seed in range(150):
        r = sampler.sample(problem, denoiser, generator=torch.Generator().manual_seed(seed))
        assert r.feasible or not last[0]
        found += last[0]
    assert found > 10


@pytest.mark.parametrize(("name", "size"), [("best_of_n", {"rows": 64 * STEPS}), ("best_of_n", {"rows": 64 * STEPS, "batch": 24}),
                                            ("steered", {"particles": 64})])
def test_a_margin_is_kept_where_any_pair_keeps_it_and_v_itself_decides_elsewhere(name: str, size: dict[str, Any]) -> None:
    """J = 1 + x is least at the edge, x = 0.2: only the margin moves a choice away from it."""
    def log_v(x: Tensor, k: Tensor) -> Tensor:
        return torch.where((x >= 0.2).all(-1), -1.0 - (x + 0.0 * k).sum(-1), -math.inf)

    def depth(x: Tensor, k: Tensor) -> Tensor:
        return (0.2 - x).clamp(min=0.0).sum(-1) + 0.0 * k.sum(-1)

    problem, denoiser = PairProblem(log_v, depth=depth), MixtureDenoiser([[0.0]], 0.35)

    def play(margin: float) -> list[SampleResult]:
        g = torch.Generator().manual_seed(2)
        sampler = make_sampler({"method": name, "k_samples": 4, "tighten": margin, **size})
        return [sampler.sample(problem, denoiser, generator=g) for _ in range(20)]

    plain, tight, never = play(0.0), play(0.15), play(5.0)
    for rs in (plain, tight, never):
        for r in rs:
            assert r.x is not None and r.feasible == bool(r.x[0, 0] >= 0.2)
            assert not r.feasible or r.cost == pytest.approx(1.0 + float(r.x[0, 0]))  # J of the problem itself
            assert bool((torch.isfinite(r.candidates.cost) == (r.candidates.x[:, 0, 0] >= 0.2)).all())
    for r in tight:
        assert (float(r.x[0, 0]) >= 0.35) == bool((r.candidates.x[:, 0, 0] >= 0.35).any())
    assert sum(float(r.x[0, 0]) >= 0.35 for r in tight) >= 19
    assert sum(float(r.x[0, 0]) < 0.3 for r in plain) == 20
    assert sum(float(r.x[0, 0]) < 0.3 for r in never) >= (20 if name == "best_of_n" else 15)
    if name == "best_of_n":
        assert all(torch.equal(a.x, b.x) and torch.equal(a.k, b.k) for a, b in zip(plain, never, strict=True))
    with pytest.raises(ConfigError, match=f"{name}: tighten = 0.1: .* accepted: 0"):
        make_sampler({"method": name, "tighten": 0.1, "selection": "sample"})


def test_projected_jm2d_hands_on_feasible_noisy_samples() -> None:
    problem, denoiser = gaussian()
    r = draw({"method": "jm2d", "project": True, "selection": "final", "x_samples": 8, "k_samples": 8}, problem, denoiser)
    assert float(r.x) >= 0.2
    assert problem.grid(Chunks(r.x[None]), r.k[None]).cost.item() == pytest.approx(r.cost) or not r.feasible


def test_pathwise_jm2d_follows_the_gradient_and_nears_its_target_with_more_steps() -> None:
    """A coarse reverse pass understates the spread of p(x_0 | x_i), so the gradient of log E[V] is too steep: a bias that
    shrinks.
    """
    problem, _ = gaussian()
    bias = []
    for steps in (STEPS, 4 * STEPS):
        denoiser = MixtureDenoiser([[0.0]], 0.35, steps=steps)
        want = reference(problem, denoiser, 4000)
        g = torch.Generator().manual_seed(7)
        sampler = make_sampler({"method": "jm2d_pathwise", "x_samples": 8, "k_samples": 16, "selection": "final"})
        rs = [sampler.sample(problem, denoiser, generator=g) for _ in range(24)]
        bias.append(float(torch.stack([r.x[0, 0] for r in rs]).mean()) - want.x)
        assert abs(float(torch.stack([r.k[0] for r in rs]).mean()) - want.k) < 0.08
    assert -0.05 < bias[1] < bias[0] < 0.2


def test_pathwise_draws_of_k_carry_the_gradient_of_their_expectation() -> None:
    """d/dm of log integral over the box of N(k; m, s^2) V(k), by quadrature, for V = exp(-(k - c)^2 / 2)."""
    problem, denoiser = gaussian()
    run = Run(problem, denoiser, torch.Generator().manual_seed(0), None)
    std, centre = 0.4, 0.7
    k = torch.linspace(-1.0, 1.0, 20_001, dtype=torch.float64)

    def integral(m: float) -> float:
        return float((torch.exp(-0.5 * ((k - m) / std) ** 2) * torch.exp(-0.5 * (k - centre) ** 2)).sum())

    for m in (-0.9, 0.2, 1.3):
        mean = torch.tensor([[m]], dtype=torch.float64, requires_grad=True)
        draws, log_mass = reparametrised(mean, std, 40_000, run)
        total = (-0.5 * (draws[:, 0] - centre) ** 2).logsumexp(0) + log_mass
        (slope,) = torch.autograd.grad(total, mean)
        want = (math.log(integral(m + 1e-4)) - math.log(integral(m - 1e-4))) / 2e-4
        assert float(slope) == pytest.approx(want, abs=0.03)
