"""Exact extrema, backups and stops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safety_cases import FAMILY, arm, motion

from tandem.core.errors import InputError
from tandem.core.trajectory import Trajectory
from tandem.robots.model import velocity_limits
from tandem.safety import BackupFamily, kernels, stop_trajectory
from tandem.safety.geometry import pack_arm

NUMBER = st.floats(-10.0, 10.0, allow_nan=False)


@given(NUMBER, NUMBER, NUMBER, NUMBER, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
@settings(max_examples=300, deadline=None)
def test_extrema_of_a_cubic_are_exact(q0: float, v0: float, a0: float, j: float, s0: float, span: float) -> None:
    s = np.linspace(s0, s0 + span, 2001)
    lo, hi = kernels.cubic_range(q0, v0, a0, j, s[0], s[-1])
    q = q0 + s * (v0 + s * (a0 / 2 + s * j / 6))
    assert lo <= q.min() + 1e-12 * (1 + abs(q0)) and hi >= q.max() - 1e-12 * (1 + abs(q0))
    curve = (abs(a0) + 2 * abs(j)) * (s[1] - s[0]) ** 2  # what sampling can miss
    assert lo >= q.min() - curve - 1e-12 and hi <= q.max() + curve + 1e-12
    vlo, vhi = kernels.speed_range(v0, a0, j, s[0], s[-1])
    v = v0 + s * (a0 + s * j / 2)
    assert vlo <= v.min() + 1e-12 and vhi >= v.max() - 1e-12
    assert vlo >= v.min() - abs(j) * (s[1] - s[0]) ** 2 - 1e-12


def test_speed_law_is_decided_as_by_dense_sampling() -> None:
    rng = np.random.default_rng(3)
    model, joint = arm(), pack_arm(arm()).joint
    wrong = refused = 0
    for _ in range(400):
        t = motion(rng, spread=1.2, speed=1.5)
        code, _, _ = kernels.limits(joint, t.times, t.q, t.v, t.a, np.empty((6, 7, 4)), True)
        q, v, _ = t.sample(np.linspace(0.0, t.duration, 2001))
        lo, hi = velocity_limits(model, q)
        margin = min((hi - v).min(), (v - lo).min())
        if code == kernels.OK:
            assert margin >= -1e-8
        elif code == kernels.VELOCITY:
            refused += 1
            wrong += margin > 1e-5
    assert refused > 50 and wrong == 0


def test_backup_ends_at_rest_and_equals_the_compiled_one() -> None:
    rng = np.random.default_rng(0)
    q0, v0, a0, k = (rng.uniform(-1, 1, (20, 7)) for _ in range(4))
    times, q, v, a = FAMILY.build(q0, v0, a0, k)
    for i in range(20):
        t = Trajectory(times, q[i], v[i], a[i])
        assert t.ends_at_rest() and t.consistency() < 1e-12
        assert np.allclose(t.sample(0.3)[2], k[i])
        one = [np.empty((6, 7)) for _ in range(3)]
        kernels.build_backup(FAMILY.arrays(), q0[i], v0[i], a0[i], k[i], *one)
        for ours, theirs in zip(one, (q[i], v[i], a[i]), strict=True):
            assert np.abs(ours - theirs).max() < 1e-12


def test_backup_cost_is_the_mean_squared_distance() -> None:
    rng = np.random.default_rng(1)
    q0, v0, a0 = (rng.uniform(-1, 1, (3, 7)) for _ in range(3))
    tail, tail_times, k = rng.uniform(-1, 1, (3, 8, 7)), np.linspace(0.1, 1.3, 8), rng.uniform(-2, 2, (5, 7))
    cost = FAMILY.cost(q0, v0, a0, tail, tail_times, k)
    pairs = FAMILY.cost(q0, v0, a0, tail, tail_times, np.repeat(k[None], 3, axis=0))
    for h in range(3):
        for i in range(5):
            played = FAMILY.trajectory(q0[h], v0[h], a0[h], k[i]).sample(tail_times)[0]
            assert cost[h, i] == pytest.approx(np.mean((played - tail[h]) ** 2), rel=1e-9)
    assert np.allclose(cost, pairs)
    best = FAMILY.nearest(q0, v0, a0, tail, tail_times)
    around = FAMILY.cost(q0, v0, a0, tail, tail_times, np.clip(best[:, None] + rng.normal(0, 0.05, (3, 50, 7)), -2, 2))
    assert (FAMILY.cost(q0, v0, a0, tail, tail_times, best[:, None])[:, 0][:, None] <= around + 1e-12).all()


def test_backup_family_refuses_impossible_times() -> None:
    with pytest.raises(InputError, match="accelerate"):
        BackupFamily(accelerate=0.95, stop=1.0, ramp=0.05)


def test_stop_is_as_fast_as_ruckig() -> None:
    ruckig = pytest.importorskip("ruckig")
    model, rng = arm(), np.random.default_rng(2)
    for _ in range(60):
        q, v, a = model.home, rng.uniform(-2.5, 2.5, 7), rng.uniform(-9, 9, 7)
        t = stop_trajectory(model, q, v, a, scale=1.0)
        assert t.ends_at_rest() and t.consistency() < 1e-7
        assert (np.abs(t.a).max(axis=0) <= model.acceleration + 1e-9).all() and (np.abs(t.jerk()) <= model.jerk * 1.001).all()
        request = ruckig.InputParameter(7)
        request.control_interface = ruckig.ControlInterface.Velocity
        request.synchronization = ruckig.Synchronization.No
        request.current_position, request.current_velocity, request.current_acceleration = list(q), list(v), list(a)
        request.target_velocity, request.target_acceleration = [0.0] * 7, [0.0] * 7
        request.max_acceleration, request.max_jerk = list(model.acceleration), list(model.jerk)
        theirs = ruckig.Trajectory(7)
        ruckig.Ruckig(7).calculate(request, theirs)
        assert t.duration == pytest.approx(theirs.duration, abs=1e-6)
        assert np.abs(t.q[-1] - np.array(theirs.at_time(theirs.duration)[0])).max() < 1e-6


def test_stop_refuses_nan() -> None:
    with pytest.raises(InputError, match="finite"):
        stop_trajectory(arm(), arm().home, np.full(7, np.nan), np.zeros(7))
