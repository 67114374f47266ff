"""Publishes the obstacles of a scene file as markers, stamped anew each time: for simulation and for fixed furniture."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticStatus
from visualization_msgs.msg import MarkerArray

from tandem.core.config import setting
from tandem.core.paths import config_file
from tandem.core.scene import Scene, load_scene
from tandem.nodes import markers
from tandem.nodes.base import RELIABLE_QOS, NodeSettings, TandemNode, run
from tandem.nodes.diagnostics import Meter


@dataclass(frozen=True)
class ScenePublisherSettings(NodeSettings):
    """Parameters of the scene publisher."""

    scene: str = setting("empty.yaml", "scene file, in config/scenes or a path")
    rate: float = setting(10.0, "messages on obstacles", unit="Hz", lo=0.5, hi=100.0)


class ScenePublisherNode(TandemNode):
    """See the module's text. Out: ``obstacles``."""

    settings_type = ScenePublisherSettings

    def __init__(self) -> None:
        super().__init__("scene_publisher")

    def setup(self) -> None:
        """Read the file, connect."""
        self._scene = Scene(tuple(load_scene(config_file("scenes", self.settings.scene))["obstacles"]))
        markers.scene_to_msg(self._scene, self.names.base, 1.0)  # a kind that has no marker is an error now, not later
        self._sent = Meter()
        self._publisher = self.speak(MarkerArray, "obstacles", RELIABLE_QOS)
        self.timer(1.0 / self.settings.rate, self._publish)

    def _publish(self) -> None:
        now = self.now()
        scene = Scene(tuple(dataclasses.replace(o, stamp=now) for o in self._scene.obstacles))
        self._publisher.publish(markers.scene_to_msg(scene, self.names.base, now))
        self._sent.tick(now)

    def diagnose(self, now: float) -> list[DiagnosticStatus]:
        """What is published."""
        return [self.report("obstacles", DiagnosticStatus.OK, f"{len(self._scene.obstacles)} obstacles", self._sent.values(now))]


def main() -> int:
    """Entry point of the executable ``scene_publisher``."""
    return run(ScenePublisherNode)


if __name__ == "__main__":
    raise SystemExit(main())
