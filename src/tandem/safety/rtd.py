"""Receding-horizon goal reaching with certified motions only (RTD; for arms: Holmes et al., "Reachable Sets for Safe, Real-Time
Manipulator Trajectory Design", RSS 2020, and Michaux et al., SPARROWS, 2024).

A plan is one manoeuvre of a :class:`BackupFamily`: accelerate by k for one period, then brake to rest. The next plan is made for
the moment at which braking would begin, from the state that the committed plan has there; if there is none, the braking plays and
the arm is at rest. Every plan is certified as a whole, braking included, before it is returned.

Where a manoeuvre comes to rest is linear in k, with one gain for all joints. So "rest at that place" gives k in closed form, and
ARMTD's optimisation (the certified k whose rest is nearest to a waypoint) is :func:`find_backup` with that k as preference.

Two ways to choose the waypoint:

- :meth:`RtdPlanner.toward`: straight at a target. Also a safe teleoperation: the target may be anything at every plan, the arm
  follows as far as is certified. Alone it stays in front of what stands in the straight way.
- :meth:`RtdPlanner.along`: the furthest point of a way at which some certified plan comes to rest. :class:`GoalReacher` finds
  such a way (:mod:`tandem.safety.guide`) while the arm stands, follows it, and looks for another where it is blocked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem.core.config import setting
from tandem.core.errors import InputError
from tandem.core.trajectory import Trajectory
from tandem.robots.model import ArmModel
from tandem.safety.backup import BackupFamily
from tandem.safety.bounds import Bounds
from tandem.safety.certify import certify
from tandem.safety.geometry import PackedScene
from tandem.safety.guide import GuideSearch, point_at
from tandem.safety.search import find_backup

Array = NDArray[np.float64]
State = tuple[Array, Array, Array]

#: a committed motion slower than this [rad/s] is at rest
STILL = 1e-6


@dataclass(frozen=True)
class RtdConfig:
    """Numbers of the planner; budgets are counts, not times, so that the same seed gives the same motion on any machine."""

    candidates: int = setting(48, "points of the way tried as places of rest, a plan", lo=1, hi=4096)
    search: int = setting(1000, "certifications spent on finding a way, a plan", lo=1, hi=1_000_000)
    shorten: int = setting(300, "certifications spent on shortening a way, once", lo=0, hi=1_000_000)
    restart: int = setting(20_000, "certifications after which a search that found nothing begins anew", lo=1, hi=100_000_000)
    patience: int = setting(3, "plans in vain at rest after which another way is looked for", lo=1, hi=1000)
    tolerance: float = setting(0.1, "largest distance from the goal, all joints together", unit="rad", lo=1e-4, hi=1.0)


@dataclass(frozen=True)
class RtdPlan:
    """A certified plan.

    Attributes:
        k: (n,) [rad/s^2]. trajectory: acceleration and braking as one, ends at rest. period: when braking begins, and the next
            plan may take over [s]. clearance: certified lower bound [m]. progress: arc length of the way at which it comes to
            rest [rad]; NaN off any way.
    """

    k: Array
    trajectory: Trajectory
    period: float
    clearance: float
    progress: float = np.nan

    @property
    def rest(self) -> Array:
        """(n,) where the plan ends [rad]."""
        return self.trajectory.q[-1]


class RtdPlanner:
    """Makes single certified plans. Holds no state between calls."""

    def __init__(
        self, arm: ArmModel, bounds: Bounds, family: BackupFamily | None = None, config: RtdConfig | None = None
    ) -> None:
        """``family``: the manoeuvres, by default 0.5 s of acceleration up to 3 rad/s^2 and rest at 1 s, as ARMTD's.

        Raises:
            InputError: the family is of another number of joints.
        """
        self.arm, self.bounds = arm, bounds
        self.family = family or BackupFamily(k_max=(3.0,) * arm.n)
        self.config = config or RtdConfig()
        if len(self.family.k_max) != arm.n:
            raise InputError(f"family.k_max has {len(self.family.k_max)} values; {arm.name} has {arm.n} joints")
        self._limit = np.asarray(self.family.k_max)
        _, self._v, self._a, self._gain = (float(x) for x in self.family.basis([self.family.stop])[:, 0])

    @property
    def period(self) -> float:
        """Time between plans [s]."""
        return self.family.accelerate

    def k_for_rest(self, state: State, rest: Array) -> Array:
        """(..., n) the k with which the manoeuvre from ``state`` ends at ``rest`` (..., n)."""
        q, v, a = state
        return (rest - (q + self._v * v + self._a * a)) / self._gain

    def along(self, state: State, scene: PackedScene, way: Array, done: float = 0.0) -> RtdPlan | None:
        """The certified plan that comes to rest furthest along a way, or None.

        Args:
            state: q, v, a (n,) at the plan's start. scene: packed for that moment. way: (P, n) [rad], P >= 2.
            done: arc length [rad] beyond which the place of rest must lie.

        Raises:
            InputError: state or way is not of this arm or not finite.
        """
        state, way = self._state(state), self._points("way", way)
        s = _arc_lengths(way)
        # nearby points as well, where only slow motion is certified; far ones up to what k can reach
        reach = 2.0 * self._gain * float(np.linalg.norm(self._limit)) + float(np.linalg.norm(state[1])) * self.family.stop
        left = min(float(s[-1]) - done, reach)
        if left <= 1e-9:
            return None
        spread = np.linspace(0.0, 1.0, self.config.candidates + 1)[1:] ** 1.5
        places = np.unique(np.concatenate([s, done + left * spread]))
        places = places[(places > done + 1e-9) & (places <= done + left + 1e-9)]
        rests = np.stack([point_at(way, s, x) for x in places])
        k = self.k_for_rest(state, rests)
        good = np.flatnonzero((np.abs(k) <= self._limit + 1e-9).all(axis=1))
        if not len(good):
            return None
        k = np.clip(k[good], -self._limit, self._limit)
        times, q, v, a = self.family.build(*state, k)
        fine = np.flatnonzero(certify(self.arm, times, q, v, a, scene, self.bounds).certified)
        return self._certified(state, k[fine[-1]], scene, float(places[good[fine[-1]]])) if len(fine) else None

    def toward(
        self, state: State, scene: PackedScene, target: Array, rng: np.random.Generator | None = None,
        deadline: float | None = None,
    ) -> RtdPlan | None:
        """The certified plan whose place of rest is nearest to where the arm would go if nothing stood in the straight way.

        Args:
            state: q, v, a (n,) at the plan's start. scene: packed for that moment. target: (n,) [rad].
            rng, deadline: as in :func:`find_backup`.

        Raises:
            InputError: state or target is not of this arm or not finite.
        """
        state = self._state(state)
        k = self.k_for_rest(state, self._points("target", np.asarray(target)[None])[0])
        k = k / max(1.0, float((np.abs(k) / self._limit).max()))
        found = find_backup(self.arm, self.family, state, scene, self.bounds, preference=k, rng=rng, deadline=deadline)
        return None if found is None else RtdPlan(found.k, found.trajectory, self.period, found.clearance)

    def _certified(self, state: State, k: Array, scene: PackedScene, progress: float) -> RtdPlan | None:
        """The plan, certified once more by itself."""
        t = self.family.trajectory(*state, k)
        final = certify(self.arm, t.times, t.q[None], t.v[None], t.a[None], scene, self.bounds, full=True)
        return RtdPlan(k, t, self.period, float(final.clearance[0]), progress) if final.certified[0] else None

    def _state(self, state: State) -> State:
        rows = [self._points(name, np.asarray(x)[None])[0] for name, x in zip(("q", "v", "a"), state, strict=True)]
        return rows[0], rows[1], rows[2]

    def _points(self, name: str, rows: Array) -> Array:
        rows = np.asarray(rows, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.arm.n or not np.isfinite(rows).all():
            raise InputError(f"rtd: {name} has shape {rows.shape}; expected rows of {self.arm.n} finite values")
        return rows


class GoalReacher:
    """Brings the arm to a goal plan by plan: finds a way while the arm stands, follows it, finds another where it is blocked."""

    def __init__(self, planner: RtdPlanner, goal: Array, seed: int = 0, *, guided: bool = True) -> None:
        """Args: ``goal`` (n,) [rad]. ``seed``: decides the motion. ``guided``: False leaves out the search for ways (as ARMTD).

        Raises:
            InputError: the goal is not of this arm, not finite or outside the position limits.
        """
        arm = planner.arm
        self.planner, self.guided = planner, guided
        self.goal = np.array(goal, dtype=np.float64)
        if self.goal.shape != (arm.n,) or not np.isfinite(self.goal).all():
            raise InputError(f"goal has shape {self.goal.shape}; expected ({arm.n},), all finite")
        if (self.goal < arm.lower).any() or (self.goal > arm.upper).any():
            raise InputError(f"goal = {self.goal.tolist()}: accepted: {arm.lower.tolist()} .. {arm.upper.tolist()} rad")
        self._rng = np.random.default_rng(seed)
        self._search: GuideSearch | None = None
        self._way: Array | None = None
        self._done, self._vain = 0.0, 0

    @property
    def searching(self) -> bool:
        """Whether the arm stands because no way is known yet."""
        return self._search is not None

    def reached(self, rest: Array) -> bool:
        """Whether a motion that ends at ``rest`` (n,) is at the goal."""
        return bool(np.linalg.norm(rest - self.goal) <= self.planner.config.tolerance)

    def step(self, state: State, rest: Array, scene: PackedScene, deadline: float | None = None) -> RtdPlan | None:
        """The next plan, or None: let the committed motion play on.

        Args:
            state: q, v, a (n,) that the committed motion has at the switch time. rest: (n,) where it ends.
            scene: packed for the switch time. deadline: value of :func:`time.perf_counter` after which the search for a way
                pauses; results then depend on the machine.
        """
        if not self.guided:
            return self.planner.toward(state, scene, self.goal, self._rng, deadline)
        still = float(np.abs(state[1]).max()) <= STILL and np.abs(state[0] - rest).max() <= STILL
        if self._way is None and not (still and self._find(rest, scene, deadline)):
            return None
        assert self._way is not None
        plan = self.planner.along(state, scene, self._way, self._done)
        if plan is not None:
            self._done, self._vain = plan.progress, 0
        elif still:
            self._vain += 1
            if self._vain >= self.planner.config.patience:
                self._way, self._vain = None, 0
        return plan

    def _find(self, start: Array, scene: PackedScene, deadline: float | None) -> bool:
        """Go on looking for a way from where the arm stands; whether there is one now."""
        planner, config = self.planner, self.planner.config
        if self._search is None or self._search.spent >= config.restart:
            # nothing can be certified that begins or ends where the arm must not even stand
            goal = self._free_goal(scene) if self._stands(start[None], scene)[0] else None
            if goal is None:
                return False
            self._search = GuideSearch(planner.arm, scene, planner.bounds, start, goal, self._rng)
        way = self._search.search(config.search, deadline)
        if way is None:
            return False
        self._way = self._search.shorten(way, config.shorten, deadline)
        self._search, self._done = None, 0.0
        return True

    def _free_goal(self, scene: PackedScene) -> Array | None:
        """The goal, or where the arm can stand within the tolerance around it."""
        n, count = len(self.goal), 256
        step = self._rng.normal(size=(count, n))
        step *= (self.planner.config.tolerance * self._rng.uniform(0.0, 0.95, (count, 1))) / np.linalg.norm(step, axis=1)[:, None]
        step = step[np.argsort(np.linalg.norm(step, axis=1))]
        q = np.clip(self.goal + np.concatenate([np.zeros((1, n)), step]), self.planner.arm.lower, self.planner.arm.upper)
        fine = np.flatnonzero(self._stands(q, scene))
        return q[fine[0]] if len(fine) else None

    def _stands(self, q: Array, scene: PackedScene) -> NDArray[np.bool_]:
        """(B,) where the arm may stand still, of q (B, n)."""
        knots = np.repeat(q[:, None], 2, axis=1)
        times, still = np.array([0.0, 0.1]), np.zeros_like(knots)
        return certify(self.planner.arm, times, knots, still, still, scene, self.planner.bounds).certified


def _arc_lengths(way: Array) -> Array:
    """(P,) arc length at the corners of a polyline (P, n)."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(way, axis=0), axis=1))])
