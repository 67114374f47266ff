"""Wire conversions: exact round trips, and every malformed message is an error."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import Marker, MarkerArray

from tandem.core.scene import TABLE, Obstacle, Scene
from tandem.core.trajectory import Trajectory, integrate_knots
from tandem.core.types import Commitment, ObjectPose, Proposal, Reason, Verdict
from tandem.nodes import markers, messages

NAMES = messages.Names()
NOW = 1_790_000_000.123456789


def a_proposal(seed: int = 0) -> Proposal:
    rng = np.random.default_rng(seed)
    times = np.concatenate([[0.0], np.cumsum(rng.uniform(0.02, 0.13, 24))])
    acceleration = rng.normal(size=(25, 7))
    q, v = integrate_knots(times, rng.normal(size=7), rng.normal(size=7), acceleration)
    return Proposal(Trajectory(times, q, v, acceleration), rng.uniform(0, 0.08, 25), NOW + rng.uniform(), float(times[8]), "p")


@pytest.mark.parametrize("seed", range(20))
def test_proposal_survives_the_wire_bit_for_bit(seed: int) -> None:
    sent = messages.quantise(a_proposal(seed))
    trajectory, width, switch = messages.trajectory_from_msg(messages.proposal_to_msg(sent, NAMES), NAMES)
    info = messages.info_from_status(messages.info_to_status(sent, 12.5))
    assert trajectory.digest() == sent.trajectory.digest()
    assert switch == sent.switch_time and info.head_duration == sent.head_duration and info.plan_ms == 12.5
    assert np.array_equal(width, sent.width)
    assert messages.quantise(sent).trajectory.digest() == sent.trajectory.digest()


@pytest.mark.parametrize("t", [0.0, 1e-9, 0.1 + 0.2, 812.3456789123, NOW, NOW + 0.1, 1_790_000_000.9999999999])
def test_times_are_idempotent(t: float) -> None:
    once = messages.quantise_time(t)
    assert abs(once - t) <= 0.5e-9 + 1e-15 * t
    assert messages.quantise_time(once) == once


def test_commitment_round_trip() -> None:
    p = messages.quantise(a_proposal())
    sent = messages.commitment_to_msg(Commitment(p.trajectory, p.switch_time, p.width), NAMES)
    back = messages.commitment_from_msg(sent, NAMES)
    assert back.trajectory.digest() == p.trajectory.digest() and back.start == p.switch_time


def _nan(m: JointTrajectory) -> None:
    m.points[3].positions[2] = float("nan")


def _short(m: JointTrajectory) -> None:
    m.points[3].velocities = m.points[3].velocities[:7]


def _names(m: JointTrajectory) -> None:
    m.joint_names[1] = "panda_joint2"


def _order(m: JointTrajectory) -> None:
    m.joint_names[0], m.joint_names[1] = m.joint_names[1], m.joint_names[0]


def _one(m: JointTrajectory) -> None:
    m.points = m.points[:1]


def _backwards(m: JointTrajectory) -> None:
    m.points[4].time_from_start = m.points[2].time_from_start


def _late_start(m: JointTrajectory) -> None:
    m.points[0].time_from_start.nanosec = 5


@pytest.mark.parametrize("spoil", [_nan, _short, _names, _order, _one, _backwards, _late_start])
def test_malformed_trajectories_are_errors(spoil: Callable[[JointTrajectory], None]) -> None:
    msg = messages.proposal_to_msg(messages.quantise(a_proposal()), NAMES)
    spoil(msg)
    with pytest.raises(messages.MessageError):
        messages.trajectory_from_msg(msg, NAMES)


def test_verdict_round_trip_and_contradiction() -> None:
    verdict = Verdict(Reason.COLLISION, -0.0123456789, 0.75, "fr3_link5", "box", "ab" * 32)
    msg = messages.verdict_to_status(verdict, "cd" * 32, "", 0.8)
    assert messages.verdict_from_status(msg) == (verdict, "cd" * 32, "", 0.8)
    msg.level = b"\x00"
    with pytest.raises(messages.MessageError, match="contradicts"):
        messages.verdict_from_status(msg)


def test_object_pose_round_trip() -> None:
    pose = np.eye(4)
    pose[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    pose[:3, 3] = 0.4, -0.1, 0.02
    msg = messages.object_pose_to_msg(ObjectPose(pose, np.diag(np.arange(1.0, 7.0)), 12.5), "fr3_link0")
    back = messages.object_pose_from_msg(msg, "fr3_link0")
    assert np.allclose(back.pose, pose, atol=1e-12) and back.stamp == 12.5
    assert np.array_equal(back.covariance, np.diag(np.arange(1.0, 7.0)))
    with pytest.raises(messages.MessageError, match="frame_id"):
        messages.object_pose_from_msg(msg, "world")


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8"])
def test_images(encoding: str) -> None:
    shape = (4, 6) if encoding == "mono8" else (4, 6, 3)
    image = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    msg = messages.image_to_msg(image, 3.5, "camera")
    if encoding == "bgr8":
        msg.encoding, image = "bgr8", image[..., ::-1]
    assert np.array_equal(messages.image_from_msg(msg), image)
    msg.data = msg.data[:-1]
    with pytest.raises(messages.MessageError):
        messages.image_from_msg(msg)


SCENE = Scene((
    Obstacle("crate", "box", (0.1, 0.2, 0.3), (0.5, 0.1, 0.3), (0.8, 0.0, 0.6, 0.0), 0.004, 0.3, NOW),
    Obstacle("ball", "sphere", (0.07,), (0.5, -0.1, 0.3), stamp=NOW),
    Obstacle("post", "cylinder", (0.05, 0.4), (0.3, 0.3, 0.4), stamp=NOW),
))


def test_scene_round_trip() -> None:
    keeper = markers.SceneKeeper("fr3_link0", 1.0, True)
    assert keeper.scene(NOW)[0] is None
    assert keeper.apply(markers.scene_to_msg(SCENE, "fr3_link0", NOW), NOW) == []
    scene, why = keeper.scene(NOW + 0.5)
    assert scene is not None and why == ""
    for sent, got in zip(SCENE.obstacles, scene.obstacles, strict=True):
        assert (got.name, got.kind, got.position_error, got.speed) == (sent.name, sent.kind, sent.position_error, sent.speed)
        assert np.allclose(got.size, sent.size, atol=1e-15) and np.allclose(got.position, sent.position)
        assert np.allclose(got.rotation(), sent.rotation(), atol=1e-12)
    version = keeper.version
    keeper.apply(markers.scene_to_msg(SCENE, "fr3_link0", NOW), NOW)
    assert keeper.version == version, "nothing changed"
    assert keeper.scene(NOW + 1.5)[0] is None, "too old"


def test_capsule_is_sent_as_its_parts() -> None:
    msg = markers.scene_to_msg(Scene((Obstacle("c", "capsule", (0.05, 0.2), (0.0, 0.0, 0.5), stamp=NOW),)), "fr3_link0", NOW)
    assert [m.type for m in msg.markers[1:]] == [Marker.CYLINDER, Marker.SPHERE, Marker.SPHERE]
    assert [m.pose.position.z for m in msg.markers[1:]] == pytest.approx([0.5, 0.3, 0.7])


def _mesh(m: Marker) -> None:
    m.type = Marker.MESH_RESOURCE


def _ellipsoid(m: Marker) -> None:
    m.type, m.scale.x = Marker.SPHERE, 0.5


def _frame(m: Marker) -> None:
    m.header.frame_id = "map"


def _nan_pose(m: Marker) -> None:
    m.pose.position.x = float("nan")


def _flat(m: Marker) -> None:
    m.scale.z = 0.0


def _future(m: Marker) -> None:
    m.header.stamp.sec += 10


def _label(m: Marker) -> None:
    m.text = "a crate"


@pytest.mark.parametrize("spoil", [_mesh, _ellipsoid, _frame, _nan_pose, _flat, _future, _label])
def test_unusable_markers_make_the_scene_unusable(spoil: Callable[[Marker], None]) -> None:
    keeper = markers.SceneKeeper("fr3_link0", 1.0, True)
    good = markers.scene_to_msg(SCENE, "fr3_link0", NOW)
    bad = copy.deepcopy(good)
    spoil(bad.markers[1])
    assert keeper.apply(bad, NOW)
    assert keeper.scene(NOW)[0] is None
    keeper.apply(MarkerArray(markers=good.markers[2:]), NOW)
    assert keeper.scene(NOW)[0] is None, "good markers beside it do not make it usable"
    keeper.apply(good, NOW)
    assert keeper.scene(NOW)[0] is not None


def _box(x: float, stamp: float = NOW, ns: str = "obstacles", ident: int = 0) -> Marker:
    scene = Scene((Obstacle(ns, "box", (0.1, 0.1, 0.1), (x, 0.0, 0.3), stamp=stamp),))
    marker = markers.scene_to_msg(scene, "fr3_link0", NOW).markers[1]
    marker.id = ident
    return marker


def test_two_obstacles_of_one_name_are_not_one() -> None:
    keeper = markers.SceneKeeper("fr3_link0", 1.0, True)
    twice = MarkerArray(markers=[_box(0.4), _box(0.7)])
    assert "twice in one message" in keeper.apply(twice, NOW)[0]
    assert keeper.scene(NOW)[0] is None
    assert keeper.apply(MarkerArray(markers=[_box(0.4), _box(0.7, ident=1)]), NOW) == []
    scene, _ = keeper.scene(NOW)
    assert scene is not None and [o.position[0] for o in scene.obstacles] == [0.4, 0.7]
    moved = MarkerArray(markers=[_box(0.4), markers.delete_all("fr3_link0", NOW), _box(0.5)])
    assert keeper.apply(moved, NOW) == [], "what comes after a deletion is another"


def test_several_publishers_take_nothing_from_each_other() -> None:
    keeper = markers.SceneKeeper("fr3_link0", 1.0, True)
    keeper.matched(SimpleNamespace(current_count=2))
    mine, others = MarkerArray(markers=[_box(0.4, ns="mine")]), markers.scene_to_msg(SCENE, "fr3_link0", NOW)
    for _ in range(2):
        keeper.apply(others, NOW)
        keeper.apply(mine, NOW)
    scene, _ = keeper.scene(NOW)
    assert scene is not None and {o.name for o in scene.obstacles} == {"mine", *(o.name for o in SCENE.obstacles)}
    unreadable = copy.deepcopy(mine)
    unreadable.markers[0].type = Marker.ARROW
    keeper.apply(unreadable, NOW)
    keeper.apply(others, NOW)
    assert keeper.scene(NOW)[0] is None, "nor do they mend what another has told"
    later = NOW + 1.5
    keeper.apply(mine, NOW)
    keeper.apply(markers.scene_to_msg(Scene(), "fr3_link0", later), later)
    scene, why = keeper.scene(later)
    assert scene is None and "1.50 s old" in why and "publish_scene:=false" in why
    keeper.matched(SimpleNamespace(current_count=1))
    keeper.apply(markers.scene_to_msg(Scene(), "fr3_link0", later), later)
    assert keeper.scene(later)[0] == Scene()


def test_an_older_observation_does_not_replace_a_newer_one() -> None:
    keeper = markers.SceneKeeper("fr3_link0", 1.0, True)
    for x, stamp, expected in ((0.4, NOW - 0.2, 0.4), (0.5, NOW, 0.5), (0.6, NOW - 0.1, 0.5), (0.7, NOW, 0.7)):
        keeper.apply(MarkerArray(markers=[_box(x, stamp)]), NOW)
        scene, _ = keeper.scene(NOW)
        assert scene is not None and scene.obstacles[0].position[0] == expected


@pytest.mark.parametrize("scene", [SCENE, Scene()])
def test_what_was_heard_before_the_clock_was_set_back_is_not_known(scene: Scene) -> None:
    keeper = markers.SceneKeeper("fr3_link0", 1.0, True)
    keeper.apply(markers.scene_to_msg(scene, "fr3_link0", NOW), NOW)
    assert keeper.scene(NOW - 0.04)[0] is not None
    for back in (0.06, 600.0):
        usable, why = keeper.scene(NOW - back)
        assert usable is None and "set back" in why
    keeper.apply(markers.scene_to_msg(Scene(), "fr3_link0", NOW - 600.0), NOW - 600.0)
    assert keeper.scene(NOW - 600.0)[0] == Scene()


def test_the_least_that_is_assumed_of_every_obstacle() -> None:
    keeper = markers.SceneKeeper("fr3_link0", 1.0, True, position_error=0.02, speed=0.3)
    plain, bold, shy = _box(0.4), _box(0.5, ident=1), _box(0.6, ident=2)
    plain.text, bold.text, shy.text = "", "position_error=0.001 speed=0.1", "position_error=0.05 speed=1.5"
    keeper.apply(MarkerArray(markers=[plain, bold, shy]), NOW)
    scene, _ = keeper.scene(NOW)
    assert scene is not None
    assert [(o.position_error, o.speed) for o in scene.obstacles] == [(0.02, 0.3), (0.02, 0.3), (0.05, 1.5)]


def test_what_is_always_there_is_there() -> None:
    keeper = markers.SceneKeeper("fr3_link0", 1.0, False, fixed=(TABLE,))
    assert keeper.scene(NOW)[0] == Scene((TABLE,))
    keeper.apply(markers.scene_to_msg(Scene(), "fr3_link0", NOW), NOW)
    assert keeper.scene(NOW)[0] == Scene((TABLE,))


def test_pairing_in_either_order() -> None:
    box: messages.Pairing[int, str] = messages.Pairing(2)
    assert box.left("a", 1) is None and box.right("a", "x") == (1, "x")
    assert box.right("b", "y") is None and box.left("b", 2) == (2, "y")
    for i in range(5):
        box.left(str(i), i)
    assert box.waiting() == [3, 4]
