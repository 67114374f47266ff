"""What the executor checks again before it plays a trajectory, whatever the filter has said. Closed form, vectorised."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tandem.core.trajectory import MIN_SPACING, Trajectory
from tandem.core.types import Proposal
from tandem.execution.types import ExecutorConfig, SubmitCode, SubmitResult

Array = NDArray[np.float64]

#: relative and absolute slack of comparisons with limits: rounding only
SLACK = 1e-9
#: how far a gripper width may lie outside 0 .. stroke [m] (measured ones do); played is what lies inside
WIDTH_SLACK = 2e-3
ACCEPTED = SubmitResult(SubmitCode.ACCEPTED)


def segment_extrema(trajectory: Trajectory) -> tuple[Array, Array, Array]:
    """Exact extrema over the whole trajectory: lowest and highest position (n,) [rad] and highest speed (n,) [rad/s].

    Within a segment the speed is extreme where the linear acceleration vanishes, the position where the quadratic velocity does.
    """
    h = np.diff(trajectory.times)[:, None]
    q, v, a = trajectory.q[:-1], trajectory.v[:-1], trajectory.a[:-1]
    j = trajectory.jerk()
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(a * a - 2.0 * j * v)
        # the numerically stable pair of roots of v + a t + j t^2 / 2
        s = -(a + np.copysign(root, a))
        stationary = np.stack([s / j, 2.0 * v / s])
        fastest = -a / j
    tau = np.where((stationary > 0.0) & (stationary < h), stationary, 0.0)
    extreme = q + tau * (v + tau * (0.5 * a + j * tau / 6.0))
    tau_v = np.where((fastest > 0.0) & (fastest < h), fastest, 0.0)
    speed = np.abs(v + tau_v * (a + 0.5 * j * tau_v))
    low = np.minimum(trajectory.q.min(0), extreme.min((0, 1)))
    high = np.maximum(trajectory.q.max(0), extreme.max((0, 1)))
    return low, high, np.maximum(np.abs(trajectory.v).max(0), speed.max(0))


def check_shape(proposal: Proposal, config: ExecutorConfig) -> SubmitResult:
    """Joint count, knot count, finite numbers, durations, gripper widths. Never raises on a malformed proposal's values."""
    trajectory, width = proposal.trajectory, np.asarray(proposal.width, dtype=np.float64)
    knots, n = trajectory.q.shape
    bad = SubmitCode.MALFORMED
    if n != config.joints:
        return SubmitResult(bad, f"{n} joints; this arm has {config.joints}")
    if knots > config.max_knots:
        return SubmitResult(bad, f"{knots} knots; at most {config.max_knots}")
    if not all(np.isfinite(x).all() for x in (trajectory.times, trajectory.q, trajectory.v, trajectory.a, width)):
        return SubmitResult(bad, "contains NaN or infinity")
    if width.shape != (knots,):
        return SubmitResult(bad, f"width has shape {width.shape}; expected ({knots},), one a knot")
    if width.min() < -WIDTH_SLACK or width.max() > config.stroke + WIDTH_SLACK:
        return SubmitResult(bad, f"width {width.min():.4f} .. {width.max():.4f} m; accepted 0 .. {config.stroke} m")
    if trajectory.times[0] != 0.0 or np.diff(trajectory.times).min() <= MIN_SPACING:
        return SubmitResult(bad, "times must start at 0 and increase by more than 1e-6 s from knot to knot")
    if trajectory.duration > config.max_duration:
        return SubmitResult(bad, f"lasts {trajectory.duration:.2f} s; at most {config.max_duration} s")
    if not 0.0 <= proposal.head_duration <= trajectory.duration + 1e-9:
        return SubmitResult(bad, f"head_duration {proposal.head_duration} s outside 0 .. {trajectory.duration} s")
    return ACCEPTED


def _over(value: Array, limit: Array, code: SubmitCode, what: str) -> SubmitResult | None:
    over = value - limit
    worst = int(over.argmax())
    if over[worst] <= SLACK * (1.0 + abs(limit[worst])):
        return None
    return SubmitResult(code, f"joint {worst + 1}: {what} {value[worst]:.6f}, limit {limit[worst]:.6f}")


def check_motion(trajectory: Trajectory, config: ExecutorConfig) -> SubmitResult:
    """Consistency of q, v, a; rest at the end; position, velocity, acceleration and jerk limits over the whole motion."""
    gap = trajectory.consistency()
    if not gap <= config.consistency:
        text = f"knots disagree with the integral of a by {gap:.2e}; at most {config.consistency:.0e}"
        return SubmitResult(SubmitCode.INCONSISTENT, text)
    if not trajectory.ends_at_rest():
        v, a = np.abs(trajectory.v[-1]).max(), np.abs(trajectory.a[-1]).max()
        return SubmitResult(SubmitCode.NOT_AT_REST, f"last knot: |v| {v:.2e} rad/s, |a| {a:.2e} rad/s^2")
    low, high, speed = segment_extrema(trajectory)
    checks = (
        (-low, -np.asarray(config.lower), SubmitCode.POSITION_LIMIT, "-position [rad]"),
        (high, np.asarray(config.upper), SubmitCode.POSITION_LIMIT, "position [rad]"),
        (speed, np.asarray(config.velocity), SubmitCode.VELOCITY_LIMIT, "speed [rad/s]"),
        (np.abs(trajectory.a).max(0), np.asarray(config.acceleration), SubmitCode.ACCELERATION_LIMIT, "acceleration [rad/s^2]"),
        (np.abs(trajectory.jerk()).max(0), np.asarray(config.jerk), SubmitCode.JERK_LIMIT, "jerk [rad/s^3]"),
    )
    for value, limit, code, what in checks:
        result = _over(value, limit, code, what)
        if result is not None:
            return result
    return check_position_dependent(trajectory, config) if config.velocity_position else ACCEPTED


def check_position_dependent(trajectory: Trajectory, config: ExecutorConfig) -> SubmitResult:
    """Velocity limits that shrink towards a joint's ends (see :func:`tandem.robots.model.velocity_limits`).

    Looked at in the knots and three points between two of them; the filter is the one that excludes a violation in between.
    """
    times = trajectory.times
    dense = (times[:-1, None] + np.diff(times)[:, None] * np.array([0.0, 0.25, 0.5, 0.75])).ravel()
    q, v, _ = trajectory.sample(dense)
    for i, row in enumerate(config.velocity_position):
        if not row:
            continue
        offset, factor, upper, lower = row
        room = np.where(v[:, i] >= 0.0, upper - q[:, i], q[:, i] - lower)
        limit = np.maximum(np.sqrt(np.maximum(factor * room, 0.0)) - offset, 0.0)
        over = np.abs(v[:, i]) - limit
        worst = int(over.argmax())
        if over[worst] > 1e-6:
            text = f"joint {i + 1}: speed {abs(v[worst, i]):.4f} rad/s at {q[worst, i]:.4f} rad, limit there {limit[worst]:.4f}"
            return SubmitResult(SubmitCode.VELOCITY_LIMIT, text)
    return ACCEPTED


def check_start(trajectory: Trajectory, expected: Array, config: ExecutorConfig) -> SubmitResult:
    """Whether the first knot is the state (3n,) that will be commanded at the switch time."""
    n = trajectory.joints
    first = (trajectory.q[0], trajectory.v[0], trajectory.a[0])
    bounds = (config.splice_position, config.splice_velocity, config.splice_acceleration)
    names = ("position [rad]", "velocity [rad/s]", "acceleration [rad/s^2]")
    for i, (value, bound, what) in enumerate(zip(first, bounds, names, strict=True)):
        gap = np.abs(value - expected[i * n : (i + 1) * n])
        if not (gap <= bound).all():
            worst = int(gap.argmax())
            text = f"joint {worst + 1}: {what} off by {gap[worst]:.2e}, at most {bound:.0e}"
            return SubmitResult(SubmitCode.START_MISMATCH, text)
    return ACCEPTED
