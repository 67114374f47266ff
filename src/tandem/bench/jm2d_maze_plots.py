"""Plots of the maze in ``tandem bench jm2d``: the three panels of Fig. 3 with the paper's values, and what a plan costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tandem.bench.figures import STYLE, save
from tandem.bench.plots import CYCLE, MARKERS, pareto

_PANELS = (("safe_success", "safe success"), ("intervention", "intervention"), ("horizon_s", "time to the goal [s]"))


def _line(ax: Axes, rows: list[dict[str, Any]], metric: str, n: int, shift: float) -> None:
    """Method number ``n``'s means with intervals; the paper's values dotted."""
    turn, colour = n // len(CYCLE), CYCLE[n % len(CYCLE)]
    look: Any = {"marker": MARKERS[turn % len(MARKERS)], "ls": ("-", "--", "-.")[turn % 3]}
    rows = [r for r in rows if isinstance(r.get(metric), dict) and np.isfinite(r[metric]["mean"])]
    if not rows:
        return
    w = np.array([float(r["condition"].split("= ")[1]) for r in rows])
    mean, lo, hi = (np.array([r[metric][key] for r in rows]) for key in ("mean", "lo", "hi"))
    spread = np.maximum([mean - lo, hi - mean], 0.0)
    ax.errorbar(w + shift, mean, spread, color=colour, ms=3, capsize=2, lw=1.2, label=rows[0]["method"], **look)
    paper = [(x, r[f"paper_{metric}"]) for x, r in zip(w, rows, strict=True) if r.get(f"paper_{metric}") is not None]
    if paper:
        ax.plot(*zip(*paper, strict=True), color=colour, ls=":", lw=1.0, marker="x", ms=4)


def padded(path: Path, rows: list[dict[str, Any]]) -> None:
    """Fig. 3: each metric against the padding w; crosses and dotted lines are the paper's."""
    names = list(dict.fromkeys(r["method"] for r in rows))
    if not names:
        return
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 3.4), layout="constrained")
        for ax, (metric, title) in zip(figure.subplots(1, 3), _PANELS, strict=True):
            for n, name in enumerate(names):
                own = [r for r in rows if r["method"] == name]
                _line(ax, own, metric, n, 0.0015 * (n - len(names) / 2))
            paddings = sorted({float(r["condition"].split("= ")[1]) for r in rows})
            ax.set(xlabel="padding w [m]", title=title, ylim=(0.0, None), xticks=paddings)
            ax.set_xlim(paddings[0] - 0.03, paddings[-1] + 0.03)
        figure.legend(*ax.get_legend_handles_labels(), loc="outside right center", frameon=False, title="paper: dotted")
        save(figure, path)


def samples(path: Path, rows: list[dict[str, Any]]) -> None:
    """Fig. 4: each metric against JM2D's number of samples; the last is Fig. 3's (N = 32, N_K = 64)."""
    rows = sorted((r for r in rows if r["network_rows"] > 0), key=lambda r: r["network_rows"])
    if len(rows) < 2:
        return
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 2.8), layout="constrained")
        for ax, (metric, title) in zip(figure.subplots(1, 3), _PANELS, strict=True):
            mean, lo, hi = (np.array([r[metric][key] for r in rows]) for key in ("mean", "lo", "hi"))
            spread = np.maximum([mean - lo, hi - mean], 0.0)
            ax.errorbar(range(len(rows)), mean, spread, color=CYCLE[0], marker="o", ms=4, capsize=3, lw=1.2)
            names = [r["method"].removeprefix("jm2d, N = N_K = ") for r in rows]
            ax.set_xticks(range(len(rows)), ["32, 64" if name == "jm2d" else name for name in names])
            ax.set(xlabel="N = N_K", title=title, ylim=(0.0, 1.08 * hi.max()))
        save(figure, path)


def budget(path: Path, rows: list[dict[str, Any]]) -> None:
    """Safe success and intervention against network rows a plan; the line is the Pareto front of the means."""
    if not rows:
        return
    with matplotlib.rc_context(STYLE):
        figure, handles = Figure(figsize=(10.5, 3.8), layout="constrained"), []
        for ax, metric in zip(figure.subplots(1, 2), ("safe_success", "intervention"), strict=True):
            handles = [_point(ax, row, metric, n) for n, row in enumerate(rows)]
            sign = -1.0 if metric == "intervention" else 1.0
            front = pareto([(_beside(row, n), sign * row[metric]["mean"]) for n, row in enumerate(rows)])
            ax.step([x for x, _ in front], [sign * y for _, y in front], where="post", color="0.6", lw=1.0, zorder=0)
            title = f"{metric.replace('_', ' ')} (n = {rows[0]['n']}, the same episodes for all)"
            ax.set(xscale="log", xlabel="network rows a plan", title=title)
        figure.legend(handles, [row["method"] for row in rows], loc="outside right center", frameon=False)
        save(figure, path)


def _beside(row: dict[str, Any], n: int) -> float:
    """Where method number ``n`` stands: its network rows, a little apart from others of equal cost."""
    return float(row["network_rows"] * 1.06 ** (n % 5 - 2))


def _point(ax: Axes, row: dict[str, Any], metric: str, n: int) -> Any:
    """Method number ``n``, its colour and marker."""
    mean, lo, hi = (row[metric][key] for key in ("mean", "lo", "hi"))
    spread = np.maximum([[mean - lo], [hi - mean]], 0.0)
    marker = MARKERS[n // len(CYCLE) % len(MARKERS)]
    look: Any = {"color": CYCLE[n % len(CYCLE)], "marker": marker, "ms": 5, "capsize": 2, "lw": 0, "elinewidth": 0.6}
    return ax.errorbar(_beside(row, n), mean, spread, **look)
