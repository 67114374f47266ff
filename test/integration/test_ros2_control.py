"""The launched graph over a joint_trajectory_controller: a stand-in with its documented behaviour (stand_in_controller.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from integration.graph import DIES_WITH_US, ENVIRONMENT, ROOT, START, Graph, off_path
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from tandem.nodes import messages
from tandem.nodes.base import RELIABLE_QOS, SENSOR_QOS

pytestmark = [pytest.mark.ros, pytest.mark.timeout(300)]


class Controlled:
    """The graph, with the stand-in as its arm; what that does is heard."""

    def __init__(self, graph: Graph, *arguments: str) -> None:
        self.graph, self.said, self.played = graph, "", list[tuple[float, np.ndarray]]()
        self.node: subprocess.Popen[bytes] = self.start(*arguments)
        graph.ear.create_subscription(String, "stand_in", self._on_said, RELIABLE_QOS)
        graph.ear.create_subscription(JointState, "joint_states", self._on_states, SENSOR_QOS)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the controller."""
        environment = {**os.environ, **ENVIRONMENT, "ROS_DOMAIN_ID": str(self.graph.domain)}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT / "test")])
        with (self.graph.folder / "stand_in.log").open("ab") as log:
            self.node = subprocess.Popen(
                [*DIES_WITH_US, sys.executable, "-m", "stand_in_controller", *arguments], env=environment, stdout=log, stderr=log
            )
        self.graph.processes["stand_in"] = self.node
        return self.node

    def _on_said(self, msg: String) -> None:
        self.said = msg.data

    def _on_states(self, msg: JointState) -> None:
        self.played.append((messages.seconds_from_stamp(msg.header.stamp), np.array(msg.position[:7])))

    def run(self, planner: bool = True, **bridge: Any) -> None:
        """Bridge, filter, planner."""
        options = json.dumps({"connect_timeout": 60.0, "silence": 1.0, **bridge.pop("options", {})})
        self.graph.start_core(planner=planner, backend="ros2_control", backend_options=options, max_drift=30.0, **bridge)


@pytest.fixture
def controlled(graph: Graph) -> Iterator[Controlled]:
    yield Controlled(graph)


def test_plans_are_played_by_the_controller(controlled: Controlled) -> None:
    graph = controlled.graph
    controlled.run()
    graph.wait(lambda: int(graph.ear.status.get("splices", 0)) >= 6, "plans follow on each other", 90.0)
    graph.assert_only_certified()
    taken, refused = controlled.said.split(" ", 1)
    assert int(taken) >= 6 and refused == "[]"
    with graph.ear.lock:
        plans, played = graph.ear.honest(), list(controlled.played)
    moved = [(t, q) for (t, q), (_, before) in zip(played[1:], played, strict=False) if not np.array_equal(q, before)]
    assert len(moved) > 100
    for t, q in moved[::5]:  # the controller's own stamps: its clock is ahead of the loop's by the way of a message
        recent = [p for p, switch in sorted(plans, key=lambda plan: plan[1]) if switch <= t + 0.05][-4:]
        gap = min(off_path(p, q[None])[0] for p in recent)
        assert gap < 1e-4, f"the controller is {gap:.5f} rad off the certified paths at {t:.3f}"
    graph.call("franka/stop")
    graph.wait(graph.at_rest, "it stops")
    graph.wait(lambda: np.abs(controlled.played[-1][1] - graph.ear.commanded[-1][1]).max() < 1e-4, "it stands where it should")
    assert graph.call("franka/resume").success
    graph.wait(graph.moving, "it goes on", START)


def test_a_slow_clock_of_another_epoch_is_no_matter(graph: Graph) -> None:
    controlled = Controlled(graph, "--pace", "0.8", "--offset", "-1000000")
    controlled.run()
    graph.wait(lambda: int(graph.ear.status.get("splices", 0)) >= 3, "plans are played", 90.0)
    graph.assert_only_certified()
    assert controlled.said.endswith("[]")


def test_a_controller_that_dies_stops_the_arm_and_one_that_comes_back_is_taken_after_resume(controlled: Controlled) -> None:
    graph = controlled.graph
    controlled.run()
    controlled.node.kill()
    controlled.node.wait()
    graph.wait(lambda: graph.mode() == "STOPPED", "the arm stops", 30.0)
    graph.wait(lambda: graph.said("franka_bridge: executor", "no joint states"), "and says why")
    assert "controller_manager" in graph.call("franka/resume").message
    controlled.start()
    graph.wait(lambda: graph.call("franka/resume").success, "an operator resumes", START)
    graph.wait(graph.moving, "the arm goes on", START)


def test_ctrl_c_brakes_the_arm(controlled: Controlled) -> None:
    """The course of the stop reaches the controller, which would otherwise play to the end of what it has."""
    graph = controlled.graph
    controlled.run()
    graph.wait(graph.moving, "the arm moves", START)
    graph.processes["planner"].kill()
    time.sleep(0.15)  # for what was on its way
    before = int(controlled.said.split()[0])
    graph.processes["franka_bridge"].send_signal(signal.SIGINT)
    assert graph.processes["franka_bridge"].wait(15.0) == 0
    graph.wait(lambda: int(controlled.said.split()[0]) > before, "the stop's course comes", 5.0)
    graph.wait(lambda: np.ptp([q for _, q in controlled.played[-50:]], axis=0).max() < 1e-6, "the arm is at rest", 10.0)
    assert controlled.said.endswith("[]")
    with graph.ear.lock:
        ends = np.array([plan.q[-1] for plan, _ in graph.ear.honest()[-2:]])
    assert np.abs(ends - controlled.played[-1][1]).max(1).min() > 1e-3, "braked, not played to the end of what it had"
    assert "Traceback" not in (graph.folder / "franka_bridge.log").read_text()


def test_another_publisher_on_the_controllers_topic_stops_the_arm(controlled: Controlled) -> None:
    graph = controlled.graph
    controlled.run()
    publisher = graph.ear.create_publisher(JointTrajectory, "joint_trajectory_controller/joint_trajectory", RELIABLE_QOS)
    graph.wait(lambda: graph.said("franka_bridge: controller", "other publisher"), "the intruder is named")
    graph.wait(lambda: graph.mode() == "STOPPED", "the arm stops")
    graph.ear.destroy_publisher(publisher)


def test_without_a_controller_the_bridge_says_so(graph: Graph) -> None:
    graph.start("franka_bridge", backend="ros2_control", backend_options='{"connect_timeout": 1.0}')
    assert graph.processes["franka_bridge"].wait(START) == 2
    said = (graph.folder / "franka_bridge.log").read_text()
    assert "is the trajectory controller active" in said and "Traceback" not in said
