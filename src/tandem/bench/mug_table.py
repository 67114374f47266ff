"""From episodes of the mug benchmark to rows, paired comparisons and plots."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from tandem.bench.statistics import bootstrap, share

matplotlib.use("Agg")
import matplotlib.pyplot as plt

#: the method that the others are compared with, episode by episode
REFERENCE = "rail"


def _flat(results: list[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([x for r in results for x in r[key]], dtype=np.float64)


def _quantile(values: np.ndarray, q: float) -> float:
    return float(np.quantile(values, q)) if len(values) else float("nan")


def method_row(method: str, condition: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of the table from a method's episodes; shares with Wilson, means with bootstrap intervals."""
    n = len(results)
    plan, certify = _flat(results, "plan_ms"), _flat(results, "certify_ms")
    return {
        "task": "mug", "method": method, "condition": condition, "n": n,
        "safe_success": share(sum(r["safe_success"] for r in results), n),
        "task_success": share(sum(r["task_success"] for r in results), n),
        "contacts": int(sum(r["contacts"] for r in results)),
        "episodes_with_contact": share(sum(r["contacts"] > 0 for r in results), n),
        "intervention": bootstrap([r["intervention"] for r in results]),
        "episode_s": bootstrap([r["episode_s"] for r in results if r["safe_success"]]),
        "plan_ms_p50": _quantile(plan, 0.5), "plan_ms_p95": _quantile(plan, 0.95), "plan_ms_max": _quantile(plan, 1.0),
        "certify_ms_p95": _quantile(certify, 0.95),
        "network_rows": bootstrap(_flat(results, "network_rows")),
        "potential_evals": bootstrap(_flat(results, "potential_evals")),
        "rss_mb": max(r["rss_mb"] for r in results),
    }


def comparison(results: list[dict[str, Any]], condition: str, methods: list[str]) -> str:
    """Markdown: every method against :data:`REFERENCE` over the same scenes and seeds."""
    own = {m: {r["episode"]: r for r in results if r["method"] == m and r["condition"] == condition} for m in methods}
    if REFERENCE not in own or len(own) < 2:
        return ""
    lines = [
        f"Paired with {REFERENCE} over the same episodes ({condition}): difference, 95 % bootstrap interval.\n",
        "| method | safe success | intervention | episode_s (both succeed) | pairs |", "|---|---|---|---|---|",
    ]
    base = own[REFERENCE]
    for method in methods:
        if method == REFERENCE:
            continue
        pairs = [(own[method][e], base[e]) for e in sorted(set(own[method]) & set(base))]
        both = [(a, b) for a, b in pairs if a["safe_success"] and b["safe_success"]]
        cells = [
            bootstrap([float(a[key]) - float(b[key]) for a, b in chosen])
            for key, chosen in (("safe_success", pairs), ("intervention", pairs), ("episode_s", both))
        ]
        text = " | ".join("-" if np.isnan(c["mean"]) else f"{c['mean']:+.3f} [{c['lo']:+.3f}, {c['hi']:+.3f}]" for c in cells)
        lines.append(f"| {method} | {text} | {len(pairs)} ({len(both)}) |")
    return "\n".join(lines) + "\n"


def plot_rows(rows: list[dict[str, Any]], out: Path) -> None:
    """``safe_success.png``: success, intervention and time of each method; ``cost.png``: success against plan time."""
    for condition in dict.fromkeys(row["condition"] for row in rows):
        own = [row for row in rows if row["condition"] == condition]
        names = [row["method"] for row in own]
        figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), constrained_layout=True)
        titles = {"safe_success": "safe success", "intervention": "share under backup", "episode_s": "episode [s]"}
        for axis, (key, title) in zip(axes, titles.items(), strict=True):
            mean = np.array([row[key]["mean"] for row in own])
            spread = np.array([[row[key]["mean"] - row[key]["lo"], row[key]["hi"] - row[key]["mean"]] for row in own]).T
            axis.bar(range(len(own)), mean, yerr=np.nan_to_num(np.maximum(spread, 0.0)), color="#4a7fb5", capsize=3)
            axis.set_xticks(range(len(own)), names, rotation=35, ha="right")
            axis.set_title(title)
            axis.spines[["top", "right"]].set_visible(False)
        stem = condition.replace(" ", "_")
        figure.savefig(out / f"safe_success_{stem}.png", dpi=130)
        plt.close(figure)
        figure, axis = plt.subplots(figsize=(5.2, 3.6), constrained_layout=True)
        for row in own:
            place = (row["plan_ms_p50"], row["safe_success"]["mean"])
            axis.plot(*place, "o", color="#4a7fb5")
            axis.annotate(row["method"], place, textcoords="offset points", xytext=(5, 4))
        axis.set_xscale("log")
        axis.set_xlabel("median plan time [ms]")
        axis.set_ylabel("safe success")
        axis.set_ylim(-0.03, 1.05)
        axis.spines[["top", "right"]].set_visible(False)
        figure.savefig(out / f"cost_{stem}.png", dpi=130)
        plt.close(figure)
