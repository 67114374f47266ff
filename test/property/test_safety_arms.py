"""The filter on other arms: the Panda, a six-axis arm, and two with prismatic joints. Kernels against NumPy, escapes, pairs."""

from __future__ import annotations

import itertools
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from arm_cases import GANTRY, SCARA, arm_motion, around, write_arm
from numpy.typing import NDArray
from robot_cases import random_q, robot_file
from safety_cases import arm, shapes

from tandem.core.scene import Scene
from tandem.core.types import Reason
from tandem.robots.geometry import uncovered
from tandem.robots.kinematics import fk, sphere_centers
from tandem.robots.model import load_chain, robot_config
from tandem.safety import BackupFamily, Bounds, certify, certify_grid, load_bounds, pack_scene
from tandem.safety.certify import REASONS
from tandem.safety.escapes import escapes
from tandem.safety.reference import certify_reference

Array = NDArray[np.float64]
ARMS = ("panda", "six", "scara", "gantry")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What ``load_arm`` takes for each arm."""
    folder = tmp_path_factory.mktemp("arms")
    made = {name: str(write_arm(folder, name, what)) for name, what in (("scara", SCARA), ("gantry", GANTRY))}
    return made | {name: robot_file(name) for name in ("panda", "six")}


@pytest.mark.parametrize("name", ARMS)
def test_kernel_and_numpy_agree(name: str, files: dict[str, str]) -> None:
    model, bounds = arm(files[name]), load_bounds()
    seen: set[Reason] = set()
    for seed in range(14):
        rng = np.random.default_rng(seed)
        t = arm_motion(model, rng, spread=0.4 if seed % 2 else 0.9)
        scene = around(model, t, rng)
        packed = pack_scene(scene, model, bounds, 0.0)
        reference = certify_reference(model, t, scene, bounds)
        knots = (t.times, t.q[None], t.v[None], t.a[None])
        lazy, full = (certify(model, *knots, packed, bounds, full=x) for x in (False, True))
        assert bool(lazy.certified[0]) == bool(full.certified[0]) == reference.certified
        least = min(reference.obstacles, reference.itself)
        assert full.clearance[0] == pytest.approx(least, abs=1e-9)
        seen.add(REASONS[int(full.code[0])])
    assert Reason.CERTIFIED in seen and Reason.COLLISION in seen


@pytest.mark.parametrize("name", ARMS)
def test_no_escape_and_the_bound_is_met(name: str, files: dict[str, str]) -> None:
    model = arm(files[name])
    found = escapes(model, shapes(files[name]), Bounds(tracking_error=(0.02,)), 25, np.random.default_rng(1))
    assert found.samples > 20_000 and found.escaped == 0 and found.margin >= 0.0 and 0.9 < found.share <= 1.0
    still = escapes(model, shapes(files[name]), Bounds(tracking_error=(0.0,)), 10, np.random.default_rng(2), travel=0.0)
    wrong = escapes(model, shapes(files[name]), Bounds(tracking_error=(0.0,)), 10, np.random.default_rng(3), actual_tracking=0.02)
    assert still.escaped > 0 and wrong.escaped > 0


@pytest.mark.parametrize("name", ARMS)
def test_spheres_enclose_the_shapes(name: str, files: dict[str, str]) -> None:
    model = arm(files[name])
    for shape in load_chain(*robot_config(files[name])).shapes:
        mine = np.asarray(model.sphere_link) == shape.link
        assert uncovered(shape, model.sphere_center[mine], model.sphere_radius[mine]) is None


@pytest.mark.parametrize("name", ARMS)
def test_self_pairs_are_derived_and_dropped_ones_stay_apart(name: str, files: dict[str, str]) -> None:
    """Every pair is kept or dropped with a reason; of the dropped, spheres stay apart (adjacent ones excepted)."""
    model = arm(files[name])
    kept, dropped = {tuple(p) for p in model.self_pairs.tolist()}, dict(model.self_dropped)
    assert kept | set(dropped) == set(itertools.combinations(range(model.n + 1), 2)) and not kept & set(dropped)
    world, link = sphere_centers(model, random_q(model, 300)), np.asarray(model.sphere_link)
    for (i, j), why in dropped.items():
        if "spheres proven" in why:
            a, b = link == i, link == j
            apart = np.linalg.norm(world[:, a, None] - world[:, None, b], axis=-1)
            assert (apart - model.sphere_radius[a][:, None] - model.sphere_radius[b]).min() > 0.0
        else:
            assert j == i + 1 or "hull" in why or "no collision shape" in why
    if name in ("scara", "gantry"):
        assert kept, "a chain that can reach itself has pairs to check"


def test_self_collision_of_the_scara_is_seen(files: dict[str, str]) -> None:
    """The quill, lowered in front of the column with the elbow folded, is nearer to it than its parts are wide."""
    model, bounds = arm(files["scara"]), load_bounds()
    reasons = set()
    for elbow in np.linspace(-2.95, 2.95, 31):
        rest = np.array([0.0, 0.0, elbow, 0.3, 0.0])
        t = BackupFamily(k_max=(1.0,) * 5).trajectory(rest, np.zeros(5), np.zeros(5), np.zeros(5))
        found = certify(model, t.times, t.q[None], t.v[None], t.a[None], pack_scene(Scene(), model, bounds, 0.0), bounds)
        reasons.add(found.reason[0])
    assert reasons == {Reason.CERTIFIED, Reason.SELF_COLLISION}


@lru_cache(maxsize=2)
def _pinocchio(urdf: str) -> tuple[object, object]:
    pin = pytest.importorskip("pinocchio")
    model = pin.buildModelFromUrdf(urdf)
    return model, model.createData()


@pytest.mark.parametrize("name", ["scara", "gantry"])
def test_prismatic_kinematics_agree_with_pinocchio(name: str, files: dict[str, str]) -> None:
    pin = pytest.importorskip("pinocchio")
    model = arm(files[name])
    theirs, data = _pinocchio(str(Path(files[name]).with_suffix(".urdf")))
    for q in random_q(model, 20):
        pin.forwardKinematics(theirs, data, q)
        ours = fk(model, q)
        assert max(np.abs(ours[i + 1] - data.oMi[i + 1].homogeneous).max() for i in range(model.n)) < 1e-12


@pytest.mark.parametrize("name", ["six", "scara"])
def test_grid_equals_single_certifications(name: str, files: dict[str, str]) -> None:
    model, bounds, rng = arm(files[name]), load_bounds(), np.random.default_rng(7)
    t = arm_motion(model, rng, spread=0.3)
    packed = pack_scene(around(model, t, rng), model, bounds, 0.0)
    family = BackupFamily(k_max=(1.0,) * model.n)
    k = family.sample(40, rng) * np.where(model.joint_type == 1, 0.3, 1.0)
    head = tuple(x[None, :3] for x in (t.q, t.v, t.a))
    grid = certify_grid(model, family, t.times[:3], *head, k, packed, bounds)
    times, q, v, a = family.build(t.q[2], t.v[2], t.a[2], k)
    ones = certify(model, times, q, v, a, packed, bounds, offset=float(t.times[2])).certified
    assert (grid.feasible[0] == (ones & grid.head_ok[0])).all()
