"""How a process stands back for others."""

from __future__ import annotations

import contextlib
import os


def give_way(niceness: int) -> None:
    """Let others go first: every thread of this process, and those it starts from now on, at ``niceness`` (0 .. 19).

    Linux weighs it among the processes of one session where autogroups are on (``/proc/sys/kernel/sched_autogroup_enabled``).
    """
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # a thread may have ended meanwhile
            os.setpriority(os.PRIO_PROCESS, int(thread), niceness)
