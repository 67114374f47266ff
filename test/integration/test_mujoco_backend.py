"""The simulated arm behind the fast loop: follows, is mirrored, starts over."""

from __future__ import annotations

import time

import motions
import numpy as np
import pytest

from tandem.execution.backends.base import BackendError
from tandem.execution.client import FastLoopClient
from tandem.execution.executor import Executor
from tandem.execution.fast_loop import LoopConfig
from tandem.execution.types import ExecutorConfig, Mode
from tandem.robots.model import load_arm
from tandem.sim.backend import MujocoBackend, WorldConfig, WorldReport
from tandem.sim.world import MugWorld


def test_follows_a_certified_motion_and_is_mirrored() -> None:
    arm = load_arm("fr3")
    backend = MujocoBackend(WorldConfig(seed=4))
    state = backend.connect(0.0)
    executor = Executor(ExecutorConfig.for_arm(arm, 0.005), state.q, 0.0, state.width, motions.KEY)
    q, v, a = executor.commitment().state_at(0.05)
    still = motions.motion(np.zeros(7), v, a, np.random.default_rng(1), 1.0)
    moved = motions.Proposal(motions.Trajectory(still.times, still.q + q, still.v, still.a), np.full(9, 0.03), 0.05, 0.3)
    assert executor.submit(motions.certify(moved), 0.0).accepted
    for k in range(1, 1500):
        state = backend.read(k * 0.001)
        backend.write(executor.tick(k * 0.001, state.q, state.v, state.stamp), k * 0.001)
        assert executor.mode < Mode.STOPPING
    np.testing.assert_allclose(state.q, moved.trajectory.q[-1], atol=1e-3)
    assert state.width == pytest.approx(0.03, abs=1e-3)
    report = WorldReport.of(state.world)
    mirror = MugWorld()
    mirror.qpos = report.qpos
    np.testing.assert_allclose(mirror.joint_positions(), state.q)
    assert (report.lifted, report.forbidden_contacts) == (False, 0)
    assert report.time == pytest.approx(1.498, abs=1e-6)


def test_starts_over_where_told() -> None:
    backend = MujocoBackend(WorldConfig(seed=4))
    first = backend.connect(0.0)
    again = backend.reset({"seed": 4}, 0.0)
    np.testing.assert_array_equal(first.world, again.world)
    np.testing.assert_array_equal(WorldReport.of(first.world).qpos, MugWorld(seed=4).qpos)
    assert not np.array_equal(backend.reset({}, 0.0).world, first.world)
    pose = np.eye(4)
    pose[:3, 3] = 0.5, 0.1, 0.0
    placed = backend.reset({"mug_pose": pose.ravel().tolist(), "width": 0.02}, 0.0)
    np.testing.assert_allclose(WorldReport.of(placed.world).qpos[9:12], [0.5, 0.1, 0.0])
    assert placed.width == pytest.approx(0.02)
    for wrong in ({"sed": 1}, {"mug_pose": [1.0]}, {"q": [0.0]}, {"scene": "nowhere.yaml"}, {"width": 3.0}):
        with pytest.raises(BackendError):
            backend.reset(wrong, 0.0)
    backend.close()


def test_runs_in_the_fast_loop() -> None:
    arm = load_arm("fr3")
    limits = ExecutorConfig.for_arm(arm, 0.01, latch_step=1.0, stale_after=0.5)
    config = LoopConfig(backend="tandem.sim.backend:make", executor=limits, catch_up=200, owner_timeout=10.0)
    with FastLoopClient(config, motions.KEY) as client:
        q = client.state().q
        still = motions.motion(np.zeros(7), np.zeros(7), np.zeros(7), np.random.default_rng(1), 1.0)
        trajectory = motions.Trajectory(still.times, still.q + q, still.v, still.a)
        # the state measured differs from the one commanded by what the controller leaves over
        plan = motions.Proposal(trajectory, np.full(9, 0.03), time.time() + 1.5, 0.3)
        shift = client.commitment().trajectory.q[-1] - q
        moved = motions.changed(plan, q=trajectory.q + shift)
        answer = client.submit(motions.certify(moved), timeout=5.0)
        assert answer.accepted, answer.text
        limit = time.monotonic() + 30.0
        while client.state().counters.backup_time < 0.4:
            assert time.monotonic() < limit
            time.sleep(0.01)
        assert client.state().mode < Mode.STOPPING, client.log()
        assert client.reset({"seed": 9}).accepted
        while client.state().resets != 1:  # the answer may overtake the next published state
            assert time.monotonic() < limit
            time.sleep(0.01)
