"""Training data of the Avoiding policy: windows of H state-action pairs from demonstrations and from blends of them.

96 demonstrations are few: a network memorises them and knows nothing beside them. *Blends* fill the space between: two
demonstrations of the same way, mixed and slightly bent, kept when the end effector would follow them clear of the pillars and
by the same way.
"""

from __future__ import annotations

import logging

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem.core.errors import InputError
from tandem.tasks.avoiding.config import AvoidingConfig, mode
from tandem.tasks.avoiding.demonstrations import BEYOND, followed, limited

Array = NDArray[np.float64]
#: desired and actual positions (T, 2) of a demonstration, and its way
Path = tuple[Array, Array, tuple[int, ...]]
logger = logging.getLogger(__name__)

#: how far beyond either of its two demonstrations a blend may lie, of their distance
OVERSHOOT = 0.3
#: bends: standard deviation [m] of each of the first harmonics over the path
BEND, HARMONICS = 0.008, 4
#: least distance of the rod from the pillars in blends [m]; humans went nearer
BLEND_CLEARANCE = 0.008
#: a state is a desired and an actual position; a pair adds the change of the desired one
STATE, ACTION = 4, 2


def usable(demonstrations: list[Array], settings: AvoidingConfig) -> list[Path]:
    """(desired, actual, way) of those that this task's arm follows from its start to the goal without contact."""
    kept = []
    for desired in demonstrations:
        path = limited(np.asarray(settings.start) + desired - desired[0], settings)
        actual = followed(path, settings)
        way = None if actual is None else mode(actual, settings)
        if actual is not None and way is not None:
            end = int(np.argmax(actual[:, 1] > settings.goal_y + BEYOND)) or len(actual)
            kept.append((path[:end], actual[:end], way))
    if len(kept) < len(demonstrations):
        logger.info("avoiding: %d of %d demonstrations can be followed without contact", len(kept), len(demonstrations))
    return kept


def blends(
    source: list[Path], count: int, seed: int, settings: AvoidingConfig
) -> list[Path]:
    """``count`` mixtures of two demonstrations of one way each, the ways in turn."""
    rng = np.random.default_rng(seed)
    by_way: dict[tuple[int, ...], list[Array]] = {}
    for desired, _, way in source:
        by_way.setdefault(way, []).append(desired)
    ways = sorted(by_way)
    out: list[Path] = []
    for n in range(50 * count):
        if len(out) == count:
            break
        way = ways[n % len(ways)]
        one, two = (by_way[way][int(i)] for i in rng.integers(0, len(by_way[way]), 2))
        path = limited(_mixed(one, two, rng), settings)
        actual = followed(path, settings, BLEND_CLEARANCE)
        if actual is not None and mode(actual, settings) == way:
            out.append((path, actual, way))
    return out


def _mixed(one: Array, two: Array, rng: np.random.Generator) -> Array:
    """Both on a common clock, mixed and bent; the start stays."""
    share = rng.uniform(-OVERSHOOT, 1.0 + OVERSHOOT)
    length = max(8, round(float((1.0 - share) * len(one) + share * len(two))))
    t = np.linspace(0.0, 1.0, length)
    a, b = (np.column_stack([np.interp(t, np.linspace(0.0, 1.0, len(p)), p[:, d]) for d in range(2)]) for p in (one, two))
    path = (1.0 - share) * a + share * b
    for n in range(1, HARMONICS + 1):
        path[:, 0] += rng.normal(0.0, BEND / n) * np.sin(0.5 * np.pi * n * t)
    return path


def windows(paths: list[Path], settings: AvoidingConfig) -> tuple[Tensor, Tensor]:
    """Chunks (N, H, 6) of state and action, and conditioning (N, 4): the chunk's first state.

    Raises:
        InputError: no path is longer than the horizon.
    """
    h, chunks = settings.horizon, []
    for desired, actual, _ in paths:
        rows = np.concatenate([desired[:-1], actual[:-1], np.diff(desired, axis=0)], axis=1)
        if len(rows) >= h:
            index = np.arange(len(rows) - h + 1)[:, None] + np.arange(h)
            chunks.append(rows[index])
    if not chunks:
        raise InputError(f"avoiding: no demonstration of more than {h} steps that can be followed without contact")
    x = torch.from_numpy(np.concatenate(chunks).astype(np.float32))
    return x, x[:, 0, :STATE].clone()
