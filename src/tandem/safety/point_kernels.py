"""The compiled check of a planar point mass among axis-aligned walls, exact in continuous time.

**Motion.** Acceleration is constant on each segment, so either coordinate is a quadratic: over any interval its extrema lie at
the ends or at the vertex, ``t* = -v / a``.

**Clearance.** A wall with centre c and half sizes h is missed at time t by ``g(t) = max(|x - cx| - hx, |y - cy| - hy)``: what the
wall could be padded by, on all sides, before it touches the point; negative inside. On a segment the minimum of g lies at an
end, at a vertex of x or y, where a coordinate passes the centre, or where the two terms are equal: between two neighbours of
these times g is one quadratic without a vertex. All are roots of quadratics, so the minimum is exact up to rounding, which
:data:`PAD` covers: a root that rounding moves by 1e-8 s moves the point by less than that at any speed up to 10 m/s.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Flags = NDArray[np.bool_]

OK, BAD, INCONSISTENT, REST, VELOCITY, ACCELERATION, COLLISION = range(7)

#: clearance that certification asks for, for rounding [m]
PAD = 1e-6
#: disagreement of stored knots with the integral of the accelerations that is tolerated [m, m/s]
KNOT_TOLERANCE = 1e-7
LIMIT_SLACK = 1e-9
#: coordinates beyond this are refused: rounding there is not covered [m]
MAX_COORDINATE = 1000.0
REST_TOLERANCE = 1e-9


@njit(cache=True, inline="always", error_model="numpy")
def place(p: float, v: float, a: float, s: float) -> float:
    """Coordinate at s [s] after the start of a segment."""
    return p + s * (v + 0.5 * a * s)


@njit(cache=True, error_model="numpy")
def coordinate_range(p: float, v: float, a: float, s0: float, s1: float) -> tuple[float, float]:
    """Least and greatest coordinate for s in [s0, s1]."""
    x0, x1 = place(p, v, a, s0), place(p, v, a, s1)
    lo, hi = min(x0, x1), max(x0, x1)
    if a != 0.0:
        s = -v / a
        if s0 < s < s1:
            x = place(p, v, a, s)
            lo, hi = min(lo, x), max(hi, x)
    return lo, hi


@njit(cache=True, error_model="numpy")
def miss(x: float, y: float, wall: Array, w: int) -> float:
    """By how much the point misses wall ``w`` (largest over the axes); ``wall`` (W, 4): centre, half sizes."""
    return max(abs(x - wall[w, 0]) - wall[w, 2], abs(y - wall[w, 1]) - wall[w, 3])


@njit(cache=True, error_model="numpy")
def roots(c: float, b: float, a: float, out: Array, count: int) -> int:
    """Append the real roots of ``c + b s + a s^2 / 2`` to ``out``; returns the new count. Without cancellation."""
    disc = b * b - 2.0 * a * c
    if not disc >= 0.0:
        return count
    w = -(b + math.copysign(math.sqrt(disc), b))
    if w != 0.0:
        out[count] = 2.0 * c / w
        count += 1
    if a != 0.0:
        out[count] = w / a
        count += 1
    return count


@njit(cache=True, error_model="numpy")
def least_miss(
    px: float, vx: float, ax: float, py: float, vy: float, ay: float, h: float, wall: Array, w: int, times: Array
) -> tuple[float, float]:
    """Least :func:`miss` of wall ``w`` during a segment of h [s], and when; ``times`` (20,) is scratch."""
    x, y = px - wall[w, 0], py - wall[w, 1]
    apart = wall[w, 2] - wall[w, 3]
    times[0], times[1] = 0.0, h
    count = 2
    if ax != 0.0:
        times[count] = -vx / ax
        count += 1
    if ay != 0.0:
        times[count] = -vy / ay
        count += 1
    count = roots(x, vx, ax, times, count)
    count = roots(y, vy, ay, times, count)
    count = roots(x - y - apart, vx - vy, ax - ay, times, count)
    count = roots(x + y - apart, vx + vy, ax + ay, times, count)
    count = roots(x - y + apart, vx - vy, ax - ay, times, count)
    count = roots(x + y + apart, vx + vy, ax + ay, times, count)
    best, when = math.inf, 0.0
    for i in range(count):
        s = times[i]
        if 0.0 <= s <= h:
            gap = miss(place(px, vx, ax, s), place(py, vy, ay, s), wall, w)
            if gap < best:
                best, when = gap, s
    return best, when


@njit(cache=True, error_model="numpy")
def check(
    times: Array, p: Array, v: Array, a: Array, wall: Array, speed: float, acceleration: float, last: bool, full: bool,
    scratch: Array, out: Array,
) -> int:
    """One motion, knots p, v (M, 2) at ``times`` (M,), a (M - 1, 2); a code, and ``out`` (3,): least miss, time, wall.

    ``last``: whether it must end at rest. ``full``: the least miss even where the verdict is known; otherwise the search ends at
    the first wall that is too near, and 0 stands for a miss that is large enough.
    """
    out[0], out[1], out[2] = -math.inf, 0.0, -1.0
    m, code = times.shape[0], OK
    for i in range(m - 1):
        h = times[i + 1] - times[i]
        if not (h > 0.0 and math.isfinite(h)):
            return BAD
        for d in range(2):
            p0, v0, a0, p1, v1 = p[i, d], v[i, d], a[i, d], p[i + 1, d], v[i + 1, d]
            if not (math.isfinite(p0) and math.isfinite(v0) and math.isfinite(a0) and math.isfinite(p1) and math.isfinite(v1)):
                return BAD
            if not (abs(p0) <= MAX_COORDINATE and abs(p1) <= MAX_COORDINATE):
                return BAD
            if not (abs(v0 + a0 * h - v1) <= KNOT_TOLERANCE and abs(place(p0, v0, a0, h) - p1) <= KNOT_TOLERANCE):
                return INCONSISTENT
            if code == OK and not (abs(v0) <= speed + LIMIT_SLACK and abs(v1) <= speed + LIMIT_SLACK):
                code, out[1] = VELOCITY, times[i]
            if code == OK and not abs(a0) <= acceleration + LIMIT_SLACK:
                code, out[1] = ACCELERATION, times[i]
    if code == OK and last and not (abs(v[m - 1, 0]) <= REST_TOLERANCE and abs(v[m - 1, 1]) <= REST_TOLERANCE):
        code, out[1] = REST, times[m - 1]
    if code != OK and not full:
        return code
    best = math.inf if full else PAD
    for i in range(m - 1):
        h = times[i + 1] - times[i]
        x0, x1 = coordinate_range(p[i, 0], v[i, 0], a[i, 0], 0.0, h)
        y0, y1 = coordinate_range(p[i, 1], v[i, 1], a[i, 1], 0.0, h)
        for w in range(wall.shape[0]):
            far_x = max(x0 - wall[w, 0], wall[w, 0] - x1) - wall[w, 2]
            far_y = max(y0 - wall[w, 1], wall[w, 1] - y1) - wall[w, 3]
            if max(far_x, far_y) >= best:
                continue
            gap, when = least_miss(p[i, 0], v[i, 0], a[i, 0], p[i, 1], v[i, 1], a[i, 1], h, wall, w, scratch)
            if gap < best:
                best = gap
                out[0], out[1], out[2] = gap, times[i] + when, float(w)
                if not full:
                    return COLLISION
    if not full or math.isinf(best):
        out[0] = best if full else 0.0
    if code != OK:
        return code
    return OK if best >= PAD else COLLISION


@njit(cache=True, error_model="numpy", nogil=True)
def check_batch(
    times: Array, p: Array, v: Array, a: Array, wall: Array, speed: float, acceleration: float, last: bool, full: bool,
    code: IntArray, out: Array,
) -> None:
    """:func:`check` for p, v (B, M, 2), a (B, M - 1, 2); fills ``code`` (B,) and ``out`` (B, 3)."""
    scratch = np.empty(20)
    for b in range(p.shape[0]):
        code[b] = check(times, p[b], v[b], a[b], wall, speed, acceleration, last, full, scratch, out[b])


@njit(cache=True, error_model="numpy", nogil=True)
def check_grid(
    times: Array, p: Array, v: Array, a: Array, k: Array, accelerate: float, stop: float, wall: Array, speed: float,
    acceleration: float, full: bool, code: IntArray, feasible: Flags, clearance: Array,
) -> None:
    """Heads p, v (H, M, 2), a (H, M - 1, 2), each checked once, with backups k (1, K, 2), shared, or (H, K, 2).

    Fills ``code`` (H,), ``feasible`` and ``clearance`` (H, K).
    """
    scratch, head, tail = np.empty(20), np.empty(3), np.empty(3)
    knots, q, u, b = np.array([0.0, accelerate, stop]), np.empty((3, 2)), np.empty((3, 2)), np.empty((2, 2))
    m = times.shape[0]
    for h in range(p.shape[0]):
        code[h] = check(times, p[h], v[h], a[h], wall, speed, acceleration, False, full, scratch, head)
        ks = k[h if k.shape[0] > 1 else 0]
        for j in range(ks.shape[0]):
            feasible[h, j], clearance[h, j] = False, head[0]
            if code[h] != OK and not full:
                continue
            build(p[h, m - 1], v[h, m - 1], ks[j], accelerate, stop, q, u, b)
            found = check(knots, q, u, b, wall, speed, acceleration, True, full, scratch, tail)
            feasible[h, j], clearance[h, j] = code[h] == OK and found == OK, min(head[0], tail[0])


@njit(cache=True, error_model="numpy")
def build(p0: Array, v0: Array, k: Array, accelerate: float, stop: float, p: Array, v: Array, a: Array) -> None:
    """Knots p, v (3, 2), accelerations a (2, 2) of one backup from p0, v0 (2,): k until ``accelerate``, at rest at ``stop``."""
    brake = stop - accelerate
    for d in range(2):
        p[0, d], v[0, d], a[0, d] = p0[d], v0[d], k[d]
        v[1, d] = v0[d] + accelerate * k[d]
        p[1, d] = place(p0[d], v0[d], k[d], accelerate)
        a[1, d] = -v[1, d] / brake
        p[2, d], v[2, d] = p[1, d] + 0.5 * brake * v[1, d], 0.0


@njit(cache=True, error_model="numpy", nogil=True)
def sweep(times: Array, p: Array, v: Array, a: Array, edges: Array, lo: Array, hi: Array) -> None:
    """Least and greatest coordinates, lo and hi (B, N, 2), of p, v (B, M, 2), a (B, M - 1, 2) between ``edges`` (N + 1,)."""
    m = times.shape[0]
    for b in range(p.shape[0]):
        for i in range(edges.shape[0] - 1):
            for d in range(2):
                lo[b, i, d], hi[b, i, d] = math.inf, -math.inf
                for j in range(m - 1):
                    s0, s1 = max(edges[i], times[j]), min(edges[i + 1], times[j + 1])
                    if s0 <= s1:
                        least, most = coordinate_range(p[b, j, d], v[b, j, d], a[b, j, d], s0 - times[j], s1 - times[j])
                        lo[b, i, d], hi[b, i, d] = min(lo[b, i, d], least), max(hi[b, i, d], most)
