"""The simulated world: control, contacts, camera, determinism."""

from __future__ import annotations

import dataclasses

import cv2
import mujoco
import numpy as np
import pytest

from tandem.core.errors import ConfigError, InputError
from tandem.core.scene import Obstacle
from tandem.sim.demonstrations import execute
from tandem.sim.expert import ArmSolver, hand_pose, plan
from tandem.sim.model import FINE, SHELL
from tandem.sim.scene_file import MugScene, load_mug_scene, save_mug_scene
from tandem.sim.world import CONTACT_KINDS, HOME, START_Q, TIMESTEP, MugWorld, standing_pose

MUG = standing_pose(0.52, 0.06, 3.3)
ZERO = np.zeros(7)


@pytest.fixture(scope="module")
def world() -> MugWorld:
    return MugWorld(MugScene(), seed=3)


def move(world: MugWorld, goal: np.ndarray, seconds: float, width: float = 0.08, until_contact: bool = False) -> float:
    """Minimum-jerk joint motion to ``goal``; returns the largest tracking error [rad]."""
    begin, worst, steps = world.joint_positions(), 0.0, round(seconds / TIMESTEP)
    for i in range(steps):
        s = i / steps
        reach = s**3 * (10 - 15 * s + 6 * s * s)
        speed, bend = 30 * s * s * (1 - s) ** 2 / seconds, 60 * s * (1 - s) * (1 - 2 * s) / seconds**2
        q = begin + reach * (goal - begin)
        worst = max(worst, float(np.abs(world.joint_positions() - q).max()))
        world.step(q, speed * (goal - begin), bend * (goal - begin), width)
        if until_contact and world.contacts() and any(c.kind.startswith(("robot", "finger")) for c in world.contacts()):
            break
    return worst


def test_tracking_error_is_small(world: MugWorld) -> None:
    world.reset(MUG, HOME)
    assert move(world, HOME + np.array([0.5, -0.3, 0.4, 0.4, -0.5, 0.4, 0.6]), 1.2) < 0.003
    assert not world.incidents


def test_same_seed_and_commands_same_motion(world: MugWorld) -> None:
    other = MugWorld(MugScene(), seed=3)
    world.rng = np.random.default_rng(3)
    other.rng = np.random.default_rng(3)
    for each in (world, other):
        each.reset()
        move(each, START_Q + 0.1, 0.2, width=0.02)
    assert np.array_equal(world.qpos, other.qpos)
    kept = world.snapshot()
    move(world, START_Q, 0.1)
    once = world.qpos
    world.restore(kept)
    assert np.array_equal(world.qpos, other.qpos)
    move(world, START_Q, 0.1)
    assert np.array_equal(world.qpos, once)


def test_random_mug_stays_in_range_and_follows_the_seed() -> None:
    world = MugWorld(MugScene(), seed=11)
    again = MugWorld(MugScene(), seed=11)
    span = world.scene.mug
    poses = [world.random_mug_pose() for _ in range(50)]
    assert np.array_equal(poses, [again.random_mug_pose() for _ in range(50)])
    for pose in poses:
        assert span.x[0] <= pose[0, 3] <= span.x[1] and span.y[0] <= pose[1, 3] <= span.y[1] and pose[2, 3] == 0.0


def test_gripper_keeps_its_speed_limit(world: MugWorld) -> None:
    world.reset(MUG)
    for _ in range(300):
        world.step(START_Q, ZERO, ZERO, 0.0)
    assert world.gripper_width() == pytest.approx(0.05, abs=0.004)
    for _ in range(700):
        world.step(START_Q, ZERO, ZERO, 0.0)
    assert world.gripper_width() < 0.002


def test_markers_are_found_where_they_are_and_not_mirrored(world: MugWorld) -> None:
    detector = cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, world.mug.dictionary)))
    seen = set()
    for yaw in (1.2, 2.3, 3.14, 4.0, 5.1):
        pose = standing_pose(0.52, 0.06, yaw)
        world.reset(pose)
        image = world.render()
        assert image.shape == (480, 640, 3) and image.dtype == np.uint8
        corners, ids, _ = detector.detectMarkers(image)
        assert ids is not None and len(ids) >= 4
        for found, number in zip(corners, ids.ravel(), strict=True):
            marker = world.mug.marker(int(number))
            assert marker is not None
            in_base = pose[:3, :3] @ marker.corners().T + pose[:3, 3:]
            optical = np.linalg.inv(world.camera_pose())
            pixel = world.camera_matrix() @ (optical[:3, :3] @ in_base + optical[:3, 3:])
            assert np.abs((pixel[:2] / pixel[2]).T - found[0]).max() < 2.5
            seen.add(int(number))
    assert len(seen) == 10


def test_arm_does_not_hide_the_mug_at_the_start(world: MugWorld) -> None:
    world.reset(MUG)
    assert world.camera_pose()[0, 3] > 1.0
    assert np.linalg.norm(world.camera_pose()[:3, 3] - MUG[:3, 3]) == pytest.approx(0.75, abs=0.1)
    assert world.render("overview").std() > 10.0


def test_camera_sees_shells_whose_outline_is_that_of_the_fine_meshes(world: MugWorld) -> None:
    """The shells stand for the arm in the camera's image: what they hide is what the arm hides, to a few pixels of 640."""
    renderer = mujoco.Renderer(world.model, 480, 640)
    renderer.enable_segmentation_rendering()
    arm = [b for b in range(world.model.nbody) if world.model.body(b).name.startswith(("fr3", "hand", "left", "right"))]

    def outline(group: int) -> np.ndarray:
        shown = mujoco.MjvOption()
        shown.geomgroup[:] = [g == group for g in range(6)]
        renderer.update_scene(world.data, "camera", shown)
        geom = renderer.render()[..., 0]
        return (geom >= 0) & np.isin(world.model.geom_bodyid[geom], arm)

    rng = np.random.default_rng(4)
    for _ in range(4):
        world.reset(MUG, START_Q + rng.uniform(-0.4, 0.4, 7))
        fine, shell = outline(FINE), outline(SHELL)
        assert fine.sum() > 5000 and shell.sum() > 5000
        for one, other in ((fine, shell), (shell, fine)):
            away = cv2.distanceTransform((~one).astype(np.uint8), cv2.DIST_L2, 3)
            assert away[other].max() < 6.0
    renderer.close()


def test_camera_leaves_the_fine_meshes_out() -> None:
    """Fine meshes made invisible change nothing in its image, but do in the overview."""
    world = MugWorld(MugScene())
    world.reset(MUG)
    before, overview = world.render(), world.render("overview")
    for geom in np.flatnonzero(world.model.geom_group == FINE):
        world.model.geom_rgba[geom] = (0.0, 0.0, 0.0, 0.0)
    assert np.array_equal(world.render(), before)
    assert not np.array_equal(world.render("overview"), overview)
    world.close()


def test_contact_with_obstacle_is_recorded_between_calls() -> None:
    probe = MugWorld(MugScene())
    tip = ArmSolver(probe.model).forward(START_Q + np.array([0.4, 0, 0, 0, 0, 0, 0]))[:3, 3]
    post = Obstacle("post", "cylinder", (0.03, 0.25), (float(tip[0]), float(tip[1]), float(tip[2]) - 0.05))
    world = MugWorld(MugScene(obstacles=(post,)))
    world.reset(MUG)
    move(world, START_Q + np.array([0.8, 0, 0, 0, 0, 0, 0]), 1.5)
    assert {c.kind for c in world.incidents} == {"robot-obstacle"}
    assert any("obstacle:post" in c.bodies for c in world.incidents) and max(c.force for c in world.incidents) > 0.0
    assert world.obstacles.obstacles == (post,)


@pytest.mark.parametrize(("height", "where", "kinds"), [
    (0.0, (0.45, -0.3), {"robot-table"}), (0.09, (0.52, 0.06), {"robot-mug", "finger-mug"}),
])
def test_contact_with_table_and_mug(world: MugWorld, height: float, where: tuple[float, float], kinds: set[str]) -> None:
    world.reset(MUG)
    solver = ArmSolver(world.model)
    above = solver.solve(hand_pose(np.array([*where, height + 0.15]), 0.0), START_Q)
    world.reset(MUG, above)
    move(world, solver.solve(hand_pose(np.array([*where, height]), 0.0), above), 1.0, width=0.08, until_contact=True)
    touched = {c.kind for c in world.contacts()} & {k for k in CONTACT_KINDS if k.startswith(("robot", "finger"))}
    assert touched and touched <= kinds
    assert bool(world.incidents) == ("robot-table" in kinds)


def test_self_contact_is_recorded(world: MugWorld) -> None:
    rng = np.random.default_rng(0)
    low, high = world.model.jnt_range[:7].T
    for _ in range(200):
        world.reset(MUG, rng.uniform(low, high))
        world.step(world.joint_positions(), ZERO, ZERO, 0.08)
        if any(c.kind == "robot-self" for c in world.incidents):
            return
    pytest.fail("no self contact in 200 random postures")


@pytest.mark.parametrize(("grasp", "way"), [("handle", "left"), ("rim3", "high"), ("rim4", "straight")])
def test_grasps_lift_the_mug(world: MugWorld, grasp: str, way: str) -> None:
    pose = standing_pose(0.52, 0.06, 3.7 if grasp == "rim3" else 3.2)
    motion = plan(ArmSolver(world.model), world.mug, pose, START_Q, way, grasp)
    done = execute(world, motion, pose)
    assert done is not None and world.lifted() and not world.incidents
    assert done.mug[-1, 2, 3] > 0.15
    slip = (done.mug[-1, 2, 3] - done.mug[motion.lift_start, 2, 3]) - (motion.tcp[-1, 2, 3] - motion.tcp[motion.lift_start, 2, 3])
    assert abs(slip) < 0.003 and done.mug[-1, 2, 2] > 0.99


def test_bad_input(world: MugWorld) -> None:
    with pytest.raises(InputError, match="mug_pose"):
        world.reset(np.full((4, 4), np.nan))
    with pytest.raises(InputError, match=r"q: shape"):
        world.reset(MUG, np.zeros(6))
    with pytest.raises(InputError, match="qpos"):
        world.qpos = np.zeros(3)
    with pytest.raises(InputError, match="camera"):
        world.render("front")


def test_mirror_of_another_process(world: MugWorld) -> None:
    world.reset(MUG)
    move(world, START_Q + 0.2, 0.3)
    other = MugWorld(MugScene())
    other.qpos = world.qpos
    assert np.array_equal(other.mug_pose(), world.mug_pose()) and np.allclose(other.tcp_pose(), world.tcp_pose(), atol=1e-12)


def test_scene_file_round_trip(tmp_path) -> None:
    ball = Obstacle("ball", "sphere", (0.04,), (0.4, -0.2, 0.3))
    scene = dataclasses.replace(MugScene(), name="one", kind="cluttered", obstacles=(ball,))
    save_mug_scene(scene, tmp_path / "one.yaml")
    assert load_mug_scene(tmp_path / "one.yaml") == scene


@pytest.mark.parametrize(("text", "message"), [
    ("nmae: x", "nmae"), ("kind: busy", "blocked_straight"), ("mug: {x: [0.1, 0.6]}", r"0\.2 \.\. 0\.8"),
    ("mug: {x: [0.6, 0.5]}", "lower end first"), ("camera: {fovy: 0}", "fovy"), ("start: [0, 0]", "start"),
    ("camera: {position: [0, 0, 1], target: [0, 0, 0]}", "target"),
    ("obstacles: [{name: a, kind: cone, position: [0, 0, 0]}]", "cone"),
    ("obstacles: [&a {name: a, kind: sphere, size: [0.1], position: [0, 0, 0]}, *a]", "every name once"),
    ("[1, 2]", "mapping"), ("a: [", "YAML"),
])
def test_scene_file_errors(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_mug_scene(path)
    assert "bad.yaml" in str(caught.value)
