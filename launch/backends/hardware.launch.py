"""A real Franka Research 3 over the Franka Control Interface (libfranka). The camera is the user's: see perception.launch.py."""

import json
from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription

LAUNCH = Path(__file__).resolve().parents[1]
PROFILES = sorted(p.stem for p in (LAUNCH.parent / "config" / "fci").glob("*.yaml"))
SWITCH = ["true", "false"]


def numbers(context: LaunchContext, name: str, count: int) -> list[float]:
    """The launch argument ``name`` as ``count`` numbers.

    Raises:
        RuntimeError: it is something else.
    """
    text = LaunchConfiguration(name).perform(context)
    try:
        values = [float(x) for x in text.replace(",", " ").split()]
    except ValueError:
        values = []
    if len(values) != count:
        raise RuntimeError(f"{name}:={text!r}: accepted: {count} numbers, separated by commas")
    return values


def bridge(context: LaunchContext) -> list[object]:
    """The bridge with its driver's options, and for a twin the camera that looks at it.

    Raises:
        RuntimeError: no address, or a malformed load.
    """
    ip = LaunchConfiguration("robot_ip").perform(context).strip()
    if not ip:
        raise RuntimeError("backend:=hardware needs robot_ip:=ADDRESS, the address of the arm's controller. Nothing was started.")

    def switched(name: str) -> bool:
        return LaunchConfiguration(name).perform(context) == "true"

    options = {
        "ip": ip, "interface": LaunchConfiguration("interface").perform(context),
        "profile": LaunchConfiguration("profile").perform(context), "realtime": switched("enforce_realtime"),
        "gripper": switched("gripper"), "home_gripper": switched("home_gripper"),
        "load": {
            "mass": numbers(context, "load_mass", 1)[0], "centre": numbers(context, "load_centre", 3),
            "inertia": numbers(context, "load_inertia", 9),
        },
    }
    twin, patient = switched("twin"), switched("patient")
    if patient:
        options |= {"answer_within": 60.0, "min_success_rate": 0.0}
    out: list[object] = [IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(LAUNCH / "franka_bridge.launch.py")),
        launch_arguments=[
            ("driver", "twin" if twin else "fci"), ("driver_options", json.dumps(options)),
            ("priority", "0" if patient else "50"),
            *([("max_drift", "60.0")] if patient else []),
        ],
    )]
    if twin:
        out.append(Node(
            package="tandem", executable="camera", name="camera", output="screen",
            ros_arguments=["--enclave", "/tandem/camera"],
            parameters=[
                LaunchConfiguration("params_file"),
                {
                    "scene": ParameterValue(LaunchConfiguration("scene"), value_type=str),
                    "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
                },
            ],
            respawn=LaunchConfiguration("respawn"), respawn_delay=2.0, respawn_max_retries=5,
        ))
    return out


def generate_launch_description() -> LaunchDescription:
    """The bridge; further arguments as in franka_bridge.launch.py."""
    return LaunchDescription([
        DeclareLaunchArgument("robot_ip", default_value="", description="IP address of the arm's controller"),
        DeclareLaunchArgument(
            "interface", default_value="position", description="what is commanded", choices=["position", "velocity", "torque"]
        ),
        DeclareLaunchArgument(
            "profile", default_value="default",
            description=f"safety profile: collision thresholds and stiffness; in config/fci ({', '.join(PROFILES)}) or a path",
        ),
        DeclareLaunchArgument("gripper", default_value="true", description="drive the Franka Hand", choices=SWITCH),
        DeclareLaunchArgument(
            "home_gripper", default_value="false", description="home the hand at the start: its fingers move", choices=SWITCH
        ),
        DeclareLaunchArgument(
            "enforce_realtime", default_value="true", choices=SWITCH,
            description="insist on a PREEMPT_RT kernel and real-time priority; false: for a simulated controller only",
        ),
        DeclareLaunchArgument(
            "twin", default_value="false", choices=SWITCH,
            description="a simulated scene with mug and camera about the arm: for a simulated controller, or an empty room",
        ),
        DeclareLaunchArgument(
            "patient", default_value="false", choices=SWITCH,
            description="for a simulated controller that waits for late answers, on a busy machine; never for an arm",
        ),
        DeclareLaunchArgument(
            "use_sim_time", default_value="false", choices=SWITCH,
            description="twin: the bridge publishes the simulated arm's time as /clock, everybody goes by it",
        ),
        DeclareLaunchArgument("scene", default_value="empty.yaml", description="twin: scene file, in config/scenes or a path"),
        DeclareLaunchArgument("respawn", default_value="true", description="twin: start an ended camera again", choices=SWITCH),
        DeclareLaunchArgument(
            "params_file", default_value=str(LAUNCH.parent / "config" / "nodes.yaml"), description="parameters of all nodes"
        ),
        DeclareLaunchArgument("load_mass", default_value="0.0", description="load beyond what is set in Desk [kg], 0 .. 3"),
        DeclareLaunchArgument("load_centre", default_value="0,0,0", description="its centre of mass in the flange's frame [m]"),
        DeclareLaunchArgument("load_inertia", default_value="0,0,0,0,0,0,0,0,0", description="its inertia, by columns [kg m^2]"),
        OpaqueFunction(function=bridge),
    ])
