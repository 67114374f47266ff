"""What a problem may offer beside its potential to methods that need gradients, projections or dynamics, and what follows from
it.

Every protocol here is optional; a sampler says by name which one it misses (:func:`offered`). Values and gradients are in the
data's own units; :class:`~tandem.diffusion.samplers.base.Run` carries the normaliser's scale over to normalised space (the chain
rule that public code forgets).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tandem.core.errors import InputError
from tandem.diffusion.problem import JointProblem


class BarrierProblem(JointProblem, Protocol):
    """A joint problem with safety specifications b_m(x_h) >= 0 on every waypoint (SafeDiffuser, Sec. 3)."""

    def barrier(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """b (N, H, M) at chunks ``x`` (N, H, D), and its gradient (N, H, M, D) with respect to the waypoint itself.

        +inf with gradient 0 says that a specification does not apply.
        """


class ProjectableProblem(JointProblem, Protocol):
    """A joint problem with a projection onto its feasible chunks: what projected diffusion needs."""

    def project(self, x: Tensor) -> Tensor:
        """(N, H, D) nearest feasible chunks to ``x`` (N, H, D), both in the data's units."""


class GuidedProblem(JointProblem, Protocol):
    """A joint problem whose constraints also have a gradient: what motion planning diffusion needs."""

    def guidance(self, x: Tensor) -> Tensor:
        """(N,) soft cost of chunks ``x`` (N, H, D) in the data's units, differentiable in x (plain torch, autograd on)."""


class DifferentiableProblem(JointProblem, Protocol):
    """A joint problem whose V is differentiable in both arguments (JM2D, Appx. B)."""

    def log_potential(self, x: Tensor, k: Tensor) -> Tensor:
        """(N, K) log V at all pairs of ``x`` (N, H, D), data's units, and ``k`` (K, dk), differentiable (autograd on)."""


class TightenableProblem(JointProblem, Protocol):
    """A joint problem that can be asked with a margin on its constraints (JM2D, Table A.2 "Tight"; DPCC, Sec. 4.3)."""

    def tightened(self, margin: float) -> JointProblem:
        """The same problem with every constraint tightened by ``margin`` (>= 0, the constraints' own unit)."""


class LinearProblem(JointProblem, Protocol):
    """A joint problem with linear dynamics and bounds: what DPCC's model-based projection needs."""

    def linear(self) -> LinearConstraints:
        """Constraints on the whole chunk."""


class ConsistentProblem(JointProblem, Protocol):
    """A joint problem that knows what was planned before (DPCC-T)."""

    previous: Tensor | None
    """(H, D) the last plan, shifted to now, in the data's units; None at the first plan."""


@dataclass(frozen=True)
class LinearConstraints:
    """``E vec(x) = e`` and ``lower <= x <= upper`` for a chunk x (H, D), in the data's units; vec runs over D first.

    Attributes:
        matrix: (R, H * D) E, R may be 0. offset: (R,) e. lower, upper: (H, D), infinite where there is no bound.
    """

    matrix: Tensor
    offset: Tensor
    lower: Tensor
    upper: Tensor

    def __post_init__(self) -> None:
        size = self.lower.numel()
        if self.matrix.shape != (self.offset.shape[0], size) or self.lower.shape != self.upper.shape or self.lower.ndim != 2:
            raise InputError(
                f"linear constraints: matrix {tuple(self.matrix.shape)}, offset {tuple(self.offset.shape)}, lower "
                f"{tuple(self.lower.shape)}, upper {tuple(self.upper.shape)}; expected (R, H * D), (R,), (H, D), (H, D)"
            )
        if not bool(torch.isfinite(self.matrix).all() & torch.isfinite(self.offset).all()):
            raise InputError("linear constraints: matrix or offset is not finite")
        crossed = ~(self.lower <= self.upper)
        if bool(crossed.any()):
            h, d = crossed.nonzero()[0].tolist()
            raise InputError(
                f"linear constraints: empty set at waypoint {h}, value {d}: lower {float(self.lower[h, d])}, upper "
                f"{float(self.upper[h, d])}; accepted: lower <= upper"
            )

    @classmethod
    def none(cls, horizon: int, dim: int, device: torch.device | str = "cpu") -> LinearConstraints:
        """No constraint at all."""
        free = torch.full((horizon, dim), torch.inf, dtype=torch.float64, device=device)
        empty = torch.zeros((0, horizon * dim), dtype=torch.float64, device=device)
        return cls(empty, empty[:, 0], -free, free)

    def null_space(self) -> tuple[Tensor, Tensor]:
        """A solution (S,) of ``E s = e`` and an orthonormal basis (S, F) of E's null space, S = H * D.

        Raises:
            InputError: the equations contradict each other.
        """
        size = self.matrix.shape[1]
        if self.matrix.shape[0] == 0:
            return torch.zeros(size, dtype=torch.float64, device=self.matrix.device), torch.eye(
                size, dtype=torch.float64, device=self.matrix.device
            )
        u, s, vt = torch.linalg.svd(self.matrix.double())
        rank = int((s > 1e-10 * s.max()).sum()) if s.numel() else 0
        particular = vt[:rank].mT @ ((u[:, :rank].mT @ self.offset.double()) / s[:rank])
        miss = (self.matrix.double() @ particular - self.offset.double()).abs().max()
        if float(miss) > 1e-7 * (1.0 + float(self.offset.abs().max())):
            raise InputError(f"linear constraints: the equations E x = e are contradictory (least residual {float(miss):.3g})")
        return particular, vt[rank:].mT


def offered(problem: JointProblem, name: str, method: str, what: str) -> Any:
    """``problem.name``, or InputError: ``method`` takes ``what`` and this kind of problem offers none."""
    found = getattr(problem, name, None)
    if found is None:
        raise InputError(f"{method}: {type(problem).__name__} offers no {name}, {what} that this method takes")
    return found


def checked_barrier(value: Tensor, gradient: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Barrier values (N, H, M) and gradients (N, H, M, D) in float64; InputError: wrong shapes, NaN, a gradient not finite."""
    n, h, d = shape
    if value.ndim != 3 or value.shape[:2] != (n, h) or gradient.shape != (*value.shape, d):
        raise InputError(
            f"barrier: values {tuple(value.shape)}, gradients {tuple(gradient.shape)}; expected ({n}, {h}, M), ({n}, {h}, M, {d})"
        )
    bad = torch.isnan(value) | (value == -torch.inf) | ~torch.isfinite(gradient).all(-1)
    if bool(bad.any()):
        first = bad.nonzero()[0].tolist()
        raise InputError(
            f"barrier: value {float(value[tuple(first)])}, gradient {gradient[tuple(first)].tolist()} at chunk, waypoint, "
            f"specification {first}; {int(bad.sum())} of {bad.numel()} bad; accepted: finite (value also +inf)"
        )
    return value.double(), gradient.double()


def autograd_barrier(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Values and gradients of a barrier written in plain torch: ``function`` maps (N, H, D) to (N, H, M), waypoint by
    waypoint.
    """
    with torch.inference_mode(False), torch.enable_grad():
        y = x.clone().requires_grad_(True)
        value = function(y)
        slopes = [
            torch.autograd.grad(value[..., m].sum(), y, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
            for m in range(value.shape[-1])
        ]
    stacked = torch.stack(slopes, dim=2) if slopes else x.new_zeros((*x.shape[:2], 0, x.shape[2]))
    return value.detach(), stacked


def hinge_cost(problem: BarrierProblem, x: Tensor, margin: float = 0.0) -> Tensor:
    """(N,) sum over waypoints and specifications of max(0, margin - b), differentiable in ``x`` (N, H, D) by b's own gradient.

    Serves as :meth:`GuidedProblem.guidance` where the barrier is not written in torch.
    """
    value, gradient = problem.barrier(x.detach())
    value, gradient = value.to(x), gradient.to(x)
    linear = value + ((x - x.detach())[:, :, None] * gradient).sum(-1)
    return torch.where(torch.isfinite(value), (margin - linear).clamp(min=0.0), 0.0).sum((1, 2))


def onto_barrier(problem: BarrierProblem, x: Tensor, margin: float = 0.0, rounds: int = 8) -> Tensor:
    """Chunks moved onto b >= margin: each violating waypoint by Newton steps ``(margin - b) grad / |grad|^2`` on its worst b.

    For one specification a waypoint whose gradient has unit length (a distance) this is the projection; otherwise near it.
    """
    for _ in range(rounds):
        value, gradient = problem.barrier(x)
        if value.shape[-1] == 0:
            return x
        worst, index = value.min(-1)
        slope = gradient.gather(2, index[..., None, None].expand(*index.shape, 1, gradient.shape[-1]))[:, :, 0]
        lack = (margin - worst).clamp(min=0.0)
        if not bool((lack > 1e-9).any()):
            break
        square = (slope * slope).sum(-1).clamp(min=1e-12)
        x = x + ((lack / square)[..., None] * slope).to(x.dtype)
    return x
