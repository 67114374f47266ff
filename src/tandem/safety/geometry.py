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
from scipy.optimize import linprog

from tandem.core.errors import InputError
from tandem.core.scene import MAX_COORDINATE, Obstacle, Scene
from tandem.robots.model import ArmModel, bounding_balls
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
    older than allowed (or from the future), or "". ``digest``: SHA-256 of the arrays and names. ``links``
    and ``exclusions``: of the arm it was packed for, which are in the arrays.
    """

    arrays: SceneArrays
    names: tuple[str, ...]
    start: float
    stale: str
    digest: str
    links: tuple[str, ...]
    exclusions: tuple[tuple[str, str], ...]


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
        where = f"polytope {self.name!r}"
        try:
            normals = np.atleast_2d(np.asarray(self.normals, dtype=np.float64))
            offsets = np.atleast_1d(np.asarray(self.offsets, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}: normals and offsets must be numbers: {error}") from error
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
        # faces that contradict each other would be far from everything: most likely a sign is wrong
        if linprog(np.zeros(3), self.normals, self.offsets + 1e-6, bounds=(None, None)).status == 2:
            raise InputError(f"{where}: normals and offsets leave no point inside")

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
        if c.shape != (3,) or g.ndim != 2 or g.shape[1] != 3 or not (np.isfinite(c).all() and np.isfinite(g).all()):
            raise InputError(f"zonotope {name!r}: centre {c.shape} and generators {g.shape} must be (3,) and (G, 3), finite")
        if not np.abs(g).max(initial=0.0) > 1e-9:
            raise InputError(f"zonotope {name!r}: generators have no length; at least one must be longer than 1e-9 m")
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


@dataclass(frozen=True)
class Part:
    """Neighbouring spheres of one link: their indices in the arm's model, and a ball around them in the link's frame [m]."""

    link: int
    spheres: tuple[int, ...]
    center: Array
    radius: float


def parts_of(arm: ArmModel) -> list[Part]:
    """The links' spheres in parts of at most PART_SIZE, halved along their longest direction."""
    out = []
    for link in range(arm.n + 1):
        groups = [np.flatnonzero(np.asarray(arm.sphere_link) == link)]
        while groups:
            group = groups.pop(0)
            if len(group) == 0:
                continue
            center, radius = arm.sphere_center[group], arm.sphere_radius[group]
            if len(group) > PART_SIZE:
                longest = np.linalg.svd(center - center.mean(axis=0))[2][0]
                order = group[np.argsort(center @ longest, kind="stable")]
                groups = [order[: len(order) // 2], order[len(order) // 2 :], *groups]
                continue
            middle, _ = bounding_balls(1, np.zeros(len(group), dtype=np.int64), center, radius)
            reach = (np.linalg.norm(center - middle[0], axis=1) + radius).max() + 1e-12  # the kernel relies on this
            out.append(Part(link, tuple(int(s) for s in group), middle[0], float(reach)))
    return out


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


#: spheres a part of a link has at most
PART_SIZE = 6
_PACKED: dict[int, tuple[ArmModel, ArmArrays]] = {}


def _pack_arm(arm: ArmModel) -> ArmArrays:
    placement = np.asarray(arm.placement, dtype=np.float64)
    n = placement.shape[0]
    turn = [np.eye(3)]  # link frame here = link frame of the model @ turn
    turn += [np.eye(3) if np.allclose(a, (0.0, 0.0, 1.0), atol=1e-15) else _to_z(np.asarray(a, float)) for a in arm.axis]
    rotation = np.stack([turn[j].T @ placement[j, :3, :3] @ turn[j + 1] for j in range(n)])
    translation = np.stack([turn[j].T @ placement[j, :3, 3] for j in range(n)])
    balls: list[list[float]] = []
    rows: list[list[float]] = []
    of_link: dict[int, list[int]] = {}
    for index, part in enumerate(parts_of(arm)):
        mine = turn[part.link].T
        for s in part.spheres:
            balls.append([*(mine @ arm.sphere_center[s]), arm.sphere_radius[s], part.link, index])
        reach = np.linalg.norm(arm.sphere_center[list(part.spheres)] - part.center, axis=1).max() + 1e-12
        rows.append([*(mine @ part.center), part.radius, len(balls) - len(part.spheres), len(balls), part.link, reach])
        of_link.setdefault(part.link, []).append(index)
    pairs = [
        (i, j) for a, b in arm.self_pairs.tolist() for i in of_link.get(max(a, b), []) for j in of_link.get(min(a, b), [])
    ]
    limits = [np.asarray(getattr(arm, k), dtype=np.float64) for k in ("lower", "upper", "velocity", "acceleration", "jerk")]
    prismatic = np.asarray(arm.joint_type, dtype=np.int64)
    joint = np.concatenate(
        [rotation.reshape(n, 9), translation, prismatic[:, None], np.stack(limits, axis=1), arm.velocity_position], axis=1
    )
    return ArmArrays(
        np.ascontiguousarray(joint, dtype=np.float64), np.array(balls, dtype=np.float64).reshape(-1, 6),
        np.array(rows, dtype=np.float64).reshape(-1, 8), np.array(pairs, dtype=np.int64).reshape(-1, 2),
    )


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
        if o.speed > 0.0 and abs(now - o.stamp) > bounds.max_obstacle_age:
            stale = stale or o.name
    arrays = SceneArrays(rows, faces)
    digest = hashlib.sha256(repr((names, float(begin), stale)).encode())
    for part in arrays:
        digest.update(repr(part.shape).encode() + part.tobytes())
    return PackedScene(arrays, names, float(begin), stale, digest.hexdigest(), arm.link_names, arm.exclusions)


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
