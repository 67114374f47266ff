r"""The compiled check of one trajectory: limits, then reachable occupancy against obstacles and against the arm itself.

**Motion.** Between knots the acceleration is linear, so a joint's position is a cubic; its range over any interval follows from the
ends and the roots of the velocity (a quadratic) inside: exact, in closed form.

**Occupancy.** For an interval take c = q(middle) and, for every joint, r_j = largest distance of c_j from the range over the interval,
plus the tracking error and a pad. Let p be a point that moves with link i, at its place for q = c. Take the joints to any other values
within r, the most distal one first. While joint j moves, the joints before it still stand at c, so its axis is where it is at c, and p has
moved by at most D so far. It therefore moves on a circle of radius at most rho_j = dist(p, axis_j at c) + D, by a chord of at most
2 sin(min(r_j, pi) / 2) rho_j (a prismatic joint: r_j). Hence

    D <- 0;   for j = i .. 1:   D <- D + 2 sin(min(r_j, pi)/2) (dist(p, axis_j) + D)

and the ball (p, R) of link i lies within ball(p, R + D) during the whole interval, whatever the arm does within its tracking error.
In the frame of an earlier link b only the joints b+1 .. i count: the sum stopped there bounds the motion of two links relative to
each other.

**Adaptive time.** A pair (ball, obstacle) or (ball, ball) that is clear for an interval is clear for both halves: only pairs that are not
go down, until the finest interval. If the balls touch at the middle itself, no finer interval can be clear: the search ends.

Every array is float64, every sum in a fixed order: the result does not depend on the number of threads.

All compiled code is in this one file on purpose: Numba's cache notices changes of the file a function stands in, not of its callees.
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

# codes of verdicts inside the kernels; certify.py maps them to core.types.Reason
OK, BAD, INCONSISTENT, REST, POSITION, VELOCITY, ACCELERATION, JERK, SELF, COLLISION = range(10)
#: disagreement of stored knots with the integral of the accelerations that is tolerated (covered by Bounds.joint_pad) [rad, rad/s]
KNOT_TOLERANCE = 1e-6
#: longest segment [s]: rounding of a cubic with |a| <= 100 rad/s^2 stays below 1e-9 rad
MAX_SEGMENT = 100.0
#: relative slack on limits, so that a motion at its limit is not refused for the last bit
LIMIT_SLACK = 1e-9
REST_TOLERANCE = 1e-6
SPEED_SPLITS = 8


#: held during every parallel call: Numba's thread pool must not be entered from two Python threads at once
PARALLEL_LOCK = threading.Lock()
#: trajectories one scratch space serves in turn
CHUNK = 16


class ArmArrays(NamedTuple):
    """An arm for the kernels; n joints, L = n + 1 links (0 = base), S spheres sorted by link.

    ``prismatic`` (n,), ``rotation`` (n, 3, 3) and ``translation`` (n, 3): joint frame in its parent's at zero, axis = local z.
    ``lower .. jerk`` (n,): limits [rad, rad/s, rad/s^2, rad/s^3]; ``speed_law`` (n, 4): offset a, factor b, anchors up and low of the
    position-dependent limits ``v <= max(0, sqrt(b (up - q)) - a)`` and ``-v <= max(0, sqrt(b (q - low)) - a)``, NaN where there is none.
    ``center`` (S, 3), ``radius`` (S,), ``first`` (L+1,): spheres of link l are ``first[l] .. first[l+1]-1``; ``link`` (S,): the sphere's link.
    ``link_center`` (L, 3), ``link_radius`` (L,): a ball around all spheres of the link (radius < 0: the link has none).
    ``pairs`` (P, 2): links (distal, proximal) that must not touch each other.
    """

    prismatic: IntArray
    rotation: Array
    translation: Array
    lower: Array
    upper: Array
    velocity: Array
    acceleration: Array
    jerk: Array
    speed_law: Array
    center: Array
    radius: Array
    first: IntArray
    link: IntArray
    link_center: Array
    link_radius: Array
    pairs: IntArray


class SceneArrays(NamedTuple):
    """Obstacles for the kernels, O of them.

    ``kind`` (O,), ``size`` (O, 3), ``rotation`` (O, 3, 3) base to local, ``position`` (O, 3), ``grow`` (O,) [m] inflation at t = 0,
    ``speed`` (O,) [m/s], ``ignore`` (O, L) 1 where the link is not checked, ``face_first`` (O+1,), ``faces`` (F, 4): unit normal, offset.
    """

    kind: IntArray
    size: Array
    rotation: Array
    position: Array
    grow: Array
    speed: Array
    ignore: IntArray
    face_first: IntArray
    faces: Array


class BoundArrays(NamedTuple):
    """Numbers of :class:`Bounds` for the kernels: ``tracking`` (n,), then scalars. ``travel`` scales the displacement term: 1 except
    in the mutation check, which shows that a test fails without it."""

    tracking: Array
    joint_pad: float
    pad: float
    clearance: float
    interval: float
    levels: int
    travel: float


class FamilyArrays(NamedTuple):
    """The family for the kernels: knot ``times`` (6,) and ``brake`` (3,): b = brake . (v0, a0, k)."""

    times: Array
    brake: Array


class Work(NamedTuple):
    """Scratch of one thread: n joints, L links, S balls; ``env``/``own`` hold active pairs a level, ``env_low``/``own_low`` their bounds;
    ``best``: (low, time, link, obstacle) against obstacles, (low, time, link, link) against itself, and an upper bound of the clearance."""

    c: Array
    chord: Array
    rot: Array
    pos: Array
    ball: Array
    ball_mark: IntArray
    reach: Array
    reach_mark: IntArray
    mark: IntArray
    jerk: Array
    env: IntArray
    own: IntArray
    env_low: Array
    own_low: Array
    env_count: IntArray
    own_count: IntArray
    left: Array
    right: Array
    depth: IntArray
    best: Array


@njit(cache=True, error_model="numpy")
def make_work(arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, knots: int) -> Work:
    """Scratch large enough for every pair at every level."""
    n = arm.lower.shape[0]
    balls = arm.radius.shape[0]
    own = 0
    for p in range(arm.pairs.shape[0]):
        a, b = arm.pairs[p, 0], arm.pairs[p, 1]
        own += (arm.first[a + 1] - arm.first[a]) * (arm.first[b + 1] - arm.first[b])
    env = balls * scene.kind.shape[0]
    rows = bounds.levels + 1
    return Work(
        np.empty(n), np.empty(n), np.empty((n + 1, 3, 3)), np.empty((n + 1, 3)), np.empty((balls, 3)), np.zeros(balls, np.int64),
        np.empty(balls), np.zeros(balls, np.int64), np.zeros(1, np.int64), np.empty((knots, n)),
        np.empty((rows, env), np.int64), np.empty((rows, own * 2), np.int64), np.empty((rows, env)), np.empty((rows, own)),
        np.zeros(rows, np.int64), np.zeros(rows, np.int64), np.empty(2 * rows + 2), np.empty(2 * rows + 2), np.zeros(2 * rows + 2, np.int64),
        np.empty(9),
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
    for i in range(2):  # roots of u0 + b0 x + j x^2 / 2, without cancellation
        if i == 0:
            if w == 0.0:
                continue
            x = 2.0 * u0 / w
        else:
            if j == 0.0:
                continue
            x = w / j
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
def speed_law_holds(law: Array, q0: float, v0: float, a0: float, j: float, length: float) -> bool:
    """Whether ``v <= max(0, sqrt(b (up - q)) - a)`` and its mirror image hold during a whole segment.

    On a piece, the greatest velocity is compared with the limit at the greatest position (the limit falls with q): sufficient on the
    piece, hence sound; pieces that fail are halved up to SPEED_SPLITS times.
    """
    a, b, up, low = law[0], law[1], law[2], law[3]
    if math.isnan(a):
        return True
    pieces = 1
    for _ in range(SPEED_SPLITS):
        step = length / pieces
        good = True
        for i in range(pieces):
            s0, s1 = i * step, (i + 1) * step
            vl, vh = speed_range(v0, a0, j, s0, s1)
            ql, qh = cubic_range(q0, v0, a0, j, s0, s1)
            most = max(0.0, math.sqrt(max(0.0, b * (up - qh))) - a)
            least = -max(0.0, math.sqrt(max(0.0, b * (ql - low))) - a)
            if vh > most + LIMIT_SLACK or vl < least - LIMIT_SLACK:
                good = False
                break
        if good:
            return True
        pieces *= 2
    return False


@njit(cache=True, error_model="numpy")
def limits(arm: ArmArrays, times: Array, q: Array, v: Array, a: Array, jerk: Array, last: bool) -> tuple[int, float, int]:
    """Consistency and limits of one trajectory, in continuous time; writes ``jerk``. ``last``: whether it must end at rest.

    Returns:
        code, time of the segment [s], joint.
    """
    m, n = q.shape
    for i in range(m - 1):
        h = times[i + 1] - times[i]
        if not (0.0 < h <= MAX_SEGMENT):
            return BAD, 0.0, 0
        for d in range(n):
            q0, v0, a0, a1 = q[i, d], v[i, d], a[i, d], a[i + 1, d]
            if not (math.isfinite(q0) and math.isfinite(v0) and math.isfinite(a0) and math.isfinite(a1)):
                return BAD, times[i], d
            j = (a1 - a0) / h
            jerk[i, d] = j
            gap_v = abs(v0 + 0.5 * h * (a0 + a1) - v[i + 1, d])
            gap_q = abs(q0 + h * (v0 + h * (2.0 * a0 + a1) / 6.0) - q[i + 1, d])
            if not (gap_v <= KNOT_TOLERANCE and gap_q <= KNOT_TOLERANCE):
                return INCONSISTENT, times[i], d
            lo, hi = cubic_range(q0, v0, a0, j, 0.0, h)
            if not (lo >= arm.lower[d] - LIMIT_SLACK and hi <= arm.upper[d] + LIMIT_SLACK):
                return POSITION, times[i], d
            lo, hi = speed_range(v0, a0, j, 0.0, h)
            top = arm.velocity[d] * (1.0 + LIMIT_SLACK)
            if not (lo >= -top and hi <= top) or not speed_law_holds(arm.speed_law[d], q0, v0, a0, j, h):
                return VELOCITY, times[i], d
            top = arm.acceleration[d] * (1.0 + LIMIT_SLACK)
            if not (abs(a0) <= top and abs(a1) <= top):
                return ACCELERATION, times[i], d
            if not abs(j) <= arm.jerk[d] * (1.0 + LIMIT_SLACK):
                return JERK, times[i], d
    if last:
        for d in range(n):
            if not (abs(v[m - 1, d]) <= REST_TOLERANCE and abs(a[m - 1, d]) <= REST_TOLERANCE):
                return REST, times[m - 1], d
    return OK, 0.0, 0


@njit(cache=True, error_model="numpy")
def place(arm: ArmArrays, bounds: BoundArrays, w: Work, times: Array, q: Array, v: Array, a: Array, jerk: Array, t0: float, t1: float) -> None:
    """Centre, chords and link frames for the interval [t0, t1]."""
    m, n = q.shape
    i0 = 0
    while i0 < m - 2 and times[i0 + 1] <= t0:
        i0 += 1
    i1 = i0
    while i1 < m - 2 and times[i1 + 1] < t1:
        i1 += 1
    mid = 0.5 * (t0 + t1)
    im = i0
    while im < i1 and times[im + 1] <= mid:
        im += 1
    w.rot[0, 0, 0] = w.rot[0, 1, 1] = w.rot[0, 2, 2] = 1.0
    w.rot[0, 0, 1] = w.rot[0, 0, 2] = w.rot[0, 1, 0] = w.rot[0, 1, 2] = w.rot[0, 2, 0] = w.rot[0, 2, 1] = 0.0
    w.pos[0, 0] = w.pos[0, 1] = w.pos[0, 2] = 0.0
    for d in range(n):
        c = cubic(q[im, d], v[im, d], a[im, d], jerk[im, d], mid - times[im])
        r = 0.0
        for i in range(i0, i1 + 1):
            s0 = max(0.0, t0 - times[i])
            s1 = min(times[i + 1], t1) - times[i]
            lo, hi = cubic_range(q[i, d], v[i, d], a[i, d], jerk[i, d], s0, s1)
            r = max(r, max(hi - c, c - lo))
        r = r * bounds.travel + bounds.tracking[d] + bounds.joint_pad
        w.c[d] = c
        A, B, P = w.rot[d], arm.rotation[d], arm.translation[d]
        C = w.rot[d + 1]
        if arm.prismatic[d] == 1:
            co, si, slide = 1.0, 0.0, c
            w.chord[d] = r
        else:
            co, si, slide = math.cos(c), math.sin(c), 0.0
            w.chord[d] = 2.0 * math.sin(0.5 * min(r, math.pi))
        for x in range(3):
            e0, e1, e2 = A[x, 0], A[x, 1], A[x, 2]
            f0 = e0 * B[0, 0] + e1 * B[1, 0] + e2 * B[2, 0]
            f1 = e0 * B[0, 1] + e1 * B[1, 1] + e2 * B[2, 1]
            f2 = e0 * B[0, 2] + e1 * B[1, 2] + e2 * B[2, 2]
            C[x, 0] = f0 * co + f1 * si
            C[x, 1] = f1 * co - f0 * si
            C[x, 2] = f2
            w.pos[d + 1, x] = w.pos[d, x] + e0 * P[0] + e1 * P[1] + e2 * P[2] + slide * f2


@njit(cache=True, error_model="numpy")
def travel(arm: ArmArrays, w: Work, x: float, y: float, z: float, link: int, base: int) -> float:
    """Bound on the displacement of a point of ``link``, at (x, y, z) for q = c, in the frame of link ``base``; see the module's text."""
    total = 0.0
    for j in range(link - 1, base - 1, -1):
        if arm.prismatic[j] == 1:
            total += w.chord[j]
            continue
        R = w.rot[j + 1]
        dx, dy, dz = x - w.pos[j + 1, 0], y - w.pos[j + 1, 1], z - w.pos[j + 1, 2]
        ux, uy, uz = R[0, 2], R[1, 2], R[2, 2]
        cx, cy, cz = dy * uz - dz * uy, dz * ux - dx * uz, dx * uy - dy * ux
        total += w.chord[j] * (math.sqrt(cx * cx + cy * cy + cz * cz) + total)
    return total


@njit(cache=True, error_model="numpy")
def world(w: Work, link: int, p: Array) -> tuple[float, float, float]:
    """Where the link-frame point p (3,) is for q = c."""
    R, t = w.rot[link], w.pos[link]
    return (
        t[0] + R[0, 0] * p[0] + R[0, 1] * p[1] + R[0, 2] * p[2],
        t[1] + R[1, 0] * p[0] + R[1, 1] * p[1] + R[1, 2] * p[2],
        t[2] + R[2, 0] * p[0] + R[2, 1] * p[1] + R[2, 2] * p[2],
    )


@njit(cache=True, error_model="numpy")
def distance(scene: SceneArrays, o: int, px: float, py: float, pz: float) -> float:
    """Signed distance from a point to obstacle ``o`` (negative inside); for polytopes a lower bound: the greatest face distance."""
    R, kind = scene.rotation[o], scene.kind[o]
    dx, dy, dz = px - scene.position[o, 0], py - scene.position[o, 1], pz - scene.position[o, 2]
    if kind == SPHERE:
        return math.sqrt(dx * dx + dy * dy + dz * dz) - scene.size[o, 0]
    if kind == HALFSPACE:
        return R[2, 0] * dx + R[2, 1] * dy + R[2, 2] * dz
    if kind == BOX:
        x = abs(R[0, 0] * dx + R[0, 1] * dy + R[0, 2] * dz) - scene.size[o, 0]
        y = abs(R[1, 0] * dx + R[1, 1] * dy + R[1, 2] * dz) - scene.size[o, 1]
        z = abs(R[2, 0] * dx + R[2, 1] * dy + R[2, 2] * dz) - scene.size[o, 2]
        inside = max(x, max(y, z))
        if inside <= 0.0:
            return inside
        x, y, z = max(x, 0.0), max(y, 0.0), max(z, 0.0)
        return math.sqrt(x * x + y * y + z * z)
    if kind in (CYLINDER, CAPSULE):
        z = abs(R[2, 0] * dx + R[2, 1] * dy + R[2, 2] * dz) - scene.size[o, 1]
        x = R[0, 0] * dx + R[0, 1] * dy + R[0, 2] * dz
        y = R[1, 0] * dx + R[1, 1] * dy + R[1, 2] * dz
        rho = math.sqrt(x * x + y * y)
        if kind == CAPSULE:
            z = max(z, 0.0)
            return math.sqrt(rho * rho + z * z) - scene.size[o, 0]
        rho -= scene.size[o, 0]
        inside = max(rho, z)
        if inside <= 0.0:
            return inside
        rho, z = max(rho, 0.0), max(z, 0.0)
        return math.sqrt(rho * rho + z * z)
    best = -math.inf
    for f in range(scene.face_first[o], scene.face_first[o + 1]):
        F = scene.faces[f]
        best = max(best, F[0] * px + F[1] * py + F[2] * pz - F[3])
    return best


@njit(cache=True, error_model="numpy")
def put(arm: ArmArrays, w: Work, s: int) -> None:
    """Centre of ball ``s`` for this interval, computed once an interval."""
    if w.ball_mark[s] != w.mark[0]:
        w.ball_mark[s] = w.mark[0]
        w.ball[s, 0], w.ball[s, 1], w.ball[s, 2] = world(w, arm.link[s], arm.center[s])


@njit(cache=True, error_model="numpy")
def put_reach(arm: ArmArrays, w: Work, s: int) -> None:
    """Centre and travel (base frame) of ball ``s`` for this interval, computed once an interval."""
    put(arm, w, s)
    if w.reach_mark[s] != w.mark[0]:
        w.reach_mark[s] = w.mark[0]
        w.reach[s] = travel(arm, w, w.ball[s, 0], w.ball[s, 1], w.ball[s, 2], arm.link[s], 0)


@njit(cache=True, error_model="numpy")
def note(w: Work, at: int, low: float, time: float, link: int, other: int) -> None:
    """Record a bound if it is the least so far; ``at`` = 0 against obstacles, 4 against itself."""
    if low < w.best[at]:
        w.best[at], w.best[at + 1], w.best[at + 2], w.best[at + 3] = low, time, link, other


@njit(cache=True, error_model="numpy")
def test_env(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, w: Work, s: int, o: int, low: float, t0: float, t1: float, full: bool, level: int
) -> bool:
    """One ball against one obstacle for [t0, t1]; keeps the pair at ``level`` if not clear. True: they touch, no finer interval can be clear."""
    put_reach(arm, w, s)
    gap = distance(scene, o, w.ball[s, 0], w.ball[s, 1], w.ball[s, 2]) - arm.radius[s] - scene.grow[o]
    low = max(low, gap - w.reach[s] - scene.speed[o] * t1 - bounds.pad)
    middle = gap - scene.speed[o] * 0.5 * (t0 + t1)
    w.best[8] = min(w.best[8], middle)
    bar = max(bounds.clearance, w.best[8]) if full else bounds.clearance
    if low >= bar:
        note(w, 0, low, 0.5 * (t0 + t1), arm.link[s], o)
        return False
    if level == bounds.levels or (not full and middle < bounds.clearance):
        note(w, 0, low, 0.5 * (t0 + t1), arm.link[s], o)
        return not full
    k = w.env_count[level]
    w.env[level, k] = s * scene.kind.shape[0] + o
    w.env_low[level, k] = low
    w.env_count[level] = k + 1
    return False


@njit(cache=True, error_model="numpy")
def test_own(arm: ArmArrays, bounds: BoundArrays, w: Work, i: int, j: int, reach: float, low: float, t: float, full: bool, level: int) -> bool:
    """Ball i of a link against ball j of an earlier one, like :func:`test_env`; ``reach`` bounds their relative travel."""
    put(arm, w, j)
    dx, dy, dz = w.ball[i, 0] - w.ball[j, 0], w.ball[i, 1] - w.ball[j, 1], w.ball[i, 2] - w.ball[j, 2]
    gap = math.sqrt(dx * dx + dy * dy + dz * dz) - arm.radius[i] - arm.radius[j]
    low = max(low, gap - reach - bounds.pad)
    w.best[8] = min(w.best[8], gap)
    bar = max(0.0, w.best[8]) if full else 0.0
    if low >= bar:
        note(w, 4, low, t, arm.link[i], arm.link[j])
        return False
    if level == bounds.levels or (not full and gap < 0.0):
        note(w, 4, low, t, arm.link[i], arm.link[j])
        return not full
    k = w.own_count[level]
    w.own[level, 2 * k], w.own[level, 2 * k + 1] = i, j
    w.own_low[level, k] = low
    w.own_count[level] = k + 1
    return False


@njit(cache=True, error_model="numpy")
def seed_env(arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, w: Work, t0: float, t1: float, full: bool) -> bool:
    """All links against all obstacles, link by link first; fills level 0. True: a touch ends the search."""
    for link in range(arm.link_radius.shape[0]):
        if arm.link_radius[link] < 0.0:
            continue
        x, y, z = world(w, link, arm.link_center[link])
        reach = travel(arm, w, x, y, z, link, 0) + arm.link_radius[link] + bounds.pad
        for o in range(scene.kind.shape[0]):
            if scene.ignore[o, link] == 1:
                continue
            low = distance(scene, o, x, y, z) - reach - scene.grow[o] - scene.speed[o] * t1
            bar = max(bounds.clearance, w.best[8]) if full else bounds.clearance
            if low >= bar:
                note(w, 0, low, 0.5 * (t0 + t1), link, o)
                continue
            for s in range(arm.first[link], arm.first[link + 1]):
                if test_env(arm, scene, bounds, w, s, o, low, t0, t1, full, 0):
                    return True
    return False


@njit(cache=True, error_model="numpy")
def seed_own(arm: ArmArrays, bounds: BoundArrays, w: Work, t: float, full: bool) -> bool:
    """All pairs of links that must not touch, link balls first; fills level 0. True: a touch ends the search."""
    for p in range(arm.pairs.shape[0]):
        a, b = arm.pairs[p, 0], arm.pairs[p, 1]
        ax, ay, az = world(w, a, arm.link_center[a])
        bx, by, bz = world(w, b, arm.link_center[b])
        dx, dy, dz = ax - bx, ay - by, az - bz
        low = math.sqrt(dx * dx + dy * dy + dz * dz) - arm.link_radius[a] - arm.link_radius[b] - bounds.pad
        bar = max(0.0, w.best[8]) if full else 0.0
        if low >= bar:
            low -= travel(arm, w, ax, ay, az, a, b)
            if low >= bar:
                note(w, 4, low, t, a, b)
                continue
        else:
            low = -math.inf
        for i in range(arm.first[a], arm.first[a + 1]):
            put(arm, w, i)
            reach = travel(arm, w, w.ball[i, 0], w.ball[i, 1], w.ball[i, 2], a, b)
            for j in range(arm.first[b], arm.first[b + 1]):
                if test_own(arm, bounds, w, i, j, reach, low, t, full, 0):
                    return True
    return False


@njit(cache=True, error_model="numpy")
def refine(arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, w: Work, t0: float, t1: float, full: bool, level: int) -> bool:
    """The pairs left at ``level - 1`` for a half of their interval; fills ``level``. True: the search ends."""
    obstacles = scene.kind.shape[0]
    for k in range(w.env_count[level - 1]):
        pair = w.env[level - 1, k]
        if test_env(arm, scene, bounds, w, pair // obstacles, pair % obstacles, w.env_low[level - 1, k], t0, t1, full, level):
            return True
    ball, base, reach = -1, -1, 0.0
    for k in range(w.own_count[level - 1]):
        i, j = w.own[level - 1, 2 * k], w.own[level - 1, 2 * k + 1]
        if i != ball or arm.link[j] != base:
            ball, base = i, arm.link[j]
            put(arm, w, i)
            reach = travel(arm, w, w.ball[i, 0], w.ball[i, 1], w.ball[i, 2], arm.link[i], base)
        if test_own(arm, bounds, w, i, j, reach, w.own_low[level - 1, k], 0.5 * (t0 + t1), full, level):
            return True
    return False


@njit(cache=True, error_model="numpy")
def occupancy(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, w: Work, times: Array, q: Array, v: Array, a: Array, jerk: Array,
    offset: float, full: bool,
) -> bool:
    """Adaptive check of a whole trajectory that begins ``offset`` [s] after the scene's time; fills ``w.best``. True: not clear."""
    end = times[times.shape[0] - 1]
    top = max(1, math.ceil(end / bounds.interval - 1e-9))
    for i in range(top):
        w.left[0], w.right[0], w.depth[0] = end * i / top, end * (i + 1) / top, 0
        stack = 1
        while stack > 0:
            stack -= 1
            t0, t1, level = w.left[stack], w.right[stack], w.depth[stack]
            w.mark[0] += 1
            w.env_count[level] = 0
            w.own_count[level] = 0
            place(arm, bounds, w, times, q, v, a, jerk, t0, t1)
            if level == 0:
                hit = seed_env(arm, scene, bounds, w, t0 + offset, t1 + offset, full)
                hit = hit or seed_own(arm, bounds, w, 0.5 * (t0 + t1) + offset, full)
            else:
                hit = refine(arm, scene, bounds, w, t0 + offset, t1 + offset, full, level)
            if hit:
                return True
            if level < bounds.levels and w.env_count[level] + w.own_count[level] > 0:
                mid = 0.5 * (t0 + t1)
                w.left[stack], w.right[stack], w.depth[stack] = mid, t1, level + 1
                w.left[stack + 1], w.right[stack + 1], w.depth[stack + 1] = t0, mid, level + 1
                stack += 2
    return w.best[0] < bounds.clearance or w.best[4] < 0.0


@njit(cache=True, error_model="numpy")
def reset(w: Work) -> None:
    """Forget what earlier trajectories noted."""
    w.best[:] = -1.0
    w.best[0] = w.best[4] = w.best[8] = math.inf


@njit(cache=True, error_model="numpy")
def verdict(w: Work, bounds: BoundArrays, hit: bool, out: Array) -> int:
    """Code of a geometric check; ``out`` (4,) becomes clearance, time, link, other: an obstacle's index, or -2 - the other link."""
    at = 4 if w.best[4] < w.best[0] else 0
    code = OK
    if hit:
        env, own = w.best[0] < bounds.clearance, w.best[4] < 0.0
        at = 4 if own and (not env or w.best[4] < w.best[0]) else 0
        code = SELF if at == 4 else COLLISION
    out[0], out[1], out[2] = w.best[at], w.best[at + 1], w.best[at + 2]
    out[3] = w.best[at + 3] if at == 0 else -2.0 - w.best[at + 3]
    return code


@njit(cache=True, error_model="numpy")
def check(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, w: Work, times: Array, q: Array, v: Array, a: Array,
    offset: float, last: bool, full: bool, out: Array,
) -> int:
    """Limits and occupancy of one trajectory, knots q, v, a (M, n) at ``times`` (M,). See :func:`verdict` for ``out``.

    ``offset``: its start after the scene's time [s]; ``last``: whether it must end at rest; ``full``: the clearance instead of the first
    violation.
    """
    jerk = w.jerk
    code, time, joint = limits(arm, times, q, v, a, jerk, last)
    if code != OK and (not full or code in (BAD, INCONSISTENT)):
        out[0], out[1], out[2], out[3] = -math.inf, time + offset, joint + 1, -1
        return code
    reset(w)
    hit = occupancy(arm, scene, bounds, w, times, q, v, a, jerk, offset, full)
    found = verdict(w, bounds, hit, out)
    return found if code == OK else code


@njit(cache=True, error_model="numpy", nogil=True)
def check_serial(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, times: Array, q: Array, v: Array, a: Array,
    offset: float, last: bool, full: bool, code: IntArray, out: Array,
) -> None:
    """Check trajectories q, v, a (B, M, n) at ``times`` (M,); fills ``code`` (B,) and ``out`` (B, 4)."""
    work = make_work(arm, scene, bounds, times.shape[0])
    for b in range(q.shape[0]):
        code[b] = check(arm, scene, bounds, work, times, q[b], v[b], a[b], offset, last, full, out[b])


@njit(cache=True, error_model="numpy", parallel=True)
def check_parallel(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, times: Array, q: Array, v: Array, a: Array,
    offset: float, last: bool, full: bool, code: IntArray, out: Array,
) -> None:
    """:func:`check_serial` over all Numba threads."""
    batch = q.shape[0]
    for chunk in prange((batch + CHUNK - 1) // CHUNK):
        work = make_work(arm, scene, bounds, times.shape[0])
        for b in range(chunk * CHUNK, min(batch, (chunk + 1) * CHUNK)):
            code[b] = check(arm, scene, bounds, work, times, q[b], v[b], a[b], offset, last, full, out[b])


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
def one_head(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, family: FamilyArrays, times: Array, q: Array, v: Array, a: Array,
    k: Array, full: bool, head_out: Array, feasible: Flags, clearance: Array,
) -> int:
    """One head, knots q, v, a (M, n), and all its backups k (K, n); fills ``feasible`` and ``clearance`` (K,). Returns the head's code."""
    m = times.shape[0]
    work = make_work(arm, scene, bounds, max(m, 6))
    code = check(arm, scene, bounds, work, times, q, v, a, 0.0, False, full, head_out)
    if code != OK and not full:
        feasible[:] = False
        clearance[:] = head_out[0]
        return code
    back_q, back_v, back_a = np.empty((6, q.shape[1])), np.empty((6, q.shape[1])), np.empty((6, q.shape[1]))
    out = np.empty(4)
    for i in range(k.shape[0]):
        build_backup(family, q[m - 1], v[m - 1], a[m - 1], k[i], back_q, back_v, back_a)
        found = check(arm, scene, bounds, work, family.times, back_q, back_v, back_a, times[m - 1], True, full, out)
        feasible[i] = code == OK and found == OK
        clearance[i] = min(head_out[0], out[0])
    return code


@njit(cache=True, error_model="numpy", nogil=True)
def grid_serial(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, family: FamilyArrays, times: Array, q: Array, v: Array, a: Array,
    k: Array, full: bool, code: IntArray, head_out: Array, feasible: Flags, clearance: Array,
) -> None:
    """All heads q, v, a (H, M, n) with backups k (1, K, n), shared, or (H, K, n), each head's own."""
    for h in range(q.shape[0]):
        ks = k[h if k.shape[0] > 1 else 0]
        code[h] = one_head(arm, scene, bounds, family, times, q[h], v[h], a[h], ks, full, head_out[h], feasible[h], clearance[h])


@njit(cache=True, error_model="numpy", parallel=True)
def grid_parallel(
    arm: ArmArrays, scene: SceneArrays, bounds: BoundArrays, family: FamilyArrays, times: Array, q: Array, v: Array, a: Array,
    k: Array, full: bool, code: IntArray, head_out: Array, feasible: Flags, clearance: Array,
) -> None:
    """:func:`grid_serial` over all Numba threads."""
    for h in prange(q.shape[0]):
        ks = k[h if k.shape[0] > 1 else 0]
        code[h] = one_head(arm, scene, bounds, family, times, q[h], v[h], a[h], ks, full, head_out[h], feasible[h], clearance[h])
