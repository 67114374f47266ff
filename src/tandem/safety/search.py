"""The search for a backup: a batch of candidates, then refinement around the best. What comes back was certified by itself."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tandem.core.errors import InputError
from tandem.core.trajectory import Trajectory
from tandem.robots.model import ArmModel
from tandem.safety.backup import BackupFamily
from tandem.safety.bounds import Bounds
from tandem.safety.certify import certify
from tandem.safety.geometry import PackedScene

Array = NDArray[np.float64]
State = tuple[Array, Array, Array]

#: candidates of each batch, rounds of refinement
BATCH = 128
ROUNDS = 6


@dataclass(frozen=True)
class Backup:
    """A certified backup: ``k`` (n,) [rad/s^2], its ``trajectory``, ``cost`` (least is best), bound of its ``clearance`` [m]."""

    k: Array
    trajectory: Trajectory
    cost: float
    clearance: float


def _costs(
    family: BackupFamily, state: State, k: Array, preference: Array | None, tail: Array | None, tail_times: Array | None
) -> Array:
    if tail is not None and tail_times is not None:
        q, v, a = (x[None] for x in state)
        return family.cost(q, v, a, tail[None], tail_times, k)[0]
    wanted = np.zeros(k.shape[1]) if preference is None else preference
    return np.mean((k - wanted) ** 2, axis=1)


def _seeds(family: BackupFamily, state: State, preference: Array | None, tail: Array | None, tail_times: Array | None) -> Array:
    """Candidates worth trying first: preference, the tail's nearest, braking at once by degrees."""
    limit = np.asarray(family.k_max)
    rows = [np.zeros_like(limit)]
    if preference is not None:
        rows.insert(0, preference)
    if tail is not None and tail_times is not None:
        q, v, a = (x[None] for x in state)
        rows.insert(0, family.nearest(q, v, a, tail[None], tail_times)[0])
    # k = -v0 / accelerate stops by the end of the first phase
    rows += [-share * state[1] / family.accelerate for share in (0.25, 0.5, 0.75, 1.0)]
    return np.clip(np.asarray(rows), -limit, limit)


def _numbers(name: str, value: ArrayLike, shape: tuple[int, ...]) -> Array:
    try:
        out = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"find_backup: {name}: not an array of numbers: {error}") from error
    if out.shape != shape or not np.isfinite(out).all():
        raise InputError(f"find_backup: {name} has shape {out.shape}; expected {shape}, every value finite")
    return out


def _checked(
    arm: ArmModel, family: BackupFamily, state: State, preference: Array | None, tail: Array | None, tail_times: Array | None
) -> tuple[State, Array | None, Array | None, Array | None]:
    """The arguments of :func:`find_backup` as arrays of the right shapes."""
    n = arm.n
    if len(family.k_max) != n:
        raise InputError(f"find_backup: family.k_max has {len(family.k_max)} values; {arm.name} has {n} joints")
    if len(state) != 3:
        raise InputError(f"find_backup: state has {len(state)} parts; expected q, v, a")
    if (tail is None) != (tail_times is None):
        raise InputError("find_backup: tail and tail_times must be given together")
    q, v, a = (_numbers(f"state: {name}", x, (n,)) for name, x in zip("qva", state, strict=True))
    wanted = None if preference is None else _numbers("preference", preference, (n,))
    if tail is None or tail_times is None:
        return (q, v, a), wanted, None, None
    count = np.shape(tail_times)[0] if np.ndim(tail_times) == 1 else -1
    times, rows = _numbers("tail_times", tail_times, (count,)), _numbers("tail", tail, (count, n))
    return (q, v, a), wanted, rows, times


def find_backup(
    arm: ArmModel, family: BackupFamily, state: State, scene: PackedScene, bounds: Bounds, *,
    preference: Array | None = None, tail: Array | None = None, tail_times: Array | None = None,
    rng: np.random.Generator | None = None, deadline: float | None = None, start: float = 0.0,
) -> Backup | None:
    """The best certified backup found from ``state``.

    Args:
        state: q, v, a (n,) at the backup's start. scene: packed for that moment, or earlier by ``start`` seconds.
        preference: (n,) the k to stay close to (default 0); or ``tail`` (T, n) at ``tail_times`` (T,) [s]: the motion to stay
            close to (RAIL's J). rng: source of the random candidates; default a fixed seed.
        deadline: value of :func:`time.perf_counter` after which no further batch is begun (the first batch always is).

    Returns:
        The backup, certified alone after the search, or None: nothing certified was found, and nothing is claimed.

    Raises:
        InputError: state, preference, tail or family do not fit the arm or are not finite; the scene was packed for another arm.
    """
    state, preference, tail, tail_times = _checked(arm, family, state, preference, tail, tail_times)
    rng = np.random.default_rng(0) if rng is None else rng
    limit = np.asarray(family.k_max)
    first = _seeds(family, state, preference, tail, tail_times)
    k = np.concatenate([first, family.sample(BATCH - len(first), rng)])
    best: tuple[float, Array] | None = None
    spread = 0.5
    centre = first[0]
    for step in range(ROUNDS):
        if step > 0 and deadline is not None and time.perf_counter() >= deadline:
            break
        costs = _costs(family, state, k, preference, tail, tail_times)
        times, q, v, a = family.build(*state, k)
        found = certify(arm, times, q, v, a, scene, bounds, offset=start)
        costs[~found.certified] = np.inf
        i = int(np.argmin(costs))
        if np.isfinite(costs[i]) and (best is None or costs[i] < best[0]):
            best = (float(costs[i]), k[i].copy())
            if i == 0 and step == 0:
                break  # the first choice itself is safe
        if best is not None:
            line = best[1] + np.linspace(0.05, 0.95, BATCH // 4)[:, None] * (first[0] - best[1])
            cloud = best[1] + rng.normal(0.0, spread, (BATCH - len(line), len(limit))) * limit
            k, spread = np.clip(np.concatenate([line, cloud]), -limit, limit), 0.6 * spread
        else:
            centre = k[int(np.argmax(np.where(np.isfinite(found.clearance), found.clearance, -np.inf)))]
            cloud = centre + rng.normal(0.0, spread, (BATCH // 2, len(limit))) * limit
            corners = rng.choice([-1.0, 1.0], size=(BATCH - len(cloud), len(limit))) * limit
            k = np.clip(np.concatenate([cloud, corners]), -limit, limit)
    return None if best is None else _certified(arm, family, state, scene, bounds, best, start)


def _certified(
    arm: ArmModel, family: BackupFamily, state: State, scene: PackedScene, bounds: Bounds, best: tuple[float, Array], start: float
) -> Backup | None:
    t = family.trajectory(*state, best[1])
    final = certify(arm, t.times, t.q[None], t.v[None], t.a[None], scene, bounds, full=True, offset=start)
    if not final.certified[0]:
        return None
    return Backup(best[1], t, best[0], float(final.clearance[0]))
