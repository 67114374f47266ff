"""The simulated arm of the Avoiding task: an FR3 moves a rod in a plane between pillars (MuJoCo, 1 kHz).

As in D3IL the policy moves a *desired* position by small increments and the end effector follows with a lag. Here the lag is that
of a linear response fitted to D3IL's demonstrations (:class:`Response`), which a Cartesian impedance of the real arm model then
tracks; the rod hits pillars as MuJoCo says. The hand points down, the fingertips 0.12 m above the table, the rod hanging from
them; pillars end below the hand, so that the rod alone can touch them. Joint friction is left out, as in D3IL.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import mujoco
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm

from tandem.core.errors import InputError
from tandem.sim.model import fr3_model_dir
from tandem.tasks.avoiding.config import AvoidingConfig, load_avoiding_config

Array = NDArray[np.float64]

TIMESTEP = 0.001
#: height of the fingertips [m] and mean joints at the start of the 96 demonstrations [rad]
HEIGHT, START_JOINTS = 0.12, (-0.357, 0.429, -0.134, -2.055, 0.093, 2.481, 0.233)
#: the demonstrations pass the pillars as near as 11.9 mm: the rod cannot be thicker
ROD_RADIUS, ROD_LENGTH, PILLAR_HEIGHT = 0.01, 0.10, 0.10
#: Cartesian impedance: stiffness [N/m], damping [Ns/m]; about orientation [Nm/rad], [Nms/rad]; of the joints [Nms/rad]
STIFFNESS, DAMPING, TURN_STIFFNESS, TURN_DAMPING, JOINT_DAMPING = 10000.0, 400.0, 200.0, 12.0, 0.5
SETTLE = 1500


class Response:
    """``p'' = k (d - p) + c (f d' - p')``, axis by axis: how the end effector's position p follows the desired one d.

    d moves at constant speed within a step, so the response is exact in closed form (matrix exponential).
    """

    def __init__(self, settings: AvoidingConfig, substeps: int = 1) -> None:
        """``substeps``: points a step at which the response is wanted."""
        self.dt, self.substeps = settings.dt, substeps
        self._maps = np.empty((substeps, 2, 2, 4))  # substep, axis, (p, v) from (p, v, d, d')
        for axis in range(2):
            k, c, f = settings.stiffness[axis], settings.damping[axis], settings.feedforward[axis]
            a = np.array([[0.0, 1.0, 0.0, 0.0], [-k, -c, k, c * f], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
            for n in range(substeps):
                self._maps[n, axis] = expm(a * settings.dt * (n + 1) / substeps)[:2]

    def step(self, p: Array, v: Array, desired: Array, action: Array) -> tuple[Array, Array]:
        """Positions and velocities (substeps, ..., 2) while the desired position goes from ``desired`` (..., 2) by ``action``."""
        state = np.stack([p, v, desired, action / self.dt], axis=-1)
        moved = np.einsum("naij,...aj->n...ai", self._maps, state)
        return moved[..., 0], moved[..., 1]

    def play(self, desired: Array) -> Array:
        """(T, 2) positions while the desired ones ``desired`` (T, 2) are followed from rest at the first."""
        p, v = desired[0], np.zeros(2)
        out = [p]
        for now, after in itertools.pairwise(desired):
            ps, vs = self.step(p, v, now, after - now)
            p, v = ps[-1], vs[-1]
            out.append(p)
        return np.array(out)


@lru_cache(maxsize=4)
def build_model(settings: AvoidingConfig) -> mujoco.MjModel:
    """The FR3 with a rod in its hand, driven by site actuators, and the pillars."""
    folder = fr3_model_dir()
    spec = mujoco.MjSpec.from_file(str(folder / "fr3.xml"))
    spec.meshdir = str(folder / "meshes")
    for item in [*spec.keys, *spec.actuators, *spec.tendons, *spec.equalities, *spec.excludes]:
        spec.delete(item)
    for name in ("left_finger", "right_finger"):
        spec.delete(spec.body(name))
    for body in spec.bodies:
        body.gravcomp = 1.0
        for geom in body.geoms:
            geom.contype, geom.conaffinity = 0, 0
        for joint in body.joints:
            joint.frictionloss, joint.damping = 0.0, [JOINT_DAMPING, 0.0, 0.0]
    spec.option.timestep = TIMESTEP
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    hand = spec.body("hand")
    tip = hand.add_site()
    tip.name, tip.pos, tip.size, tip.group = "tcp", [0.0, 0.0, 0.1034], [0.004] * 3, 4
    rod = hand.add_geom()
    rod.name, rod.type, rod.group = "rod", mujoco.mjtGeom.mjGEOM_CAPSULE, 1
    rod.size, rod.pos = [ROD_RADIUS, 0.5 * ROD_LENGTH, 0.0], [0.0, 0.0, 0.1034 + 0.5 * ROD_LENGTH]
    rod.mass, rod.rgba = 0.05, [0.2, 0.2, 0.2, 1.0]
    frame = spec.worldbody.add_site()
    frame.name, frame.quat, frame.size, frame.group = "frame", [0.0, 1.0, 0.0, 0.0], [0.004] * 3, 4
    for n, (x, y, radius) in enumerate(settings.pillars):
        pillar = spec.worldbody.add_geom()
        pillar.name, pillar.type = f"pillar{n}", mujoco.mjtGeom.mjGEOM_CYLINDER
        pillar.size, pillar.pos = [radius, 0.5 * PILLAR_HEIGHT, 0.0], [x, y, 0.5 * PILLAR_HEIGHT]
        pillar.rgba = [0.8, 0.2, 0.15, 1.0]
    for n in range(6):
        drive = spec.add_actuator()
        drive.name, drive.trntype = f"drive{n}", mujoco.mjtTrn.mjTRN_SITE
        drive.target, drive.refsite = "tcp", "frame"
        drive.gear = np.eye(6)[n]
        k, d = (STIFFNESS, DAMPING) if n < 3 else (TURN_STIFFNESS, TURN_DAMPING)
        drive.gaintype, drive.biastype = mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtBias.mjBIAS_AFFINE
        drive.gainprm[0] = k
        drive.biasprm[:3] = [0.0, -k, -d]
        drive.ctrllimited = False
    return spec.compile()


@dataclass(frozen=True)
class Played:
    """What happened while actions were played, at every millisecond.

    Attributes:
        tip: (S, 2) position of the rod's axis at the fingertips [m]; S is shorter than asked for after a contact.
        touched: name of the pillar that the rod touched, None when it touched none.
    """

    tip: Array
    touched: str | None


class AvoidingArm:
    """One arm among the pillars. Same actions: same motion, bit for bit."""

    def __init__(self, settings: AvoidingConfig | None = None) -> None:
        self.settings = settings or load_avoiding_config()
        self.model = build_model(self.settings)
        self.data = mujoco.MjData(self.model)
        self._substeps = round(self.settings.dt / TIMESTEP)
        self._response = Response(self.settings, self._substeps)
        self._tip = self.model.site("tcp").id
        self.reset()

    def reset(self) -> None:
        """At rest at the start."""
        mujoco.mj_setState(self.model, self.data, _settled(self.settings), mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_kinematics(self.model, self.data)
        self.desired = np.array(self.settings.start)
        self._p, self._v = self.desired.copy(), np.zeros(2)
        self.touched: str | None = None

    @property
    def tip(self) -> Array:
        """(2,) position of the rod's axis at the fingertips [m]."""
        out: Array = self.data.site_xpos[self._tip, :2].copy()
        return out

    @property
    def velocity(self) -> Array:
        """(2,) velocity of the rod's axis at the fingertips [m/s], from the joints' own."""
        jacobian = np.empty((3, self.model.nv))
        mujoco.mj_jacSite(self.model, self.data, jacobian, None, self._tip)
        out: Array = jacobian[:2] @ self.data.qvel
        return out

    @property
    def state(self) -> Array:
        """(4,) desired and actual position: what the policy sees."""
        return np.concatenate([self.desired, self.tip])

    def play(self, actions: Array) -> Played:
        """Play ``actions`` (T, 2), changes of the desired position [m]; stops at the first contact.

        Raises:
            InputError: wrong shape or not finite.
        """
        actions = np.asarray(actions, dtype=np.float64)
        if actions.ndim != 2 or actions.shape[1] != 2 or not np.isfinite(actions).all():
            raise InputError(f"avoiding: actions {actions.shape}: expected (T, 2), finite")
        path = []
        for action in actions:
            p, v = self._response.step(self._p, self._v, self.desired, action)
            for target in p + (DAMPING / STIFFNESS) * v:
                self.data.ctrl[:2] = target[0], -target[1]
                mujoco.mj_step(self.model, self.data)
                path.append(self.data.site_xpos[self._tip, :2].copy())
                if self.data.ncon:
                    self.touched = self._pillar()
                    return Played(np.array(path), self.touched)
            self._p, self._v, self.desired = p[-1], v[-1], self.desired + action
        return Played(np.array(path).reshape(-1, 2), None)

    def _pillar(self) -> str:
        """Name of the pillar in the first contact."""
        pair = self.data.contact[0].geom
        return next(name for name in (self.model.geom(int(g)).name for g in pair) if name.startswith("pillar"))


@lru_cache(maxsize=4)
def _settled(settings: AvoidingConfig) -> Array:
    """Full physical state at rest at the start, found by holding the desired position there."""
    model = build_model(settings)
    data = mujoco.MjData(model)
    data.qpos[:7] = START_JOINTS
    data.ctrl[:3] = settings.start[0], -settings.start[1], -HEIGHT
    for _ in range(SETTLE):
        mujoco.mj_step(model, data)
    data.time = 0.0
    out = np.zeros(mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_INTEGRATION))
    mujoco.mj_getState(model, data, out, mujoco.mjtState.mjSTATE_INTEGRATION)
    return out
