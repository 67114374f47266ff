"""Obstacles from, and pictures as, ``visualization_msgs/MarkerArray``.

Obstacle markers: ``CUBE`` (scale = edge lengths), ``SPHERE`` (three equal scales = diameter), ``CYLINDER`` (scale x = y =
diameter, z = length), in the base frame, named by ``ns`` (and ``id`` when it is not 0), stamped with the time of their pose.
``ADD``/``MODIFY``, ``DELETE`` and ``DELETEALL`` act as in rviz. ``text`` may carry ``position_error=<m> speed=<m/s>``.
Whatever cannot be understood (another type, an ellipsoid, another frame, NaN, unknown text, two obstacles of one name) is never
dropped: it makes the scene unusable until a marker of the same name replaces it or it is deleted. Nor does one publisher take
away what another has told of: with several on the topic ``DELETEALL`` deletes nothing, and what nobody tells of any more grows
too old.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import Point
from numpy.typing import NDArray
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from tandem.core.errors import InputError
from tandem.core.scene import Obstacle, ObstacleKind, Scene
from tandem.core.types import Candidate, ObjectPose
from tandem.nodes.messages import MessageError, pose_from_msg, pose_to_msg, seconds_from_stamp, stamp_from_seconds

Array = NDArray[np.float64]
FUTURE = 0.05
"""How far a stamp may lie in the future [s]: clocks of one machine, plus rounding."""
GREEN, RED = ColorRGBA(r=0.2, g=0.8, b=0.3, a=0.5), ColorRGBA(r=0.9, g=0.2, b=0.2, a=0.25)
BLUE, ORANGE = ColorRGBA(r=0.1, g=0.4, b=1.0, a=1.0), ColorRGBA(r=1.0, g=0.6, b=0.1, a=1.0)
YELLOW = ColorRGBA(r=0.95, g=0.85, b=0.2, a=0.8)
GREY, CYAN = ColorRGBA(r=0.6, g=0.5, b=0.4, a=0.9), ColorRGBA(r=0.2, g=0.7, b=0.9, a=0.15)


def _marker(kind: int, ns: str, ident: int, frame: str, stamp: float, color: ColorRGBA) -> Marker:
    marker = Marker(type=kind, action=Marker.ADD, ns=ns, id=ident, color=color)
    marker.header.frame_id, marker.header.stamp = frame, stamp_from_seconds(stamp)
    marker.pose.orientation.w = 1.0
    return marker


def delete_all(frame: str, stamp: float) -> Marker:
    """The marker that empties a display or a scene."""
    marker = _marker(Marker.ARROW, "", 0, frame, stamp, GREY)
    marker.action = Marker.DELETEALL
    return marker


# --------------------------------------------------------------------------------------------------------------- scenes
def _parts(obstacle: Obstacle) -> list[tuple[int, Array, tuple[float, float, float]]]:
    """Marker type, offset along local z and scale of each marker that makes up the obstacle."""
    zero, s = np.zeros(3), obstacle.size
    if obstacle.kind == "box":
        return [(Marker.CUBE, zero, (2 * s[0], 2 * s[1], 2 * s[2]))]
    if obstacle.kind == "sphere":
        return [(Marker.SPHERE, zero, (2 * s[0],) * 3)]
    if obstacle.kind == "cylinder":
        return [(Marker.CYLINDER, zero, (2 * s[0], 2 * s[0], 2 * s[1]))]
    if obstacle.kind == "capsule":
        ends = [(Marker.SPHERE, np.array([0.0, 0.0, z]), (2 * s[0],) * 3) for z in (-s[1], s[1])]
        return [(Marker.CYLINDER, zero, (2 * s[0], 2 * s[0], 2 * s[1])), *ends]
    raise MessageError(f"obstacle {obstacle.name!r}: a {obstacle.kind} has no marker; accepted: box, sphere, cylinder, capsule")


def scene_to_msg(scene: Scene, frame: str, stamp: float, fresh: bool = True) -> MarkerArray:
    """A scene as markers (a capsule as cylinder and two spheres, which together are it); ``fresh``: begins with DELETEALL."""
    out = MarkerArray()
    if fresh:
        out.markers.append(delete_all(frame, stamp))
    for obstacle in scene.obstacles:
        for i, (kind, offset, scale) in enumerate(_parts(obstacle)):
            marker = _marker(kind, obstacle.name, i, frame, obstacle.stamp or stamp, GREY)
            pose = np.eye(4)
            pose[:3, :3] = obstacle.rotation()
            pose[:3, 3] = np.asarray(obstacle.position) + pose[:3, :3] @ offset
            marker.pose = pose_to_msg(pose)
            marker.scale.x, marker.scale.y, marker.scale.z = scale
            marker.text = f"position_error={obstacle.position_error!r} speed={obstacle.speed!r}"
            out.markers.append(marker)
    return out


def _text(text: str) -> dict[str, float]:
    out: dict[str, float] = {}
    for word in text.split():
        key, _, value = word.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if key not in ("position_error", "speed") or not number >= 0.0:
            raise MessageError(f"text {text!r}: accepted: 'position_error=<m >= 0> speed=<m/s >= 0>' or nothing")
        out[key] = number
    return out


def obstacle_from_marker(marker: Marker, frame: str, now: float, position_error: float = 0.0, speed: float = 0.0) -> Obstacle:
    """One obstacle; ``position_error`` [m] and ``speed`` [m/s] are the least that is assumed of it.

    Raises:
        MessageError: type, scale, frame, stamp, pose or text is not one of those accepted.
    """
    name = marker.ns if marker.id == 0 and marker.ns else f"{marker.ns}/{marker.id}"
    where = f"marker {name!r}"
    if marker.header.frame_id != frame:
        raise MessageError(f"{where}: frame_id {marker.header.frame_id!r}: expected {frame!r}")
    stamp = seconds_from_stamp(marker.header.stamp)
    if stamp > now + FUTURE:
        raise MessageError(f"{where}: stamp lies {stamp - now:.3f} s in the future")
    x, y, z = marker.scale.x, marker.scale.y, marker.scale.z
    kind: ObstacleKind
    size: tuple[float, ...]
    if marker.type == Marker.CUBE:
        kind, size = "box", (0.5 * x, 0.5 * y, 0.5 * z)
    elif marker.type == Marker.SPHERE and x == y == z:
        kind, size = "sphere", (0.5 * x,)
    elif marker.type == Marker.CYLINDER and x == y:
        kind, size = "cylinder", (0.5 * x, 0.5 * z)
    else:
        accepted = "CUBE, SPHERE (x = y = z), CYLINDER (x = y)"
        raise MessageError(f"{where}: type {marker.type} with scale ({x}, {y}, {z}): accepted: {accepted}")
    try:
        pose, bounds = pose_from_msg(marker.pose), _text(marker.text)
        o = marker.pose.orientation
        return Obstacle(
            name, kind, size, tuple(pose[:3, 3].tolist()), (o.w, o.x, o.y, o.z),  # type: ignore[arg-type]
            max(position_error, bounds.get("position_error", 0.0)), max(speed, bounds.get("speed", 0.0)), stamp,
        )
    except InputError as error:
        raise MessageError(f"{where}: {error}") from error


class SceneKeeper:
    """The obstacles a MarkerArray topic has told of so far, with their age.

    Args:
        frame: base frame. max_age: oldest stamp that counts as known [s]. required: whether silence makes the scene unusable.
        position_error, speed: least bounds assumed of every obstacle [m], [m/s]. fixed: obstacles that are always there.
    """

    def __init__(
        self, frame: str, max_age: float, required: bool, position_error: float = 0.0, speed: float = 0.0,
        fixed: Sequence[Obstacle] = (),
    ) -> None:
        self._frame, self._max_age, self._required = frame, max_age, required
        self._least = (position_error, speed)
        self._fixed = tuple(fixed)
        self._known: dict[tuple[str, int], Obstacle] = {}
        self._unusable: dict[tuple[str, int], str] = {}
        self._heard: float | None = None
        self._publishers = 1
        self._undeleted = 0  #: how many publish, where one of them wanted to delete all
        self.version = 0

    def matched(self, info: Any) -> None:
        """How many publish on the topic: the subscription's event, which needs no look at the whole graph with each message."""
        self._publishers = int(info.current_count)

    def apply(self, msg: MarkerArray, now: float) -> list[str]:
        """Take a message in; returns what could not be understood."""
        before = (dict(self._known), dict(self._unusable))
        added: set[tuple[str, int]] = set()
        for marker in msg.markers:
            key = (marker.ns, marker.id)
            if marker.action == Marker.DELETEALL:
                if self._publishers <= 1:
                    self._known.clear()
                    self._unusable.clear()
                    added.clear()
                self._undeleted = self._publishers if self._publishers > 1 else 0
                continue
            former = self._known.pop(key, None)
            self._unusable.pop(key, None)
            if marker.action == Marker.DELETE:
                added.discard(key)
                continue
            try:
                if marker.action != Marker.ADD:
                    raise MessageError(f"marker {key}: action {marker.action}: accepted: ADD, MODIFY, DELETE, DELETEALL")
                if key in added:
                    raise MessageError(f"marker {key}: twice in one message; every obstacle needs an ns or id of its own")
                added.add(key)
                obstacle = obstacle_from_marker(marker, self._frame, now, *self._least)
                self._known[key] = obstacle if former is None or obstacle.stamp >= former.stamp else former
            except MessageError as error:
                self._unusable[key] = str(error)
        self._heard = now
        if before != (self._known, self._unusable):
            self.version += 1
        return list(self._unusable.values())

    def age(self, now: float) -> float:
        """Age of the oldest thing known [s]; infinite when nothing was ever heard, 0 when the topic is optional and silent."""
        if self._heard is None:
            return float("inf") if self._required else 0.0
        stamps = [o.stamp for o in self._known.values()]
        if stamps:
            return now - min(stamps)
        return now - self._heard if self._required else 0.0

    def scene(self, now: float) -> tuple[Scene | None, str]:
        """The scene, or None and why it cannot be used (not understood, too old, silent)."""
        if self._unusable:
            return None, "; ".join(self._unusable.values())
        age = self.age(now)
        if age < -FUTURE:
            return None, f"obstacles of {-age:.2f} s ahead: the clock has been set back"
        if age > self._max_age:
            what = "never heard" if self._heard is None else f"{age:.2f} s old"
            why = (
                f" ({self._undeleted} nodes publish them, so that DELETEALL deletes nothing: is the launch file's own one of "
                "them? publish_scene:=false)"
            )
            return None, f"obstacles {what}; at most {self._max_age} s{why if self._undeleted else ''}"
        try:
            return Scene((*self._fixed, *self._known.values())), ""
        except InputError as error:
            return None, str(error)


# ------------------------------------------------------------------------------------------------------------- pictures
def _line(path: Array, ns: str, ident: int, frame: str, stamp: float, color: ColorRGBA, width: float) -> Marker:
    marker = _marker(Marker.LINE_STRIP, ns, ident, frame, stamp, color)
    marker.scale.x = width
    marker.points = [Point(x=float(x), y=float(y), z=float(z)) for x, y, z in path]
    return marker


def candidates_to_msg(candidates: Sequence[Candidate], frame: str, stamp: float) -> MarkerArray:
    """All sampled plans: green feasible, red infeasible, blue the chosen one, orange its backup."""
    out = MarkerArray(markers=[delete_all(frame, stamp)])
    for i, c in enumerate(candidates):
        if not np.isfinite(c.path).all() or len(c.path) < 2:
            continue
        ns = "chosen" if c.chosen else "feasible" if c.feasible else "infeasible"
        color = BLUE if c.chosen else GREEN if c.feasible else RED
        out.markers.append(_line(c.path, ns, i, frame, stamp, color, 0.008 if c.chosen else 0.002))
        if c.chosen and c.backup_path is not None and len(c.backup_path) > 1 and np.isfinite(c.backup_path).all():
            out.markers.append(_line(c.backup_path, "backup", i, frame, stamp, ORANGE, 0.008))
    return out


def spheres_to_msg(centres: Array, radii: Array, frame: str, stamp: float, ns: str = "occupancy") -> MarkerArray:
    """Occupancy as spheres: centres (S, 3) [m], radii (S,) [m]."""
    out = MarkerArray(markers=[delete_all(frame, stamp)])
    for i, (centre, radius) in enumerate(zip(centres, radii, strict=True)):
        marker = _marker(Marker.SPHERE, ns, i, frame, stamp, CYAN)
        marker.pose.position.x, marker.pose.position.y, marker.pose.position.z = (float(x) for x in centre)
        marker.scale.x = marker.scale.y = marker.scale.z = 2.0 * float(radius)
        out.markers.append(marker)
    return out


def object_to_msg(pose: ObjectPose, name: str, radius: float, height: float, frame: str) -> MarkerArray:
    """An object as a cylinder standing on its origin, and its name with the position's standard deviation."""
    body = _marker(Marker.CYLINDER, name, 0, frame, pose.stamp, YELLOW)
    centre = pose.pose.copy()
    centre[:3, 3] += 0.5 * height * pose.pose[:3, 2]
    body.pose = pose_to_msg(centre)
    body.scale.x = body.scale.y = 2.0 * radius
    body.scale.z = height
    label = _marker(Marker.TEXT_VIEW_FACING, name, 1, frame, pose.stamp, YELLOW)
    x, y, z = pose.pose[:3, 3].tolist()
    label.pose.position = Point(x=x, y=y, z=z + 2.0 * height)
    label.scale.z = 0.03
    label.text = f"{name} +-{1e3 * float(np.sqrt(np.trace(pose.covariance[:3, :3]))):.1f} mm"
    return MarkerArray(markers=[body, label])
