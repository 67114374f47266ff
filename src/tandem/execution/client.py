"""The fast loop's owner side: start the process, hand it trajectories, read its state."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tandem.core.config import to_dict
from tandem.core.errors import InputError, TandemError
from tandem.core.types import Commitment
from tandem.execution.fast_loop import LoopConfig
from tandem.execution.link import Link
from tandem.execution.messages import (
    LoopState,
    Reply,
    Request,
    decode_commitment,
    decode_reply,
    decode_state,
    encode_request,
    encode_submit,
)
from tandem.execution.types import CertifiedTrajectory, SubmitCode, SubmitResult

_BEAT = 0.02
_KEPT_REPLIES = 1024


class FastLoopError(TandemError):
    """The fast loop could not be started, has ended, or does not answer."""


class FastLoopClient:
    """Owns one fast-loop process. Every method may be called from any thread.

    Args:
        config: backend, its options and the executor's limits; ``fd`` and ``owner_pid`` are filled in here.
        key: secret shared with the filter, at least 16 bytes.
        fds: descriptors that the process inherits, for the backend.

    Use it as a context manager, or call :meth:`start` and :meth:`close`.
    """

    def __init__(self, config: LoopConfig, key: bytes, fds: tuple[int, ...] = ()) -> None:
        if len(key) < 16:
            raise InputError(f"key: {len(key)} bytes; at least 16, the fast loop plays nothing without certificates")
        self._config, self._key, self._fds = config, key, fds
        self._link: Link | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_fd = -1
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._replies: dict[int, Reply] = {}
        self._ending = threading.Event()
        self._beat: threading.Thread | None = None
        self._commitment: Commitment | None = None
        self._commitment_count = -1

    def __enter__(self) -> FastLoopClient:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- life -------------------------------------------------------------------------------------------------------------

    def start(self, timeout: float = 30.0) -> None:
        """Start the process and wait until it has connected to the arm [s].

        Raises:
            FastLoopError: it ended or did not come up in time; carries what it said.
        """
        if self._process is not None:
            raise FastLoopError("the fast loop was started before; make a new client")
        self._link = link = Link.create()
        self._log_fd = os.memfd_create("tandem-fast-loop-log", os.MFD_CLOEXEC)
        config = to_dict(replace(self._config, fd=link.fd, owner_pid=os.getpid()))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        source = str(Path(__file__).resolve().parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(p for p in (source, os.environ.get("PYTHONPATH", "")) if p)
        command = [sys.executable, "-m", "tandem.execution.fast_loop", "--config", json.dumps(config)]
        link.beat_owner(time.monotonic_ns())
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=self._log_fd, stderr=self._log_fd, env=environment,
            pass_fds=(link.fd, *self._fds),
        )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(self._key.hex().encode() + b"\n")
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended; reported below with what it said
        self._beat = threading.Thread(target=self._beat_on, name="fast-loop-heartbeat", daemon=True)
        self._beat.start()
        limit = time.monotonic() + timeout
        while link.state.count < 2:
            if self._process.poll() is not None:
                text = self.log().strip().splitlines()
                self.close()
                raise FastLoopError(f"the fast loop ended at its start: {text[-1] if text else 'it said nothing'}")
            if time.monotonic() > limit:
                said = self.log().strip().splitlines()
                self._process.kill()
                self.close()
                last = f"; it last said: {said[-1]}" if said else ""
                raise FastLoopError(f"the fast loop did not come up within {timeout:.0f} s{last}")
            time.sleep(0.005)

    def _beat_on(self) -> None:
        while not self._ending.wait(_BEAT):
            with self._lock:
                if self._link is not None:
                    self._link.beat_owner(time.monotonic_ns())

    def close(self, timeout: float = 6.0) -> None:
        """Ask the loop to bring the arm to rest and end; kill it after ``timeout`` [s]. May be called again."""
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None and self._link is not None:
                with self._lock:
                    self._link.inbox.push(encode_request(next(self._numbers), Request.SHUTDOWN))
                try:
                    process.wait(timeout)
                except subprocess.TimeoutExpired:
                    process.kill()
            process.wait()
        self._ending.set()
        if self._beat is not None:
            self._beat.join()
            self._beat = None
        with self._lock:
            if self._link is not None:
                self._link.close()
                self._link = None
        if self._log_fd >= 0:
            os.close(self._log_fd)
            self._log_fd = -1

    def log(self) -> str:
        """What the process has written so far."""
        if self._log_fd < 0:
            return ""
        return os.pread(self._log_fd, 1 << 20, 0).decode(errors="replace")

    @property
    def pid(self) -> int:
        """The process id; 0 when there is none."""
        return self._process.pid if self._process is not None else 0

    def fault(self, silence: float = 0.5) -> str:
        """Empty while the loop is alive; otherwise what is wrong: ended, or silent for more than ``silence`` [s]."""
        if self._process is None or self._link is None:
            return "the fast loop is not running"
        status = self._process.poll()
        if status is not None:
            said = self.log().strip().splitlines()
            return f"the fast loop has ended with status {status}" + (f": {said[-1]}" if said else "")
        quiet = (time.monotonic_ns() - self._link.loop_beat_ns) * 1e-9
        return f"the fast loop has been silent for {quiet:.2f} s" if quiet > silence and self._link.loop_beat_ns else ""

    @property
    def alive(self) -> bool:
        """Whether the loop runs and cycles."""
        return not self.fault()

    def _open(self) -> Link:
        if self._link is None:
            raise FastLoopError("the fast loop is not running")
        return self._link

    # ---- reading ----------------------------------------------------------------------------------------------------------

    def state(self) -> LoopState:
        """The newest state.

        Raises:
            FastLoopError: not running.
        """
        with self._lock:
            data = self._open().state.read()
        if data is None:
            raise FastLoopError("the fast loop has not published its state")
        return decode_state(data)

    def details(self) -> bytes:
        """All that the arm said of itself last, in its backend's own form; empty where it says nothing.

        Raises:
            FastLoopError: not running.
        """
        with self._lock:
            return self._open().details.read() or b""

    def commitment(self) -> Commitment:
        """What the arm will do if nothing new arrives, on the wall clock.

        Raises:
            FastLoopError: not running.
        """
        with self._lock:
            channel = self._open().commitment
            count = channel.count
            if self._commitment is None or count != self._commitment_count:
                data = channel.read()
                if data is None:
                    raise FastLoopError("the fast loop has not published its commitment")
                self._commitment, _ = decode_commitment(data)
                self._commitment_count = count
            return self._commitment

    # ---- requests ---------------------------------------------------------------------------------------------------------

    def send(self, certified: CertifiedTrajectory) -> int:
        """Submit without waiting; the number under which :meth:`reply` will know it, 0 when the inbox is full."""
        number = next(self._numbers)
        data = encode_submit(number, certified)
        with self._lock:
            return number if self._open().inbox.push(data) else 0

    def reply(self, number: int) -> SubmitResult | None:
        """The answer to request ``number``, once; None while there is none."""
        with self._lock:
            link = self._open()
            while (data := link.replies.pop()) is not None:
                reply = decode_reply(data)
                self._replies[reply.number] = reply
            while len(self._replies) > _KEPT_REPLIES:
                del self._replies[next(iter(self._replies))]
            found = self._replies.pop(number, None)
        return None if found is None else SubmitResult(found.code, found.text)

    def _await(self, number: int, timeout: float) -> SubmitResult:
        if number == 0:
            return SubmitResult(SubmitCode.QUEUE_FULL, "the fast loop's inbox is full")
        limit = time.monotonic() + timeout
        while (result := self.reply(number)) is None:
            ended = self._process is not None and self._process.poll() is not None
            if ended or time.monotonic() > limit:
                raise FastLoopError(self.fault() or f"no answer from the fast loop within {timeout} s")
            time.sleep(0.0003)
        return result

    def _request(self, kind: Request, body: Mapping[str, Any] | None, timeout: float) -> SubmitResult:
        number = next(self._numbers)
        data = encode_request(number, kind, dict(body or {}))
        with self._lock:
            sent = self._open().inbox.push(data)
        return self._await(number if sent else 0, timeout)

    def submit(self, certified: CertifiedTrajectory, timeout: float = 1.0) -> SubmitResult:
        """Submit and wait for the executor's answer.

        Raises:
            FastLoopError: not running, or no answer within ``timeout`` [s].
        """
        return self._await(self.send(certified), timeout)

    def resume(self, timeout: float = 12.0) -> SubmitResult:
        """An operator's confirmation after a stop: hold where the arm is and take trajectories again."""
        return self._request(Request.RESUME, None, timeout)

    def stop(self, text: str = "", timeout: float = 1.0) -> SubmitResult:
        """Bring the arm to rest along the certified path and latch."""
        return self._request(Request.STOP, {"text": text}, timeout)

    def reset(self, request: Mapping[str, Any] | None = None, timeout: float = 30.0) -> SubmitResult:
        """Put a simulated world back to a start; ``request`` (JSON) is the backend's own."""
        return self._request(Request.RESET, request, timeout)

    def move_gripper(self, width: float, speed: float = 0.1, timeout: float = 1.0) -> SubmitResult:
        """Open or close to ``width`` [m] at ``speed`` [m/s]; only while idle."""
        return self._request(Request.GRIPPER, {"width": width, "speed": speed}, timeout)

    def home_gripper(self, timeout: float = 1.0) -> SubmitResult:
        """Let the gripper find its stroke; only while the arm rests."""
        return self._request(Request.HOME_GRIPPER, None, timeout)

    def grasp(self, width: float, force: float, timeout: float = 1.0) -> SubmitResult:
        """Close on something about ``width`` [m] wide with ``force`` [N]; only while idle."""
        return self._request(Request.GRASP, {"width": width, "force": force}, timeout)
