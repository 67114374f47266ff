"""Perception node: camera images to the pose of a marker-carrying object, with covariance, staleness and reasons."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped, TransformStamped, Vector3
from numpy.typing import NDArray
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from visualization_msgs.msg import MarkerArray

from tandem.core.config import setting
from tandem.core.errors import ConfigError
from tandem.core.objects import load_object
from tandem.core.paths import config_file
from tandem.core.types import ObjectPose
from tandem.nodes import markers, messages
from tandem.nodes.base import RELIABLE_QOS, SENSOR_QOS, STATIC_QOS, NodeSettings, TandemNode, run
from tandem.nodes.diagnostics import Meter
from tandem.perception import Estimate, MarkerPoseEstimator, PoseTracker, TrackerConfig

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # not in every installation; the pose topic carries the same
    TFMessage = None

TF_QOS = QoSProfile(depth=100)


@dataclass(frozen=True)
class PerceptionSettings(NodeSettings):
    """Parameters of the perception node."""

    object_file: str = setting("objects/mug.yaml", "the object with its markers, in config/ or a path")
    base_from_camera: list[float] = setting(
        [0.0] * 7, "camera's optical frame in the base frame: x y z [m] qx qy qz qw; zeros: from topic camera/pose",
        lo=-100.0, hi=100.0,
    )
    niceness: int = setting(5, "how far the process stands back for others when CPUs are short", lo=0, hi=19)
    max_image_age: float = setting(0.5, "images older than this on arrival are not used", unit="s", lo=0.01, hi=10.0)
    silent_after: float = setting(1.0, "time without a pose after which diagnostics show an error", unit="s", lo=0.05, hi=60.0)
    max_identical: int = setting(
        5, "identical images in a row that count as a frozen camera (every sensor has noise); 0: off", lo=0, hi=1000
    )
    publish_debug_image: bool = setting(False, "publish perception/debug_image with the detected markers drawn in")


class PerceptionNode(TandemNode):
    """See the module's text.

    In: ``camera/image_raw``, ``camera/camera_info``, ``camera/pose`` (unless ``base_from_camera`` is given).
    Out: ``perception/object_pose``, ``perception/markers``, ``perception/debug_image`` and, where tf2_msgs is installed, ``/tf``.
    """

    settings_type = PerceptionSettings

    def __init__(self) -> None:
        super().__init__("perception")

    def setup(self) -> None:
        """Load the object, connect."""
        s = self.settings
        self._target = load_object(config_file(s.object_file))
        self._estimator = MarkerPoseEstimator(self._target)
        self._tracker = PoseTracker(TrackerConfig(max_age=s.silent_after))
        self._camera: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        self._base_from_camera: NDArray[np.float64] | None = None
        if any(s.base_from_camera):
            self._base_from_camera = self._given_pose(s.base_from_camera)
        else:
            self.listen(PoseStamped, "camera/pose", self._on_camera_pose, STATIC_QOS)
        self._images, self._poses = Meter(), Meter()
        self._reasons: Counter[str] = Counter()
        self._last_stamp = float("-inf")
        self._last_sum, self._identical = 0, 0
        self._pose = self.speak(PoseWithCovarianceStamped, "perception/object_pose", SENSOR_QOS)
        self._markers = self.speak(MarkerArray, "perception/markers", RELIABLE_QOS)
        self._debug = self.speak(Image, "perception/debug_image", SENSOR_QOS) if s.publish_debug_image else None
        self._tf: Any = self.speak(TFMessage, "/tf", TF_QOS) if TFMessage is not None else None
        self.listen(CameraInfo, "camera/camera_info", self._on_info, SENSOR_QOS)
        self.listen(Image, "camera/image_raw", self._on_image, SENSOR_QOS)

    @staticmethod
    def _given_pose(values: list[float]) -> NDArray[np.float64]:
        msg = PoseStamped().pose
        if len(values) != 7:
            raise ConfigError(f"perception: parameter base_from_camera = {values}: accepted: 7 values x y z qx qy qz qw")
        msg.position.x, msg.position.y, msg.position.z = values[:3]
        msg.orientation.x, msg.orientation.y, msg.orientation.z, msg.orientation.w = values[3:]
        try:
            return messages.pose_from_msg(msg)
        except messages.MessageError as error:
            raise ConfigError(f"perception: parameter base_from_camera: {error}") from error

    def _on_camera_pose(self, msg: PoseStamped) -> None:
        try:
            if msg.header.frame_id != self.names.base:
                raise messages.MessageError(f"header.frame_id {msg.header.frame_id!r}: expected {self.names.base!r}")
            self._base_from_camera = messages.pose_from_msg(msg.pose)
        except messages.MessageError as error:
            self._images.reject(self.now(), "camera pose", str(error))

    def _on_info(self, msg: CameraInfo) -> None:
        try:
            self._camera = messages.camera_info_from_msg(msg)
        except messages.MessageError as error:
            self._camera = None
            self._images.reject(self.now(), "camera_info", str(error))

    def _usable(self, msg: Image, now: float) -> tuple[str, str]:
        """Why the image cannot be used (kind, detail); two empty strings when it can."""
        stamp = messages.seconds_from_stamp(msg.header.stamp)
        if self._camera is None:
            return "uncalibrated", "no valid camera_info yet"
        if self._base_from_camera is None:
            return "uncalibrated", "no camera/pose yet"
        if self._last_stamp > now + markers.FUTURE:  # the clock has been set back: what was seen is of another time
            self._last_stamp = float("-inf")
            self._tracker.reset()
        if stamp <= self._last_stamp:
            return "frozen", "stamp not newer than the last image's"
        if stamp > now + markers.FUTURE:
            return "future", f"stamp {stamp - now:.3f} s ahead"
        if now - stamp > self.settings.max_image_age:
            return "old", f"{now - stamp:.3f} s old on arrival; at most {self.settings.max_image_age} s"
        if self.settings.max_identical:
            digest = zlib.adler32(msg.data)
            self._identical = self._identical + 1 if digest == self._last_sum else 0
            self._last_sum = digest
            if self._identical >= self.settings.max_identical:
                return "frozen", f"{self._identical + 1} identical images in a row"
        return "", ""

    def _on_image(self, msg: Image) -> None:
        now, began = self.now(), time.perf_counter()
        kind, detail = self._usable(msg, now)
        if kind or self._camera is None or self._base_from_camera is None:
            self._images.reject(now, kind, detail)
            return
        try:
            image = messages.image_from_msg(msg)
        except messages.MessageError as error:
            self._images.reject(now, "malformed", str(error))
            return
        stamp = messages.seconds_from_stamp(msg.header.stamp)
        self._last_stamp = stamp
        estimate = self._estimator.estimate(image, *self._camera, self._base_from_camera, stamp)
        self._images.tick(now, (time.perf_counter() - began) * 1e3)
        self._reasons[estimate.reason.name] += 1
        if self._debug is not None:
            self._draw(image, estimate, stamp, msg.header.frame_id)
        if estimate.pose is None:
            self._poses.reject(now, estimate.reason.name, estimate.reason.value)
            return
        update = self._tracker.update(estimate.pose)
        tracked = self._tracker.latest(stamp)  # its stamp tells those who use it how old it is
        if tracked is None or tracked.stamp < stamp:
            self._poses.reject(now, update.name, update.value)
            return
        self._poses.tick(now)
        self._publish(tracked)

    def _publish(self, pose: ObjectPose) -> None:
        msg = messages.object_pose_to_msg(pose, self.names.base)
        self._pose.publish(msg)
        body = self._target.body
        self._markers.publish(markers.object_to_msg(pose, self._target.name, body.apothem, body.height, self.names.base))
        if self._tf is not None:
            transform = TransformStamped(header=msg.header, child_frame_id=self._target.name)
            p = msg.pose.pose.position
            transform.transform.translation = Vector3(x=p.x, y=p.y, z=p.z)
            transform.transform.rotation = msg.pose.pose.orientation
            self._tf.publish(TFMessage(transforms=[transform]))

    def _draw(self, image: NDArray[np.uint8], estimate: Estimate, stamp: float, frame: str) -> None:
        picture = image.copy() if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        for found in estimate.detections:
            used = found.id in estimate.markers
            corners = np.round(found.corners).astype(np.int32).reshape(-1, 1, 2)
            cv2.polylines(picture, [corners], True, (40, 220, 60) if used else (220, 60, 40), 2)
        cv2.putText(picture, estimate.reason.value, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 220, 40), 1, cv2.LINE_AA)
        assert self._debug is not None
        self._debug.publish(messages.image_to_msg(picture, stamp, frame))

    def diagnose(self, now: float) -> list[DiagnosticStatus]:
        """Camera and pose."""
        s = self.settings
        images, poses = self._images.age(now), self._poses.age(now)
        camera, message = DiagnosticStatus.OK, "images arrive"
        if images > s.silent_after:
            camera = DiagnosticStatus.ERROR
            message = f"no usable image for {images:.1f} s; last refused: {self._images.last_rejection or 'none'}"
        level, text = DiagnosticStatus.OK, "pose found"
        if poses > s.silent_after:
            level, text = DiagnosticStatus.ERROR, f"no pose for {poses:.1f} s: {self._poses.last_rejection or message}"
        values = {**self._poses.values(now), **{f"estimates_{k}": n for k, n in self._reasons.items()}}
        return [self.report("camera", camera, message, self._images.values(now)), self.report("object pose", level, text, values)]


def main() -> int:
    """Entry point of the executable ``perception``."""
    return run(PerceptionNode)


if __name__ == "__main__":
    raise SystemExit(main())
