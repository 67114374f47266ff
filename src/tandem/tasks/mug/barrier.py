"""The arm's clearance at every waypoint of a chunk as a barrier function, for samplers that need one (SafeDiffuser, DPCC,
guidance).

b(x_h) = clearance of the arm at the inverse kinematics of waypoint h, less a margin for what lies between waypoints. Its
gradient is taken with respect to the hand's position with its orientation held: through the damped pseudo-inverse of the tool's
Jacobian, so that a forearm near an obstacle counts too. A waypoint that the arm cannot reach has no clearance: it is left alone
(+inf), for noise is no place to avoid, and the potential judges the outcome. The entry of a chunk
(:func:`~tandem.tasks.mug.chunks.entered`) mixes waypoints and fades within 0.4 s; it is left out here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tandem.core.se3 import matrix_from_rot6d, pose
from tandem.robots.inverse import IkStatus, solve_chunk
from tandem.robots.kinematics import jacobian
from tandem.robots.model import ArmModel
from tandem.safety import PackedScene
from tandem.safety.clearance import clearance
from tandem.tasks.mug.config import MugConfig

Array = NDArray[np.float64]

#: damping of the pseudo-inverse
DAMPING = 1e-3


def waypoint_barrier(
    arm: ArmModel, packed: PackedScene, config: MugConfig, mug: Array, q0: Array, chunk: Array, margin: float
) -> tuple[Array, Array]:
    """b (N, H) [m] and its gradient (N, H, 10) for chunks (N, H, 10) in the frame of ``mug`` (4, 4), from joints ``q0`` (n,).

    ``packed``: obstacles, timed so that 0 is the switch time. ``margin``: clearance asked for [m].
    """
    n, h = chunk.shape[:2]
    target = mug @ pose(chunk[..., :3], matrix_from_rot6d(chunk[..., 3:9]))
    ik = solve_chunk(arm, q0, target, dt=config.dt, posture=np.asarray(config.posture))
    times = np.broadcast_to(config.dt * np.arange(1, h + 1), (n, h))
    value, by_joint = clearance(arm, packed, ik.q, times)
    j = jacobian(arm, ik.q)
    gram = j @ np.swapaxes(j, -1, -2) + DAMPING * np.eye(6)
    by_twist = np.linalg.solve(gram, (j @ by_joint[..., None]))[..., 0]
    gradient = np.zeros((n, h, chunk.shape[-1]))
    gradient[..., :3] = by_twist[..., :3] @ mug[:3, :3]
    reached = (ik.status != IkStatus.NOT_CONVERGED) & np.isfinite(value)
    return np.where(reached, value - margin, np.inf), np.where(reached[..., None], gradient, 0.0)
