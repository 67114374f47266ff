"""Where joint sampling matters: methods at equal budgets of network rows over problems in which x and k are coupled ever closer.

Nothing is measured here: rows of the donut's and the maze's tables are laid side by side, a problem a row. Problems are ordered
by how often sequential sampling (x first, then the best k for it) succeeds, or how well: where that is nearly always, x and k
hardly depend on each other and rejection is enough.
"""

from __future__ import annotations

from typing import Any

#: (start of a table's title, its metric): feasible pairs on the donut and the length that is to be great, episodes in the maze
_SOURCES = (
    ("Donut, paths", "feasible"), ("Donut, paths", "length"),
    ("Point maze, padded", "safe_success"), ("Point maze, degraded", "safe_success"),
    ("Point maze, padded", "intervention"), ("Point maze, degraded", "intervention"),
)
#: what the tables call them: sequential sampling goes by two names, and the maze's `steered` has an eighth of the others' rows
_DONUT = {"sequential": "sequential"} | {name: name for name in ("best_of_n", "gibbs", "jm2d", "steered")}
_MAZE = {**_DONUT, "sequential": "rail", "steered": "steered_272"}
TITLE = "Where joint sampling matters"


def rows(table: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a problem and metric: every method's share or mean with its interval; the best, and whether others reach it."""
    out = []
    for start, metric in _SOURCES:
        found = [row for row in table if row.get("table", "").startswith(start) and isinstance(row.get(metric), dict)]
        if "degraded" in start:
            found = [row for row in found if "backups" in row["condition"]]  # the original ones are among the padded
        block = []
        for condition in dict.fromkeys(row["condition"] for row in found):
            by_name = {row["method"]: row[metric] for row in found if row["condition"] == condition}
            values = {name: by_name.get(own) for name, own in (_DONUT if start.startswith("Donut") else _MAZE).items()}
            if values["sequential"] is not None and sum(v is not None for v in values.values()) > 2:
                block.append(_row(start, condition, metric, values))
        out += sorted(block, key=lambda row: -_good(metric) * row["sequential"]["mean"])
    return out


def _good(metric: str) -> float:
    """1 where more is better, -1 where less is."""
    return -1.0 if metric == "intervention" else 1.0


def _row(start: str, condition: str, metric: str, values: dict[str, dict[str, float] | None]) -> dict[str, Any]:
    known = {name: v for name, v in values.items() if v is not None}
    best = max(known, key=lambda name: _good(metric) * known[name]["mean"])
    edge = known[best]["lo"] if _good(metric) > 0.0 else known[best]["hi"]
    level = [name for name, v in known.items() if _good(metric) * (v["mean"] - edge) >= 0.0]
    task = "donut" if start.startswith("Donut") else "maze"
    return {
        "table": TITLE, "task": task, "condition": condition, "metric": metric, **values,
        "best": best, "within_its_interval": ", ".join(name for name in level if name != best),
    }
