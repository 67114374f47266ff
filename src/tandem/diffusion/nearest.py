"""The nearest point of a polyhedron, many at once: ``min |x - y|^2`` subject to ``A x >= b``, exactly.

What SafeDiffuser (Eqs. 13, 14) solves for every waypoint and DPCC for every chunk. One constraint has a closed form
(:func:`onto_half_space`); several are solved by the dual active-set method of Goldfarb & Idnani (Math. Programming 27, 1983),
which starts at the unconstrained minimum, adds one violated constraint at a time and drops those that hinder, and either ends at
the exact solution or proves that there is none. Every operation is batched over the problems, so thousands of small ones cost
one pass on whatever device they are on; a library's solver would be called once for each. float64 throughout.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tandem.core.errors import InputError

#: a constraint (scaled to a unit normal) counts as kept when it is violated by no more than this
TOLERANCE = 1e-9


def onto_half_space(y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest points to ``y`` (..., D) with ``a . x >= b``, for a (..., D) and b (...).

    Returns:
        x (..., D) and whether there is one (...): a = 0 with b > 0 holds nowhere, and x is y there.
    """
    lack = (b - (a * y).sum(-1)).clamp(min=0.0)
    square = (a * a).sum(-1)
    solvable = (square > 0.0) | (lack <= 0.0)
    shift = torch.where(square > 0.0, lack / square.clamp(min=torch.finfo(a.dtype).tiny), 0.0)
    return y + shift[..., None] * a, solvable


def nearest(y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest points to ``y`` (B, D) with ``a x >= b``, for a (B, M, D), b (B, M); rows with b = -inf ask for nothing.

    Returns:
        x (B, D) float64, and (B,) whether the constraints can be met at all; where not, or not to within rounding, x is y.

    Raises:
        InputError: NaN, or shapes that do not fit.
    """
    if a.ndim != 3 or y.shape != (a.shape[0], a.shape[2]) or b.shape != a.shape[:2]:
        raise InputError(f"nearest: y {tuple(y.shape)}, a {tuple(a.shape)}, b {tuple(b.shape)} are not (B, D), (B, M, D), (B, M)")
    if bool(torch.isnan(y).any() | ~torch.isfinite(a).all() | torch.isnan(b).any()):
        raise InputError("nearest: y, a or b contains NaN, or a is not finite")
    y, a, b = y.double(), a.double(), b.double()
    norm = a.norm(dim=-1)
    flat = norm <= 1e-12
    hopeless = (flat & (b > TOLERANCE)).any(-1) | (b == torch.inf).any(-1)
    unit = a / torch.where(flat, torch.ones_like(norm), norm)[..., None]
    bound = torch.where(flat | (b == torch.inf), -torch.inf, b / torch.where(flat, torch.ones_like(norm), norm))
    x, solvable = _active_set(y, unit, bound)
    solvable = solvable & ~hopeless
    return torch.where(solvable[:, None], x, y), solvable


def _active_set(y: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Goldfarb & Idnani on unit normals ``a`` (B, M, D); rows leave the working set as they finish."""
    out, solvable = y.clone(), torch.ones(y.shape[0], dtype=torch.bool, device=y.device)
    rows = ((a @ y[..., None])[..., 0] < b - TOLERANCE).any(-1).nonzero()[:, 0]
    x, a, b = y[rows], a[rows], b[rows]
    multiplier = torch.zeros_like(b)
    active = torch.zeros_like(b, dtype=torch.bool)
    chosen = torch.full(rows.shape, -1, dtype=torch.long, device=y.device)  # the constraint being added, -1: pick one
    gain = torch.zeros(rows.shape, dtype=y.dtype, device=y.device)  # its multiplier so far
    for _ in range(20 * (b.shape[1] + 1)):
        lack = b - (a @ x[..., None])[..., 0]
        worst, index = torch.where(active, -torch.inf, lack).max(-1)
        picked = torch.where(chosen < 0, index, chosen)
        done = (chosen < 0) & (worst <= TOLERANCE)
        normal = a.gather(1, picked[:, None, None].expand(-1, 1, a.shape[2]))[:, 0]
        dual = _onto_active(a, active, normal)  # r of the paper: how the active multipliers change
        move = normal - (a.mT @ dual[..., None])[..., 0]  # z: the step that keeps the active constraints
        square = (move * move).sum(-1)
        free = square > 1e-14
        missing = lack.gather(1, picked[:, None])[:, 0]
        full = torch.where(free, missing / square.clamp(min=1e-300), torch.inf)
        blocking = torch.where(active & (dual > 1e-12), multiplier / dual.clamp(min=1e-300), torch.inf)
        partial, dropped = blocking.min(-1)
        length = torch.minimum(full, partial)
        dead = ~done & torch.isinf(length)
        finished = done | dead
        out[rows[done]] = x[done]
        solvable[rows[dead]] = False
        length = torch.where(finished, 0.0, length)
        x = x + torch.where(free, length, 0.0)[:, None] * move
        multiplier = torch.where(active, (multiplier - length[:, None] * dual).clamp(min=0.0), 0.0)
        gain = gain + length
        added = ~finished & (full <= partial)
        removed = ~finished & ~added
        at = torch.arange(len(rows), device=y.device)
        active[at[removed], dropped[removed]] = False
        active[at[added], picked[added]] = True
        multiplier[at[added], picked[added]] = gain[added]
        chosen = torch.where(removed, picked, -1)
        gain = torch.where(removed, gain, 0.0)
        keep = ~finished
        rows, x, a, b = rows[keep], x[keep], a[keep], b[keep]
        multiplier, active, chosen, gain = multiplier[keep], active[keep], chosen[keep], gain[keep]
        if len(rows) == 0:
            return out, solvable
    solvable[rows] = False  # no end: contradictory to within rounding
    return out, solvable


def _onto_active(a: Tensor, active: Tensor, normal: Tensor) -> Tensor:
    """(B, M) coefficients of the projection of ``normal`` (B, D) onto the span of the active normals, 0 where inactive."""
    used = torch.where(active[..., None], a, 0.0)
    gram = used @ used.mT + torch.diag_embed((~active).double())
    target = (used @ normal[..., None])[..., 0]
    dual, singular = torch.linalg.solve_ex(gram, target)
    bad = singular > 0  # normals that depend on each other but for rounding
    if bool(bad.any()):
        dual[bad] = (torch.linalg.pinv(gram[bad], hermitian=True) @ target[bad][..., None])[..., 0]
    return dual
