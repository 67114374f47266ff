"""rviz2 with Tandem's displays, and robot_state_publisher for the arm's model. Needs both packages installed."""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription

SHARE = Path(__file__).resolve().parents[1]


def nodes(context: LaunchContext) -> list[Node]:
    """The two nodes."""
    from tandem.robots.description import robot_description

    description = robot_description(LaunchConfiguration("robot").perform(context))
    return [
        Node(
            package="robot_state_publisher", executable="robot_state_publisher", output="screen",
            parameters=[{"robot_description": ParameterValue(description, value_type=str)}],
            remappings=[("joint_states", "franka/joint_states")],
        ),
        Node(
            package="rviz2", executable="rviz2", name="rviz2", output="log",
            arguments=["-d", str(SHARE / "config" / "rviz" / "tandem.rviz")],
        ),
    ]


def generate_launch_description() -> LaunchDescription:
    """Two nodes; see ``--show-args``."""
    return LaunchDescription([
        DeclareLaunchArgument("robot", default_value="fr3", description="arm model in config/robots"),
        OpaqueFunction(function=nodes),
    ])
