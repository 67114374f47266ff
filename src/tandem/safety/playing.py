"""Certified motions among obstacles that move as they may, played out against the exact distances of the meshes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.core.scene import SIZES, TABLE, Obstacle, Scene
from tandem.core.trajectory import Trajectory
from tandem.robots.kinematics import fk, sphere_centers
from tandem.robots.model import ArmModel
from tandem.safety.bounds import Bounds
from tandem.safety.certify import certify_one
from tandem.safety.geometry import Polytope
from tandem.safety.meshes import MeshWorld, coal_hull

Array = NDArray[np.float64]

#: places around the arm that obstacles keep away from, and within which they lie [m]
NEAR, FAR = 0.3, 0.9


@dataclass(frozen=True)
class Crowd:
    """Obstacles of every kind as they were seen: ``scene``, ``polytopes`` (hulls and zonotopes) and their ``solids`` for coal."""

    scene: Scene
    polytopes: tuple[Polytope, ...]
    solids: dict[str, Any]
    centers: dict[str, Array]


@dataclass(frozen=True)
class Played:
    """What playing motions out showed.

    Attributes:
        motions: how many were checked. certified: of these. contacts: certified ones that touched.
        above: positive clearances above a true distance. margin: least true distance of a certified one [m].
        gaps: (motions,) true distance minus clearance [m].
    """

    motions: int
    certified: int
    contacts: int
    above: int
    margin: float
    gaps: Array


def crowd(rng: np.random.Generator, count: int, moving: bool) -> Crowd:
    """The table and ``count`` obstacles of random kinds around the arm; ``moving``: with position errors, speeds and ages."""
    obstacles: list[Obstacle] = [TABLE]
    polytopes: list[Polytope] = []
    solids: dict[str, Any] = {}
    centers: dict[str, Array] = {}
    for i in range(count):
        while np.hypot(*(p := rng.uniform([-FAR, -FAR, 0.0], [FAR, FAR, 1.1]))[:2]) < NEAR:
            pass
        name, size = f"o{i}", rng.uniform(0.03, 0.12, 3)
        known = {"position_error": 0.0, "speed": 0.0, "stamp": 0.0}
        if moving:
            known = {
                "position_error": float(rng.choice([0.0, 0.02])), "speed": float(rng.choice([0.0, 0.05, 0.2])),
                "stamp": -float(rng.uniform(0.0, 0.3)),
            }
        kind = rng.choice(["box", "sphere", "cylinder", "capsule", "hull", "zonotope"])
        if kind == "hull":
            points = p + rng.uniform(-0.12, 0.12, (8, 3))
            polytopes.append(Polytope.from_points(name, points, **known))
            solids[name] = coal_hull(points)
        elif kind == "zonotope":
            rows = rng.uniform(-0.06, 0.06, (rng.integers(3, 6), 3))
            polytopes.append(Polytope.from_zonotope(name, p, rows, **known))
            solids[name] = coal_hull(p + np.array(list(product((-1.0, 1.0), repeat=len(rows)))) @ rows)
        else:
            turn = rng.normal(size=4)
            turn /= np.linalg.norm(turn)
            turned = (turn[0], turn[1], turn[2], turn[3])
            obstacles.append(Obstacle(name, kind, tuple(size[: SIZES[str(kind)]]), (p[0], p[1], p[2]), turned, *known.values()))
        centers[name] = p
    return Crowd(Scene(tuple(obstacles)), tuple(polytopes), solids, centers)


def displaced(
    seen: Crowd, balls: Array, time: float, latency: float, rng: np.random.Generator, wild: float
) -> tuple[Scene, dict[str, tuple[Any, Array]]]:
    """Where the obstacles may be at ``time`` [s]: at their position error's and speed's bound, towards the nearest of ``balls``.

    ``balls`` (S, 3): centres of the arm's [m]. ``wild`` turns the direction at random (0: straight).
    """

    def shift(o: Obstacle | Polytope) -> Array:
        if o.position_error == 0.0 and o.speed == 0.0:
            return np.zeros(3)
        ways = balls - seen.centers[o.name]
        way = ways[int(np.linalg.norm(ways, axis=1).argmin())] + wild * rng.normal(size=3)
        unit: Array = way / max(float(np.linalg.norm(way)), 1e-9)
        return unit * (o.position_error + o.speed * (latency + time - o.stamp))

    scene = []
    for o in seen.scene.obstacles:
        p = np.asarray(o.position) + shift(o)
        scene.append(dataclasses.replace(o, position=(p[0], p[1], p[2])))
    return Scene(tuple(scene)), {p.name: (seen.solids[p.name], shift(p)) for p in seen.polytopes}


def _hulls_apart(meshes: MeshWorld, frames: Array, hulls: dict[str, tuple[Any, Array]]) -> float:
    """Least distance [m] of the arm's hulls, link frames (n + 1, 4, 4), from more hulls, each shifted by (3,) [m]."""
    import coal

    ask, least = coal.DistanceRequest(), np.inf
    placed = [(hull, coal.Transform3s(frames[s.link, :3, :3], frames[s.link, :3, 3])) for s, hull in meshes.hulls]
    for solid, shift in hulls.values():
        where = coal.Transform3s(np.eye(3), shift)
        for hull, pose in placed:
            least = min(least, float(coal.distance(hull, pose, solid, where, ask, coal.DistanceResult())))
    return least


def play(
    arm: ArmModel, meshes: MeshWorld, motions: list[Trajectory], bounds: Bounds, rng: np.random.Generator, *,
    moving: bool = True, obstacles: int = 8, times: int = 16, actual_latency: float | None = None,
) -> Played:
    """Certify each motion among a crowd and look where it really goes, at corners of its tracking error.

    Args:
        meshes: the truth. times: how many times of each motion are looked at, the worst of the verdict first.
        moving: obstacles move, towards the arm; otherwise all stand and are known exactly.
        actual_latency: true latency [s] where it differs from the bounds' (mutation check).
    """
    tracking = np.broadcast_to(np.asarray(bounds.tracking_error), (arm.n,))
    latency = bounds.latency if actual_latency is None else actual_latency
    certified = contacts = above = 0
    margin, gaps = np.inf, []
    for t in motions:
        seen = crowd(rng, obstacles, moving)
        verdict = certify_one(arm, t, seen.scene, bounds, 0.0, polytopes=seen.polytopes)
        if not np.isfinite(verdict.clearance):
            continue
        at = np.array([np.clip(verdict.time, 0.0, t.duration), *rng.uniform(0.0, t.duration, times - 1)])
        q = t.sample(at)[0] + rng.choice([-1.0, 1.0], (times, arm.n)) * tracking
        frames, balls = fk(arm, q), sphere_centers(arm, q)[:, np.asarray(arm.sphere_link) > 0]
        least = np.inf
        for i in range(times):
            scene, hulls = displaced(seen, balls[i], float(at[i]), latency, rng, 0.1 * (i % 4))
            least = min(least, meshes.clearance(scene, frames[i]), _hulls_apart(meshes, frames[i], hulls))
        certified += int(verdict.certified)
        contacts += int(verdict.certified and least <= 0.0)
        # overlaps are measured differently: the verdict's by the deepest ball, the meshes' by the way out
        above += int(verdict.clearance > max(least, 0.0))
        margin = min(margin, least) if verdict.certified else margin
        gaps.append(least - verdict.clearance)
    return Played(len(gaps), certified, contacts, above, margin, np.array(gaps))
