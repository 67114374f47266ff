"""Every launch file loads and names existing nodes, parameters and files, with every backend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy")

from tandem.core.config import from_dict
from tandem.execution.fci.config import FciOptions

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
NODE_FILES = {n: n for n in ("perception", "planner", "safety_filter", "franka_bridge")}
BRINGUP = {
    "loopback": {"franka_bridge", "safety_filter", "scene_publisher", "perception", "planner"},
    "mujoco": {"franka_bridge", "camera", "safety_filter", "scene_publisher", "perception", "planner"},
}


def launch(file: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT / "tools" / "launch_standin"), str(ROOT / "src")])
    environment = {k: v for k, v in os.environ.items() if k != "TANDEM_CERTIFICATE_KEY"}
    environment |= {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **variables}
    return subprocess.run(
        [sys.executable, "-m", "launch_standin", str(file), *words], env=environment, capture_output=True, text=True, timeout=60,
        check=False,
    )


def plan(file: Path, *words: str, **variables: str) -> dict[str, dict[str, Any]]:
    done = launch(file, *words, "--print", **variables)
    assert done.returncode == 0, done.stderr
    return {p["name"]: p for p in json.loads(done.stdout)}


def known_parameters() -> dict[str, dict[str, Any]]:
    data = yaml.safe_load((ROOT / "config" / "nodes.yaml").read_text())
    return {key.rsplit("/", 1)[-1]: value["ros__parameters"] for key, value in data.items()}


def check_parameters(found: dict[str, dict[str, Any]]) -> None:
    """What launch files set is a known parameter of the node, of the type that the parameter file has."""
    known = known_parameters()
    for name, process in found.items():
        for key, value in process["parameters"].items():
            assert key in known[name], f"{name} has no parameter {key}"
            assert type(value) is type(known[name][key]), f"{name}.{key} = {value!r}, in nodes.yaml {known[name][key]!r}"


@pytest.mark.parametrize("name", sorted(NODE_FILES))
def test_one_file_a_node(name: str) -> None:
    found = plan(LAUNCH / f"{name}.launch.py")
    assert set(found) == {NODE_FILES[name]}
    check_parameters(found)


@pytest.mark.parametrize("backend", sorted(BRINGUP))
def test_bringup_starts_the_graph(backend: str) -> None:
    found = plan(LAUNCH / "bringup.launch.py", f"backend:={backend}", "seed:=7", "sampler:=jm2d")
    assert set(found) == BRINGUP[backend]
    check_parameters(found)
    bridge, planner, judge = found["franka_bridge"], found["planner"], found["safety_filter"]
    assert bridge["parameters"]["backend"] == backend and bridge["parameters"]["seed"] == planner["parameters"]["seed"] == 7
    assert planner["parameters"]["sampler"] == "jm2d"
    assert not bridge["respawn"] and planner["respawn"]
    key = judge["parameters"]["certificate_key_file"]
    assert key and key == bridge["parameters"]["certificate_key_file"] and not Path(key).exists()
    assert all("key" not in name for p in (planner, found["perception"]) for name in p["parameters"])


def test_hardware_takes_its_options_and_refuses_to_guess_the_address() -> None:
    found = plan(
        LAUNCH / "bringup.launch.py", "backend:=hardware", "robot_ip:=172.16.0.2", "interface:=velocity", "profile:=careful",
        "load_mass:=0.5", "load_centre:=0,0,0.05", "gripper:=false", "cpu:=3",
    )
    assert set(found) == BRINGUP["loopback"], "no simulated camera"
    check_parameters(found)
    bridge = found["franka_bridge"]["parameters"]
    assert bridge["backend"] == "fci" and bridge["priority"] == 50 and bridge["cpu"] == 3
    options = from_dict(FciOptions, json.loads(bridge["backend_options"]), "options")
    assert (options.ip, options.interface, options.profile, options.realtime) == ("172.16.0.2", "velocity", "careful", True)
    assert options.load.mass == 0.5 and options.load.centre == [0.0, 0.0, 0.05] and not options.gripper
    for words, text in (((), "needs robot_ip"), (("robot_ip:=10.0.0.1", "load_centre:=0,0"), "3 numbers")):
        done = launch(LAUNCH / "bringup.launch.py", "backend:=hardware", *words)
        assert done.returncode == 2 and text in done.stderr and len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("backend", ["gazebo"])
def test_backends_that_are_not_there_say_so_and_start_nothing(backend: str) -> None:
    done = launch(LAUNCH / "bringup.launch.py", f"backend:={backend}")
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1 and f"backend:={backend}" in done.stderr and "not available" in done.stderr


def test_arguments_of_the_bringup() -> None:
    shown = launch(LAUNCH / "bringup.launch.py", "--show-args")
    assert shown.returncode == 0
    for name in ("backend", "sampler", "scene", "seed", "rviz", "record", "namespace", "robot_ip", "realtime"):
        assert f"    {name}:\n" in shown.stdout
    assert "no description" not in shown.stdout
    for words in (["backend:=moon"], ["sampler:=luck"], ["rviz:=perhaps"], ["seed:=x"], ["colour:=red"]):
        done = launch(LAUNCH / "bringup.launch.py", *words, "--print")
        assert done.returncode == 2 and words[0].split(":=")[0] in done.stderr, (words, done.stderr)


def test_namespace_recording_realtime_and_a_given_key(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("0" * 32)
    found = plan(
        LAUNCH / "bringup.launch.py", "backend:=loopback", "namespace:=left", "record:=true", f"record_dir:={tmp_path}/rec",
        "realtime:=true", f"certificate_key_file:={key}", "publish_scene:=false", "respawn:=false",
    )
    assert set(found) == {*BRINGUP["loopback"], "recorder"} - {"scene_publisher"}
    assert all("__ns:=/left" in p["command"] for p in found.values())
    assert found["recorder"]["command"][3:7] == ["--out", f"{tmp_path}/rec", "--namespace", "left"]
    assert found["franka_bridge"]["parameters"]["priority"] == 50 and not found["planner"]["respawn"]
    assert found["safety_filter"]["parameters"]["certificate_key_file"] == str(key) and key.exists()


def test_the_graph_can_be_split_over_two_hosts() -> None:
    realtime = plan(LAUNCH / "bringup.launch.py", "backend:=loopback", "part:=realtime")
    planning = plan(LAUNCH / "bringup.launch.py", "backend:=loopback", "part:=planning")
    assert set(realtime) == {"franka_bridge", "safety_filter"}
    assert set(planning) == {"scene_publisher", "perception", "planner"}


def test_a_key_in_the_environment_is_used() -> None:
    found = plan(LAUNCH / "bringup.launch.py", "backend:=loopback", TANDEM_CERTIFICATE_KEY="ab" * 32)
    assert found["safety_filter"]["parameters"]["certificate_key_file"] == ""
    assert found["franka_bridge"]["parameters"]["certificate_key_file"] == ""


def test_rviz_is_asked_for_or_named_as_missing() -> None:
    done = launch(LAUNCH / "bringup.launch.py", "backend:=loopback", "rviz:=true", "--print")
    if done.returncode:
        assert done.returncode == 2 and "robot_state_publisher" in done.stderr
    else:
        assert {"rviz2", "robot_state_publisher"} <= {p["name"] for p in json.loads(done.stdout)}
