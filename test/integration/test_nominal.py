"""The launched graph in working order."""

from __future__ import annotations

from pathlib import Path

import pytest
from integration.graph import Graph
from visualization_msgs.msg import Marker, MarkerArray

from tandem.nodes import messages
from tandem.nodes.base import RELIABLE_QOS


@pytest.mark.ros
def test_arm_follows_certified_plans_without_stopping(graph: Graph) -> None:
    shown: list[MarkerArray] = []
    graph.ear.create_subscription(MarkerArray, "safety_filter/occupancy", shown.append, RELIABLE_QOS)
    graph.start_core()
    graph.wait(lambda: int(graph.ear.status.get("splices", 0)) >= 8, "eight plans are played one after another")
    with graph.ear.lock:
        backup, heads = (float(graph.ear.status[k]) for k in ("backup_time", "head_time"))
        memory = {n: float(messages.values_of(s).get("rss_mb", 0)) for n, (_, s) in graph.ear.diagnostics.items()}
    assert backup < 0.5 * heads, "heads follow on each other"
    graph.wait(lambda: shown, "the certified occupancy is shown")
    assert all(m.type == Marker.SPHERE and m.scale.x > 0.02 for m in shown[-1].markers[1:]) and len(shown[-1].markers) > 50
    graph.assert_only_certified()
    assert all(memory[f"{n}: process"] < 1500 for n in graph.processes)
    for name in ("franka_bridge", "safety_filter"):
        maps = Path(f"/proc/{graph.processes[name].pid}/maps").read_text(encoding="utf-8")
        assert "libtorch" not in maps, f"{name} is on the real-time side: it loads no torch"
