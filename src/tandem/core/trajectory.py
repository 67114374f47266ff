"""Joint trajectories with piecewise-linear acceleration: the one form that is planned, certified, sent and played.

A trajectory is given by knots (t, q, v, a). Between two knots the acceleration is linear in time, so positions are
cubics, position, velocity and acceleration are continuous, and the jerk is constant on each segment. The knots thus
carry the whole trajectory: a ``trajectory_msgs/JointTrajectory`` whose points hold positions, velocities and
accelerations *is* the trajectory, and a receiver can check that the three agree (:meth:`Trajectory.consistency`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tandem.core.errors import InputError

Array = NDArray[np.float64]

#: what is sent to the arm has knots further apart than this [s] and no more of them: filter and executor refuse the same
MIN_SPACING = 1e-6
MAX_KNOTS = 64


def integrate_knots(times: Array, q0: Array, v0: Array, a: Array) -> tuple[Array, Array]:
    """Positions and velocities at the knots of a piecewise-linear acceleration.

    Args:
        times: (M,) knot times [s], increasing.
        q0, v0: (..., n) position [rad] and velocity [rad/s] at the first knot.
        a: (..., M, n) acceleration at the knots [rad/s^2].

    Returns:
        q, v of shape (..., M, n).
    """
    h = np.diff(times)[:, None]
    v = np.concatenate([v0[..., None, :], v0[..., None, :] + np.cumsum(0.5 * h * (a[..., :-1, :] + a[..., 1:, :]), -2)], -2)
    dq = v[..., :-1, :] * h + h * h * (2.0 * a[..., :-1, :] + a[..., 1:, :]) / 6.0
    q = np.concatenate([q0[..., None, :], q0[..., None, :] + np.cumsum(dq, -2)], -2)
    return q, v


@dataclass(frozen=True)
class Trajectory:
    """One joint trajectory; see the module's text for the meaning of the knots.

    Attributes:
        times: (M,) seconds from the trajectory's own start, ``times[0] == 0``, strictly increasing.
        q, v, a: (M, n) joint position [rad], velocity [rad/s], acceleration [rad/s^2] at the knots.
    """

    times: Array
    q: Array
    v: Array
    a: Array

    def __post_init__(self) -> None:
        for name in ("times", "q", "v", "a"):
            try:
                value = np.ascontiguousarray(getattr(self, name), dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise InputError(f"trajectory.{name}: not an array of numbers: {error}") from error
            if not np.all(np.isfinite(value)):
                raise InputError(f"trajectory.{name}: contains NaN or infinity; every value must be finite")
            object.__setattr__(self, name, value)
        m = self.times.shape[0] if self.times.ndim == 1 else -1
        if m < 2 or self.q.ndim != 2 or self.q.shape[0] != m or self.q.shape != self.v.shape or self.q.shape != self.a.shape:
            raise InputError(
                f"trajectory: shapes times {self.times.shape}, q {self.q.shape}, v {self.v.shape}, a {self.a.shape}; "
                "expected (M,) with M >= 2 and three times (M, n)"
            )
        if self.times[0] != 0.0 or np.any(np.diff(self.times) <= 0.0):
            raise InputError("trajectory.times: must start at 0 and increase strictly")

    @classmethod
    def at_rest(cls, q: ArrayLike, duration: float = 0.1) -> Trajectory:
        """A trajectory that stays at ``q`` (n,) for ``duration`` [s]."""
        row = np.asarray(q, dtype=np.float64)
        zero = np.zeros((2, row.shape[0]))
        return cls(np.array([0.0, duration]), np.stack([row, row]), zero, zero)

    @property
    def duration(self) -> float:
        """Length [s]."""
        return float(self.times[-1])

    @property
    def joints(self) -> int:
        """Number of joints n."""
        return int(self.q.shape[1])

    def sample(self, t: ArrayLike) -> tuple[Array, Array, Array]:
        """Position, velocity, acceleration at times ``t`` (any shape) -> three arrays (*t.shape, n).

        Before the start the first knot holds; after the end the arm stays at the last position, at rest.
        """
        t = np.asarray(t, dtype=np.float64)
        s = np.clip(t, 0.0, self.times[-1])
        i = np.clip(np.searchsorted(self.times, s, side="right") - 1, 0, len(self.times) - 2)
        h = self.times[i + 1] - self.times[i]
        tau = (s - self.times[i])[..., None]
        jerk = (self.a[i + 1] - self.a[i]) / h[..., None]
        a = self.a[i] + jerk * tau
        v = self.v[i] + tau * (self.a[i] + 0.5 * jerk * tau)
        q = self.q[i] + tau * (self.v[i] + tau * (0.5 * self.a[i] + jerk * tau / 6.0))
        past = (t > self.times[-1])[..., None]
        return np.where(past, self.q[-1], q), np.where(past, 0.0, v), np.where(past, 0.0, a)

    def consistency(self) -> float:
        """Largest disagreement between stored knots and the integral of the accelerations [rad, rad/s]."""
        h = np.diff(self.times)[:, None]
        v1 = self.v[:-1] + 0.5 * h * (self.a[:-1] + self.a[1:])
        q1 = self.q[:-1] + h * self.v[:-1] + h * h * (2.0 * self.a[:-1] + self.a[1:]) / 6.0
        return float(max(np.abs(v1 - self.v[1:]).max(), np.abs(q1 - self.q[1:]).max()))

    def ends_at_rest(self, tolerance: float = 1e-6) -> bool:
        """Whether velocity and acceleration vanish at the last knot (tolerance in rad/s and rad/s^2)."""
        return bool(np.abs(self.v[-1]).max() <= tolerance and np.abs(self.a[-1]).max() <= tolerance)

    def jerk(self) -> Array:
        """(M-1, n) constant jerk of each segment [rad/s^3]."""
        return np.diff(self.a, axis=0) / np.diff(self.times)[:, None]

    def tail(self, t: float) -> Trajectory:
        """What is left from time ``t`` [s] on, as a trajectory that starts at 0."""
        t = float(np.clip(t, 0.0, self.times[-1]))
        if t >= self.times[-1] - 1e-9:
            return Trajectory.at_rest(self.q[-1])
        q, v, a = self.sample(t)
        keep = self.times > t + 1e-9
        return Trajectory(
            np.concatenate([[0.0], self.times[keep] - t]),
            np.vstack([q, self.q[keep]]), np.vstack([v, self.v[keep]]), np.vstack([a, self.a[keep]]),
        )

    def then(self, other: Trajectory) -> Trajectory:
        """This trajectory followed by ``other``, whose first knot must equal this one's last."""
        gap = max(
            np.abs(self.q[-1] - other.q[0]).max(), np.abs(self.v[-1] - other.v[0]).max(), np.abs(self.a[-1] - other.a[0]).max()
        )
        if gap > 1e-6:
            raise InputError(f"trajectory.then: the second part starts {gap:.2e} away from the first's end; at most 1e-6")
        return Trajectory(
            np.concatenate([self.times, self.times[-1] + other.times[1:]]),
            np.vstack([self.q, other.q[1:]]), np.vstack([self.v, other.v[1:]]), np.vstack([self.a, other.a[1:]]),
        )

    def digest(self) -> str:
        """SHA-256 over the knots' bytes: the same trajectory always has the same digest."""
        h = hashlib.sha256()
        for part in (self.times, self.q, self.v, self.a):
            h.update(np.asarray(part.shape, dtype=np.int64).tobytes())
            h.update(part.tobytes())
        return h.hexdigest()
