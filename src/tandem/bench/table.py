"""The one form of every benchmark's result: ``table.json`` for programs and ``table.md`` for people."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from tandem.core.paths import share_dir

#: columns that are not metrics
_KEYS = ("task", "method", "condition", "n")


def machine() -> dict[str, Any]:
    """What the figures were measured on: processor, cores, Python; no host name."""
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else ""
    return {"processor": model, "cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}


def commit() -> str:
    """The checkout's commit, or "" outside one."""
    run = subprocess.run(
        ["git", "-C", str(share_dir()), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return run.stdout.strip()


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return f"{_cell(value['mean'])} [{_cell(value['lo'])}, {_cell(value['hi'])}]"
    if isinstance(value, float):
        if not math.isfinite(value):
            return "-"
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Markdown tables; means with their confidence intervals in brackets. Rows that say their ``table`` get one each, with its
    title.
    """
    titles = list(dict.fromkeys(row.get("table", "") for row in rows)) or [""]
    return "\n".join(_table(title, [row for row in rows if row.get("table", "") == title]) for title in titles)


def _table(title: str, rows: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(k for row in rows for k in row if k != "table"))
    names = [k for k in _KEYS if k in names] + [k for k in names if k not in _KEYS]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    lines += ["| " + " | ".join(_cell(row.get(k)) for k in names) + " |" for row in rows]
    return (f"**{title}**\n\n" if title else "") + "\n".join(lines) + "\n"


def write_table(out: Path, rows: list[dict[str, Any]], *, command: str, seeds: list[int], wall_s: float, notes: str = "") -> None:
    """Write ``out/table.json`` and ``out/table.md``.

    Args:
        rows: ``{"task", "method", "condition", "n", <metric>: value or {"mean", "lo", "hi"}}``, and ``table`` (see
            :func:`markdown`).
        command: the command that makes the table. wall_s: how long that took [s]. notes: Markdown put under the table.
    """
    out.mkdir(parents=True, exist_ok=True)
    here = machine()
    meta = {"command": command, "commit": commit(), "machine": here, "seeds": seeds, "wall_s": round(wall_s, 3)}
    (out / "table.json").write_text(json.dumps({"meta": meta, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    head = f"`{command}` at {meta['commit']}, {here['cores']} cores, {wall_s:.0f} s\n\n"
    (out / "table.md").write_text(head + markdown(rows) + (f"\n{notes}\n" if notes else ""), encoding="utf-8")
