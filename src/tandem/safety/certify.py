"""Certification: trajectories in, verdicts out. The mathematics is in :mod:`tandem.safety.kernels`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import get_num_threads
from numpy.typing import NDArray

from tandem.core.errors import InputError
from tandem.core.scene import TABLE, Scene
from tandem.core.trajectory import Trajectory
from tandem.core.types import Reason, Verdict
from tandem.robots.model import ArmModel, load_arm
from tandem.safety import kernels
from tandem.safety.backup import BackupFamily
from tandem.safety.bounds import Bounds
from tandem.safety.geometry import PackedScene, Polytope, pack_arm, pack_bounds, pack_scene

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Flags = NDArray[np.bool_]

REASONS: dict[int, Reason] = {
    kernels.OK: Reason.CERTIFIED,
    kernels.BAD: Reason.MALFORMED,
    kernels.INCONSISTENT: Reason.INCONSISTENT,
    kernels.REST: Reason.NOT_AT_REST,
    kernels.POSITION: Reason.POSITION_LIMIT,
    kernels.VELOCITY: Reason.VELOCITY_LIMIT,
    kernels.ACCELERATION: Reason.ACCELERATION_LIMIT,
    kernels.JERK: Reason.JERK_LIMIT,
    kernels.SELF: Reason.SELF_COLLISION,
    kernels.COLLISION: Reason.COLLISION,
    (STALE := 10): Reason.STALE_SCENE,  # decided here, before any kernel
}
#: work [trajectories] below which a batch is not spread over threads
SERIAL_BELOW = 64


@dataclass(frozen=True)
class BatchVerdict:
    """Verdicts on B trajectories.

    Attributes:
        code: (B,) numbers of :data:`REASONS`. clearance: (B,) [m] a lower bound of the distance; negative: the overlap of the
            deepest ball; tight only with ``full=True`` (otherwise 0 when certified, the violated bound when not; -inf when
            refused before any geometry).
        time: (B,) [s] of the worst case. link: (B,) index of the link. other: (B,) index of the
            obstacle, -2 - index of the other link where the arm is nearest to itself, -1 where there is neither.
        links, obstacles: names.
    """

    code: IntArray
    clearance: Array
    time: Array
    link: IntArray
    other: IntArray
    links: tuple[str, ...]
    obstacles: tuple[str, ...]

    @property
    def certified(self) -> Flags:
        """(B,) which trajectories may be played."""
        return self.code == kernels.OK

    @property
    def reason(self) -> list[Reason]:
        """B reasons."""
        return [REASONS[int(c)] for c in self.code]

    def names(self, index: int) -> tuple[str, str]:
        """Link and obstacle (or other link) of the worst case of one trajectory; "" where there is none."""
        link, other = int(self.link[index]), int(self.other[index])
        second = self.obstacles[other] if other >= 0 else self.links[-2 - other] if other <= -2 else ""
        return self.links[link] if link >= 0 else "", second


@dataclass(frozen=True)
class GridVerdict:
    """Verdicts on heads x backups.

    Attributes:
        head_code: (H,) numbers of :data:`REASONS`. feasible: (H, K) head and backup certified as one motion.
        clearance: (H, K) [m] lower bound of head and backup together (see :class:`BatchVerdict`).
    """

    head_code: IntArray
    feasible: Flags
    clearance: Array

    @property
    def head_ok(self) -> Flags:
        """(H,) whether the head itself is certified."""
        return self.head_code == kernels.OK


def _numbers(name: str, value: Any) -> Array:
    try:
        return np.require(value, np.float64, ["C", "W"])  # read-only arrays would be another type to the compiler
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: not an array of numbers: {error}") from error


def _contiguous(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    out = _numbers(name, value)
    if out.shape != shape:
        raise InputError(f"{name} has shape {out.shape}; expected {shape}")
    return out


def _check_times(times: Any) -> Array:
    out = _numbers("times", times)
    if out.ndim != 1 or len(out) < 2:
        raise InputError(f"times has shape {out.shape}; expected (M,) with M >= 2")
    return out


def _check_scene(scene: PackedScene, arm: ArmModel) -> None:
    """The kernels read one column a link of the scene, and which links are excluded depends on the arm."""
    if scene.links != arm.link_names or scene.exclusions != arm.exclusions:
        raise InputError(f"scene: was packed for another arm than {arm.name}; pack it anew with pack_scene")


def certify(
    arm: ArmModel, times: Array, q: Array, v: Array, a: Array, scene: PackedScene, bounds: Bounds, *,
    full: bool = False, at_rest: bool = True, offset: float = 0.0, travel: float = 1.0,
) -> BatchVerdict:
    """Certify B trajectories that share knot times.

    Args:
        arm: the arm. times: (M,) [s] from 0. q, v, a: (B, M, n) knots [rad, rad/s, rad/s^2].
        scene: from :func:`pack_scene`, whose ``start`` is the trajectories' t = 0. bounds: see :class:`Bounds`.
        full: compute a tight signed clearance for every trajectory; otherwise stop at its first violation.
        at_rest: whether trajectories must end at rest. offset: their start after the scene's ``start`` [s].
        travel: factor of the displacement bound; 1 except in the mutation check.

    Returns:
        Verdicts. NaN, non-monotone times, inconsistent knots and a stale scene come back as reasons, never as certified.

    Raises:
        InputError: array shapes do not fit the arm or each other, or the scene was packed for another arm.
    """
    times = _check_times(times)
    _check_scene(scene, arm)
    q = _numbers("q", q)
    count = q.shape[0] if q.ndim == 3 else -1
    shape = (count, len(times), arm.n)
    q, v, a = _contiguous("q", q, shape), _contiguous("v", v, shape), _contiguous("a", a, shape)
    code, out = np.full(count, kernels.BAD, dtype=np.int64), np.full((count, 4), -1.0)
    out[:, 0] = -np.inf
    if scene.stale:
        code[:], out[:, 1], out[:, 3] = STALE, 0.0, scene.names.index(scene.stale)
    elif np.isfinite(times).all() and times[0] == 0.0:
        numbers = pack_bounds(bounds, arm.n, travel=travel)
        args = (pack_arm(arm), scene.arrays, numbers, times, q, v, a, float(offset), at_rest, full, code, out)
        if count < SERIAL_BELOW or get_num_threads() == 1:
            kernels.check_serial(*args)
        else:
            with kernels.PARALLEL_LOCK:
                kernels.check_parallel(*args)
    return BatchVerdict(
        code, out[:, 0], out[:, 1], out[:, 2].astype(np.int64), out[:, 3].astype(np.int64), arm.link_names, scene.names
    )


def certify_one(
    arm: ArmModel, trajectory: Trajectory, scene: Scene, bounds: Bounds, now: float, start_time: float | None = None, *,
    full: bool = True, polytopes: tuple[Polytope, ...] = (),
) -> Verdict:
    """Certify one trajectory that starts at ``start_time`` [s] (default ``now``), with a digest of all it rests on.

    Raises:
        InputError: the trajectory is not of this arm, or ``now`` or ``start_time`` is not finite.
    """
    packed = pack_scene(scene, arm, bounds, now, start=start_time, polytopes=polytopes)
    digest = verdict_digest(arm, trajectory, packed, bounds)
    if packed.stale:
        return Verdict(Reason.STALE_SCENE, -np.inf, 0.0, "", packed.stale, digest)
    part = certify(arm, trajectory.times, trajectory.q[None], trajectory.v[None], trajectory.a[None], packed, bounds, full=full)
    link, other = part.names(0)
    return Verdict(part.reason[0], float(part.clearance[0]), max(0.0, float(part.time[0])), link, other, digest)


def verdict_digest(arm: ArmModel, trajectory: Trajectory, scene: PackedScene, bounds: Bounds) -> str:
    """SHA-256 over arm, trajectory, scene (as inflated) and bounds; the same on any number of threads."""
    return hashlib.sha256("|".join((arm.digest, trajectory.digest(), scene.digest, bounds.digest())).encode()).hexdigest()


def certify_grid(
    arm: ArmModel, family: BackupFamily, head_times: Array, q: Array, v: Array, a: Array, k: Array, scene: PackedScene,
    bounds: Bounds, *, full: bool = False,
) -> GridVerdict:
    """Certify every head with every backup.

    Args:
        head_times: (M,) [s]. q, v, a: (H, M, n) knots of the heads. k: (K, n) backups shared by all heads [rad/s^2].
        full: a clearance for every pair (graded potentials); otherwise lazily, and a head that fails takes all its pairs with it.
    """
    return _grid(arm, family, head_times, q, v, a, _numbers("k", k)[None], scene, bounds, full)


def certify_pairs(
    arm: ArmModel, family: BackupFamily, head_times: Array, q: Array, v: Array, a: Array, k: Array, scene: PackedScene,
    bounds: Bounds, *, full: bool = False,
) -> GridVerdict:
    """:func:`certify_grid` with ks (H, Kp, n) of each head's own."""
    k = _numbers("k", k)
    if k.ndim != 3 or k.shape[0] != np.shape(q)[0]:
        raise InputError(f"k has shape {k.shape}; expected ({np.shape(q)[0]}, Kp, {arm.n})")
    return _grid(arm, family, head_times, q, v, a, k, scene, bounds, full)


def _grid(
    arm: ArmModel, family: BackupFamily, head_times: Array, q: Array, v: Array, a: Array, k: Array, scene: PackedScene,
    bounds: Bounds, full: bool,
) -> GridVerdict:
    times = _check_times(head_times)
    _check_scene(scene, arm)
    heads = np.shape(q)[0]
    shape = (heads, len(times), arm.n)
    q, v, a = _contiguous("q", q, shape), _contiguous("v", v, shape), _contiguous("a", a, shape)
    k = _contiguous("k", k, (k.shape[0], k.shape[1] if k.ndim == 3 else -1, arm.n))
    code, out = np.full(heads, kernels.BAD, dtype=np.int64), np.full((heads, 4), -1.0)
    feasible, clearance = np.zeros((heads, k.shape[1]), dtype=np.bool_), np.full((heads, k.shape[1]), -np.inf)
    if scene.stale:
        code[:] = STALE
    elif heads and np.isfinite(times).all() and times[0] == 0.0:
        args = (
            pack_arm(arm), scene.arrays, pack_bounds(bounds, arm.n), family.arrays(), times, q, v, a, k, full, code, out,
            feasible, clearance,
        )
        if heads * k.shape[1] < SERIAL_BELOW or heads == 1 or get_num_threads() == 1:
            kernels.grid_serial(*args)
        else:
            with kernels.PARALLEL_LOCK:
                kernels.grid_parallel(*args)
    return GridVerdict(code, feasible, clearance)


def occupancy(
    arm: ArmModel, trajectory: Trajectory, bounds: Bounds, edges: Array, *, travel: float = 1.0
) -> tuple[Array, Array, IntArray]:
    """Balls that contain every point of the arm during each interval, whatever it does within its tracking error.

    Args:
        edges: (N + 1,) times [s] between which the intervals lie. travel: as in :func:`certify`.

    Returns:
        centers (N, S, 3) [m], radii (N, S) [m], and the link of each ball (S,).

    Raises:
        InputError: the trajectory is not of this arm, or its knots are inconsistent, or ``edges`` leave it.
    """
    edges = _check_times(edges)
    if trajectory.joints != arm.n:
        raise InputError(f"trajectory has {trajectory.joints} joints; {arm.name} has {arm.n}")
    if not (edges[0] >= 0.0 and edges[-1] <= trajectory.duration + 1e-9 and (np.diff(edges) >= 0.0).all()):
        raise InputError(f"edges must rise within 0 .. {trajectory.duration} s")
    packed, t = pack_arm(arm), trajectory
    centers, radii = np.empty((len(edges) - 1, len(packed.ball), 3)), np.empty((len(edges) - 1, len(packed.ball)))
    times, q, v, a = (np.require(x, np.float64, ["C", "W"]) for x in (t.times, t.q, t.v, t.a))
    code = kernels.sweep(packed, pack_bounds(bounds, arm.n, travel=travel), times, q, v, a, edges, centers, radii)
    if code in (kernels.BAD, kernels.INCONSISTENT):
        raise InputError(f"trajectory: {REASONS[code].value}")
    return centers, radii, packed.ball[:, 4].astype(np.int64)


def compile_all(arm: ArmModel | None = None) -> None:
    """Run every compiled function once (default: on the FR3), which fills Numba's cache: at set-up, not in a node."""
    arm = load_arm("fr3") if arm is None else arm
    bounds = Bounds()
    family = BackupFamily(k_max=(1.0,) * arm.n)
    packed = pack_scene(Scene((TABLE,)), arm, bounds, 0.0)
    zero = np.zeros((1, arm.n))
    times, q, v, a = family.build(arm.home, zero[0], zero[0], zero)
    arrays, numbers = (pack_arm(arm), packed.arrays), pack_bounds(bounds, arm.n)
    code, out = np.zeros(1, dtype=np.int64), np.zeros((1, 4))
    flags, low = np.zeros((1, 1), dtype=np.bool_), np.zeros((1, 1))
    checks: tuple[Any, ...] = (kernels.check_serial, kernels.check_parallel)
    grids: tuple[Any, ...] = (kernels.grid_serial, kernels.grid_parallel)
    with kernels.PARALLEL_LOCK:
        for check in checks:
            check(*arrays, numbers, times, q, v, a, 0.0, True, False, code, out)
        for grid in grids:
            grid(*arrays, numbers, family.arrays(), times, q, v, a, zero[None], False, code, out, flags, low)
    occupancy(arm, family.trajectory(arm.home, zero[0], zero[0], zero[0]), bounds, np.array([0.0, 1.0]))
