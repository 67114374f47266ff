"""What the benchmarks on the FCI simulator make of a record, without the simulator."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import motions
import numpy as np
import pytest

pytest.importorskip("psutil")

from tandem.bench.bridge import answers
from tandem.bench.fci_arm import IDLE, MAX_DRIFT, MOVE, REFLEX, Driver, off_path
from tandem.bench.fci_server import Wire
from tandem.core.trajectory import Trajectory
from tandem.core.types import Commitment
from tandem.execution.types import CertifiedTrajectory, Mode


def wire(cycles: list[int], states: list[tuple[int, int]], q: np.ndarray | None = None) -> Wire:
    """A record: commands for ``cycles``, 200 us after their states; states as (cycle, mode), 1 ms apart."""
    n, m = len(cycles), len(states)
    c, number = np.array(cycles, dtype=np.int64), np.array([s for s, _ in states], dtype=np.int64)
    zero, measured = np.zeros((n, 7)), np.zeros((m, 7))
    return Wire(
        c, c * 1e-3 + 2e-4, zero if q is None else q, zero, zero, number, number * 1e-3, measured, measured, measured,
        np.array([mode for _, mode in states], dtype=np.int64), np.ones(m), np.zeros(0), np.zeros((0, 7)),
    )  # fmt: skip


def test_cycles_that_a_reflex_ends_count_as_missed() -> None:
    calm = wire([0, 1, 2, 4, 5], [(n, MOVE) for n in range(6)])
    # nothing follows command 3: the arm moves on by itself up to 9, then stops itself
    stopped = wire([0, 1, 2, 3], [*((n, MOVE) for n in range(10)), (10, REFLEX)])
    ended = wire([0, 1, 2, 3], [*((n, MOVE) for n in range(5)), (5, IDLE)])
    one, two, three = answers([calm]), answers([stopped]), answers([ended])
    assert (one["missed"], one["longest_gap"], one["reflexes"]) == (1, 1, 0)
    assert (two["missed"], two["longest_gap"], two["reflexes"]) == (5, 5, 1)
    assert three["missed"] == 0, "the last state's answer is on its way"
    all_ = answers([calm, stopped, wire([], [(0, REFLEX)])])
    assert all_["missed"] == 6 and all_["cycles"] == 10 and all_["reflexes"] == 2
    assert all_["answer_us_p50"] == pytest.approx(200.0)
    assert np.isnan(answers([wire([], [])])["answer_us_max"])


def test_what_still_plays_when_a_record_begins_is_among_the_certified() -> None:
    """Plans may come 30 ms apart: the newest three need not hold the one that is playing."""
    rng, now = np.random.default_rng(0), 100.0
    still = Commitment(Trajectory.at_rest(np.zeros(7), 1.0), now - 10.0, np.zeros(2))
    first = motions.certify(motions.proposal(still, now - 0.2, rng))
    old = motions.certify(motions.proposal(still, now - MAX_DRIFT - 5.0, rng))
    later = [motions.certify(motions.proposal(still, now + 0.03 * n, rng)) for n in range(1, 5)]
    driver = Driver.__new__(Driver)
    driver._lock, driver.client = threading.Lock(), SimpleNamespace(state=lambda: SimpleNamespace(stamp=now))  # type: ignore[assignment]
    plans: list[CertifiedTrajectory] = [old, first, *later]
    driver.played = list(plans)
    driver.forget()
    assert [p.proposal.switch_time for p in driver.played] == [p.proposal.switch_time for p in plans[1:]]
    q = first.proposal.trajectory.sample(np.arange(0.2, 0.4, 1e-3))[0]
    record = wire(list(range(len(q))), [(n, MOVE) for n in range(len(q))], q)
    assert off_path(record, driver.played)[0] < 5e-4 < off_path(record, driver.played[-3:])[0]


def test_plans_that_wait_for_their_moment_are_not_replaced() -> None:
    """A plan that counts as played and was not would be found nowhere on the wire."""
    now, asked, enough = 100.0, list[float](), threading.Event()

    def plan(commitment: object, stamp: float, at: float) -> SimpleNamespace:
        nonlocal now
        asked.append(at)
        # the plan before it has been played to its end, and this one's moment is near
        now = at - 0.2
        if len(asked) == 4:
            enough.set()
        return SimpleNamespace()

    client = SimpleNamespace(
        state=lambda: SimpleNamespace(mode=Mode.BACKUP, stamp=now), commitment=lambda: None,
        submit=lambda plan: SimpleNamespace(accepted=True),
    )  # fmt: skip
    driver = Driver(client, SimpleNamespace(plan=plan))  # type: ignore[arg-type]
    driver.go()
    assert enough.wait(60.0)
    driver.close()
    assert np.diff(asked[:4]).min() >= 0.5
