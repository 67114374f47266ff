"""The fast loop on the FCI simulator, as benchmarks and tests run it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from tandem.bench.fci_server import Wire, loop_cpu
from tandem.bench.wander import Wanderer
from tandem.core.trajectory import Trajectory
from tandem.core.types import Commitment
from tandem.execution.client import FastLoopClient, FastLoopError
from tandem.execution.fast_loop import LoopConfig
from tandem.execution.fci.setup import loop_config
from tandem.execution.types import CertifiedTrajectory, Mode
from tandem.robots.model import ArmModel

Array = NDArray[np.float64]

KEY = b"benchmarks sign with this one"
#: the simulator is not a certified arm: its tracking is watched with room [rad]
TRACKING = 0.03
#: nor is its clock a certified one: on a busy machine it falls behind [s]
MAX_DRIFT = 2.0
#: robot modes (franka::RobotMode): no motion; in motion; stopped by itself
IDLE, MOVE, REFLEX = 1, 2, 4


def simulated_loop(arm: ArmModel, ip: str, *, patient: bool = False, **options: Any) -> LoopConfig:
    """As on hardware, without the demands on the kernel; ``patient``: for a server that waits, on a machine of any speed."""
    config = loop_config(arm, [TRACKING] * arm.n, {"ip": ip, "realtime": False, **options})
    config = replace(config, max_drift=MAX_DRIFT)
    if not patient:
        return replace(config, cpu=loop_cpu())
    config.backend_options["answer_within"] = 60.0
    executor = replace(config.executor, stale_after=1.0, latch_step=1.0)
    return replace(config, executor=executor, max_drift=60.0, owner_timeout=20.0)


def certified_error(wire: Wire, played: list[CertifiedTrajectory], loop_start: float) -> tuple[float, float]:
    """Largest difference [rad] between positions that came over the wire and what was certified for their time.

    The robot's cycles are 1 ms apart. Where they lie on the clock of the trajectories is the one unknown: it is found as the
    shift of the whole record that fits best, near ``loop_start`` [s] = time of the first recorded command on that clock.

    Returns:
        the difference and the shift [s].
    """
    plans = sorted(played, key=lambda p: p.proposal.switch_time)
    first = plans[0].proposal
    at_rest = Commitment(first.trajectory, first.switch_time, first.width)
    ticks = (wire.cycle - wire.cycle[0]) * 1e-3

    def expected(times: Array) -> Array:
        q: Array = np.repeat(at_rest.trajectory.q[:1], len(times), axis=0)
        for plan in plans:
            start = plan.proposal.switch_time
            later = times >= start - 1e-9
            q[later] = plan.proposal.trajectory.sample(times[later] - start)[0]
        return q

    def error(shift: float, step: int = 1) -> float:
        return float(np.abs(expected(loop_start + shift + ticks[::step]) - wire.q[::step]).max())

    best, width, points, coarse = 0.0, 0.6, 481, max(len(ticks) // 400, 1)  # a busy machine tells its state late
    for _ in range(8):
        grid = best + np.linspace(-width, width, points)
        best = float(grid[int(np.argmin([error(s, coarse) for s in grid]))])
        width, points = (0.006, 41) if points > 41 else (0.08 * width, 41)
    return error(best), best


def wait_for(client: FastLoopClient, *modes: Mode, timeout: float = 10.0) -> bool:
    """Whether the executor reaches one of ``modes`` in time [s]."""
    limit = time.monotonic() + timeout
    while client.state().mode not in modes:
        if time.monotonic() > limit:
            return False
        time.sleep(0.002)
    return True


@dataclass(frozen=True)
class Piece:
    """One played plan, found again in what came over the wire.

    Attributes:
        error: largest difference from what was certified [rad]. first_index, first_cycle: of its first command.
        first_late: how long after the switch time that command's moment lies, less than a cycle [s].
    """

    error: float
    first_index: int
    first_cycle: int
    first_late: float


def pieces(wire: Wire, played: list[CertifiedTrajectory]) -> list[Piece]:
    """Every plan found again by where it passes, each on its own clock: right where the arm's clock drifts or was set anew.

    Compared is each plan from its start to the next one's; the first and last, which the record may cut, are left out.
    """
    plans, out = sorted(played, key=lambda p: p.proposal.switch_time), []
    for plan, following in itertools.pairwise(plans[1:]):
        trajectory, anchor = plan.proposal.trajectory, 0.1
        span = min(following.proposal.switch_time - plan.proposal.switch_time, trajectory.duration)
        at = int(np.abs(wire.q - trajectory.sample(anchor)[0]).max(1).argmin())
        near = slice(max(at - 101, 0), at + 1 + int((span - anchor) * 1e3))
        ticks = (wire.cycle[near] - wire.cycle[at]) * 1e-3 + anchor

        def error(shift: float, t: Array = ticks, q: Array = wire.q[near], s: float = span, p: Trajectory = trajectory) -> float:
            inside = (t + shift >= 0.0) & (t + shift < s)
            return float(np.abs(p.sample(t[inside] + shift)[0] - q[inside]).max(initial=0.0))

        best, width = 0.0, 2e-3
        for _ in range(6):
            grid = best + np.linspace(-width, width, 41)
            best = float(grid[int(np.argmin([error(s) for s in grid]))])
            width *= 0.08
        first = int(np.searchsorted(ticks + best, 0.0))
        if first < len(ticks):
            index = near.start + first
            out.append(Piece(error(best), index, int(wire.cycle[index]), float(ticks[first] + best)))
    return out


class Driver:
    """A fast loop with somebody who keeps its arm wandering: plans, certifies, submits, in a thread of its own.

    ``announce`` is called with each plan before it is submitted, and once more, with False, when it was refused.

    Attributes:
        played: what was accepted since :meth:`forget`.
    """

    def __init__(
        self, client: FastLoopClient, wanderer: Wanderer, lead: float = 0.12,
        announce: Callable[[CertifiedTrajectory, bool], None] = lambda plan, wanted: None,
    ) -> None:
        self.client, self.played = client, list[CertifiedTrajectory]()
        self._lock = threading.Lock()  #: both sides change the list
        self._wanderer, self._lead, self._announce = wanderer, lead, announce
        self._ending, self._allowed = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._drive, name="wander", daemon=True)
        self._thread.start()

    def _drive(self) -> None:
        switch = 0.0
        while not self._ending.wait(0.02):
            if not self._allowed.is_set():
                continue
            try:
                state = self.client.state()
                if state.mode >= Mode.STOPPING or state.stamp < switch - 0.25:
                    continue
                # what waits for its moment is not replaced: it would count as played, and was not
                follows = state.mode is Mode.HEAD or state.stamp < switch
                at = max(switch + 0.5 if follows else 0.0, state.stamp + self._lead)
                plan = self._wanderer.plan(self.client.commitment(), state.stamp, at)
                if plan is None:
                    continue
                with self._lock:
                    self.played.append(plan)  # also where the answer does not come: it may be played
                self._announce(plan, True)
                if self.client.submit(plan).accepted:
                    switch = at
                else:
                    with self._lock:
                        self.played = [p for p in self.played if p is not plan]  # arrays do not compare
                    self._announce(plan, False)
            except FastLoopError:
                continue  # the one who looks after the loop sees that for itself

    def go(self) -> None:
        """Begin to move."""
        self._allowed.set()

    def hold(self) -> None:
        """Submit nothing more."""
        self._allowed.clear()

    def forget(self) -> None:
        """Begin a new list of what was played; what may still be playing, on a clock that may be late, stays in it."""
        oldest = self.client.state().stamp - MAX_DRIFT
        with self._lock:
            self.played = [p for p in self.played if p.proposal.switch_time + p.proposal.trajectory.duration > oldest]

    def close(self) -> None:
        """End the thread, not the loop."""
        self._ending.set()
        self._thread.join()


def off_path(wire: Wire, played: list[CertifiedTrajectory]) -> tuple[float, float]:
    """How far commanded, and how far measured positions come from the certified paths at most, whatever their times [rad]."""
    step = 2e-4
    points = [p.proposal.trajectory.sample(np.arange(0.0, p.proposal.trajectory.duration + step, step))[0] for p in played]
    tree = cKDTree(np.concatenate(points))
    out = [float(tree.query(q, p=np.inf)[0].max()) if len(q) else 0.0 for q in (wire.q[::2], wire.measured_q[::5])]
    return out[0], out[1]


def rest_after(wire: Wire, moment: float) -> float:
    """Time [s] from ``moment`` [s, CLOCK_MONOTONIC] until the arm stands (0.02 rad/s) for good; infinite if it never does."""
    window = 5
    if len(wire.pose_time) <= window:
        return float("inf")
    span = wire.pose_time[window:] - wire.pose_time[:-window]
    speed = np.abs(wire.pose[window:] - wire.pose[:-window]).max(1) / span
    moving = np.flatnonzero(speed > 0.02)
    if not moving.size:
        return 0.0
    last = moving[-1] + window
    return float("inf") if last >= len(wire.pose_time) - 1 else max(float(wire.pose_time[last]) - moment, 0.0)
