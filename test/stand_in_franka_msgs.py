"""Stands in for ``franka_msgs``, which is in no registry: its messages' fields and sizes (franka_ros2), and no others."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from geometry_msgs.msg import AccelStamped, InertiaStamped, PoseStamped, TwistStamped, Vector3, WrenchStamped
from sensor_msgs.msg import JointState
from std_msgs.msg import Header

ERRORS = (
    "joint_position_limits_violation", "self_collision_avoidance_violation", "joint_reflex", "cartesian_reflex",
    "communication_constraints_violation", "power_limit_violation", "instability_detected",
)  # fmt: skip


class Message:
    """Takes what its fields are made for: the same message type, or as many numbers."""

    fields: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        for name, kind in self.fields.items():
            object.__setattr__(self, name, np.zeros(kind) if isinstance(kind, int) else kind())

    def __setattr__(self, name: str, value: Any) -> None:
        kind = self.fields.get(name)
        assert kind is not None, f"{type(self).__name__} has no {name}"
        assert len(value) == kind if isinstance(kind, int) else isinstance(value, kind), (name, value)
        object.__setattr__(self, name, value)


class Errors(Message):
    fields: ClassVar[dict[str, Any]] = dict.fromkeys(ERRORS, bool)


class Elbow(Message):
    fields: ClassVar[dict[str, Any]] = dict.fromkeys(
        ("position", "desired_position", "commanded_position", "commanded_velocity", "commanded_acceleration"), 2
    )


class CollisionIndicators(Message):
    fields: ClassVar[dict[str, Any]] = {
        **dict.fromkeys(("is_cartesian_linear_collision", "is_cartesian_angular_collision"), Vector3),
        **dict.fromkeys(("is_cartesian_linear_contact", "is_cartesian_angular_contact"), Vector3),
        "is_joint_collision": 7, "is_joint_contact": 7,
    }  # fmt: skip


class FrankaRobotState(Message):
    fields: ClassVar[dict[str, Any]] = {
        "header": Header, "collision_indicators": CollisionIndicators, "measured_joint_state": JointState,
        "desired_joint_state": JointState, "measured_joint_motor_state": JointState, "ddq_d": 7, "dtau_j": 7,
        "tau_ext_hat_filtered": JointState, "elbow": Elbow, "k_f_ext_hat_k": WrenchStamped, "o_f_ext_hat_k": WrenchStamped,
        "inertia_ee": InertiaStamped, "inertia_load": InertiaStamped, "inertia_total": InertiaStamped, "o_t_ee": PoseStamped,
        "o_t_ee_d": PoseStamped, "o_t_ee_c": PoseStamped, "f_t_ee": PoseStamped, "ee_t_k": PoseStamped, "o_dp_ee_d": TwistStamped,
        "o_dp_ee_c": TwistStamped, "o_ddp_ee_c": AccelStamped, "time": float, "control_command_success_rate": float,
        "robot_mode": int, "current_errors": Errors, "last_motion_errors": Errors,
    }  # fmt: skip
