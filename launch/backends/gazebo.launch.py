"""The arm in Gazebo under gz_ros2_control's joint_trajectory_controller.

Needs the packages ros_gz_sim, gz_ros2_control and joint_trajectory_controller of Jazzy, and no franka_ros2. Gazebo's clock paces
the arm: nothing here uses simulated time, a slow simulation plays certified trajectories in its own time.
"""

import json
from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription

LAUNCH = Path(__file__).resolve().parents[1]
CONTROLLERS = str(LAUNCH.parent / "config" / "ros2_control" / "controllers.yaml")
NEEDED = ("ros_gz_sim", "gz_ros2_control", "joint_trajectory_controller", "joint_state_broadcaster", "robot_state_publisher")
SPAWNED = ("joint_state_broadcaster", "joint_trajectory_controller", "finger_trajectory_controller")


def simulation(context: LaunchContext) -> list[object]:
    """Gazebo with the arm and its controllers, and the bridge.

    Raises:
        RuntimeError: a package is missing.
    """
    missing = []
    for package in NEEDED:
        try:
            FindPackageShare(package).perform(context)
        except Exception:
            missing.append(package)
    if missing:
        names = " ".join(f"ros-jazzy-{package.replace('_', '-')}" for package in missing)
        raise RuntimeError(
            f"backend:=gazebo is not available here. Nothing was started. apt-get install {names}, or use backend:=mujoco."
        )
    from tandem.robots.description import gazebo_description

    description = gazebo_description("fr3", CONTROLLERS)
    gz_sim = Path(FindPackageShare("ros_gz_sim").perform(context)) / "launch" / "gz_sim.launch.py"
    options = {
        "connect_timeout": 120.0, "silence": 1.0, "finger_topic": "finger_trajectory_controller/joint_trajectory",
    }
    return [
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(gz_sim)),
            launch_arguments=[("gz_args", LaunchConfiguration("gz_args").perform(context))],
        ),
        Node(
            package="robot_state_publisher", executable="robot_state_publisher", output="screen",
            parameters=[{"robot_description": ParameterValue(description, value_type=str)}],
        ),
        Node(
            package="ros_gz_sim", executable="create", output="screen",
            arguments=["-topic", "robot_description", "-name", "fr3"],
        ),
        Node(
            package="controller_manager", executable="spawner", output="screen",
            arguments=[*SPAWNED, "--controller-manager-timeout", "120"],
        ),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(LAUNCH / "franka_bridge.launch.py")),
            launch_arguments=[("driver", "ros2_control"), ("driver_options", json.dumps(options)), ("max_drift", "60.0")],
        ),
    ]


def generate_launch_description() -> LaunchDescription:
    """Gazebo and bridge; further arguments as in franka_bridge.launch.py."""
    return LaunchDescription([
        DeclareLaunchArgument("gz_args", default_value="-r empty.sdf", description="arguments of gz sim"),
        OpaqueFunction(function=simulation),
    ])
