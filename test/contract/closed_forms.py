"""Problems with a known p(x, k) ~ p(x) p(k) V(x, k), and an exact denoiser for Gaussian mixtures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tandem.diffusion.problem import Chunks, PotentialGrid
from tandem.diffusion.reverse import SolverConfig, denoise
from tandem.diffusion.schedules import ScheduleConfig, make_schedule

STEPS = 6
LogV = Callable[[Tensor, Tensor], Tensor]


class MixtureDenoiser:
    """E[x_0 | x_i] of an even mixture of isotropic Gaussians: means (M, D), one standard deviation. H = 1."""

    def __init__(self, means: list[list[float]], std: float, dtype: torch.dtype = torch.float64, steps: int = STEPS) -> None:
        self.schedule = make_schedule(ScheduleConfig(steps=steps))
        self.means = torch.tensor(means, dtype=dtype)
        self.var = std * std
        self.dtype, self.device = dtype, torch.device("cpu")

    def clean(self, x: Tensor, i: int, cond: Tensor) -> Tensor:
        """Posterior mean (N, 1, D) of x (N, 1, D)."""
        a = self.schedule.alpha_bar[i]
        total = a * self.var + 1.0 - a
        off = x - math.sqrt(a) * self.means[None]
        w = torch.softmax(-0.5 * (off * off).sum(-1) / total, dim=-1)
        component = self.means[None] + (math.sqrt(a) * self.var / total) * off
        return (w[..., None] * component).sum(1, keepdim=True)

    def normalise(self, x: Tensor) -> Tensor:
        """Units are the same."""
        return x

    def denormalise(self, x: Tensor) -> Tensor:
        """Units are the same."""
        return x


class Stretched(MixtureDenoiser):
    """Units of the data: 3 y + 1 for normalised y."""

    def denormalise(self, x: Tensor) -> Tensor:
        """To the data's units."""
        return 3.0 * x + 1.0

    def normalise(self, x: Tensor) -> Tensor:
        """From the data's units."""
        return (x - 1.0) / 3.0


class PairProblem:
    """x and k both in R^D, p(k) uniform on the box, V = exp(log_v(x, k)) with log_v (..., D), (..., D) -> (...)."""

    horizon = 1

    previous: Tensor | None = None

    def __init__(self, log_v: LogV, dim: int = 1, depth: LogV | None = None, edge: float = 0.2) -> None:
        self.cond = torch.zeros(0)
        self.dim = self.k_dim = dim
        self.log_v, self.depth, self.edge = log_v, depth, edge
        self.evaluations = 0

    def sample_k(self, count: int, generator: torch.Generator) -> Tensor:
        """Uniform."""
        return 2.0 * torch.rand((count, self.k_dim), generator=generator, dtype=torch.float64) - 1.0

    def log_prior_k(self, k: Tensor) -> Tensor:
        """0 in the box."""
        return torch.where((k.abs() <= 1.0).all(-1), 0.0, -torch.inf)

    def evaluate(self, x: Tensor) -> Chunks:
        """Nothing to prepare."""
        return Chunks(x)

    def _grid(self, x: Tensor, k: Tensor) -> PotentialGrid:
        log_v = self.log_v(x, k)
        self.evaluations += log_v.numel()
        depth = torch.where(log_v > -torch.inf, 0.0, torch.ones_like(log_v) if self.depth is None else self.depth(x, k))
        return PotentialGrid(log_v, torch.where(log_v > -torch.inf, -log_v, torch.inf), depth)

    def grid(self, e: Chunks, k: Tensor) -> PotentialGrid:
        """(N, K)."""
        return self._grid(e.x[:, 0][:, None], k[None])

    def pairs(self, e: Chunks, k: Tensor) -> PotentialGrid:
        """(N, P)."""
        return self._grid(e.x[:, 0][:, None], k)

    def guess_k(self, e: Chunks) -> Tensor:
        """A deliberately lopsided guess: it must not show in any law."""
        return (0.5 * e.x[:, 0] + 0.3).double()

    def guidance(self, x: Tensor) -> Tensor:
        """Half the squared distance to 0.4: with a Gaussian prior a known pull."""
        return 0.5 * ((x - 0.4) ** 2).flatten(1).sum(1)

    def project(self, x: Tensor) -> Tensor:
        """Onto x >= 0.2."""
        return x.clamp(min=0.2)

    def barrier(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x - edge for every value: a half-space each."""
        return x - self.edge, torch.eye(self.dim, dtype=x.dtype).expand(*x.shape, -1)

    def log_potential(self, x: Tensor, k: Tensor) -> Tensor:
        """Log V in plain torch."""
        return self.log_v(x[:, 0][:, None], k[None])

    def tightened(self, margin: float) -> PairProblem:
        """V = 0 nearer than ``margin`` to the edge as well."""
        def log_v(x: Tensor, k: Tensor) -> Tensor:
            return torch.where((x >= self.edge + margin).all(-1), self.log_v(x, k), -torch.inf)

        def depth(x: Tensor, k: Tensor) -> Tensor:
            return (self.edge + margin - x).clamp(min=0.0).sum(-1) + 0.0 * k.sum(-1)

        return PairProblem(log_v, self.dim, depth, self.edge)

    def optimise_k(self, e: Chunks, index: int) -> tuple[Tensor, float, bool]:
        """Dense search (D = 1)."""
        k = torch.linspace(-1.0, 1.0, 401, dtype=torch.float64)[:, None].expand(-1, self.k_dim)
        grid = self._grid(e.x[index : index + 1, 0][:, None], k[None])
        best = int(grid.log_v[0].argmax())
        return k[best], float(grid.cost[0, best]), bool(grid.feasible[0, best])


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of x and of k, the share of x > 0, and the mean of abs(x - k)."""

    x: float
    x_std: float
    k: float
    k_std: float
    right: float
    gap: float


def reference(problem: PairProblem, denoiser: MixtureDenoiser, count: int = 20_000, points: int = 201) -> Moments:
    """The target's moments: x from plain reverse passes (p(x) is the discretised model's own law), k by quadrature (D = 1)."""
    g = torch.Generator().manual_seed(1234)
    noise = torch.randn((count, 1, 1), generator=g, dtype=denoiser.dtype)
    x, _ = denoise(
        denoiser.schedule, lambda y, i: denoiser.clean(y, i, problem.cond), noise, denoiser.schedule.steps, SolverConfig(), g
    )
    k = torch.linspace(-1.0, 1.0, points, dtype=torch.float64)[:, None]
    v = torch.cat([problem.grid(Chunks(part), k).log_v.double().exp() for part in x.split(4000)])
    px, pk = v.sum(1) / v.sum(), v.sum(0) / v.sum()
    xs, ks = x[:, 0, 0].double(), k[:, 0]
    mx, mk = float(px @ xs), float(pk @ ks)
    return Moments(
        mx, math.sqrt(float(px @ (xs - mx) ** 2)), mk, math.sqrt(float(pk @ (ks - mk) ** 2)), float(px @ (xs > 0.0).double()),
        float((v * (xs[:, None] - ks).abs()).sum() / v.sum()),
    )


def moments(x: Tensor, k: Tensor) -> Moments:
    """Of samples x, k (R,)."""
    right, gap = float((x > 0.0).double().mean()), float((x - k).abs().mean())
    return Moments(float(x.mean()), float(x.std()), float(k.mean()), float(k.std()), right, gap)


def gaussian() -> tuple[PairProblem, MixtureDenoiser]:
    """Gaussian prior, Gaussian potential that couples x and k and pulls k to 0.5."""
    def log_v(x: Tensor, k: Tensor) -> Tensor:
        return (-0.5 * ((x - k) / 0.2) ** 2 - 0.5 * ((k - 0.5) / 0.3) ** 2).sum(-1)

    return PairProblem(log_v), MixtureDenoiser([[0.0]], 0.35)


def mixture() -> tuple[PairProblem, MixtureDenoiser]:
    """Two modes of x of which the potential prefers one, through k."""
    def log_v(x: Tensor, k: Tensor) -> Tensor:
        return (-0.5 * ((x - k) / 0.15) ** 2 - 0.5 * ((k - 0.15) / 0.5) ** 2).sum(-1)

    return PairProblem(log_v), MixtureDenoiser([[-0.55], [0.55]], 0.12)


def half_space() -> tuple[PairProblem, MixtureDenoiser]:
    """V = 1 where x > 0.2 and |x - k| < 0.3."""
    def log_v(x: Tensor, k: Tensor) -> Tensor:
        inside = (x[..., 0] > 0.2) & ((x - k).abs()[..., 0] < 0.3)
        return torch.where(inside, 0.0, -torch.inf)

    def depth(x: Tensor, k: Tensor) -> Tensor:
        return torch.maximum((0.2 - x[..., 0]).clamp(min=0.0), ((x - k).abs()[..., 0] - 0.3).clamp(min=0.0))

    return PairProblem(log_v, depth=depth), MixtureDenoiser([[0.0]], 0.35)


def box() -> tuple[PairProblem, MixtureDenoiser]:
    """V = 1 where -0.6 < x < -0.1 and k < x."""
    def log_v(x: Tensor, k: Tensor) -> Tensor:
        inside = (x[..., 0] > -0.6) & (x[..., 0] < -0.1) & (k[..., 0] < x[..., 0])
        return torch.where(inside, 0.0, -torch.inf)

    def depth(x: Tensor, k: Tensor) -> Tensor:
        along = torch.maximum(-0.6 - x[..., 0], x[..., 0] + 0.1)
        return torch.maximum(along, k[..., 0] - x[..., 0]).clamp(min=0.0)

    return PairProblem(log_v, depth=depth), MixtureDenoiser([[0.0]], 0.35)


def guided() -> tuple[PairProblem, MixtureDenoiser]:
    """V of x alone: conditional generation (JM2D, Cor. 3), free of the bias that JM2D's noiseless k has."""
    def log_v(x: Tensor, k: Tensor) -> Tensor:
        return (-0.5 * ((x - 0.5) / 0.3) ** 2 + 0.0 * k).sum(-1)

    return PairProblem(log_v), MixtureDenoiser([[0.0]], 0.35)


TARGETS = {"guided": guided, "gaussian": gaussian, "mixture": mixture, "half_space": half_space, "box": box}


def without_potential(case: str) -> tuple[PairProblem, MixtureDenoiser]:
    """A target's p(x) p(k)."""
    return PairProblem(lambda x, k: 0.0 * (x + k).sum(-1)), TARGETS[case]()[1]
