"""What a problem or a model hands a sampler is checked where it comes in: a typed error says which part of it, and what fits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from contract.closed_forms import MixtureDenoiser, PairProblem, gaussian

from tandem.core.errors import InputError
from tandem.diffusion.denoiser import Respaced
from tandem.diffusion.problem import PotentialError
from tandem.diffusion.samplers import make_sampler, sampler_names
from tandem.tasks.donut.problem import DonutScene
from tandem.tasks.maze.physics import MazeWorld
from tandem.tasks.maze.problem import MazeConfig, MazeProblem
from tandem.tasks.maze.train import load_policy

#: few samples of each
SMALL: dict[str, dict[str, Any]] = {
    "best_of_n": {"rows": 48}, "conditional": {"x_samples": 4}, "gibbs": {"x_samples": 4, "sweeps": 2}, "jm2d": {"x_samples": 4},
    "jm2d_pathwise": {"x_samples": 4}, "steered": {"particles": 4},
}


def draw(method: str, problem: PairProblem, **settings: Any) -> None:
    """One sample of ``method`` in small."""
    denoiser = MixtureDenoiser([[0.0]], 0.35)
    make_sampler({"method": method, **SMALL.get(method, {}), **settings}).sample(
        problem, denoiser, generator=torch.Generator().manual_seed(0)
    )


def broken(**parts: Any) -> PairProblem:
    """The Gaussian closed form with some of its methods replaced."""
    problem, _ = gaussian()
    for name, part in parts.items():
        setattr(problem, name, part)
    return problem


@pytest.mark.parametrize("method", [n for n in sampler_names() if n != "policy"])
@pytest.mark.parametrize(
    ("prior", "said"),
    [
        (lambda k: torch.full(k.shape[:-1], math.nan), "NaN or"), (lambda k: torch.full(k.shape[:-1], math.inf), "NaN or"),
        (lambda k: torch.zeros(3), r"log_prior_k\): shape \(3,\)"),
    ],
)
def test_a_prior_that_is_no_density_is_named(method: str, prior: Any, said: str) -> None:
    with pytest.raises(PotentialError, match=said):
        draw(method, broken(log_prior_k=prior))


@pytest.mark.parametrize("method", ["best_of_n", "conditional", "gibbs", "steered", "dpcc"])
@pytest.mark.parametrize("value", [math.nan, None])
def test_draws_of_k_are_checked(method: str, value: float | None) -> None:
    shape = {True: lambda n: (n,), False: lambda n: (n, 1)}[value is None]
    problem = broken(sample_k=lambda n, generator: torch.full(shape(n), value or 0.0, dtype=torch.float64))
    with pytest.raises(PotentialError, match=r"prior \(sample_k\)"):
        draw(method, problem)


@pytest.mark.parametrize("method", ["best_of_n", "steered"])
@pytest.mark.parametrize(
    "guess", [lambda e: torch.full((e.n, 1), math.nan), lambda e: torch.zeros(e.n, 3), lambda e: torch.zeros(1)],
    ids=["nan", "wide", "one"],
)
def test_a_guess_of_k_is_checked(method: str, guess: Any) -> None:
    with pytest.raises(PotentialError, match=r"guess \(guess_k\)"):
        draw(method, broken(guess_k=guess))


@pytest.mark.parametrize(
    ("log_potential", "error", "said"),
    [
        (lambda x, k: (x.sum((1, 2))[:, None] + k.sum(-1)) * math.nan, PotentialError, r"log_potential\): NaN or"),
        (lambda x, k: (x.sum((1, 2))[:, None] + k.sum(-1)) * 0.0 + math.inf, PotentialError, r"log_potential\): NaN or"),
        (lambda x, k: x.sum((1, 2)), PotentialError, r"log_potential\): shape \(4,\)"),
        (lambda x, k: (x - x.detach()).sum((1, 2)).abs().sqrt()[:, None] + 0.0 * k.sum(-1), InputError, "gradient of log V"),
    ],
    ids=["nan", "inf", "shape", "infinite slope"],
)
def test_a_differentiable_potential_is_checked(log_potential: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        draw("jm2d_pathwise", broken(log_potential=log_potential))


@pytest.mark.parametrize("onto", [lambda x: x * math.nan, lambda x: x[..., :0], lambda x: torch.zeros(1, 1, 5)])
@pytest.mark.parametrize(("method", "settings"), [("pdm", {}), ("jm2d", {"project": True})])
def test_a_projection_is_checked(method: str, settings: dict[str, Any], onto: Any) -> None:
    with pytest.raises(InputError, match=f"{method}: projection"):
        draw(method, broken(project=onto), **settings)


@pytest.mark.parametrize(
    "cost", [lambda x: x.sum(), lambda x: x.detach().sum((1, 2)), lambda x: x.sum((1, 2)) * 0.0 + math.inf],
    ids=["scalar", "detached", "inf"],
)
def test_a_guiding_cost_is_checked(cost: Any) -> None:
    with pytest.raises(InputError, match=r"mpd: cost \(guidance\)"):
        draw("mpd", broken(guidance=cost))


def test_a_grid_that_is_none_is_named() -> None:
    with pytest.raises(PotentialError, match="a Tensor, expected a PotentialGrid"):
        draw("jm2d", broken(grid=lambda e, k: torch.zeros(e.n, len(k))))


@pytest.mark.parametrize("method", ["policy", "jm2d", "steered", "sequential", "mpd"])
def test_weights_of_another_task_are_refused(method: str) -> None:
    problem, policy = DonutScene(4, 0).problem(), load_policy()
    for denoiser in (policy, Respaced(policy, 8)):
        with pytest.raises(InputError, match=r"DonutPath asks for chunks \(2, 2\).*made for \(32, 2\).*another task"):
            make_sampler({"method": method}).sample(problem, denoiser, generator=torch.Generator().manual_seed(0))


def test_a_maze_is_asked_for_goals_that_can_be_reached() -> None:
    policy, rng = load_policy(), np.random.default_rng(0)
    state = MazeWorld().reset(np.array([0.8, 0.8]))
    for goal, said in (
        (np.array([100.0, 100.0]), "in a wall or outside"), (np.array([2.8, 0.8]), "in a wall or outside"),
        (np.zeros(3), "expected"), (np.array([math.nan, 1.0]), "expected"),
    ):
        with pytest.raises(InputError, match=said):
            MazeProblem.make(MazeConfig(), state, goal, policy, rng)
    problem = MazeProblem.make(MazeConfig(), state, np.array([1.8, 0.8]), policy, rng)
    problem.cond = torch.full_like(problem.cond, math.nan)
    with pytest.raises(InputError, match="conditioning"):
        make_sampler({"method": "policy"}).sample(problem, policy, generator=torch.Generator().manual_seed(0))
