"""Camera images of full size reach another process whole through shared memory, as the nodes set it up."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rclpy
from integration.graph import free_domain
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from tandem.nodes import messages, transport

pytestmark = pytest.mark.ros
COUNT = 20
SOURCE = Path(__file__).resolve().parents[2] / "src"
QOS = QoSProfile(depth=COUNT, reliability=ReliabilityPolicy.BEST_EFFORT)


def publish() -> None:
    """The other process: COUNT images of 640 x 480, numbered in their first pixel, once somebody listens."""
    transport.prepare()
    rclpy.init()
    node = Node("speaker")
    publisher = node.create_publisher(Image, "image", QOS)
    limit = time.monotonic() + 60.0
    while publisher.get_subscription_count() == 0 and time.monotonic() < limit:
        time.sleep(0.05)
    for number in range(COUNT):
        publisher.publish(messages.image_to_msg(np.full((480, 640, 3), number, dtype=np.uint8), 1.0, "camera"))
        time.sleep(0.05)
    time.sleep(1.0)
    node.destroy_node()
    rclpy.shutdown()


def test_images_arrive_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in transport.GIVEN:
        monkeypatch.delenv(name, raising=False)
    domain = free_domain()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    path = os.pathsep.join([str(SOURCE), str(SOURCE.parent / "test")])
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "")  # to be put back afterwards
    transport.prepare()
    context = rclpy.Context()
    rclpy.init(args=[], context=context, domain_id=domain)
    node, heard = Node("listener", context=context), []
    node.create_subscription(Image, "image", lambda m: heard.append((m.data[0], len(m.data))), QOS)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    command = [sys.executable, "-c", "from integration.test_transport import publish; publish()"]
    speaker = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})
    try:
        limit = time.monotonic() + 90.0
        while speaker.poll() is None and time.monotonic() < limit:
            executor.spin_once(timeout_sec=0.05)
        for _ in range(COUNT):
            executor.spin_once(timeout_sec=0.0)
    finally:
        speaker.kill()
        speaker.wait()
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
    assert all(size == 640 * 480 * 3 for _, size in heard)
    assert len({number for number, _ in heard}) > 0.7 * COUNT, "with Fast DDS' own segment none or few arrive"


def test_a_given_profile_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in transport.GIVEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
    transport.prepare()
    assert "FASTRTPS_DEFAULT_PROFILES_FILE" not in os.environ
    monkeypatch.delenv("FASTDDS_BUILTIN_TRANSPORTS")
    monkeypatch.setenv("FASTRTPS_DEFAULT_PROFILES_FILE", "mine.xml")
    transport.prepare()
    assert os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] == "mine.xml"
