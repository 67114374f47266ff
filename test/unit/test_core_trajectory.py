"""Trajectories and splines: knots integrate, sampling agrees with the knots, tail and then are inverse to each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.core.errors import InputError
from tandem.core.spline import head_knots
from tandem.core.trajectory import Trajectory, integrate_knots
from tandem.core.types import Commitment


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    """2 to 12 knots, 1 to 7 joints, steps of 1 ms to 0.5 s, accelerations to 15 rad/s^2."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    knots, joints = draw(st.integers(2, 12)), draw(st.integers(1, 7))
    times = np.concatenate([[0.0], np.cumsum(rng.uniform(1e-3, 0.5, knots - 1))])
    a = rng.uniform(-15.0, 15.0, (knots, joints))
    q, v = integrate_knots(times, rng.uniform(-2.8, 2.8, joints), rng.uniform(-2.0, 2.0, joints), a)
    return Trajectory(times, q, v, a)


@given(trajectories())
@settings(deadline=None)
def test_knots_are_consistent_and_are_what_sampling_returns(trajectory: Trajectory) -> None:
    assert trajectory.consistency() < 1e-9
    q, v, a = trajectory.sample(trajectory.times)
    np.testing.assert_allclose(q, trajectory.q, atol=1e-9)
    np.testing.assert_allclose(v, trajectory.v, atol=1e-9)
    np.testing.assert_allclose(a, trajectory.a, atol=1e-9)


@given(trajectories(), st.floats(0.01, 0.99))
@settings(deadline=None)
def test_sampled_derivatives_are_those_of_the_position(trajectory: Trajectory, share: float) -> None:
    """Away from the knots the acceleration is linear, so that differences over a short span are exact to its square."""
    i = int(share * (len(trajectory.times) - 1))
    t0, t1 = trajectory.times[i], trajectory.times[i + 1]
    t, h = t0 + (t1 - t0) * 0.5, min(1e-4, 0.2 * (t1 - t0))
    (qm, vm, _), (_, v, a), (qp, vp, _) = (trajectory.sample(t + d) for d in (-h, 0.0, h))
    jerk = np.abs(trajectory.jerk()).max()
    np.testing.assert_allclose((qp - qm) / (2 * h), v, atol=jerk * h * h + 1e-7)
    np.testing.assert_allclose((vp - vm) / (2 * h), a, atol=jerk * h * h + 1e-7)


@given(trajectories(), st.floats(0.0, 1.0))
@settings(deadline=None)
def test_tail_is_the_rest_of_the_same_motion(trajectory: Trajectory, share: float) -> None:
    t = share * trajectory.duration
    tail = trajectory.tail(t)
    assert tail.times[0] == 0.0
    # short of the end: past it, a trajectory that does not end at rest is taken to stand
    inside = np.linspace(0.0, 0.999 * max(0.0, trajectory.duration - t), 9)
    if trajectory.duration - t > 1e-9:
        for got, want in zip(tail.sample(inside), trajectory.sample(t + inside), strict=True):
            np.testing.assert_allclose(got, want, atol=1e-7)
    else:
        assert np.all(tail.v == 0.0) and np.all(tail.q == trajectory.q[-1])


@given(trajectories(), st.floats(0.05, 0.95))
@settings(deadline=None)
def test_head_then_tail_is_the_whole(trajectory: Trajectory, share: float) -> None:
    t = share * trajectory.duration
    q, v, a = trajectory.sample(t)
    keep = trajectory.times < t - 1e-9
    head = Trajectory(
        np.concatenate([trajectory.times[keep], [t]]),
        *(np.vstack([x[keep], y]) for x, y in ((trajectory.q, q), (trajectory.v, v), (trajectory.a, a))),
    )
    whole = head.then(trajectory.tail(t))
    assert whole.duration == pytest.approx(trajectory.duration, abs=1e-9)
    times = np.linspace(0.0, 0.999 * trajectory.duration, 23)
    np.testing.assert_allclose(whole.sample(times)[0], trajectory.sample(times)[0], atol=1e-7)


@given(trajectories())
@settings(deadline=None, max_examples=30)
def test_digest_depends_on_every_number(trajectory: Trajectory) -> None:
    copy = Trajectory(*(x.copy() for x in (trajectory.times, trajectory.q, trajectory.v, trajectory.a)))
    assert copy.digest() == trajectory.digest()
    for name in ("times", "q", "v", "a"):
        parts = {n: getattr(trajectory, n).copy() for n in ("times", "q", "v", "a")}
        parts[name].flat[-1] = np.nextafter(parts[name].flat[-1], np.inf)
        assert Trajectory(**parts).digest() != trajectory.digest()


def test_after_its_end_a_trajectory_is_at_rest() -> None:
    trajectory = Trajectory(np.array([0.0, 1.0]), np.array([[0.0], [1.0]]), np.ones((2, 1)), np.zeros((2, 1)))
    q, v, a = trajectory.sample([0.5, 1.0, 1.001, 99.0])
    np.testing.assert_allclose(q[:, 0], [0.5, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(v[:, 0], [1.0, 1.0, 0.0, 0.0])
    assert not a.any() and not trajectory.ends_at_rest()
    assert Trajectory.at_rest([0.3, 0.4]).ends_at_rest()


@pytest.mark.parametrize("change", [
    {"times": np.array([0.0, 0.0])}, {"times": np.array([0.1, 1.0])}, {"times": np.array([0.0, -1.0])},
    {"times": np.array([0.0])}, {"q": np.array([[0.0], [np.nan]])},
    {"v": np.array([[np.inf], [0.0]])}, {"a": np.zeros((3, 1))}, {"q": np.zeros((2, 2))},
], ids=str)
def test_malformed_trajectories_are_refused(change: dict[str, np.ndarray]) -> None:
    good = {"times": np.array([0.0, 1.0]), "q": np.zeros((2, 1)), "v": np.zeros((2, 1)), "a": np.zeros((2, 1))}
    with pytest.raises(InputError, match="trajectory"):
        Trajectory(**{**good, **change})


def test_then_refuses_a_gap() -> None:
    with pytest.raises(InputError, match="away from the first's end"):
        Trajectory.at_rest([0.0]).then(Trajectory.at_rest([0.1]))


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_heads_start_where_they_must_and_follow_smooth_waypoints(seed: int) -> None:
    rng = np.random.default_rng(seed)
    q0, v0, a0 = rng.uniform(-1, 1, 7), rng.uniform(-0.5, 0.5, 7), rng.uniform(-1, 1, 7)
    times = 0.1 * np.arange(1, 9)
    # a parabola that continues the start: nothing to smooth, so it is met closely
    waypoints = (q0 + times[:, None] * v0 + 0.5 * times[:, None] ** 2 * a0)[None]
    t, q, v, a = head_knots(q0, v0, a0, waypoints, 0.1)
    np.testing.assert_allclose((q[0, 0], v[0, 0], a[0, 0]), (q0, v0, a0), atol=1e-12)
    np.testing.assert_allclose(q[0, 1:], waypoints[0], atol=1e-6)
    assert Trajectory(t, q[0], v[0], a[0]).consistency() < 1e-9
    # linear in its input: two heads at once are the two alone
    other = waypoints + rng.normal(0.0, 0.05, waypoints.shape)
    both = head_knots(q0, v0, a0, np.concatenate([waypoints, other]), 0.1)
    np.testing.assert_allclose(both[1][1], head_knots(q0, v0, a0, other, 0.1)[1][0], atol=1e-12)


def test_commitment_tells_the_state_and_width_at_a_time() -> None:
    trajectory = Trajectory(np.array([0.0, 1.0]), np.array([[0.0], [1.0]]), np.ones((2, 1)), np.zeros((2, 1)))
    commitment = Commitment(trajectory, 10.0, np.array([0.08, 0.04]))
    assert commitment.end == 11.0
    assert commitment.state_at(10.25)[0][0] == pytest.approx(0.25)
    assert commitment.width_at(10.5) == pytest.approx(0.06)
    assert commitment.width_at(99.0) == pytest.approx(0.04)
