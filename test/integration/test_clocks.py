"""The doctor sees a host whose clock is off."""

from __future__ import annotations

import os

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from integration.graph import ENVIRONMENT, ROOT, Graph

from tandem.cli import doctor
from tandem.nodes import messages
from tandem.nodes.base import RELIABLE_QOS

pytestmark = pytest.mark.ros


def test_a_clock_that_is_ahead_or_behind_is_a_failure(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**ENVIRONMENT, "ROS_DOMAIN_ID": str(graph.domain), "PYTHONPATH": str(ROOT / "src")}.items():
        monkeypatch.setenv(name, value)
    assert doctor.check_graph_clocks() == [], "no graph, no complaint"
    publisher = graph.ear.create_publisher(DiagnosticArray, "/diagnostics", RELIABLE_QOS)
    offsets = {"planner": 0.05, "camera": -0.4}

    def speak() -> None:
        for name, offset in offsets.items():
            array = DiagnosticArray(status=[DiagnosticStatus(name=f"{name}: process")])
            array.header.stamp = messages.stamp_from_seconds(graph.ear.get_clock().now().nanoseconds * 1e-9 + offset)
            publisher.publish(array)

    graph.ear.create_timer(0.1, speak)
    found = {f.text.split(":")[0]: f for f in doctor.check_graph_clocks()}
    assert {name: f.level for name, f in found.items()} == {"planner": "fail", "camera": "fail"}
    assert "chrony" in found["planner"].advice and "-" in found["planner"].text


def test_security_that_is_asked_for_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROS_SECURITY_ENABLE", raising=False)
    assert [f.level for f in doctor.check_security()] == ["ok"]
    monkeypatch.setenv("ROS_SECURITY_ENABLE", "true")
    monkeypatch.setenv("ROS_SECURITY_KEYSTORE", os.devnull)
    monkeypatch.delenv("ROS_SECURITY_STRATEGY", raising=False)
    assert [f.level for f in doctor.check_security()] == ["fail", "fail"]
