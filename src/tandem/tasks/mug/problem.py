"""The joint problem of one mug plan: chunk x, backup k, and the potential V(x, k) from the arm's reachability.

x becomes a joint trajectory by inverse kinematics and the smoothing spline (head = first ``execute`` waypoints); k is the
backup's acceleration after the head. V(x, k) = exp(-J / lambda) where head and backup are certified, 0 elsewhere (JM2D, Sec. 3),
with J = mean squared joint distance between the backup and the plan's own tail (RAIL), plus a constant where that tail is
blocked.
A chunk whose inverse kinematics fails, jumps branch or breaks a limit is infeasible; nothing is repaired.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tandem.core.spline import head_knots
from tandem.core.trajectory import Trajectory
from tandem.core.types import Counters
from tandem.diffusion.constraints import hinge_cost, onto_barrier
from tandem.diffusion.problem import PotentialGrid
from tandem.robots.inverse import IkStatus, solve_chunk
from tandem.robots.kinematics import tcp_pose
from tandem.robots.model import ArmModel
from tandem.safety import BackupFamily, Bounds, GridVerdict, PackedScene, certify, certify_grid, certify_pairs
from tandem.safety.kernels import COLLISION, SELF
from tandem.tasks.mug.barrier import waypoint_barrier
from tandem.tasks.mug.chunks import decode
from tandem.tasks.mug.config import MugConfig

Array = NDArray[np.float64]

#: depth [m] of a pair that is infeasible for another reason than distance
DEEPEST = 1.0


@dataclass
class Heads:
    """Chunks made into joint motion: the part of V that does not depend on k.

    Attributes:
        chunk: (N, H, 10). poses: (N, H, 4, 4) absolute. width: (N, H) [m].
        times: (execute + 1,) and q, v, a (N, execute + 1, n): knots of the heads.
        tail_times: (T,) from the head's end; tail: (N, T, n) the plan's own continuation.
        penalty: (N,) what the blocked tail adds to J. valid: (N,) bool, inverse kinematics and deviation in order.
    """

    chunk: Array
    poses: Array
    width: Array
    times: Array
    q: Array
    v: Array
    a: Array
    tail_times: Array
    tail: Array
    penalty: Array
    valid_rows: NDArray[np.bool_]
    device: torch.device

    @property
    def n(self) -> int:
        """Number of chunks."""
        return int(self.q.shape[0])

    def take(self, rows: NDArray[np.int64]) -> Heads:
        """The chunks ``rows`` alone."""
        return Heads(
            self.chunk[rows], self.poses[rows], self.width[rows], self.times, self.q[rows], self.v[rows], self.a[rows],
            self.tail_times, self.tail[rows], self.penalty[rows], self.valid_rows[rows], self.device,
        )

    @property
    def valid(self) -> torch.Tensor:
        """(N,) bool."""
        return torch.from_numpy(self.valid_rows).to(self.device)


class MugProblem:
    """Implements ``diffusion.problem.JointProblem`` for one plan."""

    def __init__(
        self,
        arm: ArmModel,
        family: BackupFamily,
        bounds: Bounds,
        config: MugConfig,
        packed: PackedScene,
        mug: Array,
        present: Array,
        state: tuple[Array, Array, Array],
        cond: torch.Tensor,
        rng: np.random.Generator,
    ) -> None:
        """Args:
        packed: obstacles, timed so that 0 is the switch time. mug: (4, 4) pose.
        present: (10,) the step at the switch time. state: q, v, a (n,) there.
        cond: (C,) normalised conditioning; its device and dtype are the samplers'.

        ``previous``: (H, 10) the last plan, shifted to now, for samplers that keep to it; None until it is set.
        """
        self.arm, self.family, self.bounds, self.config, self.packed = arm, family, bounds, config, packed
        self.mug, self.present, self.state, self.cond, self.rng = mug, present, state, cond, rng
        self.horizon, self.dim, self.k_dim = config.horizon, 10, len(arm.joint_names)
        self.counters = Counters()
        self.previous: torch.Tensor | None = None

    # --- prior over k: uniform on the box -----------------------------------------------------------------------------------
    def sample_k(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """(count, n) from p(k), normalised to [-1, 1]."""
        u = torch.rand(count, self.k_dim, generator=generator, device=self.cond.device, dtype=self.cond.dtype)
        return 2.0 * u - 1.0

    def log_prior_k(self, k: torch.Tensor) -> torch.Tensor:
        """(...,) 0 inside the box, -inf outside."""
        inside = (k.abs() <= 1.0).all(dim=-1)
        return torch.where(inside, 0.0, -torch.inf).to(k.dtype)

    # --- x: from chunk to head ----------------------------------------------------------------------------------------------
    def evaluate(self, x: torch.Tensor) -> Heads:
        """Inverse kinematics, heads and tails of chunks (N, H, 10) in the data's units."""
        c = self.config
        chunk = x.detach().cpu().numpy().astype(np.float64)
        poses, width = decode(self.mug, chunk, self.present, c.dt)
        width = np.where(width < c.grasp_width, 0.0, width)
        q0, v0, a0 = self.state
        ik = solve_chunk(self.arm, q0, poses, dt=c.dt, posture=np.asarray(c.posture))
        solved = np.all(ik.status == IkStatus.OK, axis=1)
        self._count_failures(ik.status)
        waypoints = np.where(np.isfinite(ik.q), ik.q, q0)
        times, q, v, a = head_knots(q0, v0, a0, waypoints, c.dt, c.cutoff)
        end = c.execute
        reached = tcp_pose(self.arm, q[:, 1 : end + 1].reshape(-1, self.k_dim))[:, :3, 3].reshape(len(q), end, 3)
        off = np.linalg.norm(reached - poses[:, :end, :3, 3], axis=-1).max(axis=1)
        near = np.nan_to_num(off, nan=np.inf) <= c.deviation
        self.counters.fail("deviation", int(np.sum(solved & ~near)))
        valid = solved & near
        penalty = np.zeros(len(q))
        tail_times = times[end:] - times[end]
        rows = np.flatnonzero(valid)
        if c.tail_penalty > 0.0 and len(rows):
            verdict = certify(
                self.arm, tail_times, q[rows, end:], v[rows, end:], a[rows, end:], self.packed, self.bounds, at_rest=False
            )
            # only what stands in the way counts: the tail's joint limits are the next plan's business
            penalty[rows] = np.where(np.isin(verdict.code, (COLLISION, SELF)), c.tail_penalty, 0.0)
        return Heads(
            chunk, poses, width, times[: end + 1], q[:, : end + 1], v[:, : end + 1], a[:, : end + 1],
            tail_times, q[:, end:], penalty, valid, self.cond.device,
        )

    def _count_failures(self, status: NDArray[np.int64]) -> None:
        worst = status.max(axis=1)
        for kind in IkStatus:
            if kind is not IkStatus.OK:
                self.counters.fail(f"ik_{kind.name.lower()}", int(np.sum(worst == kind)))

    # --- V(x, k) ------------------------------------------------------------------------------------------------------------
    def _ends(self, heads: Heads, rows: NDArray[np.int64]) -> tuple[Array, Array, Array]:
        return heads.q[rows, -1], heads.v[rows, -1], heads.a[rows, -1]

    def _potential(self, heads: Heads, acceleration: Array, own: bool) -> PotentialGrid:
        """V for backups (K, n) shared by all heads, or (N, P, n) of each head's ``own`` [rad/s^2]."""
        rows = np.flatnonzero(heads.valid_rows)
        shape = (heads.n, acceleration.shape[-2])
        cost, feasible, depth = np.full(shape, np.inf), np.zeros(shape, bool), np.full(shape, np.inf)
        if len(rows):
            k = acceleration[rows] if own else acceleration
            check = certify_pairs if own else certify_grid
            verdict: GridVerdict = check(
                self.arm, self.family, heads.times, heads.q[rows], heads.v[rows], heads.a[rows], k, self.packed, self.bounds
            )
            j = self.family.cost(*self._ends(heads, rows), heads.tail[rows], heads.tail_times, k)
            cost[rows] = j + heads.penalty[rows, None]
            feasible[rows] = verdict.feasible
            depth[rows] = np.where(verdict.feasible, 0.0, np.clip(-verdict.clearance, 0.0, DEEPEST))
        self.counters.potential_evals += shape[0] * shape[1]
        log_v = np.where(feasible, -cost / self.config.temperature, -np.inf)
        tensor: dict[str, Any] = {"device": self.cond.device, "dtype": torch.float64}
        return PotentialGrid(*(torch.as_tensor(value, **tensor) for value in (log_v, cost, depth)))

    def grid(self, heads: Heads, k: torch.Tensor) -> PotentialGrid:
        """V on all pairs: chunks (N) x backups k (K, n) -> (N, K)."""
        return self._potential(heads, k.detach().cpu().numpy().astype(np.float64) * self.config.backup_peak, own=False)

    def pairs(self, heads: Heads, k: torch.Tensor) -> PotentialGrid:
        """V on own backups: k (N, P, n) -> (N, P)."""
        return self._potential(heads, k.detach().cpu().numpy().astype(np.float64) * self.config.backup_peak, own=True)

    # --- what some samplers ask for beside V -------------------------------------------------------------------------------
    def barrier(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The arm's clearance less the margin at every waypoint of ``x`` (N, H, 10): (N, H, 1) [m] and gradient (N, H, 1, 10)."""
        margin = self.bounds.min_clearance + self.config.barrier_margin
        chunk = x.detach().cpu().numpy().astype(np.float64)
        value, gradient = waypoint_barrier(self.arm, self.packed, self.config, self.mug, self.state[0], chunk, margin)
        tensor: dict[str, Any] = {"device": self.cond.device, "dtype": torch.float64}
        return torch.as_tensor(value[..., None], **tensor), torch.as_tensor(gradient[:, :, None], **tensor)

    def guidance(self, x: torch.Tensor) -> torch.Tensor:
        """(N,) how much clearance ``x`` (N, H, 10) lacks, summed over waypoints [m]; differentiable in x."""
        return hinge_cost(self, x)

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` (N, H, 10) with waypoints that lack clearance moved along its gradient until they do not."""
        return onto_barrier(self, x, rounds=3)

    def tightened(self, margin: float) -> MugProblem:
        """The same problem with ``margin`` [m] more clearance asked for."""
        other = copy.copy(self)
        other.bounds = dataclasses.replace(self.bounds, min_clearance=self.bounds.min_clearance + margin)
        return other

    # --- the model-based module ---------------------------------------------------------------------------------------------
    def least_cost_k(self, heads: Heads, index: int) -> Array:
        """(n,) the acceleration in the box that minimises J alone [rad/s^2]."""
        rows = np.array([index])
        best: Array = self.family.nearest(*self._ends(heads, rows), heads.tail[rows], heads.tail_times)[0]
        return best

    def guess_k(self, heads: Heads) -> torch.Tensor:
        """(N, n) the normalised k of least J for each chunk, certified or not: what samplers centre proposals on."""
        rows = np.arange(heads.n)
        best = self.family.nearest(*self._ends(heads, rows), heads.tail, heads.tail_times) / self.config.backup_peak
        return torch.as_tensor(np.nan_to_num(best), device=self.cond.device, dtype=torch.float64)

    def optimise_k(self, heads: Heads, index: int) -> tuple[torch.Tensor, float, bool]:
        """One optimisation of k for chunk ``index`` (JM2D Eq. 1): k (n,) normalised, its cost, whether the pair is certified.

        Batched search around the unconstrained minimiser and over the whole box, then refined around the best feasible k.
        """
        tensor: dict[str, Any] = {"device": self.cond.device, "dtype": torch.float64}
        best, least = self.least_cost_k(heads, index), np.inf
        if not bool(heads.valid_rows[index]):
            return torch.as_tensor(best / self.config.backup_peak, **tensor), least, False
        one = heads.take(np.array([index]))
        limit = self.config.backup_peak
        spread = limit
        tries = np.concatenate([best[None], self.family.sample(128, self.rng), best * np.linspace(0.0, 0.9, 10)[:, None]])
        for _ in range(4):
            grid = self._potential(one, tries, own=False)
            cost = torch.where(grid.feasible, grid.cost, torch.inf)[0]
            j = int(cost.argmin())
            if float(cost[j]) < least:
                best, least = tries[j], float(cost[j])
            if not np.isfinite(least):
                break
            spread *= 0.35
            tries = np.clip(best + spread * self.rng.standard_normal((48, self.k_dim)), -limit, limit)
        return torch.as_tensor(best / limit, **tensor), least, bool(np.isfinite(least))

    # --- the pair as one motion ---------------------------------------------------------------------------------------------
    def trajectory(self, heads: Heads, index: int, k: Array, width: float) -> tuple[Trajectory, Array]:
        """Head ``index`` followed by the backup k (n,) [rad/s^2], and the gripper width (M,) [m] at its knots.

        ``width``: gripper width [m] at the switch time.
        """
        times, q, v, a = self.family.build(*self._ends(heads, np.array([index])), k[None])
        head = Trajectory(heads.times, heads.q[index], heads.v[index], heads.a[index])
        whole = head.then(Trajectory(times, q[0], v[0], a[0]))
        own = heads.width[index, : self.config.execute]
        return whole, np.concatenate([[width], own, np.full(len(times) - 1, own[-1])])
