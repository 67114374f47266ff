"""A planar point mass among axis-aligned walls: reachable sets, certificates, and the mazes' accelerate-brake safety policy.

The double integrator of RAIL and JM2D (JM2D, appendix F): |a| <= 7.5 m/s^2, |v| <= 5 m/s on each axis; a backup k = (a_x, a_y)
is that acceleration for 0.5 s, then the constant one that brings the point to rest at 1 s. Everything is exact in continuous
time, not tabulated over 200 intervals: see :mod:`tandem.safety.point_kernels`. The same calls as for the arm
(:mod:`tandem.safety.certify`), batched over heads and backups, each head checked once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tandem.core.config import setting
from tandem.core.errors import InputError
from tandem.core.types import Reason
from tandem.safety import point_kernels as kernels

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Flags = NDArray[np.bool_]

REASONS: dict[int, Reason] = {
    kernels.OK: Reason.CERTIFIED,
    kernels.BAD: Reason.MALFORMED,
    kernels.INCONSISTENT: Reason.INCONSISTENT,
    kernels.REST: Reason.NOT_AT_REST,
    kernels.VELOCITY: Reason.VELOCITY_LIMIT,
    kernels.ACCELERATION: Reason.ACCELERATION_LIMIT,
    kernels.COLLISION: Reason.COLLISION,
}


@dataclass(frozen=True)
class PointFamily:
    """The backups of the point mass and its limits; ``k_low``, ``k_high`` narrow the choice of k (JM2D's degraded planners)."""

    accelerate: float = setting(0.5, "time at which braking begins", unit="s", lo=1e-3, hi=10.0)
    stop: float = setting(1.0, "time at which the point is at rest", unit="s", lo=2e-3, hi=20.0)
    acceleration: float = setting(7.5, "largest acceleration an axis", unit="m/s^2", lo=1e-6, hi=1000.0)
    speed: float = setting(5.0, "largest speed an axis", unit="m/s", lo=1e-6, hi=10.0)
    k_low: tuple[float, float] = setting((-7.5, -7.5), "least k", unit="m/s^2", lo=-1000.0, hi=1000.0)
    k_high: tuple[float, float] = setting((7.5, 7.5), "greatest k", unit="m/s^2", lo=-1000.0, hi=1000.0)

    def __post_init__(self) -> None:
        if not self.accelerate < self.stop:
            raise InputError(f"point family: accelerate = {self.accelerate} must be below stop = {self.stop}")
        if any(lo > hi for lo, hi in zip(self.k_low, self.k_high, strict=True)):
            raise InputError(f"point family: k_low = {self.k_low} must not exceed k_high = {self.k_high}")

    @property
    def times(self) -> Array:
        """(3,) knot times [s]."""
        return np.array([0.0, self.accelerate, self.stop])

    def build(self, p0: ArrayLike, v0: ArrayLike, k: ArrayLike) -> tuple[Array, Array, Array, Array]:
        """Knots of the backups: times (3,), p and v (B, 3, 2) [m, m/s], a (B, 2, 2) [m/s^2].

        Args:
            p0, v0: (2,) or (B, 2) state at the start. k: (B, 2) [m/s^2].
        """
        p0, v0, k = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (p0, v0, np.atleast_2d(k))))
        brake = self.stop - self.accelerate
        v1 = v0 + self.accelerate * k
        p1 = p0 + self.accelerate * (v0 + 0.5 * self.accelerate * k)
        p, v = np.stack([p0, p1, p1 + 0.5 * brake * v1], axis=1), np.stack([v0, v1, np.zeros_like(v1)], axis=1)
        return self.times, p, v, np.stack([k, -v1 / brake], axis=1)

    def basis(self, times: ArrayLike) -> Array:
        """(3, T) functions f with ``p(t) = p0 f0 + v0 f1 + k f2`` at ``times`` (T,) [s], constant after the stop."""
        t = np.asarray(times, dtype=np.float64)
        s, b = np.minimum(t, self.accelerate), np.clip(t - self.accelerate, 0.0, self.stop - self.accelerate)
        after = b - 0.5 * b * b / (self.stop - self.accelerate)   # distance braked a unit of the speed at its beginning
        return np.stack([np.ones_like(t), s + after, 0.5 * s * s + self.accelerate * after])

    def cost(self, p0: Array, v0: Array, tail: Array, tail_times: Array, k: Array) -> Array:
        """(H, K) mean squared distance an axis [m^2] of backup and the plan's own tail (RAIL's J).

        Args:
            p0, v0: (H, 2) states at the heads' ends. tail: (H, T, 2) at ``tail_times`` (T,) [s] from there.
            k: (K, 2), or (H, K, 2) of each head's own.
        """
        f = self.basis(tail_times)
        rest = p0[:, None] * f[0][:, None] + v0[:, None] * f[1][:, None] - tail
        linear = np.einsum("htd,t->hd", rest, f[2]) * (2.0 / (2 * len(f[2])))
        ks = np.broadcast_to(k, (len(p0), *np.shape(k)[-2:]))
        square = float(np.mean(f[2] ** 2)) / 2.0
        return np.mean(rest**2, axis=(1, 2))[:, None] + np.einsum("hd,hkd->hk", linear, ks) + square * np.sum(ks * ks, axis=-1)

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """(count, 2) ks, uniform between ``k_low`` and ``k_high``."""
        return rng.uniform(self.k_low, self.k_high, size=(count, 2))


@dataclass(frozen=True)
class PointVerdict:
    """Verdicts on B motions.

    Attributes:
        code: (B,) numbers of :data:`REASONS`. clearance: (B,) [m] what the walls could be padded by beyond ``padding`` before
            they touch, negative inside; exact with ``full=True``, otherwise 0 where certified. -inf where refused before any
            geometry.
        time: (B,) [s] of the worst case. wall: (B,) index of that wall, -1 for none.
    """

    code: IntArray
    clearance: Array
    time: Array
    wall: IntArray

    @property
    def certified(self) -> Flags:
        """(B,) which motions may be played."""
        return self.code == kernels.OK

    @property
    def reason(self) -> list[Reason]:
        """B reasons."""
        return [REASONS[int(c)] for c in self.code]


@dataclass(frozen=True)
class PointGrid:
    """Verdicts on heads x backups: ``head_code`` (H,); ``feasible``, ``clearance`` (H, K) [m] as in :class:`PointVerdict`."""

    head_code: IntArray
    feasible: Flags
    clearance: Array

    @property
    def head_ok(self) -> Flags:
        """(H,) whether the head itself is certified."""
        return self.head_code == kernels.OK


def pack_walls(boxes: ArrayLike) -> Array:
    """(W, 4) centre and half sizes [m] of walls given as (W, 4) x_low, y_low, x_high, y_high [m]; none is legal.

    Raises:
        InputError: wrong shape, NaN, or a wall whose lower end is not below its upper one.
    """
    rows = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) if np.size(boxes) == 0 else np.asarray(boxes, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != 4 or not np.isfinite(rows).all():
        raise InputError(f"walls: shape {rows.shape}; expected (W, 4), all finite")
    bad = np.flatnonzero((rows[:, :2] >= rows[:, 2:]).any(axis=1))
    if len(bad):
        raise InputError(f"walls[{bad[0]}] = {rows[bad[0]].tolist()}: x_low < x_high and y_low < y_high must hold")
    return np.ascontiguousarray(np.concatenate([0.5 * (rows[:, :2] + rows[:, 2:]), 0.5 * (rows[:, 2:] - rows[:, :2])], axis=1))


def point_knots(p0: ArrayLike, v0: ArrayLike, a: ArrayLike, dt: float) -> tuple[Array, Array, Array, Array]:
    """Heads from accelerations held for ``dt`` [s] each: times (M + 1,), p and v (H, M + 1, 2), a (H, M, 2).

    Args:
        p0, v0: (2,) or (H, 2) [m, m/s]. a: (H, M, 2) [m/s^2].
    """
    a = np.asarray(a, dtype=np.float64)
    p0, v0 = (np.broadcast_to(np.asarray(x, dtype=np.float64), (len(a), 2)) for x in (p0, v0))
    v = np.concatenate([v0[:, None], v0[:, None] + dt * np.cumsum(a, axis=1)], axis=1)
    p = np.concatenate([p0[:, None], p0[:, None] + np.cumsum(dt * v[:, :-1] + 0.5 * dt * dt * a, axis=1)], axis=1)
    return dt * np.arange(a.shape[1] + 1, dtype=np.float64), p, v, a


def _arrays(times: Any, p: Any, v: Any, a: Any) -> tuple[Array, Array, Array, Array]:
    t, p, v, a = (np.ascontiguousarray(x, dtype=np.float64) for x in (times, p, v, a))
    batch = len(p) if p.ndim == 3 else -1
    want = ((batch, len(t), 2), (batch, len(t), 2), (batch, len(t) - 1, 2))
    if t.ndim != 1 or len(t) < 2 or (p.shape, v.shape, a.shape) != want:
        raise InputError(f"times {t.shape}, p {p.shape}, v {v.shape}, a {a.shape}: expected (M,), twice (B, M, 2), (B, M - 1, 2)")
    return t, p, v, a


def _padded(walls: Array, padding: float) -> Array:
    if not (np.isfinite(padding) and padding >= 0.0):
        raise InputError(f"padding = {padding}: accepted: 0 or more, finite [m]")
    walls = np.ascontiguousarray(walls, dtype=np.float64)
    if walls.ndim != 2 or walls.shape[1] != 4 or not np.isfinite(walls).all() or (walls[:, 2:] <= 0.0).any():
        raise InputError(f"walls: shape {walls.shape}; expected (W, 4) as pack_walls makes them")
    return walls + np.array([0.0, 0.0, padding, padding])


def certify_points(
    family: PointFamily, times: Array, p: Array, v: Array, a: Array, walls: Array, padding: float = 0.0, *, full: bool = False,
    at_rest: bool = True,
) -> PointVerdict:
    """Certify B motions that share knot times.

    Args:
        family: the limits. times: (M,) [s] from 0. p, v: (B, M, 2) knots [m, m/s]. a: (B, M - 1, 2) accelerations between them.
        walls: from :func:`pack_walls`. padding: by what every wall grows on all sides (the maze's w, the point's radius) [m].
        full: a clearance for every motion; otherwise the first wall that is hit ends the check. at_rest: must it end at rest.

    Raises:
        InputError: shapes do not fit each other, or ``padding`` is negative.
    """
    t, p, v, a = _arrays(times, p, v, a)
    padded = _padded(walls, padding)
    code, out = np.full(len(p), kernels.BAD, dtype=np.int64), np.tile([-np.inf, 0.0, -1.0], (len(p), 1))
    if np.isfinite(t).all() and t[0] == 0.0:
        kernels.check_batch(t, p, v, a, padded, family.speed, family.acceleration, at_rest, full, code, out)
    return PointVerdict(code, out[:, 0], out[:, 1], out[:, 2].astype(np.int64))


def certify_point_grid(
    family: PointFamily, times: Array, p: Array, v: Array, a: Array, k: Array, walls: Array, padding: float = 0.0, *,
    full: bool = False,
) -> PointGrid:
    """Certify every head with every backup; arguments as for :func:`certify_points`, k (K, 2) shared or (H, K, 2).

    ``full``: a clearance for every pair; otherwise lazily, and a head that fails takes all its pairs with it.
    """
    t, p, v, a = _arrays(times, p, v, a)
    ks = np.ascontiguousarray(k, dtype=np.float64)
    ks = ks[None] if ks.ndim == 2 else ks
    if ks.ndim != 3 or ks.shape[2] != 2 or ks.shape[0] not in (1, len(p)):
        raise InputError(f"k has shape {np.shape(k)}; expected (K, 2) or ({len(p)}, K, 2)")
    padded = _padded(walls, padding)
    code, shape = np.full(len(p), kernels.BAD, dtype=np.int64), (len(p), ks.shape[1])
    feasible, clearance = np.zeros(shape, dtype=np.bool_), np.full(shape, -np.inf)
    if np.isfinite(t).all() and t[0] == 0.0:
        kernels.check_grid(
            t, p, v, a, ks, family.accelerate, family.stop, padded, family.speed, family.acceleration, full, code, feasible,
            clearance,
        )
    return PointGrid(code, feasible, clearance)


def point_reach(times: Array, p: Array, v: Array, a: Array, edges: ArrayLike) -> tuple[Array, Array]:
    """Exact reachable boxes of motions between ``edges`` (N + 1,): least and greatest coordinates, both (B, N, 2) [m].

    Raises:
        InputError: shapes do not fit each other, or ``edges`` fall or leave the motion.
    """
    t, p, v, a = _arrays(times, p, v, a)
    cut = np.ascontiguousarray(edges, dtype=np.float64)
    if cut.ndim != 1 or len(cut) < 2 or not (cut[0] >= t[0] and cut[-1] <= t[-1] + 1e-9 and (np.diff(cut) >= 0.0).all()):
        raise InputError(f"edges must rise within {t[0]} .. {t[-1]} s")
    lo, hi = np.empty((len(p), len(cut) - 1, 2)), np.empty((len(p), len(cut) - 1, 2))
    kernels.sweep(t, p, v, a, np.minimum(cut, t[-1]), lo, hi)
    return lo, hi


def compile_points() -> None:
    """Run every compiled function of this module once, which fills Numba's cache."""
    family = PointFamily()
    knots = family.build(np.zeros(2), np.zeros(2), np.zeros((1, 2)))
    walls = pack_walls([[1.0, 1.0, 2.0, 2.0]])
    certify_points(family, *knots, walls)
    certify_point_grid(family, *knots, np.zeros((1, 2)), walls)
    point_reach(*knots, [0.0, 1.0])


@dataclass(frozen=True)
class PointBackup:
    """A certified backup: ``k`` (2,) [m/s^2], ``cost`` (least is best), exact ``clearance`` beyond the padding [m]."""

    k: Array
    cost: float
    clearance: float


def find_point_backup(
    family: PointFamily, p0: ArrayLike, v0: ArrayLike, walls: Array, padding: float = 0.0, *, preference: ArrayLike | None = None,
    tail: Array | None = None, tail_times: Array | None = None, rng: np.random.Generator | None = None, count: int = 512,
    rounds: int = 6,
) -> PointBackup | None:
    """The certified backup of least cost found by a batch of samples and refinement around the best, or None.

    Args:
        p0, v0: (2,) state. preference: (2,) the k to stay near to (default 0); or ``tail`` (T, 2) at ``tail_times`` (T,) [s]: the
            motion to stay near to. rng: default a fixed seed. count: candidates a round. rounds: rounds of refinement.
    """
    rng = np.random.default_rng(0) if rng is None else rng
    p0, v0 = np.asarray(p0, dtype=np.float64), np.asarray(v0, dtype=np.float64)
    low, high = np.asarray(family.k_low), np.asarray(family.k_high)
    wanted = np.clip(np.zeros(2) if preference is None else np.asarray(preference, dtype=np.float64), low, high)
    if tail is not None and tail_times is not None:
        f = family.basis(tail_times)
        rest = np.outer(f[0], p0) + np.outer(f[1], v0) - tail
        wanted = np.clip(-(f[2] @ rest) / max(float(f[2] @ f[2]), 1e-300), low, high)    # separable: clipping is exact

    def costs(k: Array) -> Array:
        if tail is not None and tail_times is not None:
            return family.cost(p0[None], v0[None], tail[None], tail_times, k)[0]
        return np.mean((k - wanted) ** 2, axis=1)

    stopping = np.clip(-v0 / family.accelerate * np.array([[0.25], [0.5], [0.75], [1.0]]), low, high)
    k = np.concatenate([wanted[None], stopping, family.sample(max(0, count - 5), rng)])
    best, spread = None, 0.25
    for _ in range(rounds):
        fine = certify_points(family, *family.build(p0, v0, k), walls, padding).certified
        cost = np.where(fine, costs(k), np.inf)
        i = int(np.argmin(cost))
        if np.isfinite(cost[i]) and (best is None or cost[i] < best[0]):
            best = (float(cost[i]), k[i].copy())
        if best is None:
            k = family.sample(count, rng)
            continue
        if np.array_equal(best[1], wanted):
            break
        line = best[1] + np.linspace(0.05, 0.95, count // 4)[:, None] * (wanted - best[1])
        cloud = best[1] + rng.normal(0.0, spread, (count - len(line), 2)) * (high - low)
        k, spread = np.clip(np.concatenate([line, cloud]), low, high), 0.5 * spread
    if best is None:
        return None
    final = certify_points(family, *family.build(p0, v0, best[1][None]), walls, padding, full=True)
    return PointBackup(best[1], best[0], float(final.clearance[0])) if final.certified[0] else None
