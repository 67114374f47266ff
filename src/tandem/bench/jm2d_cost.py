"""What a plan costs: wall time of single plans on one core and on two, with nothing else running, and their network rows.

A part of ``tandem bench jm2d`` hands over its problems; figures stand beside what the method reaches in the part's own tables.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numba
import torch

from tandem.bench.jobs import Result
from tandem.bench.statistics import bootstrap
from tandem.diffusion.denoiser import Denoiser
from tandem.diffusion.samplers.base import Sampler

#: cores that single plans are timed on
THREADS = (1, 2)


def timed(
    sampler: Sampler[Any], denoiser: Denoiser, problem: Callable[[int], Any], seed: int, threads: int, plans: int, device: str
) -> Result:
    """Wall time of ``plans`` single plans on ``threads`` cores; ``problem(n)`` is the n-th one's, and one before warms up."""
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    try:
        generator, ms, rows = torch.Generator(device).manual_seed(seed), [], 0.0
        for n in (0, *range(plans)):
            asked = problem(n)
            began = time.perf_counter()
            result = sampler.sample(asked, denoiser, generator=generator)
            ms.append(round(1e3 * (time.perf_counter() - began), 2))  # on CUDA too: the result has been looked at
            rows += result.counters.network_rows / (plans + 1)
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
    return {"plan_ms": ms[1:], "rows": rows}


def rows(results: dict[str, Result], part: str, methods: Iterable[str], condition: str) -> list[dict[str, Any]]:
    """A row a method from results keyed ``<part>/cost/<method>/<threads>/<seed>``."""
    titles = {"donut": "Donut", "maze": "Point maze", "avoiding": "Avoiding"}
    out = []
    for name in methods:
        found = {t: r for t in THREADS for key, r in results.items() if key.startswith(f"{part}/cost/{name}/{t}/")}
        if not found:
            continue
        first = next(iter(found.values()))
        row: dict[str, Any] = {
            "table": f"{titles[part]}, cost of a plan", "task": part, "method": name, "condition": condition,
            "n": len(first["plan_ms"]), "network_rows": first["rows"],
        }
        for t, r in found.items():
            row[f"plan_ms_{t}_core{'s' if t > 1 else ''}"] = bootstrap(r["plan_ms"])
        out.append(row)
    return out
