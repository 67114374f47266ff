"""What crosses the link, as bytes: requests, replies, the loop's state, its commitment. Little-endian, nothing pickled."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import InputError
from tandem.core.trajectory import Trajectory
from tandem.core.types import Commitment, Proposal
from tandem.execution.types import (
    ArmReport,
    ArmState,
    CertifiedTrajectory,
    ExecutorCounters,
    Mode,
    StopReason,
    SubmitCode,
    from_ns,
    to_ns,
)

Array = NDArray[np.float64]


class Request(IntEnum):
    """What the owner asks of the fast loop."""

    SUBMIT = 1
    RESUME = 2
    STOP = 3
    RESET = 4
    GRIPPER = 5
    GRASP = 6
    SHUTDOWN = 7
    HOME_GRIPPER = 8


_REQUEST = struct.Struct("<QII")
_SUBMIT = struct.Struct("<qdii128s128s64s")
_REPLY = struct.Struct("<QII")
_COMMITMENT = struct.Struct("<qqii")


def encode_request(number: int, kind: Request, body: dict[str, Any] | None = None) -> bytes:
    """A request other than SUBMIT; ``body`` must be JSON."""
    return _REQUEST.pack(number, int(kind), 0) + json.dumps(body or {}).encode()


def _floats(trajectory: Trajectory, width: Array) -> bytes:
    parts = (
        trajectory.times,
        trajectory.q.ravel(),
        trajectory.v.ravel(),
        trajectory.a.ravel(),
        np.asarray(width, dtype=np.float64),
    )
    return np.concatenate(parts).tobytes()


def _arrays(data: bytes, knots: int, joints: int) -> tuple[Array, Array, Array, Array, Array]:
    if knots < 2 or joints < 1 or len(data) != 8 * knots * (2 + 3 * joints):
        raise InputError(
            f"{len(data)} bytes of knots; expected {8 * knots * (2 + 3 * joints)} for {knots} knots of {joints} joints"
        )
    flat = np.frombuffer(data, dtype=np.float64)
    block, size = flat[knots : knots + 3 * knots * joints].reshape(3, knots, joints), knots
    return flat[:size], block[0], block[1], block[2], flat[-size:]


def encode_submit(number: int, certified: CertifiedTrajectory) -> bytes:
    """A certified trajectory as it is; only its shape must be a trajectory's. Raises InputError for texts that are too long."""
    proposal = certified.proposal
    texts = [certified.verdict_digest.encode(), certified.certificate.encode(), proposal.name.encode()[:64]]
    if len(texts[0]) > 128 or len(texts[1]) > 128:
        raise InputError("verdict digest and certificate: at most 128 characters each")
    knots, joints = proposal.trajectory.q.shape
    head = _SUBMIT.pack(certified.switch_time_ns, proposal.head_duration, knots, joints, *texts)
    return _REQUEST.pack(number, int(Request.SUBMIT), 0) + head + _floats(proposal.trajectory, proposal.width)


def decode_request(data: bytes) -> tuple[int, Request, CertifiedTrajectory | dict[str, Any]]:
    """Number, kind and body of a request.

    Raises:
        InputError: not a request, or a trajectory that is none (NaN, shapes, times).
    """
    try:
        number, kind_code, _ = _REQUEST.unpack_from(data)
        kind = Request(kind_code)
        rest = data[_REQUEST.size :]
        if kind is not Request.SUBMIT:
            body = json.loads(rest)
            if not isinstance(body, dict):
                raise InputError(f"request {kind.name}: its body is not a mapping")
            return number, kind, body
        switch_ns, head, knots, joints, verdict, certificate, name = _SUBMIT.unpack_from(rest)
        times, q, v, a, width = _arrays(rest[_SUBMIT.size :], knots, joints)
        proposal = Proposal(
            Trajectory(times, q, v, a), width, from_ns(switch_ns), head, name.rstrip(b"\0").decode(errors="replace")
        )
        return number, kind, CertifiedTrajectory(proposal, verdict.rstrip(b"\0").decode(), certificate.rstrip(b"\0").decode())
    except (struct.error, ValueError) as error:
        raise InputError(f"request of {len(data)} bytes: {error}") from error


def request_number(data: bytes) -> int:
    """The number of a request whose rest may be unreadable; 0 when even that is missing."""
    return int(_REQUEST.unpack_from(data)[0]) if len(data) >= _REQUEST.size else 0


@dataclass(frozen=True)
class Reply:
    """The fast loop's answer to request ``number``."""

    number: int
    kind: int
    code: SubmitCode
    text: str


def encode_reply(reply: Reply) -> bytes:
    """Text is cut to what fits."""
    return _REPLY.pack(reply.number, reply.kind, int(reply.code)) + reply.text.encode()[:480]


def decode_reply(data: bytes) -> Reply:
    """The inverse of :func:`encode_reply`."""
    number, kind, code = _REPLY.unpack_from(data)
    return Reply(number, kind, SubmitCode(code), data[_REPLY.size :].decode(errors="replace"))


def encode_commitment(plan: Commitment, revision: int) -> bytes:
    """A commitment on the stamp clock."""
    knots, joints = plan.trajectory.q.shape
    return _COMMITMENT.pack(revision, to_ns(plan.start), knots, joints) + _floats(plan.trajectory, plan.width)


def decode_commitment(data: bytes) -> tuple[Commitment, int]:
    """Commitment and revision."""
    revision, start_ns, knots, joints = _COMMITMENT.unpack_from(data)
    times, q, v, a, width = _arrays(data[_COMMITMENT.size :], knots, joints)
    return Commitment(Trajectory(times, q, v, a), from_ns(start_ns), width), revision


@dataclass(frozen=True)
class LoopState:
    """The fast loop at one cycle.

    Attributes:
        cycle: number of the cycle. stamp: its time [s] on the wall clock. measured_stamp: when the joints were measured [s].
        q, v: (n,) measured joints [rad, rad/s]. width: measured gripper width [m].
        command_q, command_v, command_a: (n,) commanded. command_width [m].
        mode, reason, text: what the executor does and why it stopped. last_rejection: of the last refused trajectory.
        revision: of the commitment that belongs to this state. counters: of the executor.
        missed_cycles: cycles that did not begin within their own period. late_max, work_max, work_mean: [s] since the start.
        resets: how often the world was reset. realtime: whether real-time scheduling was granted.
        world: (k,) the simulated world's configuration; empty on a real arm. arm: a real arm's own view.
    """

    cycle: int
    stamp: float
    measured_stamp: float
    q: Array
    v: Array
    width: float
    command_q: Array
    command_v: Array
    command_a: Array
    command_width: float
    mode: Mode
    reason: StopReason
    text: str
    last_rejection: SubmitCode
    revision: int
    counters: ExecutorCounters
    missed_cycles: int
    late_max: float
    work_max: float
    work_mean: float
    resets: int
    realtime: bool
    world: Array
    arm: ArmReport


_COUNTS = ("ticks", "missed_cycles", "accepted", "splices", "superseded", "dropped", "clock_jumps", "stops", "resumes")
_INTS = 48
_REJECTED = 32  # where the counts of each SubmitCode begin
_WORLD = 64
_TEXT = 320
_ARM_TEXT = 200
_GRIPPER_TEXT = 80


class StateBuffer:
    """The state in its wire form, filled in place once a cycle."""

    def __init__(self, joints: int) -> None:
        self.joints = joints
        self.ints = np.zeros(_INTS, np.int64)
        self.floats = np.zeros(8 + 5 * joints + _WORLD)
        self._text = b"\0" * _TEXT
        self._arm_text = b"\0" * (_ARM_TEXT + _GRIPPER_TEXT)
        self._arm: ArmReport | None = None
        self.ints[0] = joints

    def set_text(self, text: str) -> None:
        """Why it stopped."""
        self._text = text.encode()[:_TEXT].ljust(_TEXT, b"\0")

    def set_arm(self, arm: ArmReport) -> None:
        """A real arm's own view."""
        if self._arm is None or arm.text is not self._arm.text or arm.gripper is not self._arm.gripper:
            texts = (arm.text.encode()[:_ARM_TEXT].ljust(_ARM_TEXT, b"\0"), arm.gripper.encode()[:_GRIPPER_TEXT])
            self._arm_text = texts[0] + texts[1].ljust(_GRIPPER_TEXT, b"\0")
        self._arm = arm
        self.ints[12:16] = arm.state, arm.lost_cycles, arm.rejoins, arm.reflexes
        self.ints[25], self.floats[7] = arm.recoveries, arm.success_rate

    def set_counters(self, counters: ExecutorCounters) -> None:
        """The executor's counters."""
        self.ints[16 : 16 + len(_COUNTS)] = [getattr(counters, name) for name in _COUNTS]
        self.floats[0:2] = counters.head_time, counters.backup_time
        for code, count in counters.rejected.items():
            self.ints[_REJECTED + code] = count

    def set_measured(self, q: Array, v: Array, width: float, world: Array) -> None:
        """Measured joints, gripper and world (at most 64 numbers)."""
        n, f = self.joints, self.floats
        f[8 : 8 + n], f[8 + n : 8 + 2 * n], f[2] = q, v, width
        k = min(len(world), _WORLD)
        self.ints[8] = k
        if k:
            f[8 + 5 * n : 8 + 5 * n + k] = world[:k]

    def set_command(self, q: Array, v: Array, a: Array, width: float) -> None:
        """Commanded joints and gripper."""
        n, f = self.joints, self.floats
        f[8 + 2 * n : 8 + 3 * n], f[8 + 3 * n : 8 + 4 * n], f[8 + 4 * n : 8 + 5 * n], f[3] = q, v, a, width

    def tobytes(self) -> bytes:
        """As it crosses the link."""
        return self.ints.tobytes() + self.floats.tobytes() + self._text + self._arm_text


def decode_state(data: bytes) -> LoopState:
    """The inverse of :class:`StateBuffer`; integer fields 1..11 are set by the fast loop."""
    ints = np.frombuffer(data, np.int64, _INTS)
    n = int(ints[0])
    f = np.frombuffer(data, np.float64, 8 + 5 * n + _WORLD, 8 * _INTS)
    at = 8 * _INTS + f.nbytes
    text, arm_text, gripper = (
        data[begin : begin + size].rstrip(b"\0").decode(errors="replace")
        for begin, size in ((at, _TEXT), (at + _TEXT, _ARM_TEXT), (at + _TEXT + _ARM_TEXT, _GRIPPER_TEXT))
    )
    report = ArmReport(
        ArmState(int(ints[12])), arm_text, float(f[7]), int(ints[13]), int(ints[14]), int(ints[15]), int(ints[25]), gripper
    )
    counters = ExecutorCounters()
    for i, name in enumerate(_COUNTS):
        setattr(counters, name, int(ints[16 + i]))
    counters.head_time, counters.backup_time = float(f[0]), float(f[1])
    counters.rejected = {code: int(ints[_REJECTED + code]) for code in SubmitCode if ints[_REJECTED + code]}
    rows = [f[8 + i * n : 8 + (i + 1) * n].copy() for i in range(5)]
    world = f[8 + 5 * n : 8 + 5 * n + int(ints[8])].copy()
    return LoopState(
        cycle=int(ints[1]), stamp=from_ns(int(ints[2])), measured_stamp=from_ns(int(ints[3])),
        q=rows[0], v=rows[1], width=float(f[2]), command_q=rows[2], command_v=rows[3], command_a=rows[4],
        command_width=float(f[3]),
        mode=Mode(int(ints[4])), reason=StopReason(int(ints[5])), text=text, last_rejection=SubmitCode(int(ints[6])),
        revision=int(ints[7]), counters=counters, missed_cycles=int(ints[9]), late_max=float(f[4]), work_max=float(f[5]),
        work_mean=float(f[6]), resets=int(ints[10]), realtime=bool(ints[11]), world=world, arm=report,
    )  # fmt: skip
