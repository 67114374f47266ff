"""Settings and geometry of the Avoiding task (``config/tasks/avoiding.yaml``, where each constant's source is named)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tandem.core import config
from tandem.core.config import setting
from tandem.core.errors import ConfigError
from tandem.core.paths import config_file

Array = NDArray[np.float64]

#: gaps between the pillars of the three rows: 2 x 3 x 4 = 24 ways through (D3IL, Sec. 4.1)
MODES = 24


@dataclass(frozen=True)
class SceneConfig:
    """Constraints added at test time on the rod's axis (x, y) [m]."""

    name: str = setting("free", "what tables call it")
    circles: tuple[tuple[float, ...], ...] = setting((), "keep out of these: x, y, radius", unit="m", lo=-10.0, hi=10.0)
    lines: tuple[tuple[float, ...], ...] = setting(
        (), "stay on the start's side of these: x, y of two points", unit="m", lo=-10.0, hi=10.0
    )

    def __post_init__(self) -> None:
        for key, rows, size in (("circles", self.circles, 3), ("lines", self.lines, 4)):
            for n, row in enumerate(rows):
                if len(row) != size:
                    raise ConfigError(f"scene {self.name!r}: {key}[{n}] has {len(row)} values; accepted: {size}")
        for n, (_, _, radius) in enumerate(self.circles):
            if radius <= 0.0:
                raise ConfigError(f"scene {self.name!r}: circles[{n}]: radius {radius}; accepted: > 0 m")
        for n, (ax, ay, bx, by) in enumerate(self.lines):
            if (ax, ay) == (bx, by):
                raise ConfigError(f"scene {self.name!r}: lines[{n}]: its two points are the same")


@dataclass(frozen=True)
class AvoidingConfig:
    """Geometry [m], timing [s], the response of the end effector, and scenes."""

    weights: str = setting("avoiding", "policy weights in models/")
    pillars: tuple[tuple[float, ...], ...] = setting((), "x, y, radius of each pillar, row by row", unit="m", lo=-10.0, hi=10.0)
    start: tuple[float, ...] = setting((0.525, -0.28), "where the rod stands at first", unit="m", lo=-10.0, hi=10.0)
    goal_y: float = setting(0.35, "the goal line", unit="m", lo=-10.0, hi=10.0)
    dt: float = setting(0.035, "time a step", unit="s", lo=0.001, hi=1.0)
    max_steps: int = setting(200, "steps an episode may take (DPCC, JM2D)", lo=1, hi=100_000)
    horizon: int = setting(8, "state-action pairs a plan holds (DPCC, JM2D)", lo=2, hi=256)
    execute: int = setting(2, "actions played before the next plan; the papers do not say", lo=1, hi=255)
    action_low: tuple[float, ...] = setting((-0.0125, 0.0), "least change of the desired position", unit="m", lo=-1.0, hi=1.0)
    action_high: tuple[float, ...] = setting((0.0125, 0.0125), "greatest", unit="m", lo=-1.0, hi=1.0)
    stiffness: tuple[float, ...] = setting((121.0, 41.7), "of the end effector's response, x and y", unit="1/s^2", lo=1.0, hi=1e5)
    damping: tuple[float, ...] = setting((13.3, 4.1), "the same", unit="1/s", lo=0.1, hi=1e4)
    feedforward: tuple[float, ...] = setting((0.85, 0.78), "share of the desired velocity in the damping", lo=0.0, hi=1.0)
    drift: tuple[float, ...] = setting((0.1, 0.1), "DPCC's linear model: p' = p + drift (d - p) + gain a", lo=-10.0, hi=10.0)
    gain: tuple[float, ...] = setting((0.2, 0.2), "the same", lo=-10.0, hi=10.0)
    scenes: tuple[SceneConfig, ...] = setting((), "test-time constraints")

    def __post_init__(self) -> None:
        if self.execute > self.horizon:
            raise ConfigError(f"avoiding: execute = {self.execute}: accepted: 1 .. horizon = {self.horizon}")
        for key in ("start", "action_low", "action_high", "stiffness", "damping", "feedforward", "drift", "gain"):
            if len(getattr(self, key)) != 2:
                raise ConfigError(f"avoiding: {key} = {getattr(self, key)}: accepted: two values, x and y")

    def scene(self, name: str) -> SceneConfig:
        """The scene of that name.

        Raises:
            ConfigError: there is none; says which there are.
        """
        for scene in self.scenes:
            if scene.name == name:
                return scene
        raise ConfigError(f"avoiding: scene {name!r}: accepted: {', '.join(s.name for s in self.scenes)}")


@lru_cache(maxsize=8)
def load_avoiding_config(name: str = "avoiding") -> AvoidingConfig:
    """Read ``config/tasks/<name>.yaml``, or a path."""
    return config.load(AvoidingConfig, config_file("tasks", name if name.endswith(".yaml") else f"{name}.yaml"))


def mode(path: Array, settings: AvoidingConfig) -> tuple[int, ...] | None:
    """Which gap of each row of pillars the ``path`` (T, 2) goes through, from the left; None when it does not pass all rows."""
    pillars = np.array(settings.pillars)
    found = []
    for y in sorted(set(pillars[:, 1])):
        beyond = path[:, 1] >= y
        if not beyond.any() or beyond[0]:
            return None
        i = int(np.argmax(beyond))
        (x0, y0), (x1, y1) = path[i - 1], path[i]
        crossing = x0 + (y - y0) / (y1 - y0) * (x1 - x0)
        found.append(int(np.searchsorted(np.sort(pillars[pillars[:, 1] == y, 0]), crossing)))
    return tuple(found)
