"""Sub-commands found in the tree and imported only when they are asked for.

``tandem bench NAME`` and ``tandem train NAME`` stand for ``run`` of a module each: its keyword arguments become the options. A
module that is not there is not listed, and nothing heavy is imported to show ``tandem --help``.
"""

from __future__ import annotations

import collections.abc
import importlib
import importlib.util
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, TextColumn
from typer.core import TyperGroup

#: what an option of that name means, where the module's own docstring is not at hand
OPTION_HELP = {
    "out": "Folder for the results.",
    "quick": "A few episodes only: does it work?",
    "seed": "Seed of everything random.",
    "only": "Only what has this in its name.",
    "patience": "How long the simulated arm waits for late answers, for busy machines [s].",
    "host": "Loopback address of the simulated controller.",
    "repeats": "How often each is done.",
    "seconds": "How long each is measured [s].",
    "episodes": "Episodes for each method.",
    "parts": "Parts, separated by commas.",
    "seeds": "Repetitions, of which the papers have five.",
    "trials": "At most so many of each measurement (0: all).",
    "methods": "Methods, separated by commas.",
    "boxes": "Numbers of boxes, separated by commas.",
    "workers": "Parallel processes; with RAY_ADDRESS set jm2d uses that Ray cluster instead.",
    "add": "Files that other runs have packed, separated by commas: what they hold is not measured again.",
    "pack": "File (.xz) for all that is asked for and measured, small enough to keep or to pass on.",
    "report": "Measure nothing: tables and plots of what is there already.",
    "page": "Markdown page whose tables and pictures are renewed (docs/jm2d.md).",
    "resume": "Keep what is finished in the folder.",
    "device": "Torch device.",
    "steps": "Training steps.",
    "data": "File of demonstrations to train on, or the word scripted. Default: runs/avoiding_demonstrations.npz (of `tandem "
    "data import`); else ../shared/data/d3il_avoiding/demos.npz, seen from the root of the checkout; else scripted.",
    "source": "Where those demonstrations are from and under what licence, for the manifest.",
    "blended": "Blends of demonstrations to add.",
    "played": "Episodes that the policy plays in each round of practice.",
    "practice_steps": "Training steps of each policy that only practises; --steps are those of the one that is kept.",
    "rounds": "Rounds of practice: train anew with corrections of the policy's own contacts.",
}


def module_exists(name: str) -> bool:
    """Whether ``name`` can be imported, without importing more than its parent packages."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _option_type(kind: Any) -> Any:
    """What typer understands: the annotation, str for sequences, None for what cannot be said on a command line (callables)."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        inner = [k for k in typing.get_args(kind) if k is not type(None)]
        known = _option_type(inner[0]) if len(inner) == 1 else None
        return typing.Optional[known] if known is not None else None  # noqa: UP045
    if typing.get_origin(kind) in (list, tuple, collections.abc.Sequence):
        return str
    return kind if kind in (int, float, bool, str, Path) else None


def as_command(
    run: Callable[..., Any], name: str, out: str, help_text: str, options: Mapping[str, str] = OPTION_HELP
) -> typer.Typer:
    """A typer application whose one command calls ``run`` with options made of its signature.

    ``run`` returns the exit code, or what it made (which is named, and 0). An argument ``progress`` (called with steps done and
    loss) is given a progress bar that ends at the argument ``steps``.
    """
    hints = typing.get_type_hints(run)
    parameters = []
    defaults: dict[str, Any] = {"out": Path(out), "quick": False, "seed": 0}
    for key, parameter in inspect.signature(run).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = parameter.default if parameter.default is not parameter.empty else defaults.get(key, ...)
        if isinstance(default, (tuple, list)):
            default = ",".join(map(str, default))
        kind: Any = _option_type(hints.get(key, str))
        if kind is None:
            continue
        switch = f"--{key.replace('_', '-')}"
        names = (f"{switch}/--no-{key.replace('_', '-')}",) if kind is bool and default else (switch,)
        option = typer.Option(*names, help=options.get(key, ""))
        annotation: Any = Annotated[kind, option]
        parameters.append(inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation))

    def call(**values: Any) -> None:
        result = _with_progress(run, values) if "progress" in hints else run(**values)
        if isinstance(result, int):
            raise typer.Exit(result)
        Console().print(f"wrote {result}", highlight=False, soft_wrap=True)

    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    call.__doc__ = help_text
    application = typer.Typer(add_completion=False, rich_markup_mode=None)
    application.command(name)(call)
    return application


def _with_progress(run: Callable[..., Any], values: dict[str, Any]) -> Any:
    """Call ``run`` with a progress bar."""
    columns = (*Progress.get_default_columns(), TextColumn("loss {task.fields[loss]:.4f}"))
    bar = Progress(*columns, console=Console(stderr=True), refresh_per_second=2)
    with bar:
        task = bar.add_task("training", total=values.get("steps"), loss=float("nan"))
        return run(**values, progress=lambda done, loss: bar.update(task, completed=done, loss=loss))


class ModuleGroup(TyperGroup):
    """A group whose commands are modules; subclasses say which (:attr:`modules`: command -> module) and where results go."""

    modules: typing.ClassVar[dict[str, str]] = {}
    out: typing.ClassVar[str] = "runs/{name}"
    options: typing.ClassVar[dict[str, str]] = OPTION_HELP

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of the modules in the tree."""
        return [name for name, module in self.modules.items() if module_exists(module)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import the module and make its command; None (typer then says "no such command") where there is none."""
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(self.modules[cmd_name])
        help_text = inspect.cleandoc(module.__doc__ or "").split("\n\n")[0]
        out = self.out.format(name=cmd_name)
        return typer.main.get_command(as_command(module.run, cmd_name, out, help_text, self.options))


class BenchGroup(ModuleGroup):
    """``tandem bench``: modules of ``tandem.bench`` with a ``run``."""

    modules: typing.ClassVar[dict[str, str]] = {
        name: f"tandem.bench.{name}"
        for name in ("mug", "modes", "jm2d", "reach", "soundness", "worlds", "perception", "faults", "bridge")
    }
    out: typing.ClassVar[str] = "runs/bench-{name}"


class TrainGroup(ModuleGroup):
    """``tandem train``: the ``train`` module of each task."""

    modules: typing.ClassVar[dict[str, str]] = {
        name: f"tandem.tasks.{name}.train" for name in ("mug", "donut", "maze", "avoiding")
    }
    out: typing.ClassVar[str] = "runs/train-{name}"
    options: typing.ClassVar[dict[str, str]] = {
        **OPTION_HELP, "out": "The .safetensors to write, its manifest beside it. Default: in place of the shipped weights in "
        "models/; for Avoiding from scripted demonstrations runs/avoiding-scripted.safetensors.",
    }
