"""What all samplers share: the protocol, the registry, one call's bookkeeping (:class:`Run`) and the final choice among pairs."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from tandem.core.config import from_dict, read_yaml, to_dict
from tandem.core.errors import ConfigError, InputError
from tandem.core.paths import config_file
from tandem.core.types import Counters
from tandem.diffusion.constraints import checked_barrier, offered
from tandem.diffusion.denoiser import Denoiser
from tandem.diffusion.problem import Evaluated, JointProblem, PotentialError, PotentialGrid, checked
from tandem.diffusion.result import Candidates, SampleResult
from tandem.diffusion.reverse import SolverConfig, denoise

C = TypeVar("C")
_REGISTRY: dict[str, type[Sampler[Any]]] = {}


class OutOfTimeError(Exception):
    """The deadline passed in the middle of a step. For samplers among themselves: none lets it out."""


class Run:
    """One call of a sampler: counted, checked access to denoiser and problem, and the clock."""

    def __init__(
        self, problem: JointProblem, denoiser: Denoiser, generator: torch.Generator, deadline: float | None,
        temperature: float | None = None,
    ) -> None:
        if torch.device(generator.device).type != denoiser.device.type:
            raise InputError(f"generator is on {generator.device}, the denoiser on {denoiser.device}; both must be on one device")
        self.problem, self.denoiser, self.generator = problem, denoiser, generator
        self.schedule = denoiser.schedule
        self.cond = problem.cond.to(denoiser.device, denoiser.dtype)
        self._check_fit()
        self.counters = Counters()
        self.trace: dict[str, list[float]] = {}
        self._deadline, self._temperature = deadline, temperature

    def _check_fit(self) -> None:
        """InputError: the denoiser was made for other chunks or another conditioning than the problem's."""
        asked = (self.problem.horizon, self.problem.dim, *self.cond.shape)
        made = getattr(self.denoiser, "shape", None)  # an analytic one takes what comes
        if made is not None and made != asked:
            raise InputError(
                f"{type(self.problem).__name__} asks for chunks {asked[:2]} under a conditioning {asked[2:]}, the denoiser "
                f"was made for {made[:2]} and {made[2:]}: weights of another task?"
            )
        if not bool(torch.isfinite(self.cond).all()):
            raise InputError(f"{type(self.problem).__name__}: conditioning {self.cond.tolist()}: expected finite numbers")

    def expired(self, ahead: float = 0.0) -> bool:
        """Whether the deadline has passed, or will within ``ahead`` [s]."""
        return self._deadline is not None and time.perf_counter() + ahead >= self._deadline

    def left(self) -> float:
        """Time until the deadline [s]; infinite without one."""
        return math.inf if self._deadline is None else self._deadline - time.perf_counter()

    def in_time(self) -> bool:
        """Whether the deadline has not passed yet."""
        return self._deadline is None or time.perf_counter() <= self._deadline

    def record(self, **values: float) -> None:
        """Append figures of one step to the trace."""
        for name, value in values.items():
            self.trace.setdefault(name, []).append(value)

    def noise(self, count: int) -> Tensor:
        """(count, H, D) standard normal: samples at level I."""
        shape = (count, self.problem.horizon, self.problem.dim)
        return torch.randn(shape, generator=self.generator, device=self.denoiser.device, dtype=self.denoiser.dtype)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform [0, 1) numbers in float64."""
        return torch.rand(shape, generator=self.generator, device=self.denoiser.device, dtype=torch.float64)

    def clean(self, x: Tensor, i: int) -> Tensor:
        """Clean estimate of ``x`` (N, H, D) at level ``i``; one network row each."""
        self.counters.network_rows += int(x.shape[0])
        return self.denoiser.clean(x, i, self.cond)

    def denoise(self, x: Tensor, start: int, solver: SolverConfig, stop_early: bool = False) -> tuple[Tensor, int]:
        """Whole reverse pass of ``x`` from ``start``; see :func:`tandem.diffusion.reverse.denoise`."""
        return denoise(self.schedule, self.clean, x, start, solver, self.generator, self.expired if stop_early else None)

    def evaluate(self, x: Tensor) -> tuple[Tensor, Evaluated]:
        """Denormalised chunks (N, H, D) of normalised ``x`` and the problem's handle on them."""
        raw = self.denormalise(x)
        return raw, self.problem.evaluate(raw)

    def denormalise(self, x: Tensor) -> Tensor:
        """Chunks in the data's units; InputError when the denoiser made something that is not finite."""
        raw = self.denoiser.denormalise(x)
        if not bool(torch.isfinite(raw).all()):
            bad = int((~torch.isfinite(raw)).sum())
            raise InputError(f"denoiser: {bad} of {raw.numel()} values of a clean estimate are not finite")
        return raw

    def grid(self, e: Evaluated, k: Tensor) -> PotentialGrid:
        """Potential at all pairs of N chunks and ``k`` (K, dk), checked and counted."""
        self.counters.potential_evals += e.n * int(k.shape[0])
        return self._tempered(checked(self.problem.grid(e, k), (e.n, int(k.shape[0])), "grid"))

    def pairs(self, e: Evaluated, k: Tensor) -> PotentialGrid:
        """Potential where chunk j meets ``k[j]`` of (N, P, dk), checked and counted."""
        self.counters.potential_evals += int(k.shape[0] * k.shape[1])
        return self._tempered(checked(self.problem.pairs(e, k), (e.n, int(k.shape[1])), "pairs"))

    def barrier(self, x: Tensor, method: str) -> tuple[Tensor, Tensor]:
        """The problem's specifications at normalised ``x`` (N, H, D): b (N, H, M), and its gradient (N, H, M, D) in normalised
        space.

        ``method`` names who asks, should the problem offer none.
        """
        function = offered(self.problem, "barrier", method, "the barrier functions")
        value, gradient = function(self.denormalise(x))
        value, gradient = checked_barrier(value, gradient, (int(x.shape[0]), int(x.shape[1]), int(x.shape[2])))
        self.counters.barrier_evals += int(x.shape[0])
        return value, gradient * self.scale().double()[:, :, None]

    def scale(self) -> Tensor:
        """(1, H, D) the data's units a unit of normalised space: the slope of the denoiser's affine normaliser."""
        one = torch.ones((1, self.problem.horizon, self.problem.dim), device=self.denoiser.device, dtype=self.denoiser.dtype)
        return self.denoiser.denormalise(one) - self.denoiser.denormalise(torch.zeros_like(one))

    def tightened(self, margin: float, method: str) -> Run:
        """The same call on the problem with every constraint tightened by ``margin``; counts into the same counters."""
        if margin == 0.0:
            return self
        other = copy.copy(self)
        other.problem = offered(self.problem, "tightened", method, "the tightening")(margin)
        return other

    def _tempered(self, grid: PotentialGrid) -> PotentialGrid:
        """V at the sampler's own temperature, where it has one."""
        if self._temperature is None:
            return grid
        return PotentialGrid(torch.where(grid.feasible, -grid.cost / self._temperature, -torch.inf), grid.cost, grid.depth)

    def sample_k(self, count: int) -> Tensor:
        """(count, dk) draws of p(k), checked."""
        k = self.problem.sample_k(count, self.generator)
        if tuple(k.shape) != (count, self.problem.k_dim) or not bool(torch.isfinite(k).all()):
            raise PotentialError(f"prior (sample_k): {tuple(k.shape)}, expected ({count}, {self.problem.k_dim}), all finite")
        return k

    def guess_k(self, e: Evaluated) -> Tensor | None:
        """(N, dk) the problem's own guess for each chunk of ``e``, in the box, checked; None where it offers none."""
        if not hasattr(self.problem, "guess_k"):
            return None
        k: Tensor = self.problem.guess_k(e)
        if tuple(k.shape) != (e.n, self.problem.k_dim) or not bool(torch.isfinite(k).all()):
            raise PotentialError(f"guess (guess_k): {tuple(k.shape)}, expected ({e.n}, {self.problem.k_dim}), all finite")
        return k.clamp(-1.0, 1.0)

    def log_prior(self, k: Tensor) -> Tensor:
        """log p(k) of ``k`` (..., dk) -> (...,) in float64, checked."""
        log_p = self.problem.log_prior_k(k).double()
        if log_p.shape != k.shape[:-1]:
            raise PotentialError(f"prior (log_prior_k): shape {tuple(log_p.shape)}, expected {tuple(k.shape[:-1])}")
        bad = torch.isnan(log_p) | (log_p == torch.inf)
        if bool(bad.any()):
            raise PotentialError(
                f"prior (log_prior_k): NaN or +inf in {int(bad.sum())} of {bad.numel()}; accepted: -inf or a finite number"
            )
        return log_p

    def project(self, x: Tensor, method: str) -> Tensor:
        """Normalised ``x`` (N, H, D) on the feasible chunks, by the problem's own projection, checked; ``method`` asks."""
        raw = self.denormalise(x)
        onto = offered(self.problem, "project", method, "the projection")(raw)
        if onto.shape != raw.shape or not bool(torch.isfinite(onto).all()):
            raise InputError(f"{method}: projection (project): {tuple(onto.shape)}, expected {tuple(raw.shape)}, all finite")
        return self.denoiser.normalise(onto).to(x.dtype)

    def categorical(self, log_weights: Tensor) -> Tensor:
        """Indices drawn along the last axis of unnormalised log weights (..., M) -> (...,); rows of -inf draw uniformly.

        Inverse CDF rather than ``torch.multinomial``: float64, and the same draw on every device.
        """
        top = log_weights.amax(-1, keepdim=True)
        shifted = torch.where(torch.isfinite(top), log_weights - top, torch.zeros_like(log_weights))
        cdf = shifted.exp().cumsum(-1)
        u = self.uniform(*log_weights.shape[:-1], 1) * cdf[..., -1:]
        return torch.searchsorted(cdf, u, right=True).clamp(max=log_weights.shape[-1] - 1)[..., 0]


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Each chunk with its best k. x (N, H, D) raw, k (N, dk), cost (N,) +inf where infeasible, depth (N,) least violation."""

    x: Tensor
    k: Tensor
    cost: Tensor
    depth: Tensor

    @property
    def feasible(self) -> Tensor:
        """(N,) whether the pair has V > 0."""
        return torch.isfinite(self.cost)

    @classmethod
    def best(cls, x: Tensor, k: Tensor, grid: PotentialGrid, log_prior: Tensor) -> Pairs:
        """Least J per chunk, or least depth where nothing is feasible.

        Args:
            x: (N, H, D). k: (K, dk) shared or (N, K, dk). grid: (N, K). log_prior: (K,) or (N, K); -inf excludes a k.
        """
        inside = torch.isfinite(log_prior).expand(grid.cost.shape)
        cost = torch.where(grid.feasible & inside, grid.cost, torch.inf)
        depth = torch.where(inside, grid.depth, torch.inf)
        least, index = cost.min(-1)
        index = torch.where(torch.isfinite(least), index, depth.argmin(-1))
        rows = torch.arange(x.shape[0], device=x.device)
        return cls(x, k[index] if k.ndim == 2 else k[rows, index], least, depth[rows, index])

    def take(self, index: Tensor) -> Pairs:
        """The pairs at ``index``."""
        return Pairs(self.x[index], self.k[index], self.cost[index], self.depth[index])

    def with_best_first(self, count: int) -> Pairs:
        """The ``count`` best: feasible ones by J, then the rest by depth."""
        return self.take(self._order()[:count])

    def _order(self) -> Tensor:
        """(N,) indices of all pairs: feasible by J, then the rest by depth. Two sorts: a common key would round."""
        order = torch.argsort(torch.where(self.feasible, self.cost, self.depth), stable=True)
        return order[torch.argsort((~self.feasible)[order].to(torch.uint8), stable=True)]

    def improved(self, other: Pairs) -> Pairs:
        """Chunk by chunk the better of the two, which hold the same chunks."""
        better = (other.cost < self.cost) | (~self.feasible & ~other.feasible & (other.depth < self.depth))
        return Pairs(
            self.x, torch.where(better[:, None], other.k.to(self.k), self.k),
            torch.where(better, other.cost, self.cost), torch.where(better, other.depth, self.depth),
        )

    def best_index(self) -> int:
        """Index of the least J, or of the least depth when nothing is feasible."""
        return int(self._order()[0])

    def redrawn(self, run: Run, k: Tensor, grid: PotentialGrid, log_weight: Tensor | None = None) -> Pairs:
        """The same chunks with k drawn in proportion to ``V * exp(log_weight)`` from ``k`` (K, dk) or (N, K, dk).

        Chunks without a feasible k keep theirs.
        """
        index = run.categorical(grid.log_v if log_weight is None else grid.log_v + log_weight)
        rows = torch.arange(self.x.shape[0], device=self.x.device)
        alive = grid.feasible[rows, index]
        if log_weight is not None:
            alive = alive & torch.isfinite(log_weight[rows, index])
        drawn = k[index] if k.ndim == 2 else k[rows, index]
        return Pairs(
            self.x, torch.where(alive[:, None], drawn, self.k),
            torch.where(alive, grid.cost[rows, index], torch.inf), torch.where(alive, 0.0, self.depth),
        )

    @classmethod
    def single(cls, x: Tensor, k: Tensor, grid: PotentialGrid, index: int) -> Pairs:
        """The one pair of ``x`` (1, H, D) and ``k[index]`` of (K, dk) with its values in ``grid`` (1, K)."""
        ok = grid.feasible[0, index]
        return cls(x, k[index : index + 1], torch.where(ok, grid.cost[0, index], torch.inf)[None], grid.depth[0, index][None])

    def __add__(self, other: Pairs) -> Pairs:
        return Pairs(*(torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in dataclasses.fields(self)))


class Archive:
    """The best pairs of all steps so far; what makes a sampler any-time. ``capacity``: how many are kept."""

    def __init__(self, capacity: int = 32) -> None:
        self.capacity = capacity
        self.pairs: Pairs | None = None

    def add(self, pairs: Pairs) -> None:
        """Merge ``pairs`` and keep the best."""
        merged = pairs if self.pairs is None else self.pairs + pairs
        self.pairs = merged.with_best_first(self.capacity)

    def has_feasible(self) -> bool:
        """Whether any pair kept is feasible."""
        return self.pairs is not None and bool(self.pairs.feasible[0])


def finish(run: Run, pairs: Pairs | None, chosen: int | None, complete: bool) -> SampleResult:
    """The result for ``pairs`` of which ``chosen`` was taken; None: the best by J, else by depth."""
    if pairs is None or pairs.x.shape[0] == 0:
        empty = torch.zeros((0, run.problem.horizon, run.problem.dim), device=run.denoiser.device, dtype=run.denoiser.dtype)
        none = Candidates(empty, None, torch.zeros(0, dtype=torch.bool), torch.zeros(0))
        return SampleResult(None, None, False, float("inf"), none, complete, run.in_time(), run.counters, run.trace)
    if chosen is None:
        chosen = pairs.best_index()
    feasible = bool(pairs.feasible[chosen])
    return SampleResult(
        pairs.x[chosen], pairs.k[chosen], feasible, float(pairs.cost[chosen]),
        Candidates(pairs.x, pairs.k, pairs.feasible, pairs.cost), complete, run.in_time(), run.counters, run.trace,
    )


def repair(run: Run, e: Evaluated, pairs: Pairs) -> Pairs:
    """JM2D Sec. 4.2, remark: when no pair is feasible, one optimisation of k for the best chunk (least depth).

    The outcome is re-evaluated with the problem's own potential: a solver's claim alone never makes a pair feasible.
    ``pairs`` holds one entry for each chunk of ``e``.
    """
    if bool(pairs.feasible.any()) or run.expired():
        return pairs
    j = int(pairs.depth.argmin())
    k, _, claimed = run.problem.optimise_k(e, j)
    run.counters.solver_iterations += 1
    if not claimed:
        run.counters.fail("optimise_k infeasible")
        return pairs
    k = k.to(pairs.k)
    grid = run.grid(e, k[None])
    inside = bool(torch.isfinite(run.log_prior(k[None])).all())
    if not inside or not bool(grid.feasible[j, 0]):
        run.counters.fail("optimise_k claim refuted")
        return pairs
    ks, cost, depth = pairs.k.clone(), pairs.cost.clone(), pairs.depth.clone()
    ks[j], cost[j], depth[j] = k, grid.cost[j, 0], 0.0
    return Pairs(pairs.x, ks, cost, depth)


def guessed(run: Run, e: Evaluated, pairs: Pairs) -> Pairs:
    """``pairs`` (one entry for each chunk of ``e``) improved by the problem's own guess of k, where it offers one."""
    guess = run.guess_k(e)
    if guess is None:
        return pairs
    k = guess.to(pairs.k)[:, None]
    return pairs.improved(Pairs.best(pairs.x, k, run.pairs(e, k), run.log_prior(k)))


def rejudged(run: Run, pairs: Pairs) -> Pairs:
    """The same pairs by the constraints themselves, after a search under tightened ones."""
    e, k = run.problem.evaluate(pairs.x), pairs.k[:, None]
    return Pairs.best(pairs.x, k, run.pairs(e, k), run.log_prior(k))


def rescued(run: Run, archive: Archive) -> Archive:
    """``archive``, kept under tightened constraints; judged by the constraints themselves where nothing is feasible by those."""
    if archive.has_feasible() or archive.pairs is None:
        return archive
    judged = Archive(archive.capacity)
    judged.add(rejudged(run, archive.pairs))
    return judged


def pair_with_prior(run: Run, raw: Tensor, e: Evaluated, count: int) -> Pairs:
    """Each chunk of ``raw`` (N, H, D) with the best of ``count`` draws of p(k); none feasible: one optimisation of k."""
    k = run.sample_k(count)
    return repair(run, e, Pairs.best(raw, k, run.grid(e, k), run.log_prior(k)))


def refine_k(run: Run, pairs: Pairs, rounds: int, count: int, scale: float) -> Pairs:
    """Local random search on k for every chunk: ``rounds`` times ``count`` Gaussian steps around the best so far, halving the
    scale.

    Steps are clamped to the box [-1, 1]. Rows of ``pairs`` keep their order.
    """
    if rounds == 0:
        return pairs
    e = run.problem.evaluate(pairs.x)
    for _ in range(rounds):
        if run.expired():
            break
        shape = (pairs.k.shape[0], count, pairs.k.shape[1])
        jump = torch.randn(shape, generator=run.generator, device=pairs.k.device, dtype=pairs.k.dtype) * scale
        k = (pairs.k[:, None] + jump).clamp(-1.0, 1.0)
        new = Pairs.best(pairs.x, k, run.pairs(e, k), run.log_prior(k))
        pairs = pairs.improved(new)
        scale *= 0.5
    return pairs


class Sampler(ABC, Generic[C]):
    """One algorithm. Subclasses set ``name`` and ``config_type`` and write :meth:`_sample`."""

    name: ClassVar[str]
    config_type: ClassVar[type[Any]]

    def __init__(self, config: C | None = None) -> None:
        self.config: C = self.config_type() if config is None else config

    def sample(
        self, problem: JointProblem, denoiser: Denoiser, *, generator: torch.Generator, deadline: float | None = None
    ) -> SampleResult:
        """Draw one plan (x, k).

        Args:
            problem: one plan's problem. denoiser: model of p(x). generator: all randomness, on the denoiser's device.
            deadline: ``time.perf_counter()`` time [s] to be done by; past it the best pair found so far is returned.

        Raises:
            PotentialError: the problem's values are NaN or misshapen. InputError: devices differ.
        """
        with torch.inference_mode():
            return self._sample(Run(problem, denoiser, generator, deadline, getattr(self.config, "temperature", None)))

    @abstractmethod
    def _sample(self, run: Run) -> SampleResult:
        """The algorithm."""

    @abstractmethod
    def network_rows(self, steps: int) -> int:
        """Network rows one full call costs with a denoiser of ``steps`` steps."""

    def to_dict(self) -> dict[str, Any]:
        """What :func:`make_sampler` rebuilds this sampler from."""
        return {"method": self.name, **to_dict(self.config)}


def register(cls: type[Sampler[Any]]) -> type[Sampler[Any]]:
    """Class decorator: enter a sampler under its name."""
    if cls.name in _REGISTRY:
        raise ConfigError(f"sampler {cls.name!r} is registered twice")
    _REGISTRY[cls.name] = cls
    return cls


def sampler_names() -> tuple[str, ...]:
    """Names of all registered methods."""
    return tuple(sorted(_REGISTRY))


def make_sampler(data: dict[str, Any], where: str = "sampler") -> Sampler[Any]:
    """A sampler from ``{"method": name, setting: value, ...}``.

    Raises:
        ConfigError: no or unknown method, unknown key, value out of range.
    """
    if not isinstance(data, dict) or not isinstance(data.get("method"), str):
        raise ConfigError(f"{where}: expected a mapping with method: one of {', '.join(sampler_names())}")
    if data["method"] not in _REGISTRY:
        raise ConfigError(f"{where}: method = {data['method']!r}: accepted: one of {', '.join(sampler_names())}")
    cls = _REGISTRY[data["method"]]
    return cls(from_dict(cls.config_type, {k: v for k, v in data.items() if k != "method"}, where))


def load_sampler(name_or_path: str | Path) -> Sampler[Any]:
    """A sampler from ``config/samplers/<name>.yaml`` or from a YAML file given by its path (see :func:`make_sampler`)."""
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = config_file("samplers", f"{name_or_path}.yaml")
    return make_sampler(read_yaml(path), str(path))

