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
from tandem.core.errors import ConfigError, TandemError

HELP = """Runs a learned diffusion policy on a Franka FR3, and never moves on anything that is not certified.

Start with `tandem demo` (the arm picks up a mug among obstacles; a report at the end) and `tandem doctor` (is this machine fit?).
Every command explains itself with --help. Exit codes: 0 done, 1 the run failed its own checks, 2 bad input."""

#: the demo's scene: the straight way is blocked
DEMO_SCENE = "mug_blocked.yaml"

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


@app.command()
def scenes() -> None:
    """List the scene files: obstacles, where the mug may stand."""
    from rich.table import Table

    from tandem.core.paths import share_dir
    from tandem.sim.scene_file import load_mug_scene

    folder = share_dir() / "config" / "scenes"
    table = Table("file", "kind", "obstacles", box=None, pad_edge=False)
    for path in sorted(folder.rglob("*.yaml")):
        scene = load_mug_scene(path)
        what = ", ".join(f"{o.name} ({o.kind})" for o in scene.obstacles)
        table.add_row(str(path.relative_to(folder)), scene.kind, what or "none")
    console.print(table)


@app.command()
def demo(
    out: Annotated[Path | None, typer.Option(help="Folder for the results; default runs/demo-<date>-<time>.")] = None,
    scene: Annotated[str, typer.Option(help="Scene file: a path, or a name that `tandem scenes` lists.")] = DEMO_SCENE,
    sampler: Annotated[str, typer.Option(help="Sampler configuration: a name in config/samplers.")] = "default",
    device: Annotated[str, typer.Option(help="Torch device of the planner's networks: cpu, cuda, cuda:1.")] = "cpu",
    seed: Annotated[int, typer.Option(min=0, help="Places the mug and seeds the planner.")] = 0,
    timeout: Annotated[float, typer.Option(min=1.0, help="Give up so long after the first certified plan [s].")] = 40.0,
    resumes: Annotated[
        int, typer.Option(min=0, help="Act as the operator: resume the arm this often after it was stopped; the report says so.")
    ] = 2,
    render: Annotated[bool, typer.Option(help="Pictures and animation in the report.")] = True,
    backend: Annotated[
        str, typer.Option(help="mujoco; or fci: over Franka's network interface, on a simulated controller.")
    ] = "mujoco",
    patience: Annotated[
        float, typer.Option(min=0.0, help="fci: how long the simulated controller waits for late answers, for busy machines [s].")
    ] = 0.0,
) -> None:
    """The main job: the simulated arm picks up the mug among obstacles; a recording, an audit and a report at the end."""
    from tandem.cli.demo import DemoOptions, run

    if backend not in ("mujoco", "fci"):
        raise ConfigError(f"backend {backend!r}: accepted: mujoco, fci")
    options = DemoOptions(
        out or default_run_folder("demo"), scene, sampler, device, seed, timeout, resumes=resumes, render=render,
        backend=backend, patience=patience,
    )
    raise typer.Exit(run(options, console))


@app.command()
def certify(
    source: Annotated[Path, typer.Argument(help="A plan file (.json, .yaml, .npz: times, q, v, a) or a recording.")],
    scene: Annotated[str | None, typer.Option(help="Scene file: a path, or a name that `tandem scenes` lists.")] = None,
    robot: Annotated[str, typer.Option(help="Arm model in config/robots.")] = "fr3",
    bounds: Annotated[str, typer.Option(help="Safety bounds in config/safety.")] = "default",
    table: Annotated[bool, typer.Option(help="The table top z = 0 is an obstacle.")] = True,
    topic: Annotated[str, typer.Option(help="What to certify of a recording.")] = "planner/proposal",
    namespace: Annotated[str, typer.Option(help="Namespace of the graph in a recording.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Verdicts as JSON, for programs.")] = False,
) -> None:
    """Certify plans from a file (or a recording's proposals): feasible or not, clearance, the worst case, digest."""
    from tandem.cli.certify import run

    raise typer.Exit(run(
        source, console, scene=scene, robot=robot, bounds=bounds, table=table, topic=topic, namespace=namespace, as_json=as_json
    ))


@app.command()
def audit(
    folder: Annotated[Path, typer.Argument(help="A recording (rosbag2 folder), or the folder of a demo.")],
    robot: Annotated[str, typer.Option(help="Arm model in config/robots.")] = "fr3",
    bounds: Annotated[str, typer.Option(help="Safety bounds in config/safety.")] = "default",
    namespace: Annotated[str, typer.Option(help="Namespace of the graph.")] = "",
    at_rest: Annotated[bool, typer.Option(help="The arm must be at rest at the end of the recording.")] = False,
) -> None:
    """Check a recording: was all that moved certified, do the certificates hold, did the meshes keep clear (by coal)?"""
    from tandem.bench import audit as auditing
    from tandem.bench import recording
    from tandem.cli.demo import audit_table
    from tandem.robots.model import load_arm, load_chain, robot_config
    from tandem.safety.bounds import load_bounds
    from tandem.safety.meshes import MeshWorld

    topics = folder / "topics" if (folder / "topics").is_dir() else folder
    heard = recording.read(topics, namespace)
    arm = load_arm(robot)
    meshes = MeshWorld(arm, load_chain(*robot_config(robot)).shapes)
    results = auditing.audit(heard, arm, load_bounds(bounds), at_rest=at_rest, meshes=meshes)
    console.print(audit_table(results))
    raise typer.Exit(0 if all(c.passed for c in results) else 1)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder `record` of a report, or the folder of a demo.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the report; default: the folder itself.")] = None,
    render: Annotated[bool, typer.Option(help="Pictures and animation.")] = True,
) -> None:
    """Write the report of a recorded episode again."""
    from tandem.bench import report as reporting
    from tandem.bench.record import EpisodeRecord

    record = EpisodeRecord.load(folder / "record" if (folder / "record").is_dir() else folder)
    target = out or folder
    figures = reporting.write(record, target, render=render)
    console.print(f"{figures['verdict']}\n{target / 'index.html'}", highlight=False, soft_wrap=True)


#: options that the operator's tools share
Namespace = Annotated[str, typer.Option(help="Namespace of the graph.")]
Speed = Annotated[float, typer.Option(help="Share of the arm's speed, 0.02 .. 1.")]
TakeOver = Annotated[bool, typer.Option("--take-over", help="Deactivate a planner that is moving the arm; it stays inactive.")]


@app.command()
def home(speed: Speed = 0.3, namespace: Namespace = "", take_over: TakeOver = False) -> None:
    """Bring the arm of a running graph to its home posture, round obstacles where they are in the way.

    Every motion is certified by the graph's safety filter. Ctrl-C: nothing more is planned, the arm comes to rest by itself.
    Start a graph for it with `tandem launch bringup planner:=false backend:=...`.
    """
    from tandem.cli import operate

    raise typer.Exit(operate.home(console, speed=speed, namespace=namespace, take_over=take_over))


@app.command(context_settings={"ignore_unknown_options": True})
def jog(
    what: Annotated[str | None, typer.Argument(help="A joint (4), an axis (x, y, z, rx, ry, rz) or gripper.")] = None,
    amount: Annotated[str | None, typer.Argument(help="How far: 0.1, -5deg (joint, rx ..), 0.02, -20mm (x .., gripper).")] = None,
    frame: Annotated[str, typer.Option(help="Axes of the base, or of the tool.")] = "base",
    speed: Speed = 0.1,
    namespace: Namespace = "",
    take_over: TakeOver = False,
) -> None:
    """Move one joint, the tool, or the gripper of a running graph by a step; without arguments by keys.

    Examples: `tandem jog 4 -5deg`, `tandem jog z 20mm`, `tandem jog rz 0.1 --frame tool`, `tandem jog gripper -0.01`.

    The step is certified by the graph's safety filter before anything moves. What is in the way ends it early, at rest, and is
    named (exit code 1). A step beyond a limit or out of reach is refused as a whole (exit code 2).
    """
    from tandem.cli import operate

    raise typer.Exit(operate.jog(console, what, amount, frame=frame, speed=speed, namespace=namespace, take_over=take_over))


@app.command()
def stop(namespace: Namespace = "") -> None:
    """Stop the arm of a running graph along its certified path; it stays stopped until `tandem resume`."""
    from tandem.cli import operate

    raise typer.Exit(operate.trigger(console, "franka/stop", namespace))


@app.command()
def resume(namespace: Namespace = "") -> None:
    """Confirm, as the operator, that the cause of a stop is gone: the arm takes certified motions again."""
    from tandem.cli import operate

    raise typer.Exit(operate.trigger(console, "franka/resume", namespace))


@app.command()
def record(
    out: Annotated[Path | None, typer.Option(help="Folder to make; default runs/record-<date>-<time>.")] = None,
    duration: Annotated[float, typer.Option(min=0.0, help="How long [s]; 0: until Ctrl-C.")] = 0.0,
    namespace: Namespace = "",
) -> None:
    """Record the topics of a running graph to MCAP (a rosbag2 folder), until Ctrl-C; `tandem audit` and Foxglove read it."""
    from tandem.cli.record import run

    raise typer.Exit(run(console, out or default_run_folder("record"), duration=duration, namespace=namespace))


@app.command()
def security(
    out: Annotated[Path, typer.Option(help="File to write the policy to.")] = Path("tandem_policy.xml"), namespace: Namespace = ""
) -> None:
    """Write the SROS2 policy of the graph (who may publish and call what), and say how it becomes a keystore."""
    from tandem.cli.security import run

    raise typer.Exit(run(console, out, namespace))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def launch(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="A launch file: bringup, backends/mujoco, or a path.")] = "bringup",
) -> None:
    """Run a launch file with name:=value arguments: through `ros2 launch` where it is installed, else through the stand-in."""
    from tandem.cli.launching import command, launch_file

    line, environment = command(launch_file(file), ctx.args)
    os.execvpe(line[0], line, environment)


if module_exists("tandem.bench"):
    bench = typer.Typer(cls=BenchGroup, no_args_is_help=True)
    app.add_typer(bench, name="bench", help="Run a benchmark: table.json, table.md, plots.")
if module_exists("tandem.tasks.mug.train"):
    train = typer.Typer(cls=TrainGroup, no_args_is_help=True)
    app.add_typer(train, name="train", help="Train a policy; reproduces the shipped weights (Avoiding's: from D3IL's files).")

data = typer.Typer(no_args_is_help=True)
app.add_typer(data, name="data", help="Demonstrations of other projects.")


@data.callback()
def _data() -> None:
    """Demonstrations of other projects."""


@data.command("import")
def data_import(
    source: Annotated[Path, typer.Argument(help="D3IL's folder of Avoiding demonstrations (.pkl), one of them, or an .npz.")],
    out: Annotated[Path, typer.Option(help="The .npz to write.")] = Path("runs/avoiding_demonstrations.npz"),
) -> None:
    """Read D3IL's Avoiding demonstrations for `tandem train avoiding`, which looks for them in the default place."""
    from tandem.tasks.avoiding.d3il import convert

    console.print(f"wrote {out}: {convert(source, out)} demonstrations", highlight=False, soft_wrap=True)


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
