"""The point maze against MuJoCo, shapely, SciPy and plain loops: geometry, physics, demonstrations, potential, episodes."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import shortest_path
from shapely.geometry import LineString, Point, box
from shapely.ops import unary_union

from tandem.core.config import from_dict
from tandem.core.errors import ConfigError, InputError
from tandem.core.types import Counters
from tandem.diffusion.problem import PotentialGrid, checked
from tandem.diffusion.result import Candidates, SampleResult
from tandem.diffusion.samplers import Sampler, make_sampler
from tandem.diffusion.weights import read_manifest
from tandem.tasks.maze import problem as problem_module
from tandem.tasks.maze.demonstrations import DemonstrationConfig, demonstrate
from tandem.tasks.maze.episode import APART, SUCCESS_RADIUS, WIDEST, Backup, Task, draw_task, play
from tandem.tasks.maze.layout import HALF, cell_at, centre, clearance, free_cells, wall_boxes, way
from tandem.tasks.maze.physics import (
    CONTACT_MARGIN,
    DT,
    MASS,
    RADIUS,
    SPEED,
    TOP_SPEED,
    MazeWorld,
    State,
    control_for,
    rollout,
)
from tandem.tasks.maze.problem import BACKUPS, TRACKING, MazeConfig, MazeProblem
from tandem.tasks.maze.train import COND_DIM, HORIZON, encode, load_policy, run, weights_path, windows

Array = NDArray[np.float64]
SEEDS = st.integers(0, 2**32 - 1)


def free_point(rng: np.random.Generator, padding: float = 0.0) -> Array:
    """A place whose ball is clear of walls grown by ``padding``."""
    while True:
        cell = free_cells()[rng.integers(len(free_cells()))]
        p = centre(cell) + rng.uniform(-HALF, HALF, 2)
        if clearance(np.stack([p, p]), padding, RADIUS)[0] > 0.01:
            return p


def make(state: State, padding: float = 0.0, seed: int = 0, **config: Any) -> MazeProblem:
    """A plan's problem without a policy."""
    settings_ = MazeConfig(padding=padding, **config)
    return MazeProblem(settings_, state, np.array([1.0, 1.0]), torch.zeros(COND_DIM), np.random.default_rng(seed))


# --- geometry -----------------------------------------------------------------------------------------------------------------
@given(seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_clearance_is_shapelys_distance_of_each_piece(seed: int) -> None:
    rng = np.random.default_rng(seed)
    path, padding = rng.uniform(0.0, 7.0, (6, 2)), rng.choice([0.0, 0.1, 0.25])
    path[3] = path[2]  # a piece of no length
    path[5, 0] = path[4, 0]
    walls = unary_union([box(*b).buffer(0).envelope for b in wall_boxes() + padding * np.array([-1.0, -1.0, 1.0, 1.0])])
    want = [LineString(path[i : i + 2]).distance(walls) - RADIUS for i in range(5)]
    np.testing.assert_allclose(clearance(path, padding, RADIUS), want, atol=1e-9)


def test_walls_are_those_that_the_simulator_has() -> None:
    world, rng = MazeWorld(), np.random.default_rng(0)
    met = 0
    for _ in range(400):
        cell = free_cells()[rng.integers(len(free_cells()))]
        p = centre(cell) + rng.uniform(-HALF, HALF, 2)
        gap = clearance(np.stack([p, p]), 0.0, RADIUS)[0]
        if gap < -1e-3:
            with pytest.raises(InputError, match="lies in a wall"):
                world.reset(p)
        elif gap > 0.0:
            world.reset(p)
            assert world.touched == (gap < CONTACT_MARGIN)
            met += world.touched
    for gap in (0.001, 0.003):
        world.reset(np.array([centre((1, 1))[0] - HALF + RADIUS + gap, centre((1, 1))[1]]))
        assert world.touched == (gap < CONTACT_MARGIN)


def test_ways_are_shortest_and_bad_cells_are_named() -> None:
    cells = free_cells()
    near = [[float(abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1) for b in cells] for a in cells]
    steps = shortest_path(csr_matrix(np.array(near)), unweighted=True)
    for i, a in enumerate(cells):
        for j, b in enumerate(cells):
            found = way(a, b)
            assert len(found) - 1 == steps[i, j] and found[0] == a and found[-1] == b
            assert all(abs(p[0] - q[0]) + abs(p[1] - q[1]) == 1 for p, q in itertools.pairwise(found))
    assert all(cell_at(centre(c) + np.array([0.49, -0.49])) == c for c in cells)
    with pytest.raises(InputError, match=r"goal cell \(0, 0\)"):
        way((1, 1), (0, 0))


# --- physics ------------------------------------------------------------------------------------------------------------------
def test_rollouts_are_the_simulators_own_steps_with_speeds_that_are_cut() -> None:
    world, rng = MazeWorld(), np.random.default_rng(1)
    start = State(centre((1, 1)), np.array([5.2, 0.3]))
    u = rng.uniform(-1.5, 1.5, (25, 2))
    u[:10, 0] = 1.0
    s = world.reset(start.p, start.v)
    p, v = rollout(start.p, start.v, u[None])
    for n in range(25):
        s = world.step(u[n])
        np.testing.assert_allclose(p[0, n + 1], s.p, atol=1e-12)
        np.testing.assert_allclose(v[0, n + 1], s.v, atol=1e-12)
    assert not world.touched and SPEED < v.max() <= TOP_SPEED + 1e-12
    assert float(world._m.body_mass[1]) == pytest.approx(MASS) and world._m.opt.integrator == mujoco.mjtIntegrator.mjINT_EULER


def test_control_for_makes_the_wanted_speed() -> None:
    world, rng = MazeWorld(), np.random.default_rng(2)
    for _ in range(50):
        v, wanted = rng.uniform(-5.2, 5.2, 2), None
        wanted = np.clip(v, -SPEED, SPEED) + rng.uniform(-0.2, 0.2, 2)
        world.reset(centre((2, 5)), v)
        np.testing.assert_allclose(world.step(control_for(v, wanted)).v, wanted, atol=1e-12)


# --- demonstrations -----------------------------------------------------------------------------------------------------------
def test_demonstrations_reach_their_goal_by_the_controllers_law_and_are_the_same_again() -> None:
    world, config = MazeWorld(), DemonstrationConfig(seed=3)
    found = [d for d in (demonstrate(world, config, n, HORIZON) for n in range(12)) if d is not None]
    assert len(found) == 12 and sum(not d.touched for d in found) >= 8
    for d in found:
        assert np.linalg.norm(d.p[-HORIZON] - d.goal) < 0.2 and np.abs(d.u).max() <= 1.0 and len(d.p) == len(d.u) + 1
        aim = d.p[-2] + 0.1 * (d.u[-1] + d.v[-2])  # the law solved for its waypoint, where the control is not cut
        if np.abs(d.u[-1]).max() < 1.0:
            np.testing.assert_allclose(aim, d.goal, atol=1e-12)
    again = demonstrate(MazeWorld(), config, 5, HORIZON)
    assert again is not None and np.array_equal(again.p, found[5].p)
    x, cond = windows(found)
    assert x.shape[1:] == (HORIZON, 2) and cond.shape == (len(x), COND_DIM)
    last = len(found[0].u) - HORIZON
    np.testing.assert_allclose(x[last].numpy(), found[0].u[last:], atol=1e-7)
    np.testing.assert_allclose(cond[last, :6].numpy(), [*found[0].p[last], *found[0].v[last], *found[0].goal], atol=1e-6)


def test_encoding_tells_the_place_within_the_cell() -> None:
    at = encode(centre((3, 4)) + np.array([0.25, 0.0]), np.zeros(2), np.ones(2))
    np.testing.assert_allclose(at[6:], [1.0, 0.0, 0.0, 1.0], atol=1e-6)


# --- potential ----------------------------------------------------------------------------------------------------------------
def test_cost_is_the_mean_squared_distance_of_backup_and_tail_and_the_guess_minimises_it() -> None:
    rng = np.random.default_rng(4)
    state = State(centre((2, 5)), np.array([0.6, -0.4]))
    problem = make(state)
    x = torch.from_numpy(rng.uniform(-0.3, 0.3, (5, HORIZON, 2)))
    e = problem.evaluate(x)
    k = torch.from_numpy(rng.uniform(-1.0, 1.0, (7, 2)))
    grid = checked(problem.grid(e, k), (5, 7), "grid")
    assert bool(grid.feasible.any())

    def cost(n: int, a: Array) -> float:
        """By stepping the backup finely."""
        p, v, off, t = e.p[n, 5].copy(), e.v[n, 5].copy(), [], 0.0
        for j in range(HORIZON - 5):
            for _ in range(100):
                h = DT / 100
                p, v, t = p + h * (v + 0.5 * h * a), v + h * a, t + h
            off.append((p - e.p[n, 6 + j]) ** 2)
        return float(np.mean(off))

    for n in range(5):
        for j in range(7):
            if bool(grid.feasible[n, j]):
                assert float(grid.cost[n, j]) == pytest.approx(cost(n, 7.5 * k[j].numpy()), rel=1e-6)
                assert float(grid.log_v[n, j]) == pytest.approx(-float(grid.cost[n, j]) / problem.config.temperature)
        best = minimize(lambda a, n=n: cost(n, a), np.zeros(2), method="L-BFGS-B", bounds=[(-7.5, 7.5)] * 2)
        guess = 7.5 * problem.guess_k(e)[n].numpy()
        assert cost(n, guess) <= best.fun + 1e-12 and np.abs(guess).max() <= 7.5
        np.testing.assert_allclose(guess, best.x, atol=0.1)


@pytest.mark.parametrize("name", list(BACKUPS))
def test_degraded_backups_choose_k_from_their_part_of_the_box(name: str) -> None:
    problem = make(State(centre((2, 5)), np.zeros(2)), backup=name)
    low, high = BACKUPS[name]
    a = problem.acceleration(problem.sample_k(500, torch.Generator().manual_seed(0)))
    assert (a >= np.array(low)).all() and (a <= np.array(high)).all() and np.ptp(a, axis=0).min() > 0.9 * (high[0] - low[0])
    np.testing.assert_allclose(problem.acceleration(problem.normalised(a)), a, atol=1e-9)


def test_optimised_backup_is_nearly_the_best_of_a_dense_grid_and_infeasible_heads_have_none() -> None:
    rng = np.random.default_rng(5)
    line = torch.linspace(-1.0, 1.0, 81, dtype=torch.float64)
    compared = 0
    for _ in range(25):
        problem = make(State(free_point(rng, 0.1), rng.uniform(-3.0, 3.0, 2)), padding=0.1)
        e = problem.evaluate(torch.from_numpy(rng.uniform(-1.0, 1.0, (1, HORIZON, 2))))
        grid = problem.grid(e, torch.cartesian_prod(line, line))
        k, cost, ok = problem.optimise_k(e, 0)
        least = float(grid.cost.min())
        if np.isfinite(least):
            assert ok and cost <= least + 1e-4
            own = problem.pairs(e, k[None, None])
            assert bool(own.feasible[0, 0]) and float(own.cost[0, 0]) == pytest.approx(cost, rel=1e-9)
            compared += 1
        elif ok:
            assert bool(problem.pairs(e, k[None, None]).feasible[0, 0])  # between the grid's points
    assert compared > 8


_WORLD = MazeWorld()


def _played(problem: MazeProblem, x: torch.Tensor, k: torch.Tensor) -> tuple[Array, bool, float]:
    """Path in the simulator of a head and its whole backup, whether it touched, and how far it was from the backup's parabola."""
    world, execute = _WORLD, problem.config.execute
    s = world.reset(problem.state.p, problem.state.v)
    path = [s.p]
    for n in range(execute):
        s = world.step(x[n].numpy())
        path.append(s.p)
    start, backup = s, Backup(problem.family, s.p, s.v, problem.acceleration(k))
    for _ in range(110):
        s = world.step(backup.control(s))
        path.append(s.p)
    fine = np.linspace(0.0, 1.0, 2001)
    f = problem.family.basis(fine)
    want = np.outer(f[0], start.p) + np.outer(f[1], start.v) + np.outer(f[2], problem.acceleration(k))
    ticks = DT * np.arange(111)
    got = np.stack([np.interp(fine, ticks, np.array(path[execute:])[:, d]) for d in range(2)], axis=1)
    return np.array(path), world.touched, float(np.linalg.norm(got - want, axis=1).max())


@given(seed=SEEDS, padding=st.sampled_from([0.0, 0.1, 0.2]))
@settings(max_examples=25, deadline=None)
def test_certified_pairs_keep_clear_when_they_are_played_and_end_at_rest(seed: int, padding: float) -> None:
    rng = np.random.default_rng(seed)
    problem = make(State(free_point(rng, padding), rng.uniform(-5.2, 5.2, 2)), padding=padding)
    x = torch.from_numpy(rng.uniform(-1.0, 1.0, (20, HORIZON, 2)))
    k = problem.sample_k(60, torch.Generator().manual_seed(seed)).double()
    e = problem.evaluate(x)
    grid = problem.grid(e, k)
    pairs = grid.feasible.nonzero()
    tightest = pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed))[:6]]
    for n, j in tightest.tolist():
        assert problem.certified(x[n], k[j])
        path, touched, off = _played(problem, x[n], k[j])
        assert not touched and clearance(path, padding, RADIUS).min() > 0.0 and off < TRACKING
        assert np.linalg.norm(path[-1] - path[-5]) < 1e-9


def _violations(seed: int) -> int:
    """Certified pairs that meet a padded wall when they are played, from one state that rushes about."""
    rng = np.random.default_rng([seed, 1])
    problem = make(State(free_point(rng, 0.1), rng.uniform(-5.0, 5.0, 2)), padding=0.1)
    x = torch.from_numpy(rng.choice([-1.0, 1.0], (6, 1, 2)).repeat(HORIZON, 1))
    k = problem.sample_k(200, torch.Generator().manual_seed(seed)).double()
    grid = problem.grid(problem.evaluate(x), k)
    fine = [(n, int(j)) for n in range(6) for j in grid.feasible[n].nonzero().flatten()[:2]]
    return sum(int(clearance(_played(problem, x[n], k[j])[0], 0.1, RADIUS).min() < 0.0) for n, j in fine)


def test_mutation_walls_that_do_not_grow_enough_let_violations_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem_module, "RADIUS", 0.05)
    assert any(_violations(seed) for seed in range(25))


def test_a_head_that_dips_into_a_wall_and_comes_back_is_not_certified() -> None:
    corner = centre((1, 1)) - HALF + RADIUS
    state = State(corner + np.array([0.0045, 0.3]), np.array([-0.5, 0.0]))
    x, k = torch.ones((HORIZON, 2)), torch.zeros(2)
    x[:, 1] = 0.0
    problem = make(state)
    heads = problem.evaluate(x[None])
    p = heads.p[0, :6]
    assert p[:, 0].min() < corner[0] + CONTACT_MARGIN < p[4:, 0].min()
    assert not problem.certified(x, k)
    unchecked = dataclasses.replace(heads, clear=np.ones(1, dtype=bool))
    assert bool(problem.pairs(unchecked, k[None, None]).feasible[0, 0])  # the last piece and the backup alone are clear


def test_tightened_problems_certify_less_and_bad_states_are_refused() -> None:
    rng = np.random.default_rng(8)
    problem = make(State(free_point(rng, 0.1), np.array([1.0, 0.5])), padding=0.1)
    x, k = torch.from_numpy(rng.uniform(-1.0, 1.0, (10, HORIZON, 2))), problem.sample_k(80, torch.Generator().manual_seed(0))
    plain, tight = (p.grid(p.evaluate(x), k).feasible for p in (problem, problem.tightened(0.05)))
    assert bool((tight <= plain).all()) and int(tight.sum()) < int(plain.sum())
    with pytest.raises(InputError, match="finite"):
        make(State(np.array([np.nan, 0.0]), np.zeros(2)))
    with pytest.raises(ConfigError, match="backup"):
        from_dict(MazeConfig, {"backup": "+x"}, "maze")


# --- episodes -----------------------------------------------------------------------------------------------------------------
def test_tasks_are_seeded_apart_clear_and_within_reach() -> None:
    for n in range(60):
        task = draw_task(1000, n)
        assert len(way(cell_at(task.start), cell_at(task.goal))) > APART
        assert clearance(np.stack([task.start, task.start]), WIDEST, RADIUS)[0] > 0.0
        walls = unary_union([box(*b) for b in wall_boxes() + WIDEST * np.array([-1.0, -1.0, 1.0, 1.0])]).buffer(RADIUS)
        assert Point(task.goal).buffer(SUCCESS_RADIUS).difference(walls).area > 0.0
    assert np.array_equal(draw_task(1000, 3).goal, draw_task(1000, 3).goal)
    assert not np.array_equal(draw_task(1000, 3).goal, draw_task(1001, 3).goal)


class _Liar(Sampler[Any]):
    """Runs straight on and claims that it is feasible."""

    name, config_type = "liar", dict

    def __init__(self) -> None:
        super().__init__({})

    def network_rows(self, steps: int) -> int:
        """None."""
        return 0

    def _sample(self, run: Any) -> SampleResult:
        x, k = torch.ones((HORIZON, 2)), torch.zeros(2)
        none = Candidates(x[None], k[None], torch.ones(1, dtype=torch.bool), torch.zeros(1))
        return SampleResult(x, k, True, 0.0, none, True, True, Counters())


class _Scripted(_Liar):
    """Plays given controls (T, 2), then none, whatever the state."""

    def __init__(self, u: Array) -> None:
        super().__init__()
        self._u = torch.from_numpy(np.concatenate([u, np.zeros((HORIZON, 2))]))

    def _sample(self, run: Any) -> SampleResult:
        x, self._u = self._u[:HORIZON], torch.cat([self._u[MazeConfig().execute :], torch.zeros((HORIZON, 2))])
        return dataclasses.replace(super()._sample(run), x=x)


@pytest.mark.parametrize(("padding", "gap", "touched", "violated"), [
    (0.1, 0.003, False, True), (0.1, 0.006, False, False), (0.0, 0.103, False, False), (0.0, 0.006, True, True),
])
def test_an_episode_is_judged_by_padded_walls_at_every_step(padding: float, gap: float, touched: bool, violated: bool) -> None:
    """To a wall by 4.8 mm and back within one plan: at the plan's ends the ball is where it was."""
    u = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, -1.0, 0.0, 1.0])[:, None] * np.array([0.0, -1.0])
    start = centre((1, 1)) + np.array([0.0, -HALF + RADIUS + padding + gap])
    o = play(_Scripted(u), load_policy(), MazeConfig(padding=padding), Task(start, centre((6, 6))), 0, False, longest=15)
    assert (o.touched, o.violated) == (touched, violated)
    assert o.clearance == pytest.approx(gap - 0.00476, abs=2e-4 if touched else 1e-5)  # contacts push back
    assert touched or np.abs(o.path[::5] - start).max() < 1e-4


@pytest.mark.parametrize(("least", "violated"), [(-0.002, True), (0.002, False)])
def test_an_episode_is_judged_between_its_steps(least: float, violated: bool) -> None:
    """Past the corner of a padded wall at 6 m/s: it comes nearest in the middle of a step, whose ends are clear."""
    u, padding = np.ones((20, 2)), 0.1
    free, _ = rollout(np.zeros(2), np.zeros(2), u[None])
    corner = centre((2, 3)) + (HALF + padding) * np.array([1.0, -1.0])
    start = corner + (RADIUS + least) * np.array([1.0, -1.0]) / np.sqrt(2.0) - 0.5 * (free[0, 17] + free[0, 18])
    o = play(_Scripted(u), load_policy(), MazeConfig(padding=padding), Task(start, centre((6, 6))), 0, False, longest=20)
    assert min(clearance(np.stack([p, p]), padding, RADIUS)[0] for p in o.path) > 0.002
    assert o.violated == violated and not o.touched and o.clearance == pytest.approx(least, abs=1e-9)


@pytest.mark.parametrize(("away", "reached"), [(0.19, True), (0.21, False)])
def test_the_goal_is_reached_within_20_cm_and_10_s(away: float, reached: bool) -> None:
    start = centre((2, 5))
    o = play(_Scripted(np.zeros((0, 2))), load_policy(), MazeConfig(), Task(start, start + np.array([0.0, away])), 0, False)
    assert o.reached == reached and len(o.backup) == (1 if reached else 1000) and not o.violated


def test_the_filter_believes_no_sampler() -> None:
    task, policy = Task(centre((2, 5)), centre((6, 6))), load_policy()
    free = play(_Liar(), policy, MazeConfig(), task, 0, filtered=False, longest=150)
    kept = play(_Liar(), policy, MazeConfig(), task, 0, longest=150)
    assert free.violated and free.touched and not free.backup.any()
    assert not kept.violated and kept.refused > 0 and kept.backup.any() and kept.clearance > 0.0
    np.testing.assert_allclose(kept.path[-1], kept.path[-2], atol=1e-9)  # it came to rest


@pytest.mark.parametrize("method", ["sequential", "steered", "jm2d"])
def test_filtered_episodes_are_safe_and_the_same_again(method: str) -> None:
    few: dict[str, dict[str, Any]] = {
        "sequential": {}, "steered": {"particles": 16}, "jm2d": {"x_samples": 6, "k_samples": 16, "clean": "steps"},
    }
    sampler = make_sampler({"method": method, **few[method]})
    config, task = MazeConfig(padding=0.2), draw_task(1000, 1)
    a, b = (play(sampler, load_policy(), config, task, 4, longest=50) for _ in range(2))
    assert np.array_equal(a.path, b.path) and not a.violated and a.refused == 0
    assert len(a.plan_ms) == len(a.rows) == -(-len(a.backup) // config.execute) and a.rows[0] == sampler.network_rows(16)


def test_every_chunk_is_weighed_alone() -> None:
    rng = np.random.default_rng(9)
    problem = make(State(free_point(rng, 0.05), np.array([2.0, -1.0])), padding=0.05)
    x, k = torch.from_numpy(rng.uniform(-1.0, 1.0, (8, HORIZON, 2))), torch.from_numpy(rng.uniform(-1.0, 1.0, (9, 2)))
    whole = problem.grid(problem.evaluate(x), k)
    for n in range(8):
        one = problem.grid(problem.evaluate(x[n : n + 1]), k)
        own = problem.pairs(problem.evaluate(x[n : n + 1]), k[None])
        for f in dataclasses.fields(PotentialGrid):
            assert torch.equal(getattr(one, f.name)[0], getattr(whole, f.name)[n])
            assert torch.equal(getattr(own, f.name)[0], getattr(whole, f.name)[n])


# --- weights ------------------------------------------------------------------------------------------------------------------
def test_shipped_weights_are_small_and_training_is_reproducible(tmp_path: Any) -> None:
    assert weights_path().stat().st_size < 5_000_000
    assert read_manifest(weights_path())["notes"]["task"] == "maze"
    few = DemonstrationConfig(episodes=4)
    a, b = (run(tmp_path / f"{n}.safetensors", steps=2, config=few) for n in range(2))
    assert a.read_bytes() == b.read_bytes()
    with pytest.raises(InputError, match=r"\.safetensors"):
        run(tmp_path / "maze.pt", steps=1, config=few)
    with pytest.raises(ConfigError, match="made for"):
        load_policy(weights=weights_path().with_name("donut.safetensors"))
