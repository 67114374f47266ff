"""Pixels to pose over the launched graph, and what happens when the camera freezes or sees nothing."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from integration.graph import NAMES, START, Graph
from integration.test_faults import resume_works
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Float64MultiArray

from tandem.nodes import messages
from tandem.nodes.base import SENSOR_QOS, STATIC_QOS
from tandem.nodes.camera import SensorNoise

pytest.importorskip("mujoco")
os.environ.setdefault("MUJOCO_GL", "egl")
pytestmark = [pytest.mark.ros, pytest.mark.render]


class World:
    """Speaks for the bridge's simulated world; ``qpos`` None: silent."""

    def __init__(self, graph: Graph, qpos: NDArray[np.float64]) -> None:
        self.qpos: NDArray[np.float64] | None = qpos
        self._publisher = graph.ear.create_publisher(Float64MultiArray, "sim/world", SENSOR_QOS)
        graph.ear.create_timer(0.1, self._speak)

    def _speak(self) -> None:
        if self.qpos is not None:
            self._publisher.publish(Float64MultiArray(data=[time.time(), *self.qpos.tolist()]))


def test_camera_freezes_and_is_blinded(graph: Graph) -> None:
    from tandem.sim.world import MugWorld

    truth = MugWorld("empty.yaml", seed=3)
    graph.ear.pose = None
    world = World(graph, truth.qpos)
    graph.start("camera", rate=10.0, shared_memory=True)
    graph.start("perception", max_image_age=3.0, shared_memory=True)
    seen = graph.wait(lambda: [p for p in list(graph.ear.poses_heard) if p.pose[0, 3] > 0.1], "the object is seen", START)[-1]
    assert np.linalg.norm(seen.pose[:3, 3] - truth.mug_pose()[:3, 3]) < 0.01
    graph.start_core(planner=False)
    graph.start_planner(pose_max_age=4.0)  # a busy machine renders slowly
    graph.wait(graph.moving, "the arm moves", START)

    frozen = time.time()
    world.qpos = None
    graph.settled(frozen)
    graph.wait(lambda: graph.said("perception: camera", "no usable image", frozen), "the frozen camera is shown")
    graph.wait(lambda: graph.said("planner: planning", "no valid object pose", frozen), "the planner says why")
    world.qpos = truth.qpos
    graph.wait(graph.moving, "the arm goes on")

    blind = time.time()
    qpos = truth.qpos
    qpos[9] = -3.0
    world.qpos = qpos
    graph.settled(blind)
    graph.wait(lambda: graph.said("perception: object pose", "no marker", blind), "the blind camera is shown")
    world.qpos = truth.qpos
    graph.wait(graph.moving, "the arm goes on")
    resume_works(graph)
    graph.assert_only_certified()


def test_a_camera_that_repeats_its_image_under_new_stamps_is_frozen(graph: Graph) -> None:
    """With default parameters; the same image with a sensor's noise is not."""
    images = graph.ear.create_publisher(Image, "camera/image_raw", SENSOR_QOS)
    infos = graph.ear.create_publisher(CameraInfo, "camera/camera_info", SENSOR_QOS)
    poses = graph.ear.create_publisher(PoseStamped, "camera/pose", STATIC_QOS)
    height, width = 60, 80
    picture, noise = np.full((height, width, 3), 120, dtype=np.uint8), SensorNoise(1.0, height, width)
    noisy = [True]

    def speak() -> None:
        image = noise.add(picture) if noisy[0] else picture
        stamp = time.time()
        infos.publish(messages.camera_info_to_msg(np.diag([90.0, 90.0, 1.0]), np.zeros(5), height, width, stamp, "camera"))
        images.publish(messages.image_to_msg(image, stamp, "camera"))

    pose = PoseStamped()
    pose.header.frame_id, pose.pose.orientation.w = NAMES.base, 1.0
    poses.publish(pose)
    timer = graph.ear.create_timer(0.1, speak)
    graph.start("perception")
    graph.wait(lambda: graph.said("perception: object pose", "no marker"), "images with noise are looked at", START)
    assert not graph.said("perception: camera", "identical")
    frozen, noisy[0] = time.time(), False
    graph.wait(lambda: graph.said("perception: camera", "identical images in a row", frozen), "the frozen camera is shown")
    alive, noisy[0] = time.time() + 1.0, True
    graph.wait(lambda: graph.said("perception: camera", "images arrive", alive), "it is used again")
    graph.ear.destroy_timer(timer)
