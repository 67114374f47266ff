"""``tandem demo``: brings the graph up with the simulated arm, watches and records it, audits the recording, writes a report."""

from __future__ import annotations

import math
import os
import secrets
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console, Group
from rich.live import Live as Screen
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from tandem.bench import audit, recording, report
from tandem.bench.audit import Check
from tandem.bench.fci_server import FciServer, hardware_priority
from tandem.bench.record import EpisodeRecord
from tandem.cli import checks
from tandem.cli.launching import Launched, launch_file
from tandem.core.errors import ConfigError
from tandem.core.paths import config_file
from tandem.nodes import operator
from tandem.nodes.priority import give_way
from tandem.nodes.recorder import Live, Recorder
from tandem.robots.model import load_arm
from tandem.safety.bounds import load_bounds
from tandem.sim.scene_file import MugScene, load_mug_scene
from tandem.tasks.mug.memory import RETREAT

#: the arm goes on for this long after success, so that the picture shows the lifted mug [s]
AFTERWARDS = 1.5
#: wall time that a simulated second may take before patience ends [s]
SLOWEST = 5.0
#: how a demo that reached its end says so
DONE = "done"
#: gripper narrower than this while the mug is low: it is being grasped [m]
LIFTING = 0.02
#: recording and display stand back behind all nodes
RECORDING_NICENESS = 7
#: nodes of the graph
NODES = ("franka_bridge", "safety_filter", "planner", "perception", "camera", "scene_publisher")
#: the planner's part on /diagnostics, and the camera's
PLANNING, IMAGES = "planner: planning", "camera: images"
#: the arm stands still for this long before the operator resumes it [s]
BEFORE_RESUME = 1.0
#: a graph that is there already is discovered within this time [s]
DISCOVERY = 2.0
SHOWN_RATES = {
    "camera/image_raw": "camera", "perception/object_pose": "mug pose", "planner/proposal": "plans",
    "safety_filter/certified": "certified", "franka/joint_states": "joints",
}


@dataclass(frozen=True)
class DemoOptions:
    """What to run.

    ``timeout`` counts from the first certified plan [s, simulated], ``start_timeout`` from the start [s]. ``resumes``: how often
    the demo acts as the operator and resumes a stopped arm. ``backend``: "mujoco", or "fci": over the network interface of a
    simulated controller, with the scene simulated about it (:mod:`tandem.sim.twin`); ``patience``: how long that controller
    waits for late answers [s].
    """

    out: Path
    scene: str
    sampler: str = "default"
    device: str = "cpu"
    seed: int = 0
    timeout: float = 40.0
    start_timeout: float = 120.0
    backend: str = "mujoco"
    patience: float = 0.0
    resumes: int = 2
    render: bool = True

    @property
    def safety(self) -> str:
        """The bounds in config/safety that the arm keeps: the simulated controller's follows less closely than a real one."""
        return "simulated_arm" if self.backend == "fci" else "default"


def stage(live: Live) -> str:
    """What the stack is doing, in words."""
    if live.mode in ("STOPPING", "STOPPED", "FAULT"):
        return f"stopped: {live.mode_text}"
    if not live.counts["franka/joint_states"]:
        return "starting the arm"
    if live.truth.get("lifted"):
        return "the mug is lifted"
    if float(live.truth.get("height", 0.0)) > LIFTING:
        return "lifting the mug"
    if not live.counts["perception/object_pose"]:
        return "looking for the mug"
    if not live.certified:
        return "making the first plan"
    if live.parts.get(PLANNING, (0, "", {}))[1].startswith(RETREAT):
        return RETREAT
    return "under backup, planning on" if live.mode == "BACKUP" else "on the way"


def _quantiles(values: list[float]) -> str:
    numbers = sorted(x for x in values if math.isfinite(x))
    if not numbers:
        return "-"
    return f"{statistics.median(numbers):.0f} ms median, {numbers[-1]:.0f} ms longest"


def panel(live: Live, elapsed: float, complaints: Sequence[str] = ()) -> Panel:
    """The live display; ``complaints``: lines from the nodes' log."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    table.add_row("stage", Text(stage(live), style="bold"))
    table.add_row("time", f"{elapsed:.1f} s wall, {float(live.truth.get('sim_time', 0.0)):.1f} s simulated")
    table.add_row("rates", ", ".join(f"{label} {live.rate(topic):.0f} Hz" for topic, label in SHOWN_RATES.items()))
    table.add_row("planning", _quantiles(live.plan_ms))
    table.add_row("certifying", _quantiles(live.certify_ms))
    refused = ", ".join(f"{reason.lower()} {n}" for reason, n in live.refused.most_common(3))
    clearance = f", clearance {1e3 * live.clearance:.0f} mm" if math.isfinite(live.clearance) else ""
    table.add_row("certified", f"{live.certified}{clearance}")
    table.add_row("rejected", f"{live.refused.total()}" + (f" ({refused})" if refused else ""))
    contacts = int(live.truth.get("forbidden_contacts", 0))
    table.add_row("contacts", Text(str(contacts), style="bold red" if contacts else "green"))
    troubles = [f"{name}: {text}" for name, (level, text, _) in sorted(live.parts.items()) if level >= 2]
    warnings = [*troubles[:3], *complaints]
    parts: list[Any] = [table, *(Text(t, style="yellow", overflow="ellipsis", no_wrap=True) for t in warnings)]
    return Panel(Group(*parts), title="tandem demo", title_align="left", width=92)


class Watch:
    """Decides when the demo is over and when the operator resumes. ``stops``: why the arm was stopped before each resume."""

    def __init__(self, options: DemoOptions) -> None:
        self.options = options
        self.began = time.monotonic()
        self.stops: list[str] = []
        self._moving_since = self._simulated_since = math.inf
        self._lifted_since = math.inf
        self._stopped_since = math.inf

    def elapsed(self) -> float:
        """Since the start [s]."""
        return time.monotonic() - self.began

    def verdict(self, live: Live) -> str:
        """Why it is over; empty while it is not."""
        now, simulated = time.monotonic(), float(live.truth.get("sim_time", 0.0))
        if live.certified:
            self._moving_since = min(self._moving_since, now)
            self._simulated_since = min(self._simulated_since, simulated)
        if live.truth.get("lifted"):
            self._lifted_since = min(self._lifted_since, now)
        if now - self._lifted_since > AFTERWARDS:
            return DONE
        if live.mode == "FAULT" or (live.mode == "STOPPED" and len(self.stops) >= self.options.resumes):
            return f"the arm was stopped: {live.mode_text}"
        if simulated - self._simulated_since > self.options.timeout or now - self._moving_since > SLOWEST * self.options.timeout:
            return f"the mug was not lifted within {self.options.timeout:.0f} s"
        if not live.certified and self.elapsed() > self.options.start_timeout:
            return f"no plan was certified within {self.options.start_timeout:.0f} s"
        return ""

    def resume_due(self, live: Live) -> bool:
        """Whether the arm has been stopped long enough for an operator to look and resume; asked when it is not over."""
        now = time.monotonic()
        self._stopped_since = min(self._stopped_since, now) if live.mode == "STOPPED" else math.inf
        return now - self._stopped_since > BEFORE_RESUME

    def resumed(self, why: str) -> None:
        """The operator has resumed."""
        self.stops.append(why)
        self._stopped_since = math.inf


def _follow(watch: Watch, launched: Launched, recorder: Recorder, console: Console) -> str:
    """Show what goes on until it is over; returns why it is."""
    told = ""
    screen = Screen(console=console, refresh_per_second=4, transient=False) if console.is_terminal else None
    try:
        if screen is not None:
            screen.start()
        while True:
            time.sleep(0.25)
            with recorder.lock:
                live, why, doing = recorder.live, watch.verdict(recorder.live), stage(recorder.live)
                waiting = not live.certified and watch.elapsed() > 5.0
                complaints = launched.complaints() if waiting else []
                picture = panel(live, watch.elapsed(), complaints) if screen is not None else None
                line = f"{watch.elapsed():6.1f} s  {doing}; {live.certified} certified, {live.refused.total()} rejected"
                due, stopped = not why and watch.resume_due(live), live.mode_text
            if screen is not None and picture is not None:
                screen.update(picture)
            elif doing != told:
                console.print(line, highlight=False, markup=False)
                told = doing
            if why:
                return "\n  ".join([why, *([] if why == DONE else launched.complaints())])
            if due:
                granted, answer = operator.resume()
                console.print(f"{watch.elapsed():6.1f} s  operator resumes: {answer}", highlight=False, markup=False)
                if granted:
                    watch.resumed(stopped)
            if launched.ended():
                tail = "\n  ".join(launched.last_lines())
                raise ConfigError(f"the graph ended by itself; its log {launched.log} ends with\n  {tail}")
    finally:
        if screen is not None:
            screen.stop()


def _resident(live: Live) -> dict[str, float]:
    """Largest resident memory last reported by each node [MB]."""
    found = {}
    for name, (_, _, values) in live.parts.items():
        if name.endswith(": process") and "rss_mb" in values:
            found[name.removesuffix(": process")] = float(values["rss_mb"])
    return found


def _alone(recorder: Recorder) -> None:
    """Raise ConfigError when another graph is up in this ROS domain: the two would play each other's trajectories."""
    limit = time.monotonic() + DISCOVERY
    while time.monotonic() < limit:
        others = [name for name in recorder.others() if name.rsplit("/", 1)[-1] in NODES]
        if others:
            where = f"ROS_DOMAIN_ID = {os.environ.get('ROS_DOMAIN_ID', '0')}"
            raise ConfigError(f"{where}: {', '.join(others)} run there already; end them, or choose another domain")
        time.sleep(0.1)


def _terminated(number: int, frame: FrameType | None) -> None:
    """End as after Ctrl-C: the graph is brought down first."""
    raise KeyboardInterrupt


@contextmanager
def _controller(options: DemoOptions, scene: MugScene) -> Iterator[list[str]]:
    """For the backend ``fci`` the simulated controller; launch arguments that override the others.

    Raises:
        FciServerError: the simulator is not installed, or does not start.
    """
    if options.backend != "fci":
        yield []
        return
    host = f"127.{128 + os.getpid() % 60}.{os.getpid() // 60 % 250 + 1}.1"
    start = [f"{q:.6f}" for q in scene.start]
    prefix = hardware_priority() if options.patience == 0.0 else ()
    with FciServer(host, options.patience, prefix, ("--start", *start)):
        patient = str(options.patience > 0.0).lower()
        # a controller that waits keeps a time of its own: everybody goes by it
        slow = [f"patient:={patient}", f"use_sim_time:={patient}"]
        yield ["backend:=hardware", f"robot_ip:={host}", "enforce_realtime:=false", "twin:=true", *slow]


def run(options: DemoOptions, console: Console) -> int:
    """The whole demo; 0: mug lifted, no contact, audit passed; 1: not so.

    Raises:
        ConfigError: bad scene, launch file, device or graph.
    """
    scene_path = config_file("scenes", options.scene)
    scene = load_mug_scene(scene_path)
    file = launch_file("bringup")
    if options.device != "cpu":
        from tandem.diffusion.devices import check_device  # torch takes seconds to import

        check_device(options.device, ConfigError, "demo")
    options.out.mkdir(parents=True, exist_ok=True)
    if (options.out / "topics").exists():
        raise ConfigError(f"{options.out / 'topics'}: exists already; choose another folder with --out")
    arguments = [
        f"backend:={options.backend}", f"sampler:={options.sampler}", f"scene:={scene_path}", f"seed:={options.seed}",
        f"safety:={options.safety}", f"device:={options.device}", "rviz:=false", "record:=false", "realtime:=true",
    ]
    what = f"scene {scene.name}, sampler {options.sampler}, seed {options.seed}"
    console.print(f"{what}; results go to {options.out}", highlight=False)
    environment = {"TANDEM_CERTIFICATE_KEY": secrets.token_hex(32)}
    signal.signal(signal.SIGTERM, _terminated)
    with Recorder(options.out / "topics") as recorder, _controller(options, scene) as more:
        _alone(recorder)
        watch = Watch(options)
        with Launched(file, [*arguments, *more], options.out / "launch.log", environment) as launched:
            give_way(RECORDING_NICENESS)
            why = _follow(watch, launched, recorder, console)
    images = recorder.live.parts.get(IMAGES, (0, "", {}))[2]
    meta = {
        "task": "mug", "method": options.sampler, "seed": options.seed, "source": "ros", "scene": scene.name, "ended": why,
        "operator_resumes": len(watch.stops), "stopped_because": "; ".join(watch.stops),
        "camera_hz": float(images["rate_hz"]) if "rate_hz" in images else None,
        "rss_mb": _resident(recorder.live), "rss_mb_max": max(_resident(recorder.live).values(), default=None),
    }
    console.print("reading the recording, auditing it, writing the report ...", highlight=False)
    return finish(options, scene, meta, console)


def finish(options: DemoOptions, scene: MugScene, meta: dict[str, Any], console: Console) -> int:
    """From the recording in ``options.out``: audit, report, verdict."""
    heard = recording.read(options.out / "topics")
    results = audit.audit(heard, load_arm("fr3"), load_bounds(options.safety), at_rest=False)
    audited = [f"{'ok' if c.passed else 'FAILED'}: {c.subject}: {c.text}" for c in results]
    passed = all(c.passed for c in results)
    record: EpisodeRecord = recording.to_record(heard, scene, {**meta, "audit_passed": passed, "audit": audited})
    backend = checks.working_gl()[0] if options.render else ""
    files = {
        "topics/": "the topics as a rosbag2 folder with MCAP storage, for ros2 bag, Foxglove, PlotJuggler",
        "launch.log": "what the nodes printed",
    }
    figures = report.write(record, options.out, render=bool(backend), files=files)
    console.print(audit_table(results))
    good = bool(figures["safe_success"]) and all(c.passed for c in results)
    console.print(Text(str(figures["verdict"]), style="bold green" if good else "bold red"))
    if meta.get("stopped_because"):
        console.print(f"stopped, and resumed by the operator: {meta['stopped_because']}", markup=False, highlight=False)
    if meta.get("ended") not in (None, DONE):
        console.print(str(meta["ended"]), markup=False, highlight=False)
    facts = [f"{figures['certified']} of {figures['plans']} plans certified"]
    if figures["plan_ms_p50"] is not None:
        facts.append(f"plan {figures['plan_ms_p50']:.0f} ms median, {figures['plan_ms_p95']:.0f} ms at 95 %")
    if meta.get("camera_hz") is not None:
        facts.append(f"camera {meta['camera_hz']:.0f} Hz")
    if figures["rtf"] is not None:
        facts.append(f"real-time factor {figures['rtf']}")
    console.print("; ".join(facts), highlight=False)
    console.print(f"report: {options.out / 'index.html'}", highlight=False, soft_wrap=True)
    return 0 if good else 1


def audit_table(results: list[Check]) -> Table:
    """The checks of an audit as a table."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in results:
        mark = Text("ok  ", style="green") if check.passed else Text("fail", style="bold red")
        table.add_row(mark, check.subject, check.text)
    return table
