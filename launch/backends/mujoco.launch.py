"""A simulated arm with physics at 1 kHz, and a camera that renders the same scene."""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

LAUNCH = Path(__file__).resolve().parents[1]


def generate_launch_description() -> LaunchDescription:
    """Bridge and camera; further arguments as in franka_bridge.launch.py."""
    return LaunchDescription([
        DeclareLaunchArgument(
            "params_file", default_value=str(LAUNCH.parent / "config" / "nodes.yaml"), description="parameters of all nodes"
        ),
        DeclareLaunchArgument(
            "respawn", default_value="true", description="start the camera again when it ended", choices=["true", "false"]
        ),
        DeclareLaunchArgument("scene", default_value="empty.yaml", description="scene file, in config/scenes or a path"),
        DeclareLaunchArgument("camera_rate", default_value="12.0", description="images a second, 1 .. 60"),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(LAUNCH / "franka_bridge.launch.py")), launch_arguments=[("driver", "mujoco")]
        ),
        Node(
            package="tandem", executable="camera", name="camera", output="screen",
            ros_arguments=["--enclave", "/tandem/camera"],
            parameters=[
                LaunchConfiguration("params_file"),
                {
                    "scene": ParameterValue(LaunchConfiguration("scene"), value_type=str),
                    "rate": ParameterValue(LaunchConfiguration("camera_rate"), value_type=float),
                },
            ],
            respawn=LaunchConfiguration("respawn"), respawn_delay=2.0, respawn_max_retries=5,
        ),
    ])
