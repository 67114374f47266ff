"""Verdicts on proposals, bad input, the watch over commitments, the search for backups, certificates."""

from __future__ import annotations

import dataclasses
import threading
import time

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safety_cases import FAMILY, arm, boxes, motion

from tandem.core.certificate import bound_to, sign, verify
from tandem.core.errors import ConfigError, InputError
from tandem.core.scene import TABLE, Obstacle, Scene
from tandem.core.trajectory import Trajectory
from tandem.core.types import Commitment, Proposal, Reason
from tandem.safety import (
    BackupFamily,
    Bounds,
    Polytope,
    SafetyFilter,
    certify,
    certify_grid,
    certify_one,
    certify_pairs,
    find_backup,
    kernels,
    load_bounds,
    pack_scene,
)

BOUNDS = load_bounds()
OPEN = Scene((TABLE,))


def resting(start: float = 0.0) -> Commitment:
    t = Trajectory.at_rest(arm().home, 0.5)
    return Commitment(t, start, np.full(2, 0.04))


def gentle(k: float = 0.3) -> Trajectory:
    return FAMILY.trajectory(arm().home, np.zeros(7), np.zeros(7), np.full(7, k))


def proposal(t: Trajectory, switch: float = 0.2, **changes: object) -> Proposal:
    return dataclasses.replace(Proposal(t, np.full(len(t.times), 0.04), switch, 0.5, "p"), **changes)


def _still(times: object) -> Trajectory:
    """At rest at home, with the given knots."""
    zero = np.zeros((len(times), 7))  # type: ignore[arg-type]
    return Trajectory(np.array(times), zero + arm().home, zero, zero)


def test_a_sound_proposal_is_certified() -> None:
    verdict = SafetyFilter(arm(), BOUNDS).check(proposal(gentle()), resting(), OPEN, 0.0)
    assert verdict.certified and verdict.clearance > 0.0 and len(verdict.digest) == 64


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: dataclasses.replace(p, switch_time=-0.01), Reason.LATE),
        (lambda p: dataclasses.replace(p, switch_time=float("nan")), Reason.MALFORMED),
        (lambda p: dataclasses.replace(p, width=np.zeros(3)), Reason.MALFORMED),
        (lambda p: dataclasses.replace(p, width=np.full(6, np.nan)), Reason.MALFORMED),
        (lambda p: dataclasses.replace(p, width=np.full(6, 0.2)), Reason.MALFORMED),
        (lambda p: dataclasses.replace(p, width=None), Reason.MALFORMED),
        (lambda p: dataclasses.replace(p, trajectory=None), Reason.MALFORMED),
        (lambda p: dataclasses.replace(p, head_duration=9.0), Reason.MALFORMED),
        (lambda p: dataclasses.replace(p, trajectory=_still([0.0, 1.0, 1.0 + 5e-7]), width=np.zeros(3)), Reason.MALFORMED),
        (lambda p: dataclasses.replace(p, trajectory=_still(np.linspace(0.0, 1.0, 65)), width=np.zeros(65)), Reason.MALFORMED),
        (lambda p: dataclasses.replace(p, trajectory=Trajectory.at_rest(np.zeros(6)), width=np.zeros(2)), Reason.MALFORMED),
        (lambda p: dataclasses.replace(p, trajectory=Trajectory.at_rest(arm().home + 1e-3), width=np.zeros(2), head_duration=0.0),
         Reason.START_MISMATCH),
    ],
)
def test_proposals_are_refused_before_any_geometry(change: object, reason: Reason) -> None:
    assert SafetyFilter(arm(), BOUNDS).check(change(proposal(gentle())), resting(), OPEN, 0.0).reason is reason


def _bent(**arrays: object) -> Trajectory:
    t = gentle()
    return dataclasses.replace(t, **{k: f(getattr(t, k)) for k, f in arrays.items()})


def _set(index: tuple[int, int], value: float) -> object:
    def change(x: np.ndarray) -> np.ndarray:
        out = x.copy()
        out[index] = value
        return out

    return change


@pytest.mark.parametrize(
    ("trajectory", "reason"),
    [
        (_bent(q=_set((2, 3), -1.0)), Reason.INCONSISTENT),
        (_bent(v=_set((3, 0), 1.0)), Reason.INCONSISTENT),
        (Trajectory.at_rest(np.zeros(7)), Reason.POSITION_LIMIT),
        (FAMILY.trajectory(arm().home, np.full(7, 2.7), np.zeros(7), np.zeros(7)), Reason.VELOCITY_LIMIT),
        (FAMILY.trajectory(arm().home, np.zeros(7), np.full(7, 12.0), np.full(7, 1.0)), Reason.ACCELERATION_LIMIT),
        (BackupFamily(ramp=0.005, accelerate=0.1, stop=0.3, k_max=(30,) * 7).trajectory(
            arm().home, np.zeros(7), np.full(7, -9.99), np.full(7, 9.99) * 1.0), Reason.CERTIFIED),
    ],
)
def test_limits_have_their_own_reasons(trajectory: Trajectory, reason: Reason) -> None:
    verdict = certify_one(arm(), trajectory, OPEN, BOUNDS, 0.0)
    assert verdict.reason is reason


def test_jerk_and_rest() -> None:
    stiff = dataclasses.replace(arm(), jerk=np.full(7, 1.0), digest="stiff")
    assert certify_one(stiff, gentle(), OPEN, BOUNDS, 0.0).reason is Reason.JERK_LIMIT
    t = gentle()
    head = Trajectory(t.times[:3], t.q[:3], t.v[:3], t.a[:3])
    assert certify_one(arm(), head, OPEN, BOUNDS, 0.0).reason is Reason.NOT_AT_REST


def test_collision_names_link_obstacle_and_time() -> None:
    wall = Obstacle("wall", "box", (0.02, 1.0, 1.0), (0.48, 0.0, 0.5))
    towards = FAMILY.trajectory(arm().home, np.zeros(7), np.zeros(7), np.array([0, 1.5, 0, 1.5, 0, 0, 0.0]))
    verdict = certify_one(arm(), towards, Scene((TABLE, wall)), BOUNDS, 0.0)
    assert verdict.reason is Reason.COLLISION and verdict.obstacle == "wall" and verdict.clearance < 0.0
    assert verdict.link in ("fr3_link6", "fr3_link7")
    assert 0.0 < verdict.time <= 1.0


def test_stale_moving_obstacles_stop_everything() -> None:
    seen = Obstacle("cart", "box", (0.1, 0.1, 0.1), (3.0, 0.0, 0.0), speed=0.1, stamp=-1.0)
    assert certify_one(arm(), gentle(), Scene((seen,)), BOUNDS, 0.0).reason is Reason.STALE_SCENE
    still = dataclasses.replace(seen, speed=0.0)
    assert certify_one(arm(), gentle(), Scene((still,)), BOUNDS, 0.0).certified


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_garbage_is_never_certified(seed: int) -> None:
    rng = np.random.default_rng(seed)
    t = gentle()
    q, v, a, times = t.q[None].copy(), t.v[None].copy(), t.a[None].copy(), t.times.copy()
    target = [q, v, a, times][rng.integers(4)]
    target.flat[rng.integers(1, target.size)] = rng.choice([np.nan, np.inf, -np.inf, 1e300, -1e300, 1e9, -50.0])
    packed = pack_scene(OPEN, arm(), BOUNDS, 0.0)
    for full in (False, True):
        verdict = certify(arm(), times, q, v, a, packed, BOUNDS, full=full)
        assert not verdict.certified[0]


def test_shapes_that_do_not_fit_are_named() -> None:
    packed, t = pack_scene(OPEN, arm(), BOUNDS, 0.0), gentle()
    with pytest.raises(InputError, match="q has shape"):
        certify(arm(), t.times, t.q, t.v[None], t.a[None], packed, BOUNDS)
    with pytest.raises(InputError, match="v has shape"):
        certify(arm(), t.times, t.q[None], t.v[None, :3], t.a[None], packed, BOUNDS)
    with pytest.raises(InputError, match="tracking_error"):
        certify(arm(), t.times, t.q[None], t.v[None], t.a[None], packed, Bounds(tracking_error=(0.1, 0.1)))
    with pytest.raises(InputError, match="finite"):
        pack_scene(OPEN, arm(), BOUNDS, float("nan"))
    with pytest.raises(ConfigError, match="no such file"):
        load_bounds("nothing")
    with pytest.raises(InputError, match="volume"):
        Polytope.from_points("flat", np.zeros((5, 3)))


def test_empty_and_far_scenes() -> None:
    far = Obstacle("far", "box", (100.0, 100.0, 100.0), (100.0, 100.0, 100.0))
    assert certify_one(arm(), gentle(), Scene(), BOUNDS, 0.0).certified
    assert not certify_one(arm(), gentle(), Scene((far,)), BOUNDS, 0.0).certified
    none = certify(arm(), gentle().times, np.zeros((0, 6, 7)), np.zeros((0, 6, 7)), np.zeros((0, 6, 7)),
                   pack_scene(Scene(), arm(), BOUNDS, 0.0), BOUNDS)
    assert none.certified.shape == (0,)


def test_digest_is_the_same_on_any_number_of_threads_and_differs_with_every_input() -> None:
    rng = np.random.default_rng(0)
    scene, t = boxes(rng, 6), motion(rng)
    base = certify_one(arm(), t, scene, BOUNDS, 0.0)
    assert base == certify_one(arm(), t, scene, BOUNDS, 0.0)
    others = [
        certify_one(arm(), gentle(), scene, BOUNDS, 0.0), certify_one(arm(), t, OPEN, BOUNDS, 0.0),
        certify_one(arm(), t, scene, dataclasses.replace(BOUNDS, latency=0.2), 0.0),
        certify_one(dataclasses.replace(arm(), digest="other"), t, scene, BOUNDS, 0.0),
    ]
    assert len({base.digest, *(o.digest for o in others)}) == 5
    k = FAMILY.sample(96, rng)
    times, q, v, a = FAMILY.build(arm().home, np.zeros(7), np.zeros(7), k)
    packed, results, before = pack_scene(scene, arm(), BOUNDS, 0.0), [], numba.get_num_threads()
    try:
        for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
            numba.set_num_threads(threads)
            results.append(certify(arm(), times, q, v, a, packed, BOUNDS, full=True))
    finally:
        numba.set_num_threads(before)
    assert (results[0].code == results[1].code).all() and (results[0].clearance == results[1].clearance).all()


def test_grid_equals_single_certifications() -> None:
    rng = np.random.default_rng(4)
    scene = boxes(rng, 6)
    packed = pack_scene(scene, arm(), BOUNDS, 0.0)
    heads = [motion(rng, spread=0.3, k=1.0) for _ in range(6)]
    cut = [Trajectory(t.times[:3], t.q[:3], t.v[:3], t.a[:3]) for t in heads]
    arrays = [np.stack([getattr(t, name) for t in cut]) for name in ("q", "v", "a")]
    k = FAMILY.sample(24, rng)
    grid = certify_grid(arm(), FAMILY, cut[0].times, *arrays, k, packed, BOUNDS)
    full = certify_grid(arm(), FAMILY, cut[0].times, *arrays, k, packed, BOUNDS, full=True)
    pairs = certify_pairs(arm(), FAMILY, cut[0].times, *arrays, np.repeat(k[None], 6, axis=0), packed, BOUNDS)
    assert (grid.feasible == full.feasible).all() and (grid.feasible == pairs.feasible).all()
    assert (grid.head_ok == full.head_ok).all()
    for h in range(6):
        for i in range(24):
            whole = cut[h].then(FAMILY.trajectory(cut[h].q[-1], cut[h].v[-1], cut[h].a[-1], k[i]))
            # the grid cuts time at the head's end, a single certification does not: both are sound, they differ near touch only
            one = certify_one(arm(), whole, scene, BOUNDS, 0.0)
            assert one.certified == grid.feasible[h, i] or abs(one.clearance) < 0.02
    assert 0 < grid.feasible.sum() < grid.feasible.size


def test_backups_side_by_side_have_the_verdicts_of_backups_one_by_one() -> None:
    """From LANES_FROM backups on a head's are checked in lanes; fewer go one by one. Every kind of obstacle, still and moving."""
    arm_, rng = arm(), np.random.default_rng(11)
    seen = 0
    for trial in range(12):
        at = [(float(x), float(y), float(z)) for x, y, z in rng.uniform([0.2, -0.6, 0.05], [0.8, 0.6, 0.8], (5, 3))]
        axis = rng.normal(size=4)
        w, x, y, z = axis / np.linalg.norm(axis)
        moving = float(rng.uniform(0.0, 0.2)) * (trial % 2)
        obstacles = (
            TABLE, Obstacle("box", "box", (0.05, 0.1, 0.02), at[0], (w, x, y, z), speed=moving),
            Obstacle("ball", "sphere", (0.06,), at[1], speed=moving),
            Obstacle("can", "cylinder", (0.05, 0.1), at[2], (w, x, y, z)),
            Obstacle("pill", "capsule", (0.04, 0.1), at[3], (w, x, y, z)),
        )
        normals = rng.normal(size=(9, 3))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        hull = Polytope("rock", normals, normals @ np.array(at[4]) + 0.06)
        packed = pack_scene(Scene(obstacles), arm_, BOUNDS, 0.0, polytopes=(hull,))
        q = arm_.home + rng.uniform(-0.4, 0.4, arm_.n)
        heads = FAMILY.build(q, rng.uniform(-0.5, 0.5, arm_.n), np.zeros(arm_.n), rng.uniform(-2.0, 2.0, (4, arm_.n)))
        times, cut = heads[0][:4], [x[:, :4] for x in heads[1:]]
        k = np.random.default_rng(trial).uniform(-1.0, 1.0, (45, arm_.n)) * rng.uniform(0.5, 8.0)
        grid = certify_grid(arm_, FAMILY, times, *cut, k, packed, BOUNDS)
        few = [certify_grid(arm_, FAMILY, times, *cut, k[i : i + 3], packed, BOUNDS) for i in range(0, 45, 3)]
        assert (grid.feasible == np.concatenate([f.feasible for f in few], axis=1)).all()
        assert (grid.clearance[grid.feasible] == 0.0).all() and (grid.clearance[~grid.feasible] <= 0.0).all()
        seen += int(grid.feasible.sum())
    assert 100 < seen < 12 * 4 * 45 - 100


def test_found_backups_are_certified_and_near_the_preference() -> None:
    rng = np.random.default_rng(5)
    wall = Obstacle("wall", "box", (0.02, 1.0, 1.0), (0.54, 0.0, 0.5))
    packed = pack_scene(Scene((TABLE, wall)), arm(), BOUNDS, 0.0)
    state = (arm().home, np.array([0, 0.3, 0, 0.3, 0, 0, 0.0]), np.zeros(7))
    wish = np.array([0, 1.5, 0, 1.5, 0, 0, 0.0])
    found = find_backup(arm(), FAMILY, state, packed, BOUNDS, preference=wish, rng=rng)
    assert found is not None and found.clearance >= 0.0 and found.cost < np.mean((wish + 1.0) ** 2)
    again = find_backup(arm(), FAMILY, state, packed, BOUNDS, preference=wish, rng=np.random.default_rng(5))
    assert again is not None and (again.k == found.k).all()
    engulfed = Obstacle("fog", "sphere", (2.0,), (0.5, 0.0, 0.5))
    assert find_backup(arm(), FAMILY, state, pack_scene(Scene((engulfed,)), arm(), BOUNDS, 0.0), BOUNDS) is None
    past = time.perf_counter() - 1.0
    assert find_backup(arm(), FAMILY, state, packed, BOUNDS, preference=np.zeros(7), deadline=past) is not None


def test_guard_sees_a_new_obstacle_and_rescue_stops_before_it() -> None:
    filter_ = SafetyFilter(arm(), BOUNDS)
    t = FAMILY.trajectory(arm().home, np.zeros(7), np.zeros(7), np.array([1.5, 0, 0, 0, 0, 0, 0.0]))
    commitment = Commitment(t, 10.0, np.full(6, 0.04))
    assert filter_.guard(commitment, OPEN, 10.1).certified
    side = Obstacle("door", "box", (0.1, 0.02, 0.5), (0.4, 0.2, 0.5))
    blocked = Scene((TABLE, side))
    verdict = filter_.guard(commitment, blocked, 10.1)
    assert verdict.reason is Reason.COLLISION and verdict.obstacle == "door"
    result = filter_.rescue(commitment, blocked, 10.1, 10.15)
    assert result is not None and result[1].certified and result[0].switch_time == 10.15
    fog = Scene((Obstacle("fog", "sphere", (2.0,), (0.5, 0.0, 0.5)),))
    assert filter_.rescue(commitment, fog, 10.1, 10.15) is None
    assert filter_.guard(commitment, OPEN, 99.0).certified


def approaching(stamp: float) -> Scene:
    """Something that may come nearer at .1 m/s."""
    return Scene((Obstacle("cart", "sphere", (0.1,), (0.6, 0.0, 0.4), speed=0.1, stamp=stamp),))


def test_what_obstacles_may_have_done_by_the_switch_is_allowed_for() -> None:
    filter_, t = SafetyFilter(arm(), BOUNDS), Trajectory.at_rest(arm().home, 0.5)
    verdicts = [filter_.check(proposal(t, switch, head_duration=0.0), resting(), approaching(0.0), 0.0) for switch in (0.1, 1.1)]
    assert all(v.certified and v.obstacle == "cart" for v in verdicts)
    assert verdicts[0].clearance - verdicts[1].clearance == pytest.approx(0.1, abs=1e-6)


def test_the_guard_allows_for_what_obstacles_may_do_until_a_motion_begins_and_from_now_on() -> None:
    filter_, t = SafetyFilter(arm(), BOUNDS), Trajectory.at_rest(arm().home, 0.5)

    def clearance(start: float, now: float) -> float:
        verdict = filter_.guard(Commitment(t, start, np.zeros(2)), approaching(10.0), now)
        assert verdict.certified and verdict.obstacle == "cart"
        return verdict.clearance

    assert clearance(10.0, 10.0) - clearance(11.0, 10.0) == pytest.approx(0.1, abs=1e-6), "it begins a second later"
    # of .5 s .2 are over: as much has the obstacle had for coming nearer, and as much less is left
    assert clearance(10.0, 10.2) == pytest.approx(clearance(10.0, 10.0), abs=1e-6)


def test_the_guard_does_not_look_at_what_is_over() -> None:
    filter_ = SafetyFilter(arm(), BOUNDS)
    t = FAMILY.trajectory(arm().home, np.zeros(7), np.zeros(7), np.array([1.5, 0, 0, 0, 0, 0, 0.0]))
    commitment = Commitment(t, 10.0, np.full(6, 0.04))
    behind = Scene((TABLE, Obstacle("behind", "box", (0.02, 0.02, 0.1), (0.3, -0.12, 0.5))))
    verdict = filter_.guard(commitment, behind, 10.0)
    assert verdict.reason is Reason.COLLISION and verdict.obstacle == "behind"
    assert filter_.guard(commitment, behind, 10.0 + t.duration - 0.05).certified


def test_parallel_calls_from_several_threads() -> None:
    k = FAMILY.sample(80, np.random.default_rng(0))
    times, q, v, a = FAMILY.build(arm().home, np.zeros(7), np.zeros(7), k)
    packed, seen = pack_scene(OPEN, arm(), BOUNDS, 0.0), []

    def work() -> None:
        for _ in range(3):
            seen.append(certify(arm(), times, q, v, a, packed, BOUNDS).code.tobytes())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(seen) == 9 and len(set(seen)) == 1


def test_certificates() -> None:
    key = b"0123456789abcdef"
    mark = sign(key, "v", "t", 5)
    assert verify(key, "v", "t", 5, mark)
    for wrong in ((key, "w", "t", 5, mark), (key, "v", "u", 5, mark), (key, "v", "t", 6, mark), (b"f" * 16, "v", "t", 5, mark),
                  (key, "v", "t", 5, ""), (key, "v", "t", 5, None), (b"", "v", "t", 5, mark)):
        assert not verify(*wrong)
    with pytest.raises(InputError, match="16"):
        sign(b"short", "v", "t", 5)
    own = bound_to(key, "arm", "bounds", "/")
    assert len(own) == 32 and own == bound_to(key, "arm", "bounds", "/")
    mark = sign(own, "v", "t", 5)
    others = ("arm", "bounds", "/left"), ("arm", "other", "/"), ("other", "bounds", "/")
    for other in (key, *(bound_to(key, *about) for about in others)):
        assert not verify(other, "v", "t", 5, mark)


@pytest.mark.parametrize("column", ["O_AT", "O_GROW", "O_SPEED"])
def test_what_cannot_be_computed_is_not_clear(column: str) -> None:
    """Such input is refused before it comes so far; were it not, a NaN would still end in a refusal, in every branch."""
    far = Obstacle("far", "box", (0.1,) * 3, (0.0, 0.9, 0.6))
    packed = pack_scene(Scene((TABLE, far)), arm(), BOUNDS, 0.0)
    knots = FAMILY.build(arm().home, np.zeros(7), np.zeros(7), np.zeros((1, 7)))
    heads = (knots[0][:3], *(x[:, :3] for x in knots[1:]))
    k = np.random.default_rng(0).uniform(-0.2, 0.2, (12, 7))
    assert certify(arm(), *knots, packed, BOUNDS).certified[0]
    assert certify_grid(arm(), FAMILY, *heads, k, packed, BOUNDS).feasible.all()
    packed.arrays.obstacle[1, getattr(kernels, column)] = np.nan
    for full in (False, True):
        assert not certify(arm(), *knots, packed, BOUNDS, full=full).certified[0]
    for count in (3, 12):  # one by one, side by side
        assert not certify_grid(arm(), FAMILY, *heads, k[:count], packed, BOUNDS).feasible.any()
