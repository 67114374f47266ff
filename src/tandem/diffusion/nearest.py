"""The nearest point of a polyhedron, many at once: ``min |x - y|^2`` subject to ``A x >= b``, exactly.

What SafeDiffuser (Eqs. 13, 14) solves for every waypoint and DPCC for every chunk. One constraint has a closed form
(:func:`onto_half_space`); several are solved by the dual active-set method of Goldfarb & Idnani (Math. Programming 27, 1983),
which starts at the unconstrained minimum, adds one violated constraint at a time and drops those that hinder, and either ends at
the exact solution or proves that there is none. One compiled loop over the problems, on the processor wherever the tensors are:
they are small, need some ten steps each that depend on each other, and a library's solver would be called from Python once for
each. float64 throughout.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from tandem.core.errors import InputError

Array = NDArray[np.float64]

#: a constraint (scaled to a unit normal) counts as kept when it is violated by no more than this
TOLERANCE = 1e-9
#: a unit normal whose part outside the active normals' span is shorter than this depends on them
DEPENDENT = 1e-7
#: a multiplier that falls no faster than this a unit of the added one's does not limit the step
FALLING = 1e-12


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
    x, solvable = np.empty(y.shape), np.empty(len(y), dtype=np.bool_)
    here, normals, bounds = (v.cpu().contiguous().numpy() for v in (y, unit, bound))
    _solve(here, normals, bounds, x, solvable)
    ok = torch.from_numpy(solvable).to(y.device) & ~hopeless
    return torch.where(ok[:, None], torch.from_numpy(x).to(y.device), y), ok


def compile_nearest() -> None:
    """Fill numba's cache, so that the first plan does not wait for it."""
    one = torch.ones((1, 1), dtype=torch.float64)
    nearest(one, one[None], one)


@njit(cache=True, error_model="numpy")
def _solve(y: Array, a: Array, b: Array, x: Array, solvable: NDArray[np.bool_]) -> None:
    """Fill ``x`` (B, D) and ``solvable`` (B,), problem by problem."""
    for n in range(y.shape[0]):
        x[n] = y[n]
        solvable[n] = _active_set(a[n], b[n], x[n])


@njit(cache=True, error_model="numpy")
def _active_set(a: Array, b: Array, x: Array) -> bool:
    """Goldfarb & Idnani's Alg. 1 on unit normals ``a`` (M, D): move ``x`` (D,) to the solution; false: there is none.

    The active normals are kept as ``normal_j = sum_i triangle[i, j] basis[i]`` with an orthonormal basis, in the order in which
    they were added.
    """
    constraints, size = a.shape
    basis, triangle = np.zeros((size, size)), np.zeros((size, size))
    active, is_active = np.empty(size, dtype=np.int64), np.zeros(constraints, dtype=np.bool_)
    multiplier, part, dual, move = np.zeros(size), np.zeros(size), np.zeros(size), np.zeros(size)
    count, picked, gain = 0, -1, 0.0  # picked: the constraint being added, -1: none yet; gain: its multiplier so far
    for _ in range(20 * (constraints + 1)):
        if picked < 0:
            picked, gain = _most_violated(a, b, x, is_active), 0.0
            if picked < 0:
                return True
        square = _split(a[picked], basis, count, part, move)  # move: z of the paper, which keeps the active constraints
        _back_substitute(triangle, part, count, dual)  # r of the paper: how the active multipliers fall
        free = square > DEPENDENT * DEPENDENT
        full = (b[picked] - np.dot(a[picked], x)) / square if free else np.inf
        partial, hindering = np.inf, -1
        for j in range(count):
            if dual[j] > FALLING and multiplier[j] / dual[j] < partial:
                partial, hindering = multiplier[j] / dual[j], j
        length = min(full, partial)
        if length == np.inf:
            return False
        if free:
            x += length * move
        for j in range(count):
            multiplier[j] = max(multiplier[j] - length * dual[j], 0.0)
        gain += length
        if full <= partial:
            root = np.sqrt(square)
            basis[count] = move / root
            triangle[:count, count], triangle[count, count] = part[:count], root
            active[count], multiplier[count], is_active[picked] = picked, gain, True
            count, picked = count + 1, -1
        else:
            is_active[active[hindering]] = False
            active[hindering : count - 1] = active[hindering + 1 : count].copy()
            multiplier[hindering : count - 1] = multiplier[hindering + 1 : count].copy()
            _drop(triangle, basis, hindering, count)
            count -= 1
    return False  # no end: contradictory to within rounding


@njit(cache=True, error_model="numpy")
def _most_violated(a: Array, b: Array, x: Array, is_active: NDArray[np.bool_]) -> int:
    """The inactive constraint that ``x`` violates most, -1 where it violates none."""
    picked, worst = -1, TOLERANCE
    for m in range(a.shape[0]):
        if not is_active[m] and b[m] - np.dot(a[m], x) > worst:
            picked, worst = m, b[m] - np.dot(a[m], x)
    return picked


@njit(cache=True, error_model="numpy")
def _split(normal: Array, basis: Array, count: int, part: Array, rest: Array) -> float:
    """Fill ``part`` with the normal's coordinates in the basis' first ``count`` rows, ``rest`` with what is left; its square."""
    part[:] = 0.0
    rest[:] = normal
    for _ in range(2):  # twice is enough (Kahan): once leaves rounding of the part in the rest
        for i in range(count):
            share = np.dot(basis[i], rest)
            part[i] += share
            rest -= share * basis[i]
    return np.dot(rest, rest)


@njit(cache=True, error_model="numpy")
def _back_substitute(triangle: Array, part: Array, count: int, out: Array) -> None:
    """Fill ``out`` with the solution of ``triangle out = part``, both cut to ``count``."""
    for i in range(count - 1, -1, -1):
        out[i] = (part[i] - np.dot(triangle[i, i + 1 : count], out[i + 1 : count])) / triangle[i, i]


@njit(cache=True, error_model="numpy")
def _drop(triangle: Array, basis: Array, column: int, count: int) -> None:
    """Take a column out of the triangle; the rows below it are turned (Givens) until it is one again, and the basis with them.

    What is left below its diagonal is rounding, and never read.
    """
    for j in range(column, count - 1):
        triangle[: j + 2, j] = triangle[: j + 2, j + 1]
    for j in range(column, count - 1):
        length = np.hypot(triangle[j, j], triangle[j + 1, j])
        c, s = triangle[j, j] / length, triangle[j + 1, j] / length
        for matrix in (triangle, basis):
            upper, lower = matrix[j].copy(), matrix[j + 1].copy()
            matrix[j] = c * upper + s * lower
            matrix[j + 1] = c * lower - s * upper
