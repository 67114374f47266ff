"""The RTD planner: plans are certified, chain without a jump, end at rest; the same seed gives the same motion.

Truth comes from outside: places of rest from the knots' integral, distances from coal's meshes.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safety_cases import arm, shapes

from tandem.bench import worlds
from tandem.core.errors import InputError
from tandem.core.scene import TABLE, Obstacle, Scene
from tandem.core.trajectory import Trajectory
from tandem.robots.kinematics import fk
from tandem.safety import (
    BackupFamily,
    BatchVerdict,
    GoalReacher,
    GuideSearch,
    PackedScene,
    RtdConfig,
    RtdPlanner,
    certify,
    certify_one,
    load_bounds,
    pack_scene,
    rtd,
)
from tandem.safety.guide import pieces
from tandem.safety.meshes import MeshWorld
from tandem.sim.clutter import APART, ClutteredWorld, cluttered_world

pytest.importorskip("coal")
Array = NDArray[np.float64]
BOUNDS = load_bounds()
#: a swing of joint 1 to the other side of a slab that reaches up to the hand
START = np.array([-0.6, -0.3, 0.0, -2.0, 0.0, 1.8, 0.8])
GOAL = np.array([0.6, -0.3, 0.0, -2.0, 0.0, 1.8, 0.8])
WALL = Obstacle("wall", "box", (0.3, 0.02, 0.25), (0.6, 0.0, 0.25))


@lru_cache(maxsize=1)
def meshes() -> MeshWorld:
    return MeshWorld(arm(), shapes())


def scene(*obstacles: Obstacle) -> Scene:
    return Scene((TABLE, *obstacles))


def packed(*obstacles: Obstacle) -> PackedScene:
    return pack_scene(scene(*obstacles), arm(), BOUNDS, 0.0)


def standing(q: Array) -> tuple[Array, Array, Array]:
    return q, np.zeros(7), np.zeros(7)


def line(a: Array, b: Array) -> Trajectory:
    """From rest to rest in 1 s, all joints in step."""
    family = BackupFamily(k_max=(20.0,) * 7)
    gain = family.basis([family.stop])[3, 0]
    return family.trajectory(a, np.zeros(7), np.zeros(7), (b - a) / gain)


def walled() -> ClutteredWorld:
    return ClutteredWorld(scene(WALL), START, GOAL, 0)


def test_k_puts_the_place_of_rest_where_it_is_wanted() -> None:
    planner, rng = RtdPlanner(arm(), BOUNDS), np.random.default_rng(0)
    for _ in range(20):
        state = (arm().home + rng.normal(0, 0.1, 7), rng.normal(0, 0.5, 7), rng.normal(0, 1.0, 7))
        rest = arm().home + rng.normal(0, 0.3, 7)
        end = planner.family.trajectory(*state, planner.k_for_rest(state, rest)).q[-1]
        assert np.abs(end - rest).max() < 1e-12


def test_a_plan_in_the_open_goes_as_far_as_k_allows_and_ends_at_rest() -> None:
    planner = RtdPlanner(arm(), BOUNDS)
    plan = planner.along(standing(START), packed(), np.stack([START, GOAL]))
    assert plan is not None
    assert plan.trajectory.ends_at_rest(1e-9) and plan.trajectory.consistency() < 1e-9
    assert np.abs(plan.k).max() > 0.8 * planner.family.k_max[0]
    assert np.abs(plan.rest - (START + plan.progress * (GOAL - START) / np.linalg.norm(GOAL - START))).max() < 1e-9
    verdict = certify_one(arm(), plan.trajectory, scene(), BOUNDS, 0.0)
    assert verdict.certified and plan.clearance == pytest.approx(verdict.clearance)


def test_the_goal_is_reached_around_a_wall_without_contact_or_jump() -> None:
    assert meshes().along(scene(WALL), line(START, GOAL)).distance <= 0.0, "the straight way is to be blocked"
    played = worlds.drive(walled(), GoalReacher(RtdPlanner(arm(), BOUNDS), GOAL, 1))
    assert played.reached and played.refused == 0
    nearest, jump = worlds.measure(meshes(), walled(), played.pieces)
    assert nearest.distance > 0.0 and jump < 1e-9
    for before, after in zip(played.pieces[:-1], played.pieces[1:], strict=True):
        assert max(np.abs(before.v[-1] - after.v[0]).max(), np.abs(before.a[-1] - after.a[0]).max()) < 1e-9
    assert played.pieces[-1].ends_at_rest(1e-9)


def _accept(change: Callable[[Array], Array]) -> Callable[..., BatchVerdict]:
    def wrong(*args: Any, **options: Any) -> BatchVerdict:
        found = certify(*args, **options)
        return dataclasses.replace(found, code=change(found.code))

    return wrong


def test_mutation_a_planner_that_certifies_everything_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    planner = RtdPlanner(arm(), BOUNDS)
    monkeypatch.setattr(rtd, "certify", _accept(np.zeros_like))
    monkeypatch.setattr("tandem.safety.guide.certify", _accept(np.zeros_like))
    assert worlds.drive(walled(), GoalReacher(planner, GOAL, 1), max_plans=5).refused > 0, "the second certificate"
    monkeypatch.setattr(worlds, "certified_again", lambda *_: True)
    played = worlds.drive(walled(), GoalReacher(planner, GOAL, 1), max_plans=20)
    assert worlds.measure(meshes(), walled(), played.pieces)[0].distance <= 0.0, "the meshes"


def test_without_a_way_the_arm_stands_and_says_so() -> None:
    on_goal = Obstacle("on goal", "sphere", (0.2,), (0.45, 0.3, 0.4))
    assert not certify_one(arm(), Trajectory.at_rest(GOAL), scene(on_goal), BOUNDS, 0.0).certified
    config = RtdConfig(tolerance=0.01, search=100)
    reacher = GoalReacher(RtdPlanner(arm(), BOUNDS, config=config), GOAL, 0)
    played = worlds.drive(ClutteredWorld(scene(on_goal), START, GOAL, 0), reacher, max_plans=4)
    assert not played.reached and played.certified == 0 and played.waited == 4


def test_a_way_that_becomes_blocked_is_given_up_for_another() -> None:
    planner = RtdPlanner(arm(), BOUNDS, BackupFamily(k_max=(1.0,) * 7))
    reacher = GoalReacher(planner, GOAL, 3)
    first = reacher.step(standing(START), START, packed())
    assert first is not None and first.rest[0] < -0.2
    commit, plans = first.trajectory, 0
    while not reacher.reached(commit.q[-1]) and plans < 60:     # the wall appears while the arm moves
        plan = reacher.step(commit.sample(planner.period), commit.q[-1], packed(WALL))
        if plan is not None:
            assert certify_one(arm(), plan.trajectory, scene(WALL), BOUNDS, 0.0).certified
        commit = plan.trajectory if plan else commit.tail(planner.period)
        plans += 1
    assert reacher.reached(commit.q[-1])


def test_teleoperation_follows_the_target_as_far_as_is_certified() -> None:
    planner, rng = RtdPlanner(arm(), BOUNDS), np.random.default_rng(0)
    free = planner.toward(standing(START), packed(), START + 0.1, rng)
    assert free is not None and np.abs(free.rest - (START + 0.1)).max() < 1e-9
    commit = Trajectory.at_rest(START, planner.period)
    pieces_played = []
    for _ in range(8):
        plan = planner.toward(commit.sample(planner.period), packed(WALL), GOAL, rng)
        pieces_played.append(commit)
        commit = plan.trajectory if plan else commit.tail(planner.period)
    pieces_played.append(commit)
    assert commit.q[-1][0] > START[0] + 0.1, "it went towards the target"
    assert min(meshes().along(scene(WALL), p).distance for p in pieces_played) > 0.0


def test_the_same_seed_gives_the_same_motion() -> None:
    def digests(seed: int) -> list[str]:
        return [p.digest() for p in worlds.drive(walled(), GoalReacher(RtdPlanner(arm(), BOUNDS), GOAL, seed)).pieces]

    assert digests(5) == digests(5)
    assert digests(5) != digests(6)


def test_a_guide_joins_its_ends_and_every_edge_is_clear_by_the_meshes() -> None:
    search = GuideSearch(arm(), packed(WALL), BOUNDS, START, GOAL, np.random.default_rng(2))
    way = None
    while way is None:
        way = search.search(200)
        assert search.spent < 50_000
    short = search.shorten(way, 200)
    assert np.linalg.norm(np.diff(short, axis=0), axis=1).sum() <= np.linalg.norm(np.diff(way, axis=0), axis=1).sum() + 1e-12
    for found in (way, short):
        assert np.array_equal(found[0], START) and np.array_equal(found[-1], GOAL)
        points = np.concatenate([pieces(a, b) for a, b in itertools.pairwise(found)])
        assert min(meshes().along(scene(WALL), line(a, b)).distance for a, b in itertools.pairwise(points)) > 0.0


def test_bad_input_is_named() -> None:
    planner, good = RtdPlanner(arm(), BOUNDS), standing(START)
    bad = np.full(7, np.nan)
    for call in (
        lambda: planner.along((bad, good[1], good[2]), packed(), np.stack([START, GOAL])),
        lambda: planner.along(good, packed(), np.zeros((2, 6))),
        lambda: planner.toward(good, packed(), bad),
        lambda: GoalReacher(planner, np.full(7, 9.0)),
        lambda: GoalReacher(planner, np.zeros(6)),
        lambda: RtdPlanner(arm(), BOUNDS, BackupFamily(k_max=(1.0,) * 6)),
        lambda: GuideSearch(arm(), packed(), BOUNDS, bad, GOAL, np.random.default_rng(0)),
        lambda: cluttered_world(meshes(), -1, 0),
    ):
        with pytest.raises(InputError):
            call()


def test_worlds_are_seeded_and_free_at_both_ends() -> None:
    made, again = (cluttered_world(meshes(), 10, 1000) for _ in range(2))
    assert made.scene == again.scene and np.array_equal(made.start, again.start)
    assert cluttered_world(meshes(), 10, 1001).scene != made.scene
    assert len(made.scene.obstacles) == 11
    for q in (made.start, made.goal):
        assert meshes().clearance(made.scene, fk(arm(), q)) >= APART


@pytest.mark.parametrize("seed", range(4))
def test_nearest_is_what_every_pair_gives_and_along_misses_nothing(seed: int) -> None:
    import coal

    rng = np.random.default_rng(seed)
    made = cluttered_world(meshes(), 10, 1000 + seed)
    motion = line(made.start, made.start + rng.uniform(-0.5, 0.5, 7))
    dense = np.array([_every_pair(coal, made.scene, f) for f in fk(arm(), motion.sample(np.linspace(0.0, 1.0, 60))[0])])
    found = meshes().along(made.scene, motion)
    assert found.distance <= dense.min() + 1e-3
    at_found = fk(arm(), motion.sample(found.time)[0])
    assert found.distance == pytest.approx(_every_pair(coal, made.scene, at_found), abs=1e-6)


def _every_pair(coal: Any, where: Scene, frames: Array) -> float:
    """The least distance, pair by pair, none left out."""
    ask, least = coal.DistanceRequest(), np.inf
    boxes = [
        (coal.Box(*(2.0 * np.array(o.size))), coal.Transform3s(o.rotation(), np.array(o.position)))
        for o in where.obstacles if o.kind == "box"
    ]
    placed = [(s, h, coal.Transform3s(frames[s.link, :3, :3], frames[s.link, :3, 3])) for s, h in meshes().hulls]
    for s, hull, pose in placed:
        least = min(least, *(
            float(coal.distance(hull, pose, solid, at, ask, coal.DistanceResult())) for solid, at in boxes
        ))
        if s.link > 0:
            least = min(least, float((s.vertices @ frames[s.link, :3, :3].T + frames[s.link, :3, 3])[:, 2].min()))
        for u, other, there in placed:
            if (min(s.link, u.link), max(s.link, u.link)) in meshes().pairs:
                least = min(least, float(coal.distance(hull, pose, other, there, ask, coal.DistanceResult())))
    return least


def test_the_benchmark_runs_and_goes_on_where_it_stopped(tmp_path: Any) -> None:
    import json

    assert worlds.run(tmp_path, quick=True, methods="guided", workers=1, seed=1000) == 0
    table = json.loads((tmp_path / "table.json").read_text())
    ours = table["rows"][0]
    assert ours["n"] == 2 and ours["contacts"] == 0 and 0.0 <= ours["success"]["mean"] <= 1.0
    assert {"SPARROWS", "ARMTD"} <= {r["method"] for r in table["rows"]}
    kept = tmp_path / "episodes" / "guided-10-1000.json"
    data = json.loads(kept.read_text())
    kept.write_text(json.dumps({**data, "success": False, "contact": True}))
    again = worlds.run(tmp_path, quick=True, methods="guided", workers=1, seed=1000)
    assert again == 1, "the file is taken as it is; a contact fails"
    with pytest.raises(InputError):
        worlds.run(tmp_path, methods="nothing")
