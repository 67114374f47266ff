"""One episode of the mug task in lockstep: simulated clock, the nodes' own logic, the same seed gives the same episode.

Camera image -> perception -> planner -> safety filter -> executor -> 1 kHz MuJoCo physics, as in the launched graph; only the
transport and the wall clock are missing. Planning costs no simulated time, but a plan is made when the graph would make it: at
the start of the head before, from what is known then, for the state at that head's end.
"""

from __future__ import annotations

import time as clock
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from tandem.bench.record import EpisodeRecord, PlanRecord
from tandem.core.config import setting
from tandem.core.scene import TABLE, Scene
from tandem.core.types import Commitment, Proposal, Reason, Verdict
from tandem.execution.executor import Executor
from tandem.execution.types import CertifiedTrajectory, Command, ExecutorConfig, Mode
from tandem.perception import MarkerPoseEstimator, PoseTracker
from tandem.safety.filter import SafetyFilter
from tandem.sim.world import TIMESTEP, MugWorld
from tandem.tasks.mug.planner import MugPlanner, PlanResult

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LockstepConfig:
    """Timing of an episode."""

    timeout: float = setting(20.0, "an episode without success by then has failed", unit="s", lo=1.0, hi=600.0)
    camera_period: float = setting(0.1, "between camera images", unit="s", lo=0.02, hi=10.0)
    retry: float = setting(0.4, "how far ahead to plan again after a plan that was not certified", unit="s", lo=0.05, hi=5.0)
    first_switch: float = setting(0.2, "switch time of the first plan", unit="s", lo=0.01, hi=5.0)
    record_period: float = setting(0.02, "between recorded states", unit="s", lo=0.001, hi=1.0)
    settle: float = setting(3.0, "after an episode the last backup plays for this long", unit="s", lo=0.0, hi=10.0)


class NoFilter:
    """Stands where the safety filter stands, and lets everything pass: the unfiltered policy's row of the table."""

    def check(self, proposal: Proposal, commitment: Commitment, scene: Scene, now: float) -> Verdict:
        """Certifies whatever it is given."""
        return Verdict(Reason.CERTIFIED, float("nan"), 0.0, "", "", proposal.trajectory.digest())


class LockstepEpisode:
    """One episode; :meth:`run` plays it and returns its record.

    Args:
        world: reset and ready. planner: reset to the episode's seed. guard: filter, or :class:`NoFilter`.
        pictures: keep camera frames and all candidate plans for a report.
    """

    def __init__(
        self,
        world: MugWorld,
        planner: MugPlanner,
        guard: SafetyFilter | NoFilter,
        estimator: MarkerPoseEstimator,
        config: LockstepConfig | None = None,
        *,
        pictures: bool = False,
    ) -> None:
        self.world, self.planner, self.guard, self.estimator = world, planner, guard, estimator
        self.config = config or LockstepConfig()
        self.pictures = pictures
        self.tracker = PoseTracker()
        self.scene = world.obstacles.with_obstacles(TABLE)
        limits = ExecutorConfig.for_arm(planner.arm, np.broadcast_to(planner.bounds.tracking_error, planner.arm.n).tolist())
        self.executor = Executor(limits, world.joint_positions(), 0.0, world.gripper_width())
        self.plans: list[PlanRecord] = []
        self.tracking_error = 0.0
        self._rows: list[tuple[float, Array, Array, float, str, Array]] = []
        self._frames: list[tuple[float, NDArray[np.uint8]]] = []
        self._detections: list[tuple[float, Array]] = []

    def run(self) -> EpisodeRecord:
        """Until the mug is held up, or the time is over."""
        began = clock.perf_counter()
        c = self.config
        plan_at, switch, look_at, record_at = 0.0, c.first_switch, 0.0, 0.0
        success, under_backup, moving = False, 0.0, 0.0
        now = 0.0
        for tick in range(1, round(c.timeout / TIMESTEP) + 1):
            now = tick * TIMESTEP
            if now >= look_at - 1e-9:
                look_at += c.camera_period
                if self.pictures or not self.planner.holding:
                    self._look(now)
            if now >= plan_at - 1e-9 and self.executor.mode < Mode.STOPPING:
                accepted = self._plan(now, switch)
                plan_at, switch = switch, switch + (accepted.head_duration if accepted else c.retry)
            command = self.executor.tick(now, self.world.joint_positions())
            self.world.step(command.q, command.v, command.a, command.width)
            moving = now
            under_backup += TIMESTEP * (command.mode is not Mode.HEAD and now > c.first_switch)
            if now >= record_at - 1e-9:
                self._record(now, command)
                record_at += c.record_period
            if self.world.lifted():
                success = True
                break
        at_rest = self._settle(now)
        return self._finish(success, under_backup / max(moving - c.first_switch, TIMESTEP), at_rest, clock.perf_counter() - began)

    def _settle(self, now: float) -> bool:
        """Let the backup play after the last plan: every episode ends at rest, by itself."""
        ticks = round(self.config.settle / TIMESTEP)
        for tick in range(1, ticks + 1):
            command = self.executor.tick(now + tick * TIMESTEP, self.world.joint_positions())
            self.world.step(command.q, command.v, command.a, command.width)
        return self.executor.mode in (Mode.IDLE, Mode.STOPPED)

    def _look(self, now: float) -> None:
        image = self.world.render()
        estimate = self.estimator.estimate(image, self.world.camera_matrix(), np.zeros(5), self.world.camera_pose(), now)
        if estimate.pose is not None:
            self.tracker.update(estimate.pose)
        if self.pictures:
            self._frames.append((now, image.copy()))
            self._detections.append((now, np.full((4, 4), np.nan) if estimate.pose is None else estimate.pose.pose))

    def _plan(self, now: float, switch: float) -> Proposal | None:
        commitment = self.executor.commitment()
        width = self.world.gripper_width()
        result = self.planner.plan(self.tracker.latest(now), commitment, self.scene, switch, now, width=width)
        proposal, verdict, certify_ms, word = result.proposal, None, 0.0, ""
        if proposal is not None:
            began = clock.perf_counter()
            verdict = self.guard.check(proposal, commitment, self.scene, now)
            certify_ms = (clock.perf_counter() - began) * 1e3
            word = verdict.reason.value
            if verdict.certified:
                submitted = self.executor.submit(CertifiedTrajectory(proposal, verdict.digest, ""), now)
                if not submitted.accepted:
                    word = f"executor: {submitted.code.name.lower()}"
        certified = word == Reason.CERTIFIED.value
        self._keep_plan(now, switch, result, verdict, certify_ms, word, certified)
        return proposal if certified else None

    def _keep_plan(
        self, now: float, switch: float, result: PlanResult, verdict: Verdict | None, certify_ms: float, word: str,
        certified: bool,
    ) -> None:
        self.plans.append(
            PlanRecord(
                now, switch, result.plan_ms, certify_ms, result.reason, word, certified,
                float("nan") if verdict is None else verdict.clearance, result.counters.network_rows,
                result.counters.potential_evals, dict(result.counters.failures), result.candidates if self.pictures else [],
            )
        )

    def _record(self, now: float, command: Command) -> None:
        measured = self.world.joint_positions()
        self.tracking_error = max(self.tracking_error, float(np.abs(measured - command.q).max()))
        mug = self.world.mug_pose()
        quaternion = Rotation.from_matrix(mug[:3, :3]).as_quat(scalar_first=True)
        pose = np.concatenate([mug[:3, 3], quaternion])
        self._rows.append((now, command.q.copy(), measured, self.world.gripper_width(), command.mode.name, pose))

    def _finish(self, success: bool, intervention: float, at_rest: bool, wall_s: float) -> EpisodeRecord:
        contacts: dict[str, int] = {}
        for contact in self.world.incidents:
            contacts[contact.kind] = contacts.get(contact.kind, 0) + 1
        time, q, measured, width, mode, mug = zip(*self._rows, strict=True)
        record = EpisodeRecord(
            scene=self.world.scene,
            meta={"task": "mug", "method": self.planner.sampler.name, "seed": self.planner.seed, "source": "lockstep"},
            time=np.array(time), q_commanded=np.array(q), q_measured=np.array(measured), width=np.array(width),
            mode=np.array(mode), mug_pose=np.array(mug), plans=self.plans, contacts=contacts, task_success=success,
            at_rest=at_rest, intervention=intervention, wall_s=wall_s,
            camera_matrix=self.world.camera_matrix(), camera_pose=self.world.camera_pose(),
        )
        if self.pictures:
            times, images = zip(*self._frames, strict=True)
            seen, poses = zip(*self._detections, strict=True)
            record.frames, record.frame_time = np.array([i[::2, ::2] for i in images]), np.array(times)
            record.camera_image, record.camera_image_time = images[0], times[0]
            record.detection_time, record.detection_pose = np.array(seen), np.array(poses)
        return record
