"""Test-time constraints of the Avoiding task: circles to keep out of, lines to stay on one side of. Distances in metres."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from tandem.core.errors import InputError
from tandem.tasks.avoiding.arm import ROD_RADIUS
from tandem.tasks.avoiding.config import AvoidingConfig, SceneConfig

#: spacing of the grid on which a way to the goal is sought, and how far it reaches beyond the pillars [m]
CELL, REACH = 0.004, 0.25


class Scene:
    """One set of constraints on the rod's axis; all distances are signed, negative where a constraint is violated.

    Args:
        scene: the constraints. settings: the task. margin: further distance to keep from each (>= 0) [m].

    Raises:
        InputError: the start violates a constraint, or no way leads from it to the goal line.
    """

    def __init__(
        self, scene: SceneConfig, settings: AvoidingConfig, margin: float = 0.0, device: torch.device | str = "cpu"
    ) -> None:
        self.config, self.settings, self.margin = scene, settings, margin
        self.circles = torch.tensor(scene.circles, dtype=torch.float64, device=device).reshape(-1, 3)
        self.lines = self._half_planes(device)
        if self.count:
            at = self.distance(torch.tensor([settings.start], dtype=torch.float64, device=device))[0]
            if bool((at < 0.0).any()):
                worst = int(at.argmin())
                kind = f"circles[{worst}]" if worst < len(self.circles) else f"lines[{worst - len(self.circles)}]"
                raise InputError(
                    f"scene {scene.name!r}: the start {settings.start} violates {kind} by {-float(at[worst]):.4f} m"
                    f"{f' (margin {margin} m)' if margin else ''}"
                )
            self._reachable()

    def tightened(self, margin: float) -> Scene:
        """The same with ``margin`` [m] more distance to keep; not asked again whether a way is left."""
        other = Scene.__new__(Scene)
        other.__dict__.update(self.__dict__)
        other.margin = self.margin + margin
        return other

    def with_pillars(self) -> Scene:
        """The same with the pillars among the constraints: the rod's axis keeps its radius away from them."""
        other = Scene.__new__(Scene)
        other.__dict__.update(self.__dict__)
        pillars = torch.tensor(self.settings.pillars, dtype=torch.float64, device=self.circles.device).reshape(-1, 3)
        pillars[:, 2] += ROD_RADIUS
        other.circles = torch.cat([self.circles, pillars])
        return other

    @property
    def count(self) -> int:
        """Number of constraints M."""
        return len(self.circles) + len(self.lines)

    def _half_planes(self, device: torch.device | str) -> Tensor:
        """(L, 3) inward unit normal and offset: n . p - c >= 0 on the start's side."""
        rows = []
        for ax, ay, bx, by in self.config.lines:
            normal = np.array([ay - by, bx - ax]) / np.hypot(bx - ax, by - ay)
            offset = float(normal @ (ax, ay))
            side = 1.0 if normal @ np.array(self.settings.start) >= offset else -1.0
            rows.append([*(side * normal), side * offset])
        return torch.tensor(rows, dtype=torch.float64, device=device).reshape(-1, 3)

    def distance(self, points: Tensor) -> Tensor:
        """(..., M) signed distances of ``points`` (..., 2) from each constraint, less margin."""
        p = points.double()
        away = p[..., None, :] - self.circles[:, :2]
        round_ = torch.sqrt(away.square().sum(-1).clamp(min=1e-18)) - self.circles[:, 2]
        flat = p @ self.lines[:, :2].mT - self.lines[:, 2]
        return torch.cat([round_, flat], dim=-1) - self.margin

    def slope(self, points: Tensor) -> Tensor:
        """(..., M, 2) gradients of :meth:`distance` at ``points`` (..., 2); 0 at a circle's centre, where there is none."""
        away = points.double()[..., None, :] - self.circles[:, :2]
        round_ = away / away.norm(dim=-1, keepdim=True).clamp(min=1e-9)
        return torch.cat([round_, self.lines[:, :2].expand(*points.shape[:-1], -1, 2)], dim=-2)

    def swept(self, path: Tensor) -> Tensor:
        """(..., T - 1, M) least signed distances over each segment of the polyline ``path`` (..., T, 2), less margin; exact."""
        a, b = path[..., :-1, :].double(), path[..., 1:, :].double()
        along, centre = (b - a)[..., None, :], self.circles[:, :2]
        t = ((centre - a[..., None, :]) * along).sum(-1) / along.square().sum(-1).clamp(min=1e-18)
        nearest = a[..., None, :] + t.clamp(0.0, 1.0)[..., None] * along
        round_ = (nearest - centre).norm(dim=-1) - self.circles[:, 2] - self.margin
        ends = self.distance(path)[..., len(self.circles) :]
        return torch.cat([round_, torch.minimum(ends[..., :-1, :], ends[..., 1:, :])], dim=-1)

    def _reachable(self) -> None:
        """Raise unless free cells connect the start with the goal line (pillars grown by the rod are not free)."""
        s = self.settings
        pillars = np.array(s.pillars)
        xs = np.arange(pillars[:, 0].min() - REACH, pillars[:, 0].max() + REACH, CELL)
        ys = np.arange(s.start[1], s.goal_y + CELL, CELL)
        grid = torch.from_numpy(np.stack(np.meshgrid(xs, ys, indexing="ij"), axis=-1)).to(self.lines.device)
        free = (self.distance(grid) >= 0.0).all(-1).cpu().numpy()
        gap = np.linalg.norm(grid.cpu().numpy()[:, :, None] - pillars[:, :2], axis=-1) - pillars[:, 2] - ROD_RADIUS
        labels, _ = ndimage.label(free & (gap.min(-1) > 0.0))
        home = labels[int(np.argmin(np.abs(xs - s.start[0]))), 0]
        if home == 0 or not (labels[:, -1] == home).any():
            raise InputError(
                f"scene {self.config.name!r}{f' with margin {self.margin} m' if self.margin else ''}: "
                "no free way from the start to the goal line: the constraints and the pillars close it"
            )
