"""Fill numba's cache, so that no first call waits for the compiler. At set-up time: ``python -m tandem.robots.compile``."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

import numpy as np

from tandem.core.errors import TandemError
from tandem.robots.inverse import solve_chunk
from tandem.robots.kinematics import fk, jacobian, place_spheres, tcp_pose
from tandem.robots.model import ArmModel, load_arm

log = logging.getLogger("tandem.robots.compile")


def compile_all(arm: ArmModel | str | Path = "fr3") -> float:
    """Call every kernel of this package once with the arm's array types; the time that took [s].

    Raises:
        ConfigError: the arm cannot be loaded.
    """
    begin = time.perf_counter()
    model = arm if isinstance(arm, ArmModel) else load_arm(arm)
    frames = fk(model, model.home[None])
    fk(model, model.home[None], parallel=True)
    jacobian(model, model.home[None])
    place_spheres(frames[0], model.sphere_link, model.sphere_center, np.empty_like(model.sphere_center))
    poses = tcp_pose(model, model.home[None])[:, None]
    for parallel in (False, True):
        solve_chunk(model, model.home, poses, dt=0.1, parallel=parallel)
    return time.perf_counter() - begin


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        log.info("robots: kernels compiled in %.1f s", compile_all(*sys.argv[1:2]))
    except TandemError as error:
        log.error("%s", error)
        sys.exit(2)
