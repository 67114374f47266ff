"""Which links of an arm can meet at all, proven by branch and bound over the joints between them. Offline.

A box of joint positions is decided at its centre: nowhere in the box do the links get nearer than the distance there less what
each joint's half range can move them, (half range) x (largest distance of the moving link from that joint's axis). Boxes that are
not decided are halved. Distances are first those of the enclosing spheres; where these are too coarse and few joints are
involved, those of the convex hulls themselves.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tandem.robots.geometry import convex_hull
from tandem.robots.kinematics import fk, fk_single, place_spheres
from tandem.robots.model import ArmModel
from tandem.robots.urdf import Shape

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: boxes examined before a proof by spheres, and by hulls, is given up
SPHERE_BOXES = 300_000
HULL_BOXES = 40_000
#: random configurations at which a proof is first tried to be refuted
TRIALS = 200
#: most joints between two links for which the hulls are tried
HULL_JOINTS = 2


def joint_reach(arm: ArmModel, i: int, j: int) -> Array:
    """(j - i,) bounds on how far a unit of each joint between links i and j moves points of link j [m; 1 if it slides]."""
    mine = arm.sphere_link == j
    ends = arm.sphere_center[mine]
    axis = arm.axis[j - 1]
    across = np.linalg.norm(ends - np.outer(ends @ axis, axis), axis=1) + arm.sphere_radius[mine]
    whole = float((np.linalg.norm(ends, axis=1) + arm.sphere_radius[mine]).max())
    reach = [float(across.max())]
    for k in range(j - 2, i - 1, -1):
        slide = max(abs(arm.lower[k + 1]), abs(arm.upper[k + 1])) if arm.joint_type[k + 1] == 1 else 0.0
        whole += float(np.linalg.norm(arm.placement[k + 1, :3, 3])) + slide
        reach.insert(0, whole)
    return np.where(arm.joint_type[i:j] == 1, 1.0, np.array(reach))


@njit(cache=True, error_model="numpy")
def spheres_apart(
    joint_type: IntArray,
    placement: Array,
    axis: Array,
    owner: IntArray,
    center: Array,
    radius: Array,
    home: Array,
    i: int,
    j: int,
    box: Array,
    reach: Array,
    margin: float,
    budget: int,
) -> bool:
    """Whether the spheres of links i and j are proven over ``margin`` [m] apart in a box (2, j - i) of the joints between."""
    k = reach.shape[0]
    n = joint_type.shape[0]
    stack = np.empty((512, 2, k))
    for m in range(k):
        stack[0, 0, m], stack[0, 1, m] = box[0, m], box[1, m]
    top, used = 1, 0
    q, frames, world = home.copy(), np.empty((n + 1, 4, 4)), np.empty(center.shape)
    while top > 0:
        used += 1
        if used > budget or top + 2 > stack.shape[0]:
            return False
        top -= 1
        for m in range(k):
            q[i + m] = 0.5 * (stack[top, 0, m] + stack[top, 1, m])
        fk_single(joint_type, placement, axis, q, frames)
        place_spheres(frames, owner, center, world)
        least = np.inf
        for a in range(owner.shape[0]):
            if owner[a] == i:
                for b in range(owner.shape[0]):
                    if owner[b] == j:
                        dx, dy, dz = world[a, 0] - world[b, 0], world[a, 1] - world[b, 1], world[a, 2] - world[b, 2]
                        least = min(least, np.sqrt(dx * dx + dy * dy + dz * dz) - radius[a] - radius[b])
        if least <= margin:
            return False
        widest, halve, room = -1.0, 0, least - margin
        for m in range(k):
            travel = 0.5 * (stack[top, 1, m] - stack[top, 0, m]) * reach[m]
            room -= travel
            if travel > widest:
                widest, halve = travel, m
        if room > 0.0:
            continue
        for m in range(k):
            stack[top + 1, 0, m], stack[top + 1, 1, m] = stack[top, 0, m], stack[top, 1, m]
        stack[top, 1, halve] = stack[top + 1, 0, halve] = q[i + halve]
        top += 2
    return True


def hulls_apart(arm: ArmModel, shapes: tuple[Shape, ...], i: int, j: int, margin: float, budget: int = HULL_BOXES) -> bool:
    """Whether the convex hulls of links i and j are proven to stay more than ``margin`` [m] apart for all joint positions."""
    import coal  # offline only

    def solid(shape: Shape) -> object:
        hull = convex_hull(shape.vertices)
        points, faces = coal.StdVec_Vec3s(), coal.StdVec_Triangle()
        points.extend(list(shape.vertices))
        index = {tuple(v): k for k, v in enumerate(shape.vertices)}
        middle = hull.vertices.mean(axis=0)
        for a, b, c in hull.triangles:
            outward = np.dot(np.cross(b - a, c - a), a - middle) > 0.0
            corners = (a, b, c) if outward else (a, c, b)
            faces.append(coal.Triangle(*(index[tuple(v)] for v in corners)))
        return coal.Convex(points, faces)

    solids = {k: [(solid(s) if len(s.vertices) > 1 else coal.Sphere(s.radius), s) for s in shapes if s.link == k] for k in (i, j)}
    request, reach = coal.DistanceRequest(), joint_reach(arm, i, j)
    rng = np.random.default_rng(0)
    points = [arm.lower[i:j] + (arm.upper - arm.lower)[i:j] * rng.random(j - i) for _ in range(TRIALS)]
    # a random point is a box of no extent: it can refute, or is done with at once
    boxes, used = [(arm.lower[i:j].copy(), arm.upper[i:j].copy()), *((p, p) for p in points)], 0
    while boxes:
        used += 1
        low, high = boxes.pop()
        q = arm.home.copy()
        q[i:j] = 0.5 * (low + high)
        frames = fk(arm, q)

        def place(k: int, shape: Shape, frames: Array = frames) -> object:
            ball = frames[k, :3, :3] @ shape.vertices[0] if len(shape.vertices) == 1 else np.zeros(3)
            return coal.Transform3s(frames[k, :3, :3], frames[k, :3, 3] + ball)

        least = min(
            coal.distance(a, place(i, s), b, place(j, t), request, coal.DistanceResult())
            for a, s in solids[i]
            for b, t in solids[j]
        )
        travel = 0.5 * (high - low) * reach
        if least - travel.sum() > margin:
            continue
        if least <= margin or used > budget:
            return False
        k = int(travel.argmax())
        for side in (0, 1):
            box = (low.copy(), high.copy())
            box[1 - side][k] = q[i + k]
            boxes.append(box)
    return True


def derive_pairs(
    arm: ArmModel, shapes: tuple[Shape, ...], margin: float
) -> tuple[list[tuple[int, int]], list[tuple[int, int, str]]]:
    """Split all pairs of links of ``arm`` into those to be checked and those that need not be.

    Args:
        shapes: the collision shapes that the arm's spheres enclose. margin: clearance [m] that makes a pair need no check.

    Returns:
        pairs, and (i, j, why) for the dropped ones.
    """
    kept: list[tuple[int, int]] = []
    dropped: list[tuple[int, int, str]] = []
    have = set(arm.sphere_link.tolist())
    for i in range(arm.n + 1):
        for j in range(i + 1, arm.n + 1):
            box = np.stack([arm.lower[i:j], arm.upper[i:j]])
            if i not in have or j not in have:
                dropped.append((i, j, "one of them has no collision shape"))
            elif j == i + 1:
                dropped.append((i, j, "adjacent: the joint between them keeps them in contact"))
            elif spheres_apart(
                arm.joint_type, arm.placement, arm.axis, arm.sphere_link, arm.sphere_center, arm.sphere_radius,
                arm.home, i, j, box, joint_reach(arm, i, j), margin, SPHERE_BOXES,
            ):
                dropped.append((i, j, f"spheres proven more than {margin} m apart for all joint positions"))
            elif j - i <= HULL_JOINTS and hulls_apart(arm, shapes, i, j, margin):
                dropped.append((i, j, f"convex hulls proven more than {margin} m apart for all joint positions"))
            else:
                kept.append((i, j))
    return kept, dropped


def self_clearance(arm: ArmModel, q: Array) -> tuple[Array, IntArray]:
    """Least sphere clearance [m] over the self pairs at q (B, n), and which row of ``arm.self_pairs`` has it: (B,) each."""
    frames = fk(arm, q)[:, arm.sphere_link, :3]
    world = np.einsum("bsij,sj->bsi", frames[..., :3], arm.sphere_center) + frames[..., 3]
    a, b = arm.self_spheres.T
    d = np.linalg.norm(world[:, a] - world[:, b], axis=-1) - arm.sphere_radius[a] - arm.sphere_radius[b]
    if d.shape[1] == 0:
        return np.full(len(d), np.inf), np.full(len(d), -1, dtype=np.int64)
    worst = d.argmin(axis=1)
    return d.min(axis=1), np.searchsorted(arm.self_offset, worst, side="right") - 1
