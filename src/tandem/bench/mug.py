"""Samplers on the mug task among obstacles: episodes in lockstep, the same scenes and seeds for every method.

Each episode is a file in ``OUT/episodes``, so an interrupted run goes on where it stopped. Every method sees the same scenes:
episode e is scene seed ``seed + e`` of kind ``blocked_straight`` or ``cluttered`` in turn, the mug where the scene has it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tandem.bench.mug_table import comparison, method_row, plot_rows
from tandem.bench.table import write_table
from tandem.core.errors import InputError

#: scene kinds of a condition; an episode's kind goes round
CONDITIONS: dict[str, tuple[str, ...]] = {
    "obstacles": ("blocked_straight", "cluttered"),
    "empty": ("empty",),
    "nothing free": ("blocked_all",),
}
DEFAULT_METHODS = ("policy", "best_of_n", "rail", "gibbs", "jm2d", "steered")


@dataclass(frozen=True)
class Job:
    """One episode to run: sampler (``config/samplers``), condition, episode number, seed of the run, folder of the record,
    torch's device.
    """

    method: str
    condition: str
    episode: int
    seed: int
    record: str = ""
    device: str = "cpu"

    @property
    def name(self) -> str:
        """File name of the result."""
        where = "" if self.device == "cpu" else f"-{self.device.replace(':', '_')}"
        return f"{self.method}-{self.condition.replace(' ', '_')}-{self.seed + self.episode:04d}{where}"


_CACHE: dict[str, Any] = {}


def play(job: Job) -> dict[str, Any]:
    """Run one episode in this process; returns its figures as plain JSON."""
    import torch

    from tandem.bench.lockstep import LockstepEpisode, NoFilter
    from tandem.perception import MarkerPoseEstimator
    from tandem.safety.filter import SafetyFilter
    from tandem.sim.scenes import generate
    from tandem.sim.world import MugWorld
    from tandem.tasks.mug.planner import MugPlanner

    torch.set_num_threads(1)
    if job.method not in _CACHE:
        _CACHE[job.method] = MugPlanner.load(job.method, device=job.device)
    planner = _CACHE[job.method]
    kinds = CONDITIONS[job.condition]
    number = job.seed + job.episode
    made = generate(kinds[job.episode % len(kinds)], number)
    world = MugWorld(made.scene, seed=number)
    world.reset(made.mug_pose)
    planner.reset(number)
    guard = NoFilter() if job.method == "policy" else SafetyFilter(planner.arm, planner.bounds, planner.family)
    episode = LockstepEpisode(world, planner, guard, MarkerPoseEstimator(world.mug), pictures=bool(job.record))
    record = episode.run()
    world.close()
    if job.record:
        record.save(Path(job.record))
    certified = [p for p in record.plans if p.certified]
    return {
        **asdict(job),
        "kind": made.scene.kind,
        "task_success": record.task_success,
        "safe_success": record.task_success and record.robot_contacts == 0,
        "contacts": record.robot_contacts,
        "contact_kinds": record.contacts,
        "intervention": record.intervention,
        "episode_s": record.duration,
        "at_rest": record.at_rest,
        "tracking_error": episode.tracking_error,
        "plan_ms": [round(p.plan_ms, 3) for p in record.plans],
        "certify_ms": [round(p.certify_ms, 3) for p in record.plans if p.verdict],
        "network_rows": [p.network_rows for p in record.plans],
        "potential_evals": [p.potential_evals for p in record.plans],
        "certified": len(certified),
        "verdicts": [p.verdict or p.reason for p in record.plans],
        "wall_s": record.wall_s,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0,
    }


def _start_worker() -> None:
    os.environ.setdefault("MUJOCO_GL", "egl")
    os.environ["NUMBA_NUM_THREADS"] = os.environ.get("NUMBA_NUM_THREADS", "1")


def _names(methods: str) -> list[str]:
    from tandem.diffusion.samplers import load_sampler

    names = [m.strip() for m in methods.split(",") if m.strip()]
    if not names:
        raise InputError("methods: empty; accepted: names of files in config/samplers, separated by commas")
    for name in names:
        load_sampler(name)
    return names


def _run_jobs(jobs: list[Job], folder: Path, workers: int, console: Console) -> None:
    todo = [job for job in jobs if not (folder / f"{job.name}.json").is_file()]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    context = multiprocessing.get_context("spawn")
    with (
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker) as pool,
    ):
        bar = progress.add_task("episodes", total=len(jobs), completed=len(jobs) - len(todo))
        running = {pool.submit(play, job): job for job in todo}
        for future in as_completed(running):
            job = running[future]
            result = future.result()
            part = folder / f"{job.name}.tmp"
            part.write_text(json.dumps(result), encoding="utf-8")
            part.rename(folder / f"{job.name}.json")
            word = "lifted" if result["safe_success"] else "contact" if result["contacts"] else "not lifted"
            progress.update(bar, advance=1, description=f"{job.method} {job.episode}: {word}")
            if not console.is_terminal:
                line = f"{job.name}: {word}, {result['episode_s']:.1f} s, {result['wall_s']:.0f} s of work"
                console.print(line, highlight=False)


def run(
    out: Path, quick: bool = False, *, methods: str = ",".join(DEFAULT_METHODS), episodes: int = 50, seed: int = 0,
    conditions: str = "obstacles", workers: int = 2, device: str = "cpu",
) -> int:
    """Run the benchmark and write ``table.json``, ``table.md`` and plots.

    Args:
        out: folder. quick: 2 episodes of ``policy`` and ``steered`` only. methods: samplers, comma-separated.
        episodes: for each method and condition. conditions: of :data:`CONDITIONS`, comma-separated. workers: processes.
        device: torch's.

    Returns:
        0, or 1 when a filtered method touched anything.

    Raises:
        InputError, ConfigError: unknown method or condition, numbers out of range, a device that torch cannot use.
    """
    from tandem.diffusion.devices import check_device

    console = Console()
    names = ["policy", "steered"] if quick else _names(methods)
    wanted = [c.strip() for c in conditions.split(",")]
    unknown = [c for c in wanted if c not in CONDITIONS]
    if unknown:
        raise InputError(f"conditions: {', '.join(unknown)}: accepted: {', '.join(CONDITIONS)}")
    if episodes < 1 or workers < 1:
        raise InputError(f"episodes = {episodes}, workers = {workers}: accepted: 1 or more")
    check_device(device)
    count = 2 if quick else episodes
    folder = out / "episodes"
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [Job(m, c, e, seed, device=device) for c in wanted for e in range(count) for m in names]
    began = time.monotonic()
    _run_jobs(jobs, folder, workers, console)
    results = [json.loads((folder / f"{job.name}.json").read_text(encoding="utf-8")) for job in jobs]
    rows = []
    for condition in wanted:
        for method in names:
            own = [r for r in results if r["method"] == method and r["condition"] == condition]
            rows.append(method_row(method, condition, own))
    notes = "\n".join(comparison(results, condition, names) for condition in wanted)
    command = f"tandem bench mug --methods {','.join(names)} --episodes {count} --seed {seed} --conditions '{','.join(wanted)}'"
    write_table(out, rows, command=command, seeds=[seed + e for e in range(count)], wall_s=time.monotonic() - began, notes=notes)
    plot_rows(rows, out)
    console.print((out / "table.md").read_text(encoding="utf-8"), markup=False, highlight=False, soft_wrap=True)
    touched = sum(int(np.sum([r["contacts"] for r in results if r["method"] == m])) for m in names if m != "policy")
    return 1 if touched else 0
