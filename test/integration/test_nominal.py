"""The launched graph in working order."""

from __future__ import annotations

import time

from integration.graph import Graph


def test_arm_follows_certified_plans_without_stopping(graph: Graph) -> None:
    graph.start_core()
    before = time.time()
    graph.wait(lambda: int(graph.ear.status.get("splices", 0)) >= 8, "eight plans are played one after another")
    with graph.ear.lock:
        backup = float(graph.ear.status["backup_time"])
        heads = float(graph.ear.status["head_time"])
    assert time.time() - before < 15.0
    assert backup < 0.5 * heads, "heads follow on each other"
    graph.assert_only_certified()
