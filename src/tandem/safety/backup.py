r"""The family of backup manoeuvres: accelerate by k, then brake to rest.

    a(t): a0 -> k over ``ramp``, k until ``accelerate``, k -> -b over ``ramp``, -b until ``stop - ramp``, -b -> 0 at ``stop``

(RAIL and JM2D brake with a jump of acceleration; the ramps make it continuous.) The velocity must vanish at the end:

    v0 + ramp (a0 + k)/2 + (accelerate - ramp) k + ramp (k - b)/2 - (stop - accelerate - 2 ramp) b - ramp b / 2 = 0
    =>  b = (v0 + ramp a0 / 2 + accelerate k) / (stop - accelerate - ramp)

Everything is linear in (q0, v0, a0, k), so a batch of backups is a few outer products and the cost is quadratic in k.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tandem.core.config import setting
from tandem.core.errors import InputError
from tandem.core.trajectory import Trajectory, integrate_knots
from tandem.safety.kernels import FamilyArrays

Array = NDArray[np.float64]


@dataclass(frozen=True)
class BackupFamily:
    """Backups of one duration, with parameter k in R^n [rad/s^2]; see the module's text."""

    accelerate: float = setting(0.5, "time at which braking begins", unit="s", lo=0.02, hi=10.0)
    stop: float = setting(1.0, "time at which the arm is at rest", unit="s", lo=0.05, hi=20.0)
    ramp: float = setting(0.05, "time over which the acceleration changes", unit="s", lo=0.005, hi=1.0)
    k_max: tuple[float, ...] = setting((2.0,) * 7, "largest acceleration a joint", unit="rad/s^2", lo=1e-6, hi=100.0)

    def __post_init__(self) -> None:
        if not (self.ramp < self.accelerate and self.accelerate + 2.0 * self.ramp < self.stop):
            raise InputError(
                f"backup family: ramp {self.ramp} < accelerate {self.accelerate} and "
                f"accelerate + 2 ramp < stop {self.stop} must hold"
            )

    @property
    def times(self) -> Array:
        """(6,) knot times [s] from the backup's start."""
        return np.array([0.0, self.ramp, self.accelerate, self.accelerate + self.ramp, self.stop - self.ramp, self.stop])

    def arrays(self) -> FamilyArrays:
        """What the kernels need."""
        scale = 1.0 / (self.stop - self.accelerate - self.ramp)
        return FamilyArrays(self.times, scale * np.array([1.0, 0.5 * self.ramp, self.accelerate]))

    def accelerations(self, v0: Array, a0: Array, k: Array) -> Array:
        """(..., 6, n) accelerations at the knots for (..., n) start velocity, acceleration and k."""
        v0, a0, k = np.broadcast_arrays(v0, a0, k)
        brake = self.arrays().brake
        b = brake[0] * v0 + brake[1] * a0 + brake[2] * k
        return np.stack([a0, k, k, -b, -b, np.zeros_like(b)], axis=-2)

    def build(self, q0: ArrayLike, v0: ArrayLike, a0: ArrayLike, k: ArrayLike) -> tuple[Array, Array, Array, Array]:
        """Knots of the backups: times (6,), then q, v, a (B, 6, n) [rad, rad/s, rad/s^2].

        Args:
            q0, v0, a0: (B, n) or (n,) state at the start. k: (B, n).
        """
        q0, v0, a0, k = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (q0, v0, a0, np.atleast_2d(k))))
        a = self.accelerations(v0, a0, k)
        q, v = integrate_knots(self.times, q0, v0, a)
        v[..., -1, :] = 0.0
        return self.times, q, v, a

    def trajectory(self, q0: ArrayLike, v0: ArrayLike, a0: ArrayLike, k: ArrayLike) -> Trajectory:
        """The one backup for states and k of shape (n,)."""
        times, q, v, a = self.build(q0, v0, a0, np.asarray(k)[None])
        return Trajectory(times, q[0], v[0], a[0])

    def basis(self, times: ArrayLike) -> Array:
        """(4, T) functions f with ``q(t) = q0 f0 + v0 f1 + a0 f2 + k f3`` at ``times`` (T,) [s], constant after the stop."""
        unit = np.eye(4)
        t, q, v, a = self.build(unit[0], unit[1], unit[2], unit[3][None])
        return Trajectory(t, q[0], v[0], a[0]).sample(times)[0].T

    def cost(self, q0: Array, v0: Array, a0: Array, tail: Array, tail_times: Array, k: Array) -> Array:
        """Mean squared joint distance of backup and tail, for every head and every k (RAIL's J).

        Args:
            q0, v0, a0: (H, n) states at the heads' ends. tail: (H, T, n) the plan's own continuation [rad] at
                ``tail_times`` (T,) [s] from the head's end. k: (K, n), or (H, Kp, n) for ks of each head's own.

        Returns:
            (H, K) or (H, Kp) [rad^2].
        """
        f = self.basis(tail_times)
        rest = np.einsum("hn,t->htn", q0, f[0]) + np.einsum("hn,t->htn", v0, f[1]) + np.einsum("hn,t->htn", a0, f[2]) - tail
        n = rest.shape[-1]
        constant = np.mean(rest**2, axis=(1, 2))
        linear = np.einsum("htn,t->hn", rest, f[3]) * (2.0 / (n * len(f[3])))
        square = float(np.mean(f[3] ** 2)) / n
        if k.ndim == 3:
            return constant[:, None] + np.einsum("hn,hkn->hk", linear, k) + square * np.sum(k * k, axis=-1)
        return constant[:, None] + linear @ k.T + square * np.sum(k * k, axis=-1)[None]

    def nearest(self, q0: Array, v0: Array, a0: Array, tail: Array, tail_times: Array) -> Array:
        """(H, n) the k within ``k_max`` of least :meth:`cost` (separable and quadratic, so clipping is exact)."""
        f = self.basis(tail_times)
        rest = np.einsum("hn,t->htn", q0, f[0]) + np.einsum("hn,t->htn", v0, f[1]) + np.einsum("hn,t->htn", a0, f[2]) - tail
        best = -np.einsum("htn,t->hn", rest, f[3]) / max(float(np.sum(f[3] ** 2)), 1e-300)
        limit = np.asarray(self.k_max)
        return np.clip(best, -limit, limit)

    def sample(self, count: int, rng: np.random.Generator) -> Array:
        """(count, n) ks, uniform within ``k_max``."""
        limit = np.asarray(self.k_max)
        return rng.uniform(-limit, limit, size=(count, len(limit)))
