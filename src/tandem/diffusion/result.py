"""What every sampler returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from tandem.core.types import Counters


@dataclass(frozen=True)
class Candidates:
    """Plans that were weighed against each other at the end, for inspection.

    Attributes:
        x: (M, H, D) clean chunks in the data's units. k: (M, dk) each chunk's best k, or None for a sampler that knows no k.
        feasible: (M,) whether that pair has V > 0. cost: (M,) its J, +inf where infeasible.
    """

    x: Tensor
    k: Tensor | None
    feasible: Tensor
    cost: Tensor

    @property
    def count(self) -> int:
        """Number of candidates M."""
        return int(self.x.shape[0])


@dataclass(frozen=True)
class SampleResult:
    """The outcome of one call of a sampler.

    Attributes:
        x: (H, D) chosen chunk in the data's units, None when nothing was drawn. k: (dk,) its backup parameter, normalised to
            [-1, 1], None for a sampler without one.
        feasible: V(x, k) > 0 by the problem's own evaluation. False: the old backup must play; ``x`` is then the least bad chunk.
            The plain policy knows no V and always says False.
        cost: J of the chosen pair, +inf when infeasible.
        candidates: see :class:`Candidates`.
        complete: the algorithm ran its course. met_deadline: it returned in time (also when cut short).
        counters: work done. trace: per-step figures by name (effective sample sizes, feasible shares), for tuning.
    """

    x: Tensor | None
    k: Tensor | None
    feasible: bool
    cost: float
    candidates: Candidates
    complete: bool
    met_deadline: bool
    counters: Counters
    trace: dict[str, list[float]] = field(default_factory=dict)
