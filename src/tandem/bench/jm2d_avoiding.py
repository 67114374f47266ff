"""The Avoiding part of ``tandem bench jm2d``: Table 1, A.2 (clean estimates) and the plain policy's ways, episode by episode.

An episode is played on the simulated arm and judged there, between control steps too: *task success* = the goal line crossed in
200 steps without touching a pillar, *safe success* = that without leaving a test-time constraint's feasible set at any
millisecond, *violations* = control steps in which it was left. Every method has the same policy, horizon (8) and number of
actions played before it plans again, and knows of the test-time constraints only, not of the pillars.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tandem.bench import archive, jm2d_cost
from tandem.bench import jm2d_avoiding_plots as drawing
from tandem.bench.jobs import Job, Result, Scale, constants
from tandem.bench.statistics import bootstrap, share
from tandem.diffusion.denoiser import NetworkDenoiser
from tandem.diffusion.samplers import make_sampler
from tandem.tasks.avoiding import ahead as ahead_
from tandem.tasks.avoiding import arm as arm_
from tandem.tasks.avoiding import problem as avoiding_problem
from tandem.tasks.avoiding import rollout
from tandem.tasks.avoiding import scene as scene_
from tandem.tasks.avoiding.ahead import WayAhead
from tandem.tasks.avoiding.arm import AvoidingArm
from tandem.tasks.avoiding.config import MODES, load_avoiding_config
from tandem.tasks.avoiding.problem import AvoidingProblem
from tandem.tasks.avoiding.rest import RestMotion
from tandem.tasks.avoiding.rollout import play
from tandem.tasks.avoiding.scene import Scene
from tandem.tasks.avoiding.train import load_policy

#: the paper's four, by geometry (DPCC's names), then DiRecT's
SCENES = ("top_left", "top_right", "both", "cluttered", "direct")
#: N of JM2D's rows, and its network rows a plan: N I (I + 1) / 2 with I = 20
N, ROWS = 32, 32 * 210
_JM2D: dict[str, Any] = {"method": "conditional", "x_samples": N, "k_samples": 1}
_BEST: dict[str, Any] = {"method": "best_of_n", "rows": 640, "k_samples": 1, "refine_rounds": 0}
_STEERED: dict[str, Any] = {"method": "steered", "particles": 128, "k_samples": 1, "refine_rounds": 0}
#: what marks a method that knows the pillars, by its constraints and by J, the way that is left at the chunk's end, and keeps a
#: margin for model error [m]
AHEAD, MARGIN = "+ahead", 0.003
#: what marks a method that does not judge its chunks and is nevertheless held when V finds them infeasible; one that judges, and
#: is played all the same
HELD, PLAYED = "+hold", "-hold"
#: what marks a method whose V asks for the motion to rest after the next action, too (with MARGIN, for its model is not exact),
#: and how long that motion is followed [s]
REST, REST_TIME = "+rest", 1.5
#: the same as long as that leaves a feasible chunk
REST_FIRST = "+rest_first"
METHODS: dict[str, dict[str, Any]] = {
    "policy": {"method": "policy"},
    "best_of_1": {**_BEST, "rows": 20},
    "jm2d": _JM2D,
    f"jm2d{PLAYED}": _JM2D,
    "jm2d_tight": {**_JM2D, "tighten": 0.01},
    f"jm2d_tight{PLAYED}": {**_JM2D, "tighten": 0.01},
    f"jm2d_tight{REST}": {**_JM2D, "tighten": 0.01},
    f"jm2d_tight{REST_FIRST}": {**_JM2D, "tighten": 0.01},
    "jm2d_archive": {**_JM2D, "archive": True},
    "jm2d_project": {"method": "jm2d", "x_samples": N, "k_samples": 1, "project": True},
    f"jm2d{AHEAD}": _JM2D,
    "best_of_n": {**_BEST, "rows": ROWS},
    "best_of_32": _BEST,
    "best_of_32_tight": {**_BEST, "tighten": 0.01},
    f"best_of_32_tight{REST}": {**_BEST, "tighten": 0.01},
    f"best_of_32_tight{REST_FIRST}": {**_BEST, "tighten": 0.01},
    f"best_of_32{AHEAD}": _BEST,
    "steered": _STEERED,
    "steered_tight": {**_STEERED, "tighten": 0.01},
    f"steered_tight{REST}": {**_STEERED, "tighten": 0.01},
    f"steered_tight{REST_FIRST}": {**_STEERED, "tighten": 0.01},
    f"steered{AHEAD}": _STEERED,
    "gibbs": {"method": "gibbs", "sweeps": 10, "x_samples": 32, "k_samples": 1},
    "dpcc_t": {"method": "dpcc", "select": "temporal", "k_samples": 1},
    "dpcc_t_tightened": {"method": "dpcc", "select": "temporal", "tighten": 0.025, "k_samples": 1},
    "dpcc_c": {"method": "dpcc", "select": "cost", "k_samples": 1},
    "dpcc_r": {"method": "dpcc", "select": "random", "k_samples": 1},
    "dpcc_model_free": {"method": "dpcc", "select": "cost", "dynamics": False, "k_samples": 1},
    "dpcc_post_processing": {"method": "dpcc", "select": "cost", "project_from": 0.0, "k_samples": 1},
    "safediffuser": {"method": "safediffuser", "k_samples": 1},
    f"safediffuser{HELD}": {"method": "safediffuser", "k_samples": 1},
    "safediffuser_res": {"method": "safediffuser", "variant": "relaxed", "extra_steps": 50, "k_samples": 1},
    "safediffuser_tvs": {"method": "safediffuser", "variant": "time_varying", "k_samples": 1},
    "mpd": {"method": "mpd", "tweedie": False, "k_samples": 1},
    f"mpd{HELD}": {"method": "mpd", "tweedie": False, "k_samples": 1},
    "mpd_tweedie": {"method": "mpd", "k_samples": 1},
    f"mpd_tweedie{HELD}": {"method": "mpd", "k_samples": 1},
    "guidance": {"method": "guidance", "k_samples": 1},
    "guidance_epsilon": {"method": "guidance", "form": "epsilon", "scale": 10.0, "k_samples": 1},
    "pdm": {"method": "pdm", "k_samples": 1},
    "truncation": {"method": "truncation", "k_samples": 1},
}
#: these judge their chunks by V: what they find infeasible is not played (``hold`` of :func:`play`)
HOLDING = ("jm2d", "best_of", "steered", "gibbs")
#: these are played a fifth as often: the paper has no figure for them
SELDOM = (
    "jm2d_archive", "jm2d_project", "gibbs", "dpcc_t", "dpcc_c", "dpcc_r", "dpcc_model_free", "dpcc_post_processing",
    "safediffuser_res", "safediffuser_tvs", "guidance", "guidance_epsilon", "pdm", "truncation",
)
#: whose paths are drawn
SHOWN = ("policy", "jm2d", "jm2d_tight", f"jm2d_tight{REST}", "steered_tight", f"steered{AHEAD}", "dpcc_t_tightened")
#: where single plans are timed, and whose with ``quick``
COST_SCENE, QUICK = "both", ("policy", "best_of_32")
#: A.2: the noisy sample itself, Tweedie's mean after u ancestral steps, the whole pass; whatever comes is played
ESTIMATES: dict[str, dict[str, Any]] = {
    "noisy": {"clean": "noisy"}, **{f"u={u}": {"clean": "steps", "clean_steps": u} for u in (0, 1, 2, 5, 10)},
}
#: (safe success, violations) of the paper's Tables 1 and A.2 for top left, top right, both, cluttered
PAPER: dict[str, tuple[tuple[float, float], ...]] = {
    "dpcc_t_tightened": ((0.87, 0.02), (0.72, 0.77), (0.66, 1.46), (0.0, 6.52)),
    "safediffuser": ((0.15, 13.18), (0.07, 18.27), (0.01, 11.66), (0.01, 22.92)),
    "mpd": ((0.13, 11.97), (0.08, 14.85), (0.03, 10.80), (0.02, 12.71)),
    "jm2d": ((0.77, 1.13), (0.83, 0.29), (0.84, 0.37), (0.75, 0.32)),
    "u=0": ((0.06, 16.44), (0.07, 18.0), (0.0, 12.98), (0.01, 24.33)),
    "u=1": ((0.33, 4.21), (0.23, 6.15), (0.23, 6.76), (0.48, 2.90)),
    "u=2": ((0.37, 3.84), (0.28, 4.12), (0.34, 5.80), (0.48, 1.71)),
    "u=5": ((0.51, 2.46), (0.46, 1.91), (0.61, 2.10), (0.63, 1.10)),
    "u=10": ((0.51, 2.22), (0.60, 0.95), (0.57, 1.56), (0.71, 0.76)),
    "tight, u=0": ((0.13, 12.92), (0.06, 18.34), (0.0, 12.98), (0.01, 23.19)),
    "tight, u=1": ((0.47, 3.54), (0.33, 5.24), (0.32, 5.76), (0.34, 1.35)),
    "tight, u=2": ((0.50, 3.14), (0.45, 2.80), (0.50, 3.48), (0.39, 1.11)),
    "tight, u=5": ((0.68, 1.83), (0.65, 1.15), (0.82, 0.59), (0.63, 0.65)),
    "tight, u=10": ((0.70, 1.6), (0.81, 0.41), (0.84, 0.38), (0.73, 0.49)),
}
PAPER["jm2d_tight"] = PAPER[f"jm2d{PLAYED}"] = PAPER[f"jm2d_tight{PLAYED}"] = PAPER["jm2d"]
#: safety rate of DiRecT's Table 6
PAPER_DIRECT = {
    "policy": 0.06, "mpd_tweedie": 0.88, "pdm": 0.77, "safediffuser": 0.37, "safediffuser_res": 0.22, "safediffuser_tvs": 0.30
}
NOTES = """Avoiding: every method's settings are in `src/tandem/bench/jm2d_avoiding.py`. Scenes by geometry (DPCC's names); JM2D's
figure labels DPCC's top-right geometry as its first panel, so that the paper's columns Top Left and Top Right
may be swapped: `paper_swapped` is the other column. `direct`: DiRecT's scene, with its safety rate as `paper`. The arm is the
FR3 model in MuJoCo with the response of D3IL's arm fitted to it, not D3IL's own simulation: figures of other papers are beside
ours, not measured in the same run. JM2D has N = 32 here; the paper does not say its N for this task, nor whether Table 1's
JM2D is tight; A.2's rows suggest it (u = 10: .70 .81 .84 .73 tight, .51 .60 .57 .71 plain), so that its figures stand beside
both. Tight is 10 mm here, chosen on other seeds; `best_of_32_tight` and `steered_tight` prefer, like it, what keeps these
10 mm from the constraints. `+ahead`: V = exp(-J / 1 cm) with J the shortest way from the chunk's end to
the goal line round constraints *and pillars*, the pillars are constraints, and plans keep 3 mm more distance: knowledge that
the other rows and the paper's methods do not have. `+rest`: V asks, besides, that the arm which plays the next action and then
holds comes to rest within the constraints, by the response fitted to the demonstrations and from its measured velocity, with
3 mm more distance; nothing is known of pillars or way. `+rest_first` asks so as long as there is such a chunk: where four draws
bring none, V without it, and without the 3 mm, is asked before the arm holds. (The simulated arm follows that response to
within some millimetres; of the paper's methods only DPCC has a model of the arm.) Every step is planned anew.
Methods that judge their chunks by V (JM2D, best-of-N, steering, Gibbs) do not play what they find infeasible: they draw anew,
up to four times (rows and time of a plan hold all of these), then the arm holds for a step; the paper does not say what its
JM2D does then. What that alone is worth: `best_of_1` is one sample of the plain policy, `+hold` are methods that do not
judge, treated the same way; `-hold` is JM2D with every chunk played, as A.2's rows are. V asks for the desired positions,
too: they are where a held arm comes to rest. All see the same V: positions of a chunk count relative to its first state,
which is set to the present one; methods that project or follow gradients do so with the positions as they stand in the chunk,
and with the actual positions only, while what is played are a chunk's changes of the desired one: of what they correct last,
nothing reaches the arm."""


@lru_cache(maxsize=2)
def _model(device: str) -> NetworkDenoiser:
    return load_policy(device)


@lru_cache(maxsize=1)
def _arm() -> AvoidingArm:
    return AvoidingArm()


@lru_cache(maxsize=8)
def _scene(name: str, device: str, execute: int) -> Scene:
    settings = dataclasses.replace(load_avoiding_config(), execute=execute)
    return Scene(settings.scene(name), settings, device=device)


@lru_cache(maxsize=8)
def _ahead(name: str, device: str) -> WayAhead:
    return WayAhead(_scene(name, device, 1))


@lru_cache(maxsize=8)
def _rest(seconds: float, device: str, execute: int) -> RestMotion:
    return RestMotion(dataclasses.replace(load_avoiding_config(), execute=execute), seconds, device)


def problem() -> dict[str, Any]:
    """What defines the task."""
    own = {"config": dataclasses.asdict(load_avoiding_config()), "margin": MARGIN, "cost": COST_SCENE}
    return {**own, **constants(ahead_, arm_, avoiding_problem, rollout, scene_)}


def episode(
    settings: dict[str, Any], scene: str, seed: int, ahead: bool = False, hold: bool = False, execute: int = 1,
    device: str = "cpu", rest: float | None = None, rest_first: bool = False,
) -> Result:
    """One episode; ``ahead``: with J, pillars and margin; ``hold``: infeasible chunks are not played; ``execute``: actions;
    ``rest``: V asks for the motion to rest, followed so long [s], with the margin; ``rest_first``: where that leaves a chunk.
    """
    way = _ahead(scene, device) if ahead else None
    generator = torch.Generator(device).manual_seed(seed)
    where, margin = _scene(scene, device, execute), MARGIN if ahead or rest is not None else 0.0
    motion = None if rest is None else _rest(rest, device, execute)
    e = play(make_sampler(settings), _model(device), where, _arm(), generator, way, margin, ahead, hold, motion, rest_first)
    return {
        "safe": e.safe, "reached": e.reached, "touched": e.touched, "violations": e.violations, "depth": round(e.depth, 5),
        "steps": e.steps, "plans": e.plans, "infeasible": e.infeasible, "way": None if e.way is None else list(e.way),
        "rows": e.rows, "plan_ms": [round(1e3 * s, 2) for s in e.plan_s], "path": np.round(e.path[::35], 4).tolist(),
    }


def thin(key: str, result: Result) -> Result:
    """What is kept of an episode: its path to a millimetre, where a picture shows it, and quantiles of its times."""
    if "path" not in result:
        return result
    _, _, name, seed, n = key.split("/")
    drawn = name in SHOWN and (int(seed), int(n)) < (0, drawing.MOST)
    path = np.round(np.array(result["path"] if drawn else []), 3)
    return {**result, "plan_ms": archive.quantiles(result["plan_ms"]), "path": path.tolist()}


def plan_cost(settings: dict[str, Any], seed: int, threads: int, plans: int = 8, device: str = "cpu") -> Result:
    """Wall time of ``plans`` single plans on ``threads`` cores, from the start of :data:`COST_SCENE`."""
    arm, policy, scene = _arm(), _model(device), _scene(COST_SCENE, device, 1)
    arm.reset()
    state = torch.from_numpy(arm.state)
    sampler = make_sampler(settings)
    return jm2d_cost.timed(sampler, policy, lambda _: AvoidingProblem(scene, state, policy), seed, threads, plans, device)


def jobs(scale: Scale) -> list[Job]:
    """Every episode of the tables. 100 episodes a seed; seed s has the random numbers 100 s .. 100 s + 99."""
    out, trials = [], scale.count(100, 1)
    apart = (AHEAD, HELD, PLAYED, REST, REST_FIRST)
    for name in [m for m in METHODS if not m.endswith(apart) and (m in QUICK or not scale.quick)]:
        for threads in jm2d_cost.THREADS:
            asked = {"settings": METHODS[name], "seed": scale.seeds[0], "threads": threads, "device": scale.device}
            out.append(Job(f"avoiding/cost/{name}/{threads}/{scale.seeds[0]}", plan_cost, asked, alone=True))
    for seed in scale.seeds:
        for n in range(trials):
            where = {"seed": 100 * seed + n, "device": scale.device, "execute": load_avoiding_config().execute}
            free = {"settings": METHODS["policy"], "scene": "free", **where}
            out.append(Job(f"avoiding/free/policy/{seed}/{n}", episode, free))
            for scene in SCENES:
                for name, settings in {**METHODS, **(estimates() if scene != "direct" else {})}.items():
                    if (name in SELDOM or scene == "direct") and n >= max(1, trials // 5):
                        continue
                    key = f"avoiding/{scene}/{name}/{seed}/{n}"
                    own = {"settings": settings, "scene": scene, "ahead": name.endswith(AHEAD), "hold": holds(name), **where}
                    own |= {"rest": REST_TIME} if name.endswith((REST, REST_FIRST)) else {}
                    own |= {"rest_first": True} if name.endswith(REST_FIRST) else {}
                    out.append(Job(key, episode, own))
    return out


def holds(name: str) -> bool:
    """Whether what V finds infeasible is not played; A.2 asks what the chunks are like, and plays them all."""
    return name.endswith(HELD) or (name.startswith(HOLDING) and not name.endswith(PLAYED))


def estimates() -> dict[str, dict[str, Any]]:
    """JM2D of A.2 by how clean samples are estimated, plain and tight; the whole pass is Table 1's, played like these."""
    tight = METHODS["jm2d_tight"]["tighten"]
    plain = {name: {**_JM2D, **how} for name, how in ESTIMATES.items()}
    return {**plain, **{f"tight, {name}": {**settings, "tighten": tight} for name, settings in plain.items()}}


def rows(results: dict[str, Result]) -> list[dict[str, Any]]:
    """Table rows of all Avoiding results."""
    out = []
    for scene in ("free", *SCENES):
        for name in (*METHODS, *estimates()):
            found = [r for key, r in results.items() if key.startswith(f"avoiding/{scene}/{name}/")]
            if found:
                out.append(_row(scene, name, found))
    safe = {row["method"]: row["safe_success"] for row in out if row["condition"] == COST_SCENE}
    costs = jm2d_cost.rows(results, "avoiding", METHODS, "plan")
    return out + [{**row, "safe_success": safe.get(row["method"])} for row in costs]


def _row(scene: str, name: str, found: list[Result]) -> dict[str, Any]:
    """One method in one scene."""
    n, ways = len(found), Counter(tuple(r["way"]) for r in found if r["way"] is not None and r["reached"])
    times = np.concatenate([r["plan_ms"] for r in found])
    plans = sum(r["plans"] for r in found)
    return {
        "task": "avoiding", "method": name if name in METHODS else f"jm2d, {name}", "condition": scene, "n": n,
        "safe_success": share(sum(r["safe"] for r in found), n), **_paper(scene, name, 0, "paper"),
        "violations": bootstrap([r["violations"] for r in found]), **_paper(scene, name, 1, "paper_violations"),
        "task_success": share(sum(r["reached"] for r in found), n), "contacts": sum(r["touched"] is not None for r in found),
        "ways": f"{len(ways)} of {MODES}", "way_share": max(ways.values(), default=0) / max(1, sum(ways.values())),
        "steps": bootstrap([r["steps"] for r in found if r["reached"]]),
        "infeasible_plans": sum(r["infeasible"] for r in found) / plans, "network_rows": sum(r["rows"] for r in found) / plans,
        "plan_ms_p50": float(np.median(times)), "plan_ms_p95": float(np.quantile(times, 0.95)),
    }


def _paper(scene: str, name: str, which: int, key: str) -> dict[str, float]:
    """The paper's figure, and of the two scenes whose columns may be swapped the other one too."""
    if scene == "direct" and which == 0 and name in PAPER_DIRECT:
        return {key: PAPER_DIRECT[name]}
    if scene in SCENES[:4] and name in PAPER:
        column = SCENES.index(scene)
        other = {f"{key}_swapped": PAPER[name][1 - column][which]} if column < 2 else {}
        return {key: PAPER[name][column][which], **other}
    return {}


def plots(out: Path, results: dict[str, Result], table: list[dict[str, Any]]) -> None:
    """Paths of some methods in each scene, and safe success against network rows."""
    drawing.paths(out / "avoiding_paths.svg", results, ("free", *SCENES), SHOWN)
    drawing.cost(out / "avoiding_cost.svg", [r for r in table if r["method"] in METHODS], SCENES[:4])  # A.2 has a table
