"""One plan of the Avoiding task as a problem for the samplers (JM2D, Sec. 5.3: conditional generation, there is no k).

A chunk (H, 6) holds desired position, actual position and change of the desired one at each step. V(x) = 1 where both positions
it predicts, each joined by straight lines from the present actual one, keep the scene's constraints; 0 elsewhere. (The desired
one counts, too: it is where the arm comes to rest when no plan follows.) Predicted is how the positions *change* from the chunk's
first state on, added to the present one: the first state itself is off by some millimetres, and what follows by the same. The
pillars are not among the constraints: those the policy has learned. As in the paper no dynamics are used, except by DPCC, which
asks for them.
With ``ahead`` the potential is exp(-J / lambda) there, with J the way that is left at the chunk's end; with ``rest`` the motion
to rest after a chunk's first actions has to keep the constraints, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tandem.core.errors import InputError
from tandem.diffusion.constraints import LinearConstraints, onto_barrier
from tandem.diffusion.denoiser import NetworkDenoiser
from tandem.diffusion.problem import Chunks, PotentialGrid
from tandem.tasks.avoiding.ahead import WayAhead
from tandem.tasks.avoiding.dataset import ACTION, STATE
from tandem.tasks.avoiding.rest import RestMotion
from tandem.tasks.avoiding.scene import Scene

#: where a chunk's columns begin: desired position, actual position, action
DESIRED, ACTUAL, MOVE = 0, 2, 4
#: MPD's cost: waypoints nearer than this to a constraint are pushed away [m]; cost a metre
GUIDANCE_MARGIN, GUIDANCE_SCALE = 0.02, 100.0
#: lambda of V = exp(-J / lambda) [m]
TEMPERATURE = 0.01


@dataclass(frozen=True)
class Judged(Chunks):
    """Chunks x (N, H, 6); their depth (N,), summed violation [m], 0 where feasible; J (N,) [m]."""

    depth: Tensor
    cost: Tensor


class AvoidingProblem:
    """Implements :class:`~tandem.diffusion.problem.JointProblem` and what projecting and guiding methods ask for.

    Args:
        scene: the constraints, on the denoiser's device. state: (4,) desired and actual position now [m]. denoiser: normalises
            the conditioning. previous: (H, 6) the last plan, shifted to now, None at the first. ahead: gives J; None: J = 0.
            rest: how the arm comes to rest, from ``velocity`` (2,) of its actual position [m/s] now; None: V does not ask.

    Raises:
        InputError: ``rest`` without a velocity: to take a moving arm for a standing one would call feasible what is not.
    """

    dim, k_dim = STATE + ACTION, 0

    def __init__(
        self, scene: Scene, state: Tensor, denoiser: NetworkDenoiser, previous: Tensor | None = None,
        ahead: WayAhead | None = None, rest: RestMotion | None = None, velocity: Tensor | None = None,
    ) -> None:
        self.scene, self.settings, self.previous = scene, scene.settings, previous
        self.horizon = scene.settings.horizon
        self.state = state.to(scene.lines.device, torch.float64)
        if rest is not None and velocity is None:
            raise InputError("avoiding: the motion to rest begins at the arm's velocity: expected (2,) [m/s], got none")
        self._ahead, self._rest = ahead, rest
        self._velocity = None if velocity is None else velocity.to(self.state)
        self.cond = denoiser.normalise_cond(state)

    def sample_k(self, count: int, generator: torch.Generator) -> Tensor:
        """(count, 0): there is no k."""
        return torch.zeros((count, 0), device=self.cond.device)

    def log_prior_k(self, k: Tensor) -> Tensor:
        """0."""
        return torch.zeros(k.shape[:-1], dtype=k.dtype, device=k.device)

    def evaluate(self, x: Tensor) -> Judged:
        """Violation along both predicted paths (and to rest): each segment's deepest, summed; none beyond the goal line."""
        now = self.state[ACTUAL:MOVE].expand(x.shape[0], 1, 2)
        states = x[..., :MOVE].double()
        states = self.state + (states[:, 1:] - states[:, :1])
        path = torch.cat([now, states[..., ACTUAL:MOVE]], dim=1)
        desired = torch.cat([now, states[..., DESIRED:ACTUAL]], dim=1)
        zero = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
        cost = zero if self._ahead is None else self._ahead(path[:, -1])
        if self.scene.count == 0:
            return Judged(x, zero, cost)
        depth = self._depth(torch.cat([path, desired]))
        depth = depth[: len(x)] + depth[len(x) :]
        if self._rest is not None and self._velocity is not None:
            depth = depth + self._depth(torch.cat([now, self._rest(self.state, self._velocity, x[..., MOVE:])], dim=1))
        return Judged(x, depth, cost)

    def _depth(self, paths: Tensor) -> Tensor:
        """(N,) violation along ``paths`` (N, T, 2): each segment's deepest, summed [m]."""
        depth = (-self.scene.swept(paths)).clamp(min=0.0).amax(-1)
        return torch.where(paths[:, :-1, 1] < self.settings.goal_y, depth, 0.0).sum(-1)

    def outside(self) -> bool:
        """Whether the arm is, now, where a constraint (with its margin) forbids it to be."""
        return self.scene.count > 0 and float(self.scene.distance(self.state[None, ACTUAL:MOVE]).min()) < 0.0

    def grid(self, e: Judged, k: Tensor) -> PotentialGrid:
        """(N, K), the same for every k."""
        depth, cost = (v[:, None].expand(-1, k.shape[-2]) for v in (e.depth, e.cost))
        out = depth > 0.0
        return PotentialGrid(torch.where(out, -torch.inf, -cost / TEMPERATURE), torch.where(out, torch.inf, cost), depth)

    def pairs(self, e: Judged, k: Tensor) -> PotentialGrid:
        """(N, P)."""
        return self.grid(e, k)

    def optimise_k(self, e: Judged, index: int) -> tuple[Tensor, float, bool]:
        """There is nothing to optimise."""
        return torch.zeros(0, device=self.cond.device), float(e.cost[index]), float(e.depth[index]) == 0.0

    def barrier(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distances of the actual positions (N, H, M) and their gradients; beyond the goal line nothing applies."""
        actual = x[..., ACTUAL:MOVE]
        value = self.scene.distance(actual)
        gradient = value.new_zeros((*value.shape, self.dim))
        gradient[..., ACTUAL:MOVE] = self.scene.slope(actual)
        beyond = (x[..., ACTUAL + 1] >= self.settings.goal_y)[..., None]
        beyond = beyond | (torch.arange(self.horizon, device=x.device) == 0)[None, :, None]  # what is, cannot be changed
        return torch.where(beyond, torch.inf, value), torch.where(beyond[..., None], 0.0, gradient)

    def guidance(self, x: Tensor) -> Tensor:
        """(N,) hinge on the distances, summed over waypoints and constraints (MPD)."""
        lack = (GUIDANCE_MARGIN - self.scene.distance(x[:, 1:, ACTUAL:MOVE])).clamp(min=0.0)
        return GUIDANCE_SCALE * (lack * (x[:, 1:, ACTUAL + 1, None] < self.settings.goal_y)).sum((1, 2))

    def project(self, x: Tensor) -> Tensor:
        """Waypoints moved onto the nearest constraint's boundary (PDM)."""
        return onto_barrier(self, x)

    def tightened(self, margin: float) -> AvoidingProblem:
        """The same with ``margin`` [m] more distance to keep. Near a constraint the start may lie within it."""
        other = AvoidingProblem.__new__(AvoidingProblem)
        other.__dict__.update(self.__dict__)
        other.scene = self.scene.tightened(margin)
        return other

    def linear(self) -> LinearConstraints:
        """Present state, ``d' = d + a``, and ``p' = p + drift (d - p) + gain a`` as fitted to the training data; limits of a."""
        h, d = self.horizon, self.dim
        matrix, offset = np.zeros((STATE * h, h, d)), np.zeros(STATE * h)
        for axis in range(STATE):
            matrix[axis, 0, axis] = 1.0
        offset[:STATE] = self.state.cpu().numpy()
        row = STATE
        for n in range(h - 1):
            for axis in range(2):
                drift, gain = self.settings.drift[axis], self.settings.gain[axis]
                desired, actual, move = DESIRED + axis, ACTUAL + axis, MOVE + axis
                matrix[row, n + 1, desired], matrix[row, n, desired], matrix[row, n, move] = 1.0, -1.0, -1.0
                matrix[row + 1, n + 1, actual], matrix[row + 1, n, actual] = 1.0, drift - 1.0
                matrix[row + 1, n, desired], matrix[row + 1, n, move] = -drift, -gain
                row += 2
        device = self.cond.device
        lower, upper = (torch.full((h, d), v, dtype=torch.float64, device=device) for v in (-torch.inf, torch.inf))
        lower[:, MOVE:] = torch.tensor(self.settings.action_low, dtype=torch.float64, device=device)
        upper[:, MOVE:] = torch.tensor(self.settings.action_high, dtype=torch.float64, device=device)
        flat = torch.from_numpy(matrix.reshape(STATE * h, h * d)).to(device)
        return LinearConstraints(flat, torch.from_numpy(offset).to(device), lower, upper)
