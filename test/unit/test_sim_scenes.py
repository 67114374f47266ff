"""The scene generator: what it promises is checked in the physics."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tandem.core.errors import InputError
from tandem.core.paths import share_dir
from tandem.sim.demonstrations import execute
from tandem.sim.expert import ArmSolver, ExpertPlan, NoPlan, plan
from tandem.sim.scene_file import load_mug_scene, save_mug_scene
from tandem.sim.scenes import FREE_CLEARANCE, GeneratedScene, Prober, generate
from tandem.sim.world import MugWorld


@pytest.fixture(scope="module")
def prober() -> Prober:
    return Prober()


def motions(world: MugWorld, made: GeneratedScene, way: str) -> Iterator[ExpertPlan]:
    """The expert's motions along ``way``, one a reachable grasp."""
    for grasp in made.grasps:
        try:
            yield plan(ArmSolver(world.model), world.mug, made.mug_pose, np.array(made.scene.start), way, grasp)
        except NoPlan:
            continue


@pytest.mark.parametrize("kind", ["blocked_straight", "cluttered"])
def test_free_way_is_free_and_straight_way_collides(prober: Prober, kind: str, tmp_path) -> None:
    made = generate(kind, 0, prober)
    assert made.free and "straight" in made.blocked and max(made.clearance[w] for w in made.free) >= FREE_CLEARANCE
    assert kind != "cluttered" or 2 <= len(made.scene.obstacles) <= 4
    save_mug_scene(made.scene, tmp_path / "scene.yaml")
    world = MugWorld(load_mug_scene(tmp_path / "scene.yaml"))
    assert np.allclose(world.random_mug_pose(), made.mug_pose, atol=1e-9)
    assert execute(world, next(motions(world, made, "straight")), made.mug_pose) is None
    assert any(c.kind == "robot-obstacle" for c in world.incidents)
    assert any(execute(world, m, made.mug_pose) is not None for m in motions(world, made, made.free[0]))


def test_blocked_all_leaves_nothing(prober: Prober) -> None:
    made = generate("blocked_all", 0, prober)
    assert not made.free and set(made.blocked) == set(made.clearance)


def test_same_seed_same_scene(prober: Prober) -> None:
    assert generate("blocked_straight", 4, prober).scene == generate("blocked_straight", 4).scene
    assert generate("empty", 1, prober).scene.obstacles == ()
    assert generate("empty", 1, prober).scene != generate("empty", 2, prober).scene


def test_bad_input(prober: Prober) -> None:
    with pytest.raises(InputError, match="accepted"):
        generate("full", 0, prober)
    with pytest.raises(InputError, match="seed"):
        generate("empty", -1, prober)


def test_shipped_scenes_load() -> None:
    files = sorted((share_dir() / "config" / "scenes").glob("*.yaml"))
    kinds = {load_mug_scene(f).kind for f in files}
    assert kinds == {"empty", "blocked_straight", "cluttered", "blocked_all"}
