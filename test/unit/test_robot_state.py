"""FrankaRobotState from what the arm says of itself; ``franka_msgs`` is stood in for."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

import stand_in_franka_msgs

from tandem.execution.fci import details
from tandem.nodes.messages import Names
from tandem.nodes.robot_state import TOPIC, RobotStateSpeaker, message_type

POSE = np.array([[0.0, -1.0, 0.0, 0.3], [1.0, 0.0, 0.0, 0.1], [0.0, 0.0, 1.0, 0.5], [0.0, 0.0, 0.0, 1.0]])


def state(time: float = 1.5, errors: str = '["joint_reflex", "of_a_newer_controller"]') -> SimpleNamespace:
    """As pylibfranka's: every field with numbers of its own."""
    values: dict[str, Any] = {}
    for i, (name, count) in enumerate(details.FIELDS.items()):
        values[name] = float(i) if count == 1 else [i + 0.01 * j for j in range(count)]
    values |= {"O_T_EE": POSE.T.ravel().tolist(), "O_T_EE_d": POSE.T.ravel(), "O_T_EE_c": [0.0] * 16}
    values |= {"F_T_EE": np.eye(4).ravel(), "EE_T_K": np.eye(4).ravel(), "control_command_success_rate": 0.97}
    return SimpleNamespace(
        **values, time=SimpleNamespace(to_sec=lambda: time), robot_mode=4, current_errors=errors, last_motion_errors="[]"
    )


def test_the_state_crosses_whole() -> None:
    source = state()
    said = details.decode(details.encode(source))
    for name, count in details.FIELDS.items():
        np.testing.assert_array_equal(said.fields[name], np.ravel(getattr(source, name)))
        assert said.fields[name].shape == (count,)
    assert (said.time, said.mode) == (1.5, 4)
    assert said.current_errors == ("joint_reflex", "of_a_newer_controller") and said.last_motion_errors == ()


def test_the_library_has_every_field() -> None:
    lib = pytest.importorskip("pylibfranka")
    assert not [name for name in details.FIELDS if not hasattr(lib.RobotState, name)]


def test_without_franka_msgs_there_is_no_such_topic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "franka_msgs", None)
    monkeypatch.setitem(sys.modules, "franka_msgs.msg", None)
    assert message_type() is None


def test_it_is_published_once_a_state_with_what_the_arm_says(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("franka_msgs")
    monkeypatch.setitem(sys.modules, "franka_msgs", package)
    monkeypatch.setitem(sys.modules, "franka_msgs.msg", stand_in_franka_msgs)
    kind = message_type()
    assert kind is stand_in_franka_msgs.FrankaRobotState
    sent: list[Any] = []

    def speak(what: type, topic: str, qos: object) -> Any:
        assert (what, topic) == (kind, TOPIC)
        return SimpleNamespace(publish=sent.append)

    speaker = RobotStateSpeaker(kind, speak, Names())
    said = details.decode(details.encode(state()))
    for given in (None, said, said, details.decode(details.encode(state(1.52)))):
        speaker.tell(given, 100.25)
    assert len(sent) == 2, "each state once"
    msg, f = sent[0], said.fields
    assert msg.header.frame_id == "fr3_link0" and (msg.header.stamp.sec, msg.header.stamp.nanosec) == (100, 250_000_000)
    assert msg.measured_joint_state.name == [f"fr3_joint{i}" for i in range(1, 8)]
    assert list(msg.measured_joint_state.position) == f["q"].tolist()
    assert list(msg.desired_joint_state.effort) == f["tau_J_d"].tolist()
    assert list(msg.tau_ext_hat_filtered.effort) == f["tau_ext_hat_filtered"].tolist()
    assert msg.o_f_ext_hat_k.wrench.torque.z == f["O_F_ext_hat_K"][5] and msg.o_f_ext_hat_k.header.frame_id == "fr3_link0"
    position, turn = msg.o_t_ee.pose.position, msg.o_t_ee.pose.orientation
    assert (position.x, position.y, position.z) == (0.3, 0.1, 0.5)
    assert abs(turn.w) == pytest.approx(np.sqrt(0.5)) and turn.z == pytest.approx(turn.w), "matrices come by columns"
    assert msg.o_t_ee_c.pose.orientation.w == 1.0, "nothing was commanded: no pose"
    assert msg.inertia_load.inertia.ixy == f["I_load"][1] and msg.inertia_load.inertia.m == f["m_load"][0]
    assert msg.collision_indicators.is_cartesian_angular_contact.x == f["cartesian_contact"][3]
    assert (msg.time, msg.robot_mode, msg.control_command_success_rate) == (1.5, 4, 0.97)
    assert msg.current_errors.joint_reflex and not msg.last_motion_errors.joint_reflex
