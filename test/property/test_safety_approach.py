"""Motion towards an obstacle: the bound against every motion that forward kinematics finds, on arms of both kinds of joints."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from arm_cases import SCARA, write_arm
from numpy.typing import NDArray
from robot_cases import random_q, robot_file
from safety_cases import arm

from tandem.core.scene import Obstacle, Scene
from tandem.robots.kinematics import fk
from tandem.robots.model import ArmModel
from tandem.safety import BackupFamily, kernels, load_bounds, pack_scene
from tandem.safety.geometry import pack_arm, pack_bounds
from tandem.safety.reference import obstacle_distance

Array = NDArray[np.float64]


def placed(model: ArmModel, q: Array, r: Array) -> tuple[Array, Array, Array]:
    """Joint array, frames and chords of the kernels for joints within r of q."""
    joint, frame = pack_arm(model).joint, np.zeros((model.n + 1, 12))
    frame[0, [0, 4, 8]] = 1.0
    for d in range(model.n):
        kernels.put_frame(joint, frame, d, q[d])
    chord = np.array([kernels.chord_of(joint[d, kernels.J_SLIDES], r[d]) for d in range(model.n)])
    return joint, frame, np.concatenate([chord, r])


@pytest.mark.parametrize("name", ["panda", "six", "scara"])
def test_no_motion_along_a_direction_is_more_than_the_bound(name: str, tmp_path: Path) -> None:
    """Corners of the joints' box and points within it; without the second-order term some would be more."""
    model = arm(str(write_arm(tmp_path, "scara", SCARA)) if name == "scara" else robot_file(name))
    rng, beyond_first, least = np.random.default_rng(3), 0, np.inf
    corners = np.array(list(itertools.product((-1.0, 1.0), repeat=model.n)))
    for _ in range(60):
        q, r = random_q(model, 1, rng)[0], rng.uniform(0.0, rng.choice([0.05, 0.3, 0.8]), model.n)
        base, link = sorted(rng.choice(model.n + 1, 2, replace=False))
        local, direction = rng.uniform(-0.15, 0.15, 3), rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        joint, frame, chord = placed(model, q, r)
        at = fk(model, q[None])[0]
        point = at[link, :3, :3] @ local + at[link, :3, 3]
        bound = kernels.approach(joint, frame, chord, *point, int(link), int(base), *direction)
        first = kernels.approach(joint, frame, 1e-6 * chord, *point, int(link), int(base), *direction) * 1e6
        moved = fk(model, q + r * np.concatenate([corners, rng.uniform(-1.0, 1.0, (200, model.n))]))
        relative = np.linalg.inv(moved[:, base]) @ moved[:, link]
        there = (at[base] @ relative)[:, :3, :3] @ local + (at[base] @ relative)[:, :3, 3]
        along = np.abs((there - point) @ direction)
        assert along.max() <= bound + 1e-9
        beyond_first += bool(along.max() > first + 1e-6)
        least = min(least, bound - along.max())
    assert beyond_first > 3  # so the second-order term is needed, and its absence would be seen here
    assert least < 0.01  # and the bound is not loose everywhere


@pytest.mark.parametrize("kind", ["box", "sphere", "cylinder", "capsule", "halfspace"])
def test_normals_are_unit_gradients_of_convex_distances(kind: str) -> None:
    """Against finite differences; and no point is nearer than the plane through the nearest point allows."""
    rng = np.random.default_rng(5)
    size = {"box": (0.1, 0.2, 0.05), "sphere": (0.1,), "cylinder": (0.1, 0.2), "capsule": (0.1, 0.2), "halfspace": ()}[kind]
    turn = rng.normal(size=4)
    w, x, y, z = (float(v) for v in turn / np.linalg.norm(turn))
    o = Obstacle("o", kind, size, (0.4, 0.1, 0.3), (w, x, y, z))  # type: ignore[arg-type]
    arrays = pack_scene(Scene((o,)), arm(), load_bounds(), 0.0).arrays
    points = np.array(o.position) + rng.uniform(-0.6, 0.6, (400, 3))
    distance = obstacle_distance(o, points)
    outside = points[distance > 1e-3]
    assert len(outside) > 100
    for p in outside:
        n = np.array(kernels.normal(arrays.obstacle, arrays.face, 0, *p))
        slope = [(obstacle_distance(o, p + 1e-6 * e) - obstacle_distance(o, p - 1e-6 * e)) / 2e-6 for e in np.eye(3)]
        assert np.linalg.norm(n) == pytest.approx(1.0, abs=1e-9) and np.abs(n - slope).max() < 1e-3
        assert (distance >= obstacle_distance(o, p) + (points - p) @ n - 1e-9).all()


@pytest.mark.parametrize("name", ["panda", "scara"])
def test_bounds_in_lanes_are_no_less_than_those_of_single_motions(name: str, tmp_path: Path) -> None:
    """Travel, travel of a whole part and motion along a direction, of every lane, against the scalar functions on its frames.

    And a lane's frames are those of its own backup, its radii no less than the range that the backup passes through.
    """
    model = arm(str(write_arm(tmp_path, "scara", SCARA)) if name == "scara" else robot_file(name))
    packed, rng, n = pack_arm(model), np.random.default_rng(7), model.n
    family, width, lane = BackupFamily(k_max=(2.0,) * n), 0.07, kernels.LANES
    bounds = pack_bounds(load_bounds(), n)
    zero, unit = np.empty((5, n, 4)), np.empty((5, n, 4))
    numbers = family.arrays()
    for _ in range(6):
        lanes = kernels.make_lanes(n, packed.part.shape[0], packed.ball.shape[0], 1)
        q, v = random_q(model, 1, rng)[0], rng.uniform(-0.3, 0.3, n)
        assert kernels.responses(packed, numbers, q, v, np.zeros(n), zero, unit)
        k = family.sample(lane, rng)
        lanes.k[:] = k.T.ravel()
        t0 = float(rng.uniform(0.0, 0.9))
        kernels.lane_place(packed, bounds, family.times, zero, unit, lanes, t0, t0 + 0.1)
        work = kernels.make_work(packed, kernels.SceneArrays(np.empty((0, kernels.O_SKIP)), np.empty((0, 4))), bounds, 6, 8)
        base, link = (int(i) for i in sorted(rng.choice(n + 1, 2, replace=False)))
        points, direction = rng.uniform(-0.8, 0.8, (3, lane)), rng.normal(size=(3, lane))
        direction /= np.linalg.norm(direction, axis=0)
        lanes.near[: 3 * lane] = direction.ravel()
        out = np.empty((2, lane))
        at = points.ravel().copy()
        for i, more in enumerate((0.0, width)):
            kernels.lane_travel(packed.joint, lanes.axes, lanes.origin, lanes.chord, at, 0, link, base, more, out[i], 0)
        kernels.lane_approach(packed.joint, lanes, at, 0, link, base)
        for x in range(lane):
            kernels.take(lanes, work, n, x)
            frame, chord, p = work.frame, work.chord, points[:, x]
            travel = kernels.travel(packed.joint, frame, chord, *p, link, base)
            along = kernels.approach(packed.joint, frame, chord, *p, link, base, *direction[:, x])
            assert travel <= out[0, x] + 1e-12 and along == pytest.approx(lanes.near[4 * lane + x], abs=1e-12)
            assert kernels.travel_around(packed.joint, frame, chord, *p, link, base, width) <= out[1, x] + 1e-12
            near = p + rng.normal(size=3) * width / 3.0
            if np.linalg.norm(near - p) <= width:
                assert kernels.travel(packed.joint, frame, chord, *near, link, base) <= out[1, x] + 1e-12
            path = family.trajectory(q, v, np.zeros(n), k[x]).sample(np.linspace(t0, t0 + 0.1, 40))[0]
            middle = family.trajectory(q, v, np.zeros(n), k[x]).sample(np.array([t0 + 0.05]))[0][0]
            assert (np.abs(path - middle) <= chord[n:] + 1e-12).all()
            place = fk(model, middle[None])[0]
            assert np.allclose(frame[:, 9:], place[:, :3, 3], atol=1e-9)
