"""Certifies proposals and watches what is being executed. Belongs on the real-time host, beside the bridge."""

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
        DeclareLaunchArgument("safety", default_value="default", description="bounds in config/safety"),
        DeclareLaunchArgument(
            "certificate_key_file", default_value="",
            description="file (mode 0600) with the key shared with the bridge; empty: variable TANDEM_CERTIFICATE_KEY",
        ),
        DeclareLaunchArgument(
            "respawn", default_value="true", description="start a node that ended again", choices=["true", "false"]
        ),
        DeclareLaunchArgument(
            "use_sim_time", default_value="false", description="go by the time on /clock", choices=["true", "false"]
        ),
        Node(
            package="tandem", executable="safety_filter", name="safety_filter", output="screen",
            ros_arguments=["--enclave", "/tandem/safety_filter"],
            parameters=[
                LaunchConfiguration("params_file"),
                {
                    "bounds": ParameterValue(LaunchConfiguration("safety"), value_type=str),
                    "certificate_key_file": ParameterValue(LaunchConfiguration("certificate_key_file"), value_type=str),
                    "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
                },
            ],
            respawn=LaunchConfiguration("respawn"), respawn_delay=2.0, respawn_max_retries=5,
        ),
    ])
