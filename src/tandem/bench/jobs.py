"""Many small independent measurements that survive an interruption: one JSON line each, skipped when already there.

A job is a key (its place in the table) and picklable arguments; what it returns is a mapping of JSON values. Lines are appended
as jobs finish; a line cut off by an interruption is ignored and its job runs again. So is a line that was measured with other
arguments, or under another ``stamp`` (say, of other weights), than what is asked for now.

With ``RAY_ADDRESS`` in the environment and Ray installed, jobs go to that cluster, a core each: for many machines that share this
installation.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import lzma
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from tandem.core.errors import InputError, TandemError

Result = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """``work(**arguments)`` measured under ``key``; ``work`` is a module's function, so that another process can import it.

    ``stamp``: what else the result depends on. ``alone``: nothing else is measured at the same time, and it may use all cores.
    """

    key: str
    work: Callable[..., Result]
    arguments: dict[str, Any] = field(default_factory=dict)
    stamp: str = ""
    alone: bool = False

    def digest(self) -> str:
        """Of all that is asked for; lines with another one are no answer to it."""
        asked = [self.work.__module__, self.work.__qualname__, self.arguments, self.stamp]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


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


def constants(*modules: ModuleType) -> dict[str, Any]:
    """JSON values of the modules' own constants (upper-case names), for a stamp: what they define is part of what is asked for.

    What has no JSON form (functions, types, tensors) is left out.
    """
    out = {}
    for module in modules:
        for name, value in sorted(vars(module).items()):
            if name.strip("_").isupper():
                try:
                    out[f"{module.__name__}.{name}"] = _plain(value)
                except TypeError:
                    continue
    return out


def _plain(value: Any) -> Any:
    """JSON of a constant, numbers to twelve digits: the last ones differ between machines. TypeError: there is none."""
    if isinstance(value, float):
        return float(f"{value:.12g}")
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, dict):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    raise TypeError(type(value).__name__)


def read(path: Path) -> dict[tuple[str, str], Result]:
    """What is already measured, by key and :meth:`Job.digest`; ``path`` may be compressed (.xz).

    Raises:
        InputError: not text, or an .xz file that is not whole.
    """
    done: dict[tuple[str, str], Result] = {}
    if path.is_file():
        for line in _text(path).splitlines():
            try:
                entry = json.loads(line)
                done[entry["key"], entry["asked"]] = entry["result"]
            except (ValueError, KeyError, TypeError):
                continue  # cut off while it was written
    return done


def _text(path: Path) -> str:
    try:
        if path.suffix != ".xz":
            return path.read_text(encoding="utf-8")
        with lzma.open(path, "rt", encoding="utf-8") as file:
            return file.read()
    except (lzma.LZMAError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a whole file of measurements ({error})") from error


def append(path: Path, results: dict[tuple[str, str], Result]) -> None:
    """Write ``results`` by key and digest to the end of ``path``; a last line that was cut off is closed first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cut = path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" if cut else "")
        for (key, asked), result in results.items():
            file.write(_line(key, asked, result))


def _line(key: str, asked: str, result: Result) -> str:
    return json.dumps({"key": key, "asked": asked, "result": result}) + "\n"


def _timed(job: Job) -> tuple[Job, Result]:
    import torch

    torch.set_num_threads(1)  # one core a job: figures do not depend on how many workers run beside it
    began = time.perf_counter()
    result = job.work(**job.arguments)
    return job, {**result, "wall_s": round(time.perf_counter() - began, 4)}


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for ever for its next job."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _in_processes(jobs: list[Job], workers: int) -> Iterator[tuple[Job, Result]]:
    """Results as they come from ``workers`` processes of this machine; TandemError when one of them is killed."""
    spawn = multiprocessing.get_context("spawn")  # forking after torch has threads may hang
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=_end_with_parent) as pool:
        try:
            for future in as_completed([pool.submit(_timed, job) for job in jobs]):
                yield future.result()
        except BrokenProcessPool as error:
            raise TandemError(
                f"a worker of {workers} was killed, perhaps for want of memory: nothing measured is lost, run the same again"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # or leaving would wait for all that was submitted
            raise


def _on_cluster(jobs: list[Job]) -> Iterator[tuple[Job, Result]]:
    """Results as they come from the Ray cluster of ``RAY_ADDRESS``.

    Raises:
        InputError: Ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError("RAY_ADDRESS is set, but Ray is not installed: pip install ray, or unset it")
    import ray

    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    timed = ray.remote(num_cpus=1)(_timed)
    left = [timed.remote(job) for job in jobs]
    while left:
        ready, left = ray.wait(left)
        yield from ray.get(ready)


def measured(jobs: Iterable[Job], path: Path) -> dict[str, Result]:
    """Results by key of those ``jobs`` that are found in ``path``; nothing is run."""
    done = read(path)
    return {j.key: done[j.key, j.digest()] for j in jobs if (j.key, j.digest()) in done}


def run(jobs: Iterable[Job], path: Path, *, workers: int = 1, title: str = "measuring") -> dict[str, Result]:
    """Results of all ``jobs`` by key; those found in ``path`` are not run again. Jobs that want to be alone come last.

    Raises:
        InputError: workers < 1, two jobs share a key, or a cluster is asked for without Ray.
    """
    wanted = list(jobs)
    if workers < 1:
        raise InputError(f"workers = {workers}: accepted: 1 or more")
    if len({j.key for j in wanted}) != len(wanted):
        raise InputError("jobs: two of them have the same key")
    append(path, {})
    done = read(path)
    left = [j for j in wanted if (j.key, j.digest()) not in done]
    columns = (*Progress.get_default_columns(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=2) as bar, path.open("a", encoding="utf-8") as file:
        task = bar.add_task(title, total=len(wanted), completed=len(wanted) - len(left))

        def keep(job: Job, result: Result) -> None:
            asked = job.digest()
            done[job.key, asked] = result
            file.write(_line(job.key, asked, result))
            file.flush()
            bar.advance(task)

        cluster = bool(os.environ.get("RAY_ADDRESS"))
        here = [j for j in left if not j.alone and workers == 1 and not cluster]
        together = [j for j in left if not j.alone] if not here else []
        if together:
            for job, result in _on_cluster(together) if cluster else _in_processes(together, workers):
                keep(job, result)
        for job in [*here, *(j for j in left if j.alone)]:
            keep(*_timed(job))
    return {j.key: done[j.key, j.digest()] for j in wanted}
