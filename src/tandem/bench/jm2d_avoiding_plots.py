"""Plots of the Avoiding part of ``tandem bench jm2d``: paths among constraints, safe success against network rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from tandem.bench.figures import STYLE, save
from tandem.bench.plots import CYCLE, MARKERS, pareto
from tandem.tasks.avoiding.config import load_avoiding_config
from tandem.tasks.avoiding.scene import Scene

#: episodes drawn in a panel
MOST = 30
#: episodes that a point of the cost plot takes
ENOUGH = 30
_X, _Y = (0.22, 0.78), (-0.3, 0.38)


def _ground(ax: Axes, name: str) -> None:
    """Pillars, goal line, and what the scene forbids."""
    settings = load_avoiding_config()
    scene = Scene(settings.scene(name), settings)
    if scene.count:
        xs, ys = np.linspace(*_X, 281), np.linspace(*_Y, 341)
        grid = torch.from_numpy(np.stack(np.meshgrid(xs, ys), axis=-1))
        free = (scene.distance(grid) >= 0.0).all(-1).numpy()
        ax.contourf(xs, ys, free.astype(float), levels=[-0.5, 0.5], colors=[CYCLE[5]], alpha=0.45)
    for x, y, radius in settings.pillars:
        ax.add_patch(Circle((x, y), radius, fc=CYCLE[4], ec="none"))
    ax.axhline(settings.goal_y, color=CYCLE[2], lw=1.2)
    ax.set(aspect="equal", xlim=_X, ylim=_Y, xticks=[], yticks=[])


def paths(path: Path, results: dict[str, dict[str, Any]], scenes: tuple[str, ...], methods: tuple[str, ...]) -> None:
    """One panel a scene and method: safe successes blue, the others orange."""
    found = {
        (scene, method): [r for key, r in results.items() if key.startswith(f"avoiding/{scene}/{method}/")]
        for scene in scenes for method in methods
    }
    found = {where: episodes if any(r["path"] for r in episodes) else [] for where, episodes in found.items()}
    methods = tuple(m for m in methods if any(found[s, m] for s in scenes))
    lines = [s for s in scenes if any(found[s, m] for m in methods)]
    if not lines:
        return
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.1 * len(methods), 2.6 * len(lines)), layout="constrained")
        panels = figure.subplots(len(lines), len(methods), squeeze=False)
        for scene, line in zip(lines, panels, strict=True):
            for method, ax in zip(methods, line, strict=True):
                episodes = found[scene, method]
                if not episodes:
                    ax.axis("off")
                    continue
                _ground(ax, scene)
                for r in [r for r in episodes if r["path"]][:MOST]:
                    xy = np.array(r["path"])
                    ax.plot(xy[:, 0], xy[:, 1], color=CYCLE[0] if r["safe"] else CYCLE[1], lw=0.7)
                ax.set_title(f"{scene}, {method}: {sum(r['safe'] for r in episodes)}/{len(episodes)}", fontsize=7)
        save(figure, path)


def cost(path: Path, rows: list[dict[str, Any]], scenes: tuple[str, ...]) -> None:
    """Safe success against network rows a plan, a panel a scene; points of equal cost stand a little apart.

    Methods with fewer than :data:`ENOUGH` episodes are left out where others have more. The line is the Pareto front of those
    that do not know the pillars.
    """
    rows = [r for r in rows if r["condition"] in scenes]
    rows = [r for r in rows if r["n"] >= min(ENOUGH, max(other["n"] for other in rows))]
    shown = [s for s in scenes if any(r["condition"] == s for r in rows)]
    if not shown:
        return
    methods = list(dict.fromkeys(r["method"] for r in rows if r["condition"] in shown))
    with matplotlib.rc_context(STYLE):
        figure, handles = Figure(figsize=(3.0 * len(shown) + 2.0, 3.6), layout="constrained"), {}
        for ax, scene in zip(np.ravel(figure.subplots(1, len(shown), squeeze=False, sharey=True)), shown, strict=True):
            front = []
            for r in (r for r in rows if r["condition"] == scene):
                n, s = methods.index(r["method"]), r["safe_success"]
                at = max(r["network_rows"], 1.0) * 1.07 ** (n % 5 - 2)
                if not r["method"].endswith("+ahead"):
                    front.append((at, s["mean"]))
                handles[r["method"]] = ax.errorbar(
                    at, s["mean"], [[s["mean"] - s["lo"]], [s["hi"] - s["mean"]]], color=CYCLE[n % len(CYCLE)],
                    marker=MARKERS[n // len(CYCLE) % len(MARKERS)], ms=4, lw=0.7,
                )
            line = pareto(front)
            ax.step([x for x, _ in line], [y for _, y in line], where="post", color="0.6", lw=1.0, zorder=0)
            ax.set(xscale="log", xlabel="network rows a plan", title=scene, ylim=(-0.03, 1.1))
            ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            ax.xaxis.set_minor_formatter(NullFormatter())
        figure.axes[0].set_ylabel("safe success")
        named = [m for m in methods if m in handles]
        figure.legend([handles[m] for m in named], named, loc="outside right upper", fontsize=7, ncols=1 + len(named) // 20)
        save(figure, path)
