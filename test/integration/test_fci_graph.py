"""The launched graph on the real network interface of the arm: it moves, a reflex latches it, an operator brings it back."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pylibfranka")

from integration.graph import START, Graph

from tandem.bench.fci_arm import KEY, simulated_loop
from tandem.bench.fci_server import FciServer, FciServerError, server_python
from tandem.execution.client import FastLoopClient
from tandem.robots.model import load_arm

pytestmark = [pytest.mark.ros, pytest.mark.fci, pytest.mark.timeout(300)]
HOST = f"127.{192 + os.getpid() % 60}.{os.getpid() // 60 % 250 + 1}.1"
ROBOTS = Path(__file__).resolve().parents[1] / "data" / "robots"


@pytest.fixture
def server() -> Iterator[FciServer]:
    try:
        server_python()
    except FciServerError as error:
        pytest.skip(str(error))
    with FciServer(HOST, patience=2.0) as made:
        yield made


def options(**values: object) -> str:
    return json.dumps({"ip": HOST, "realtime": False, "gripper": False, "answer_within": 60.0, **values})


@pytest.mark.skipif(
    not os.environ.get("TANDEM_FCI_GRAPH"), reason="the whole graph on the simulated arm wants a free machine: TANDEM_FCI_GRAPH=1"
)
def test_moves_stops_and_goes_on(server: FciServer, graph: Graph) -> None:
    graph.start_core(backend="fci", backend_options=options(), max_drift=30.0, owner_timeout=20.0, bounds="simulated_arm")
    graph.wait(lambda: graph.said("franka_bridge: arm", "MOVING"), "the arm's state is shown")
    struck = time.time()
    server.ask("reflex", name="joint_reflex")
    graph.wait(lambda: graph.mode() == "STOPPED", "the reflex latches")
    graph.wait(lambda: graph.said("franka_bridge: arm", "joint_reflex", struck), "the reason is shown")
    assert "ros2 service call" in (graph.folder / "franka_bridge.log").read_text()
    server.ask("mode", mode="user_stopped")
    refused = graph.call("franka/resume")
    assert not refused.success and "user stop is pressed" in refused.message
    server.ask("mode", mode="execution")
    graph.wait(lambda: graph.call("franka/resume").success, "an operator resumes")
    graph.wait(graph.moving, "the arm goes on", START)


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"backend_options": options(ip="127.99.99.99")}, "activate FCI in Desk"),
        ({"backend_options": options(ip="")}, "robot_ip is not given"),
        ({"backend_options": options(profile="bold")}, "there are: careful.yaml"),
        ({"backend_options": options(load={"mass": 5.0})}, "accepted: 0.0 .. 3.0 kg"),
        ({"backend_options": options(ip="172.16.0.2"), "publish_clock": True}, "a real arm goes by this machine's clock"),
        ({"backend_options": options(), "robot": str(ROBOTS / "panda.yaml")}, "not a model of the Franka Research 3"),
    ],
)
def test_a_bridge_that_cannot_start_says_so_in_one_line(graph: Graph, parameters: dict[str, Any], text: str) -> None:
    refused(graph, text, **parameters)


def refused(graph: Graph, text: str, **parameters: Any) -> None:
    """The bridge does not start: code 2, one line, no traceback."""
    graph.start("franka_bridge", backend="fci", **parameters)
    assert graph.processes["franka_bridge"].wait(START) == 2
    said = (graph.folder / "franka_bridge.log").read_text()
    assert text in said and "Traceback" not in said


def test_a_version_mismatch_and_a_taken_arm_end_the_start(graph: Graph, server: FciServer) -> None:
    other = HOST.removesuffix("1") + "2"
    with FciServer(other, patience=2.0, options=("--fci-version", "9")):
        refused(graph, "update the arm's system software", backend_options=options(ip=other))
    with FastLoopClient(replace(simulated_loop(load_arm("fr3"), HOST, patient=True, gripper=False), priority=0), KEY):
        refused(graph, "is another one using the arm", backend_options=options())
