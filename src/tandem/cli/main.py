"""The ``tandem`` command. Exit codes: 0 done, 1 the run failed its own checks, 2 bad input."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tandem import __version__
from tandem.cli.lazy import BenchGroup, TrainGroup, module_exists
from tandem.core.errors import TandemError

HELP = """Runs a learned diffusion policy on a Franka FR3, and never moves on anything that is not certified.

Start with `tandem demo` (the arm picks up a mug among obstacles; a report at the end) and `tandem doctor` (is this machine fit?).
Every command explains itself with --help. Exit codes: 0 done, 1 the run failed its own checks, 2 bad input."""

app = typer.Typer(
    help=HELP, no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False
)
console = Console()
errors = Console(stderr=True)


@app.callback()
def _options(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done in detail.")] = False) -> None:
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for noisy in ("matplotlib", "numba", "OpenGL", "PIL"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


@app.command()
def version() -> None:
    """Versions of Tandem and of what it stands on."""
    from tandem.cli.doctor import library_versions

    console.print(f"tandem {__version__}", highlight=False)
    for name, value in library_versions().items():
        console.print(f"  {name} {value}", highlight=False)


@app.command()
def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what takes seconds: DDS and rendering.")] = False,
) -> None:
    """Check this machine: versions, DDS, rendering, real-time capability, weights, camera; says what to do."""
    from tandem.cli.doctor import run

    raise typer.Exit(run(console, quick=quick))


if module_exists("tandem.bench"):
    bench = typer.Typer(cls=BenchGroup, no_args_is_help=True)
    app.add_typer(bench, name="bench", help="Run a benchmark: table.json, table.md, plots.")
if module_exists("tandem.tasks.mug.train"):
    train = typer.Typer(cls=TrainGroup, no_args_is_help=True)
    app.add_typer(train, name="train", help="Train a policy; reproduces the shipped weights.")


def main() -> None:
    """Entry point of the ``tandem`` script: errors that a user can cause become one line and exit code 2."""
    try:
        app()
    except TandemError as error:
        errors.print(f"tandem: {error}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(2)
    except KeyboardInterrupt:
        errors.print("tandem: interrupted", markup=False)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def default_run_folder(kind: str) -> Path:
    """``runs/<kind>-<date>-<time>`` in the working directory."""
    import time

    return Path("runs") / f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}"


if __name__ == "__main__":
    main()
