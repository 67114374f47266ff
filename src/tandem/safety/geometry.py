"""Arm and scene as flat arrays for the compiled kernels.

Joint frames are rotated so that every joint turns about (or slides along) its own local z: the kernels then need no Rodrigues
formula. Obstacle kinds are numbered; convex polytopes and zonotopes become faces (unit outward normals and offsets).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tandem.core.errors import InputError
from tandem.core.scene import MAX_COORDINATE, Obstacle, Scene
from tandem.robots.model import ArmModel
from tandem.safety.bounds import Bounds
from tandem.safety.kernels import (
    BOX,
    CAPSULE,
    CYLINDER,
    HALFSPACE,
    O_AT,
    O_FACES,
    O_GROW,
    O_KIND,
    O_ROUND,
    O_SIZE,
    O_SKIP,
    O_SPEED,
    O_TURN,
    POLYTOPE,
    SPHERE,
    ArmArrays,
    BoundArrays,
    SceneArrays,
)

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

_KINDS = {"box": BOX, "sphere": SPHERE, "cylinder": CYLINDER, "capsule": CAPSULE, "halfspace": HALFSPACE}
#: radius of a ball around an obstacle's centre
_ROUND: dict[str, Callable[..., float]] = {
    "box": lambda x, y, z: math.hypot(x, y, z) * (1.0 + 1e-12),
    "sphere": lambda r: r,
    "cylinder": lambda r, h: math.hypot(r, h) * (1.0 + 1e-12),
    "capsule": lambda r, h: r + h,
    "halfspace": lambda: math.inf,
}


@dataclass(frozen=True)
class PackedScene:
    """A scene at one moment, ready for the kernels.

    ``names``: obstacle of each index. ``start``: time at which a trajectory's t = 0 lies [s]. ``stale``: name of an obstacle
    older than allowed, or "". ``digest``: SHA-256 of the arrays and names.
    """

    arrays: SceneArrays
    names: tuple[str, ...]
    start: float
    stale: str
    digest: str


@dataclass(frozen=True)
class Polytope:
    """A convex obstacle given by its faces: points x with ``normals @ x <= offsets``.

    Attributes:
        name: for messages and verdicts. normals: (F, 3), scaled to unit length here. offsets: (F,) [m], base frame.
        position_error, speed, stamp: as in :class:`tandem.core.scene.Obstacle`.
    """

    name: str
    normals: Array
    offsets: Array
    position_error: float = 0.0
    speed: float = 0.0
    stamp: float = 0.0

    def __post_init__(self) -> None:
        normals = np.atleast_2d(np.asarray(self.normals, dtype=np.float64))
        offsets = np.atleast_1d(np.asarray(self.offsets, dtype=np.float64))
        where = f"polytope {self.name!r}"
        if normals.ndim != 2 or normals.shape[1] != 3 or offsets.shape != (normals.shape[0],) or normals.shape[0] < 1:
            raise InputError(f"{where}: normals {normals.shape}, offsets {offsets.shape}; expected (F, 3) and (F,) with F >= 1")
        numbers = np.array([self.position_error, self.speed, self.stamp])
        if not (np.isfinite(normals).all() and np.isfinite(offsets).all() and np.isfinite(numbers).all()):
            raise InputError(f"{where}: contains NaN or infinity")
        if self.position_error < 0.0 or self.speed < 0.0:
            raise InputError(f"{where}: position_error and speed must be >= 0")
        length = np.linalg.norm(normals, axis=1)
        if length.min() < 1e-9:
            raise InputError(f"{where}: a normal has no length")
        if np.abs(offsets / length).max() > 2.0 * MAX_COORDINATE:
            raise InputError(f"{where}: offsets must lie within +-{2 * MAX_COORDINATE} m")
        object.__setattr__(self, "normals", normals / length[:, None])
        object.__setattr__(self, "offsets", offsets / length)

    @classmethod
    def from_points(cls, name: str, points: ArrayLike, **errors: float) -> Polytope:
        """The convex hull of ``points`` (V, 3) [m], V >= 4, not all in one plane."""
        from scipy.spatial import ConvexHull, QhullError

        points = np.asarray(points, dtype=np.float64)
        if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
            raise InputError(f"polytope {name!r}: points {points.shape} must be (V, 3) and finite")
        try:
            hull = ConvexHull(points)
        except (QhullError, ValueError) as error:
            raise InputError(f"polytope {name!r}: the points have no convex hull with volume") from error
        normals = hull.equations[:, :3]
        # the offset that contains every point, whatever qhull's own tolerance merged
        return cls(name, normals, (points @ normals.T).max(axis=0), **errors)

    @classmethod
    def from_zonotope(cls, name: str, center: ArrayLike, generators: ArrayLike, **errors: float) -> Polytope:
        """The zonotope ``{c + sum_i b_i g_i, |b_i| <= 1}``: centre (3,), generators (G, 3) [m] (zonopy's layout).

        Every face's normal is perpendicular to two generators; the support function ``n c + sum |n g_i|`` gives its offset.
        """
        c = np.asarray(center, dtype=np.float64)
        g = np.atleast_2d(np.asarray(generators, dtype=np.float64))
        if c.shape != (3,) or g.shape[1] != 3 or not (np.isfinite(c).all() and np.isfinite(g).all()):
            raise InputError(f"zonotope {name!r}: centre {c.shape} and generators {g.shape} must be (3,) and (G, 3), finite")
        normals = [np.cross(g[i], g[j]) for i, j in combinations(range(len(g)), 2)]
        normals = [n / np.linalg.norm(n) for n in normals if np.linalg.norm(n) > 1e-9]
        normals += list(np.eye(3))  # keeps flat zonotopes bounded: the bounding box is an enclosure
        unit = np.asarray(normals)
        unit = np.concatenate([unit, -unit])
        return cls(name, unit, unit @ c + np.abs(unit @ g.T).sum(axis=1), **errors)


def _to_z(axis: Array) -> Array:
    """(3, 3) rotation that maps the z axis to ``axis`` (3,) of unit length."""
    z = axis / np.linalg.norm(axis)
    other = np.eye(3)[int(np.argmin(np.abs(z)))]
    x = np.cross(other, z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z], axis=1)


def pack_arm(arm: ArmModel) -> ArmArrays:
    """Kernel arrays of a :class:`tandem.robots.model.ArmModel` (kept with the object: packing happens once)."""
    cached = _PACKED.get(id(arm))
    if cached is not None and cached[0] is arm:
        return cached[1]
    packed = _pack_arm(arm)
    if len(_PACKED) > 16:
        _PACKED.clear()
    _PACKED[id(arm)] = (arm, packed)
    return packed


_PACKED: dict[int, tuple[ArmModel, ArmArrays]] = {}


def _pack_arm(arm: ArmModel) -> ArmArrays:
    placement = np.asarray(arm.placement, dtype=np.float64)
    n = placement.shape[0]
    turn = [np.eye(3)]  # link frame here = link frame of the model @ turn
    turn += [np.eye(3) if np.allclose(a, (0.0, 0.0, 1.0), atol=1e-15) else _to_z(np.asarray(a, float)) for a in arm.axis]
    rotation = np.stack([turn[j].T @ placement[j, :3, :3] @ turn[j + 1] for j in range(n)])
    translation = np.stack([turn[j].T @ placement[j, :3, 3] for j in range(n)])
    link = np.asarray(arm.sphere_link, dtype=np.int64)
    order = np.argsort(link, kind="stable")
    link = link[order]
    radius = np.asarray(arm.sphere_radius, dtype=np.float64)[order]
    center = np.stack([turn[k].T @ c for k, c in zip(link, np.asarray(arm.sphere_center, dtype=np.float64)[order], strict=True)])
    first = np.searchsorted(link, np.arange(n + 2)).astype(np.int64)
    link_center = np.stack([turn[k].T @ c for k, c in enumerate(np.asarray(arm.link_center, dtype=np.float64))])
    link_radius = np.full(n + 1, -1.0)
    for k in range(n + 1):  # recomputed: the kernel relies on every sphere lying in its link's ball
        part = slice(first[k], first[k + 1])
        if first[k] < first[k + 1]:
            link_radius[k] = (np.linalg.norm(center[part] - link_center[k], axis=1) + radius[part]).max() + 1e-12
    pairs = np.sort(np.asarray(arm.self_pairs, dtype=np.int64).reshape(-1, 2), axis=1)[:, ::-1]
    limits = [np.asarray(getattr(arm, k), dtype=np.float64) for k in ("lower", "upper", "velocity", "acceleration", "jerk")]
    prismatic = np.asarray(arm.joint_type, dtype=np.int64)
    joint = np.concatenate(
        [rotation.reshape(n, 9), translation, prismatic[:, None], np.stack(limits, axis=1), arm.velocity_position], axis=1
    )
    ball = np.concatenate([center, radius[:, None], link[:, None]], axis=1)
    links = np.concatenate([link_center, link_radius[:, None], first[:-1, None], first[1:, None]], axis=1)
    joint, ball, links = (np.ascontiguousarray(x, dtype=np.float64) for x in (joint, ball, links))
    return ArmArrays(joint, ball, links, np.ascontiguousarray(pairs))


def _faces(obstacles: list[Obstacle | Polytope]) -> tuple[IntArray, Array]:
    first, faces = [0], []
    for o in obstacles:
        if isinstance(o, Polytope):
            faces.append(np.concatenate([o.normals, o.offsets[:, None]], axis=1))
        first.append(first[-1] + (len(faces[-1]) if isinstance(o, Polytope) else 0))
    return np.asarray(first, dtype=np.int64), np.concatenate(faces) if faces else np.zeros((0, 4))


def pack_scene(
    scene: Scene, arm: ArmModel, bounds: Bounds, now: float, *, start: float | None = None, polytopes: tuple[Polytope, ...] = ()
) -> PackedScene:
    """Obstacles as kernel arrays, inflated for what is not known about them.

    At time t of the trajectory an obstacle occupies its shape grown by
    ``position_error + speed * (age + latency + t)`` with ``age = max(0, start - stamp)``.

    Args:
        scene: obstacles. arm: the arm, whose base is not checked against half-spaces (it is bolted to the table).
        bounds: latency and maximal age. now: time on the clock of the stamps [s].
        start: time at which the trajectory starts; default ``now``. polytopes: further convex obstacles.

    Raises:
        InputError: ``now`` or ``start`` is not finite, or names are not unique.
    """
    begin = now if start is None else start
    if not (np.isfinite(now) and np.isfinite(begin)):
        raise InputError(f"pack_scene: now = {now}, start = {begin}: both must be finite")
    every: list[Obstacle | Polytope] = [*scene.obstacles, *polytopes]
    names = tuple(o.name for o in every)
    if len(set(names)) != len(names):
        raise InputError(f"scene: obstacle names must be unique, got {sorted(names)}")
    rows = np.zeros((len(every), O_SKIP + arm.n + 1))
    first, faces = _faces(every)
    stale = ""
    for i, o in enumerate(every):
        row = rows[i]
        row[O_KIND] = _KINDS[o.kind] if isinstance(o, Obstacle) else POLYTOPE
        if isinstance(o, Obstacle):
            row[O_SIZE : O_SIZE + len(o.size)] = o.size
            row[O_TURN : O_TURN + 9] = o.rotation().T.ravel()
            row[O_AT : O_AT + 3] = o.position
        row[O_ROUND] = _ROUND[o.kind](*o.size) if isinstance(o, Obstacle) else np.inf
        row[O_SPEED] = o.speed
        row[O_GROW] = o.position_error + o.speed * (max(0.0, begin - o.stamp) + bounds.latency)
        row[O_FACES], row[O_FACES + 1] = first[i], first[i + 1]
        row[O_SKIP:] = ~arm.checked_links(o.name)
        if row[O_KIND] == HALFSPACE:
            row[O_SKIP] = 1.0
        if o.speed > 0.0 and now - o.stamp > bounds.max_obstacle_age:
            stale = stale or o.name
    arrays = SceneArrays(rows, faces)
    digest = hashlib.sha256(repr((names, float(begin), stale)).encode())
    for part in arrays:
        digest.update(repr(part.shape).encode() + part.tobytes())
    return PackedScene(arrays, names, float(begin), stale, digest.hexdigest())


def pack_bounds(bounds: Bounds, joints: int, *, travel: float = 1.0) -> BoundArrays:
    """Kernel numbers of ``bounds`` for an arm with ``joints`` joints.

    Raises:
        InputError: ``tracking_error`` has neither one value nor one a joint.
    """
    tracking = np.asarray(bounds.tracking_error, dtype=np.float64)
    if tracking.shape == (1,):
        tracking = np.repeat(tracking, joints)
    if tracking.shape != (joints,):
        raise InputError(f"bounds.tracking_error has {tracking.shape[0]} values; the arm takes 1 or {joints}")
    return BoundArrays(
        tracking, bounds.joint_pad, bounds.rounding_pad, bounds.min_clearance, bounds.interval, bounds.levels, travel
    )
