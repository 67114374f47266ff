"""Starts and drives the FCI simulator (``tools/fci_server``), which runs in an environment of its own.

``tandem.sh setup-fci`` makes that environment and exports ``TANDEM_FCI_PYTHON``; :func:`server_python` finds it, or says what is
missing. The server ends with its owner, however that ends: it reads a pipe that only the owner holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import TandemError
from tandem.core.paths import share_dir
from tandem.robots.urdf import resolve_source

Array = NDArray[np.float64]


class FciServerError(TandemError):
    """The FCI simulator is not installed, did not start, or does not answer."""


def server_python() -> Path:
    """The simulator's Python.

    Raises:
        FciServerError: there is none; says how to get it.
    """
    named = os.environ.get("TANDEM_FCI_PYTHON", "")
    if named and Path(named).is_file():
        return Path(named)
    reason = os.environ.get("TANDEM_FCI_MISSING", "") or "TANDEM_FCI_PYTHON is not set"
    raise FciServerError(f"the FCI simulator is not there ({reason}); run ./tandem.sh setup-fci, and start through ./tandem.sh")


def hardware_priority(priority: int = 40) -> tuple[str, ...]:
    """Starts the simulator as what it stands for, a computer of its own that is never late; nothing where that is not allowed.

    It gets the first CPU for itself as far as real time goes (:func:`loop_cpu` is another): two real-time processes on one CPU
    would use up what Linux leaves to such (95 % of each second), and both stand still for the rest.
    """
    out: tuple[str, ...] = ()
    for command in (("taskset", "-c", str(min(os.sched_getaffinity(0)))), ("chrt", "-r", str(priority))):
        if shutil.which(command[0]) and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            out += command
    return out


def loop_cpu() -> int:
    """The CPU for the loop that is measured; -1 (any) where there is only one."""
    cpus = sorted(os.sched_getaffinity(0))
    return cpus[-1] if len(cpus) > 1 else -1


def write_model(folder: Path) -> Path:
    """The simulated arm as ``folder/fr3.xml``: the FR3 of ``franky_sim`` without what is only seen, its mesh folder named."""
    source = resolve_source("franky_sim:assets/fr3.xml", Path.cwd())
    tree = ET.parse(source)
    root = tree.getroot()
    compiler, asset = root.find("compiler"), root.find("asset")
    if compiler is None or asset is None:
        raise FciServerError(f"{source}: not the model that this version expects")
    compiler.set("meshdir", str(source.parent / "meshes"))
    for body in list(root.iter("body")):
        for geom in [g for g in body.findall("geom") if g.get("class") == "visual"]:
            body.remove(geom)
    used = {g.get("mesh") for g in root.iter("geom")}
    for mesh in [m for m in asset.findall("mesh") if m.get("name") not in used]:
        asset.remove(mesh)
    target = folder / "fr3.xml"
    tree.write(target)
    return target


@dataclass(frozen=True)
class Wire:
    """What came over the wire, as the server saw it.

    Attributes:
        cycle: (N,) number of the robot's cycle that each command answers. time: (N,) when it came [s, CLOCK_MONOTONIC].
        q, dq, tau: (N, 7) commanded positions [rad], velocities [rad/s], torques [Nm].
        state_cycle, state_time: (M,) the same of each state sent. measured_q, measured_dq, desired_q: (M, 7).
        mode: (M,) robot mode. success_rate: (M,) share of cycles answered in time.
        pose_time: (K,) [s, CLOCK_MONOTONIC], pose: (K, 7) where the arm was, whether or not somebody was connected [rad].
    """

    cycle: NDArray[np.int64]
    time: Array
    q: Array
    dq: Array
    tau: Array
    state_cycle: NDArray[np.int64]
    state_time: Array
    measured_q: Array
    measured_dq: Array
    desired_q: Array
    mode: NDArray[np.int64]
    success_rate: Array
    pose_time: Array
    pose: Array


class FciServer:
    """One running simulator; a context manager.

    Args:
        host: loopback address to listen on; ports are the interface's own (1337, gripper 1338).
        patience: how long an unanswered cycle is held open, the physics with it [s]; 0: real time.
        prefix: command that starts it, e.g. in a network namespace or with a scheduling class.
        options: further options of ``serve.py``.
    """

    def __init__(
        self, host: str = "127.0.0.1", patience: float = 0.0, prefix: tuple[str, ...] = (), options: tuple[str, ...] = ()
    ) -> None:
        self.host, self.patience = host, patience
        self._command = [
            *prefix, str(server_python()), str(share_dir() / "tools" / "fci_server" / "serve.py"),
            "--host", host, "--patience", str(patience), *options,
        ]  # fmt: skip
        self._folder: Path | None = None
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> FciServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Process id; 0 when it does not run."""
        return self._process.pid if self._process is not None else 0

    def start(self, timeout: float = 60.0) -> None:
        """Start it and wait until it simulates [s].

        Raises:
            FciServerError: it ended or did not come up; carries the end of its log.
        """
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="tandem-fci-"))
        keep = ("PATH", "HOME", "LANG", "TMPDIR")
        environment = {k: os.environ[k] for k in keep if k in os.environ}
        environment |= {"FR3_MJCF": str(write_model(self._folder)), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, text=True
            )
        limit = time.monotonic() + timeout
        while True:
            try:
                self.ask("state", timeout=max(limit - time.monotonic(), 0.1))
                return
            except FciServerError:
                if self._process.poll() is not None or time.monotonic() > limit:
                    text = self.log()
                    self.close()
                    raise FciServerError(f"the FCI simulator did not start: {text}") from None
            time.sleep(0.05)

    def log(self) -> str:
        """The last lines of what it said."""
        file = self._folder / "log" if self._folder is not None else None
        if file is None or not file.is_file():
            return "it said nothing"
        return "\n".join(file.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]) or "it said nothing"

    def ask(self, do: str, timeout: float = 10.0, **values: Any) -> dict[str, Any]:
        """One request of ``serve.py``: state, mode, reflex, gripper, record, dump, die.

        Raises:
            FciServerError: no answer, or the answer is an error.
        """
        process = self._process
        if process is None or process.stdin is None or process.stdout is None or process.poll() is not None:
            raise FciServerError("the FCI simulator does not run")
        try:
            process.stdin.write(json.dumps({"do": do, **values}) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            raise FciServerError("the FCI simulator has ended") from None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout):
                raise FciServerError(f"the FCI simulator did not answer {do!r} within {timeout:.0f} s")
        line = process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"ok": False, "error": "it has ended"}
        if not answer.pop("ok"):
            raise FciServerError(f"the FCI simulator refused {do!r}: {answer['error']}")
        return answer

    def record(self) -> None:
        """Begin to record what comes over the wire."""
        self.ask("record", on=True)

    def recorded(self) -> Wire:
        """End recording and hand it over; of a server that :meth:`cut` has ended, what it had recorded until then.

        Raises:
            FciServerError: it does not answer, or has ended otherwise.
        """
        assert self._folder is not None
        file = self._folder / "wire.npz"
        if self._process is not None or not file.is_file():
            self.ask("dump", timeout=60.0, file=str(file))
        with np.load(file) as data:
            c, s, p = data["commands"].reshape(-1, 23), data["states"].reshape(-1, 25), data["poses"].reshape(-1, 8)
        return Wire(
            c[:, 0].astype(np.int64), c[:, 1], c[:, 2:9], c[:, 9:16], c[:, 16:23],
            s[:, 0].astype(np.int64), s[:, 1], s[:, 2:9], s[:, 9:16], s[:, 16:23], s[:, 23].astype(np.int64), s[:, 24],
            p[:, 0], p[:, 1:],
        )  # fmt: skip

    def cut(self, timeout: float = 10.0) -> None:
        """As :meth:`kill`, but what was recorded until then can still be had."""
        assert self._folder is not None and self._process is not None and self._process.stdin is not None
        (self._folder / "wire.npz").unlink(missing_ok=True)
        self._process.stdin.write(json.dumps({"do": "die", "file": str(self._folder / "wire.npz")}) + "\n")
        self._process.stdin.flush()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """End it at once, as a power cut does; :meth:`start` brings it back, at its home pose."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()
            self._process = None

    def close(self) -> None:
        """End it and remove its files; may be called again."""
        self.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
