"""``tandem security``: the SROS2 policy of the graph, one enclave a process, and how it becomes a keystore.

Only the safety filter may publish what the bridge plays, only the bridge what the arm does, only an operator may call the
services that resume. The certificate of each trajectory holds without this; the policy keeps strangers from listening, flooding,
stopping.
Format: ``ros2/sros2``, policy 0.2.0 (design article "ROS 2 Access Control Policies").
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tandem.core.errors import InputError

#: enclaves lie under this path; launch files start each node in the one of its name
ROOT = "/tandem"
#: services that rclpy offers for every node, and those of lifecycle nodes
COMMON = (
    "describe_parameters", "get_parameter_types", "get_parameters", "list_parameters", "set_parameters",
    "set_parameters_atomically", "get_type_description",
)
LIFECYCLE = ("change_state", "get_state", "get_available_states", "get_available_transitions", "get_transition_graph")
RESUME, STOP = "franka/resume", "franka/stop"


@dataclass(frozen=True)
class Access:
    """What the processes of an enclave may do; names relative to the namespace, or absolute. ``nodes``: in that process."""

    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    reply: tuple[str, ...] = ()
    request: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    lifecycle: bool = True


CERTIFIED = ("safety_filter/certified", "safety_filter/verdict", "safety_filter/guard", "safety_filter/stop")
PROPOSAL = ("planner/proposal", "planner/proposal_info")
ARM = ("franka/commitment", "franka/status")
ENCLAVES: dict[str, Access] = {
    "safety_filter": Access((*CERTIFIED, "safety_filter/occupancy"), (*ARM, "obstacles", *PROPOSAL)),
    "franka_bridge": Access(
        (*ARM, "franka/joint_states", "franka/commanded_joint_states", "franka/robot_state", "sim/world", "sim/truth",
         "joint_trajectory_controller/joint_trajectory", "finger_trajectory_controller/joint_trajectory"),
        (*CERTIFIED, "joint_states", "joint_trajectory_controller/controller_state"),
        (RESUME, STOP), nodes=("franka_bridge", "franka_controller_link"),
    ),
    "planner": Access(
        (*PROPOSAL, "planner/candidates"), ("perception/object_pose", *ARM, "safety_filter/verdict", "obstacles")
    ),
    "perception": Access(
        ("perception/object_pose", "perception/markers", "perception/debug_image", "/tf"),
        ("camera/camera_info", "camera/image_raw", "camera/pose"),
    ),
    "camera": Access(("camera/image_raw", "camera/camera_info", "camera/pose"), ("sim/world",)),
    "scene_publisher": Access(("obstacles",)),
    "recorder": Access((), ("*",), lifecycle=False),
    "operator": Access(
        PROPOSAL, (*ARM, "safety_filter/verdict", "safety_filter/guard", "obstacles"),
        request=(RESUME, STOP, "safety_filter/get_parameters", "planner/get_state", "planner/change_state"), lifecycle=False,
    ),
}  # fmt: skip


def policy(namespace: str = "") -> str:
    """The policy as XML, for ``ros2 security create_permission``.

    Raises:
        InputError: the namespace is none.
    """
    ns = f"/{namespace.strip('/')}"
    if not ns[1:].replace("_", "").replace("/", "").isalnum() and ns != "/":
        raise InputError(f"namespace {namespace!r}: accepted: letters, digits, _ and /")
    root = ET.Element("policy", version="0.2.0")
    enclaves = ET.SubElement(root, "enclaves")
    for name, access in ENCLAVES.items():
        profiles = ET.SubElement(ET.SubElement(enclaves, "enclave", path=f"{ROOT}/{name}"), "profiles")
        for node in access.nodes or (name,):
            profile = ET.SubElement(profiles, "profile", ns=ns, node=node)
            own = [*COMMON, *(LIFECYCLE if access.lifecycle and node == name else ())]
            state = ("~/transition_event",) if access.lifecycle and node == name else ()
            _allow(profile, "topics", "publish", (*access.publish, "/diagnostics", "/rosout", "/parameter_events", *state))
            _allow(profile, "topics", "subscribe", (*access.subscribe, "/parameter_events", "/clock"))
            _allow(profile, "services", "reply", (*(f"~/{service}" for service in own), *access.reply))
            _allow(profile, "services", "request", access.request)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _allow(profile: ET.Element, kind: str, what: str, names: tuple[str, ...]) -> None:
    if names:
        entry = ET.SubElement(profile, kind, {what: "ALLOW"})
        for name in names:
            ET.SubElement(entry, kind[:-1]).text = name


def run(console: Console, out: Path, namespace: str) -> int:
    """Write the policy to ``out`` and say what to do with it; 0."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(policy(namespace), encoding="utf-8")
    store = "tandem_keystore"
    lines = [f"ros2 security create_keystore {store}"]
    for name in ENCLAVES:
        lines += [
            f"ros2 security create_enclave {store} {ROOT}/{name}", f"ros2 security create_permission {store} {ROOT}/{name} {out}"
        ]
    hosts = {"real-time host": ("safety_filter", "franka_bridge"), "workstation": tuple(
        n for n in ENCLAVES if n not in ("safety_filter", "franka_bridge")
    )}
    console.print(f"wrote {out}. With ROS 2's sros2, on a machine that is neither host:", highlight=False, soft_wrap=True)
    for line in lines:
        console.print(f"  {line}", highlight=False, soft_wrap=True)
    for host, names in hosts.items():
        folders = ", ".join(f"enclaves{ROOT}/{n}" for n in names)
        console.print(f"{host}: copy public/ and {folders} there (never private/)", highlight=False, soft_wrap=True)
    console.print(
        f"on both: export ROS_SECURITY_ENABLE=true ROS_SECURITY_STRATEGY=Enforce ROS_SECURITY_KEYSTORE=$PWD/{store}\n"
        f"operator's tools: ROS_SECURITY_ENCLAVE_OVERRIDE={ROOT}/operator tandem home", highlight=False, soft_wrap=True,
    )
    return 0
