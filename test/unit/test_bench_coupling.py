"""The coupling table lays others' rows side by side, and the Pareto front is what it says."""

from __future__ import annotations

from typing import Any

import numpy as np

from tandem.bench.jm2d_coupling import TITLE, rows
from tandem.bench.plots import pareto


def row(title: str, condition: str, method: str, metric: str, mean: float) -> dict[str, Any]:
    """A row of another table; its interval reaches .1 to both sides."""
    return {"table": title, "condition": condition, "method": method, metric: {"mean": mean, "lo": mean - 0.1, "hi": mean + 0.1}}


def test_problems_stand_in_the_order_of_their_coupling_and_the_best_is_named() -> None:
    donut, padded = "Donut, paths among obstacles (Fig. 2)", "Point maze, padded walls (Fig. 3)"
    degraded = "Point maze, degraded backups (Table F.3)"
    table = [
        *(row(donut, "16 circles", m, "feasible", v) for m, v in [("sequential", 0.1), ("jm2d", 0.9), ("best_of_n", 0.85)]),
        *(row(donut, "4 circles", m, "feasible", v) for m, v in [("sequential", 0.6), ("jm2d", 0.7), ("best_of_n", 1.0)]),
        *(row(padded, "w = 0.2", m, "intervention", v) for m, v in [("rail", 0.5), ("gibbs", 0.3), ("steered_272", 0.15)]),
        row(padded, "w = 0.2", "steered", "intervention", 0.1),  # at another budget
        *(row(degraded, "w = 0.2", m, "intervention", v) for m, v in [("rail", 0.5), ("gibbs", 0.3), ("steered_272", 0.15)]),
        *(row(donut, "4 circles", m, "length", v) for m, v in [("sequential", 4.0), ("jm2d", 5.0), ("steered", 5.5)]),
        row(padded, "w = 0.1", "rail", "intervention", 0.2),
        {"table": "elsewhere", "condition": "?", "method": "jm2d", "feasible": 1.0},
    ]
    found = rows(table)
    assert [(r["table"], r["condition"], r["metric"]) for r in found] == [
        (TITLE, "4 circles", "feasible"), (TITLE, "16 circles", "feasible"), (TITLE, "4 circles", "length"),
        (TITLE, "w = 0.2", "intervention"),
    ]
    assert [(r["best"], r["within_its_interval"]) for r in found] == [
        ("best_of_n", ""), ("jm2d", "best_of_n"), ("steered", ""), ("steered", ""),
    ]
    assert found[3]["sequential"]["mean"] == 0.5 and found[3]["jm2d"] is None


def test_the_front_holds_what_nothing_cheaper_reaches() -> None:
    rng = np.random.default_rng(0)
    points = [(float(c), float(v)) for c, v in rng.integers(0, 12, (40, 2))]
    front = set(pareto(points))
    for p in set(points):
        reached = any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)
        assert (p in front) == (not reached)
