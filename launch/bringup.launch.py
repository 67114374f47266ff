"""The whole stack: perception, planner, safety filter, bridge with its backend, obstacles; on request rviz and a recording.

``ros2 launch tandem bringup.launch.py backend:=mujoco sampler:=jm2d scene:=... seed:=...``; ``--show-args`` lists all arguments.
"""

import os
import secrets
import tempfile
import time
from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    SetLaunchConfiguration,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnShutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import (
    EqualsSubstitution,
    LaunchConfiguration,
    NotEqualsSubstitution,
    PathJoinSubstitution,
    PythonExpression,
)
from launch_ros.actions import Node, PushRosNamespace
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription

LAUNCH = Path(__file__).resolve().parent
CONFIG = LAUNCH.parent / "config"
SAMPLERS = sorted({"default", *(p.stem for p in (CONFIG / "samplers").glob("*.yaml"))})
SWITCH = ["true", "false"]


def arguments() -> list[DeclareLaunchArgument]:
    """All arguments of the bring-up."""
    def declare(name: str, default: str, description: str, choices: list[str] | None = None) -> DeclareLaunchArgument:
        return DeclareLaunchArgument(name, default_value=default, description=description, choices=choices)

    return [
        declare("backend", "mujoco", "what moves", ["mujoco", "loopback", "gazebo", "hardware", "ros2_control"]),
        declare("part", "all", "realtime: bridge and filter alone; planning: the rest", ["all", "realtime", "planning"]),
        declare("planner", "true", "false: neither planner nor perception; for tandem home and tandem jog", SWITCH),
        declare("sampler", "default", "sampler configuration in config/samplers", SAMPLERS),
        declare("device", "cpu", "torch's device for the planner's networks: cpu, cuda, cuda:1"),
        declare("scene", "empty.yaml", "scene file with obstacles, in config/scenes or a path"),
        declare("publish_scene", "true", "publish the scene file's obstacles; false: another node does", SWITCH),
        declare("seed", "0", "seed of the planner, and of where a simulated object stands"),
        declare("safety", "default", "bounds in config/safety"),
        declare("namespace", "", "namespace of all nodes, e.g. left_arm"),
        declare("rviz", "false", "start rviz2 (needs rviz2 and robot_state_publisher)", SWITCH),
        declare("record", "false", "record the topics to MCAP", SWITCH),
        declare("record_dir", "", "folder to make for the recording; empty: ./tandem_<date>_<time>"),
        declare("realtime", "false", "run the fast loop with real-time priority", SWITCH),
        declare("cpu", "-1", "CPU of the fast loop; -1: any"),
        declare("robot_ip", "", "address of the arm's controller, for backend:=hardware and ros2_control"),
        declare("use_sim_time", "false", "go by the time of a simulated arm, which the bridge publishes as /clock", SWITCH),
        declare("respawn", "true", "start nodes again that ended; the bridge never is", SWITCH),
        declare("params_file", str(CONFIG / "nodes.yaml"), "parameters of all nodes"),
        declare(
            "certificate_key_file", "",
            "file (mode 0600) with the key of filter and bridge; empty: variable TANDEM_CERTIFICATE_KEY, else a new key",
        ),
    ]


def certificate_key(context: LaunchContext) -> list[object]:
    """A fresh key in a file only this user can read, unless a key is given; the file goes when the launch ends."""
    if LaunchConfiguration("certificate_key_file").perform(context) or context.environment.get("TANDEM_CERTIFICATE_KEY"):
        return []
    folder = os.environ.get("XDG_RUNTIME_DIR")
    handle, path = tempfile.mkstemp(prefix="tandem_key_", dir=folder if folder and os.access(folder, os.W_OK) else None)
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))

    def remove(event: object, context: LaunchContext) -> None:
        Path(path).unlink(missing_ok=True)

    return [SetLaunchConfiguration("certificate_key_file", path), RegisterEventHandler(OnShutdown(on_shutdown=remove))]


def recorder(context: LaunchContext) -> list[Node]:
    """The node that records."""
    folder = LaunchConfiguration("record_dir").perform(context) or time.strftime("tandem_%Y%m%d_%H%M%S")
    namespace = LaunchConfiguration("namespace").perform(context)
    return [Node(
        package="tandem", executable="recorder", output="screen",
        additional_env={"ROS_SECURITY_ENCLAVE_OVERRIDE": "/tandem/recorder"},
        arguments=["--out", folder, *(["--namespace", namespace] if namespace else [])],
    )]


def include(name: str, **given: object) -> IncludeLaunchDescription:
    """A launch file of this folder."""
    return IncludeLaunchDescription(PythonLaunchDescriptionSource(str(LAUNCH / name)), launch_arguments=list(given.items()))


def generate_launch_description() -> LaunchDescription:
    """See the module's text."""
    backend_file = PathJoinSubstitution([str(LAUNCH / "backends"), [LaunchConfiguration("backend"), ".launch.py"]])
    backend = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(backend_file),
        launch_arguments=[
            ("priority", PythonExpression(["50 if '", LaunchConfiguration("realtime"), "' == 'true' else 0"])),
        ],
    )
    scene_publisher = Node(
        package="tandem", executable="scene_publisher", name="scene_publisher", output="screen",
        ros_arguments=["--enclave", "/tandem/scene_publisher"],
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "scene": ParameterValue(LaunchConfiguration("scene"), value_type=str),
                "use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool),
            },
        ],
        respawn=LaunchConfiguration("respawn"), respawn_delay=2.0, respawn_max_retries=5,
        condition=IfCondition(LaunchConfiguration("publish_scene")),
    )
    namespace = LaunchConfiguration("namespace")
    return LaunchDescription([
        *arguments(),
        GroupAction([
            PushRosNamespace(namespace, condition=IfCondition(NotEqualsSubstitution(namespace, ""))),
            GroupAction(
                [OpaqueFunction(function=certificate_key), backend, include("safety_filter.launch.py")],
                condition=IfCondition(NotEqualsSubstitution(LaunchConfiguration("part"), "planning")),
            ),
            GroupAction(
                [
                    scene_publisher,
                    GroupAction(
                        [include("perception.launch.py"), include("planner.launch.py")],
                        condition=IfCondition(LaunchConfiguration("planner")),
                    ),
                ],
                condition=IfCondition(NotEqualsSubstitution(LaunchConfiguration("part"), "realtime")),
            ),
            OpaqueFunction(function=recorder, condition=IfCondition(EqualsSubstitution(LaunchConfiguration("record"), "true"))),
            GroupAction([include("rviz.launch.py")], condition=IfCondition(LaunchConfiguration("rviz"))),
        ]),
    ])
