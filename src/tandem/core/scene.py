"""Obstacles the arm must not touch. All positions in the robot's base frame [m], rotations as unit quaternions (w, x, y, z)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tandem.core.config import read_yaml
from tandem.core.errors import ConfigError, InputError

ObstacleKind = Literal["box", "sphere", "cylinder", "capsule", "halfspace"]
#: what ``size`` means for each kind [m]: half extents / radius / radius and half height along z / the same / nothing
SIZES: dict[str, int] = {"box": 3, "sphere": 1, "cylinder": 2, "capsule": 2, "halfspace": 0}
MAX_COORDINATE = 100.0


@dataclass(frozen=True)
class Obstacle:
    """One obstacle.

    Attributes:
        name: for messages and verdicts.
        kind: ``box`` (half extents x, y, z), ``sphere`` (radius), ``cylinder`` and ``capsule`` (radius, half length of the
            axis along local z), ``halfspace`` (solid below the plane through ``position`` whose normal is local z).
        size: see ``kind`` [m].
        position: (3,) centre [m]. quaternion: (4,) w, x, y, z.
        position_error: radius of the ball in which the true position lies [m].
        speed: bound on the obstacle's speed [m/s]; grows its occupancy with time since ``stamp``.
        stamp: time at which the pose was true [s, the caller's clock].
    """

    name: str
    kind: ObstacleKind
    size: tuple[float, ...]
    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    position_error: float = 0.0
    speed: float = 0.0
    stamp: float = 0.0

    def __post_init__(self) -> None:
        where = f"obstacle {self.name!r}"
        if self.kind not in SIZES:
            raise InputError(f"{where}: kind {self.kind!r} is not one of {', '.join(SIZES)}")
        for key in ("size", "position", "quaternion", "position_error", "speed", "stamp"):
            value = getattr(self, key)
            several = key in ("size", "position", "quaternion")
            if several and not isinstance(value, tuple | list):
                raise InputError(f"{where}: {key} = {value!r}: expected a tuple of numbers")
            if not all(isinstance(x, Real) and math.isfinite(x) for x in (value if several else (value,))):
                raise InputError(f"{where}: {key} = {value}: every value must be a finite number (no NaN or infinity)")
        if len(self.size) != SIZES[self.kind]:
            raise InputError(f"{where}: size {self.size} has {len(self.size)} values; a {self.kind} takes {SIZES[self.kind]}")
        if len(self.position) != 3 or len(self.quaternion) != 4:
            raise InputError(f"{where}: position takes 3 values and quaternion 4, got {self.position} and {self.quaternion}")
        if any(s <= 0.0 or s > MAX_COORDINATE for s in self.size):
            raise InputError(f"{where}: size {self.size} must lie in (0, {MAX_COORDINATE}] m")
        if any(abs(p) > MAX_COORDINATE for p in self.position):
            raise InputError(f"{where}: position {self.position} must lie within +-{MAX_COORDINATE} m")
        if abs(sum(x * x for x in self.quaternion) - 1.0) > 1e-3:
            raise InputError(f"{where}: quaternion {self.quaternion} is not a unit quaternion (w, x, y, z)")
        if self.position_error < 0.0 or self.speed < 0.0:
            raise InputError(f"{where}: position_error and speed must be >= 0")

    def rotation(self) -> NDArray[np.float64]:
        """(3, 3) rotation matrix, local to base frame."""
        w, x, y, z = np.asarray(self.quaternion) / np.linalg.norm(self.quaternion)
        return np.array([
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ])


@dataclass(frozen=True)
class Scene:
    """The obstacles of one moment. An empty scene is legal: it then has nothing to collide with but the arm itself."""

    obstacles: tuple[Obstacle, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        names = [o.name for o in self.obstacles]
        if len(set(names)) != len(names):
            raise InputError(f"scene: obstacle names must be unique, got {sorted(names)}")

    def with_obstacles(self, *more: Obstacle) -> Scene:
        """A scene with ``more`` added."""
        return Scene((*self.obstacles, *more))


TABLE = Obstacle("table", "halfspace", (), (0.0, 0.0, 0.0))
"""The table top is the plane z = 0 of the base frame: the arm is bolted to it."""

_KEYS = {"name", "kind", "size", "position", "quaternion", "position_error", "speed"}


def obstacle_from_dict(data: Any, where: str) -> Obstacle:
    """An obstacle from one entry of a scene file; ``where`` names file and key for the message."""
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a mapping, got {data!r}")
    unknown = set(data) - _KEYS
    if unknown:
        raise ConfigError(f"{where}: unknown key(s) {', '.join(sorted(map(str, unknown)))}; known: {', '.join(sorted(_KEYS))}")
    missing = {"name", "kind", "position"} - set(data)
    if missing:
        raise ConfigError(f"{where}: missing key(s) {', '.join(sorted(missing))}")
    try:
        values: dict[str, Any] = {"size": ()}
        for key in ("size", "position", "quaternion"):
            if isinstance(data.get(key), str):
                raise TypeError(f"{key} = {data[key]!r}: expected a list of numbers")
        values |= {k: tuple(float(x) for x in data[k]) for k in ("size", "position", "quaternion") if k in data}
        values |= {k: float(data[k]) for k in ("position_error", "speed") if k in data}
        return Obstacle(name=str(data["name"]), kind=data["kind"], **values)
    except (TypeError, ValueError, OverflowError, InputError) as error:
        raise ConfigError(f"{where}: {error}") from error


def load_scene(path: str | Path) -> dict[str, Any]:
    """Read a scene file: ``{"obstacles": [...], ...}``; ``obstacles`` comes back as :class:`Obstacle`, other keys as they are."""
    data = read_yaml(path)
    if not isinstance(data, dict) or not isinstance(data.get("obstacles", []), list):
        raise ConfigError(f"{path}: expected a mapping with a list under 'obstacles'")
    data["obstacles"] = [obstacle_from_dict(o, f"{path}: obstacles[{i}]") for i, o in enumerate(data.get("obstacles", []))]
    return data
