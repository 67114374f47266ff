"""Demonstrations: limits, determinism, the shipped file."""

from __future__ import annotations

import numpy as np
import pytest

from tandem.core.errors import ConfigError, InputError
from tandem.core.paths import share_dir
from tandem.sim.demonstrations import generate, load, main, pack
from tandem.sim.expert import GRASPS, TIP, WAYS, ArmSolver, NoPlan, grasp_pose, plan
from tandem.sim.scene_file import MugScene
from tandem.sim.world import START_Q, MugWorld, standing_pose

SHIPPED = share_dir() / "models" / "mug_demonstrations.npz"


@pytest.fixture(scope="module")
def shipped() -> dict[str, np.ndarray]:
    return load(SHIPPED)


def test_shipped_file_is_balanced_and_within_limits(shipped: dict[str, np.ndarray]) -> None:
    assert SHIPPED.stat().st_size < 2_000_000
    assert len(shipped["way"]) == 100 and tuple(shipped["way_names"]) == WAYS and tuple(shipped["grasp_names"]) == GRASPS
    assert np.all(np.bincount(shipped["way"]) == 20) and np.all(np.bincount(shipped["grasp"], minlength=6) >= 5)
    ends, fine = shipped["offsets"], shipped["offsets_100"]
    for e in range(100):
        q = shipped["q_100"][fine[e] : fine[e + 1]].astype(np.float64)
        assert len(q) == 10 * (ends[e + 1] - ends[e] - 1) + 1
        assert np.abs(np.diff(q, axis=0)).max() / 0.01 <= 1.005
        assert np.allclose(q[::10], shipped["q"][ends[e] : ends[e + 1]])
        path = shipped["tcp"][ends[e] : ends[e + 1], :3, 3]
        assert path[:, 2].min() - TIP > 0.02
        assert np.linalg.norm(np.diff(path, axis=0), axis=1).max() / 0.1 < 0.35
        assert shipped["mug"][ends[e + 1] - 1, 2, 3] > 0.15
    assert np.abs(shipped["q"] - shipped["q_measured"]).max() < 0.003


def test_ways_part_within_the_first_second(shipped: dict[str, np.ndarray]) -> None:
    after: dict[int, list[np.ndarray]] = {w: [] for w in range(len(WAYS))}
    for e, way in enumerate(shipped["way"]):
        path = shipped["tcp"][shipped["offsets"][e] : shipped["offsets"][e + 1], :3, 3].astype(np.float64)
        line = path[shipped["close_index"][e]] + [0.0, 0.0, 0.09] - path[0]
        flat = np.array([line[0], line[1], 0.0]) / np.hypot(line[0], line[1])
        side = np.array([-flat[1], flat[0], 0.0])
        up = np.cross(line / np.linalg.norm(line), side)
        move = path[10] - path[0]
        after[int(way)].append(np.array([move @ side, move @ up]))
    means = np.array([np.mean(after[w], axis=0) for w in range(len(WAYS))])
    gaps = np.linalg.norm(means[:, None] - means[None], axis=-1)[np.triu_indices(len(WAYS), 1)]
    assert gaps.min() > 0.08


def test_shipped_file_comes_from_the_seed(shipped: dict[str, np.ndarray]) -> None:
    first = next(generate(100, int(shipped["seed"])))
    assert first.way == shipped["way"][0] and first.grasp == shipped["grasp"][0]
    end = shipped["offsets_100"][1]
    assert np.allclose(first.plan.q, shipped["q_100"][:end], atol=1e-4)
    assert np.allclose(first.mug[::10], shipped["mug"][: shipped["offsets"][1]], atol=1e-3)


def test_same_seed_same_bytes(tmp_path) -> None:
    for name in ("a.npz", "b.npz"):
        main(["--out", str(tmp_path / name), "--count", "1", "--seed", "5"])
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    data = load(tmp_path / "a.npz")
    assert len(data["way"]) == 1 and int(data["seed"]) == 5


def test_pack_keeps_both_ends() -> None:
    made = list(generate(1, 9))
    arrays = pack(made, 9)
    assert np.allclose(arrays["tcp"][-1], made[0].plan.tcp[-1], atol=1e-6)
    assert np.allclose(arrays["tcp"][0], made[0].plan.tcp[0], atol=1e-6)
    assert arrays["width"][0] == pytest.approx(0.08) and arrays["width"][-1] == 0.0


def test_errors(tmp_path) -> None:
    with pytest.raises(InputError, match="count"):
        next(generate(0, 0))
    (tmp_path / "x.npz").write_bytes(b"no archive")
    with pytest.raises(ConfigError, match=r"x\.npz"):
        load(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", offsets=np.zeros(2))
    with pytest.raises(ConfigError, match="missing"):
        load(tmp_path / "y.npz")


def test_expert_refuses_what_it_cannot_reach() -> None:
    world = MugWorld(MugScene())
    solver = ArmSolver(world.model)
    with pytest.raises(NoPlan, match="turned too far"):
        plan(solver, world.mug, standing_pose(0.5, 0.0, np.pi / 2), START_Q, "straight", "handle")
    with pytest.raises(NoPlan):
        plan(solver, world.mug, standing_pose(1.2, 0.0, np.pi), START_Q, "straight", "handle")
    for grasp in GRASPS:
        pose, yaw = grasp_pose(world.mug, standing_pose(0.5, 0.1, 3.0), grasp)
        assert pose[2, 3] - TIP > 0.045 and abs(yaw) <= np.pi / 2
