"""Quintic trajectories: states and extrema against scipy's BPoly, what is played for them, certificates against exact balls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safety_cases import arm, boxes
from scipy.interpolate import BPoly

from tandem.core.errors import InputError
from tandem.core.quintic import QuinticTrajectory, cut, evaluate, least
from tandem.core.scene import TABLE, Obstacle, Scene
from tandem.core.trajectory import Trajectory
from tandem.core.types import Reason
from tandem.robots.kinematics import sphere_centers
from tandem.robots.model import velocity_limits, with_limits
from tandem.safety import Bounds, certify_one, certify_quintic, load_bounds
from tandem.safety.quintic import broken_limit

Array = NDArray[np.float64]
BOUNDS = load_bounds()
OPEN = Scene((TABLE,))
ZERO = np.zeros(7)


def quintic(rng: np.random.Generator, knots: int = 4, size: float = 0.3, joints: int = 7) -> tuple[QuinticTrajectory, BPoly]:
    """A random one that ends at rest, and the same by scipy."""
    times = np.concatenate([[0.0], np.cumsum(rng.uniform(0.2, 0.6, knots - 1))])
    home = arm().home if joints == 7 else np.zeros(joints)
    q = home + np.cumsum(size * rng.uniform(-0.5, 0.5, (knots, joints)), axis=0)
    v, a = size * rng.uniform(-1, 1, (knots, joints)), 2 * size * rng.uniform(-1, 1, (knots, joints))
    v[-1] = a[-1] = 0.0
    theirs = BPoly.from_derivatives(times, [[q[i], v[i], a[i]] for i in range(knots)])
    return QuinticTrajectory.through(times, q, v, a), theirs


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_states_are_those_of_scipys_bernstein_polynomials(seed: int, knots: int) -> None:
    rng = np.random.default_rng(seed)
    t, theirs = quintic(rng, knots)
    at = rng.uniform(0.0, t.duration, 50)
    q, v, a = t.sample(at)
    assert np.abs(q - theirs(at)).max() < 1e-12
    assert np.abs(v - theirs.derivative(1)(at)).max() < 1e-11 and np.abs(a - theirs.derivative(2)(at)).max() < 1e-9
    past = t.sample(t.duration + 1.0)
    assert np.array_equal(past[0], t.points[-1, -1]) and not past[1].any() and not past[2].any()


@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
@settings(max_examples=60, deadline=None)
def test_extrema_are_exact_over_any_interval(seed: int, order: int, x: float, y: float) -> None:
    """Against scipy: values at the ends, the segments' ends, and the real roots of the next derivative."""
    t, theirs = quintic(np.random.default_rng(seed), 3, joints=2)
    t0, t1 = sorted((x * t.duration, y * t.duration))
    lo, hi = t.extrema(t0, t1, order)
    for j in range(2):
        values = []
        for i in range(2):
            begin, end = t.times[i], t.times[i + 1]
            one = BPoly(theirs.c[:, i : i + 1, j], [begin, end]).derivative(order)
            s0, s1 = max(t0, begin), min(t1, end)
            if s0 > s1:
                continue
            u = np.linspace(0.0, 1.0, 6)
            powers = np.polynomial.Polynomial.fit(begin + (end - begin) * u, one(begin + (end - begin) * u), 5 - order).deriv()
            roots = powers.roots()
            inner = roots[np.abs(roots.imag) < 1e-6].real
            values += [float(one(p)) for p in (s0, s1, *inner[(inner > s0) & (inner < s1)])]
        size = 1.0 + max(map(abs, values))
        assert lo[j] <= min(values) + 1e-12 * size and hi[j] >= max(values) - 1e-12 * size  # on the safe side of rounding
        assert lo[j] >= min(values) - 1e-8 * size and hi[j] <= max(values) + 1e-8 * size


def test_extrema_of_flat_and_touching_polynomials() -> None:
    """Where halving cannot tell pieces apart the search must end, with a sound bound."""
    for rows in (np.zeros(6), np.full(6, 1e-17), np.array([1.0, 1, 1, 1, 1, 1]), np.array([0, 0, 0, 0, 0, 1e-30])):
        assert rows.min() - 1e-11 <= least(rows[:, None])[0] <= rows.min()
    # (s - 1/2)^4 in Bernstein form: a minimum of order four
    control = np.linalg.solve(_bernstein(4), (np.linspace(0.0, 1.0, 5) - 0.5) ** 4)
    assert -1e-9 <= least(control[:, None])[0] <= 0.0


def _bernstein(degree: int) -> Array:
    """Rows: the basis at ``degree + 1`` even places."""
    s = np.linspace(0.0, 1.0, degree + 1)
    return np.stack([BPoly(np.eye(degree + 1)[k][:, None], [0.0, 1.0])(s) for k in range(degree + 1)], axis=1)


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
@settings(max_examples=40, deadline=None)
def test_a_cut_is_the_same_polynomial(seed: int, x: float, y: float) -> None:
    points = np.random.default_rng(seed).uniform(-1, 1, (6, 3))
    s0, s1 = sorted((x, y))
    part = cut(points, s0, s1)
    for u in (0.0, 0.3, 1.0):
        assert np.abs(evaluate(part, np.array(u)) - evaluate(points, np.array(s0 + u * (s1 - s0)))).max() < 1e-12


@pytest.mark.parametrize("pieces", [3, 8, 32])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_played_meets_every_state_and_its_distance_is_bounded_tightly(seed: int, pieces: int) -> None:
    t, _ = quintic(np.random.default_rng(seed), 2 + seed)
    played, apart = t.played(pieces)
    assert played.consistency() < 1e-9 and len(played.times) == (1 + seed) * pieces + 1
    for ours, theirs in zip(t.sample(t.times), played.sample(t.times), strict=True):
        assert np.abs(ours - theirs).max() < 1e-9
    at = np.linspace(0.0, t.duration, 20001)
    found = np.abs(t.sample(at)[0] - played.sample(at)[0]).max(axis=0)
    assert (found <= apart).all() and (apart <= 1.05 * found + 1e-7).all()


def _true_clearance(t: QuinticTrajectory, scene: Scene) -> float:
    """Least distance of the arm's balls from the spheres of a scene along the quintic, densely sampled."""
    balls = sphere_centers(arm(), t.sample(np.linspace(0.0, t.duration, 2001))[0])
    return min(
        float((np.linalg.norm(balls - np.array(o.position), axis=-1) - arm().sphere_radius - o.size[0]).min())
        for o in scene.obstacles
    )


def _worst_gap(widened: bool) -> float:
    """Least true minus certified clearance over balls put where the quintic, but not what is played, comes nearest."""
    bounds, gap = Bounds(tracking_error=(0.0,), interval=0.02, levels=6), np.inf
    alone = dataclasses.replace(arm(), self_pairs=np.zeros((0, 2), np.int64), digest="without pairs")
    for seed in range(6):
        t, _ = quintic(np.random.default_rng(seed), 2, size=1.0)
        played, _ = t.played(3)
        at = np.linspace(0.0, t.duration, 400)
        ours, theirs = (sphere_centers(arm(), x.sample(at)[0]) for x in (t, played))
        i, s = np.unravel_index(int(np.linalg.norm(ours - theirs, axis=-1).argmax()), ours.shape[:2])
        way = (ours - theirs)[i, s] / np.linalg.norm((ours - theirs)[i, s])
        p = ours[i, s] + (arm().sphere_radius[s] + 0.05) * way
        scene = Scene((Obstacle("ball", "sphere", (0.03,), (p[0], p[1], p[2])),))
        found = certify_quintic(alone, t, scene, bounds, 0.0, pieces=3, widened=widened)
        gap = min(gap, _true_clearance(t, scene) - found.verdict.clearance)
    return gap


def test_clearance_holds_on_the_quintic_itself() -> None:
    assert _worst_gap(True) >= 0.0


def test_mutation_distance_of_quintic_and_played() -> None:
    assert _worst_gap(False) < 0.0


def test_a_gentle_quintic_is_certified_and_what_is_played_too() -> None:
    rng = np.random.default_rng(0)
    t, _ = quintic(rng, 2, size=0.1)
    found = certify_quintic(arm(), t, boxes(rng, 2), BOUNDS, 0.0)
    assert found.verdict.certified and found.apart.max() < 1e-4 and len(found.verdict.digest) == 64
    assert found.trajectory.ends_at_rest()
    same = certify_one(arm(), found.trajectory, OPEN, BOUNDS, 0.0)
    assert same.certified
    other, _ = quintic(rng, 2, size=0.1)
    digests = {certify_quintic(arm(), x, OPEN, BOUNDS, 0.0).verdict.digest for x in (t, other)}
    assert len(digests) == 2


def _one(q1: Array, v0: Array = ZERO, v1: Array = ZERO, a0: Array = ZERO, duration: float = 1.0) -> QuinticTrajectory:
    home = arm().home
    return QuinticTrajectory.through(
        [0.0, duration], np.stack([home, home + q1]), np.stack([v0, v1]), np.stack([a0, ZERO])
    )


def test_limits_of_the_quintic_are_found_between_its_knots() -> None:
    first = np.eye(7)[0]
    near = with_limits(arm(), upper=np.where(first > 0, 0.1, arm().upper))
    over = _one(0.0 * first, v0=0.8 * first)  # leaves home and comes back: the knots are within the limits
    assert broken_limit(near, over) is not None and broken_limit(near, over)[0] is Reason.POSITION_LIMIT  # type: ignore[index]
    assert certify_quintic(near, over, OPEN, BOUNDS, 0.0).verdict.reason is Reason.POSITION_LIMIT
    fast = _one(1.6 * first)  # 15/8 of the mean speed in the middle
    for broken, reason in (
        (with_limits(arm(), velocity=np.full(7, 2.9)), Reason.VELOCITY_LIMIT),
        (with_limits(arm(), velocity=np.full(7, 3.1), velocity_position=np.full((7, 4), np.nan)), None),
        (with_limits(arm(), acceleration=np.full(7, 9.0), velocity_position=np.full((7, 4), np.nan), velocity=np.full(7, 3.1)),
         Reason.ACCELERATION_LIMIT),
        (with_limits(arm(), jerk=np.full(7, 90.0), velocity_position=np.full((7, 4), np.nan), velocity=np.full(7, 3.1)),
         Reason.JERK_LIMIT),
    ):
        found = broken_limit(broken, fast)
        assert (found and found[0]) is reason


def test_the_position_dependent_speed_limit_is_decided_as_by_dense_sampling() -> None:
    rng, wrong, kinds = np.random.default_rng(3), 0, set()
    wide = with_limits(arm(), acceleration=np.full(7, 1e3), jerk=np.full(7, 1e5))
    for _ in range(60):
        end = rng.uniform(arm().lower, arm().upper) * 0.9
        t = _one(0.6 * (end - arm().home), duration=rng.uniform(0.5, 1.2))
        q, v, _ = t.sample(np.linspace(0.0, t.duration, 2001))
        low, high = velocity_limits(wide, q)
        margin = min(float((high - v).min()), float((v - low).min()))
        found = broken_limit(wide, t)
        kinds.add(found is None)
        if found is None:
            assert margin >= -1e-8
        else:
            assert found[0] is Reason.VELOCITY_LIMIT
            wrong += margin > 1e-5
    assert kinds == {True, False} and wrong == 0


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: QuinticTrajectory([0.0, 1.0], np.full((1, 6, 7), np.nan)), "points.*NaN"),
        (lambda: QuinticTrajectory([0.0, 1.0], np.zeros((1, 5, 7))), "shapes"),
        (lambda: QuinticTrajectory([0.0, 1.0], "abc"), "points"),
        (lambda: QuinticTrajectory([0.0, 0.0], np.zeros((1, 6, 7))), "times"),
        (lambda: QuinticTrajectory([0.5, 1.0], np.zeros((1, 6, 7))), "times"),
        (lambda: QuinticTrajectory([0.0, 1.0, 2.0], np.stack([np.zeros((6, 7)), np.ones((6, 7))])), "rad apart"),
        (lambda: QuinticTrajectory([0.0, 1.0, 2.0], np.stack([np.zeros((6, 1)), np.arange(6.0)[:, None]])), "rad/s apart"),
        (lambda: QuinticTrajectory.through([0.0, 1.0], np.zeros((2, 7)), np.zeros((2, 6)), np.zeros((2, 7))), "shapes"),
        (lambda: quintic(np.random.default_rng(0))[0].extrema(0.5, 0.2), "extrema"),
        (lambda: quintic(np.random.default_rng(0))[0].extrema(0.0, 0.2, 4), "order"),
        (lambda: quintic(np.random.default_rng(0))[0].played(2), "pieces"),
        (lambda: quintic(np.random.default_rng(0))[0].apart(Trajectory.at_rest(np.zeros(3))), "apart"),
        (lambda: certify_quintic(arm(), quintic(np.random.default_rng(0), joints=3)[0], OPEN, BOUNDS, 0.0), "joints"),
        (lambda: certify_quintic(arm(), quintic(np.random.default_rng(0))[0], OPEN, BOUNDS, float("nan")), "now"),
    ],
)
def test_bad_input_is_named(make: Callable[[], object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_a_quintic_that_does_not_end_at_rest_is_refused() -> None:
    moving = _one(0.1 * np.eye(7)[0], v1=0.1 * np.eye(7)[0])
    assert certify_quintic(arm(), moving, OPEN, BOUNDS, 0.0).verdict.reason is Reason.NOT_AT_REST
