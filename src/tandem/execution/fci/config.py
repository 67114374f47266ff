"""Settings of the arm on the Franka Control Interface: which interface, load, and the named safety profiles in ``config/fci``."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tandem.core.config import load, setting
from tandem.core.errors import ConfigError
from tandem.core.paths import config_file

JOINTS = 7
INTERFACES = ("position", "velocity", "torque")


def _seven(value: float) -> list[float]:
    return [value] * JOINTS


@dataclass(frozen=True)
class SafetyProfile:
    """At what the arm stops itself, and how stiff it is. Lists have one value a joint, forces x y z [N] then moments [Nm].

    Between ``lower`` and ``upper`` a contact is reported, above ``upper`` the arm stops with a reflex.
    Source: libfranka, ``Robot::setCollisionBehavior`` and ``setJointImpedance``.
    """

    torque_lower: list[float] = setting(_seven(15.0), "contact thresholds", unit="Nm", lo=1.0, hi=100.0)
    torque_upper: list[float] = setting(_seven(25.0), "collision thresholds", unit="Nm", lo=1.0, hi=100.0)
    force_lower: list[float] = setting([15.0] * 6, "contact thresholds at the flange", unit="N, Nm", lo=1.0, hi=150.0)
    force_upper: list[float] = setting([25.0] * 6, "collision thresholds at the flange", unit="N, Nm", lo=1.0, hi=150.0)
    joint_impedance: list[float] = setting(
        [3000.0, 3000.0, 3000.0, 2500.0, 2500.0, 2000.0, 2000.0], "stiffness of the arm's own controller", unit="Nm/rad",
        lo=10.0, hi=14250.0,
    )  # fmt: skip
    torque_stiffness: list[float] = setting(
        [600.0, 600.0, 600.0, 600.0, 250.0, 150.0, 50.0], "stiffness of the torque interface", unit="Nm/rad", lo=0.0, hi=2000.0
    )
    torque_damping: list[float] = setting(
        [50.0, 50.0, 50.0, 50.0, 30.0, 25.0, 15.0], "damping of the torque interface", unit="Nms/rad", lo=0.0, hi=200.0
    )

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            count = 6 if name.startswith("force") else JOINTS
            if len(value) != count:
                raise ConfigError(f"safety profile: {name} has {len(value)} values; expected {count}")
        for kind in ("torque", "force"):
            low, up = getattr(self, f"{kind}_lower"), getattr(self, f"{kind}_upper")
            if any(a > b for a, b in zip(low, up, strict=True)):
                raise ConfigError(f"safety profile: {kind}_lower {low} must not exceed {kind}_upper {up}")


def load_profile(name: str) -> SafetyProfile:
    """``config/fci/<name>.yaml``, or a path. Raises ConfigError: names the profiles that are there."""
    return load(SafetyProfile, config_file("fci", name if name.endswith((".yaml", ".yml")) else f"{name}.yaml"))


@dataclass(frozen=True)
class Load:
    """What is mounted or carried beyond the end effector that is set in Desk. Source: libfranka, ``Robot::setLoad``."""

    mass: float = setting(0.0, "mass; the arm carries 3 kg in all", unit="kg", lo=0.0, hi=3.0)
    centre: list[float] = setting([0.0, 0.0, 0.0], "centre of mass in the flange's frame", unit="m", lo=-0.5, hi=0.5)
    inertia: list[float] = setting([0.0] * 9, "inertia about it, by columns", unit="kg m^2", lo=-0.2, hi=0.2)

    def __post_init__(self) -> None:
        if len(self.centre) != 3 or len(self.inertia) != 9:
            raise ConfigError(f"load: centre {self.centre} needs 3 values, inertia {self.inertia} needs 9")
        tensor = np.reshape(self.inertia, (3, 3))
        if not np.allclose(tensor, tensor.T, atol=1e-9) or np.linalg.eigvalsh(tensor).min() < -1e-9:
            raise ConfigError(f"load: inertia {self.inertia} must be symmetric and positive semi-definite")
        if self.mass == 0.0 and tensor.any():
            raise ConfigError("load: inertia without mass; state the mass too")


@dataclass(frozen=True)
class FciOptions:
    """Options of the backend ``tandem.execution.backends.fci:make``."""

    ip: str = setting("", "address of the arm's controller")
    interface: str = setting("position", "what is commanded", choices=INTERFACES)
    profile: str = setting("default", "safety profile in config/fci, or a path")
    load: Load = field(default_factory=Load, metadata={"doc": "what is carried"})
    realtime: bool = setting(True, "insist on a real-time kernel and scheduling, as libfranka does; false: simulation only")
    gripper: bool = setting(True, "drive the Franka Hand")
    home_gripper: bool = setting(False, "let the gripper find its stroke at the start: the fingers move")
    grasp_below: float = setting(0.012, "commanded widths below this grasp instead of moving", unit="m", lo=0.0, hi=0.08)
    grasp_force: float = setting(20.0, "force of such a grasp", unit="N", lo=1.0, hi=70.0)
    gripper_speed: float = setting(0.1, "speed of the fingers' distance", unit="m/s", lo=0.01, hi=0.2)
    min_success_rate: float = setting(0.8, "share of answered cycles below which the arm is stopped", lo=0.0, hi=1.0)
    answer_within: float = setting(
        0.001, "a command later than this after its state is not sent: the arm has gone on", unit="s", lo=2e-4, hi=60.0
    )
    details: bool = setting(False, "hand on the arm's whole state, for FrankaRobotState")
    connect_timeout: float = setting(3.0, "how long the controller may take to answer", unit="s", lo=0.1, hi=60.0)
    gripper_timeout: float = setting(
        15.0, "how long the hand may take to answer, its process's start included", unit="s", lo=1.0, hi=60.0
    )
