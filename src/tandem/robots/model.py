"""The arm as arrays: kinematics, limits and collision spheres of any serial arm, from ``config/robots/<name>.yaml`` and a URDF.

Everything a compiled kernel needs is a float64 or int64 C-contiguous array of :class:`ArmModel`; nothing is specific to one arm.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tandem.core.config import load, read_yaml, setting
from tandem.core.errors import ConfigError, InputError
from tandem.core.paths import config_file
from tandem.robots.urdf import Chain, read_chain, resolve_source

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class ArmModel:
    """An arm with n joints, n + 1 links (link 0 is the base, link i moves with joint i - 1) and S collision spheres.

    Attributes:
        name, joint_names (n), link_names (n + 1).
        joint_type: (n,) 0 revolute, 1 prismatic.
        placement: (n, 4, 4) parent link frame -> joint frame at q = 0 (for joint 0: base frame -> joint frame).
        axis: (n, 3) unit vectors in the joint frame. tool: (4, 4) last link frame -> tool centre point.
        lower, upper: (n,) [rad]. velocity: (n,) [rad/s]. acceleration: (n,) [rad/s^2]. jerk: (n,) [rad/s^3].
        velocity_position: (n, 4) rows (offset a [rad/s], factor b [rad/s^2], upper anchor [rad], lower anchor [rad]) of
            the limits that shrink towards the joint's ends, see :func:`velocity_limits`; NaN rows where a joint has none.
        sphere_link: (S,) index into link_names. sphere_center: (S, 3) in that link's frame [m]. sphere_radius: (S,) [m].
            A link's spheres enclose the convex hull of each of its collision shapes, gripper fingers over their whole stroke.
        link_center, link_radius: (n + 1, 3) and (n + 1,) one ball a link around all of its spheres (radius -1: it has none).
        self_pairs: (P, 2) link indices that must be kept apart. self_dropped: ((i, j), why) for every pair that need not.
        self_spheres: (K, 2) sphere indices, those of self_pairs[p] in rows self_offset[p] .. self_offset[p + 1].
        exclusions: (link name, obstacle name) pairs never checked (the base link stands on the table).
        home: (n,) a configuration far from limits and self-collision [rad].
        stroke: largest gripper width [m], 0 without a gripper.
        digest: SHA-256 over all of the above; part of every verdict.
    """

    name: str
    joint_names: tuple[str, ...]
    link_names: tuple[str, ...]
    joint_type: IntArray
    placement: Array
    axis: Array
    tool: Array
    lower: Array
    upper: Array
    velocity: Array
    acceleration: Array
    jerk: Array
    velocity_position: Array
    sphere_link: IntArray
    sphere_center: Array
    sphere_radius: Array
    link_center: Array
    link_radius: Array
    self_pairs: IntArray
    self_dropped: tuple[tuple[tuple[int, int], str], ...]
    self_spheres: IntArray
    self_offset: IntArray
    exclusions: tuple[tuple[str, str], ...]
    home: Array
    stroke: float
    digest: str

    @property
    def n(self) -> int:
        """Number of joints."""
        return int(self.axis.shape[0])

    def checked_links(self, obstacle: str) -> NDArray[np.bool_]:
        """(n + 1,) whether each link is to be checked against the obstacle of that name."""
        skip = {link for link, name in self.exclusions if name == obstacle}
        return np.array([link not in skip for link in self.link_names])


@dataclass(frozen=True)
class LimitsConfig:
    """Limits of the joints in order; what is absent comes from the URDF, what is given can only tighten it."""

    lower: list[float] = setting([], "lower position limits", unit="rad", lo=-100.0, hi=100.0)
    upper: list[float] = setting([], "upper position limits", unit="rad", lo=-100.0, hi=100.0)
    velocity: list[float] = setting([], "velocity limits", unit="rad/s", lo=1e-3, hi=100.0)
    acceleration: list[float] = setting([], "acceleration limits", unit="rad/s^2", lo=1e-3, hi=1e4)
    jerk: list[float] = setting([], "jerk limits", unit="rad/s^3", lo=1e-3, hi=1e6)
    velocity_position: list[list[float]] = setting([], "rows of ArmModel.velocity_position, [] for none", lo=-100.0, hi=100.0)


@dataclass(frozen=True)
class GroupConfig:
    """URDF links whose shapes share a set of spheres."""

    parts: list[str] = setting([], "URDF links, all rigid to one moving link")
    spheres: int = setting(4, "number of spheres", lo=1, hi=64)
    tip: float = setting(0.0, "largest overshoot along the tool's z axis, 0 for no bound", unit="m", lo=0.0, hi=1.0)


@dataclass(frozen=True)
class FitConfig:
    """How the spheres are fitted, for :mod:`tandem.robots.fit`."""

    seed: int = setting(0, "seed of the search", lo=0)
    steps: int = setting(4000, "steps of the search, a group", lo=0, hi=1_000_000)
    spheres: int = setting(4, "spheres for a URDF link in no group", lo=1, hi=64)
    margin: float = setting(0.005, "pairs proven to stay farther apart than this are not checked", unit="m", lo=0.0, hi=1.0)
    groups: list[GroupConfig] = setting([], "links fitted together or with another number of spheres")


@dataclass(frozen=True)
class RobotConfig:
    """One file of ``config/robots/``."""

    name: str = setting("", "the arm's name")
    urdf: str = setting("", "URDF: 'package:file' (Python or ROS package) or a path, relative to this file")
    base: str = setting("", "URDF link that is the base frame; every pose of Tandem is given in it")
    tcp: str = setting("", "URDF link that is the tool centre point")
    extra_geometry: list[str] = setting([], "meshes beyond the URDF's, 'link = package:file' each; enclosed too")
    limits: LimitsConfig = setting(LimitsConfig(), "joint limits")
    home: list[float] = setting([], "a configuration far from limits and self-collision", unit="rad", lo=-100.0, hi=100.0)
    spheres: str = setting("", "fitted spheres, relative to this file; made by python -m tandem.robots.fit")
    fit: FitConfig = setting(FitConfig(), "sphere fitting")
    exclusions: list[list[str]] = setting([], "[link, obstacle name] pairs that are never checked")


def _limit(values: list[float], fallback: Array | None, n: int, where: str, tighten: Any = None) -> Array:
    if not values:
        if fallback is None:
            raise ConfigError(f"{where}: missing; the URDF has no such limit, so give {n} values")
        return np.ascontiguousarray(fallback, dtype=np.float64)
    if len(values) != n:
        raise ConfigError(f"{where}: {len(values)} values; expected {n}, one a joint")
    given = np.array(values, dtype=np.float64)
    return given if tighten is None or fallback is None else tighten(given, fallback)


def _velocity_position(rows: list[list[float]], n: int, where: str) -> Array:
    out = np.full((n, 4), np.nan)
    if rows and len(rows) != n:
        raise ConfigError(f"{where}: {len(rows)} rows; expected {n}, one a joint, [] for a joint without")
    for i, row in enumerate(rows):
        if row:
            if len(row) != 4 or row[0] < 0.0 or row[1] <= 0.0 or row[2] <= row[3]:
                raise ConfigError(f"{where}[{i}] = {row}: expected [offset >= 0, factor > 0, upper anchor, lower anchor]")
            out[i] = row
    return out


def read_spheres(path: Path, links: tuple[str, ...]) -> dict[str, Any]:
    """Fitted spheres and link pairs from a YAML file written by :mod:`tandem.robots.fit`.

    Returns:
        ``sphere_link, sphere_center, sphere_radius, self_pairs`` (arrays) and ``self_dropped``.

    Raises:
        ConfigError: unreadable, unknown link, or not numbers.
    """
    try:
        data = read_yaml(path)
        index = {name: i for i, name in enumerate(links)}
        owner, rows = [], []
        for link, spheres in data["spheres"].items():
            for row in spheres:
                owner.append(index[link])
                rows.append([float(x) for x in row])
        table = np.array(rows, dtype=np.float64).reshape(-1, 4)
        pairs = [sorted((index[a], index[b])) for a, b in data["self_pairs"]]
        dropped = tuple(((index[a], index[b]), str(why)) for a, b, why in data["self_dropped"])
    except KeyError as error:
        known = f"links: {', '.join(links)}; keys: spheres, self_pairs, self_dropped"
        raise ConfigError(f"{path}: unknown link or missing key {error}; {known}") from error
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ConfigError(f"{path}: cannot be read as fitted spheres: {error}") from error
    if not np.all(np.isfinite(table)) or np.any(table[:, 3] <= 0.0):
        raise ConfigError(f"{path}: every sphere is [x, y, z, radius > 0] in metres")
    return {
        "sphere_link": np.array(owner, dtype=np.int64),
        "sphere_center": np.ascontiguousarray(table[:, :3]),
        "sphere_radius": np.ascontiguousarray(table[:, 3]),
        "self_pairs": np.array(pairs, dtype=np.int64).reshape(-1, 2),
        "self_dropped": dropped,
    }


def bounding_balls(links: int, owner: IntArray, center: Array, radius: Array) -> tuple[Array, Array]:
    """One ball a link around its spheres: (links, 3) centres and (links,) radii, -1 where a link has no sphere."""
    centers, radii = np.zeros((links, 3)), np.full(links, -1.0)
    for link in range(links):
        c, r = center[owner == link], radius[owner == link]
        if len(c) == 0:
            continue
        best = c.mean(axis=0)
        for step in range(1, 300):  # Badoiu-Clarkson: move towards the farthest sphere by 1/(k+1)
            d = np.linalg.norm(c - best, axis=1) + r
            best = best + (c[d.argmax()] - best) / (step + 1)
        centers[link] = best
        radii[link] = (np.linalg.norm(c - best, axis=1) + r).max() + 1e-9
    return centers, radii


def _self_spheres(pairs: IntArray, owner: IntArray) -> tuple[IntArray, IntArray]:
    rows: list[tuple[int, int]] = []
    offset = [0]
    for a, b in pairs:
        rows += [(int(i), int(j)) for i in np.flatnonzero(owner == a) for j in np.flatnonzero(owner == b)]
        offset.append(len(rows))
    return np.array(rows, dtype=np.int64).reshape(-1, 2), np.array(offset, dtype=np.int64)


def _digest(values: dict[str, Any]) -> str:
    h = hashlib.sha256()
    for key in sorted(values):
        value = values[key]
        h.update(key.encode())
        if isinstance(value, np.ndarray):
            h.update(repr((value.shape, value.dtype.str)).encode())
            h.update(value.tobytes())
        else:
            h.update(repr(value).encode())
    return h.hexdigest()


def robot_config(name_or_path: str | Path) -> tuple[RobotConfig, Path]:
    """The configuration of an arm and the file it came from: ``fr3`` means ``config/robots/fr3.yaml``."""
    text = str(name_or_path)
    path = config_file(text) if text.endswith((".yaml", ".yml")) else config_file("robots", f"{text}.yaml")
    config = load(RobotConfig, path)
    for key in ("name", "urdf", "base", "tcp"):
        if not getattr(config, key):
            raise ConfigError(f"{path}: {key}: missing")
    return config, path


def load_chain(config: RobotConfig, path: Path, *, geometry: bool = True) -> Chain:
    """The serial chain of the robot's URDF, with its collision shapes and the extra ones if ``geometry``."""
    extra: dict[str, list[Path]] = {}
    for entry in config.extra_geometry if geometry else []:
        link, equal, source = (part.strip() for part in entry.partition("="))
        if not equal:
            raise ConfigError(f"{path}: extra_geometry: {entry!r}: expected 'link = package:file'")
        extra.setdefault(link, []).append(resolve_source(source, path))
    return read_chain(resolve_source(config.urdf, path), config.base, config.tcp, extra, geometry=geometry)


def build_arm(config: RobotConfig, path: Path, chain: Chain, spheres: dict[str, Any]) -> ArmModel:
    """Put chain, limits and spheres together and check them against each other.

    Raises:
        ConfigError: limits of the wrong length, empty position range, home outside the limits, unknown link in an exclusion.
    """
    n = len(chain.joint_names)
    where, lim = f"{path}: limits", config.limits
    lower = _limit(lim.lower, chain.lower, n, f"{where}.lower", np.maximum)
    upper = _limit(lim.upper, chain.upper, n, f"{where}.upper", np.minimum)
    if np.any(lower >= upper):
        i = int(np.argmax(lower - upper))
        raise ConfigError(f"{where}: joint {chain.joint_names[i]}: lower {lower[i]} must be below upper {upper[i]}")
    home = np.array(config.home if config.home else 0.5 * (lower + upper), dtype=np.float64)
    if home.shape != (n,) or np.any(home < lower) or np.any(home > upper):
        raise ConfigError(f"{path}: home = {home.tolist()}: expected {n} values within the position limits")
    for row in config.exclusions:
        if len(row) != 2 or row[0] not in chain.link_names:
            raise ConfigError(f"{path}: exclusions: {row}: expected [link, obstacle]; links: {', '.join(chain.link_names)}")
    centers, radii = bounding_balls(n + 1, spheres["sphere_link"], spheres["sphere_center"], spheres["sphere_radius"])
    pairs, offset = _self_spheres(spheres["self_pairs"], spheres["sphere_link"])
    values: dict[str, Any] = {
        "name": config.name,
        "joint_names": chain.joint_names,
        "link_names": chain.link_names,
        "joint_type": chain.joint_type,
        "placement": chain.placement,
        "axis": chain.axis,
        "tool": chain.tool,
        "lower": lower,
        "upper": upper,
        "velocity": _limit(lim.velocity, chain.velocity, n, f"{where}.velocity", np.minimum),
        "acceleration": _limit(lim.acceleration, None, n, f"{where}.acceleration"),
        "jerk": _limit(lim.jerk, None, n, f"{where}.jerk"),
        "velocity_position": _velocity_position(lim.velocity_position, n, f"{where}.velocity_position"),
        **spheres,
        "link_center": centers,
        "link_radius": radii,
        "self_spheres": pairs,
        "self_offset": offset,
        "exclusions": tuple((a, b) for a, b in config.exclusions),
        "home": home,
        "stroke": chain.stroke,
    }
    return ArmModel(**values, digest=_digest(values))


def load_arm(name_or_path: str | Path = "fr3") -> ArmModel:
    """The arm described by ``config/robots/<name>.yaml`` or by the YAML file at a path. Needs the URDF, not its meshes.

    Raises:
        ConfigError: file missing, unknown key, URDF missing or not a serial arm, limits or spheres malformed.
    """
    config, path = robot_config(name_or_path)
    chain = load_chain(config, path, geometry=False)
    if not config.spheres:
        raise ConfigError(f"{path}: spheres: missing; make them with: python -m tandem.robots.fit {path}")
    return build_arm(config, path, chain, read_spheres(path.parent / config.spheres, chain.link_names))


def velocity_limits(arm: ArmModel, q: ArrayLike) -> tuple[Array, Array]:
    """Lowest and highest joint velocity allowed at q (..., n): two arrays (..., n) [rad/s].

    ``hi = min(v, max(0, sqrt(b (anchor_up - q)) - a))`` and ``lo = -min(v, max(0, sqrt(b (q - anchor_low)) - a))``, the FR3's
    position-dependent limits (Franka control interface documentation, "Limits for Franka Research 3"); +-v without coefficients.
    NaN in ``q`` gives NaN.

    Raises:
        InputError: the last axis of ``q`` is not the number of joints.
    """
    q = np.asarray(q, dtype=np.float64)
    if q.shape[-1:] != (arm.n,):
        raise InputError(f"q: shape {q.shape}; the last axis must hold the {arm.n} joints of {arm.name}")
    a, b, up, low = arm.velocity_position.T
    none = np.isnan(a)
    with np.errstate(invalid="ignore", over="ignore"):
        hi = np.minimum(arm.velocity, np.maximum(0.0, np.sqrt(np.maximum(b * (up - q), 0.0)) - a))
        lo = -np.minimum(arm.velocity, np.maximum(0.0, np.sqrt(np.maximum(b * (q - low), 0.0)) - a))
    nan = np.isnan(q)
    return np.where(nan, np.nan, np.where(none, -arm.velocity, lo)), np.where(nan, np.nan, np.where(none, arm.velocity, hi))


def with_limits(arm: ArmModel, **changes: Array) -> ArmModel:
    """A copy of ``arm`` with other limit arrays, its digest renewed.

    Raises:
        InputError: an argument is not a limit of the arm, or has another shape.
    """
    allowed = ("lower", "upper", "velocity", "acceleration", "jerk", "velocity_position")
    for key, value in changes.items():
        if key not in allowed:
            raise InputError(f"with_limits: {key!r} is not one of {', '.join(allowed)}")
        if np.shape(value) != getattr(arm, key).shape:
            raise InputError(f"with_limits: {key} has shape {np.shape(value)}; expected {getattr(arm, key).shape}")
    fresh = {k: np.ascontiguousarray(v, dtype=np.float64) for k, v in changes.items()}
    values = {f.name: getattr(arm, f.name) for f in dataclasses.fields(arm) if f.name != "digest"} | fresh
    return ArmModel(**values, digest=_digest(values))
