"""Time to certify: one motion, the backups of one head, and a grid of heads and backups, beside the same computation in NumPy.

Where zonopy is installed, it checks the same motions on the exported zonotopes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from tandem.bench import zonopy_check
from tandem.bench.table import write_table
from tandem.core.scene import TABLE, Obstacle, Scene
from tandem.core.spline import head_knots
from tandem.core.trajectory import Trajectory
from tandem.robots.model import ArmModel, load_arm
from tandem.safety import BackupFamily, certify, certify_grid, certify_one, compile_all, load_bounds, pack_scene
from tandem.safety.reference import certify_reference

Array = NDArray[np.float64]
Row = dict[str, Any]
log = logging.getLogger(__name__)

BOUNDS = load_bounds()
#: times aimed at on one core (the grid: on two) [ms]
TARGETS = {"single, 10 boxes": 0.1, "single, 40 boxes": 0.3, "128 backups, 10 boxes": 3.0, "128x128, 10 boxes": 60.0}


def random_motions(arm: ArmModel, count: int, rng: np.random.Generator) -> list[Trajectory]:
    """Backups of 1 s from moving states around home."""
    family = BackupFamily(k_max=(1.5,) * arm.n)
    q = arm.home + rng.uniform(-0.5, 0.5, (count, arm.n))
    k = family.sample(count, rng)
    v, a = rng.uniform(-0.7, 0.7, (count, arm.n)), rng.uniform(-1.0, 1.0, (count, arm.n))
    return [family.trajectory(q[i], v[i], a[i], k[i]) for i in range(count)]


def scattered(rng: np.random.Generator, count: int, half: float = 0.1) -> Scene:
    """Table and boxes of 0.2 m around the arm, none over its base."""
    boxes = [TABLE]
    while len(boxes) < count + 1:
        p = rng.uniform([-0.9, -0.9, 0.0], [0.9, 0.9, 1.1])
        if np.hypot(p[0], p[1]) > 0.4:
            boxes.append(Obstacle(f"box{len(boxes)}", "box", (half,) * 3, (p[0], p[1], p[2])))
    return Scene(tuple(boxes))


def among(arm: ArmModel, rng: np.random.Generator, count: int, half: float = 0.05) -> Scene:
    """Table and boxes in front of the arm, between which it works: none touches it at home, all are within its reach."""
    scene = Scene((TABLE,))
    here = Trajectory.at_rest(arm.home)
    while len(scene.obstacles) < count + 1:
        p = rng.uniform([0.2, -0.6, 0.05], [0.8, 0.6, 0.7])
        more = scene.with_obstacles(Obstacle(f"box{len(scene.obstacles)}", "box", (half,) * 3, (p[0], p[1], p[2])))
        if certify_one(arm, here, more, BOUNDS, 0.0).certified:
            scene = more
    return scene


def timed(call: Callable[[], object], repeats: int) -> Array:
    """Wall times [ms] of ``repeats`` calls after one that does not count."""
    call()
    out = np.empty(repeats)
    for i in range(repeats):
        begin = time.perf_counter()
        call()
        out[i] = 1e3 * (time.perf_counter() - begin)
    return out


def _row(condition: str, method: str, ms: Array, n: int, **more: Any) -> Row:
    log.info("%s, %s: %.3f ms", condition, method, float(np.median(ms)))
    return {
        "task": "fr3", "method": method, "condition": condition, "n": n, "ms_p50": float(np.median(ms)),
        "ms_p95": float(np.quantile(ms, 0.95)), "ms_min": float(ms.min()), **more,
    }


def _single(arm: ArmModel, boxes: int, motions: int, rng: np.random.Generator) -> tuple[list[Row], bool]:
    """Rows of one certification, over certified motions only (a refusal is faster), and whether both methods agree."""
    scene = scattered(rng, boxes)
    packed = pack_scene(scene, arm, BOUNDS, 0.0)
    fast: list[float] = []
    slow: list[float] = []
    agree, timed_motions = True, []
    for t in random_motions(arm, 50 * motions, rng):
        knots = (t.times, t.q[None], t.v[None], t.a[None])
        found = bool(certify(arm, *knots, packed, BOUNDS).certified[0])
        if not found or len(fast) >= motions:
            continue
        timed_motions.append(t)
        fast.append(float(np.median(timed(partial(certify, arm, *knots, packed, BOUNDS), 20))))
        if len(slow) < 10:
            begin = time.perf_counter()
            reference = certify_reference(arm, t, scene, BOUNDS)
            slow.append(1e3 * (time.perf_counter() - begin))
            agree &= reference.certified == found
    name = f"single, {boxes} boxes"
    rows = [
        _row(name, "tandem", np.array(fast), len(fast), target_ms=TARGETS.get(name)),
        _row(name, "numpy", np.array(slow), len(slow)),
    ]
    if zonopy_check.available():
        row, also = zonopy_check.reach_row(arm, timed_motions[:2], scene, BOUNDS)
        rows.append(row)
        agree &= also
    return rows, agree


def _heads(arm: ArmModel, count: int, rng: np.random.Generator) -> tuple[Array, Array, Array, Array]:
    """Heads of 0.8 s from home towards random places nearby, as a policy makes them."""
    goal = arm.home + rng.normal(0.0, 0.25, (count, 1, arm.n))
    way = arm.home + (goal - arm.home) * np.linspace(1 / 8, 1, 8)[None, :, None] ** 1.2
    return head_knots(arm.home, np.zeros(arm.n), np.zeros(arm.n), way, 0.1)


def _grids(arm: ArmModel, repeats: int, rng: np.random.Generator) -> list[Row]:
    family = BackupFamily(k_max=(2.0,) * arm.n)
    scene = among(arm, rng, 10)
    packed = pack_scene(scene, arm, BOUNDS, 0.0)
    times, q, v, a = _heads(arm, 128, rng)
    k = family.sample(128, rng)
    grid = certify_grid(arm, family, times, q, v, a, k, packed, BOUNDS)
    good = int(np.argmax(grid.feasible.sum(axis=1)))
    one = slice(good, good + 1)
    rows = []
    name = "128 backups, 10 boxes"
    ms = timed(lambda: certify_grid(arm, family, times, q[one], v[one], a[one], k, packed, BOUNDS), repeats)
    rows.append(_row(name, "tandem", ms, repeats, feasible=float(grid.feasible[good].mean()), target_ms=TARGETS[name]))
    sample = max(1, repeats // 5)
    backups = [family.trajectory(q[good, -1], v[good, -1], a[good, -1], x) for x in k[:sample]]
    begin = time.perf_counter()
    for t in backups:
        certify_reference(arm, t, scene, BOUNDS)
    slow = np.array([1e3 * (time.perf_counter() - begin) * len(k) / sample])
    rows.append(_row(name, "numpy", slow, 1, scaled_from=sample))
    name = "128x128, 10 boxes"
    before = numba.get_num_threads()
    try:
        for threads in sorted({1, min(2, before)}):
            numba.set_num_threads(threads)
            ms = timed(lambda: certify_grid(arm, family, times, q, v, a, k, packed, BOUNDS), max(3, repeats // 4))
            rows.append(_row(
                name, "tandem", ms, len(ms), threads=threads, feasible=float(grid.feasible.mean()),
                heads=float(grid.head_ok.mean()), target_ms=TARGETS[name] if threads == 2 else None,
            ))
    finally:
        numba.set_num_threads(before)
    rows.append(_row(name, "numpy", slow * float(grid.head_ok.sum()), 1, scaled_from=sample))
    return rows


def _curves(arm: ArmModel, out: Path, rng: np.random.Generator) -> None:
    """``reach.png``: time against obstacles, finest intervals, batch, and backups of one head."""
    import dataclasses

    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    motions = random_motions(arm, 32, rng)
    q, v, a = (np.stack([getattr(t, x) for t in motions]) for x in ("q", "v", "a"))
    counts, batches, backups = [0, 5, 10, 20, 40, 80], [1, 4, 16, 64, 256], [1, 4, 16, 64, 128, 256]
    times = motions[0].times
    curves: list[tuple[str, list[int], list[float]]] = [
        ("boxes", counts, []), ("finest intervals", [], []), ("batch", batches, []), ("backups of one head", backups, []),
    ]
    for n in counts:
        packed = pack_scene(scattered(rng, n), arm, BOUNDS, 0.0)
        curves[0][2].append(float(np.median(timed(partial(certify, arm, times, q, v, a, packed, BOUNDS), 5))) / 32)
    packed = pack_scene(scattered(rng, 10), arm, BOUNDS, 0.0)
    for n in range(7):
        finer = dataclasses.replace(BOUNDS, levels=n)
        curves[1][1].append(8 * 2**n)
        curves[1][2].append(float(np.median(timed(partial(certify, arm, times, q, v, a, packed, finer, full=True), 3))) / 32)
    for n in batches:
        rows = np.arange(n) % 32
        each = timed(partial(certify, arm, times, q[rows], v[rows], a[rows], packed, BOUNDS), 5) / n
        curves[2][2].append(float(np.median(each)))
    family, head = BackupFamily(k_max=(2.0,) * arm.n), _heads(arm, 1, rng)
    packed = pack_scene(among(arm, rng, 10), arm, BOUNDS, 0.0)
    for n in backups:
        each = timed(partial(certify_grid, arm, family, *head, family.sample(n, rng), packed, BOUNDS), 5)
        curves[3][2].append(float(np.median(each)))
    figure, axes = plt.subplots(1, 4, figsize=(14, 3), constrained_layout=True)
    for ax, (label, x, y) in zip(axes, curves, strict=True):
        ax.plot(x, y, "o-", color="#1f6f8b")
        ax.set(xlabel=label, xscale="symlog" if label == "boxes" else "log", yscale="log")
        ax.set_ylabel("ms in all" if label.startswith("backups") else "ms a motion")
        ax.grid(alpha=0.3)
    axes[1].set_title("with clearance")
    figure.savefig(out / "reach.png", dpi=130)
    plt.close(figure)


def run(out: Path, quick: bool, seed: int = 0) -> int:
    """Measure and write ``table.json``, ``table.md`` and ``reach.png`` to ``out``.

    Args:
        quick: fewer motions and repeats. seed: of scenes and motions.

    Returns:
        0 when both methods give the same verdicts, else 1. Times are reported, not judged: they depend on what else runs.
    """
    begin = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    arm, rng = load_arm("fr3"), np.random.default_rng(seed)
    compile_all(arm)
    before = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        ten, agree = _single(arm, 10, 2 if quick else 60, rng)
        forty, also = _single(arm, 40, 2 if quick else 60, rng)
    finally:
        numba.set_num_threads(before)
    rows = [*ten, *forty, *_grids(arm, 8 if quick else 40, rng)]
    _curves(arm, out, rng)
    notes = (
        "FR3 with hand, motions of 1 s, self-collision included, finest interval 1/128 s, verdict only. Single: certified "
        "motions, one core, call from Python included. numpy: the same bounds at every level for every pair; batches scaled "
        "from a few motions."
    )
    command = "tandem bench reach" + (" --quick" if quick else "")
    write_table(out, rows, command=command, seeds=[seed], wall_s=time.perf_counter() - begin, notes=notes)
    return 0 if agree and also else 1
