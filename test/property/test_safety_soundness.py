"""Attempts to make the filter certify what is not clear. Each bound, switched off alone, must make one of them succeed.

Truth comes from outside: pinocchio's kinematics and coal's distances between convex hulls of the meshes.
"""

from __future__ import annotations

import dataclasses
import itertools
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from robot_cases import assets, robot_file
from safety_cases import arm, boxes, motion, shapes

from tandem.core.scene import Obstacle
from tandem.robots.kinematics import fk
from tandem.safety import Bounds, Polytope, certify, certify_one, load_bounds, occupancy, pack_scene
from tandem.safety.escapes import escapes
from tandem.safety.meshes import MeshWorld
from tandem.safety.playing import Played, play
from tandem.safety.reference import certify_reference, obstacle_distance
from tandem.safety.soundness import moving_ball, rounding_touches

Array = NDArray[np.float64]


@lru_cache(maxsize=1)
def pinocchio_model() -> tuple[object, object]:
    pin = pytest.importorskip("pinocchio")
    model = pin.buildModelFromUrdf(str(assets() / "fr3.urdf"))
    return model, model.createData()


def pinocchio_frames(q: Array) -> Array:
    """(8, 4, 4) link frames of the FR3."""
    import pinocchio as pin

    model, data = pinocchio_model()
    pin.forwardKinematics(model, data, np.concatenate([q, np.full(model.nq - 7, 0.02)]))
    return np.stack([np.eye(4), *(data.oMi[i].homogeneous for i in range(1, 8))])


# ------------------------------------------------------------------------------------------------- occupancy encloses
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.05), st.floats(0.01, 0.4))
@settings(max_examples=20, deadline=None)
def test_no_mesh_vertex_leaves_the_occupancy(seed: int, tracking: float, length: float) -> None:
    rng = np.random.default_rng(seed)
    t = motion(rng, spread=2.5, speed=2.0, k=3.0)
    begin = rng.uniform(0.0, t.duration - length)
    bounds = Bounds(tracking_error=(tracking,))
    centers, radii, link = occupancy(arm(), t, bounds, np.array([begin, begin + length]))
    for _ in range(4):
        worst = rng.choice([-1.0, 1.0], 7) * tracking
        frames = pinocchio_frames(t.sample(begin + length * rng.choice([0.0, rng.uniform(), 1.0]))[0] + worst)
        for shape in shapes():
            points = shape.vertices @ frames[shape.link, :3, :3].T + frames[shape.link, :3, 3]
            mine = link == shape.link
            gap = np.linalg.norm(points[:, None] - centers[0, mine], axis=2) - radii[0, mine]
            assert gap.min(axis=1).max() <= 0.0


@pytest.mark.parametrize("name", ["fr3", "panda", "six"])
def test_random_search_finds_no_escape(name: str) -> None:
    model = arm(robot_file(name))
    found = escapes(model, shapes(robot_file(name)), Bounds(tracking_error=(0.02,)), 40, np.random.default_rng(1))
    assert found.samples > 50_000 and found.escaped == 0 and found.margin >= 0.0
    assert 0.99 < found.share <= 1.0  # the search comes close: the bound is met, not merely kept


def test_mutation_motion_within_an_interval() -> None:
    still = escapes(arm(), shapes(), Bounds(tracking_error=(0.0,)), 20, np.random.default_rng(2), travel=0.0)
    assert still.escaped > 0


def test_mutation_tracking_error() -> None:
    bounds = Bounds(tracking_error=(0.0,))
    found = escapes(arm(), shapes(), bounds, 20, np.random.default_rng(3), actual_tracking=0.02, interval=1e-3)
    assert found.escaped > 0


def test_mutation_enclosure_of_the_mesh() -> None:
    thin = dataclasses.replace(arm(), sphere_radius=0.95 * arm().sphere_radius, digest="thin")
    found = escapes(thin, shapes(), Bounds(tracking_error=(0.0,)), 20, np.random.default_rng(4), interval=1e-3)
    assert found.escaped > 0


# ------------------------------------------------------------------------------------------------------- moving obstacles
def test_moving_obstacles_are_met_where_they_can_be() -> None:
    assert moving_ball(arm(), Bounds(latency=0.1), 0.5) >= 0.0


def test_mutation_latency() -> None:
    assert moving_ball(arm(), Bounds(latency=0.0), 0.5) < 0.0


def test_mutation_speed() -> None:
    assert moving_ball(arm(), Bounds(latency=0.1), 0.0) < 0.0


def _played(seed: int, actual_latency: float | None = None) -> Played:
    rng = np.random.default_rng(seed)
    bounds, meshes = load_bounds(), MeshWorld(arm(), shapes())
    return play(arm(), meshes, [motion(rng) for _ in range(12)], bounds, rng, obstacles=5, times=6, actual_latency=actual_latency)


def test_clearance_holds_against_everything_that_moves_as_it_may() -> None:
    """Boxes, spheres, cylinders, capsules, hulls, zonotopes and the table, with position errors, speeds and ages."""
    pytest.importorskip("coal")
    found = _played(11)
    assert found.motions == 12 and found.certified >= 3 and found.contacts == 0 and found.above == 0
    # the same with obstacles seen half a second later than the filter is told: the search must notice
    assert _played(11, actual_latency=0.6).above > 0


# ---------------------------------------------------------------------------------------------------------------- rounding
def test_rounding_never_certifies_a_touch() -> None:
    assert rounding_touches(arm(), Bounds().rounding_pad) == 0


def test_mutation_rounding_pad() -> None:
    assert rounding_touches(arm(), 0.0) > 0


# -------------------------------------------------------------------------------------------------- against the oracle
@pytest.mark.parametrize("seed", range(12))
def test_kernel_and_numpy_agree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    t = motion(rng)
    kinds = (
        Obstacle("s", "sphere", (0.1,), tuple(rng.uniform([-0.7, -0.7, 0.2], [0.7, 0.7, 1.1])), speed=0.1, stamp=-0.1),
        Obstacle("c", "cylinder", (0.05, 0.2), tuple(rng.uniform([-0.7, -0.7, 0.2], [0.7, 0.7, 1.1])), position_error=0.01),
        Obstacle("p", "capsule", (0.05, 0.2), tuple(rng.uniform([-0.7, -0.7, 0.2], [0.7, 0.7, 1.1]))),
    )
    scene, bounds = boxes(rng, 8).with_obstacles(*kinds), load_bounds()
    packed = pack_scene(scene, arm(), bounds, 0.0)
    reference = certify_reference(arm(), t, scene, bounds)
    lazy = certify(arm(), t.times, t.q[None], t.v[None], t.a[None], packed, bounds)
    full = certify(arm(), t.times, t.q[None], t.v[None], t.a[None], packed, bounds, full=True)
    assert bool(lazy.certified[0]) == bool(full.certified[0]) == reference.certified
    assert full.clearance[0] == pytest.approx(min(reference.obstacles, reference.itself), abs=1e-9)


# ------------------------------------------------------------------------------------------- against the meshes themselves
def test_clearance_never_exceeds_the_mesh_distance() -> None:
    pytest.importorskip("coal")
    rng, bounds, meshes = np.random.default_rng(7), load_bounds(), MeshWorld(arm(), shapes())
    gaps, certified = [], 0
    for _ in range(12):
        t, scene = motion(rng), boxes(rng, 5)
        verdict = certify_one(arm(), t, scene, bounds, 0.0)
        at = [min(max(verdict.time, 0.0), t.duration), *rng.uniform(0.0, t.duration, 4)]
        true = min(meshes.clearance(scene, pinocchio_frames(t.sample(s)[0] + rng.choice([-1, 1], 7) * 0.004)) for s in at)
        assert true >= verdict.clearance
        certified += verdict.certified
        assert not verdict.certified or true > 0.0
        gaps.append(true - verdict.clearance)
    assert certified >= 2
    assert np.mean(gaps) < 0.04


def test_polytopes_and_zonotopes_enclose_their_boxes() -> None:
    rng = np.random.default_rng(8)
    for _ in range(30):
        o = Obstacle("b", "box", (0.1, 0.2, 0.3), tuple(rng.uniform(-1, 1, 3)), tuple(np.eye(4)[rng.integers(4)]))
        corners = np.array(list(itertools.product(*[(-s, s) for s in o.size]))) @ o.rotation().T + o.position
        hull = Polytope.from_points("h", corners)
        zonotope = Polytope.from_zonotope("z", o.position, np.diag(o.size) @ o.rotation().T)
        points = rng.uniform(-2, 2, (200, 3))
        exact = obstacle_distance(o, points)
        for p in (hull, zonotope):
            low = (points @ p.normals.T - p.offsets).max(axis=1)
            assert (low <= exact + 1e-9).all()
            assert (low[exact < 0] < 1e-9).all() and (low[exact > 1e-9] > 0.0).all()


def test_kinematics_agree_with_pinocchio() -> None:
    rng = np.random.default_rng(9)
    for q in rng.uniform(arm().lower, arm().upper, (20, 7)):
        assert np.abs(fk(arm(), q) - pinocchio_frames(q)).max() < 1e-12
