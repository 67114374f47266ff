"""Objects that carry fiducial markers: what perception looks for, what the simulator builds and what a grasp is planned on.

Object frame of a mug: origin at the centre of the bottom, z up, +x towards the handle. The body is a hollow regular prism
whose first flat face looks along +x (there the handle sits); the other faces are flat so that printed markers lie flat on them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tandem.core.config import load, setting
from tandem.core.errors import ConfigError
from tandem.core.se3 import pose

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Marker:
    """One printed ArUco marker.

    Attributes:
        id: its number in the object's dictionary.
        size: side of the black square, white border not counted [m].
        pose: (4, 4) in the object frame: origin at the marker's centre, z out of the face, x to the right, y up as printed.
    """

    id: int
    size: float
    pose: Array

    def corners(self) -> Array:
        """(4, 3) corners in the object frame [m] in OpenCV's order: top left, top right, bottom right, bottom left."""
        h = self.size / 2
        local = np.array([[-h, h, 0.0], [h, h, 0.0], [h, -h, 0.0], [-h, -h, 0.0]])
        return local @ self.pose[:3, :3].T + self.pose[:3, 3]


@dataclass(frozen=True)
class PrismBody:
    """The hollow body: a regular prism standing on z = 0, one face looking along +x."""

    sides: int = setting(6, "number of flat faces", lo=3, hi=24)
    apothem: float = setting(0.045, "distance from the axis to an outer face", unit="m", lo=0.01, hi=0.2)
    height: float = setting(0.11, "from the bottom to the rim", unit="m", lo=0.02, hi=0.5)
    wall: float = setting(0.005, "thickness of the wall", unit="m", lo=0.001, hi=0.05)
    bottom: float = setting(0.006, "thickness of the bottom", unit="m", lo=0.001, hi=0.05)

    @property
    def side(self) -> float:
        """Width of one outer face [m]."""
        return 2.0 * self.apothem * math.tan(math.pi / self.sides)


@dataclass(frozen=True)
class Handle:
    """A C of three boxes on the +x face: two bars out from the wall, one upright between their ends."""

    width: float = setting(0.016, "along y, what the fingers close on", unit="m", lo=0.004, hi=0.075)
    thickness: float = setting(0.012, "of the bars and of the upright", unit="m", lo=0.003, hi=0.05)
    reach: float = setting(0.038, "from the face to the upright's outer side", unit="m", lo=0.015, hi=0.2)
    low: float = setting(0.03, "underside of the lower bar", unit="m", lo=0.0, hi=0.5)
    high: float = setting(0.092, "top of the upper bar", unit="m", lo=0.0, hi=0.5)


@dataclass(frozen=True)
class _MarkerEntry:
    """A marker as written in the file."""

    id: int = setting(-1, "number in the dictionary", lo=0, hi=999)
    size: float = setting(0.0, "side of the black square", unit="m", lo=0.005, hi=0.5)
    position: tuple[float, float, float] = setting((0.0, 0.0, 0.0), "centre in the object frame", unit="m", lo=-1.0, hi=1.0)
    quaternion: tuple[float, float, float, float] = setting((1.0, 0.0, 0.0, 0.0), "w, x, y, z: marker to object", lo=-1.0, hi=1.0)


@dataclass(frozen=True)
class _ObjectFile:
    """The file's layout."""

    name: str = setting("", "the object's name")
    dictionary: str = setting("DICT_4X4_50", "OpenCV's name of the ArUco dictionary")
    mass: float = setting(0.25, "of the whole object", unit="kg", lo=0.01, hi=5.0)
    body: PrismBody = field(default_factory=PrismBody)
    handle: Handle = field(default_factory=Handle)
    markers: tuple[_MarkerEntry, ...] = setting((), "the printed markers")


@dataclass(frozen=True)
class MarkerObject:
    """A rigid object with markers.

    Attributes:
        name: for messages. dictionary: OpenCV's name of the ArUco dictionary (``DICT_4X4_50``).
        markers: see :class:`Marker`. body, handle: geometry. mass [kg].
    """

    name: str
    dictionary: str
    markers: tuple[Marker, ...]
    body: PrismBody
    handle: Handle
    mass: float

    def marker(self, number: int) -> Marker | None:
        """The marker with this id, or None when the object carries no such marker."""
        return next((m for m in self.markers if m.id == number), None)


def _matrix(q: tuple[float, float, float, float], where: str) -> Array:
    """(3, 3) rotation of a unit quaternion (w, x, y, z)."""
    norm = math.sqrt(sum(x * x for x in q))
    if abs(norm - 1.0) > 1e-3:
        raise ConfigError(f"{where}: quaternion = {list(q)}: norm {norm:.4f}; accepted: 0.999 .. 1.001 (w, x, y, z)")
    w, x, y, z = np.asarray(q) / norm
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])


def load_object(path: str | Path) -> MarkerObject:
    """Read an object file such as ``config/objects/mug.yaml``.

    Raises:
        ConfigError: unreadable, unknown key, wrong type, value out of range, no or repeated markers, unknown dictionary,
            a handle or markers that do not fit the body.
    """
    data = load(_ObjectFile, path)
    found = re.fullmatch(r"DICT_[4-7]X[4-7]_(50|100|250|1000)", data.dictionary)
    if found is None:
        raise ConfigError(f"{path}: dictionary = {data.dictionary!r}: accepted: DICT_4X4_50 .. DICT_7X7_1000")
    ids = [m.id for m in data.markers]
    if not ids:
        raise ConfigError(f"{path}: markers = []: accepted: at least one marker")
    if len(set(ids)) != len(ids):
        raise ConfigError(f"{path}: markers: ids {ids}: accepted: every id once")
    if not data.name:
        raise ConfigError(f"{path}: name = '': accepted: a non-empty name")
    for i, m in enumerate(data.markers):
        if not 0 <= m.id < int(found[1]):
            raise ConfigError(f"{path}: markers[{i}]: id = {m.id}: accepted: 0 .. {int(found[1]) - 1} for {data.dictionary}")
        if m.size <= 0.0:
            raise ConfigError(f"{path}: markers[{i}]: size = {m.size}: accepted: 0.005 .. 0.5 m")
    if not data.handle.low + 2 * data.handle.thickness < data.handle.high <= data.body.height:
        raise ConfigError(
            f"{path}: handle: low {data.handle.low}, high {data.handle.high}: accepted: low + 2 thickness < high <= body height"
        )
    if 2 * data.body.wall >= data.body.apothem:
        raise ConfigError(f"{path}: body: wall = {data.body.wall}: accepted: less than half the apothem {data.body.apothem} m")
    markers = tuple(
        Marker(m.id, m.size, pose(np.asarray(m.position), _matrix(m.quaternion, f"{path}: markers[{i}]")))
        for i, m in enumerate(data.markers)
    )
    return MarkerObject(data.name, data.dictionary, markers, data.body, data.handle, data.mass)
