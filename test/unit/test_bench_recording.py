"""Recordings of graphs that went by a clock of their own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tandem.bench.recording import Recording, on_its_clock, plans_of


def stamp(t: float) -> SimpleNamespace:
    return SimpleNamespace(sec=int(t), nanosec=round((t % 1.0) * 1e9))


def clock(t: float) -> SimpleNamespace:
    return SimpleNamespace(clock=stamp(t))


def joints(t: float) -> SimpleNamespace:
    return SimpleNamespace(header=SimpleNamespace(stamp=stamp(t)))


def test_arrivals_are_told_on_the_clock_of_the_nodes() -> None:
    heard = np.arange(100.0, 110.01, 0.5)
    told = 50.0 + 0.4 * (heard - 100.0)  # goes 0.4 times as fast
    topics = {
        "clock": [(float(h), clock(t)) for h, t in zip(heard, told, strict=True)],
        "franka/joint_states": [(100.0, joints(50.0)), (110.0, joints(54.0))],
        "safety_filter/verdict": [(99.0, "before"), (102.25, "amid"), (111.0, "after")],
    }
    found = on_its_clock(Recording(Path(), topics))
    np.testing.assert_allclose([t for t, _ in found.of("safety_filter/verdict")], [49.0, 50.9, 55.0], atol=1e-9)
    assert [m for _, m in found.of("safety_filter/verdict")] == ["before", "amid", "after"]
    assert abs(found.pace - 0.4) < 1e-9


@pytest.mark.parametrize("foreign", [False, True])
def test_without_a_clock_of_the_nodes_nothing_changes(foreign: bool) -> None:
    topics = {"franka/status": [(3.0, "a"), (4.5, "b")], "franka/joint_states": [(3.0, joints(3.0)), (4.5, joints(4.5))]}
    if foreign:  # of a simulation that they do not follow
        topics["clock"] = [(3.0, clock(1000.0)), (4.5, clock(1001.5))]
    found = on_its_clock(Recording(Path(), dict(topics)))
    assert found.topics == topics and found.pace == 1.0


def status(name: str, **values: object) -> SimpleNamespace:
    pairs = [SimpleNamespace(key=k, value=str(v)) for k, v in values.items()]
    return SimpleNamespace(name=name, hardware_id=name, message="", level=0, values=pairs)


def test_a_plans_work_is_what_is_told_after_it_has_been_made() -> None:
    """Diagnostics come now and then and tell of the last plan made: the nearest ones may tell of the one before."""
    ends = (1.5, 2.3)
    infos = [(t, status(f"plan {n}", plan_ms=500.0)) for n, t in enumerate(ends)]
    told = [(0.9, 0), (1.45, 0), (1.9, 640), (2.28, 640), (2.8, 896)]
    work = [(t, status("planner: planning", network_rows=n, potential_evals=2 * n)) for t, n in told]
    diagnostics = [(t, SimpleNamespace(status=[s])) for t, s in work]
    found = plans_of(Recording(Path(), {"planner/proposal_info": infos, "diagnostics": diagnostics}))
    assert [(p.network_rows, p.potential_evals) for p in found] == [(640, 1280), (896, 1792)]
