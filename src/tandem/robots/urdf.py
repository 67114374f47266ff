"""Read the serial chain between two links of a URDF, with the collision shapes that move with each of its links.

Fixed joints are merged into the link they hang on. A prismatic joint off the chain (a gripper finger) is replaced by everything
its shapes sweep over the joint's whole range, which stays convex; any other movable joint off the chain is an error.
"""

from __future__ import annotations

import importlib.util
import math
import os
import xml.etree.ElementTree as ET
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import ConfigError
from tandem.core.se3 import pose

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: sides of the prism that circumscribes a cylinder
PRISM_SIDES = 32
_SHAPES = ("mesh", "box", "cylinder", "sphere")


@dataclass(frozen=True)
class Shape:
    """A convex solid: all points within ``radius`` [m] of the convex hull of ``vertices`` (V, 3) [m], in the frame of ``link``.

    ``link`` counts the chain's moving links from 1, 0 is the base; ``part`` is the URDF link that carries the shape.
    """

    link: int
    name: str
    vertices: Array
    radius: float = 0.0
    part: str = ""


@dataclass(frozen=True)
class Chain:
    """A serial chain; arrays as in :class:`tandem.robots.model.ArmModel`. ``stroke``: sum of the gripper fingers' ranges [m]."""

    joint_names: tuple[str, ...]
    link_names: tuple[str, ...]
    joint_type: IntArray
    placement: Array
    axis: Array
    tool: Array
    lower: Array
    upper: Array
    velocity: Array
    shapes: tuple[Shape, ...]
    stroke: float


@dataclass(frozen=True)
class _Joint:
    name: str
    kind: str
    parent: str
    child: str
    origin: Array
    axis: Array
    lower: float
    upper: float
    velocity: float
    mimic: bool


def resolve_source(source: str, relative_to: Path) -> Path:
    """The file meant by ``package:file`` (an importable Python package, else a ROS package of AMENT_PREFIX_PATH) or by a path.

    A Python package is located, never imported.

    Raises:
        ConfigError: no such package or file.
    """
    package, colon, name = source.partition(":")
    if colon and "/" not in package:
        places = []
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        if spec is not None:
            places += [Path(p) for p in spec.submodule_search_locations or []]
        places += [Path(p) / "share" / package for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
        for place in places:
            if (place / name).is_file():
                return place / name
        raise ConfigError(f"{relative_to}: {source}: no Python or ROS package {package!r} with the file {name!r}; install it")
    path = Path(source) if Path(source).is_absolute() else relative_to.parent / source
    if not path.is_file():
        raise ConfigError(f"{relative_to}: {source}: no such file ({path})")
    return path


def _numbers(text: str | None, count: int, where: str, default: str) -> Array:
    try:
        values = np.array([float(x) for x in (text if text is not None else default).split()])
    except ValueError as error:
        raise ConfigError(f"{where}: {text!r} is not a list of numbers") from error
    if values.shape != (count,) or not np.all(np.isfinite(values)):
        raise ConfigError(f"{where}: {text!r}: expected {count} finite numbers")
    return values


def rotation_rpy(rpy: Array) -> Array:
    """(3, 3) rotation of URDF roll, pitch, yaw [rad]: about fixed x, then y, then z."""
    (sr, sp, sy), (cr, cp, cy) = np.sin(rpy), np.cos(rpy)
    return np.array([
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ])


def _origin(element: ET.Element, where: str) -> Array:
    tag = element.find("origin")
    xyz = _numbers(None if tag is None else tag.get("xyz"), 3, f"{where}: origin xyz", "0 0 0")
    rpy = _numbers(None if tag is None else tag.get("rpy"), 3, f"{where}: origin rpy", "0 0 0")
    return pose(xyz, rotation_rpy(rpy))


def _joint(element: ET.Element, where: str) -> _Joint:
    name, kind = str(element.get("name")), str(element.get("type"))
    where = f"{where}: joint {name}"
    ends = []
    for tag in ("parent", "child"):
        end = element.find(tag)
        if end is None or not end.get("link"):
            raise ConfigError(f"{where}: no <{tag} link=...>")
        ends.append(str(end.get("link")))
    axis_tag, limit = element.find("axis"), element.find("limit")
    axis = _numbers(None if axis_tag is None else axis_tag.get("xyz"), 3, f"{where}: axis", "1 0 0")
    if kind in ("revolute", "prismatic", "continuous"):
        if np.linalg.norm(axis) < 1e-9:
            raise ConfigError(f"{where}: axis {axis.tolist()} must not vanish")
        axis = axis / np.linalg.norm(axis)
    bounds = {"lower": -math.inf, "upper": math.inf, "velocity": math.inf}
    if limit is not None:
        for key in bounds:
            if limit.get(key) is not None and not (kind == "continuous" and key != "velocity"):
                bounds[key] = float(_numbers(limit.get(key), 1, f"{where}: limit {key}", "0")[0])
    return _Joint(name, kind, ends[0], ends[1], _origin(element, where), axis, **bounds, mimic=element.find("mimic") is not None)


def read_mesh(path: Path) -> Array:
    """Vertices (V, 3) of an STL (binary or ASCII) or OBJ file, unit as stored.

    Raises:
        ConfigError: unreadable, empty, not finite, or another format.
    """
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".obj":
            rows = [line.split()[1:4] for line in data.decode("utf-8").splitlines() if line.startswith("v ")]
            vertices = np.array(rows, dtype=np.float64)
        elif path.suffix.lower() == ".stl":
            count = int.from_bytes(data[80:84], "little")
            if len(data) == 84 + 50 * count:
                facet = np.dtype([("normal", "<f4", 3), ("vertices", "<f4", (3, 3)), ("attribute", "<u2")])
                vertices = np.frombuffer(data, facet, count, 84)["vertices"].reshape(-1, 3).astype(np.float64)
            else:
                rows = [line.split()[1:4] for line in data.decode("ascii").splitlines() if line.split()[:1] == ["vertex"]]
                vertices = np.array(rows, dtype=np.float64)
        else:
            raise ConfigError(f"{path}: collision meshes are read from .stl and .obj files only")
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a mesh: {error}") from error
    if vertices.ndim != 2 or vertices.shape[0] < 4 or vertices.shape[1] != 3 or not np.all(np.isfinite(vertices)):
        raise ConfigError(f"{path}: holds no usable mesh (needs at least 4 finite vertices)")
    return np.unique(vertices, axis=0)


def _mesh_path(name: str, urdf: Path) -> Path:
    if name.startswith("package://"):
        package, _, rest = name[len("package://") :].partition("/")
        return resolve_source(f"{package}:{rest}", urdf)
    return resolve_source(name.removeprefix("file://"), urdf)


def _solid(geometry: ET.Element, urdf: Path, where: str) -> tuple[Array, float]:
    """Vertices (V, 3) and radius of one <geometry>, in its own frame; a cylinder becomes a circumscribed prism."""
    for kind in _SHAPES:
        tag = geometry.find(kind)
        if tag is None:
            continue
        if kind == "mesh":
            scale = _numbers(tag.get("scale"), 3, f"{where}: mesh scale", "1 1 1")
            return read_mesh(_mesh_path(str(tag.get("filename")), urdf)) * scale, 0.0
        if kind == "box":
            half = 0.5 * _numbers(tag.get("size"), 3, f"{where}: box size", "")
            return np.array(np.meshgrid(*([-h, h] for h in half))).reshape(3, -1).T.copy(), 0.0
        radius = float(_numbers(tag.get("radius"), 1, f"{where}: {kind} radius", "")[0])
        if kind == "sphere":
            return np.zeros((1, 3)), radius
        length = float(_numbers(tag.get("length"), 1, f"{where}: cylinder length", "")[0])
        angle = 2.0 * np.pi * np.arange(PRISM_SIDES) / PRISM_SIDES
        ring = radius / np.cos(np.pi / PRISM_SIDES) * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        ends = [np.column_stack([ring, np.full(PRISM_SIDES, s * 0.5 * length)]) for s in (-1.0, 1.0)]
        return np.concatenate(ends), 0.0
    raise ConfigError(f"{where}: geometry must be one of {', '.join(_SHAPES)}")


def _moved(shape: Shape, transform: Array, link: int) -> Shape:
    return replace(shape, link=link, vertices=shape.vertices @ transform[:3, :3].T + transform[:3, 3])


def _swept(shape: Shape, joint: _Joint) -> Shape:
    ends = [shape.vertices + s * joint.axis for s in (joint.lower, joint.upper)]
    return replace(shape, vertices=np.concatenate(ends))


class _Tree:
    """The links and joints of one URDF file."""

    def __init__(self, path: Path, geometry: bool) -> None:
        self.path = path
        self.geometry = geometry
        try:
            root = ET.parse(path).getroot()
        except (OSError, ET.ParseError) as error:
            raise ConfigError(f"{path}: cannot be read as URDF: {error}") from error
        self.links = {str(e.get("name")): e for e in root.findall("link")}
        joints = [_joint(e, str(path)) for e in root.findall("joint")]
        self.by_child = {j.child: j for j in joints}
        self.children: dict[str, list[_Joint]] = {name: [] for name in self.links}
        if len(self.by_child) != len(joints):
            raise ConfigError(f"{path}: a link has two parent joints; only trees can be read")
        for joint in joints:
            if joint.parent not in self.links or joint.child not in self.links:
                raise ConfigError(f"{path}: joint {joint.name}: unknown link {joint.parent!r} or {joint.child!r}")
            self.children[joint.parent].append(joint)
        self.stroke = 0.0

    def path_between(self, base: str, tcp: str) -> list[_Joint]:
        """Joints from ``base`` to ``tcp``, in order."""
        for name in (base, tcp):
            if name not in self.links:
                raise ConfigError(f"{self.path}: no link {name!r}; there are: {', '.join(self.links)}")
        path: list[_Joint] = []
        at = tcp
        while at != base:
            if at not in self.by_child or len(path) > len(self.links):
                raise ConfigError(f"{self.path}: link {tcp!r} does not hang on {base!r}")
            path.insert(0, self.by_child[at])
            at = path[0].parent
        return path

    def own_shapes(self, name: str, extra: dict[str, list[Path]]) -> list[Shape]:
        """Collision shapes of one link, in its frame."""
        shapes: list[Shape] = []
        if not self.geometry:
            return shapes
        for k, element in enumerate(self.links[name].findall("collision")):
            where = f"{self.path}: link {name}: collision {k}"
            geometry = element.find("geometry")
            if geometry is None:
                raise ConfigError(f"{where}: no <geometry>")
            vertices, radius = _solid(geometry, self.path, where)
            shapes.append(_moved(Shape(0, f"{name}[{k}]", vertices, radius, name), _origin(element, where), 0))
        return shapes + [Shape(0, f"{name}:{p.name}", read_mesh(p), 0.0, name) for p in extra.get(name, [])]

    def rigid_shapes(self, name: str, on_path: set[str], extra: dict[str, list[Path]]) -> list[Shape]:
        """Shapes of a link and of all that hangs on it, the chain's movable joints left out."""
        shapes = self.own_shapes(name, extra)
        for joint in self.children[name]:
            if joint.name in on_path:
                continue
            below = self.rigid_shapes(joint.child, on_path, extra)
            if joint.kind == "prismatic":
                if not (math.isfinite(joint.lower) and math.isfinite(joint.upper)):
                    raise ConfigError(f"{self.path}: joint {joint.name}: a sliding joint off the chain needs finite limits")
                self.stroke += joint.upper - joint.lower
                below = [_swept(s, joint) for s in below]
            elif joint.kind != "fixed" and below:
                raise ConfigError(f"{self.path}: joint {joint.name}: a {joint.kind} joint off the chain is not supported")
            shapes += [_moved(s, joint.origin, 0) for s in below]
        return shapes


def read_chain(
    path: Path, base: str, tcp: str, extra: dict[str, list[Path]] | None = None, *, geometry: bool = True
) -> Chain:
    """The serial chain from link ``base`` to link ``tcp`` of the URDF at ``path``.

    Args:
        extra: more meshes (STL, OBJ) to enclose, by the URDF link in whose frame they are given.
        geometry: read the collision shapes too; without, ``shapes`` is empty and no mesh is opened.

    Raises:
        ConfigError: not readable as URDF; unknown links; no, or a mimicking, floating or planar joint on the chain; a movable
            joint off it other than a sliding one with limits; a collision shape or mesh that cannot be read.
    """
    tree, extra = _Tree(path, geometry), extra or {}
    unknown = set(extra) - set(tree.links)
    if unknown:
        raise ConfigError(f"{path}: extra geometry: no link {', '.join(sorted(unknown))}; there are: {', '.join(tree.links)}")
    joints = tree.path_between(base, tcp)
    moving = [j for j in joints if j.kind != "fixed"]
    for j in moving:
        if j.kind not in ("revolute", "continuous", "prismatic") or j.mimic:
            kind = "mimicking" if j.mimic else j.kind
            raise ConfigError(f"{path}: joint {j.name}: a {kind} joint on the chain is not supported")
    if not moving:
        raise ConfigError(f"{path}: no movable joint between {base!r} and {tcp!r}")
    on_path = {j.name for j in moving}
    placements, shapes = [], [replace(s, link=0) for s in tree.rigid_shapes(base, on_path, extra)]
    reach = np.eye(4)
    for joint in joints:
        reach = reach @ joint.origin
        if joint.kind == "fixed":
            continue
        placements.append(reach)
        reach = np.eye(4)
        shapes += [replace(s, link=len(placements)) for s in tree.rigid_shapes(joint.child, on_path, extra)]
    return Chain(
        joint_names=tuple(j.name for j in moving),
        link_names=(base, *(j.child for j in moving)),
        joint_type=np.array([1 if j.kind == "prismatic" else 0 for j in moving], dtype=np.int64),
        placement=np.ascontiguousarray(placements),
        axis=np.ascontiguousarray([j.axis for j in moving]),
        tool=np.ascontiguousarray(reach),
        lower=np.array([j.lower for j in moving]),
        upper=np.array([j.upper for j in moving]),
        velocity=np.array([j.velocity for j in moving]),
        shapes=tuple(shapes),
        stroke=float(tree.stroke),
    )

