"""Seeded scenes of the mug task with obstacles that no demonstration has seen.

Kinds: ``empty``; ``blocked_straight`` (the straight way collides for every grasp, another demonstrated way is free);
``cluttered`` (2 to 4 obstacles, the straight way and at least one more collide, another is free); ``blocked_all`` (every
demonstrated way collides, so the arm must not arrive). A way is *free* when the scripted expert's whole motion along it, lift
included, keeps :data:`FREE_CLEARANCE` from every obstacle for at least one grasp; it is *blocked* when every grasp's motion
penetrates one by :data:`BLOCK_DEPTH`. Distances are MuJoCo's, between the arm's collision geometry and the obstacle.

``generate(kind, seed)`` is the source of all benchmark scenes; files under ``config/scenes`` are examples written by ``python -m
tandem.sim.scenes --kind blocked_straight --seed 0 --out FILE``.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import InputError
from tandem.core.scene import Obstacle, ObstacleKind
from tandem.sim.demonstrations import random_start
from tandem.sim.expert import GRASPS, WAYS, ArmSolver, NoPlan, sketch
from tandem.sim.model import GEOMS
from tandem.sim.scene_file import KINDS, MugRange, MugScene, save_mug_scene
from tandem.sim.world import MugWorld, standing_pose

Array = NDArray[np.float64]
log = logging.getLogger(__name__)

#: what a free way keeps from every obstacle [m]; what a blocked way penetrates at least [m]
FREE_CLEARANCE = 0.045
BLOCK_DEPTH = 0.005
#: what the arm keeps at the start, and when the hand is at any reachable grasp or lifted [m]
START_CLEARANCE = 0.08
GRASP_CLEARANCE = 0.03
MUG_CLEARANCE = 0.06
#: every scene offers this many ways in the world without obstacles
MIN_WAYS = 4
_TRIES = 400


@dataclass(frozen=True)
class GeneratedScene:
    """A scene with what is known about it.

    Attributes:
        scene: its mug range is one point. mug_pose: (4, 4) that point.
        free, blocked: ways; the others are neither clearly free nor clearly blocked.
        clearance: best clearance over the grasps, by way [m], negative = penetration.
        grasps: grasps reachable for this mug pose.
    """

    scene: MugScene
    mug_pose: Array
    free: tuple[str, ...]
    blocked: tuple[str, ...]
    clearance: dict[str, float]
    grasps: tuple[str, ...]


class Prober:
    """Distances between recorded arm (or mug) postures and obstacles, without building a model per obstacle."""

    def __init__(self) -> None:
        self.world = MugWorld(MugScene(obstacles=(Obstacle("probe", "box", (0.05, 0.05, 0.05), (0.0, 0.0, 5.0)),)))
        self.solver = ArmSolver(self.world.model)
        model = self.world.model
        self._probe = model.geom("obstacle:probe").id
        body = [model.body(b).name for b in model.geom_bodyid]
        solid = model.geom_contype != 0
        other = ("world", "mug", "obstacle:probe", "fr3_link0")
        self.arm = np.array([g for g in range(model.ngeom) if solid[g] and body[g] not in other])
        self.mug = np.array([g for g in range(model.ngeom) if solid[g] and body[g] == "mug"])
        self._data = mujoco.MjData(model)

    def postures(self, q: Array, mug_pose: Array, geoms: NDArray[np.int64]) -> tuple[Array, Array]:
        """Where ``geoms`` (G,) are for each q (T, 7), the gripper open: positions (T, G, 3) and rotations (T, G, 9)."""
        world, data = self.world, self._data
        world.reset(mug_pose, q[0])
        data.qpos[:] = world.qpos
        place, turn = np.empty((len(q), len(geoms), 3)), np.empty((len(q), len(geoms), 9))
        for i in range(len(q)):
            data.qpos[:7] = q[i]
            mujoco.mj_kinematics(world.model, data)
            place[i], turn[i] = data.geom_xpos[geoms], data.geom_xmat[geoms]
        return place, turn

    def distance(self, obstacle: Obstacle, geoms: NDArray[np.int64], place: Array, turn: Array, stop: float = -math.inf) -> float:
        """Least signed distance [m] over all postures; may return early with any value at or below ``stop``."""
        model, data = self.world.model, self._data
        lower = _point_distance(obstacle, place) - model.geom_rbound[geoms]
        order = np.argsort(lower, axis=None)
        size = (*obstacle.size, 0.0, 0.0)[:3]
        model.geom_type[self._probe] = GEOMS[obstacle.kind]
        model.geom_size[self._probe] = size
        data.geom_xpos[self._probe] = obstacle.position
        data.geom_xmat[self._probe] = obstacle.rotation().ravel()
        best, witness = 1.0, np.zeros(6)
        for flat in order:
            i, j = divmod(int(flat), len(geoms))
            if lower[i, j] >= best or best <= stop:
                break
            geom = int(geoms[j])
            data.geom_xpos[geom], data.geom_xmat[geom] = place[i, j], turn[i, j]
            best = min(best, mujoco.mj_geomDistance(model, data, self._probe, geom, best + 0.01, witness))
        return float(best)


def _point_distance(obstacle: Obstacle, points: Array) -> Array:
    """Distance [m] from points (..., 3) to the obstacle (a cylinder counts as its box: a lower bound)."""
    local = (points - np.asarray(obstacle.position)) @ obstacle.rotation()
    if obstacle.kind == "sphere":
        return np.asarray(np.linalg.norm(local, axis=-1) - obstacle.size[0])
    half = np.array(obstacle.size if obstacle.kind == "box" else (obstacle.size[0], obstacle.size[0], obstacle.size[1]))
    return np.asarray(np.linalg.norm(np.maximum(np.abs(local) - half, 0.0), axis=-1))


@dataclass
class _Task:
    """One mug pose and start with all demonstrated motions: tcp paths (P, 3) to the grasp, and recorded postures."""

    mug_pose: Array
    q_start: Array
    paths: dict[tuple[str, str], Array]
    moves: dict[tuple[str, str], tuple[Array, Array]]
    start: tuple[Array, Array]
    grasped: tuple[Array, Array]
    mug: tuple[Array, Array]

    @property
    def grasps(self) -> tuple[str, ...]:
        """Reachable grasps."""
        return tuple(g for g in GRASPS if any(k[1] == g for k in self.paths))


def _draw_task(prober: Prober, rng: np.random.Generator) -> _Task | None:
    """A random mug pose and start, with the motions of every way and reachable grasp; None when too few ways exist."""
    span = MugRange()
    mug_pose = standing_pose(*(round(float(rng.uniform(*r)), 4) for r in (span.x, span.y, span.yaw)))
    sketches: dict[tuple[str, str], tuple[Array, Array, int]] = {}
    try:
        q_start = random_start(prober.solver, rng).round(5)
    except NoPlan:
        return None
    for grasp in GRASPS:
        for way in WAYS:
            try:
                sketches[way, grasp] = sketch(prober.solver, prober.world.mug, mug_pose, q_start, way, grasp)
            except NoPlan:
                if way == "straight":
                    break
    ways = {way for way, _ in sketches}
    if "straight" not in ways or len(ways) < MIN_WAYS:
        return None
    moves = {key: prober.postures(q, mug_pose, prober.arm) for key, (q, _, _) in sketches.items()}
    still = np.array([q[i] for q, _, reach in sketches.values() for i in (reach, -1)])
    grasped = prober.postures(still, mug_pose, prober.arm)
    start = prober.postures(q_start[None], mug_pose, prober.arm)
    mug = prober.postures(q_start[None], mug_pose, prober.mug)
    paths = {key: path[: reach + 1] for key, (_, path, reach) in sketches.items()}
    return _Task(mug_pose, q_start, paths, moves, start, grasped, mug)


def _admissible(prober: Prober, task: _Task, obstacle: Obstacle) -> bool:
    """Whether the obstacle keeps off the start, the grasps, the lifts, the mug and the camera's line of sight to the mug."""
    if prober.distance(obstacle, prober.arm, *task.start, stop=START_CLEARANCE) <= START_CLEARANCE:
        return False
    if prober.distance(obstacle, prober.mug, *task.mug, stop=MUG_CLEARANCE) <= MUG_CLEARANCE:
        return False
    if prober.distance(obstacle, prober.arm, *task.grasped, stop=GRASP_CLEARANCE) <= GRASP_CLEARANCE:
        return False
    eye, mug = np.asarray(MugScene().camera.position), task.mug_pose[:3, 3] + [0.0, 0.0, 0.055]
    sight = eye + np.linspace(0.0, 1.0, 60)[:, None] * (mug - eye)
    return bool(_point_distance(obstacle, sight).min() > 0.07)


def _clearances(prober: Prober, task: _Task, obstacles: list[Obstacle]) -> dict[tuple[str, str], float]:
    """Least distance of each demonstrated motion to any obstacle [m]."""
    return {
        key: min((prober.distance(o, prober.arm, *move, stop=-2.0 * BLOCK_DEPTH) for o in obstacles), default=1.0)
        for key, move in task.moves.items()
    }


def _summary(task: _Task, clear: dict[tuple[str, str], float]) -> tuple[dict[str, float], tuple[str, ...], tuple[str, ...]]:
    """Best clearance by way, free ways, blocked ways."""
    best = {w: max(c for (way, _), c in clear.items() if way == w) for w in WAYS if any(k[0] == w for k in task.paths)}
    free = tuple(w for w, c in best.items() if c >= FREE_CLEARANCE)
    return best, free, tuple(w for w, c in best.items() if c <= -BLOCK_DEPTH)


def _yawed(yaw: float) -> tuple[float, float, float, float]:
    return (math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2))


def _on_way(task: _Task, way: str, rng: np.random.Generator, name: str) -> Obstacle:
    """A box, sphere or cylinder, floating, standing or hanging, in the first half of a demonstrated way."""
    options = [path for (w, _), path in task.paths.items() if w == way]
    path = options[int(rng.integers(len(options)))]
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    at = path[int(np.searchsorted(length, rng.uniform(0.3, 0.5) * length[-1]))] + rng.normal(0.0, 0.015, 3)
    kind: ObstacleKind = ("box", "sphere", "cylinder")[int(rng.integers(3))]
    radius = float(rng.uniform(0.03, 0.055))
    stance = "floating" if kind == "sphere" else ("floating", "standing", "hanging")[int(rng.integers(3))]
    up = float(rng.uniform(0.0, 0.06))
    low, high = at[2] + up - radius, at[2] + up + radius
    if stance == "standing":
        low, high = 0.0, at[2] + 0.03
    elif stance == "hanging":
        low, high = at[2] + 0.02, 0.9
    low = max(low, 0.0)
    height, centre = 0.5 * (high - low), 0.5 * (high + low)
    sizes = {"box": (radius, float(rng.uniform(0.03, 0.055)), height), "sphere": (radius,), "cylinder": (radius, height)}
    place = (round(float(at[0]), 4), round(float(at[1]), 4), round(float(at[2] + up if kind == "sphere" else centre), 4))
    turn = _yawed(float(rng.uniform(-math.pi, math.pi))) if kind == "box" else (1.0, 0.0, 0.0, 0.0)
    return Obstacle(name, kind, tuple(round(float(s), 4) for s in sizes[kind]), place, turn)


def _wall(task: _Task, rng: np.random.Generator, name: str) -> Obstacle:
    """An upright wall across the straight way, wide and high enough to block every way."""
    begin, goal = next(path for (w, _), path in task.paths.items() if w == "straight")[[0, -1]]
    line = (goal - begin)[:2]
    across = line / np.linalg.norm(line)
    side = np.array([-across[1], across[0]])
    left, right, top = float(rng.uniform(0.08, 0.2)), float(rng.uniform(0.14, 0.26)), float(rng.uniform(0.54, 0.74))
    at = begin[:2] + float(rng.uniform(0.34, 0.5)) * line + 0.5 * (left - right) * side
    size = (0.012, round(0.5 * (left + right), 4), round(top / 2, 4))
    yaw = math.atan2(across[1], across[0])
    return Obstacle(name, "box", size, (round(float(at[0]), 4), round(float(at[1]), 4), round(top / 2, 4)), _yawed(yaw))


def _add(
    prober: Prober, task: _Task, obstacles: list[Obstacle], draw: Callable[[str], Obstacle],
    keep: Callable[[list[Obstacle]], bool], tries: int = 12,
) -> bool:
    """Append one admissible obstacle for which ``keep`` holds; False when none of ``tries`` draws fits."""
    for _ in range(tries):
        obstacle = draw(f"obstacle{len(obstacles)}")
        if _admissible(prober, task, obstacle) and keep([*obstacles, obstacle]):
            obstacles.append(obstacle)
            return True
    return False


def _populate(prober: Prober, task: _Task, kind: str, rng: np.random.Generator) -> list[Obstacle] | None:
    """Obstacles of the wanted kind for this task, or None when the draws do not fit."""
    obstacles: list[Obstacle] = []

    def outcome(some: list[Obstacle]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return _summary(task, _clearances(prober, task, some))[1:]

    def opens(some: list[Obstacle]) -> bool:
        free, blocked = outcome(some)
        return bool(free) and "straight" in blocked

    def closes(some: list[Obstacle]) -> bool:
        return len(outcome(some)[1]) == len({w for w, _ in task.paths})

    if kind == "empty":
        return obstacles
    if kind == "blocked_all":
        if not _add(prober, task, obstacles, lambda n: _wall(task, rng, n), closes, tries=40):
            return None
        return obstacles
    if not _add(prober, task, obstacles, lambda n: _on_way(task, "straight", rng, n), opens):
        return None
    more = int(rng.integers(1, 4)) if kind == "cluttered" else int(rng.integers(0, 2))
    for _ in range(more):
        way = WAYS[1 + int(rng.integers(len(WAYS) - 1))]
        if any(w == way for w, _ in task.paths):
            _add(prober, task, obstacles, lambda n, way=way: _on_way(task, way, rng, n), opens)  # type: ignore[misc]
    if kind == "cluttered" and (len(obstacles) < 2 or len(outcome(obstacles)[1]) < 2):
        return None
    return obstacles


def generate(kind: str, seed: int, prober: Prober | None = None) -> GeneratedScene:
    """The scene of this kind and seed: always the same one.

    Args:
        kind: one of :data:`~tandem.sim.scene_file.KINDS`. seed: 0 or more. prober: reuse one to save its set-up.

    Raises:
        InputError: unknown kind or negative seed.
    """
    if kind not in KINDS:
        raise InputError(f"kind = {kind!r}: accepted: {', '.join(KINDS)}")
    if seed < 0:
        raise InputError(f"seed = {seed}: accepted: 0 or more")
    prober = prober or Prober()
    for attempt in range(_TRIES):
        rng = np.random.default_rng([seed, KINDS.index(kind), attempt])
        task = _draw_task(prober, rng)
        obstacles = None if task is None else _populate(prober, task, kind, rng)
        if task is None or obstacles is None:
            log.debug("scene %s %d: attempt %d does not fit", kind, seed, attempt)
            continue
        best, free, blocked = _summary(task, _clearances(prober, task, obstacles))
        x, y = float(task.mug_pose[0, 3]), float(task.mug_pose[1, 3])
        yaw = round(math.atan2(task.mug_pose[1, 0], task.mug_pose[0, 0]) % (2.0 * math.pi), 4)
        q = [float(v) for v in task.q_start]
        scene = MugScene(
            name=f"{kind}_{seed}", kind=kind, start=(q[0], q[1], q[2], q[3], q[4], q[5], q[6]),
            mug=MugRange((x, x), (y, y), (yaw, yaw)), obstacles=tuple(obstacles),
        )
        return GeneratedScene(scene, standing_pose(x, y, yaw), free, blocked, best, task.grasps)
    raise InputError(f"seed = {seed}: no scene of kind {kind!r} in {_TRIES} attempts; take another seed")


def main(argv: list[str] | None = None) -> None:
    """Command line: ``--kind KIND --seed S --out FILE``."""
    parser = argparse.ArgumentParser("python -m tandem.sim.scenes", description="Write a scene of the mug task with obstacles.")
    parser.add_argument("--kind", choices=KINDS, default="blocked_straight")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="YAML file to write")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    made = generate(options.kind, options.seed)
    save_mug_scene(made.scene, options.out)
    log.info("%s: free: %s; blocked: %s", options.out, ", ".join(made.free) or "none", ", ".join(made.blocked) or "none")


if __name__ == "__main__":
    main()
