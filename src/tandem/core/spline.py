"""From a policy's waypoints to a head: the smoothing spline with piecewise-linear acceleration.

Minimises ``sum_i |q(t_i) - w_i|^2 + cutoff^-6 * integral |jerk|^2 / dt`` over accelerations at the waypoint times, with position,
velocity and acceleration at the start given. The minimiser is linear in (start, waypoints), so a batch of heads is one
matrix product. Waypoints are followed up to the ``cutoff`` frequency; what is above it (sampling noise of a policy) is smoothed.
The result is *defined* to be the head: the filter certifies it, not the waypoints.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tandem.core.trajectory import integrate_knots

Array = NDArray[np.float64]


@lru_cache(maxsize=16)
def _operator(steps: int, dt: float, cutoff: float) -> tuple[Array, Array]:
    """(steps, steps) map waypoints -> accelerations and (steps, 3) map (q0, v0, a0) -> accelerations."""
    times: Array = dt * np.arange(steps + 1, dtype=np.float64)
    eye = np.eye(steps + 1)
    # position at the knots as a linear function of the accelerations at the knots, zero start
    q_of_a, _ = integrate_knots(times, np.zeros(steps + 1), np.zeros(steps + 1), eye)
    free = np.stack([np.ones(steps), times[1:]], axis=1)
    jerk = np.diff(eye, axis=0) / dt
    weight = cutoff**-6 * jerk.T @ jerk
    basis = q_of_a[1:, 1:]
    normal = basis.T @ basis + weight[1:, 1:]
    gain: Array = np.asarray(np.linalg.solve(normal, basis.T), dtype=np.float64)
    start: Array = np.concatenate([-gain @ free, (-gain @ q_of_a[1:, :1]) - np.linalg.solve(normal, weight[1:, :1])], axis=1)
    return gain, start


def head_knots(
    q0: Array, v0: Array, a0: Array, waypoints: Array, dt: float, cutoff: float = 12.0
) -> tuple[Array, Array, Array, Array]:
    """Knots of the smoothing spline through ``waypoints``.

    Args:
        q0, v0, a0: (n,) or (B, n) state at the start [rad, rad/s, rad/s^2].
        waypoints: (B, H, n) joint positions at ``dt, 2 dt, ...`` [rad].
        dt: spacing [s]. cutoff: angular frequency [rad/s] above which waypoints are smoothed.

    Returns:
        times (H+1,), and q, v, a (B, H+1, n).
    """
    batch, steps, joints = waypoints.shape
    gain, start = _operator(steps, float(dt), float(cutoff))
    state = np.stack([np.broadcast_to(s, (batch, joints)) for s in (q0, v0, a0)], axis=1)
    free = np.einsum("hw,bwn->bhn", gain, waypoints) + np.einsum("hs,bsn->bhn", start, state)
    a = np.concatenate([state[:, 2:3], free], axis=1)
    times: Array = dt * np.arange(steps + 1, dtype=np.float64)
    q, v = integrate_knots(times, state[:, 0], state[:, 1], a)
    return times, q, v, a
