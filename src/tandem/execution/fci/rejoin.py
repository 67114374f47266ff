"""After lost cycles: from where the arm has gone on by itself back onto the certified trajectory, within the interface's limits.

While commands are missing the arm keeps the last acceleration and integrates (libfranka, "Under the hood": linear extrapolation).
Its reference then differs from the trajectory. A jump back in one cycle is right while it stays within the limits on
acceleration and jerk, which it does after few cycles; after more it would be a discontinuity, and the arm stops with a reflex.
Then the difference is carried along and fades out along a polynomial: the commanded position is the certified one plus
something that is small, known, counted, and soon zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PERIOD = 1e-3
#: what a jump may need [rad/s^2, rad/s^3]: the interface's limits with room for the 32-bit floats of the reported reference
ACCELERATION, JERK = 9.0, 4000.0
#: what fading out may add [rad/s^2, rad/s^3]
FADE_ACCELERATION, FADE_JERK = 1.0, 400.0
#: durations tried, shortest first [s]
DURATIONS = 0.02 * 1.25 ** np.arange(14)
#: more than this far from the trajectory nothing is carried along [rad]
FARTHEST = 2e-3


def fade(offset: Array, velocity: Array, acceleration: Array, duration: float) -> Array:
    """(6, n) coefficients, constant first, of the quintic from that state (n,) to rest at zero after ``duration`` [s]."""
    t = duration
    matrix = np.array([[t**3, t**4, t**5], [3 * t**2, 4 * t**3, 5 * t**4], [6 * t, 12 * t**2, 20 * t**3]])
    end = -np.stack([offset + velocity * t + 0.5 * acceleration * t * t, velocity + acceleration * t, acceleration])
    return np.concatenate([np.stack([offset, velocity, 0.5 * acceleration]), np.linalg.solve(matrix, end)])


class Rejoin:
    """The difference between what is commanded and what is certified, cycle by cycle; nearly always zero.

    Attributes:
        count: how often a difference had to be carried along.
    """

    def __init__(self, joints: int) -> None:
        self.count = 0
        self._zero = np.zeros(joints)
        self._coefficients: Array | None = None
        self._elapsed = self._duration = 0.0

    @property
    def active(self) -> bool:
        """Whether there is a difference now."""
        return self._coefficients is not None

    def drop(self) -> None:
        """Forget it: the arm starts anew, at rest."""
        self._coefficients = None

    def after_gap(self, reference: tuple[Array, Array, Array], target: tuple[Array, Array, Array]) -> bool:
        """Cycles were lost: compare where the arm's reference is with where it should have been.

        Args:
            reference: (n,) position, velocity, acceleration [rad, s] that the arm commanded itself last; velocity and
                acceleration are backward differences, as the interface defines them.
            target: (n,) the same of the certified trajectory, one cycle later: for the command to be sent now.

        Returns:
            False when they are too far apart to go on.
        """
        (rq, rv, ra), (q, v, a) = reference, target
        # a jump back is felt for three cycles: into it, out of it, and in the jerk once more
        steps = np.arange(3)[:, None] * PERIOD
        behind = np.stack([rq - 2.0 * rv * PERIOD + ra * PERIOD**2, rq - rv * PERIOD, rq])
        path = np.concatenate([behind, q + v * steps + 0.5 * a * steps**2])
        acceleration, jerk = np.diff(path, 2, axis=0) / PERIOD**2, np.diff(path, 3, axis=0) / PERIOD**3
        if np.abs(acceleration).max() <= ACCELERATION and np.abs(jerk).max() <= JERK:
            self._coefficients = None
            return True
        # backward differences of the certified positions, one cycle before the target
        offset = rq - (q - v * PERIOD + 0.5 * a * PERIOD**2)
        slope = rv - (v - 1.5 * a * PERIOD)
        bend = ra - a
        if np.abs(offset).max() > FARTHEST:
            return False
        slope = slope + 0.5 * bend * PERIOD  # of the difference itself at that cycle, not over the one before
        for duration in DURATIONS:
            coefficients = fade(offset, slope, bend, float(duration))
            tau = np.linspace(0.0, duration, 41)[:, None, None]
            second = (coefficients[2:] * np.array([2.0, 6.0, 12.0, 20.0])[:, None] * tau ** np.arange(4)[:, None]).sum(1)
            third = np.abs(np.diff(second, axis=0)).max() / (tau[1, 0, 0] - tau[0, 0, 0])
            if np.abs(second).max() <= max(FADE_ACCELERATION, 1.05 * np.abs(bend).max()) and third <= FADE_JERK:
                break
        if np.abs((coefficients * tau ** np.arange(6)[:, None]).sum(1)).max() > FARTHEST:
            return False
        self._coefficients, self._elapsed, self._duration = coefficients, 0.0, float(duration)
        self.count += 1
        return True

    def advance(self, elapsed: float) -> Array:
        """(n,) what is to be added to the certified position ``elapsed`` [s] after the last call [rad]."""
        if self._coefficients is None:
            return self._zero
        self._elapsed += elapsed
        if self._elapsed >= self._duration:
            self._coefficients = None
            return self._zero
        return self._elapsed ** np.arange(6) @ self._coefficients
