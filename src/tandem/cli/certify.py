"""``tandem certify``: the filter's verdict on plans from a file, or on what a recording's planner proposed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tandem.core.errors import ConfigError, InputError
from tandem.core.paths import config_file
from tandem.core.plan_file import load_plans
from tandem.core.scene import TABLE, Scene, load_scene
from tandem.core.trajectory import Trajectory
from tandem.core.types import Verdict
from tandem.robots.model import load_arm
from tandem.safety.bounds import load_bounds
from tandem.safety.certify import certify_one


@dataclass(frozen=True)
class Case:
    """One plan to certify: name, motion, obstacles, the time it is judged at and its start [s]."""

    name: str
    trajectory: Trajectory
    scene: Scene
    now: float
    start: float


def read_scene(name: str, table: bool) -> Scene:
    """The obstacles of a scene file (a path or a name in config/scenes), with the table where ``table``.

    Raises:
        ConfigError: no such file, unreadable or malformed.
    """
    path = config_file("scenes", name)
    try:
        return Scene((*((TABLE,) if table else ()), *load_scene(path)["obstacles"]))
    except InputError as error:
        raise ConfigError(f"{path}: {error}") from error


def cases(source: Path, scene: str | None, table: bool, topic: str, namespace: str) -> list[Case]:
    """What is to be certified.

    A recording (folder or MCAP file) gives the trajectories on ``topic``, each against the obstacles heard until then, unless
    ``scene`` names others. Anything else is a file for :func:`tandem.core.plan_file.load_plans` and needs ``scene``.

    Raises:
        ConfigError, InputError: nothing to certify, unreadable, no scene.
    """
    if not source.is_dir() and source.suffix != ".mcap":
        if not source.is_file():
            raise ConfigError(f"{source}: no such file; accepted: a plan file (.json, .yaml, .npz) or a recording")
        if scene is None:
            raise ConfigError("--scene: missing: the scene file that the plan is certified against (empty.yaml: the table alone)")
        obstacles = read_scene(scene, table)
        return [Case(name, trajectory, obstacles, 0.0, 0.0) for name, trajectory in load_plans(source)]
    from tandem.bench import audit, recording

    heard = recording.read(source / "topics" if (source / "topics").is_dir() else source, namespace)
    messages = heard.of(topic)
    if not messages:
        raise InputError(f"{source}: nothing on {topic}; there is: {', '.join(sorted(heard.topics)) or 'nothing'}")
    given = None if scene is None else read_scene(scene, table)
    out = []
    for i, (time, message) in enumerate(messages):
        trajectory, _, start = recording.trajectory_of(message)
        obstacles = given or audit.scene_at(heard, time)
        out.append(Case(f"{topic}[{i}]", trajectory, obstacles, audit.judged_at(obstacles, time, start), start))
    return out


def as_dict(case: Case, verdict: Verdict) -> dict[str, Any]:
    """A verdict for programs; numbers that are not finite become null."""
    return {
        "plan": case.name, "certified": verdict.certified, "reason": verdict.reason.value,
        "clearance_m": verdict.clearance if math.isfinite(verdict.clearance) else None, "time_s": verdict.time,
        "link": verdict.link, "obstacle": verdict.obstacle, "trajectory": case.trajectory.digest(), "digest": verdict.digest,
    }


def run(
    source: Path, console: Console, *, scene: str | None, robot: str = "fr3", bounds: str = "default", table: bool = True,
    topic: str = "planner/proposal", namespace: str = "", as_json: bool = False,
) -> int:
    """Certify and print; 0: all certified, 1: not all.

    Raises:
        ConfigError, InputError: bad input.
    """
    arm, limits = load_arm(robot), load_bounds(bounds)
    found = [(case, certify_one(arm, case.trajectory, case.scene, limits, case.now, case.start))
             for case in cases(source, scene, table, topic, namespace)]
    if as_json:
        console.print_json(json.dumps([as_dict(case, verdict) for case, verdict in found]))
    else:
        for case, verdict in found:
            console.print(_table(case, verdict))
    return 0 if all(verdict.certified for _, verdict in found) else 1


def _table(case: Case, verdict: Verdict) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    word = Text("certified", style="green")
    if not verdict.certified:
        word = Text(f"not certified: {verdict.reason.value}", style="bold red")
    table.add_row("plan", case.name)
    table.add_row("verdict", word)
    if math.isfinite(verdict.clearance):
        where = f", {verdict.link} to {verdict.obstacle}" if verdict.obstacle else ""
        table.add_row("clearance", f"{1e3 * verdict.clearance:.1f} mm or more, at {verdict.time:.3f} s{where}")
    elif verdict.link or verdict.obstacle:
        table.add_row("where", f"{verdict.link}{verdict.obstacle}, at {verdict.time:.3f} s")
    table.add_row("digest", verdict.digest)
    return table
