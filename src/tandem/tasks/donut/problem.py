"""Two joint problems on the donut: the longest path among obstacles (Fig. 2), and generation under a tight constraint (Fig.
5).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tandem.core.errors import InputError
from tandem.diffusion.constraints import autograd_barrier
from tandem.diffusion.problem import Chunks, PotentialGrid
from tandem.tasks.donut.data import INNER, OUTER

#: k = 1 stands for this coordinate of the waypoint
REACH = 1.3
#: how far outside its set a point counts as on its boundary: samples are float32
ROUNDING = 1e-5
#: lambda of V = exp(length / lambda)
TEMPERATURE = 0.15


class DonutPath:
    """p(x) p(k) V(x, k) with V = exp(length / lambda) where start - waypoint - goal misses every circle, else 0 (JM2D, Fig. 2).

    Args:
        circles: (C, 3) centre and radius of each obstacle. margin: further distance to keep (for the tight variant).

    Raises:
        InputError: circles are malformed, or leave no point of the donut free.
    """

    horizon, dim, k_dim = 2, 2, 2

    def __init__(self, circles: Tensor, margin: float = 0.0, device: torch.device | str = "cpu") -> None:
        circles = torch.as_tensor(circles, dtype=torch.float64, device=device)
        shaped = circles.ndim == 2 and circles.shape[1] == 3
        if not shaped or not bool(torch.isfinite(circles).all() & (circles[:, 2] > 0.0).all()):
            raise InputError(f"donut: circles {tuple(circles.shape)}: expected (C, 3), finite, every radius > 0")
        self.circles, self.margin = circles, margin
        self.cond = torch.zeros(0, device=device)
        if not bool(self.free(_ring(device)).any()):
            raise InputError("donut: the obstacles cover the whole donut: no start or goal is free")

    def free(self, points: Tensor) -> Tensor:
        """(P,) whether points (P, 2) lie outside all circles."""
        gap = (points[:, None].double() - self.circles[:, :2]).norm(dim=-1) - self.circles[:, 2] - self.margin
        return (gap > 0.0).all(-1)

    def sample_k(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, 2) uniform on the box."""
        return 2.0 * torch.rand((count, 2), generator=generator, device=self.cond.device) - 1.0

    def log_prior_k(self, k: Tensor) -> Tensor:
        """0 in the box, -inf outside."""
        return torch.where((k.abs() <= 1.0).all(-1), 0.0, -torch.inf).to(k.dtype)

    def evaluate(self, x: Tensor) -> Chunks:
        """Nothing to prepare."""
        return Chunks(x.double())

    def grid(self, e: Chunks, k: Tensor) -> PotentialGrid:
        """(N, K)."""
        return self._potential(e.x[:, None], REACH * k.double()[None])

    def pairs(self, e: Chunks, k: Tensor) -> PotentialGrid:
        """(N, P)."""
        return self._potential(e.x[:, None], REACH * k.double())

    def log_potential(self, x: Tensor, k: Tensor) -> Tensor:
        """(N, K) log V, differentiable in x (N, 2, 2) and k (K, 2) where V > 0 (JM2D, Appx. B)."""
        return self._potential(x[:, None].double(), REACH * k.double()[None]).log_v

    def _potential(self, x: Tensor, waypoint: Tensor) -> PotentialGrid:
        """V of x (N, 1, 2, 2) with waypoints (N or 1, K, 2)."""
        start, goal = x[:, :, 0], x[:, :, 1]
        gap = torch.minimum(self._gap(start, waypoint), self._gap(waypoint, goal))
        length = (waypoint - start).norm(dim=-1) + (goal - waypoint).norm(dim=-1)
        ok = gap > 0.0
        return PotentialGrid(
            torch.where(ok, length / TEMPERATURE, -torch.inf), torch.where(ok, -length, torch.inf), (-gap).clamp(min=0.0)
        )

    def path(self, x: Tensor, k: Tensor) -> Tensor:
        """(3, 2) start, waypoint and goal of x (2, 2) with k (2,)."""
        return torch.stack([x[0].double(), REACH * k.double(), x[1].double()])

    def _gap(self, a: Tensor, b: Tensor) -> Tensor:
        """(N, K) least distance of the segments a - b (N or 1, K or 1, 2) from the circles, less margin; +inf without circles."""
        a, b = torch.broadcast_tensors(a, b)
        along, centre = (b - a)[..., None, :], self.circles[:, :2]
        t = ((centre - a[..., None, :]) * along).sum(-1) / along.square().sum(-1).clamp(min=1e-18)
        nearest = a[..., None, :] + t.clamp(0.0, 1.0)[..., None] * along
        gap = (nearest - centre).norm(dim=-1) - self.circles[:, 2] - self.margin
        return gap.amin(-1) if len(self.circles) else torch.full(a.shape[:-1], torch.inf, dtype=a.dtype, device=a.device)

    def barrier(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distance of start and goal from every circle (N, 2, C), and its gradient."""
        def gap(y: Tensor) -> Tensor:
            return (y.double()[:, :, None] - self.circles[:, :2]).norm(dim=-1) - self.circles[:, 2] - self.margin

        return autograd_barrier(gap, x)

    def tightened(self, margin: float) -> DonutPath:
        """Circles grown by ``margin``."""
        return DonutPath(self.circles, self.margin + margin, self.cond.device)

    def optimise_k(self, e: Chunks, index: int) -> tuple[Tensor, float, bool]:
        """The longest free path of one pair: a dense grid over the box, then finer ones around its best point."""
        one, centre, half = Chunks(e.x[index : index + 1]), torch.zeros(2, dtype=torch.float64, device=e.x.device), 1.0
        line = torch.linspace(-1.0, 1.0, 41, dtype=torch.float64, device=e.x.device)
        offsets = torch.cartesian_prod(line, line)
        best, least = centre, float("inf")
        for _ in range(4):
            k = (centre + half * offsets).clamp(-1.0, 1.0)
            cost = self.grid(one, k).cost[0]
            j = int(cost.argmin())
            if not float(cost[j]) < least and least < float("inf"):
                break
            best, least = k[j], float(cost[j])
            if not np.isfinite(least):
                break
            centre, half = best, half / 20.0
        return best, least, bool(np.isfinite(least))


class DonutConstraint:
    """Generation without k under a tight constraint: both points within one of a few disks (JM2D, Sec. 5.2, Fig. 5).

    One disk overlaps the donut, one lies in its hole: feasible, but out of distribution.

    Args:
        disks: (M, 3) centre and radius; the feasible set of a point is their union. margin: their radii are this much smaller.

    Raises:
        InputError: disks are malformed, or the margin leaves nothing of any.
    """

    horizon, dim, k_dim = 2, 2, 0

    def __init__(self, disks: Tensor, margin: float = 0.0, device: torch.device | str = "cpu") -> None:
        disks = torch.as_tensor(disks, dtype=torch.float64, device=device)
        if disks.ndim != 2 or disks.shape[1] != 3 or len(disks) == 0 or not bool(torch.isfinite(disks).all()):
            raise InputError(f"donut: disks {tuple(disks.shape)}: expected (M, 3), M >= 1, finite")
        if not bool((disks[:, 2] > margin).any()):
            raise InputError(f"donut: empty feasible set: every radius is <= margin = {margin}")
        self.disks, self.margin = disks[disks[:, 2] > margin], margin
        self.cond = torch.zeros(0, device=device)

    def inside(self, points: Tensor) -> Tensor:
        """(..., 2) -> (...) how far inside the feasible set, negative outside: the union's own signed distance bound."""
        gap = self.disks[:, 2] - self.margin - (points[..., None, :].double() - self.disks[:, :2]).norm(dim=-1)
        return gap.amax(-1)

    def feasible(self, x: Tensor) -> Tensor:
        """(N,) whether both points of x (N, 2, 2) are."""
        return (self.inside(x) >= -ROUNDING).all(-1)

    def sample_k(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, 0): there is no k."""
        return torch.zeros((count, 0), device=self.cond.device)

    def log_prior_k(self, k: Tensor) -> Tensor:
        """0."""
        return torch.zeros(k.shape[:-1], dtype=k.dtype, device=k.device)

    def evaluate(self, x: Tensor) -> Chunks:
        """Nothing to prepare."""
        return Chunks(x.double())

    def grid(self, e: Chunks, k: Tensor) -> PotentialGrid:
        """(N, K), the same for every k."""
        depth = (-self.inside(e.x)).clamp(min=0.0).sum(-1)[:, None].expand(-1, k.shape[-2])
        ok = self.feasible(e.x)[:, None].expand_as(depth)
        zero = torch.zeros_like(depth)
        return PotentialGrid(torch.where(ok, zero, -torch.inf), torch.where(ok, zero, torch.inf), torch.where(ok, zero, depth))

    def pairs(self, e: Chunks, k: Tensor) -> PotentialGrid:
        """(N, P)."""
        return self.grid(e, k)

    def barrier(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One specification a point: how far inside the nearest disk, (N, 2, 1), and its gradient."""
        return autograd_barrier(lambda y: self.inside(y)[..., None], x)

    def guidance(self, x: Tensor) -> Tensor:
        """(N,) how far outside the points are, summed."""
        return (-self.inside(x)).clamp(min=0.0).sum(-1)

    def project(self, x: Tensor) -> Tensor:
        """Each point to the nearest point of the nearest disk (PDM)."""
        away = x[..., None, :].double() - self.disks[:, :2]
        distance = away.norm(dim=-1)
        radius = self.disks[:, 2] - self.margin
        nearest = (distance - radius).argmin(-1)
        pick = nearest[..., None, None].expand(*nearest.shape, 1, 2)
        away, reach = away.gather(-2, pick)[..., 0, :], distance.gather(-1, nearest[..., None])
        inside = (radius[nearest][..., None] / reach.clamp(min=1e-12)).clamp(max=1.0)
        return (self.disks[nearest][..., :2] + inside * away).to(x.dtype)

    def tightened(self, margin: float) -> DonutConstraint:
        """Disks shrunk by ``margin``."""
        return DonutConstraint(self.disks, self.margin + margin, self.cond.device)

    def optimise_k(self, e: Chunks, index: int) -> tuple[Tensor, float, bool]:
        """There is nothing to optimise."""
        return torch.zeros(0, device=self.cond.device), 0.0, bool(self.feasible(e.x[index : index + 1])[0])


@dataclass(frozen=True)
class DonutScene:
    """A Fig. 2 scene: ``count`` circles of ``radius`` (low, high), placed by ``seed`` over the square around the donut."""

    count: int
    seed: int
    radius: tuple[float, float] = (0.08, 0.22)

    def circles(self) -> Tensor:
        """(count, 3)."""
        rng = np.random.default_rng([self.seed, self.count])
        low, high = self.radius
        centre = rng.uniform(-1.1, 1.1, (self.count, 2))
        return torch.from_numpy(np.concatenate([centre, rng.uniform(low, high, (self.count, 1))], axis=1))

    def problem(self, device: torch.device | str = "cpu") -> DonutPath:
        """The joint problem of this scene."""
        return DonutPath(self.circles(), device=device)

    def key(self) -> str:
        """For file names and tables."""
        return "-".join(str(v) for v in dataclasses.astuple(self)[:2])


#: Fig. 5's constraint: a disk on the donut's right, and one in its hole. The paper gives no size. A pair is valid with
#: probability .025: a first step of N = 128 clean samples then has a valid one in 96 % of runs, without which 60 of 64 cannot be
FIG5_DISKS = ((0.75, 0.0, 0.4), (0.0, 0.0, 0.22))
#: a harder one: probability .004, in six first steps of ten none of 128 is valid
TIGHT_DISKS = ((0.75, 0.0, 0.22), (0.0, 0.0, 0.22))


def _ring(device: torch.device | str) -> Tensor:
    """(P, 2) points that cover the donut densely."""
    r = torch.linspace(INNER, OUTER, 24, dtype=torch.float64, device=device)
    angle = torch.linspace(0.0, 2.0 * torch.pi, 180, dtype=torch.float64, device=device)
    grid = torch.cartesian_prod(r, angle)
    return grid[:, :1] * torch.stack([grid[:, 1].cos(), grid[:, 1].sin()], dim=-1)
