"""What nodes make of what comes in: single node objects without a graph, their clock set by hand where time matters."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from integration.graph import ENVIRONMENT, free_domain
from rclpy.signals import SignalHandlerOptions
from visualization_msgs.msg import MarkerArray

from tandem.core.errors import ConfigError
from tandem.core.scene import Obstacle, Scene
from tandem.core.trajectory import Trajectory
from tandem.core.types import Candidate, Commitment, ObjectPose, Proposal
from tandem.diffusion.result import Counters
from tandem.nodes import markers, messages
from tandem.nodes.base import RELIABLE_QOS, TandemNode
from tandem.nodes.franka_bridge import FrankaBridgeNode, FrankaBridgeSettings
from tandem.nodes.perception import PerceptionNode
from tandem.nodes.planner import PlannerNode
from tandem.nodes.safety_filter import SafetyFilterNode
from tandem.robots.kinematics import tcp_pose
from tandem.robots.model import load_arm
from tandem.safety.backup import BackupFamily

NAMES = messages.Names()
FRAME = NAMES.base
Start = Callable[..., Any]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Makes nodes that are active, or have ``failure`` in what they say, in a ROS domain of their own; nothing spins them."""
    made: list[TandemNode] = []
    for name, value in {**ENVIRONMENT, "TANDEM_CERTIFICATE_KEY": "6b" * 32}.items():
        monkeypatch.setenv(name, value)

    def make(kind: type[TandemNode], failure: str = "", **parameters: object) -> TandemNode:
        given = [x for k, v in parameters.items() for x in ("-p", f"{k}:={v}")]
        rclpy.init(
            args=["--ros-args", *given] if given else [], domain_id=free_domain(), signal_handler_options=SignalHandlerOptions.NO
        )
        node = kind()  # type: ignore[call-arg]
        made.append(node)
        node.trigger_configure()
        assert failure in node.failure and bool(failure) is bool(node.failure), node.failure
        if failure:
            return node
        node.trigger_activate()
        return node

    yield make
    for node in made:
        node.close()
    rclpy.try_shutdown()


class Said(list[Any]):
    """What a publisher was given."""

    def __init__(self, publisher: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        monkeypatch.setattr(publisher, "publish", self.append)


# ---- the filter's guard ---------------------------------------------------------------------------------------------------


class Guarded:
    """A filter that watches a motion from 100 s on, which a pole comes to stand in the way of at 100.2 s."""

    def __init__(self, node: SafetyFilterNode, monkeypatch: pytest.MonkeyPatch) -> None:
        self.node, self.clock = node, 100.0
        monkeypatch.setattr(node, "now", lambda: self.clock)
        self.certified, self.stops = Said(node._certified, monkeypatch), Said(node._stop, monkeypatch)
        arm = load_arm("fr3")
        peak = np.zeros(7)
        peak[0] = 2.0
        motion = BackupFamily().trajectory(arm.home, np.zeros(7), np.zeros(7), peak)
        motion = messages.quantise_trajectory(motion)
        self.commitment = Commitment(motion, 100.0, np.zeros(len(motion.times)))
        x, y, _ = tcp_pose(arm, motion.q[-1])[:3, 3]
        self.pole = Obstacle("pole", "cylinder", (0.02, 0.3), (float(x), float(y) + 0.06, 0.4))
        node._on_status(messages.status("bridge", DiagnosticStatus.OK, "", {"mode": "HEAD"}))

    def step(self, clock: float, commitment: Commitment | None = None) -> None:
        """Everything is heard anew at ``clock``, and looked at."""
        self.clock = clock
        self.node._on_commitment(messages.commitment_to_msg(commitment or self.commitment, NAMES))
        scene = Scene((self.pole,) if clock >= 100.2 else ())
        self.node._on_obstacles(markers.scene_to_msg(scene, FRAME, clock))
        self.node._watch()

    def alarm(self) -> None:
        """Up to the first alarm."""
        for i in range(5):
            self.step(100.0 + 0.04 * i)
        assert not self.certified and not self.stops
        self.step(100.2)


@pytest.fixture
def guarded(start: Start, monkeypatch: pytest.MonkeyPatch) -> Guarded:
    return Guarded(start(SafetyFilterNode), monkeypatch)


def test_a_way_out_that_is_not_taken_is_followed_by_a_stop(guarded: Guarded) -> None:
    guarded.alarm()
    assert len(guarded.certified) == 1 and not guarded.stops
    switch = messages.trajectory_from_msg(guarded.certified[0], NAMES)[2]
    guarded.step(switch)
    assert not guarded.stops, "it may still be on its way"
    guarded.step(switch + 0.05)
    sent = len(guarded.stops)
    assert len(guarded.certified) == 1 and sent > 0
    guarded.step(switch + 0.09)
    assert len(guarded.stops) > sent, "until the executor stops"
    sent = len(guarded.stops)
    guarded.node._on_status(messages.status("bridge", DiagnosticStatus.ERROR, "", {"mode": "STOPPING"}))
    guarded.step(switch + 0.13)
    assert len(guarded.stops) == sent


def test_a_way_out_that_is_taken_needs_no_stop(guarded: Guarded) -> None:
    guarded.alarm()
    trajectory, width, switch = messages.trajectory_from_msg(guarded.certified[0], NAMES)
    for t in np.arange(switch, switch + trajectory.duration, 0.04):
        guarded.step(float(t), Commitment(trajectory, switch, width))
    assert len(guarded.certified) == 1 and not guarded.stops


def test_a_way_out_that_was_found_too_late_is_not_waited_for(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    found = guarded.node._filter.rescue

    def slow(*args: Any, **kwargs: Any) -> Any:
        out = found(*args, **kwargs)
        guarded.clock += 0.1
        return out

    monkeypatch.setattr(guarded.node._filter, "rescue", slow)
    guarded.alarm()
    assert not guarded.certified and len(guarded.stops) == 1


@pytest.mark.parametrize(("limit", "stopped"), [(3.0, False), (0.5, True)])
def test_a_motion_that_goes_on_for_long_is_stopped_when_nothing_is_known_of_the_scene(
    start: Start, monkeypatch: pytest.MonkeyPatch, limit: float, stopped: bool
) -> None:
    guarded = Guarded(start(SafetyFilterNode, blind_limit=limit), monkeypatch)
    guarded.step(100.0)
    guarded.clock = 100.1
    unreadable = markers.scene_to_msg(Scene((guarded.pole,)), FRAME, 100.1)
    unreadable.markers[1].type = 10  # a mesh
    guarded.node._on_obstacles(unreadable)
    assert bool(guarded.stops) is stopped
    guarded.clock = 100.0 + guarded.commitment.trajectory.duration - 0.2
    guarded.stops.clear()
    guarded.node._on_commitment(messages.commitment_to_msg(guarded.commitment, NAMES))
    guarded.node._watch()
    assert not guarded.stops, "it comes to rest by itself soon"


def test_the_guard_does_not_wait_for_an_executor_of_the_future(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is set back: what was heard before is of no time that is known."""
    guarded.step(100.1)
    guarded.clock = 40.0
    told = Said(guarded.node._guard, monkeypatch)
    guarded.node._watch()
    assert [m.level for m in told] == [DiagnosticStatus.WARN] and "no recent commitment" in told[0].message


def test_another_publisher_of_obstacles_takes_none_away(guarded: Guarded) -> None:
    node = guarded.node
    speakers = [node.create_publisher(MarkerArray, "obstacles", RELIABLE_QOS) for _ in range(2)]
    limit = time.monotonic() + 20.0
    while node._scene._publishers != len(speakers):
        assert time.monotonic() < limit
        rclpy.spin_once(node, timeout_sec=0.05)
    guarded.step(100.2)
    guarded.node._on_obstacles(markers.scene_to_msg(Scene(), FRAME, 100.2))
    scene, _ = guarded.node._scene.scene(100.2)
    assert scene is not None and [o.name for o in scene.obstacles] == ["table", "pole"]


# ---- the planner ----------------------------------------------------------------------------------------------------------


class Odd:
    """A planner that fails in the way that ``sampler`` names, and counts."""

    def __init__(self, *, sampler: str, seed: int, bounds: str) -> None:
        self.way, self.calls, self.resumes = sampler, 0, 0
        self.poses: list[ObjectPose | None] = []

    def resumed(self) -> None:
        self.resumes += 1
        if self.way == "resumed":
            raise RuntimeError("resumed failed")

    def plan(self, pose: ObjectPose | None, commitment: Commitment, scene: Scene, switch: float, *_: Any) -> Any:
        self.calls += 1
        self.poses.append(pose)
        if self.way == "none":
            return None
        if self.way == "raises":
            raise ValueError("x")
        head = {"not_a_number": float("nan"), "negative": -1.0}.get(self.way, 0.05)
        width = np.zeros(3 if self.way == "width" else 2)
        shown = [Candidate(np.zeros((5, 2)), True, 0.0)] if self.way == "candidate" else []
        proposal = Proposal(Trajectory.at_rest(np.zeros(7)), width, switch, head, "p")
        return SimpleNamespace(proposal=proposal, candidates=shown, counters=Counters(), reason="planned")


def _planner(start: Start, way: str) -> PlannerNode:
    return start(PlannerNode, planner="integration.test_inputs:Odd", sampler=way, obstacles_required="false")  # type: ignore[no-any-return]


def _rests(node: PlannerNode) -> None:
    still = Commitment(Trajectory.at_rest(np.zeros(7)), time.time(), np.zeros(2))
    node._on_commitment(messages.commitment_to_msg(still, NAMES))


@pytest.mark.parametrize("way", ["fine", "none", "raises", "not_a_number", "negative", "width", "candidate", "resumed"])
def test_whatever_a_planner_does_it_is_asked_again(start: Start, way: str) -> None:
    node = _planner(start, way)
    if way == "resumed":
        for mode in ("STOPPED", "IDLE"):
            node._on_status(messages.status("bridge", DiagnosticStatus.OK, "", {"mode": mode}))
    odd: Any = node._planner
    limit = time.monotonic() + 30.0
    while (odd.resumes if way == "resumed" else odd.calls) < 3:
        assert time.monotonic() < limit and node._thread is not None and node._thread.is_alive(), node._last
        _rests(node)
        time.sleep(0.05)
    assert odd.resumes == 0 or odd.calls == 0, "what it believes is not planned with before it has been told"


def _pose(stamp: float, x: float = 0.5) -> Any:
    at = np.eye(4)
    at[0, 3] = x
    return messages.object_pose_to_msg(ObjectPose(at, 1e-6 * np.eye(6), stamp), FRAME)


def test_a_pose_of_before_the_clock_was_set_back_is_not_planned_with(start: Start) -> None:
    node = _planner(start, "fine")
    odd: Any = node._planner
    for stamp, known in ((time.time() - 0.1, True), (time.time() + 600.0, False)):
        with node._wake:
            node._pose = messages.object_pose_from_msg(_pose(stamp), FRAME)
            odd.poses.clear()
        limit = time.monotonic() + 30.0
        while len(odd.poses) < 2:
            assert time.monotonic() < limit
            _rests(node)
            time.sleep(0.05)
        assert (odd.poses[-1] is not None) is known


def test_poses_out_of_order_and_of_the_future_are_not_planned_with(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    node, clock = _planner(start, "fine"), [1000.0]
    monkeypatch.setattr(node, "now", lambda: clock[0])
    kept = []
    for stamp, x in ((999.8, 0.5), (999.9, 0.6), (999.7, 0.7), (1000.2, 0.8), (4600.0, 0.9), (999.95, 0.4)):
        node._on_pose(_pose(stamp, x))
        kept.append(float(node._pose.pose[0, 3]))
    assert kept == [0.5, 0.6, 0.6, 0.6, 0.6, 0.4]
    clock[0] = 400.0  # set back
    node._on_pose(_pose(399.9, 0.3))
    assert node._pose.pose[0, 3] == 0.3


# ---- perception -----------------------------------------------------------------------------------------------------------


def test_perception_sees_again_after_the_clock_was_set_back(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    node, clock, used = start(PerceptionNode), [1000.0], []
    monkeypatch.setattr(node, "now", lambda: clock[0])
    node._camera, node._base_from_camera = (np.diag([500.0, 500.0, 1.0]), np.zeros(5)), np.eye(4)
    resets: list[float] = []
    monkeypatch.setattr(node._tracker, "reset", lambda: resets.append(clock[0]))
    for now in (1000.0, 1000.1, 400.0, 400.1, 400.1):
        clock[0] = now
        picture = np.full((48, 64, 3), len(used), np.uint8)
        kind, _ = node._usable(messages.image_to_msg(picture, now, "camera"), now)
        used.append(kind)
        node._on_image(messages.image_to_msg(picture + 100, now, "camera"))
    assert used == ["", "", "", "", "frozen"] and resets == [400.0]


# ---- the bridge -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "drift", "key"), [
    ({"answer_within": 60.0}, 0.05, "answer_within"), ({"min_success_rate": 0.0}, 0.05, "min_success_rate"),
    ({}, 60.0, "max_drift"), ({"answer_within": 1e-3, "min_success_rate": 0.8}, 0.05, ""),
])  # fmt: skip
@pytest.mark.parametrize("backend", ["fci", "twin"])
def test_a_real_arm_is_not_driven_with_a_simulated_ones_leniency(
    backend: str, options: dict[str, float], drift: float, key: str
) -> None:
    def asked(address: str) -> None:
        settings = dataclasses.replace(FrankaBridgeSettings(), backend=backend, max_drift=drift)
        FrankaBridgeNode._must_be_strict(SimpleNamespace(settings=settings), {"ip": address, **options})  # type: ignore[arg-type]

    asked("127.0.0.7")
    if not key:
        return asked("172.16.0.2")
    for address in ("172.16.0.2", "arm.local"):
        with pytest.raises(ConfigError, match=f"{key} = .*accepted for a real arm"):
            asked(address)



def test_the_bridge_does_not_begin_with_such_leniency(start: Start) -> None:
    options = '\'{"ip": "172.16.0.2", "answer_within": 60.0}\''
    failure = "answer_within = 60.0: accepted for a real arm"
    assert not start(FrankaBridgeNode, failure, backend="fci", backend_options=options).active
