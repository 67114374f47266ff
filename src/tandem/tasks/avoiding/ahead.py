"""How far it still is to the goal line from anywhere, round constraints and pillars: what a plan of eight steps cannot see.

Shortest ways on a grid, never backwards (the policy's increments do not go back either). Used as J of the potential where a
benchmark says so (``+ahead``): the samplers then choose among feasible chunks those that do not end in a dead end.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from tandem.core.errors import InputError
from tandem.tasks.avoiding.arm import ROD_RADIUS
from tandem.tasks.avoiding.scene import Scene

#: spacing of the grid [m], how far it reaches beyond the outermost pillars [m]
CELL, REACH = 0.003, 0.2
#: clearances that a way should have [m]; the first with which there is one
CLEARANCES = (0.01, 0.006, 0.003)
#: what a place costs from which no way leads to the goal [m]
LOST = 3.0


class WayAhead:
    """Length of the shortest way to the goal line [m], by bilinear interpolation on a grid.

    Args:
        scene: its constraints (with their margin) and its pillars are kept clear of by the largest of ``CLEARANCES`` possible.

    Raises:
        InputError: no way leads from the start to the goal line with any of them.
    """

    def __init__(self, scene: Scene) -> None:
        s, device = scene.settings, scene.lines.device
        pillars = np.array(s.pillars)
        xs = np.arange(pillars[:, 0].min() - REACH, pillars[:, 0].max() + REACH, CELL)
        ys = np.arange(s.start[1] - 5 * CELL, s.goal_y + CELL, CELL)
        points = np.stack(np.meshgrid(xs, ys, indexing="ij"), axis=-1)
        gap = (np.linalg.norm(points[:, :, None] - pillars[:, :2], axis=-1) - pillars[:, 2]).min(-1) - ROD_RADIUS
        if scene.count:
            gap = np.minimum(gap, scene.distance(torch.from_numpy(points).to(device)).amin(-1).cpu().numpy())
        home = tuple(int(np.argmin(np.abs(v - c))) for v, c in zip((xs, ys), s.start, strict=True))
        for self.clearance in CLEARANCES:
            length = _lengths(gap >= self.clearance)
            if np.isfinite(length[home]):
                break
        else:
            raise InputError(f"scene {scene.config.name!r}: no way to the goal line that keeps {CLEARANCES[-1]} m clear")
        self._goal_y = s.goal_y
        self._origin = torch.tensor([xs[0], ys[0]], dtype=torch.float64, device=device)
        self._table = torch.from_numpy(np.where(np.isfinite(length), length, LOST)).to(device)

    def __call__(self, points: Tensor) -> Tensor:
        """(...) length of the way from ``points`` (..., 2) [m]; 0 beyond the goal line."""
        size = torch.tensor(self._table.shape, dtype=torch.float64, device=points.device)
        at = ((points.double() - self._origin) / CELL).clamp(min=0.0)
        at = torch.minimum(at, (size - 1.0) - 1e-9)
        low = at.floor().long()
        t = at - low
        x, y = low[..., 0], low[..., 1]
        corner = [self._table[x + i, y + j] for i in (0, 1) for j in (0, 1)]
        left = corner[0] + t[..., 1] * (corner[1] - corner[0])
        right = corner[2] + t[..., 1] * (corner[3] - corner[2])
        return torch.where(points[..., 1] >= self._goal_y, 0.0, left + t[..., 0] * (right - left))


def _lengths(free: np.ndarray) -> np.ndarray:
    """(X, Y) least length from each free cell to the last row by steps to the side, forward and diagonally; inf where none."""
    index = np.arange(free.size).reshape(free.shape)
    rows, columns, weights = [], [], []
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (1, 1), (-1, 1)):
        here = (slice(max(0, -dx), free.shape[0] - max(0, dx)), slice(0, free.shape[1] - dy))
        there = (slice(max(0, dx), free.shape[0] - max(0, -dx)), slice(dy, free.shape[1]))
        both = free[here] & free[there]
        rows.append(index[there][both])  # from the goal backwards
        columns.append(index[here][both])
        weights.append(np.full(int(both.sum()), CELL * np.hypot(dx, dy)))
    graph = coo_matrix((np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))), shape=(free.size, free.size))
    goal = index[:, -1][free[:, -1]]
    if goal.size == 0:
        return np.full(free.shape, np.inf)
    out: np.ndarray = dijkstra(graph.tocsr(), indices=goal, min_only=True).reshape(free.shape)
    return out
