"""Spheres that provably enclose convex solids: the covering proof, the fit, and distances between sphere-covered links.

The proof is a branch and bound over boxes. A box that lies wholly beyond one face plane of the hull is outside; a box whose farthest
corner lies in one sphere is covered; any other box is halved. When no box is left, every point of the solid is in some sphere: not a
statement about samples. It ends because the fit leaves each sphere a small slack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
    """A convex polytope: ``vertices`` (V, 3) [m] and ``planes`` (F, 4), rows (unit normal, offset), inside where ``n x + d <= 0``."""

    vertices: Array
    planes: Array
    triangles: Array


def convex_hull(vertices: Array) -> Hull:
    """Convex hull of (V, 3) points that span a volume; ``triangles`` is (T, 3, 3), the faces' corners."""
    hull = ConvexHull(vertices)
    planes = np.unique(np.round(hull.equations, 12), axis=0)
    # rounding must not cut a vertex off: move each plane out to the farthest vertex
    planes[:, 3] = -(vertices @ planes[:, :3].T).max(axis=0)
    return Hull(np.ascontiguousarray(vertices[hull.vertices]), np.ascontiguousarray(planes), np.ascontiguousarray(vertices[hull.simplices]))


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
        x, y, z, a, b, c = stack[top]
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
        for side in (-1.0, 1.0):
            row = stack[top]
            row[0], row[1], row[2], row[3], row[4], row[5] = x, y, z, a, b, c
            row[axis - 3] += side * half
            row[axis] = half
            top += 1
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
    """Points on all faces, no farther than about ``spacing`` [m] apart, corners included."""
    points = [hull.vertices]
    for triangle in hull.triangles:
        longest = max(np.linalg.norm(triangle[i] - triangle[i - 1]) for i in range(3))
        m = max(1, math.ceil(longest / spacing))
        i, j = np.meshgrid(np.arange(m + 1), np.arange(m + 1), indexing="ij")
        i, j = i[i + j <= m] / m, j[i + j <= m] / m
        points.append(np.outer(1.0 - i - j, triangle[0]) + np.outer(i, triangle[1]) + np.outer(j, triangle[2]))
    return np.unique(np.round(np.concatenate(points), 7), axis=0)


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
    radius[:] = 0.0
    near = np.empty(k)
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
    radius[:] = 0.0
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


@njit(cache=True, error_model="numpy")
def overshoot_cost(
    points: Array, planes: Array, starts: NDArray[np.int64], center: Array, radius: Array, directions: Array, tip: Array, tip_end: float, tip_bound: float
) -> float:
    """Squared overshoot [m^4], integrated over the exposed surface of the spheres that just cover ``points`` (radii are written).

    Args:
        planes: (F, 4) faces of all polytopes, polytope i in rows starts[i] .. starts[i+1].
        directions: (M, 3) unit vectors on each sphere. tip: (3,) direction in which overshoot beyond ``tip_end`` [m] is bounded.
        tip_bound: bound on that overshoot [m]; 0 for none.
    """
    _radii(points, center, radius)
    total = 0.0
    for s in range(center.shape[0]):
        area = 4.0 * math.pi * radius[s] ** 2 / directions.shape[0]
        for m in range(directions.shape[0]):
            x = center[s, 0] + radius[s] * directions[m, 0]
            y = center[s, 1] + radius[s] * directions[m, 1]
            z = center[s, 2] + radius[s] * directions[m, 2]
            hidden = False
            for o in range(center.shape[0]):
                if o != s:
                    dx, dy, dz = x - center[o, 0], y - center[o, 1], z - center[o, 2]
                    if dx * dx + dy * dy + dz * dz < radius[o] * radius[o]:
                        hidden = True
                        break
            if hidden:
                continue
            over = np.inf
            for h in range(starts.shape[0] - 1):
                worst = -np.inf
                for f in range(starts[h], starts[h + 1]):
                    worst = max(worst, planes[f, 0] * x + planes[f, 1] * y + planes[f, 2] * z + planes[f, 3])
                over = min(over, worst)
            if over > 0.0:
                total += area * over * over
        if tip_bound > 0.0:
            past = center[s, 0] * tip[0] + center[s, 1] * tip[1] + center[s, 2] * tip[2] + radius[s] - tip_end - tip_bound
            if past > 0.0:
                total += past
    return total


@njit(cache=True, error_model="numpy")
def search_centers(
    points: Array, planes: Array, starts: NDArray[np.int64], center: Array, directions: Array, tip: Array, tip_end: float, tip_bound: float,
    moves: Array, picks: NDArray[np.int64],
) -> tuple[Array, Array, float]:
    """Improve centres by random moves (moves (N, 3) [m], of sphere picks (N,)) that are kept when :func:`overshoot_cost` falls."""
    radius = np.empty(center.shape[0])
    best_center = center.copy()
    best = overshoot_cost(points, planes, starts, best_center, radius, directions, tip, tip_end, tip_bound)
    best_radius = radius.copy()
    trial = best_center.copy()
    for i in range(moves.shape[0]):
        trial[:] = best_center
        trial[picks[i]] += moves[i]
        cost = overshoot_cost(points, planes, starts, trial, radius, directions, tip, tip_end, tip_bound)
        if cost < best:
            best = cost
            best_center[:] = trial
            best_radius[:] = radius
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


def fit_spheres(
    shapes: list[Shape], count: int, steps: int, rng: np.random.Generator, tip: Array | None = None, tip_bound: float = 0.0
) -> tuple[Array, Array]:
    """``count`` spheres that provably enclose the shapes, with little overshoot.

    Args:
        shapes: convex solids in one frame. steps: search steps. rng: decides the result with the other arguments.
        tip: (3,) unit vector; with ``tip_bound`` > 0 [m] the spheres reach at most about that far past the shapes in that direction.

    Returns:
        centres (count, 3) and radii (count,) [m], proven by :func:`uncovered`.
    """
    if all(len(s.vertices) == 1 for s in shapes):
        return np.concatenate([s.vertices for s in shapes]), np.array([s.radius for s in shapes]) + SLACK
    solid = [_polytope(s) for s in shapes]
    hulls = [convex_hull(v) for v in solid]
    size = float(np.ptp(np.concatenate(solid), axis=0).max())
    points = np.concatenate([surface_points(h, max(0.004, size / 40.0)) for h in hulls])
    starts = np.cumsum([0, *(len(h.planes) for h in hulls)]).astype(np.int64)
    planes = np.concatenate([h.planes for h in hulls])
    direction = np.zeros(3) if tip is None else np.asarray(tip, dtype=np.float64)
    tip_end = float((points @ direction).max())
    sphere = fibonacci_sphere(150)
    best: tuple[Array, Array, float] | None = None
    for start in range(4):
        center = _seed_centers(points, count, rng)
        share = steps // 8 if start < 3 else steps // 8
        best = _better(best, _search(points, planes, starts, center, sphere, direction, tip_end, tip_bound, share, size, rng))
    assert best is not None
    best = _better(best, _search(points, planes, starts, best[0], sphere, direction, tip_end, tip_bound, steps // 2, 0.3 * size, rng))
    return _prove(shapes, best[0], best[1] + SLACK)


def _polytope(shape: Shape) -> Array:
    """Vertices of a polytope that contains the shape (a rounded shape's vertices become small cubes)."""
    if shape.radius == 0.0:
        return shape.vertices
    corners = np.array(np.meshgrid([-1.0, 1.0], [-1.0, 1.0], [-1.0, 1.0])).reshape(3, -1).T
    return (shape.vertices[:, None] + shape.radius * corners).reshape(-1, 3)


def _better(a: tuple[Array, Array, float] | None, b: tuple[Array, Array, float]) -> tuple[Array, Array, float]:
    return b if a is None or b[2] < a[2] else a


def _search(
    points: Array, planes: Array, starts: NDArray[np.int64], center: Array, sphere: Array, tip: Array, tip_end: float, tip_bound: float,
    steps: int, size: float, rng: np.random.Generator,
) -> tuple[Array, Array, float]:
    scale = size * 10.0 ** np.linspace(-1.2, -3.0, steps)
    moves = rng.standard_normal((steps, 3)) * scale[:, None]
    picks = rng.integers(0, len(center), steps)
    return search_centers(points, planes, starts, center, sphere, tip, tip_end, tip_bound, moves, picks)


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
