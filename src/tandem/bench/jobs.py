"""Many small independent measurements that survive an interruption: one JSON line each, skipped when already there.

A job is a key (its place in the table) and picklable arguments; what it returns is a mapping of JSON values. Lines are appended
as jobs finish; a line cut off by an interruption is ignored and its job runs again.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from tandem.core.errors import InputError

Result = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """``work(**arguments)`` measured under ``key``; ``work`` is a module's function, so that another process can import it."""

    key: str
    work: Callable[..., Result]
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scale:
    """How much a benchmark measures: ``seeds`` of its repetitions, at most ``trials`` of each measurement (0: as many as the
    benchmark wants), ``quick``: hardly any, on torch's ``device``.
    """

    seeds: tuple[int, ...]
    trials: int
    quick: bool
    device: str

    def count(self, full: int, quick: int) -> int:
        """How many of a measurement that is wanted ``full`` times, and ``quick`` times when in a hurry."""
        if self.quick:
            return quick
        return min(self.trials, full) if self.trials else full


def read(path: Path) -> dict[str, Result]:
    """What is already measured, by key."""
    done: dict[str, Result] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
                done[entry["key"]] = entry["result"]
            except (ValueError, KeyError, TypeError):
                continue  # cut off while it was written
    return done


def _timed(job: Job) -> tuple[str, Result]:
    import torch

    torch.set_num_threads(1)  # one core a job: figures do not depend on how many workers run beside it
    began = time.perf_counter()
    result = job.work(**job.arguments)
    return job.key, {**result, "wall_s": round(time.perf_counter() - began, 4)}


def run(jobs: Iterable[Job], path: Path, *, workers: int = 1, title: str = "measuring") -> dict[str, Result]:
    """Results of all ``jobs`` by key; those found in ``path`` are not run again.

    Raises:
        InputError: workers < 1, or two jobs share a key.
    """
    wanted = list(jobs)
    if workers < 1:
        raise InputError(f"workers = {workers}: accepted: 1 or more")
    if len({j.key for j in wanted}) != len(wanted):
        raise InputError("jobs: two of them have the same key")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and not path.read_bytes().endswith(b"\n"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")
    done = read(path)
    left = [j for j in wanted if j.key not in done]
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=2) as bar, path.open("a", encoding="utf-8") as file:
        task = bar.add_task(title, total=len(wanted), completed=len(wanted) - len(left))

        def keep(key: str, result: Result) -> None:
            done[key] = result
            file.write(json.dumps({"key": key, "result": result}) + "\n")
            file.flush()
            bar.advance(task)

        if workers == 1:
            for job in left:
                keep(*_timed(job))
        else:
            spawn = multiprocessing.get_context("spawn")  # forking after torch has threads may hang
            with ProcessPoolExecutor(workers, mp_context=spawn) as pool:
                for future in as_completed([pool.submit(_timed, job) for job in left]):
                    keep(*future.result())
    return {j.key: done[j.key] for j in wanted}
