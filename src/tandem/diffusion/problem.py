"""What a joint sampler may know of the problem: p(k), the interaction potential V(x, k) and the model-based module.

A problem is one plan's worth: its conditioning is fixed. Tensors lie on the denoiser's device. ``x`` (N, H, D) is a clean chunk
in the *data's own units* (denormalised); ``k`` is normalised to [-1, 1]^dk and its prior has no mass outside that box.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tandem.core.errors import InputError


class PotentialError(InputError):
    """A problem returned something that is no potential: NaN, +inf, a wrong shape. Names which, where and what was expected."""


@dataclass(frozen=True)
class PotentialGrid:
    """V at pairs; every tensor has the same shape, (N, K) or (N, P).

    Attributes:
        log_v: log V(x, k) = -J / lambda where feasible, -inf where not (JM2D below Eq. 1).
        cost: J(k | x); read only where feasible.
        depth: graded violation >= 0, 0 where feasible, +inf where nothing can be said (IK failed).
    """

    log_v: Tensor
    cost: Tensor
    depth: Tensor

    @property
    def feasible(self) -> Tensor:
        """Boolean mask of pairs with V > 0."""
        return self.log_v > -torch.inf


class Evaluated(Protocol):
    """Opaque handle on the x-dependent work of :meth:`JointProblem.evaluate`."""

    @property
    def n(self) -> int:
        """Number of chunks N."""

    @property
    def valid(self) -> Tensor:
        """(N,) whether a chunk can be a motion at all (inverse kinematics found, limits kept)."""


@dataclass(frozen=True)
class Chunks:
    """Chunks x (N, H, D) as they are: a handle for problems that have nothing to prepare, and a base for others'."""

    x: Tensor

    @property
    def n(self) -> int:
        """Number of chunks."""
        return int(self.x.shape[0])

    @property
    def valid(self) -> Tensor:
        """(N,) all are."""
        return torch.ones(self.n, dtype=torch.bool, device=self.x.device)


class JointProblem(Protocol):
    """One joint sampling problem ``p(x, k) ~ p_theta(x) p(k) V(x, k)`` (JM2D, Problem 1)."""

    cond: Tensor
    horizon: int
    dim: int
    k_dim: int

    def sample_k(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, dk) draws of the prior p(k)."""

    def log_prior_k(self, k: Tensor) -> Tensor:
        """(...,) log density of p(k), k (..., dk), *relative to the uniform density on the box*.

        0 inside the box for the uniform prior; -inf outside it always.
        """

    def evaluate(self, x: Tensor, /) -> Any:
        """Do the work that depends on ``x`` (N, H, D) alone, once."""

    def grid(self, e: Any, k: Tensor, /) -> PotentialGrid:
        """(N, K) values at every pair of chunk and ``k`` (K, dk)."""

    def pairs(self, e: Any, k: Tensor, /) -> PotentialGrid:
        """(N, P) values where chunk j meets its own ``k[j]`` of ``k`` (N, P, dk)."""

    def optimise_k(self, e: Any, index: int, /) -> tuple[Tensor, float, bool]:
        """The model-based module (JM2D Eq. 1) for chunk ``index``: (k (dk,), J, feasible). Samplers re-evaluate the claim."""


class GuessingProblem(JointProblem, Protocol):
    """A joint problem that knows a good k for a chunk at little cost (the minimiser of J without its constraints, say)."""

    def guess_k(self, e: Evaluated) -> Tensor:
        """(N, dk) one k a chunk, normalised and finite; feasible or not. Proposals are centred on it, so it biases nothing."""


def checked(grid: PotentialGrid, shape: tuple[int, ...], where: str) -> PotentialGrid:
    """``grid`` in float64, or :class:`PotentialError`: a wrong shape, log V NaN or +inf, a feasible J not finite."""
    if not isinstance(grid, PotentialGrid):
        raise PotentialError(f"potential ({where}): a {type(grid).__name__}, expected a PotentialGrid")
    for name in ("log_v", "cost", "depth"):
        value = getattr(grid, name)
        if tuple(value.shape) != shape:
            raise PotentialError(f"potential ({where}): {name} has shape {tuple(value.shape)}, expected {shape}")
    log_v, cost, depth = grid.log_v.double(), grid.cost.double(), grid.depth.double()
    feasible = log_v > -torch.inf
    bad_v = torch.isnan(log_v) | (log_v == torch.inf)
    bad_cost = feasible & ~torch.isfinite(cost)
    bad_depth = torch.isnan(depth) | (depth < 0.0)
    if bool((bad_v | bad_cost | bad_depth).any()):
        for name, bad, accepted in (
            ("log_v", bad_v, "-inf or a finite number"),
            ("cost", bad_cost, "finite where feasible"),
            ("depth", bad_depth, ">= 0"),
        ):
            if bool(bad.any()):
                first = bad.nonzero()[0].tolist()
                raise PotentialError(
                    f"potential ({where}): {name}{first} = {float(getattr(grid, name)[tuple(first)])}, "
                    f"{int(bad.sum())} of {bad.numel()} bad; accepted: {accepted}"
                )
    return PotentialGrid(log_v, cost, depth)
