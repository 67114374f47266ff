"""An arm that does exactly what it is told, without physics or camera: for tests, and for a real camera."""

from pathlib import Path

from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from launch import LaunchDescription

BRIDGE = Path(__file__).resolve().parents[1] / "franka_bridge.launch.py"


def generate_launch_description() -> LaunchDescription:
    """The bridge on its loopback driver; further arguments as in franka_bridge.launch.py."""
    return LaunchDescription([
        IncludeLaunchDescription(PythonLaunchDescriptionSource(str(BRIDGE)), launch_arguments=[("driver", "loopback")]),
    ])
