"""Serves the Franka Control Interface from a simulated FR3 (franka-sim), on one loopback address, with switches for faults.

Runs in an environment of its own (``requirements.lock`` beside this file); :mod:`tandem.bench.fci_server` starts and drives it.
Requests come as one JSON object a line on standard input and are answered by one a line on standard output. The end of standard
input ends the server: it never outlives who started it.

``--patience S``: an unanswered cycle is held open for up to S seconds and the physics advance with the cycles, so that the
robot's time stands still while a busy machine keeps its client from answering. For tests of what is commanded, not of timing.
"""

from __future__ import annotations

import argparse
import ipaddress
import json
import logging
import os
import sys
import threading
import time
from typing import Any

import numpy as np
from franka_sim import mujoco_franka_sim
from franka_sim.franka_protocol import ConnectStatus, LibfrankaControllerMode, LibfrankaMotionGeneratorMode, MoveStatus
from franka_sim.franka_sim_server import FrankaSimServer
from franka_sim.gripper.backend import FrankaHandSim
from franka_sim.gripper.server import FrankaGripperServer
from franka_sim.limits.tables import ERROR_NAMES
from franka_sim.mujoco_franka_sim import MujocoFrankaSim
from franka_sim.server.constants import RobotMode

CONTACTS = {6: "joint_reflex", 7: "cartesian_reflex"}  #: errors that the simulator never has, by their place on the wire
#: modes an operator puts the arm into; no motion starts in them
OPERATOR_MODES = {"user_stopped": RobotMode.kUserStopped, "guiding": RobotMode.kGuiding, "locked": RobotMode.kOther}


class TimedHand(FrankaHandSim):
    """The simulator's hand, taking the time that the asked speed means."""

    def move(self, width: float, speed: float) -> bool:
        """Width [m], speed [m/s]; returns when it is there."""
        if 0.0 <= width <= 0.08 and speed > 0.0:
            time.sleep(abs(width - self.get_state().width) / speed)
        return super().move(width, speed)

    def homing(self) -> bool:
        """Close, open."""
        time.sleep(0.5)
        return super().homing()


class SteppedArm(MujocoFrankaSim):
    """Physics that advance with the cycles, not with this machine's clock.

    A cycle's step is taken when the next state is made, after the cycle's own has been sent: while the client works at its
    answer, not between the moment a state is due and its sending, where it would lengthen every cycle.
    """

    def __init__(self) -> None:
        super().__init__()
        self.owed = 0
        self._stepping = threading.Lock()

    def get_robot_state(self) -> Any:
        """The newest state, the steps owed taken."""
        with self._stepping:
            steps, self.owed = self.owed, 0
            if steps:
                self.step(steps)
        return super().get_robot_state()

    def run_simulation(self) -> None:
        """Nothing runs by itself."""
        while self.running:
            time.sleep(0.05)


class Server(FrankaSimServer):
    """The simulator's server with faults and a record of what came over the wire."""

    def __init__(self, host: str, patience: float, object_width: float | None) -> None:
        self.patience = patience
        if patience > 0.0:  # nor does a state go out while a command that has come is still being taken in
            self._DRAIN_GATE_TIMEOUT = patience
        self.operator_mode: RobotMode | None = None
        self.recording = False
        self.commands: list[tuple[float, ...]] = []
        self.states: list[tuple[float, ...]] = []
        self.poses: list[tuple[float, ...]] = []
        arm = SteppedArm() if patience > 0.0 else MujocoFrankaSim()
        hand = TimedHand(object_width=object_width)
        enforce = {"enforce_comm_constraints": True, "enforce_motion_limits": True}
        super().__init__(host=host, physics_sim=arm, gripper_backend=hand, **enforce)

    # ---- time -------------------------------------------------------------------------------------------------------------
    def _drain_gate(self, answer_deadline: float = 0.0) -> float:
        if self.patience > 0.0:
            answer_deadline = max(answer_deadline, time.perf_counter() + self.patience)
        return float(super()._drain_gate(answer_deadline))

    # ---- record -----------------------------------------------------------------------------------------------------------
    def _dispatch_control_command(self, command: Any, *, motion_generation: int | None = None) -> None:
        if self.recording and motion_generation is None:  # one with a generation is the server's own extrapolation
            row = (float(command["message_id"]), time.monotonic(), *command["q_c"], *command["dq_c"], *command["tau_J_d"])
            self.commands.append(row)
        super()._dispatch_control_command(command, motion_generation=motion_generation)

    def _account_for_communication_cycle(self) -> None:
        super()._account_for_communication_cycle()
        if self.operator_mode is not None:  # whatever a client has asked for meanwhile
            self.robot_state.state["robot_mode"] = self.operator_mode
        if self.patience > 0.0:
            self.physics_sim.owed += 1
        if self.recording:
            s = self.robot_state.state
            row = (s["message_id"], time.monotonic(), *s["q"], *s["dq"], *s["q_d"], int(s["robot_mode"]),
                   s["control_command_success_rate"])  # fmt: skip
            self.states.append(tuple(float(x) for x in row))

    def _watch_arm(self) -> None:
        """Where the arm is, whether or not somebody is connected."""
        while self.recording:
            self.poses.append((time.monotonic(), *(float(x) for x in self.physics_sim.get_robot_state()["q"])))
            time.sleep(0.004)

    # ---- faults -----------------------------------------------------------------------------------------------------------
    def reset_state(self) -> None:
        super().reset_state()
        if getattr(self, "operator_mode", None) is not None:
            self.robot_state.state["robot_mode"] = self.operator_mode

    def _refuse_move_while_latched(self, client_socket: Any, header: Any) -> bool:
        if self.operator_mode is None:
            return bool(super()._refuse_move_while_latched(client_socket, header))
        stopped = self.operator_mode is RobotMode.kUserStopped
        status = (
            MoveStatus.kCommandRejectedDueToActivatedSafetyFunctions if stopped else MoveStatus.kCommandNotPossibleRejected
        )
        self.send_move_response(client_socket, command_id=header.command_id, status=status)
        return True

    def set_operator_mode(self, name: str) -> None:
        """Press the user stop, guide by hand, lock the brakes; "execution" takes it back."""
        with self._motion_lock:
            state = self.robot_state.state
            if name == "execution":
                self.operator_mode = None
                state["robot_mode"] = RobotMode.kIdle
                return
            self.operator_mode = OPERATOR_MODES[name]
            state["robot_mode"] = self.operator_mode
            state["motion_generator_mode"] = LibfrankaMotionGeneratorMode.kIdle.value
            state["controller_mode"] = LibfrankaControllerMode.kOther.value
            self._engage_idle_hold(name)
            if self.current_motion_id and self.client_socket is not None:
                status = MoveStatus.kPreemptedDueToActivatedSafetyFunctions
                self._pending_move_response = (self.current_motion_id, status, self._states_packed)
                self.current_motion_id = 0

    def set_gripper(self, on: bool) -> None:
        """Unplug the gripper, or plug it in again."""
        old = self.gripper_server
        if on == (old is not None and old.running):
            return
        if on:
            backend = old.backend if old is not None else TimedHand()
            self.gripper_server = FrankaGripperServer(host=self.host, backend=backend)
            self.start_gripper_server()
        elif old is not None:
            old.stop()

    def do(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out one request."""
        kind = request["do"]
        if kind == "record":
            self.commands, self.states, self.poses, self.recording = [], [], [], bool(request["on"])
            threading.Thread(target=self._watch_arm, daemon=True).start()
        elif kind in ("dump", "die"):
            self.recording = False
            rows = {"commands": self.commands, "states": self.states, "poses": self.poses}
            np.savez(request["file"], **{name: np.array(value) for name, value in rows.items()})
            if kind == "die":  # as a power cut: what was recorded is all there is
                os._exit(0)
        elif kind == "mode":
            self.set_operator_mode(request["mode"])
        elif kind == "reflex":
            index = {name: i for i, name in {**ERROR_NAMES, **CONTACTS}.items()}[request["name"]]
            self._abort_with_error(index, f"provoked: {request['name']}")
        elif kind == "gripper":
            self.set_gripper(bool(request["on"]))
        elif kind == "state":
            s = self.physics_sim.get_robot_state()
            if not any(s["q"]):
                raise RuntimeError("not simulating yet")
            return {"q": [float(x) for x in s["q"]], "dq": [float(x) for x in s["dq"]], "states": self.states_sent}
        else:
            raise ValueError(f"unknown request {kind!r}")
        return {}


class OldServer(Server):
    """A controller whose software speaks another version of the interface."""

    version = 0

    def send_response(self, client_socket: Any, command: int, command_id: int, status: Any, version: int) -> None:
        super().send_response(client_socket, command, command_id, ConnectStatus.kIncompatibleLibraryVersion, self.version)


def listen(server: Server) -> None:
    """Answer requests until standard input ends, then end the process."""
    for line in sys.stdin:
        try:
            answer = {"ok": True, **server.do(json.loads(line))}
        except Exception as error:  # the one who asks must always be answered
            answer = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    os._exit(0)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description="FCI server over a simulated FR3")
    parser.add_argument("--host", default="127.0.0.1", help="loopback address to listen on")
    parser.add_argument("--patience", type=float, default=0.0, help="how long an unanswered cycle is held open [s]")
    parser.add_argument("--object-width", type=float, help="width of what lies between the fingers [m]")
    parser.add_argument("--start", type=float, nargs=7, metavar="RAD", help="joints at the start [rad]")
    parser.add_argument("--fci-version", type=int, default=10, help="another than 10 refuses its clients")
    parser.add_argument("--any-address", action="store_true", help="allow addresses outside 127.0.0.0/8 (network namespaces)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if not options.any_address and not ipaddress.ip_address(options.host).is_loopback:
        parser.error(f"--host {options.host}: only loopback addresses")
    if options.start:
        mujoco_franka_sim.ARM_INITIAL_Q[:] = options.start  # read when the arm is made
    OldServer.version = options.fci_version
    kind = Server if options.fci_version == 10 else OldServer
    server = kind(options.host, options.patience, options.object_width)
    threading.Thread(target=listen, args=(server,), daemon=True).start()
    server.start()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
