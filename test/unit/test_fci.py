"""What the backend for a real arm is made of, without an arm."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tandem.core.config import from_dict
from tandem.core.errors import ConfigError
from tandem.core.paths import share_dir
from tandem.execution.backends.base import BackendError
from tandem.execution.backends.fci import SETTLED, make
from tandem.execution.fci.config import FciOptions, load_profile
from tandem.execution.fci.faults import connection_text, reflex_text
from tandem.execution.fci.rejoin import FARTHEST, PERIOD, Rejoin
from tandem.execution.fci.setup import check_arm, joint_frames, loop_config
from tandem.robots.kinematics import fk
from tandem.robots.model import load_arm
from tandem.safety.backup import BackupFamily

ROBOTS = Path(__file__).resolve().parents[1] / "data" / "robots"
ACCELERATION, JERK = 10.0, 5000.0


def commanded(lost: int, seed: int, smooth: bool) -> tuple[np.ndarray, np.ndarray, int]:
    """What the arm commands itself each cycle (its own extrapolation for lost ones), the certified positions, and rejoins.

    The oracle of the interface: while nothing comes the last backward difference of the second order is kept and integrated.
    """
    rng = np.random.default_rng(seed)
    k = rng.uniform(0.5, 3.5) * rng.choice([-1.0, 1.0], 7)
    plan = BackupFamily().trajectory(np.zeros(7), np.zeros(7), np.zeros(7), k)
    q, v, a = plan.sample(np.arange(1, 1400) * PERIOD)
    begin = 490 + int(rng.integers(0, 60))  # about where the acceleration changes
    rejoin, out = Rejoin(7), list(q[:begin])
    for _ in range(lost):
        dv = (out[-1] - 2.0 * out[-2] + out[-3]) / PERIOD
        out.append(out[-1] + PERIOD * ((out[-1] - out[-2]) / PERIOD + dv))
    assert len(out) == begin + lost
    i = begin + lost
    if smooth:
        dq = (out[-1] - out[-2]) / PERIOD
        reference = (out[-1], dq, (dq - (out[-2] - out[-3]) / PERIOD) / PERIOD)
        assert rejoin.after_gap(reference, (q[i], v[i], a[i]))
    out += [q[j] + rejoin.advance(PERIOD) for j in range(i, len(q))]
    return np.array(out), q, rejoin.count


def within_limits(q: np.ndarray) -> bool:
    acceleration, jerk = np.abs(np.diff(q, 2, axis=0)) / PERIOD**2, np.abs(np.diff(q, 3, axis=0)) / PERIOD**3
    return bool(acceleration.max() <= ACCELERATION and jerk.max() <= JERK)


@pytest.mark.parametrize("lost", [1, 2, 3, 4, 5, 6, 7, 8, 10, 15, 19])
def test_the_way_back_after_lost_cycles_keeps_the_limits(lost: int) -> None:
    broken = 0
    for seed in range(40):
        q, certified, count = commanded(lost, seed, smooth=True)
        assert within_limits(q)
        np.testing.assert_array_equal(q[-300:], certified[-300:])
        assert np.abs(q - certified).max() < FARTHEST
        if count == 0:
            np.testing.assert_array_equal(q[560 + lost :], certified[560 + lost :])
        broken += not within_limits(commanded(lost, seed, smooth=False)[0])
    if lost >= 10:
        assert broken > 20, "without smoothing the arm would have stopped with a reflex"
    if lost == 1:
        assert broken == 0 and commanded(1, 0, smooth=True)[2] == 0, "short gaps change nothing of what was certified"


def test_too_far_to_rejoin() -> None:
    rejoin, zero = Rejoin(7), np.zeros(7)
    assert not rejoin.after_gap((zero + 2.0 * FARTHEST, zero, zero), (zero, zero, zero))
    assert not rejoin.active and rejoin.count == 0


def test_arm_models_of_other_robots_are_refused() -> None:
    arm = load_arm("fr3")
    check_arm(arm)
    for q in np.random.default_rng(3).uniform(arm.lower, arm.upper, (20, 7)):
        np.testing.assert_allclose(joint_frames(q), fk(arm, q)[-7:], atol=1e-9)
    for name, what in (("panda", "limits|lies"), ("six", "6 joints")):
        with pytest.raises(ConfigError, match=what):
            check_arm(load_arm(ROBOTS / f"{name}.yaml"))


def test_settings_of_a_real_arm() -> None:
    config = loop_config(load_arm("fr3"), 0.004, {"ip": "10.0.0.1"})
    assert config.executor.splice_position <= 1e-6
    assert 0.02 <= config.executor.max_step < 0.022, "an arm goes on by itself for 20 cycles, not for longer"


def test_profiles_and_loads() -> None:
    for file in (share_dir() / "config" / "fci").glob("*.yaml"):
        load_profile(file.stem)
    with pytest.raises(ConfigError, match=r"no such file; there are: careful\.yaml"):
        load_profile("bold")
    for value, text in (
        ({"load": {"mass": 4.0}}, r"mass = 4\.0: accepted: 0\.0 \.\. 3\.0 kg"),
        ({"load": {"mass": 1.0, "inertia": [1.0e-3, 0.0, 0.0, 0.1, 1.0e-3, 0.0, 0.0, 0.0, 1.0e-3]}}, "symmetric"),
        ({"load": {"inertia": [0.1, 0, 0, 0, 0.1, 0, 0, 0, 0.1]}}, "without mass"),
        ({"interface": "cartesian"}, "one of 'position', 'velocity', 'torque'"),
    ):
        with pytest.raises(ConfigError, match=text):
            from_dict(FciOptions, {"ip": "10.0.0.1", **value}, "fci")


def test_addresses(tmp_path: Path) -> None:
    pytest.importorskip("pylibfranka")
    with pytest.raises(ConfigError, match="robot_ip = 'no such; address'"):
        make({"ip": "no such; address"})
    bad = tmp_path / "profile.yaml"
    bad.write_text("torque_lower: [30.0, 30.0, 30.0, 30.0, 30.0, 30.0, 30.0]\n")
    with pytest.raises(ConfigError, match="must not exceed"):
        make({"ip": "10.0.0.1", "profile": str(bad)})


@pytest.mark.parametrize(("error", "text"), [
    (TimeoutError(), "nobody answers at 10.0.0.1:1337 within 3 s; check robot_ip, cable and power"),
    (ConnectionRefusedError(111, "Connection refused"), "activate FCI in Desk"),
    (socket.gaierror(-2, "Name or service not known"), "no such host"),
    (OSError(113, "No route to host"), "No route to host; check robot_ip"),
], ids=lambda x: type(x).__name__)  # fmt: skip
def test_a_wrong_address_is_told_with_the_step_to_take(monkeypatch: pytest.MonkeyPatch, error: OSError, text: str) -> None:
    pytest.importorskip("pylibfranka")

    def connect(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(BackendError, match=re.escape(text)) as raised:
        make({"ip": "10.0.0.1"}).connect(0.0)
    assert raised.value.halted and "\n" not in str(raised.value)


def test_errors_in_words() -> None:
    text = reflex_text('["communication_constraints_violation", "joint_reflex"]')
    assert "commands came late" in text and "joint_reflex" in text and text.endswith("then resume")
    old = connection_text("10.0.0.1", "libfranka: Incompatible library version (server version: 9, library version: 10). Please")
    assert "update the arm's system software" in old
    new = connection_text("10.0.0.1", "libfranka: Incompatible library version (server version: 11, library version: 10). Please")
    assert "update pylibfranka" in new
    assert "activate FCI" in connection_text("10.0.0.1", "Connection to FCI refused.")
    assert "PREEMPT_RT" in connection_text("10.0.0.1", "libfranka: Running kernel does not have realtime capabilities.")


def test_too_many_cycles_answered_late_stop_the_arm() -> None:
    """The share that the arm reports, once the motion is settled; a few lost cycles are no reason."""
    pytest.importorskip("pylibfranka")
    backend, cycles = make({"ip": "127.0.0.1", "min_success_rate": 0.8}), 0

    def ask(rate: float, count: int) -> str:
        nonlocal cycles
        for _ in range(count):
            cycles += 1
            time = SimpleNamespace(to_sec=lambda at=1e-3 * cycles: at)
            mode = SimpleNamespace(name="Move")
            zero = [0.0] * 7
            state = SimpleNamespace(robot_mode=mode, q=zero, dq=zero, control_command_success_rate=rate, time=time)
            backend._control = SimpleNamespace(readOnce=lambda s=state: (s, None))
            backend.wait()
            try:
                backend.read(1e-3 * cycles)
            except BackendError as error:
                assert not error.halted, "the arm still follows: along the certified path to rest"
                return str(error)
        return ""

    backend._robot = SimpleNamespace()
    assert ask(0.5, SETTLED) == "", "the share means nothing in the first cycles"
    assert ask(0.95, 300) == ""
    assert "CPU isolation" in ask(0.7, 10)
    assert ask(0.7, SETTLED) == "", "it counts anew after the stop"


@pytest.mark.parametrize(("modes", "said", "text"), [
    (["Idle"] * 3 + ["UserStopped"], "Move command preempted due to activated safety function!", "user stop is pressed"),
    (["Idle"] * 500, "Move command preempted due to activated safety function!", "ended the motion by itself"),
    (["Idle", "UserStopped"], "motion finished", "ended the motion by itself"),
])
def test_the_mode_of_a_safety_function_may_show_after_it_has_ended_the_motion(modes: list[str], said: str, text: str) -> None:
    lib = pytest.importorskip("pylibfranka")
    coming = iter(modes)

    class Robot:
        def read_once(self) -> SimpleNamespace:
            mode = SimpleNamespace(name=next(coming))
            return SimpleNamespace(robot_mode=mode, dq=[0.0] * 7, control_command_success_rate=1.0, current_errors="")

    backend = make({"ip": "127.0.0.1"})
    backend._robot = Robot()
    backend._lose(lib.ControlException(said))
    assert text in backend.report().text
