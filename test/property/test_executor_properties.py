"""Whatever is submitted, whenever, whatever is measured and whatever the clock does: the arm moves on certified paths only,
smoothly, and ends at rest. Each safeguard is also taken out in turn, and the same checks must then fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import motions
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tandem.core.trajectory import Trajectory, integrate_knots
from tandem.core.types import Proposal
from tandem.execution import executor as module
from tandem.execution.checks import ACCEPTED
from tandem.execution.executor import Executor
from tandem.execution.types import CertifiedTrajectory, Mode, StopReason, SubmitCode

Array = NDArray[np.float64]
C = motions.LIMITS
DT = C.period

#: what a submission of each kind must be refused with
REFUSED = {
    "forged": {SubmitCode.FORGED},
    "moved": {SubmitCode.FORGED},
    "elsewhere": {SubmitCode.START_MISMATCH},
    "late": {SubmitCode.LATE},
    "early": {SubmitCode.TOO_EARLY},
    "inconsistent": {SubmitCode.INCONSISTENT},
    "moving_end": {SubmitCode.NOT_AT_REST},
    "violent": {SubmitCode.POSITION_LIMIT, SubmitCode.VELOCITY_LIMIT, SubmitCode.ACCELERATION_LIMIT, SubmitCode.JERK_LIMIT},
    "short_width": {SubmitCode.MALFORMED},
    "nan_width": {SubmitCode.MALFORMED},
}
KINDS = ["good", "good", "good", *REFUSED, "stop", "deviate", "freeze", "resume", "resume"]


def wrong(kind: str, plan: Proposal, now: float, rng: np.random.Generator) -> CertifiedTrajectory:
    """A submission of a kind that must be refused, with a valid certificate where that is not what is wrong."""
    t = plan.trajectory
    if kind == "forged":
        return motions.certify(plan, b"another key of 16 bytes or more")
    if kind == "moved":
        later = Proposal(t, plan.width, plan.switch_time + 0.002, plan.head_duration)
        return CertifiedTrajectory(later, "0" * 64, motions.certify(plan).certificate)
    if kind == "elsewhere":
        part = rng.integers(3)
        step = np.zeros(motions.JOINTS)
        step[rng.integers(motions.JOINTS)] = rng.choice([-1.0, 1.0]) * (1e-3, 5e-3, 0.8)[part]
        start = [t.q[0], t.v[0], t.a[0]]
        start[part] = start[part] + step
        return motions.certify(Proposal(motions.motion(*start, rng), plan.width, plan.switch_time, 0.3))
    if kind == "late":
        return motions.certify(Proposal(t, plan.width, now - rng.uniform(0.0, 0.3), 0.3))
    if kind == "early":
        return motions.certify(Proposal(t, plan.width, now + C.max_lead + 1.0, 0.3))
    if kind == "inconsistent":
        q = t.q.copy()
        q[3:] += 0.01
        return motions.certify(motions.changed(plan, q=q))
    if kind == "moving_end":
        return motions.certify(
            Proposal(Trajectory(t.times[:5], t.q[:5], t.v[:5], t.a[:5]), plan.width[:5], plan.switch_time, 0.3)
        )
    if kind == "violent":
        q, v, a = t.q[0], t.v[0], t.a[0]
        rows = np.vstack([a, np.full((1, len(q)), 60.0), np.full((1, len(q)), -60.0), np.zeros((1, len(q)))])
        times = np.array([0.0, 0.1, 0.2, 0.3])
        rows[2] = -(2.0 * v / 0.1 + a + 2.0 * rows[1]) / 2.0
        position, velocity = integrate_knots(times, q, v, rows)
        return motions.certify(Proposal(Trajectory(times, position, velocity, rows), np.zeros(4), plan.switch_time, 0.3))
    width = plan.width[:-1] if kind == "short_width" else np.where(np.arange(len(plan.width)) == 2, np.nan, plan.width)
    return motions.certify(Proposal(t, width, plan.switch_time, 0.3))


@dataclass
class Record:
    """What came out of a run: commands, paths that were certified, cycles at which the command may step, complaints."""

    executor: Executor
    strict: bool
    rows: list[Array] = field(default_factory=list)
    modes: list[Mode] = field(default_factory=list)
    steps: set[int] = field(default_factory=set)
    paths: list[Array] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    now: float = 0.0

    def tick(self, measure: Callable[[Array], Array | None], dt: float = DT) -> None:
        self.now += dt
        command = self.executor.tick(self.now, measure(self.executor.command.q), np.zeros(motions.JOINTS))
        self.rows.append(np.stack([command.q, command.v, command.a]))
        self.modes.append(command.mode)

    def violations(self) -> list[str]:
        """Breaks of smoothness, of rest at the end, motion off every certified path."""
        x = np.stack(self.rows)
        q, v, a = x[:, 0], x[:, 1], x[:, 2]
        smooth = np.array([i not in self.steps for i in range(1, len(x))])
        jerk = np.asarray(C.jerk)
        found = []
        for name, gap, bound in (
            ("position", q[1:] - q[:-1] - DT * v[:-1] - 0.5 * DT**2 * a[:-1], jerk * DT**3 / 6 + 2 * C.splice_position),
            ("velocity", v[1:] - v[:-1] - DT * a[:-1], jerk * DT**2 / 2 + 2 * C.splice_velocity),
            ("acceleration", a[1:] - a[:-1], jerk * DT + 2 * C.splice_acceleration),
        ):
            worst = np.abs(gap) - bound
            if worst[smooth].max() > 1e-9:
                found.append(f"{name} steps by {worst[smooth].max():.2e} more than allowed at {int(worst.max(1).argmax())}")
        if not np.all(np.isfinite(x)):
            found.append("not finite")
        if np.abs(x[-1, 1:]).max() > 1e-6 or np.abs(q[-1] - q[-2]).max() > 1e-9:
            found.append("does not end at rest")
        path = np.vstack(self.paths)
        moving = np.flatnonzero(np.abs(v).max(1) > 1e-6)
        if moving.size:
            off = max(float(np.abs(path - q[i]).max(1).min()) for i in moving[::9])
            if off > 2e-3:
                found.append(f"{off:.3f} rad off every certified path")
        return found


def drive(events: list[tuple[int, str, int]], strict: bool = True) -> Record:
    """Run the events (cycles to wait, kind, seed) and 2 s more; ``strict`` also checks the answers to the submissions."""
    start = np.array([0.1, -0.4, 0.2, -0.3, 0.0, 0.5, -0.2])
    executor = Executor(C, start, 0.0, 0.04, motions.KEY)
    run = Record(executor, strict, paths=[start[None]])
    for wait, kind, seed in events:
        rng = np.random.default_rng(seed)
        for _ in range(wait):
            run.tick(lambda q: q)
        latched = executor.mode >= Mode.STOPPING
        if kind == "stop":
            executor.stop(StopReason.OPERATOR)
        elif kind == "deviate":
            for _ in range(25):
                run.tick(lambda q: q + 0.05)
            if executor.mode < Mode.STOPPING:
                run.complaints.append("deviation not noticed")
        elif kind == "freeze":
            for _ in range(30):
                run.tick(lambda q: None)
            if executor.mode < Mode.STOPPING:
                run.complaints.append("frozen measurement not noticed")
        elif kind == "resume":
            measured = executor.command.q + rng.uniform(-1e-3, 1e-3, motions.JOINTS)
            if executor.resume(run.now, measured).accepted != (executor.mode is Mode.IDLE and latched):
                run.complaints.append("resume answered wrongly")
            if executor.mode is Mode.IDLE and latched:
                run.steps |= {len(run.rows), len(run.rows) - 1}
                run.paths.append(measured[None])
        else:
            _submit(run, kind, latched, rng)
    for _ in range(2000):
        run.tick(lambda q: q)
    return run


def _submit(run: Record, kind: str, latched: bool, rng: np.random.Generator) -> None:
    executor = run.executor
    plan = motions.proposal(executor.commitment(), run.now + rng.uniform(0.0021, 0.4), rng)
    certified = motions.certify(plan) if kind == "good" else wrong(kind, plan, run.now, rng)
    result = executor.submit(certified, run.now)
    if kind == "good":
        run.paths.append(plan.trajectory.sample(np.arange(0.0, plan.trajectory.duration, DT))[0])
    if not run.strict:
        return
    expected = (
        {SubmitCode.STOPPED} if latched else {SubmitCode.ACCEPTED, SubmitCode.QUEUE_FULL} if kind == "good" else REFUSED[kind]
    )
    if result.code not in expected:
        run.complaints.append(f"{kind}: {result.code.name} {result.text}")


EVENTS = st.lists(st.tuples(st.integers(0, 300), st.sampled_from(KINDS), st.integers(0, 2**32 - 1)), max_size=10)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(EVENTS)
def test_moves_smoothly_on_certified_paths_and_ends_at_rest(events: list[tuple[int, str, int]]) -> None:
    run = drive(events)
    assert not run.complaints
    assert not run.violations()


def random_events(seed: int, kinds: list[str]) -> list[tuple[int, str, int]]:
    rng = np.random.default_rng(seed)
    return [(int(rng.integers(0, 300)), str(rng.choice(kinds)), int(rng.integers(2**32))) for _ in range(12)]


@pytest.mark.parametrize(
    ("safeguard", "replacement", "kinds"),
    [
        ("check_start", lambda *_: ACCEPTED, ["good", "elsewhere"]),
        ("check_motion", lambda *_: ACCEPTED, ["good", "inconsistent"]),
        ("check_motion", lambda *_: ACCEPTED, ["good", "moving_end"]),
        ("check_motion", lambda *_: ACCEPTED, ["good", "violent"]),
        ("verify", lambda *_: True, ["good", "forged"]),
        ("soonest_stop", lambda *_: (0.0, 0.01), ["good", "good", "stop", "resume"]),
    ],
)
def test_without_a_safeguard_the_checks_fail(
    safeguard: str, replacement: Callable[..., object], kinds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, safeguard, replacement)
    found = []
    for seed in range(8):
        found += drive(random_events(seed, kinds), strict=False).violations()
        if found:
            return
    pytest.fail(f"nothing noticed without {safeguard}")
