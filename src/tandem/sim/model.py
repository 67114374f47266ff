"""Builds the MuJoCo model of the mug task: FR3 with hand, table, mug with printed markers, obstacles, cameras."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import cv2
import mujoco
import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import ConfigError
from tandem.core.objects import MarkerObject
from tandem.core.scene import Obstacle
from tandem.sim.scene_file import CameraConfig, MugScene

Array = NDArray[np.float64]

#: emulated joint impedance: stiffness [Nm/rad], damping [Nms/rad]
STIFFNESS = np.array([4500.0, 4500.0, 3500.0, 3500.0, 2000.0, 2000.0, 2000.0])
DAMPING = np.array([220.0, 220.0, 150.0, 120.0, 50.0, 45.0, 35.0])
#: gripping force of each finger [N]; the tendon that drives both halves it
GRIP_FORCE = 40.0
GRIP_STIFFNESS = 40000.0
OBSTACLE_COLOUR = (0.93, 0.42, 0.12, 1.0)
MUG_COLOUR = (0.97, 0.97, 0.95, 1.0)
_PIXELS_PER_MODULE = 32
#: geom groups of the arm: fine meshes for the eye (200,000 faces), and the collision shells (3,000 faces) that the camera sees
FINE, SHELL = 2, 3
SHELL_COLOUR = (0.92, 0.93, 0.94, 1.0)


def fr3_model_dir() -> Path:
    """Folder of ``fr3.xml`` and its meshes, in the installed ``franky_sim`` package (which is not imported).

    Raises:
        ConfigError: the package is not installed.
    """
    spec = importlib.util.find_spec("franky_sim")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / "assets" / "fr3.xml").is_file():
            return Path(place) / "assets"
    raise ConfigError("fr3.xml: not found; install the package franky-sim (pip install --no-deps franky-sim)")


def _robot() -> mujoco.MjSpec:
    """The arm with hand: named collision geoms, impedance actuators, a force-limited gripper, graspable pads."""
    folder = fr3_model_dir()
    spec = mujoco.MjSpec.from_file(str(folder / "fr3.xml"))
    spec.meshdir = str(folder / "meshes")
    for key in list(spec.keys):
        spec.delete(key)
    for i in range(7):
        actuator = spec.actuator(f"fr3_joint{i + 1}")
        actuator.gainprm[0] = STIFFNESS[i]
        actuator.biasprm[:3] = [0.0, -STIFFNESS[i], -DAMPING[i]]
        actuator.inheritrange = 0.0
        actuator.ctrllimited = False
    hand = spec.actuator("hand")
    hand.gainprm[0] = GRIP_STIFFNESS
    hand.biasprm[:3] = [0.0, -GRIP_STIFFNESS, -400.0]
    hand.inheritrange = 0.0
    hand.ctrlrange = [-0.01, 0.05]
    hand.forcerange = [-2.0 * GRIP_FORCE, 2.0 * GRIP_FORCE]
    for body in spec.bodies:
        for i, geom in enumerate(body.geoms):
            if geom.contype == 0:
                continue
            if not geom.name:
                geom.name = f"{body.name}_collision{i}"
            geom.rgba = SHELL_COLOUR
            if "finger" in body.name:
                geom.friction = [1.2, 0.02, 0.001]
                geom.condim = 4
                geom.priority = 1
                geom.solref = [0.004, 1.0]
                geom.solimp[:3] = [0.95, 0.99, 0.001]
    tcp = spec.body("hand").add_site()
    tcp.name, tcp.pos, tcp.size = "tcp", [0.0, 0.0, 0.1034], [0.004, 0.004, 0.004]
    tcp.group = 4
    return spec


def look_at(camera: CameraConfig) -> Array:
    """(4, 4) pose of the camera in the base frame, OpenCV's optical convention: x right, y down, z forward."""
    origin = np.asarray(camera.position)
    forward = np.asarray(camera.target) - origin
    forward = forward / np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right = right / np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose[:3, 3] = origin
    return pose


def _add_camera(spec: mujoco.MjSpec, name: str, camera: CameraConfig) -> None:
    """A fixed camera; MuJoCo looks along -z with y up."""
    pose = look_at(camera)
    quat = np.zeros(4)
    mujoco.mju_mat2Quat(quat, (pose[:3, :3] @ np.diag([1.0, -1.0, -1.0])).ravel())
    item = spec.worldbody.add_camera()
    item.name, item.pos, item.quat, item.fovy = name, pose[:3, 3], quat, camera.fovy


def _add_table(spec: mujoco.MjSpec) -> None:
    """Table top at z = 0: a plane for contact, a slab for the eye, a floor far below, light."""
    world = spec.worldbody
    plane = world.add_geom()
    plane.name, plane.type, plane.size = "table", mujoco.mjtGeom.mjGEOM_PLANE, [2.0, 2.0, 0.1]
    plane.friction, plane.condim, plane.group = [0.6, 0.01, 0.001], 3, 4
    slab = world.add_geom()
    slab.name, slab.type = "table_slab", mujoco.mjtGeom.mjGEOM_BOX
    slab.size, slab.pos, slab.rgba = [0.6, 0.7, 0.02], [0.4, 0.0, -0.0202], [0.42, 0.45, 0.48, 1.0]
    slab.contype, slab.conaffinity, slab.group = 0, 0, 1
    sky = spec.add_texture()
    sky.name, sky.type, sky.builtin = "sky", mujoco.mjtTexture.mjTEXTURE_SKYBOX, mujoco.mjtBuiltin.mjBUILTIN_GRADIENT
    sky.rgb1, sky.rgb2, sky.width, sky.height = [0.86, 0.89, 0.93], [0.62, 0.67, 0.73], 64, 384
    for name, pos, strength in (("key", [0.9, 0.5, 1.8], 0.45), ("fill", [0.6, -0.8, 1.6], 0.3)):
        light = world.add_light()
        light.name, light.pos, light.dir = name, pos, [0.5 - pos[0], -pos[1], -pos[2]]
        light.diffuse, light.specular, light.castshadow = [strength] * 3, [0.0] * 3, False
    spec.visual.headlight.ambient = [0.35, 0.35, 0.35]
    spec.visual.headlight.diffuse = [0.3, 0.3, 0.3]
    spec.visual.headlight.specular = [0.0, 0.0, 0.0]


Triple = tuple[float, float, float]


def _box(body: mujoco.MjsBody, name: str, half: Triple, pos: Triple, yaw: float = 0.0) -> float:
    """A solid part of the mug turned by ``yaw`` about the mug's axis; returns its volume [m^3]."""
    geom = body.add_geom()
    c, s = math.cos(yaw), math.sin(yaw)
    geom.name, geom.type, geom.size = name, mujoco.mjtGeom.mjGEOM_BOX, half
    geom.pos = [c * pos[0] - s * pos[1], s * pos[0] + c * pos[1], pos[2]]
    geom.quat = [math.cos(yaw / 2), 0.0, 0.0, math.sin(yaw / 2)]
    geom.rgba, geom.friction, geom.condim, geom.group = MUG_COLOUR, [0.6, 0.01, 0.001], 3, 1
    return 8.0 * half[0] * half[1] * half[2]


def _marker_texture(spec: mujoco.MjSpec, dictionary: str, number: int, quiet: float) -> str:
    """A printed marker with a white border of ``quiet`` marker sides on each side, as a material; returns its name."""
    book = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, dictionary))
    modules = int(book.markerSize) + 2
    side = modules * _PIXELS_PER_MODULE
    border = round(quiet * side)
    image = np.full((side + 2 * border, side + 2 * border), 255, dtype=np.uint8)
    image[border : border + side, border : border + side] = cv2.aruco.generateImageMarker(book, number, side)
    texture = spec.add_texture()
    texture.name, texture.type = f"marker{number}", mujoco.mjtTexture.mjTEXTURE_2D
    texture.width, texture.height, texture.nchannel = image.shape[1], image.shape[0], 3
    texture.data = np.repeat(image[:, :, None], 3, axis=2).tobytes()
    material = spec.add_material()
    material.name, material.texuniform, material.specular = f"marker{number}", False, 0.0
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = texture.name
    return str(material.name)


def _add_mug(spec: mujoco.MjSpec, mug: MarkerObject) -> None:
    """A free body: hollow prism, handle of three boxes, markers on thin plates that do not collide."""
    shape, handle = mug.body, mug.handle
    body = spec.worldbody.add_body()
    body.name, body.pos = "mug", [0.5, 0.0, 0.0]
    joint = body.add_freejoint()
    joint.name = "mug"
    bottom = body.add_geom()
    bottom.name, bottom.type = "mug_bottom", mujoco.mjtGeom.mjGEOM_CYLINDER
    bottom.size, bottom.pos = [shape.apothem, shape.bottom / 2, 0.0], [0.0, 0.0, shape.bottom / 2]
    bottom.rgba, bottom.friction, bottom.condim, bottom.group = MUG_COLOUR, [0.6, 0.01, 0.001], 3, 1
    volumes = [math.pi * shape.apothem**2 * shape.bottom]
    foot = shape.bottom / 2  # the walls begin above the table, so that only the bottom stands on it
    half = (shape.wall / 2, shape.side / 2, (shape.height - foot) / 2)
    for k in range(shape.sides):
        where = (shape.apothem - shape.wall / 2, 0.0, (shape.height + foot) / 2)
        volumes.append(_box(body, f"mug_wall{k}", half, where, 2.0 * math.pi * k / shape.sides))
    t, out = handle.thickness / 2, shape.apothem + handle.reach
    bar = (handle.reach / 2, handle.width / 2, t)
    for name, z in (("low", handle.low + t), ("high", handle.high - t)):
        volumes.append(_box(body, f"mug_handle_{name}", bar, (out - handle.reach / 2, 0.0, z)))
    upright = (t, handle.width / 2, (handle.high - handle.low) / 2 - 2 * t)
    volumes.append(_box(body, "mug_handle_upright", upright, (out - t, 0.0, (handle.low + handle.high) / 2)))
    for geom, volume in zip(body.geoms, volumes, strict=True):
        geom.mass = mug.mass * volume / sum(volumes)
    for marker in mug.markers:
        quiet = 0.5 * max(0.0, shape.side - 0.001 - marker.size) / marker.size
        plate = body.add_geom()
        plate.name, plate.type = f"marker{marker.id}", mujoco.mjtGeom.mjGEOM_BOX
        side = marker.size * (1.0 + 2.0 * quiet) / 2
        plate.size, plate.pos = [side, side, 0.0002], marker.pose[:3, 3] - 0.0002 * marker.pose[:3, 2]
        quat = np.zeros(4)
        mujoco.mju_mat2Quat(quat, np.ascontiguousarray(marker.pose[:3, :3]).ravel())
        plate.quat, plate.material = quat, _marker_texture(spec, mug.dictionary, marker.id, quiet)
        plate.contype, plate.conaffinity, plate.mass, plate.group = 0, 0, 0.0, 1


#: MuJoCo type of each obstacle kind
GEOMS = {
    "box": mujoco.mjtGeom.mjGEOM_BOX, "sphere": mujoco.mjtGeom.mjGEOM_SPHERE, "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "capsule": mujoco.mjtGeom.mjGEOM_CAPSULE, "halfspace": mujoco.mjtGeom.mjGEOM_PLANE,
}


def add_obstacle(spec: mujoco.MjSpec, obstacle: Obstacle) -> None:
    """A static body ``obstacle:<name>`` with one geom of the same name."""
    body = spec.worldbody.add_body()
    body.name, body.pos, body.quat = f"obstacle:{obstacle.name}", obstacle.position, obstacle.quaternion
    geom = body.add_geom()
    geom.name, geom.type, geom.rgba, geom.group = body.name, GEOMS[obstacle.kind], OBSTACLE_COLOUR, 1
    size = obstacle.size if obstacle.kind != "halfspace" else (2.0, 2.0, 0.1)
    geom.size = [*size, 0.0, 0.0][:3]


def build_spec(scene: MugScene, mug: MarkerObject) -> mujoco.MjSpec:
    """The whole scene; 1 kHz, elliptic friction cones with a high frictional-to-normal impedance so that grasps do not creep."""
    spec = _robot()
    spec.option.timestep = 0.001
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10.0
    spec.visual.quality.shadowsize = 0
    spec.visual.quality.offsamples = 0
    spec.visual.map.znear = 0.01
    views = (scene.camera, scene.overview)
    spec.visual.global_.offwidth = max(v.width for v in views)
    spec.visual.global_.offheight = max(v.height for v in views)
    _add_table(spec)
    _add_mug(spec, mug)
    for obstacle in scene.obstacles:
        add_obstacle(spec, obstacle)
    _add_camera(spec, "camera", scene.camera)
    _add_camera(spec, "overview", scene.overview)
    return spec
