"""Simulated camera: mirrors the world that the bridge's MuJoCo backend simulates and renders what its camera sees.

A process of its own, so that rendering never competes with physics for one interpreter.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Float64MultiArray

from tandem.core.config import setting
from tandem.core.errors import InputError
from tandem.nodes import messages
from tandem.nodes.base import SENSOR_QOS, STATIC_QOS, NodeSettings, TandemNode, run
from tandem.nodes.diagnostics import Meter

if TYPE_CHECKING:
    from tandem.sim.world import MugWorld


@dataclass(frozen=True)
class CameraSettings(NodeSettings):
    """Parameters of the camera node."""

    scene: str = setting("empty.yaml", "scene file, in config/scenes or a path; the same as the bridge's")
    view: str = setting("camera", "which camera of the scene", choices=("camera", "overview"))
    niceness: int = setting(10, "how far the process stands back for others when CPUs are short", lo=0, hi=19)
    rate: float = setting(12.0, "images", unit="Hz", lo=1.0, hi=60.0)
    noise: float = setting(
        1.0, "sensor noise, standard deviation in grey levels; a camera without noise cannot be told from a frozen one", lo=0.0,
        hi=20.0,
    )
    frame: str = setting("camera_optical_frame", "frame of the images: x right, y down, z forward")


class SensorNoise:
    """Noise of a camera's sensor: cut at a random place, for each image, from a table made once."""

    SHIFTS = 64

    def __init__(self, deviation: float, height: int, width: int, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._size = height, width
        table = self._rng.normal(0.0, deviation, (height + self.SHIFTS, width + self.SHIFTS, 3))
        whole = np.rint(table)
        self._more, self._less = (np.clip(x, 0, 255).astype(np.uint8) for x in (whole, -whole))

    def add(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) of the size given, with noise; saturates."""
        y, x = self._rng.integers(0, self.SHIFTS, 2)
        part = np.s_[y : y + self._size[0], x : x + self._size[1]]
        return np.asarray(cv2.subtract(cv2.add(image, self._more[part]), self._less[part]), dtype=np.uint8)


class CameraNode(TandemNode):
    """See the module's text.

    In: ``sim/world`` (Float64MultiArray: stamp [s], then the world's qpos), which the bridge publishes.
    Out: ``camera/image_raw``, ``camera/camera_info``, ``camera/pose`` (latched: the camera in the base frame).
    """

    settings_type = CameraSettings

    def __init__(self) -> None:
        self._world: MugWorld | None = None
        super().__init__("camera")

    def setup(self) -> None:
        """Build the scene, connect."""
        s = self.settings
        os.environ.setdefault("MUJOCO_GL", "egl")  # MuJoCo reads it when it is imported
        os.environ.setdefault("LP_NUM_THREADS", "0")  # software rendering in this thread alone: the other cores plan and certify
        from tandem.sim.world import MugWorld

        self._world = MugWorld(s.scene)
        self._matrix = self._world.camera_matrix(s.view)
        view = self._world.scene.camera if s.view == "camera" else self._world.scene.overview
        self._noise = SensorNoise(s.noise, view.height, view.width) if s.noise > 0.0 else None
        self._newest: Float64MultiArray | None = None
        self._rendered = float("-inf")
        self._worlds, self._images = Meter(), Meter()
        self._image = self.speak(Image, "camera/image_raw", SENSOR_QOS)
        self._info = self.speak(CameraInfo, "camera/camera_info", SENSOR_QOS)
        self._pose = self.speak(PoseStamped, "camera/pose", STATIC_QOS)
        self._told = False
        self.listen(Float64MultiArray, "sim/world", self._on_world, SENSOR_QOS)
        self.timer(1.0 / s.rate, self._render)

    def release(self) -> None:
        """Free the renderer."""
        if self._world is not None:
            self._world.close()
            self._world = None

    def _on_world(self, msg: Float64MultiArray) -> None:
        self._newest = msg
        self._worlds.tick(self.now())

    def _tell_pose(self) -> None:
        assert self._world is not None
        msg = PoseStamped()
        msg.header.frame_id, msg.header.stamp = self.names.base, self.get_clock().now().to_msg()
        msg.pose = messages.pose_to_msg(self._world.camera_pose(self.settings.view))
        self._pose.publish(msg)
        self._told = True

    def _render(self) -> None:
        if not self._told:
            self._tell_pose()
        if self._newest is None or self._world is None:
            return
        stamp, qpos = float(self._newest.data[0]), np.array(self._newest.data[1:])
        if stamp <= self._rendered:
            return
        began = time.perf_counter()
        try:
            self._world.qpos = qpos
        except InputError as error:
            self._images.reject(self.now(), "sim/world", str(error))
            return
        image = self._world.render(self.settings.view)
        if self._noise is not None:
            image = self._noise.add(image)
        self._rendered = stamp
        self._image.publish(messages.image_to_msg(image, stamp, self.settings.frame))
        height, width = image.shape[:2]
        self._info.publish(messages.camera_info_to_msg(self._matrix, np.zeros(5), height, width, stamp, self.settings.frame))
        self._images.tick(self.now(), (time.perf_counter() - began) * 1e3)

    def diagnose(self, now: float) -> list[DiagnosticStatus]:
        """Rendering."""
        silent = self._worlds.age(now) > 0.5
        level = DiagnosticStatus.ERROR if silent else DiagnosticStatus.OK
        message = f"no sim/world for {self._worlds.age(now):.1f} s" if silent else "images are rendered"
        return [self.report("images", level, message, self._images.values(now))]


def main() -> int:
    """Entry point of the executable ``camera``."""
    return run(CameraNode)


if __name__ == "__main__":
    raise SystemExit(main())
