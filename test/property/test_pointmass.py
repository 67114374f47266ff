"""The point mass against brute force: occupancy and clearance to 1e-9, verdicts by dense sampling; mutations of its kernels.

The oracle is sampling: dense times, then denser ones around the least values. It shares no formula with the kernels.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tandem.core.errors import InputError
from tandem.core.types import Reason
from tandem.safety import point_kernels, pointmass
from tandem.safety.pointmass import (
    PointFamily,
    certify_point_grid,
    certify_points,
    find_point_backup,
    pack_walls,
    point_knots,
    point_reach,
)

Array = NDArray[np.float64]
FAMILY = PointFamily()
SEEDS = st.integers(0, 2**32 - 1)


def at(times: Array, p: Array, v: Array, a: Array, t: Array) -> Array:
    """(T, 2) places at ``t`` (T,) of one motion."""
    i = np.clip(np.searchsorted(times, t, side="right") - 1, 0, len(times) - 2)
    s = (t - times[i])[:, None]
    return p[i] + s * v[i] + 0.5 * s * s * a[i]


def misses(times: Array, p: Array, v: Array, a: Array, boxes: Array, t: Array) -> Array:
    """(T,) what the walls could grow by at each time."""
    x = at(times, p, v, a, t)[:, None]
    out = np.maximum(boxes[None, :, :2] - x, x - boxes[None, :, 2:]).max(axis=2).min(axis=1)
    return np.asarray(out)


def least(f: Callable[[Array], Array], begin: float, end: float) -> float:
    """The least value of f over [begin, end]: dense samples, then finer and finer around the best of them."""
    t = np.linspace(begin, end, 4001)
    y = f(t)
    best, step = float(y.min()), (end - begin) / 4000
    for start in t[np.argsort(y)[:24]]:
        centre, width = float(start), step
        for _ in range(7):
            fine = np.clip(np.linspace(centre - width, centre + width, 41), begin, end)
            values = f(fine)
            centre, width = float(fine[int(values.argmin())]), width / 10.0
            best = min(best, float(values.min()))
    return best


def motion(rng: np.random.Generator) -> tuple[Array, Array, Array, Array]:
    """One head of five held accelerations, or a backup; batch of 1."""
    p0, v0 = rng.uniform(-1, 1, 2), rng.uniform(-2.4, 2.4, 2) * rng.choice([0.0, 1.0], 2)
    if rng.uniform() < 0.5:
        return FAMILY.build(p0, v0, FAMILY.sample(1, rng) * rng.choice([0.0, 0.1, 0.6], 2))
    return point_knots(p0, v0, rng.uniform(-7.5, 7.5, (1, 5, 2)), float(rng.choice([0.01, 0.1, 0.2])))


def maze(rng: np.random.Generator, count: int = 6) -> Array:
    low = rng.uniform(-3, 3, (count, 2))
    return np.concatenate([low, low + rng.uniform(0.05, 1.0, (count, 2))], axis=1)


@given(SEEDS)
@settings(max_examples=25, deadline=None)
def test_occupancy_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    knots = motion(rng)
    edges = np.sort(np.concatenate([[0.0, knots[0][-1]], rng.uniform(0.0, knots[0][-1], 2)]))
    lo, hi = point_reach(*knots, edges)
    one = (knots[0], knots[1][0], knots[2][0], knots[3][0])
    for i in range(len(edges) - 1):
        for d in range(2):
            def low(t: Array, d: int = d) -> Array:
                return at(*one, t)[:, d]

            def high(t: Array, d: int = d) -> Array:
                return -at(*one, t)[:, d]

            assert abs(lo[0, i, d] - least(low, edges[i], edges[i + 1])) <= 1e-9
            assert abs(hi[0, i, d] + least(high, edges[i], edges[i + 1])) <= 1e-9


@given(SEEDS, st.sampled_from([0.0, 0.2, 0.5]))
@settings(max_examples=60, deadline=None)
def test_clearance_and_verdict_equal_brute_force(seed: int, padding: float) -> None:
    rng = np.random.default_rng(seed)
    knots, boxes = motion(rng), maze(rng)
    full = certify_points(FAMILY, *knots, pack_walls(boxes), padding, full=True, at_rest=False)
    lazy = certify_points(FAMILY, *knots, pack_walls(boxes), padding, at_rest=False)
    one = (knots[0], knots[1][0], knots[2][0], knots[3][0])
    true = least(lambda t: misses(*one, boxes, t), 0.0, float(knots[0][-1])) - padding
    assert abs(full.clearance[0] - true) <= 1e-9
    assert full.code[0] == lazy.code[0]
    if full.reason[0] in (Reason.CERTIFIED, Reason.COLLISION):
        assert full.certified[0] == (true >= point_kernels.PAD) or abs(true - point_kernels.PAD) < 1e-9
    there = misses(*one, boxes[[full.wall[0]]], np.array([full.time[0]]))[0] - padding
    assert there == pytest.approx(full.clearance[0], abs=1e-12), "time and wall of the worst case"


@given(SEEDS)
@settings(max_examples=20, deadline=None)
def test_the_grid_says_what_each_pair_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    walls = pack_walls(maze(rng, 4))
    times, p, v, a = point_knots(rng.uniform(-1, 1, 2), rng.uniform(-2, 2, 2), rng.uniform(-7.5, 7.5, (4, 5, 2)), 0.05)
    k = FAMILY.sample(6, rng)
    for own in (k, np.stack([k + 0.1 * i for i in range(4)])):
        lazy, full = (certify_point_grid(FAMILY, times, p, v, a, own, walls, 0.1, full=x) for x in (False, True))
        assert np.array_equal(lazy.feasible, full.feasible)
        for h in range(4):
            head = certify_points(FAMILY, times, p[[h]], v[[h]], a[[h]], walls, 0.1, full=True, at_rest=False)
            assert lazy.head_code[h] == full.head_code[h] == head.code[0]
            ks = own if own.ndim == 2 else own[h]
            back = certify_points(FAMILY, *FAMILY.build(p[h, -1], v[h, -1], ks), walls, 0.1, full=True)
            assert np.array_equal(full.feasible[h], back.certified & head.certified[0])
            assert np.allclose(full.clearance[h], np.minimum(back.clearance, head.clearance[0]), atol=1e-12)


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_a_certified_motion_never_enters_a_padded_wall(seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes, padding = maze(rng), 0.2
    k = FAMILY.sample(64, rng)
    knots = FAMILY.build(rng.uniform(-1, 1, 2), rng.uniform(-2, 2, 2), k)
    found = certify_points(FAMILY, *knots, pack_walls(boxes), padding)
    t = np.linspace(0.0, 1.0, 2001)
    for i in range(64):
        low = misses(knots[0], knots[1][i], knots[2][i], knots[3][i], boxes, t).min() - padding
        assert not found.certified[i] or low > 0.0
        assert low > 0.0 or not found.certified[i]


# ------------------------------------------------------------------------------------------------------------- mutations
def mutant(old: str, new: str) -> types.ModuleType:
    """The kernels with one change, uncompiled."""
    text = Path(point_kernels.__file__).read_text(encoding="utf-8")
    assert text.count(old) == 1, old
    module = types.ModuleType("mutant")
    plain = text.replace(old, new).replace("from numba import njit", "def njit(*_, **__):\n    return lambda f: f")
    exec(compile(plain, "mutant", "exec"), module.__dict__)
    return module


def faults(monkeypatch: pytest.MonkeyPatch, module: types.ModuleType) -> int:
    """Seeds on which clearance or occupancy differ from brute force, or a backup is certified into a wall."""
    monkeypatch.setattr(pointmass, "kernels", module)
    found = 0
    for seed in range(72):
        rng = np.random.default_rng(seed)
        knots, boxes = motion(rng), maze(rng, 3)
        one = (knots[0], knots[1][0], knots[2][0], knots[3][0])
        x, y = at(*one, np.array([rng.uniform(0.0, knots[0][-1])]))[0]
        if seed % 4 == 0:      # a thin wall in the way: passing its middle is what counts
            boxes[0] = ([x - 0.05, y - 1.0, x + 0.05, y + 3.0], [x - 3.0, y - 0.05, x + 1.0, y + 0.05])[seed // 4 % 2]
        full = certify_points(FAMILY, *knots, pack_walls(boxes), full=True, at_rest=False)
        true = least(lambda t, one=one, boxes=boxes: misses(*one, boxes, t), 0.0, float(knots[0][-1]))
        lo, _ = point_reach(*knots, [0.0, knots[0][-1]])
        low = least(lambda t, one=one: at(*one, t)[:, 0], 0.0, float(knots[0][-1]))
        found += abs(full.clearance[0] - true) > 1e-9 or abs(lo[0, 0, 0] - low) > 1e-9
    return found


@pytest.mark.parametrize(("old", "new"), [
    ("        if s0 < s < s1:\n", "        if False:\n"),
    ("        times[count] = -vx / ax\n", "        times[count] = 0.0\n"),
    ("    count = roots(x - y - apart, vx - vy, ax - ay, times, count)\n", ""),
    ("    count = roots(x + y + apart, vx + vy, ax + ay, times, count)\n", ""),
    ("    count = roots(x, vx, ax, times, count)\n", ""),
    ("            if max(far_x, far_y) >= best:\n", "            if min(far_x, far_y) >= best or w == 1:\n"),
], ids=["vertex of the occupancy", "vertex of x", "equal terms", "other equal terms", "centre", "culling"])
def test_mutation(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    assert faults(monkeypatch, mutant(old, new)) > 0


def test_the_unchanged_kernels_have_no_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert faults(monkeypatch, mutant("LIMIT_SLACK = 1e-9", "LIMIT_SLACK = 1.0e-9")) == 0


@pytest.mark.parametrize(("old", "new", "speed", "k", "reason"), [
    ("abs(v0) <= speed + LIMIT_SLACK and", "True or", 9.0, 0.0, Reason.VELOCITY_LIMIT),
    ("if code == OK and not abs(a0) <= acceleration + LIMIT_SLACK:", "if False:", 0.0, 8.0, Reason.ACCELERATION_LIMIT),
])
def test_mutation_of_limits(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str, speed: float, k: float, reason: Reason
) -> None:
    knots = FAMILY.build(np.zeros(2), np.array([speed, 0.0]), np.array([[k if k else -speed / 0.5 * 0.4, 0.0]]))
    walls = pack_walls([])
    assert certify_points(FAMILY, *knots, walls).reason[0] is reason
    monkeypatch.setattr(pointmass, "kernels", mutant(old, new))
    assert certify_points(FAMILY, *knots, walls).reason[0] is not reason


def test_padding_is_what_keeps_the_distance() -> None:
    knots = FAMILY.build(np.zeros(2), np.zeros(2), np.array([[1.0, 0.0]]))     # ends at x = 0.25
    walls = pack_walls([[0.35, -1.0, 0.5, 1.0]])
    assert certify_points(FAMILY, *knots, walls, 0.09).certified[0]
    assert not certify_points(FAMILY, *knots, walls, 0.11).certified[0]
    assert certify_points(FAMILY, *knots, walls, 0.09, full=True).clearance[0] == pytest.approx(0.01, abs=1e-12)


# ------------------------------------------------------------------------------------------------------------- the policy
def test_backups_end_at_rest_and_the_basis_agrees_with_the_knots() -> None:
    rng = np.random.default_rng(0)
    p0, v0, k = rng.normal(size=2), rng.normal(size=2), FAMILY.sample(5, rng)
    times, p, v, a = FAMILY.build(p0, v0, k)
    assert np.abs(v[:, -1]).max() == 0.0
    t = np.linspace(0.0, 1.0, 33)
    f = FAMILY.basis(t)
    for i in range(5):
        linear = np.outer(f[0], p0) + np.outer(f[1], v0) + np.outer(f[2], k[i])
        assert np.abs(linear - at(times, p[i], v[i], a[i], t)).max() < 1e-12
    tail = rng.normal(size=(1, 9, 2))
    cost = FAMILY.cost(p0[None], v0[None], tail, t[:9], k)[0]
    for i in range(5):
        assert cost[i] == pytest.approx(float(np.mean((at(times, p[i], v[i], a[i], t[:9]) - tail[0]) ** 2)), abs=1e-12)


def test_the_backup_found_is_near_the_best_of_a_fine_search() -> None:
    rng = np.random.default_rng(1)
    for _ in range(10):
        walls = pack_walls(maze(rng))
        p0, v0, wanted = rng.uniform(-1, 1, 2), rng.uniform(-2, 2, 2), rng.uniform(-7.5, 7.5, 2)
        every = np.stack(np.meshgrid(np.linspace(-7.5, 7.5, 151), np.linspace(-7.5, 7.5, 151)), axis=-1).reshape(-1, 2)
        fine = certify_points(FAMILY, *FAMILY.build(p0, v0, every), walls, 0.1).certified
        found = find_point_backup(FAMILY, p0, v0, walls, 0.1, preference=wanted, rng=rng)
        if not fine.any():
            continue
        best = float(np.mean((every[fine] - wanted) ** 2, axis=1).min())
        assert found is not None and found.cost <= best + 0.5 and found.clearance > 0.0


def test_bad_input_is_named_or_refused() -> None:
    knots = FAMILY.build(np.zeros(2), np.zeros(2), np.zeros((1, 2)))
    walls = pack_walls([[1.0, 1.0, 2.0, 2.0]])
    calls: list[Callable[[], Any]] = [
        lambda: pack_walls([[1.0, 0.0, 1.0, 2.0]]), lambda: pack_walls([[0.0, 0.0, np.nan, 1.0]]),
        lambda: pack_walls([[0.0, 1.0]]),
        lambda: certify_points(FAMILY, *knots, walls, -0.1), lambda: certify_points(FAMILY, *knots[:3], knots[3][:, :1], walls),
        lambda: certify_point_grid(FAMILY, *knots, np.zeros((2, 3, 2)), walls), lambda: point_reach(*knots, [0.0, 2.0]),
        lambda: PointFamily(accelerate=1.0, stop=0.5), lambda: PointFamily(k_low=(1.0, 0.0), k_high=(0.0, 0.0)),
    ]
    for call in calls:
        with pytest.raises(InputError):
            call()
    for name, change in (("p", np.nan), ("p", 1e6), ("v", 1.0), ("t", -1.0)):
        times, p, v, a = (x.copy() for x in knots)
        {"p": p, "v": v, "t": times[None, :, None]}[name][0, 1] += change
        assert not certify_points(FAMILY, times, p, v, a, walls).certified[0], name
