"""What the interface's errors mean and what to do about them, in one line for an operator."""

from __future__ import annotations

import re

from tandem.execution.types import ArmState

#: robot mode (libfranka's name) -> state
STATES = {
    "Idle": ArmState.IDLE, "Move": ArmState.MOVING, "Reflex": ArmState.REFLEX, "UserStopped": ArmState.USER_STOPPED,
    "Guiding": ArmState.GUIDING, "AutomaticErrorRecovery": ArmState.RECOVERING, "Other": ArmState.LOCKED,
}  # fmt: skip
#: why nothing can be commanded in a state, and the step to take
STEPS = {
    ArmState.DISCONNECTED: "no connection to the arm's controller; check power and cable, then resume",
    ArmState.IDLE: "the arm has ended the motion by itself; resume to go on",
    ArmState.REFLEX: "the arm has stopped itself; remove the cause, then resume",
    ArmState.USER_STOPPED: "the user stop is pressed; release it, then resume",
    ArmState.GUIDING: "the arm is in guiding (programming) mode; switch to execution mode in Desk, then resume",
    ArmState.LOCKED: "the arm is not in execution mode or its brakes are locked; unlock the joints in Desk, then resume",
    ArmState.RECOVERING: "the arm is still recovering; resume again",
}
#: what often is behind an error
HINTS = {
    "communication_constraints_violation": "commands came late: real-time kernel, CPU isolation and network are to be checked",
    "joint_reflex": "a joint met more resistance than the safety profile allows",
    "cartesian_reflex": "the hand met more resistance than the safety profile allows",
    "joint_position_limits_violation": "a joint is beyond its limit; move it back by hand in guiding mode",
    "self_collision_avoidance_violation": "the arm came too close to itself",
    "power_limit_violation": "the motion needs more power than allowed; is the load set rightly",
    "tau_j_range_violation": "a torque beyond the range; is the load set rightly",
}


def reflex_text(errors: str) -> str:
    """``errors`` as libfranka prints them (``["a", "b"]``) -> names with hints."""
    names = re.findall(r'"([a-z_0-9]+)"', errors) or ["no error named"]
    said = [f"{name} ({HINTS[name]})" if name in HINTS else name for name in names]
    return f"reflex: {', '.join(said)}; {STEPS[ArmState.REFLEX]}"


def connection_text(ip: str, error: str) -> str:
    """Why no connection came about, and what to do."""
    said = error.strip().splitlines()[0] if error.strip() else "no reason given"
    versions = re.search(r"server version:?\s*(\d+).*?library version:?\s*(\d+)", error, re.IGNORECASE | re.DOTALL)
    if versions or "ncompatible" in error:
        if versions:
            server, library = int(versions[1]), int(versions[2])
            older = "the arm's system software (in Desk)" if server < library else "pylibfranka (requirements.lock)"
            detail = f"the arm at {ip} speaks version {server} of the interface, this library version {library}"
            return f"{detail}: update {older}; the compatibility table is in docs/hardware.md"
        return f"the arm at {ip} speaks another version of the interface ({said}); the compatibility table is in docs/hardware.md"
    if "realtime" in error.lower():
        return (
            f"{said}: a real arm needs a PREEMPT_RT kernel and the right to real-time priority (./tandem.sh doctor); "
            "realtime:=false is for simulation only"
        )
    if "refused" in error.lower():
        return f"{ip} refuses the connection: activate FCI in Desk, and check that robot_ip is the arm's controller"
    if "not found" in error.lower():
        return f"robot_ip = {ip!r}: no such host; accepted: the IP address of the arm's controller"
    return f"no connection to the arm at {ip}: {said}; check robot_ip, cable, power and this machine's network"
