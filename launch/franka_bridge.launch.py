"""Plays certified trajectories on an arm. Its end ends the launch: nobody would be left to bring the arm to rest."""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

PARAMETERS = str(Path(__file__).resolve().parents[1] / "config" / "nodes.yaml")


def text(name: str) -> ParameterValue:
    """The launch argument ``name`` as a string parameter."""
    return ParameterValue(LaunchConfiguration(name), value_type=str)


def number(name: str) -> ParameterValue:
    """The launch argument ``name`` as an integer parameter."""
    return ParameterValue(LaunchConfiguration(name), value_type=int)


def generate_launch_description() -> LaunchDescription:
    """One node; see ``--show-args``."""
    return LaunchDescription([
        DeclareLaunchArgument("params_file", default_value=PARAMETERS, description="parameters of all nodes"),
        DeclareLaunchArgument(
            "driver", default_value="loopback", description="what is driven: loopback, mujoco, fci, or a module:callable"
        ),
        DeclareLaunchArgument("driver_options", default_value="{}", description="options of the driver, as JSON"),
        DeclareLaunchArgument("scene", default_value="empty.yaml", description="scene file, in config/scenes or a path"),
        DeclareLaunchArgument("seed", default_value="0", description="seed; a simulated driver places the object with it"),
        DeclareLaunchArgument("safety", default_value="default", description="bounds in config/safety"),
        DeclareLaunchArgument(
            "certificate_key_file", default_value="",
            description="file (mode 0600) with the key shared with the filter; empty: variable TANDEM_CERTIFICATE_KEY",
        ),
        DeclareLaunchArgument("priority", default_value="0", description="SCHED_FIFO priority of the fast loop; 0: none"),
        DeclareLaunchArgument("cpu", default_value="-1", description="CPU of the fast loop; -1: any"),
        DeclareLaunchArgument(
            "max_drift", default_value="0.05",
            description="how far the clock of an arm that keeps its own may fall behind in motion [s]; more only in simulation",
        ),
        DeclareLaunchArgument(
            "use_sim_time", default_value="false", choices=["true", "false"],
            description="publish the arm's time as /clock, for a simulated arm that keeps a time of its own",
        ),
        Node(
            package="tandem", executable="franka_bridge", name="franka_bridge", output="screen",
            ros_arguments=["--enclave", "/tandem/franka_bridge"],
            parameters=[
                LaunchConfiguration("params_file"),
                {
                    "backend": text("driver"), "backend_options": text("driver_options"), "scene": text("scene"),
                    "seed": number("seed"), "bounds": text("safety"), "certificate_key_file": text("certificate_key_file"),
                    "priority": number("priority"), "cpu": number("cpu"),
                    # it tells the time: it cannot be told
                    "use_sim_time": False, "publish_clock": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
                    "max_drift": ParameterValue(LaunchConfiguration("max_drift"), value_type=float),
                },
            ],
            on_exit=[Shutdown(reason="franka_bridge ended")],
        ),
    ])
