"""Zonotopes as obstacles and as exported occupancies, against vertices and hulls; the cross-check by zonopy with a stand-in."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import types

import numpy as np
import pytest
from numpy.typing import NDArray
from safety_cases import arm, boxes, motion, shapes
from scipy.spatial import ConvexHull

from tandem.bench import zonopy_check
from tandem.core.errors import InputError
from tandem.core.scene import Obstacle, Scene
from tandem.safety import Bounds, Polytope, certify, certify_one, load_bounds, occupancy, pack_scene
from tandem.safety.zonotopes import occupancy_zonotopes, support, unit_ball

Array = NDArray[np.float64]


def corners(rows: Array) -> Array:
    """All sums of +- the generators: a superset of a zonotope's vertices whose hull is the zonotope."""
    return rows[0] + np.array(list(itertools.product((-1.0, 1.0), repeat=len(rows) - 1))) @ rows[1:]


class _Zonotope:
    """What zonopy documents of its ``zonotope``: rows are the centre and generators, ``polytope`` gives ``A x <= b``.

    Faces by the hull of the vertices: nothing in common with the package or with Tandem's code.
    """

    def __init__(self, rows: object) -> None:
        self.rows = np.asarray(rows)

    def polytope(self) -> tuple[Array, Array]:
        equations = ConvexHull(corners(self.rows)).equations
        return equations[:, :3], -equations[:, 3]


@pytest.fixture
def zonopy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zonopy", types.SimpleNamespace(zonotope=_Zonotope, __spec__=object()))


@pytest.mark.parametrize("seed", range(8))
def test_zonotope_obstacle_is_the_hull_of_its_vertices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.uniform(-1, 1, (1, 3)), rng.uniform(-0.3, 0.3, (rng.integers(3, 7), 3))])
    ours = Polytope.from_zonotope("z", rows[0], rows[1:])
    hull = ConvexHull(corners(rows)).equations
    points = rows[0] + rng.uniform(-1.5, 1.5, (2000, 3))
    theirs = (points @ hull[:, :3].T + hull[:, 3]).max(axis=1)
    mine = (points @ ours.normals.T - ours.offsets).max(axis=1)
    assert (mine[theirs <= -1e-9] <= 0.0).all() and (mine[theirs > 1e-6] > 0.0).all()
    assert np.abs(support(rows, ours.normals) - (corners(rows) @ ours.normals.T).max(axis=0)).max() < 1e-12


def test_flat_and_pointlike_zonotopes() -> None:
    sheet = Polytope.from_zonotope("sheet", (0.5, 0.0, 0.4), [[0.2, 0.0, 0.0], [0.0, 0.2, 0.0]])
    inside = np.array([0.6, 0.1, 0.4])
    assert (inside @ sheet.normals.T - sheet.offsets).max() <= 1e-12
    assert (np.array([0.5, 0.0, 0.5]) @ sheet.normals.T - sheet.offsets).max() == pytest.approx(0.1)
    with pytest.raises(InputError, match=r"zonotope 'p'.*generators"):
        Polytope.from_zonotope("p", (0.5, 0.0, 0.4), np.zeros((2, 3)))


@pytest.mark.parametrize("seed", range(4))
def test_a_box_counts_the_same_as_box_hull_and_zonotope(seed: int) -> None:
    """The verdict on a polytope may be stricter (its distance is that to a face), never laxer, and its clearance is near."""
    rng, bounds = np.random.default_rng(seed), load_bounds()
    t = motion(rng)
    for o in boxes(rng, 6, half=0.06).obstacles[1:]:
        rows = zonopy_check.obstacle_rows(o)
        box = certify_one(arm(), t, Scene((o,)), bounds, 0.0)
        for other in (Polytope.from_zonotope("z", rows[0], rows[1:]), Polytope.from_points("h", corners(rows))):
            same = certify_one(arm(), t, Scene(()), bounds, 0.0, polytopes=(other,))
            assert same.clearance <= box.clearance + 1e-9
            assert not same.certified or box.certified


@pytest.mark.parametrize(("generators", "excess"), [(3, np.sqrt(3.0)), (6, 1.18)])
def test_unit_ball_is_enclosed_tightly(generators: int, excess: float) -> None:
    rows = np.concatenate([np.zeros((1, 3)), unit_ball(generators)])
    hull = ConvexHull(corners(rows))
    assert hull.equations[:, 3].max() <= -1.0 + 1e-9  # every face at least 1 from the centre
    assert np.linalg.norm(corners(rows), axis=1).max() <= excess + 1e-9
    with pytest.raises(InputError, match="generators = 4"):
        unit_ball(4)


def test_exported_occupancy_has_zonopys_layout_and_contains_the_arm() -> None:
    rng, bounds = np.random.default_rng(3), Bounds(tracking_error=(0.01,))
    t, edges = motion(rng), np.array([0.1, 0.15, 0.3])
    rows, link = occupancy_zonotopes(arm(), t, bounds, edges)
    centers, radii, same = occupancy(arm(), t, bounds, edges)
    assert rows.shape == (2, len(radii[0]), 7, 3) and (link == same).all()
    assert (rows[:, :, 0] == centers).all()
    directions = rng.normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    room = support(rows, directions) - centers @ directions.T - radii[..., None]
    assert room.min() >= 0.0 and room.max() <= 0.18 * radii.max()


def test_zonopys_faces_find_the_mesh_inside(zonopy: None) -> None:
    row = zonopy_check.containment(arm(), shapes(), 2, np.random.default_rng(0))
    assert row["ok"] and row["n"] > 1000 and row["method"] == "zonopy"


def test_zonopys_faces_find_what_is_outside(zonopy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def shrunk(*args: object, **more: object) -> tuple[Array, object]:
        rows, link = occupancy_zonotopes(*args, **more)  # type: ignore[arg-type]
        rows[..., 1:, :] *= 0.7
        return rows, link

    monkeypatch.setattr(zonopy_check, "occupancy_zonotopes", shrunk)
    assert not zonopy_check.containment(arm(), shapes(), 2, np.random.default_rng(0))["ok"]


def test_reach_row_compares_verdicts(zonopy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    far = Scene((Obstacle("b", "box", (0.05, 0.05, 0.05), (0.0, 0.0, 1.6)),))
    near = Scene((Obstacle("b", "box", (0.3, 0.3, 0.3), (0.4, 0.0, 0.5)),))
    t = motion(rng, spread=0.1, speed=0.1, k=0.2)
    row, agree = zonopy_check.reach_row(arm(), [t], far, load_bounds(), intervals=2)
    assert agree and row["condition"] == "single, 1 boxes" and row["ms_p50"] > 0.0
    rows, _ = occupancy_zonotopes(arm(), t, load_bounds(), np.array([0.0, 1.0]))
    assert zonopy_check.clear(rows, [zonopy_check.obstacle_rows(far.obstacles[0])])
    assert not zonopy_check.clear(rows, [zonopy_check.obstacle_rows(near.obstacles[0])])
    monkeypatch.setattr(zonopy_check, "clear", lambda *_: True)  # a library that finds everything clear is caught
    assert not zonopy_check.reach_row(arm(), [t], near, load_bounds(), intervals=2)[1]
    with pytest.raises(InputError, match="sphere"):
        zonopy_check.obstacle_rows(Obstacle("s", "sphere", (0.1,), (0.0, 0.0, 0.0)))


def test_moving_zonotopes_grow() -> None:
    rng = np.random.default_rng(1)
    t, bounds = motion(rng), load_bounds()
    alone = dataclasses.replace(arm(), self_pairs=np.zeros((0, 2), np.int64), digest="without pairs")
    rows = np.array([[0.0, 0.0, 1.5], [0.1, 0.0, 0.0], [0.0, 0.1, 0.0], [0.05, 0.0, 0.1]])
    low = []
    for more in ({}, {"position_error": 0.05}, {"speed": 0.1}, {"speed": 0.1, "stamp": -0.3}):
        z = Polytope.from_zonotope("z", rows[0], rows[1:], **more)
        packed = pack_scene(Scene(()), alone, bounds, 0.0, polytopes=(z,))
        low.append(float(certify(alone, t.times, t.q[None], t.v[None], t.a[None], packed, bounds, full=True).clearance[0]))
    assert low[1] == pytest.approx(low[0] - 0.05, abs=1e-6)
    assert low[3] <= low[2] - 0.02 < low[0]
