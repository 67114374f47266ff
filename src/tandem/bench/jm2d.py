"""JM2D and its rivals on the papers' own problems: tables and figures beside the paper's values.

``tandem bench jm2d --out DIR [--parts donut] [--quick] [--workers N] [--device cuda]``. Every measurement is one line of
``DIR/runs.jsonl``: an interrupted run goes on where it was, and ``--report`` makes tables of what it has so far. Each is made on
one core, so its wall time does not depend on the number of workers as long as there are that many free cores.

A run that takes longer than one machine is at hand goes on elsewhere: ``--pack FILE.xz`` keeps what it has, ``--add FILE.xz``
takes that into another run (:mod:`tandem.bench.archive`).

A part is a module (:data:`PARTS`) with ``NOTES``, ``jobs(scale)``, whose keys begin with the part's name, ``rows(results)`` and
``plots(out, results, rows)``, and ``problem()``: constants of its task; with ``thin(key, result)`` where results are too long to
be packed. Its policy is that of the task of its name. What was measured with other settings (a sampler's defaults too), another
problem or other weights is measured anew.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from tandem.bench import archive, jm2d_coupling, jm2d_page
from tandem.bench.jobs import Job, Scale, measured
from tandem.bench.jobs import run as run_jobs
from tandem.bench.table import write_table
from tandem.core.errors import InputError
from tandem.diffusion.devices import check_device
from tandem.diffusion.samplers import make_sampler
from tandem.diffusion.weights import read_manifest

#: name of each part and its module
PARTS = {
    "donut": "tandem.bench.jm2d_donut", "maze": "tandem.bench.jm2d_maze", "avoiding": "tandem.bench.jm2d_avoiding"
}
NOTES = """Shares with Wilson's 95 % interval, means with a bootstrap interval; `paper`: the paper's value where it gives one. Of
an episode that was packed five quantiles of its times are left: `plan_ms_p50` and `plan_ms_p95` are near the whole's."""


def run(
    out: Path, quick: bool = False, *, parts: str = ",".join(PARTS), seeds: int = 1, seed: int = 0, trials: int = 0,
    only: str = "", add: str = "", pack: Path | None = None, report: bool = False, page: Path | None = None, workers: int = 1,
    device: str = "cpu",
) -> int:
    """Measure what is missing in ``out``, then write ``table.json``, ``table.md`` and plots.

    Args:
        out: folder. quick: a few of each measurement. parts: of :data:`PARTS`, comma-separated. seeds: repetitions, numbered from
        ``seed``. trials: at most so many of each measurement, 0: each part's full number.
        only: measurements whose key has one of these, comma-separated, in it. add: files that other runs have packed (or their
        ``runs.jsonl``), comma-separated: what they hold is not measured again. pack: an .xz file for what is there at the end.
        report: measure nothing, write what is there.
        page: a Markdown file whose tables and pictures are renewed, see :mod:`tandem.bench.jm2d_page`. workers: processes.
        device: torch's.

    Raises:
        InputError: an unknown part, a count out of range, a device that torch does not have, nothing to report, a page
            without marks, a file to add that is missing or not a run's, or one to pack that is not called .xz.
    """
    names = [p.strip() for p in parts.split(",") if p.strip()]
    unknown = [p for p in names if p not in PARTS]
    if unknown or not names:
        raise InputError(f"parts = {parts!r}: accepted: one or more of {', '.join(PARTS)}, separated by commas")
    if seeds < 1 or trials < 0 or seed < 0:
        raise InputError(f"seeds = {seeds}, trials = {trials}, seed = {seed}: accepted: 1 or more seeds, the others 0 or more")
    check_device(device)
    if page is not None:
        jm2d_page.marks(page)
    if pack is not None and pack.suffix != ".xz":
        raise InputError(f"pack = {pack}: accepted: a name that ends in .xz")
    began = time.monotonic()
    modules = [importlib.import_module(PARTS[name]) for name in names]
    scale = Scale(tuple(range(seed, seed + seeds)), trials, quick, device)
    marks = [m.strip() for m in only.split(",") if m.strip()] or [""]
    wanted = []
    for name, module in zip(names, modules, strict=True):
        weights = importlib.import_module(f"tandem.tasks.{name}.train").weights_path()
        own = {"weights": read_manifest(weights)["sha256"], "problem": module.problem()}
        wanted += [replace(job, stamp=_stamp(job, own)) for job in module.jobs(scale) if any(m in job.key for m in marks)]
    if not wanted:
        raise InputError(f"only = {only!r}: no measurement of {', '.join(names)} has that in its key")
    lines = out / ("runs-quick.jsonl" if quick else "runs.jsonl")
    archive.add([Path(file.strip()) for file in add.split(",") if file.strip()], lines)
    results = measured(wanted, lines) if report else run_jobs(wanted, lines, workers=workers, title=", ".join(names))
    if not results:
        raise InputError(f"report: {lines} holds nothing that was measured with these settings, problem and weights")
    tables: list[list[dict[str, Any]]] = [module.rows(results) for module in modules]
    command = f"tandem bench jm2d --parts {','.join(names)} --seeds {seeds} --seed {seed} --trials {trials} --device {device}"
    command += (f" --only {only}" if only else "") + (" --report" if report else "")
    spent = f"{len(results)} of {len(wanted)} measurements, {sum(r['wall_s'] for r in results.values()):.0f} s."
    whole = [row for table in tables for row in table]
    whole += jm2d_coupling.rows(whole)
    write_table(
        out, whole, command=command, seeds=list(scale.seeds),
        wall_s=time.monotonic() - began, notes="\n".join([NOTES, *(m.NOTES for m in modules), spent]),
    )
    for module, table in zip(modules, tables, strict=True):
        module.plots(out, results, table)
    if page is not None:
        jm2d_page.renew(page, whole, None if only else out)
    if pack is not None:
        archive.pack(pack, wanted, results, archive.thinner(dict(zip(names, modules, strict=True))))
    Console().print((out / "table.md").read_text(encoding="utf-8"), markup=False, highlight=False, soft_wrap=True)
    return 0


def _stamp(job: Job, own: dict[str, Any]) -> str:
    """What the job's result depends on besides its arguments: the part's weights and problem, the sampler with its defaults."""
    settings = job.arguments["settings"]
    whole = make_sampler(settings).to_dict() if "method" in settings else {}
    return hashlib.sha256(json.dumps({**own, "sampler": whole}, sort_keys=True).encode()).hexdigest()[:16]
