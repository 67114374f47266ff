"""Demonstrations of the Avoiding task: scripted ones of all 24 ways, and D3IL's human ones from a file.

A demonstration is the path of the *desired* position, (T, 2) [m], one row a step, from the start to beyond the goal line.
"""

from __future__ import annotations

import itertools
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from tandem.core.errors import InputError
from tandem.tasks.avoiding.arm import ROD_RADIUS, Response
from tandem.tasks.avoiding.config import AvoidingConfig, mode

Array = NDArray[np.float64]
#: a row of pillars: its y and the low and high x of its gaps [m]
Rows = list[tuple[float, list[tuple[float, float]]]]

#: how near the rod's surface a demonstration may pass a pillar [m], and how far beyond the goal line it goes on [m]
CLEARANCE, BEYOND = 0.003, 0.07
#: widest way round the outermost pillars [m], and how far the waypoints of the scripted ones stay from the pillars [m]
ROUND, AWAY = 0.09, 0.022


def clearance(path: Array, settings: AvoidingConfig) -> float:
    """Least distance [m] of the rod's surface from any pillar along the polyline ``path`` (T, 2)."""
    return float(clearances(path, settings).min())


def clearances(path: Array, settings: AvoidingConfig) -> Array:
    """(T - 1,) the same for each segment of ``path`` (T, 2)."""
    pillars = np.array(settings.pillars)
    a, along = path[:-1, None], np.diff(path, axis=0)[:, None]
    t = ((pillars[:, :2] - a) * along).sum(-1) / np.maximum((along * along).sum(-1), 1e-18)
    nearest = a + np.clip(t, 0.0, 1.0)[..., None] * along
    least: Array = (np.linalg.norm(nearest - pillars[:, :2], axis=-1) - pillars[:, 2]).min(1) - ROD_RADIUS
    return least


def gaps(settings: AvoidingConfig) -> Rows:
    """For each row of pillars its y and the gaps' (low, high) x, from the left [m]."""
    pillars = np.array(settings.pillars)
    out = []
    for y in sorted(set(pillars[:, 1])):
        row = pillars[pillars[:, 1] == y]
        row = row[np.argsort(row[:, 0])]
        left, right = row[:, 0] - row[:, 2], row[:, 0] + row[:, 2]
        edges = [left[0] - ROUND, *np.column_stack([left, right]).ravel(), right[-1] + ROUND]
        out.append((float(y), list(zip(edges[::2], edges[1::2], strict=True))))
    return out


def limited(path: Array, settings: AvoidingConfig) -> Array:
    """``path`` (T, 2) with its increments clipped to what the task allows."""
    increments = np.clip(np.diff(path, axis=0), settings.action_low, settings.action_high)
    return np.concatenate([path[:1], path[:1] + np.cumsum(increments, axis=0)])


def followed(desired: Array, settings: AvoidingConfig, least: float = CLEARANCE) -> Array | None:
    """(T, 2) where the end effector goes when ``desired`` (T, 2) is played.

    None: it would not reach the goal, or the rod would pass a pillar nearer than ``least`` [m].
    """
    path = Response(settings).play(desired)
    if path[-1, 1] < settings.goal_y or clearance(path, settings) < least:
        return None
    return path


def scripted(count: int, seed: int, settings: AvoidingConfig) -> list[Array]:
    """``count`` demonstrations, the 24 ways in turn: smooth paths through a random point of a gap in each row, at random speed.

    Raises:
        InputError: the pillars leave no way that can be followed.
    """
    rng = np.random.default_rng(seed)
    rows = gaps(settings)
    ways = list(itertools.product(*(range(len(places)) for _, places in rows)))
    out: list[Array] = []
    failures = 0
    while len(out) < count:
        way = ways[len(out) % len(ways)]
        desired = _through(way, rows, rng, settings)
        path = followed(desired, settings)
        if path is not None and mode(path, settings) == way:
            out.append(desired)
            failures = 0
        else:
            failures += 1
            if failures > 2000:
                raise InputError(f"avoiding: no demonstration found through the gaps {way} (from the left, row by row)")
    return out


def _through(way: tuple[int, ...], rows: Rows, rng: np.random.Generator, settings: AvoidingConfig) -> Array:
    """Desired path through one gap a row."""
    margin = ROD_RADIUS + AWAY
    points = [settings.start]
    for gap, (y, places) in zip(way, rows, strict=True):
        low, high = places[gap]
        outer = (gap == 0, gap == len(places) - 1)
        low, high = low + (0.0 if outer[0] else margin), high - (0.0 if outer[1] else margin)
        points.append((float(rng.uniform(low, high)), y))
    end = settings.goal_y + BEYOND
    points.append((points[-1][0] + float(rng.normal(0.0, 0.01)), end))
    xy = np.array(points)
    ys = np.linspace(xy[0, 1], end, 400)
    line = np.column_stack([PchipInterpolator(xy[:, 1], xy[:, 0])(ys), ys])
    speed = rng.uniform(0.75, 1.0) * np.array(settings.action_high)
    cost = np.concatenate([[0.0], np.cumsum(np.max(np.abs(np.diff(line, axis=0)) / speed, axis=1))])
    times = np.arange(0.0, cost[-1])
    wait = np.repeat(line[:1], rng.integers(1, 4), axis=0)  # humans do not move at once, and neither does the arm
    path = np.concatenate([wait, np.column_stack([np.interp(times, cost, line[:, d]) for d in range(2)])])
    return limited(path, settings)


def read(path: Path) -> list[Array]:
    """Desired paths from a file of demonstrations: ``.npz`` with ``des_c_pos`` (T, 2 or 3) [m] and ``episode_ends`` (exclusive).

    Raises:
        InputError: the file cannot be read as that, or holds no episode of two rows or more.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            desired, ends = np.asarray(data["des_c_pos"], dtype=np.float64), np.asarray(data["episode_ends"], dtype=np.int64)
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a file of demonstrations (.npz with des_c_pos and episode_ends): {error}") from error
    starts = np.concatenate([[0], ends[:-1]])
    if desired.ndim != 2 or desired.shape[1] not in (2, 3) or not np.isfinite(desired).all():
        raise InputError(f"{path}: des_c_pos {desired.shape}: expected (T, 2) or (T, 3), finite")
    if ends.ndim != 1 or len(ends) == 0 or (ends - starts < 2).any() or ends[-1] != len(desired):
        raise InputError(f"{path}: episode_ends: expected increasing ends, two rows an episode or more, the last {len(desired)}")
    return [desired[a:b, :2] for a, b in zip(starts, ends, strict=True)]


def write(path: Path, demonstrations: list[Array]) -> None:
    """Write desired paths as :func:`read` takes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ends = np.cumsum([len(d) for d in demonstrations])
    np.savez_compressed(path, des_c_pos=np.concatenate(demonstrations).astype(np.float64), episode_ends=ends)
