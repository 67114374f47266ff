"""Resumable measurements: nothing is lost, nothing runs twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tandem.bench.jobs import Job, read, run
from tandem.core.errors import InputError


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
    assert set(read(place)) == {"square/1", "square/2"}
    results = run(jobs([1, 2, 3]), place)
    assert {k: r["y"] for k, r in results.items()} == {"square/1": 1, "square/2": 4, "square/3": 9}
    assert all(r["wall_s"] >= 0.0 for r in results.values())
    assert Path(log).read_text().split() == ["1", "2", "99", "3"]
    assert run(jobs([3, 1]), place).keys() == {"square/3", "square/1"}
    assert Path(log).read_text().split() == ["1", "2", "99", "3"]


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="workers"):
        run([], tmp_path / "a.jsonl", workers=0)
    with pytest.raises(InputError, match="same key"):
        run([Job("a", square), Job("a", square)], tmp_path / "a.jsonl")
