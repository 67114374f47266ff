"""From what is seen and committed to a proposal: the planner behind the planner node, without ROS.

Planning is for a *switch time* in the future: the policy is conditioned on the state that the executor will have there (its
commitment says so), so that the arm keeps moving while the next plan is made.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from tandem.core.errors import ConfigError
from tandem.core.scene import TABLE, Obstacle, Scene
from tandem.core.trajectory import Trajectory
from tandem.core.types import Candidate, Commitment, Counters, ObjectPose, Proposal
from tandem.diffusion.denoiser import NetworkDenoiser
from tandem.diffusion.devices import check_device
from tandem.diffusion.result import SampleResult
from tandem.diffusion.samplers import Sampler, load_sampler
from tandem.robots.kinematics import tcp_pose
from tandem.robots.model import ArmModel, load_arm
from tandem.safety import BackupFamily, Bounds, load_bounds, pack_scene
from tandem.tasks.mug.chunks import decode, encode_condition, encode_steps, present_step
from tandem.tasks.mug.config import MugConfig, load_mug_config
from tandem.tasks.mug.memory import RETREAT, MugMemory, retreat_chunks
from tandem.tasks.mug.policy import load_policy
from tandem.tasks.mug.problem import Heads, MugProblem

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PlanResult:
    """One planning attempt. ``proposal`` is None where nothing feasible was found; ``reason`` then says why."""

    proposal: Proposal | None
    candidates: list[Candidate]
    counters: Counters
    plan_ms: float
    reason: str
    cost: float = float("nan")


@dataclass
class MugPlanner:
    """Holds the policy, the sampler and the last mug pose; :meth:`plan` makes one plan.

    ``certified_only``: refuse plans that the sampler itself knows to be infeasible (all but the plain policy do).
    """

    arm: ArmModel
    bounds: Bounds
    family: BackupFamily
    config: MugConfig
    denoiser: NetworkDenoiser
    sampler: Sampler
    certified_only: bool = True
    seed: int = 0
    max_candidates: int = 64
    _memory: MugMemory = field(init=False)
    _plans: int = field(default=0)
    _last: tuple[float, Array, Array] | None = None

    def __post_init__(self) -> None:
        self._memory = MugMemory(self.config)

    @property
    def holding(self) -> bool:
        """Whether the last plan was made with a kept mug pose, not with what the camera sees now."""
        return self._memory.kept

    @classmethod
    def load(
        cls, sampler: str = "default", seed: int = 0, config: str = "mug", device: str = "cpu", bounds: str = ""
    ) -> MugPlanner:
        """A planner with the shipped policy and the sampler of ``config/samplers/<sampler>.yaml``.

        ``bounds``: name in ``config/safety`` of what its plans will be certified by; empty: the task's.

        Raises:
            ConfigError: a file is missing or malformed, the weights do not match their manifest, or torch cannot use the device.
        """
        check_device(device, ConfigError, "planner")
        task = load_mug_config(config)
        arm = load_arm(task.robot)
        family = BackupFamily(k_max=(task.backup_peak,) * arm.n)
        method = load_sampler(sampler)
        denoiser = load_policy(task, device)
        certified = load_bounds(bounds or task.safety)
        planner = cls(arm, certified, family, task, denoiser, method, seed=seed, certified_only=method.name != "policy")
        planner.warm_up()
        return planner

    def warm_up(self) -> None:
        """Make one plan that nobody gets, so that the first real one does not pay for loading compiled code."""
        still = Commitment(Trajectory.at_rest(self.arm.home, 1.0), 0.0, np.full(2, self.arm.stroke))
        mug = np.eye(4)
        mug[:3, 3] = 0.5, 0.0, 0.0
        box = Obstacle("warm-up", "box", (0.02, 0.02, 0.02), (0.4, -0.4, 0.3))
        self.plan(ObjectPose(mug, np.eye(6) * 1e-6, 0.0), still, Scene((TABLE, box)), 0.5, 0.0)
        self.reset(self.seed)

    def reset(self, seed: int) -> None:
        """Forget the mug and start the random sequence of ``seed``."""
        self.seed, self._plans, self._memory, self._last = seed, 0, MugMemory(self.config), None

    def resumed(self) -> None:
        """An operator resumed after a stop: if the hand is at the mug it moves back, and the mug is looked at again."""
        self._memory.doubt()

    def plan(
        self,
        object_pose: ObjectPose | None,
        commitment: Commitment,
        scene: Scene,
        switch_time: float,
        now: float,
        deadline: float | None = None,
        width: float | None = None,
    ) -> PlanResult:
        """Plan from the commitment's state at ``switch_time`` [s, the commitment's clock].

        Args:
            object_pose: newest valid mug pose, None if there is none or it is stale.
            scene: obstacles (with the table). deadline: ``time.perf_counter()`` value after which the best so far is returned.
            width: measured gripper width [m]; without it a grasp that closed on nothing goes unnoticed.
        """
        began = time.perf_counter()
        moments = np.array([switch_time - self.config.dt, switch_time])
        past_q = commitment.trajectory.sample(moments - commitment.start)[0]
        tcp = tcp_pose(self.arm, past_q)
        widths = np.array([commitment.width_at(t) for t in moments])
        asked = (commitment.width_at(now), float(widths[1]))
        if self._memory.disproved(tcp[1], max(asked), width):
            return self._retreat(commitment, scene, switch_time, now, tcp, widths, began)
        mug = self._memory.believe(object_pose, tcp[1], min(asked))
        if mug is None:
            return PlanResult(None, [], Counters(), (time.perf_counter() - began) * 1e3, "no valid object pose")
        problem, generator = self._problem(mug.pose, commitment, scene, switch_time, now, tcp, widths)
        result = self.sampler.sample(problem, self.denoiser, generator=generator, deadline=deadline)
        return self._result(problem, result, switch_time, float(widths[1]), began)

    def _problem(
        self, mug: Array, commitment: Commitment, scene: Scene, switch_time: float, now: float, tcp: Array, widths: Array
    ) -> tuple[MugProblem, torch.Generator]:
        """One plan's problem and random sequence; ``tcp`` (2, 4, 4) and ``widths`` (2,): a step before, and at the switch."""
        self._plans += 1
        stream = np.random.SeedSequence([self.seed, self._plans])
        generator = torch.Generator(device=self.denoiser.device).manual_seed(int(stream.generate_state(1)[0]))
        condition = encode_condition(mug, tcp, widths)
        raw = torch.as_tensor(condition, dtype=torch.float32, device=self.denoiser.device)
        problem = MugProblem(
            self.arm, self.family, self.bounds, self.config, pack_scene(scene, self.arm, self.bounds, now, start=switch_time),
            mug, present_step(condition), commitment.state_at(switch_time), self.denoiser.normalise_cond(raw),
            np.random.default_rng(stream),
        )
        problem.previous = self._previous(mug, switch_time)
        return problem, generator

    def _retreat(
        self, commitment: Commitment, scene: Scene, switch_time: float, now: float, tcp: Array, widths: Array, began: float
    ) -> PlanResult:
        """Move back from where the mug was believed to be, open, and forget it until it is seen from there."""
        problem, _ = self._problem(tcp[1], commitment, scene, switch_time, now, tcp, widths)  # any frame would do
        ways = problem.evaluate(torch.from_numpy(retreat_chunks(tcp[1], tcp[1], float(widths[1]), self.config)))
        for row in range(ways.n):
            k, cost, feasible = problem.optimise_k(ways, row)
            if not feasible:
                continue
            backup = k.detach().cpu().numpy().astype(np.float64) * self.config.backup_peak
            trajectory, own = problem.trajectory(ways, row, backup, float(widths[1]))
            head = float(ways.times[-1])
            self._memory.forget(switch_time + head)
            proposal = Proposal(trajectory, own, switch_time, head, name=f"retreat-{self._plans}")
            shown = [Candidate(ways.poses[row, :, :3, 3], True, cost, chosen=True)]
            return PlanResult(proposal, shown, problem.counters, (time.perf_counter() - began) * 1e3, RETREAT, cost)
        return PlanResult(None, [], problem.counters, (time.perf_counter() - began) * 1e3, f"{RETREAT}: no certified way back")

    def _result(self, problem: MugProblem, result: SampleResult, switch_time: float, width: float, began: float) -> PlanResult:
        counters = result.counters
        counters.potential_evals = max(counters.potential_evals, problem.counters.potential_evals)
        for kind, count in problem.counters.failures.items():
            counters.fail(kind, count)
        proposal, chosen, reason, backup = None, None, "no feasible plan and backup", None
        if result.x is not None and (result.feasible or not self.certified_only):
            chosen = problem.evaluate(result.x[None])
            if chosen.valid_rows[0]:
                k = self._backup(problem, chosen, result)
                trajectory, widths = problem.trajectory(chosen, 0, k, width)
                head = float(chosen.times[-1])
                self._last = (switch_time, chosen.poses[0], chosen.width[0])
                proposal = Proposal(trajectory, widths, switch_time, head, name=f"{self.sampler.name}-{self._plans}")
                after = np.linspace(head, trajectory.duration, 12)
                backup = tcp_pose(self.arm, trajectory.sample(after)[0])[:, :3, 3]
                reason = "planned"
        candidates = self._candidates(problem, result, chosen, backup)
        return PlanResult(proposal, candidates, counters, (time.perf_counter() - began) * 1e3, reason, float(result.cost))

    def _previous(self, mug: Array, switch_time: float) -> torch.Tensor | None:
        """(H, 10) the last proposal's waypoints that still lie ahead of ``switch_time``, its last one kept; None without any."""
        if self._last is None:
            return None
        began, poses, width = self._last
        shift = round((switch_time - began) / self.config.dt)
        if not 0 <= shift < len(poses):
            return None
        index = np.minimum(np.arange(len(poses)) + shift, len(poses) - 1)
        steps = encode_steps(mug, poses[index], width[index])
        return torch.as_tensor(steps, dtype=self.denoiser.dtype, device=self.denoiser.device)

    def _backup(self, problem: MugProblem, chosen: Heads, result: SampleResult) -> Array:
        """(n,) the backup to propose [rad/s^2]: the sampler's, or a better one found for its chunk."""
        if result.k is None or not result.feasible:
            return problem.least_cost_k(chosen, 0)
        k = result.k
        if self.config.polish:
            other, cost, feasible = problem.optimise_k(chosen, 0)
            if feasible and cost < result.cost:
                k = other
        return k.detach().cpu().numpy().astype(np.float64) * self.config.backup_peak

    def _candidates(
        self, problem: MugProblem, result: SampleResult, chosen: Heads | None, backup: Array | None
    ) -> list[Candidate]:
        out = []
        if result.candidates.count:
            x = result.candidates.x[: self.max_candidates].detach().cpu().numpy().astype(np.float64)
            feasible, cost = result.candidates.feasible.tolist(), result.candidates.cost.tolist()
            paths = decode(problem.mug, x, problem.present)[0][..., :3, 3]
            out = [Candidate(path, bool(f), float(c)) for path, f, c in zip(paths, feasible, cost, strict=False)]
        if chosen is not None:
            path = chosen.poses[0, :, :3, 3]
            out.append(Candidate(path, bool(result.feasible), float(result.cost), chosen=True, backup_path=backup))
        return out
