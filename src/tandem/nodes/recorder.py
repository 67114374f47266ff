"""Records the graph's topics to MCAP and keeps the few figures a live display needs.

Messages are written as they came over the wire, undecoded. Camera images alone are turned into JPEG
(``camera/image_raw/compressed``): raw ones would be 9 MB a second. The recording is a rosbag2 folder: ``ros2 bag play``,
Foxglove and PlotJuggler read it.
"""

from __future__ import annotations

import argparse
import json
import logging
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from tandem.nodes import transport

log = logging.getLogger(__name__)
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Topic:
    """What to record: relative name (absolute with a leading /), type, how it is offered, at most how many a second (0: all)."""

    name: str
    kind: type
    reliable: bool = True
    latched: bool = False
    rate: float = 0.0

    @property
    def type_name(self) -> str:
        """ROS name of the type, ``package/msg/Name``."""
        return f"{self.kind.__module__.split('.')[0]}/msg/{self.kind.__name__}"

    def qos(self) -> QoSProfile:
        """A subscription that fits what the nodes offer, with room for a busy moment."""
        return QoSProfile(
            reliability=ReliabilityPolicy.RELIABLE if self.reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if self.latched else DurabilityPolicy.VOLATILE,
            history=HistoryPolicy.KEEP_LAST, depth=1 if self.latched else 50,
        )


TOPICS = (
    Topic("camera/image_raw", Image, reliable=False, rate=6.0),
    Topic("camera/camera_info", CameraInfo, reliable=False, rate=1.0),
    Topic("camera/pose", PoseStamped, latched=True),
    Topic("perception/object_pose", PoseWithCovarianceStamped, reliable=False),
    Topic("perception/markers", MarkerArray),
    Topic("obstacles", MarkerArray, rate=5.0),
    Topic("planner/candidates", MarkerArray),
    Topic("planner/proposal", JointTrajectory),
    Topic("planner/proposal_info", DiagnosticStatus),
    Topic("safety_filter/certified", JointTrajectory),
    Topic("safety_filter/verdict", DiagnosticStatus),
    Topic("safety_filter/guard", DiagnosticStatus, reliable=False, rate=10.0),
    Topic("safety_filter/stop", DiagnosticStatus),
    Topic("franka/joint_states", JointState, reliable=False),
    Topic("franka/commanded_joint_states", JointState, reliable=False),
    Topic("franka/commitment", JointTrajectory),
    Topic("franka/status", DiagnosticStatus),
    Topic("sim/truth", String, reliable=False),
    Topic("/diagnostics", DiagnosticArray),
    Topic("/clock", Clock),
)


@dataclass
class Live:
    """What is going on, for a display. ``heard``: times of the last messages of each topic [s, monotonic]."""

    heard: dict[str, deque[float]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    truth: dict[str, Any] = field(default_factory=dict)
    mode: str = ""
    mode_text: str = ""
    backup_time: float = 0.0
    certified: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    clearance: float = float("nan")
    plan_ms: list[float] = field(default_factory=list)
    certify_ms: list[float] = field(default_factory=list)
    parts: dict[str, tuple[int, str, dict[str, str]]] = field(default_factory=dict)

    def rate(self, topic: str, window: float = 3.0) -> float:
        """Messages a second of late."""
        now = time.monotonic()
        recent = [t for t in self.heard.get(topic, ()) if now - t <= window]
        return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 1 and recent[-1] > recent[0] else 0.0


class Recorder:
    """Subscribes to :data:`TOPICS` and writes the rosbag2 folder ``folder`` (must not exist) from a thread of its own.

    Use as a context manager; :attr:`live` is read under :attr:`lock`. ``domain``: ROS domain id (None: the environment's).
    """

    def __init__(self, folder: Path, namespace: str = "", topics: tuple[Topic, ...] = TOPICS, domain: int | None = None) -> None:
        self.folder = folder
        self.live = Live()
        self.lock = threading.Lock()
        self._topics = topics
        self._namespace = namespace
        self._domain = domain
        self._types = get_typestore(Stores.ROS2_JAZZY)
        self._writer: Writer | None = None
        self._connections: dict[str, Connection] = {}
        self._last: dict[str, float] = {}
        self._node: Node | None = None
        self._executor: SingleThreadedExecutor | None = None
        self._thread: threading.Thread | None = None
        self._context = rclpy.Context()

    # ---- life ---------------------------------------------------------------------------------------------------------------
    def __enter__(self) -> Recorder:
        self._writer = Writer(self.folder, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        transport.prepare()
        rclpy.init(args=[], context=self._context, domain_id=self._domain)
        self._node = Node("recorder", namespace=self._namespace, context=self._context)
        for topic in self._topics:
            self._subscribe(self._node, topic)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="recorder", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        if self._executor is not None:
            self._executor.shutdown()
        if self._thread is not None:
            self._thread.join(timeout=10.0)
        if self._node is not None:
            self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def others(self) -> list[str]:
        """Full names of the other nodes in the domain, as far as discovery knows."""
        if self._node is None:
            return []
        own = self._node.get_fully_qualified_name()
        found = (f"{space.rstrip('/')}/{name}" for name, space in self._node.get_node_names_and_namespaces())
        return sorted({name for name in found if name != own})

    def _spin(self) -> None:
        assert self._executor is not None
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def _subscribe(self, node: Node, topic: Topic) -> None:
        def arrived(data: bytes) -> None:
            self._take(topic, data)

        node.create_subscription(topic.kind, topic.name, arrived, topic.qos(), raw=True)

    # ---- messages -----------------------------------------------------------------------------------------------------------
    def _take(self, topic: Topic, data: bytes) -> None:
        now = time.monotonic()
        with self.lock:
            self.live.counts[topic.name] += 1
            self.live.heard.setdefault(topic.name, deque(maxlen=400)).append(now)
        digest = self._digests.get(topic.name)
        if digest is not None:
            try:
                message = self._types.deserialize_cdr(data, topic.type_name)
                with self.lock:
                    digest(self, message)
            except (ValueError, KeyError, AssertionError) as error:
                log.warning("%s: not understood: %s", topic.name, error)
        if topic.rate and now - self._last.get(topic.name, -1e9) < 0.9 / topic.rate:
            return
        self._last[topic.name] = now
        if topic.kind is Image:
            self._write_image(topic, data)
        else:
            self._write(topic.name, topic.type_name, data)

    def _write(self, name: str, type_name: str, data: bytes | memoryview) -> None:
        if self._writer is None or self._node is None:
            return
        full = self._node.resolve_topic_name(name)
        if full not in self._connections:
            self._connections[full] = self._writer.add_connection(full, type_name, typestore=self._types)
        self._writer.write(self._connections[full], time.time_ns(), data)

    def _write_image(self, topic: Topic, data: bytes) -> None:
        message: Any = self._types.deserialize_cdr(data, topic.type_name)
        if message.encoding not in ("rgb8", "bgr8"):
            self._write(topic.name, topic.type_name, data)
            return
        rows = np.asarray(message.data, dtype=np.uint8).reshape(message.height, message.step)[:, : 3 * message.width]
        image = rows.reshape(message.height, message.width, 3)
        bgr = image[..., ::-1] if message.encoding == "rgb8" else image
        done, encoded = cv2.imencode(".jpg", np.ascontiguousarray(bgr), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not done:
            return
        kind = "sensor_msgs/msg/CompressedImage"
        packed = self._types.types[kind](header=message.header, format="jpeg", data=encoded.ravel())
        self._write(f"{topic.name}/compressed", kind, self._types.serialize_cdr(packed, kind))

    # ---- what the display shows ---------------------------------------------------------------------------------------------
    def _on_truth(self, message: Any) -> None:
        self.live.truth = json.loads(message.data)

    def _on_status(self, message: Any) -> None:
        values = {pair.key: pair.value for pair in message.values}
        self.live.mode, self.live.mode_text = values.get("mode", ""), message.message
        self.live.backup_time = float(values.get("backup_time", 0.0))

    def _on_verdict(self, message: Any) -> None:
        values = {pair.key: pair.value for pair in message.values}
        if message.level == 0:
            self.live.certified += 1
            self.live.clearance = float(values.get("clearance", "nan"))
        else:
            self.live.refused[values.get("reason", message.message)] += 1
        if "ms" in values:
            self.live.certify_ms.append(float(values["ms"]))

    def _on_info(self, message: Any) -> None:
        values = {pair.key: pair.value for pair in message.values}
        self.live.plan_ms.append(float(values.get("plan_ms", "nan")))

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            self.live.parts[status.name] = (int(status.level), status.message, {p.key: p.value for p in status.values})

    _digests = {  # noqa: RUF012
        "sim/truth": _on_truth, "franka/status": _on_status, "safety_filter/verdict": _on_verdict,
        "planner/proposal_info": _on_info, "/diagnostics": _on_diagnostics,
    }


def main(arguments: list[str] | None = None) -> int:
    """Record until interrupted: ``python -m tandem.nodes.recorder --out FOLDER [--namespace NS]``. 0 done, 2 bad folder."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    parser = argparse.ArgumentParser(description="Record Tandem's topics to a rosbag2 folder with MCAP storage.")
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--namespace", default="", help="namespace of the graph")
    options = parser.parse_args(remove_ros_args(arguments)[1:] if arguments is None else arguments)
    if options.out.exists():
        log.error("%s exists already", options.out)
        return 2
    try:
        with Recorder(options.out, options.namespace) as recorder:
            while True:
                time.sleep(5.0)
                with recorder.lock:
                    log.info("%d messages", recorder.live.counts.total())
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
