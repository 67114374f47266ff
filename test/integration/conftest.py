"""Fixtures of the launched-graph tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from integration.graph import Graph

from tandem.core.scene import TABLE, Scene
from tandem.core.trajectory import Trajectory
from tandem.core.types import Commitment, Proposal
from tandem.robots.model import load_arm
from tandem.safety.bounds import load_bounds
from tandem.safety.certify import occupancy
from tandem.safety.filter import SafetyFilter


@pytest.fixture(scope="session")
def compiled() -> None:
    """The filter's kernels are in numba's cache, so that no node's start waits for a compiler."""
    arm = load_arm("fr3")
    rest = Commitment(Trajectory.at_rest(arm.home, 1.0), 0.0, np.zeros(2))
    proposal = Proposal(rest.trajectory, rest.width, 0.1, 0.0)
    occupancy(arm, rest.trajectory, load_bounds(), np.array([0.0, 1.0]))
    assert SafetyFilter(arm, load_bounds()).check(proposal, rest, Scene((TABLE,)), 0.0).certified


@pytest.fixture
def graph(tmp_path: Path, compiled: None) -> Iterator[Graph]:
    """An empty graph in a domain of its own; its processes are gone afterwards."""
    with Graph(tmp_path) as made:
        yield made
    assert all(p.poll() is not None for p in made.processes.values())
