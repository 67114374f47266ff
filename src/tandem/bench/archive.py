"""Measurements to keep and to pass on: the lines of a run (:mod:`tandem.bench.jobs`) in a small compressed file.

A run that takes longer than one machine is at hand is made in pieces: ``--pack FILE`` writes what a run has, ``--add FILE``
takes it into another one. What counts stays as it is measured; what only pictures and times are made of is thinned by the part
that measured it, so that tens of thousands of episodes fit into a file that a repository can hold.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tandem.bench.jobs import Job, Result, append, read
from tandem.core.errors import InputError

#: a list of times keeps these quantiles
QUANTILES = (0.05, 0.275, 0.5, 0.725, 0.95)


def quantiles(values: Iterable[float]) -> list[float]:
    """``values`` by :data:`QUANTILES`, three digits each; as they are when there are no more than that."""
    found = list(values)
    if len(found) > len(QUANTILES):
        found = [float(v) for v in np.quantile(found, QUANTILES)]
    return [float(f"{v:.3g}") for v in found]


def pack(file: Path, jobs: Iterable[Job], results: dict[str, Result], thin: Callable[[str, Result], Result]) -> int:
    """Write what ``results`` has of ``jobs`` to ``file`` (.xz), ``thin(key, result)`` of each; how many lines it has then.

    The same measurements give the same bytes. What a file that was there holds of other keys stays in it.
    """
    found: dict[str, tuple[str, Result]] = {key: (asked, result) for (key, asked), result in read(file).items()}
    for job in jobs:
        if job.key in results:
            kept = thin(job.key, results[job.key])
            kept = {**kept, "wall_s": float(f"{kept['wall_s']:.3g}")} if "wall_s" in kept else kept
            found[job.key] = job.digest(), kept
    lines = [
        json.dumps({"key": key, "asked": asked, "result": result}, separators=(",", ":"))
        for key, (asked, result) in sorted(found.items())
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_name(f".{file.name}.new")
    with lzma.open(fresh, "wt", encoding="utf-8", preset=9 | lzma.PRESET_EXTREME) as out:
        out.write("".join(f"{line}\n" for line in lines))
    os.replace(fresh, file)
    return len(lines)


def add(files: Iterable[Path], path: Path) -> int:
    """Append to the run's lines ``path`` what is in ``files`` (plain, or .xz) and not there yet; how many that is.

    Raises:
        InputError: no such file, or none of its lines is a measurement; nothing is written then.
    """
    there, new = read(path), {}
    for file in files:
        found = read(file)
        if not found:
            why = "holds no measurement" if file.is_file() else "is no file" if file.exists() else "no such file"
            raise InputError(f"add = {file}: {why}")
        new.update({asked: result for asked, result in found.items() if asked not in there})
    if new:
        append(path, new)
    return len(new)


def unthinned(key: str, result: Result) -> Result:
    """For parts whose results are small."""
    return result


def thinner(parts: dict[str, Any]) -> Callable[[str, Result], Result]:
    """The ``thin`` of :func:`pack` for the modules ``parts`` by the first word of their keys; each may have a ``thin`` itself."""
    own = {name: getattr(module, "thin", unthinned) for name, module in parts.items()}
    return lambda key, result: own[key.split("/")[0]](key, result)
