"""Faults over the launched graph: nothing uncertified moves, rest in time, the reason on /diagnostics, on again afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from integration.graph import NAMES, START, Graph, ball
from integration.scripted import swing
from trajectory_msgs.msg import JointTrajectory

from tandem.core.types import Proposal
from tandem.nodes import messages
from tandem.nodes.base import command_qos
from tandem.robots.kinematics import tcp_pose
from tandem.robots.model import load_arm

pytestmark = pytest.mark.ros
FAR_AWAY = (0.0, -2.0, 0.5)
ARM = load_arm("fr3")


def resume_works(graph: Graph) -> None:
    """The operator stops the arm, it latches, and goes on after resume."""
    assert graph.call("franka/stop").success
    graph.wait(lambda: graph.mode() == "STOPPED", "the operator's stop latches")
    graph.wait(lambda: graph.said("franka_bridge: executor", "operator"), "the operator's stop is shown")
    assert graph.call("franka/resume").success
    graph.wait(graph.moving, "the arm goes on after resume")


def test_planner_is_killed(graph: Graph) -> None:
    graph.start_core()
    killed = time.time()
    graph.kill("planner")
    graph.settled(killed)
    assert graph.mode() == "IDLE"
    graph.wait(lambda: graph.said("safety_filter: certification", "no proposal", killed), "the reason is shown")
    graph.start_planner()
    graph.wait(graph.moving, "a new planner goes on", START)
    resume_works(graph)
    graph.assert_only_certified()


def test_filter_is_killed(graph: Graph) -> None:
    graph.start_core()
    killed = time.time()
    graph.kill("safety_filter")
    graph.settled(killed)
    graph.wait(lambda: graph.said("franka_bridge: safety filter", "silent", killed), "the reason is shown")
    assert graph.mode() == "IDLE"
    graph.start("safety_filter")
    graph.wait(graph.moving, "a new filter goes on", START)
    resume_works(graph)
    graph.assert_only_certified()


def test_fast_loop_is_killed(graph: Graph) -> None:
    graph.start_core()
    loops = [p for p in psutil.Process(graph.processes["franka_bridge"].pid).children(recursive=True) if p.is_running()]
    assert loops, "the fast loop has a process of its own"
    graph.wait(lambda: len(graph.ear.commanded) > 40, "what is commanded is heard")  # on a busy machine it is found late
    killed = time.time()
    loops[0].kill()
    graph.wait(lambda: graph.said("franka_bridge: fast loop", "start it again", killed), "the reason and the step are shown")
    assert "start it again" in (graph.folder / "franka_bridge.log").read_text()
    answer = graph.call("franka/resume")
    assert not answer.success and "start it again" in answer.message, "without a loop nothing goes on"
    graph.assert_only_certified()


def test_object_pose_is_lost(graph: Graph) -> None:
    graph.start_core()
    lost = time.time()
    graph.ear.pose = None
    graph.settled(lost)
    graph.wait(lambda: graph.said("planner: planning", "no valid object pose", lost), "the reason is shown")
    graph.ear.pose = np.eye(4)
    graph.wait(graph.moving, "the arm goes on")
    resume_works(graph)
    graph.assert_only_certified()


def test_obstacle_data_stop_coming(graph: Graph) -> None:
    graph.start_core()
    lost = time.time()
    graph.ear.obstacles = None
    graph.settled(lost)
    graph.wait(lambda: graph.said("safety_filter: scene", "at most", lost), "the reason is shown")
    graph.ear.obstacles = ball(FAR_AWAY)
    graph.wait(graph.moving, "the arm goes on")
    resume_works(graph)
    graph.assert_only_certified()


def test_obstacle_appears_late(graph: Graph) -> None:
    graph.start_core()
    with graph.ear.lock:
        assert graph.ear.commitment is not None
        ahead = graph.ear.commitment.state_at(time.time() + 0.6)[0]
    position = tcp_pose(ARM, ahead[None])[0][:3, 3]
    appeared = time.time()
    graph.ear.obstacles = ball((float(position[0]), float(position[1]), float(position[2]) - 0.05), 0.1)
    graph.settled(appeared)
    parts = ("safety_filter: guard", "safety_filter: certification")
    graph.wait(lambda: any(graph.said(part, "collision", appeared) for part in parts), "the reason is shown")
    graph.wait(lambda: time.time() > appeared + 2.0, "two seconds pass")
    assert graph.at_rest(), "nothing is certified while it stands there"
    graph.ear.obstacles = ball(FAR_AWAY)
    if graph.mode() == "STOPPED":
        assert graph.call("franka/resume").success
    graph.wait(graph.moving, "the arm goes on")
    resume_works(graph)
    graph.assert_only_certified()


@pytest.mark.parametrize(("fault", "text"), [("freeze", "measurement"), ("deviate", "joint 3")])
def test_measured_joints(graph: Graph, tmp_path: Path, fault: str, text: str) -> None:
    switch = tmp_path / "fault"
    graph.start_core(backend="integration.faulty:make", backend_options=json.dumps({"switch": str(switch)}))
    broken = time.time()
    marker = tmp_path / f"fault.{fault}"
    marker.touch()
    graph.wait(lambda: graph.mode() == "STOPPED", "the arm stops and latches")
    graph.settled(broken)
    graph.wait(lambda: graph.said("franka_bridge: executor", text, broken), "the reason is shown")
    if fault == "freeze":
        assert not graph.call("franka/resume").success, "where the arm is cannot be known yet"
    marker.unlink()
    assert graph.call("franka/resume").success
    graph.wait(graph.moving, "the arm goes on")
    resume_works(graph)
    graph.assert_only_certified()


# ------------------------------------------------------------------------------------------------------------ bad proposals
def _nan(m: JointTrajectory) -> None:
    m.points[3].positions[2] = float("nan")


def _short(m: JointTrajectory) -> None:
    m.points[3].velocities = m.points[3].velocities[:7]


def _names(m: JointTrajectory) -> None:
    m.joint_names[1] = "panda_joint2"


def _as_it_is(m: JointTrajectory) -> None:
    del m


def _bent(p: Proposal, **changes: np.ndarray) -> Proposal:
    t = p.trajectory
    parts = {"times": t.times, "q": t.q.copy(), "v": t.v.copy(), "a": t.a.copy(), **changes}
    return Proposal(messages.Trajectory(**parts), p.width, p.switch_time, p.head_duration, p.name)


def _elsewhere(p: Proposal) -> Proposal:
    return _bent(p, q=p.trajectory.q + 0.05)


def _past(p: Proposal) -> Proposal:
    return Proposal(p.trajectory, p.width, p.switch_time - 4.0, p.head_duration, p.name)


def _discontinuous(p: Proposal) -> Proposal:
    q = p.trajectory.q.copy()
    q[4:] += 0.1
    return _bent(p, q=q)


def _no_rest(p: Proposal) -> Proposal:
    t = p.trajectory
    cut = messages.Trajectory(t.times[:9], t.q[:9], t.v[:9], t.a[:9])
    return Proposal(cut, p.width[:9], p.switch_time, p.head_duration, p.name)


def _beyond(p: Proposal) -> Proposal:
    t, times = p.trajectory, p.trajectory.times * 0.1
    fast = messages.Trajectory(times, t.q, t.v * 10.0, t.a * 100.0)
    return Proposal(fast, p.width, p.switch_time, 0.1 * p.head_duration, p.name)


BAD: list[tuple[str, Callable[[Proposal], Proposal], Callable[[JointTrajectory], None], str]] = [
    ("NaN", lambda p: p, _nan, "MALFORMED"),
    ("wrong length", lambda p: p, _short, "MALFORMED"),
    ("wrong joint names", lambda p: p, _names, "MALFORMED"),
    ("start elsewhere", _elsewhere, _as_it_is, "START_MISMATCH"),
    ("in the past", _past, _as_it_is, "LATE"),
    ("discontinuous", _discontinuous, _as_it_is, "INCONSISTENT"),
    ("not at rest", _no_rest, _as_it_is, "NOT_AT_REST"),
    ("beyond limits", _beyond, _as_it_is, "_LIMIT"),
]


def a_plan(graph: Graph, lead: float = 1.5) -> Proposal:
    """A good plan from what is committed."""
    with graph.ear.lock:
        commitment = graph.ear.commitment
    assert commitment is not None
    return swing(commitment, messages.quantise_time(time.time() + lead), ARM.home, "test")


def test_bad_proposals_are_refused(graph: Graph) -> None:
    graph.start_core(planner=False)
    for what, change, spoil, reason in BAD:
        count, sent = len(graph.ear.verdicts), time.time()
        graph.propose(change(a_plan(graph)), spoil)
        verdict = graph.verdict_after(count)
        assert reason in messages.values_of(verdict)["reason"], f"{what}: {verdict.message}"
        assert not messages.values_of(verdict)["certificate"]
        graph.wait(lambda s=sent, r=reason: graph.said("safety_filter: certification", r, s), f"{what} is shown")  # type: ignore[misc]
    assert not graph.ear.certified and graph.at_rest()
    assert int(graph.ear.status["accepted"]) == 0
    graph.propose(a_plan(graph))
    graph.wait(graph.moving, "a good one is played")
    assert graph.call("franka/stop").success
    graph.wait(lambda: graph.mode() == "STOPPED", "the operator's stop latches")
    graph.propose(a_plan(graph))
    assert graph.call("franka/resume").success
    graph.wait(lambda: graph.mode() == "IDLE" and graph.at_rest(), "the arm rests after resume until a new plan comes")
    graph.propose(a_plan(graph))
    graph.wait(graph.moving, "a good one is played after resume")
    graph.assert_only_certified()


def test_a_planner_that_floods_the_filter_moves_nothing_and_holds_up_nobody(graph: Graph) -> None:
    """Proposals at 1 kHz that may not be played, while a good one is; afterwards all is as before."""
    proposed = 0.0

    def moving() -> bool:
        nonlocal proposed
        if time.time() - proposed > 4.0:  # on a busy machine one may come late
            proposed = time.time()
            graph.propose(a_plan(graph))
        return graph.moving()

    graph.start_core(planner=False)
    graph.wait(moving, "a good one is played", START)
    bad = [messages.quantise(change(a_plan(graph))) for change in (_elsewhere, _past)]
    flood = [(messages.info_to_status(p, 0.0), messages.proposal_to_msg(p, NAMES)) for p in bad]
    begun, count = time.time(), len(graph.ear.verdicts)
    for i in range(2000):
        info, proposal = flood[i % 2]
        graph._infos.publish(info)
        graph._proposals.publish(proposal)
        time.sleep(0.001)
    graph.settled(begun)
    graph.wait(lambda: graph.level("safety_filter: guard") == DiagnosticStatus.OK, "the filter watches on")
    with graph.ear.lock:
        assert not any(messages.values_of(v)["certificate"] for v in graph.ear.verdicts[count:])
    graph.wait(lambda: graph.mode() == "IDLE", "the executor takes plans")
    graph.wait(moving, "a good one is played", START)
    assert graph.call("franka/stop").success, "an operator is heard"
    graph.assert_only_certified()


# ------------------------------------------------------------------------------------------------------ unexpected publishers
def test_forged_certificates_are_refused(graph: Graph) -> None:
    """Without a filter: a lone publisher of trajectories with verdicts it signed itself."""
    from tandem.core.certificate import sign
    from tandem.core.types import Reason, Verdict
    from tandem.execution.types import to_ns

    graph.start("franka_bridge")
    graph.wait(lambda: graph.ear.commitment is not None, "the bridge commits to something", START)
    certified = graph.ear.create_publisher(JointTrajectory, "safety_filter/certified", command_qos())
    verdicts = graph.ear.create_publisher(DiagnosticStatus, "safety_filter/verdict", command_qos())
    graph.wait(lambda: certified.get_subscription_count() > 1 and verdicts.get_subscription_count() > 1, "the bridge listens")
    for signed, reason in ((True, "forged"), (False, "no verdict")):
        proposal = messages.quantise(a_plan(graph))
        digest, sent = proposal.trajectory.digest(), time.time()
        verdict = Verdict(Reason.CERTIFIED, 0.1, 0.0, "", "", "ab" * 32)
        if signed:
            signature = sign(b"not the key of this bring-up", verdict.digest, digest, to_ns(proposal.switch_time))
            verdicts.publish(messages.verdict_to_status(verdict, digest, signature, proposal.head_duration))
        certified.publish(messages.proposal_to_msg(proposal, NAMES))
        graph.wait(lambda s=sent, r=reason: graph.said("franka_bridge: trajectories", r, s), f"{reason} is shown")  # type: ignore[misc]
    assert graph.at_rest() and int(graph.ear.status["accepted"]) == 0
    graph.ear.destroy_publisher(certified)
    graph.ear.destroy_publisher(verdicts)
    graph.start("safety_filter")
    graph.start_planner()
    graph.wait(graph.moving, "the true filter's are played", START)
    resume_works(graph)
    graph.assert_only_certified()


def test_second_publisher_stops_all(graph: Graph) -> None:
    """Beside the filter: even a replay of its own message is refused, and the arm rests until the intruder is gone."""
    graph.start_core()
    appeared = time.time()
    intruder = graph.ear.create_publisher(JointTrajectory, "safety_filter/certified", command_qos())
    graph.settled(appeared)
    graph.wait(lambda: graph.said("franka_bridge: trajectories", "unexpected publisher", appeared), "the reason is shown")
    intruder.publish(messages.proposal_to_msg(messages.quantise(a_plan(graph)), NAMES))
    assert graph.at_rest()
    graph.ear.destroy_publisher(intruder)
    graph.wait(graph.moving, "the arm goes on when the intruder is gone")
    resume_works(graph)
    graph.assert_only_certified()
