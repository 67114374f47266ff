"""The joint problem of one plan in the maze: chunk x of controls, backup k, and V(x, k) from the point mass's reachability.

The first controls of a chunk are its head; the ball then follows the backup (accelerate for 0.5 s, at rest after 1 s).
V(x, k) = exp(-J / lambda) where head and backup keep clear of the padded walls, 0 elsewhere; J = mean squared distance between
the backup and what the chunk itself does after its head (RAIL). Certified is what the simulator plays: the head as the straight
pieces it moves on, the backup as parabolas whose ends it meets at every step and from which it is off by less than
:data:`TRACKING` in between.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem.core.config import setting
from tandem.core.errors import InputError
from tandem.core.types import Counters
from tandem.diffusion.denoiser import NetworkDenoiser
from tandem.diffusion.problem import PotentialGrid
from tandem.safety.pointmass import PointFamily, certify_point_grid, certify_points, find_point_backup, pack_walls
from tandem.tasks.maze.layout import cell_at, free_cells, wall_boxes
from tandem.tasks.maze.physics import CONTACT_MARGIN, DT, RADIUS, TOP_SPEED, State, rollout
from tandem.tasks.maze.train import HORIZON, encode

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: what motor and damping leave at any speed up to the greatest [m/s^2]
ACCELERATION = 22.5
#: a chord of DT of any certified parabola is nearer to it than this: a DT^2 / 8 [m]
TRACKING = 3e-4
#: depth [m] of a pair that is infeasible for another reason than distance
DEEPEST = 1.0
#: RTD's choice of k [m/s^2]: the whole box, and the degraded planners of JM2D's Table F.3
BACKUPS: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "original": ((-7.5, -7.5), (7.5, 7.5)), "+x+y": ((0.0, 0.0), (7.5, 7.5)), "-x-y": ((-7.5, -7.5), (0.0, 0.0)),
}


@dataclass(frozen=True)
class MazeConfig:
    """What is asked of a plan."""

    padding: float = setting(0.0, "by what walls grow on all sides, w", unit="m", lo=0.0, hi=0.3)
    execute: int = setting(5, "controls of a head", lo=1, hi=HORIZON - 1)
    temperature: float = setting(0.05, "lambda of V = exp(-J / lambda)", unit="m^2", lo=1e-9, hi=1e3)
    backup: str = setting("original", "choice of k", choices=tuple(BACKUPS))

    def family(self) -> PointFamily:
        """The backups."""
        low, high = BACKUPS[self.backup]
        return PointFamily(acceleration=ACCELERATION, speed=TOP_SPEED, k_low=low, k_high=high)


@dataclass(frozen=True)
class Heads:
    """Chunks played out: positions and speeds (N, H + 1, 2), and which heads are clear (N,) with their clearance (N,) [m]."""

    p: Array
    v: Array
    clear: Flags
    clearance: Array
    device: torch.device

    @property
    def n(self) -> int:
        """Number of chunks."""
        return len(self.p)

    @property
    def valid(self) -> Tensor:
        """(N,) every chunk of controls is a motion."""
        return torch.ones(self.n, dtype=torch.bool, device=self.device)


@dataclass
class MazeProblem:
    """Implements ``diffusion.problem.GuessingProblem`` for one plan from ``state`` to ``goal`` (2,) [m]."""

    config: MazeConfig
    state: State
    goal: Array
    cond: Tensor
    rng: np.random.Generator
    counters: Counters = field(default_factory=Counters)
    margin: float = 0.0

    horizon, dim, k_dim = HORIZON, 2, 2

    def __post_init__(self) -> None:
        self._check(self.state, self.goal)
        self.family = self.config.family()
        self._walls = pack_walls(wall_boxes())
        self._grown = self.config.padding + RADIUS + CONTACT_MARGIN + TRACKING + self.margin
        self._low, self._high = np.array(self.family.k_low), np.array(self.family.k_high)

    @staticmethod
    def _check(state: State, goal: Array) -> None:
        if not all(np.shape(x) == (2,) and np.isfinite(x).all() for x in (state.p, state.v, goal)):
            raise InputError(f"maze: state {state}, goal {goal}: expected (2,) each, finite")

    @classmethod
    def make(
        cls, config: MazeConfig, state: State, goal: Array, denoiser: NetworkDenoiser, rng: np.random.Generator
    ) -> MazeProblem:
        """A plan of the policy ``denoiser``.

        Raises:
            InputError: state or goal malformed, or a goal in a wall or outside the maze, which nothing reaches.
        """
        cls._check(state, goal)
        if cell_at(goal) not in free_cells():
            raise InputError(f"maze: goal {goal.tolist()} m is in a wall or outside; accepted: a point in one of the free cells")
        raw = torch.as_tensor(encode(state.p, state.v, goal), device=denoiser.device)
        return cls(config, state, goal, denoiser.normalise_cond(raw), rng)

    def tightened(self, margin: float) -> MazeProblem:
        """The same with walls grown by ``margin`` [m] more."""
        return MazeProblem(self.config, self.state, self.goal, self.cond, self.rng, self.counters, self.margin + margin)

    # --- prior over k: uniform on the box -----------------------------------------------------------------------------------
    def sample_k(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, 2) from p(k)."""
        return 2.0 * torch.rand((count, 2), generator=generator, device=self.cond.device, dtype=self.cond.dtype) - 1.0

    def log_prior_k(self, k: Tensor) -> Tensor:
        """0 in the box, -inf outside."""
        return torch.where((k.abs() <= 1.0).all(-1), 0.0, -torch.inf).to(k.dtype)

    def acceleration(self, k: Tensor) -> Array:
        """k in [-1, 1] as an acceleration [m/s^2]."""
        share = 0.5 * (k.detach().cpu().numpy().astype(np.float64) + 1.0)
        out: Array = self._low + share * (self._high - self._low)
        return out

    def normalised(self, a: Array) -> Tensor:
        """The inverse of :meth:`acceleration`."""
        share = 2.0 * (a - self._low) / (self._high - self._low) - 1.0
        return torch.as_tensor(share, device=self.cond.device, dtype=torch.float64)

    # --- V(x, k) ------------------------------------------------------------------------------------------------------------
    def evaluate(self, x: Tensor) -> Heads:
        """Play chunks (N, 32, 2) out and check all of their heads but the last piece, which the grid checks."""
        p, v = rollout(self.state.p, self.state.v, x.detach().cpu().numpy())
        n, pieces = len(p), self.config.execute - 1
        clear: Flags = np.ones(n, dtype=np.bool_)
        clearance: Array = np.full(n, np.inf)
        if pieces:
            verdict = certify_points(
                self.family, np.array([0.0, DT]), *_pieces(p[:, : pieces + 1], v[:, 1 : pieces + 1]), self._walls, self._grown,
                at_rest=False,
            )
            clear = np.all(verdict.certified.reshape(n, pieces), axis=1)
            clearance = np.where(verdict.certified, np.inf, verdict.clearance).reshape(n, pieces).min(1)
        self.counters.fail("head not clear", int(n - clear.sum()))
        return Heads(p, v, clear, clearance, self.cond.device)

    def _potential(self, heads: Heads, k: Array) -> PotentialGrid:
        """V for backups (K, 2), shared, or (N, K, 2) [m/s^2]."""
        end = self.config.execute
        p, v, a = _pieces(heads.p[:, end - 1 : end + 1], heads.v[:, end : end + 1])
        grid = certify_point_grid(self.family, np.array([0.0, DT]), p, v, a, k, self._walls, self._grown)
        feasible = grid.feasible & heads.clear[:, None]
        self.counters.potential_evals += feasible.size
        cost = self.family.cost(*self._ends(heads), self._tail(heads), self._tail_times(), k)
        depth = np.clip(-np.minimum(grid.clearance, heads.clearance[:, None]), 0.0, DEEPEST)
        tensor: dict[str, Any] = {"device": self.cond.device, "dtype": torch.float64}
        log_v = np.where(feasible, -cost / self.config.temperature, -np.inf)
        values = (log_v, np.where(feasible, cost, np.inf), np.where(feasible, 0.0, depth))
        return PotentialGrid(*(torch.as_tensor(value, **tensor) for value in values))

    def grid(self, e: Heads, k: Tensor) -> PotentialGrid:
        """(N, K)."""
        return self._potential(e, self.acceleration(k))

    def pairs(self, e: Heads, k: Tensor) -> PotentialGrid:
        """(N, P)."""
        return self._potential(e, self.acceleration(k))

    def _ends(self, heads: Heads) -> tuple[Array, Array]:
        """States (N, 2) at the heads' ends."""
        return heads.p[:, self.config.execute], heads.v[:, self.config.execute]

    def _tail(self, heads: Heads) -> Array:
        """(N, T, 2) what the chunks do after their heads."""
        return heads.p[:, self.config.execute + 1 :]

    def _tail_times(self) -> Array:
        """(T,) [s] from the head's end."""
        return DT * np.arange(1, HORIZON - self.config.execute + 1, dtype=np.float64)

    # --- the model-based module ---------------------------------------------------------------------------------------------
    def guess_k(self, e: Heads) -> Tensor:
        """(N, 2) the k of least J, clear or not: J is a separable quadratic in k."""
        p, v = self._ends(e)
        f = self.family.basis(self._tail_times())
        rest = p[:, None] * f[0][:, None] + v[:, None] * f[1][:, None] - self._tail(e)
        best = -np.einsum("ntd,t->nd", rest, f[2]) / float(f[2] @ f[2])
        return self.normalised(np.clip(best, self._low, self._high))

    def optimise_k(self, e: Heads, index: int) -> tuple[Tensor, float, bool]:
        """The clear backup of least J for chunk ``index`` (JM2D Eq. 1; RAIL's optimisation), by batched search."""
        p, v = (state[index] for state in self._ends(e))
        found = find_point_backup(
            self.family, p, v, self._walls, self._grown, tail=self._tail(e)[index], tail_times=self._tail_times(), rng=self.rng
        )
        if found is None or not e.clear[index]:
            return torch.zeros(2, dtype=torch.float64, device=self.cond.device), float("inf"), False
        return self.normalised(found.k), found.cost, True

    # --- the filter -----------------------------------------------------------------------------------------------------------
    def certified(self, x: Tensor, k: Tensor) -> bool:
        """Whether the pair (H, 2), (2,) may be played: checked anew, whatever a sampler claims."""
        if not bool((k.abs() <= 1.0).all()):
            return False
        return bool(self.pairs(self.evaluate(x[None]), k[None, None]).feasible[0, 0])


def _pieces(p: Array, v: Array) -> tuple[Array, Array, Array]:
    """Straight pieces of dt as motions of their own: p, v (N * M, 2, 2), a (N * M, 1, 2), from p (N, M + 1, 2), v (N, M, 2)."""
    ends: Array = np.stack([p[:, :-1], p[:, 1:]], axis=2).reshape(-1, 2, 2)
    speeds: Array = np.repeat(v.reshape(-1, 1, 2), 2, axis=1)
    return ends, speeds, np.zeros((len(ends), 1, 2))
