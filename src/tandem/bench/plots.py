"""Plots of an episode over time, each as one SVG for light and one for dark pages."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tandem.bench.record import EpisodeRecord

Array = NDArray[np.float64]

#: text and grid colours of the two themes
THEMES = {"light": ("#24292f", "#d0d7de"), "dark": ("#e6edf3", "#3d444d")}
#: colours that both themes show well (Okabe and Ito, lightened)
CYCLE = ("#0a84d6", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c8c8c")
#: where the colours come round again
MARKERS = "osD^vPX"
MOST_POINTS = 800


def thinned(time: Array, *series: Array) -> tuple[Array, ...]:
    """At most :data:`MOST_POINTS` rows of each, evenly chosen."""
    step = max(1, math.ceil(len(time) / MOST_POINTS))
    return (time[::step], *(s[::step] for s in series))


def joints(ax: Axes, record: EpisodeRecord) -> None:
    """Measured joint positions; commanded ones dashed."""
    time, measured, commanded = thinned(record.time, record.q_measured, record.q_commanded)
    for i in range(measured.shape[1]):
        ax.plot(time, measured[:, i], color=CYCLE[i], lw=1.4, label=f"joint {i + 1}")
        ax.plot(time, commanded[:, i], color=CYCLE[i], lw=0.8, ls=(0, (2, 2)), alpha=0.8)
    ax.set_ylabel("position [rad]")
    ax.legend(ncols=4, fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0))


def tracking(ax: Axes, record: EpisodeRecord) -> None:
    """Largest difference between commanded and measured joint position."""
    time, measured, commanded = thinned(record.time, record.q_measured, record.q_commanded)
    ax.plot(time, 1e3 * np.abs(measured - commanded).max(axis=1), color=CYCLE[4], lw=1.2)
    ax.set_ylabel("largest error [mrad]")
    ax.set_ylim(bottom=0.0)


def clearance(record: EpisodeRecord, time: Array, distance: Array) -> Callable[[Axes], None]:
    """The plot of actual distance over time and of the certified lower bound of each plan in force."""

    def draw(ax: Axes) -> None:
        ax.plot(time, 1e3 * distance, color=CYCLE[0], lw=1.5, label="actual, nearest obstacle")
        plans = [p for p in record.plans if p.certified and math.isfinite(p.clearance)]
        last = float(record.time[-1]) if len(record.time) else 0.0
        for i, plan in enumerate(plans):
            end = plans[i + 1].switch_time if i + 1 < len(plans) else last
            label = "certified bound, any link and obstacle" if i == 0 else "_"
            ax.hlines(1e3 * plan.clearance, plan.switch_time, max(end, plan.switch_time), color=CYCLE[2], lw=3, label=label)
        ax.axhline(0.0, color=CYCLE[4], lw=1.0)
        ax.set_ylabel("clearance [mm]")
        ax.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)

    return draw


def timing(ax: Axes, record: EpisodeRecord) -> None:
    """Wall time of each plan and of its certification."""
    if record.plans:
        when = np.array([p.time for p in record.plans])
        plan = np.array([p.plan_ms for p in record.plans])
        certify = np.array([p.certify_ms for p in record.plans])
        width = 0.7 * float(np.min(np.diff(when))) if len(when) > 1 and np.min(np.diff(when)) > 0.0 else 0.1
        ax.bar(when, plan, width, color=CYCLE[0], label="plan")
        ax.bar(when, certify, width, bottom=plan, color=CYCLE[1], label="certify")
        bad = np.array([not p.certified for p in record.plans])
        ax.plot(when[bad], (plan + certify)[bad], ls="", marker="x", color=CYCLE[4], label="not certified")
        ax.legend(fontsize=8, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0.0, 1.0))
    ax.set_ylabel("time [ms]")
    ax.set_ylim(bottom=0.0)


def gripper(ax: Axes, record: EpisodeRecord) -> None:
    """Gripper width and how far the mug is lifted; shaded where the backup or a stop was in force."""
    time, width, lift = thinned(record.time, record.width, record.mug_lift())
    ax.plot(time, 1e3 * width, color=CYCLE[1], lw=1.5, label="gripper width")
    if np.isfinite(lift).any():
        ax.plot(time, 1e3 * lift, color=CYCLE[0], lw=1.5, label="mug above its place")
    off = np.array([m in ("BACKUP", "STOPPING", "STOPPED") for m in record.mode])
    edges = np.flatnonzero(np.diff(np.concatenate([[0], off.astype(np.int8), [0]]))).reshape(-1, 2)
    for i, (a, b) in enumerate(edges):
        label = "under backup" if i == 0 else "_"
        ax.axvspan(record.time[a], record.time[min(b, len(record.time) - 1)], color=CYCLE[3], alpha=0.25, lw=0, label=label)
    ax.set_ylabel("[mm]")
    ax.legend(fontsize=8, frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0.0, 1.0))


def save(path: Path, record: EpisodeRecord, draw: Callable[[Axes], None], height: float = 2.6) -> None:
    """``<path>-light.svg`` and ``<path>-dark.svg``, transparent."""
    for theme, (text, grid) in THEMES.items():
        style: Any = {
            "text.color": text, "axes.labelcolor": text, "xtick.color": text, "ytick.color": text, "axes.edgecolor": grid,
            "grid.color": grid, "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 10, "svg.hashsalt": "tandem",
        }
        with matplotlib.rc_context(style):
            figure = Figure(figsize=(7.2, height), layout="constrained")
            ax = figure.add_subplot()
            draw(ax)
            ax.grid(True, lw=0.6)
            ax.set_axisbelow(True)
            for side in ("top", "right"):
                ax.spines[side].set_visible(False)
            if len(record.time) > 1:
                ax.set_xlim(float(record.time[0]), float(record.time[-1]))
            ax.set_xlabel("time [s]")
            figure.savefig(path.with_name(f"{path.name}-{theme}.svg"), transparent=True, metadata={"Date": None})


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, value) those that no cheaper point reaches, by cost."""
    out: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda p: (p[0], -p[1])):
        if not out or value > out[-1][1]:
            out.append((cost, value))
    return out
