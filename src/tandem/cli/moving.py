"""Motions that an operator asks for, through the certified path: planned here, certified by the filter, played by the bridge.

A motion is a chain of plans along a way in joint space. Each accelerates for a while and then brakes to rest (RTD,
:mod:`tandem.safety.rtd`), the next takes over where the braking would begin. So the arm is at rest by itself soon after the last
plan, whatever happens to this program.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import InputError
from tandem.core.trajectory import Trajectory
from tandem.core.types import Commitment, Proposal
from tandem.nodes import messages
from tandem.nodes.operator import GraphError, Operator
from tandem.robots.model import ArmModel, load_arm, with_limits
from tandem.safety.backup import BackupFamily
from tandem.safety.bounds import Bounds, load_bounds
from tandem.safety.certify import certify_one
from tandem.safety.geometry import PackedScene, pack_scene
from tandem.safety.guide import GuideSearch, point_at
from tandem.safety.rtd import RtdConfig, RtdPlanner

Array = NDArray[np.float64]

#: joint acceleration at full speed [rad/s^2]
ACCELERATION = 2.0
#: time from the beginning of planning to the switch [s]; raised after plans that came too late
LEAD, LEAD_MAX = 0.3, 1.2
#: refusals in a row after which a motion is given up
PATIENCE = 4
#: steps in which a way is looked along for what blocks it [rad]
LOOK = 0.02
#: where a motion is at its end [rad]
AT_END = 1e-4
#: certifications for finding a way home, and for shortening it; ways looked for, one after the other
SEARCH, SHORTEN, WAYS = 20_000, 300, 5
#: speed of the gripper's opening [m/s]
GRIPPER_SPEED = 0.05


@dataclass(frozen=True)
class Moved:
    """How a motion ended. ``reached``: at its end; ``text``: else why not. ``left``: what is left of the way [rad]."""

    reached: bool
    text: str = ""
    left: float = 0.0


class Mover:
    """Moves the arm of the graph that ``operator`` is attached to.

    Args:
        operator: attached. parameters: what :meth:`Operator.attach` returned. speed: share of the arm's speed, 0.02 .. 1.
        interrupted: asked before every plan; once true nothing more is planned and the arm comes to rest.
    """

    def __init__(
        self, operator: Operator, parameters: dict[str, object], speed: float = 0.3, interrupted: Callable[[], bool] | None = None
    ) -> None:
        if not 0.02 <= speed <= 1.0:
            raise InputError(f"speed = {speed}: accepted: 0.02 .. 1.0")
        self.operator = operator
        self.arm: ArmModel = load_arm(str(parameters["robot"]))
        self.bounds: Bounds = load_bounds(str(parameters["bounds"]))
        slow = with_limits(self.arm, velocity=speed * self.arm.velocity)
        family = BackupFamily(k_max=(ACCELERATION * speed,) * self.arm.n)
        self._planner = RtdPlanner(slow, self.bounds, family, RtdConfig())
        self._interrupted = interrupted or (lambda: False)
        self._lead = LEAD

    # ---- where the arm is ---------------------------------------------------------------------------------------------------
    def rest(self) -> Array:
        """(n,) where the arm is, or comes, to rest with what is committed [rad]."""
        return self.operator.commitment().trajectory.q[-1].copy()

    def settle(self) -> None:
        """Wait until what is committed has been played.

        Raises:
            GraphError: the arm has stopped, or somebody else moves it.
        """
        while (left := self.operator.commitment().end - self.operator.now()) > 0.0:
            self.operator.must_be_alone()
            time.sleep(min(left, 0.1))

    # ---- along a way ----------------------------------------------------------------------------------------------------------
    def follow(self, way: Array, name: str) -> Moved:
        """Move along a polyline (P, n) [rad] that begins where the arm rests, as far as that is certified; then rest.

        Raises:
            GraphError: the arm has stopped, a part of the graph is gone, or somebody else moves the arm.
        """
        length = float(np.linalg.norm(np.diff(way, axis=0), axis=1).sum())
        done, refused, switch = 0.0, 0, 0.0
        said = ""
        while done < length - AT_END and refused < PATIENCE:
            if self._interrupted():
                said = "interrupted"
                break
            self.operator.must_be_alone()
            commitment, now = self.operator.commitment(), self.operator.now()
            switch = messages.quantise_time(max(switch, now + self._lead))
            plan = self._planner.along(commitment.state_at(switch), self._packed(now, switch), way, done)
            if plan is None:
                if commitment.end <= now:  # planned from rest: it is not for want of time
                    said = self._in_the_way(way, done)
                    break
                time.sleep(0.05)
                continue
            answer = self._propose(plan.trajectory, commitment, switch, plan.period, name)
            if answer:
                said, refused, switch = answer, refused + 1, 0.0
                self._lead = min(1.5 * self._lead, LEAD_MAX)
                continue
            done, refused, said = plan.progress, 0, ""
            switch += plan.period
            time.sleep(max(switch - self._lead - self.operator.now(), 0.0))
        self.settle()
        return Moved(done >= length - AT_END, said, max(length - done, 0.0))

    def _packed(self, now: float, switch: float) -> PackedScene:
        return pack_scene(self.operator.scene(), self.arm, self.bounds, now, start=switch)

    def _propose(
        self, trajectory: Trajectory, commitment: Commitment, switch: float, head: float, name: str, width: Array | None = None
    ) -> str:
        """Propose; empty when it is committed, else why not."""
        widths = np.full(len(trajectory.times), commitment.width_at(switch)) if width is None else width
        proposal = messages.quantise(Proposal(trajectory, widths, switch, head, name))
        if self.operator.now() > switch:
            return "planning took too long"
        answer = self.operator.propose(proposal)
        return "" if answer.taken else answer.text

    # ---- to a place -----------------------------------------------------------------------------------------------------------
    def go(self, goal: Array, name: str, seed: int = 0) -> Moved:
        """Move to joints ``goal`` (n,) [rad], round obstacles where they are in the straight way.

        Raises:
            InputError: the goal is outside the limits, or the arm must not stand there.
            GraphError: as in :meth:`follow`.
        """
        rng = np.random.default_rng(seed)
        moved = Moved(False, "no way was found")
        for _ in range(WAYS):
            start, now = self.rest(), self.operator.now()
            if np.abs(start - goal).max() <= AT_END:
                return Moved(True)
            scene = self._packed(now, now)
            self.must_stand(goal)
            search = GuideSearch(self.arm, scene, self.bounds, start, goal, rng)
            way = None
            while way is None and search.spent < SEARCH and not self._interrupted():
                way = search.search(500)
            if way is None:
                return Moved(False, moved.text, float(np.linalg.norm(start - goal)))
            moved = self.follow(search.shorten(way, SHORTEN), name)
            if moved.reached or self._interrupted():
                break
        return moved

    def must_be_within(self, q: Array) -> None:
        """Raise InputError unless joints q (n,) [rad] are within their limits."""
        bad = np.flatnonzero((q < self.arm.lower) | (q > self.arm.upper))
        if bad.size:
            i = int(bad[0])
            raise InputError(
                f"joint {i + 1} would be at {q[i]:.4f} rad; accepted: {self.arm.lower[i]:.4f} .. {self.arm.upper[i]:.4f} rad"
            )

    def must_stand(self, q: Array) -> None:
        """Raise InputError unless the arm may stand at joints q (n,) [rad] among the obstacles as they are."""
        self.must_be_within(q)
        why = self._why_not(q)
        if why:
            raise InputError(f"the arm must not stand there: {why}")

    def _why_not(self, q: Array) -> str:
        """Why the arm must not stand at q (n,); empty when it may."""
        verdict = certify_one(self.arm, Trajectory.at_rest(q), self.operator.scene(), self.bounds, self.operator.now())
        between = " - ".join(x for x in (verdict.link, verdict.obstacle) if x)
        return "" if verdict.certified else f"{verdict.reason.value}{f' ({between})' if between else ''}"

    def _in_the_way(self, way: Array, done: float) -> str:
        """What ends a way: the first thing beyond ``done`` [rad] at which the arm could not even stand."""
        s = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(way, axis=0), axis=1))])
        for x in np.arange(done, s[-1] + LOOK, LOOK):
            if why := self._why_not(point_at(way, s, min(x, float(s[-1])))):
                return why
        return "nothing further along the way can be certified"

    # ---- the gripper ----------------------------------------------------------------------------------------------------------
    def grip(self, width: float) -> Moved:
        """Open or close the gripper to ``width`` [m] where the arm rests.

        Raises:
            InputError: the width is outside the stroke. GraphError: as in :meth:`follow`.
        """
        if not 0.0 <= width <= self.arm.stroke:
            raise InputError(f"gripper width {width:.4f} m: accepted: 0 .. {self.arm.stroke:.3f} m")
        self.settle()
        said = ""
        for _ in range(PATIENCE):
            commitment = self.operator.commitment()
            switch = messages.quantise_time(self.operator.now() + self._lead)
            before = commitment.width_at(switch)
            duration = max(abs(width - before) / GRIPPER_SPEED, 0.2)
            still = Trajectory.at_rest(commitment.state_at(switch)[0], duration)
            said = self._propose(still, commitment, switch, duration, "gripper", np.array([before, width]))
            if not said:
                self.settle()
                return Moved(True)
        return Moved(False, said)


def attached(operator: Operator, take_over: bool, timeout: float = 8.0) -> dict[str, object]:
    """Attach, and make sure that nobody else moves the arm; the filter's parameters.

    Raises:
        GraphError: no graph, the arm is stopped, or a planner is active and ``take_over`` is not given.
    """
    parameters = operator.attach(timeout)
    operator.commitment()
    active = operator.find_planners()
    if active and not take_over:
        names = ", ".join(active)
        raise GraphError(
            f"{names} proposes motions, too: start the graph with planner:=false, or give --take-over to deactivate it"
        )
    for planner in active:
        operator.deactivate(planner)
    operator.claim()
    return parameters
