"""What a controller that plays by itself is told, so that it begins nothing that was dropped and its reference never jumps.

Two sides: :class:`Courses`, in the fast loop, decides what to send; :class:`Dispatch`, at the link's other end, looks once more
whether that is still right when it goes out. No I/O, no clock of its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tandem.core.trajectory import Trajectory
from tandem.core.types import Commitment
from tandem.execution.braking import braked

Array = NDArray[np.float64]

#: a velocity or acceleration smaller than this is rest: what the controller accepts at a trajectory's end
REST = 1e-7
#: two references are as good as one within this, a quarter of the certified tracking bound [rad], and within this, what a brake
#: takes off in two cycles [rad/s]; so slow, a motion has only just begun [rad/s]
NEAR, PACE, SLOW = 1e-3, 0.3, 0.02
#: acceleration up to which a controller that rests elsewhere is brought to where a motion begins [rad/s^2]
GENTLE = 10.0
#: word to the controller takes so long at most, ordinarily, and where courses came too late; until then a stop leaves its course
#: as it is [s]
WAY, LONG_WAY = 0.02, 0.5
#: an arm that follows its course, some 20 ms late, has at least this share of its speed, unless that has only begun [1]
FOLLOWS = 0.7
#: no course begins later than this: twice what the executor takes [s]
LEAD = 10.0
#: a clock that goes back by this has begun anew, as a simulation's does [s]
BACK = 1.0
#: plans repeat where they begin to within this [rad, m]
ROUNDING = 1e-6
#: rest in the place of a motion that was dropped begins so long after it is sent; rest is sent for so long [s]
HOLD = 0.25


class Heard(NamedTuple):
    """A measurement at ``stamp`` [s, the controller's clock]: q, v (n,) [rad, rad/s], gripper ``width`` [m].

    ``sent``: when the link had it [s, this machine's monotonic clock]. ``published``: number of the last course that went out to
    the controller; ``refused``: of the last that came too late.
    """

    stamp: float
    q: Array
    v: Array
    width: float
    sent: float
    published: int = 0
    refused: int = 0


def without_rest(course: Commitment, now: float) -> Commitment | None:
    """The course from where it begins to move; None when it is all rest, or over at ``now`` [s]: controllers refuse the past.

    Until then the controller holds what it holds. It reaches the first point, which is at rest, on a smooth way of its own from
    its own reference: that takes up what the two may differ by, where a first point in the past would be a jump.
    """
    t = course.trajectory
    held = np.abs(t.q - t.q[0]).max(1) <= 1e-12
    still = (np.abs(t.v).max(1) <= REST) & (np.abs(t.a).max(1) <= REST) & held & (np.asarray(course.width) == course.width[0])
    moving = np.flatnonzero(~still)
    if not moving.size or course.start + float(t.times[-1]) <= now:
        return None
    first = max(int(moving[0]) - 1, 0)
    if first == 0:
        return course
    kept = Trajectory(t.times[first:] - t.times[first], t.q[first:], t.v[first:], t.a[first:])
    return Commitment(kept, course.start + float(t.times[first]), np.asarray(course.width)[first:])


class Courses:
    """What the controller has been told, and from that what it has to be told next.

    It plays by itself, so two things must not happen: that it begins what the executor has dropped, and that its reference jumps.

    Args:
        acceleration, jerk: (n,) limits [rad/s^2, rad/s^3] within which it is braked. bound: how far the arm may be from what it
            follows [rad].

    Attributes:
        way: how long word takes to the controller [s]. pace: seconds of its clock in one of this machine's, where that is more
            than one. number: of the last course.
    """

    def __init__(self, acceleration: Array, jerk: Array, bound: float) -> None:
        self._acceleration, self._jerk, self._bound = acceleration, jerk, bound
        self._brake: Commitment | None = None  #: the last one that was not the executor's
        self._over: Commitment | None = None  #: the last rest for which the controller comes over to the arm
        self._sent: dict[int, tuple[Commitment, float]] = {}  #: by number, with when it was sent, from the one that went out last
        self.way, self.pace, self.number = WAY, 1.0, 0

    def begin(self, q: Array, width: float, clock: float) -> None:
        """The controller rests at q (n,) [rad], as far as can be known at its ``clock`` [s]; what it was told before is over."""
        self._told = self._first = Commitment(Trajectory.at_rest(q, 0.1), clock - 0.1, np.full(2, width))
        self._sent, self._begun = {self.number: (self._first, -np.inf)}, self.number

    def next(
        self, course: Commitment, now: float, clock: float, ahead: float = 0.0, heard: Heard | None = None
    ) -> tuple[Commitment | None, bool]:
        """What to send, so that it follows ``course``, of whose clock ``now`` is the present; and whether that is all.

        Nothing is sent where it need not be told: it holds, or it plays what it has to a certified rest. Rest is sent where a
        motion was dropped that has not begun, or only just. Not followed is what would make its reference jump: where the two
        differ at present (and it does not rest, with time enough to come over before the motion begins), what it plays is braked
        along its own path, and it is told again later. Where the arm is beside its course, the controller has stopped by itself,
        or the arm is held: rest is sent where it is, so much later that the controller comes over gently, and nothing else until
        then.

        Args:
            clock: the controller's, when it was last heard [s]. ahead: how far it may have gone on since [s].
            heard: the newest measurement.

        Returns:
            The course to send, on the controller's clock, or None; and False where it ought to be told again.
        """
        told, moving = self._told, without_rest(course, now)
        latest = clock + ahead
        rests = _rests(told, latest)
        if moving is None or not rests:
            aside = None if heard is None else self.aside(heard, latest)
            if aside is not None:
                return aside, True
        if moving is not None:
            at, v, _ = told.state_at(latest)
            q, rate, _ = course.state_at(now + ahead)
            lead = moving.start - (now + ahead) if rests else -np.inf  # from rest to rest it finds a smooth way
            if latest < self.settled or ((_apart(at, q) or _apart(v, rate, PACE)) and lead < _time_to(np.abs(at - q).max())):
                return (None if rests else self._braked(told, latest)), False
            return _held(Commitment(moving.trajectory, clock + (moving.start - now), moving.width)), True
        if rests:
            return None, True
        q, width = course.state_at(now)[0], course.width_at(now)
        times = told.start + told.trajectory.times
        past, left = (times > clock) & (times <= latest), times > latest
        at, v, _ = told.state_at(latest)
        if not (_changes(told, left, q) or np.any(np.abs(told.width[left] - width) > ROUNDING)):
            return None, True
        if _apart(at, q, 2.0 * NEAR) or np.abs(v).max() > SLOW or _changes(told, past, q, 2.0 * NEAR):
            return self._braked(told, latest), False
        return Commitment(Trajectory.at_rest(q, HOLD), latest + HOLD, np.full(2, width)), True

    @property
    def settled(self) -> float:
        """When the controller has come over to the arm, if it is on its way to it [s, its clock]; else -inf."""
        return self._told.start if self._told is self._over else -np.inf

    def aside(self, heard: Heard, latest: float) -> Commitment | None:
        """Rest where the arm is, for a controller that at ``latest`` [s] may be on what it was told; None: it follows that."""
        told = self._told
        if latest < self.settled or not _is_beside(heard, self._sent.get(heard.published, (told,))[0], self._bound):
            return None
        at, v, _ = told.state_at(latest)
        way = 6.0 * float(np.abs(v).max()) / GENTLE + float(np.sqrt(5.8 * np.abs(at - heard.q).max() / GENTLE))
        self._over = Commitment(Trajectory.at_rest(heard.q, HOLD), latest + max(HOLD, way), np.full(2, told.width_at(latest)))
        return self._over

    def _braked(self, told: Commitment, latest: float) -> Commitment | None:
        """What it plays, braked; None where that has been sent."""
        if told is self._brake:
            return None
        brake = braked(told, latest + self.way * self.pace, self._acceleration, self._jerk)
        self._brake = _to_its_rest(told, latest) if brake is told else _held(brake)
        return self._brake

    def sent(self, course: Commitment, at: float) -> None:
        """``course`` of :meth:`next` is on its way since ``at`` [s], as ``number``."""
        self.number += 1
        self._told = course
        self._sent[self.number] = course, at

    def confirm(self, published: int, refused: int, at: float) -> bool:
        """What the other end said ``at`` [s] of the numbers; False, once, when the last was refused: an older one is played."""
        for number in [n for n in self._sent if n < published]:
            del self._sent[number]
        if published == self.number:
            self.way = WAY
        if refused < self.number or refused <= max(published, self._begun) or refused not in self._sent:
            return True
        _, sent = self._sent.pop(refused)
        self._told = self._sent[published][0] if published in self._sent else self._first
        self.way = min(max(WAY + at - sent, self.way), LONG_WAY)
        return False

    def reached(self, published: int) -> bool:
        """Whether the last one has gone out."""
        return published >= self.number


def _rests(told: Commitment, latest: float) -> bool:
    """Whether nothing is left to move after ``latest`` [s]."""
    if latest >= told.end:
        return True
    at, v, _ = told.state_at(latest)
    left = told.start + told.trajectory.times > latest
    width = told.width_at(latest)
    return bool(np.abs(v).max() <= REST) and not (_changes(told, left, at) or np.any(np.abs(told.width[left] - width) > ROUNDING))


def _is_beside(heard: Heard, told: Commitment, bound: float) -> bool:
    """Whether the arm is not where it was to be, and does not go there: nothing moves it, or something holds it.

    One that only lags behind has its course's speed but for a little: it is braked along its certified path.
    """
    q, v, _ = told.state_at(heard.stamp)
    return _apart(heard.q, q, bound) and bool(np.abs(heard.v).max() <= max(FOLLOWS * float(np.abs(v).max()), SLOW))


def _time_to(distance: float) -> float:
    """How long before a motion a controller at rest ``distance`` [rad] off has to be told of it [s]: a quintic's 5.8 d / T^2."""
    return WAY + float(np.sqrt(5.8 * distance / GENTLE))


def _to_its_rest(told: Commitment, latest: float) -> Commitment | None:
    """``told`` as far as where it rests next after ``latest``; None where nothing comes after that in any case."""
    t, width = told.trajectory, np.asarray(told.width)
    still = (np.abs(t.v).max(1) <= REST) & (np.abs(t.a).max(1) <= REST) & (told.start + t.times > latest)
    if not still.any():
        return None
    n = int(np.argmax(still))
    after = np.arange(len(t.times)) > n
    if not (_changes(told, after, t.q[n]) or np.any(np.abs(width[after] - width[n]) > ROUNDING)):
        return None
    if n == 0:  # it has not begun
        return Commitment(Trajectory.at_rest(t.q[0], HOLD), latest + HOLD, np.full(2, width[0]))
    to = slice(0, n + 1)
    return _held(Commitment(Trajectory(t.times[to], t.q[to], t.v[to], t.a[to]), told.start, width[to]))


def _apart(a: Array, b: Array, bound: float = NEAR) -> bool:
    return bool(np.abs(a - b).max() > bound)


def _changes(course: Commitment, knots: NDArray[np.bool_], q: Array, bound: float = ROUNDING) -> bool:
    """Whether one of these knots is away from ``q`` (n,) [rad]."""
    return bool(np.any(np.abs(course.trajectory.q[knots] - q) > bound))


def _held(course: Commitment) -> Commitment:
    """The course with its rest held for a while: one that is over when it arrives is refused, and an older one played."""
    t = course.trajectory
    end, zero = t.q[-1:], np.zeros_like(t.q[-1:])
    held = Trajectory(
        np.append(t.times, t.times[-1] + HOLD), np.vstack([t.q, end]), np.vstack([t.v, zero]), np.vstack([t.a, zero])
    )
    return Commitment(held, course.start, np.append(course.width, course.width[-1]))


class Dispatch:
    """The link's side: what went out to the controller last, and whether a new course is still in time.

    Attributes:
        known: numbers of the last course that went out, and of the last that did not.
    """

    def __init__(self) -> None:
        self.known = 0, 0
        self._played: Commitment | None = None
        self._stamp = -np.inf
        self._offset = 0.0  #: the controller's clock less the caller's [s]

    def heard(self, stamp: float, at: float, q: Array) -> None:
        """A measurement of q (n,) [rad] at ``stamp`` [s, the controller's clock] came at ``at`` [s, the caller's]."""
        if self._played is None or stamp < self._stamp - BACK:  # the controller rests where the arm does, as far as can be known
            self._played = Commitment(Trajectory.at_rest(q, 0.1), stamp - 0.1, np.zeros(2))
        self._stamp, self._offset = stamp, stamp - at

    def refuses(self, course: Commitment, number: int, at: float) -> str:
        """Why ``course`` may not go out at ``at`` [s, the caller's clock]; empty: it goes, and is what the controller plays."""
        why = "no joint states yet" if self._played is None else _late(self._played, course, at + self._offset)
        if why:
            self.known = self.known[0], number
        else:
            self._played, self.known = course, (number, self.known[1])
        return why


def _late(told: Commitment, course: Commitment, clock: float) -> str:
    """What is wrong with ``course`` for a controller that plays ``told``, arriving at ``clock`` [s]; empty when nothing is.

    :class:`Courses` has asked this when it was sent. What is seen here is how much later it is.
    """
    if course.end <= clock:
        return f"it has ended {clock - course.end:.3f} s before"
    if course.start - clock > LEAD:
        return f"it begins {course.start - clock:.1f} s ahead, at most {LEAD:.0f}: the controller's clock has been set back"
    at, v, _ = told.state_at(clock)
    q, rate, _ = course.state_at(max(clock, course.start))
    if course.start > clock:  # until then a smooth way of its own, from where it is
        time = course.start - clock
        pull = 5.8 * float(np.abs(at - q).max()) / time**2 + 6.0 * float(np.abs(v - rate).max()) / time
        return f"the controller's reference would turn by {pull:.0f} rad/s^2" if pull > 2.0 * GENTLE else ""
    if _apart(at, q, 2.0 * NEAR) or _apart(v, rate, 2.0 * PACE):
        jump, other = float(np.abs(at - q).max()), float(np.abs(v - rate).max())
        return f"the controller's reference would jump by {jump * 1e3:.1f} mrad and {other:.2f} rad/s"
    return ""
