"""Fixtures of the launched-graph tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from integration.graph import Graph


@pytest.fixture
def graph(tmp_path: Path) -> Iterator[Graph]:
    """An empty graph in a domain of its own; its processes are gone afterwards."""
    with Graph(tmp_path) as made:
        yield made
    assert all(p.poll() is not None for p in made.processes.values())
