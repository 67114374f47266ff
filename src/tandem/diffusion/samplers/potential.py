"""Weights made of a grid of potentials: with J standardised as model-based diffusion does, and by violation depth where V = 0."""

from __future__ import annotations

import torch
from torch import Tensor

from tandem.diffusion.problem import PotentialGrid


def standardised(grid: PotentialGrid, temperature: float) -> Tensor:
    """(N, K) -J / temperature with J standardised over the feasible pairs (MBD), -inf where infeasible."""
    values = grid.cost[grid.feasible]
    if values.numel() < 2:
        return grid.log_v
    cost = (grid.cost - values.mean()) / values.std().clamp(min=1e-12)
    return torch.where(grid.feasible, -cost / temperature, -torch.inf)


def graded(grid: PotentialGrid, temperature: float) -> Tensor:
    """(N, K) weights by violation depth, standardised over pairs where one is known: a stand-in for V where V = 0 everywhere."""
    known = torch.isfinite(grid.depth)
    values = grid.depth[known]
    if values.numel() == 0:
        return torch.full_like(grid.depth, -torch.inf)
    spread = values.std(unbiased=False).clamp(min=1e-12)
    return torch.where(known, -(grid.depth - values.min()) / (spread * temperature), -torch.inf)
