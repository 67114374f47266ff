"""D4RL's point mass in MuJoCo, and the same motion in closed form.

MuJoCo's Euler step, damping treated implicitly, is ``v' = keep cut(v) + gain u``, ``p' = p + dt v'`` while nothing is touched:
the ball moves on straight pieces of dt each. What the planner predicts is therefore what the simulator does, between its steps
too. Constants: D4RL ``maze_model.py`` (Apache-2.0).
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from tandem.core.errors import InputError
from tandem.tasks.maze.layout import HALF, wall_boxes

Array = NDArray[np.float64]

#: a step of simulation and control [s]
DT = 0.01
#: ball of the particle [m], its mass at 1,000 kg/m^3 [kg], and the damping of its joints [N s/m]
RADIUS = 0.1
MASS = 4.0 / 3.0 * np.pi * RADIUS**3 * 1000.0
DAMPING = 1.0
#: force at control 1 [N]; controls lie in [-1, 1]
GEAR = 100.0
#: speed of each axis is cut to this before a step [m/s]
SPEED = 5.0
#: a contact begins to push at this distance [m]
CONTACT_MARGIN = 0.002
KEEP = MASS / (MASS + DT * DAMPING)
GAIN = DT * GEAR / (MASS + DT * DAMPING)


#: greatest speed after a step, which is cut only before the next one
TOP_SPEED = KEEP * SPEED + GAIN


def rollout(p0: ArrayLike, v0: ArrayLike, u: ArrayLike) -> tuple[Array, Array]:
    """Positions and speeds (N, T + 1, 2) [m, m/s] under controls ``u`` (N, T, 2), cut to [-1, 1], from (2,) or (N, 2).

    Without walls.
    """
    u = np.ascontiguousarray(u, dtype=np.float64)
    p, v = np.empty((u.shape[0], u.shape[1] + 1, 2)), np.empty((u.shape[0], u.shape[1] + 1, 2))
    p[:, 0], v[:, 0] = p0, v0
    _roll(u, p, v)
    return p, v


@njit(cache=True, error_model="numpy")
def _roll(u: Array, p: Array, v: Array) -> None:
    """Fill p and v (N, T + 1, 2) from their first rows on."""
    for i in range(u.shape[0]):
        for n in range(u.shape[1]):
            for d in range(2):
                v[i, n + 1, d] = KEEP * min(max(v[i, n, d], -SPEED), SPEED) + GAIN * min(max(u[i, n, d], -1.0), 1.0)
                p[i, n + 1, d] = p[i, n, d] + DT * v[i, n + 1, d]


def control_for(v: Array, wanted: Array) -> Array:
    """The control under which speed ``v`` (..., 2) becomes ``wanted`` in one step [m/s]; outside [-1, 1] it cannot be had."""
    u: Array = (wanted - KEEP * np.clip(v, -SPEED, SPEED)) / GAIN
    return u


@dataclass(frozen=True)
class State:
    """Position and speed (2,) [m, m/s]."""

    p: Array
    v: Array


def _model() -> str:
    # the margin is the ball's alone: MuJoCo takes the greater of two geoms' margins or their sum, depending on its version
    walls = "".join(
        f'<geom type="box" pos="{(b[0] + b[2]) / 2:.6g} {(b[1] + b[3]) / 2:.6g} 0" size="{HALF} {HALF} 0.2"/>'
        for b in wall_boxes()
    )
    joints = "".join(
        f'<joint name="{n}" type="slide" axis="{a}" pos="0 0 0" damping="{DAMPING}"/>'
        for n, a in (("x", "1 0 0"), ("y", "0 1 0"))
    )
    motors = "".join(f'<motor joint="{n}" gear="{GEAR}" ctrlrange="-1 1" ctrllimited="true"/>' for n in "xy")
    return (
        f'<mujoco><option timestep="{DT}" gravity="0 0 0" iterations="20" integrator="Euler"/>'
        f'<default><geom friction="0.5 0.1 0.1" density="1000"/></default>'
        f'<worldbody>{walls}<body pos="0 0 0">{joints}'
        f'<geom type="sphere" size="{RADIUS}" margin="{CONTACT_MARGIN}"/></body></worldbody>'
        f"<actuator>{motors}</actuator></mujoco>"
    )


class MazeWorld:
    """The simulated maze. ``touched``: whether any step since the last reset found a contact."""

    def __init__(self) -> None:
        self._m = mujoco.MjModel.from_xml_string(_model())
        self._d = mujoco.MjData(self._m)
        self.touched = False

    def reset(self, p: ArrayLike, v: ArrayLike = (0.0, 0.0)) -> State:
        """Put the ball somewhere.

        Raises:
            InputError: that place overlaps a wall.
        """
        mujoco.mj_resetData(self._m, self._d)
        self._d.qpos[:], self._d.qvel[:] = p, v
        mujoco.mj_forward(self._m, self._d)
        if self._d.ncon and float(np.min(self._d.contact.dist)) < 0.0:
            raise InputError(f"maze: a ball at {np.asarray(p).tolist()} lies in a wall")
        self.touched = bool(self._d.ncon)
        return self.state

    @property
    def state(self) -> State:
        """Where the ball is now."""
        return State(self._d.qpos.copy(), self._d.qvel.copy())

    def step(self, u: Array) -> State:
        """One step under control ``u`` (2,), as D4RL makes it: control and speed are cut first."""
        self._d.ctrl[:] = np.clip(u, -1.0, 1.0)
        self._d.qvel[:] = np.clip(self._d.qvel, -SPEED, SPEED)
        mujoco.mj_step(self._m, self._d)
        self.touched |= bool(self._d.ncon)
        return self.state
