"""The executor: plays certified trajectories, splices them, comes to rest by itself, stops on faults and stays stopped.

A pure library: no I/O, no clock, no thread. Its owner calls :meth:`Executor.tick` once a cycle and sends the command on.

A stop follows the certified path: the trajectory being played is slowed down in its own time (path-consistent braking), so
even after a fault the arm stays on positions that were certified. Where no such slowing keeps within the limits, the
trajectory is played to its end, which is at rest and certified too. After a stop nothing is taken until
:meth:`Executor.resume`.
"""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tandem.core.certificate import verify
from tandem.core.errors import InputError
from tandem.core.trajectory import Trajectory
from tandem.core.types import Commitment
from tandem.execution.braking import POINTS, SPACING, Stop, soonest_stop
from tandem.execution.checks import ACCEPTED, check_motion, check_shape, check_start
from tandem.execution.playback import Playback, joined
from tandem.execution.types import (
    CertifiedTrajectory,
    Command,
    ExecutorConfig,
    ExecutorCounters,
    ExecutorStatus,
    Mode,
    StopReason,
    SubmitCode,
    SubmitResult,
    from_ns,
    to_ns,
)

Array = NDArray[np.float64]

_LATCHED = (Mode.STOPPING, Mode.STOPPED, Mode.FAULT)


class Executor:
    """Plays what was certified. Times ``now`` are seconds on the owner's clock; only their differences matter.

    Args:
        config: limits, tolerances, time-outs.
        q: (n,) measured joints at the start [rad]. now: time [s]. width: gripper width to hold [m].
        key: secret shared with the filter. None: certificates are not looked at, which is only for a caller that *is* the filter
            (lockstep simulation in one process).
        epoch_ns: what the clock that stamps trajectories shows [ns] when ``now`` is 0. 0: they are one clock.

    Attributes:
        ahead: how far [s] beyond ``now`` an arm that plays the course by itself may be when word of a stop reaches it; until then
            a stop leaves the course as it is. 0: the arm gets a command each cycle. Kept up to date by the owner.

    Raises:
        InputError: ``q`` has the wrong length or is not finite.
    """

    def __init__(
        self, config: ExecutorConfig, q: ArrayLike, now: float, width: float = 0.0, key: bytes | None = None, epoch_ns: int = 0
    ) -> None:
        start = np.array(q, dtype=np.float64)
        if start.shape != (config.joints,) or not np.isfinite(start).all():
            raise InputError(f"q = {start}: expected {config.joints} finite values")
        self.config = config
        self.counters = ExecutorCounters()
        self._key = key
        self._epoch_ns = epoch_ns
        self._bound = np.asarray(config.tracking)
        self._acceleration, self._jerk = np.asarray(config.acceleration), np.asarray(config.jerk)
        self._last_rejection = SubmitCode.ACCEPTED
        self.revision = 0
        self.ahead = 0.0
        self._hold(start, width, now)

    def _hold(self, q: Array, width: float, now: float) -> None:
        self._active = Playback.at_rest(q, width, now)
        self._pending: list[Playback] = []
        self._stop: Stop | None = None
        self._mode, self._reason, self._text = Mode.IDLE, StopReason.NONE, ""
        self._now, self._measured_at = now, now
        self._stamp = now  #: of the newest measurement [s]
        self._deviating = 0.0
        self._put_off = 0.0
        self._played, self._played_at = self._active.duration, now  #: trajectory time of the last command, and when it was [s]
        n = self.config.joints
        self._command = Command(q.copy(), np.zeros(n), np.zeros(n), width, Mode.IDLE)
        self.revision += 1

    # ---- what others may ask ----------------------------------------------------------------------------------------------

    @property
    def mode(self) -> Mode:
        """What it is doing."""
        return self._mode

    @property
    def command(self) -> Command:
        """The last command."""
        return self._command

    @property
    def last_rejection(self) -> SubmitCode:
        """Code of the last refused trajectory; ACCEPTED before the first."""
        return self._last_rejection

    @property
    def reason(self) -> StopReason:
        """Why it stopped; NONE when it has not."""
        return self._reason

    @property
    def waiting(self) -> bool:
        """Whether it plays nothing and nothing is pending."""
        return not self._pending and self._mode in (Mode.IDLE, Mode.STOPPED, Mode.FAULT)

    def status(self) -> ExecutorStatus:
        """Mode, reasons and a copy of the counters."""
        text = self._text or (self._reason.text if self._reason else "")
        return ExecutorStatus(self._mode, self._reason, text, self._last_rejection, copy.deepcopy(self.counters))

    def commitment(self) -> Commitment:
        """What will be played if nothing new arrives, pending trajectories included, on the clock that stamps trajectories.

        While stopping and when stopped: the position commanded last, at rest. ``revision`` changes whenever another trajectory
        is to be played.
        """
        if self._mode in _LATCHED:
            own = Playback.at_rest(self._command.q, self._command.width, self._now)
            plan = joined(own, [], self._now)
        else:
            plan = joined(self._active, self._pending, self._now)
        if not self._epoch_ns:
            return plan
        return Commitment(plan.trajectory, from_ns(self._epoch_ns + to_ns(plan.start)), plan.width)

    def course(self) -> Commitment:
        """What will be commanded if nothing new arrives, a stop under way included, on the owner's clock.

        Between its points q is the polynomial of least degree through their q, v and a: of third degree, exactly, while
        trajectories are played. A stop is no such motion; its points are so dense that the difference does not count.
        """
        if self._stop is None or not np.isfinite(self._stop.duration):
            if self._mode in _LATCHED and self._stop is None:
                return joined(Playback.at_rest(self._command.q, self._command.width, self._now), [], self._now)
            return joined(self._active, self._pending, self._now)
        stop, slowed = self._stop, self._pending[-1] if self._pending else self._active
        left = max(stop.duration - stop.elapsed, 2e-3)
        t = np.linspace(0.0, left, max(int(left / SPACING) + 1, POINTS))
        time, rate, slope = stop.at(stop.elapsed + t)
        q, v, a = slowed.trajectory.sample(time)
        a = rate[:, None] ** 2 * a + slope[:, None] * v
        v = rate[:, None] * v
        v[-1], a[-1] = 0.0, 0.0
        width = np.array([slowed.width_at(float(x)) for x in time])
        before = t < -stop.elapsed
        if before.any():
            plan = joined(self._active, self._pending, self._now)
            on = self._now + t[before] - plan.start
            q[before], v[before], a[before] = plan.trajectory.sample(on)
            width[before] = np.interp(on, plan.trajectory.times, plan.width)
        return Commitment(Trajectory(t, q, v, a), self._now, width)

    # ---- requests ---------------------------------------------------------------------------------------------------------

    def submit(self, certified: CertifiedTrajectory, now: float) -> SubmitResult:
        """Check a certified trajectory again and, if it holds, have it spliced in at its switch time. Never raises.

        It must start from what is committed for that time. Trajectories pending for the same or a later switch time are
        superseded; rejected ones change nothing.
        """
        try:
            result = self._submit(certified, now)
        except Exception as error:  # nothing that is submitted may take the loop down
            result = SubmitResult(SubmitCode.INTERNAL, f"{type(error).__name__}: {error}")
        if result.accepted:
            self.counters.accepted += 1
        else:
            self._last_rejection = result.code
            self.counters.rejected[result.code] = self.counters.rejected.get(result.code, 0) + 1
        return result

    def _submit(self, certified: CertifiedTrajectory, now: float) -> SubmitResult:
        if self._mode in _LATCHED:
            return SubmitResult(SubmitCode.STOPPED, f"stopped ({self._reason.text}); an operator must resume")
        proposal, config = certified.proposal, self.config
        result = check_shape(proposal, config)
        if not result.accepted:
            return result
        stamp = certified.switch_time_ns
        start = from_ns(stamp - self._epoch_ns)
        if start < now + 0.999 * config.period:
            return SubmitResult(SubmitCode.LATE, f"switch time {start - now:.4f} s ahead; at least {config.period} s")
        if start > now + config.max_lead:
            return SubmitResult(SubmitCode.TOO_EARLY, f"switch time {start - now:.2f} s ahead; at most {config.max_lead} s")
        digest = proposal.digest()
        if self._key is not None and not verify(self._key, certified.verdict_digest, digest, stamp, certified.certificate):
            return SubmitResult(SubmitCode.FORGED, "the certificate does not belong to this trajectory and switch time")
        keep = [p for p in self._pending if p.start < start - 1e-9]
        if len(keep) >= config.max_pending:
            return SubmitResult(SubmitCode.QUEUE_FULL, f"{len(keep)} trajectories pending; at most {config.max_pending}")
        before = keep[-1] if keep else self._active
        result = check_start(proposal.trajectory, before.state(start - before.start), config)
        if not result.accepted:
            return result
        result = check_motion(proposal.trajectory, config)
        if not result.accepted:
            return result
        self.counters.superseded += len(self._pending) - len(keep)
        self._pending = [*keep, Playback.of(proposal, start, config.stroke)]
        self.revision += 1
        return ACCEPTED

    def stop(self, reason: StopReason, text: str = "") -> None:
        """Bring the arm to rest along the certified path and latch. A second stop keeps the first one's reason. Never raises.

        What begins within ``ahead`` is still begun: an arm that plays by itself may be in it already.
        """
        if self._mode in _LATCHED:
            return
        self._reason, self._text = reason, text
        self.counters.stops += 1
        self._slow(self._now - self._played_at + self.ahead if self.ahead > 0.0 else 0.0)

    def _slow(self, wait: float) -> None:
        """Set the stop up: what is played ``wait`` [s] after the last command is slowed down there, what is later is dropped."""
        begun = [p for p in self._pending if wait > 0.0 and p.start <= self._played_at + wait]
        self.counters.dropped += len(self._pending) - len(begun)
        self._pending = begun
        self.revision += 1
        if not begun and self._played >= self._active.duration:
            self._mode, self._stop = Mode.STOPPED, None
            return
        self._mode = Mode.STOPPING
        last = begun[-1] if begun else self._active
        begin = self._played_at + wait - last.start if begun else self._played + wait
        try:
            later, duration = soonest_stop(last.trajectory, begin, self._acceleration, self._jerk)
        except Exception as error:  # the certified rest of the trajectory is always there
            later, duration, self._text = 0.0, float("inf"), f"{self._text}; {type(error).__name__}: {error}"
        self._stop = Stop(begin + later, duration, wait + later)

    def halt(self, reason: StopReason, text: str, q: ArrayLike) -> None:
        """Latch at once, holding (n,) ``q`` [rad]: the arm has stopped by itself and follows nothing. An earlier reason stays."""
        if self._mode not in _LATCHED:
            self._reason, self._text = reason, text
            self.counters.stops += 1
        self.counters.dropped += len(self._pending)
        self._pending, self._stop = [], None
        self._mode = Mode.STOPPED
        rest, zero = np.array(q, dtype=np.float64), np.zeros(self.config.joints)
        self._active = Playback.at_rest(rest, self._command.width, self._now)
        self._command = Command(rest, zero, zero, self._command.width, Mode.STOPPED)
        self._played, self._played_at = self._active.duration, self._now
        self.revision += 1

    def resume(self, now: float, measured_q: ArrayLike, measured_v: ArrayLike | None = None) -> SubmitResult:
        """An operator's confirmation: hold the measured joints (n,) [rad] and take trajectories again.

        Refused unless stopped, with finite joints within their limits (1e-3 rad beyond is let pass) and, where given, at rest.
        """
        if self._mode not in (Mode.STOPPED, Mode.FAULT):
            return SubmitResult(SubmitCode.NOT_STOPPED, f"in mode {self._mode.name}; only a stopped executor can be resumed")
        q = np.array(measured_q, dtype=np.float64)
        if q.shape != (self.config.joints,) or not np.isfinite(q).all():
            return SubmitResult(SubmitCode.MALFORMED, f"measured joints {q}: expected {self.config.joints} finite values")
        outside = np.maximum(np.asarray(self.config.lower) - q, q - np.asarray(self.config.upper))
        if outside.max() > 1e-3:
            worst = int(outside.argmax())
            return SubmitResult(SubmitCode.POSITION_LIMIT, f"joint {worst + 1} is {outside[worst]:.4f} rad beyond its limit")
        speed = 0.0 if measured_v is None else float(np.abs(np.asarray(measured_v, dtype=np.float64)).max())
        if not speed <= self.config.resume_velocity:
            text = f"the arm still moves at {speed:.3f} rad/s; at most {self.config.resume_velocity}"
            return SubmitResult(SubmitCode.VELOCITY_LIMIT, text)
        self._hold(q, self._command.width, now)
        self.counters.resumes += 1
        return ACCEPTED

    def reset(self, now: float, q: ArrayLike, width: float) -> None:
        """Hold q (n,) after the backend was put there (simulation only); pending trajectories are dropped."""
        self.counters.dropped += len(self._pending)
        self._hold(np.array(q, dtype=np.float64), width, now)

    def set_width(self, now: float, width: float) -> SubmitResult:
        """Hold another gripper width [m]; only when the arm rests and nothing is pending."""
        if self._mode is not Mode.IDLE or self._pending:
            code = SubmitCode.STOPPED if self._mode in _LATCHED else SubmitCode.LATE
            return SubmitResult(code, "only when idle with nothing pending")
        if not 0.0 <= width <= self.config.stroke:
            return SubmitResult(SubmitCode.MALFORMED, f"width {width} m; accepted 0 .. {self.config.stroke} m")
        self._active = Playback.at_rest(self._command.q, width, now)
        self.revision += 1
        return ACCEPTED

    def rebase(self, epoch_ns: int) -> None:
        """Take over a stepped stamp clock (see ``epoch_ns``); what is pending was stamped by the old one and is dropped."""
        self.counters.dropped += len(self._pending)
        self._pending = []
        self._epoch_ns = epoch_ns
        self.revision += 1

    # ---- the cycle --------------------------------------------------------------------------------------------------------

    def tick(self, now: float, measured_q: Array | None, measured_v: Array | None = None, stamp: float | None = None) -> Command:
        """One cycle: the command for ``now`` [s]. Never raises: an error inside becomes a latched stop.

        Args:
            now: the cycle's time; rises by one period a call. A gap longer than ``max_step`` is not played through: the
                trajectory is put off. ``latch_step`` or more, at once or in all since the last splice, stops the arm.
            measured_q, measured_v: (n,) newest measured joints [rad, rad/s], None when there are none.
            stamp: when they were measured [s], ``now`` when left out.
        """
        try:
            return self._tick(now, measured_q, now if stamp is None else stamp)
        except Exception as error:  # whatever happens in a cycle, the arm ends at rest
            return self._fault(error)

    def _tick(self, now: float, measured_q: Array | None, stamp: float) -> Command:
        dt = self._clock(now)
        self._watch(dt, measured_q, stamp)
        if self._mode is Mode.FAULT:
            return self._command
        if self._stop is not None:
            return self._play_stop(dt)
        if self._mode < Mode.STOPPING:
            self._splice(now)
        active, n = self._active, self.config.joints
        t = now - active.start
        self._played, self._played_at = t, now
        state = active.state(t)
        mode = self._mode
        if mode < Mode.STOPPING:
            counters = self.counters
            if t >= active.duration:
                mode = Mode.IDLE
            elif t < active.head_end:
                mode = Mode.HEAD
                counters.head_time += dt
            else:
                mode = Mode.BACKUP
                counters.backup_time += dt
            self._mode = mode
        self._command = command = Command(state[:n], state[n : 2 * n], state[2 * n :], active.width_at(t), mode)
        return command

    def _splice(self, now: float) -> None:
        pending = self._pending
        while pending and pending[0].start <= now + 1e-9:
            self._active = pending.pop(0)
            self._put_off = 0.0
            self.counters.splices += 1
            self.revision += 1

    def _clock(self, now: float) -> float:
        """Time [s] this cycle plays on by. A gap that is not played through puts the active trajectory off."""
        config, dt = self.config, now - self._now
        self.counters.ticks += 1
        if not np.isfinite(dt):
            raise InputError(f"now = {now}: not finite")
        self._now = now
        if 0.0 < dt <= config.max_step + 1e-9:
            if dt > 1.5 * config.period:
                self.counters.missed_cycles += round(dt / config.period) - 1
            return dt
        self.counters.clock_jumps += 1
        self.counters.missed_cycles += max(round(dt / config.period) - 1, 0)
        shift = dt - config.period
        moving = self._played < self._active.duration
        if self._pending and (moving or self._pending[0].start <= now):
            self.counters.dropped += len(self._pending)
            self._pending = []
            self.revision += 1
        if moving:
            self._put_off += abs(shift)
            self.revision += 1
        if moving or dt < 0.0:
            self._active.start += shift
        self._measured_at += shift
        self._stamp += shift
        self._played_at += shift
        if self._stop is not None and self._stop.elapsed < 0.0:  # what an arm was to play on by itself has been put off with it
            self._slow(0.0)
        if max(abs(shift), self._put_off) >= config.latch_step:
            text = (
                f"{StopReason.CLOCK.text}: {shift:.4f} s at once, {self._put_off:.4f} s in all; less than {config.latch_step} s"
            )
            self.stop(StopReason.CLOCK, text)
        return config.period

    def _watch(self, dt: float, measured_q: Array | None, stamp: float) -> None:
        """Stop when measurements stop or deviate from the last command for longer than allowed."""
        config, command = self.config, self._command
        if measured_q is not None:
            if stamp > self._stamp:  # one of the future, told again and again, is not new again and again
                self._stamp, self._measured_at = stamp, min(stamp, self._now)
            error = np.abs(measured_q - command.q)
            if (error <= self._bound).all():  # False for NaN
                self._deviating = max(self._deviating - dt, 0.0)  # one that fits among many that do not is no tracking
            else:
                self._deviating += dt
                if self._deviating > config.debounce and self._mode < Mode.STOPPING:
                    worst = int(np.argmax(error - self._bound))
                    text = (
                        f"joint {worst + 1} measured {error[worst]:.4f} rad from its command; bound {self._bound[worst]:.4f} rad"
                    )
                    self.stop(StopReason.TRACKING, text)
        age = self._now - self._measured_at
        if age > config.stale_after and self._mode < Mode.STOPPING:
            self.stop(StopReason.STALE, f"last measurement {age * 1e3:.0f} ms old; at most {config.stale_after * 1e3:.0f} ms")

    def _play_stop(self, dt: float) -> Command:
        """One cycle of a stop: the trajectory at a falling rate, once the stop has begun."""
        assert self._stop is not None
        t, rate, slope, over = self._stop.advance(dt)
        self._splice(self._now)
        active, n = self._active, self.config.joints
        if self._stop.elapsed < 0.0:
            t = self._now - active.start
            self._played, self._played_at = t, self._now
        state = active.state(t)
        q, v, a = state[:n], state[n : 2 * n], state[2 * n :]
        a = rate * rate * a + slope * v
        v = rate * v
        width = active.width_at(t)
        if over or (t >= active.duration and not self._pending):
            v, a = np.zeros(n), np.zeros(n)
            self._mode, self._stop = Mode.STOPPED, None
            self._active = Playback.at_rest(q, width, self._now)
            self.revision += 1
        self._command = command = Command(q, v, a, width, self._mode)
        return command

    def _fault(self, error: Exception) -> Command:
        """After an error in a cycle: go on with a stop; where even that fails hold the last position."""
        text = f"{type(error).__name__}: {error}"
        try:
            self.stop(StopReason.INTERNAL, text)
            if self._stop is not None:
                return self._play_stop(self.config.period)
            last = self._command
        except Exception as second:
            text = f"{text}; then {type(second).__name__}: {second}"
            last, self._stop = self._command, None
            self._mode, self._reason, self._text = Mode.FAULT, StopReason.INTERNAL, text
        zero = np.zeros(self.config.joints)
        self._command = Command(last.q, zero, zero, last.width, self._mode)
        return self._command
