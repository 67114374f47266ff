r"""Joint trajectories of quintic pieces in Bernstein form, with exact extrema over any interval, and as played by the arm.

On a segment of length h, with s = (t - t_i) / h and control points b_0 .. b_5,

    q(s) = sum_k b_k C(5, k) s^k (1 - s)^(5 - k),      min b_k <= q(s) <= max b_k

(Farin, "Curves and Surfaces for CAGD", ch. 5). The derivative's control points are 5 (b_{k+1} - b_k) / h, de Casteljau's scheme
gives the control points of any part of a segment, and the convex hull property makes every bound here a proof, not a sample.

What the arm plays has piecewise-linear acceleration (:mod:`tandem.core.trajectory`). :meth:`QuinticTrajectory.played` gives
such a trajectory with the same states at every segment's ends, and a proven bound on how far the two are apart in between.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tandem.core.errors import InputError
from tandem.core.trajectory import Trajectory, integrate_knots

Array = NDArray[np.float64]

#: disagreement of neighbouring segments in position [rad], velocity [rad/s], acceleration [rad/s^2] that is tolerated
JOIN_TOLERANCE = (1e-9, 1e-8, 1e-6)
#: added to bounds for rounding, relative to the control points' size and absolutely
ROUNDING = 1e-12
#: search for an extremum: halvings of an interval, pieces kept a polynomial
HALVINGS = 30
PIECES = 64


def derived(points: Array, h: Array) -> Array:
    """Control points (..., K - 1, n) of the derivative of segments with control points (..., K, n) and lengths h (...)."""
    degree = points.shape[-2] - 1
    slope: Array = degree * np.diff(points, axis=-2) / np.asarray(h)[..., None, None]
    return slope


def evaluate(points: Array, s: Array) -> Array:
    """Values (..., n) at s (...) in [0, 1] of segments with control points (..., K, n)."""
    rows, s = points, np.asarray(s)[..., None, None]
    while rows.shape[-2] > 1:
        rows = (1.0 - s) * rows[..., :-1, :] + s * rows[..., 1:, :]
    value: Array = rows[..., 0, :]
    return value


def cut(points: Array, s0: float, s1: float) -> Array:
    """Control points (K, ...) of the part [s0, s1] of a segment with control points (K, ...), by de Casteljau's scheme."""
    if s1 < 1.0:
        points = _first(points, s1)
    if s0 > 0.0:
        points = _first(points[::-1], 1.0 - s0 / s1 if s1 > 0.0 else 0.0)[::-1]
    return points


def _first(points: Array, s: float) -> Array:
    """The part [0, s]."""
    rows, out = points, [points[0]]
    while len(rows) > 1:
        rows = (1.0 - s) * rows[:-1] + s * rows[1:]
        out.append(rows[0])
    return np.stack(out)


def least(points: Array) -> Array:
    """Minima (B,) over [0, 1] of B polynomials with control points (K, B): exact to rounding, and never above the true ones.

    The least control point bounds a piece from below, its ends are values: pieces whose bound cannot beat the best value are
    dropped, the others halved. Ending early makes the bound lower, not wrong.
    """
    k = len(points)
    left = np.array([[math.comb(i, j) / 2.0**i for j in range(k)] for i in range(k)])
    slack = ROUNDING * np.abs(points).max(axis=0) + ROUNDING
    best = np.minimum(points[0], points[-1])
    pieces, owner = points.T, np.arange(points.shape[1])
    for _ in range(HALVINGS):
        keep = pieces.min(axis=1) < (best - slack)[owner]
        pieces, owner = pieces[keep], owner[keep]
        if len(pieces) == 0 or len(pieces) > PIECES * points.shape[1]:
            break
        pieces = np.concatenate([pieces @ left.T, pieces @ left[::-1, ::-1].T])
        owner = np.concatenate([owner, owner])
        np.minimum.at(best, owner, np.minimum(pieces[:, 0], pieces[:, -1]))
    bound = best.copy()
    np.minimum.at(bound, owner, pieces.min(axis=1, initial=np.inf))
    return bound - slack


@dataclass(frozen=True)
class QuinticTrajectory:
    """Quintic segments that join with continuous position, velocity and acceleration.

    Attributes:
        times: (M,) seconds from the start, ``times[0] == 0``, strictly increasing. points: (M - 1, 6, n) control points [rad].
    """

    times: Array
    points: Array

    def __post_init__(self) -> None:
        for name in ("times", "points"):
            try:
                value = np.ascontiguousarray(getattr(self, name), dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise InputError(f"quintic.{name}: not an array of numbers: {error}") from error
            if not np.isfinite(value).all():
                raise InputError(f"quintic.{name}: contains NaN or infinity; every value must be finite")
            object.__setattr__(self, name, value)
        m = self.times.shape[0] if self.times.ndim == 1 else -1
        if m < 2 or self.points.ndim != 3 or self.points.shape[:2] != (m - 1, 6):
            raise InputError(
                f"quintic: shapes times {self.times.shape}, points {self.points.shape}; expected (M,), M >= 2, and (M - 1, 6, n)"
            )
        if self.times[0] != 0.0 or np.any(np.diff(self.times) <= 0.0):
            raise InputError("quintic.times: must start at 0 and increase strictly")
        for order, (unit, tolerance) in enumerate(zip(("rad", "rad/s", "rad/s^2"), JOIN_TOLERANCE, strict=True)):
            rows = self.control(order)
            gap = float(np.abs(rows[1:, 0] - rows[:-1, -1]).max(initial=0.0))
            if gap > tolerance * max(1.0, float(np.abs(rows).max())):
                raise InputError(f"quintic.points: segments {gap:.2e} {unit} apart where they join; at most {tolerance}")

    @classmethod
    def through(cls, times: ArrayLike, q: ArrayLike, v: ArrayLike, a: ArrayLike) -> QuinticTrajectory:
        """Through knots q, v, a (M, n) at ``times`` (M,): the one quintic a segment that has both ends' states.

        This is what a ``JointTrajectory`` with positions, velocities and accelerations means to ros2_control.
        """
        t, x, y, z = (np.asarray(value, dtype=np.float64) for value in (times, q, v, a))
        if t.ndim != 1 or x.ndim != 2 or x.shape[0] != t.shape[0] or not (x.shape == y.shape == z.shape):
            raise InputError(f"quintic: shapes times {t.shape}, q {x.shape}, v {y.shape}, a {z.shape}; expected (M,) and (M, n)")
        h = np.diff(t)[:, None]
        b0, b5 = x[:-1], x[1:]
        b1, b4 = b0 + h * y[:-1] / 5.0, b5 - h * y[1:] / 5.0
        b2, b3 = 2.0 * b1 - b0 + h * h * z[:-1] / 20.0, 2.0 * b4 - b5 + h * h * z[1:] / 20.0
        return cls(t, np.stack([b0, b1, b2, b3, b4, b5], axis=1))

    @property
    def duration(self) -> float:
        """Length [s]."""
        return float(self.times[-1])

    @property
    def joints(self) -> int:
        """Number of joints n."""
        return int(self.points.shape[2])

    def control(self, order: int) -> Array:
        """Control points (M - 1, 6 - order, n) of a derivative: 0 position, 1 velocity, 2 acceleration, 3 jerk."""
        rows, h = self.points, np.diff(self.times)
        for _ in range(order):
            rows = derived(rows, h)
        return rows

    def sample(self, t: ArrayLike) -> tuple[Array, Array, Array]:
        """Position, velocity, acceleration (*t.shape, n) at times ``t``; the ends hold before and after, as in Trajectory."""
        t = np.asarray(t, dtype=np.float64)
        at = np.clip(t, 0.0, self.duration)
        i = np.clip(np.searchsorted(self.times, at, side="right") - 1, 0, len(self.times) - 2)
        s = (at - self.times[i]) / (self.times[i + 1] - self.times[i])
        q, v, a = (evaluate(self.control(order)[i], s) for order in range(3))
        past = (t > self.duration)[..., None]
        return q, np.where(past, 0.0, v), np.where(past, 0.0, a)

    def extrema(self, t0: float, t1: float, order: int = 0) -> tuple[Array, Array]:
        """Least and greatest value (n,) of position (order 0), velocity, acceleration or jerk over [t0, t1].

        Exact to rounding, and on the safe side of it: the range returned contains the true one.

        Raises:
            InputError: not ``0 <= t0 <= t1 <= duration``, or order not 0 .. 3.
        """
        if not (0.0 <= t0 <= t1 <= self.duration) or order not in range(4):
            raise InputError(f"extrema: [{t0}, {t1}], order {order}: accepted: 0 <= t0 <= t1 <= {self.duration} s, order 0 .. 3")
        control, parts = self.control(order), []
        for i in range(len(self.times) - 1):
            begin, end = self.times[i], self.times[i + 1]
            if end >= t0 and begin <= t1:
                s0, s1 = (max(t0, begin) - begin) / (end - begin), (min(t1, end) - begin) / (end - begin)
                parts.append(cut(control[i], s0, s1))
        rows = np.concatenate(parts, axis=1)
        lo, hi = (least(x).reshape(len(parts), -1) for x in (rows, -rows))
        return lo.min(axis=0), -hi.min(axis=0)

    def ends_at_rest(self, tolerance: float = 1e-6) -> bool:
        """Whether velocity and acceleration vanish at the end (tolerance in rad/s and rad/s^2)."""
        return bool(max(np.abs(self.control(order)[-1, -1]).max() for order in (1, 2)) <= tolerance)

    def played(self, pieces: int) -> tuple[Trajectory, Array]:
        """The trajectory that the arm plays for this one, and how far the two are apart at most.

        Each segment becomes ``pieces`` pieces of linear acceleration. The accelerations at the inner knots are this trajectory's,
        changed as little as possible (least squares) so that position and velocity at the segment's end are met.

        Args:
            pieces: a segment, at least 3 (two inner knots are needed to meet the end).

        Returns:
            The trajectory, and the bound (n,) [rad] on the difference of positions at any time.
        """
        if pieces < 3:
            raise InputError(f"played: pieces = {pieces}: accepted: at least 3")
        control = self.control(2)
        times, knots = [np.zeros(1)], [control[0, :1]]
        for i, h in enumerate(np.diff(self.times)):
            grid: Array = np.linspace(0.0, 1.0, pieces + 1)
            a = evaluate(np.broadcast_to(control[i], (pieces + 1, *control[i].shape)), grid)
            a[-1] = control[i, -1]
            unit = np.eye(pieces + 1)[:, 1:-1]
            moved, sped = (x[-1] for x in integrate_knots(h * grid, np.zeros(pieces - 1), np.zeros(pieces - 1), unit))
            velocity = self.control(1)[i]
            q, v = integrate_knots(h * grid, self.points[i, 0], velocity[0], a)
            wrong = np.stack([self.points[i, -1] - q[-1], velocity[-1] - v[-1]])
            a[1:-1] += np.linalg.pinv(np.stack([moved, sped])) @ wrong
            times.append(self.times[i] + h * grid[1:])
            knots.append(a[1:])
        t, a = np.concatenate(times), np.concatenate(knots)
        q, v = integrate_knots(t, self.points[0, 0], self.control(1)[0, 0], a)
        out = Trajectory(t, q, v, a)
        return out, self.apart(out)

    def apart(self, other: Trajectory) -> Array:
        """Proven bound (n,) [rad] on the largest difference of positions from a trajectory of the same duration.

        On every piece that lies within one segment of each, the difference is a quintic: its control points bound it.

        Raises:
            InputError: another number of joints or another duration.
        """
        if other.joints != self.joints or abs(other.duration - self.duration) > 1e-9:
            raise InputError(f"apart: {other.joints} joints, {other.duration} s; expected {self.joints} and {self.duration} s")
        edges = np.unique(np.concatenate([self.times, np.clip(other.times, 0.0, self.duration)]))
        edges = edges[np.concatenate([np.diff(edges) > 1e-9, [True]])]
        worst = np.zeros(self.joints)
        for t0, t1 in pairwise(edges):
            i = int(np.clip(np.searchsorted(self.times, 0.5 * (t0 + t1)) - 1, 0, len(self.times) - 2))
            begin, h = self.times[i], self.times[i + 1] - self.times[i]
            mine = cut(self.points[i], max(0.0, (t0 - begin) / h), min(1.0, (t1 - begin) / h))
            x = int(np.clip(np.searchsorted(other.times, 0.5 * (t0 + t1)) - 1, 0, len(other.times) - 2))
            theirs = _raised(_cubic(other, x, t0, t1))
            size = np.abs(mine).max(axis=0) + np.abs(theirs).max(axis=0)
            worst = np.maximum(worst, np.abs(mine - theirs).max(axis=0) + ROUNDING * size)
        # edges nearer than 1e-9 s were merged: what happens in between is less than that times the speed
        return worst + 2e-9 * (np.abs(self.control(1)).max(axis=(0, 1)) + np.abs(other.v).max(axis=0) + 1.0)

    def digest(self) -> str:
        """SHA-256 over times and control points."""
        h = hashlib.sha256(b"quintic")
        for part in (self.times, self.points):
            h.update(np.asarray(part.shape, dtype=np.int64).tobytes() + part.tobytes())
        return h.hexdigest()


def _cubic(t: Trajectory, i: int, t0: float, t1: float) -> Array:
    """Control points (4, n) of a trajectory's segment ``i`` over [t0, t1], taken as the same cubic beyond its ends."""
    h = t.times[i + 1] - t.times[i]
    jerk, s, d = (t.a[i + 1] - t.a[i]) / h, t0 - t.times[i], t1 - t0
    q = t.q[i] + s * (t.v[i] + s * (0.5 * t.a[i] + jerk * s / 6.0))
    v = t.v[i] + s * (t.a[i] + 0.5 * jerk * s)
    a = t.a[i] + s * jerk
    b1 = q + d * v / 3.0
    b2 = 2.0 * b1 - q + d * d * a / 6.0
    return np.stack([q, b1, b2, q + d * (v + d * (0.5 * a + jerk * d / 6.0))])


def _raised(points: Array) -> Array:
    """The same cubic (4, n) with six control points."""
    rows = points
    while len(rows) < 6:
        k = np.arange(1, len(rows))[:, None] / len(rows)
        rows = np.concatenate([rows[:1], k * rows[:-1] + (1.0 - k) * rows[1:], rows[-1:]])
    return rows
