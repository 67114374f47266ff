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
from tandem.safety import kernels, load_bounds, pack_scene
from tandem.safety.geometry import pack_arm
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
