"""The fastest jerk-limited stop, joint by joint, in closed form."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tandem.core.errors import InputError
from tandem.core.trajectory import Trajectory, integrate_knots
from tandem.robots.model import ArmModel

Array = NDArray[np.float64]

#: knots closer than this become one [s]
MERGE = 1e-7


def _profile(v: float, a: float, limit: float, jerk: float) -> tuple[Array, Array]:
    """Knots (times, accelerations), four each, of one joint's time-optimal stop.

    With s = sign of the velocity left over when the acceleration is taken to zero at once, x = s v, y = s a: the jerk is -J until
    y = -p, then zero, then +J until y = 0. The velocity vanishes at the end when ``x + y^2/2J = p^2/J + p t_hold``.
    """
    s = 1.0 if v + a * abs(a) / (2.0 * jerk) >= 0.0 else -1.0
    x, y = s * v, s * a
    total = x + y * y / (2.0 * jerk)
    peak = float(np.sqrt(max(0.0, jerk * total)))
    hold = 0.0
    top = max(limit, -y)
    if peak > top:
        hold = (total - top * top / jerk) / top
        peak = top
    t1 = max(0.0, (y + peak) / jerk)
    times = np.array([0.0, t1, t1 + hold, t1 + hold + peak / jerk])
    return times, s * np.array([y, -peak, -peak, 0.0])


def stop_trajectory(arm: ArmModel, q: ArrayLike, v: ArrayLike, a: ArrayLike, *, scale: float = 0.95) -> Trajectory:
    """The fastest stop from a state, every joint for itself, as a trajectory that ends at rest.

    Args:
        q, v, a: (n,) state [rad, rad/s, rad/s^2]. scale: share of the acceleration and jerk limits that is used.

    Raises:
        InputError: wrong shapes, NaN, or ``scale`` outside (0, 1].
    """
    state = [np.asarray(x, dtype=np.float64) for x in (q, v, a)]
    if any(x.shape != (arm.n,) or not np.isfinite(x).all() for x in state):
        raise InputError(f"stop_trajectory: q, v, a must be ({arm.n},) and finite, got {[x.shape for x in state]}")
    if not 0.0 < scale <= 1.0:
        raise InputError(f"stop_trajectory: scale = {scale}: accepted: (0, 1]")
    q0, v0, a0 = state
    parts = [_profile(v0[j], a0[j], scale * arm.acceleration[j], scale * arm.jerk[j]) for j in range(arm.n)]
    every = np.unique(np.concatenate([t for t, _ in parts]))
    end = max(float(every[-1]), 1e-3)
    keep = [0.0]
    for t in every[1:]:
        if t - keep[-1] > MERGE and end - t > MERGE:
            keep.append(float(t))
    times = np.array([*keep, end])
    knots = np.stack([np.interp(times, t, x, right=0.0) for t, x in parts], axis=1)
    knots[0], knots[-1] = a0, 0.0
    positions, velocities = integrate_knots(times, q0, v0, knots)
    velocities[-1] = 0.0
    return Trajectory(times, positions, velocities, knots)
