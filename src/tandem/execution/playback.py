"""A trajectory prepared for playing: one small matrix-vector product a cycle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tandem.core.trajectory import Trajectory
from tandem.core.types import Commitment, Proposal

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = NDArray[np.float64]


class Playback:
    """A trajectory with its start time, gripper widths and where its backup begins, for evaluation in rising time.

    Attributes:
        trajectory, width: as in :class:`tandem.core.types.Proposal`. start: when it begins [s].
        head_end, duration: [s] from there.
    """

    def __init__(self, trajectory: Trajectory, width: Array, start: float, head_duration: float) -> None:
        self.trajectory = trajectory
        self.width = width
        self.start = start
        self.head_end = head_duration
        self.duration = trajectory.duration
        n = trajectory.joints
        h = np.diff(trajectory.times)[:, None]
        q, v, a = trajectory.q[:-1], trajectory.v[:-1], trajectory.a[:-1]
        jerk = np.diff(trajectory.a, axis=0) / h
        zero = np.zeros_like(q)
        # rows q, v, a of each joint against (1, tau, tau^2/2, tau^3/6)
        rows = [np.stack([q, v, a, jerk], -1), np.stack([v, a, jerk, zero], -1), np.stack([a, jerk, zero, zero], -1)]
        self._coefficients = list(np.ascontiguousarray(np.concatenate(rows, axis=1)))
        self._times: list[float] = trajectory.times.tolist()
        self._width: list[float] = [float(w) for w in width]
        self._slope = (np.diff(width) / h[:, 0]).tolist()
        self._powers = np.ones(4)
        self._rest = np.concatenate([trajectory.q[-1], np.zeros(2 * n)])
        self._segment = 0
        self.joints = n

    @classmethod
    def of(cls, proposal: Proposal, start: float, stroke: float) -> Playback:
        """The proposal, to begin at ``start`` [s, the executor's clock], gripper widths brought into 0 .. ``stroke`` [m]."""
        width = np.clip(np.asarray(proposal.width, dtype=np.float64), 0.0, stroke)
        return cls(proposal.trajectory, width, start, proposal.head_duration)

    @classmethod
    def at_rest(cls, q: Array, width: float, now: float) -> Playback:
        """Holding q (n,) and the gripper's width [m]."""
        return cls(Trajectory.at_rest(q, 0.001), np.array([width, width]), now - 0.002, 0.001)

    def _locate(self, t: float) -> int:
        i, times = self._segment, self._times
        if t < times[i]:
            i = 0
        last = len(times) - 2
        while i < last and t >= times[i + 1]:
            i += 1
        self._segment = i
        return i

    def state(self, t: float) -> Array:
        """(3n,) q, v, a at ``t`` [s] from the start; at rest from the end on."""
        if t >= self.duration:
            return self._rest.copy()
        i = self._locate(t if t > 0.0 else 0.0)
        tau = t - self._times[i] if t > 0.0 else 0.0
        p = self._powers
        p[1] = tau
        p[2] = square = 0.5 * tau * tau
        p[3] = square * tau / 3.0
        return self._coefficients[i] @ p

    def width_at(self, t: float) -> float:
        """Gripper width [m] at ``t`` [s] from the start."""
        if t >= self.duration:
            return self._width[-1]
        i = self._locate(t if t > 0.0 else 0.0)
        return self._width[i] + self._slope[i] * (t - self._times[i] if t > 0.0 else 0.0)


def joined(active: Playback, pending: Sequence[Playback], now: float) -> Commitment:
    """What will be played from ``now`` [s] on: ``active``, cut at each pending trajectory's start, then that one.

    Knots passed before ``now`` are left out, except the one that the current segment starts from.
    """
    parts = [active, *pending]
    times, knots, widths = [], [], []
    for i, part in enumerate(parts):
        local = part.trajectory.times
        end = parts[i + 1].start - part.start if i + 1 < len(parts) else np.inf
        first = max(int(np.searchsorted(local, now - part.start, side="right")) - 1, 0) if i == 0 else 0
        if i == 0 and first >= len(local) - 1 and not pending:
            first = len(local) - 2
        keep = np.arange(first, len(local))
        keep = keep[local[keep] < end - 1e-9]
        stack = np.stack([part.trajectory.q, part.trajectory.v, part.trajectory.a], 1)[keep]
        times.append(part.start + local[keep])
        knots.append(stack)
        widths.append(part.width[keep])
        if np.isfinite(end):
            q, v, a = part.trajectory.sample(end)
            times.append(np.array([part.start + end]))
            knots.append(np.stack([q, v, a])[None])
            widths.append(np.array([part.width_at(float(end))]))
    t, k, w = np.concatenate(times), np.concatenate(knots), np.concatenate(widths)
    # a splice is one knot: the old trajectory's last and the new one's first agree within the splice tolerances
    distinct = np.concatenate([np.diff(t) > 1e-9, [True]])
    t, k, w = t[distinct], k[distinct], w[distinct]
    return Commitment(Trajectory(t - t[0], k[:, 0], k[:, 1], k[:, 2]), float(t[0]), w)
