"""Fault table of a real arm's backend: each fault injected for real into a moving arm on the FCI simulator, many times.

What counts: how soon the arm stands, in which state everything ends, that the documented step brings it back, that nothing was
commanded off the certified path, that nothing hangs, and that no process and no shared memory is left over.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import logging
import os
import pickle
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tandem.bench.fci_arm import IDLE, KEY, REFLEX, Driver, off_path, rest_after, simulated_loop, wait_for
from tandem.bench.fci_server import FciServer, FciServerError, hardware_priority
from tandem.bench.table import write_table
from tandem.bench.wander import Wanderer
from tandem.core.certificate import sign
from tandem.core.errors import InputError
from tandem.execution import fast_loop
from tandem.execution.backends import fci
from tandem.execution.client import FastLoopClient, FastLoopError
from tandem.execution.fci.rejoin import FARTHEST
from tandem.execution.messages import LoopState
from tandem.execution.types import CertifiedTrajectory, Mode, to_ns
from tandem.robots.model import load_arm
from tandem.safety.bounds import load_bounds

log = logging.getLogger(__name__)
LATCHED = (Mode.STOPPED, Mode.FAULT)
#: commands may be so far from samples of the certified path: their spacing [rad]; after lost cycles also what is carried along
ON_PATH = 5e-4
#: a trial that an unplanned stop spoils (a busy machine) is tried again so often
TRIES = 15
#: a recovery counts when the arm moves again after this many steps at most: late commands may stop it anew in between
RECOVERIES = 3
#: commands so far apart from the injection show that the arm was still led [s]
STILL_SENT = 0.05
#: file that makes the clock of a loop step, see :func:`stepping`
STEP_FILE = "TANDEM_BENCH_CLOCK_STEP"


@dataclass
class Trial:
    """One injection: what was seen. Times [ms]; None where it does not apply.

    ``off_path`` [rad]: how far commands came from the certified path. ``carried`` [rad]: the same where cycles were lost since
    the arm stood, and commands led back smoothly: within the certified tracking error by design (module ``fci.rejoin``).
    ``hung``: a stop that did not end, or a loop that gives no sign of life after recovery. ``leaked``: processes, shared memory.
    """

    stopped_ms: float | None = None
    noticed_ms: float | None = None
    state: str = ""
    recovered: bool = False
    off_path: float = 0.0
    carried: float = 0.0
    hung: bool = False
    leaked: int = 0
    error: str = ""


@dataclass
class Bench:
    """The simulator and the loop that drives it; one for all trials of a fault."""

    server: FciServer
    wanderer: Wanderer
    backend: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    client: FastLoopClient | None = None
    driver: Driver | None = None
    announce: Callable[[CertifiedTrajectory, bool], None] = lambda plan, wanted: None

    def connect(self) -> FastLoopClient:
        """A new loop, once the arm can be had."""
        self.disconnect()
        limit = time.monotonic() + 40.0
        while True:
            client = FastLoopClient(self.config(), KEY)
            try:
                client.start(20.0)
                break
            except FastLoopError:
                if time.monotonic() > limit:
                    raise
                time.sleep(0.2)
        self.client = client
        self.driver = Driver(client, self.wanderer, announce=self.announce)
        return client

    def config(self) -> fast_loop.LoopConfig:
        """How the loop is set up."""
        from dataclasses import replace

        config = simulated_loop(self.wanderer.arm, self.server.host, patient=self.server.patience > 0.0)
        return replace(config, backend=self.backend) if self.backend else config

    def disconnect(self) -> None:
        """End the loop."""
        if self.driver is not None:
            self.driver.close()
        if self.client is not None:
            self.client.close()
        self.client = self.driver = None

    def resume(self, timeout: float = 20.0) -> bool:
        """The documented step after a stop: resume, again while something is in the way."""
        assert self.client is not None
        limit, said = time.monotonic() + timeout, "no answer"
        while time.monotonic() < limit:
            with contextlib.suppress(FastLoopError):
                if self.client.state().mode < Mode.STOPPING:
                    return True
                result = self.client.resume()
                if result.accepted:
                    return True
                said = result.text
            time.sleep(0.1)
        log.info("not resumed: %s", said)
        return False

    def moving(self, timeout: float = 20.0) -> bool:
        """Let the arm wander and wait until it does."""
        assert self.client is not None and self.driver is not None
        self.driver.forget()
        self.driver.go()
        limit = time.monotonic() + timeout
        while time.monotonic() < limit:
            state = self.client.state()
            if state.mode is Mode.HEAD and np.abs(state.command_v).max() > 0.1:
                return True
            if state.mode in LATCHED:
                log.info("stopped by itself: %s", state.text)
                return False
            time.sleep(0.002)
        log.info("does not move: %s %s %s", state.mode.name, state.text, state.last_rejection.name)
        return False


Inject = Callable[[Bench], None]
Undo = Callable[[Bench], None]


@dataclass(frozen=True)
class Fault:
    """How a fault is injected and undone; ``stops``: whether the arm must stop (None: it may). ``restart``: the loop is gone."""

    name: str
    inject: Inject
    undo: Undo = lambda bench: None
    stops: bool | None = True
    restart: bool = False


# ---- the faults -----------------------------------------------------------------------------------------------------------


def kill_loop(bench: Bench) -> None:
    """The process that holds the executor dies."""
    assert bench.client is not None
    os.kill(bench.client.pid, signal.SIGKILL)


def pause_loop(seconds: float) -> Inject:
    """The process is held up."""

    def inject(bench: Bench) -> None:
        assert bench.client is not None
        os.kill(bench.client.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(bench.client.pid, signal.SIGCONT)

    return inject


def flood(bench: Bench) -> None:
    """A planner gone mad: forged and stale trajectories at 1 kHz for a second, beside the good ones."""
    assert bench.client is not None and bench.driver is not None
    good = bench.driver.played[-1]
    late = good.proposal
    forged = CertifiedTrajectory(late, good.verdict_digest, sign(b"x" * 16, good.verdict_digest, late.digest(), to_ns(1.0)))
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        bench.client.send(forged)
        bench.client.send(good)
        time.sleep(0.0009)


def restart_server(bench: Bench) -> None:
    """The arm's controller loses its power."""
    bench.server.cut()


@contextmanager
def namespace() -> Iterator[tuple[str, str, str]]:
    """A network namespace with one cable to it: its name, the address inside, the cable's end here.

    Raises:
        InputError: not allowed here.
    """
    tag = secrets.token_hex(3)
    name, here, there = f"tandem-{tag}", f"tfa{tag}", f"tfb{tag}"
    net = f"10.{200 + int(tag[:2], 16) % 50}.{int(tag[2:4], 16)}"
    commands = [
        f"ip netns add {name}", f"ip link add {here} type veth peer name {there}", f"ip link set {there} netns {name}",
        f"ip addr add {net}.1/24 dev {here}", f"ip link set {here} up",
        f"ip netns exec {name} ip addr add {net}.2/24 dev {there}",
        f"ip netns exec {name} ip link set {there} up", f"ip netns exec {name} ip link set lo up",
    ]  # fmt: skip
    try:
        for command in commands:
            done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
            if done.returncode:
                raise InputError(f"{command}: {done.stderr.strip()}")
        yield name, f"{net}.2", here
    except FileNotFoundError as error:
        raise InputError(str(error)) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(["ip", "link", "del", here], capture_output=True, check=False)
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def stepping(options: dict[str, Any]) -> fci.FciBackend:
    """The backend, in a loop whose wall clock steps by 0.2 s while the file named by :data:`STEP_FILE` exists.

    The machine's own clock is everybody's; this is the loop's alone.
    """
    file = os.environ[STEP_FILE]

    def wall_ns() -> int:
        return time.time_ns() + (200_000_000 if os.path.exists(file) else 0)

    start = sys.modules["__main__"].FastLoop.__init__  # type: ignore[attr-defined]  # the loop's module is the program here
    start.__defaults__ = (wall_ns, *start.__defaults__[1:])
    return fci.make(options)


def step_clock(on: bool) -> Inject:
    """The loop's wall clock is set forward."""

    def inject(bench: Bench) -> None:
        file = Path(os.environ[STEP_FILE])
        file.touch() if on else file.unlink(missing_ok=True)

    return inject


def ask(do: str, **values: Any) -> Inject:
    """Something that the simulator does on request."""

    def inject(bench: Bench) -> None:
        bench.server.ask(do, **values)

    return inject


FAULTS = (
    Fault("executor killed", kill_loop, restart=True),
    Fault("fast loop paused 5 ms", pause_loop(0.005), stops=None),
    Fault("fast loop paused 20 ms", pause_loop(0.020), stops=None),
    Fault("fast loop paused 50 ms", pause_loop(0.050)),
    Fault("fast loop paused 200 ms", pause_loop(0.200)),
    Fault("planner flooding at 1 kHz", flood, stops=None),
    Fault("server restarted", restart_server, lambda bench: bench.server.start()),
    Fault("reflex provoked", ask("reflex", name="joint_reflex")),
    Fault("user stop", ask("mode", mode="user_stopped"), ask("mode", mode="execution")),
    Fault("gripper disconnected", ask("gripper", on=False), ask("gripper", on=True)),
)
OWNER, NETWORK = "bridge killed -9", "network cut and restored"
CLOCK = Fault("clock stepped", step_clock(True), step_clock(False))


# ---- one trial ------------------------------------------------------------------------------------------------------------


def describe(state: LoopState) -> str:
    """Where everything has ended."""
    arm = state.arm.state.name
    return f"{state.mode.name}/{state.reason.name}, arm {arm}" if state.mode in LATCHED else f"goes on, arm {arm}"


def observe(bench: Bench, fault: Fault, injected: float, trial: Trial) -> None:
    """Wait until the fault has shown, and for how long that took."""
    assert bench.client is not None and bench.driver is not None
    limit = injected + (4.0 if fault.stops else 1.2)
    while time.monotonic() < limit:
        if fault.restart and not bench.client.alive:
            trial.noticed_ms, trial.state = (time.monotonic() - injected) * 1e3, "fast loop ended, bridge says so"
            return
        state = bench.client.state()
        if state.mode >= Mode.STOPPING:
            trial.noticed_ms = (time.monotonic() - injected) * 1e3
            trial.hung = not wait_for(bench.client, *LATCHED, timeout=10.0)
            break
        time.sleep(0.001)
    trial.state = describe(bench.client.state())


def run_trial(bench: Bench, fault: Fault) -> Trial | None:
    """Inject once; None when the arm had stopped by itself before."""
    trial = Trial()
    client = bench.client if bench.client is not None and bench.client.alive else bench.connect()
    driver = bench.driver
    assert driver is not None
    if not bench.resume():
        return None
    rejoins = client.state().arm.rejoins  # from standstill on: a way back that has begun before the record does is in it, too
    if not bench.moving():
        return None
    with contextlib.suppress(FciServerError):
        bench.server.record()
    children = psutil.Process(client.pid).children(recursive=True)
    before = set(os.listdir("/dev/shm"))
    time.sleep(0.1 + 0.3 * np.random.default_rng().random())
    if client.state().mode in LATCHED:
        return None
    injected = time.monotonic()
    fault.inject(bench)
    observe(bench, fault, injected, trial)
    driver.hold()
    time.sleep(0.3)
    try:
        wire = bench.server.recorded()
    except FciServerError:
        wire = None  # it has gone, its record too
    if wire is not None and driver.played:
        trial.off_path = off_path(wire, driver.played)[0]
        if trial.noticed_ms is not None and bench.server.pid:  # a simulated arm ends with its controller, without rest
            trial.stopped_ms = rest_after(wire, injected) * 1e3
    if not fault.restart and trial.off_path <= ON_PATH + FARTHEST and client.state().arm.rejoins > rejoins:
        trial.carried, trial.off_path = trial.off_path, 0.0
    elif trial.off_path > ON_PATH:
        log.warning("%s: %.2f mrad off the certified path: %s", fault.name, 1e3 * trial.off_path, client.log()[-600:])
    fault.undo(bench)
    if fault.restart:
        bench.connect()
    trial.recovered = any(bench.resume() and bench.moving() for _ in range(RECOVERIES))
    assert bench.driver is not None and bench.client is not None
    trial.hung = trial.hung or bool(bench.client.fault(10.0))
    bench.driver.hold()
    if fault.restart:
        gone, alive = psutil.wait_procs(children, 5.0)
        trial.leaked = len(alive) + sum("tandem" in n for n in set(os.listdir("/dev/shm")) - before)
        del gone
    return trial


# ---- the owner's death ------------------------------------------------------------------------------------------------------


def own(host: str, seed: int, patience: float, plans: Path) -> None:
    """A process that owns a loop and keeps its arm wandering, as the bridge does; says the loop's process id and waits.

    What it is about to submit goes into the file ``plans`` first, what was refused once more, for whoever judges the motion
    when it is dead.
    """
    with plans.open("ab", buffering=0) as file:

        def announce(plan: CertifiedTrajectory, wanted: bool) -> None:
            pickle.dump((plan, wanted), file)

        bench = Bench(FciServer(host, patience), Wanderer(load_arm("fr3"), load_bounds(), KEY, seed), announce=announce)
        client = bench.connect()
        if not any(bench.resume() and bench.moving() for _ in range(TRIES)):
            return
        sys.stdout.write(f"{client.pid}\n")
        sys.stdout.flush()
        threading.Event().wait()


def announced(file: Path) -> list[CertifiedTrajectory]:
    """What :func:`own` has written and was not refused; the last one may have been cut."""
    plans: dict[str, CertifiedTrajectory] = {}
    with file.open("rb") as stream, contextlib.suppress(EOFError, pickle.UnpicklingError):
        while True:
            plan, wanted = pickle.load(stream)
            digest = plan.proposal.trajectory.digest()
            if wanted:
                plans[digest] = plan
            else:
                del plans[digest]
    return list(plans.values())


def kill_owner(bench: Bench, seed: int) -> Trial | None:
    """``bridge killed -9``: nobody is left but the loop, which brings the arm to rest and ends."""
    bench.disconnect()
    trial = Trial()
    command = [sys.executable, "-m", "tandem.bench.faults", "--own", bench.server.host, "--seed", str(seed)]
    folder = tempfile.TemporaryDirectory(prefix="tandem-faults-")
    plans = Path(folder.name) / "plans"
    command += ["--patience", str(bench.server.patience), "--plans", str(plans)]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    try:
        line = owner.stdout.readline()
        if not line.strip():
            return None
        family = psutil.Process(owner.pid).children(recursive=True)
        bench.server.record()
        time.sleep(0.3)
        injected = time.monotonic()
        owner.kill()
        gone, alive = psutil.wait_procs(family, 8.0)
        trial.noticed_ms = (time.monotonic() - injected) * 1e3
        del gone
        trial.leaked = len(alive)
        wire = bench.server.recorded()
        if not trial.leaked and not np.any(np.abs(wire.time - injected) < STILL_SENT):
            return None  # it had stopped by itself
        trial.stopped_ms = rest_after(wire, injected) * 1e3
        trial.off_path = off_path(wire, announced(plans))[0]
        speed = np.abs(np.diff(wire.q, axis=0)).max(1) * 1e3
        if len(speed) and speed[-1] < 1e-3:
            trial.state = "fast loop came to rest and ended"
        else:
            # after lost cycles: stopped by the controller, or given up by the loop, whose controller then stops it
            last = {REFLEX: "REFLEX", IDLE: "IDLE"}.get(int(wire.mode[-1]) if len(wire.mode) else -1)
            trial.state = f"fast loop ended, arm {last}" if last else "motion cut off"
    finally:
        owner.kill()
        owner.wait()
        owner.stdout.close()
        folder.cleanup()
    bench.connect()
    trial.recovered = any(bench.resume() and bench.moving() for _ in range(RECOVERIES))
    return trial


# ---- the table --------------------------------------------------------------------------------------------------------------


def row(name: str, stops: bool | None, trials: list[Trial]) -> dict[str, Any]:
    """One line of the table."""

    def span(values: list[float | None]) -> str:
        known = [v for v in values if v is not None]
        return f"{np.median(known):.0f} / {max(known):.0f}" if known else "-"

    states: dict[str, int] = {}
    for trial in trials:
        states[trial.state] = states.get(trial.state, 0) + 1
    off = sum(t.off_path > ON_PATH for t in trials)
    stopped = [t.noticed_ms is not None for t in trials]
    good = not off and all(t.recovered and not t.leaked and not t.hung for t in trials)
    good = good and (stops is None or all(s == stops for s in stopped))
    return {
        "task": "fci", "method": "faults", "condition": name, "n": len(trials),
        "stopped_ms": span([t.stopped_ms for t in trials]), "noticed_ms": span([t.noticed_ms for t in trials]),
        "state": "; ".join(f"{k} ({v})" for k, v in states.items()), "recovered": sum(t.recovered for t in trials),
        "off_path_mrad": 1e3 * max(t.off_path for t in trials), "carried_mrad": 1e3 * max(t.carried for t in trials),
        "uncertified": off, "hung": sum(t.hung for t in trials),
        "leaked": sum(t.leaked for t in trials), "ok": bool(good),
    }  # fmt: skip


def attempt(what: Callable[[], Trial | None], name: str) -> Trial:
    """A trial, again when it was spoiled before the injection."""
    for _ in range(TRIES):
        trial = what()
        if trial is not None:
            return trial
        log.info("%s: stopped by itself before the injection, again", name)
    return Trial(state="no trial: the arm kept stopping by itself")


def repeat(bench: Bench, what: Callable[[], Trial | None], name: str, count: int) -> list[Trial]:
    """``count`` trials. Processes that are still there when the loop was told to end count as leaked by the last one."""

    def children() -> dict[int, psutil.Process]:
        return {p.pid: p for p in psutil.Process().children(recursive=True)}

    before = children()
    try:
        trials = [attempt(what, name) for _ in range(count)]
    finally:
        bench.disconnect()
    left = [p for pid, p in children().items() if pid not in before and pid != bench.server.pid]
    trials[-1].leaked += len(psutil.wait_procs(left, 5.0)[1])
    return trials


def run(
    out: Path, quick: bool = False, repeats: int = 20, seed: int = 0, host: str = "127.0.0.1", only: str = "",
    patience: float = 0.0,
) -> Path | int:
    """All faults (``only``: those with this in their names), ``repeats`` times each (``quick``: once); table.json, table.md.

    ``patience`` [s]: how long the simulated arm waits for late answers, where a busy machine cannot keep its time; pauses then
    stop nothing. Returns 1 when a fault was not handled.
    """
    began, count = time.monotonic(), 1 if quick else repeats
    wanderer = Wanderer(load_arm("fr3"), load_bounds(), KEY, seed)
    rows = []
    os.environ[STEP_FILE] = str(Path(f"/dev/shm/bench-clock-{os.getpid()}"))
    with FciServer(host, patience, prefix=hardware_priority()) as server:
        for fault in (f for f in (*FAULTS, CLOCK) if only in f.name):
            bench = Bench(server, wanderer, "tandem.bench.faults:stepping" if fault is CLOCK else "")
            try:
                trials = repeat(bench, lambda b=bench, f=fault: run_trial(b, f), fault.name, count)  # type: ignore[misc]
            finally:
                fault.undo(bench) if fault is CLOCK else None
            rows.append(row(fault.name, fault.stops, trials))
            log.info("%s: %s", fault.name, rows[-1])
        if only in OWNER:
            rows.append(owner_row(server, wanderer, count, seed))
    if only in NETWORK:
        rows.append(cut_network(wanderer, count, patience))
    notes = (
        "stopped, noticed: median / longest. stopped: from the injection until the arm stands; noticed: until the owner of the "
        "fast loop knows. off_path: commands from the certified path; carried: the same while commands led back after lost "
        f"cycles. recovered: by `franka/resume` (up to {RECOVERIES} times, where late commands stopped the arm anew), or by a "
        "new start where the loop or its owner had died. hung: stops that did not end, loops without a sign of life afterwards. "
        "leaked: processes and shared memory that stay. A controller without power takes the simulated arm with it: it does not "
        "come to rest, its record ends."
    )
    command = f"tandem bench faults{' --quick' if quick else f' --repeats {repeats}'}"
    write_table(out, rows, command=command, seeds=[seed], wall_s=time.monotonic() - began, notes=notes)
    return out if all(r["ok"] for r in rows) else 1


def owner_row(server: FciServer, wanderer: Wanderer, count: int, seed: int) -> dict[str, Any]:
    """The process that owns the fast loop is killed."""
    bench, seeds = Bench(server, wanderer), itertools.count(seed)
    return row(OWNER, True, repeat(bench, lambda: kill_owner(bench, next(seeds)), OWNER, count))


def cut_network(wanderer: Wanderer, count: int, patience: float) -> dict[str, Any]:
    """The cable is pulled, and put back, between this machine and a controller in a network of its own."""
    name = NETWORK
    try:
        with namespace() as (net, address, cable):

            def link(state: str) -> Inject:
                def switch(bench: Bench) -> None:
                    subprocess.run(["ip", "link", "set", cable, state], check=True)

                return switch

            options = ("--any-address",)
            prefix = ("ip", "netns", "exec", net, *hardware_priority())
            with FciServer(address, patience, prefix, options) as server:
                bench, fault = Bench(server, wanderer), Fault(name, link("down"), link("up"))
                return row(name, True, repeat(bench, lambda: run_trial(bench, fault), name, count))
    except InputError as error:
        return {"task": "fci", "method": "faults", "condition": name, "n": 0, "state": f"not available here: {error}", "ok": True}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--own", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=0.0)
    parser.add_argument("--plans", type=Path, required=True)
    arguments = parser.parse_args()
    own(arguments.own, arguments.seed, arguments.patience, arguments.plans)
