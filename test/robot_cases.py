"""Arms for the tests: the FR3 as shipped, and two arms of test/data whose spheres are fitted once a run."""

from __future__ import annotations

import importlib.util
import shutil
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tandem.robots.fit import fit_arm
from tandem.robots.model import ArmModel, load_arm

DATA = Path(__file__).parent / "data" / "robots"


def assets() -> Path | None:
    """The folder with the FR3's URDF, MJCF and meshes, or None where the package is not installed."""
    spec = importlib.util.find_spec("franky_sim")
    return None if spec is None else Path(next(iter(spec.submodule_search_locations or []))) / "assets"


@cache
def fitted(name: str, folder: Path) -> Path:
    """``test/data/robots/<name>`` copied to ``folder`` with its sphere file; the path of the YAML file."""
    for suffix in ("urdf", "yaml"):
        shutil.copy(DATA / f"{name}.{suffix}", folder)
    text, target = fit_arm(folder / f"{name}.yaml")
    target.write_text(text, encoding="utf-8")
    return folder / f"{name}.yaml"


def random_q(arm: ArmModel, count: int, seed: int = 0, shrink: float = 1.0) -> NDArray[np.float64]:
    """(count, n) configurations within the limits, ``shrink`` of their range."""
    rng = np.random.default_rng(seed)
    middle, half = 0.5 * (arm.lower + arm.upper), 0.5 * (arm.upper - arm.lower)
    return middle + shrink * half * rng.uniform(-1.0, 1.0, (count, arm.n))


def fr3() -> ArmModel:
    """The shipped FR3."""
    return load_arm("fr3")
