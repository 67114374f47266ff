"""Scene files of the mug task: where the mug may stand, where the cameras are, which obstacles stand about."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tandem.core.config import from_dict, setting
from tandem.core.errors import ConfigError
from tandem.core.scene import Obstacle, load_scene

#: kinds of scenes the generator makes (see :mod:`tandem.sim.scenes`)
KINDS = ("empty", "blocked_straight", "cluttered", "blocked_all")
#: where episodes start [rad]: the hand at the robot's right (tcp 0.36, -0.44, 0.42 m), pointing down. The way to the mug is then
#: a transport across the table, and what stands there can be passed on several sides. (From a start behind the mug it could not:
#: the forearm, in the grasp itself, fills the only space an obstacle could block.)
START_JOINTS = (-0.4546, 0.0196, -0.4345, -1.8081, 0.0085, 1.8259, 0.2942)


@dataclass(frozen=True)
class MugRange:
    """Where the mug may stand: uniform over the box; yaw is the direction of the handle in the base frame."""

    x: tuple[float, float] = setting((0.45, 0.60), "of the mug's origin", unit="m", lo=0.2, hi=0.8)
    y: tuple[float, float] = setting((-0.10, 0.20), "of the mug's origin", unit="m", lo=-0.5, hi=0.5)
    yaw: tuple[float, float] = setting(
        (2.0 * math.pi / 3.0, 4.0 * math.pi / 3.0), "direction of the handle; pi looks at the robot", unit="rad", lo=-6.3, hi=6.3
    )


@dataclass(frozen=True)
class CameraConfig:
    """A fixed camera that looks from ``position`` at ``target``, upright (image up = base z as far as possible)."""

    width: int = setting(640, "columns", unit="px", lo=16, hi=4096)
    height: int = setting(480, "rows", unit="px", lo=16, hi=4096)
    fovy: float = setting(38.0, "vertical field of view", unit="deg", lo=5.0, hi=120.0)
    position: tuple[float, float, float] = setting((1.2, 0.05, 0.42), "optical centre", unit="m", lo=-10.0, hi=10.0)
    target: tuple[float, float, float] = setting((0.5, 0.05, 0.09), "a point on the optical axis", unit="m", lo=-10.0, hi=10.0)


@dataclass(frozen=True)
class MugScene:
    """One scene.

    Attributes:
        name, kind: what it is; ``kind`` is one of :data:`KINDS`.
        start: (7,) joint positions at the start [rad]. object_file: marker object, found under ``config/``.
        mug: where the mug may stand. camera: what perception sees. overview: a second view for reports.
        obstacles: what the arm must not touch (the table is always there and not listed).
    """

    name: str = setting("empty", "for reports")
    kind: str = setting("empty", "what the generator made it for", choices=KINDS)
    start: tuple[float, float, float, float, float, float, float] = setting(
        START_JOINTS, "joint positions at the start of an episode", unit="rad", lo=-6.3, hi=6.3
    )
    object_file: str = setting("objects/mug.yaml", "marker object, under config/")
    mug: MugRange = field(default_factory=MugRange)
    camera: CameraConfig = field(default_factory=CameraConfig)
    overview: CameraConfig = field(
        default_factory=lambda: CameraConfig(640, 480, 45.0, (1.45, -0.75, 0.95), (0.33, -0.1, 0.25))
    )
    obstacles: tuple[Obstacle, ...] = field(default_factory=tuple)


def load_mug_scene(path: str | Path) -> MugScene:
    """Read a scene file of the mug task, for example ``config/scenes/mug_blocked.yaml``.

    Raises:
        ConfigError: unreadable, unknown key, wrong type or value out of range; names file, key, value and accepted range.
    """
    data: dict[str, Any] = load_scene(path)
    obstacles = tuple(data.pop("obstacles"))
    names = [o.name for o in obstacles]
    if len(set(names)) != len(names):
        raise ConfigError(f"{path}: obstacles: names {names}: accepted: every name once")
    scene = from_dict(MugScene, data, str(path))
    for key in ("x", "y", "yaw"):
        lo, hi = getattr(scene.mug, key)
        if lo > hi:
            raise ConfigError(f"{path}: mug: {key} = {[lo, hi]}: accepted: lower end first")
    for key in ("camera", "overview"):
        view: CameraConfig = getattr(scene, key)
        if math.dist(view.position, view.target) < 0.05 or math.dist(view.position[:2], view.target[:2]) < 1e-3:
            where = f"{path}: {key}: target = {list(view.target)}"
            raise ConfigError(f"{where}: accepted: 0.05 m or more from position, not straight below")
    return MugScene(**{**{k: getattr(scene, k) for k in scene.__dataclass_fields__}, "obstacles": obstacles})


def _plain(x: Any) -> Any:
    """Tuples as lists, so that YAML writes them plainly."""
    if isinstance(x, (list, tuple)):
        return [_plain(v) for v in x]
    return {k: _plain(v) for k, v in x.items()} if isinstance(x, dict) else x


def save_mug_scene(scene: MugScene, path: str | Path) -> None:
    """Write ``scene`` so that :func:`load_mug_scene` reads the same scene back."""
    data: dict[str, Any] = {"name": scene.name, "kind": scene.kind, "start": scene.start, "object_file": scene.object_file}
    data |= {k: dict(vars(getattr(scene, k))) for k in ("mug", "camera", "overview")}
    keys = ("name", "kind", "size", "position", "quaternion", "position_error", "speed")
    data["obstacles"] = [{k: getattr(o, k) for k in keys} for o in scene.obstacles]
    text = yaml.safe_dump(_plain(data), sort_keys=False, default_flow_style=None, width=130)
    note = "# Scene of the mug task: SI units, base frame, quaternions w x y z; keys and ranges: tandem.sim.scene_file\n"
    Path(path).write_text(note + text, encoding="utf-8")
