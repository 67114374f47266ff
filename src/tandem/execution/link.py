"""Lock-free memory shared by the fast loop and the process that owns it.

The memory is a ``memfd``: it has no name in any file system, the child inherits the descriptor, and the kernel frees it when both
are gone, however they went. Nothing can be left behind in /dev/shm and no resource tracker is involved.

Two kinds of channel, each with one writer and one reader process:

* :class:`Latest`: the newest value wins. A ring of slots, each with its own sequence number (a seqlock a slot), so that a writer
  that dies in the middle leaves the value before it readable.
* :class:`Queue`: every message arrives once, in order, or the writer learns that there is no room.

Order of stores: 8-byte aligned stores are atomic, and x86-64 keeps their order. A CRC-32 over the payload guards readers on
processors that do not: a value whose stores have not all arrived is read again, never returned.
"""

from __future__ import annotations

import mmap
import os
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import InputError

MAGIC = 0x7A6D3A02
_HEADER = 4096
_SLOT_HEADER = 32
_READ_ATTEMPTS = 64


def _slot_bytes(payload: int) -> int:
    return _SLOT_HEADER + (payload + 7) // 8 * 8


class _Slots:
    """Slots of (sequence, length, CRC, reserved; payload) behind a 64-byte head of counters."""

    def __init__(self, memory: mmap.mmap, offset: int, slots: int, payload: int) -> None:
        self.slots, self.payload = slots, payload
        self._memory = memory
        self._head: NDArray[np.int64] = np.ndarray((8,), np.int64, memory, offset)
        size = _slot_bytes(payload)
        self._starts = [offset + 64 + i * size + _SLOT_HEADER for i in range(slots)]
        self._meta: list[NDArray[np.int64]] = [np.ndarray((4,), np.int64, memory, s - _SLOT_HEADER) for s in self._starts]

    @staticmethod
    def size(slots: int, payload: int) -> int:
        """Bytes needed."""
        return 64 + slots * _slot_bytes(payload)

    def _put(self, sequence: int, data: bytes | bytearray | memoryview) -> None:
        if len(data) > self.payload:
            raise InputError(f"message of {len(data)} bytes; at most {self.payload}")
        i = sequence % self.slots
        meta, start = self._meta[i], self._starts[i]
        meta[0] = 0
        self._memory[start : start + len(data)] = bytes(data)
        meta[1] = len(data)
        meta[2] = zlib.crc32(data)
        meta[0] = sequence

    def _get(self, sequence: int) -> bytes | None:
        i = sequence % self.slots
        meta, start = self._meta[i], self._starts[i]
        if meta[0] != sequence:
            return None
        length = int(meta[1])
        if not 0 <= length <= self.payload:
            return None
        data = self._memory[start : start + length]
        if meta[0] != sequence or zlib.crc32(data) != int(meta[2]):
            return None
        return data

    def release(self) -> None:
        """Let go of the memory, so that it can be unmapped."""
        self._head = np.zeros(8, np.int64)
        self._meta = []


class Latest(_Slots):
    """The newest value; one writer, any number of readers. Wait-free for the writer."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Publish ``data``."""
        sequence = int(self._head[0]) + 1
        self._put(sequence, data)
        self._head[0] = sequence

    def read(self) -> bytes | None:
        """The newest value whole, or None when there is none yet (or the writer overtook every attempt)."""
        for _ in range(_READ_ATTEMPTS):
            sequence = int(self._head[0])
            if sequence == 0:
                return None
            data = self._get(sequence)
            if data is not None:
                return data
        return None

    @property
    def count(self) -> int:
        """How many values were published."""
        return int(self._head[0])


class Queue(_Slots):
    """A bounded queue; one writer, one reader."""

    def push(self, data: bytes | bytearray | memoryview) -> bool:
        """Append ``data``; False when the queue is full."""
        sequence = int(self._head[0]) + 1
        if sequence - int(self._head[1]) > self.slots:
            return False
        self._put(sequence, data)
        self._head[0] = sequence
        return True

    def pop(self) -> bytes | None:
        """The oldest message, or None. One that stays unreadable (its writer died in the middle) is skipped and counted."""
        done = int(self._head[1])
        if done >= int(self._head[0]):
            return None
        for _ in range(_READ_ATTEMPTS):
            data = self._get(done + 1)
            if data is not None:
                self._head[1] = done + 1
                return data
        self._head[1] = done + 1
        self._head[2] += 1
        return None

    @property
    def skipped(self) -> int:
        """How many messages were unreadable."""
        return int(self._head[2])


@dataclass(frozen=True)
class Sizes:
    """Slots and payload bytes of each channel."""

    state: int = 2048
    commitment: int = 72 * 1024
    details: int = 4096
    inbox: int = 14 * 1024
    inbox_slots: int = 32
    reply: int = 512
    reply_slots: int = 256


class Link:
    """The shared memory with its channels: ``state``, ``commitment``, ``details`` (fast loop -> owner), ``inbox`` (owner -> fast
    loop), ``replies`` (fast loop -> owner), and both sides' heartbeats [ns, CLOCK_MONOTONIC].

    Raises:
        InputError: the descriptor is not such a memory.
    """

    def __init__(self, fd: int, sizes: Sizes | None = None, *, create: bool = False) -> None:
        s = sizes or Sizes()
        plan = [
            (4, s.state),
            (4, s.commitment),
            (4, s.details),
            (s.inbox_slots, s.inbox),
            (s.reply_slots, s.reply),
        ]
        offsets = np.cumsum([_HEADER, *(_Slots.size(*p) for p in plan)])
        total = int(offsets[-1])
        if create:
            os.ftruncate(fd, total)
        try:
            found = os.fstat(fd).st_size
            self._memory = mmap.mmap(fd, total) if found >= total else None
        except (OSError, ValueError) as error:
            raise InputError(f"shared memory, descriptor {fd}: {error}") from error
        if self._memory is None:
            raise InputError(f"shared memory, descriptor {fd}: {found} bytes; expected {total}")
        self.fd = fd
        self._header: NDArray[np.int64] = np.ndarray((8,), np.int64, self._memory, 0)
        if create:
            self._header[0] = MAGIC
        elif int(self._header[0]) != MAGIC:
            raise InputError(f"shared memory, descriptor {fd}: not a link of this version of Tandem")
        at = [int(o) for o in offsets]
        self.state = Latest(self._memory, at[0], *plan[0])
        self.commitment = Latest(self._memory, at[1], *plan[1])
        self.details = Latest(self._memory, at[2], *plan[2])
        self.inbox = Queue(self._memory, at[3], *plan[3])
        self.replies = Queue(self._memory, at[4], *plan[4])

    @classmethod
    def create(cls, sizes: Sizes | None = None) -> Link:
        """New memory; its descriptor is to be inherited by the fast loop."""
        return cls(os.memfd_create("tandem-link", os.MFD_CLOEXEC), sizes, create=True)

    def beat_owner(self, now_ns: int) -> None:
        """The owner is alive at ``now_ns``."""
        self._header[1] = now_ns

    def beat_loop(self, now_ns: int) -> None:
        """The fast loop is alive at ``now_ns``."""
        self._header[2] = now_ns

    @property
    def owner_beat_ns(self) -> int:
        """Last heartbeat of the owner, 0 before the first."""
        return int(self._header[1])

    @property
    def loop_beat_ns(self) -> int:
        """Last heartbeat of the fast loop, 0 before the first."""
        return int(self._header[2])

    def close(self) -> None:
        """Unmap and close the descriptor; may be called again."""
        if self._memory is None:
            return
        self._header = np.zeros(8, np.int64)
        for channel in (self.state, self.commitment, self.details, self.inbox, self.replies):
            channel.release()
            channel._memory = None  # type: ignore[assignment]
        self._memory.close()
        self._memory = None
        os.close(self.fd)
