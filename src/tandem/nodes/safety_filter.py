"""Safety filter node: certifies proposals, watches what is being executed, and certifies a stop when the scene changes.

Default is deny: whatever cannot be read, is late, or meets a scene that is unknown or too old is refused, with the reason.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from numpy.typing import NDArray
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from tandem.core import certificate
from tandem.core.config import setting
from tandem.core.scene import TABLE, Scene
from tandem.core.types import Commitment, Proposal, Reason, Verdict
from tandem.execution.types import to_ns
from tandem.nodes import markers, messages
from tandem.nodes.base import RELIABLE_QOS, SENSOR_QOS, NodeSettings, TandemNode, command_qos, run
from tandem.nodes.diagnostics import Meter
from tandem.nodes.key import read_key
from tandem.robots.model import load_arm
from tandem.safety.bounds import load_bounds
from tandem.safety.certify import occupancy
from tandem.safety.filter import SafetyFilter

OCCUPANCY_INTERVALS = 6
LATCHED = ("STOPPING", "STOPPED", "FAULT")
"""Modes in which the executor takes nothing."""


@dataclass(frozen=True)
class SafetyFilterSettings(NodeSettings):
    """Parameters of the safety filter node."""

    robot: str = setting("fr3", "arm model in config/robots, without .yaml")
    bounds: str = setting("default", "bounds in config/safety, without .yaml")
    certificate_key_file: str = setting("", "file (mode 0600) with the key; empty: environment variable TANDEM_CERTIFICATE_KEY")
    obstacles_required: bool = setting(True, "certify nothing while the obstacle topic is silent")
    obstacle_max_age: float = setting(0.5, "oldest obstacle data to certify with", unit="s", lo=0.01, hi=60.0)
    obstacle_position_error: float = setting(0.0, "least position error assumed of every obstacle", unit="m", lo=0.0, hi=1.0)
    obstacle_speed: float = setting(0.0, "least speed assumed of every obstacle", unit="m/s", lo=0.0, hi=10.0)
    commitment_max_age: float = setting(0.3, "oldest word of the executor to certify with", unit="s", lo=0.05, hi=10.0)
    guard_rate: float = setting(25.0, "checks of what is being executed", unit="Hz", lo=20.0, hi=200.0)
    stop_lead: float = setting(0.06, "time from a guard's alarm to the start of the stop it sends", unit="s", lo=0.01, hi=1.0)
    blind_limit: float = setting(
        3.0, "longest that a committed motion may still go on when the scene cannot be used any more; else it is stopped",
        unit="s", lo=0.0, hi=60.0,
    )
    stop_answer: float = setting(
        0.04, "time after which the executor must have said that it takes what a guard's alarm sent; else it is told to stop",
        unit="s", lo=0.01, hi=1.0,
    )
    occupancy_rate: float = setting(2.0, "certified occupancy as markers, while somebody looks", unit="Hz", lo=0.1, hi=10.0)
    info_wait: float = setting(0.1, "how long a proposal may wait for its planner/proposal_info", unit="s", lo=0.0, hi=1.0)


@dataclass
class _Waiting:
    """A proposal whose companion has not come yet."""

    trajectory: messages.Trajectory
    width: NDArray[np.float64]
    switch_time: float
    heard: float
    began: float = field(default_factory=time.perf_counter)


class SafetyFilterNode(TandemNode):
    """See the module's text.

    In: ``planner/proposal``, ``planner/proposal_info``, ``franka/commitment``, ``franka/status``, ``obstacles``.
    Out: ``safety_filter/certified``, ``safety_filter/verdict`` (its word on each proposal), ``safety_filter/guard`` (its word on
    what is being executed, at ``guard_rate``: also its sign of life), ``safety_filter/stop`` (a stop without certified plan),
    ``safety_filter/occupancy`` (markers: where the arm may be while it plays what was certified last).
    """

    settings_type = SafetyFilterSettings

    def __init__(self) -> None:
        super().__init__("safety_filter")

    def setup(self) -> None:
        """Load arm, bounds and key, connect."""
        s = self.settings
        self._arm = load_arm(s.robot)
        self._bounds = load_bounds(s.bounds)
        about = self._arm.digest, self._bounds.digest(), self.get_namespace()
        self._key = certificate.bound_to(read_key(s.certificate_key_file), *about)
        self._filter = SafetyFilter(self._arm, self._bounds)
        self._warm_up()
        self._scene = markers.SceneKeeper(
            self.names.base, s.obstacle_max_age, s.obstacles_required, s.obstacle_position_error, s.obstacle_speed, fixed=(TABLE,)
        )
        self._commitment: Commitment | None = None
        self._commitment_heard = float("-inf")
        self._mode = ""
        self._last: Proposal | None = None
        self._pairing: messages.Pairing[_Waiting, messages.ProposalInfo] = messages.Pairing()
        self._checks, self._watches = Meter(), Meter()
        self._guard_text = "nothing committed yet"
        self._alarmed_for, self._due = "", float("inf")  #: the motion of the last alarm; by when it is to be played no more [s]
        self._certified = self.speak(JointTrajectory, "safety_filter/certified", command_qos())
        self._verdict = self.speak(DiagnosticStatus, "safety_filter/verdict", command_qos())
        self._guard = self.speak(DiagnosticStatus, "safety_filter/guard", SENSOR_QOS)
        self._stop = self.speak(DiagnosticStatus, "safety_filter/stop", command_qos())
        self.listen(JointTrajectory, "franka/commitment", self._on_commitment, SENSOR_QOS)
        self.listen(DiagnosticStatus, "franka/status", self._on_status, SENSOR_QOS)
        self.listen(MarkerArray, "obstacles", self._on_obstacles, RELIABLE_QOS, self._scene.matched)
        self.listen(DiagnosticStatus, "planner/proposal_info", self._on_info, command_qos())
        self.listen(JointTrajectory, "planner/proposal", self._on_proposal, command_qos())
        self._occupancy = self.speak(MarkerArray, "safety_filter/occupancy", RELIABLE_QOS)
        self.timer(1.0 / s.guard_rate, self._watch)
        self.timer(1.0 / s.occupancy_rate, self._show_occupancy)

    def _warm_up(self) -> None:
        """Have everything compiled before the first proposal comes: a verdict must not wait for a compiler."""
        rest = Commitment(messages.Trajectory.at_rest(self._arm.home, 1.0), 0.0, np.zeros(2))
        scene = Scene((TABLE,))
        self._filter.guard(rest, scene, 0.0)
        self._balls(rest.trajectory)
        self._filter.check(Proposal(rest.trajectory, rest.width, 0.1, 0.0, "warm-up"), rest, scene, 0.0)

    # --------------------------------------------------------------------------------------------------------- inputs
    def _on_commitment(self, msg: JointTrajectory) -> None:
        try:
            self._commitment = messages.commitment_from_msg(msg, self.names)
            self._commitment_heard = self.now()
        except messages.MessageError as error:
            self._checks.reject(self.now(), "malformed commitment", str(error))

    def _on_status(self, msg: DiagnosticStatus) -> None:
        self._mode = messages.values_of(msg).get("mode", "")

    def _on_obstacles(self, msg: MarkerArray) -> None:
        version = self._scene.version
        for error in self._scene.apply(msg, self.now()):
            self._watches.reject(self.now(), "obstacle not understood", error)
        if self._scene.version != version:
            self._watch()

    def _on_info(self, msg: DiagnosticStatus) -> None:
        try:
            pair = self._pairing.right(msg.hardware_id, messages.info_from_status(msg))
        except messages.MessageError as error:
            self._checks.reject(self.now(), Reason.MALFORMED.name, f"proposal_info: {error}")
            return
        if pair is not None:
            self._decide(*pair)

    def _on_proposal(self, msg: JointTrajectory) -> None:
        now = self.now()
        try:
            trajectory, width, switch_time = messages.trajectory_from_msg(msg, self.names)
        except messages.MessageError as error:
            self._refuse(Reason.MALFORMED, "", str(error))
            return
        pair = self._pairing.left(trajectory.digest(), _Waiting(trajectory, width, switch_time, now))
        if pair is not None:
            self._decide(*pair)

    # -------------------------------------------------------------------------------------------------------- deciding
    def _refuse(self, reason: Reason, trajectory_digest: str, detail: str) -> None:
        """A verdict without a check."""
        self._checks.reject(self.now(), reason.name, detail)
        verdict = Verdict(reason, float("-inf"), 0.0, "", "", "")
        self._verdict.publish(messages.verdict_to_status(verdict, trajectory_digest, "", 0.0, {"detail": detail}))

    def _decide(self, waiting: _Waiting, info: messages.ProposalInfo) -> None:
        proposal = Proposal(waiting.trajectory, waiting.width, waiting.switch_time, info.head_duration, info.name)
        now = self.now()
        digest = proposal.trajectory.digest()
        scene, why = self._scene.scene(now)
        if self._mode in LATCHED:
            self._refuse(Reason.STOPPED, digest, f"executor is {self._mode}")
        elif self._commitment is None or not 0.0 <= now - self._commitment_heard <= self.settings.commitment_max_age:
            self._refuse(Reason.START_MISMATCH, digest, "no recent commitment from the executor")
        elif scene is None:
            self._refuse(Reason.STALE_SCENE, digest, why)
        else:
            verdict = self._filter.check(proposal, self._commitment, scene, now)
            self._announce(proposal, verdict, digest, (time.perf_counter() - waiting.began) * 1e3)

    def _announce(self, proposal: Proposal, verdict: Verdict, digest: str, ms: float) -> None:
        now, signature = self.now(), ""
        if verdict.certified:
            signature = certificate.sign(self._key, verdict.digest, proposal.digest(), to_ns(proposal.switch_time))
            self._checks.tick(now, ms)
            self._last = proposal
        else:
            where = " ".join(x for x in (verdict.link, verdict.obstacle) if x)
            self._checks.reject(now, verdict.reason.name, f"{proposal.name} {where} at {verdict.time:.3f} s".strip())
        extra = {"name": proposal.name, "ms": ms, "switch_time": proposal.switch_time}
        self._verdict.publish(messages.verdict_to_status(verdict, digest, signature, proposal.head_duration, extra))
        if verdict.certified:
            self._certified.publish(messages.proposal_to_msg(proposal, self.names))

    def _show_occupancy(self) -> None:
        """The balls of what was certified last, once."""
        if self._last is None or not self._occupancy.get_subscription_count():
            return
        proposal, self._last = self._last, None
        centres, radii = self._balls(proposal.trajectory)
        self._occupancy.publish(markers.spheres_to_msg(centres, radii, self.names.base, self.now()))

    def _balls(self, trajectory: messages.Trajectory) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centres (S, 3) and radii (S,) [m] of the occupancy in a few intervals; links without balls are left out."""
        edges = np.linspace(0.0, trajectory.duration, OCCUPANCY_INTERVALS + 1)
        centres, radii, _ = occupancy(self._arm, trajectory, self._bounds, edges)
        there = radii.ravel() > 0.0
        return centres.reshape(-1, 3)[there], radii.ravel()[there]

    # --------------------------------------------------------------------------------------------------------- guarding
    def _watch(self) -> None:
        """Check what is being executed against the scene as it is now; send a stop when it is no longer clear."""
        now = self.now()
        for waiting in self._pairing.waiting():
            if now - waiting.heard > self.settings.info_wait:
                digest = waiting.trajectory.digest()
                self._pairing.drop(digest)
                self._refuse(Reason.MALFORMED, digest, "no planner/proposal_info beside the proposal")
        scene, why = self._scene.scene(now)
        commitment = self._commitment
        if commitment is None or not 0.0 <= now - self._commitment_heard <= self.settings.commitment_max_age:
            self._tell_guard(DiagnosticStatus.WARN, "no recent commitment from the executor", {})
            return
        if scene is None:
            text = f"scene unusable: {why}"
            self._tell_guard(DiagnosticStatus.ERROR, text, {})
            if self._mode not in LATCHED and commitment.end - now > self.settings.blind_limit:
                self._send_stop(f"{text}, and the committed motion goes on for {commitment.end - now:.1f} s")
            return
        began = time.perf_counter()
        verdict = self._filter.guard(commitment, scene, now)
        self._watches.tick(now, (time.perf_counter() - began) * 1e3)
        values: dict[str, object] = {
            "reason": verdict.reason.name, "clearance": verdict.clearance, "link": verdict.link, "obstacle": verdict.obstacle,
        }
        if verdict.certified:
            self._tell_guard(DiagnosticStatus.OK, "what is committed is clear", values)
            return
        text = f"committed motion: {verdict.reason.value} ({verdict.link} {verdict.obstacle} in {verdict.time:.2f} s)"
        self._watches.reject(now, verdict.reason.name, text)
        self._tell_guard(DiagnosticStatus.ERROR, text, values)
        if self._mode in LATCHED or commitment.end <= now:
            return
        digest = commitment.trajectory.digest()
        if self._alarmed_for != digest:
            self._alarmed_for, self._due = digest, self._send_way_out(commitment, scene, now, text)
        elif self._commitment_heard > self._due:  # it plays on: what was sent has not come, or was not taken
            self._send_stop(text)

    def _tell_guard(self, level: bytes, text: str, values: dict[str, object]) -> None:
        self._guard_text = text
        self._guard.publish(self.report("guard", level, text, values))

    def _send_way_out(self, commitment: Commitment, scene: Scene, now: float, text: str) -> float:
        """A certified way out from the soonest reachable state; where none is found, a latched stop along the certified path.

        Returns:
            The time [s] by which the executor says that it does so.
        """
        switch = messages.quantise_time(now + self.settings.stop_lead)
        limit = time.perf_counter() + 0.5 * self.settings.stop_lead
        found = self._filter.rescue(commitment, scene, now, switch, deadline=limit)
        if found is not None:
            proposal = messages.quantise(found[0])
            verdict = self._filter.check(proposal, commitment, scene, self.now())
            if verdict.certified:
                self._announce(proposal, verdict, proposal.trajectory.digest(), 0.0)
                return switch + self.settings.stop_answer
        self._send_stop(text)
        return now + self.settings.stop_answer

    def _send_stop(self, text: str) -> None:
        self._stop.publish(messages.status("stop", DiagnosticStatus.ERROR, text, {"stamp": self.now()}))

    def diagnose(self, now: float) -> list[DiagnosticStatus]:
        """Certification, guard and scene."""
        scene, why = self._scene.scene(now)
        recent = self._checks.last_rejection if now - self._checks.last_rejection_time < 3.0 else ""
        silence = min(self._checks.age(now), now - self._checks.last_rejection_time)
        if silence > 2.0:
            recent = f"no proposal for {silence:.1f} s"
        level = DiagnosticStatus.WARN if recent else DiagnosticStatus.OK
        guard = DiagnosticStatus.OK if now - self._watches.last_rejection_time > 3.0 else DiagnosticStatus.ERROR
        count = len(scene.obstacles) if scene is not None else 0
        return [
            self.report("certification", level, recent or "proposals are certified", self._checks.values(now)),
            self.report("guard", guard, self._guard_text if guard == DiagnosticStatus.OK else self._watches.last_rejection,
                        self._watches.values(now)),
            self.report("scene", DiagnosticStatus.ERROR if scene is None else DiagnosticStatus.OK, why or f"{count} obstacles",
                        {"age_s": f"{self._scene.age(now):.3f}"}),
        ]


def main() -> int:
    """Entry point of the executable ``safety_filter``."""
    return run(SafetyFilterNode)


if __name__ == "__main__":
    raise SystemExit(main())
