"""Plots of ``tandem bench jm2d``: samples under the donut's constraint (Fig. 5), its clean estimates (Fig. A.4 a), paths among
obstacles (Fig. 2).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from tandem.bench.figures import STYLE, save
from tandem.bench.plots import CYCLE
from tandem.tasks.donut.data import pairs

Disks = tuple[tuple[float, float, float], ...]


def _donut(ax: Axes, disks: Disks) -> None:
    data = pairs(1500, 1).reshape(-1, 2)
    ax.plot(data[:, 0], data[:, 1], ".", color="0.85", ms=2, zorder=0)
    for x, y, r in disks:
        ax.add_patch(Circle((x, y), r, fc="none", ec=CYCLE[2], lw=1.5))
    ax.set(aspect="equal", xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), xticks=[], yticks=[])


def constraint(path: Path, results: dict[str, dict[str, Any]], methods: list[str], disks: Disks) -> None:
    """One panel a method: the points of up to 64 samples, blue where valid and in distribution, orange elsewhere."""
    with matplotlib.rc_context(STYLE):
        columns = min(4, len(methods))
        lines = -(-len(methods) // columns)
        figure = Figure(figsize=(2.4 * columns, 2.6 * lines), layout="constrained")
        panels = list(np.ravel(figure.subplots(lines, columns, squeeze=False)))
        for ax in panels[len(methods) :]:
            ax.axis("off")
        for ax, name in zip(panels, methods, strict=False):
            found = [r for key, r in results.items() if key.split("/")[3] == name][:64]
            _donut(ax, disks)
            for good, colour in ((True, CYCLE[0]), (False, CYCLE[4])):
                xy = np.array([r["x"] for r in found if (r["valid"] and r["in_distribution"]) == good]).reshape(-1, 2)
                ax.plot(xy[:, 0], xy[:, 1], ".", color=colour, ms=4)
            count = sum(r["valid"] and r["in_distribution"] for r in found)
            ax.set_title(f"{name}: {count}/{len(found)}", fontsize=9)
        save(figure, path)


def paths(path: Path, results: dict[str, dict[str, Any]], methods: list[str], scenes: dict[int, list[list[float]]]) -> None:
    """The first scene of each density, a line each: a panel a method, its paths start - waypoint - goal among the circles."""
    shown = [m for m in methods if any(key.startswith(f"donut/joint/{m}/") for key in results)]
    if not shown:
        return
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.2 * len(shown), 2.4 * len(scenes)), layout="constrained")
        panels = figure.subplots(len(scenes), len(shown), squeeze=False)
        for line, (count, circles) in zip(panels, scenes.items(), strict=True):
            for ax, method in zip(line, shown, strict=True):
                keys = [key for key in results if key.startswith(f"donut/joint/{method}/{count}/") and key.endswith("/0")]
                found = [results[key] for key in keys]
                _donut(ax, ())
                for x, y, radius in circles:
                    ax.add_patch(Circle((x, y), radius, fc="0.45", ec="none"))
                for r in found:
                    if r["path"] is not None:
                        xy = np.array(r["path"])
                        ax.plot(xy[:, 0], xy[:, 1], color=CYCLE[0] if r["feasible"] else CYCLE[4], lw=1.4, marker="o", ms=3)
                lengths = [r["length"] for r in found if r["feasible"]]
                mean = f", {np.mean(lengths):.2f}" if lengths else ""
                ax.set_title(f"{method}: {len(lengths)}/{len(found)}{mean}", fontsize=8)
                ax.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6))
        save(figure, path)


def estimates(path: Path, rows: list[dict[str, Any]]) -> None:
    """Chamfer distance and valid share against how clean samples are estimated."""
    found = [r for r in rows if r["condition"].startswith("A.2")]
    if not found:
        return
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 2.8), layout="constrained")
        left = figure.add_subplot()
        right = left.twinx()
        at = np.arange(len(found))
        for ax, key, colour in ((left, "chamfer", CYCLE[4]), (right, "valid_in_distribution", CYCLE[0])):
            mean, lo, hi = (np.array([r[key][k] for r in found]) for k in ("mean", "lo", "hi"))
            spread = [np.maximum(mean - lo, 0.0), np.maximum(hi - mean, 0.0)]
            ax.errorbar(at, mean, spread, color=colour, marker="o", ms=4, capsize=3)
            ax.set_ylabel(key.replace("_", " "), color=colour)
            ax.set_ylim(bottom=0.0)
        left.set_xticks(at, [r["method"].split(", ")[1] for r in found], rotation=20)
        save(figure, path)
