"""Arms, scenes and motions for the tests of the safety part."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tandem.core.scene import TABLE, Obstacle, Scene
from tandem.core.trajectory import Trajectory
from tandem.robots.model import ArmModel, load_arm, load_chain, robot_config
from tandem.robots.urdf import Shape
from tandem.safety import BackupFamily

Array = NDArray[np.float64]
FAMILY = BackupFamily()


@lru_cache(maxsize=4)
def arm(name: str = "fr3") -> ArmModel:
    """An arm, read once."""
    return load_arm(name)


@lru_cache(maxsize=4)
def shapes(name: str = "fr3") -> tuple[Shape, ...]:
    """Its collision shapes."""
    return tuple(load_chain(*robot_config(name)).shapes)


def motion(rng: np.random.Generator, spread: float = 0.6, speed: float = 0.8, k: float = 1.5) -> Trajectory:
    """A random backup manoeuvre around home."""
    model = arm()
    q = model.home + rng.uniform(-spread, spread, 7)
    return FAMILY.trajectory(q, rng.uniform(-speed, speed, 7), rng.uniform(-1, 1, 7), rng.uniform(-k, k, 7))


def boxes(rng: np.random.Generator, count: int, half: float = 0.08) -> Scene:
    """The table and boxes around the arm's working space, turned at random."""
    found = [TABLE]
    while len(found) < count + 1:
        p = rng.uniform([-0.8, -0.8, 0.05], [0.8, 0.8, 0.9])
        if np.hypot(p[0], p[1]) > 0.35:
            turn = rng.normal(size=4)
            found.append(Obstacle(f"box{len(found)}", "box", (half,) * 3, tuple(p), tuple(turn / np.linalg.norm(turn))))
    return Scene(tuple(found))
