"""Spheres that provably enclose convex solids: the covering proof, the fit, and distances between sphere-covered links.

The proof is a branch and bound over boxes. A box that lies wholly beyond one face plane of the hull is outside; a box whose
farthest corner lies in one sphere is covered; any other box is halved. When no box is left, every point of the solid is in some
sphere: not a statement about samples. It ends because the fit leaves each sphere a small slack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from tandem.robots.urdf import Shape

Array = NDArray[np.float64]

#: added to every radius after the fit [m]; boxes smaller than a fraction of it decide the proof
SLACK = 2e-4
#: smallest box of the proof [m]
FINEST = 2e-5


@dataclass(frozen=True)
class Hull:
    """A convex polytope: ``vertices`` (V, 3) [m], ``planes`` (F, 4) rows (unit normal n, d) with ``n x + d <= 0`` inside,

    ``triangles`` (T, 3, 3) the corners of its faces [m].
    """

    vertices: Array
    planes: Array
    triangles: Array


def convex_hull(vertices: Array) -> Hull:
    """Convex hull of (V, 3) points that span a volume [m]."""
    hull = ConvexHull(vertices)
    planes = np.unique(np.round(hull.equations, 12), axis=0)
    # rounding must not cut a vertex off: move each plane out to the farthest vertex
    planes[:, 3] = -(vertices @ planes[:, :3].T).max(axis=0)
    return Hull(vertices[hull.vertices].copy(), planes.copy(), vertices[hull.simplices].copy())


@njit(cache=True, error_model="numpy")
def find_uncovered(planes: Array, lo: Array, hi: Array, center: Array, radius: Array, finest: float) -> Array:
    """Search a polytope for a point in no sphere.

    Args:
        planes: (F, 4) of the polytope. lo, hi: (3,) a box around it [m].
        center, radius: (S, 3) and (S,) spheres [m]. finest: boxes below this size that remain undecided count as uncovered [m].

    Returns:
        (3,) a point near which covering could not be shown, or NaN when every point of the polytope is proven to be covered.
    """
    stack = np.empty((4096, 6))
    top = 1
    for k in range(3):
        stack[0, k] = 0.5 * (lo[k] + hi[k])
        stack[0, 3 + k] = 0.5 * (hi[k] - lo[k]) + 1e-12
    while top > 0:
        top -= 1
        x, y, z = stack[top, 0], stack[top, 1], stack[top, 2]
        a, b, c = stack[top, 3], stack[top, 4], stack[top, 5]
        outside = False
        for f in range(planes.shape[0]):
            reach = abs(planes[f, 0]) * a + abs(planes[f, 1]) * b + abs(planes[f, 2]) * c
            if planes[f, 0] * x + planes[f, 1] * y + planes[f, 2] * z + planes[f, 3] - reach > 1e-12:
                outside = True
                break
        if outside:
            continue
        covered = False
        for s in range(center.shape[0]):
            dx, dy, dz = abs(x - center[s, 0]) + a, abs(y - center[s, 1]) + b, abs(z - center[s, 2]) + c
            if dx * dx + dy * dy + dz * dz <= radius[s] * radius[s] * (1.0 - 1e-12):
                covered = True
                break
        if covered:
            continue
        axis = 3 if a >= b and a >= c else (4 if b >= c else 5)
        half = 0.5 * stack[top, axis]
        if half < finest or top + 2 > stack.shape[0]:
            return np.array([x, y, z])
        stack[top, axis] = half
        for m in range(6):
            stack[top + 1, m] = stack[top, m]
        stack[top, axis - 3] -= half
        stack[top + 1, axis - 3] += half
        top += 2
    return np.full(3, np.nan)


def uncovered(shape: Shape, center: Array, radius: Array, finest: float = FINEST) -> Array | None:
    """A point of ``shape`` that no sphere is proven to cover, or None when the spheres (S, 3), (S,) enclose the shape.

    A rounded shape (hull plus ball of radius rho) is enclosed when the hull is enclosed by the spheres shrunk by rho.
    """
    r = radius - shape.radius
    if len(shape.vertices) == 1:
        gap = np.linalg.norm(center - shape.vertices[0], axis=1) - r
        return None if gap.min() <= 0.0 else shape.vertices[0]
    hull = convex_hull(shape.vertices)
    keep = r > 0.0
    point = find_uncovered(
        hull.planes, hull.vertices.min(axis=0), hull.vertices.max(axis=0),
        np.ascontiguousarray(center[keep]), np.ascontiguousarray(r[keep]), finest,
    )
    return None if np.isnan(point[0]) else point


def surface_points(hull: Hull, spacing: float) -> Array:
    """Corners, and points on all faces no farther than about ``spacing`` [m] apart."""
    points = [hull.vertices]
    for triangle in hull.triangles:
        longest = max(np.linalg.norm(triangle[i] - triangle[i - 1]) for i in range(3))
        m = max(1, math.ceil(longest / spacing))
        grid = np.array([(i, j) for i in range(m + 1) for j in range(m + 1 - i)]) / m
        points.append(triangle[0] + grid @ (triangle[1:] - triangle[0]))
    cloud = np.concatenate(points)
    _, first = np.unique(np.round(cloud / (0.5 * spacing)), axis=0, return_index=True)
    return np.concatenate([hull.vertices, cloud[np.sort(first)]])


def fibonacci_sphere(count: int) -> Array:
    """(count, 3) nearly even unit vectors."""
    k = np.arange(count) + 0.5
    z = 1.0 - 2.0 * k / count
    phi = math.pi * (1.0 + math.sqrt(5.0)) * k
    rho = np.sqrt(1.0 - z * z)
    return np.column_stack([rho * np.cos(phi), rho * np.sin(phi), z])


@njit(cache=True, error_model="numpy")
def _radii(points: Array, center: Array, radius: Array) -> None:
    """Smallest radii that cover the points, each point given to the sphere that has to grow least; two passes."""
    k = center.shape[0]
    near = np.empty(k)
    for s in range(k):
        radius[s] = 0.0
    for p in range(points.shape[0]):  # a first guess: nearest centre
        best, who = np.inf, 0
        for s in range(k):
            d = 0.0
            for c in range(3):
                d += (points[p, c] - center[s, c]) ** 2
            if d < best:
                best, who = d, s
        radius[who] = max(radius[who], math.sqrt(best))
    guess = radius.copy()
    for s in range(k):
        radius[s] = 0.0
    for p in range(points.shape[0]):  # then power distance to the guess
        best, who = np.inf, 0
        for s in range(k):
            d = 0.0
            for c in range(3):
                d += (points[p, c] - center[s, c]) ** 2
            near[s] = d
            power = d - guess[s] * guess[s]
            if power < best:
                best, who = power, s
        radius[who] = max(radius[who], math.sqrt(near[who]))


class Target(NamedTuple):
    """What spheres are fitted to: points to cover and the polytopes that overshoot is measured from.

    Attributes:
        points: (P, 3) [m]. planes: (F, 4) faces of all polytopes, polytope i in rows starts[i] .. starts[i+1].
        directions: (M, 3) unit vectors, the samples on each sphere.
        tip: (3,) direction in which the spheres may reach at most ``tip_end`` [m], infinite for no bound.
    """

    points: Array
    planes: Array
    starts: NDArray[np.int64]
    directions: Array
    tip: Array
    tip_end: float


@njit(cache=True, error_model="numpy")
def outside_by(target: Target, x: float, y: float, z: float) -> float:
    """Largest face-plane violation [m] of the polytope that is violated least: a lower bound of the distance, < 0 inside."""
    over = np.inf
    for h in range(target.starts.shape[0] - 1):
        worst = -np.inf
        for f in range(target.starts[h], target.starts[h + 1]):
            p = target.planes[f]
            worst = max(worst, p[0] * x + p[1] * y + p[2] * z + p[3])
            if worst >= over:
                break
        over = min(over, worst)
    return over


@njit(cache=True, error_model="numpy")
def overshoot_samples(target: Target, center: Array, radius: Array) -> tuple[Array, Array]:
    """Overshoot [m] at the samples of the spheres' exposed surface, and the area each sample stands for [m^2]."""
    many = center.shape[0] * target.directions.shape[0]
    over, area = np.empty(many), np.empty(many)
    count = 0
    for s in range(center.shape[0]):
        for m in range(target.directions.shape[0]):
            x = center[s, 0] + radius[s] * target.directions[m, 0]
            y = center[s, 1] + radius[s] * target.directions[m, 1]
            z = center[s, 2] + radius[s] * target.directions[m, 2]
            hidden = False
            for o in range(center.shape[0]):
                dx, dy, dz = x - center[o, 0], y - center[o, 1], z - center[o, 2]
                if o != s and dx * dx + dy * dy + dz * dz < radius[o] * radius[o]:
                    hidden = True
                    break
            if not hidden:
                over[count] = max(0.0, outside_by(target, x, y, z))
                area[count] = 4.0 * math.pi * radius[s] ** 2 / target.directions.shape[0]
                count += 1
    return over[:count], area[:count]


@njit(cache=True, error_model="numpy")
def overshoot_cost(target: Target, center: Array, radius: Array) -> float:
    """Squared overshoot over the exposed surface [m^4] of the spheres that just cover the points; their radii are written."""
    _radii(target.points, center, radius)
    over, area = overshoot_samples(target, center, radius)
    total = 0.0
    for i in range(over.shape[0]):
        total += area[i] * over[i] * over[i]
    for s in range(center.shape[0]):
        reach = center[s, 0] * target.tip[0] + center[s, 1] * target.tip[1] + center[s, 2] * target.tip[2] + radius[s]
        total += max(0.0, reach - target.tip_end)
    return total


@njit(cache=True, error_model="numpy")
def search_centers(target: Target, center: Array, moves: Array, picks: NDArray[np.int64]) -> tuple[Array, Array, float]:
    """Improve centres by random moves (N, 3) [m] of the spheres ``picks`` (N,), kept when :func:`overshoot_cost` falls."""
    radius = np.empty(center.shape[0])
    best_center = center.copy()
    best = overshoot_cost(target, best_center, radius)
    best_radius = radius.copy()
    trial = best_center.copy()
    for i in range(moves.shape[0]):
        s = picks[i]
        for c in range(3):
            trial[s, c] = best_center[s, c] + moves[i, c]
        cost = overshoot_cost(target, trial, radius)
        better = cost < best
        if better:
            best = cost
            best_radius = radius.copy()
        for c in range(3):
            if better:
                best_center[s, c] = trial[s, c]
            trial[s, c] = best_center[s, c]
    return best_center, best_radius, best


def _seed_centers(points: Array, count: int, rng: np.random.Generator) -> Array:
    """k-means centres of the points, from k-means++ starts."""
    center = points[rng.integers(len(points))][None]
    while len(center) < count:
        d = ((points[:, None] - center[None]) ** 2).sum(-1).min(axis=1)
        center = np.vstack([center, points[rng.choice(len(points), p=d / d.sum())]])
    for _ in range(30):
        owner = ((points[:, None] - center[None]) ** 2).sum(-1).argmin(axis=1)
        center = np.array([points[owner == k].mean(axis=0) if np.any(owner == k) else center[k] for k in range(count)])
    return center


def _holds(outer: Hull, inner: Hull) -> bool:
    return bool(np.all(inner.vertices @ outer.planes[:, :3].T + outer.planes[:, 3] <= -1e-9))


def _target(shapes: list[Shape], tip: Array | None, tip_bound: float, samples: int) -> Target:
    solids = [_polytope(s) for s in shapes]
    hulls = [convex_hull(v) for v in solids]
    size = float(np.ptp(np.concatenate(solids), axis=0).max())
    hulls = [h for i, h in enumerate(hulls) if not any(_holds(o, h) for k, o in enumerate(hulls) if k != i)] or hulls[:1]
    # the proof may grow spheres a little where samples are sparse: dense samples and a reserve where a bound is to be kept
    points = np.concatenate([surface_points(h, size / (50.0 if tip_bound > 0.0 else 25.0)) for h in hulls])
    direction = np.zeros(3) if tip is None else np.asarray(tip, dtype=np.float64)
    end = float((points @ direction).max()) + 0.8 * tip_bound if tip is not None and tip_bound > 0.0 else np.inf
    starts = np.cumsum([0, *(len(h.planes) for h in hulls)]).astype(np.int64)
    return Target(points, np.concatenate([h.planes for h in hulls]), starts, fibonacci_sphere(samples), direction, end)


def exposed_overshoot(shapes: list[Shape], center: Array, radius: Array) -> Array:
    """How far [m] samples of the spheres' exposed surface lie beyond the shapes' face planes."""
    return overshoot_samples(_target(shapes, None, 0.0, 1000), center, radius)[0]


def fit_spheres(
    shapes: list[Shape], count: int, steps: int, rng: np.random.Generator, tip: Array | None = None, tip_bound: float = 0.0
) -> tuple[Array, Array]:
    """``count`` spheres that provably enclose the shapes, with little overshoot.

    Args:
        shapes: convex solids in one frame. steps: search steps. rng: decides the result with the other arguments.
        tip: (3,) unit vector; with ``tip_bound`` > 0 [m] the spheres reach at most about that far beyond the shapes that way.

    Returns:
        centres (count, 3) and radii (count,) [m], proven by :func:`uncovered`.
    """
    if all(len(s.vertices) == 1 for s in shapes):
        return np.concatenate([s.vertices for s in shapes]), np.array([s.radius for s in shapes]) + SLACK
    target = _target(shapes, tip, tip_bound, 150)
    size = float(np.ptp(target.points, axis=0).max())
    starts = [_search(target, _seed_centers(target.points, count, rng), steps // 8, 0.06 * size, rng) for _ in range(4)]
    best = min(starts, key=lambda result: result[2])
    best = _search(target, best[0], steps - 4 * (steps // 8), 0.03 * size, rng)
    return _prove(shapes, best[0], best[1] + SLACK)


def _polytope(shape: Shape) -> Array:
    """Vertices of a polytope that contains the shape (a rounded shape's vertices become small cubes)."""
    if shape.radius == 0.0:
        return shape.vertices
    corners = np.array(np.meshgrid([-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0])).reshape(3, -1).T
    return (shape.vertices[:, None] + shape.radius * corners).reshape(-1, 3)


def _search(target: Target, center: Array, steps: int, scale: float, rng: np.random.Generator) -> tuple[Array, Array, float]:
    moves = rng.standard_normal((steps, 3)) * scale * 10.0 ** np.linspace(0.0, -2.0, steps)[:, None]
    return search_centers(target, center, moves, rng.integers(0, len(center), steps))


def _prove(shapes: list[Shape], center: Array, radius: Array) -> tuple[Array, Array]:
    """Grow single spheres until the covering proof succeeds for every shape."""
    center = np.ascontiguousarray(np.round(center, 5))
    radius = np.ceil(radius * 1e5) / 1e5
    for shape in shapes:
        point = uncovered(shape, center, radius)
        while point is not None:
            gap = np.linalg.norm(center - point, axis=1) + shape.radius - radius
            who = int(gap.argmin())
            radius[who] = math.ceil((radius[who] + max(gap[who], 0.0) + SLACK) * 1e5) / 1e5
            point = uncovered(shape, center, radius)
    return center, radius
