"""The same check in plain NumPy: the oracle of the tests and the baseline of ``tandem bench reach``.

Written against the arm model and the scene themselves, not the kernels' arrays: every level of every interval for every pair,
at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem.core.scene import Obstacle, Scene
from tandem.core.trajectory import Trajectory
from tandem.core.types import Reason
from tandem.robots.kinematics import fk
from tandem.robots.model import ArmModel, velocity_limits
from tandem.safety.bounds import Bounds
from tandem.safety.geometry import parts_of

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ReferenceVerdict:
    """``certified``, the limit that is broken (None: none) and the clearances [m] against obstacles and against itself."""

    certified: bool
    limit: Reason | None
    obstacles: float
    itself: float


def piece_range(c: Array, s0: Array, s1: Array) -> tuple[Array, Array]:
    """Range of ``c0 + c1 s + c2 s^2/2 + c3 s^3/6`` over [s0, s1]; c (4, ...), s0 and s1 broadcast to (...)."""

    def at(s: Array) -> Array:
        return c[0] + s * (c[1] + s * (c[2] / 2.0 + s * c[3] / 6.0))

    with np.errstate(all="ignore"):
        root = np.sqrt(c[2] ** 2 - 2.0 * c[3] * c[1])
        spots = [s0, s1, (-c[2] + root) / c[3], (-c[2] - root) / c[3], -c[1] / c[2]]
        values = [at(np.where((s >= s0) & (s <= s1), s, s0)) for s in spots]
    return np.fmin.reduce(values), np.fmax.reduce(values)


def joint_boxes(t: Trajectory, edges: Array) -> tuple[Array, Array]:
    """(N, n) centres (positions at the middles) and radii over the N intervals between ``edges`` (N+1,)."""
    lo, hi = np.full((len(edges) - 1, t.joints), np.inf), np.full((len(edges) - 1, t.joints), -np.inf)
    jerk = t.jerk()
    for i in range(len(t.times) - 1):
        s0 = np.clip(edges[:-1], t.times[i], t.times[i + 1]) - t.times[i]
        s1 = np.clip(edges[1:], t.times[i], t.times[i + 1]) - t.times[i]
        c = np.stack([t.q[i], t.v[i], t.a[i], jerk[i]])[:, None, :]
        a, b = piece_range(c, s0[:, None], s1[:, None])
        inside = (s1 > s0)[:, None]
        lo, hi = np.where(inside, np.minimum(lo, a), lo), np.where(inside, np.maximum(hi, b), hi)
    centre = t.sample(0.5 * (edges[:-1] + edges[1:]))[0]
    return centre, np.maximum(hi - centre, centre - lo)


def displacement(arm: ArmModel, frames: Array, points: Array, link: int, base: int, radius: Array) -> Array:
    """(N, P) displacement bound of ``points`` (N, P, 3) of ``link`` in the frame of ``base`` for joint radii (N, n)."""
    total = np.zeros(points.shape[:2])
    for j in range(link - 1, base - 1, -1):
        if arm.joint_type[j] == 1:
            total = total + radius[:, j, None]
            continue
        axis = frames[:, j + 1, :3, :3] @ arm.axis[j]
        rho = np.linalg.norm(np.cross(points - frames[:, j + 1, None, :3, 3], axis[:, None]), axis=-1)
        total = total + 2.0 * np.sin(0.5 * np.minimum(radius[:, j, None], np.pi)) * (rho + total)
    return total


def approach(arm: ArmModel, frames: Array, points: Array, normal: Array, link: int, base: int, radius: Array) -> Array:
    """(N, P) bound on the motion of ``points`` (N, P, 3) of ``link``, in the frame of ``base``, along ``normal`` (N, P, 3)."""
    total, out = np.zeros(points.shape[:2]), np.zeros(points.shape[:2])
    for k in range(link - 1, base - 1, -1):
        r, axis = radius[:, k, None], frames[:, k + 1, None, :3, :3] @ arm.axis[k]
        before = sum((radius[:, j, None] for j in range(base, k) if arm.joint_type[j] == 0), np.zeros_like(r))
        if arm.joint_type[k] == 1:
            out, total = out + r * (np.abs(np.sum(normal * axis, axis=-1)) + before), total + r
            continue
        arm_of = np.cross(axis, points - frames[:, k + 1, None, :3, 3])
        rho = np.linalg.norm(arm_of, axis=-1)
        out = out + r * np.abs(np.sum(normal * arm_of, axis=-1)) + r * (rho + total) * (r / 2.0 + before)
        total = total + 2.0 * np.sin(0.5 * np.minimum(r, np.pi)) * (rho + total)
    return out


def gradient(o: Obstacle, points: Array) -> Array:
    """Unit gradient (..., 3) of :func:`obstacle_distance` by central differences, (0, 0, 0) near and inside the obstacle."""
    step = 1e-6
    slope = [
        obstacle_distance(o, points + step * e) - obstacle_distance(o, points - step * e) for e in np.eye(3)
    ]
    out = np.stack(slope, axis=-1) / (2.0 * step)
    return np.where((obstacle_distance(o, points) > 1e-4)[..., None], out / np.linalg.norm(out, axis=-1, keepdims=True), 0.0)


def obstacle_distance(o: Obstacle, points: Array) -> Array:
    """Signed distance (...,) of points (..., 3) to an obstacle."""
    local = (points - np.asarray(o.position)) @ o.rotation()
    if o.kind == "sphere":
        return np.linalg.norm(local, axis=-1) - o.size[0]
    if o.kind == "halfspace":
        return local[..., 2]
    if o.kind == "capsule":
        over = np.maximum(np.abs(local[..., 2]) - o.size[1], 0.0)
        return np.sqrt(local[..., 0] ** 2 + local[..., 1] ** 2 + over**2) - o.size[0]
    if o.kind == "box":
        gap = np.abs(local) - np.asarray(o.size)
    else:
        gap = np.stack([np.hypot(local[..., 0], local[..., 1]) - o.size[0], np.abs(local[..., 2]) - o.size[1]], axis=-1)
    return np.linalg.norm(np.maximum(gap, 0.0), axis=-1) + np.minimum(gap.max(axis=-1), 0.0)


def broken_limit(arm: ArmModel, t: Trajectory) -> Reason | None:
    """The first limit a trajectory breaks, by exact extrema (the position-dependent speed limit: by dense sampling)."""
    edges = t.times
    centre, _radius = joint_boxes(t, edges)
    lo, hi = np.full_like(centre, np.inf), np.full_like(centre, -np.inf)
    jerk = t.jerk()
    for i in range(len(edges) - 1):
        h = np.array(edges[i + 1] - edges[i])
        lo[i], hi[i] = piece_range(np.stack([t.q[i], t.v[i], t.a[i], jerk[i]]), np.zeros(()), h)
    if (lo < arm.lower - 1e-9).any() or (hi > arm.upper + 1e-9).any():
        return Reason.POSITION_LIMIT
    q, v, _ = t.sample(np.linspace(0.0, t.duration, 4001))
    least, most = velocity_limits(arm, q)
    if (v < least - 1e-7).any() or (v > most + 1e-7).any():
        return Reason.VELOCITY_LIMIT
    if (np.abs(t.a) > arm.acceleration * (1 + 1e-9)).any():
        return Reason.ACCELERATION_LIMIT
    return Reason.JERK_LIMIT if (np.abs(jerk) > arm.jerk * (1 + 1e-9)).any() else None


def _level(
    arm: ArmModel, t: Trajectory, scene: Scene, bounds: Bounds, edges: Array, start: float, whole: bool
) -> tuple[Array, Array]:
    """Bounds (N, S, O) and (N, K) of one level; with ``whole``, those of the parts' balls instead of each ball's."""
    centre, radius = joint_boxes(t, edges)
    radius = radius + np.broadcast_to(np.asarray(bounds.tracking_error), (arm.n,)) + bounds.joint_pad
    frames = fk(arm, centre)
    link = np.asarray(arm.sphere_link)
    if whole:
        local, size = np.empty((len(link), 3)), np.empty(len(link))
        for part in parts_of(arm):
            local[list(part.spheres)], size[list(part.spheres)] = part.center, part.radius
    else:
        local, size = arm.sphere_center, arm.sphere_radius
    own_frame = frames[:, link]
    points = np.einsum("nsij,sj->nsi", own_frame[..., :3, :3], local) + own_frame[..., :3, 3]
    moved = np.zeros((len(centre), len(link), arm.n + 1))
    for k in range(1, arm.n + 1):
        for base in range(k):
            mine = np.flatnonzero(link == k)
            moved[:, mine, base] = displacement(arm, frames, points[:, mine], k, base, radius)
    env = np.full((len(centre), len(link), max(1, len(scene.obstacles))), np.inf)
    for i, o in enumerate(scene.obstacles):
        grow = o.position_error + o.speed * (max(0.0, start - o.stamp) + bounds.latency + edges[1:, None])
        apart, slope = obstacle_distance(o, points), gradient(o, points)
        along = np.full(apart.shape, np.inf)
        for k in range(1, arm.n + 1):
            mine = np.flatnonzero(link == k)
            along[:, mine] = approach(arm, frames, points[:, mine], slope[:, mine], k, 0, radius)
        along = np.where((apart > 1e-4) & (not whole), along, np.inf)
        low = apart - size - np.minimum(moved[:, :, 0], along) - grow - bounds.rounding_pad
        skip = ~arm.checked_links(o.name)
        skip[0] |= o.kind == "halfspace"
        env[:, :, i] = np.where(skip[link], np.inf, low)
    pair = np.asarray(arm.self_spheres)
    pair = np.where((link[pair[:, :1]] > link[pair[:, 1:]]), pair, pair[:, ::-1])  # distal first
    between = points[:, pair[:, 0]] - points[:, pair[:, 1]]
    apart = np.linalg.norm(between, axis=-1)
    most = moved[:, pair[:, 0], link[pair[:, 1]]]
    for k, base in {(int(link[i]), int(link[j])) for i, j in pair} if not whole else set():
        mine = np.flatnonzero((link[pair[:, 0]] == k) & (link[pair[:, 1]] == base))
        slope = between[:, mine] / apart[:, mine, None]
        along = approach(arm, frames, points[:, pair[mine, 0]], slope, k, base, radius)
        most[:, mine] = np.minimum(most[:, mine], np.where(apart[:, mine] > 1e-4, along, np.inf))
    return env, apart - size[pair[:, 0]] - size[pair[:, 1]] - most - bounds.rounding_pad


def certify_reference(arm: ArmModel, t: Trajectory, scene: Scene, bounds: Bounds, start: float = 0.0) -> ReferenceVerdict:
    """The verdict of :func:`tandem.safety.certify`, with clearances as with ``full=True``. Knots must be consistent."""
    top = max(1, int(np.ceil(t.duration / bounds.interval - 1e-9)))
    env, own = _level(arm, t, scene, bounds, np.linspace(0.0, t.duration, top + 1), start, True)
    for level in range(bounds.levels + 1):
        count = top * 2**level
        more_env, more_own = _level(arm, t, scene, bounds, np.linspace(0.0, t.duration, count + 1), start, False)
        if level > 0:
            env, own = np.repeat(env, 2, axis=0), np.repeat(own, 2, axis=0)
        env, own = np.maximum(env, more_env), np.maximum(own, more_own)
    limit = broken_limit(arm, t)
    obstacles, itself = float(env.min()), float(own.min()) if own.size else np.inf
    return ReferenceVerdict(limit is None and obstacles >= bounds.min_clearance and itself >= 0.0, limit, obstacles, itself)
