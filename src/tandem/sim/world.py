"""The simulated world of the mug task: 1 kHz physics, an arm under emulated joint impedance control, camera, contact report.

The arm is torque controlled as on the real robot: ``M(q) a_des + bias(q, v) + friction(v_des) + K (q_des - q) + D (v_des - v)``
within the joints' torque limits. Nothing outside scoring and tests may read :meth:`MugWorld.mug_pose`: perception has the camera.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import InputError
from tandem.core.objects import MarkerObject, load_object
from tandem.core.paths import config_file
from tandem.core.scene import Scene
from tandem.sim.model import DAMPING, FINE, GRIP_FORCE, SHELL, STIFFNESS, build_spec, look_at
from tandem.sim.scene_file import START_JOINTS, CameraConfig, MugScene, load_mug_scene

Array = NDArray[np.float64]

#: the arm's own home [rad]: the posture redundancy is pulled to
HOME = np.array([0.0, -math.pi / 4, 0.0, -0.75 * math.pi, 0.0, math.pi / 2, math.pi / 4])
#: the usual start of an episode [rad], see :data:`tandem.sim.scene_file.START_JOINTS`
START_Q = np.array(START_JOINTS)
TIMESTEP = 0.001
MAX_WIDTH = 0.08
GRIPPER_SPEED = 0.1
#: a lifted mug: its bottom this far above the table [m], touched by both fingers for this long [s]
LIFT_HEIGHT = 0.10
HOLD_TIME = 0.5
#: what :attr:`Contact.kind` can be
CONTACT_KINDS = ("robot-obstacle", "robot-table", "robot-self", "robot-mug", "finger-mug", "mug-table", "mug-obstacle")
#: contacts that must never happen
FORBIDDEN = ("robot-obstacle", "robot-table", "robot-self")
_ROBOT, _FINGER, _TABLE, _MUG, _OBSTACLE = range(5)
_PAIRS = {
    (_ROBOT, _OBSTACLE): 0, (_FINGER, _OBSTACLE): 0, (_ROBOT, _TABLE): 1, (_FINGER, _TABLE): 1, (_ROBOT, _ROBOT): 2,
    (_ROBOT, _FINGER): 2, (_ROBOT, _MUG): 3, (_FINGER, _MUG): 4, (_MUG, _TABLE): 5, (_MUG, _OBSTACLE): 6,
}


@dataclass(frozen=True)
class Contact:
    """Two bodies that touch: names, kind (:data:`CONTACT_KINDS`), normal force [N], depth [m] (> 0 penetrating), time [s]."""

    geoms: tuple[str, str]
    bodies: tuple[str, str]
    kind: str
    force: float
    depth: float
    time: float


@dataclass(frozen=True)
class Snapshot:
    """Everything needed to continue from a moment: MuJoCo's full physics state and the gripper's ramp [m]."""

    state: Array
    width_reference: float
    held_since: float


class MugWorld:
    """One simulated scene. Same scene, seed and commands: same motion, bit for bit.

    Args:
        scene: a :class:`MugScene`, or a scene file's path, or None for the scene without obstacles.
        seed: of the generator that places the mug on :meth:`reset` when no pose is given.
    """

    def __init__(self, scene: MugScene | str | Path | None = None, seed: int = 0) -> None:
        self.scene = scene if isinstance(scene, MugScene) else load_mug_scene(config_file("scenes", str(scene or "empty.yaml")))
        self.mug: MarkerObject = load_object(config_file(self.scene.object_file))
        self.model = build_spec(self.scene, self.mug).compile()
        self.data = mujoco.MjData(self.model)
        self.rng = np.random.default_rng(seed)
        self.incidents: list[Contact] = []
        self._seen: set[tuple[int, int]] = set()
        self._width_reference = MAX_WIDTH
        self._held_since = math.inf
        self._renderers: dict[tuple[int, int], mujoco.Renderer] = {}
        self._wide = np.zeros(self.model.nv)
        self._inertial = np.zeros(self.model.nv)
        self._friction = self.model.dof_frictionloss[:7].copy()
        self._passive = self.model.dof_damping[:7].copy()
        self._codes = self._contact_codes()
        self._forbidden = (self._codes >= 0) & (self._codes <= 2)
        self._fingers = tuple(self.model.body(n).id for n in ("left_finger", "right_finger"))
        self.reset()

    # ---- set-up -------------------------------------------------------------------------------------------------------------

    def _contact_codes(self) -> NDArray[np.int8]:
        """(ngeom, ngeom) index into :data:`CONTACT_KINDS` for each pair of geoms, -1 where the pair is of no interest."""
        owner = np.full(self.model.ngeom, _ROBOT)
        for g in range(self.model.ngeom):
            body = self.model.body(self.model.geom_bodyid[g]).name
            if body == "mug":
                owner[g] = _MUG
            elif body.startswith("obstacle:"):
                owner[g] = _OBSTACLE
            elif body == "world":
                owner[g] = _TABLE
            elif body.endswith("finger"):
                owner[g] = _FINGER
        codes = np.full((self.model.ngeom, self.model.ngeom), -1, dtype=np.int8)
        for (a, b), kind in _PAIRS.items():
            codes[np.ix_(owner == a, owner == b)] = kind
            codes[np.ix_(owner == b, owner == a)] = kind
        return codes

    @property
    def obstacles(self) -> Scene:
        """What the safety filter must be told about: the scene's obstacles, without the table."""
        return Scene(self.scene.obstacles)

    @property
    def time(self) -> float:
        """Simulated time since reset [s]."""
        return float(self.data.time)

    def random_mug_pose(self) -> Array:
        """(4, 4) pose of a standing mug, uniform over the scene's range."""
        span = self.scene.mug
        x, y, yaw = (float(self.rng.uniform(*r)) for r in (span.x, span.y, span.yaw))
        return standing_pose(x, y, yaw)

    def reset(self, mug_pose: Array | None = None, q: Array | None = None, width: float = MAX_WIDTH) -> None:
        """Start over at time 0: arm at rest at ``q`` (7,) [rad] (default the scene's), gripper open by ``width`` [m],
        mug at ``mug_pose`` (4, 4) or drawn from the scene's range."""
        mujoco.mj_resetData(self.model, self.data)
        where = self.random_mug_pose() if mug_pose is None else np.asarray(mug_pose, dtype=np.float64)
        arm = np.array(self.scene.start) if q is None else np.asarray(q, dtype=np.float64)
        if where.shape != (4, 4) or not np.all(np.isfinite(where)):
            raise InputError(f"mug_pose: shape {where.shape}; expected (4, 4), finite")
        if arm.shape != (7,) or not np.all(np.isfinite(arm)):
            raise InputError(f"q: shape {arm.shape}; expected (7,), finite")
        quat = np.zeros(4)
        mujoco.mju_mat2Quat(quat, np.ascontiguousarray(where[:3, :3]).ravel())
        self.data.qpos[:7] = arm
        self.data.qpos[7:9] = 0.5 * width
        self.data.qpos[9:12], self.data.qpos[12:16] = where[:3, 3], quat
        self._width_reference = float(np.clip(width, 0.0, MAX_WIDTH))
        self._held_since = math.inf
        self.incidents = []
        self._seen = set()
        mujoco.mj_forward(self.model, self.data)

    # ---- motion -------------------------------------------------------------------------------------------------------------

    def step(self, q_des: Array, v_des: Array, a_des: Array, width_des: float) -> None:
        """One tick of 1 ms: track the joint set-point (7,) [rad, rad/s, rad/s^2], drive the gripper towards ``width_des`` [m]
        at no more than :data:`GRIPPER_SPEED` with no more than the gripping force."""
        model, data = self.model, self.data
        mujoco.mj_step1(model, data)
        self._wide[:7] = a_des
        mujoco.mj_mulM(model, data, self._inertial, self._wide)
        forward = self._inertial[:7] + data.qfrc_bias[:7] + self._passive * v_des + self._friction * np.tanh(v_des / 0.01)
        data.ctrl[:7] = q_des + (DAMPING * v_des + forward) / STIFFNESS
        half = 0.5 * (data.qpos[7] + data.qpos[8])
        target = min(max(0.5 * width_des, 0.0), 0.5 * MAX_WIDTH)
        pace = 0.5 * GRIPPER_SPEED * TIMESTEP
        ramp = 0.5 * self._width_reference
        ramp += min(max(target - ramp, -pace), pace)
        ramp = min(max(ramp, half - 0.004), half + 0.004)
        self._width_reference = 2.0 * ramp
        data.ctrl[7] = ramp
        mujoco.mj_step2(model, data)
        if data.ncon:
            self._watch()
        else:
            self._held_since = math.inf

    def _watch(self) -> None:
        """Keep the first of every forbidden contact, and since when both fingers touch the mug."""
        data = self.data
        geoms = data.contact.geom
        if self._forbidden[geoms[:, 0], geoms[:, 1]].any():
            for i in np.flatnonzero(self._forbidden[geoms[:, 0], geoms[:, 1]]):
                pair = (int(geoms[i, 0]), int(geoms[i, 1]))
                if pair not in self._seen and data.contact.dist[i] <= 0.0:
                    self._seen.add(pair)
                    self.incidents.append(self._describe(int(i)))
        if data.qpos[11] <= LIFT_HEIGHT:
            self._held_since = math.inf
            return
        touching = geoms[self._codes[geoms[:, 0], geoms[:, 1]] == 4]
        bodies = set(self.model.geom_bodyid[touching.ravel()].tolist())
        if self._fingers[0] in bodies and self._fingers[1] in bodies:
            self._held_since = min(self._held_since, float(data.time))
        else:
            self._held_since = math.inf

    def _describe(self, i: int) -> Contact:
        contact = self.data.contact[i]
        wrench = np.zeros(6)
        mujoco.mj_contactForce(self.model, self.data, i, wrench)
        geoms = [int(g) for g in contact.geom]
        names = [self.model.geom(g).name for g in geoms]
        bodies = [self.model.body(self.model.geom_bodyid[g]).name for g in geoms]
        kind = CONTACT_KINDS[int(self._codes[geoms[0], geoms[1]])]
        return Contact(
            (names[0], names[1]), (bodies[0], bodies[1]), kind, float(abs(wrench[0])), float(-contact.dist), float(self.data.time)
        )

    def contacts(self) -> list[Contact]:
        """All contacts of the last tick (:attr:`incidents` keeps every forbidden one since reset, between calls too)."""
        geoms = self.data.contact.geom
        return [
            self._describe(i) for i in range(self.data.ncon)
            if self._codes[geoms[i, 0], geoms[i, 1]] >= 0 and self.data.contact.dist[i] <= 0.0
        ]

    # ---- state --------------------------------------------------------------------------------------------------------------

    def joint_positions(self) -> Array:
        """(7,) measured joint positions [rad]."""
        return self.data.qpos[:7].copy()

    def joint_velocities(self) -> Array:
        """(7,) measured joint velocities [rad/s]."""
        return self.data.qvel[:7].copy()

    def gripper_width(self) -> float:
        """Distance between the fingertips [m]."""
        return float(self.data.qpos[7] + self.data.qpos[8])

    def mug_pose(self) -> Array:
        """(4, 4) true pose of the mug in the base frame: for scoring only."""
        pose = np.eye(4)
        mat = np.zeros(9)
        mujoco.mju_quat2Mat(mat, self.data.qpos[12:16])
        pose[:3, :3], pose[:3, 3] = mat.reshape(3, 3), self.data.qpos[9:12]
        return pose

    def tcp_pose(self) -> Array:
        """(4, 4) true pose of ``fr3_hand_tcp`` in the base frame."""
        mujoco.mj_kinematics(self.model, self.data)
        site = self.data.site("tcp")
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = site.xmat.reshape(3, 3), site.xpos
        return pose

    def lifted(self) -> bool:
        """Whether the mug has been above :data:`LIFT_HEIGHT`, touched by both fingers, for the last :data:`HOLD_TIME`."""
        return self.time - self._held_since >= HOLD_TIME

    @property
    def qpos(self) -> Array:
        """(16,) arm 7, fingers 2, mug position 3 and quaternion 4: enough for another process to mirror this world."""
        return self.data.qpos.copy()

    @qpos.setter
    def qpos(self, value: Array) -> None:
        if np.shape(value) != (self.model.nq,) or not np.all(np.isfinite(value)):
            raise InputError(f"qpos: shape {np.shape(value)}; expected ({self.model.nq},), finite")
        self.data.qpos[:] = value
        mujoco.mj_kinematics(self.model, self.data)

    def snapshot(self) -> Snapshot:
        """The whole physical state, for :meth:`restore`."""
        spec = mujoco.mjtState.mjSTATE_INTEGRATION
        state = np.zeros(mujoco.mj_stateSize(self.model, spec))
        mujoco.mj_getState(self.model, self.data, state, spec)
        return Snapshot(state, self._width_reference, self._held_since)

    def restore(self, snapshot: Snapshot) -> None:
        """Continue from ``snapshot``; the same commands then give the same motion."""
        mujoco.mj_setState(self.model, self.data, snapshot.state, mujoco.mjtState.mjSTATE_INTEGRATION)
        self._width_reference, self._held_since = snapshot.width_reference, snapshot.held_since
        mujoco.mj_forward(self.model, self.data)
        mujoco.mj_setState(self.model, self.data, snapshot.state, mujoco.mjtState.mjSTATE_INTEGRATION)

    # ---- cameras ------------------------------------------------------------------------------------------------------------

    def _view(self, camera: str) -> CameraConfig:
        if camera not in ("camera", "overview"):
            raise InputError(f"camera = {camera!r}; accepted: 'camera', 'overview'")
        view: CameraConfig = getattr(self.scene, camera)
        return view

    def camera_matrix(self, camera: str = "camera") -> Array:
        """(3, 3) intrinsics [px]; pixel centres at whole numbers, as in OpenCV. No distortion."""
        view = self._view(camera)
        focal = 0.5 * view.height / math.tan(math.radians(view.fovy) / 2)
        return np.array([[focal, 0.0, 0.5 * (view.width - 1)], [0.0, focal, 0.5 * (view.height - 1)], [0.0, 0.0, 1.0]])

    def camera_pose(self, camera: str = "camera") -> Array:
        """(4, 4) optical frame (x right, y down, z forward) in the base frame."""
        return look_at(self._view(camera))

    def render(self, camera: str = "camera") -> NDArray[np.uint8]:
        """(height, width, 3) RGB image of the present state. Needs EGL or OSMesa (``MUJOCO_GL``).

        The perception camera sees the arm's collision shells instead of its fine meshes: with software rendering an image then
        costs 10 ms of one core instead of 35 ms, and the outline differs by millimetres.
        """
        view = self._view(camera)
        size = (view.height, view.width)
        if size not in self._renderers:
            self._renderers[size] = mujoco.Renderer(self.model, *size)
        renderer = self._renderers[size]
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)
        shown = mujoco.MjvOption()
        shown.geomgroup[FINE], shown.geomgroup[SHELL] = camera != "camera", camera == "camera"
        renderer.update_scene(self.data, camera, shown)
        image: NDArray[np.uint8] = renderer.render()
        return image

    def close(self) -> None:
        """Free the renderers."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers = {}


def standing_pose(x: float, y: float, yaw: float) -> Array:
    """(4, 4) pose of an object standing on the table at (x, y) [m], turned by ``yaw`` [rad] about z."""
    pose = np.eye(4)
    c, s = math.cos(yaw), math.sin(yaw)
    pose[:2, :2] = [[c, -s], [s, c]]
    pose[:2, 3] = x, y
    return pose


__all__ = [
    "CONTACT_KINDS", "FORBIDDEN", "GRIPPER_SPEED", "GRIP_FORCE", "HOLD_TIME", "HOME", "LIFT_HEIGHT", "MAX_WIDTH", "START_Q",
    "TIMESTEP", "Contact", "MugWorld", "Snapshot", "standing_pose",
]
