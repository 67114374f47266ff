"""The operator's tools over the launched graph: home, jog, stop, resume, record, each a process of its own as in a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from integration.graph import ENVIRONMENT, ROOT, START, Graph, ball
from rosbags.rosbag2 import Reader

from tandem.cli.launching import Launched, launch_file
from tandem.cli.moving import Mover, attached
from tandem.core.types import Proposal
from tandem.execution.fci.setup import joint_frames
from tandem.nodes import messages
from tandem.nodes.operator import GraphError, Operator
from tandem.robots.model import load_arm

pytestmark = [pytest.mark.ros, pytest.mark.timeout(300)]
HOME = load_arm("fr3").home


def environment(graph: Graph) -> dict[str, str]:
    own = {"ROS_DOMAIN_ID": str(graph.domain), "PYTHONPATH": str(ROOT / "src"), "NUMBA_NUM_THREADS": "1"}
    return {**os.environ, **ENVIRONMENT, **own}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "tandem.cli.main", *words]


def tool(graph: Graph, *words: str, code: int = 0, cwd: Path | None = None) -> str:
    """Run a tool to its end; what it said."""
    done = subprocess.run(
        command(*words), env=environment(graph), capture_output=True, text=True, check=False, timeout=200, cwd=cwd
    )
    said = done.stdout + done.stderr
    assert done.returncode == code, f"{words}: {done.returncode}\n{said}\n{graph.account()}"
    assert "Traceback" not in said, said
    return said


def commanded(graph: Graph) -> np.ndarray:
    with graph.ear.lock:
        return graph.ear.commanded[-1][1]


@pytest.fixture
def still(graph: Graph) -> Iterator[Graph]:
    """Bridge (loopback) and filter, no planner; the arm stands at home."""
    graph.start_core(planner=False)
    yield graph
    graph.assert_only_certified()


def test_jog_turns_a_joint_moves_the_tool_straight_and_the_gripper_and_home_comes_back(still: Graph) -> None:
    assert "there" in tool(still, "jog", "fr3_joint4", "-5deg", "--speed", "0.5")
    expected = HOME.copy()
    expected[3] -= np.radians(5.0)
    assert np.abs(commanded(still) - expected).max() < 1e-6
    with still.ear.lock:
        before = len(still.ear.commanded)
    assert "there" in tool(still, "jog", "z", "-60mm", "--speed", "0.5")
    with still.ear.lock:
        path = np.stack([joint_frames(q)[-1] for _, q in still.ear.commanded[before - 1 :]])  # by the documented kinematics
    shift = path[:, :3, 3] - path[0, :3, 3]
    assert np.abs(shift[-1] - [0.0, 0.0, -0.06]).max() < 3e-4
    assert np.abs(shift[:, :2]).max() < 3e-3 and np.abs(path[:, :3, :3] - path[0, :3, :3]).max() < 0.01, "a straight line"
    assert "60.0 mm" in tool(still, "jog", "gripper", "-2cm")
    assert "there" in tool(still, "home", "--speed", "0.5")
    assert np.abs(commanded(still) - HOME).max() < 1e-4


def test_what_is_in_the_way_ends_a_jog_early_and_is_named(still: Graph) -> None:
    still.ear.obstacles = ball((0.62, 0.0, 0.45), 0.1)
    said = tool(still, "jog", "x", "200mm", "--speed", "0.5", code=1)
    assert "stopped short" in said and "ball" in said
    assert still.at_rest() and 0.02 < commanded(still)[1] - HOME[1] < 0.65, "it went a part of the way"
    where = commanded(still)
    assert "ball" in tool(still, "jog", "x", "50mm", "--speed", "0.5", code=1)
    assert np.abs(commanded(still) - where).max() < 0.05
    still.ear.obstacles = ball((0.31, 0.0, 0.49), 0.1)
    assert "must not stand there" in tool(still, "home", code=2)


def test_home_finds_a_way_round(still: Graph) -> None:
    assert "there" in tool(still, "jog", "1", "0.9", "--speed", "0.5")
    still.ear.obstacles = ball((0.28, 0.135, 0.47), 0.05)
    said = tool(still, "home", "--speed", "0.5")
    assert "there" in said and np.abs(commanded(still) - HOME).max() < 1e-4
    with still.ear.lock:
        swung = np.stack([q for _, q in still.ear.commanded])
    straight = swung[:, 1:] - HOME[1:]
    assert np.abs(straight).max() > 0.05, "turning joint 1 alone would have gone through the ball"


def test_bad_input_moves_nothing_and_says_what_is_accepted(still: Graph) -> None:
    for words, text in (
        (("jog", "9", "1deg"), "a joint 1 .. 7"), (("jog", "elbow", "1deg"), "an axis x"), (("jog", "4", "5mm"), "rad, deg"),
        (("jog", "x", "1m"), "up to 0.25 m"), (("jog", "2", "70deg"), "up to 1.0 rad"), (("jog", "4"), "how far"),
        (("jog", "6", "-50deg"), "joint 6 would be at"), (("jog", "gripper", "1cm"), "gripper width"),
        (("jog", "z", "0.25", "--frame", "mug"), "accepted: base, tool"), (("home", "--speed", "2"), "0.02 .. 1"),
        (("jog",), "needs a terminal"), (("home", "--namespace", "left"), "no safety filter"),
    ):  # fmt: skip
        assert text in tool(still, *words, code=2), words
    assert np.abs(commanded(still) - HOME).max() < 1e-9


def test_a_stopped_arm_moves_after_resume_only_and_nothing_moves_without_the_filter(still: Graph) -> None:
    tool(still, "stop")
    assert "tandem resume" in tool(still, "jog", "1", "2deg", code=2)
    tool(still, "resume")
    assert "there" in tool(still, "jog", "1", "2deg", "--speed", "0.5")
    where = commanded(still)
    still.kill("safety_filter")
    assert "safety filter" in tool(still, "jog", "1", "2deg", code=2)
    assert np.array_equal(commanded(still), where)


def test_what_was_refused_as_too_late_is_judged_anew_when_proposed_again(still: Graph) -> None:
    """From rest the same motion is the same trajectory, with the same digest: the verdict on the first is none on the second."""
    with Operator(domain=still.domain) as operator:
        mover = Mover(operator, attached(operator, take_over=False), speed=0.5)
        way = np.stack([mover.rest(), mover.rest() + np.radians([2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])])

        def proposal(switch: float) -> Proposal:
            now, commitment = operator.now(), operator.commitment()
            plan = mover._planner.along(commitment.state_at(switch), mover._packed(now, switch), way, 0.0)
            assert plan is not None
            widths = np.full(len(plan.trajectory.times), commitment.width_at(switch))
            return messages.quantise(Proposal(plan.trajectory, widths, switch, plan.period, "again"))

        late = proposal(messages.quantise_time(operator.now() - 0.05))
        answer = operator.propose(late)
        assert not answer.taken and "already passed" in answer.text, answer
        in_time = proposal(messages.quantise_time(operator.now() + 1.0))
        assert in_time.trajectory.digest() == late.trajectory.digest()
        answer = operator.propose(in_time)
        assert answer.taken, answer
        end = in_time.trajectory.q[-1]
        still.wait(lambda: np.abs(commanded(still) - end).max() < 1e-9, "there")
        again = operator.propose(in_time)  # too late by now, and from where the arm no longer is
        assert not again.taken and "certified" not in again.text, again


def test_interrupted_it_comes_to_rest(still: Graph) -> None:
    tool(still, "jog", "1", "1.0", "--speed", "0.6")
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            command("home", "--speed", "0.1"), env=environment(still), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        still.wait(still.moving, "on the way home", START)
        process.send_signal(number)
        said, _ = process.communicate(timeout=60.0)
        assert process.returncode == 1 and "interrupted" in said, said
        still.wait(still.at_rest, "at rest")
        assert abs(commanded(still)[0]) > 0.1, "short of home"


def test_an_active_planner_must_be_taken_over(graph: Graph) -> None:
    graph.start_core()
    assert "--take-over" in tool(graph, "home", code=2)
    assert graph.moving()
    tool(graph, "home", "--take-over", "--speed", "0.5")
    assert graph.at_rest() and np.abs(commanded(graph) - HOME).max() < 1e-4
    tool(graph, "jog", "7", "3deg")
    graph.assert_only_certified()


def test_a_planner_that_discovery_did_not_show_ends_the_motion(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would lead the arm elsewhere for ever, and the operator would wait for ever."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    graph.start_core()
    assert graph.moving()
    monkeypatch.setattr(Operator, "planners", lambda self: ([], 0))
    with Operator(domain=graph.domain) as operator:
        mover = Mover(operator, attached(operator, take_over=False))
        with pytest.raises(GraphError, match="somebody else proposes motions"):
            mover.settle()
    graph.assert_only_certified()


def test_a_planner_that_discovery_shows_late_is_found_by_its_verdicts(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    graph.start_core()
    assert graph.moving()
    shown = Operator.planners
    with Operator(domain=graph.domain) as operator:
        operator.attach()
        late = time.monotonic() + 3.0
        monkeypatch.setattr(Operator, "planners", lambda self: shown(self) if time.monotonic() > late else ([], 0))
        assert operator.find_planners() == ["/planner"]


def test_publishers_without_a_name_are_waited_for(still: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """Discovery shows a publisher before its node, and an ended node for a moment more: neither is a planner by that."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)

    class Nameless:
        node_namespace, node_name = "_NODE_NAMESPACE_UNKNOWN_", "_NODE_NAME_UNKNOWN_"

    with Operator(domain=still.domain) as operator:
        known, asked = operator._node.get_publishers_info_by_topic, []

        def late(topic: str) -> list[object]:
            asked.append(topic)
            return [*known(topic), *([Nameless()] if len(asked) < 30 else [])]

        monkeypatch.setattr(operator._node, "get_publishers_info_by_topic", late)
        attached(operator, take_over=False)
        assert len(asked) >= 30
        monkeypatch.setattr(operator._node, "get_publishers_info_by_topic", lambda topic: [Nameless()])
        with pytest.raises(GraphError, match="/planner/proposal: end it"):
            operator.find_planners()


def test_steps_by_keys(still: Graph) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command("jog", "--speed", "0.5"), env=environment(still), stdin=slave, stdout=slave, stderr=slave, close_fds=True
    )
    os.close(slave)
    said = b""

    def read_until(text: bytes) -> None:
        nonlocal said
        limit = time.monotonic() + 60.0
        while text not in said:
            assert time.monotonic() < limit, said.decode()
            if select.select([master], [], [], 1.0)[0]:
                said += os.read(master, 4096)
        said = said[said.index(text) + len(text) :]

    read_until(b"joint 1,")
    os.write(master, b"3")
    read_until(b"joint 3,")
    os.write(master, b"]")
    read_until(b"step 0.100 rad")
    os.write(master, b"+")
    read_until(b"there;")
    expected = HOME.copy()
    expected[2] += 0.1
    still.wait(lambda: np.abs(commanded(still) - expected).max() < 1e-6, "joint 3 has turned")
    os.write(master, b"q")
    assert process.wait(20.0) == 0
    os.close(master)


def test_record_ends_clean_and_says_what_is_wrong(still: Graph, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command("record", "--out", "bag"), env=environment(still), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=tmp_path,
    )
    still.wait(lambda: (tmp_path / "bag").is_dir(), "it records", START)
    tool(still, "jog", "1", "5deg", "--speed", "0.5")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30.0)
    assert process.returncode == 0 and "safety_filter/certified" in said, said
    with Reader(tmp_path / "bag") as bag:
        counts = {c.topic: c.msgcount for c in bag.connections}
    assert counts["/safety_filter/certified"] >= 1 and counts["/franka/joint_states"] > 20
    assert "exists already" in tool(still, "record", "--out", "bag", code=2, cwd=tmp_path)
    assert "nothing was heard" in tool(still, "record", "--out", "none", "--namespace", "left", code=2, cwd=tmp_path)
    assert not (tmp_path / "none").exists()


def test_from_launch_to_home_on_the_simulated_arm(graph: Graph, tmp_path: Path) -> None:
    """As an operator does it: bring-up without planner, jog, home, record; nothing of the graph is left."""
    graph.ear.obstacles, graph.ear.pose = None, None  # the launched graph has its own
    words = ["backend:=mujoco", "planner:=false", "scene:=mug_blocked.yaml", "realtime:=false"]
    own = {k: v for k, v in environment(graph).items() if k != "PYTHONPATH"}
    with Launched(launch_file("bringup"), words, tmp_path / "launch.log", own) as launched:
        graph.wait(lambda: graph.ear.commitment is not None or launched.ended(), "the bridge is up", START)
        assert "there" in tool(graph, "jog", "z", "50mm", "--speed", "0.5")
        tool(graph, "record", "--out", "bag", "--duration", "3", cwd=tmp_path)
        assert "there" in tool(graph, "home", "--speed", "0.5")

        def at_home() -> bool:
            with graph.ear.lock:
                return bool(np.abs(graph.ear.measured[-1][1] - HOME).max() < 0.01)

        graph.wait(at_home, "the arm is measured at home")
    assert (tmp_path / "bag" / "metadata.yaml").is_file()
