"""The simulated scene about an arm on the interface: it is where the arm is, and changes nothing of what the arm is sent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

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
        about = {"scene": "mug_blocked.yaml", "seed": 1000, "fci": config.backend_options}
        self.client = FastLoopClient(replace(config, backend=BACKEND, backend_options=about), KEY)


def test_the_scene_follows_the_arm_and_what_is_sent_stays_the_certified_motion(server: FciServer, arm: ArmModel) -> None:
    server.ask("mode", mode="execution")
    with TwinRig(arm, HOST) as rig:
        first = WorldReport.of(rig.client.state().world)
        server.record()
        gaps = []
        rig.move(2.0)
        end = rig.played[-1].proposal.switch_time + rig.played[-1].proposal.trajectory.duration
        while (state := rig.client.state()).stamp < end + 0.05:
            assert state.mode < Mode.STOPPING, state.text
            gaps.append(np.abs(WorldReport.of(state.world).qpos[:7] - state.q).max())
        wire = server.recorded()
        last = WorldReport.of(state.world)
        assert state.arm.state is ArmState.MOVING and state.arm.reflexes == 0
        found = pieces(wire, rig.played)
        assert found and max(p.error for p in found) < 1e-6, "the scene changes nothing of what is sent"
        assert max(gaps) < 0.01 and np.abs(last.qpos[:7] - state.q).max() < 2e-3
        assert np.abs(last.qpos[:7] - first.qpos[:7]).max() > 0.01, "it has moved"
        assert np.abs(last.qpos[9:12] - first.qpos[9:12]).max() < 1e-3 and not last.lifted, "the mug has not"
        assert last.time > first.time
        rig.moving()
        server.ask("reflex", name="joint_reflex")
        assert "joint_reflex" in rig.stopped()
        rig.resume()
        rig.until(lambda: rig.client.state().arm.state is ArmState.MOVING)
        assert np.abs(WorldReport.of(rig.client.state().world).qpos[:7] - rig.client.state().q).max() < 5e-3
