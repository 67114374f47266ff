"""A recording of the launched graph: it can be read back, audited, and made into a report; a doctored one fails its audit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from integration.graph import Graph

from tandem.bench import audit, recording, report
from tandem.nodes.recorder import Recorder
from tandem.robots.model import load_arm
from tandem.safety.bounds import load_bounds
from tandem.sim.scene_file import MugScene

pytestmark = pytest.mark.ros


def test_a_recording_is_complete_and_passes_its_audit(graph: Graph, tmp_path: Path) -> None:
    with Recorder(tmp_path / "topics", domain=graph.domain) as recorder:
        graph.start_core(planner=False)

        def hears(*topics: str) -> bool:
            with recorder.lock:
                return all(recorder.live.heard.get(topic) for topic in topics)

        # what is certified before the recorder has found the filter is not recorded, and its commands would fail the audit
        graph.wait(lambda: hears("safety_filter/guard", "franka/joint_states"), "the recorder hears filter and arm")
        graph.start_planner()
        graph.wait(lambda: int(graph.ear.status.get("splices", 0)) >= 3, "three plans are played")

        def heard_enough() -> bool:
            """Five proposals, for the recorder may find the planner late, and what the arm did for a while after the first."""
            with recorder.lock:
                plans, states = (recorder.live.heard.get(t, ()) for t in ("planner/proposal", "franka/joint_states"))
                return len(plans) >= 5 and recorder.live.certified >= 5 and bool(states) and states[-1] - plans[0] > 0.5

        graph.wait(heard_enough, "the recorder has heard five plans, their verdicts, half a second of the arm after the first")
        with recorder.lock:
            assert recorder.live.rate("franka/joint_states") > 20.0
            assert recorder.live.mode
    assert list((tmp_path / "topics").glob("*.mcap"))
    heard = recording.read(tmp_path / "topics")
    assert heard.of("franka/commitment") and heard.of("safety_filter/verdict") and heard.of("diagnostics")

    arm, bounds = load_arm("fr3"), load_bounds("default")
    checks = audit.audit(heard, arm, bounds, at_rest=False)
    assert all(c.passed for c in checks), checks

    record = recording.to_record(heard, MugScene(), {"task": "scripted", "source": "ros"})
    assert record.duration > 1.0 and record.certified_plans >= 3
    judged = [p for p in record.plans if p.certified]  # an attempt that came late proposed nothing and tells no time
    assert len(judged) >= 3 and np.isfinite([p.plan_ms for p in judged]).all()
    figures = report.write(record, tmp_path / "report", render=False)
    assert figures["contacts"] == 0 and (tmp_path / "report" / "index.html").is_file()

    # a command that no certificate covers is found
    stamp, message = heard.of("franka/commanded_joint_states")[-1]
    moved = np.array(message.position)
    moved[0] += 0.01
    heard.topics["franka/commanded_joint_states"][-1] = (stamp, dataclasses.replace(message, position=moved))
    failed = [c.subject for c in audit.audit(heard, arm, bounds, at_rest=False) if not c.passed]
    assert "commands" in failed
    heard.topics["safety_filter/verdict"] = []
    assert "verdicts" in [c.subject for c in audit.audit(heard, arm, bounds, at_rest=False) if not c.passed]
