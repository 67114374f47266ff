"""``franka/robot_state``: all that a Franka arm says of itself, as FrankaRobotState where ``franka_msgs`` is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import (
    AccelStamped,
    Inertia,
    InertiaStamped,
    PoseStamped,
    TwistStamped,
    Vector3,
    Wrench,
    WrenchStamped,
)
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Header

from tandem.execution.fci.details import Details
from tandem.nodes import messages
from tandem.nodes.base import SENSOR_QOS

TOPIC = "franka/robot_state"


def message_type() -> type | None:
    """FrankaRobotState; None where ``franka_msgs`` is not installed."""
    try:
        from franka_msgs.msg import FrankaRobotState
    except ImportError:
        return None
    kind: type = FrankaRobotState
    return kind


def _vector(values: messages.Array) -> Vector3:
    return Vector3(x=float(values[0]), y=float(values[1]), z=float(values[2]))


def robot_state(kind: type, details: Details, names: messages.Names, stamp: Time) -> Any:
    """``details`` as a message of ``kind`` (FrankaRobotState of franka_ros2 v3), stamped ``stamp``."""
    f, joints, msg = details.fields, names.joints[:-1], kind()
    tip, flange = f"{names.prefix}hand_tcp", f"{names.prefix}link8"

    def header(frame: str = names.base) -> Header:
        return Header(stamp=stamp, frame_id=frame)

    def joint_state(position: str = "", velocity: str = "", effort: str = "") -> JointState:
        values = {k: f[v].tolist() for k, v in (("position", position), ("velocity", velocity), ("effort", effort)) if v}
        return JointState(header=header(), name=joints, **values)

    def inertia(part: str) -> InertiaStamped:
        i = f[f"I_{part}"].reshape(3, 3)
        out = Inertia(m=float(f[f"m_{part}"][0]), com=_vector(f[f"F_x_C{part}"]))
        for name in ("ixx", "ixy", "ixz", "iyy", "iyz", "izz"):
            setattr(out, name, float(i["xyz".index(name[1]), "xyz".index(name[2])]))
        return InertiaStamped(header=header(tip if part == "ee" else flange), inertia=out)

    msg.header = header()
    msg.measured_joint_state = joint_state("q", "dq", "tau_J")
    msg.desired_joint_state = joint_state("q_d", "dq_d", "tau_J_d")
    msg.measured_joint_motor_state = joint_state("theta", "dtheta")
    msg.tau_ext_hat_filtered = joint_state(effort="tau_ext_hat_filtered")
    msg.ddq_d, msg.dtau_j = f["ddq_d"], f["dtau_J"]
    for kind_of in ("collision", "contact"):
        both = f[f"cartesian_{kind_of}"]
        setattr(msg.collision_indicators, f"is_cartesian_linear_{kind_of}", _vector(both[:3]))
        setattr(msg.collision_indicators, f"is_cartesian_angular_{kind_of}", _vector(both[3:]))
        setattr(msg.collision_indicators, f"is_joint_{kind_of}", f[f"joint_{kind_of}"])
    for name, field in (
        ("position", "elbow"), ("desired_position", "elbow_d"), ("commanded_position", "elbow_c"),
        ("commanded_velocity", "delbow_c"), ("commanded_acceleration", "ddelbow_c"),
    ):  # fmt: skip
        setattr(msg.elbow, name, f[field])
    for name, field, frame in (("k_f_ext_hat_k", "K_F_ext_hat_K", tip), ("o_f_ext_hat_k", "O_F_ext_hat_K", names.base)):
        wrench = Wrench(force=_vector(f[field][:3]), torque=_vector(f[field][3:]))
        setattr(msg, name, WrenchStamped(header=header(frame), wrench=wrench))
    msg.inertia_ee, msg.inertia_load, msg.inertia_total = inertia("ee"), inertia("load"), inertia("total")
    for field, frame in (("O_T_EE", ""), ("O_T_EE_d", ""), ("O_T_EE_c", ""), ("F_T_EE", flange), ("EE_T_K", tip)):
        pose = f[field].reshape(4, 4).T
        stamped = PoseStamped(header=header(frame or names.base))
        if np.any(pose):  # all zero while nothing was commanded: no pose, and the message's identity stays
            stamped.pose = messages.pose_to_msg(pose)
        setattr(msg, field.lower(), stamped)
    for field in ("O_dP_EE_d", "O_dP_EE_c", "O_ddP_EE_c"):
        stamped = AccelStamped(header=header()) if field.startswith("O_dd") else TwistStamped(header=header())
        inner = stamped.accel if field.startswith("O_dd") else stamped.twist
        inner.linear, inner.angular = _vector(f[field][:3]), _vector(f[field][3:])
        setattr(msg, field.lower(), stamped)
    msg.time, msg.robot_mode = details.time, details.mode
    msg.control_command_success_rate = float(f["control_command_success_rate"][0])
    for target, errors in ((msg.current_errors, details.current_errors), (msg.last_motion_errors, details.last_motion_errors)):
        for error in errors:
            if hasattr(target, error):  # newer controllers know errors that the message does not
                setattr(target, error, True)
    return msg


class RobotStateSpeaker:
    """Publishes each new state once. ``speak`` makes the publisher: type, topic, QoS."""

    def __init__(self, kind: type, speak: Callable[[type, str, QoSProfile], Publisher], names: messages.Names) -> None:
        self._kind, self._names = kind, names
        self._publisher = speak(kind, TOPIC, SENSOR_QOS)
        self._told = -1.0

    def tell(self, details: Details | None, stamp: float) -> None:
        """``stamp`` [s]: when it was measured."""
        if details is not None and details.time != self._told:
            self._told = details.time
            self._publisher.publish(robot_state(self._kind, details, self._names, messages.stamp_from_seconds(stamp)))
