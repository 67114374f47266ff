"""Planner node: plans for the end of the head that is being played, while the arm moves.

Planning has a thread of its own, so callbacks never wait. When no plan came in time the executor plays its backup, and the next
plan is for the soonest moment that leaves ``plan_time``; it may lie in the backup or at rest. The planner moves nothing: a late
or wrong proposal costs progress only.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import threading
import time
from dataclasses import dataclass
from typing import Any, Protocol

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.exceptions import InvalidHandle
from rclpy.publisher import Publisher
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from tandem.core.config import setting
from tandem.core.errors import ConfigError, TandemError
from tandem.core.scene import TABLE, Scene
from tandem.core.types import Candidate, Commitment, Counters, ObjectPose, Proposal
from tandem.nodes import markers, messages
from tandem.nodes.base import RELIABLE_QOS, SENSOR_QOS, NodeSettings, TandemNode, command_qos, run
from tandem.nodes.diagnostics import Meter

SAME = 1e-4
"""Ends closer than this are those of one plan [s]: times near 2e9 s have a resolution of 2.4e-7 s."""
LATCHED = ("STOPPING", "STOPPED", "FAULT")
"""Modes of the executor that an operator must end."""


@dataclass(frozen=True)
class PlannerSettings(NodeSettings):
    """Parameters of the planner node."""

    planner: str = setting("tandem.tasks.mug.planner:MugPlanner.load", "module:callable (sampler, seed, bounds) that makes it")
    sampler: str = setting("default", "sampler configuration in config/samplers, without .yaml")
    bounds: str = setting("default", "bounds in config/safety, without .yaml: those of the safety filter")
    seed: int = setting(0, "seed of all randomness", lo=0, hi=2**31 - 1)
    device: str = setting("cpu", "torch's device for the networks: cpu, cuda, cuda:1")
    plan_time: float = setting(0.6, "kept for planning, transport and certification before a switch", unit="s", lo=0.02, hi=10.0)
    reserve: float = setting(0.18, "part of plan_time that is left for what comes after sampling", unit="s", lo=0.0, hi=5.0)
    retry_period: float = setting(0.1, "pause after an attempt without plan, or a refused one", unit="s", lo=0.0, hi=10.0)
    answer_time: float = setting(0.15, "wait after a switch time for word of the proposal's fate", unit="s", lo=0.0, hi=5.0)
    pose_max_age: float = setting(1.0, "oldest object pose to plan with", unit="s", lo=0.01, hi=60.0)
    commitment_max_age: float = setting(0.5, "oldest word of the executor to plan with", unit="s", lo=0.05, hi=10.0)
    obstacle_max_age: float = setting(0.5, "oldest obstacle data to plan with", unit="s", lo=0.01, hi=60.0)
    obstacles_required: bool = setting(True, "plan only while the obstacle topic speaks")
    publish_candidates: bool = setting(True, "publish all sampled plans as markers")

    def __post_init__(self) -> None:
        if self.reserve >= self.plan_time:
            raise ConfigError(f"planner: reserve = {self.reserve}: accepted: less than plan_time {self.plan_time} s")


class PlanResult(Protocol):
    """What a planner returns."""

    proposal: Proposal | None
    candidates: list[Candidate]
    counters: Counters
    plan_ms: float
    reason: str


class Planner(Protocol):
    """What the node drives; times are ROS time [s], ``deadline`` is on ``time.perf_counter()``."""

    def plan(
        self, object_pose: ObjectPose | None, commitment: Commitment, scene: Scene, switch_time: float, now: float,
        deadline: float | None = None, width: float | None = None,
    ) -> PlanResult:
        """Make one plan that starts at ``switch_time``; ``width``: measured gripper width [m]."""
        ...

    def resumed(self) -> None:
        """An operator resumed after a stop: what was believed of the scene may be wrong."""
        ...


def load_planner(name: str, sampler: str, seed: int, bounds: str, device: str = "cpu") -> Planner:
    """Call ``module:callable`` with sampler, seed, the bounds that the filter certifies by, and a device other than the CPU.

    Raises:
        ConfigError: no such module or callable.
    """
    asked: dict[str, Any] = {"sampler": sampler, "seed": seed, "bounds": bounds}
    if device != "cpu":
        asked["device"] = device
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"planner: parameter planner = {name!r}: {error}; accepted: module:callable") from error
    try:
        inspect.signature(found).bind(**asked)
    except TypeError as error:
        raise ConfigError(f"planner: parameter planner = {name!r}: {error}; called with {', '.join(asked)}") from error
    made: Planner = found(**asked)
    return made


@dataclass(frozen=True)
class _Sent:
    """A proposal on its way."""

    digest: str
    switch_time: float
    head_end: float
    end: float


class PlannerNode(TandemNode):
    """See the module's text.

    In: ``perception/object_pose``, ``franka/commitment``, ``franka/status``, ``safety_filter/verdict``, ``obstacles``.
    Out: ``planner/proposal`` with ``planner/proposal_info`` beside it, ``planner/candidates``.
    """

    settings_type = PlannerSettings

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._stop = False
        self._thread: threading.Thread | None = None
        super().__init__("planner")

    def setup(self) -> None:
        """Load the planner, connect, start the planning thread."""
        s = self.settings
        self._planner = load_planner(s.planner, s.sampler, s.seed, s.bounds, s.device)
        self._scene = markers.SceneKeeper(self.names.base, s.obstacle_max_age, s.obstacles_required, fixed=(TABLE,))
        self._pose: ObjectPose | None = None
        self._commitment: Commitment | None = None
        self._commitment_heard = float("-inf")
        self._mode = ""
        self._width: float | None = None
        self._resumed = False
        self._sent: list[_Sent] = []
        self._refused: set[str] = set()
        self._not_before = float("-inf")
        self._plans, self._poses, self._verdicts = Meter(), Meter(), Meter()
        self._last = "no attempt yet"
        self._rows = self._evaluations = 0
        self._failures: dict[str, int] = {}
        self._proposal: Publisher = self.speak(JointTrajectory, "planner/proposal", command_qos())
        self._info: Publisher = self.speak(DiagnosticStatus, "planner/proposal_info", command_qos())
        self._candidates: Publisher = self.speak(MarkerArray, "planner/candidates", RELIABLE_QOS)
        self.listen(PoseWithCovarianceStamped, "perception/object_pose", self._on_pose, SENSOR_QOS)
        self.listen(JointTrajectory, "franka/commitment", self._on_commitment, SENSOR_QOS)
        self.listen(DiagnosticStatus, "franka/status", self._on_status, SENSOR_QOS)
        self.listen(DiagnosticStatus, "safety_filter/verdict", self._on_verdict, command_qos())
        self.listen(MarkerArray, "obstacles", self._on_obstacles, RELIABLE_QOS, self._scene.matched)
        self._stop = False
        self._thread = threading.Thread(target=self._work, name="planning", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """End the planning thread."""
        with self._wake:
            self._stop = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=10.0)
            self._thread = None

    # ------------------------------------------------------------------------------------------------------ callbacks
    def _on_pose(self, msg: PoseWithCovarianceStamped) -> None:
        try:
            pose = messages.object_pose_from_msg(msg, self.names.base)
        except messages.MessageError as error:
            self._poses.reject(self.now(), "malformed pose", str(error))
            return
        now = self.now()
        if pose.stamp > now + markers.FUTURE:
            self._poses.reject(now, "future", f"stamp {pose.stamp - now:.3f} s ahead")
            return
        with self._wake:
            if self._pose is not None and pose.stamp < self._pose.stamp <= now + markers.FUTURE:
                self._poses.reject(now, "old", "not newer than the last one")
                return
            self._poses.tick(now)
            self._pose = pose
            self._wake.notify_all()

    def _on_commitment(self, msg: JointTrajectory) -> None:
        try:
            commitment = messages.commitment_from_msg(msg, self.names)
        except messages.MessageError as error:
            self._plans.reject(self.now(), "malformed commitment", str(error))
            return
        with self._wake:
            self._commitment, self._commitment_heard = commitment, self.now()
            self._wake.notify_all()

    def _on_status(self, msg: DiagnosticStatus) -> None:
        values = messages.values_of(msg)
        with self._wake:
            mode = values.get("mode", "")
            self._resumed |= self._mode in LATCHED and mode not in LATCHED
            self._mode = mode
            with contextlib.suppress(KeyError, ValueError):
                self._width = float(values["gripper_width"])
            self._wake.notify_all()

    def _on_verdict(self, msg: DiagnosticStatus) -> None:
        now = self.now()
        with self._wake:
            if not any(s.digest == msg.hardware_id for s in self._sent):
                return
            if msg.level == DiagnosticStatus.OK:
                self._verdicts.tick(now)
            else:
                self._refused.add(msg.hardware_id)
                self._not_before = now + self.settings.retry_period
                self._verdicts.reject(now, messages.values_of(msg).get("reason", "?"), msg.message)
            self._wake.notify_all()

    def _on_obstacles(self, msg: MarkerArray) -> None:
        with self._wake:
            self._scene.apply(msg, self.now())

    # ------------------------------------------------------------------------------------------------ planning thread
    def _hindrance(self, now: float) -> str:
        """Why nothing can be planned now; empty when it can."""
        if not self.active:
            return "node not active"
        if self._commitment is None or not 0.0 <= now - self._commitment_heard <= self.settings.commitment_max_age:
            return "no commitment from the executor"
        if self._mode in LATCHED:
            return f"executor {self._mode}: operator must resume"
        return self._scene.scene(now)[1]

    def _switch_time(self, now: float, commitment: Commitment) -> float | None:
        """When the next plan is to start; None while a proposal's fate is open, or the head before it has not begun."""
        s = self.settings
        self._sent = [p for p in self._sent if p.end > now]
        self._refused &= {p.digest for p in self._sent}
        if now < self._not_before:
            return None
        for sent in reversed(self._sent):
            if abs(commitment.end - sent.end) < SAME:  # the executor plays it, or will
                if now < min(sent.switch_time, sent.head_end - 1.05 * s.plan_time):
                    return None  # later: the newer what a plan rests on, the better
                if sent.head_end - now >= s.plan_time:
                    return sent.head_end
                break
            if sent.digest not in self._refused and now < sent.switch_time + s.answer_time:
                return None
        return now + s.plan_time

    def _work(self) -> None:
        while True:
            with self._wake:
                if self._stop:
                    return
                now = self.now()
                why = self._hindrance(now)
                commitment, pose, width, resumed = self._commitment, self._pose, self._width, self._resumed
                scene, _ = self._scene.scene(now)
                switch = None
                if why:
                    self._last = why
                elif commitment is not None:
                    switch = self._switch_time(now, commitment)
                if switch is None or commitment is None or scene is None:
                    self._wake.wait(0.02)
                    continue
                self._resumed = False
            if pose is not None and not -markers.FUTURE <= now - pose.stamp <= self.settings.pose_max_age:
                pose = None
            try:
                if resumed:
                    self._planner.resumed()
                    resumed = False
                planned = self._attempt(pose, commitment, scene, messages.quantise_time(switch), now, width)
            except InvalidHandle:  # the node was taken down while a plan was being made: nobody waits for it any more
                return
            except Exception as error:  # whatever a planner does or returns must not end the thread; it is shown and retried
                planned = False
                self._failed(error)
                with self._wake:
                    self._resumed |= resumed
            if not planned:
                with self._wake:
                    self._wake.wait_for(lambda: self._stop, self.settings.retry_period)

    def _attempt(
        self, pose: ObjectPose | None, commitment: Commitment, scene: Scene, switch: float, now: float, width: float | None
    ) -> bool:
        """One plan; whether a proposal went out."""
        began = time.perf_counter()
        budget = switch - now - self.settings.reserve
        result = self._planner.plan(pose, commitment, scene, switch, now, began + budget, width)
        ms = (time.perf_counter() - began) * 1e3
        with self._wake:
            self._rows, self._evaluations = result.counters.network_rows, result.counters.potential_evals
            self._failures = dict(result.counters.failures)
        proposed = self._propose(result, ms, switch - now)
        self._publish_candidates(result.candidates)
        return proposed

    def _failed(self, error: Exception) -> None:
        kind = str(error) if isinstance(error, TandemError) else f"{type(error).__name__}: {error}"
        self._note(f"planner failed: {kind}", "planner failed", kind)
        if not isinstance(error, TandemError):
            self.get_logger().error(f"planner failed: {kind}", throttle_duration_sec=5.0)

    def _propose(self, result: PlanResult, ms: float, had: float) -> bool:
        """Send what was planned in ``ms`` of ``had`` [s]; whether it went out."""
        if result.proposal is None:
            self._note(result.reason, "no plan", result.reason)
            return False
        proposal = messages.quantise(result.proposal)
        if self.now() > proposal.switch_time:
            self._note(f"late: {ms:.0f} ms", "late", f"planning took {ms:.0f} ms of {had * 1e3:.0f} ms")
            return False
        digest = proposal.trajectory.digest()
        start = proposal.switch_time
        with self._wake:
            self._refused.discard(digest)  # the same trajectory may have been refused at another time
            self._sent.append(_Sent(digest, start, start + proposal.head_duration, start + proposal.trajectory.duration))
            self._plans.tick(self.now(), ms)
            self._last = result.reason
        self._info.publish(messages.info_to_status(proposal, ms))
        self._proposal.publish(messages.proposal_to_msg(proposal, self.names))
        return True

    def _note(self, last: str, kind: str, detail: str) -> None:
        with self._wake:
            self._last = last
            self._plans.reject(self.now(), kind, detail)

    def _publish_candidates(self, candidates: list[Candidate]) -> None:
        if self.settings.publish_candidates and candidates:
            self._candidates.publish(markers.candidates_to_msg(candidates, self.names.base, self.now()))

    # ---------------------------------------------------------------------------------------------------- diagnostics
    def diagnose(self, now: float) -> list[DiagnosticStatus]:
        """Planning and its inputs."""
        with self._wake:
            why = self._hindrance(now)
            pose_age = now - self._pose.stamp if self._pose is not None else float("inf")
            refused = self._verdicts.values(now, "verdict_")
            values = {
                **self._plans.values(now), **refused, "pose_age_s": f"{pose_age:.3f}", "last": self._last,
                "network_rows": self._rows, "potential_evals": self._evaluations, "failures": json.dumps(self._failures),
                "obstacle_age_s": f"{self._scene.age(now):.3f}",
            }
            if not why and pose_age > self.settings.pose_max_age:
                why = "no valid object pose"
            last = self._last
        level = DiagnosticStatus.WARN if why or self._plans.age(now) > 2.0 else DiagnosticStatus.OK
        return [self.report("planning", level, why or last, values)]


def main() -> int:
    """Entry point of the executable ``planner``."""
    return run(PlannerNode)


if __name__ == "__main__":
    raise SystemExit(main())
