"""The point maze's part of ``tandem bench jm2d``: Fig. 3 (padded walls), Fig. 4 (samples), Table F.3 (degraded backups), cost.

Episodes in closed loop; every method sees the same starts and goals. Safety is judged on the simulated path, between its steps
too. *Safe success*: the goal reached within 10 s and no padded wall met. *Intervention*: share of steps under the backup.
*Horizon*: time to the goal, of the episodes that reach it. *Cost*: wall time of single plans on one core and on two, with nothing
else running.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tandem.bench import archive, jm2d_cost, jm2d_maze_plots
from tandem.bench.jobs import Job, Result, Scale, constants
from tandem.bench.statistics import bootstrap, share
from tandem.diffusion.denoiser import NetworkDenoiser
from tandem.diffusion.samplers import make_sampler
from tandem.safety import pointmass
from tandem.tasks.maze import demonstrations, layout, physics
from tandem.tasks.maze import episode as maze_episode
from tandem.tasks.maze import problem as maze_problem
from tandem.tasks.maze.episode import draw_task, play
from tandem.tasks.maze.physics import DT, MazeWorld
from tandem.tasks.maze.problem import BACKUPS, MazeConfig, MazeProblem
from tandem.tasks.maze.train import load_policy

#: JM2D's 32 chunks and I = 16 make 32 x 16 x 17 / 2 = 4,352 rows a plan; Gibbs, best-of-N and `steered_272` spend the same
METHODS: dict[str, dict[str, Any]] = {
    "policy": {"method": "policy"},
    "rail": {"method": "sequential"},
    "gibbs": {"method": "gibbs", "sweeps": 8, "x_samples": 34, "k_samples": 64},
    "jm2d": {"method": "jm2d", "x_samples": 32, "k_samples": 64},
    "jm2d_archive": {"method": "jm2d", "x_samples": 32, "k_samples": 64, "archive": True},
    "jm2d_archive_544": {"method": "jm2d", "x_samples": 4, "k_samples": 64, "archive": True},
    "best_of_n": {"method": "best_of_n", "rows": 4352, "k_samples": 64},
    "best_of_n_512": {"method": "best_of_n", "rows": 512, "k_samples": 64},
    "steered": {"method": "steered", "particles": 32, "k_samples": 16, "selection": "sample"},
    "steered_272": {"method": "steered", "particles": 272, "k_samples": 16, "selection": "sample"},
}
#: further budgets of the cheap ones, for success against cost
BUDGETS: dict[str, dict[str, Any]] = {
    "best_of_n_128": {"method": "best_of_n", "rows": 128, "k_samples": 64},
    "steered_8": {**METHODS["steered"], "particles": 8}, "steered_128": {**METHODS["steered"], "particles": 128},
}
PADDINGS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
#: N = N_K of Fig. 4; 32 x 64 stands among Fig. 3's rows
SAMPLES = (2, 4, 8, 16)
#: where degraded backups (as in the paper, F.2: 50 rollouts there) and the ablation are measured; Fig. 4 does not say where [m]
ABLATION_PADDING = 0.2
#: read off the project page's figure to about 0.01 (no marker at w = 0.10), and Table F.3, whose horizons are steps of 10 ms
PAPER: dict[str, dict[str, dict[float, float]]] = {
    "policy": {
        "safe_success": {0.0: 0.895, 0.05: 0.885, 0.15: 0.775, 0.2: 0.61, 0.25: 0.275},
        "horizon_s": dict.fromkeys((0.0, 0.05, 0.15, 0.2, 0.25), 2.36),
    },
    "rail": {
        "safe_success": {0.0: 0.98, 0.05: 0.985, 0.15: 0.96, 0.2: 0.945, 0.25: 0.91},
        "intervention": {0.0: 0.39, 0.05: 0.4, 0.15: 0.43, 0.2: 0.515, 0.25: 0.61},
        "horizon_s": {0.0: 3.25, 0.05: 3.4, 0.15: 3.55, 0.2: 3.9, 0.25: 4.93},
    },
    "gibbs": {
        "safe_success": {0.0: 1.0, 0.05: 0.98, 0.15: 0.97, 0.2: 0.955, 0.25: 0.955},
        "intervention": {0.0: 0.18, 0.05: 0.22, 0.15: 0.26, 0.2: 0.345, 0.25: 0.47},
        "horizon_s": {0.0: 3.05, 0.05: 3.06, 0.15: 3.18, 0.2: 3.5, 0.25: 4.63},
    },
    "jm2d": {
        "safe_success": {0.0: 0.98, 0.05: 0.99, 0.15: 0.975, 0.2: 0.96, 0.25: 0.935},
        "intervention": {0.0: 0.15, 0.05: 0.165, 0.15: 0.21, 0.2: 0.28, 0.25: 0.37},
        "horizon_s": {0.0: 2.68, 0.05: 2.87, 0.15: 3.12, 0.2: 3.42, 0.25: 3.87},
    },
}
PAPER_DEGRADED: dict[str, dict[str, dict[str, float]]] = {
    "rail": {
        "original": {"safe_success": 0.90, "horizon_s": 3.517, "intervention": 0.52},
        "+x+y": {"safe_success": 0.62, "horizon_s": 4.173, "intervention": 0.61},
        "-x-y": {"safe_success": 0.60, "horizon_s": 3.677, "intervention": 0.72},
    },
    "jm2d": {
        "original": {"safe_success": 0.94, "horizon_s": 2.977, "intervention": 0.24},
        "+x+y": {"safe_success": 0.76, "horizon_s": 2.597, "intervention": 0.40},
        "-x-y": {"safe_success": 0.88, "horizon_s": 3.663, "intervention": 0.47},
    },
}
NOTES = """Point maze: `paper_...` are Fig. 3's values, read off the figure, and Table F.3's (50 rollouts). Map, starts,
goals, denoising steps, N and lambda (0.05 m^2) are ours, for the paper gives none; steering returns a draw of its target,
best-of-N the least J; `plan_ms`: processor time, one core; `difference_...`: less sequential's, paired over the same
episodes.
Goals are drawn as D4RL draws them: two thirds lie in walls padded by 0.25 m, a quarter by more than 0.1 m; 0.2 m counts as
reached. On tuning seeds 18 of 19 filtered episodes at w = 0.25 that ran out of time had one of that quarter, the ball going
to and fro before it; of the table's first 30 only 6 of 13 had, but 12 of 13 one in the padding: that is not all of it.
lambda = 0.02 and 0.2 m^2 are not clearly better than 0.05 (16-18 episodes), nor is a linear schedule of k (30-40).
JM2D judges the pairs of its last step, which all have one chunk; `jm2d_archive` chooses among those of all steps and intervenes
a third less, `jm2d_archive_544` does so with N = 4, an eighth of the rows.
With degraded backups (+x+y) a motion to +x or +y goes on for .75 s times its speed: at 9 of the 17 places where best-of-N's
tuning episodes ended that did not arrive, none of 256 policy samples had a backup."""


@lru_cache(maxsize=4)
def _policy(device: str) -> NetworkDenoiser:
    return load_policy(device)


def problem() -> dict[str, Any]:
    """What defines the task."""
    own = {"config": dataclasses.asdict(MazeConfig()), "cost": ABLATION_PADDING}
    return {**own, **constants(demonstrations, maze_episode, layout, physics, maze_problem, pointmass)}


def episode(settings: dict[str, Any], padding: float, backup: str, seed: int, trial: int, device: str = "cpu") -> Result:
    """One episode."""
    config = MazeConfig(padding=padding, backup=backup)
    own = 1_000_000 * seed + trial
    o = play(make_sampler(settings), _policy(device), config, draw_task(seed, trial), own, settings["method"] != "policy")
    return {
        "reached": o.reached, "violated": o.violated, "steps": len(o.backup), "backup_steps": int(o.backup.sum()),
        "clearance": round(o.clearance, 6), "refused": o.refused, "rows": float(np.mean(o.rows)),
        "evaluations": float(np.mean(o.evaluations)), "plan_ms": [round(ms, 2) for ms in o.plan_ms],
    }


def thin(key: str, result: Result) -> Result:
    """What is kept of an episode: quantiles of its times."""
    return {**result, "plan_ms": archive.quantiles(result["plan_ms"])} if "steps" in result else result


def plan_cost(settings: dict[str, Any], seed: int, threads: int, plans: int = 8, device: str = "cpu") -> Result:
    """Wall time of ``plans`` single plans on ``threads`` cores, in turn at a start at rest and after 0.2 s of random controls."""
    policy, config, rng = _policy(device), MazeConfig(padding=ABLATION_PADDING), np.random.default_rng(seed)

    def problem(n: int) -> MazeProblem:
        task, world = draw_task(seed, n), MazeWorld()
        state = world.reset(task.start)
        for control in rng.uniform(-0.5, 0.5, (20 * (n % 2), 2)):
            state = world.step(control)
        return MazeProblem.make(config, state, task.goal, policy, rng)

    return jm2d_cost.timed(make_sampler(settings), policy, problem, seed, threads, plans, device)


def ablations() -> dict[str, dict[str, Any]]:
    """Fig. 4's methods."""
    return {f"jm2d, N = N_K = {n}": {"method": "jm2d", "x_samples": n, "k_samples": n} for n in SAMPLES}


def jobs(scale: Scale) -> list[Job]:
    """Everything to measure; a key says where it belongs."""
    conditions = [
        (w, "original", name, settings) for w in PADDINGS for name, settings in METHODS.items()
    ]
    conditions += [(ABLATION_PADDING, "original", name, settings) for name, settings in {**ablations(), **BUDGETS}.items()]
    conditions += [
        (ABLATION_PADDING, backup, name, METHODS[name]) for backup in list(BACKUPS)[1:] for name in METHODS
        if name != "policy"
    ]
    if scale.quick:
        conditions = [c for c in conditions if c[0] == ABLATION_PADDING and c[2] in ("policy", "rail", "steered")]
    costs = {name: METHODS[name] for name in ("rail", "steered")} if scale.quick else {**METHODS, **BUDGETS}
    alone = [
        Job(
            f"maze/cost/{name}/{threads}/{scale.seeds[0]}", plan_cost,
            {"settings": settings, "seed": scale.seeds[0], "threads": threads, "device": scale.device}, alone=True,
        )
        for name, settings in costs.items() for threads in jm2d_cost.THREADS
    ]
    return alone + [
        Job(
            f"maze/{padding:g}/{backup}/{name}/{seed}/{trial}", episode,
            {
                "settings": settings, "padding": padding, "backup": backup, "seed": seed, "trial": trial, "device": scale.device,
            },
        )
        for seed in scale.seeds for trial in range(scale.count(80, 1)) for padding, backup, name, settings in conditions
    ]


def _found(results: dict[str, Result], padding: float, backup: str, name: str) -> dict[str, Result]:
    """Results of one cell by seed and trial."""
    prefix = f"maze/{padding:g}/{backup}/{name}/"
    return {key.removeprefix(prefix): r for key, r in results.items() if key.startswith(prefix)}


def _figures(found: dict[str, Result], filtered: bool = True) -> dict[str, Any]:
    rs = list(found.values())
    ms = np.concatenate([r["plan_ms"] for r in rs])
    return {
        "n": len(rs), "safe_success": share(sum(r["reached"] and not r["violated"] for r in rs), len(rs)),
        "violations": share(sum(r["violated"] for r in rs), len(rs)),
        "intervention": bootstrap([r["backup_steps"] / r["steps"] for r in rs]) if filtered else None,
        "horizon_s": bootstrap([DT * r["steps"] for r in rs if r["reached"]]),
        "plan_ms_p50": float(np.median(ms)), "plan_ms_p95": float(np.quantile(ms, 0.95)),
        "network_rows": float(np.mean([r["rows"] for r in rs])),
        "potential_evals": float(np.mean([r["evaluations"] for r in rs])),
    }


def _difference(found: dict[str, Result], rail: dict[str, Result]) -> dict[str, Any]:
    """Paired differences from sequential over the episodes that both have."""
    both = [(found[key], rail[key]) for key in found if key in rail]
    reached = [(a, b) for a, b in both if a["reached"] and b["reached"]]
    return {
        "difference_intervention": bootstrap([a["backup_steps"] / a["steps"] - b["backup_steps"] / b["steps"] for a, b in both]),
        "difference_horizon_s": bootstrap([DT * (a["steps"] - b["steps"]) for a, b in reached]),
    }


def _row(
    results: dict[str, Result], title: str, padding: float, backup: str, name: str, paper: dict[str, float]
) -> dict[str, Any] | None:
    found = _found(results, padding, backup, name)
    if not found:
        return None
    condition = f"w = {padding:g}" + ("" if backup == "original" else f", backups {backup}")
    row = {"table": title, "task": "maze", "method": name, "condition": condition, **_figures(found, name != "policy")}
    for metric in ("safe_success", "intervention", "horizon_s"):
        row[f"paper_{metric}"] = paper.get(metric)
    if name not in ("policy", "rail"):
        row |= _difference(found, _found(results, padding, backup, "rail"))
    return row


def rows(results: dict[str, Result]) -> list[dict[str, Any]]:
    """Table rows of all maze results."""
    out = []
    for w in PADDINGS:
        for name in METHODS:
            paper = {metric: values[w] for metric, values in PAPER.get(name, {}).items() if w in values}
            out.append(_row(results, "Point maze, padded walls (Fig. 3)", w, "original", name, paper))
    for name in BUDGETS:
        title = "Point maze, other budgets (w = 0.2)"
        out.append(_row(results, title, ABLATION_PADDING, "original", name, {}))
    for name in (*ablations(), "jm2d") if _found(results, ABLATION_PADDING, "original", next(iter(ablations()))) else ():
        out.append(_row(results, "Point maze, number of samples (Fig. 4)", ABLATION_PADDING, "original", name, {}))
    for backup in BACKUPS:
        for name in METHODS:
            paper = PAPER_DEGRADED.get(name, {}).get(backup, {})
            if name != "policy":
                out.append(_row(results, "Point maze, degraded backups (Table F.3)", ABLATION_PADDING, backup, name, paper))
    return [row for row in out if row is not None] + _cost_rows(results)


def _cost_rows(results: dict[str, Result]) -> list[dict[str, Any]]:
    """Plan time on one core and on two; success and intervention are Fig. 3's, at the same padding."""
    out = jm2d_cost.rows(results, "maze", {**METHODS, **BUDGETS}, f"w = {ABLATION_PADDING:g}")
    for row in out:
        played = _found(results, ABLATION_PADDING, "original", row["method"])
        if played:
            figures = _figures(played, row["method"] != "policy")
            row |= {key: figures[key] for key in ("safe_success", "intervention")}
    return out


def plots(out: Path, results: dict[str, Result], table: list[dict[str, Any]]) -> None:
    """Figures into folder ``out``; ``table``: this part's rows."""
    jm2d_maze_plots.padded(out / "maze_padding.svg", [r for r in table if "Fig. 3" in r["table"]])
    jm2d_maze_plots.samples(out / "maze_samples.svg", [r for r in table if "Fig. 4" in r["table"]])
    jm2d_maze_plots.budget(out / "maze_budget.svg", _budgets(results))


def _budgets(results: dict[str, Result]) -> list[dict[str, Any]]:
    """Rows of all methods at :data:`ABLATION_PADDING` over those episodes that all of them have played."""
    names = [n for n in {**METHODS, **ablations(), **BUDGETS} if n != "policy"]
    found = {name: f for name in names if (f := _found(results, ABLATION_PADDING, "original", name))}
    common = set.intersection(*(set(f) for f in found.values())) if found else set()
    return [{"method": n, **_figures({key: f[key] for key in common})} for n, f in found.items()] if common else []
