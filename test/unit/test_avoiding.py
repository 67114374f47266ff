"""The Avoiding task against plain computations: geometry, response, arm, demonstrations, problem, and D3IL's files."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import os
import pickle
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.interpolate import PchipInterpolator
from typer.testing import CliRunner

from tandem.cli import lazy, main
from tandem.core.config import from_dict
from tandem.core.errors import ConfigError, InputError
from tandem.core.paths import share_dir
from tandem.diffusion.denoiser import NetworkDenoiser, Normaliser
from tandem.diffusion.networks import MLPConfig, ResidualMLP
from tandem.diffusion.problem import checked
from tandem.diffusion.samplers import make_sampler
from tandem.diffusion.schedules import ScheduleConfig, make_schedule
from tandem.diffusion.weights import read_manifest
from tandem.tasks.avoiding import demonstrations as demos
from tandem.tasks.avoiding.ahead import WayAhead
from tandem.tasks.avoiding.arm import ROD_RADIUS, AvoidingArm, Response
from tandem.tasks.avoiding.config import MODES, SceneConfig, load_avoiding_config, mode
from tandem.tasks.avoiding.d3il import convert
from tandem.tasks.avoiding.dataset import blends, usable, windows
from tandem.tasks.avoiding.practice import Rollouts, contacts, corrections, rollouts, successes
from tandem.tasks.avoiding.problem import ACTUAL, MOVE, TEMPERATURE, AvoidingProblem
from tandem.tasks.avoiding.rest import RestMotion
from tandem.tasks.avoiding.rollout import DRAWS, Episode, play
from tandem.tasks.avoiding.scene import Scene
from tandem.tasks.avoiding.train import BESIDE, IMPORTED, SCRIPTED_WEIGHTS, load_policy

SETTINGS = load_avoiding_config()


def scene(name: str, margin: float = 0.0) -> Scene:
    """A scene of the configuration."""
    return Scene(SETTINGS.scene(name), SETTINGS, margin)


@pytest.fixture(scope="module")
def scripted() -> list[np.ndarray]:
    """One demonstration of each way."""
    return demos.scripted(MODES, 3, SETTINGS)


@pytest.fixture(scope="module")
def denoiser() -> NetworkDenoiser:
    """An untrained network of the task's sizes, normalised to the scene's extent."""
    torch.manual_seed(0)
    network = ResidualMLP(8, 6, 4, MLPConfig(width=16, blocks=1, embedding=8))
    place, reach = torch.tensor([0.52, 0.05, 0.52, 0.05, 0.0, 0.006]), torch.tensor([0.25, 0.35, 0.25, 0.35, 0.0125, 0.0065])
    x = Normaliser(place.double(), reach.double())
    return NetworkDenoiser(network, make_schedule(ScheduleConfig("cosine", 5)), "x0", x, Normaliser(x.centre[:4], x.scale[:4]))


def chunks(count: int, seed: int = 0) -> torch.Tensor:
    """(count, 8, 6) smooth-ish paths all over the scene."""
    g = torch.Generator().manual_seed(seed)
    start = torch.tensor([0.35, -0.2]) + torch.rand((count, 1, 2), generator=g) * torch.tensor([0.35, 0.45])
    move = 0.02 * torch.randn((count, 8, 2), generator=g)
    at = start + move.cumsum(1)
    return torch.cat([at + 0.01, at, move], dim=-1)


@pytest.mark.parametrize("name", ["top_left", "top_right", "both", "cluttered", "direct"])
def test_a_scene_forbids_what_its_circles_and_lines_say(name: str) -> None:
    config, points = SETTINGS.scene(name), torch.rand((4000, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    points = torch.tensor([0.2, -0.3]) + points * torch.tensor([0.6, 0.65])
    distance = scene(name).distance(points)
    assert distance.shape == (4000, len(config.circles) + len(config.lines))
    for n, (x, y) in enumerate(points.tolist()):
        for m, (cx, cy, r) in enumerate(config.circles):
            assert float(distance[n, m]) == pytest.approx(math.hypot(x - cx, y - cy) - r, abs=1e-9)
        for m, (ax, ay, bx, by) in enumerate(config.lines, start=len(config.circles)):
            # the same side as the start: DPCC's lines are written x(y) here
            edge = ax + (y - ay) / (by - ay) * (bx - ax)
            at_start = SETTINGS.start[0] - (ax + (SETTINGS.start[1] - ay) / (by - ay) * (bx - ax))
            assert (float(distance[n, m]) > 0.0) == ((x - edge) * at_start > 0.0)


def test_swept_distance_is_the_least_over_a_finely_sampled_path_and_finer_than_its_corners() -> None:
    s = scene("cluttered")
    path = chunks(60)[..., ACTUAL:MOVE].double()
    swept = s.swept(path)
    t = torch.linspace(0.0, 1.0, 400, dtype=torch.float64)[:, None]
    for n in range(60):
        for h in range(7):
            dense = s.distance(path[n, h] + t * (path[n, h + 1] - path[n, h])).amin(0)
            assert torch.allclose(swept[n, h], dense, atol=2e-4) and bool((swept[n, h] <= dense + 1e-12).all())
    corners = torch.minimum(s.distance(path)[:, :-1], s.distance(path)[:, 1:])
    assert bool((swept < corners - 1e-3).any())  # corners alone would miss this


def test_pillars_among_the_constraints_are_where_the_rod_would_touch() -> None:
    s = scene("top_left")
    more = s.with_pillars().tightened(0.002)
    points = torch.rand((40, 2), dtype=torch.float64) * 0.6
    free = [min(math.hypot(x - a, y - b) - r for a, b, r in SETTINGS.pillars) - ROD_RADIUS for x, y in points.tolist()]
    want = torch.minimum(s.distance(points).amin(-1), torch.tensor(free, dtype=torch.float64)) - 0.002
    assert torch.allclose(more.distance(points).amin(-1), want)
    assert more.count == s.count + len(SETTINGS.pillars) and s.count == 2, "the scene itself stays as it was"


def test_bad_scenes_are_refused_with_what_is_wrong() -> None:
    def made(**parts: object) -> Scene:
        return Scene(from_dict(SceneConfig, {"name": "bad", **parts}), SETTINGS)

    with pytest.raises(InputError, match=r"start .* violates circles\[0\]"):
        made(circles=[[0.53, -0.27, 0.05]])
    with pytest.raises(InputError, match="no free way"):
        made(lines=[[0.0, 0.2, 1.0, 0.2]])
    with pytest.raises(InputError, match="no free way"):
        made(circles=[[0.2, 0.0, 0.2], [0.5, 0.0, 0.2], [0.8, 0.0, 0.2]])
    with pytest.raises(ConfigError, match=r"circles\[0\]: radius"):
        made(circles=[[0.4, 0.0, -0.1]])
    with pytest.raises(ConfigError, match="two points are the same"):
        made(lines=[[0.4, 0.0, 0.4, 0.0]])
    with pytest.raises(ConfigError, match="accepted: 4"):
        made(lines=[[0.4, 0.0, 0.4]])
    with pytest.raises(ConfigError, match="top_left"):
        SETTINGS.scene("top")


def test_response_is_the_solution_of_its_differential_equation() -> None:
    rng = np.random.default_rng(0)
    desired = np.array(SETTINGS.start) + np.cumsum(rng.uniform(-0.01, 0.01, (12, 2)), axis=0)
    got = Response(SETTINGS).play(desired)
    for axis in range(2):
        k, c, f = SETTINGS.stiffness[axis], SETTINGS.damping[axis], SETTINGS.feedforward[axis]
        state = np.array([desired[0, axis], 0.0])
        for n in range(11):
            rate = (desired[n + 1, axis] - desired[n, axis]) / SETTINGS.dt

            state = solve_ivp(
                lambda t, s, d0, r, k, c, f: [s[1], k * (d0 + r * t - s[0]) + c * (f * r - s[1])], (0.0, SETTINGS.dt), state,
                args=(desired[n, axis], rate, k, c, f), rtol=1e-10, atol=1e-12,
            ).y[:, -1]
            assert got[n + 1, axis] == pytest.approx(state[0], abs=1e-8)


def test_arm_follows_the_response_in_its_plane_and_repeats_itself(scripted: list[np.ndarray]) -> None:
    arm = AvoidingArm()
    assert np.allclose(arm.tip, SETTINGS.start, atol=5e-4)
    desired = scripted[3]
    want = Response(SETTINGS).play(desired)
    found = [arm.tip]
    for action in np.diff(desired, axis=0):
        played = arm.play(action[None])
        assert played.touched is None and played.tip.shape == (35, 2)
        assert np.abs(np.diff(np.concatenate([found[-1][None], played.tip]), axis=0)).max() < 1.5e-3  # a millisecond's way
        found.append(arm.tip)
        assert abs(float(arm.data.site("tcp").xpos[2]) - 0.12) < 0.006
        if arm.tip[1] > SETTINGS.goal_y:
            break
    assert np.abs(np.array(found) - want[: len(found)]).max() < 0.008
    assert np.allclose(arm.state[:2], desired[len(found) - 1])
    again = AvoidingArm()
    again.play(np.diff(desired, axis=0)[: len(found) - 1])
    assert np.array_equal(again.tip, arm.tip)


def test_the_rod_touches_a_pillar_when_its_axis_is_a_rods_radius_away() -> None:
    arm = AvoidingArm()
    played = arm.play(np.tile([-0.0015, 0.0125], (40, 1)))
    x, y, radius = SETTINGS.pillars[0]
    assert played.touched == "pillar0" == arm.touched
    assert math.hypot(arm.tip[0] - x, arm.tip[1] - y) == pytest.approx(radius + ROD_RADIUS, abs=1.5e-3)
    arm.reset()
    assert arm.touched is None and np.allclose(arm.tip, SETTINGS.start, atol=5e-4)
    for bad in (np.zeros(2), np.zeros((1, 3)), np.full((1, 2), np.nan)):
        with pytest.raises(InputError, match="actions"):
            arm.play(bad)


def test_scripted_demonstrations_go_all_ways_within_the_limits_and_clear_of_pillars(scripted: list[np.ndarray]) -> None:
    followed = [Response(SETTINGS).play(d) for d in scripted]
    assert len({mode(p, SETTINGS) for p in followed}) == MODES
    for desired, path in zip(scripted, followed, strict=True):
        step = np.diff(desired, axis=0)
        assert (step >= np.array(SETTINGS.action_low) - 1e-12).all() and (step <= np.array(SETTINGS.action_high) + 1e-12).all()
        assert path[-1, 1] > SETTINGS.goal_y and np.allclose(desired[0], SETTINGS.start)
        dense = np.concatenate([a + np.linspace(0, 1, 30)[:, None] * (b - a) for a, b in itertools.pairwise(path)])
        for x, y, radius in SETTINGS.pillars:
            assert np.hypot(dense[:, 0] - x, dense[:, 1] - y).min() > radius + ROD_RADIUS
    again = demos.scripted(3, 3, SETTINGS)
    assert all(np.array_equal(a, b) for a, b in zip(again, scripted, strict=False))


def test_way_counts_gaps_from_the_left_and_is_none_for_half_a_path() -> None:
    def path(*xs: float) -> np.ndarray:
        return np.array([[0.525, -0.28], [xs[0], -0.1], [xs[1], 0.08], [xs[2], 0.26], [xs[2], 0.4]])

    assert mode(path(0.4, 0.3, 0.3), SETTINGS) == (0, 0, 0)
    assert mode(path(0.6, 0.5, 0.58), SETTINGS) == (1, 1, 2)
    assert mode(path(0.6, 0.7, 0.7), SETTINGS) == (1, 2, 3)
    assert mode(path(0.6, 0.7, 0.7)[:3], SETTINGS) is None


def test_demonstrations_that_would_touch_are_left_out_and_blends_keep_their_way(scripted: list[np.ndarray]) -> None:
    straight = np.array(SETTINGS.start) + np.outer(np.arange(60), [-0.0015, 0.0115])
    assert demos.followed(straight, SETTINGS) is None
    kept = usable([*scripted, straight], SETTINGS)
    assert len(kept) == MODES
    mixed = blends(kept, 48, 0, SETTINGS)
    ways = {w for _, _, w in mixed}  # a way whose only demonstration here passes closer than blends may has none
    assert ways <= {w for _, _, w in kept} and len(ways) >= MODES - 2 and len(mixed) == 48
    for desired, actual, way in mixed:
        assert mode(actual, SETTINGS) == way and demos.clearance(actual, SETTINGS) > 0.0
        assert np.allclose(actual, Response(SETTINGS).play(desired))
    x, cond = windows(mixed, SETTINGS)
    assert x.shape[1:] == (8, 6) and torch.equal(cond, x[:, 0, :4])
    assert torch.allclose(x[:, 1:, :2], x[:, :-1, :2] + x[:, :-1, 4:], atol=1e-6)  # d' = d + a
    with pytest.raises(InputError, match="no demonstration"):
        windows([], SETTINGS)


def test_practice_plays_as_the_arm_would_and_goes_on_from_anywhere() -> None:
    whole = rollouts(load_policy(), 24, 5, SETTINGS)
    assert whole.desired.shape == whole.actual.shape == whole.velocity.shape and whole.desired.shape[0] == 24
    for d, p in zip(whole.desired[:4], whole.actual[:4], strict=True):
        assert np.allclose(p, Response(SETTINGS).play(d), atol=1e-9)
    step = np.diff(whole.desired, axis=1)
    assert (step >= np.array(SETTINGS.action_low) - 1e-12).all() and (step <= np.array(SETTINGS.action_high) + 1e-12).all()
    n, at = np.array([3, 3, 7]), np.array([20, 25, 30])
    later = rollouts(load_policy(), 3, 6, SETTINGS, 4, whole.at(n, at))
    for m, (k, s) in enumerate(zip(n, at, strict=True)):
        before = np.concatenate([whole.desired[k, :s], later.desired[m]])
        assert np.allclose(Response(SETTINGS).play(before)[s:], later.actual[m], atol=1e-9), "its speed is part of a state"


def test_practice_corrects_contacts_and_keeps_what_ends_well() -> None:
    ahead = np.array(SETTINGS.start) + np.outer(np.arange(60), [-0.0015, 0.0115])  # meets the first pillar
    round_it = next(p for p in usable(demos.scripted(MODES, 0, SETTINGS), SETTINGS))[1]
    length = max(len(ahead), len(round_it))
    actual = np.stack([np.pad(p, ((0, length - len(p)), (0, 0)), mode="edge") for p in (ahead, round_it, ahead[:5])])
    played = Rollouts(actual, actual, np.zeros_like(actual))
    hit = contacts(played, SETTINGS)
    assert hit[0] > 0 and (hit[1:] == -1).all()
    assert demos.clearance(ahead[: hit[0]], SETTINGS) >= 0.0 > demos.clearance(ahead[: hit[0] + 1], SETTINGS)
    good = successes(played, SETTINGS)
    assert good[0] is None and good[1] is not None and good[2] is None, "contact; goal; not there in time"

    policy = load_policy()
    found = corrections(policy, 60, 11, SETTINGS)
    assert found
    for d, p, _ in found:
        crossed = int(np.argmax(p[:, 1] > SETTINGS.goal_y))
        assert len(d) == len(p) and crossed > 0 and demos.clearance(p[: crossed + 1], SETTINGS) >= 0.006
    missed = contacts(rollouts(policy, 60, 11, SETTINGS), SETTINGS)
    assert len(found) <= 12 * (missed > 0).sum(), "three of each of four moments at most"


def test_files_of_demonstrations_round_trip_and_bad_ones_are_named(tmp_path: Path, scripted: list[np.ndarray]) -> None:
    demos.write(tmp_path / "d.npz", scripted[:3])
    assert all(np.array_equal(a, b) for a, b in zip(demos.read(tmp_path / "d.npz"), scripted, strict=False))
    np.savez(tmp_path / "ends.npz", des_c_pos=np.zeros((5, 3)), episode_ends=[2, 9])
    np.savez(tmp_path / "nan.npz", des_c_pos=np.full((5, 3), np.nan), episode_ends=[5])
    (tmp_path / "junk.npz").write_bytes(b"PK\x03\x04 nothing")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    bad = {"ends": "episode_ends", "nan": "finite", "junk": "not a file", "other": "des_c_pos", "missing": "not a file"}
    for name, match in bad.items():
        with pytest.raises(InputError, match=match):
            demos.read(tmp_path / f"{name}.npz")


def test_d3ils_pickles_are_read_and_code_in_them_is_not_run(tmp_path: Path, scripted: list[np.ndarray]) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for n, desired in enumerate(scripted[:2]):
        rows = np.column_stack([desired, np.full(len(desired), 0.12)])
        (folder / f"env_{n:03d}_00.pkl").write_bytes(pickle.dumps({"robot": {"des_c_pos": rows, "c_pos": rows, "name": "panda"}}))
    assert convert(folder, tmp_path / "d.npz") == 2
    assert all(np.array_equal(a, b) for a, b in zip(demos.read(tmp_path / "d.npz"), scripted, strict=False))
    assert convert(tmp_path / "d.npz", tmp_path / "e.npz") == 2

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    (folder / "env_009_00.pkl").write_bytes(pickle.dumps({"robot": {"des_c_pos": Evil()}}))
    with pytest.raises(InputError, match="mkdir"):
        convert(folder, tmp_path / "d.npz")
    assert not (tmp_path / "ran").exists()
    (tmp_path / "short.pkl").write_bytes(pickle.dumps({"robot": {}}))
    with pytest.raises(InputError, match="des_c_pos"):
        convert(tmp_path / "short.pkl", tmp_path / "d.npz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no \.pkl"):
        convert(tmp_path / "empty", tmp_path / "d.npz")
    with pytest.raises(InputError, match=r"\.npz"):
        convert(folder, tmp_path / "d.csv")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a checkout with this one's configuration, weights that must stay, and nothing beside it."""
    root = tmp_path / "checkout"
    (root / "models").mkdir(parents=True)
    (root / "models" / "avoiding.safetensors").write_bytes(b"shipped")
    (root / "config").symlink_to(share_dir() / "config")
    monkeypatch.setenv("TANDEM_SHARE", str(root))
    monkeypatch.chdir(root)
    return root


def tandem(*arguments: str) -> None:
    """The command line."""
    done = CliRunner().invoke(main.app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output


#: a training of no use that takes a second
FEW = ("--blended", "0", "--rounds", "0", "--steps", "1")


def test_without_demonstrations_training_says_so_and_leaves_the_shipped_weights_alone(
    checkout: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        tandem("train", "avoiding", *FEW)
    assert f"neither {IMPORTED} nor {BESIDE}" in caplog.text and f"scripted; weights go to {SCRIPTED_WEIGHTS}" in caplog.text
    assert [p.name for p in (checkout / "models").iterdir()] == ["avoiding.safetensors"]
    assert Path("models/avoiding.safetensors").read_bytes() == b"shipped"
    notes = read_manifest(SCRIPTED_WEIGHTS)["notes"]
    assert notes["origin"] == {"kind": "scripted"} and notes["demonstrations"] == 96 and "--data scripted" in notes["command"]


def test_training_takes_demonstrations_that_are_there_and_its_manifest_how_to_do_it_again(
    checkout: Path, scripted: list[np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    found, beside = Path("models/avoiding.safetensors"), checkout / BESIDE
    demos.write(beside, scripted[:8])
    seen = []
    for name, count in ((BESIDE, 8), (IMPORTED, 6)):
        with caplog.at_level(logging.INFO):
            tandem("train", "avoiding", *FEW)
        assert f"{count} demonstrations, {name}; weights go to {checkout / found}" in caplog.text
        manifest = read_manifest(found)
        notes, seen = manifest["notes"], [*seen, found.read_bytes()]
        assert manifest["weights"] == found.name and notes["demonstrations"] == count and notes["origin"]["file"] == name.name
        words = shlex.split(notes["command"])
        assert words[:5] == ["tandem", "train", "avoiding", "--data", str(name)]
        tandem(*words[1:], "--out", "again.safetensors")
        assert Path("again.safetensors").read_bytes() == seen[-1]
        demos.write(checkout.parent / "d3il.npz", scripted[:6])
        tandem("data", "import", "../d3il.npz")  # where it writes by default is looked at first
    assert seen[0] != seen[1] and not SCRIPTED_WEIGHTS.exists()
    tandem("train", "avoiding", *FEW, "--data", "scripted")
    assert SCRIPTED_WEIGHTS.exists() and found.read_bytes() == seen[1]
    spaced = checkout / "my demonstrations.npz"
    demos.write(spaced, scripted[:6])
    tandem("train", "avoiding", *FEW, "--data", spaced.name, "--out", "spaced.safetensors")
    notes = read_manifest("spaced.safetensors")["notes"]
    assert spaced.name in shlex.split(notes["command"]) and Path("spaced.safetensors").read_bytes() == seen[1]
    IMPORTED.write_bytes(b"junk")
    with pytest.raises(InputError, match="not a file"):
        tandem("train", "avoiding", *FEW)


def test_help_names_the_places_that_training_uses() -> None:
    said = " ".join(lazy.TrainGroup.options.values())
    assert all(str(place) in said for place in (IMPORTED, BESIDE, SCRIPTED_WEIGHTS))


def test_potential_is_one_exactly_where_no_sampled_point_of_the_path_violates(denoiser: NetworkDenoiser) -> None:
    s, x = scene("cluttered"), chunks(300, 4)
    state = torch.tensor([0.51, 0.0, 0.5, 0.0], dtype=torch.float64)
    problem = AvoidingProblem(s, state, denoiser)
    e = problem.evaluate(x)
    grid = checked(problem.grid(e, torch.zeros(2, 0)), (300, 2), "grid")
    t = torch.linspace(0.0, 1.0, 200, dtype=torch.float64)[:, None]
    seen = set()
    for n in range(300):
        moved = [state + (row - x[n, 0, :MOVE].double()) for row in x[n, 1:, :MOVE].double()]
        paths = (torch.stack([state[2:], *(m[part] for m in moved)]) for part in (slice(ACTUAL, MOVE), slice(ACTUAL)))
        depth = sum(
            max(0.0, -float(s.distance(a + t * (b - a)).min())) for path in paths for a, b in itertools.pairwise(path)
            if float(a[1]) < SETTINGS.goal_y
        )
        assert float(grid.depth[n, 0]) == pytest.approx(depth, abs=2e-3)
        if depth == 0.0 or depth > 1e-3:
            assert bool(grid.feasible[n, 1]) == (depth == 0.0) or float(grid.depth[n, 0]) < 1e-3
        seen.add(depth == 0.0)
    assert seen == {True, False}
    tight = problem.tightened(0.01).evaluate(x)
    assert bool((tight.depth >= e.depth - 1e-12).all()) and bool((tight.depth > e.depth).any())
    assert torch.equal(problem.evaluate(x).depth, e.depth)  # tightening leaves the problem itself alone
    assert problem.optimise_k(e, int((e.depth == 0.0).nonzero()[0]))[2] and not problem.optimise_k(e, int(e.depth.argmax()))[2]
    free = AvoidingProblem(scene("free"), state, denoiser)
    assert bool((free.evaluate(x).depth == 0.0).all())


def test_barrier_gradients_are_those_of_finite_differences_and_projection_reaches_the_set(denoiser: NetworkDenoiser) -> None:
    problem = AvoidingProblem(scene("top_left"), torch.tensor([0.525, -0.28, 0.525, -0.28]), denoiser)
    x = chunks(20, 5).double()
    value, gradient = problem.barrier(x)
    assert value.shape == (20, 8, 2) and gradient.shape == (20, 8, 2, 6)
    assert bool((value[:, 0] == torch.inf).all()) and bool((gradient[:, 0] == 0.0).all())
    for d in range(6):
        ahead, behind = x.clone(), x.clone()
        ahead[..., d] += 1e-6
        behind[..., d] -= 1e-6
        slope = (problem.barrier(ahead)[0] - problem.barrier(behind)[0]) / 2e-6
        assert torch.allclose(slope[:, 1:], gradient[:, 1:, :, d], atol=1e-5)
    projected = problem.project(x)
    assert bool((problem.barrier(projected)[0] > -1e-6).all()) and torch.equal(projected[..., :ACTUAL], x[..., :ACTUAL])
    y = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(problem.guidance(y).sum(), y)
    ahead = x - 1e-5 * slope
    assert float(problem.guidance(ahead).sum()) < float(problem.guidance(x).sum())


def test_linear_constraints_hold_for_a_path_made_with_them_and_miss_the_arm_by_millimetres(
    denoiser: NetworkDenoiser, scripted: list[np.ndarray]
) -> None:
    state = torch.tensor([0.53, -0.1, 0.52, -0.12], dtype=torch.float64)
    linear = AvoidingProblem(scene("both"), state, denoiser).linear()
    rng = np.random.default_rng(0)
    d, p, rows = np.array([0.53, -0.1]), np.array([0.52, -0.12]), []
    for a in rng.uniform(SETTINGS.action_low, SETTINGS.action_high, (8, 2)):
        rows.append([*d, *p, *a])
        d, p = d + a, p + np.array(SETTINGS.drift) * (d - p) + np.array(SETTINGS.gain) * a
    x = torch.tensor(np.array(rows))
    assert torch.allclose(linear.matrix @ x.flatten(), linear.offset, atol=1e-12)
    assert bool(((x >= linear.lower) & (x <= linear.upper)).all())
    assert linear.null_space()[1].shape == (48, 16)  # the actions are free, nothing else
    chunk = windows(usable(scripted, SETTINGS), SETTINGS)[0].double()
    now, after = chunk[:, 0], chunk[:, 1, ACTUAL:MOVE]
    want = now[:, 2:4] + torch.tensor(SETTINGS.drift) * (now[:, :2] - now[:, 2:4]) + torch.tensor(SETTINGS.gain) * now[:, 4:]
    assert float((want - after).square().mean().sqrt()) < 0.004


def test_way_ahead_is_straight_where_free_longer_round_pillars_and_none_from_dead_ends(denoiser: NetworkDenoiser) -> None:
    ahead = WayAhead(scene("free"))
    for x, y in ((0.25, 0.0), (0.42, 0.3), (0.575, 0.2), (0.75, -0.2)):  # nothing above these
        assert float(ahead(torch.tensor([[x, y]]))[0]) == pytest.approx(SETTINGS.goal_y - y, abs=0.004)
    below = float(ahead(torch.tensor([[0.5, 0.15]]))[0])  # under the middle pillar of the last row: round it at its side
    aside = 0.025 + ROD_RADIUS + ahead.clearance
    assert 0.2 + 0.6 * (math.sqrt(2) - 1) * aside < below < 0.2 + aside
    assert float(ahead(torch.tensor([[0.5, 0.36]]))[0]) == 0.0
    left, right = torch.tensor([[0.52, 0.08]]), torch.tensor([[0.62, -0.02]])  # DPCC's line closes the right gap
    assert float(WayAhead(scene("top_left"))(right)[0]) > 1.0 > float(ahead(right)[0])
    assert float(WayAhead(scene("top_left"))(left)[0]) < 0.4
    now = torch.tensor([0.49, 0.0, 0.49, 0.0], dtype=torch.float64)
    problem = AvoidingProblem(scene("top_left"), now, denoiser, ahead=WayAhead(scene("top_left")))
    x = chunks(50, 6)
    grid = checked(problem.grid(problem.evaluate(x), torch.zeros(1, 0)), (50, 1), "grid")
    ok = grid.feasible[:, 0]
    assert 0 < int(ok.sum()) < 50
    want = WayAhead(scene("top_left"))(now[ACTUAL:] + (x[ok, -1].double() - x[ok, 0].double())[:, ACTUAL:MOVE])
    assert torch.allclose(grid.cost[ok, 0], want) and torch.allclose(grid.log_v[ok, 0], -want / TEMPERATURE)
    shut = SceneConfig("shut", circles=((0.5, 0.08, 0.16), (0.15, 0.08, 0.188), (0.85, 0.08, 0.188)))
    with pytest.raises(InputError, match=r"no (free )?way"):
        WayAhead(Scene(shut, SETTINGS, margin=0.0))


def held(state: np.ndarray, velocity: np.ndarray, actions: np.ndarray, seconds: float) -> np.ndarray:
    """(T, 2) positions at the steps' ends: ``actions`` (n, 2), then none, by a general solver of the response's equation."""
    k, c, f = (np.array(s) for s in (SETTINGS.stiffness, SETTINGS.damping, SETTINGS.feedforward))

    def slope(t: float, s: np.ndarray, d: np.ndarray, rate: np.ndarray) -> np.ndarray:
        return np.concatenate([s[2:], k * (d + rate * t - s[:2]) + c * (f * rate - s[2:])])

    desired, s, out = state[:2].copy(), np.concatenate([state[2:], velocity]), []
    for n in range(len(actions) + math.ceil(seconds / SETTINGS.dt)):
        rate = actions[n] / SETTINGS.dt if n < len(actions) else np.zeros(2)
        s = solve_ivp(slope, (0.0, SETTINGS.dt), s, args=(desired, rate), rtol=1e-9, atol=1e-10).y[:, -1]
        desired = desired + rate * SETTINGS.dt
        out.append(s[:2])
    return np.array(out)


@pytest.mark.parametrize("execute", [1, 3])
def test_motion_to_rest_is_the_responses_and_what_the_arm_does(execute: int) -> None:
    settings = dataclasses.replace(SETTINGS, execute=execute)
    motion, arm = RestMotion(settings, 1.5), AvoidingArm(settings)
    rng = np.random.default_rng(1)
    arm.play(np.array([[0.003, 0.006], [0.006, 0.012], [0.0, 0.0125], [-0.004, 0.01]]))
    ms = arm.play(np.array([[0.004, 0.0125]])).tip
    assert np.allclose(arm.velocity, (ms[-1] - ms[-2]) / 0.001, atol=0.01) and np.hypot(*arm.velocity) > 0.2
    state, velocity = arm.state, arm.velocity
    actions = np.concatenate([rng.uniform([-0.03, -0.02], [0.03, 0.03], (20, 5, 2)), np.zeros((1, 5, 2))])
    found = motion(torch.from_numpy(state), torch.from_numpy(velocity), torch.from_numpy(actions)).numpy()
    assert found.shape == (21, execute + 43, 2)
    for n in range(21):
        cut = np.clip(actions[n, :execute], SETTINGS.action_low, SETTINGS.action_high)
        assert np.allclose(found[n], held(state, velocity, cut, 1.5), atol=1e-7)
        assert np.abs(found[n, -1] - state[:2] - cut.sum(0)).max() < 0.003, "it rests where the desired position is, or nearly"
    assert found[-1, :, 1].max() > state[3] + 0.02, "a held arm goes on"
    for want in found[-1]:
        arm.play(np.zeros((1, 2)))
        assert np.abs(arm.tip - want).max() < 0.003
    for seconds in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="rest motion"):
            RestMotion(settings, seconds)


def test_with_the_motion_to_rest_v_is_zero_where_a_held_arm_would_leave_the_set(denoiser: NetworkDenoiser) -> None:
    s = Scene(SceneConfig("ahead", circles=((0.52, 0.1, 0.206),)), SETTINGS)
    now, velocity = torch.tensor([0.52, -0.14, 0.52, -0.15], dtype=torch.float64), torch.tensor([0.0, 0.3], dtype=torch.float64)
    x = torch.zeros((40, 8, 6))
    x[:, :, 1], x[:, :, 3] = -0.14, -0.15  # says that nothing moves
    x[:, 0, MOVE:] = torch.rand((40, 2), generator=torch.Generator().manual_seed(0)) * 0.02 - 0.006
    blind = AvoidingProblem(s, now, denoiser).evaluate(x)
    motion = RestMotion(SETTINGS, 1.5)
    problem = AvoidingProblem(s, now, denoiser, rest=motion, velocity=velocity)
    e = problem.evaluate(x)
    actions = np.clip(x[:, 0, MOVE:].double().numpy(), SETTINGS.action_low, SETTINGS.action_high)
    paths = [held(now.numpy(), velocity.numpy(), a[None], 1.5) for a in actions]
    left = torch.tensor([np.hypot(*(path - (0.52, 0.1)).T).min() - 0.206 for path in paths])
    assert torch.equal(blind.depth, torch.zeros(40, dtype=torch.float64))
    assert torch.equal(e.depth[left.abs() > 1e-4] > 0.0, left[left.abs() > 1e-4] < 0.0) and 5 < int((left < 0.0).sum()) < 35
    assert bool((problem.tightened(0.01).evaluate(x).depth > e.depth).any()), "a margin holds for it, too"
    slower = AvoidingProblem(s, now, denoiser, rest=motion, velocity=0.0 * velocity).evaluate(x)
    assert bool((slower.depth <= e.depth).all()) and bool((slower.depth < e.depth).any())
    with pytest.raises(InputError, match="velocity"):
        AvoidingProblem(s, now, denoiser, rest=motion)


def test_who_asks_for_the_motion_to_rest_does_not_enter_what_others_enter(denoiser: NetworkDenoiser) -> None:
    """Fast at a circle straight ahead: each chunk says that nothing moves, so that only the motion to rest knows better."""
    class Rash:
        def sample(self, problem: AvoidingProblem, denoiser: object, *, generator: object) -> object:
            x = torch.zeros((1, 8, 6))
            x[0, :, MOVE + 1] = 0.0125
            feasible = bool(problem.evaluate(x).depth[0] == 0.0)
            return type("R", (), {"x": x[0], "feasible": feasible, "counters": type("C", (), {"network_rows": 1})()})()

    s = Scene(SceneConfig("ahead", circles=((0.52, 0.02, 0.2),)), dataclasses.replace(SETTINGS, max_steps=40))
    blind, knowing = (
        play(Rash(), denoiser, s, AvoidingArm(), torch.Generator(), margin=0.003, hold=True, rest=rest)  # type: ignore[arg-type]
        for rest in (None, RestMotion(SETTINGS, 1.5))
    )
    assert blind.violations > 0
    assert knowing.violations == 0 and knowing.infeasible > 0, "it held,"
    assert knowing.path[-1, 1] > SETTINGS.start[1] + 0.03, "and had gone before"


def test_the_motion_to_rest_comes_first_and_v_alone_where_nothing_comes_to_rest(denoiser: NetworkDenoiser) -> None:
    """Fast at a circle straight ahead, as above."""
    class Two:
        def __init__(self) -> None:
            self.asked: list[tuple[bool, float, bool]] = []

        def sample(self, problem: AvoidingProblem, denoiser: object, *, generator: object) -> object:
            x = torch.zeros((1, 8, 6))
            x[0, :, MOVE + 1] = 0.0125
            feasible = bool(problem.evaluate(x).depth[0] == 0.0)
            self.asked.append((problem._rest is not None, problem.scene.margin, feasible))
            return type("R", (), {"x": x[0], "feasible": feasible, "counters": type("C", (), {"network_rows": 1})()})()

    s = Scene(SceneConfig("ahead", circles=((0.52, 0.02, 0.2),)), dataclasses.replace(SETTINGS, max_steps=40))
    sampler, motion = Two(), RestMotion(SETTINGS, 1.5)
    first = play(
        sampler, denoiser, s, AvoidingArm(), torch.Generator(), margin=0.003, hold=True, rest=motion, rest_first=True,  # type: ignore[arg-type]
    )
    knowing, blind = [ask for ask in sampler.asked if ask[0]], [ask for ask in sampler.asked if not ask[0]]
    assert {margin for _, margin, _ in knowing} == {0.003} and {margin for _, margin, _ in blind} == {0.0}
    begun = sampler.asked.index(blind[0])
    assert all(feasible for _, _, feasible in sampler.asked[: begun - DRAWS]), "while it can come to rest V alone is not asked"
    assert [feasible for _, _, feasible in sampler.asked[begun - DRAWS : begun + 1]] == [False] * DRAWS + [True]
    assert first.violations > 0 and first.rows == len(sampler.asked), "then it goes on by V alone"
    with pytest.raises(InputError, match="rest_first"):
        play(sampler, denoiser, s, AvoidingArm(), torch.Generator(), hold=True, rest_first=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [
    {"method": "policy"}, {"method": "conditional", "x_samples": 4, "k_samples": 1}, {"method": "conditional", "x_samples": 4,
    "k_samples": 1, "tighten": 0.01}, {"method": "best_of_n", "rows": 40, "k_samples": 1, "refine_rounds": 0},
    {"method": "steered", "particles": 8, "k_samples": 1, "refine_rounds": 0}, {"method": "dpcc", "k_samples": 1},
    {"method": "safediffuser", "k_samples": 1}, {"method": "mpd", "k_samples": 1}, {"method": "pdm", "k_samples": 1},
    {"method": "gibbs", "sweeps": 2, "x_samples": 4, "k_samples": 1}, {"method": "guidance", "k_samples": 1},
    {"method": "truncation", "k_samples": 1},
], ids=lambda s: s["method"])
def test_every_method_plans_and_its_verdict_is_the_problems(settings: dict[str, object], denoiser: NetworkDenoiser) -> None:
    problem = AvoidingProblem(scene("both"), torch.tensor([0.525, -0.28, 0.525, -0.28], dtype=torch.float64), denoiser)
    r = make_sampler(settings).sample(problem, denoiser, generator=torch.Generator().manual_seed(1))
    assert r.x is not None and r.x.shape == (8, 6) and bool(torch.isfinite(r.x).all())
    if settings["method"] != "policy":
        assert r.feasible == (float(problem.evaluate(r.x[None]).depth[0]) == 0.0)


class Scripted:
    """Plays given actions instead of sampling; says that those up to the number ``feasible`` are."""

    def __init__(self, desired: np.ndarray, feasible: int = 1000) -> None:
        self.moves, self.at, self.feasible = np.diff(desired, axis=0), 0, feasible

    def sample(self, problem: AvoidingProblem, denoiser: object, *, generator: object) -> object:
        """The next actions, whatever the state."""
        moves = self.moves[self.at : self.at + 8]
        self.at += SETTINGS.execute
        x = torch.zeros((8, 6))
        x[: len(moves), MOVE:] = torch.from_numpy(moves).float()
        return type("R", (), {"x": x, "feasible": self.at <= self.feasible, "counters": type("C", (), {"network_rows": 7})()})()


class Hesitating(Scripted):
    """Only every fourth draw is feasible, and only then does it go on."""

    def sample(self, problem: AvoidingProblem, denoiser: object, *, generator: object) -> object:
        """The same actions until they are feasible."""
        self.draws = getattr(self, "draws", 0) + 1
        ready = self.draws % DRAWS == 0
        result = super().sample(problem, denoiser, generator=generator)
        if not ready:
            self.at -= SETTINGS.execute
        result.feasible = ready  # type: ignore[attr-defined]
        return result


def test_episodes_are_judged_by_the_simulated_path(scripted: list[np.ndarray], denoiser: NetworkDenoiser) -> None:
    arm, generator = AvoidingArm(), torch.Generator()
    s = scene("top_left")
    ys = np.arange(SETTINGS.start[1], 0.42, 0.009)
    xs = PchipInterpolator([ys[0], -0.1, 0.08, 0.26, ys[-1]], [SETTINGS.start[0], 0.565, 0.515, 0.42, 0.4])(ys)
    seen = set()
    for desired in (*scripted[: MODES : 8], np.column_stack([xs, ys])):
        e = play(Scripted(desired), denoiser, s, arm, generator)  # type: ignore[arg-type]
        assert e.reached and e.touched is None and e.way == mode(e.path, SETTINGS) and e.rows == 7 * e.plans
        out = 0
        for k in range(e.steps):
            piece = e.path[35 * k : 35 * k + 36]
            piece = piece[: int(np.argmax(piece[:, 1] >= SETTINGS.goal_y)) or len(piece)]
            circle = min(math.hypot(x - 0.4, y - 0.08) - 0.08 for x, y in piece.tolist())
            right = max(x - (0.8 - 0.4 * (y + 0.5)) for x, y in piece.tolist())
            out += circle < 0.0 or right > 0.0
        assert abs(e.violations - out) <= 1 and e.safe == (e.violations == 0)
        seen.add(e.safe)
    assert seen == {True, False}
    straight = np.array(SETTINGS.start) + np.outer(np.arange(60), [-0.0015, 0.0115])
    e = play(Scripted(straight), denoiser, scene("free"), arm, generator)  # type: ignore[arg-type]
    assert e.touched == "pillar0" and not e.reached and not e.safe


#: to the right, then back: the rod turns in the middle of a control step, .8 mm beyond where any of them ends
TURN = np.array([*[[0.0125, 0.0]] * 4, [-0.005, 0.0], *[[-0.0125, 0.0]] * 2])


def turning(denoiser: NetworkDenoiser, line: float | None = None, margin: float = 0.0, pillar: float | None = None) -> Episode:
    """An episode that plays ``TURN``: the rod is to keep to the left of x = ``line`` [m], plans ``margin`` [m] more.

    With ``pillar`` plans keep clear of one at that x that the simulator does not have.
    """
    lines = () if line is None else ((line, -1.0, line, 1.0),)
    pillars = SETTINGS.pillars if pillar is None else ((pillar, SETTINGS.start[1], 0.01),)
    s = Scene(SceneConfig("turn", lines=lines), dataclasses.replace(SETTINGS, max_steps=12, pillars=pillars))
    sampler = Scripted(np.concatenate([np.zeros((1, 2)), np.cumsum(TURN, axis=0)]))
    return play(
        sampler, denoiser, s, AvoidingArm(), torch.Generator(), margin=margin, pillars=pillar is not None  # type: ignore[arg-type]
    )


def test_a_violation_between_control_steps_counts_once(denoiser: NetworkDenoiser) -> None:
    x = turning(denoiser).path[:, 0]
    at_ends = x[::35].max()
    assert x.max() > at_ends + 5e-4
    line = 0.5 * (x.max() + at_ends)
    e = turning(denoiser, line)
    assert e.violations == 1 and e.depth == pytest.approx(x.max() - line, abs=1e-9) and e.path[:, 0].tolist() == x.tolist()


def test_margin_and_pillars_are_for_plans_and_not_judged(denoiser: NetworkDenoiser) -> None:
    furthest = turning(denoiser).path[:, 0].max()
    for e in (turning(denoiser, furthest + 0.002, margin=0.005), turning(denoiser, pillar=furthest)):
        assert e.path[:, 0].max() == furthest and e.violations == 0 and e.depth == 0.0


def test_what_a_sampler_finds_infeasible_is_not_played_unless_the_arm_is_outside_already(denoiser: NetworkDenoiser) -> None:
    arm, generator = AvoidingArm(), torch.Generator()
    straight = np.array(SETTINGS.start) + np.outer(np.arange(60), [-0.0015, 0.0115])
    s = scene("top_right")
    held = play(Scripted(straight, feasible=0), denoiser, s, arm, generator, hold=True)  # type: ignore[arg-type]
    assert not held.reached and held.steps == SETTINGS.max_steps == held.infeasible and held.violations == 0
    assert float(np.abs(held.path - held.path[0]).max()) < 1e-3, "the arm has stayed where it was"
    assert held.rows == 7 * DRAWS * held.plans, "it has drawn again each time"
    played = play(Scripted(straight, feasible=0), denoiser, s, arm, generator)  # type: ignore[arg-type]
    assert played.rows == 7 * played.plans and played.touched == "pillar0" and played.infeasible == played.plans
    across = Scene(SceneConfig("across", circles=((0.52, -0.18, 0.03),)), SETTINGS)
    entered = play(Scripted(straight, feasible=9), denoiser, across, arm, generator, hold=True)  # type: ignore[arg-type]
    assert entered.violations > 3 and entered.path[-1, 1] > -0.15, "from within it goes on"
    assert entered.infeasible > 3
    inside, outside = (torch.tensor([0.52, y, 0.52, y]) for y in (-0.17, -0.25))
    hesitating = play(Hesitating(straight), denoiser, s, arm, generator, hold=True)  # type: ignore[arg-type]
    assert hesitating.infeasible == 0 and hesitating.rows == 7 * DRAWS * hesitating.plans, "the last draw is played"
    assert hesitating.steps == played.steps and hesitating.touched == "pillar0"
    assert AvoidingProblem(across, inside, denoiser).outside() and not AvoidingProblem(across, outside, denoiser).outside()
