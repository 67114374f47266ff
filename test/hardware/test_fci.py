"""The backend for a real arm against the real network interface: motions, faults, recovery, bad input."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

pytest.importorskip("pylibfranka")

from hardware.conftest import HOST, PATIENCE, Rig

from tandem.bench.fci_arm import KEY, MOVE, REFLEX, certified_error, pieces, simulated_loop
from tandem.bench.fci_server import FciServer, Wire
from tandem.execution.client import FastLoopClient, FastLoopError
from tandem.execution.fci import details
from tandem.execution.fci.config import INTERFACES
from tandem.execution.types import ArmState, CertifiedTrajectory, Mode, StopReason, SubmitCode
from tandem.robots.model import ArmModel

pytestmark = [pytest.mark.fci, pytest.mark.timeout(240)]
TORQUE_RATE = 1.0  # Nm a cycle: 1000 Nm/s


def recorded(server: FciServer, rig: Rig, seconds: float) -> tuple[Wire, float]:
    server.record()
    cycle = rig.client.state().cycle
    rig.until(lambda: rig.client.state().cycle > cycle + 5)
    start = rig.client.state().stamp
    rig.move(seconds)
    rig.until(lambda: rig.client.state().mode in (Mode.IDLE, Mode.STOPPED))
    return server.recorded(), start


def test_plays_what_was_certified_and_nothing_else(server: FciServer, rig: Rig) -> None:
    wire, start = recorded(server, rig, 4.0)
    state = rig.client.state()
    assert state.mode is Mode.IDLE and state.counters.splices >= 5
    assert (state.arm.state, state.arm.reflexes) == (ArmState.MOVING, 0)
    assert state.arm.success_rate >= 0.99 and state.arm.lost_cycles == 0
    assert np.diff(wire.cycle).max() == 1
    error, _ = certified_error(wire, rig.played, start)
    assert error < 1e-6
    # the measure can tell: one plan played 2 ms late, or off by 2 microradians, would be seen
    late = [*rig.played[:-1], _changed(rig.played[-1], 0.002, 0.0)]
    assert certified_error(wire, late, start)[0] > 1e-5
    off = [*rig.played[:-1], _changed(rig.played[-1], 0.0, 2e-6)]
    assert certified_error(wire, off, start)[0] > 1e-6
    assert np.abs(wire.q[-1] - wire.q[0]).max() > 0.01, "the arm has moved"
    assert np.abs(wire.measured_q - wire.desired_q).max() < 0.03


@pytest.mark.timeout(560)
def test_a_minute_of_certified_motions_with_splices(server: FciServer, arm: ArmModel) -> None:
    server.ask("mode", mode="execution")
    # a minute of the arm's time: a busy machine may take more of its own, which must not count as a late arm
    with Rig(arm, HOST, own_clock=True, gripper=False) as rig:
        wire, start = recorded(server, rig, 60.0)
        state = rig.client.state()
    assert wire.cycle[-1] - wire.cycle[0] >= 60_000 and np.diff(wire.cycle).max() == 1
    assert state.mode is Mode.IDLE and state.counters.splices >= 100
    assert (state.arm.state, state.arm.reflexes, state.arm.lost_cycles, state.arm.rejoins) == (ArmState.MOVING, 0, 0, 0)
    assert wire.success_rate[wire.success_rate > 0.0][100:].min() >= 0.99
    assert certified_error(wire, rig.played, start)[0] < 1e-6
    found = pieces(wire, rig.played)
    assert len(found) >= 100 and max(p.error for p in found) < 1e-6


def _changed(plan: CertifiedTrajectory, delay: float, offset: float) -> CertifiedTrajectory:
    from dataclasses import replace

    p = plan.proposal
    moved = replace(p.trajectory, q=p.trajectory.q + offset)
    return replace(plan, proposal=replace(p, trajectory=moved, switch_time=p.switch_time + delay))


def test_velocity_interface_integrates_to_what_was_certified(server: FciServer, arm: ArmModel) -> None:
    with Rig(arm, HOST, interface="velocity", gripper=False) as rig:
        wire, start = recorded(server, rig, 1.5)
    assert rig.played and np.abs(wire.dq).max() > 0.01
    first = rig.played[0].proposal.trajectory.q[0]
    integral = Wire(**{**vars(wire), "q": first + np.cumsum(wire.dq, axis=0) * 1e-3})
    assert certified_error(integral, rig.played, start)[0] < 1e-6


def test_torque_interface_follows_and_keeps_the_torque_rate(server: FciServer, arm: ArmModel) -> None:
    with Rig(arm, HOST, interface="torque", gripper=False) as rig:
        wire, _ = recorded(server, rig, 1.0)
        state = rig.client.state()
    assert state.arm.reflexes == 0 and state.mode is Mode.IDLE
    assert np.abs(wire.tau).max() > 0.1 and np.abs(np.diff(wire.tau, axis=0)).max() <= TORQUE_RATE
    assert np.abs(wire.measured_q[-1] - state.command_q).max() < 0.03


@pytest.mark.parametrize("interface", INTERFACES)
def test_an_arm_that_was_stopped_stands_still_when_resumed(server: FciServer, arm: ArmModel, interface: str) -> None:
    with Rig(arm, HOST, interface=interface, gripper=False) as rig:
        begin = rig.client.state().q.copy()
        while np.abs(rig.client.state().q - begin).max() < 0.1:
            rig.moving()
            rig.until(lambda: rig.client.state().mode is Mode.IDLE)
        rig.client.stop("operator")
        rig.stopped()
        rest = rig.client.state().command_q.copy()
        rig.resume()
        end = rig.client.state().stamp + 0.6
        while (state := rig.client.state()).stamp < end:
            assert state.mode is Mode.IDLE and np.abs(state.command_q - rest).max() < 1e-9 and np.abs(state.q - rest).max() < 0.02
        rig.moving()
        rig.until(lambda: rig.client.state().mode is Mode.IDLE)


def test_a_reflex_stays_until_an_operator_resumes(server: FciServer, rig: Rig) -> None:
    rig.moving()
    server.ask("reflex", name="joint_reflex")
    assert "joint_reflex" in rig.stopped()
    state = rig.client.state()
    assert (state.reason, state.arm.state, state.arm.reflexes) == (StopReason.BACKEND, ArmState.REFLEX, 1)
    plan = rig.wanderer.plan(rig.client.commitment(), state.stamp, state.stamp + 0.5)
    assert plan is not None and rig.client.submit(plan, timeout=30.0).code is SubmitCode.STOPPED
    rig.resume()
    rig.until(lambda: rig.client.state().arm.state is ArmState.MOVING)
    state = rig.client.state()
    assert state.arm.recoveries == 1 and np.abs(state.command_q - state.q).max() < 0.02
    rig.moving()


def test_the_whole_state_is_handed_on_where_it_is_asked_for(server: FciServer, arm: ArmModel) -> None:
    server.ask("mode", mode="execution")
    with Rig(arm, HOST, gripper=False) as rig:
        assert rig.client.details() == b"", "nobody has asked"
    with Rig(arm, HOST, gripper=False, details=True) as rig:
        rig.moving()
        rig.until(lambda: details.decode(rig.client.details()).mode == MOVE)
        said = details.decode(rig.client.details())
        assert np.abs(said.fields["q"] - rig.client.state().q).max() < 0.1 and said.current_errors == ()
        server.ask("reflex", name="joint_reflex")
        rig.stopped()
        rig.until(lambda: details.decode(rig.client.details()).mode == REFLEX)
        assert "joint_reflex" in details.decode(rig.client.details()).current_errors
        rig.resume()


def test_the_user_stop_and_the_wrong_mode_are_refused_until_they_end(server: FciServer, rig: Rig) -> None:
    rig.moving()
    server.ask("mode", mode="user_stopped")
    assert "user stop is pressed" in rig.stopped()
    refused = rig.client.resume(60.0)
    assert refused.code is SubmitCode.INTERNAL and "release it" in refused.text
    server.ask("mode", mode="guiding")
    rig.until(lambda: "guiding" in rig.client.state().arm.text)
    assert "execution mode in Desk" in rig.client.resume(60.0).text
    server.ask("mode", mode="locked")
    assert "unlock the joints" in rig.client.resume(60.0).text
    server.ask("mode", mode="execution")
    rig.until(lambda: rig.client.state().arm.state is ArmState.IDLE)
    assert rig.client.state().mode is Mode.STOPPED, "it stays stopped until resumed"
    assert rig.client.resume(60.0).accepted
    rig.until(lambda: rig.client.state().arm.state is ArmState.MOVING)


@pytest.mark.parametrize(
    ("mode", "text"), [("user_stopped", "release it"), ("guiding", "execution mode in Desk"), ("locked", "unlock the joints")]
)
def test_an_arm_that_is_not_ready_at_the_start_says_why(server: FciServer, arm: ArmModel, mode: str, text: str) -> None:
    server.ask("mode", mode=mode)
    with Rig(arm, HOST, gripper=False) as rig:
        assert text in rig.stopped()
        server.ask("mode", mode="execution")
        rig.resume()
        rig.moving()


def test_a_controller_that_restarts(server: FciServer, rig: Rig) -> None:
    rig.moving()
    server.kill()
    assert "no connection" in rig.stopped()
    assert rig.client.state().arm.state is ArmState.DISCONNECTED
    assert "activate FCI" in rig.client.resume(60.0).text
    server.start()
    rig.resume()
    rig.until(lambda: rig.client.state().arm.state is ArmState.MOVING)
    rig.moving()


def test_the_gripper_works_beside_the_arm_and_its_loss_stops_it(server: FciServer, rig: Rig) -> None:
    client = rig.client
    assert client.home_gripper(30.0).accepted
    rig.until(lambda: client.state().arm.gripper == "ready")
    assert client.move_gripper(0.03, 0.1, timeout=30.0).accepted
    rig.until(lambda: abs(client.state().width - 0.03) < 1e-3)
    assert client.grasp(0.02, 30.0, timeout=30.0).accepted
    rig.until(lambda: client.state().width < 1e-3)
    lost = client.state().arm.lost_cycles
    assert client.move_gripper(0.08, 0.05, timeout=30.0).accepted  # takes 1.6 s
    rig.moving()
    assert client.state().arm.lost_cycles == lost, "the arm never waits for the gripper"
    server.ask("gripper", on=False)
    assert "gripper" in rig.stopped()
    assert client.state().arm.state is ArmState.MOVING, "the arm came to rest along its certified path"
    server.ask("gripper", on=True)
    rig.resume()
    rig.until(lambda: client.state().arm.gripper == "ready")
    assert client.state().mode is Mode.IDLE
    rig.moving()


def test_nothing_is_left_of_a_killed_loop(server: FciServer, arm: ArmModel) -> None:
    rig = Rig(arm, HOST)
    with rig:
        rig.moving()
        children = psutil.Process(rig.client.pid).children(recursive=True)
        assert children, "the gripper has a process of its own"
        os.kill(rig.client.pid, signal.SIGKILL)
        rig.until(lambda: not rig.client.alive)
    _, alive = psutil.wait_procs(children, 20.0)
    assert not alive
    with Rig(arm, HOST, gripper=False) as again:
        again.moving()


@pytest.mark.parametrize(
    ("host", "options", "text"),
    [
        (HOST.removesuffix("1") + "2", {}, "activate FCI in Desk"),
        ("no-such-arm.invalid", {}, "no such host"),
        (HOST, {"profile": "bold"}, "there are: careful"),
        (HOST, {"load": {"mass": 9.0}}, "accepted: 0.0 .. 3.0 kg"),
        (HOST, {"realtime": True}, "PREEMPT_RT"),
    ],
)  # fmt: skip
def test_a_start_that_fails_says_what_to_do(
    server: FciServer, arm: ArmModel, host: str, options: dict[str, object], text: str
) -> None:
    if options.get("realtime") and Path("/sys/kernel/realtime").is_file():
        pytest.skip("this kernel is a real-time one")
    client = FastLoopClient(simulated_loop(arm, host, patient=True, **options), KEY)
    with pytest.raises(FastLoopError, match=text) as error:
        client.start(60.0)
    assert "Traceback" not in str(error.value) and "\n" not in str(error.value)
    assert client.pid == 0
    server.ask("mode", mode="execution")
    with Rig(arm, HOST, gripper=False) as rig:  # nothing half open is left: the next one has the arm
        rig.until(lambda: rig.client.state().arm.state is ArmState.MOVING)


@pytest.mark.parametrize(("version", "text"), [(9, "update the arm's system software"), (11, "update pylibfranka")])
def test_a_controller_of_another_version_is_named(arm: ArmModel, server: FciServer, version: int, text: str) -> None:
    host = HOST.removesuffix("1") + "3"
    with FciServer(host, PATIENCE, options=("--fci-version", str(version))):
        client = FastLoopClient(simulated_loop(arm, host, patient=True), KEY)
        with pytest.raises(FastLoopError, match=text) as error:
            client.start(60.0)
        assert "Traceback" not in str(error.value) and "\n" not in str(error.value) and client.pid == 0


def test_a_second_controller_is_told_that_the_arm_is_taken(server: FciServer, rig: Rig, arm: ArmModel) -> None:
    client = FastLoopClient(simulated_loop(arm, HOST, patient=True), KEY)
    begin = time.monotonic()
    with pytest.raises(FastLoopError, match="is another one using the arm"):
        client.start(8.0)
    assert time.monotonic() - begin < 60.0 and client.pid == 0
    rig.moving()
