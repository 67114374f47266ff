"""The donut's part of ``tandem bench jm2d``: Fig. 5 (constraint), A.2 (clean estimates), Fig. 2 (paths among obstacles).

Fig. 5: 64 samples of each method under a constraint of which one part lies off the data; *valid* = both points in the
constraint's set, *valid and in distribution* = on the donut too (tolerance in ``tasks/donut/data.py``). A.2: the same by how
clean samples are estimated, and the chamfer distance of those estimates to fresh data. Fig. 2: feasible share and path length at
equal budgets of network rows. The paper gives neither dimensions nor its obstacles: the scenes are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tandem.bench import jm2d_cost, jm2d_donut_plots
from tandem.bench.jobs import Job, Result, Scale, constants
from tandem.bench.statistics import bootstrap, share
from tandem.diffusion.denoiser import NetworkDenoiser, Respaced
from tandem.diffusion.samplers import make_sampler
from tandem.diffusion.samplers.base import Run
from tandem.diffusion.samplers.clean import CleanConfig, clean_chunks
from tandem.tasks.donut import data as donut_data
from tandem.tasks.donut import problem as donut_problem
from tandem.tasks.donut.data import chamfer, in_distribution, pairs
from tandem.tasks.donut.problem import FIG5_DISKS, ROUNDING, TIGHT_DISKS, DonutConstraint, DonutScene
from tandem.tasks.donut.train import load_policy

#: Fig. 5 at I = 100. JM2D without k is conditional generation (Cor. 3), 128 x 100 x 101 / 2 network rows
CONSTRAINT: dict[str, dict[str, Any]] = {
    "policy": {"method": "policy"},
    "jm2d": {"method": "conditional", "x_samples": 128, "k_samples": 1},
    "jm2d_archive": {"method": "conditional", "x_samples": 128, "k_samples": 1, "archive": True},
    # Appx. B: every noisy sample is projected onto the constraint
    "jm2d_project": {"method": "jm2d", "x_samples": 128, "k_samples": 1, "project": True},
    "best_of_n": {"method": "best_of_n", "rows": 646_400, "k_samples": 1, "refine_rounds": 0},
    "best_of_128": {"method": "best_of_n", "rows": 12_800, "k_samples": 1, "refine_rounds": 0},
    "steered": {"method": "steered", "particles": 128, "k_samples": 1, "refine_rounds": 0},
    "pdm": {"method": "pdm", "k_samples": 1},
    "dpcc": {"method": "dpcc", "samples": 4, "select": "cost", "k_samples": 1},
    # ten steps at diffusion time 0: seen from inside a disk its edge is concave, and a linearised barrier oversteps it
    "safediffuser": {"method": "safediffuser", "extra_steps": 10, "k_samples": 1},
    "safediffuser_tvs": {"method": "safediffuser", "variant": "time_varying", "extra_steps": 10, "k_samples": 1},
    "truncation": {"method": "truncation", "k_samples": 1},
    "guidance": {"method": "guidance", "k_samples": 1},
    "guidance_epsilon": {"method": "guidance", "form": "epsilon", "scale": 10.0, "k_samples": 1},
    "mpd": {"method": "mpd", "k_samples": 1},
}
#: its constraint, and a harder one
CONDITIONS = {"Fig. 5": FIG5_DISKS, "tight": TIGHT_DISKS}
#: valid and in distribution, or the out-of-distribution share, of 64 in the paper's Fig. 5
PAPER_VALID = {"jm2d": 60 / 64}
PAPER_OUT = {"pdm": 31 / 64}
#: A.2: u steps before Tweedie
ESTIMATES: dict[str, dict[str, Any]] = {
    "noisy": {"clean": "noisy"}, "Tweedie (u=0)": {"clean": "steps", "clean_steps": 0},
    **{f"u={u}": {"clean": "steps", "clean_steps": u} for u in (1, 2, 5, 10)}, "full": {"clean": "full"},
}
#: Fig. 2 at I = 25, at 5,200 network rows where a method can spend them: JM2D's 16 x 25 x 26 / 2
JOINT_STEPS = 25
JOINT: dict[str, dict[str, Any]] = {
    "sequential": {"method": "sequential"},
    "gibbs": {"method": "gibbs", "sweeps": 13, "x_samples": 16, "k_samples": 64},
    "jm2d": {"method": "jm2d", "x_samples": 16, "k_samples": 64},
    "jm2d_archive": {"method": "jm2d", "x_samples": 16, "k_samples": 64, "archive": True},
    # by gradients of V, which know its slope but not where it falls to 0 (Appx. B)
    "jm2d_pathwise": {"method": "jm2d_pathwise", "x_samples": 16, "k_samples": 64},
    "best_of_n": {"method": "best_of_n", "rows": 5_200, "k_samples": 64},
    "best_of_n_400": {"method": "best_of_n", "rows": 400, "k_samples": 64},
    "steered": {"method": "steered", "particles": 208, "k_samples": 16},
    "steered_400": {"method": "steered", "particles": 16, "k_samples": 16},
}
OBSTACLES = (4, 10, 16)
NOTES = """Donut: `paper` is Fig. 5's 60 of 64 valid and in distribution, `paper_out` projection's 31 of 64 out of distribution.
`plan_ms_p50`: one sample on one core. Its dimensions, constraints and obstacles are ours, for the paper gives none:
`Fig. 5` leaves .025 of all pairs valid, `tight` .004; nor does it say how many denoising steps, here 100 (25 among obstacles)."""


@lru_cache(maxsize=4)
def _model(device: str) -> NetworkDenoiser:
    return load_policy(device)


def problem() -> dict[str, Any]:
    """What defines the task."""
    return {"steps": JOINT_STEPS, "radius": DonutScene(0, 0).radius, **constants(donut_data, donut_problem)}


def constraint_sample(settings: dict[str, Any], condition: str, seed: int, device: str = "cpu") -> Result:
    """One sample under a constraint of :data:`CONDITIONS`."""
    denoiser, problem = _model(device), DonutConstraint(torch.tensor(CONDITIONS[condition]), device=device)
    r = make_sampler(settings).sample(problem, denoiser, generator=torch.Generator(device).manual_seed(seed))
    assert r.x is not None
    x = r.x[None]
    points_out = int((problem.inside(x) < -ROUNDING).sum())
    return {
        "x": x.flatten().tolist(), "valid": bool(problem.feasible(x)[0]), "in_distribution": bool(in_distribution(x)[0]),
        "points_out": points_out, "rows": r.counters.network_rows,
    }


def estimate_quality(settings: dict[str, Any], seed: int, count: int = 256, device: str = "cpu") -> Result:
    """Chamfer distance to fresh data of clean estimates of ``count`` noised samples, averaged over all noise levels."""
    denoiser, problem = _model(device), DonutConstraint(torch.tensor(FIG5_DISKS), device=device)
    generator = torch.Generator(device).manual_seed(seed)
    run = Run(problem, denoiser, generator, None)
    data = denoiser.normalise(torch.from_numpy(pairs(count, seed)).to(device))
    fresh = torch.from_numpy(pairs(4000, seed + 10_000)).to(device).flatten(1)
    with torch.inference_mode():
        found = []
        for i in range(1, denoiser.schedule.steps + 1):
            x = denoiser.schedule.signal(i) * data + denoiser.schedule.noise(i) * run.noise(count)
            clean = clean_chunks(run, CleanConfig(**settings), x, i, count)
            found.append(chamfer(denoiser.denormalise(clean).flatten(1), fresh))
    return {"chamfer": float(np.mean(found))}


def joint_sample(settings: dict[str, Any], obstacles: int, scene: int, seed: int, device: str = "cpu") -> Result:
    """One plan of Fig. 2's problem: feasible or not, and how long its path is."""
    denoiser, problem = Respaced(_model(device), JOINT_STEPS), DonutScene(obstacles, scene).problem(device)
    r = make_sampler(settings).sample(problem, denoiser, generator=torch.Generator(device).manual_seed(seed))
    on = r.x is not None and bool(in_distribution(r.x[None])[0])
    return {
        "feasible": r.feasible, "length": -r.cost if r.feasible else None, "in_distribution": on, "rows": r.counters.network_rows,
        "evaluations": r.counters.potential_evals,
        "path": None if r.x is None or r.k is None else problem.path(r.x, r.k).tolist(),
    }


def thin(key: str, result: Result) -> Result:
    """What is kept of a sample: its points to four digits, which is more than a picture shows."""
    points = {name: np.round(result[name], 4).tolist() for name in ("x", "path") if result.get(name) is not None}
    return {**result, **points}


def plan_cost(settings: dict[str, Any], problem: str, seed: int, threads: int, plans: int = 8, device: str = "cpu") -> Result:
    """Wall time of ``plans`` single plans on ``threads`` cores: of Fig. 5's constraint, or of Fig. 2's paths (16 circles)."""
    whole = _model(device)
    if problem == "constraint":
        asked: Any = DonutConstraint(torch.tensor(FIG5_DISKS), device=device)
        return jm2d_cost.timed(make_sampler(settings), whole, lambda _: asked, seed, threads, plans, device)
    scenes = [DonutScene(OBSTACLES[-1], n).problem(device) for n in range(plans)]
    denoiser = Respaced(whole, JOINT_STEPS)
    return jm2d_cost.timed(make_sampler(settings), denoiser, lambda n: scenes[n], seed, threads, plans, device)


def _costs(quick: bool) -> dict[str, dict[str, Any]]:
    """What plans are timed of; ``<method>`` under the constraint, ``paths, <method>`` among obstacles."""
    constraint = {name: {"settings": s, "problem": "constraint"} for name, s in CONSTRAINT.items()}
    joint = {f"paths, {name}": {"settings": s, "problem": "paths"} for name, s in JOINT.items()}
    whole = {**constraint, **joint}
    return {name: whole[name] for name in ("policy", "paths, sequential") if name in whole} if quick else whole


def jobs(scale: Scale) -> list[Job]:
    """Everything to measure; a key says where it belongs."""
    samples, scenes, device = scale.count(64, 4), scale.count(12, 1), scale.device
    out = [
        Job(
            f"donut/cost/{name}/{threads}/{scale.seeds[0]}", plan_cost,
            {**asked, "seed": scale.seeds[0], "threads": threads, "device": device}, alone=True,
        )
        for name, asked in _costs(scale.quick).items() for threads in jm2d_cost.THREADS
    ]
    for seed in scale.seeds:
        for n in range(samples):
            own = {"seed": 1000 * seed + n, "device": device}
            for condition in CONDITIONS:
                for name, settings in CONSTRAINT.items():
                    asked = {"settings": settings, "condition": condition, **own}
                    out.append(Job(f"donut/constraint/{condition}/{name}/{seed}/{n}", constraint_sample, asked))
            for name, settings in ESTIMATES.items():
                whole = {"method": "conditional", "x_samples": 128, "k_samples": 1, **settings}
                asked = {"settings": whole, "condition": "Fig. 5", **own}
                out.append(Job(f"donut/estimates/{name}/{seed}/{n}", constraint_sample, asked))
        for name, settings in ESTIMATES.items():
            quality = {"settings": settings, "seed": seed, "device": device}
            out.append(Job(f"donut/quality/{name}/{seed}", estimate_quality, quality))
        for count in OBSTACLES:
            for scene in range(scenes):
                for name, settings in JOINT.items():
                    # scenes share no random numbers: else a repetition would be one draw of them, not twelve
                    where = {
                        "settings": settings, "obstacles": count, "scene": scene, "seed": 1000 * seed + scene, "device": device,
                    }
                    out.append(Job(f"donut/joint/{name}/{count}/{seed}/{scene}", joint_sample, where))
    return out


def rows(results: dict[str, Result]) -> list[dict[str, Any]]:
    """Table rows of all donut results."""
    costs = jm2d_cost.rows(results, "donut", _costs(quick=False), "plan")
    return [*_constraint_rows(results), *_estimate_rows(results), *_joint_rows(results), *costs]


def plots(out: Path, results: dict[str, Result], table: list[dict[str, Any]]) -> None:
    """Figures into folder ``out``; ``table``: this part's rows."""
    for condition, disks in CONDITIONS.items():
        name = "donut_constraint.svg" if condition == "Fig. 5" else f"donut_constraint_{condition}.svg"
        found = {key: r for key, r in results.items() if key.startswith(f"donut/constraint/{condition}/")}
        jm2d_donut_plots.constraint(out / name, found, list(CONSTRAINT), disks)
    jm2d_donut_plots.estimates(out / "donut_estimates.svg", table)
    scenes = {count: DonutScene(count, 0).circles().tolist() for count in OBSTACLES}
    jm2d_donut_plots.paths(out / "donut_paths.svg", results, [m for m in JOINT if not m.endswith("_400")], scenes)


def _of(results: dict[str, Result], prefix: str) -> list[Result]:
    return [r for key, r in results.items() if key.startswith(prefix)]


def _share(found: list[Result], test: Callable[[Result], bool]) -> dict[str, float]:
    return share(sum(map(test, found)), len(found))


def _cost(found: list[Result]) -> dict[str, Any]:
    return {
        "plan_ms_p50": 1e3 * float(np.median([r["wall_s"] for r in found])),
        "network_rows": float(np.mean([r["rows"] for r in found])),
    }


def _constraint_rows(results: dict[str, Result]) -> list[dict[str, Any]]:
    out = []
    for condition in CONDITIONS:
        for name in CONSTRAINT:
            found = _of(results, f"donut/constraint/{condition}/{name}/")
            papers = {"paper": PAPER_VALID.get(name), "paper_out": PAPER_OUT.get(name)} if condition == "Fig. 5" else {}
            if found:
                out.append({
                    "table": "Donut under a constraint (Fig. 5)",
                    "task": "donut", "method": name, "condition": condition, "n": len(found),
                    "valid_in_distribution": _share(found, lambda r: r["valid"] and r["in_distribution"]),
                    "paper": papers.get("paper"), "valid": _share(found, lambda r: r["valid"]),
                    "out_of_distribution": _share(found, lambda r: not r["in_distribution"]),
                    "paper_out": papers.get("paper_out"), **_cost(found),
                })
    return out


def _estimate_rows(results: dict[str, Result]) -> list[dict[str, Any]]:
    out = []
    for name in ESTIMATES:
        found = _of(results, f"donut/estimates/{name}/")
        quality = _of(results, f"donut/quality/{name}/")
        if found and quality:
            out.append({
                "table": "Donut, clean estimates (A.2)",
                "task": "donut", "method": f"jm2d, {name}", "condition": "A.2 clean estimates", "n": len(found),
                "valid_in_distribution": _share(found, lambda r: r["valid"] and r["in_distribution"]),
                "violations": bootstrap([r["points_out"] for r in found]),
                "chamfer": bootstrap([r["chamfer"] for r in quality]), **_cost(found),
            })
    return out


def _joint_rows(results: dict[str, Result]) -> list[dict[str, Any]]:
    out = []
    for count in OBSTACLES:
        for name in JOINT:
            found = _of(results, f"donut/joint/{name}/{count}/")
            if found:
                out.append({
                    "table": "Donut, paths among obstacles (Fig. 2)",
                    "task": "donut", "method": name, "condition": f"Fig. 2, {count} circles", "n": len(found),
                    "feasible": _share(found, lambda r: r["feasible"]),
                    "feasible_in_distribution": _share(found, lambda r: r["feasible"] and r["in_distribution"]),
                    "length": bootstrap([r["length"] for r in found if r["feasible"]]), **_cost(found),
                    "potential_evals": float(np.mean([r["evaluations"] for r in found])),
                })
    return out
