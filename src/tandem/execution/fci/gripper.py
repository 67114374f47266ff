"""The Franka Hand in a process of its own: its calls block for as long as the fingers move, and hold Python's lock meanwhile.

The fast loop talks to it over a socket that never blocks (one JSON object a datagram). The process ends with the fast loop.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
#: states while nothing is asked [s]
_STATE_EVERY = 0.05
_LARGEST = 4096
#: how long a hand that refuses is asked again [s]
_PATIENCE = 3.0


class Gripper:
    """The fast loop's end. Nothing in it blocks.

    Attributes:
        width: last measured distance between the fingertips [m]. grasped: whether something is held. ready: whether connected.
        busy: whether a request is being carried out. fault: what is wrong; empty while it works.
    """

    def __init__(self, ip: str) -> None:
        self.width, self.grasped, self.ready, self.busy, self.fault = 0.0, False, False, False, ""
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        source = str(Path(__file__).resolve().parents[3])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(p for p in (source, os.environ.get("PYTHONPATH", "")) if p)
        command = [sys.executable, "-m", "tandem.execution.fci.gripper", "--ip", ip, "--fd", str(theirs.fileno())]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), env=environment)
        theirs.close()

    def ask(self, do: str, **values: float) -> None:
        """Request ``move`` (width, speed), ``grasp`` (width, speed, force) or ``homing``; of several the last counts."""
        self.busy = True
        try:
            self._ours.send(json.dumps({"do": do, **values}).encode())
        except OSError as error:
            self.fault = self.fault or f"the gripper's process is gone: {error}"

    def poll(self) -> None:
        """Take in what it has said since."""
        while not self.fault:
            try:
                data = self._ours.recv(_LARGEST)
            except BlockingIOError:
                return
            except OSError as error:
                data = b""
                self.fault = str(error)
            if not data:
                self.fault = self.fault or "the gripper's process has ended"
                self.ready = self.busy = False
                return
            said = json.loads(data)
            self.fault = said.get("fault", "")
            self.width, self.grasped = said.get("width", self.width), said.get("grasped", self.grasped)
            self.busy = said.get("busy", self.busy)
            self.ready = not self.fault

    def close(self) -> None:
        """End the process; may be called again."""
        self._ours.close()
        if self._process.poll() is None:
            self._process.kill()  # it may be inside a call that blocks
        self._process.wait()


def _carry_out(hand: Any, request: dict[str, Any]) -> None:
    if request["do"] == "move":
        hand.move(request["width"], request["speed"])
    elif request["do"] == "homing":
        hand.homing()
    else:
        # whatever is between the fingers is what was to be grasped
        hand.grasp(request["width"], request["speed"], request["force"], 0.08, 0.08)


def serve(hand: Any, ours: socket.socket) -> None:
    """Carry out what is asked of ``hand`` (a ``pylibfranka.Gripper``), tell its state meanwhile, until the other end closes."""

    def tell(busy: bool) -> None:
        state = hand.read_once()
        ours.send(json.dumps({"width": state.width, "grasped": bool(state.is_grasped), "busy": busy}).encode())

    tell(False)
    ours.settimeout(_STATE_EVERY)
    while True:
        request = None
        try:
            request = ours.recv(_LARGEST)
            ours.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while request:
                    request = ours.recv(_LARGEST)  # a newer one replaces an older one
        except TimeoutError:
            pass
        finally:
            ours.settimeout(_STATE_EVERY)
        if request == b"":
            return
        if request is not None:
            tell(True)
            _carry_out(hand, json.loads(request))
        tell(False)


def _connect(ip: str) -> Any:
    """The hand; one that is being plugged in again is waited for a little."""
    import pylibfranka

    limit = time.monotonic() + _PATIENCE
    while True:
        try:
            return pylibfranka.Gripper(ip)
        except pylibfranka.FrankaException:
            if time.monotonic() > limit:
                raise
            time.sleep(0.2)


def main() -> int:
    """Entry of the process."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with contextlib.suppress(OSError):  # the fast loop's priority is not for this process
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parser = argparse.ArgumentParser(description="The gripper's process; started by the fast loop")
    parser.add_argument("--ip", required=True)
    parser.add_argument("--fd", type=int, required=True)
    options = parser.parse_args()
    ours = socket.socket(fileno=options.fd)
    try:
        serve(_connect(options.ip), ours)
    except (ConnectionError, BrokenPipeError):
        return 0
    except Exception as error:  # libfranka raises plain RuntimeErrors too
        with contextlib.suppress(OSError):
            ours.send(json.dumps({"fault": f"gripper: {str(error) or type(error).__name__}"[:300]}).encode())
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
