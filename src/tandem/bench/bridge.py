"""Timing of the fast loop on the FCI simulator while the planner runs at full load, beside a bare libfranka loop in the same run.

Both are measured where it counts, at the other end of the wire: when the answer to each cycle of the arm came, and which cycles
got none. The bare loop does nothing but read, compute a sine, write.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from tandem.bench.fci_arm import KEY, Driver, pieces, simulated_loop, wait_for
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
#: at most this much memory [MB] and this share of a core for the fast loop with the gripper's process
MEMORY, CORE = 300.0, 0.6
#: from a splice's moment to its command on the wire [ms]
LATENCY = 2.0
PRIORITY = 50
#: time between two states of the simulated controller [ms] from which on it was itself held up
STALL = 5.0


def answers(wire: Wire) -> dict[str, Any]:
    """Times of the answers to the arm's cycles [us], cycles without one, and the longest run of those."""
    sent = dict(zip(wire.state_cycle.tolist(), wire.state_time.tolist(), strict=True))
    late = np.array([(t - sent[c]) * 1e6 for c, t in zip(wire.cycle.tolist(), wire.time.tolist(), strict=True) if c in sent])
    gaps = np.diff(np.unique(wire.cycle))
    own = np.diff(wire.state_time) * 1e3
    p50, p99, p999 = np.percentile(late, [50, 99, 99.9])
    rate = wire.success_rate[wire.success_rate > 0.0]
    return {
        "answer_us_p50": float(p50), "answer_us_p99": float(p99), "answer_us_p999": float(p999),
        "answer_us_max": float(late.max()),
        "cycles": int(wire.cycle[-1] - wire.cycle[0] + 1), "missed": int((gaps - 1).sum()), "longest_gap": int(gaps.max() - 1),
        "success_rate_min": float(rate[100:].min()) if len(rate) > 100 else float("nan"),
        "server_gap_ms_max": float(own.max()), "server_stalls": int((own > STALL).sum()), "reflex": bool((wire.mode == 4).any()),
    }  # fmt: skip


def bare(host: str, seconds: float) -> None:
    """The bare loop; a process of its own."""
    import pylibfranka

    robot = pylibfranka.Robot(host, pylibfranka.RealtimeConfig.kIgnore)
    realtime.request(PRIORITY, loop_cpu(), True)
    realtime.freeze_heap()
    control = robot.start_joint_position_control(pylibfranka.ControllerMode.JointImpedance)
    elapsed, start = 0.0, None
    while elapsed < seconds:
        state, duration = control.readOnce()
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


def bare_row(server: FciServer, seconds: float) -> dict[str, Any]:
    """The bare loop's line."""
    server.record()
    command = [sys.executable, "-m", "tandem.bench.bridge", "--bare", server.host, "--seconds", str(seconds)]
    subprocess.run(command, check=False, timeout=seconds + 60.0)
    return answers(server.recorded())


def loop_row(server: FciServer, arm: ArmModel, seconds: float, seed: int) -> dict[str, Any]:
    """The fast loop's line: the same figures, and what only it has."""
    wanderer = Wanderer(arm, load_bounds(), KEY, seed)
    with FastLoopClient(simulated_loop(arm, server.host), KEY) as client:
        driver = Driver(client, wanderer)
        processes = [psutil.Process(client.pid), *psutil.Process(client.pid).children()]
        driver.go()
        wait_for(client, Mode.HEAD)
        driver.forget()
        server.record()
        for process in processes:
            process.cpu_percent()
        time.sleep(seconds)
        cpu = sum(p.cpu_percent() for p in processes) / 100.0
        memory = sum(p.memory_info().rss for p in processes) / 1e6
        wire, state = server.recorded(), client.state()
        driver.hold()
        wait_for(client, Mode.IDLE, Mode.STOPPED)
        driver.close()
    out = answers(wire)
    if state.mode < Mode.STOPPING and driver.played:
        latency, error = splices(wire, driver.played)
        out |= {"certified_error_rad": f"{error:.1e}", "rejoins": state.arm.rejoins, "splices": len(latency)}
        out |= {"splice_ms_p50": float(np.median(latency)), "splice_ms_max": float(latency.max())} if len(latency) else {}
    return out | {"work_us_mean": state.work_mean * 1e6, "cpu_cores": cpu, "rss_mb": memory, "realtime": state.realtime}


def run(out: Path, quick: bool = False, seconds: float = 60.0, seed: int = 0, host: str = "127.0.0.1") -> Path | int:
    """Bare loop and fast loop, ``seconds`` each (``quick``: 8); table.json and table.md in ``out``; 1 when a target is missed."""
    began, span = time.monotonic(), 8.0 if quick else seconds
    arm, rows = load_arm("fr3"), []
    with FciServer(host, prefix=hardware_priority()) as server, planner_load():
        for method in ("bare pylibfranka", "fast loop"):
            figures = loop_row(server, arm, span, seed) if method == "fast loop" else bare_row(server, span)
            rows.append({"task": "fci", "method": method, "condition": "planner at full load", "n": 1, **figures})
            log.info("%s", rows[-1])
    theirs, ours = rows
    good = not ours["reflex"] and ours["missed"] <= theirs["missed"] and ours["rss_mb"] <= MEMORY and ours["cpu_cores"] <= CORE
    good = good and ours.get("splice_ms_p50", np.inf) <= LATENCY
    notes = (
        f"Targets: no more missed cycles than the bare loop, splice to wire within {LATENCY} ms, at most {MEMORY:.0f} MB and "
        f"{CORE} cores. Times from the state sent to the answer received, at the simulator; server_stalls: pauses of the "
        f"simulator itself of more than {STALL:.0f} ms between two states, which no client can make good."
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
