"""Bad input to the filter: a typed error that names the field, or "not certified" with the reason; never "feasible"."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from robot_cases import robot_file
from safety_cases import FAMILY, arm, motion

from tandem.core.errors import InputError
from tandem.core.scene import TABLE, Obstacle, Scene
from tandem.core.trajectory import Trajectory
from tandem.core.types import Commitment, Proposal, Reason
from tandem.safety import (
    BackupFamily,
    Polytope,
    SafetyFilter,
    certify,
    certify_grid,
    certify_one,
    certify_pairs,
    find_backup,
    kernels,
    load_bounds,
    occupancy,
    pack_scene,
    search,
    stop_trajectory,
)
from tandem.safety.certify import STALE

BOUNDS = load_bounds()
OPEN = Scene((TABLE,))
NAN = float("nan")
ZERO = np.zeros(7)


def gentle() -> Trajectory:
    return FAMILY.trajectory(arm().home, ZERO, ZERO, np.full(7, 0.3))


# ------------------------------------------------------------------------------------------------------------- obstacles
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"size": (0.1, 0.1, 0.0)}, "size"),
        ({"size": (0.1, 0.1, -0.1)}, "size"),
        ({"size": (0.1, 0.1, NAN)}, "size"),
        ({"size": (0.1, 0.1)}, "size"),
        ({"size": (0.1, 0.1, 1e6)}, "size"),
        ({"size": (0.1, 0.1, "0.1")}, "size"),
        ({"size": None}, "size"),
        ({"position": (1e9, 0.0, 0.0)}, "position"),
        ({"position": (0.0, float("inf"), 0.0)}, "position"),
        ({"position": (0.0, 0.0)}, "position"),
        ({"position": np.zeros(3)}, "position"),
        ({"quaternion": (0.0, 0.0, 0.0, 0.0)}, "quaternion"),
        ({"quaternion": (1.0, NAN, 0.0, 0.0)}, "quaternion"),
        ({"position_error": -0.1}, "position_error"),
        ({"position_error": NAN}, "position_error"),
        ({"speed": -1.0}, "speed"),
        ({"speed": float("inf")}, "speed"),
        ({"stamp": NAN}, "stamp"),
        ({"kind": "cone"}, "kind"),
    ],
)
def test_obstacles_name_what_is_wrong(change: dict[str, object], field: str) -> None:
    good = {"name": "thing", "kind": "box", "size": (0.1, 0.1, 0.1), "position": (0.5, 0.0, 0.5)}
    with pytest.raises(InputError, match=rf"'thing'.*{field}"):
        Obstacle(**(good | change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Polytope("p", np.zeros((4, 2)), np.zeros(4)), "normals"),
        (lambda: Polytope("p", np.eye(3), np.zeros(2)), "offsets"),
        (lambda: Polytope("p", np.zeros((1, 3)), np.zeros(1)), "normal has no length"),
        (lambda: Polytope("p", np.eye(3), np.full(3, NAN)), "NaN"),
        (lambda: Polytope("p", np.eye(3), np.full(3, 1e9)), "offsets"),
        (lambda: Polytope("p", np.eye(3), np.zeros(3), speed=-1.0), "speed"),
        (lambda: Polytope("p", [[0, 0, 1], [0, 0, -1]], [-1.0, -1.0]), "no point"),
        (lambda: Polytope("p", [["a"] * 3], [0.0]), "numbers"),
        (lambda: Polytope.from_points("p", np.zeros((5, 3))), "volume"),
        (lambda: Polytope.from_points("p", np.full((5, 3), NAN)), "finite"),
        (lambda: Polytope.from_points("p", np.zeros((5, 2))), "points"),
        (lambda: Polytope.from_zonotope("p", ZERO[:3], np.zeros((3, 3))), "generators"),
        (lambda: Polytope.from_zonotope("p", ZERO[:2], np.eye(3)), "centre"),
        (lambda: Polytope.from_zonotope("p", ZERO[:3], np.zeros((3, 2))), "generators"),
    ],
)
def test_polytopes_name_what_is_wrong(make: Callable[[], Polytope], words: str) -> None:
    with pytest.raises(InputError, match=rf"'p'.*{words}"):
        make()


def test_names_are_unique_among_all_obstacles() -> None:
    box = Obstacle("same", "box", (0.1, 0.1, 0.1), (2.0, 0.0, 0.5))
    with pytest.raises(InputError, match="unique"):
        Scene((box, box))
    hull = Polytope.from_zonotope("same", (2.0, 0.0, 0.5), 0.1 * np.eye(3))
    with pytest.raises(InputError, match="unique"):
        pack_scene(Scene((box,)), arm(), BOUNDS, 0.0, polytopes=(hull,))


def test_empty_scene_overlapping_and_engulfing_obstacles() -> None:
    assert certify_one(arm(), gentle(), Scene(), BOUNDS, 0.0).certified
    boxes = [Obstacle(f"b{i}", "box", (0.1, 0.1, 0.1), (0.9, 0.0, 0.2)) for i in range(3)]
    once, thrice = (certify_one(arm(), gentle(), Scene(tuple(boxes[:n])), BOUNDS, 0.0) for n in (1, 3))
    assert once.certified and thrice.certified and thrice.clearance == once.clearance
    on_the_arm = [dataclasses.replace(b, position=(0.3, 0.0, 0.5)) for b in boxes]
    assert certify_one(arm(), gentle(), Scene(tuple(on_the_arm)), BOUNDS, 0.0).reason is Reason.COLLISION
    world = Obstacle("world", "sphere", (100.0,), (0.0, 0.0, 0.0))
    verdict = certify_one(arm(), gentle(), Scene((world, *boxes)), BOUNDS, 0.0)
    assert verdict.reason is Reason.COLLISION and verdict.obstacle == "world"
    thin = Obstacle("thin", "box", (1e-9, 1e-9, 1e-9), tuple(float(x) for x in (0.3, 0.0, 0.59)))
    assert certify_one(arm(), gentle(), Scene((thin,)), BOUNDS, 0.0).clearance < 0.1


def test_a_stamp_from_the_future_counts_as_stale() -> None:
    for stamp in (-1.0, 1e6):
        cart = Obstacle("cart", "box", (0.1, 0.1, 0.1), (3.0, 0.0, 0.0), speed=0.1, stamp=stamp)
        assert certify_one(arm(), gentle(), Scene((cart,)), BOUNDS, 0.0).reason is Reason.STALE_SCENE


def test_a_stale_scene_certifies_nothing_by_any_way() -> None:
    cart = Obstacle("cart", "box", (0.1, 0.1, 0.1), (3.0, 0.0, 0.0), speed=0.1, stamp=-1.0)
    packed, t = pack_scene(Scene((TABLE, cart)), arm(), BOUNDS, 0.0), gentle()
    found = certify(arm(), t.times, t.q[None], t.v[None], t.a[None], packed, BOUNDS)
    assert found.code[0] == STALE and found.reason == [Reason.STALE_SCENE] and found.names(0)[1] == "cart"
    grid = certify_grid(arm(), FAMILY, t.times[:3], t.q[None, :3], t.v[None, :3], t.a[None, :3], np.zeros((4, 7)), packed, BOUNDS)
    assert not grid.feasible.any() and not grid.head_ok.any()
    assert find_backup(arm(), FAMILY, (arm().home, ZERO, ZERO), packed, BOUNDS) is None


def test_a_scene_of_another_arm_is_refused() -> None:
    """Its arrays have other columns: the kernels would read past them."""
    six, t = arm(robot_file("six")), gentle()
    packed = pack_scene(OPEN, six, BOUNDS, 0.0)
    with pytest.raises(InputError, match="scene"):
        certify(arm(), t.times, t.q[None], t.v[None], t.a[None], packed, BOUNDS)
    with pytest.raises(InputError, match="scene"):
        certify_grid(arm(), FAMILY, t.times, t.q[None], t.v[None], t.a[None], np.zeros((1, 7)), packed, BOUNDS)


# ---------------------------------------------------------------------------------------------------------- trajectories
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"times": [0.0, 0.5, 0.4, 0.6, 0.9, 1.0]}, "times"),
        ({"times": [0.0, 0.1, 0.1, 0.6, 0.9, 1.0]}, "times"),
        ({"times": [0.1, 0.2, 0.3, 0.6, 0.9, 1.0]}, "times"),
        ({"times": [0.0, NAN, 0.3, 0.6, 0.9, 1.0]}, "times"),
        ({"q": np.full((6, 7), NAN)}, "q"),
        ({"v": np.full((6, 7), np.inf)}, "v"),
        ({"a": np.zeros((6, 6))}, "shapes"),
        ({"q": np.zeros((5, 7))}, "shapes"),
        ({"q": [["a"] * 7] * 6}, "q"),
        ({"q": [[0.0], [0.0, 1.0]]}, "q"),
    ],
)
def test_trajectories_name_what_is_wrong(change: dict[str, object], words: str) -> None:
    t = gentle()
    with pytest.raises(InputError, match=rf"trajectory.*{words}"):
        Trajectory(**({"times": t.times, "q": t.q, "v": t.v, "a": t.a} | change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "index", "value", "codes"),
    [
        ("times", 2, 0.01, {kernels.BAD}),
        ("times", 5, 1e9, {kernels.BAD, kernels.INCONSISTENT}),
        ("times", 0, 0.1, {kernels.BAD}),
        ("times", 3, NAN, {kernels.BAD}),
        ("q", (0, 2, 3), NAN, {kernels.BAD, kernels.INCONSISTENT}),
        ("q", (0, 5, 3), NAN, {kernels.BAD, kernels.INCONSISTENT}),
        ("v", (0, 5, 0), NAN, {kernels.BAD, kernels.INCONSISTENT}),
        ("a", (0, 5, 0), NAN, {kernels.BAD, kernels.INCONSISTENT}),
        ("q", (0, 0, 0), 1e300, {kernels.INCONSISTENT, kernels.POSITION}),
        ("v", (0, 0, 0), -1e300, {kernels.INCONSISTENT, kernels.BAD}),
        ("a", (0, 3, 1), 1e300, {kernels.INCONSISTENT, kernels.BAD}),
    ],
)
@pytest.mark.parametrize("full", [False, True])
def test_arrays_come_back_with_a_reason(key: str, index: object, value: float, codes: set[int], full: bool) -> None:
    t = gentle()
    arrays = {"times": t.times.copy(), "q": t.q[None].copy(), "v": t.v[None].copy(), "a": t.a[None].copy()}
    arrays[key][index] = value  # type: ignore[index]
    found = certify(arm(), **arrays, scene=pack_scene(OPEN, arm(), BOUNDS, 0.0), bounds=BOUNDS, full=full)
    assert int(found.code[0]) in codes and not found.certified[0]


@pytest.mark.parametrize("joint", range(7))
@pytest.mark.parametrize("side", [-1.0, 1.0])
def test_states_outside_limits(joint: int, side: float) -> None:
    q = arm().home.copy()
    q[joint] = (arm().upper if side > 0 else arm().lower)[joint] + side * 1e-3
    assert certify_one(arm(), Trajectory.at_rest(q), OPEN, BOUNDS, 0.0).reason is Reason.POSITION_LIMIT
    assert find_backup(arm(), FAMILY, (q, ZERO, ZERO), pack_scene(OPEN, arm(), BOUNDS, 0.0), BOUNDS) is None
    v = ZERO.copy()
    v[joint] = side * (arm().velocity[joint] + 1e-3)
    t = stop_trajectory(arm(), arm().home, v, ZERO)
    assert certify_one(arm(), t, OPEN, BOUNDS, 0.0).reason is Reason.VELOCITY_LIMIT


def test_shapes_are_named_by_every_function() -> None:
    t, packed = gentle(), pack_scene(OPEN, arm(), BOUNDS, 0.0)
    knots = (t.times, t.q[None], t.v[None], t.a[None])
    k = np.zeros((4, 7))
    for words, call in (
        ("times", lambda: certify(arm(), np.zeros((2, 2)), *knots[1:], packed, BOUNDS)),
        ("times", lambda: certify(arm(), "abc", *knots[1:], packed, BOUNDS)),
        ("q", lambda: certify(arm(), knots[0], [["a"]], *knots[2:], packed, BOUNDS)),
        ("a has", lambda: certify(arm(), *knots[:3], t.a[None, :2], packed, BOUNDS)),
        ("k has", lambda: certify_grid(arm(), FAMILY, *knots, k[:, :3], packed, BOUNDS)),
        ("k", lambda: certify_grid(arm(), FAMILY, *knots, "k", packed, BOUNDS)),
        ("k has", lambda: certify_pairs(arm(), FAMILY, *knots, k, packed, BOUNDS)),
        ("edges", lambda: occupancy(arm(), t, BOUNDS, np.array([0.5, 0.2]))),
        ("edges", lambda: occupancy(arm(), t, BOUNDS, np.array([0.5, 2.0]))),
        ("joints", lambda: occupancy(arm(), Trajectory.at_rest(np.zeros(6)), BOUNDS, np.array([0.0, 0.1]))),
        ("now", lambda: certify_one(arm(), t, OPEN, BOUNDS, NAN)),
        ("stop_trajectory", lambda: stop_trajectory(arm(), ZERO[:6], ZERO, ZERO)),
        ("scale", lambda: stop_trajectory(arm(), ZERO, ZERO, ZERO, scale=0.0)),
    ):
        with pytest.raises(InputError, match=words):
            call()
    assert not certify_grid(arm(), FAMILY, t.times[:3], t.q[None, :3], t.v[None, :3], t.a[None, :3], k * NAN, packed, BOUNDS
                            ).feasible.any()


# --------------------------------------------------------------------------------------------------------------- search
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"state": (ZERO[:6], ZERO, ZERO)}, "state: q"),
        ({"state": (ZERO, ZERO * NAN, ZERO)}, "state: v"),
        ({"state": (ZERO, ZERO, "a")}, "state: a"),
        ({"state": (ZERO, ZERO)}, "state has 2"),
        ({"preference": np.zeros(3)}, "preference"),
        ({"preference": ZERO * NAN}, "preference"),
        ({"tail": np.zeros((4, 7))}, "together"),
        ({"tail": np.zeros((4, 6)), "tail_times": np.arange(4.0)}, "tail has"),
        ({"tail": np.zeros((4, 7)), "tail_times": np.zeros((4, 1))}, "tail_times"),
        ({"family": BackupFamily(k_max=(1.0,) * 6)}, "k_max"),
    ],
)
def test_search_names_what_is_wrong(change: dict[str, object], words: str) -> None:
    good = {"arm": arm(), "family": FAMILY, "state": (arm().home, ZERO, ZERO), "bounds": BOUNDS}
    with pytest.raises(InputError, match=words):
        find_backup(**(good | {"scene": pack_scene(OPEN, arm(), BOUNDS, 0.0)} | change))  # type: ignore[arg-type]


def _behind_a_wall() -> tuple[object, tuple[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    wall = Obstacle("wall", "box", (0.02, 1.0, 1.0), (0.54, 0.0, 0.5))
    state = (arm().home, np.array([0, 0.3, 0, 0.3, 0, 0, 0.0]), ZERO)
    return pack_scene(Scene((TABLE, wall)), arm(), BOUNDS, 0.0), state, np.array([0, 1.5, 0, 1.5, 0, 0, 0.0])


def test_the_deadline_ends_the_search_after_the_batch_in_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, state, wish = _behind_a_wall()
    clock, batches = [0.0], []
    monkeypatch.setattr(search.time, "perf_counter", lambda: clock[0])

    def counting(*args: object, **more: object) -> object:
        clock[0] += 1.0
        batches.append(len(args[2]))  # type: ignore[arg-type]
        return certify(*args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(search, "certify", counting)
    costs = []
    for deadline, rounds in ((0.5, 1), (2.5, 3), (None, search.ROUNDS)):
        clock[0], batches[:] = 0.0, []
        found = find_backup(arm(), FAMILY, state, packed, BOUNDS, preference=wish, deadline=deadline)  # type: ignore[arg-type]
        assert found is not None
        assert [n for n in batches if n > 1] == [search.BATCH] * rounds and batches[-1] == 1  # and one alone at the end
        costs.append(found.cost)
    assert costs[0] >= costs[1] >= costs[2] and costs[2] < costs[0]  # more time, better backups


def test_the_search_says_none_rather_than_what_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    packed, state, wish = _behind_a_wall()

    def lying(*args: object, **more: object) -> object:
        found = certify(*args, **more)  # type: ignore[arg-type]
        return found if len(args[2]) == 1 else dataclasses.replace(found, code=np.zeros_like(found.code))  # type: ignore[arg-type]

    towards = FAMILY.trajectory(*state, wish)
    assert not certify(arm(), towards.times, towards.q[None], towards.v[None], towards.a[None], packed, BOUNDS).certified[0]
    monkeypatch.setattr(search, "certify", lying)  # every batch says that its candidates are certified
    assert find_backup(arm(), FAMILY, state, packed, BOUNDS, preference=wish) is None  # type: ignore[arg-type]


def test_the_best_backup_is_near_the_best_of_many() -> None:
    """Against brute force over 4000 random ks and those between the wish and rest."""
    packed, state, wish = _behind_a_wall()
    k = np.concatenate([FAMILY.sample(4000, np.random.default_rng(0)), np.linspace(0, 1, 200)[:, None] * wish])
    times, q, v, a = FAMILY.build(*state, k)
    good = certify(arm(), times, q, v, a, packed, BOUNDS).certified
    best = np.mean((k[good] - wish) ** 2, axis=1).min()
    found = find_backup(arm(), FAMILY, state, packed, BOUNDS, preference=wish)  # type: ignore[arg-type]
    assert found is not None and found.cost <= 1.1 * best


# --------------------------------------------------------------------------------------------------- filter never raises
@pytest.mark.parametrize("seed", range(6))
def test_filter_refuses_rubbish_without_an_exception(seed: int) -> None:
    rng, judge = np.random.default_rng(seed), SafetyFilter(arm(), BOUNDS)
    still = Commitment(Trajectory.at_rest(arm().home, 0.5), 0.0, np.full(2, 0.04))
    for _ in range(20):
        t = motion(rng)
        plan = Proposal(t, np.full(6, 0.04), 0.2, 0.5, "p")
        rubbish = rng.choice([NAN, 1e300, -1e9, None, "x"], 1)[0]
        key = str(rng.choice(["trajectory", "width", "switch_time", "head_duration"]))
        assert not judge.check(dataclasses.replace(plan, **{key: rubbish}), still, OPEN, 0.0).certified
    assert not judge.check(None, still, OPEN, 0.0).certified  # type: ignore[arg-type]
    assert not judge.guard(None, OPEN, 0.0).certified  # type: ignore[arg-type]
    assert not judge.guard(still, None, 0.0).certified  # type: ignore[arg-type]
    assert not judge.guard(still, OPEN, NAN).certified
