"""``tandem bench jm2d --quick`` end to end from the shipped weights: tables, plots, resumption; training a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tandem.bench import jm2d, jm2d_donut, jm2d_maze
from tandem.bench.jobs import Scale
from tandem.core.errors import ConfigError, InputError
from tandem.diffusion.weights import read_manifest
from tandem.tasks.donut.train import load_policy, run, weights_path
from tandem.tasks.maze import episode


def test_quick_bench_makes_every_table_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {k: jm2d_donut.CONSTRAINT[k] for k in ("policy", "pdm", "safediffuser")}
    monkeypatch.setattr(jm2d_donut, "CONSTRAINT", few)
    monkeypatch.setattr(jm2d_donut, "ESTIMATES", {"noisy": {"clean": "noisy"}, "u=2": {"clean": "steps", "clean_steps": 2}})
    monkeypatch.setattr(jm2d_donut, "JOINT", {k: jm2d_donut.JOINT[k] for k in ("sequential", "best_of_n_400", "steered_400")})
    monkeypatch.setattr(jm2d_donut, "OBSTACLES", (4,))
    assert jm2d.run(tmp_path, quick=True, parts="donut") == 0
    table = json.loads((tmp_path / "table.json").read_text())
    assert {r["condition"] for r in table["rows"]} == {"Fig. 5", "tight", "A.2 clean estimates", "Fig. 2, 4 circles", "plan"}
    assert all(r["n"] > 0 and r["network_rows"] >= 0.0 for r in table["rows"])
    pdm = next(r for r in table["rows"] if r["method"] == "pdm" and r["condition"] == "Fig. 5")
    assert pdm["valid"]["mean"] == 1.0 and pdm["paper_out"] == 31 / 64
    costs = [r for r in table["rows"] if r["condition"] == "plan"]
    assert [r["method"] for r in costs] == ["policy", "paths, sequential"]
    assert all(r["plan_ms_1_core"]["lo"] > 0.0 and r["plan_ms_2_cores"]["lo"] > 0.0 for r in costs)
    assert (tmp_path / "table.md").is_file() and (tmp_path / "donut_constraint.svg").is_file()
    assert (tmp_path / "donut_paths.svg").is_file() and (tmp_path / "donut_estimates.svg").is_file()
    lines = (tmp_path / "runs-quick.jsonl").read_text()
    assert jm2d.run(tmp_path, quick=True, parts="donut") == 0
    assert (tmp_path / "runs-quick.jsonl").read_text() == lines
    assert jm2d.run(tmp_path, quick=True, parts="donut", report=True) == 0
    assert json.loads((tmp_path / "table.json").read_text())["rows"] == table["rows"]
    packed = tmp_path / "donut.jsonl.xz"
    assert jm2d.run(tmp_path, quick=True, parts="donut", report=True, pack=packed) == 0
    assert jm2d.run(tmp_path / "added", quick=True, parts="donut", report=True, add=str(packed)) == 0
    again = json.loads((tmp_path / "added" / "table.json").read_text())["rows"]
    assert [r | {"plan_ms_p50": 0.0} for r in again] == [r | {"plan_ms_p50": 0.0} for r in table["rows"]], "but for rounded times"
    with pytest.raises(InputError, match="no such file"):
        jm2d.run(tmp_path / "elsewhere", quick=True, parts="donut", add=str(tmp_path / "nowhere.xz"))
    with pytest.raises(InputError, match=r"ends in \.xz"):
        jm2d.run(tmp_path, quick=True, parts="donut", report=True, pack=tmp_path / "donut.zip")
    with pytest.raises(InputError, match="holds nothing"):
        jm2d.run(tmp_path / "elsewhere", parts="donut", report=True)
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(InputError, match="seeds = 0"):
        jm2d.run(tmp_path, seeds=0)
    with pytest.raises(InputError, match="seed = -1"):
        jm2d.run(tmp_path, seed=-1)
    with pytest.raises(InputError, match="no measurement of maze"):
        jm2d.run(tmp_path, parts="maze", only="torus")
    with pytest.raises(InputError, match="accepted: one or more of donut"):
        jm2d.run(tmp_path, parts="donut,doughnut")
    with pytest.raises(InputError, match="device"):
        jm2d.run(tmp_path, device="cuda:77")


def test_quick_maze_plays_every_condition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"method": "steered", "particles": 8, "looks": 2, "refine_rounds": 0}
    monkeypatch.setitem(jm2d_maze.METHODS, "steered", few)
    monkeypatch.setattr(episode, "LONGEST", 120)
    assert jm2d.run(tmp_path, quick=True, parts="maze", seed=1000) == 0
    whole = json.loads((tmp_path / "table.json").read_text())["rows"]
    table, costs = ([r for r in whole if ("cost" in r["table"]) == cost] for cost in (False, True))
    assert {r["method"] for r in costs} == {"rail", "steered"}
    assert all(r["plan_ms_1_core"]["mean"] > 0.0 and r["plan_ms_2_cores"]["mean"] > 0.0 and r["n"] == 8 for r in costs)
    assert {(r["table"].split("(")[1], r["method"]) for r in table} == {
        ("Fig. 3)", "policy"), ("Fig. 3)", "rail"), ("Fig. 3)", "steered"), ("Table F.3)", "rail"), ("Table F.3)", "steered"),
    }
    assert all(r["violations"]["mean"] == 0.0 for r in table if r["method"] != "policy")
    rail = next(r for r in table if r["method"] == "rail")
    assert rail["condition"] == "w = 0.2" and rail["paper_intervention"] == 0.515 and rail["n"] == 1
    assert "difference_intervention" in next(r for r in table if r["method"] == "steered")
    assert (tmp_path / "maze_padding.svg").is_file() and (tmp_path / "maze_budget.svg").is_file()
    assert jm2d.run(tmp_path, quick=True, parts="maze", seed=1000, report=True, pack=tmp_path / "maze.xz") == 0
    assert jm2d.run(tmp_path / "added", quick=True, parts="maze", seed=1000, report=True, add=str(tmp_path / "maze.xz")) == 0
    times = ("plan_ms_p50", "plan_ms_p95", "plan_ms_1_core", "plan_ms_2_cores")
    added = json.loads((tmp_path / "added" / "table.json").read_text())["rows"]
    assert [{**r, **dict.fromkeys(times)} for r in added] == [{**r, **dict.fromkeys(times)} for r in whole]
    assert jm2d.run(tmp_path / "times", quick=True, parts="maze", seed=1000, only="cost/rail") == 0, "nothing to draw is no error"
    assert len(json.loads((tmp_path / "times" / "table.json").read_text())["rows"]) == 1


def test_every_sample_of_a_donut_cell_has_random_numbers_of_its_own() -> None:
    """Samples that share them are not as many as their number: an interval over them is too narrow."""
    drawn: dict[str, list[int]] = {}
    for job in jm2d_donut.jobs(Scale((0, 1, 2), 0, False, "cpu")):
        part, kind, *rest = job.key.split("/")
        if kind in ("constraint", "estimates", "joint"):
            drawn.setdefault("/".join([part, kind, *rest[:-2]]), []).append(job.arguments["seed"])
    assert {len(seeds) for seeds in drawn.values()} == {3 * 64, 3 * 12}
    assert all(len(set(seeds)) == len(seeds) for seeds in drawn.values())


def test_shipped_donut_weights_are_small_and_their_manifest_says_how_they_came(tmp_path: Path) -> None:
    assert weights_path().stat().st_size < 5_000_000
    manifest = read_manifest(weights_path())
    assert manifest["notes"]["task"] == "donut" and "tandem train donut" in manifest["notes"]["command"]
    assert load_policy().schedule.steps == 100
    out = run(tmp_path / "donut.safetensors", steps=3)
    again = run(tmp_path / "again.safetensors", steps=3)
    assert out.read_bytes() == again.read_bytes()
    with pytest.raises(InputError, match=r"\.safetensors"):
        run(tmp_path / "donut.pt", steps=1)
    with pytest.raises(ConfigError, match="made for"):
        load_policy(weights=weights_path().with_name("mug.safetensors"))
