"""The backend gazebo: Gazebo with ros2_control's joint_trajectory_controller. Not there yet."""

from launch.actions import OpaqueFunction

from launch import LaunchContext, LaunchDescription


def refuse(context: LaunchContext) -> None:
    """Say that there is no such driver.

    Raises:
        RuntimeError: always.
    """
    raise RuntimeError(
        "backend:=gazebo is not available in this version: there is no driver for Gazebo with ros2_control. "
        "Nothing was started. Use backend:=mujoco or backend:=loopback."
    )


def generate_launch_description() -> LaunchDescription:
    """Nothing but the refusal."""
    return LaunchDescription([OpaqueFunction(function=refuse)])
