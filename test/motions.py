"""Random motions with certificates, right and wrong ones, for the executor's tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tandem.core.certificate import sign
from tandem.core.trajectory import Trajectory, integrate_knots
from tandem.core.types import Commitment, Proposal
from tandem.execution.types import CertifiedTrajectory, ExecutorConfig, to_ns

Array = NDArray[np.float64]

JOINTS = 7
KEY = b"a key of the tests, 16 or more bytes"
LIMITS = ExecutorConfig(
    lower=[-2.8] * JOINTS,
    upper=[2.8] * JOINTS,
    velocity=[2.0] * JOINTS,
    acceleration=[10.0] * JOINTS,
    jerk=[500.0] * JOINTS,
    tracking=[0.02] * JOINTS,
)


def motion(q: Array, v: Array, a: Array, rng: np.random.Generator, vigour: float = 2.0) -> Trajectory:
    """From a state (n,) three random steps of 0.1 s with accelerations up to ``vigour`` [rad/s^2], then 0.5 s to rest.

    Random accelerations lean towards rest in the middle of the range, so that chains of motions stay within the limits.
    """
    n, h = len(q), 0.1
    rows, speed, last, where = [a], v.copy(), a, q.copy()
    for _ in range(3):
        row: Array = np.clip(rng.uniform(-vigour, vigour, n) - 1.5 * speed - 0.5 * where, -5.0, 5.0)
        speed = speed + 0.5 * h * (last + row)
        where = where + h * speed
        rows.append(row)
        last = row
    brake = -(speed / h + 0.5 * last) / 4.0
    rows += [brake, brake, brake, brake, np.zeros(n)]
    times: Array = h * np.arange(len(rows), dtype=np.float64)
    knots: Array = np.stack(rows).astype(np.float64)
    position, velocity = integrate_knots(times, q, v, knots)
    return Trajectory(times, position, velocity, knots)


def proposal(commitment: Commitment, switch_time: float, rng: np.random.Generator, vigour: float = 2.0) -> Proposal:
    """A plan from what is committed at ``switch_time``, as a planner makes it."""
    q, v, a = commitment.state_at(switch_time)
    trajectory = motion(q, v, a, rng, vigour)
    width = rng.uniform(0.0, 0.08, len(trajectory.times))
    return Proposal(trajectory, width, switch_time, 0.3, "test")


def certify(plan: Proposal, key: bytes = KEY) -> CertifiedTrajectory:
    """With a certificate made under ``key``; nothing is checked."""
    verdict = "0" * 64
    return CertifiedTrajectory(plan, verdict, sign(key, verdict, plan.digest(), to_ns(plan.switch_time)))


def changed(plan: Proposal, **parts: Array) -> Proposal:
    """The plan with other ``times``, ``q``, ``v`` or ``a``."""
    t = plan.trajectory
    trajectory = Trajectory(**{"times": t.times, "q": t.q, "v": t.v, "a": t.a, **parts})
    return Proposal(trajectory, plan.width, plan.switch_time, plan.head_duration, plan.name)
