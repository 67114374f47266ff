"""Path-consistent braking: a trajectory is slowed down in its own time; the arm stays on positions that were certified."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tandem.core.trajectory import Trajectory
from tandem.core.types import Commitment

Array = NDArray[np.float64]

#: durations of a stop that are tried, shortest first [s]
_STOP_DURATIONS = 0.08 * 1.35 ** np.arange(14)
_STOP_SAMPLES = 33
#: a stop that looks good is looked at again, at its knots and at points of this spacing [s], so many at least and at most;
#: of so many such stops
_FINE, _FINE_LEAST, _FINE_MOST, _LOOKS = 0.002, 33, 300, 4
#: where a stop takes longer than this [s], it is looked at whether one that begins so much later [s] is over sooner
_LONG, _LATER = 0.7, (0.06, 0.15)
#: spacing [s] and least number of the points that a stop's course is given by
SPACING, POINTS = 0.005, 16


class Stop:
    """Slowing down in the trajectory's own time: its rate falls from 1 to 0 along a cubic over ``duration`` [s].

    It begins at trajectory time ``begin`` [s], ``wait`` [s] from now; until then the rate is 1.
    """

    def __init__(self, begin: float, duration: float, wait: float = 0.0) -> None:
        self.begin, self.duration, self.elapsed = begin, duration, -wait

    def advance(self, dt: float) -> tuple[float, float, float, bool]:
        """Trajectory time [s], its rate [1] and the rate's derivative [1/s] after ``dt`` more, and whether it is over."""
        self.elapsed += dt
        if not np.isfinite(self.duration):
            return self.begin + self.elapsed, 1.0, 0.0, False
        time, rate, slope = self.at(self.elapsed)
        return float(time), float(rate), float(slope), self.elapsed >= self.duration

    def at(self, elapsed: float | Array) -> tuple[Array, Array, Array]:
        """Trajectory time [s], its rate [1] and the rate's derivative [1/s] ``elapsed`` [s] after the stop's begin."""
        x = np.clip(np.asarray(elapsed) / self.duration, 0.0, 1.0)
        time = self.begin + np.minimum(elapsed, 0.0) + self.duration * x * (1.0 - x * x + 0.5 * x * x * x)
        return time, 1.0 - x * x * (3.0 - 2.0 * x), -6.0 * x * (1.0 - x) / self.duration


def stop_duration(trajectory: Trajectory, begin: float, acceleration: Array, jerk: Array) -> float:
    """Shortest duration [s] in which the path can be stopped from trajectory time ``begin`` [s] within the limits (n,).

    Infinite when none of those tried keeps within them; the trajectory is then to be played to its own end.
    """
    x = np.linspace(0.0, 1.0, _STOP_SAMPLES)
    durations = _STOP_DURATIONS[:, None]
    time = begin + durations * (x * (1.0 - x * x + 0.5 * x**3))
    rate = (1.0 - x * x * (3.0 - 2.0 * x))[None, :, None]
    slope = (-6.0 * x * (1.0 - x) / durations)[..., None]
    _, v, a = trajectory.sample(time)
    scaled = a * rate * rate + v * slope
    jerks = np.abs(np.diff(scaled, axis=1)) * (_STOP_SAMPLES - 1) / durations[..., None]
    ok = (np.abs(scaled).max(1) <= acceleration).all(-1) & (jerks.max(1) <= 0.8 * jerk).all(-1)
    for duration in _STOP_DURATIONS[ok][:_LOOKS]:
        if _keeps(trajectory, Stop(begin, float(duration)), acceleration):
            return float(duration)
    return float("inf")


def _keeps(trajectory: Trajectory, stop: Stop, acceleration: Array) -> bool:
    """Whether a stop keeps within the accelerations (n,): between its knots, at which it may peak, a trajectory is smooth."""
    count = int(np.clip(stop.duration / _FINE, _FINE_LEAST, _FINE_MOST))
    elapsed = np.linspace(0.0, stop.duration, count)
    time = stop.at(elapsed)[0]
    knots = trajectory.times[(trajectory.times > time[0]) & (trajectory.times < time[-1])]
    time, rate, slope = stop.at(np.concatenate([elapsed, np.interp(knots, time, elapsed)]))
    _, v, a = trajectory.sample(time)
    return bool((np.abs(a * (rate * rate)[:, None] + v * slope[:, None]) <= acceleration).all())


def soonest_stop(trajectory: Trajectory, begin: float, acceleration: Array, jerk: Array) -> tuple[float, float]:
    """How much later than at trajectory time ``begin`` [s] a stop is to begin, and its duration [s], to be over soonest.

    In the middle of hard braking a stop that begins at once would take long: the path's own deceleration leaves it no room.
    """
    best = (0.0, stop_duration(trajectory, begin, acceleration, jerk))
    for later in _LATER if best[1] > _LONG else ():
        duration = stop_duration(trajectory, begin + later, acceleration, jerk)
        if later + duration < sum(best):
            best = (later, duration)
    return best


def braked(plan: Commitment, at: float, acceleration: Array, jerk: Array) -> Commitment:
    """``plan`` until ``at`` [s], from there slowed down to rest; as it is where that cannot be within the limits (n,).

    Slowed down it is no polynomial any more; its points are so dense that the difference does not count.
    """
    begin = at - plan.start
    duration = stop_duration(plan.trajectory, begin, acceleration, jerk)
    if not np.isfinite(duration):
        return plan
    t = np.linspace(0.0, duration, max(int(duration / SPACING) + 1, POINTS))
    time, rate, slope = Stop(begin, duration).at(t)
    q, v, a = plan.trajectory.sample(time)
    a = rate[:, None] ** 2 * a + slope[:, None] * v
    v = rate[:, None] * v
    v[-1], a[-1] = 0.0, 0.0
    old, widths = plan.trajectory, np.asarray(plan.width)
    kept = old.times < begin - 1e-6
    width = np.append(widths[kept], np.interp(time, old.times, widths))
    times = np.concatenate([old.times[kept], begin + t])
    q, v, a = (np.concatenate([x[kept], y]) for x, y in ((old.q, q), (old.v, v), (old.a, a)))
    return Commitment(Trajectory(times - times[0], q, v, a), plan.start + float(times[0]), width)
