"""The donut's geometry and its data: pairs of points, each uniform over the annulus INNER <= |p| <= OUTER. Lengths have no unit.

The paper gives no dimensions; these are ours, and every figure of the donut is to be read with them.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

INNER, OUTER = 0.5, 1.0
#: how far from the annulus a point may be to count as in distribution: the trained density's soft edge
TOLERANCE = 0.05


def pairs(count: int, seed: int = 0) -> NDArray[np.float32]:
    """(count, 2, 2) start and goal, independent and uniform over the annulus."""
    rng = np.random.default_rng(seed)
    radius = np.sqrt(rng.uniform(INNER**2, OUTER**2, (count, 2)))
    angle = rng.uniform(0.0, 2.0 * np.pi, (count, 2))
    out: NDArray[np.float32] = (radius[..., None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)).astype(np.float32)
    return out


def off_donut(points: Tensor) -> Tensor:
    """(...) distance of points (..., 2) from the annulus, 0 inside."""
    radius = points.norm(dim=-1)
    return torch.maximum(INNER - radius, radius - OUTER).clamp(min=0.0)


def in_distribution(x: Tensor) -> Tensor:
    """(N,) whether both points of each pair (N, 2, 2) lie on the donut, to within TOLERANCE."""
    return (off_donut(x) <= TOLERANCE).all(-1)


def chamfer(a: Tensor, b: Tensor) -> float:
    """Chamfer distance of two point sets (A, D) and (B, D): mean distance to the nearest of the other set, both ways, halved."""
    d = torch.cdist(a.double(), b.double())
    return 0.5 * float(d.amin(1).mean() + d.amin(0).mean())
