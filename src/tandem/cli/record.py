"""``tandem record``: the graph's topics to MCAP until Ctrl-C, SIGTERM or a given time; the recording is whole however it ends."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tandem.cli.operate import interruptible
from tandem.core.errors import InputError
from tandem.nodes.operator import GraphError, place
from tandem.nodes.recorder import Recorder

log = logging.getLogger(__name__)

#: a graph that is there is heard within this time [s]
HEARD = 8.0


def of_graph(counts: Mapping[str, int]) -> int:
    """How many messages are the graph's own: absolute topics (/diagnostics) may be another's."""
    return sum(number for name, number in counts.items() if not name.startswith("/"))


def run(console: Console, out: Path, *, duration: float, namespace: str) -> int:
    """Record into the folder ``out`` for ``duration`` [s] (0: until asked to end); 0.

    Raises:
        InputError: ``out`` exists. GraphError: nothing was heard; no folder is left.
    """
    if out.exists():
        raise InputError(f"{out}: exists already; choose another folder with --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with interruptible() as interrupted, Recorder(out, namespace) as recorder:
        told = began
        while not interrupted() and not (duration and time.monotonic() - began >= duration):
            time.sleep(0.05)
            now = time.monotonic()
            with recorder.lock:
                total, heard = recorder.live.counts.total(), of_graph(recorder.live.counts)
            if not heard and now - began > HEARD:
                break
            if now - told >= 5.0:
                told = now
                log.info("%d messages in %.0f s; Ctrl-C ends", total, now - began)
    counts, seconds = recorder.live.counts, time.monotonic() - began
    if not of_graph(counts):
        shutil.rmtree(out, ignore_errors=True)
        raise GraphError(f"nothing was heard for {seconds:.0f} s ({place(namespace)}); start the graph: tandem launch bringup")
    table = Table("topic", "messages", box=None, pad_edge=False)
    for name, count in sorted(counts.items()):
        table.add_row(name, str(count))
    console.print(table)
    console.print(f"{counts.total()} messages in {seconds:.1f} s: {out}", highlight=False, soft_wrap=True)
    return 0
