"""Samples plans with their backups and proposes them to the safety filter."""

from pathlib import Path

from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

SHARE = Path(__file__).resolve().parents[1]
PARAMETERS = str(SHARE / "config" / "nodes.yaml")
SAMPLERS = sorted({"default", *(p.stem for p in (SHARE / "config" / "samplers").glob("*.yaml"))})


def generate_launch_description() -> LaunchDescription:
    """One node; see ``--show-args``."""
    return LaunchDescription([
        DeclareLaunchArgument("params_file", default_value=PARAMETERS, description="parameters of all nodes"),
        DeclareLaunchArgument(
            "sampler", default_value="default", description="sampler configuration in config/samplers", choices=SAMPLERS
        ),
        DeclareLaunchArgument("safety", default_value="default", description="the filter's bounds, in config/safety"),
        DeclareLaunchArgument("device", default_value="cpu", description="torch's device for the networks: cpu, cuda, cuda:1"),
        DeclareLaunchArgument("seed", default_value="0", description="seed of all randomness"),
        DeclareLaunchArgument(
            "respawn", default_value="true", description="start a node that ended again", choices=["true", "false"]
        ),
        DeclareLaunchArgument(
            "use_sim_time", default_value="false", description="go by the time on /clock", choices=["true", "false"]
        ),
        Node(
            package="tandem", executable="planner", name="planner", output="screen",
            ros_arguments=["--enclave", "/tandem/planner"],
            parameters=[
                LaunchConfiguration("params_file"),
                {
                    "sampler": ParameterValue(LaunchConfiguration("sampler"), value_type=str),
                    "bounds": ParameterValue(LaunchConfiguration("safety"), value_type=str),
                    "device": ParameterValue(LaunchConfiguration("device"), value_type=str),
                    "seed": ParameterValue(LaunchConfiguration("seed"), value_type=int),
                    "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
                },
            ],
            respawn=LaunchConfiguration("respawn"), respawn_delay=2.0, respawn_max_retries=5,
        ),
    ])
