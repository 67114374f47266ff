"""JM2D and its rivals on the papers' own problems: tables and figures beside the paper's values.

``tandem bench jm2d --out DIR [--quick] [--workers N] [--device cuda]``. Every measurement is one line of ``DIR/runs.jsonl``: an
interrupted run goes on where it was. Measured with one core a job, so wall times do not depend on the number of workers as long
as there are that many free cores. At present the donut (:mod:`tandem.bench.jm2d_donut`).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tandem.bench import jm2d_donut, jm2d_plots
from tandem.bench.jobs import run as run_jobs
from tandem.bench.table import write_table
from tandem.core.errors import InputError

NOTES = """Shares with Wilson's 95 % interval, means with a bootstrap interval; `paper`: the paper's value where it gives one
(Fig. 5: 60 of 64 valid and in distribution; projection 31 of 64 out of distribution). `plan_ms_p50`: one core, one sample or
plan. The donut's dimensions, constraint and obstacles are ours, for the paper gives none."""


def run(
    out: Path, quick: bool = False, *, seeds: int = 1, samples: int = 64, scenes: int = 12, seed: int = 0, workers: int = 1,
    device: str = "cpu",
) -> int:
    """Measure what is missing in ``out``, then write ``table.json``, ``table.md`` and plots.

    Args:
        out: folder. quick: 4 samples, 1 scene. seeds: repetitions, numbered from ``seed``. samples: of each method under the
        donut's constraint. scenes: for each number of obstacles. workers: processes. device: torch's.

    Raises:
        InputError: a count below 1, or a device that torch does not have.
    """
    if min(seeds, samples, scenes) < 1:
        raise InputError(f"seeds = {seeds}, samples = {samples}, scenes = {scenes}: accepted: 1 or more")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device = {device!r}: torch cannot use it here ({str(error).splitlines()[0]})") from error
    began = time.monotonic()
    samples, scenes = (4, 1) if quick else (samples, scenes)
    wanted = jm2d_donut.jobs(list(range(seed, seed + seeds)), samples, scenes, device)
    results = run_jobs(wanted, out / ("runs-quick.jsonl" if quick else "runs.jsonl"), workers=workers, title="donut")
    rows: list[dict[str, Any]] = jm2d_donut.rows(results)
    command = f"tandem bench jm2d --seeds {seeds} --samples {samples} --scenes {scenes} --seed {seed} --device {device}"
    spent = sum(r["wall_s"] for r in results.values())
    write_table(
        out, rows, command=command, seeds=list(range(seed, seed + seeds)), wall_s=time.monotonic() - began,
        notes=f"{NOTES} {spent:.0f} s of measurement in all.",
    )
    jm2d_plots.constraint(out / "donut_constraint.svg", results, list(jm2d_donut.CONSTRAINT))
    jm2d_plots.estimates(out / "donut_estimates.svg", rows)
    Console().print((out / "table.md").read_text(encoding="utf-8"), markup=False, highlight=False, soft_wrap=True)
    return 0
