"""The backend hardware: a real FR3 over libfranka (FCI). Not there yet."""

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration

from launch import LaunchContext, LaunchDescription


def refuse(context: LaunchContext) -> None:
    """Say that there is no such driver.

    Raises:
        RuntimeError: always.
    """
    address = LaunchConfiguration("robot_ip").perform(context) or "(no robot_ip given)"
    raise RuntimeError(
        f"backend:=hardware at {address} is not available in this version: there is no driver for libfranka (FCI). "
        "Nothing was started. Use backend:=mujoco or backend:=loopback."
    )


def generate_launch_description() -> LaunchDescription:
    """Nothing but the refusal."""
    return LaunchDescription([
        DeclareLaunchArgument("robot_ip", default_value="", description="address of the arm's controller"),
        OpaqueFunction(function=refuse),
    ])
