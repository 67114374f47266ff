"""All that a Franka arm says of itself, as bytes: for ``FrankaRobotState``, beside the little that the loop needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: numbers of ``franka::RobotState`` and how many each has; matrices by columns. Units and frames as libfranka documents them
FIELDS = {
    **dict.fromkeys((
        "q", "dq", "tau_J", "dtau_J", "q_d", "dq_d", "ddq_d", "tau_J_d", "theta", "dtheta", "tau_ext_hat_filtered",
        "joint_contact", "joint_collision",
    ), 7),
    **dict.fromkeys((
        "cartesian_contact", "cartesian_collision", "O_F_ext_hat_K", "K_F_ext_hat_K", "O_dP_EE_d", "O_dP_EE_c", "O_ddP_EE_c",
    ), 6),
    **dict.fromkeys(("elbow", "elbow_d", "elbow_c", "delbow_c", "ddelbow_c"), 2),
    **dict.fromkeys(("F_x_Cee", "F_x_Cload", "F_x_Ctotal"), 3),
    **dict.fromkeys(("I_ee", "I_load", "I_total"), 9),
    **dict.fromkeys(("O_T_EE", "O_T_EE_d", "O_T_EE_c", "F_T_EE", "EE_T_K"), 16),
    **dict.fromkeys(("m_ee", "m_load", "m_total", "control_command_success_rate"), 1),
}  # fmt: skip
_COUNT = sum(FIELDS.values()) + 2
_ENDS = np.cumsum(list(FIELDS.values()))


@dataclass(frozen=True)
class Details:
    """The arm's own state.

    Attributes:
        fields: each of :data:`FIELDS`, flat. time: of the arm's clock [s]. mode: ``franka::RobotMode`` as a number.
        current_errors, last_motion_errors: names of the errors that are set.
    """

    fields: dict[str, Array]
    time: float
    mode: int
    current_errors: tuple[str, ...]
    last_motion_errors: tuple[str, ...]


def encode(state: Any) -> bytes:
    """What a ``pylibfranka.RobotState`` holds; some 0.1 ms."""
    parts = [np.ravel(getattr(state, name)) for name in FIELDS]
    numbers = np.concatenate([*parts, [state.time.to_sec(), int(state.robot_mode)]], dtype=np.float64)
    return numbers.tobytes() + f"{state.current_errors}\0{state.last_motion_errors}".encode()


def decode(data: bytes) -> Details:
    """The inverse of :func:`encode`."""
    numbers = np.frombuffer(data, np.float64, _COUNT)
    parts = np.split(numbers[:-2], _ENDS[:-1])
    current, last = (tuple(re.findall(r'"([a-z_0-9]+)"', t)) for t in data[numbers.nbytes :].decode().split("\0"))
    return Details(dict(zip(FIELDS, parts, strict=True)), float(numbers[-2]), int(numbers[-1]), current, last)
