"""Diffusion predictive control with constraints (DPCC, Roemer et al. 2024): project a batch onto the constraints while denoising.

From diffusion time ``project_from`` * I on, each noisy chunk is replaced by the nearest one (normalised space) with

    E vec(x) = e        linear dynamics      (``dynamics``; without them DPCC's "model-free" ablation),
    lower <= x <= upper bounds,
    b_m(x_h) >= tighten the specifications, tightened by a margin for model error (``tighten``; DPCC "tightened").

Specifications need not be convex: sequential quadratic programming linearises them at the current chunk, and each QP (in the
dynamics' null space) is solved exactly for the whole batch (:mod:`tandem.diffusion.nearest`). ``project_from: 0`` projects the
outcome alone ("post-processing"). One of the batch is chosen as the paper's variants do: at random (DPCC-R), least cumulative
projection cost (DPCC-C), nearest to the previous plan (DPCC-T; the first plan, which has none before it, as C). A chunk whose
last QP is contradictory is at its least violation, which is counted; the problem's own V judges the outcome.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tandem.core.config import setting
from tandem.diffusion.constraints import LinearConstraints, offered
from tandem.diffusion.nearest import nearest
from tandem.diffusion.result import SampleResult
from tandem.diffusion.reverse import step
from tandem.diffusion.samplers.base import Run, Sampler, finish, pair_with_prior, register

#: how much a unit of slack loosens a specification in elastic mode: violations cost 1 / ELASTIC^2 times a displacement
ELASTIC = 0.03


@dataclass(frozen=True)
class DPCCConfig:
    """Settings of DPCC; the defaults are the released ones for D3IL Avoiding."""

    samples: int = setting(4, "chunks a batch", lo=1, hi=100_000)
    select: str = setting("temporal", "DPCC-R, DPCC-C or DPCC-T", choices=("random", "cost", "temporal"))
    dynamics: bool = setting(True, "project onto the problem's linear dynamics and bounds, where it has them; false: model-free")
    tighten: float = setting(0.0, "margin added to every specification, b's own unit", lo=0.0, hi=1e3)
    project_from: float = setting(0.5, "share of the diffusion time, from its end, in which chunks are projected", lo=0.0, hi=1.0)
    iterations: int = setting(4, "linearisations a projection", lo=1, hi=100)
    k_samples: int = setting(128, "draws of p(k) tried with the outcome", lo=1, hi=100_000)


@register
class DPCC(Sampler[DPCCConfig]):
    """Ancestral sampling with trajectory-level projection."""

    name: ClassVar[str] = "dpcc"
    config_type: ClassVar[type[DPCCConfig]] = DPCCConfig

    def network_rows(self, steps: int) -> int:
        """Network rows of a call."""
        return self.config.samples * steps

    def _sample(self, run: Run) -> SampleResult:
        c, x = self.config, run.noise(self.config.samples)
        projection = Projection(run, self._linear(run), c.tighten, c.iterations)
        cost = torch.zeros(c.samples, dtype=torch.float64, device=x.device)
        for i in range(run.schedule.steps, 0, -1):
            if run.expired():
                return finish(run, None, None, False)
            x = step(run.schedule, x, run.clean(x, i), i, i - 1, 1.0, run.generator)
            if i - 1 <= c.project_from * run.schedule.steps:
                moved = projection(x)
                cost = cost + (moved - x).double().square().sum((1, 2))
                x = moved
        raw, e = run.evaluate(x)
        pairs = pair_with_prior(run, raw, e, c.k_samples)
        return finish(run, pairs, self._chosen(run, x, cost), True)

    def _linear(self, run: Run) -> LinearConstraints:
        """The problem's dynamics and bounds, or none where it has none or they are not wanted."""
        if self.config.dynamics and not hasattr(run.problem, "linear"):
            run.counters.fail("no linear dynamics: model-free")
        if not self.config.dynamics or not hasattr(run.problem, "linear"):
            return LinearConstraints.none(run.problem.horizon, run.problem.dim, run.denoiser.device)
        linear: LinearConstraints = run.problem.linear()
        return linear

    def _chosen(self, run: Run, x: Tensor, cost: Tensor) -> int:
        """Index of the chunk that DPCC-R, -C or -T takes."""
        previous = getattr(run.problem, "previous", None)
        if self.config.select == "random":
            return int(run.categorical(torch.zeros_like(cost)))
        if self.config.select == "cost" or previous is None:
            return int(cost.argmin())
        last = run.denoiser.normalise(previous.to(x))
        return int((x - last).square().sum((1, 2)).argmin())


class Projection:
    """Nearest chunks, in normalised space, that keep the linear constraints and the problem's specifications."""

    def __init__(self, run: Run, linear: LinearConstraints, margin: float, iterations: int) -> None:
        offered(run.problem, "barrier", "dpcc", "the barrier functions")
        self.run, self.margin, self.iterations = run, margin, iterations
        scale = run.scale()[0].double()
        zero = run.denoiser.denormalise(torch.zeros_like(run.scale()))[0].double()
        # in normalised y with x = zero + scale * y: E diag(scale) y = e - E zero
        matrix = linear.matrix.double() * scale.flatten()
        offset = linear.offset.double() - linear.matrix.double() @ zero.flatten()
        lower, upper = ((v.double() - zero) / scale for v in (linear.lower, linear.upper))
        self.start, self.basis = LinearConstraints(matrix, offset, lower, upper).null_space()
        lower, upper = lower.flatten(), upper.flatten()
        low, high = torch.isfinite(lower), torch.isfinite(upper)
        eye = torch.eye(lower.numel(), dtype=torch.float64, device=lower.device)
        self.box, self.box_bound = torch.cat([eye[low], -eye[high]]), torch.cat([lower[low], -upper[high]])

    def __call__(self, x: Tensor) -> Tensor:
        """Projected ``x`` (N, H, D): sequential quadratic programming from ``x`` itself."""
        target, current = x.flatten(1).double(), x.flatten(1).double()
        for _ in range(self.iterations):
            b, slope = self.run.barrier(current.view(x.shape).to(x.dtype), "dpcc")
            moved, solvable = self._quadratic(target, current, b - self.margin, slope)
            self.run.counters.solver_iterations += 1
            change = float((moved - current).abs().max())
            current = moved
            if change < 1e-6:
                break
        if not bool(solvable.all()):
            self.run.counters.fail("contradictory constraints on a chunk", int((~solvable).sum()))
        return current.view(x.shape).to(x.dtype)

    def _quadratic(self, target: Tensor, at: Tensor, b: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """One QP a chunk: nearest to ``target`` (N, S) with b linearised at ``at`` (N, S); (N, S), solvable (N,)."""
        n, h, m, d = slope.shape
        rows = torch.zeros((n, h, m, h, d), dtype=torch.float64, device=at.device)
        own = torch.arange(h, device=at.device)
        rows[:, own, :, own] = slope.transpose(0, 1)
        bound = torch.where(torch.isfinite(b), (slope * at.view(n, h, 1, d)).sum(-1) - b, -torch.inf)
        a = torch.cat([rows.view(n, h * m, h * d), self.box.expand(n, -1, -1)], dim=1)
        limit = torch.cat([bound.view(n, h * m), self.box_bound.expand(n, -1)], dim=1)
        free = (target - self.start) @ self.basis
        inner, solvable = nearest(free, a @ self.basis, limit - a @ self.start)
        if not bool(solvable.all()):
            elastic = self._elastic(free, a @ self.basis, limit - a @ self.start, h * m)
            inner = torch.where(solvable[:, None], inner, elastic)
        return self.start + inner @ self.basis.mT, solvable

    @staticmethod
    def _elastic(free: Tensor, a: Tensor, limit: Tensor, count: int) -> Tensor:
        """The QP with a slack on each of its first ``count`` rows, the specifications, for where their linearisations contradict.

        Dynamics and bounds stay hard; the next linearisation starts from the least violation (elastic mode, Gill et al. 2005).
        """
        n, rows, size = a.shape
        slack = torch.zeros((n, rows, count), dtype=a.dtype, device=a.device)
        slack[:, :count] = ELASTIC * torch.eye(count, dtype=a.dtype, device=a.device)
        target = torch.cat([free, free.new_zeros((n, count))], dim=1)
        return nearest(target, torch.cat([a, slack], dim=2), limit)[0][:, :size]
