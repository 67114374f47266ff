"""Clearance of configurations against a plain computation of all pairs, and its gradient against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
from safety_cases import arm

from tandem.core.errors import InputError
from tandem.core.scene import TABLE, Obstacle, Scene
from tandem.robots.kinematics import sphere_centers
from tandem.safety import load_bounds, pack_scene
from tandem.safety.clearance import clearance

BALL = Obstacle("ball", "sphere", (0.07,), (0.45, 0.1, 0.5), position_error=0.01, speed=0.2)
BOX = Obstacle("box", "box", (0.05, 0.1, 0.2), (0.3, -0.4, 0.3))


def test_clearance_is_the_least_distance_of_any_sphere_and_its_gradient_leads_away() -> None:
    model, bounds = arm(), load_bounds()
    rng = np.random.default_rng(0)
    q = model.home + rng.uniform(-0.5, 0.5, (40, 7))
    packed = pack_scene(Scene((BALL, BOX)), model, bounds, 0.0)
    t = rng.uniform(0.0, 1.0, 40)
    value, slope = clearance(model, packed, q, t)
    for i in range(40):
        centres = sphere_centers(model, q[i])
        ball = np.linalg.norm(centres - np.array(BALL.position), axis=1) - 0.07 - 0.01 - 0.2 * (bounds.latency + t[i])
        off = np.abs(centres - np.array(BOX.position)) - np.array(BOX.size)
        box = np.linalg.norm(np.maximum(off, 0.0), axis=1) + np.minimum(off.max(axis=1), 0.0)
        assert value[i] == pytest.approx((np.minimum(ball, box) - model.sphere_radius).min(), abs=1e-12)
    numeric = np.stack(
        [(clearance(model, packed, q + h, t)[0] - clearance(model, packed, q - h, t)[0]) / 2e-6 for h in 1e-6 * np.eye(7)], axis=1
    )
    smooth = np.abs(numeric - slope).max(axis=1) < 1e-3  # not where the nearest pair changes within the step
    assert smooth.mean() > 0.9 and np.abs(slope).max() > 0.1


def test_nothing_to_check_is_infinitely_clear_and_bad_input_is_named() -> None:
    model = arm()
    empty = pack_scene(Scene(()), model, load_bounds(), 0.0)
    value, slope = clearance(model, empty, model.home)
    assert value == np.inf and not slope.any()
    table = pack_scene(Scene((TABLE,)), model, load_bounds(), 0.0)
    assert 0.0 < clearance(model, table, model.home)[0] < 1.0  # the base, which stands on it, is left out
    with pytest.raises(InputError, match="7 joints"):
        clearance(model, empty, np.zeros(6))
    with pytest.raises(InputError, match="finite"):
        clearance(model, empty, np.full(7, np.nan))
