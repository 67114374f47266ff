"""Occupancies as zonotopes, in the layout of zonopy: row 0 the centre, then one generator a row."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import InputError
from tandem.core.trajectory import Trajectory
from tandem.robots.model import ArmModel
from tandem.safety.bounds import Bounds
from tandem.safety.certify import occupancy

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


def support(rows: Array, directions: Array) -> Array:
    """(..., D) support function ``n c + sum_i |n g_i|`` of zonotopes (..., G + 1, 3) in directions (D, 3)."""
    value: Array = directions @ rows[..., 0, :, None]
    return value[..., 0] + np.abs(np.einsum("dk,...gk->...dg", directions, rows[..., 1:, :])).sum(axis=-1)


def unit_ball(generators: int) -> Array:
    """(G, 3) generators of a zonotope around the unit ball: 3 make a cube, 6 a rhombic triacontahedron (17 % too far at most).

    A zonotope's faces are perpendicular to two generators each; scaled so that the nearest face touches the ball, it encloses it.

    Raises:
        InputError: another number.
    """
    if generators == 3:
        return np.eye(3)
    if generators != 6:
        raise InputError(f"generators = {generators}: accepted: 3 or 6")
    golden = 0.5 * (1.0 + np.sqrt(5.0))
    axes = np.array([[0, 1, golden], [0, -1, golden], [1, golden, 0], [-1, golden, 0], [golden, 0, 1], [golden, 0, -1]])
    normals = np.array([np.cross(axes[i], axes[j]) for i, j in combinations(range(6), 2)])
    normals /= np.linalg.norm(normals, axis=1)[:, None]
    nearest = np.abs(normals @ axes.T).sum(axis=1).min()
    scaled: Array = axes / nearest * (1.0 + 1e-12)
    return scaled


def occupancy_zonotopes(
    arm: ArmModel, trajectory: Trajectory, bounds: Bounds, edges: Array, *, generators: int = 6
) -> tuple[Array, IntArray]:
    """Zonotopes that contain every point of the arm during each interval; the balls of :func:`occupancy`, enclosed.

    Args:
        edges: (N + 1,) times [s]. generators: of each zonotope, see :func:`unit_ball`.

    Returns:
        (N, S, G + 1, 3) zonotopes [m] in zonopy's layout (``zonopy.batchZonotope(torch.as_tensor(result))``), link of each (S,).

    Raises:
        InputError: as :func:`occupancy`; an unknown number of generators.
    """
    shape = unit_ball(generators)
    centers, radii, link = occupancy(arm, trajectory, bounds, edges)
    rows = np.concatenate([centers[:, :, None], radii[:, :, None, None] * shape], axis=2)
    return rows, link
