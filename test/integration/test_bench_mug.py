"""The mug benchmark end to end: deterministic episodes, the table, resuming, and that the filter's word is what counts."""

import json
from pathlib import Path

import numpy as np
import pytest

from tandem.bench import mug
from tandem.bench.lockstep import LockstepConfig, LockstepEpisode
from tandem.bench.record import EpisodeRecord
from tandem.core.errors import InputError
from tandem.core.types import Reason, Verdict
from tandem.perception import MarkerPoseEstimator
from tandem.safety.filter import SafetyFilter
from tandem.sim.scenes import generate
from tandem.sim.world import MugWorld
from tandem.tasks.mug.memory import RETREAT
from tandem.tasks.mug.planner import MugPlanner


def episode(method: str, seed: int, guard: object = None, timeout: float = 2.0) -> tuple[LockstepEpisode, EpisodeRecord]:
    made = generate("blocked_straight", 1)
    world = MugWorld(made.scene, seed=seed)
    world.reset(made.mug_pose)
    planner = MugPlanner.load(method, seed)
    own = guard or SafetyFilter(planner.arm, planner.bounds, planner.family)
    played = LockstepEpisode(world, planner, own, MarkerPoseEstimator(world.mug), LockstepConfig(timeout=timeout))  # type: ignore[arg-type]
    record = played.run()
    world.close()
    return played, record


def test_same_seed_same_episode() -> None:
    first, second = (episode("steered", 7)[1] for _ in range(2))
    np.testing.assert_array_equal(first.q_measured, second.q_measured)
    np.testing.assert_array_equal(first.mug_pose, second.mug_pose)
    assert [p.verdict for p in first.plans] == [p.verdict for p in second.plans]
    assert any(p.certified for p in first.plans)
    assert np.abs(first.q_commanded[-1] - first.q_commanded[0]).max() > 0.05


def test_a_filter_that_refuses_everything_keeps_the_arm_still() -> None:
    class Refuse:
        def check(self, *args: object) -> Verdict:
            return Verdict(Reason.COLLISION, -1.0, 0.0, "", "", "")

    played, record = episode("steered", 7, Refuse())
    assert played.plans and not any(p.certified for p in played.plans)
    assert np.abs(record.q_commanded - record.q_commanded[0]).max() == 0.0
    assert record.at_rest and record.intervention == pytest.approx(1.0, abs=0.01)


def test_episode_ends_at_rest_when_time_is_over() -> None:
    played, record = episode("steered", 3, timeout=1.5)
    assert not record.task_success
    assert record.at_rest
    assert played.tracking_error < 0.004


def test_a_mug_that_was_moved_under_the_hand_is_looked_at_again_and_lifted() -> None:
    """The grasp closes on nothing; without a second look the arm would go through the lifting motion with empty fingers."""
    world = MugWorld(seed=1000)
    planner = MugPlanner.load("policy", 1000)
    guard = SafetyFilter(planner.arm, planner.bounds, planner.family)
    played = LockstepEpisode(world, planner, guard, MarkerPoseEstimator(world.mug), LockstepConfig(timeout=20.0))
    start, moved, step = world.mug_pose()[:3, 3], [], world.step

    def push(q: np.ndarray, v: np.ndarray, a: np.ndarray, width: float) -> None:
        if not moved and np.linalg.norm(world.tcp_pose()[:3, 3] - start - [0.0, 0.0, 0.08]) < 0.09:
            moved.append(world.time)
            world.data.qpos[10] -= 0.13
        step(q, v, a, width)

    world.step = push  # type: ignore[method-assign]
    record = played.run()
    world.close()
    assert moved and record.task_success and record.robot_contacts == 0
    back = [p.switch_time for p in record.plans if p.reason == RETREAT and p.certified]
    assert len(back) == 1 and back[0] > moved[0]


def test_quick_benchmark_writes_a_table_and_resumes(tmp_path: Path) -> None:
    code = mug.run(tmp_path, quick=True, seed=100, workers=1)
    table = json.loads((tmp_path / "table.json").read_text())
    rows = {row["method"]: row for row in table["rows"]}
    assert set(rows) == {"policy", "steered"}
    assert rows["steered"]["contacts"] == 0 and code == 0
    assert rows["steered"]["n"] == 2 and rows["steered"]["network_rows"]["mean"] >= 3200
    assert {"safe_success", "task_success", "intervention", "episode_s", "plan_ms_p95", "rss_mb"} <= set(rows["policy"])
    files = sorted((tmp_path / "episodes").glob("*.json"))
    assert len(files) == 4
    before = {f: f.stat().st_mtime_ns for f in files}
    files[0].unlink()
    assert mug.run(tmp_path, quick=True, seed=100, workers=1) == 0
    assert files[0].is_file()
    assert all(f.stat().st_mtime_ns == before[f] for f in files[1:])
    again = {row["method"]: row for row in json.loads((tmp_path / "table.json").read_text())["rows"]}
    for method in rows:
        assert again[method]["safe_success"] == rows[method]["safe_success"]


def test_unknown_names_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="conditions"):
        mug.run(tmp_path, conditions="obstacles,nowhere")
    with pytest.raises(InputError, match="episodes"):
        mug.run(tmp_path, episodes=0)
