"""What an operator sees on /diagnostics: rate, age, durations, rejections and why."""

from __future__ import annotations

import json
import os
from collections import Counter, deque
from pathlib import Path

import numpy as np

PAGE = os.sysconf("SC_PAGE_SIZE")


def rss_mb() -> float:
    """Resident memory of this process [MB]."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE / 1e6


class Meter:
    """Counts what comes in on one stream and what was refused. Times [s] on the caller's clock."""

    def __init__(self, window: int = 100) -> None:
        self._times: deque[float] = deque(maxlen=window)
        self._ms: deque[float] = deque(maxlen=window)
        self._rejected: Counter[str] = Counter()
        self.accepted = 0
        self.last_rejection = ""
        self.last_rejection_time = float("-inf")

    def tick(self, now: float, ms: float | None = None) -> None:
        """Something good came, which took ``ms`` to handle."""
        self._times.append(now)
        self.accepted += 1
        if ms is not None:
            self._ms.append(ms)

    def reject(self, now: float, kind: str, detail: str = "") -> None:
        """Something was refused: ``kind`` is counted, ``detail`` shown for the last one."""
        self._rejected[kind] += 1
        self.last_rejection = f"{kind}: {detail}" if detail else kind
        self.last_rejection_time = now

    def age(self, now: float) -> float:
        """Time since the last good one [s]; infinite before the first."""
        return now - self._times[-1] if self._times else float("inf")

    def rate(self, now: float) -> float:
        """Good ones per second over the window; 0 when silent."""
        recent = [t for t in self._times if now - t <= 5.0]
        return (len(recent) - 1) / (now - recent[0]) if len(recent) > 1 and now > recent[0] else 0.0

    def values(self, now: float, prefix: str = "") -> dict[str, str]:
        """Key values for a DiagnosticStatus."""
        out = {
            "rate_hz": f"{self.rate(now):.2f}", "age_s": f"{self.age(now):.3f}", "accepted": str(self.accepted),
            "rejected": str(self._rejected.total()), "rejections": json.dumps(dict(self._rejected)),
            "last_rejection": self.last_rejection,
        }
        if self._ms:
            p50, p95, top = np.percentile(np.array(self._ms), [50, 95, 100])
            out |= {"ms_p50": f"{p50:.1f}", "ms_p95": f"{p95:.1f}", "ms_max": f"{top:.1f}"}
        return {prefix + k: v for k, v in out.items()}
