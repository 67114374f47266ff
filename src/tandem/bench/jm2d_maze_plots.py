"""Plots of the maze in ``tandem bench jm2d``: the three panels of Fig. 3 with the paper's values, and what a plan costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tandem.bench.plots import CYCLE

_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "tandem", "font.family": "sans-serif", "font.size": 9}
_PANELS = (("safe_success", "safe success"), ("intervention", "intervention"), ("horizon_s", "time to the goal [s]"))


def _line(ax: Axes, rows: list[dict[str, Any]], metric: str, colour: str, name: str, shift: float) -> None:
    """One method's means with intervals; the paper's values dotted."""
    rows = [r for r in rows if isinstance(r.get(metric), dict) and np.isfinite(r[metric]["mean"])]
    if not rows:
        return
    w = np.array([float(r["condition"].split("= ")[1]) for r in rows])
    mean, lo, hi = (np.array([r[metric][key] for r in rows]) for key in ("mean", "lo", "hi"))
    ax.errorbar(w + shift, mean, [mean - lo, hi - mean], color=colour, marker="o", ms=3, capsize=2, lw=1.2, label=name)
    paper = [(x, r[f"paper_{metric}"]) for x, r in zip(w, rows, strict=True) if r.get(f"paper_{metric}") is not None]
    if paper:
        ax.plot(*zip(*paper, strict=True), color=colour, ls=":", lw=1.0, marker="x", ms=4)


def padded(path: Path, rows: list[dict[str, Any]]) -> None:
    """Fig. 3: each metric against the padding w; crosses and dotted lines are the paper's."""
    names = list(dict.fromkeys(r["method"] for r in rows))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10.5, 3.4), layout="constrained")
        for ax, (metric, title) in zip(figure.subplots(1, 3), _PANELS, strict=True):
            for n, name in enumerate(names):
                own = [r for r in rows if r["method"] == name]
                _line(ax, own, metric, CYCLE[n % len(CYCLE)], name, 0.0015 * (n - len(names) / 2))
            paddings = sorted({float(r["condition"].split("= ")[1]) for r in rows})
            ax.set(xlabel="padding w [m]", title=title, ylim=(0.0, None), xticks=paddings)
            ax.set_xlim(paddings[0] - 0.03, paddings[-1] + 0.03)
        figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", frameon=False, title="paper: dotted")
        figure.savefig(path, metadata={"Date": None})


def budget(path: Path, rows: list[dict[str, Any]]) -> None:
    """Safe success and intervention against network rows a plan."""
    rows = [r for r in {r["method"]: r for r in rows}.values() if r["network_rows"] > 0 and isinstance(r["intervention"], dict)]
    if not rows:
        return
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.5, 3.2), layout="constrained")
        for ax, metric in zip(figure.subplots(1, 2), ("safe_success", "intervention"), strict=True):
            for n, row in enumerate(rows):
                mean, lo, hi = (row[metric][key] for key in ("mean", "lo", "hi"))
                colour = CYCLE[n % len(CYCLE)]
                ax.errorbar(
                    row["network_rows"], mean, [[mean - lo], [hi - mean]], color=colour, marker="o", ms=4, capsize=2, lw=0,
                    elinewidth=1, label=row["method"],
                )
            ax.set(xscale="log", xlabel="network rows a plan", title=metric.replace("_", " "))
        figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", frameon=False)
        figure.savefig(path, metadata={"Date": None})
