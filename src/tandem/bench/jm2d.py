"""JM2D and its rivals on the papers' own problems: tables and figures beside the paper's values.

``tandem bench jm2d --out DIR [--parts donut] [--quick] [--workers N] [--device cuda]``. Every measurement is one line of
``DIR/runs.jsonl``: an interrupted run goes on where it was. Each is made on one core, so its wall time does not depend on the
number of workers as long as there are that many free cores.

A part is a module (:data:`PARTS`) with ``NOTES``, ``jobs(scale)``, whose keys begin with the part's name, ``rows(results)`` and
``plots(out, results, rows)``.
"""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tandem.bench.jobs import Scale
from tandem.bench.jobs import run as run_jobs
from tandem.bench.table import write_table
from tandem.core.errors import InputError

#: name of each part and its module
PARTS = {
    "donut": "tandem.bench.jm2d_donut", "maze": "tandem.bench.jm2d_maze", "avoiding": "tandem.bench.jm2d_avoiding"
}
NOTES = "Shares with Wilson's 95 % interval, means with a bootstrap interval; `paper`: the paper's value where it gives one."


def run(
    out: Path, quick: bool = False, *, parts: str = ",".join(PARTS), seeds: int = 1, seed: int = 0, trials: int = 0,
    only: str = "", workers: int = 1, device: str = "cpu",
) -> int:
    """Measure what is missing in ``out``, then write ``table.json``, ``table.md`` and plots.

    Args:
        out: folder. quick: a few of each measurement. parts: of :data:`PARTS`, comma-separated. seeds: repetitions, numbered from
        ``seed``. trials: at most so many of each measurement, 0: each part's full number.
        only: measurements whose key has one of these, comma-separated, in it. workers: processes. device: torch's.

    Raises:
        InputError: an unknown part, a count out of range, or a device that torch does not have.
    """
    names = [p.strip() for p in parts.split(",") if p.strip()]
    unknown = [p for p in names if p not in PARTS]
    if unknown or not names:
        raise InputError(f"parts = {parts!r}: accepted: one or more of {', '.join(PARTS)}, separated by commas")
    if seeds < 1 or trials < 0:
        raise InputError(f"seeds = {seeds}, trials = {trials}: accepted: 1 or more seeds, 0 or more trials")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device = {device!r}: torch cannot use it here ({str(error).splitlines()[0]})") from error
    began = time.monotonic()
    modules = [importlib.import_module(PARTS[name]) for name in names]
    scale = Scale(tuple(range(seed, seed + seeds)), trials, quick, device)
    marks = [m.strip() for m in only.split(",") if m.strip()] or [""]
    wanted = [job for module in modules for job in module.jobs(scale) if any(m in job.key for m in marks)]
    if not wanted:
        raise InputError(f"only = {only!r}: no measurement of {', '.join(names)} has that in its key")
    results = run_jobs(wanted, out / ("runs-quick.jsonl" if quick else "runs.jsonl"), workers=workers, title=", ".join(names))
    tables: list[list[dict[str, Any]]] = [module.rows(results) for module in modules]
    command = f"tandem bench jm2d --parts {','.join(names)} --seeds {seeds} --seed {seed} --trials {trials} --device {device}"
    command += f" --only {only}" if only else ""
    spent = sum(r["wall_s"] for r in results.values())
    write_table(
        out, [row for table in tables for row in table], command=command, seeds=list(scale.seeds),
        wall_s=time.monotonic() - began, notes="\n".join([NOTES, *(m.NOTES for m in modules), f"{spent:.0f} s of measurement."]),
    )
    for module, table in zip(modules, tables, strict=True):
        module.plots(out, results, table)
    Console().print((out / "table.md").read_text(encoding="utf-8"), markup=False, highlight=False, soft_wrap=True)
    return 0
