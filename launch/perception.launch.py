"""Camera images to the pose of the marker-carrying object."""

from pathlib import Path

from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

PARAMETERS = str(Path(__file__).resolve().parents[1] / "config" / "nodes.yaml")


def generate_launch_description() -> LaunchDescription:
    """One node; see ``--show-args``."""
    return LaunchDescription([
        DeclareLaunchArgument("params_file", default_value=PARAMETERS, description="parameters of all nodes"),
        DeclareLaunchArgument(
            "object_file", default_value="objects/mug.yaml", description="object with its markers, in config/ or a path"
        ),
        DeclareLaunchArgument(
            "respawn", default_value="true", description="start a node that ended again", choices=["true", "false"]
        ),
        DeclareLaunchArgument(
            "use_sim_time", default_value="false", description="go by the time on /clock", choices=["true", "false"]
        ),
        Node(
            package="tandem", executable="perception", name="perception", output="screen",
            ros_arguments=["--enclave", "/tandem/perception"],
            parameters=[
                LaunchConfiguration("params_file"),
                {
                    "object_file": ParameterValue(LaunchConfiguration("object_file"), value_type=str),
                    "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
                },
            ],
            respawn=LaunchConfiguration("respawn"), respawn_delay=2.0, respawn_max_retries=5,
        ),
    ])
