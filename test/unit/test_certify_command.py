"""``tandem certify`` and the audit's mesh check: plan files, verdicts, exit codes; recordings made of plain objects, no ROS."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console
from safety_cases import arm, shapes
from typer.testing import CliRunner

from tandem.bench import audit, recording
from tandem.bench.recording import Recording
from tandem.cli import certify as command
from tandem.cli import main
from tandem.core.errors import ConfigError, InputError, TandemError
from tandem.core.plan_file import SUFFIXES, load_plans, save_plan
from tandem.core.scene import TABLE, Obstacle, Scene
from tandem.core.trajectory import Trajectory
from tandem.robots.kinematics import fk, tcp_pose
from tandem.safety import BackupFamily, certify_one, load_bounds
from tandem.safety.meshes import MeshWorld

FAMILY = BackupFamily()


def plan(k: float = 1.0) -> Trajectory:
    """A turn of joint 1 from home."""
    zero = np.zeros(7)
    return FAMILY.trajectory(arm().home, zero, zero, k * np.eye(7)[0])


def ball(trajectory: Trajectory, radius: float = 0.05) -> Obstacle:
    """A ball where the hand comes to rest."""
    x, y, z = tcp_pose(arm(), trajectory.q[-1])[:3, 3]
    return Obstacle("ball", "sphere", (radius,), (float(x), float(y), float(z)))


def scene_file(folder: Path, *obstacles: Obstacle) -> Path:
    rows = [{"name": o.name, "kind": o.kind, "size": list(o.size), "position": list(o.position)} for o in obstacles]
    path = folder / "scene.yaml"
    path.write_text(yaml.safe_dump({"obstacles": rows}))
    return path


# ------------------------------------------------------------------------------------------------------------ plan files
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_plan_comes_back_to_the_last_bit(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"turn{suffix}"
    save_plan(plan(), path)
    [(name, again)] = load_plans(path)
    assert name == "turn" and again.digest() == plan().digest()


@pytest.mark.parametrize(("text", "word"), [
    ("{", "cannot be read"), ("[]", "mapping"), ('{"times": [0, 1]}', "missing key"), ('{"plans": []}', "one or more"),
    ('{"times": [0, 1], "q": [[0], [0]], "v": [[0], [0]], "a": [[0], [0]], "k": 1}', "unknown key"),
    ('{"times": [0, 0], "q": [[0], [0]], "v": [[0], [0]], "a": [[0], [0]]}', "increase"),
    ('{"times": [0, 1], "q": [[0], [NaN]], "v": [[0], [0]], "a": [[0], [0]]}', "NaN"),
    ('{"times": [0, 1], "q": [[0], [0, 1]], "v": [[0], [0]], "a": [[0], [0]]}', "plan.json"),
    ('{"plans": [{"times": [0, 1]}]}', r"plans\[0\]"),
])
def test_a_malformed_plan_file_is_named(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=word):
        load_plans(path)


# --------------------------------------------------------------------------------------------------------------- command
def run(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    result = CliRunner().invoke(main.app, ["certify", "--json", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, json.loads(result.output)


def test_verdicts_exit_codes_and_digest(tmp_path: Path) -> None:
    path = tmp_path / "turn.json"
    save_plan(plan(), path)
    code, [free] = run(str(path), "--scene", str(scene_file(tmp_path)))
    verdict = certify_one(arm(), plan(), Scene((TABLE,)), load_bounds(), 0.0)
    assert code == 0 and free["certified"] and free["digest"] == verdict.digest
    assert free["clearance_m"] == pytest.approx(verdict.clearance)
    code, [hit] = run(str(path), "--scene", str(scene_file(tmp_path, ball(plan()))))
    assert code == 1 and not hit["certified"] and hit["obstacle"] == "ball" and hit["clearance_m"] < 0.0
    assert hit["time_s"] > 0.5 and hit["link"] == "fr3_link7"
    assert hit["digest"] != free["digest"] and hit["trajectory"] == free["trajectory"]
    save_plan(Trajectory(plan().times, plan().q + 9.0, plan().v, plan().a), path)
    code, [far] = run(str(path), "--scene", str(scene_file(tmp_path)))
    assert code == 1 and far["reason"] == "joint position limit"


def test_several_plans_are_judged_one_by_one(tmp_path: Path) -> None:
    rows = [{k: getattr(plan(k_), k).tolist() for k in ("times", "q", "v", "a")} for k_ in (2.0, -2.0)]
    path = tmp_path / "both.yaml"
    path.write_text(yaml.safe_dump({"plans": [rows[0], {**rows[1], "name": "other way"}]}))
    scene = str(scene_file(tmp_path, ball(plan(2.0))))
    code, found = run(str(path), "--scene", scene)
    assert code == 1 and [f["certified"] for f in found] == [False, True] and found[1]["plan"] == "other way"
    out = Console(record=True, width=120)
    assert command.run(path, out, scene=scene) == 1
    text = out.export_text()
    assert "not certified: collision" in text and "fr3_link7 to ball" in text and found[0]["digest"] in text


def test_bad_input_is_an_error_not_a_verdict(tmp_path: Path) -> None:
    path = tmp_path / "turn.json"
    save_plan(plan(), path)
    scene = str(scene_file(tmp_path))
    for arguments in (
        [str(path)], [str(tmp_path / "none.json"), "--scene", scene], [str(path), "--scene", "none.yaml"],
        [str(path), "--scene", scene, "--robot", "none"], [str(tmp_path), "--scene", scene],
    ):
        with pytest.raises(TandemError):
            run(*arguments)
    six = tmp_path / "six.json"
    t = plan()
    save_plan(Trajectory(t.times, t.q[:, :6], t.v[:, :6], t.a[:, :6]), six)
    with pytest.raises(InputError):
        run(str(six), "--scene", scene)


# -------------------------------------------------------------------------------------------------------------- recordings
def stamp(time: float) -> SimpleNamespace:
    ns = round(time * 1e9)
    return SimpleNamespace(sec=ns // 10**9, nanosec=ns % 10**9)


def joint_messages(t: Trajectory, start: float, rate: float = 30.0) -> list[tuple[float, Any]]:
    times = np.arange(0.0, t.duration, 1.0 / rate)
    return [
        (start + s, SimpleNamespace(header=SimpleNamespace(stamp=stamp(start + s)), position=np.append(t.sample(s)[0], 0.02)))
        for s in times
    ]


def marker(o: Obstacle, time: float) -> SimpleNamespace:
    x, y, z = o.position
    return SimpleNamespace(
        action=0, type=2, ns=o.name, id=0, text="", scale=SimpleNamespace(x=2 * o.size[0], y=0.0, z=0.0),
        pose=SimpleNamespace(position=SimpleNamespace(x=x, y=y, z=z), orientation=SimpleNamespace(w=1.0, x=0.0, y=0.0, z=0.0)),
        header=SimpleNamespace(stamp=stamp(time)),
    )


def made_up(*seen: tuple[float, Obstacle]) -> Recording:
    """The turn of joint 1 measured at 30 Hz from 100 s on, obstacles heard at the times given."""
    obstacles = [(t, SimpleNamespace(markers=[marker(o, t)])) for t, o in seen]
    topics = {"franka/joint_states": joint_messages(plan(2.0), 100.0), "obstacles": obstacles}
    return Recording(Path("made-up"), topics)


def mesh_check(heard: Recording) -> audit.Check:
    meshes = MeshWorld(arm(), shapes())
    [check] = [c for c in audit.audit(heard, arm(), load_bounds(), meshes=meshes) if c.subject == "meshes"]
    return check


def test_the_audit_measures_the_meshes_along_what_was_measured() -> None:
    pytest.importorskip("coal")
    near = ball(plan(2.0), 0.02)
    x, y, z = near.position
    clear = Obstacle("ball", "sphere", (0.02,), (x + 0.15, y + 0.2, z))
    check = mesh_check(made_up((99.0, clear)))
    assert check.passed and "0 measured positions in contact" in check.text
    dense = fk(arm(), plan(2.0).sample(np.linspace(0.0, 29 / 30, 400))[0])
    heard = Obstacle("ball/0", "sphere", clear.size, clear.position)
    true = min(MeshWorld(arm(), shapes()).clearance(Scene((TABLE, heard)), f) for f in dense)
    told = float(check.text.split("least distance ")[1].split(" mm")[0])
    assert told == pytest.approx(1e3 * true, abs=2.0)


def test_the_audit_finds_a_contact_that_no_certificate_speaks_of() -> None:
    pytest.importorskip("coal")
    check = mesh_check(made_up((99.0, ball(plan(2.0), 0.03))))
    assert not check.passed and " 0 measured positions" not in check.text


def test_obstacles_count_from_when_they_were_heard() -> None:
    pytest.importorskip("coal")
    at_home, away = ball(Trajectory.at_rest(arm().home), 0.03), Obstacle("ball", "sphere", (0.03,), (-0.6, 0.0, 0.9))
    assert not mesh_check(made_up((99.0, at_home))).passed
    assert mesh_check(made_up((99.0, away), (100.7, at_home))).passed, "the arm has left by then"


def test_a_recordings_proposals_are_certified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    t = plan()
    points = [
        SimpleNamespace(
            time_from_start=stamp(s), positions=np.append(t.q[i], 0.02), velocities=np.append(t.v[i], 0.0),
            accelerations=np.append(t.a[i], 0.0),
        ) for i, s in enumerate(t.times)
    ]
    message = SimpleNamespace(points=points, header=SimpleNamespace(stamp=stamp(100.0)))
    heard = made_up((99.9, ball(t)))
    heard.topics["planner/proposal"] = [(99.95, message)]
    monkeypatch.setattr(recording, "read", lambda *_: heard)
    code, [hit] = run(str(tmp_path))
    assert code == 1 and hit["obstacle"] == "ball/0" and hit["plan"] == "planner/proposal[0]"
    code, [free] = run(str(tmp_path), "--scene", str(scene_file(tmp_path)))
    assert code == 0 and free["certified"]
    with pytest.raises(InputError, match="nothing on"):
        run(str(tmp_path), "--topic", "nothing")
