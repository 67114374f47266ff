"""What a process can ask of Linux to be on time. Each request may be refused; refusal is reported, never an error."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import time

_log = logging.getLogger(__name__)
_PR_SET_TIMERSLACK = 29
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def request(priority: int, cpu: int, lock_memory: bool) -> bool:
    """Ask for SCHED_FIFO at ``priority`` (0: no), one CPU (negative: any), locked memory and exact timers.

    Returns:
        Whether SCHED_FIFO was granted.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    if cpu >= 0:
        try:
            os.sched_setaffinity(0, {cpu})
        except OSError as error:
            _log.warning("CPU %d not granted: %s", cpu, error)
    if lock_memory and libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        _log.info("memory not locked: %s", os.strerror(ctypes.get_errno()))
        libc.munlockall()
    granted = False
    if priority > 0:
        try:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
            granted = True
        except OSError as error:
            _log.info("SCHED_FIFO not granted: %s", error)
    return granted


def freeze_heap() -> None:
    """No collection from here on: what exists is kept for good, and the loop makes no cycles."""
    gc.collect()
    gc.freeze()
    gc.disable()


def wait_until(deadline_ns: int, spin_ns: int) -> int:
    """Sleep until ``spin_ns`` before ``deadline_ns`` (CLOCK_MONOTONIC), spin for the rest; returns the time then [ns]."""
    now = time.monotonic_ns()
    while now < deadline_ns:
        rest = deadline_ns - now - spin_ns
        if rest > 0:
            time.sleep(rest * 1e-9)
        now = time.monotonic_ns()
    return now
