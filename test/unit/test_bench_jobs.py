"""Resumable measurements: nothing is lost, nothing runs twice."""

from __future__ import annotations

import importlib
import importlib.util
import json
import lzma
import os
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tandem.bench import archive, jm2d
from tandem.bench.jobs import Job, constants, measured, read, run
from tandem.core.errors import InputError, TandemError


def square(x: int, log: str) -> dict[str, Any]:
    """Something to measure that leaves a trace."""
    with Path(log).open("a") as file:
        file.write(f"{x}\n")
    if x == 99:
        raise RuntimeError("broken off")
    return {"y": x * x}


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    log, place = str(tmp_path / "log"), tmp_path / "runs.jsonl"

    def jobs(numbers: list[int]) -> list[Job]:
        return [Job(f"square/{x}", square, {"x": x, "log": log}) for x in numbers]

    with pytest.raises(RuntimeError, match="broken off"):
        run(jobs([1, 2, 99, 3]), place)
    with place.open("a") as file:
        file.write('{"key": "square/3", "resu')  # cut off while it was written
    assert {key for key, _ in read(place)} == {"square/1", "square/2"}
    results = run(jobs([1, 2, 3]), place)
    assert {k: r["y"] for k, r in results.items()} == {"square/1": 1, "square/2": 4, "square/3": 9}
    assert all(r["wall_s"] >= 0.0 for r in results.values())
    assert Path(log).read_text().split() == ["1", "2", "99", "3"]
    assert run(jobs([3, 1]), place).keys() == {"square/3", "square/1"}
    assert Path(log).read_text().split() == ["1", "2", "99", "3"]


def test_what_was_measured_otherwise_is_measured_again(tmp_path: Path) -> None:
    log, place = str(tmp_path / "log"), tmp_path / "runs.jsonl"

    def ask(x: int, stamp: str = "") -> int:
        return int(run([Job("square", square, {"x": x, "log": log}, stamp)], place)["square"]["y"])

    assert [ask(2), ask(3), ask(2), ask(3, "other weights"), ask(3)] == [4, 9, 4, 9, 9]
    assert Path(log).read_text().split() == ["2", "3", "3"], "each once"
    asked = [Job("square", square, {"x": x, "log": log}) for x in (2, 7)]
    assert measured(asked[:1], place)["square"]["y"] == 4 and measured(asked[1:], place) == {}
    assert measured(asked, tmp_path / "none.jsonl") == {} and Path(log).read_text().split() == ["2", "3", "3"]


@pytest.mark.parametrize("workers", [1, 2])
def test_jobs_that_want_to_be_alone_come_last(tmp_path: Path, workers: int) -> None:
    place = tmp_path / "runs.jsonl"
    results = run([Job(str(x), dict, {"y": x}, alone=x == 1) for x in (1, 2, 3)], place, workers=workers)
    assert {key: r["y"] for key, r in results.items()} == {"1": 1, "2": 2, "3": 3}
    assert [key for key, _ in read(place)][-1] == "1"


def test_a_cluster_takes_jobs_where_ray_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "local")
    jobs = [Job(str(x), dict, {"y": x}) for x in range(3)]
    if importlib.util.find_spec("ray") is None:
        with pytest.raises(InputError, match="pip install ray"):
            run(jobs, tmp_path / "runs.jsonl")
    else:
        assert {k: r["y"] for k, r in run(jobs, tmp_path / "runs.jsonl").items()} == {"0": 0, "1": 1, "2": 2}


NAPS = """
import os, sys, time
from pathlib import Path
from tandem.bench.jobs import Job, run

def nap(folder):
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60.0)
    return {}

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    run([Job(f"nap/{n}", nap, {"folder": str(folder / "workers")}) for n in range(2)], folder / "runs.jsonl", workers=2)
"""


def test_workers_end_with_a_run_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "naps.py").write_text(NAPS)
    run_ = subprocess.Popen([sys.executable, str(tmp_path / "naps.py"), str(tmp_path)], stderr=subprocess.DEVNULL)

    def until(condition: Callable[[], bool]) -> bool:
        limit = time.monotonic() + 60.0
        while not condition() and time.monotonic() < limit:
            time.sleep(0.05)
        return condition()

    try:
        assert until(lambda: len(list((tmp_path / "workers").iterdir())) == 2)
    finally:
        run_.kill()
        run_.wait()
    workers = [int(f.name) for f in (tmp_path / "workers").iterdir()]
    assert until(lambda: not any(psutil.pid_exists(pid) for pid in workers)), "nobody is left who waits for ever"


def test_a_killed_worker_is_one_line_and_what_was_measured_stays(tmp_path: Path) -> None:
    place = tmp_path / "runs.jsonl"
    run([Job("a", dict, {"y": 1})], place)
    with pytest.raises(TandemError, match="nothing measured is lost"):
        run([Job("a", dict, {"y": 1}), Job("b", os._exit, {"status": 9})], place, workers=2)
    assert [key for key, _ in read(place)] == ["a"]


def test_constants_of_a_module_are_part_of_what_is_asked_for() -> None:
    module = types.ModuleType("task")
    module.RADIUS, module.MAP, module._BOX = 0.1 + 0.2, ("##", "#."), np.eye(2)  # type: ignore[attr-defined]
    module.small, module.KIND, module.MAKE = 3, Path, len  # type: ignore[attr-defined]
    assert constants(module) == {"task.RADIUS": 0.3, "task.MAP": ["##", "#."], "task._BOX": [[1.0, 0.0], [0.0, 1.0]]}


@pytest.mark.parametrize(
    ("part", "where", "name", "value"),
    [
        ("donut", "tandem.tasks.donut.problem", "FIG5_DISKS", ((0.7, 0.0, 0.4),)),
        ("maze", "tandem.tasks.maze.problem", "BACKUPS", {"original": ((-7.5, -7.5), (7.5, 7.5))}),
        ("maze", "tandem.tasks.maze.physics", "GEAR", 90.0), ("avoiding", "tandem.tasks.avoiding.rollout", "DRAWS", 50),
        ("avoiding", "tandem.bench.jm2d_avoiding", "MARGIN", 0.01),
    ],
)
def test_another_problem_is_measured_again(
    part: str, where: str, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(jm2d.PARTS[part])
    before = module.problem()
    monkeypatch.setattr(f"{where}.{name}", value)
    assert module.problem() != before and json.dumps(module.problem())


def test_a_samplers_defaults_are_part_of_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job("a", dict, {"settings": {"method": "jm2d"}})
    before = jm2d._stamp(job, {})
    assert before != jm2d._stamp(job, {"weights": "other"})
    assert before != jm2d._stamp(Job("a", dict, {"settings": {"method": "jm2d", "graded_temperature": 0.2}}), {})
    assert before == jm2d._stamp(Job("a", dict, {"settings": {"method": "jm2d", "graded_temperature": 0.1}}), {})


def _jobs(count: int) -> list[Job]:
    return [Job(f"a/{n}", dict, {"y": n, "ms": [0.1 * i for i in range(100)]}, "stamp") for n in range(count)]


def _thin(key: str, result: dict[str, Any]) -> dict[str, Any]:
    return {**result, "ms": archive.quantiles(result["ms"])}


def test_what_is_packed_is_not_measured_again_elsewhere(tmp_path: Path) -> None:
    here, there, file = tmp_path / "here.jsonl", tmp_path / "there.jsonl", tmp_path / "new" / "packed.xz"
    jobs = _jobs(4)
    run(jobs[:3], here)
    assert archive.pack(file, jobs, measured(jobs, here), _thin) == 3
    run([Job("a/0", dict, {"y": 7}, "another stamp"), jobs[1]], there)
    with there.open("a") as out:
        out.write('{"key": "a/2", "resu')  # cut off
    assert archive.add([file], there) == 2, "all but a/1, which is there, and whole"
    found = measured(jobs, there)
    assert {key: r["y"] for key, r in found.items()} == {"a/0": 0, "a/1": 1, "a/2": 2}
    assert len(found["a/1"]["ms"]) == 100 and found["a/0"]["ms"] == [0.495, 2.72, 4.95, 7.18, 9.4]
    assert read(there)["a/0", Job("a/0", dict, {"y": 7}, "another stamp").digest()]["y"] == 7
    assert archive.add([file, file], there) == 0
    with pytest.raises(InputError, match="is no file"):
        archive.add([tmp_path], there)
    bytes_ = file.read_bytes()
    archive.pack(file, jobs[::-1], measured(jobs, here), _thin)
    assert archive.pack(file, jobs[:1], measured(jobs, here), _thin) == 3, "what it holds of other keys stays"
    assert file.read_bytes() == bytes_ and [f.name for f in file.parent.iterdir()] == ["packed.xz"]


def test_a_file_that_is_not_a_runs_is_named_and_nothing_is_taken(tmp_path: Path) -> None:
    here, good, bad = tmp_path / "here.jsonl", tmp_path / "good.xz", tmp_path / "bad.xz"
    run(_jobs(2), here)
    archive.pack(good, _jobs(2), measured(_jobs(2), here), archive.unthinned)
    whole = good.read_bytes()
    broken = ((whole[:-9], "not a whole"), (b"no xz", "not a whole"), (lzma.compress(b"no"), "holds no measurement"))
    for content, message in broken:
        bad.write_bytes(content)
        with pytest.raises(InputError, match=message):
            archive.add([good, bad], tmp_path / "there.jsonl")
    (tmp_path / "picture.webp").write_bytes(b"\xff\xd8")
    with pytest.raises(InputError, match=r"picture\.webp: not a whole"):
        archive.add([tmp_path / "picture.webp"], tmp_path / "there.jsonl")
    with pytest.raises(InputError, match="no such file"):
        archive.add([tmp_path / "none.xz"], tmp_path / "there.jsonl")
    assert not (tmp_path / "there.jsonl").exists()


def test_each_part_thins_its_own() -> None:
    thin = archive.thinner({"a": types.SimpleNamespace(thin=lambda key, result: {"key": key}), "b": types.SimpleNamespace()})
    assert thin("a/1", {"x": 1}) == {"key": "a/1"} and thin("b/1", {"x": 1}) == {"x": 1}
    assert archive.quantiles([3.14159, 2.0]) == [3.14, 2.0] and archive.quantiles([]) == []


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="workers"):
        run([], tmp_path / "a.jsonl", workers=0)
    with pytest.raises(InputError, match="same key"):
        run([Job("a", square), Job("a", square)], tmp_path / "a.jsonl")
