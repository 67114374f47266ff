"""D4RL's medium maze: walls, free cells, shortest ways, and how far a path keeps from padded walls.

Coordinates are D4RL's joint positions [m]: row along x, column along y, and whole numbers stand for cells. Its particle hangs at
(1.2, 1.2) while cell (0, 0) has its centre at (1, 1), so a cell's centre is its numbers less 0.2 (D4RL ``maze_model.py``,
Apache-2.0; map and dimensions of ``maze2d-medium-v1``).
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import InputError

Array = NDArray[np.float64]
Cell = tuple[int, int]

MEDIUM = ("########", "#OO##OO#", "#OO#OOO#", "##OOO###", "#OO#OOO#", "#O#OO#O#", "#OOO#OG#", "########")
#: from a cell's numbers to its centre [m]
OFFSET = -0.2
HALF = 0.5
#: order in which equally short ways are tried
_STEPS = ((1, 0), (-1, 0), (0, 1), (0, -1))


def centre(cell: Cell) -> Array:
    """(2,) centre of a cell [m]."""
    return np.array(cell, dtype=np.float64) + OFFSET


def cell_at(p: Array) -> Cell:
    """The cell that holds point ``p`` (2,)."""
    row, column = np.floor(np.asarray(p) - OFFSET + 0.5).astype(int)
    return int(row), int(column)


@lru_cache(maxsize=1)
def free_cells() -> tuple[Cell, ...]:
    """Cells without a wall, row by row."""
    return tuple((i, j) for i, row in enumerate(MEDIUM) for j, mark in enumerate(row) if mark != "#")


@lru_cache(maxsize=1)
def wall_boxes() -> Array:
    """(W, 4) x_low, y_low, x_high, y_high of every wall cell [m]."""
    at = np.array([centre((i, j)) for i, row in enumerate(MEDIUM) for j, mark in enumerate(row) if mark == "#"])
    return np.concatenate([at - HALF, at + HALF], axis=1)


@lru_cache(maxsize=64)
def _steps_to(goal: Cell) -> dict[Cell, int]:
    """Steps from every free cell to ``goal``."""
    steps, queue = {goal: 0}, deque([goal])
    while queue:
        i, j = queue.popleft()
        for di, dj in _STEPS:
            near = (i + di, j + dj)
            if near not in steps and near in free_cells():
                steps[near] = steps[(i, j)] + 1
                queue.append(near)
    return steps


def way(start: Cell, goal: Cell) -> list[Cell]:
    """A shortest way from ``start`` to ``goal``, both included.

    Raises:
        InputError: a cell is a wall or outside the maze.
    """
    for name, cell in (("start", start), ("goal", goal)):
        if cell not in free_cells():
            raise InputError(f"maze: {name} cell {cell} is a wall or outside the maze; accepted: one of {list(free_cells())}")
    steps, cells = _steps_to(goal), [start]
    while cells[-1] != goal:
        i, j = cells[-1]
        cells.append(min(((i + di, j + dj) for di, dj in _STEPS if (i + di, j + dj) in steps), key=steps.__getitem__))
    return cells


def clearance(path: Array, padding: float, radius: float) -> Array:
    """(M - 1,) what every straight piece of ``path`` (M, 2) leaves between a ball of ``radius`` and walls grown by ``padding``.

    All in m; negative where they overlap. Exact up to rounding for the positive part: the squared distance of a moving point
    from a box is convex and, between the times at which a coordinate meets a face, one quadratic, whose minimum lies at an end or
    at the foot of a corner. A centre inside a grown wall has distance 0 from it.
    """
    boxes = wall_boxes() + np.array([-padding, -padding, padding, padding])
    a, d = path[:-1, None], np.diff(path, axis=0)[:, None]
    low, high = boxes[None, :, :2], boxes[None, :, 2:]
    with np.errstate(divide="ignore", invalid="ignore"):
        faces = np.concatenate([(low - a) / d, (high - a) / d], axis=-1)
        length = np.sum(d * d, axis=-1)
        feet = [np.sum((corner - a) * d, axis=-1) / length for corner in _corners(low, high)]
    t = np.concatenate([faces, np.stack(feet, axis=-1)], axis=-1)
    t = np.clip(np.nan_to_num(t, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0)
    t = np.concatenate([t, np.zeros_like(t[..., :1]), np.ones_like(t[..., :1])], axis=-1)[..., None]
    at = a[:, :, None] + t * d[:, :, None]
    outside = np.maximum(np.maximum(low[:, :, None] - at, at - high[:, :, None]), 0.0)
    least: Array = np.sqrt(np.sum(outside * outside, axis=-1)).min(axis=(1, 2)) - radius
    return least


def _corners(low: Array, high: Array) -> list[Array]:
    return [low, high, np.stack([low[..., 0], high[..., 1]], axis=-1), np.stack([high[..., 0], low[..., 1]], axis=-1)]
