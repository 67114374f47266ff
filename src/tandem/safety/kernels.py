r"""The compiled check of one trajectory: limits, then reachable occupancy against obstacles and against the arm itself.

**Motion.** Between knots the acceleration is linear, so a joint's position is a cubic; its range over any interval follows from
the ends and the roots of the velocity (a quadratic) inside: exact, in closed form.

**Occupancy.** For an interval take c = q(middle) and, for every joint, r_j = largest distance of c_j from the range over the
interval, plus the tracking error and a pad. Let p be a point that moves with link i, at its place for q = c. Take the joints to
any other values within r, the most distal one first. While joint j moves, the joints before it still stand at c, so its axis is
where it is at c, and p has moved by at most D so far. It therefore moves on a circle of radius at most rho_j = dist(p, axis_j
at c) + D, by a chord of at most 2 sin(min(r_j, pi) / 2) rho_j (a prismatic joint: r_j). Hence

    D <- 0;   for j = i .. 1:   D <- D + 2 sin(min(r_j, pi)/2) (dist(p, axis_j) + D)

and the ball (p, R) of link i lies within ball(p, R + D) during the whole interval, whatever the arm does within its tracking
error. In the frame of an earlier link b only the joints b+1 .. i count: the sum stopped there bounds the motion of two links
relative to each other.

**Direction.** Against one obstacle only the motion towards it counts. The distance to a convex set is a convex function, so
outside of it, with n its gradient at p (a unit vector), ``distance(p + d) >= distance(p) + n . d``. Along the straight line in
joint space from c to any q within r, Taylor's theorem with the second derivatives ``d2p/dqj dqk = uj x (uk x (p - ok))``, j <= k
(0 where the j-th joint is prismatic), whose norm is at most rho_k plus what the joints after k add to it, gives

    |n . d| <= sum_k r_k |n . (uk x (p - ok))| + sum_k r_k (rho_k + D_k) (r_k / 2 + sum_{j < k} r_j)

with D_k the D above before joint k is counted. The bound taken is the better of the two. Two balls of the arm: n from one centre
to the other, the joints between their links.

**Adaptive time.** A pair (ball, obstacle) or (ball, ball) that is clear for an interval is clear for both halves: only pairs that
are not go down, until the finest interval. If the balls touch at the middle itself, within the tracking error's place for c, no
finer interval can be clear: the search ends.

Every array is float64, every sum in a fixed order: the result does not depend on the number of threads. Arms, scenes and scratch
space are few wide arrays, because every array argument of a compiled function costs seven words at each call; inner loops
index local names of them and make no views, because each view and each access to a tuple's member counts references atomically.
All compiled code is in this one file on purpose: Numba's cache notices changes of the file a function stands in, not of its
callees.
"""

from __future__ import annotations

import math
import threading
from typing import NamedTuple

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Flags = NDArray[np.bool_]

# kinds of obstacles
BOX, SPHERE, CYLINDER, CAPSULE, HALFSPACE, POLYTOPE = range(6)
# columns of ArmArrays.joint: rotation (3 x 3) and translation of the joint frame in its parent's at zero (its axis is the local
# z), 1 if prismatic, limits, and the position-dependent speed limit (offset, factor, upper and lower anchor; NaN: none)
J_TURN, J_SHIFT, J_SLIDES, J_LOWER, J_UPPER, J_SPEED, J_ACCELERATION, J_JERK, J_LAW = 0, 9, 12, 13, 14, 15, 16, 17, 18
JOINT_COLUMNS = 22
# columns of SceneArrays.obstacle: kind, size, rotation base to local, position, inflation at t = 0 [m] and its growth [m/s],
# first and last + 1 face, radius of a ball around it (inf: none), then one column a link: 1 where that link is not checked
O_KIND, O_SIZE, O_TURN, O_AT, O_GROW, O_SPEED, O_FACES, O_ROUND, O_SKIP = 0, 1, 4, 13, 16, 17, 18, 20, 21
# codes of verdicts inside the kernels; certify.py maps them to core.types.Reason
OK, BAD, INCONSISTENT, REST, POSITION, VELOCITY, ACCELERATION, JERK, SELF, COLLISION = range(10)

#: disagreement of stored knots with the integral of the accelerations that is tolerated (covered by Bounds.joint_pad) [rad,
#: rad/s]
KNOT_TOLERANCE = 1e-6
#: longest segment [s]: rounding of a cubic with |a| <= 100 rad/s^2 stays below 1e-9 rad
MAX_SEGMENT = 100.0
#: slack on limits, so that a motion at its limit is not refused for the last bit
LIMIT_SLACK = 1e-9
REST_TOLERANCE = 1e-6
#: distance [m] from which on the gradient of an obstacle's distance is taken to be known
SLIM = 1e-4
#: how often a segment is halved to show that the position-dependent speed limit holds
SPEED_SPLITS = 20
#: held during every parallel call: Numba's thread pool must not be entered from two Python threads at once
PARALLEL_LOCK = threading.Lock()
#: ends of earlier searches that are remembered
KILLERS = 4
#: trajectories one scratch space serves in turn
CHUNK = 16
#: backups of a head that are looked at side by side (a row of a Lanes array); with fewer backups they go one by one
LANES, LANES_FROM = 32, 8
#: rows of lanes begin at a multiple of LANES within this; the mask tells the compiler that they are not negative, without which
#: it makes gathers of plain loads
ROWS = (1 << 24) - 1
#: what the loops over lanes may do that IEEE 754 does not foresee: round a product and a sum once instead of twice
FUSED = {"contract"}
#: largest joint position that lanes take: beyond it the sine's argument would lose digits
LANE_REACH = 1e4


class ArmArrays(NamedTuple):
    """An arm for the kernels; n joints, L = n + 1 links (0 = base), Q parts of links, S balls sorted by part.

    ``joint`` (n, JOINT_COLUMNS). ``ball`` (S, 6): centre in the link's frame, radius, link, part. ``part`` (Q, 8): centre and
    radius of a ball around the part's balls, its first ball and last + 1, link, largest distance of its balls' centres from
    its own. ``pairs`` (P, 2): parts (of the distal link, of the proximal link) that must not touch each other.
    """

    joint: Array
    ball: Array
    part: Array
    pairs: IntArray


class SceneArrays(NamedTuple):
    """Obstacles for the kernels: ``obstacle`` (O, O_SKIP + L) and ``face`` (F, 4), unit normal and offset."""

    obstacle: Array
    face: Array


class BoundArrays(NamedTuple):
    """Numbers of :class:`Bounds` for the kernels: ``tracking`` (n,), then scalars.

    ``travel`` scales the term for motion within an interval: 1 except in the mutation check, which shows that a test fails
    without it.
    """

    tracking: Array
    joint_pad: float
    pad: float
    clearance: float
    interval: float
    levels: int
    travel: float


class FamilyArrays(NamedTuple):
    """A family of backups for the kernels: knot ``times`` (6,) and ``brake`` (3,): b = brake . (v0, a0, k)."""

    times: Array
    brake: Array


class Work(NamedTuple):
    """Scratch of one thread.

    ``frame`` (L, 12): rotation and position of the links for q = c. ``chord`` (2 n,): 2 sin(r/2), then r of every joint.
    ``ball`` (S, 4) and ``part`` (Q, 4): centre and travel, valid where ``mark`` (Q, 2) (balls of the part, part) holds the
    current interval's number.
    ``segment`` (M, n, 4): q, v, a, jerk. ``env`` (levels + 2, ., 2): pairs not yet clear (ball * O + obstacle, bound);
    ``own`` (levels + 2, ., 3): (ball, ball, bound); the last row of both: pairs a lane begins with. ``counts`` (levels + 2, 2):
    their numbers; the last row: the interval's number, the number of killers. ``stack`` (., 3): start, end, level. ``best``
    (12,): (bound, time, link, obstacle), (bound, time, link, link), an upper bound of the clearance, and what ended the search:
    time, ball, obstacle or -1 - other ball. ``killer`` (KILLERS, 3): such ends of a head's earlier backups, tried first on the
    next.
    ``todo_env`` (., Q * O) part * O + obstacle and ``todo_own`` (., P): pairs to begin with, row 0 all of them, row i + 1
    those of the i-th interval of a head's backups, the last LANES rows (of ``todo_own``) those of one lane each; ``todo`` (., 2)
    their numbers.
    """

    frame: Array
    chord: Array
    ball: Array
    part: Array
    mark: IntArray
    segment: Array
    env: Array
    own: Array
    counts: IntArray
    stack: Array
    best: Array
    todo_env: IntArray
    todo_own: IntArray
    todo: IntArray
    killer: Array


@njit(cache=True, error_model="numpy")
def make_work(arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, knots: int, tops: int) -> Work:
    """Scratch large enough for every pair at every level; ``tops``: intervals of a head's backups, 0 without."""
    n, balls, parts = arm.joint.shape[0], arm.ball.shape[0], arm.part.shape[0]
    own = 0
    for p in range(arm.pairs.shape[0]):
        a, b = arm.part[arm.pairs[p, 0]], arm.part[arm.pairs[p, 1]]
        own += int((a[5] - a[4]) * (b[5] - b[4]))
    obstacles = scene.obstacle.shape[0]
    env = balls * obstacles
    rows = bounds.levels + 1
    lists = tops + 1 + (LANES if tops > 0 else 0)
    todo_env = np.empty((tops + 1, parts * obstacles), np.int64)
    todo_own = np.empty((lists, arm.pairs.shape[0]), np.int64)
    todo = np.zeros((lists, 2), np.int64)
    for part in range(parts):
        for o in range(obstacles):
            if scene.obstacle[o, O_SKIP + int(arm.part[part, 6])] == 0.0:
                todo_env[0, todo[0, 0]] = part * obstacles + o
                todo[0, 0] += 1
    for p in range(arm.pairs.shape[0]):
        todo_own[0, p] = p
    todo[0, 1] = arm.pairs.shape[0]
    return Work(
        np.zeros((n + 1, 12)), np.empty(2 * n), np.empty((balls, 4)), np.empty((parts, 4)), np.zeros((parts, 2), np.int64),
        np.empty((knots, n, 4)),
        np.empty((rows + 1, env, 2)), np.empty((rows + 1, own, 3)), np.zeros((rows + 1, 2), np.int64),
        np.empty((2 * rows + 2, 3)), np.empty(12), todo_env, todo_own, todo, np.empty((KILLERS, 3)),
    )


@njit(cache=True, inline="always", error_model="numpy")
def cubic(q0: float, v0: float, a0: float, j: float, s: float) -> float:
    """Position of a segment at s [s] after its start."""
    return q0 + s * (v0 + s * (0.5 * a0 + s * j * (1.0 / 6.0)))


@njit(cache=True, error_model="numpy")
def cubic_range(q0: float, v0: float, a0: float, j: float, s0: float, s1: float) -> tuple[float, float]:
    """Least and greatest position of ``q0 + v0 s + a0 s^2/2 + j s^3/6`` for s in [s0, s1]."""
    p0, p1 = cubic(q0, v0, a0, j, s0), cubic(q0, v0, a0, j, s1)
    lo, hi = min(p0, p1), max(p0, p1)
    u0, u1 = v0 + s0 * (a0 + 0.5 * j * s0), v0 + s1 * (a0 + 0.5 * j * s1)
    b0, b1 = a0 + j * s0, a0 + j * s1
    if u0 * u1 > 0.0 and b0 * b1 >= 0.0:
        return lo, hi
    disc = b0 * b0 - 2.0 * j * u0
    if disc < 0.0:
        return lo, hi
    w = -(b0 + math.copysign(math.sqrt(disc), b0))
    x = 2.0 * u0 / w if w != 0.0 else -1.0  # roots of u0 + b0 x + j x^2 / 2, without cancellation
    if 0.0 < x < s1 - s0:
        p = cubic(q0, v0, a0, j, s0 + x)
        lo, hi = min(lo, p), max(hi, p)
    x = w / j if j != 0.0 else -1.0
    if 0.0 < x < s1 - s0:
        p = cubic(q0, v0, a0, j, s0 + x)
        lo, hi = min(lo, p), max(hi, p)
    return lo, hi


@njit(cache=True, error_model="numpy")
def speed_range(v0: float, a0: float, j: float, s0: float, s1: float) -> tuple[float, float]:
    """Least and greatest velocity of a segment for s in [s0, s1]."""
    u0, u1 = v0 + s0 * (a0 + 0.5 * j * s0), v0 + s1 * (a0 + 0.5 * j * s1)
    lo, hi = min(u0, u1), max(u0, u1)
    if (a0 + j * s0) * (a0 + j * s1) < 0.0:
        x = -a0 / j
        u = v0 + x * (a0 + 0.5 * j * x)
        lo, hi = min(lo, u), max(hi, u)
    return lo, hi


@njit(cache=True, error_model="numpy")
def speed_fits(joint: Array, d: int, vl: float, vh: float, ql: float, qh: float) -> bool:
    """Whether velocities vl .. vh obey the position-dependent limits wherever the joint is between ql and qh."""
    a, b = joint[d, J_LAW], joint[d, J_LAW + 1]
    up, down = max(0.0, vh - LIMIT_SLACK), max(0.0, -vl - LIMIT_SLACK)
    good = up == 0.0 or (qh <= joint[d, J_LAW + 2] and (up + a) * (up + a) <= b * (joint[d, J_LAW + 2] - qh))
    return good and (down == 0.0 or (ql >= joint[d, J_LAW + 3] and (down + a) * (down + a) <= b * (ql - joint[d, J_LAW + 3])))


@njit(cache=True, error_model="numpy")
def speed_law_holds(joint: Array, d: int, q0: float, v0: float, a0: float, j: float, length: float) -> bool:
    """Whether ``v <= max(0, sqrt(b (up - q)) - a)`` and its mirror image hold during a whole segment.

    On a piece, the greatest velocity is compared with the limit at the greatest position (the limit falls with q): sufficient on
    the piece, hence sound; a piece that fails is halved up to SPEED_SPLITS times.
    """
    s0, step, least_step = 0.0, length, length * 0.5**SPEED_SPLITS
    while s0 < length:
        s1 = min(length, s0 + step)
        vl, vh = speed_range(v0, a0, j, s0, s1)
        ql, qh = cubic_range(q0, v0, a0, j, s0, s1)
        if speed_fits(joint, d, vl, vh, ql, qh):
            s0, step = s1, 2.0 * step
        else:
            step *= 0.5
            if step < least_step:
                return False
    return True


@njit(cache=True, error_model="numpy")
def segment_limits(joint: Array, d: int, q0: float, v0: float, a0: float, j: float, a1: float, h: float) -> int:
    """Limits of joint ``d`` during one segment of length h [s] that ends with acceleration a1: a code."""
    ql, qh = cubic_range(q0, v0, a0, j, 0.0, h)
    if not (ql >= joint[d, J_LOWER] - LIMIT_SLACK and qh <= joint[d, J_UPPER] + LIMIT_SLACK):
        return POSITION
    vl, vh = speed_range(v0, a0, j, 0.0, h)
    top = joint[d, J_SPEED] * (1.0 + LIMIT_SLACK)
    if not (vl >= -top and vh <= top):
        return VELOCITY
    if not (math.isnan(joint[d, J_LAW]) or speed_fits(joint, d, vl, vh, ql, qh) or speed_law_holds(joint, d, q0, v0, a0, j, h)):
        return VELOCITY
    top = joint[d, J_ACCELERATION] * (1.0 + LIMIT_SLACK)
    if not (abs(a0) <= top and abs(a1) <= top):
        return ACCELERATION
    return OK if abs(j) <= joint[d, J_JERK] * (1.0 + LIMIT_SLACK) else JERK


@njit(cache=True, error_model="numpy")
def limits(joint: Array, times: Array, q: Array, v: Array, a: Array, segment: Array, last: bool) -> tuple[int, float, int]:
    """Consistency and limits of one trajectory, in continuous time; writes ``segment``. ``last``: whether it must end at rest.

    Returns:
        code, time of the segment [s], joint; the first that is wrong, malformed and inconsistent knots before all.
    """
    m, n = q.shape
    code, time, which = OK, 0.0, 0
    for i in range(m - 1):
        h = times[i + 1] - times[i]
        if not (0.0 < h <= MAX_SEGMENT):
            return BAD, 0.0, 0
        for d in range(n):
            q0, v0, a0, a1 = q[i, d], v[i, d], a[i, d], a[i + 1, d]
            if not (math.isfinite(q0) and math.isfinite(v0) and math.isfinite(a0) and math.isfinite(a1)):
                return BAD, times[i], d
            gap_v = abs(v0 + 0.5 * h * (a0 + a1) - v[i + 1, d])
            gap_q = abs(q0 + h * (v0 + h * (2.0 * a0 + a1) / 6.0) - q[i + 1, d])
            if not (gap_v <= KNOT_TOLERANCE and gap_q <= KNOT_TOLERANCE):
                return INCONSISTENT, times[i], d
            j = (a1 - a0) / h
            segment[i, d, 0], segment[i, d, 1], segment[i, d, 2], segment[i, d, 3] = q0, v0, a0, j
            if code == OK:
                code = segment_limits(joint, d, q0, v0, a0, j, a1, h)
                time, which = times[i], d
    if last and code == OK:
        for d in range(n):
            if not (abs(v[m - 1, d]) <= REST_TOLERANCE and abs(a[m - 1, d]) <= REST_TOLERANCE):
                return REST, times[m - 1], d
    return code, time, which


@njit(cache=True, error_model="numpy")
def tops(end: float, bounds: BoundArrays) -> int:
    """Number of equal intervals a trajectory of ``end`` [s] is cut into first."""
    return max(1, math.ceil(end / bounds.interval - 1e-9))


@njit(cache=True, error_model="numpy")
def put_frame(joint: Array, frame: Array, d: int, c: float) -> None:
    """Frame (row d + 1) of a link from its parent's (row d), for joint ``d`` at ``c``."""
    co, si, slide = 1.0, 0.0, c
    if joint[d, J_SLIDES] == 0.0:
        co, si, slide = math.cos(c), math.sin(c), 0.0
    for x in range(3):
        e0, e1, e2 = frame[d, 3 * x], frame[d, 3 * x + 1], frame[d, 3 * x + 2]
        f0 = e0 * joint[d, 0] + e1 * joint[d, 3] + e2 * joint[d, 6]
        f1 = e0 * joint[d, 1] + e1 * joint[d, 4] + e2 * joint[d, 7]
        f2 = e0 * joint[d, 2] + e1 * joint[d, 5] + e2 * joint[d, 8]
        frame[d + 1, 3 * x] = f0 * co + f1 * si
        frame[d + 1, 3 * x + 1] = f1 * co - f0 * si
        frame[d + 1, 3 * x + 2] = f2
        shift = e0 * joint[d, J_SHIFT] + e1 * joint[d, J_SHIFT + 1] + e2 * joint[d, J_SHIFT + 2]
        frame[d + 1, 9 + x] = frame[d, 9 + x] + shift + slide * f2


@njit(cache=True, error_model="numpy")
def chord_of(slides: float, r: float) -> float:
    """Factor of the displacement bound for a joint within r."""
    return r if slides != 0.0 else 2.0 * math.sin(0.5 * min(r, math.pi))


@njit(cache=True, error_model="numpy")
def place(
    joint: Array, tracking: Array, pad: float, scale: float, frame: Array, chord: Array, segment: Array, times: Array,
    t0: float, t1: float,
) -> None:
    """Chords, radii and link frames for the interval [t0, t1]. ``scale``: the factor ``travel`` of :class:`BoundArrays`."""
    last = times.shape[0] - 2
    i0 = 0
    while i0 < last and times[i0 + 1] <= t0:
        i0 += 1
    i1 = i0
    while i1 < last and times[i1 + 1] < t1:
        i1 += 1
    mid = 0.5 * (t0 + t1)
    im = i0
    while im < i1 and times[im + 1] <= mid:
        im += 1
    frame[0, 0] = frame[0, 4] = frame[0, 8] = 1.0
    for d in range(joint.shape[0]):
        c = cubic(segment[im, d, 0], segment[im, d, 1], segment[im, d, 2], segment[im, d, 3], mid - times[im])
        r = 0.0
        for i in range(i0, i1 + 1):
            s0, s1 = max(0.0, t0 - times[i]), min(times[i + 1], t1) - times[i]
            lo, hi = cubic_range(segment[i, d, 0], segment[i, d, 1], segment[i, d, 2], segment[i, d, 3], s0, s1)
            r = max(r, max(hi - c, c - lo))
        chord[joint.shape[0] + d] = r * scale + tracking[d] + pad
        chord[d] = chord_of(joint[d, J_SLIDES], chord[joint.shape[0] + d])
        put_frame(joint, frame, d, c)


@njit(cache=True, error_model="numpy")
def travel_around(
    joint: Array, frame: Array, chord: Array, x: float, y: float, z: float, link: int, base: int, width: float
) -> float:
    """Bound on the displacement of any point of ``link`` within ``width`` [m] of (x, y, z) for q = c, in the frame of ``base``.

    From no axis is it more than ``width`` farther than (x, y, z) is.
    """
    total = 0.0
    for j in range(link - 1, base - 1, -1):
        if joint[j, J_SLIDES] != 0.0:
            total += chord[j]
            continue
        dx, dy, dz = x - frame[j + 1, 9], y - frame[j + 1, 10], z - frame[j + 1, 11]
        ux, uy, uz = frame[j + 1, 2], frame[j + 1, 5], frame[j + 1, 8]
        cx, cy, cz = dy * uz - dz * uy, dz * ux - dx * uz, dx * uy - dy * ux
        total += chord[j] * (math.sqrt(cx * cx + cy * cy + cz * cz) + width + total)
    return total


@njit(cache=True, error_model="numpy")
def travel(joint: Array, frame: Array, chord: Array, x: float, y: float, z: float, link: int, base: int) -> float:
    """Bound on the displacement of a point of ``link``, at (x, y, z) for q = c, in the frame of link ``base``."""
    return travel_around(joint, frame, chord, x, y, z, link, base, 0.0)


@njit(cache=True, error_model="numpy")
def approach(
    joint: Array, frame: Array, chord: Array, x: float, y: float, z: float, link: int, base: int, nx: float, ny: float, nz: float
) -> float:
    """:func:`travel` along the unit vector (nx, ny, nz) only, either way: the better of the two bounds."""
    n, before, total, out = joint.shape[0], 0.0, 0.0, 0.0
    for j in range(base, link):
        before += chord[n + j] if joint[j, J_SLIDES] == 0.0 else 0.0
    for k in range(link - 1, base - 1, -1):
        r, ux, uy, uz = chord[n + k], frame[k + 1, 2], frame[k + 1, 5], frame[k + 1, 8]
        if joint[k, J_SLIDES] != 0.0:
            out += r * (abs(nx * ux + ny * uy + nz * uz) + before)
            total += r
            continue
        before -= r
        dx, dy, dz = x - frame[k + 1, 9], y - frame[k + 1, 10], z - frame[k + 1, 11]
        cx, cy, cz = uy * dz - uz * dy, uz * dx - ux * dz, ux * dy - uy * dx
        far = math.sqrt(cx * cx + cy * cy + cz * cz) + total
        out += r * (abs(nx * cx + ny * cy + nz * cz) + far * (0.5 * r + max(before, 0.0)))
        total += chord[k] * far
    return min(out, total)


@njit(cache=True, inline="always", error_model="numpy")
def world(frame: Array, link: int, x: float, y: float, z: float) -> tuple[float, float, float]:
    """Where the point (x, y, z) of a link is for q = c."""
    return (
        frame[link, 9] + frame[link, 0] * x + frame[link, 1] * y + frame[link, 2] * z,
        frame[link, 10] + frame[link, 3] * x + frame[link, 4] * y + frame[link, 5] * z,
        frame[link, 11] + frame[link, 6] * x + frame[link, 7] * y + frame[link, 8] * z,
    )


@njit(cache=True, error_model="numpy")
def round_distance(kind: int, body: Array, o: int, x: float, y: float, z: float) -> float:
    """Signed distance to a sphere, cylinder or capsule (row ``o``) from a point relative to its centre, base frame."""
    if kind == SPHERE:
        return math.sqrt(x * x + y * y + z * z) - body[o, O_SIZE]
    along = body[o, O_TURN + 6] * x + body[o, O_TURN + 7] * y + body[o, O_TURN + 8] * z
    u = body[o, O_TURN] * x + body[o, O_TURN + 1] * y + body[o, O_TURN + 2] * z
    v = body[o, O_TURN + 3] * x + body[o, O_TURN + 4] * y + body[o, O_TURN + 5] * z
    rho, over = math.sqrt(u * u + v * v), abs(along) - body[o, O_SIZE + 1]
    if kind == CAPSULE:
        over = max(over, 0.0)
        return math.sqrt(rho * rho + over * over) - body[o, O_SIZE]
    rho -= body[o, O_SIZE]
    inside = max(rho, over)
    if inside <= 0.0:
        return inside
    rho, over = max(rho, 0.0), max(over, 0.0)
    return math.sqrt(rho * rho + over * over)


@njit(cache=True, error_model="numpy")
def distance(body: Array, face: Array, o: int, px: float, py: float, pz: float) -> float:
    """Signed distance from a point to obstacle ``o`` (negative inside); of a polytope a lower bound: its greatest face."""
    kind = int(body[o, O_KIND])
    dx, dy, dz = px - body[o, O_AT], py - body[o, O_AT + 1], pz - body[o, O_AT + 2]
    if kind == BOX:
        x = abs(body[o, O_TURN] * dx + body[o, O_TURN + 1] * dy + body[o, O_TURN + 2] * dz) - body[o, O_SIZE]
        y = abs(body[o, O_TURN + 3] * dx + body[o, O_TURN + 4] * dy + body[o, O_TURN + 5] * dz) - body[o, O_SIZE + 1]
        z = abs(body[o, O_TURN + 6] * dx + body[o, O_TURN + 7] * dy + body[o, O_TURN + 8] * dz) - body[o, O_SIZE + 2]
        inside = max(x, max(y, z))
        if inside <= 0.0:
            return inside
        x, y, z = max(x, 0.0), max(y, 0.0), max(z, 0.0)
        return math.sqrt(x * x + y * y + z * z)
    if kind == HALFSPACE:
        return body[o, O_TURN + 6] * dx + body[o, O_TURN + 7] * dy + body[o, O_TURN + 8] * dz
    if kind != POLYTOPE:
        return round_distance(kind, body, o, dx, dy, dz)
    best = -math.inf
    for i in range(int(body[o, O_FACES]), int(body[o, O_FACES + 1])):
        best = max(best, face[i, 0] * px + face[i, 1] * py + face[i, 2] * pz - face[i, 3])
    return best


@njit(cache=True, error_model="numpy")
def box_normal(body: Array, o: int, dx: float, dy: float, dz: float) -> tuple[float, float, float]:
    """:func:`normal` of a box."""
    out = (0.0, 0.0, 0.0)
    for i in range(3):
        t = O_TURN + 3 * i
        at = body[o, t] * dx + body[o, t + 1] * dy + body[o, t + 2] * dz
        over = math.copysign(max(abs(at) - body[o, O_SIZE + i], 0.0), at)
        out = (out[0] + over * body[o, t], out[1] + over * body[o, t + 1], out[2] + over * body[o, t + 2])
    return out


@njit(cache=True, error_model="numpy")
def round_normal(kind: int, body: Array, o: int, dx: float, dy: float, dz: float) -> tuple[float, float, float]:
    """:func:`normal` of a sphere, cylinder or capsule."""
    if kind == SPHERE:
        return dx, dy, dz
    ax, ay, az = body[o, O_TURN + 6], body[o, O_TURN + 7], body[o, O_TURN + 8]
    along = ax * dx + ay * dy + az * dz
    over = math.copysign(max(abs(along) - body[o, O_SIZE + 1], 0.0), along)
    rx, ry, rz = dx - along * ax, dy - along * ay, dz - along * az
    scale = 1.0
    if kind == CYLINDER:
        rho = math.sqrt(rx * rx + ry * ry + rz * rz)
        scale = (rho - body[o, O_SIZE]) / rho if rho > body[o, O_SIZE] else 0.0
    return scale * rx + over * ax, scale * ry + over * ay, scale * rz + over * az


@njit(cache=True, error_model="numpy")
def normal(body: Array, face: Array, o: int, px: float, py: float, pz: float) -> tuple[float, float, float]:
    """Unit gradient of :func:`distance` at a point outside of obstacle ``o``."""
    kind = int(body[o, O_KIND])
    dx, dy, dz = px - body[o, O_AT], py - body[o, O_AT + 1], pz - body[o, O_AT + 2]
    if kind == POLYTOPE:
        best, at = -math.inf, int(body[o, O_FACES])
        for i in range(int(body[o, O_FACES]), int(body[o, O_FACES + 1])):
            here = face[i, 0] * px + face[i, 1] * py + face[i, 2] * pz - face[i, 3]
            if here > best:
                best, at = here, i
        x, y, z = face[at, 0], face[at, 1], face[at, 2]
    elif kind == HALFSPACE:
        x, y, z = body[o, O_TURN + 6], body[o, O_TURN + 7], body[o, O_TURN + 8]
    elif kind == BOX:
        x, y, z = box_normal(body, o, dx, dy, dz)
    else:
        x, y, z = round_normal(kind, body, o, dx, dy, dz)
    scale = 1.0 / math.sqrt(x * x + y * y + z * z)
    return x * scale, y * scale, z * scale


@njit(cache=True, error_model="numpy")
def nearest(
    joint: Array, frame: Array, chord: Array, body: Array, face: Array, o: int, x: float, y: float, z: float, link: int,
    apart: float,
) -> float:
    """``apart``, the distance of the point (x, y, z) of ``link`` from obstacle ``o``, less its motion towards it: a bound."""
    if not apart > SLIM:
        return apart - travel(joint, frame, chord, x, y, z, link, 0)
    nx, ny, nz = normal(body, face, o, x, y, z)
    return apart - approach(joint, frame, chord, x, y, z, link, 0, nx, ny, nz)


@njit(cache=True, error_model="numpy")
def put(ball: Array, part: Array, frame: Array, at: Array, mark: IntArray, now: int, i: int) -> None:
    """Centres ``at`` (S, 4) of all balls of part ``i`` for interval ``now``; their travel is marked as not known yet."""
    mark[i, 0] = now
    link = int(part[i, 6])
    for s in range(int(part[i, 4]), int(part[i, 5])):
        at[s, 0], at[s, 1], at[s, 2] = world(frame, link, ball[s, 0], ball[s, 1], ball[s, 2])
        at[s, 3] = -1.0


@njit(cache=True, error_model="numpy")
def put_part(
    joint: Array, part: Array, frame: Array, chord: Array, at: Array, mark: IntArray, now: int, i: int
) -> None:
    """Centre and travel ``at`` (Q, 4) of part ``i`` for interval ``now``."""
    mark[i, 1] = now
    link = int(part[i, 6])
    x, y, z = world(frame, link, part[i, 0], part[i, 1], part[i, 2])
    at[i, 0], at[i, 1], at[i, 2], at[i, 3] = x, y, z, travel(joint, frame, chord, x, y, z, link, 0)


@njit(cache=True, inline="always", error_model="numpy")
def note(best: Array, at: int, low: float, time: float, link: float, other: float) -> None:
    """Record a bound if it is the least so far; ``at`` = 0 against obstacles, 4 against itself."""
    if low < best[at]:
        best[at], best[at + 1], best[at + 2], best[at + 3] = low, time, link, other


@njit(cache=True, inline="always", error_model="numpy")
def sure(low: float) -> float:
    """A lower bound, -inf for NaN: what cannot be computed is not clear."""
    return low if low == low else -math.inf


@njit(cache=True, error_model="numpy")
def keep_env(
    w: Work, bounds: BoundArrays, s: int, o: int, pair: int, link: float, low: float, middle: float, t: float, full: bool,
    level: int,
) -> bool:
    """What becomes of ball s and obstacle o with bound ``low`` over the interval and clearance ``middle`` at its middle.

    Done (noted), or kept at ``level`` for the next. True: they touch, or this is the finest interval: the search ends.
    """
    best, counts = w.best, w.counts
    low, middle = sure(low), sure(middle)
    best[8] = min(best[8], middle)
    bar = max(bounds.clearance, best[8]) if full else bounds.clearance
    if low >= bar or level == bounds.levels or (not full and middle < bar):
        note(best, 0, low, t, link, o)
        best[9], best[10], best[11] = t, s, o
        return low < bar and not full
    k = counts[level, 0]
    w.env[level, k, 0], w.env[level, k, 1] = pair, low
    counts[level, 0] = k + 1
    return False


@njit(cache=True, error_model="numpy")
def keep_own(
    w: Work, bounds: BoundArrays, i: int, j: int, link: float, base: float, low: float, gap: float, t: float, full: bool,
    level: int,
) -> bool:
    """:func:`keep_env` for balls i and j of the arm, ``gap`` apart at the middle."""
    best, counts = w.best, w.counts
    low, gap = sure(low), sure(gap)
    best[8] = min(best[8], gap)
    bar = max(0.0, best[8]) if full else 0.0
    if low >= bar or level == bounds.levels or (not full and gap < 0.0):
        note(best, 4, low, t, link, base)
        best[9], best[10], best[11] = t, i, -1.0 - j
        return low < bar and not full
    k = counts[level, 1]
    w.own[level, k, 0], w.own[level, k, 1], w.own[level, k, 2] = i, j, low
    counts[level, 1] = k + 1
    return False


@njit(cache=True, error_model="numpy")
def seed_balls(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, w: Work, part: int, o: int, low: float, t0: float, t1: float,
    full: bool,
) -> bool:
    """All balls of a part against one obstacle; fills level 0. True: the search ends."""
    ball, at, body, face = arm.ball, w.ball, scene.obstacle, scene.face
    joint, frame, chord = arm.joint, w.frame, w.chord
    now, t, link = w.counts[w.counts.shape[0] - 1, 0], 0.5 * (t0 + t1), int(arm.part[part, 6])
    if w.mark[part, 0] != now:
        put(ball, arm.part, frame, at, w.mark, now, part)
    grown = body[o, O_GROW] + body[o, O_SPEED] * t1
    for s in range(int(arm.part[part, 4]), int(arm.part[part, 5])):
        x, y, z = at[s, 0], at[s, 1], at[s, 2]
        if at[s, 3] < 0.0:
            at[s, 3] = travel(joint, frame, chord, x, y, z, link, 0)
        apart = distance(body, face, o, x, y, z)
        gap = apart - ball[s, 3]
        here = max(low, gap - at[s, 3] - grown - bounds.pad)
        if here < bounds.clearance or full:
            far = nearest(joint, frame, chord, body, face, o, x, y, z, link, apart)
            here = max(here, far - ball[s, 3] - grown - bounds.pad)
        if here >= bounds.clearance and not full:
            continue
        middle = gap - body[o, O_GROW] - body[o, O_SPEED] * t
        if keep_env(w, bounds, s, o, s * body.shape[0] + o, link, here, middle, t, full, 0):
            return True
    return False


@njit(cache=True, error_model="numpy")
def seed_env(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, w: Work, t0: float, t1: float, full: bool, row: int
) -> bool:
    """The parts against the obstacles in ``w.todo_env[row]``, parts' balls first; fills level 0. True: the search ends."""
    body, face, part, at, mark, todo = scene.obstacle, scene.face, arm.part, w.part, w.mark, w.todo_env
    joint, frame, chord = arm.joint, w.frame, w.chord
    obstacles, now, clearance = body.shape[0], w.counts[w.counts.shape[0] - 1, 0], bounds.clearance
    for k in range(w.todo[row, 0]):
        i = todo[row, k] // obstacles
        o = todo[row, k] - i * obstacles
        if mark[i, 1] != now:
            put_part(joint, part, frame, chord, at, mark, now, i)
        more = at[i, 3] + part[i, 3] + bounds.pad + body[o, O_GROW] + body[o, O_SPEED] * t1
        dx, dy, dz = at[i, 0] - body[o, O_AT], at[i, 1] - body[o, O_AT + 1], at[i, 2] - body[o, O_AT + 2]
        far = body[o, O_ROUND] + more + clearance
        if not full and dx * dx + dy * dy + dz * dz > far * far:
            continue  # clear by the ball around the obstacle
        low = distance(body, face, o, at[i, 0], at[i, 1], at[i, 2]) - more
        if low >= (max(clearance, w.best[8]) if full else clearance):
            if full:
                note(w.best, 0, low, 0.5 * (t0 + t1), part[i, 6], o)
            continue
        if seed_balls(arm, scene, bounds, w, i, o, low, t0, t1, full):
            return True
    return False


@njit(cache=True, error_model="numpy")
def seed_pair(arm: ArmArrays, bounds: BoundArrays, w: Work, a: int, b: int, low: float, t: float, full: bool) -> bool:
    """All balls of part ``a`` against all of part ``b`` of an earlier link; fills level 0. True: the search ends."""
    ball, part, at, mark = arm.ball, arm.part, w.ball, w.mark
    joint, frame, chord = arm.joint, w.frame, w.chord
    now = w.counts[w.counts.shape[0] - 1, 0]
    for i in (a, b):
        if mark[i, 0] != now:
            put(ball, part, frame, at, mark, now, i)
    link, base = int(part[a, 6]), int(part[b, 6])
    wide = travel_around(joint, frame, chord, w.part[a, 0], w.part[a, 1], w.part[a, 2], link, base, part[a, 7])
    for i in range(int(part[a, 4]), int(part[a, 5])):
        x, y, z, reach = at[i, 0], at[i, 1], at[i, 2], -1.0
        for j in range(int(part[b, 4]), int(part[b, 5])):
            dx, dy, dz = x - at[j, 0], y - at[j, 1], z - at[j, 2]
            square, far = dx * dx + dy * dy + dz * dz, wide + ball[i, 3] + ball[j, 3] + bounds.pad
            if not full and square > far * far:
                continue
            if reach < 0.0:
                reach = travel(joint, frame, chord, x, y, z, link, base)
            far = reach + ball[i, 3] + ball[j, 3] + bounds.pad
            if not full and square > far * far:
                continue
            apart = math.sqrt(square)
            gap, most = apart - ball[i, 3] - ball[j, 3], reach
            if apart > SLIM:
                most = approach(joint, frame, chord, x, y, z, link, base, dx / apart, dy / apart, dz / apart)
            here = max(low, gap - most - bounds.pad)
            if here >= 0.0 and not full:
                continue
            if keep_own(w, bounds, i, j, link, base, here, gap, t, full, 0):
                return True
    return False


@njit(cache=True, error_model="numpy")
def seed_own(arm: ArmArrays, bounds: BoundArrays, w: Work, t: float, full: bool, row: int) -> bool:
    """The pairs of parts in ``w.todo_own[row]``, their balls first; fills level 0. True: the search ends."""
    part, pairs, at, mark, todo = arm.part, arm.pairs, w.part, w.mark, w.todo_own
    joint, frame, chord = arm.joint, w.frame, w.chord
    now = w.counts[w.counts.shape[0] - 1, 0]
    for k in range(w.todo[row, 1]):
        a, b = pairs[todo[row, k], 0], pairs[todo[row, k], 1]
        if mark[a, 1] != now:
            put_part(joint, part, frame, chord, at, mark, now, a)
        if mark[b, 1] != now:
            put_part(joint, part, frame, chord, at, mark, now, b)
        dx, dy, dz = at[a, 0] - at[b, 0], at[a, 1] - at[b, 1], at[a, 2] - at[b, 2]
        square, size = dx * dx + dy * dy + dz * dz, part[a, 3] + part[b, 3] + bounds.pad
        if not full and square > (size + at[a, 3]) * (size + at[a, 3]):
            continue  # clear even by the travel in the base frame, which is more
        link, base = int(part[a, 6]), int(part[b, 6])
        low = math.sqrt(square) - size - travel(joint, frame, chord, at[a, 0], at[a, 1], at[a, 2], link, base)
        if low >= (max(0.0, w.best[8]) if full else 0.0):
            if full:
                note(w.best, 4, low, t, link, base)
            continue
        if seed_pair(arm, bounds, w, a, b, low, t, full):
            return True
    return False


@njit(cache=True, error_model="numpy")
def refine_env(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, w: Work, t0: float, t1: float, full: bool, level: int, source: int,
    count: int,
) -> bool:
    """The first ``count`` balls and obstacles in row ``source``; fills row ``level``. True: the search ends."""
    ball, part, at, mark, body, env = arm.ball, arm.part, w.ball, w.mark, scene.obstacle, w.env
    joint, frame, chord, face = arm.joint, w.frame, w.chord, scene.face
    now, t, obstacles = w.counts[w.counts.shape[0] - 1, 0], 0.5 * (t0 + t1), body.shape[0]
    for k in range(count):
        pair = int(env[source, k, 0])
        s, o = pair // obstacles, pair % obstacles
        if mark[int(ball[s, 5]), 0] != now:
            put(ball, part, frame, at, mark, now, int(ball[s, 5]))
        x, y, z = at[s, 0], at[s, 1], at[s, 2]
        apart = distance(body, face, o, x, y, z)
        gap, less = apart - ball[s, 3] - body[o, O_GROW], body[o, O_SPEED] * t1 + bounds.pad
        far = nearest(joint, frame, chord, body, face, o, x, y, z, int(ball[s, 4]), apart)
        low = max(env[source, k, 1], far - ball[s, 3] - body[o, O_GROW] - less)
        if low >= bounds.clearance and not full:
            continue
        if keep_env(w, bounds, s, o, pair, ball[s, 4], low, gap - body[o, O_SPEED] * t, t, full, level):
            return True
    return False


@njit(cache=True, error_model="numpy")
def refine_own(
    arm: ArmArrays, bounds: BoundArrays, w: Work, t: float, full: bool, level: int, source: int, count: int
) -> bool:
    """Pairs of the arm's balls, like :func:`refine_env`."""
    ball, part, at, mark, own = arm.ball, arm.part, w.ball, w.mark, w.own
    joint, frame, chord = arm.joint, w.frame, w.chord
    now = w.counts[w.counts.shape[0] - 1, 0]
    for k in range(count):
        i, j = int(own[source, k, 0]), int(own[source, k, 1])
        for s in (i, j):
            if mark[int(ball[s, 5]), 0] != now:
                put(ball, part, frame, at, mark, now, int(ball[s, 5]))
        x, y, z, link, base = at[i, 0], at[i, 1], at[i, 2], int(ball[i, 4]), int(ball[j, 4])
        dx, dy, dz = x - at[j, 0], y - at[j, 1], z - at[j, 2]
        apart = math.sqrt(dx * dx + dy * dy + dz * dz)
        gap = apart - ball[i, 3] - ball[j, 3]
        if apart > SLIM:
            less = approach(joint, frame, chord, x, y, z, link, base, dx / apart, dy / apart, dz / apart)
        else:
            less = travel(joint, frame, chord, x, y, z, link, base)
        low = max(own[source, k, 2], gap - less - bounds.pad)
        if low >= 0.0 and not full:
            continue
        if keep_own(w, bounds, i, j, ball[i, 4], ball[j, 4], low, gap, t, full, level):
            return True
    return False


@njit(cache=True, error_model="numpy")
def descend(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, w: Work, segment: Array, times: Array, begin: float, end: float,
    offset: float, full: bool, row: int, listed: int, listed_own: int,
) -> bool:
    """Adaptive check of the interval [begin, end] of the motion with ``segment`` (M, n, 4) for the pairs in row ``row``.

    ``row`` < 0: none but those listed, ``listed`` balls and obstacles in the last row of ``w.env`` and ``listed_own`` balls and
    balls in that of ``w.own``. Fills ``w.best``. True: the search ends.
    """
    stack, counts = w.stack, w.counts
    stack[0, 0], stack[0, 1], stack[0, 2] = begin, end, 0.0
    top = 1
    while top > 0:
        top -= 1
        t0, t1, level = stack[top, 0], stack[top, 1], int(stack[top, 2])
        counts[counts.shape[0] - 1, 0] += 1
        counts[level, 0] = counts[level, 1] = 0
        place(arm.joint, bounds.tracking, bounds.joint_pad, bounds.travel, w.frame, w.chord, segment, times, t0, t1)
        if level == 0:
            hit = row >= 0 and seed_env(arm, scene, bounds, w, t0 + offset, t1 + offset, full, row)
            hit = hit or (row >= 0 and seed_own(arm, bounds, w, 0.5 * (t0 + t1) + offset, full, row))
            last = w.own.shape[0] - 1
            hit = hit or refine_env(arm, scene, bounds, w, t0 + offset, t1 + offset, full, 0, last, listed)
            hit = hit or refine_own(arm, bounds, w, 0.5 * (t0 + t1) + offset, full, 0, last, listed_own)
        else:
            many, own = counts[level - 1, 0], counts[level - 1, 1]
            hit = refine_env(arm, scene, bounds, w, t0 + offset, t1 + offset, full, level, level - 1, many)
            hit = hit or refine_own(arm, bounds, w, 0.5 * (t0 + t1) + offset, full, level, level - 1, own)
        if hit:
            return True
        if level < bounds.levels and counts[level, 0] + counts[level, 1] > 0:
            mid = 0.5 * (t0 + t1)
            stack[top, 0], stack[top, 1], stack[top, 2] = mid, t1, level + 1
            stack[top + 1, 0], stack[top + 1, 1], stack[top + 1, 2] = t0, mid, level + 1
            top += 2
    return False


@njit(cache=True, error_model="numpy")
def occupancy(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, w: Work, times: Array, offset: float, full: bool, culled: bool
) -> bool:
    """Adaptive check of the trajectory in ``w.segment`` that begins ``offset`` [s] after the scene's time; fills ``w.best``.

    ``culled``: each interval has its own row of pairs to begin with. True: not clear.
    """
    end = times[times.shape[0] - 1]
    top = tops(end, bounds)
    for i in range(top):
        row = i + 1 if culled else 0
        if w.todo[row, 0] + w.todo[row, 1] == 0:
            continue
        if descend(arm, scene, bounds, w, w.segment, times, end * i / top, end * (i + 1) / top, offset, full, row, 0, 0):
            return True
    return w.best[0] < bounds.clearance or w.best[4] < 0.0


@njit(cache=True, error_model="numpy")
def any_killer(arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, w: Work, times: Array, offset: float) -> bool:
    """Whether the motion touches, at one of the times and places where earlier backups of this head did; notes where.

    A touch at one time ends the search for this motion too, whatever the intervals.
    """
    ball, frame, body = arm.ball, w.frame, scene.obstacle
    for x in range(w.counts[w.counts.shape[0] - 1, 1]):
        t, i, o = w.killer[x, 0], int(w.killer[x, 1]), int(w.killer[x, 2])
        place(arm.joint, bounds.tracking, bounds.joint_pad, 0.0, frame, w.chord, w.segment, times, t - offset, t - offset)
        link = int(ball[i, 4])
        px, py, pz = world(frame, link, ball[i, 0], ball[i, 1], ball[i, 2])
        if o >= 0:
            gap = distance(body, scene.face, o, px, py, pz) - ball[i, 3] - body[o, O_GROW] - body[o, O_SPEED] * t - bounds.pad
            if gap < bounds.clearance:
                note(w.best, 0, gap, t, link, o)
        else:
            j = -1 - o
            base = int(ball[j, 4])
            qx, qy, qz = world(frame, base, ball[j, 0], ball[j, 1], ball[j, 2])
            gap = math.sqrt((px - qx) ** 2 + (py - qy) ** 2 + (pz - qz) ** 2) - ball[i, 3] - ball[j, 3] - bounds.pad
            if gap < 0.0:
                note(w.best, 4, gap, t, link, base)
        if w.best[0] < bounds.clearance or w.best[4] < 0.0:
            w.best[9], w.best[10], w.best[11] = t, i, o
            return True
    return False


@njit(cache=True, error_model="numpy")
def remember(w: Work) -> None:
    """Put what ended the last search first among the killers."""
    killer, last = w.killer, w.counts.shape[0] - 1
    found = min(w.counts[last, 1], KILLERS - 1)
    for x in range(w.counts[last, 1]):
        if killer[x, 0] == w.best[9] and killer[x, 1] == w.best[10] and killer[x, 2] == w.best[11]:
            found = x
            break
    else:
        w.counts[last, 1] = min(w.counts[last, 1] + 1, KILLERS)
    for x in range(found, 0, -1):
        killer[x, 0], killer[x, 1], killer[x, 2] = killer[x - 1, 0], killer[x - 1, 1], killer[x - 1, 2]
    killer[0, 0], killer[0, 1], killer[0, 2] = w.best[9], w.best[10], w.best[11]


@njit(cache=True, error_model="numpy")
def verdict(best: Array, clearance: float, hit: bool, full: bool, out: Array) -> int:
    """Code of a geometric check; ``out`` (4,): clearance, time, link, other: an obstacle's index, or -2 - the other link.

    Only ``full`` knows the clearance of what is clear; otherwise 0 stands for it, a bound too.
    """
    at = 4 if best[4] < best[0] else 0
    code = OK
    if not hit and not full:
        out[0], out[1], out[2], out[3] = 0.0, -1.0, -1.0, -1.0
        return code
    if hit:
        env, own = best[0] < clearance, best[4] < 0.0
        at = 4 if own and (not env or best[4] < best[0]) else 0
        code = SELF if at == 4 else COLLISION
    out[0], out[1], out[2] = best[at], best[at + 1], best[at + 2]
    out[3] = best[at + 3] if at == 0 else -2.0 - best[at + 3]
    return code


@njit(cache=True, error_model="numpy")
def check(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, w: Work, times: Array, q: Array, v: Array, a: Array,
    offset: float, last: bool, full: bool, culled: bool, out: Array,
) -> int:
    """Limits and occupancy of one trajectory, knots q, v, a (M, n) at ``times`` (M,). See :func:`verdict` for ``out``.

    ``offset``: its start after the scene's time [s]; ``last``: whether it must end at rest; ``full``: the clearance instead of
    the first violation; ``culled``: see :func:`occupancy`.
    """
    code, time, joint = limits(arm.joint, times, q, v, a, w.segment, last)
    if code != OK and (not full or code in (BAD, INCONSISTENT)):
        out[0], out[1], out[2], out[3] = -math.inf, time + offset, joint + 1, -1
        return code
    w.best[:] = -1.0
    w.best[0] = w.best[4] = w.best[8] = math.inf
    hit = culled and any_killer(arm, scene, bounds, w, times, offset)
    hit = hit or occupancy(arm, scene, bounds, w, times, offset, full, culled)
    found = verdict(w.best, bounds.clearance, hit, full, out)
    return found if code == OK else code


@njit(cache=True, error_model="numpy")
def own_arm(arm: ArmArrays) -> ArmArrays:
    """A thread's own copy: reference counts that threads share would make them wait for each other."""
    return ArmArrays(arm.joint.copy(), arm.ball.copy(), arm.part.copy(), arm.pairs.copy())


@njit(cache=True, error_model="numpy")
def own_scene(scene: SceneArrays) -> SceneArrays:
    """See :func:`own_arm`."""
    return SceneArrays(scene.obstacle.copy(), scene.face.copy())


@njit(cache=True, error_model="numpy")
def own_bounds(bounds: BoundArrays) -> BoundArrays:
    """See :func:`own_arm`."""
    return BoundArrays(
        bounds.tracking.copy(), bounds.joint_pad, bounds.pad, bounds.clearance, bounds.interval, bounds.levels, bounds.travel
    )


@njit(cache=True, error_model="numpy", nogil=True)
def check_serial(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, times: Array, q: Array, v: Array, a: Array,
    offset: float, last: bool, full: bool, code: IntArray, out: Array,
) -> None:
    """Check trajectories q, v, a (B, M, n) at ``times`` (M,); fills ``code`` (B,) and ``out`` (B, 4)."""
    work = make_work(arm, scene, bounds, times.shape[0], 0)
    for b in range(q.shape[0]):
        code[b] = check(arm, scene, bounds, work, times, q[b], v[b], a[b], offset, last, full, False, out[b])


@njit(cache=True, error_model="numpy", parallel=True)
def check_parallel(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, times: Array, q: Array, v: Array, a: Array,
    offset: float, last: bool, full: bool, code: IntArray, out: Array,
) -> None:
    """:func:`check_serial` over all Numba threads."""
    batch = q.shape[0]
    for chunk in prange((batch + CHUNK - 1) // CHUNK):
        mine, near, numbers, t = own_arm(arm), own_scene(scene), own_bounds(bounds), times.copy()
        work = make_work(mine, near, numbers, t.shape[0], 0)
        for b in range(chunk * CHUNK, min(batch, (chunk + 1) * CHUNK)):
            knots = (q[b].copy(), v[b].copy(), a[b].copy())
            code[b] = check(mine, near, numbers, work, t, knots[0], knots[1], knots[2], offset, last, full, False, out[b])


@njit(cache=True, error_model="numpy")
def build_backup(family: FamilyArrays, q0: Array, v0: Array, a0: Array, k: Array, q: Array, v: Array, a: Array) -> None:
    """Knots q, v, a (6, n) of one backup; the compiled twin of :meth:`BackupFamily.build`."""
    t = family.times
    m, n = q.shape
    for d in range(n):
        brake = family.brake[0] * v0[d] + family.brake[1] * a0[d] + family.brake[2] * k[d]
        a[0, d] = a0[d]
        a[1, d] = a[2, d] = k[d]
        a[3, d] = a[4, d] = -brake
        a[5, d] = 0.0
        q[0, d] = q0[d]
        v[0, d] = v0[d]
        for i in range(m - 1):
            h = t[i + 1] - t[i]
            v[i + 1, d] = v[i, d] + 0.5 * h * (a[i, d] + a[i + 1, d])
            q[i + 1, d] = q[i, d] + h * (v[i, d] + h * (2.0 * a[i, d] + a[i + 1, d]) / 6.0)
        v[m - 1, d] = 0.0


@njit(cache=True, error_model="numpy")
def range_of(segment: Array, times: Array, d: int, t0: float, t1: float) -> tuple[float, float]:
    """Range of joint ``d`` over [t0, t1] of the motion with ``segment`` (M, n, 4)."""
    low, high = math.inf, -math.inf
    for i in range(times.shape[0] - 1):
        if times[i] <= t1 and times[i + 1] >= t0:
            s0, s1 = max(0.0, t0 - times[i]), min(times[i + 1], t1) - times[i]
            lo, hi = cubic_range(segment[i, d, 0], segment[i, d, 1], segment[i, d, 2], segment[i, d, 3], s0, s1)
            low, high = min(low, lo), max(high, hi)
    return low, high


@njit(cache=True, error_model="numpy")
def hull(
    arm: ArmArrays, bounds: BoundArrays, family: FamilyArrays, w: Work, zero: Array, unit: Array, least: Array, most: Array,
    t0: float, t1: float,
) -> None:
    """Place the arm for all backups of a head at once: every k between ``least`` and ``most`` (n,), every time in [t0, t1].

    A backup is ``zero`` (k = 0) plus k times ``unit``; the range of the sum lies within the sum of the ranges.
    """
    w.frame[0, 0] = w.frame[0, 4] = w.frame[0, 8] = 1.0
    for d in range(arm.joint.shape[0]):
        lo, hi = range_of(zero, family.times, d, t0, t1)
        g0, g1 = range_of(unit, family.times, d, t0, t1)
        lo += min(min(least[d] * g0, least[d] * g1), min(most[d] * g0, most[d] * g1))
        hi += max(max(least[d] * g0, least[d] * g1), max(most[d] * g0, most[d] * g1))
        w.chord[d] = chord_of(arm.joint[d, J_SLIDES], 0.5 * (hi - lo) + bounds.tracking[d] + bounds.joint_pad)
        put_frame(arm.joint, w.frame, d, 0.5 * (lo + hi))


@njit(cache=True, error_model="numpy")
def cull(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, family: FamilyArrays, w: Work, zero: Array, unit: Array, k: Array,
    offset: float,
) -> None:
    """Pairs of links and obstacles, and of links, that some backup k (K, n) of a head might bring together; see :func:`hull`.

    Writes the rows 1 .. of ``w.todo_env`` and ``w.todo_own``; whatever is left out is clear for every k of the batch.
    """
    n = k.shape[1]
    least, most = np.empty(n), np.empty(n)
    for d in range(n):
        least[d], most[d] = k[:, d].min(), k[:, d].max()
    end, obstacles, body = family.times[5], scene.obstacle.shape[0], scene.obstacle
    top = tops(end, bounds)
    for i in range(top):
        t1 = end * (i + 1) / top
        hull(arm, bounds, family, w, zero, unit, least, most, end * i / top, t1)
        w.todo[i + 1, 0] = w.todo[i + 1, 1] = 0
        w.counts[w.counts.shape[0] - 1, 0] += 1
        now = w.counts[w.counts.shape[0] - 1, 0]
        for x in range(arm.part.shape[0]):
            put_part(arm.joint, arm.part, w.frame, w.chord, w.part, w.mark, now, x)
        at = w.part
        for x in range(w.todo[0, 0]):
            p, o = w.todo_env[0, x] // obstacles, w.todo_env[0, x] % obstacles
            more = at[p, 3] + arm.part[p, 3] + bounds.pad + body[o, O_GROW] + body[o, O_SPEED] * (offset + t1)
            if not distance(body, scene.face, o, at[p, 0], at[p, 1], at[p, 2]) - more >= bounds.clearance:
                w.todo_env[i + 1, w.todo[i + 1, 0]] = w.todo_env[0, x]
                w.todo[i + 1, 0] += 1
        for x in range(arm.pairs.shape[0]):
            p, o = arm.pairs[x, 0], arm.pairs[x, 1]
            apart = math.sqrt((at[p, 0] - at[o, 0]) ** 2 + (at[p, 1] - at[o, 1]) ** 2 + (at[p, 2] - at[o, 2]) ** 2)
            link, base = int(arm.part[p, 6]), int(arm.part[o, 6])
            more = travel(arm.joint, w.frame, w.chord, at[p, 0], at[p, 1], at[p, 2], link, base)
            if not apart - more - arm.part[p, 3] - arm.part[o, 3] - bounds.pad >= 0.0:
                w.todo_own[i + 1, w.todo[i + 1, 1]] = x
                w.todo[i + 1, 1] += 1


class Lanes(NamedTuple):
    """Backups of one head side by side; every array is flat, rows of LANES numbers that :func:`row` finds.

    ``k`` (n rows), ``centre`` (n) joint positions, ``radius`` and ``chord`` (n), ``before`` (n + 1) the sum of the radii of the
    turning joints before a joint, ``turn`` (2 n) cosine and sine, ``axes`` (9 (n + 1)) and ``origin`` (3 (n + 1)) the links'
    frames for q = c, ``part`` (4 Q) centre and travel, ``gap`` (1), ``near`` (6) scratch of :func:`lane_near`, ``alive`` (1) 1
    or 0. ``placed`` (Q, 2) whether the part's rows hold this interval, and its balls' rows, ``ball`` (4 S), whose travel is a
    bound for all balls of the part; ``spread`` (Q, 8) least and greatest of each of a part's rows. ``env`` (LANES, S * O) lists
    ball * O + obstacle not clear as a whole, ``listed`` (LANES,) how many. ``segment`` (LANES, 5, n, 4) as in :class:`Work`, and
    ``built`` (LANES,) whether it is there.
    """

    k: Array
    centre: Array
    radius: Array
    chord: Array
    before: Array
    turn: Array
    axes: Array
    origin: Array
    part: Array
    gap: Array
    near: Array
    alive: Array
    placed: Flags
    ball: Array
    spread: Array
    env: IntArray
    listed: IntArray
    segment: Array
    built: Flags


@njit(cache=True, error_model="numpy")
def make_lanes(n: int, parts: int, balls: int, obstacles: int) -> Lanes:
    """Rows for n joints; the base's frame is in place."""
    axes = np.zeros(9 * (n + 1) * LANES)
    for i in (0, 4, 8):
        axes[i * LANES : (i + 1) * LANES] = 1.0
    return Lanes(
        np.empty(n * LANES), np.empty(n * LANES), np.empty(n * LANES), np.empty(n * LANES), np.zeros((n + 1) * LANES),
        np.empty(2 * n * LANES), axes,
        np.zeros(3 * (n + 1) * LANES), np.empty(4 * max(2, parts) * LANES), np.empty(LANES), np.empty(6 * LANES), np.empty(LANES),
        np.empty((parts, 2), np.bool_), np.empty(4 * balls * LANES), np.empty((parts, 8)),
        np.empty((LANES, balls * obstacles), np.int64), np.empty(LANES, np.int64), np.empty((LANES, 5, n, 4)),
        np.empty(LANES, np.bool_),
    )


@njit(cache=True, inline="always")
def row(i: int) -> int:
    """Where the i-th row of LANES numbers begins."""
    return (i * LANES) & ROWS


@njit(cache=True, inline="always")
def larger(a: float, b: float) -> float:
    """Maximum, without the care for NaN that keeps loops from being vectorised."""
    return a if a > b else b


@njit(cache=True, inline="always")
def smaller(a: float, b: float) -> float:
    """Minimum; see :func:`larger`."""
    return a if a < b else b


@njit(cache=True, error_model="numpy", fastmath=FUSED)
def lane_limits(joint: Array, times: Array, zero: Array, unit: Array, k: Array, good: Array) -> None:
    """``good`` (LANES): 1 where a backup surely keeps all limits, -1 where it surely does not, 0: :func:`limits` decides.

    It does not if a knot is beyond a limit (twice the slack aside, for rounding), or a jerk, constant on its segment. Each
    segment's position is a cubic and its velocity a quadratic, within the hulls of their Bezier points, which are linear
    in k: those of ``zero`` (5, n, 4) plus k times those of ``unit``. A NaN is never good.
    """
    for x in range(LANES):
        good[x] = 1.0
    for d in range(joint.shape[0]):
        at = row(d)
        lower, upper = max(joint[d, J_LOWER], -LANE_REACH), min(joint[d, J_UPPER], LANE_REACH)
        speed, top, jerk = joint[d, J_SPEED], joint[d, J_ACCELERATION], joint[d, J_JERK]
        law = not math.isnan(joint[d, J_LAW])
        shift, factor, up, down = joint[d, J_LAW], joint[d, J_LAW + 1], joint[d, J_LAW + 2], joint[d, J_LAW + 3]
        low_end, high_end = joint[d, J_LOWER] - 2.0 * LIMIT_SLACK, joint[d, J_UPPER] + 2.0 * LIMIT_SLACK
        v_limit, a_limit = speed * (1.0 + 2.0 * LIMIT_SLACK), top * (1.0 + 2.0 * LIMIT_SLACK)
        j_limit = jerk * (1.0 + 2.0 * LIMIT_SLACK)
        for i in range(zero.shape[0]):
            h = times[i + 1] - times[i]
            q0, v0, a0, j0 = zero[i, d, 0], zero[i, d, 1], zero[i, d, 2], zero[i, d, 3]
            q1, v1, a1, j1 = unit[i, d, 0], unit[i, d, 1], unit[i, d, 2], unit[i, d, 3]
            third, half = h / 3.0, 0.5 * h
            for x in range(LANES):
                p, v, a, j = q0 + q1 * k[at + x], v0 + v1 * k[at + x], a0 + a1 * k[at + x], j0 + j1 * k[at + x]
                v_mid, a_end = v + half * a, a + h * j
                v_end = v + half * (a + a_end)
                p_end = p + h * (v + h * (2.0 * a + a_end) * (1.0 / 6.0))
                p_one, p_two = p + third * v, p_end - third * v_end
                ph, pl = larger(larger(p, p_one), larger(p_two, p_end)), smaller(smaller(p, p_one), smaller(p_two, p_end))
                vh, vl = larger(v, larger(v_mid, v_end)), smaller(v, smaller(v_mid, v_end))
                fits = (pl >= lower) & (ph <= upper) & (vl >= -speed) & (vh <= speed)
                fits &= (abs(a) <= top) & (abs(a_end) <= top) & (abs(j) <= jerk)
                if law:
                    rise, fall = vh + shift, shift - vl
                    fits &= (vh <= 0.0) | ((ph <= up) & (rise * rise <= factor * (up - ph)))
                    fits &= (vl >= 0.0) | ((pl >= down) & (fall * fall <= factor * (pl - down)))
                fails = (p < low_end) | (p > high_end) | (abs(v) > v_limit) | (abs(a) > a_limit) | (abs(j) > j_limit)
                good[x] = -1.0 if fails else (good[x] if fits else smaller(good[x], 0.0))


@njit(cache=True, error_model="numpy")
def lane_position(segment: Array, times: Array, d: int, t: float) -> float:
    """Position of joint ``d`` at time ``t`` of the motion with ``segment`` (5, n, 4)."""
    i = 0
    while i < segment.shape[0] - 1 and times[i + 1] <= t:
        i += 1
    return cubic(segment[i, d, 0], segment[i, d, 1], segment[i, d, 2], segment[i, d, 3], t - times[i])


@njit(cache=True, error_model="numpy", fastmath=FUSED)
def widen(
    centre: Array, radius: Array, at: int, k: Array, zero: Array, unit: Array, times: Array, i: int, d: int, s0: float, s1: float
) -> None:
    """Let ``radius`` reach the Bezier points of joint ``d`` over [s0, s1] within segment i."""
    h = (s1 - s0) / 3.0
    u0, u1 = s0 - times[i], s1 - times[i]
    for end in range(2):
        u, step = (u0, h) if end == 0 else (u1, -h)
        q0 = cubic(zero[i, d, 0], zero[i, d, 1], zero[i, d, 2], zero[i, d, 3], u)
        q1 = cubic(unit[i, d, 0], unit[i, d, 1], unit[i, d, 2], unit[i, d, 3], u)
        p0 = q0 + step * (zero[i, d, 1] + u * (zero[i, d, 2] + 0.5 * u * zero[i, d, 3]))
        p1 = q1 + step * (unit[i, d, 1] + u * (unit[i, d, 2] + 0.5 * u * unit[i, d, 3]))
        for x in range(LANES):
            kx, c = k[at + x], centre[at + x]
            radius[at + x] = larger(radius[at + x], larger(abs(q0 + q1 * kx - c), abs(p0 + p1 * kx - c)))


@njit(cache=True, error_model="numpy", fastmath=FUSED)
def lane_turns(joint: Array, centre: Array, turn: Array, links: int) -> None:
    """Cosines and sines of the first ``links`` joints, by the half angle: Taylor series for |y| <= pi/2 (rest < 3e-16)."""
    for d in range(links):
        at, co = row(d), row(2 * d)
        if joint[d, J_SLIDES] != 0.0:
            for x in range(LANES):
                turn[co + x], turn[co + LANES + x] = 1.0, 0.0
            continue
        for x in range(LANES):
            c = centre[at + x]
            n = (c * (0.5 / math.pi) + 6755399441055744.0) - 6755399441055744.0  # rounds to the nearest integer
            y = 0.5 * ((c - n * 6.28125) - n * (2.0 * math.pi - 6.28125))
            z = y * y
            s = y * (1.0 + z * (-1 / 6 + z * (1 / 120 + z * (-1 / 5040 + z * (1 / 362880 + z * (-1 / 39916800 + z * (
                1 / 6227020800 + z * (-1 / 1307674368000 + z * (1 / 355687428096000 - z / 121645100408832000)))))))))
            o = 1.0 + z * (-1 / 2 + z * (1 / 24 + z * (-1 / 720 + z * (1 / 40320 + z * (-1 / 3628800 + z * (
                1 / 479001600 + z * (-1 / 87178291200 + z * (1 / 20922789888000 - z / 6402373705728000))))))))
            turn[co + x], turn[co + LANES + x] = 1.0 - 2.0 * s * s, 2.0 * s * o


@njit(cache=True, error_model="numpy", fastmath=FUSED)
def lane_frames(joint: Array, centre: Array, turn: Array, axes: Array, origin: Array, links: int) -> None:
    """:func:`put_frame` for the first ``links`` joints of all lanes."""
    lane_turns(joint, centre, turn, links)
    for d in range(links):
        j0, j1, j2, j3, j4, j5 = joint[d, 0], joint[d, 1], joint[d, 2], joint[d, 3], joint[d, 4], joint[d, 5]
        j6, j7, j8, s0, s1, s2 = joint[d, 6], joint[d, 7], joint[d, 8], joint[d, 9], joint[d, 10], joint[d, 11]
        co, at = row(2 * d), row(d)
        for y in range(3):
            e, p = row(9 * d + 3 * y), row(3 * d + y)
            for x in range(LANES):
                e0, e1, e2 = axes[e + x], axes[e + LANES + x], axes[e + 2 * LANES + x]
                f0, f1 = e0 * j0 + e1 * j3 + e2 * j6, e0 * j1 + e1 * j4 + e2 * j7
                axes[e + 9 * LANES + x] = f0 * turn[co + x] + f1 * turn[co + LANES + x]
                axes[e + 10 * LANES + x] = f1 * turn[co + x] - f0 * turn[co + LANES + x]
                axes[e + 11 * LANES + x] = e0 * j2 + e1 * j5 + e2 * j8
            for x in range(LANES):
                shift = axes[e + x] * s0 + axes[e + LANES + x] * s1 + axes[e + 2 * LANES + x] * s2
                origin[p + 3 * LANES + x] = origin[p + x] + shift
            if joint[d, J_SLIDES] != 0.0:
                for x in range(LANES):
                    origin[p + 3 * LANES + x] += centre[at + x] * axes[e + 11 * LANES + x]


@njit(cache=True, error_model="numpy")
def lane_place(
    arm: ArmArrays, bounds: BoundArrays, times: Array, zero: Array, unit: Array, lanes: Lanes, t0: float, t1: float
) -> None:
    """:func:`place` for all lanes: centres and frames the same, chords no less.

    The range of a cubic over the interval lies within its Bezier points, and
    ``2 sin(r/2) <= r - r^3/24 + r^5/1920`` (an alternating series) for r <= pi.
    """
    joint, k, centre, radius, chord, before = arm.joint, lanes.k, lanes.centre, lanes.radius, lanes.chord, lanes.before
    mid = 0.5 * (t0 + t1)
    for d in range(joint.shape[0]):
        at = row(d)
        q0, q1 = lane_position(zero, times, d, mid), lane_position(unit, times, d, mid)
        for x in range(LANES):
            centre[at + x] = q0 + q1 * k[at + x]
            radius[at + x] = 0.0
        for i in range(zero.shape[0]):
            s0, s1 = max(t0, times[i]), min(t1, times[i + 1])
            if s0 < s1:
                widen(centre, radius, at, k, zero, unit, times, i, d, s0, s1)
        more, scale = bounds.tracking[d] + bounds.joint_pad, bounds.travel
        if joint[d, J_SLIDES] != 0.0:
            for x in range(LANES):
                radius[at + x] = radius[at + x] * scale + more
                chord[at + x] = radius[at + x]
                before[at + LANES + x] = before[at + x]
        else:
            for x in range(LANES):
                radius[at + x] = radius[at + x] * scale + more
                before[at + LANES + x] = before[at + x] + radius[at + x]
                r = smaller(radius[at + x], math.pi)
                chord[at + x] = r * (1.0 + r * r * (-1.0 / 24.0 + r * r * (1.0 / 1920.0)))
    lane_frames(joint, centre, lanes.turn, lanes.axes, lanes.origin, joint.shape[0])
    lanes.placed[:, :] = False


@njit(cache=True, error_model="numpy", fastmath=FUSED)
def lane_point(axes: Array, origin: Array, link: int, px: float, py: float, pz: float, at: Array, where: int) -> None:
    """Where the point (px, py, pz) of a link is in each lane: three rows of ``at`` from ``where`` on."""
    e, o, where = row(9 * link), row(3 * link), where & ROWS
    for x in range(LANES):
        at[where + x] = origin[o + x] + axes[e + x] * px + axes[e + LANES + x] * py + axes[e + 2 * LANES + x] * pz
    for x in range(LANES):
        r = axes[e + 3 * LANES + x] * px + axes[e + 4 * LANES + x] * py + axes[e + 5 * LANES + x] * pz
        at[where + LANES + x] = origin[o + LANES + x] + r
    for x in range(LANES):
        r = axes[e + 6 * LANES + x] * px + axes[e + 7 * LANES + x] * py + axes[e + 8 * LANES + x] * pz
        at[where + 2 * LANES + x] = origin[o + 2 * LANES + x] + r


@njit(cache=True, error_model="numpy", fastmath=FUSED)
def lane_travel(
    joint: Array, axes: Array, origin: Array, chord: Array, at: Array, where: int, link: int, base: int, width: float,
    out: Array, to: int,
) -> None:
    """No less than :func:`travel_around` the points in three rows of ``at`` from ``where`` on; into the row of ``out`` at ``to``.

    ``sqrt(s) <= (s / m + m) / 2`` for any m > 0: with m the first lane's root, which the others are not far from, it costs less.
    """
    where, to = where & ROWS, to & ROWS
    for x in range(LANES):
        out[to + x] = 0.0
    for j in range(link - 1, base - 1, -1):
        c, e, o = row(j), row(9 * (j + 1)), row(3 * (j + 1))
        if joint[j, J_SLIDES] != 0.0:
            for x in range(LANES):
                out[to + x] += chord[c + x]
            continue
        dx, dy, dz = at[where] - origin[o], at[where + LANES] - origin[o + LANES], at[where + 2 * LANES] - origin[o + 2 * LANES]
        along = dx * axes[e + 2 * LANES] + dy * axes[e + 5 * LANES] + dz * axes[e + 8 * LANES]
        m = math.sqrt(max(1e-4, dx * dx + dy * dy + dz * dz - along * along))
        scale, least = 0.5 / m, 0.5 * m + width
        for x in range(LANES):
            dx, dy = at[where + x] - origin[o + x], at[where + LANES + x] - origin[o + LANES + x]
            dz = at[where + 2 * LANES + x] - origin[o + 2 * LANES + x]
            ux, uy, uz = axes[e + 2 * LANES + x], axes[e + 5 * LANES + x], axes[e + 8 * LANES + x]
            cx, cy, cz = dy * uz - dz * uy, dz * ux - dx * uz, dx * uy - dy * ux
            total = out[to + x]
            out[to + x] = total + chord[c + x] * ((cx * cx + cy * cy + cz * cz) * scale + least + total)


@njit(cache=True, error_model="numpy", fastmath=FUSED)
def lane_part(
    joint: Array, part: Array, axes: Array, origin: Array, chord: Array, at: Array, where: int, i: int, spread: Array
) -> None:
    """Centre and travel, in the base frame, of part ``i``: four rows of ``at`` from ``where`` on; their ranges in ``spread``."""
    link = int(part[i, 6])
    lane_point(axes, origin, link, part[i, 0], part[i, 1], part[i, 2], at, where)
    lane_travel(joint, axes, origin, chord, at, where, link, 0, 0.0, at, (where + 3 * LANES) & ROWS)
    where &= ROWS
    for y in range(4):
        r, lo, hi = (where + y * LANES) & ROWS, math.inf, -math.inf
        for x in range(0, LANES, 4):  # two and two: half as long a chain of dependent steps
            one, two, three, four = at[r + x], at[r + x + 1], at[r + x + 2], at[r + x + 3]
            lo = smaller(lo, smaller(smaller(one, two), smaller(three, four)))
            hi = larger(hi, larger(larger(one, two), larger(three, four)))
        spread[i, 2 * y], spread[i, 2 * y + 1] = lo, hi


@njit(cache=True, error_model="numpy", fastmath=FUSED)
def lane_box(body: Array, o: int, at: Array, where: int, more: float, gap: Array) -> None:
    """:func:`lane_gap` for a box, in squares: the distance need not be known."""
    t0, t1, t2, t3, t4 = body[o, O_TURN], body[o, O_TURN + 1], body[o, O_TURN + 2], body[o, O_TURN + 3], body[o, O_TURN + 4]
    t5, t6, t7, t8 = body[o, O_TURN + 5], body[o, O_TURN + 6], body[o, O_TURN + 7], body[o, O_TURN + 8]
    p0, p1, p2 = body[o, O_AT], body[o, O_AT + 1], body[o, O_AT + 2]
    h0, h1, h2, where = body[o, O_SIZE], body[o, O_SIZE + 1], body[o, O_SIZE + 2], where & ROWS
    for i in range(LANES):
        dx, dy, dz = at[where + i] - p0, at[where + LANES + i] - p1, at[where + 2 * LANES + i] - p2
        x = larger(abs(t0 * dx + t1 * dy + t2 * dz) - h0, 0.0)
        y = larger(abs(t3 * dx + t4 * dy + t5 * dz) - h1, 0.0)
        z = larger(abs(t6 * dx + t7 * dy + t8 * dz) - h2, 0.0)
        far = at[where + 3 * LANES + i] + more
        gap[i] = (x * x + y * y + z * z) - far * far


@njit(cache=True, error_model="numpy", fastmath=FUSED)
def lane_round(kind: int, body: Array, o: int, at: Array, where: int, more: float, gap: Array) -> None:
    """:func:`lane_gap` for a sphere, capsule or cylinder; see :func:`round_distance`."""
    t0, t1, t2, t3, t4 = body[o, O_TURN], body[o, O_TURN + 1], body[o, O_TURN + 2], body[o, O_TURN + 3], body[o, O_TURN + 4]
    t5, t6, t7, t8 = body[o, O_TURN + 5], body[o, O_TURN + 6], body[o, O_TURN + 7], body[o, O_TURN + 8]
    p0, p1, p2 = body[o, O_AT], body[o, O_AT + 1], body[o, O_AT + 2]
    radius, half, where = body[o, O_SIZE], 0.0 if kind == SPHERE else body[o, O_SIZE + 1], where & ROWS
    for i in range(LANES):
        dx, dy, dz = at[where + i] - p0, at[where + LANES + i] - p1, at[where + 2 * LANES + i] - p2
        u, v, along = t0 * dx + t1 * dy + t2 * dz, t3 * dx + t4 * dy + t5 * dz, t6 * dx + t7 * dy + t8 * dz
        rho, over = math.sqrt(u * u + v * v), abs(along) - half
        flat = rho - radius
        x, y = larger(flat, 0.0), larger(over, 0.0)
        inside, outside, capsule = larger(flat, over), math.sqrt(x * x + y * y), math.sqrt(rho * rho + y * y) - radius
        here = (inside if inside <= 0.0 else outside) if kind == CYLINDER else capsule
        gap[i] = here - at[where + 3 * LANES + i] - more


@njit(cache=True, error_model="numpy", fastmath=FUSED)
def lane_gap(body: Array, face: Array, o: int, at: Array, where: int, more: float, gap: Array) -> None:
    """``gap`` (LANES): negative, or NaN, where a point of three rows of ``at`` may be within its travel (the fourth row) and
    ``more`` > 0 [m] of obstacle ``o``; its size is of no meaning."""
    kind, where = int(body[o, O_KIND]), where & ROWS
    if kind == BOX:
        lane_box(body, o, at, where, more, gap)
    elif kind == HALFSPACE:
        nx, ny, nz = body[o, O_TURN + 6], body[o, O_TURN + 7], body[o, O_TURN + 8]
        far = nx * body[o, O_AT] + ny * body[o, O_AT + 1] + nz * body[o, O_AT + 2] + more
        for x in range(LANES):
            here = nx * at[where + x] + ny * at[where + LANES + x] + nz * at[where + 2 * LANES + x]
            gap[x] = here - at[where + 3 * LANES + x] - far
    elif kind == POLYTOPE:
        for x in range(LANES):
            gap[x] = -math.inf
        for i in range(int(body[o, O_FACES]), int(body[o, O_FACES + 1])):
            nx, ny, nz, far = face[i, 0], face[i, 1], face[i, 2], face[i, 3] + more
            for x in range(LANES):
                here = nx * at[where + x] + ny * at[where + LANES + x] + nz * at[where + 2 * LANES + x] - far
                gap[x] = larger(gap[x], here - at[where + 3 * LANES + x])
    else:
        lane_round(kind, body, o, at, where, more, gap)


@njit(cache=True, error_model="numpy")
def lane_list(gap: Array, alive: Array, todo: IntArray, numbers: IntArray, first: int, entry: int) -> None:
    """Note ``entry`` in the list of every living lane whose ``gap`` is negative: rows ``first`` .. of ``todo_own``."""
    for x in range(LANES):
        if not gap[x] >= 0.0 and alive[x] > 0.0:
            todo[first + x, numbers[first + x, 1]] = entry
            numbers[first + x, 1] += 1


@njit(cache=True, error_model="numpy")
def lane_count(gap: Array, alive: Array) -> int:
    """How many living lanes' ``gap`` is negative."""
    count = 0
    for x in range(LANES):
        count += 0 if (gap[x] >= 0.0) | (alive[x] <= 0.0) else 1
    return count


@njit(cache=True, error_model="numpy", fastmath=FUSED)
def lane_approach(joint: Array, lanes: Lanes, at: Array, where: int, link: int, base: int) -> None:
    """:func:`approach` of the points in three rows of ``at`` from ``where`` on, along the first three rows of ``lanes.near``.

    Into the fifth row; no less than :func:`approach` where the first three rows hold a unit vector.
    """
    near, axes, origin, chord, radius, before = lanes.near, lanes.axes, lanes.origin, lanes.chord, lanes.radius, lanes.before
    where, first = where & ROWS, row(base)
    for x in range(LANES):
        near[4 * LANES + x] = near[5 * LANES + x] = 0.0
    for j in range(link - 1, base - 1, -1):
        c, e, o = row(j), row(9 * (j + 1)), row(3 * (j + 1))
        if joint[j, J_SLIDES] != 0.0:
            for x in range(LANES):
                along = near[x] * axes[e + 2 * LANES + x] + near[LANES + x] * axes[e + 5 * LANES + x]
                along += near[2 * LANES + x] * axes[e + 8 * LANES + x]
                near[4 * LANES + x] += radius[c + x] * (abs(along) + (before[c + x] - before[first + x]))
                near[5 * LANES + x] += radius[c + x]
            continue
        for x in range(LANES):
            dx, dy = at[where + x] - origin[o + x], at[where + LANES + x] - origin[o + LANES + x]
            dz = at[where + 2 * LANES + x] - origin[o + 2 * LANES + x]
            ux, uy, uz = axes[e + 2 * LANES + x], axes[e + 5 * LANES + x], axes[e + 8 * LANES + x]
            cx, cy, cz = uy * dz - uz * dy, uz * dx - ux * dz, ux * dy - uy * dx
            along, r = near[x] * cx + near[LANES + x] * cy + near[2 * LANES + x] * cz, radius[c + x]
            far = math.sqrt(cx * cx + cy * cy + cz * cz) + near[5 * LANES + x]
            near[4 * LANES + x] += r * (abs(along) + far * (0.5 * r + (before[c + x] - before[first + x])))
            near[5 * LANES + x] += chord[c + x] * far
    for x in range(LANES):
        near[4 * LANES + x] = smaller(near[4 * LANES + x], near[5 * LANES + x])


@njit(cache=True, error_model="numpy")
def lane_near(
    arm: ArmArrays, scene: SceneArrays, lanes: Lanes, at: Array, where: int, link: int, o: int, more: float, gap: Array
) -> None:
    """Sharpen ``gap`` (LANES) of :func:`lane_gap`, where negative, by the direction of the obstacle; see :func:`nearest`."""
    body, face, near, alive, where = scene.obstacle, scene.face, lanes.near, lanes.alive, where & ROWS
    for x in range(LANES):
        near[x] = near[LANES + x] = near[2 * LANES + x] = 0.0
        near[3 * LANES + x] = -math.inf
    for x in range(LANES):
        if not gap[x] >= 0.0 and alive[x] > 0.0:
            px, py, pz = at[where + x], at[where + LANES + x], at[where + 2 * LANES + x]
            apart = distance(body, face, o, px, py, pz)
            if apart > SLIM:
                nx, ny, nz = normal(body, face, o, px, py, pz)
                near[x], near[LANES + x], near[2 * LANES + x], near[3 * LANES + x] = nx, ny, nz, apart
    lane_approach(arm.joint, lanes, at, where, link, 0)
    for x in range(LANES):
        gap[x] = gap[x] if gap[x] >= 0.0 else near[3 * LANES + x] - near[4 * LANES + x] - more


@njit(cache=True, error_model="numpy")
def lane_balls(arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, lanes: Lanes, i: int, o: int, t1: float) -> None:
    """All balls of part ``i`` against obstacle ``o``; those not clear go to the lanes' lists."""
    ball, body, face, at, gap, alive = arm.ball, scene.obstacle, scene.face, lanes.ball, lanes.gap, lanes.alive
    env, listed, link, first, last = lanes.env, lanes.listed, int(arm.part[i, 6]), int(arm.part[i, 4]), int(arm.part[i, 5])
    if not lanes.placed[i, 1]:
        lanes.placed[i, 1] = True
        most, width = row(4 * first + 3), arm.part[i, 7]
        lane_travel(arm.joint, lanes.axes, lanes.origin, lanes.chord, lanes.part, row(4 * i), link, 0, width, at, most)
        for s in range(first, last):
            lane_point(lanes.axes, lanes.origin, link, ball[s, 0], ball[s, 1], ball[s, 2], at, row(4 * s))
            to = row(4 * s + 3)
            for x in range(LANES):
                at[to + x] = at[most + x]
    grown = bounds.clearance + bounds.pad + body[o, O_GROW] + body[o, O_SPEED] * t1
    for s in range(first, last):
        lane_gap(body, face, o, at, row(4 * s), grown + ball[s, 3], gap)
        if lane_count(gap, alive) > 0:
            lane_near(arm, scene, lanes, at, row(4 * s), link, o, grown + ball[s, 3], gap)
            for x in range(LANES):
                if not gap[x] >= 0.0 and alive[x] > 0.0:
                    env[x, listed[x]] = s * body.shape[0] + o
                    listed[x] += 1


@njit(cache=True, error_model="numpy")
def apart_from_box(spread: Array, i: int, body: Array, o: int) -> float:
    """Distance of the middle of obstacle ``o`` from the box that holds part ``i``'s centres in all lanes; NaN if one is."""
    x = larger(larger(spread[i, 0] - body[o, O_AT], body[o, O_AT] - spread[i, 1]), 0.0)
    y = larger(larger(spread[i, 2] - body[o, O_AT + 1], body[o, O_AT + 1] - spread[i, 3]), 0.0)
    z = larger(larger(spread[i, 4] - body[o, O_AT + 2], body[o, O_AT + 2] - spread[i, 5]), 0.0)
    return math.sqrt(x * x + y * y + z * z)


@njit(cache=True, error_model="numpy")
def lane_env(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, w: Work, lanes: Lanes, t1: float, r: int
) -> None:
    """Pairs of part and obstacle of row ``r``, in all lanes; what balls are not clear go to the lanes' lists."""
    todo, numbers, body, face, part, joint = w.todo_env, w.todo, scene.obstacle, scene.face, arm.part, arm.joint
    at, gap, alive, placed, obstacles = lanes.part, lanes.gap, lanes.alive, lanes.placed, scene.obstacle.shape[0]
    axes, origin, chord, spread = lanes.axes, lanes.origin, lanes.chord, lanes.spread
    for y in range(numbers[r, 0]):
        i = todo[r, y] // obstacles
        o, where = todo[r, y] - i * obstacles, row(4 * i)
        if not placed[i, 0]:
            placed[i, 0] = True
            lane_part(joint, part, axes, origin, chord, at, where, i, spread)
        more = bounds.clearance + part[i, 3] + bounds.pad + body[o, O_GROW] + body[o, O_SPEED] * t1
        if apart_from_box(spread, i, body, o) > body[o, O_ROUND] + more + spread[i, 7]:
            continue  # in every lane
        lane_gap(body, face, o, at, where, more, gap)
        if lane_count(gap, alive) > 0:
            lane_balls(arm, scene, bounds, lanes, i, o, t1)


@njit(cache=True, error_model="numpy", fastmath=FUSED)
def lane_apart(at: Array, a: int, b: int, travel_at: Array, where: int, more: float, gap: Array) -> None:
    """``gap``: squared distance of two points, rows a .. and b .. of ``at``, less that of their travel plus ``more`` [m]."""
    a, b, where = a & ROWS, b & ROWS, where & ROWS
    for x in range(LANES):
        dx, dy = at[a + x] - at[b + x], at[a + LANES + x] - at[b + LANES + x]
        dz = at[a + 2 * LANES + x] - at[b + 2 * LANES + x]
        far = travel_at[where + x] + more
        gap[x] = (dx * dx + dy * dy + dz * dz) - far * far


@njit(cache=True, error_model="numpy")
def lane_own(arm: ArmArrays, bounds: BoundArrays, w: Work, lanes: Lanes, r: int, first: int) -> None:
    """Pairs of parts that are not clear as a whole, for each lane: rows ``first`` .. of the lists."""
    todo, numbers, part, pairs, joint = w.todo_own, w.todo, arm.part, arm.pairs, arm.joint
    at, gap, alive, placed, centre = lanes.part, lanes.gap, lanes.alive, lanes.placed, lanes.centre
    axes, origin, chord, spread = lanes.axes, lanes.origin, lanes.chord, lanes.spread
    for y in range(numbers[r, 1]):
        i, j = pairs[todo[r, y], 0], pairs[todo[r, y], 1]
        a, b, more = row(4 * i), row(4 * j), part[i, 3] + part[j, 3] + bounds.pad
        for p in (i, j):
            if not placed[p, 0]:
                placed[p, 0] = True
                lane_part(joint, part, axes, origin, chord, at, row(4 * p), p, spread)
        lane_apart(at, a, b, at, (a + 3 * LANES) & ROWS, more, gap)  # the travel in the base frame is more
        if lane_count(gap, alive) > 0:
            # the joints' centres are no longer needed: their first row takes the travel relative to part j's link
            lane_travel(joint, axes, origin, chord, at, a, int(part[i, 6]), int(part[j, 6]), 0.0, centre, 0)
            lane_apart(at, a, b, centre, 0, more, gap)
            lane_list(gap, alive, todo, numbers, first, todo[r, y])


@njit(cache=True, error_model="numpy")
def lane_touch(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, lanes: Lanes, times: Array, zero: Array, unit: Array, offset: float,
    killer: Array, clearance: Array,
) -> None:
    """End the lanes that touch at the time and place of ``killer`` (3,); see :func:`any_killer`. Fills their ``clearance``."""
    ball, joint, body, k, centre, gap = arm.ball, arm.joint, scene.obstacle, lanes.k, lanes.centre, lanes.gap
    t, i, o = killer[0], int(killer[1]), int(killer[2])
    link, s = int(ball[i, 4]), killer[0] - offset
    for d in range(link):
        to = row(d)
        q0, q1 = lane_position(zero, times, d, s), lane_position(unit, times, d, s)
        for x in range(LANES):
            centre[to + x] = q0 + q1 * k[to + x]
    lane_frames(joint, centre, lanes.turn, lanes.axes, lanes.origin, link)
    at, alive, bar, two = lanes.part, lanes.alive, 0.0 if o < 0 else bounds.clearance, 4 * LANES
    lane_point(lanes.axes, lanes.origin, link, ball[i, 0], ball[i, 1], ball[i, 2], at, 0)
    for x in range(LANES):
        at[3 * LANES + x] = 0.0
    if o >= 0:
        more = ball[i, 3] + body[o, O_GROW] + body[o, O_SPEED] * t + bounds.pad
        lane_gap(body, scene.face, o, at, 0, bar + more, gap)
    else:
        j = -1 - o
        more = ball[i, 3] + ball[j, 3] + bounds.pad
        lane_point(lanes.axes, lanes.origin, int(ball[j, 4]), ball[j, 0], ball[j, 1], ball[j, 2], at, two)
        lane_apart(at, 0, two, at, 3 * LANES, more, gap)
    for x in range(clearance.shape[0]):
        if alive[x] > 0.0 and gap[x] < 0.0:
            px, py, pz = at[x], at[LANES + x], at[2 * LANES + x]
            if o >= 0:
                here = distance(body, scene.face, o, px, py, pz)
            else:
                here = math.sqrt((px - at[two + x]) ** 2 + (py - at[two + LANES + x]) ** 2 + (pz - at[two + 2 * LANES + x]) ** 2)
            alive[x], clearance[x] = 0.0, min(here - more, bar)


@njit(cache=True, error_model="numpy")
def lane_segments(times: Array, zero: Array, unit: Array, lanes: Lanes, x: int) -> None:
    """Write ``lanes.segment[x]``."""
    lanes.built[x] = True
    segment = lanes.segment
    for i in range(zero.shape[0]):
        for d in range(zero.shape[1]):
            k = lanes.k[row(d) + x]
            for c in range(4):
                segment[x, i, d, c] = zero[i, d, c] + unit[i, d, c] * k


@njit(cache=True, error_model="numpy")
def take(lanes: Lanes, w: Work, n: int, x: int) -> None:
    """Frames and chords of lane x into ``w``, as :func:`place` leaves them; a new interval begins."""
    frame, chord, axes, origin = w.frame, w.chord, lanes.axes, lanes.origin
    w.counts[w.counts.shape[0] - 1, 0] += 1
    for link in range(n + 1):
        for e in range(9):
            frame[link, e] = axes[row(9 * link + e) + x]
        for e in range(3):
            frame[link, 9 + e] = origin[row(3 * link + e) + x]
    for d in range(n):
        chord[d], chord[n + d] = lanes.chord[row(d) + x], lanes.radius[row(d) + x]


@njit(cache=True, error_model="numpy")
def settle_own(arm: ArmArrays, bounds: BoundArrays, w: Work, lanes: Lanes, x: int, first: int) -> int:
    """Balls of the arm that lane x is not clear of for the whole interval, of the pairs of parts in its list.

    Writes them to the last row of ``w.own``; returns how many.
    """
    ball, part, joint, pairs, todo, at, mark = arm.ball, arm.part, arm.joint, arm.pairs, w.todo_own, w.ball, w.mark
    frame, chord, own, parts = w.frame, w.chord, w.own, lanes.part
    last, kept = w.own.shape[0] - 1, 0
    take(lanes, w, joint.shape[0], x)
    now = w.counts[w.counts.shape[0] - 1, 0]
    for y in range(w.todo[first + x, 1]):
        a, b = pairs[todo[first + x, y], 0], pairs[todo[first + x, y], 1]
        for i in (a, b):
            if mark[i, 0] != now:
                put(ball, part, frame, at, mark, now, i)
        link, base, where = int(part[a, 6]), int(part[b, 6]), row(4 * a) + x
        px, py, pz = parts[where], parts[where + LANES], parts[where + 2 * LANES]
        wide = travel_around(joint, frame, chord, px, py, pz, link, base, part[a, 7]) + bounds.pad
        for i in range(int(part[a, 4]), int(part[a, 5])):
            px, py, pz = at[i, 0], at[i, 1], at[i, 2]
            for j in range(int(part[b, 4]), int(part[b, 5])):
                dx, dy, dz = px - at[j, 0], py - at[j, 1], pz - at[j, 2]
                square, far = dx * dx + dy * dy + dz * dz, wide + ball[i, 3] + ball[j, 3]
                if square > far * far:
                    continue
                apart = math.sqrt(square)
                if apart > SLIM:
                    less = approach(joint, frame, chord, px, py, pz, link, base, dx / apart, dy / apart, dz / apart)
                    if apart - less >= ball[i, 3] + ball[j, 3] + bounds.pad:
                        continue
                own[last, kept, 0], own[last, kept, 1], own[last, kept, 2] = i, j, -math.inf
                kept += 1
    return kept


@njit(cache=True, error_model="numpy")
def side_by_side(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, family: FamilyArrays, w: Work, lanes: Lanes, zero: Array,
    unit: Array, q: Array, v: Array, a: Array, k: Array, offset: float, feasible: Flags, clearance: Array,
) -> None:
    """Up to LANES backups k (B, n) of one head that ends in the state q, v, a (n,); fills ``feasible`` and ``clearance`` (B,).

    Whole parts against the culled pairs, then balls, in all lanes at once; what is not clear that way goes lane by lane through
    :func:`descend`. It would find each bound on the way no less, so the verdicts are those of :func:`check`: only where it
    looks first differs.
    """
    n, count, times, alive = k.shape[1], k.shape[0], family.times, lanes.alive
    for d in range(n):
        at = row(d)
        for x in range(LANES):
            lanes.k[at + x] = k[x if x < count else 0, d]
    lane_limits(arm.joint, times, zero, unit, lanes.k, alive)
    for x in range(count, LANES):
        alive[x] = 0.0
    lanes.built[:] = False
    knots = (np.empty((6, n)), np.empty((6, n)), np.empty((6, n)))
    for x in range(count):
        clearance[x] = 0.0
        if alive[x] < 0.0:
            alive[x], clearance[x] = 0.0, -math.inf
        elif alive[x] == 0.0:
            build_backup(family, q, v, a, k[x], knots[0], knots[1], knots[2])
            code, _, _ = limits(arm.joint, times, knots[0], knots[1], knots[2], w.segment, True)
            if code == OK:
                alive[x] = 1.0
            else:
                clearance[x] = -math.inf
    for y in range(w.counts[w.counts.shape[0] - 1, 1]):
        lane_touch(arm, scene, bounds, lanes, times, zero, unit, offset, w.killer[y], clearance)
    end, last = times[5], w.own.shape[0] - 1
    top = tops(end, bounds)
    first = top + 1
    for i in range(top):
        if w.todo[i + 1, 0] + w.todo[i + 1, 1] == 0 or not alive.any():
            continue
        begin, stop = end * i / top, end * (i + 1) / top
        w.todo[first:, :] = 0
        lanes.listed[:] = 0
        lane_place(arm, bounds, times, zero, unit, lanes, begin, stop)
        lane_env(arm, scene, bounds, w, lanes, stop + offset, i + 1)
        lane_own(arm, bounds, w, lanes, i + 1, first)
        for x in range(count):
            listed = lanes.listed[x]
            if alive[x] == 0.0 or w.todo[first + x, 1] + listed == 0:
                continue
            listed_own = settle_own(arm, bounds, w, lanes, x, first) if w.todo[first + x, 1] > 0 else 0
            if listed + listed_own == 0:
                continue
            for y in range(listed):
                w.env[last, y, 0], w.env[last, y, 1] = lanes.env[x, y], -math.inf
            if not lanes.built[x]:
                lane_segments(times, zero, unit, lanes, x)
            w.best[:] = -1.0
            w.best[0] = w.best[4] = w.best[8] = math.inf
            if descend(
                arm, scene, bounds, w, lanes.segment[x], times, begin, stop, offset, False, -1, listed, listed_own
            ):
                alive[x], clearance[x] = 0.0, min(w.best[0], w.best[4])
                remember(w)
                lane_touch(arm, scene, bounds, lanes, times, zero, unit, offset, w.killer[0], clearance)
    for x in range(count):
        feasible[x] = alive[x] > 0.0


@njit(cache=True, error_model="numpy")
def responses(arm: ArmArrays, family: FamilyArrays, q: Array, v: Array, a: Array, zero: Array, unit: Array) -> bool:
    """Segments (5, n, 4) of the backup with k = 0 from the state q, v, a (n,), and of what one k adds. False: malformed."""
    n = q.shape[0]
    nothing = np.zeros(n)
    knots = (np.empty((6, n)), np.empty((6, n)), np.empty((6, n)))
    build_backup(family, nothing, nothing, nothing, np.ones(n), knots[0], knots[1], knots[2])
    one, _, _ = limits(arm.joint, family.times, knots[0], knots[1], knots[2], unit, False)
    build_backup(family, q, v, a, nothing, knots[0], knots[1], knots[2])
    two, _, _ = limits(arm.joint, family.times, knots[0], knots[1], knots[2], zero, False)
    return one not in (BAD, INCONSISTENT) and two not in (BAD, INCONSISTENT)


@njit(cache=True, error_model="numpy")
def one_head(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, family: FamilyArrays, times: Array, q: Array, v: Array, a: Array,
    k: Array, full: bool, head_out: Array, feasible: Flags, clearance: Array,
) -> int:
    """One head, knots q, v, a (M, n), and its backups k (K, n); fills ``feasible`` and ``clearance`` (K,). Returns a code."""
    m, n, count = times.shape[0], q.shape[1], k.shape[0]
    culled = not full and count > 1
    work = make_work(arm, scene, bounds, max(m, 6), tops(family.times[5], bounds) if culled else 0)
    code = check(arm, scene, bounds, work, times, q, v, a, 0.0, False, full, False, head_out)
    if code != OK and not full:
        feasible[:] = False
        clearance[:] = head_out[0]
        return code
    zero, unit = np.empty((5, n, 4)), np.empty((5, n, 4))
    culled = culled and responses(arm, family, q[m - 1], v[m - 1], a[m - 1], zero, unit) and bool(np.isfinite(k).all())
    if culled:
        cull(arm, scene, bounds, family, work, zero, unit, k, times[m - 1])
    if culled and count >= LANES_FROM:
        lanes = make_lanes(n, arm.part.shape[0], arm.ball.shape[0], scene.obstacle.shape[0])
        for b in range(0, count, LANES):
            part = slice(b, min(count, b + LANES))
            side_by_side(
                arm, scene, bounds, family, work, lanes, zero, unit, q[m - 1], v[m - 1], a[m - 1], k[part], times[m - 1],
                feasible[part], clearance[part],
            )
        for i in range(count):
            clearance[i] = min(head_out[0], clearance[i])
        return code
    back_q, back_v, back_a = np.empty((6, n)), np.empty((6, n)), np.empty((6, n))
    out = np.empty(4)
    for i in range(count):
        build_backup(family, q[m - 1], v[m - 1], a[m - 1], k[i], back_q, back_v, back_a)
        found = check(arm, scene, bounds, work, family.times, back_q, back_v, back_a, times[m - 1], True, full, culled, out)
        feasible[i] = code == OK and found == OK
        if culled and found in (SELF, COLLISION):
            remember(work)
        clearance[i] = min(head_out[0], out[0])
    return code


@njit(cache=True, error_model="numpy", nogil=True)
def grid_serial(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, family: FamilyArrays, times: Array, q: Array, v: Array, a: Array,
    k: Array, full: bool, code: IntArray, head_out: Array, feasible: Flags, clearance: Array,
) -> None:
    """All heads q, v, a (H, M, n) with backups k (1, K, n), shared, or (H, K, n), each head's own."""
    for h in range(q.shape[0]):
        ks = k[np.int64(h) if k.shape[0] > 1 else 0]
        code[h] = one_head(arm, scene, bounds, family, times, q[h], v[h], a[h], ks, full, head_out[h], feasible[h], clearance[h])


@njit(cache=True, error_model="numpy", parallel=True)
def grid_parallel(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, family: FamilyArrays, times: Array, q: Array, v: Array, a: Array,
    k: Array, full: bool, code: IntArray, head_out: Array, feasible: Flags, clearance: Array,
) -> None:
    """:func:`grid_serial` over all Numba threads."""
    for h in prange(q.shape[0]):
        ks = k[np.int64(h) if k.shape[0] > 1 else 0].copy()
        theirs = FamilyArrays(family.times.copy(), family.brake.copy())
        code[h] = one_head(
            own_arm(arm), own_scene(scene), own_bounds(bounds), theirs, times.copy(), q[h].copy(), v[h].copy(), a[h].copy(),
            ks, full, head_out[h], feasible[h], clearance[h],
        )


@njit(cache=True, error_model="numpy", nogil=True)
def sweep(
    arm: ArmArrays, bounds: BoundArrays, times: Array, q: Array, v: Array, a: Array, edges: Array, centers: Array, radii: Array
) -> int:
    """Inflated balls of one trajectory, q, v, a (M, n), for the intervals between ``edges`` (N + 1,).

    Fills ``centers`` (N, S, 3) and ``radii`` (N, S); returns the code of the limits.
    """
    work = make_work(arm, SceneArrays(np.empty((0, O_SKIP)), np.empty((0, 4))), bounds, times.shape[0], 0)
    code, _, _ = limits(arm.joint, times, q, v, a, work.segment, False)
    if code in (BAD, INCONSISTENT):
        return code
    for i in range(edges.shape[0] - 1):
        work.counts[work.counts.shape[0] - 1, 0] += 1
        place(
            arm.joint, bounds.tracking, bounds.joint_pad, bounds.travel, work.frame, work.chord, work.segment, times,
            edges[i], edges[i + 1],
        )
        for part in range(arm.part.shape[0]):
            put(arm.ball, arm.part, work.frame, work.ball, work.mark, i + 1, part)
        for s in range(arm.ball.shape[0]):
            b = work.ball[s]
            centers[i, s, 0], centers[i, s, 1], centers[i, s, 2] = b[0], b[1], b[2]
            reach = travel(arm.joint, work.frame, work.chord, b[0], b[1], b[2], int(arm.ball[s, 4]), 0)
            radii[i, s] = arm.ball[s, 3] + reach + bounds.pad
    return code
