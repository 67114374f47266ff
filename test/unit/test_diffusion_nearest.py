"""The batched nearest point against an independent solver: least distance programming by SciPy's NNLS (Lawson & Hanson, ch.
23).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, nnls

from tandem.core.errors import InputError
from tandem.diffusion.nearest import TOLERANCE, nearest, onto_half_space


def least_distance(y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """min |x - y| with a x >= b, or None where empty: Lawson & Hanson's LDP, one problem."""
    if linprog(np.zeros(len(y)), A_ub=-a, b_ub=-b, bounds=[(None, None)] * len(y)).status == 2:
        return None
    h = b - a @ y
    e = np.vstack([a.T, h[None]])
    f = np.zeros(len(y) + 1)
    f[-1] = 1.0
    u, _ = nnls(e, f, maxiter=1000)
    r = e @ u - f
    return y - r[:-1] / r[-1]


@given(st.integers(1, 16), st.integers(1, 40), st.integers(0, 2**31 - 1), st.floats(-1.0, 1.0))
@settings(max_examples=80, deadline=None)
def test_nearest_is_the_least_distance_point(dim: int, count: int, seed: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    batch = 7
    y, a, b = rng.normal(size=(batch, dim)), rng.normal(size=(batch, count, dim)), rng.normal(size=(batch, count)) + offset
    if seed % 3 == 0 and count > 1:
        a[:, 1] = a[:, 0]  # parallel constraints: the active set must not become dependent
    x, ok = nearest(torch.from_numpy(y), torch.from_numpy(a), torch.from_numpy(b))
    for n in range(batch):
        want = least_distance(y[n], a[n], b[n])
        assert bool(ok[n]) == (want is not None)
        if want is not None:
            scale = 1.0 + np.abs(want).max()
            assert np.all(a[n] @ x[n].numpy() >= b[n] - 1e-6 * scale)
            assert np.linalg.norm(x[n].numpy() - y[n]) <= np.linalg.norm(want - y[n]) + 1e-6 * scale
            assert np.allclose(x[n].numpy(), want, atol=1e-4 * scale)


def test_batch_is_a_loop_of_singles_and_nothing_moves_that_need_not() -> None:
    g = torch.Generator().manual_seed(0)
    y, a, b = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((50, 3), (50, 5, 3), (50, 5)))
    x, ok = nearest(y, a, b - 1.0)
    for n in range(50):
        one, fine = nearest(y[n : n + 1], a[n : n + 1], b[n : n + 1] - 1.0)
        assert bool(fine) == bool(ok[n]) and torch.allclose(one[0], x[n], atol=1e-10)
    kept = ((a @ y[..., None])[..., 0] >= b - 1.0).all(-1)
    assert bool(kept.any()) and torch.equal(x[kept], y[kept])


def test_contradictions_are_told() -> None:
    y = torch.tensor([[0.3]], dtype=torch.float64)
    a, b = torch.tensor([[[1.0], [-1.0]]], dtype=torch.float64), torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    x, ok = nearest(y, a, b)
    assert not bool(ok[0]) and torch.equal(x, y)
    x, ok = nearest(y, torch.zeros_like(a), b)
    assert not bool(ok[0])
    x, ok = nearest(y, torch.zeros_like(a), -b)
    assert bool(ok[0]) and torch.equal(x, y)
    x, ok = nearest(y, a, torch.tensor([[0.5, -math.inf]], dtype=torch.float64))
    assert bool(ok[0]) and float(x) == pytest.approx(0.5)


def test_one_constraint_has_its_closed_form() -> None:
    g = torch.Generator().manual_seed(1)
    y, a, b = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((40, 4), (40, 4), (40,)))
    x, ok = onto_half_space(y, a, b)
    want, _ = nearest(y, a[:, None], b[:, None])
    assert bool(ok.all()) and torch.allclose(x, want, atol=1e-9)
    _, ok = onto_half_space(y, 0.0 * a, b.abs() + 1.0)
    assert not bool(ok.any())


def test_bad_input_is_a_typed_error() -> None:
    y, a, b = torch.zeros(2, 3), torch.zeros(2, 4, 3), torch.zeros(2, 4)
    with pytest.raises(InputError, match="are not"):
        nearest(y[:1], a, b)
    with pytest.raises(InputError, match="NaN"):
        nearest(y, a, torch.full_like(b, math.nan))


@pytest.mark.parametrize("apart", [1e-4, 1e-6, 1e-7, 3e-8, 1e-8])
def test_constraints_that_nearly_depend_on_each_other_are_kept_or_told_to_contradict(apart: float) -> None:
    """Normals ``apart`` from a few directions' sums: no exception, and a point that is given is feasible."""
    rng = np.random.default_rng(0)
    dim, count, batch = 8, 20, 300
    a = rng.normal(size=(batch, count, 4)) @ rng.normal(size=(batch, 4, dim)) + apart * rng.normal(size=(batch, count, dim))
    a /= np.linalg.norm(a, axis=-1, keepdims=True)
    inside = rng.normal(size=(batch, dim))  # so there is a solution, and many constraints are active near it
    b = (a @ inside[..., None])[..., 0] - np.abs(rng.normal(size=(batch, count))) * rng.choice([0.0, 1e-3], (batch, count))
    y = inside + rng.normal(size=(batch, dim))
    x, ok = (t.numpy() for t in nearest(torch.from_numpy(y), torch.from_numpy(a), torch.from_numpy(b)))
    assert ok.mean() > 0.3 and (x[~ok] == y[~ok]).all()
    assert (b - (a @ x[..., None])[..., 0])[ok].max() <= 2.0 * TOLERANCE
    near = np.linalg.norm(x - y, axis=-1) <= np.linalg.norm(inside - y, axis=-1) + 1e-5
    assert near[ok].all() if apart > 1e-5 else near[ok].mean() > 0.9  # rounding takes the nearest away, not what is feasible
