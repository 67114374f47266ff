"""How the fast loop is set up for an arm on the Franka Control Interface, and which arms may be driven so."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import ConfigError
from tandem.execution.fast_loop import LoopConfig
from tandem.execution.types import ExecutorConfig

if TYPE_CHECKING:
    from tandem.robots.model import ArmModel

Array = NDArray[np.float64]

BACKEND = "tandem.execution.backends.fci:make"
#: limits of the Franka Research 3 (Franka documentation, "Limits for Franka Research 3"); beyond them the arm stops with a reflex
LOWER = np.array([-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159])
UPPER = np.array([2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159])
VELOCITY = np.array([2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26])
ACCELERATION, JERK = 10.0, 5000.0
#: a, d, alpha of each joint's row (Craig's convention; Franka documentation, "Denavit-Hartenberg parameters")
DH = np.array([
    [0.0, 0.333, 0.0], [0.0, 0.0, -np.pi / 2], [0.0, 0.316, np.pi / 2], [0.0825, 0.0, np.pi / 2], [-0.0825, 0.384, -np.pi / 2],
    [0.0, 0.0, np.pi / 2], [0.088, 0.0, np.pi / 2],
])  # fmt: skip
#: how far a joint's frame may lie from the documented kinematics [m, -]
KINEMATICS = 2e-4


def joint_frames(q: Array) -> Array:
    """(7, 4, 4) frames of the joints in the base's, by the documented parameters, for joints (7,) [rad]."""
    out, frame = [], np.eye(4)
    for (a, d, alpha), theta in zip(DH, q, strict=True):
        ct, st, ca, sa = np.cos(theta), np.sin(theta), np.cos(alpha), np.sin(alpha)
        frame = frame @ np.array([
            [ct, -st, 0.0, a], [st * ca, ct * ca, -sa, -d * sa], [st * sa, ct * sa, ca, d * ca], [0.0, 0.0, 0.0, 1.0],
        ])  # fmt: skip
        out.append(frame)
    return np.stack(out)


def check_arm(arm: ArmModel) -> None:
    """An arm model that is not a Franka Research 3 must not be sent to one.

    Raises:
        ConfigError: names what differs, and the file's name.
    """
    from tandem.robots.kinematics import fk

    where = f"robot {arm.name!r}: not a model of the Franka Research 3, which backend:=hardware drives"
    if arm.n != len(LOWER):
        raise ConfigError(f"{where}: {arm.n} joints; it has {len(LOWER)}")
    zero = np.zeros(len(LOWER))
    for name, value, low, high in (
        ("lower", arm.lower, LOWER, UPPER), ("upper", arm.upper, LOWER, UPPER), ("velocity", arm.velocity, zero, VELOCITY),
        ("acceleration", arm.acceleration, zero, zero + ACCELERATION), ("jerk", arm.jerk, zero, zero + JERK),
    ):  # fmt: skip
        bad = np.flatnonzero((value < low - 1e-9) | (value > high + 1e-9))
        if bad.size:
            i = int(bad[0])
            accepted = f"accepted {low[i]:.4f} .. {high[i]:.4f}"
            raise ConfigError(f"{where}: limits {name} of joint {i + 1} is {value[i]:.4f}; {accepted}")
    for q in (arm.home, 0.5 * (arm.lower + arm.upper), 0.3 * arm.lower + 0.7 * arm.upper):
        gap = np.abs(fk(arm, q)[-7:] - joint_frames(q)).max((1, 2))
        if gap.max() > KINEMATICS:
            i = int(gap.argmax())
            raise ConfigError(f"{where}: its joint {i + 1} lies {gap[i]:.4f} m from where the documented kinematics put it")


def loop_config(
    arm: ArmModel, tracking: list[float] | float, options: dict[str, Any], priority: int = 50, cpu: int = -1
) -> LoopConfig:
    """The fast loop's configuration for ``arm`` with the certified tracking bound [rad] and the backend's options.

    Splices are held to what the interface takes without a discontinuity, and a gap of up to 20 cycles is played through: for so
    long the arm goes on by itself before it stops.
    """
    check_arm(arm)
    executor = ExecutorConfig.for_arm(arm, tracking)
    executor = replace(executor, splice_position=2e-7, splice_velocity=2e-5, max_step=0.0205, latch_step=0.1)
    return LoopConfig(backend=BACKEND, backend_options=options, executor=executor, priority=priority, cpu=cpu, max_drift=0.05)
