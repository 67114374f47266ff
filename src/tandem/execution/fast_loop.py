"""The fast loop: a process of its own that ticks the executor at 1 kHz against a backend.

Started by :class:`tandem.execution.client.FastLoopClient` as ``python -m tandem.execution.fast_loop --config JSON``; the key
shared with the filter comes as one hex line on standard input, so that no process list shows it. The loop keeps time by
CLOCK_MONOTONIC; trajectories are stamped by the wall clock, whose offset is fixed at the start and watched: a step stops the arm.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tandem.core.config import from_dict, setting
from tandem.core.errors import ConfigError, InputError, TandemError
from tandem.execution import realtime
from tandem.execution.backends.base import (
    Backend,
    BackendError,
    BackendState,
    DetailedBackend,
    FollowingBackend,
    PacedBackend,
)
from tandem.execution.executor import Executor
from tandem.execution.link import Link
from tandem.execution.messages import (
    Reply,
    Request,
    StateBuffer,
    decode_request,
    encode_commitment,
    encode_reply,
    request_number,
)
from tandem.execution.types import (
    CertifiedTrajectory,
    Command,
    ExecutorConfig,
    Mode,
    StopReason,
    SubmitCode,
    SubmitResult,
)

_log = logging.getLogger(__name__)
_WATCH_EVERY = 10  # cycles between looks at the owner and the wall clock
_DETAILS_EVERY = 20  # cycles between two of the arm's own full states
_REST_LIMIT_NS = 5_000_000_000  # longest wait for rest before leaving
_RECOVERY_NS = 10_000_000_000  # how long a recovery may take without a sign of life
_DRIFT_NS = 2_000_000  # difference between the arm's clock and this machine's that is taken over at rest


@dataclass(frozen=True)
class LoopConfig:
    """What the fast loop is told at its start."""

    backend: str = setting("", "factory of the backend, 'module:callable'; called with backend_options")
    backend_options: dict[str, Any] = field(default_factory=dict, metadata={"doc": "handed to the factory"})
    executor: ExecutorConfig = field(default_factory=lambda: ExecutorConfig(lower=[]), metadata={"doc": "limits and tolerances"})
    fd: int = setting(-1, "descriptor of the shared memory", lo=-1)
    owner_pid: int = setting(0, "process whose death ends the loop", lo=0)
    owner_timeout: float = setting(0.5, "silence of the owner after which the arm stops", unit="s", lo=0.05, hi=60.0)
    wall_step: float = setting(0.02, "step of the wall clock at which the arm stops", unit="s", lo=1e-3, hi=10.0)
    max_drift: float = setting(
        0.05, "how far the arm's own clock may fall behind this machine's in motion", unit="s", lo=1e-3, hi=60.0
    )
    own_clock: bool = setting(
        False, "everybody follows the arm's clock: it is never set by this machine's, however far apart they get"
    )
    catch_up: int = setting(20, "most cycles that are caught up on when late; more are skipped", lo=5, hi=500)
    spin: float = setting(6e-5, "how long before a deadline waiting turns from sleep to spin", unit="s", lo=0.0, hi=1e-3)
    priority: int = setting(50, "SCHED_FIFO priority to ask for; 0: none", lo=0, hi=98)
    cpu: int = setting(-1, "CPU to stay on; -1: any", lo=-1, hi=4095)
    lock_memory: bool = setting(True, "ask for locked memory")


def load_backend(entry: str, options: dict[str, Any]) -> Backend:
    """Call the factory ``module:callable`` with ``options``.

    Raises:
        ConfigError: no such module or callable.
    """
    module, _, name = entry.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"backend {entry!r}: {error}; expected 'module:callable'") from error
    backend: Backend = factory(options)
    return backend


class FastLoop:
    """The loop's parts, one cycle at a time; :meth:`run` adds the clock.

    Args:
        config: see :class:`LoopConfig`. link: the shared memory. backend: the arm. key: secret shared with the filter.
        wall_ns, mono_ns: the wall clock and CLOCK_MONOTONIC [ns]. parent: process id of the parent.
    """

    def __init__(
        self,
        config: LoopConfig,
        link: Link,
        backend: Backend,
        key: bytes,
        wall_ns: Callable[[], int] = time.time_ns,
        mono_ns: Callable[[], int] = time.monotonic_ns,
        parent: Callable[[], int] = os.getppid,
    ) -> None:
        if len(key) < 16:
            raise ConfigError(f"fast loop: the certificate key has {len(key)} bytes; at least 16, without it nothing may move")
        self.config, self.link, self.backend = config, link, backend
        self._wall_ns, self._mono_ns, self._parent = wall_ns, mono_ns, parent
        self._zero_ns = mono_ns()
        self._offset_ns = self._clock_offset()
        self._started_ns = self._zero_ns
        state = backend.connect(0.0)
        if backend.joints != config.executor.joints:
            raise ConfigError(
                f"backend {config.backend!r}: {backend.joints} joints; the executor's limits have {config.executor.joints}"
            )
        self.executor = Executor(config.executor, state.q, 0.0, state.width, key, self._offset_ns + self._zero_ns)
        self._measured: BackendState = state
        self._buffer = StateBuffer(backend.joints)
        self._published, self._published_mode = -1, -1
        self._cycle, self._resets, self._missed = 0, 0, 0
        self._late_max, self._work_max, self._work_sum = 0.0, 0.0, 0.0
        self._paced = backend if isinstance(backend, PacedBackend) else None
        self._detailed = backend if isinstance(backend, DetailedBackend) else None
        self._follower = backend if isinstance(backend, FollowingBackend) else None
        self._followed = -1  #: revision of the executor that the follower was told of
        self.realtime = False
        self.leaving = False
        self.terminated = False  #: set by a signal, acted on between cycles
        self._publish(self.executor.command, self._zero_ns)

    def _clock_offset(self) -> int:
        """Wall clock minus monotonic clock [ns]: of three readings the one that was interrupted least."""
        best, spread = 0, 1 << 62
        for _ in range(3):
            before = self._mono_ns()
            wall = self._wall_ns()
            after = self._mono_ns()
            if after - before < spread:
                best, spread = wall - (before + after) // 2, after - before
        return best

    def leave(self, text: str) -> None:
        """Bring the arm to rest, then end :meth:`run`."""
        self.executor.stop(StopReason.OPERATOR, text)
        self.leaving = True

    # ---- requests ---------------------------------------------------------------------------------------------------------

    def _serve(self, now: float) -> None:
        """Answer at most one request."""
        data = self.link.inbox.pop()
        if data is None:
            return
        number, kind = request_number(data), 0
        try:
            number, kind, body = decode_request(data)
            result = (
                self.executor.submit(body, now) if isinstance(body, CertifiedTrajectory) else self._do(Request(kind), body, now)
            )
        except InputError as error:
            result = SubmitResult(SubmitCode.MALFORMED, str(error))
            counts = self.executor.counters.rejected
            counts[SubmitCode.MALFORMED] = counts.get(SubmitCode.MALFORMED, 0) + 1
        except Exception as error:  # a request must not end the loop
            result = SubmitResult(SubmitCode.INTERNAL, f"{type(error).__name__}: {error}")
        self.link.replies.push(encode_reply(Reply(number, int(kind), result.code, result.text)))

    def _do(self, kind: Request, body: dict[str, Any], now: float) -> SubmitResult:
        executor, done = self.executor, SubmitResult(SubmitCode.ACCEPTED)
        if kind is Request.STOP:
            executor.stop(StopReason.OPERATOR, str(body.get("text", "")))
        elif kind is Request.SHUTDOWN:
            self.leave("shutting down")
        elif kind is Request.RESUME:
            return self._resume(now)
        elif kind is Request.RESET:
            self._measured = state = self.backend.reset(body, now)
            executor.reset(now, state.q, state.width)
            self._resets += 1
        else:
            if kind is Request.HOME_GRIPPER:
                if not executor.waiting:
                    return SubmitResult(SubmitCode.LATE, "only when the arm rests with nothing pending")
                self.backend.home_gripper()
                return done
            width = float(body["width"])
            result = executor.set_width(now, width)
            if not result.accepted:
                return result
            if kind is Request.GRIPPER:
                self.backend.move_gripper(width, float(body["speed"]))
            else:
                self.backend.grasp(width, float(body["force"]))
        return done

    def _resume(self, now: float) -> SubmitResult:
        if self.executor.mode not in (Mode.STOPPED, Mode.FAULT):
            return self.executor.resume(now, self._measured.q, self._measured.v)
        try:
            self.link.beat_loop(self._mono_ns() + _RECOVERY_NS)  # no sign of life is due while a real arm recovers
            self._measured = state = self.backend.recover(now)
        except TandemError as error:
            return SubmitResult(SubmitCode.INTERNAL, str(error))
        finally:
            self.link.beat_loop(self._mono_ns())
        result = self.executor.resume(now, state.q, state.v)
        if result.accepted and not self.config.own_clock:
            self._offset_ns = self._clock_offset()
            self.executor.rebase(self._offset_ns + self._zero_ns)
        return result

    # ---- the cycle --------------------------------------------------------------------------------------------------------

    def cycle(self, deadline_ns: int, late: bool = False) -> Command:
        """One cycle whose time is ``deadline_ns`` [ns, CLOCK_MONOTONIC]; ``late``: requests wait for every fourth cycle."""
        now = (deadline_ns - self._zero_ns) * 1e-9
        executor = self.executor
        self._cycle += 1
        self._look_ahead()
        state: BackendState | None = None
        try:
            state = self.backend.read(now)
        except Exception as error:  # an arm that cannot be read is a reason to stop, not to leave
            self._fail(error)
        if state is None:
            command = executor.tick(now, None)
        else:
            self._measured = state
            command = executor.tick(now, state.q, state.v, state.stamp)
        try:
            self.backend.write(command, now)
        except Exception as error:
            self._fail(error)
        self._lead(now)
        self._look_ahead()
        # requests come after the command: the arm waits for that one
        if self.terminated and not self.leaving:
            self.leave("terminated")
        if not late or self._cycle % 4 == 0:
            self._serve(now)
        if self._cycle % _WATCH_EVERY == 0:
            self._watch()
        self._lead(now)  # a stop among them: in the next cycle what it has dropped would have begun
        self._publish(executor.command, deadline_ns)
        return command

    def _look_ahead(self) -> None:
        """Before what may stop an arm that plays by itself: it may have gone on while this process was held up."""
        if self._follower is not None:
            self.executor.ahead = self._follower.ahead()

    def _rests(self) -> bool:
        """Whether the arm rests, and one that plays by itself has been told so, as far as can be known."""
        if self.executor.mode not in (Mode.STOPPED, Mode.FAULT):
            return False
        follower = self._follower
        return follower is None or (self._followed == self.executor.revision and not follower.untold() and follower.reached())

    def _lead(self, now: float) -> None:
        """Tell an arm that plays by itself when its course has changed."""
        if self._follower is None or (self.executor.revision == self._followed and not self._follower.untold()):
            return
        revision = self.executor.revision
        try:
            # not followed, it is told again in the next cycle, as after an error
            self._followed = revision if self._follower.follow(self.executor.course(), now) else -1
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """The arm cannot be read or commanded: bring it to rest where it still follows, latch where it does not."""
        text = str(error) or type(error).__name__
        if isinstance(error, BackendError) and error.halted:
            self.executor.halt(StopReason.BACKEND, text, self._measured.q)
        else:
            self.executor.stop(StopReason.BACKEND, text)

    def _watch(self) -> None:
        """Look at the owner and at the wall clock."""
        mono = self._mono_ns()
        self.link.beat_loop(mono)
        if self._parent() != self.config.owner_pid:
            if not self.leaving:
                self.executor.stop(StopReason.PARENT, "the process that owns the fast loop is gone")
                self.leaving = True
            return
        silent = (mono - max(self.link.owner_beat_ns, self._started_ns)) * 1e-9
        if silent > self.config.owner_timeout:
            self.executor.stop(StopReason.PARENT, f"the process that owns the fast loop has been silent for {silent:.2f} s")
        limit = self.config.wall_step * 1e9
        if not self.config.own_clock and abs(self._wall_ns() - mono - self._offset_ns) > limit:
            step = self._clock_offset() - self._offset_ns
            if abs(step) > limit:
                self.executor.stop(StopReason.CLOCK, f"the wall clock stepped by {step * 1e-9:.3f} s")

    def _publish(self, command: Command, deadline_ns: int) -> None:
        executor, buffer, measured = self.executor, self._buffer, self._measured
        epoch = self._offset_ns + self._zero_ns
        if executor.revision != self._published or executor.mode != self._published_mode:
            status = executor.status()
            buffer.set_text(status.text)
            self.link.commitment.write(encode_commitment(executor.commitment(), executor.revision))
            self._published, self._published_mode = executor.revision, int(executor.mode)
        buffer.ints[1:8] = [
            self._cycle,
            deadline_ns + self._offset_ns,
            epoch + round(measured.stamp * 1e9),
            int(executor.mode),
            int(executor.reason),
            int(executor.last_rejection),
            executor.revision,
        ]
        buffer.ints[9:12] = self._missed, self._resets, self.realtime
        buffer.set_counters(executor.counters)
        buffer.set_measured(measured.q, measured.v, measured.width, measured.world)
        buffer.set_command(command.q, command.v, command.a, command.width)
        if self._paced is not None:
            buffer.set_arm(self._paced.report())
        buffer.floats[4:7] = self._late_max, self._work_max, self._work_sum / max(self._cycle, 1)
        self.link.state.write(buffer.tobytes())
        if self._detailed is not None and self._cycle % _DETAILS_EVERY == 0:
            details = self._detailed.details()
            if details:
                self.link.details.write(details)

    def _settle(self, deadline: int) -> int:
        """The time of an arm that keeps its own, taken over from this machine's clock while it rests.

        In motion the two may drift apart: what is played stays on the arm's clock, and a drift that certificates do not allow for
        (the obstacles move on) stops the arm.
        """
        if self.config.own_clock:
            return deadline
        drift = self._mono_ns() - deadline
        if self.executor.waiting:
            if abs(drift) > max(_DRIFT_NS, 1.5e9 * self.config.executor.period):
                self._zero_ns += drift
                self.executor.rebase(self._offset_ns + self._zero_ns)
                return deadline + drift
        elif drift > self.config.max_drift * 1e9:
            limit = self.config.max_drift
            self._look_ahead()
            text = f"the arm's clock has fallen {drift * 1e-9:.3f} s behind; at most {limit} s"
            self.executor.stop(StopReason.CLOCK, text)
            self._lead((deadline - self._zero_ns) * 1e-9)  # before its time goes on
        return deadline

    def run(self) -> None:
        """Cycle until told to leave, or until the owner is gone; the arm rests before this returns."""
        period = round(self.config.executor.period * 1e9)
        spin = round(self.config.spin * 1e9)
        slack = self.config.catch_up * period
        deadline = self._mono_ns()
        left_at = 0
        # what came between connecting and here (locking memory, collecting garbage) is not a gap in the cycles
        self.executor.reset((deadline - self._zero_ns) * 1e-9, self._measured.q, self._measured.width)
        while True:
            if self._paced is not None:
                deadline = self._settle(deadline)
                gone = round(self._paced.wait() * 1e9)
                deadline += gone
                begun = self._mono_ns()
                late = gone - period
                self._missed += max(round(late / period), 0)
            else:
                deadline += period
                begun = realtime.wait_until(deadline, spin)
                late = begun - deadline
                if late >= period:
                    self._missed += 1
                    if late > slack:
                        skipped = late // period
                        self._missed += skipped - 1
                        deadline += skipped * period
            resets = self._resets
            self.cycle(deadline, self._paced is None and late >= period)  # nothing to catch up on where the arm sets the pace
            if self._resets != resets:  # resetting a world takes as long as it takes
                deadline = self._mono_ns()
                self.executor.reset((deadline - self._zero_ns) * 1e-9, self._measured.q, self._measured.width)
                continue
            work = (self._mono_ns() - begun) * 1e-9
            self._late_max = max(self._late_max, late * 1e-9)
            self._work_max = max(self._work_max, work)
            self._work_sum += work
            if self.leaving:
                left_at = left_at or deadline
                if self._rests() or deadline - left_at > _REST_LIMIT_NS:
                    return
            elif self._cycle % 10_000 == 0 and self.executor.mode is Mode.IDLE:
                gc.collect()


def main(arguments: list[str] | None = None) -> int:
    """Entry of the process; returns its exit status: 0 left as told or after the owner's end, 2 bad configuration."""
    parser = argparse.ArgumentParser(description="Tandem's fast loop; started by the bridge")
    parser.add_argument("--config", required=True, help="LoopConfig as JSON")
    text = parser.parse_args(arguments).config
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s fast loop: %(message)s")
    try:
        config = from_dict(LoopConfig, json.loads(text), "fast loop")
        key = bytes.fromhex(sys.stdin.readline().strip())
        link = Link(config.fd)
        backend = load_backend(config.backend, config.backend_options)
        loop = FastLoop(config, link, backend, key)
    except (TandemError, ValueError, OSError) as error:
        _log.error("%s", error)
        return 2
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the owner, which asks for an orderly end
    signal.signal(signal.SIGTERM, lambda *_: setattr(loop, "terminated", True))
    try:
        loop.realtime = realtime.request(config.priority, config.cpu, config.lock_memory)
        realtime.freeze_heap()
        loop.run()
    finally:
        backend.close()
        link.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
