"""The shared memory: nothing torn, nothing lost unnoticed, nothing left behind; and what crosses it as bytes."""

from __future__ import annotations

import os
import subprocess
import sys

import motions
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem.core.errors import InputError
from tandem.core.types import Commitment
from tandem.execution import messages
from tandem.execution.link import Link
from tandem.execution.types import CertifiedTrajectory, ExecutorCounters, SubmitCode

# writes values that are all one number (a mixture would be torn) of changing length; the child's side of the hammering
_WRITER = """
import os, sys, time
import numpy as np
from tandem.execution.link import Link
link = Link(int(sys.argv[1]))
end = time.monotonic() + float(sys.argv[2])
k = 0
while time.monotonic() < end:
    k += 1
    link.state.write(np.full(1 + k % 250, k, np.int64).tobytes())
    link.inbox.push(np.full(1 + k % 1500, k, np.int64).tobytes())
os._exit(0)
"""


def spawn(code: str, link: Link, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen([sys.executable, "-c", code, str(link.fd), *arguments], pass_fds=(link.fd,), env=environment)


def test_hammered_values_are_never_torn_and_queued_ones_come_in_order() -> None:
    link = Link.create()
    writer = spawn(_WRITER, link, "2.0")
    seen, received, last, last_message = 0, 0, 0, 0
    while writer.poll() is None:
        for _ in range(200):
            data = link.state.read()
            if data is not None:
                values = np.frombuffer(data, np.int64)
                assert (values == values[0]).all()
                assert len(values) == 1 + values[0] % 250
                assert values[0] >= last
                last, seen = int(values[0]), seen + 1
            message = link.inbox.pop()
            if message is not None:
                values = np.frombuffer(message, np.int64)
                assert (values == values[0]).all()
                assert len(values) == 1 + values[0] % 1500
                assert values[0] > last_message
                last_message, received = int(values[0]), received + 1
    assert writer.returncode == 0
    assert seen > 500
    assert received > 100
    assert link.inbox.skipped == 0
    link.close()


def test_a_writer_killed_in_the_middle_leaves_the_last_value_readable() -> None:
    link = Link.create()
    link.state.write(b"whole")
    # what a killed writer leaves: the next slot opened and half written, the head not moved
    link.state._meta[2][0] = 0
    assert link.state.read() == b"whole"
    link.inbox.push(b"first")
    link.inbox.push(b"second")
    link.inbox._meta[1][2] ^= 1
    assert link.inbox.pop() is None
    assert link.inbox.skipped == 1
    assert link.inbox.pop() == b"second"
    link.close()


def test_a_killed_owner_and_a_killed_child_leave_nothing() -> None:
    before = set(os.listdir("/dev/shm"))
    link = Link.create()
    child = spawn(_WRITER, link, "30")
    while link.state.read() is None:
        assert child.poll() is None
    child.kill()
    child.wait()
    assert link.state.read() is not None
    link.close()
    link.close()
    owner = (
        "import os\nfrom tandem.execution.link import Link\nlink = Link.create()\nlink.state.write(b'x')\nos.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    assert subprocess.run([sys.executable, "-c", owner], env=environment, check=False).returncode == -9
    assert {n for n in os.listdir("/dev/shm") if "tandem" in n} <= before


def test_a_full_queue_says_so() -> None:
    link = Link.create()
    pushed = 0
    while link.inbox.push(b"x"):
        pushed += 1
    assert pushed == link.inbox.slots
    assert link.inbox.pop() == b"x"
    assert link.inbox.push(b"y")
    with pytest.raises(InputError, match="at most"):
        link.replies.push(b"z" * 10_000)
    link.close()


def test_foreign_memory_is_refused() -> None:
    fd = os.memfd_create("other")
    with pytest.raises(InputError, match="bytes; expected"):
        Link(fd)
    os.ftruncate(fd, 1 << 22)
    with pytest.raises(InputError, match="not a link"):
        Link(fd)
    os.close(fd)
    with pytest.raises(InputError, match="descriptor"):
        Link(fd)


def plan(seed: int = 0) -> CertifiedTrajectory:
    rng = np.random.default_rng(seed)
    state = [rng.uniform(-1.0, 1.0, 7) for _ in range(3)]
    trajectory = motions.motion(*state, rng)
    proposal = motions.Proposal(trajectory, rng.uniform(0, 0.08, len(trajectory.times)), 1_795_302_263.25, 0.3, "a plan")
    return motions.certify(proposal)


def test_a_trajectory_crosses_bit_for_bit() -> None:
    sent = plan()
    number, kind, got = messages.decode_request(messages.encode_submit(7, sent))
    assert (number, kind) == (7, messages.Request.SUBMIT)
    assert isinstance(got, CertifiedTrajectory)
    assert got.proposal.trajectory.digest() == sent.proposal.trajectory.digest()
    np.testing.assert_array_equal(got.proposal.width, sent.proposal.width)
    assert got.switch_time_ns == sent.switch_time_ns
    assert (got.certificate, got.verdict_digest, got.proposal.name) == (sent.certificate, sent.verdict_digest, "a plan")


@given(st.binary(max_size=600))
def test_nonsense_is_an_input_error(data: bytes) -> None:
    with pytest.raises(InputError):
        messages.decode_request(data)


@given(st.integers(0, 9 * 22 * 8 - 1), st.integers(1, 255))
def test_damaged_knots_never_keep_their_digest(where: int, change: int) -> None:
    sent = plan()
    data = bytearray(messages.encode_submit(7, sent))
    knots = 9 * 22 * 8  # nine times and seven joints' q, v, a; the widths come last
    data[len(data) - 9 * 8 - knots + where] ^= change
    try:
        _, _, got = messages.decode_request(bytes(data))
    except InputError:
        return
    assert isinstance(got, CertifiedTrajectory)
    assert got.proposal.trajectory.digest() != sent.proposal.trajectory.digest()


def test_commitment_reply_and_state_cross() -> None:
    certified = plan(3)
    sent = Commitment(certified.proposal.trajectory, 1_795_302_263.125, certified.proposal.width)
    got, revision = messages.decode_commitment(messages.encode_commitment(sent, 12))
    assert revision == 12
    assert got.start == sent.start
    assert got.trajectory.digest() == sent.trajectory.digest()
    reply = messages.Reply(3, 1, SubmitCode.LATE, "zu spät" * 200)
    back = messages.decode_reply(messages.encode_reply(reply))
    assert (back.number, back.kind, back.code) == (3, 1, SubmitCode.LATE)
    assert back.text.startswith("zu spät")
    buffer = messages.StateBuffer(7)
    rows = np.arange(35.0).reshape(5, 7)
    buffer.set_measured(rows[0], rows[1], 0.03, np.arange(70.0))
    buffer.set_command(rows[2], rows[3], rows[4], 0.05)
    counters = ExecutorCounters(ticks=5, splices=2, backup_time=1.5, rejected={SubmitCode.INTERNAL: 4})
    buffer.set_counters(counters)
    buffer.set_text("why")
    state = messages.decode_state(buffer.tobytes())
    for value, row in zip((state.q, state.v, state.command_q, state.command_v, state.command_a), rows, strict=True):
        np.testing.assert_array_equal(value, row)
    assert (state.width, state.command_width, state.text, state.counters) == (0.03, 0.05, "why", counters)
    np.testing.assert_array_equal(state.world, np.arange(64.0))
    assert len(buffer.tobytes()) <= Link.create().state.payload
