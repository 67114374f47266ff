"""Every launch file loads and names existing nodes, parameters and files, with every backend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

from tandem.core.config import from_dict
from tandem.execution.backends.ros2_control import Ros2ControlOptions
from tandem.execution.fci.config import FciOptions
from tandem.robots.model import load_arm

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"
NODE_FILES = {n: n for n in ("perception", "planner", "safety_filter", "franka_bridge")}
EMPTY = "from launch import LaunchDescription\n\n\ndef generate_launch_description():\n    return LaunchDescription([])\n"
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
            if key == "use_sim_time":  # every ROS node's
                assert value is False
                continue
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


def test_planner_and_filter_go_by_the_same_bounds() -> None:
    found = plan(LAUNCH / "bringup.launch.py", "safety:=simulated_arm")
    assert {found[n]["parameters"]["bounds"] for n in ("planner", "safety_filter", "franka_bridge")} == {"simulated_arm"}


@pytest.mark.parametrize("simulated", [False, True])
def test_a_simulated_arm_tells_the_time(simulated: bool) -> None:
    words = ["backend:=hardware", "robot_ip:=127.0.0.1", "twin:=true", f"use_sim_time:={str(simulated).lower()}"]
    found = plan(LAUNCH / "bringup.launch.py", *words)
    bridge = found.pop("franka_bridge")["parameters"]
    assert bridge["publish_clock"] is simulated and bridge["use_sim_time"] is False, "nobody tells the one who tells"
    assert len(found) >= 5 and all(p["parameters"]["use_sim_time"] is simulated for p in found.values())


def packages(folder: Path, *names: str) -> str:
    """An ament prefix in which packages of these names are installed, with launch files that start nothing."""
    for name in names:
        share = folder / "share" / name
        (share / "launch").mkdir(parents=True)
        (share / "package.xml").write_text(f"<package><name>{name}</name></package>")
        for file in ("gz_sim", "franka"):
            (share / "launch" / f"{file}.launch.py").write_text(EMPTY)
        for executable in ("robot_state_publisher", "create", "spawner"):
            (folder / "lib" / name).mkdir(parents=True, exist_ok=True)
            (folder / "lib" / name / executable).write_text("#!/bin/sh\n")
            (folder / "lib" / name / executable).chmod(0o755)
    return str(folder)


def test_gazebo_names_what_is_missing_and_starts_nothing() -> None:
    done = launch(LAUNCH / "bringup.launch.py", "backend:=gazebo")
    if done.returncode == 0:
        pytest.skip("Gazebo is installed")
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1 and "not available" in done.stderr
    assert "ros-jazzy-gz-ros2-control" in done.stderr


def test_gazebo_brings_up_the_arm_with_its_controllers(tmp_path: Path) -> None:
    prefix = packages(
        tmp_path, "ros_gz_sim", "gz_ros2_control", "joint_trajectory_controller", "joint_state_broadcaster",
        "robot_state_publisher", "controller_manager",
    )
    found = plan(LAUNCH / "bringup.launch.py", "backend:=gazebo", AMENT_PREFIX_PATH=prefix)
    assert set(found) >= {*BRINGUP["loopback"], "robot_state_publisher", "create", "spawner"}
    bridge = found["franka_bridge"]["parameters"]
    assert bridge["backend"] == "ros2_control" and bridge["max_drift"] == 60.0
    options = from_dict(Ros2ControlOptions, json.loads(bridge["backend_options"]), "options")
    assert options.finger_topic.startswith("finger_trajectory_controller")
    urdf = ET.fromstring(found["robot_state_publisher"]["parameters"]["robot_description"])
    arm = load_arm("fr3")
    control = {j.get("name"): j for j in urdf.find("ros2_control").findall("joint")}
    assert [f"fr3_joint{i}" in control for i in range(1, 8)] == [True] * 7 and "fr3_finger_joint1" in control
    first = [float(control[f"fr3_joint{i}"].find(".//param").text) for i in range(1, 8)]
    assert np.allclose(first, arm.home), "Gazebo begins where Tandem's home is"
    bolt = next(j for j in urdf.findall("joint") if j.find("parent").get("link") == "world")
    assert bolt.get("type") == "fixed" and bolt.find("child").get("link") == "base", "the root of the URDF"
    named = yaml.safe_load(Path(urdf.find("gazebo/plugin/parameters").text).read_text())["/**"]
    assert named["joint_trajectory_controller"]["ros__parameters"]["joints"] == [f"fr3_joint{i}" for i in range(1, 8)]


def test_ros2_control_takes_a_running_controller_or_starts_franka_ros2(tmp_path: Path) -> None:
    found = plan(LAUNCH / "bringup.launch.py", "backend:=ros2_control")
    assert set(found) == BRINGUP["loopback"]
    check_parameters(found)
    options = from_dict(Ros2ControlOptions, json.loads(found["franka_bridge"]["parameters"]["backend_options"]), "options")
    assert (options.topic, options.states) == ("joint_trajectory_controller/joint_trajectory", "joint_states")
    words = ("backend:=ros2_control", "robot_ip:=172.16.0.2")
    done = launch(LAUNCH / "bringup.launch.py", *words)
    assert done.returncode == 2 and "tandem.repos" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    prefix = packages(tmp_path, "franka_bringup", "controller_manager")
    found = plan(LAUNCH / "bringup.launch.py", *words, AMENT_PREFIX_PATH=prefix)
    options = from_dict(Ros2ControlOptions, json.loads(found["franka_bridge"]["parameters"]["backend_options"]), "options")
    assert options.topic == "/fr3/joint_trajectory_controller/joint_trajectory"
    assert options.states == "/fr3/franka/joint_states" != "/franka/joint_states", "Tandem has a topic of that name itself"


def test_arguments_of_the_bringup() -> None:
    shown = launch(LAUNCH / "bringup.launch.py", "--show-args")
    assert shown.returncode == 0
    for name in ("backend", "sampler", "device", "scene", "seed", "rviz", "record", "namespace", "robot_ip", "realtime"):
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
