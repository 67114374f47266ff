"""Search for a point of the arm outside its certified occupancy, and for a certified motion that touches.

Four parts: points of the collision meshes against the occupancy (random and worst-case states and k, several turns, tracking
errors at their bounds, times between samples); certified motions among moving obstacles of every kind against exact mesh
distances (coal); how much clearance the bounds give away; and the mutation check, in which one bound after the other is switched
off and the search must then succeed, or it could not have found anything.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tandem.bench import zonopy_check
from tandem.bench.reach import random_motions
from tandem.bench.table import commit, write_table
from tandem.core.errors import InputError
from tandem.robots.model import ArmModel, load_arm, load_chain, robot_config
from tandem.robots.urdf import Shape
from tandem.safety import Bounds, load_bounds
from tandem.safety.escapes import Escapes, escapes
from tandem.safety.meshes import MeshWorld
from tandem.safety.playing import Played, play
from tandem.safety.soundness import moving_ball, rounding_touches

Array = NDArray[np.float64]
Row = dict[str, Any]
T = TypeVar("T")
Stage = Callable[[], list[Row]]
log = logging.getLogger(__name__)

#: mean difference of true and certified clearance that is aimed at, at 100 intervals of a motion of 1 s [mm]
GAP_TARGET = 25.0
#: motions of one piece of work: pieces are seeded one by one, so that the number of workers changes nothing
PIECE, PIECE_PLAYED = 25, 8
TRACKING = (0.0, 0.004, 0.05)
#: motions played out in each setting
MOTIONS = 400


@dataclass(frozen=True)
class Search:
    """What all pieces of work share: the arm's name in config/robots, the seed, worst-case states or uniform ones."""

    robot: str
    seed: int
    adversarial: bool


@lru_cache(maxsize=2)
def _arm(robot: str) -> tuple[ArmModel, tuple[Shape, ...]]:
    return load_arm(robot), tuple(load_chain(*robot_config(robot)).shapes)


@lru_cache(maxsize=2)
def _meshes(robot: str) -> MeshWorld:
    return MeshWorld(*_arm(robot))


def _escape_piece(search: Search, index: int) -> tuple[Escapes, float]:
    """One piece of the search for escapes, and the tracking error it was made with [rad]."""
    rng = np.random.default_rng([search.seed, 1, index])
    tracking = float(rng.choice(TRACKING))
    bounds = Bounds(tracking_error=(tracking,))
    return escapes(*_arm(search.robot), bounds, PIECE, rng, adversarial=search.adversarial), tracking


def _played_piece(search: Search, bounds: Bounds, moving: bool, index: int) -> Played:
    rng = np.random.default_rng([search.seed, 2 + moving, index])
    arm, _ = _arm(search.robot)
    return play(arm, _meshes(search.robot), random_motions(arm, PIECE_PLAYED, rng), bounds, rng, moving=moving)


def _each(work: Callable[[int], T], count: int, pool: ProcessPoolExecutor | None, what: str) -> Iterator[T]:
    """Results of ``work(0 .. count - 1)`` in order; says how far it is."""
    begin, said = time.perf_counter(), 0
    results = map(work, range(count)) if pool is None else pool.map(work, range(count))
    for i, result in enumerate(results):
        yield result
        if 10 * (i + 1) // count > said:
            said = 10 * (i + 1) // count
            log.info("%s: %d of %d pieces, %.0f s", what, i + 1, count, time.perf_counter() - begin)


def _occupancy(search: Search, samples: int, pool: ProcessPoolExecutor | None) -> Row:
    first, _ = _escape_piece(search, 0)
    tried = escaped = 0
    margin, where, share = np.inf, "", 0.0
    for found, tracking in _each(partial(_escape_piece, search), math.ceil(samples / first.samples), pool, "occupancy"):
        tried, escaped, share = tried + found.samples, escaped + found.escaped, max(share, found.share)
        if found.margin < margin:
            margin, where = found.margin, f"{found.where}, tracking {tracking} rad"
    return {
        "task": search.robot, "method": "tandem", "condition": "mesh in occupancy", "n": tried, "violations": escaped,
        "margin_mm": 1e3 * margin, "bound_used": share, "tightest": where, "ok": escaped == 0,
    }


def _played(search: Search, bounds: Bounds, moving: bool, motions: int, pool: ProcessPoolExecutor | None, condition: str) -> Row:
    """Certified motions against the meshes; with standing obstacles also the mean gap, judged where it has a target."""
    pieces = list(
        _each(partial(_played_piece, search, bounds, moving), math.ceil(motions / PIECE_PLAYED), pool, condition)
    )
    gaps = 1e3 * np.concatenate([p.gaps for p in pieces])
    contacts, above = sum(p.contacts for p in pieces), sum(p.above for p in pieces)
    return {
        "task": search.robot, "method": "tandem", "condition": condition, "n": len(gaps),
        "certified": sum(p.certified for p in pieces), "contacts": contacts, "violations": above,
        "margin_mm": 1e3 * min(p.margin for p in pieces), "gap_mm": float(np.mean(gaps)),
        "gap_mm_p95": float(np.quantile(gaps, 0.95)), "ok": contacts == 0 and above == 0,
    }


def _mutations(search: Search) -> list[Row]:
    """Each bound off alone: ``violations`` found; ``ok`` where there are some."""
    (arm, shapes), none = _arm(search.robot), Bounds(tracking_error=(0.0,))
    thin = dataclasses.replace(arm, sphere_radius=0.95 * arm.sphere_radius, digest="thin")
    rng = np.random.default_rng([search.seed, 4])
    found = {
        "without motion within an interval": escapes(arm, shapes, none, 50, rng, travel=0.0).escaped,
        "without tracking error": escapes(arm, shapes, none, 50, rng, actual_tracking=0.02, interval=1e-3).escaped,
        "with balls 5 % too small": escapes(thin, shapes, none, 50, rng, interval=1e-3).escaped,
        "without rounding pad": rounding_touches(arm, 0.0),
        "without latency": int(moving_ball(arm, Bounds(latency=0.0), 0.5) < 0.0),
        "without obstacle speed": int(moving_ball(arm, Bounds(latency=0.1), 0.0) < 0.0),
    }
    rows: list[Row] = [
        {"task": arm.name, "method": "mutation", "condition": k, "violations": v, "ok": v > 0} for k, v in found.items()
    ]
    met, touched = moving_ball(arm, Bounds(latency=0.1), 0.5), rounding_touches(arm, Bounds().rounding_pad)
    return [
        {"task": arm.name, "method": "tandem", "condition": "ball flying at the arm", "n": 101, "violations": int(met < 0.0),
         "margin_mm": 1e3 * met, "ok": met >= 0.0},
        {"task": arm.name, "method": "tandem", "condition": "rounding, exact arithmetic", "n": 300, "violations": touched,
         "ok": touched == 0},
        *rows,
    ]


class _Kept:
    """Rows already made, in ``rows.json``: a long search goes on where it was stopped, given the same settings and commit."""

    def __init__(self, out: Path, settings: list[Any], resume: bool) -> None:
        self.file, self.settings = out / "rows.json", settings
        self.rows: dict[str, list[Row]] = {}
        if resume and self.file.is_file():
            data = json.loads(self.file.read_text(encoding="utf-8"))
            self.rows = data["rows"] if data.get("settings") == settings else {}

    def stage(self, name: str, make: Stage) -> list[Row]:
        """The rows of a stage: those kept, or made now and kept."""
        if name not in self.rows:
            self.rows[name] = make()
            text = json.dumps({"settings": self.settings, "rows": self.rows}, indent=1)
            self.file.write_text(text + "\n", encoding="utf-8")
        return self.rows[name]


def _stages(search: Search, samples: int, scale: int, pool: ProcessPoolExecutor | None) -> list[tuple[str, Stage]]:
    """What is run, in order."""
    motions, bounds = MOTIONS // scale, load_bounds()
    hundred = dataclasses.replace(bounds, interval=0.01, levels=0)
    stages: list[tuple[str, Stage]] = [("occupancy", lambda: [_occupancy(search, samples // scale, pool)])]
    if zonopy_check.available():
        rng = np.random.default_rng([search.seed, 5])
        stages.append(("zonopy", lambda: [zonopy_check.containment(*_arm(search.robot), 20 // scale + 2, rng)]))
    if importlib.util.find_spec("coal") is not None:
        for name, numbers, moving in (
            ("moving obstacles, against meshes", bounds, True), ("standing obstacles, against meshes", bounds, False),
            ("the same at 100 intervals", hundred, False),
        ):
            stages.append((name, lambda n=name, b=numbers, m=moving: [_played(search, b, m, motions, pool, n)]))  # type: ignore[misc]
    return [*stages, ("bounds switched off", lambda: _mutations(search))]


def run(
    out: Path, quick: bool, samples: float = 1e7, adversarial: bool = True, robot: str = "fr3", workers: int = 1, seed: int = 0,
    resume: bool = False,
) -> int:
    """Run the search; writes ``table.json`` and ``table.md`` to ``out``.

    Args:
        quick: a fiftieth of the samples. samples: mesh points tried. adversarial: worst-case states, not uniform ones.
        robot: arm in config/robots. workers: processes; the result does not depend on them. seed: of everything.
        resume: keep the stages that are finished in ``out``, if settings and commit are the same.

    Returns:
        0 when nothing escaped or touched and every mutation was found, else 1.

    Raises:
        InputError: ``samples`` or ``workers`` below 1.
    """
    if not samples >= 1.0 or workers < 1:
        raise InputError(f"soundness: samples = {samples}, workers = {workers}: both must be at least 1")
    begin, scale = time.perf_counter(), 50 if quick else 1
    search = Search(robot, seed, adversarial)
    out.mkdir(parents=True, exist_ok=True)
    kept = _Kept(out, [samples, adversarial, robot, seed, quick, commit()], resume)
    notes = [
        "bound_used: greatest motion of a ball as a share of its bound (1: the bound is met exactly, above: it is wrong). "
        "violations: points outside, or clearances above a true distance.",
        f"gap: true distance minus certified clearance; aim: at most {GAP_TARGET:.0f} mm on average at 100 intervals. With "
        "moving obstacles the worst motion of the obstacle is not always found." if importlib.util.find_spec("coal") is not None
        else "Without coal: certified motions were not checked against the meshes.",
    ]
    rows: list[Row] = []
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) if workers > 1 else None
    try:
        for name, make in _stages(search, int(samples), scale, pool):
            rows += kept.stage(name, make)
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
    command = f"tandem bench soundness --samples {samples:g}" + (" --quick" if quick else "")
    write_table(out, rows, command=command, seeds=[seed], wall_s=time.perf_counter() - begin, notes="\n".join(notes))
    return 0 if all(r["ok"] for r in rows) else 1
