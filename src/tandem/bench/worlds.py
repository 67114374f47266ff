"""The RTD planner in seeded worlds of 10, 20 and 40 boxes: success, contacts, stops, time a plan.

Each world is a file in ``OUT/episodes``, so an interrupted run goes on where it stopped. The arm plays its plans exactly on a
simulated clock; whatever was played is then measured against the obstacles by exact mesh distances (coal), which share nothing
with the planner's certificates.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tandem.bench.statistics import share
from tandem.bench.table import write_table
from tandem.core.errors import InputError
from tandem.core.trajectory import Trajectory
from tandem.robots.model import ArmModel, load_arm, load_chain, robot_config
from tandem.safety import GoalReacher, RtdPlan, RtdPlanner, certify_one, load_bounds, pack_scene
from tandem.safety.meshes import MeshWorld, Nearest
from tandem.sim.clutter import ClutteredWorld, cluttered_world

Array = NDArray[np.float64]
Row = dict[str, Any]

BOUNDS = load_bounds()
#: plans an episode may take, and the time each may take [s]
MAX_PLANS = 150
PLAN_S = 0.5
#: without a guide, plans that brought the arm no nearer (by 0.01 rad) after which it is taken to be stuck for good
STUCK = 20
METHODS = {"guided": True, "straight": False}
#: Kinova Gen3, their own 100 worlds for each number of boxes, 0.5 s a plan: SPARROWS' success and time a plan [ms]; time of one
#: evaluation of constraints and gradients [ms], SPARROWS and ARMTD. From the SPARROWS paper
PAPER = {10: (0.87, 140.0, 3.1, 4.1), 20: (0.62, 160.0, 3.8, 5.4), 40: (0.40, 200.0, 5.1, 8.3)}


@dataclass(frozen=True)
class Job:
    """One episode: method, number of boxes, seed of the world and of the planner."""

    method: str
    boxes: int
    seed: int

    @property
    def name(self) -> str:
        """File name of the result."""
        return f"{self.method}-{self.boxes}-{self.seed:04d}"


@dataclass
class Played:
    """What one episode did: pieces of motion in order, and how it went."""

    pieces: list[Trajectory]
    plan_ms: list[float]
    cpu_ms: list[float]
    reached: bool
    certified: int
    refused: int
    braking_stops: int
    waited: int


@cache
def _arm() -> tuple[ArmModel, MeshWorld]:
    arm = load_arm("fr3")
    return arm, MeshWorld(arm, load_chain(*robot_config("fr3")).shapes)


def drive(world: ClutteredWorld, reacher: GoalReacher, max_plans: int = MAX_PLANS) -> Played:
    """Play one episode: while a plan's first half is played the next is made; if there is none, the braking is played."""
    planner, arm = reacher.planner, reacher.planner.arm
    packed = pack_scene(world.scene, arm, BOUNDS, 0.0)
    commit = Trajectory.at_rest(world.start, planner.period)
    out = Played([], [], [], False, 0, 0, 0, 0)
    nearest, vain = np.inf, 0
    while len(out.plan_ms) < max_plans and (reacher.guided or vain < STUCK):
        if reacher.reached(commit.q[-1]):
            break
        state, moving = commit.sample(planner.period), commit.duration > planner.period + 1e-9
        begin, busy = time.perf_counter(), time.process_time()
        plan = reacher.step(state, commit.q[-1], packed)
        out.plan_ms.append(1e3 * (time.perf_counter() - begin))
        out.cpu_ms.append(1e3 * (time.process_time() - busy))
        out.pieces.append(_until(commit, planner.period))
        if plan is not None and certified_again(arm, plan, world):
            out.certified += 1
            commit = plan.trajectory
            away = float(np.linalg.norm(plan.rest - reacher.goal))
            nearest, vain = (away, 0) if away < nearest - 0.01 else (nearest, vain + 1)
            continue
        out.refused += plan is not None
        out.braking_stops += moving
        out.waited += not moving
        vain += 1
        commit = commit.tail(planner.period) if moving else Trajectory.at_rest(commit.q[-1], planner.period)
    out.pieces.append(commit)
    out.reached = reacher.reached(commit.q[-1])
    return out


def certified_again(arm: ArmModel, plan: RtdPlan, world: ClutteredWorld) -> bool:
    """The filter's own word on a plan: the planner is not trusted."""
    return certify_one(arm, plan.trajectory, world.scene, BOUNDS, 0.0, full=False).certified


def _until(t: Trajectory, end: float) -> Trajectory:
    """The motion up to ``end`` [s]; all of it where it is shorter."""
    if end >= t.duration - 1e-9:
        return t
    keep = t.times < end - 1e-9
    q, v, a = t.sample(end)
    return Trajectory(
        np.concatenate([t.times[keep], [end]]), np.vstack([t.q[keep], q]), np.vstack([t.v[keep], v]), np.vstack([t.a[keep], a])
    )


def measure(meshes: MeshWorld, world: ClutteredWorld, pieces: list[Trajectory]) -> tuple[Nearest, float]:
    """The nearest approach of all that was played, ``time`` from its start, and its largest step between two pieces [rad]."""
    best, clock, step = Nearest(np.inf, 0.0, "", ""), 0.0, 0.0
    at = world.start
    for piece in pieces:
        step, at = max(step, float(np.abs(piece.q[0] - at).max())), piece.q[-1]
        found = meshes.along(world.scene, piece)
        if found.distance < best.distance:
            best = Nearest(found.distance, clock + found.time, found.link, found.other)
        clock += piece.duration
    return best, step


def play(job: Job) -> Row:
    """Run one episode in this process; its figures as plain JSON."""
    arm, meshes = _arm()
    begin = time.perf_counter()
    world = cluttered_world(meshes, job.boxes, job.seed)
    planner = RtdPlanner(arm, BOUNDS)
    done = drive(world, GoalReacher(planner, world.goal, job.seed, guided=METHODS[job.method]))
    nearest, step = measure(meshes, world, done.pieces)
    return {
        **asdict(job), "success": done.reached, "contact": nearest.distance <= 0.0, "clearance_mm": 1e3 * nearest.distance,
        "nearest": [nearest.link, nearest.other, nearest.time], "jump": step, "plans": len(done.plan_ms),
        "certified": done.certified, "refused": done.refused, "braking_stops": done.braking_stops, "waited": done.waited,
        "episode_s": float(sum(p.duration for p in done.pieces)), "plan_ms": [round(x, 3) for x in done.plan_ms],
        "cpu_ms": [round(x, 3) for x in done.cpu_ms], "wall_s": time.perf_counter() - begin,
    }


def _rows(results: list[Row], methods: list[str], counts: list[int]) -> list[Row]:
    rows = []
    for boxes in counts:
        for method in methods:
            own = [r for r in results if r["method"] == method and r["boxes"] == boxes]
            good = [r for r in own if r["success"]]
            ms, cpu = (np.array([x for r in own for x in r.get(key, ())] or [np.nan]) for key in ("plan_ms", "cpu_ms"))
            rows.append({
                "task": "fr3", "method": f"tandem, {method}", "condition": f"{boxes} boxes", "n": len(own),
                "success": share(sum(r["success"] for r in own), len(own)), "contacts": sum(r["contact"] for r in own),
                "clearance_mm": min((r["clearance_mm"] for r in own), default=np.nan),
                "braking_stops": float(np.mean([r["braking_stops"] for r in own])),
                "plans": float(np.mean([r["plans"] for r in good])) if good else None,
                "episode_s": float(np.mean([r["episode_s"] for r in good])) if good else None,
                "plan_ms_p50": float(np.median(ms)), "plan_ms_p95": float(np.quantile(ms, 0.95)), "plan_ms_max": float(ms.max()),
                "late": float(np.mean(ms > 1e3 * PLAN_S)), "cpu_ms_p50": float(np.median(cpu)),
                "cpu_ms_p95": float(np.quantile(cpu, 0.95)), "cpu_ms_max": float(cpu.max()),
            })
        if boxes in PAPER:
            success, plan_ms, sparrows, armtd = PAPER[boxes]
            quoted = {"task": "kinova gen3 (quoted)", "condition": f"{boxes} boxes"}
            rows.append({**quoted, "method": "SPARROWS", "n": 100, "success": success, "contacts": 0, "plan_ms_mean": plan_ms,
                         "evaluation_ms": sparrows})
            rows.append({**quoted, "method": "ARMTD", "evaluation_ms": armtd})
    return rows


def _played(jobs: list[Job], workers: int) -> Iterator[Row]:
    """Results as they come, from this process alone or from ``workers`` others."""
    if workers == 1:
        yield from map(play, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(play, job) for job in jobs]):
            yield future.result()


def _run_jobs(jobs: list[Job], folder: Path, workers: int, console: Console) -> None:
    todo = [job for job in jobs if not (folder / f"{job.name}.json").is_file()]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("worlds", total=len(jobs), completed=len(jobs) - len(todo))
        for result in _played(todo, workers):
            name = Job(result["method"], result["boxes"], result["seed"]).name
            part = folder / f"{name}.tmp"
            part.write_text(json.dumps(result), encoding="utf-8")
            part.rename(folder / f"{name}.json")
            word = "contact" if result["contact"] else "reached" if result["success"] else "not reached"
            progress.update(bar, advance=1, description=f"{name}: {word}")
            if not console.is_terminal:
                console.print(f"{name}: {word}, {result['plans']} plans, {result['wall_s']:.0f} s of work", highlight=False)


def _list(text: str, what: str, accepted: set[str]) -> list[str]:
    names = [x.strip() for x in text.split(",") if x.strip()]
    unknown = [x for x in names if x not in accepted]
    if unknown or not names:
        raise InputError(f"{what} = {text!r}: accepted: {', '.join(sorted(accepted))}, separated by commas")
    return names


def run(
    out: Path, quick: bool = False, *, methods: str = "guided,straight", boxes: str = "10,20,40", episodes: int = 100,
    seed: int = 0, workers: int = 2,
) -> int:
    """Run the benchmark and write ``table.json`` and ``table.md``.

    Args:
        out: folder. quick: 2 worlds of 10 boxes. methods: of :data:`METHODS`. boxes: numbers of boxes. episodes: worlds for each.
        seed: of the first world. workers: processes.

    Returns:
        0, or 1 when anything touched, or moved without a second certificate.

    Raises:
        InputError: unknown method, numbers out of range.
    """
    console = Console()
    names = _list(methods, "methods", set(METHODS))
    counts = [int(x) for x in _list(boxes, "boxes", {str(i) for i in range(201)})] if not quick else [10]
    if episodes < 1 or workers < 1 or seed < 0:
        raise InputError(f"episodes = {episodes}, workers = {workers}, seed = {seed}: accepted: 1 or more, 1 or more, 0 or more")
    count = 2 if quick else episodes
    folder = out / "episodes"
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [Job(m, n, seed + e) for n in counts for e in range(count) for m in names]
    began = time.monotonic()
    _run_jobs(jobs, folder, workers, console)
    results = [json.loads((folder / f"{job.name}.json").read_text(encoding="utf-8")) for job in jobs]
    numbers = ",".join(map(str, counts))
    command = f"tandem bench worlds --methods {','.join(names)} --boxes {numbers} --episodes {count} --seed {seed}"
    notes = (
        f"FR3 with hand, cubes of 0.2 m, random start and goal, a plan every {PLAN_S} s, at most {MAX_PLANS} plans; success: at "
        "rest within 0.1 rad of the goal. contacts, clearance: exact mesh distances (coal) along all that was played. late: "
        f"share of plans over {PLAN_S} s; cpu_ms: their processor time, which does not count who else runs. "
        "guided: a way from RRT-Connect over certified motions, found in the plans' own time; "
        "straight: straight at the goal, as ARMTD without a high-level planner. Quoted rows: SPARROWS and ARMTD (Kinova Gen3, "
        "their own worlds, other computers); evaluation_ms is one evaluation of constraints and gradients."
    )
    seeds = [seed + e for e in range(count)]
    write_table(out, _rows(results, names, counts), command=command, seeds=seeds, wall_s=time.monotonic() - began, notes=notes)
    console.print((out / "table.md").read_text(encoding="utf-8"), markup=False, highlight=False, soft_wrap=True)
    touched = [r for r in results if r["contact"] or r["refused"] or r["jump"] > 1e-6]
    return 1 if touched else 0
