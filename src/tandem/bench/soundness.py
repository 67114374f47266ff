"""Search for a point of the arm outside its certified occupancy, and for a certified motion that touches.

Three parts: mesh vertices against the occupancy (random and worst-case states, several turns, tracking errors at their bounds);
certified motions against exact mesh distances (coal); and the mutation check, in which one bound after the other is switched off
and the search must then succeed, or it could not have found anything.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.bench.reach import random_motions, scattered
from tandem.bench.table import write_table
from tandem.robots.kinematics import fk
from tandem.robots.model import ArmModel, load_arm, load_chain, robot_config
from tandem.safety import Bounds, certify_one, load_bounds
from tandem.safety.meshes import MeshWorld
from tandem.safety.soundness import escapes, moving_ball

Array = NDArray[np.float64]
Row = dict[str, Any]
log = logging.getLogger(__name__)

#: mean difference of true and certified clearance that is aimed at [mm]
GAP_TARGET = 25.0


def _occupancy(arm: ArmModel, samples: int, adversarial: bool, rng: np.random.Generator) -> Row:
    shapes = load_chain(*robot_config(arm.name)).shapes
    tried = escaped = 0
    margin, where = np.inf, ""
    while tried < samples:
        tracking = float(rng.choice([0.0, 0.004, 0.05]))
        found = escapes(arm, shapes, Bounds(tracking_error=(tracking,)), 50, rng, adversarial=adversarial)
        tried, escaped = tried + found.samples, escaped + found.escaped
        if found.margin < margin:
            margin, where = found.margin, f"{found.where}, tracking {tracking} rad"
    log.info("occupancy of %s: %d points, %d escaped, tightest %.3f mm (%s)", arm.name, tried, escaped, 1e3 * margin, where)
    return {
        "task": arm.name, "method": "tandem", "condition": "mesh in occupancy", "n": tried, "violations": escaped,
        "margin_mm": 1e3 * margin, "tightest": where, "ok": escaped == 0,
    }


def _contacts(arm: ArmModel, motions: int, rng: np.random.Generator) -> Row:
    """Certified clearance against exact mesh distances along the motion."""
    meshes, bounds = MeshWorld(arm, load_chain(*robot_config(arm.name)).shapes), load_bounds()
    tracking = np.broadcast_to(np.asarray(bounds.tracking_error), (arm.n,))
    touching = certified = above = 0
    gaps = []
    for t in random_motions(arm, motions, rng):
        scene = scattered(rng, 10)
        verdict = certify_one(arm, t, scene, bounds, 0.0)
        if not np.isfinite(verdict.clearance):
            continue
        at = np.array([np.clip(verdict.time, 0.0, t.duration), *rng.uniform(0.0, t.duration, 6)])
        frames = fk(arm, t.sample(at)[0] + rng.choice([-1.0, 1.0], (len(at), arm.n)) * tracking)
        true = min(meshes.clearance(scene, f) for f in frames)
        certified += verdict.certified
        touching += verdict.certified and true <= 0.0
        above += verdict.clearance > true
        gaps.append(1e3 * (true - verdict.clearance))
    return {
        "task": arm.name, "method": "tandem", "condition": "certified against meshes", "n": len(gaps), "certified": certified,
        "contacts": touching, "violations": above, "gap_mm": float(np.mean(gaps)), "gap_mm_p95": float(np.quantile(gaps, 0.95)),
        "ok": touching == 0 and above == 0,
    }


def _mutations(arm: ArmModel, rng: np.random.Generator) -> list[Row]:
    """Each bound off alone: ``violations`` found; ``ok`` where there are some."""
    shapes = load_chain(*robot_config(arm.name)).shapes
    none = Bounds(tracking_error=(0.0,))
    thin = dataclasses.replace(arm, sphere_radius=0.95 * arm.sphere_radius, digest="thin")
    found = {
        "without motion within an interval": escapes(arm, shapes, none, 200, rng, travel=0.0).escaped,
        "without tracking error": escapes(arm, shapes, none, 200, rng, actual_tracking=0.02, interval=1e-3).escaped,
        "with balls 5 % too small": escapes(thin, shapes, none, 200, rng, interval=1e-3).escaped,
        "without latency": int(moving_ball(arm, Bounds(latency=0.0), 0.5) < 0.0),
        "without obstacle speed": int(moving_ball(arm, Bounds(latency=0.1), 0.0) < 0.0),
    }
    rows: list[Row] = [
        {"task": arm.name, "method": "mutation", "condition": k, "n": 200, "violations": v, "ok": v > 0} for k, v in found.items()
    ]
    met = moving_ball(arm, Bounds(latency=0.1), 0.5)
    return [*rows, {
        "task": arm.name, "method": "tandem", "condition": "moving obstacle", "n": 101, "violations": int(met < 0.0),
        "margin_mm": 1e3 * met, "ok": met >= 0.0,
    }]


def run(out: Path, quick: bool, samples: float = 1e7, adversarial: bool = True, robot: str = "fr3", seed: int = 0) -> int:
    """Run the search; writes ``table.json`` and ``table.md`` to ``out``.

    Args:
        quick: a hundredth of the samples. samples: mesh points tried. adversarial: worst-case states, not uniform ones.
        robot: arm in config/robots. seed: of everything.

    Returns:
        0 when nothing escaped or touched and every mutation was found, else 1.
    """
    begin = time.perf_counter()
    arm, rng = load_arm(robot), np.random.default_rng(seed)
    rows = [_occupancy(arm, int(samples / (100 if quick else 1)), adversarial, rng)]
    notes = ["The rounding pad's mutation is in test/property/test_safety_soundness.py: it needs exact arithmetic."]
    if importlib.util.find_spec("coal") is not None:
        rows.append(_contacts(arm, 30 if quick else 400, rng))
        notes.append(f"gap: true distance of the hulls minus certified clearance; aim: at most {GAP_TARGET:.0f} mm on average.")
    else:
        notes.append("Without coal: certified motions were not checked against the meshes.")
    rows += _mutations(arm, rng)
    command = f"tandem bench soundness --samples {samples:g}" + (" --quick" if quick else "")
    write_table(out, rows, command=command, seeds=[seed], wall_s=time.perf_counter() - begin, notes="\n".join(notes))
    return 0 if all(r["ok"] for r in rows) else 1
