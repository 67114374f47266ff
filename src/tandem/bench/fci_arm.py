"""The fast loop on the FCI simulator, as benchmarks and tests run it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.bench.fci_server import Wire
from tandem.core.types import Commitment
from tandem.execution.client import FastLoopClient
from tandem.execution.fast_loop import LoopConfig
from tandem.execution.fci.setup import loop_config
from tandem.execution.types import CertifiedTrajectory, Mode
from tandem.robots.model import ArmModel

Array = NDArray[np.float64]

KEY = b"benchmarks sign with this one"
#: the simulator is not a certified arm: its tracking is watched with room [rad]
TRACKING = 0.03


def simulated_loop(arm: ArmModel, ip: str, *, patient: bool = False, **options: Any) -> LoopConfig:
    """As on hardware, without the demands on the kernel; ``patient``: for a server that waits, on a machine of any speed."""
    config = loop_config(arm, [TRACKING] * arm.n, {"ip": ip, "realtime": False, **options})
    if not patient:
        return config
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

    best, width, coarse = 0.0, 0.05, max(len(ticks) // 400, 1)
    for _ in range(8):
        grid = best + np.linspace(-width, width, 41)
        best = float(grid[int(np.argmin([error(s, coarse) for s in grid]))])
        width *= 0.08
    return error(best), best


def wait_for(client: FastLoopClient, *modes: Mode, timeout: float = 10.0) -> bool:
    """Whether the executor reaches one of ``modes`` in time [s]."""
    limit = time.monotonic() + timeout
    while client.state().mode not in modes:
        if time.monotonic() > limit:
            return False
        time.sleep(0.002)
    return True
