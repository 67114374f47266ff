"""Pixels to pose over the launched graph, and what happens when the camera freezes or sees nothing."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest
from integration.graph import START, Graph
from numpy.typing import NDArray
from std_msgs.msg import Float64MultiArray

from tandem.nodes.base import SENSOR_QOS

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
    graph.assert_only_certified()
