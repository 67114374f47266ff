"""An arm behind a joint_trajectory_controller of ros2_control; robot_ip:= or fake_hardware:=true starts franka_ros2, too."""

import json
from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription

LAUNCH = Path(__file__).resolve().parents[1]
CONTROLLERS = str(LAUNCH.parent / "config" / "ros2_control" / "controllers.yaml")
SWITCH = ["true", "false"]
#: franka_ros2 is started in a namespace of its own: it has a topic franka/joint_states, too
ARM_NAMESPACE = "fr3"


def value(context: LaunchContext, name: str) -> str:
    """The launch argument ``name``."""
    return str(LaunchConfiguration(name).perform(context)).strip()


def arm(context: LaunchContext) -> list[object]:
    """franka_ros2 with the trajectory controller, where an address or fake hardware is asked for.

    Raises:
        RuntimeError: it is not installed.
    """
    ip, fake = value(context, "robot_ip"), value(context, "fake_hardware")
    if not ip and fake != "true":
        return []
    try:
        bringup = FindPackageShare("franka_bringup").perform(context)
    except Exception as error:
        raise RuntimeError(
            "franka_ros2 is not installed (no package franka_bringup): import tandem.repos into the workspace and build it, or "
            "start the controllers yourself and leave out robot_ip. Nothing was started."
        ) from error
    arguments = {
        "robot_type": "fr3", "robot_ip": ip or "dont-care", "use_fake_hardware": fake, "load_gripper": "false",
        "namespace": ARM_NAMESPACE, "controllers_yaml": CONTROLLERS,
    }
    return [
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(Path(bringup) / "launch" / "franka.launch.py")),
            launch_arguments=list(arguments.items()),
        ),
        Node(
            package="controller_manager", executable="spawner", namespace=ARM_NAMESPACE, output="screen",
            arguments=["joint_trajectory_controller", "--controller-manager-timeout", "60"],
        ),
    ]


def bridge(context: LaunchContext) -> list[IncludeLaunchDescription]:
    """The bridge with its driver's options."""
    started = bool(value(context, "robot_ip")) or value(context, "fake_hardware") == "true"
    controller = value(context, "controller") or (f"/{ARM_NAMESPACE}/" if started else "") + "joint_trajectory_controller"
    states = value(context, "joint_states") or (f"/{ARM_NAMESPACE}/franka/joint_states" if started else "joint_states")
    fingers = value(context, "finger_controller")
    options = {
        "topic": f"{controller}/joint_trajectory", "controller_state": f"{controller}/controller_state", "states": states,
        "finger_topic": f"{fingers}/joint_trajectory" if fingers else "", "rate": float(value(context, "state_rate")),
        "connect_timeout": 60.0,
    }
    return [IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(LAUNCH / "franka_bridge.launch.py")),
        launch_arguments=[("driver", "ros2_control"), ("driver_options", json.dumps(options))],
    )]


def generate_launch_description() -> LaunchDescription:
    """Arm and bridge; further arguments as in franka_bridge.launch.py."""
    return LaunchDescription([
        DeclareLaunchArgument("robot_ip", default_value="", description="address of a real arm: starts franka_ros2 for it"),
        DeclareLaunchArgument(
            "fake_hardware", default_value="false", description="start franka_ros2 with its fake hardware", choices=SWITCH
        ),
        DeclareLaunchArgument(
            "controller", default_value="", description="the trajectory controller's name; empty: joint_trajectory_controller"
        ),
        DeclareLaunchArgument("joint_states", default_value="", description="topic of measured joints; empty: joint_states"),
        DeclareLaunchArgument(
            "finger_controller", default_value="", description="trajectory controller of one finger; empty: no gripper"
        ),
        DeclareLaunchArgument("state_rate", default_value="100.0", description="measurements taken a second [Hz], 40 .. 1000"),
        OpaqueFunction(function=arm),
        OpaqueFunction(function=bridge),
    ])
