"""Exact distances of an arm's collision meshes, by coal: the check that shares nothing with balls, bounds and kernels.

Used by the soundness search, the benchmarks and the audit of recordings. Kinematics come from :mod:`tandem.robots`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from tandem.core.errors import InputError
from tandem.core.scene import Obstacle, Scene
from tandem.core.trajectory import Trajectory
from tandem.robots.kinematics import fk
from tandem.robots.model import ArmModel
from tandem.robots.urdf import Shape
from tandem.safety.reference import obstacle_distance

Array = NDArray[np.float64]

#: along a motion distances are taken at least this often where the arm is near something [s]
FINEST = 2e-3
#: and along measured positions this far apart, as a bound on the way of any point of the arm [m]
LEAST_MOVE = 1e-3


@dataclass(frozen=True)
class Nearest:
    """Least ``distance`` [m] found (negative: depth), at ``time`` [s], of ``link`` from ``other`` (obstacle or link)."""

    distance: float
    time: float
    link: str
    other: str


def coal_hull(vertices: Array) -> Any:
    """The convex hull of vertices (V, 3) as a coal geometry."""
    import coal

    model = coal.BVHModelOBBRSS()
    triangles = ConvexHull(vertices).simplices
    model.beginModel(len(triangles), len(vertices))
    for triangle in triangles:
        model.addTriangle(*(vertices[i] for i in triangle))
    model.endModel()
    model.buildConvexHull(True, "Qt")
    return model.convex


class MeshWorld:
    """Exact distances of an arm's hulls to obstacles and to each other, by coal: a check independent of balls and bounds."""

    def __init__(self, arm: ArmModel, shapes: Sequence[Shape]) -> None:
        """Shapes with a ``radius`` are refused: coal would need them as other geometries.

        Raises:
            InputError: a shape is rounded.
        """
        if any(s.radius > 0.0 for s in shapes):
            raise InputError(f"{arm.name}: rounded collision shapes are not supported here")
        self.arm = arm
        self.hulls = [(s, coal_hull(s.vertices)) for s in shapes]
        self.pairs = {(int(min(p)), int(max(p))) for p in arm.self_pairs}
        self._link = np.array([s.link for s in shapes], dtype=np.int64)
        self._middle = np.array([0.5 * (s.vertices.min(axis=0) + s.vertices.max(axis=0)) for s in shapes])
        self._size = np.array([np.linalg.norm(s.vertices - c, axis=1).max() for s, c in zip(shapes, self._middle, strict=True)])
        couples = [
            (i, j) for i, s in enumerate(shapes) for j, u in enumerate(shapes[:i])
            if (min(s.link, u.link), max(s.link, u.link)) in self.pairs
        ]
        self._couples = np.array(couples, dtype=np.int64).reshape(-1, 2)
        self._reach = _reach(arm, shapes)
        self._excluded = {name for _, name in arm.exclusions}
        self._packed: tuple[tuple[Obstacle, ...], tuple[Array, Array, Array]] | None = None
        self._solid: tuple[Scene, list[tuple[Any, Any]]] | None = None

    def clearance(self, scene: Scene, frames: Array) -> float:
        """Least distance [m] of links to obstacles and of the pairs that must be kept apart, for link frames (n + 1, 4, 4)."""
        return self.nearest(scene, frames).distance

    def nearest(self, scene: Scene, frames: Array, *, itself: bool = True) -> Nearest:
        """The nearest pair for link frames (n + 1, 4, 4), pairs of links included if ``itself``; ``time`` is 0.

        Balls around the hulls say which pairs cannot be the nearest; all others are measured by coal.
        """
        import coal

        ask, names = coal.DistanceRequest(), self.arm.link_names
        turn, at = frames[self._link, :3, :3], frames[self._link, :3, 3]
        middle = np.einsum("sij,sj->si", turn, self._middle) + at
        poses = [coal.Transform3s(r, p) for r, p in zip(turn, at, strict=True)]
        best = Nearest(np.inf, 0.0, "", "")
        low, solids = self._lower_bounds(scene, middle), self._solids(scene)
        for x in np.argsort(low, axis=None):
            i, k = divmod(int(x), len(scene.obstacles))
            if low[i, k] >= best.distance:
                break
            solid, where = solids[k]
            if solid is None:
                gap = float(obstacle_distance(scene.obstacles[k], self.hulls[i][0].vertices @ turn[i].T + at[i]).min())
            else:
                gap = float(coal.distance(self.hulls[i][1], poses[i], solid, where, ask, coal.DistanceResult()))
            best = _least(best, gap, names[self._link[i]], scene.obstacles[k].name)
        if not itself:
            return best
        first, second = self._couples.T
        apart = np.linalg.norm(middle[first] - middle[second], axis=1) - self._size[first] - self._size[second]
        for x in np.argsort(apart):
            if apart[x] >= best.distance:
                break
            i, j = self._couples[x]
            gap = float(coal.distance(self.hulls[i][1], poses[i], self.hulls[j][1], poses[j], ask, coal.DistanceResult()))
            best = _least(best, gap, names[self._link[i]], names[self._link[j]])
        return best

    def among(self, scene: Scene, times: Array, q: Array) -> tuple[Nearest, int]:
        """The nearest approach of measured positions q (T, n) at ``times`` (T,) [s], straight in between, and how many touch.

        Positions are passed over while the arm cannot have come half as near as it was; where something is near, the way between
        two of them is cut into steps of less than half the distance, down to :data:`LEAST_MOVE`.
        """
        travel = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(q, axis=0)) @ self._reach)])
        best, touching, s, last = Nearest(np.inf, float(times[0]), "", ""), 0, 0.0, -1
        while True:
            i = int(np.clip(np.searchsorted(travel, s, side="right") - 1, 0, len(times) - 2)) if len(times) > 1 else 0
            j = min(i + 1, len(times) - 1)
            part = (s - travel[i]) / (travel[j] - travel[i]) if travel[j] > travel[i] else 0.0
            here = self.nearest(scene, fk(self.arm, q[i] + part * (q[j] - q[i])))
            if here.distance < best.distance:
                best = Nearest(here.distance, float(times[i] + part * (times[j] - times[i])), here.link, here.other)
            if here.distance <= 0.0 and i != last:
                touching, last = touching + 1, i
            if s >= travel[-1]:
                return best, touching
            s = min(float(travel[-1]), s + max(LEAST_MOVE, 0.5 * here.distance))

    def _lower_bounds(self, scene: Scene, middle: Array) -> Array:
        """(S, O) distances of the hulls' balls from the obstacles [m]; infinite where a link is not checked."""
        obstacles = scene.obstacles
        low = np.empty((len(middle), len(obstacles)))
        boxes = [k for k, o in enumerate(obstacles) if o.kind == "box"]
        if boxes:  # all at once: a scene holds many
            at, turn, half = self._boxes(tuple(obstacles[k] for k in boxes))
            gap = np.abs(np.einsum("soi,oij->soj", middle[:, None] - at, turn)) - half
            low[:, boxes] = np.linalg.norm(np.maximum(gap, 0.0), axis=-1) + np.minimum(gap.max(axis=-1), 0.0)
        for k, o in enumerate(obstacles):
            if o.kind != "box":
                low[:, k] = obstacle_distance(o, middle)
            checked = self.arm.checked_links(o.name)[self._link] if o.name in self._excluded else self._link >= 0
            low[~(checked & (self._link > 0) if o.kind == "halfspace" else checked), k] = np.inf
        return low - self._size[:, None]

    def _boxes(self, boxes: tuple[Obstacle, ...]) -> tuple[Array, Array, Array]:
        if self._packed is None or self._packed[0] != boxes:
            columns = ([o.position for o in boxes], [o.rotation() for o in boxes], [o.size for o in boxes])
            self._packed = (boxes, (np.array(columns[0]), np.array(columns[1]), np.array(columns[2])))
        return self._packed[1]

    def _solids(self, scene: Scene) -> list[tuple[Any, Any]]:
        """Obstacles as coal geometries (None: a half-space) with their poses, kept for the next frame."""
        import coal

        if self._solid is None or self._solid[0] is not scene:
            solids = [(_solid(o), coal.Transform3s(o.rotation(), np.asarray(o.position))) for o in scene.obstacles]
            self._solid = (scene, solids)
        return self._solid[1]

    def along(self, scene: Scene, trajectory: Trajectory, begin: float = 0.0, end: float | None = None) -> Nearest:
        """The nearest approach during a motion among obstacles that stand still.

        No point of the arm is faster than ``sum_j |v_j| reach_j``: after a distance d nothing can happen for d over that speed,
        and so far at most the next sample lies, but not nearer than :data:`FINEST`: only a contact that lasts less can be missed.
        """
        end = trajectory.duration if end is None else end
        best, t = Nearest(np.inf, begin, "", ""), begin
        speed = float(_fastest(trajectory) @ self._reach)
        while True:
            frames = fk(self.arm, trajectory.sample(t)[0])
            here = self.nearest(scene, frames)
            if here.distance < best.distance:
                best = Nearest(here.distance, t, here.link, here.other)
            if t >= end:
                return best
            # what was nearest may be half as far before it is looked at again, so that the minimum found is near the true one
            t = min(end, t + max(FINEST, 0.5 * here.distance / max(speed, 1e-9)))


def _least(best: Nearest, distance: float, link: str, other: str) -> Nearest:
    return Nearest(distance, 0.0, link, other) if distance < best.distance else best


def _reach(arm: ArmModel, shapes: Sequence[Shape]) -> Array:
    """(n,) largest distance [m] of a point of the arm from each joint's axis; 1 for a prismatic joint."""
    step = np.linalg.norm(arm.placement[:, :3, 3], axis=1)
    step = step + np.where(arm.joint_type == 1, np.maximum(np.abs(arm.lower), np.abs(arm.upper)), 0.0)
    out = np.ones(arm.n)
    for j in np.flatnonzero(arm.joint_type == 0):
        moved = [s for s in shapes if s.link > j]
        out[j] = max((float(step[j + 1 : s.link].sum() + np.linalg.norm(s.vertices, axis=1).max()) for s in moved), default=0.0)
    return out


def _fastest(t: Trajectory) -> Array:
    """(n,) largest speed of each joint during a trajectory: at a knot, or where the acceleration vanishes between two."""
    h = np.diff(t.times)[:, None]
    jerk = t.jerk()
    with np.errstate(all="ignore"):
        s = -t.a[:-1] / jerk
        inside = np.where((s > 0.0) & (s < h), t.v[:-1] + 0.5 * s * t.a[:-1], 0.0)
    return np.maximum(np.abs(t.v).max(axis=0), np.abs(inside).max(axis=0))


def _solid(o: Obstacle) -> Any:
    """An obstacle as a coal geometry, None for a half-space."""
    import coal

    if o.kind == "halfspace":
        return None
    if o.kind == "box":
        return coal.Box(*(2.0 * x for x in o.size))
    if o.kind == "sphere":
        return coal.Sphere(o.size[0])
    kind = coal.Capsule if o.kind == "capsule" else coal.Cylinder
    return kind(o.size[0], 2.0 * o.size[1])
