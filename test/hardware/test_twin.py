"""The simulated scene about an arm on the interface: it is where the arm is, and changes nothing of what the arm is sent."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("pylibfranka")
pytest.importorskip("mujoco")

from hardware.conftest import HOST, Rig

from tandem.bench.fci_arm import KEY, pieces
from tandem.bench.fci_server import FciServer
from tandem.execution.client import FastLoopClient
from tandem.execution.types import ArmState, Mode
from tandem.robots.model import ArmModel
from tandem.sim.backend import WorldReport
from tandem.sim.twin import BACKEND

pytestmark = [pytest.mark.fci, pytest.mark.timeout(240)]


class TwinRig(Rig):
    """The same loop, on the twin."""

    def __init__(self, arm: ArmModel, host: str) -> None:
        super().__init__(arm, host, gripper=False)
        config = self.client._config
        # nothing in the way: the motions are certified over a bare table, and on a busy machine each run has others
        about = {"scene": "empty.yaml", "seed": 1000, "fci": config.backend_options}
        self.client = FastLoopClient(replace(config, backend=BACKEND, backend_options=about), KEY)


def gap(rig: Rig) -> float:
    """Between the scene's arm and the measured one, by joint [rad]."""
    state = rig.client.state()
    return float(np.abs(WorldReport.of(state.world).qpos[:7] - state.q).max())


def off(course: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """Distance [rad] of ``q`` (7,) from the way through ``course`` (N >= 2, 7)."""
    a, step = course, np.diff(course, axis=0)
    along = np.einsum("ij,ij->i", q - a[:-1], step) / np.maximum(np.einsum("ij,ij->i", step, step), 1e-18)
    return float(np.linalg.norm(q - a[:-1] - np.clip(along, 0.0, 1.0)[:, None] * step, axis=1).min())


def test_the_scene_follows_the_arm_and_what_is_sent_stays_the_certified_motion(server: FciServer, arm: ArmModel) -> None:
    server.ask("mode", mode="execution")
    with TwinRig(arm, HOST) as rig:
        first = WorldReport.of(rig.client.state().world)
        server.record()
        arm_at, scene_at = [rig.client.state().q], [first.qpos[:7]]
        rig.move(2.0)
        end = rig.played[-1].proposal.switch_time + rig.played[-1].proposal.trajectory.duration
        while (state := rig.client.state()).stamp < end + 0.05:
            assert state.mode < Mode.STOPPING, state.text
            arm_at.append(state.q)
            scene_at.append(WorldReport.of(state.world).qpos[:7])
            time.sleep(0.002)
        wire = server.recorded()
        last = WorldReport.of(state.world)
        assert state.arm.state is ArmState.MOVING and state.arm.reflexes == 0
        found = pieces(wire, rig.played)
        assert found and max(p.error for p in found) < 1e-6, "the scene changes nothing of what is sent"
        assert not last.forbidden_contacts, "where the scene's arm is held up it cannot follow"
        # this loop looks seldom; but the scene is on the way that the arm has gone
        course = wire.measured_q
        until = [int(np.abs(course - q).max(1).argmin()) + 2 for q in arm_at]
        assert max(off(course[:n], q) for n, q in zip(until, scene_at, strict=True)) < 0.01
        rig.until(lambda: gap(rig) < 2e-3)
        assert np.abs(last.qpos[:7] - first.qpos[:7]).max() > 0.01, "it has moved"
        assert np.abs(last.qpos[9:12] - first.qpos[9:12]).max() < 1e-3 and not last.lifted, "the mug has not"
        assert last.time > first.time
        rig.moving()
        server.ask("reflex", name="joint_reflex")
        assert "joint_reflex" in rig.stopped()
        rig.resume()
        rig.until(lambda: rig.client.state().arm.state is ArmState.MOVING)
        rig.until(lambda: gap(rig) < 5e-3)
