"""Demonstrations from a waypoint controller, as D4RL's generator makes them: a PD controller with gains 10 and -1 follows the
cells of a shortest way, each waypoint moved by U(-0.2, 0) on both axes and passed at 0.1 m, towards a target near a cell's
numbers (U(-0.1, 0.1)), without noise on the actions (the "sparse" data sets).

Two things are ours. Each demonstration is an episode of its own, which goes on for a chunk's length at its target, so that every
moment has a whole chunk after it. And a share of them begins anywhere in the free space, half of these in motion: a policy that
was stopped by a safety filter has to go on from places that the controller alone never sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem.core.config import setting
from tandem.tasks.maze.layout import HALF, Cell, cell_at, centre, clearance, free_cells, way
from tandem.tasks.maze.physics import RADIUS, MazeWorld, State

Array = NDArray[np.float64]

#: proportional and derivative gain of the controller [1/m, s/m]; reached at this distance [m]
GAINS = (10.0, -1.0)
REACHED = 0.1
#: a demonstration that has not reached its target by then is thrown away [steps]
LONGEST = 1500


@dataclass(frozen=True)
class DemonstrationConfig:
    """What is demonstrated."""

    episodes: int = setting(1500, "demonstrations", lo=1, hi=1_000_000)
    anywhere: float = setting(0.5, "share that begins anywhere in the free space", lo=0.0, hi=1.0)
    speed: float = setting(3.0, "greatest speed an axis of those that begin in motion", unit="m/s", lo=0.0, hi=5.0)
    seed: int = setting(0, "seed of starts, targets and waypoints", lo=0, hi=2**31 - 1)


@dataclass(frozen=True)
class Demonstration:
    """States p, v (T + 1, 2) [m, m/s], controls u (T, 2) and the target (2,) [m]; ``touched``: it met a wall."""

    p: Array
    v: Array
    u: Array
    goal: Array
    touched: bool


class WaypointController:
    """Follows waypoints (M, 2), the last one being the target."""

    def __init__(self, waypoints: Array) -> None:
        self._waypoints, self._next = waypoints, 0

    def control(self, s: State) -> Array:
        """(2,) in [-1, 1]."""
        aim = self._waypoints[self._next]
        if self._next < len(self._waypoints) - 1 and np.linalg.norm(s.p - aim) < REACHED:
            self._next += 1
        u: Array = np.clip(GAINS[0] * (aim - s.p) + GAINS[1] * s.v, -1.0, 1.0)
        return u

    def arrived(self, s: State) -> bool:
        """Whether the target is reached."""
        return bool(np.linalg.norm(s.p - self._waypoints[-1]) < REACHED)


def waypoints(start: Array, goal: Array, rng: np.random.Generator) -> Array:
    """(M, 2) D4RL's waypoints from ``start`` to ``goal`` (2,): each cell between them moved a little, then the goal."""
    cells = way(cell_at(start), cell_at(goal))[1:-1]
    between = np.array(cells, dtype=np.float64).reshape(-1, 2) - rng.uniform(0.0, 0.2, (len(cells), 2))
    return np.concatenate([between, goal[None]])


def draw_goal(cell: Cell, rng: np.random.Generator) -> Array:
    """(2,) a target of D4RL's in ``cell``."""
    return np.array(cell, dtype=np.float64) + rng.uniform(-0.1, 0.1, 2)


def _start(config: DemonstrationConfig, cell: Cell, rng: np.random.Generator) -> State:
    """At rest near the cell's numbers as D4RL resets, or anywhere in it."""
    if rng.uniform() >= config.anywhere:
        return State(draw_goal(cell, rng), np.zeros(2))
    while True:
        p = centre(cell) + rng.uniform(-HALF, HALF, 2)
        if clearance(np.stack([p, p]), 0.0, RADIUS)[0] > 0.005:
            break
    moving = rng.uniform() < 0.5
    return State(p, rng.uniform(-config.speed, config.speed, 2) if moving else np.zeros(2))


def demonstrate(world: MazeWorld, config: DemonstrationConfig, index: int, after: int) -> Demonstration | None:
    """Demonstration number ``index``, continued ``after`` steps at its target; None if it never gets there."""
    rng = np.random.default_rng([config.seed, index])
    cells = free_cells()
    first, last = rng.choice(len(cells), 2, replace=False)
    start, goal = _start(config, cells[first], rng), draw_goal(cells[last], rng)
    controller = WaypointController(waypoints(start.p, goal, rng))
    s = world.reset(start.p, start.v)
    p, v, left = [s.p], [s.v], after
    u: list[Array] = []
    while left > 0:
        if len(u) >= LONGEST:
            return None
        left -= int(left < after or controller.arrived(s))
        u.append(controller.control(s))
        s = world.step(u[-1])
        p.append(s.p)
        v.append(s.v)
    return Demonstration(np.array(p), np.array(v), np.array(u), goal, world.touched)
