"""The reachability benchmarks run as a command runs them, in small; what is stopped goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tandem.bench import reach, soundness
from tandem.core.errors import InputError


def _table(out: Path) -> list[dict[str, object]]:
    return list(json.loads((out / "table.json").read_text())["rows"])


def test_reach_has_its_rows_and_plots(tmp_path: Path) -> None:
    assert reach.run(tmp_path, quick=True, seed=1000) == 0
    rows = _table(tmp_path)
    for condition in ("single, 10 boxes", "single, 40 boxes", "128 backups, 10 boxes", "128x128, 10 boxes"):
        assert {r["method"] for r in rows if r["condition"] == condition} >= {"tandem", "numpy"}
    assert (tmp_path / "reach.png").stat().st_size > 10_000


def test_soundness_finds_nothing_finds_the_mutations_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("coal")
    assert soundness.run(tmp_path, quick=True, samples=1e6, seed=1000) == 0
    rows = _table(tmp_path)
    assert all(r["violations"] == 0 for r in rows if r["method"] == "tandem")
    assert sum(r["method"] == "mutation" and r["violations"] > 0 for r in rows) == 6  # type: ignore[operator]
    assert next(r for r in rows if r["condition"] == "mesh in occupancy")["n"] >= 20_000  # type: ignore[operator]
    monkeypatch.setattr(soundness, "_mutations", lambda _: pytest.fail("what is finished is not run again"))
    assert soundness.run(tmp_path, quick=True, samples=1e6, seed=1000, resume=True) == 0
    assert _table(tmp_path) == rows
    with pytest.raises(pytest.fail.Exception):
        soundness.run(tmp_path, quick=True, samples=2e6, seed=1000, resume=True)  # other settings: from the beginning


def test_soundness_fails_when_something_escapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"task": "fr3", "method": "tandem", "condition": "x", "n": 1, "violations": 1, "ok": False}
    monkeypatch.setattr(soundness, "_stages", lambda *_: [("x", lambda: [row])])
    assert soundness.run(tmp_path, quick=True) == 1
    for bad in ({"samples": 0.0}, {"samples": float("nan")}, {"workers": 0}):
        with pytest.raises(InputError, match="soundness"):
            soundness.run(tmp_path, quick=True, **bad)  # type: ignore[arg-type]


def test_the_search_does_not_depend_on_the_number_of_workers() -> None:
    search = soundness.Search("fr3", 1000, True)
    first, again = (soundness._escape_piece(search, 3) for _ in range(2))
    assert first == again and soundness._escape_piece(search, 4) != first
