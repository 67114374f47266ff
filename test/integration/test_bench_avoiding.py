"""The Avoiding part of ``tandem bench jm2d`` from the shipped weights, and ``tandem train avoiding`` for a few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tandem.bench import jm2d, jm2d_avoiding
from tandem.core.errors import ConfigError, InputError
from tandem.diffusion.samplers import make_sampler
from tandem.diffusion.weights import read_manifest
from tandem.tasks.avoiding.arm import AvoidingArm
from tandem.tasks.avoiding.config import load_avoiding_config
from tandem.tasks.avoiding.demonstrations import scripted, write
from tandem.tasks.avoiding.rollout import play
from tandem.tasks.avoiding.scene import Scene
from tandem.tasks.avoiding.train import KNOWN, SCRIPT, load_policy, run, weights_path


def test_quick_bench_has_a_row_a_method_and_scene_beside_the_papers_value_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("policy", "best_of_1", "jm2d_tight", "best_of_32_tight+rest", "best_of_32+ahead", "dpcc_t_tightened")
    few = {name: jm2d_avoiding.METHODS[name] for name in names}
    few["jm2d_tight"] = {**few["jm2d_tight"], "x_samples": 2}
    monkeypatch.setattr(jm2d_avoiding, "METHODS", few)
    monkeypatch.setattr(jm2d_avoiding, "SCENES", ("top_left", "both"))
    monkeypatch.setattr(jm2d_avoiding, "ESTIMATES", {"u=0": {"clean": "steps", "clean_steps": 0}})
    assert jm2d.run(tmp_path, quick=True, parts="avoiding") == 0
    table = {(r["condition"], r["method"]): r for r in json.loads((tmp_path / "table.json").read_text())["rows"]}
    methods = {*few, "jm2d, u=0", "jm2d, tight, u=0"}
    assert set(table) == {("free", "policy"), ("plan", "policy"), *((s, m) for s in ("top_left", "both") for m in methods)}
    dpcc = table["top_left", "dpcc_t_tightened"]
    assert (dpcc["paper"], dpcc["paper_swapped"], dpcc["paper_violations"]) == (0.87, 0.72, 0.02)
    assert table["plan", "policy"]["plan_ms_1_core"]["mean"] > 0.0 and table["plan", "policy"]["n"] == 8
    assert all(r["safe_success"]["mean"] <= r["task_success"]["mean"] and r["n"] == 1 for r in table.values() if "ways" in r)
    assert table["both", "jm2d, u=0"]["network_rows"] == 20.0, "a Tweedie mean a step, every chunk is played"
    assert table["both", "policy"]["network_rows"] == 20.0
    assert (tmp_path / "avoiding_paths.svg").is_file() and (tmp_path / "avoiding_cost.svg").is_file()
    lines = (tmp_path / "runs-quick.jsonl").read_text()
    packed = tmp_path / "avoiding.xz"
    assert jm2d.run(tmp_path, quick=True, parts="avoiding", pack=packed) == 0
    assert (tmp_path / "runs-quick.jsonl").read_text() == lines
    assert jm2d.run(tmp_path / "added", quick=True, parts="avoiding", report=True, add=str(packed)) == 0
    added = json.loads((tmp_path / "added" / "table.json").read_text())["rows"]
    times = ("plan_ms_p50", "plan_ms_p95", "plan_ms_1_core", "plan_ms_2_cores")
    assert [{**r, **dict.fromkeys(times)} for r in added] == [{**r, **dict.fromkeys(times)} for r in table.values()]
    assert (tmp_path / "added" / "avoiding_paths.svg").is_file() and packed.stat().st_size < len(lines) / 5


def test_the_plain_policy_reaches_the_goal_by_many_ways_and_repeats_itself() -> None:
    settings = load_avoiding_config()
    policy, arm, scene = load_policy(), AvoidingArm(), Scene(settings.scene("free"), settings)
    sampler = make_sampler({"method": "policy"})
    episodes = [play(sampler, policy, scene, arm, torch.Generator().manual_seed(n)) for n in range(16)]
    assert sum(e.reached for e in episodes) >= 10  # .89 of 300 episodes; 9 or fewer of 16 would happen once in 1000
    assert len({e.way for e in episodes}) >= 5
    again = play(sampler, policy, scene, arm, torch.Generator().manual_seed(15))
    assert (again.path == episodes[-1].path).all() and again.steps == episodes[-1].steps


def test_shipped_weights_are_small_and_training_repeats_itself_from_either_source(tmp_path: Path) -> None:
    assert weights_path().stat().st_size < 5_000_000
    notes = read_manifest(weights_path())["notes"]
    assert notes["task"] == "avoiding" and "tandem train avoiding" in notes["command"] and "MIT" in notes["origin"]["source"]
    assert notes["origin"]["source"] == KNOWN[notes["origin"]["sha256"]]
    few = {"data": SCRIPT, "steps": 3, "practice_steps": 2, "blended": 8, "rounds": 1, "played": 6}
    told: list[int] = []
    out = run(tmp_path / "a.safetensors", progress=lambda done, _: told.append(done), **few)  # type: ignore[arg-type]
    assert told == [1, 3]  # three fifths of the steps are the last training's
    manifest = read_manifest(out)
    assert manifest["training"]["steps"] == 3 and "--practice-steps 2 --steps 3" in manifest["notes"]["command"]
    assert out.read_bytes() == run(tmp_path / "b.safetensors", **few).read_bytes()  # type: ignore[arg-type]
    write(tmp_path / "d.npz", scripted(24, 7, load_avoiding_config()))
    few["data"] = tmp_path / "d.npz"
    other = run(tmp_path / "c.safetensors", source="made up", **few)  # type: ignore[arg-type]
    origin = read_manifest(other)["notes"]["origin"]
    assert origin["file"] == "d.npz" and origin["source"] == "made up" and other.read_bytes() != out.read_bytes()
    with pytest.raises(InputError, match=r"\.safetensors"):
        run(tmp_path / "a.pt", **few)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="made for"):
        load_policy(weights=weights_path().with_name("donut.safetensors"))
