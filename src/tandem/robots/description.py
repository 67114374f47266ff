"""An arm's URDF as text for other programs: rviz and robot_state_publisher, and Gazebo with gz_ros2_control."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from tandem.robots.model import load_arm, robot_config
from tandem.robots.urdf import resolve_source

#: as gz_ros2_control for Jazzy names them
GZ_SYSTEM, GZ_LIBRARY = "gz_ros2_control/GazeboSimSystem", "gz_ros2_control-system"
GZ_PLUGIN = "gz_ros2_control::GazeboSimROS2ControlPlugin"


def _tree(robot: str) -> ET.Element:
    config, path = robot_config(robot)
    urdf = resolve_source(config.urdf, path)
    root = ET.parse(urdf).getroot()
    for mesh in root.iter("mesh"):
        name = mesh.get("filename", "")
        if "://" not in name:
            mesh.set("filename", (urdf.parent / name).resolve().as_uri())
    return root


def robot_description(robot: str = "fr3") -> str:
    """URDF of ``config/robots/<robot>.yaml`` with absolute mesh files.

    Raises:
        ConfigError: no such robot, or its URDF is missing.
    """
    return ET.tostring(_tree(robot), encoding="unicode")


def gazebo_description(robot: str, controllers: str) -> str:
    """The same for Gazebo: bolted to the world, every movable joint with a position interface, at home at the start.

    ``controllers``: file with the controllers' parameters.

    Raises:
        ConfigError: as :func:`robot_description`.
    """
    root, arm = _tree(robot), load_arm(robot)
    links = [link.get("name") for link in root.findall("link")]
    children = {joint.find("child").get("link") for joint in root.findall("joint")}  # type: ignore[union-attr]
    if "world" not in links:
        bolt = ET.SubElement(root, "joint", name="world_bolt", type="fixed")
        ET.SubElement(root, "link", name="world")
        ET.SubElement(bolt, "parent", link="world")
        ET.SubElement(bolt, "child", link=str(next(name for name in links if name not in children)))
    start = iter(arm.home.tolist())
    control = ET.SubElement(root, "ros2_control", name="GazeboSimSystem", type="system")
    ET.SubElement(ET.SubElement(control, "hardware"), "plugin").text = GZ_SYSTEM
    for joint in root.findall("joint"):
        kind = joint.get("type")
        if kind not in ("revolute", "prismatic", "continuous") or joint.find("mimic") is not None:
            continue
        entry = ET.SubElement(control, "joint", name=str(joint.get("name")))
        ET.SubElement(entry, "command_interface", name="position")
        position = ET.SubElement(entry, "state_interface", name="position")
        first = next(start, 0.0) if kind == "revolute" else 0.5 * arm.stroke
        ET.SubElement(position, "param", name="initial_value").text = repr(first)
        ET.SubElement(entry, "state_interface", name="velocity")
    plugin = ET.SubElement(ET.SubElement(root, "gazebo"), "plugin", filename=GZ_LIBRARY, name=GZ_PLUGIN)
    ET.SubElement(plugin, "parameters").text = controllers
    return ET.tostring(root, encoding="unicode")
