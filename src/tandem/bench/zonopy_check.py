"""Cross-checks by zonopy (https://github.com/roahmlab/zonopy), where that library is installed: its faces, not ours.

Used by ``tandem bench reach`` and ``tandem bench soundness``; only ``zonotope(Z).polytope()`` of its interface is needed.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import InputError
from tandem.core.scene import Obstacle, Scene
from tandem.core.trajectory import Trajectory
from tandem.robots.kinematics import fk
from tandem.robots.model import ArmModel
from tandem.robots.urdf import Shape
from tandem.safety import Bounds, certify, pack_scene
from tandem.safety.escapes import wild_motion
from tandem.safety.zonotopes import occupancy_zonotopes

Array = NDArray[np.float64]
Row = dict[str, Any]

#: zonopy's own threshold for points on a face [m]
TOLERANCE = 1e-6


def available() -> bool:
    """Whether zonopy can be imported."""
    return importlib.util.find_spec("zonopy") is not None


def faces(rows: Array) -> tuple[Array, Array]:
    """Normals (F, 3) and offsets (F,) of a zonotope (G + 1, 3) as zonopy finds them."""
    import torch

    zonopy = importlib.import_module("zonopy")
    normals, offsets = zonopy.zonotope(torch.as_tensor(rows, dtype=torch.float64)).polytope()
    return np.asarray(normals), np.asarray(offsets)


def obstacle_rows(o: Obstacle) -> Array:
    """A box as a zonotope (4, 3).

    Raises:
        InputError: another kind.
    """
    if o.kind != "box":
        raise InputError(f"obstacle {o.name!r}: a {o.kind} is no zonotope; only boxes are compared")
    return np.concatenate([np.asarray(o.position)[None], np.diag(o.size) @ o.rotation().T])


def clear(zonotopes: Array, obstacles: Sequence[Array]) -> bool:
    """Whether zonotopes (..., G + 1, 3) are all apart from all obstacles (4, 3): their centres lie outside the Minkowski sums."""
    flat = zonotopes.reshape(-1, *zonotopes.shape[-2:])
    for rows in obstacles:
        for z in flat:
            normals, offsets = faces(np.concatenate([rows, z[1:]]))
            if (normals @ z[0] - offsets).max() <= TOLERANCE:
                return False
    return True


def containment(arm: ArmModel, shapes: Sequence[Shape], motions: int, rng: np.random.Generator) -> Row:
    """Row of the soundness search: vertices of the shapes outside every zonotope of their link, by zonopy's faces."""
    bounds = Bounds(tracking_error=(0.01,))
    tried = escaped = 0
    for _ in range(motions):
        t = wild_motion(arm, rng)
        begin = rng.uniform(0.0, t.duration - 0.05)
        zonotopes, link = occupancy_zonotopes(arm, t, bounds, np.array([begin, begin + 0.05]))
        planes = [faces(z) for z in zonotopes[0]]
        frames = fk(arm, t.sample(begin + rng.uniform(0.0, 0.05))[0] + rng.choice([-0.01, 0.01], arm.n))
        for shape in shapes:
            points = shape.vertices @ frames[shape.link, :3, :3].T + frames[shape.link, :3, 3]
            inside = np.zeros(len(points), dtype=np.bool_)
            for i in np.flatnonzero(link == shape.link):
                inside |= (points @ planes[i][0].T - planes[i][1]).max(axis=1) + shape.radius <= TOLERANCE
            tried, escaped = tried + len(points), escaped + int((~inside).sum())
    return {
        "task": arm.name, "method": "zonopy", "condition": "mesh in exported zonotopes", "n": tried, "violations": escaped,
        "ok": escaped == 0,
    }


def reach_row(arm: ArmModel, motions: Sequence[Trajectory], scene: Scene, bounds: Bounds, intervals: int = 8) -> tuple[Row, bool]:
    """Row of the reach benchmark, on the boxes of a scene alone; and whether all that zonopy finds clear is clear to Tandem.

    The zonotopes enclose Tandem's balls, hence zonopy may refuse more but must not certify more, at the same intervals.
    """
    boxes = tuple(o for o in scene.obstacles if o.kind == "box")
    rows = [obstacle_rows(o) for o in boxes]
    alone = dataclasses.replace(arm, self_pairs=np.zeros((0, 2), np.int64), digest=f"{arm.digest} without pairs")
    agree, ms = True, []
    for t in motions:
        even = dataclasses.replace(bounds, interval=t.duration / intervals, levels=0)
        packed = pack_scene(Scene(boxes), arm, even, 0.0)
        ours = bool(certify(alone, t.times, t.q[None], t.v[None], t.a[None], packed, even).certified[0])
        begin = time.perf_counter()
        zonotopes, _ = occupancy_zonotopes(arm, t, even, np.linspace(0.0, t.duration, intervals + 1))
        theirs = clear(zonotopes, rows)
        ms.append(1e3 * (time.perf_counter() - begin))
        agree &= ours or not theirs
    return {
        "task": arm.name, "method": "zonopy", "condition": f"single, {len(boxes)} boxes", "n": len(ms),
        "ms_p50": float(np.median(ms)), "ms_p95": float(np.quantile(ms, 0.95)), "ms_min": min(ms), "intervals": intervals,
    }, agree
