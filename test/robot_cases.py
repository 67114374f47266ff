"""Arms for the tests: the FR3 as shipped, and two arms of test/data made of primitive shapes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tandem.robots.model import ArmModel

DATA = Path(__file__).parent / "data" / "robots"


def assets() -> Path:
    """The folder with the FR3's URDF, MJCF and meshes."""
    spec = importlib.util.find_spec("franky_sim")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "assets"


def robot_file(name: str) -> str:
    """What ``load_arm`` takes for an arm of the tests: ``fr3`` (shipped), ``panda`` or ``six`` (test/data)."""
    return name if name == "fr3" else str(DATA / f"{name}.yaml")


def random_q(arm: ArmModel, count: int, seed: int = 0, shrink: float = 1.0) -> NDArray[np.float64]:
    """(count, n) configurations within the limits, ``shrink`` of their range."""
    rng = np.random.default_rng(seed)
    middle, half = 0.5 * (arm.lower + arm.upper), 0.5 * (arm.upper - arm.lower)
    return middle + shrink * half * rng.uniform(-1.0, 1.0, (count, arm.n))
