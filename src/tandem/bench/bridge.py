"""Timing of the fast loop on the FCI simulator while the planner runs at full load, beside a bare libfranka loop in the same run.

Both are measured where it counts, at the other end of the wire: when the answer to each cycle of the arm came, and which cycles
got none. The bare loop does nothing but read, compute a sine, write. Memory and CPU are those of the bridge as it is launched:
the ROS node, the fast loop, the gripper's process.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from tandem.bench.fci_arm import KEY, MOVE, REFLEX, Driver, pieces, simulated_loop, wait_for
from tandem.bench.fci_server import FciServer, Wire, hardware_priority, loop_cpu
from tandem.bench.table import write_table
from tandem.bench.wander import Wanderer
from tandem.execution import realtime
from tandem.execution.client import FastLoopClient
from tandem.execution.types import CertifiedTrajectory, Mode
from tandem.robots.model import ArmModel, load_arm
from tandem.safety.bounds import load_bounds

Array = NDArray[np.float64]
log = logging.getLogger(__name__)
#: at most this much memory [MB] and this share of a core for the bridge with all of its processes
MEMORY, CORE = 300.0, 0.6
#: from a splice's moment to its command on the wire [ms]
LATENCY = 2.0
#: commanded positions are the certified ones to this [rad], where no lost cycles had to be led back from
ERROR = 1e-6
PRIORITY = 50
#: time between two states of the simulated controller [ms] from which on it was itself held up
STALL = 5.0
#: length of a turn [s]: the two loops meet the same moods of the machine
TURN = 10.0
#: how long the bridge is watched [s], and how long its start may take
WATCHED, START = 10.0, 60.0
#: so many times the turns at most, where they end early
AGAIN = 3
#: share of the time asked for that is enough: a turn lacks a little at its ends
ENOUGH = 0.97


def answers(wires: Sequence[Wire]) -> dict[str, Any]:
    """Over all records: times of the answers to the arm's cycles [us], cycles without one, the longest run of those, reflexes."""
    late, missed, longest, cycles, own, rates = [], 0, 0, 0, [np.zeros(1)], []
    for wire in wires:
        own.append(np.diff(wire.state_time) * 1e3)
        if len(wire.cycle) < 2:
            continue
        sent = dict(zip(wire.state_cycle.tolist(), wire.state_time.tolist(), strict=True))
        late += [(t - sent[c]) * 1e6 for c, t in zip(wire.cycle.tolist(), wire.time.tolist(), strict=True) if c in sent]
        gaps = np.diff(np.unique(wire.cycle)) - 1
        # what a reflex ends begins with cycles that no command follows; the last state's answer is on its way
        tail = max(int(wire.state_cycle[wire.mode == MOVE].max(initial=0) - wire.cycle[-1]) - 1, 0)
        missed, longest = missed + int(gaps.sum()) + tail, max(longest, int(gaps.max()), tail)
        cycles += int(wire.cycle[-1] - wire.cycle[0] + 1)
        rates.append(wire.success_rate[wire.success_rate > 0.0][100:])
    gap, rate = np.concatenate(own), np.concatenate(rates) if rates else np.zeros(0)
    p50, p99, p999, top = np.percentile(late, [50, 99, 99.9, 100]) if late else np.full(4, np.nan)
    return {
        "answer_us_p50": float(p50), "answer_us_p99": float(p99), "answer_us_p999": float(p999), "answer_us_max": float(top),
        "cycles": cycles, "missed": missed, "missed_permille": 1e3 * missed / max(cycles, 1), "longest_gap": longest,
        "success_rate_min": float(rate.min()) if len(rate) else float("nan"),
        "server_gap_ms_max": float(gap.max()), "server_stalls": int((gap > STALL).sum()),
        "reflexes": sum(bool((wire.mode == REFLEX).any()) for wire in wires),
    }  # fmt: skip


def bare(host: str, seconds: float) -> None:
    """The bare loop; a process of its own. It ends where a reflex ends it."""
    import pylibfranka

    robot = pylibfranka.Robot(host, pylibfranka.RealtimeConfig.kIgnore)
    if robot.read_once().robot_mode == pylibfranka.RobotMode.Reflex:
        robot.automatic_error_recovery()
    realtime.request(PRIORITY, loop_cpu(), True)
    realtime.freeze_heap()
    control = robot.start_joint_position_control(pylibfranka.ControllerMode.JointImpedance)
    elapsed, start = 0.0, None
    while elapsed < seconds:
        try:
            state, duration = control.readOnce()
        except pylibfranka.ControlException as error:
            log.warning("bare loop: %s", error)
            return
        if start is None:
            start = list(state.q_d)
        else:
            elapsed += duration.to_sec()
        q = start.copy()
        q[0] += 0.1 * (1.0 - np.cos(np.pi * elapsed / 2.0))
        command = pylibfranka.JointPositions(q)
        command.motion_finished = elapsed >= seconds
        control.writeOnce(command)


@contextmanager
def planner_load() -> Iterator[None]:
    """The real planner, planning without a pause in a process of its own on the first CPU."""
    command = [sys.executable, "-m", "tandem.bench.bridge", "--plan"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        process.stdout.readline()  # it has loaded
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def plan_on() -> None:
    """Plan for ever."""
    from tandem.core.scene import TABLE, Scene
    from tandem.core.trajectory import Trajectory
    from tandem.core.types import Commitment, ObjectPose
    from tandem.tasks.mug.planner import MugPlanner

    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    planner = MugPlanner.load()
    still = Commitment(Trajectory.at_rest(planner.arm.home, 1.0), 0.0, np.full(2, planner.arm.stroke))
    mug = np.eye(4)
    mug[:3, 3] = 0.5, 0.0, 0.0
    sys.stdout.write("planning\n")
    sys.stdout.flush()
    while True:
        planner.plan(ObjectPose(mug, np.eye(6) * 1e-6, 0.0), still, Scene((TABLE,)), 0.5, 0.0)


def splices(wire: Wire, played: list[CertifiedTrajectory]) -> tuple[Array, float]:
    """Time [ms] from each switch time, on the arm's clock, to the arrival of the first command after it; largest error [rad]."""
    sent = dict(zip(wire.state_cycle.tolist(), wire.state_time.tolist(), strict=True))
    out, worst = [], 0.0
    for piece in pieces(wire, played):
        worst = max(worst, piece.error)
        if piece.first_cycle in sent and piece.first_index < len(wire.time):
            answer = wire.time[piece.first_index] - sent[piece.first_cycle]
            out.append((piece.first_late + answer) * 1e3)
    return np.array(out), worst


def bare_turn(server: FciServer, seconds: float) -> Wire:
    """The bare loop's turn."""
    server.record()
    command = [sys.executable, "-m", "tandem.bench.bridge", "--bare", server.host, "--seconds", str(seconds)]
    subprocess.run(command, check=False, timeout=seconds + 60.0)
    return server.recorded()


@dataclass
class Turns:
    """What the fast loop's turns leave: records, and what only it has."""

    wires: list[Wire] = field(default_factory=list)
    latency: list[float] = field(default_factory=list)
    error: float = 0.0
    rejoins: int = 0
    work: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    memory: float = 0.0
    realtime: bool = True

    def add(self, server: FciServer, arm: ArmModel, seconds: float, seed: int) -> None:
        """One turn."""
        wanderer = Wanderer(arm, load_bounds(), KEY, seed)
        with FastLoopClient(simulated_loop(arm, server.host), KEY) as client:
            driver = Driver(client, wanderer)
            processes = [psutil.Process(client.pid), *psutil.Process(client.pid).children()]
            if client.state().mode >= Mode.STOPPING:
                client.resume()  # a reflex of the turn before
            driver.go()
            wait_for(client, Mode.HEAD)
            driver.forget()
            server.record()
            for process in processes:
                process.cpu_percent()
            limit = time.monotonic() + seconds
            while time.monotonic() < limit and client.state().mode < Mode.STOPPING:
                time.sleep(0.02)
            self.cpu.append(sum(p.cpu_percent() for p in processes) / 100.0)
            self.memory = max(self.memory, sum(p.memory_info().rss for p in processes) / 1e6)
            stamp = client.state().stamp
            wire, state = server.recorded(), client.state()
            driver.hold()
            wait_for(client, Mode.IDLE, Mode.STOPPED)
            driver.close()
        self.wires.append(wire)
        begun = [p for p in driver.played if p.proposal.switch_time <= stamp]  # what still waits is not on the wire
        if state.mode < Mode.STOPPING and begun:
            latency, error = splices(wire, begun)
            self.latency += latency.tolist()
            self.error = max(self.error, error)
        self.rejoins += state.arm.rejoins
        self.work.append(state.work_mean * 1e6)
        self.realtime = self.realtime and state.realtime

    def figures(self) -> dict[str, Any]:
        """All of them together."""
        out = answers(self.wires)
        if self.latency:
            out |= {"certified_error_rad": f"{self.error:.1e}", "rejoins": self.rejoins, "splices": len(self.latency)}
            out |= {"splice_ms_p50": float(np.median(self.latency)), "splice_ms_max": max(self.latency)}
        own = {"work_us_mean": float(np.mean(self.work)), "cpu_cores": float(np.mean(self.cpu))}
        return out | own | {"rss_mb": self.memory, "realtime": self.realtime}


def bridge_use(host: str, seconds: float) -> dict[str, Any]:
    """Memory [MB] and CPU [cores] of the launched bridge while the arm holds its position under control, for ``seconds``.

    Memory is each process' proportional share (PSS, what they share counts once); ``rss_mb`` counts it in each. Empty where
    rclpy is not installed. The fast loop costs the same in motion: see its own turns.
    """
    if importlib.util.find_spec("rclpy") is None:
        return {}
    options = json.dumps({"ip": host, "realtime": False})
    command = [sys.executable, "-m", "tandem.nodes.franka_bridge", "--ros-args", "--log-level", "warn"]
    for name, value in {"backend": "fci", "backend_options": options, "cpu": loop_cpu(), "owner_timeout": 5.0}.items():
        command += ["-p", f"{name}:={value!r}" if isinstance(value, str) else f"{name}:={value}"]
    environment = {**os.environ, "TANDEM_CERTIFICATE_KEY": KEY.hex(), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    node = subprocess.Popen(command, env=environment)
    try:
        me, limit = psutil.Process(node.pid), time.monotonic() + START
        while len(me.children(recursive=True)) < 2:  # the fast loop, and the gripper's process once the arm has answered
            if node.poll() is not None or time.monotonic() > limit:
                log.warning("the bridge did not start")
                return {}
            time.sleep(0.05)
        time.sleep(3.0)  # it takes control, discovers, says everything once
        processes = [me, *me.children(recursive=True)]
        for process in processes:
            process.cpu_percent()
        time.sleep(seconds)
        cpu = [p.cpu_percent() / 100.0 for p in processes]
        memory = [p.memory_full_info() for p in processes]
        return {
            "cpu_cores": sum(cpu), "node_cpu_cores": cpu[0], "memory_mb": sum(m.pss for m in memory) / 1e6,
            "rss_mb": sum(m.rss for m in memory) / 1e6,
        }
    except psutil.NoSuchProcess:
        log.warning("the bridge has ended")
        return {}
    finally:
        node.send_signal(signal.SIGINT)
        try:
            node.wait(20.0)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()


def span_of(wires: Sequence[Wire]) -> float:
    """Time of all records [s]."""
    return sum(float(w.cycle[-1] - w.cycle[0] + 1) * 1e-3 for w in wires if len(w.cycle))


def run(out: Path, quick: bool = False, seconds: float = 60.0, seed: int = 0, host: str = "127.0.0.1") -> Path | int:
    """Bare loop and fast loop in turn, ``seconds`` each in all (``quick``: 8); table.json and table.md in ``out``.

    A turn ends early where a reflex ends it; then there are more (:data:`AGAIN`). Returns 1 when a target is missed.
    """
    began, span = time.monotonic(), 8.0 if quick else seconds
    arm, bares, turns = load_arm("fr3"), list[Wire](), Turns()
    count = max(round(span / TURN), 2)
    with FciServer(host, prefix=hardware_priority()) as server, planner_load():
        for n in range(AGAIN * count):
            for which in ("bare", "ours") if n % 2 == 0 else ("ours", "bare"):
                if which == "bare" and span_of(bares) < ENOUGH * span:
                    bares.append(bare_turn(server, span / count))
                    log.info("turn %d: bare %s", n + 1, answers(bares[-1:]))
                elif which == "ours" and span_of(turns.wires) < ENOUGH * span:
                    turns.add(server, arm, span / count, seed + n)
                    log.info("turn %d: fast loop %s", n + 1, answers(turns.wires[-1:]))
        use = bridge_use(server.host, min(WATCHED, span))
    theirs, ours = answers(bares), turns.figures()
    common = {"task": "fci", "condition": "planner at full load"}
    rows = [
        {**common, "method": "bare pylibfranka", "n": len(bares), **theirs},
        {**common, "method": "fast loop", "n": len(turns.wires), **ours},
        *([{**common, "method": "bridge: node, fast loop, gripper", "n": 1, **use}] if use else []),
    ]
    good = ours["reflexes"] * len(bares) <= theirs["reflexes"] * len(turns.wires)
    good = good and ours["missed_permille"] <= theirs["missed_permille"]
    good = good and (use or ours).get("memory_mb", ours["rss_mb"]) <= MEMORY and (use or ours)["cpu_cores"] <= CORE
    good = good and ours.get("splice_ms_p50", np.inf) <= LATENCY
    good = good and (turns.error <= ERROR or turns.rejoins > 0)
    notes = (
        f"The two loops in turns of {span / count:.0f} s, who is first changes; a reflex ends a turn. Targets: no more missed "
        f"cycles than the bare loop and no more reflexes a turn, splice to wire within {LATENCY} ms, commands certified to "
        f"{ERROR} rad, at most {MEMORY:.0f} MB and {CORE} cores for the bridge with its processes (memory_mb counts what they "
        "share once, rss_mb in each). Times from the state sent to the answer received, at the simulator; server_stalls: pauses "
        f"of the simulator itself of more than {STALL:.0f} ms between two states, which no client can make good."
    )
    command = f"tandem bench bridge{' --quick' if quick else f' --seconds {seconds:.0f}'}"
    write_table(out, rows, command=command, seeds=[seed], wall_s=time.monotonic() - began, notes=notes)
    return out if good else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--bare", default="")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--plan", action="store_true")
    arguments = parser.parse_args()
    plan_on() if arguments.plan else bare(arguments.bare, arguments.seconds)
