"""Inverse kinematics of chunks: round trips, statuses, redundancy, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import robot_cases
from scipy.spatial.transform import Rotation

from tandem.core.errors import InputError
from tandem.core.se3 import rotation_angle
from tandem.robots.inverse import IkStatus, pose_error, solve6, solve_chunk
from tandem.robots.kinematics import tcp_pose
from tandem.robots.model import load_arm, velocity_limits, with_limits

DT = 0.1


@pytest.fixture(scope="module")
def arm():
    return load_arm("fr3")


def chunks(arm, count, horizon=16, seed=0, shrink=0.8, speed=0.5):
    """Starts (B, n) and poses (B, H, 4, 4) of smooth random joint motions."""
    rng = np.random.default_rng(seed)
    start = robot_cases.random_q(arm, count, seed, shrink)
    velocity = speed * rng.uniform(-1.0, 1.0, (count, 1, arm.n))
    t = DT * np.arange(1, horizon + 1)[None, :, None]
    q = np.clip(start[:, None] + velocity * np.sin(2.0 * t) / 2.0, arm.lower + 1e-3, arm.upper - 1e-3)
    return start, tcp_pose(arm, q)


def test_reachable_chunks_are_solved(arm):
    start, poses = chunks(arm, 200, shrink=0.6)
    result = solve_chunk(arm, start, poses, dt=DT)
    assert result.ok.mean() > 0.99
    assert result.q.shape == (200, 16, 7) and result.status.shape == (200, 16)
    ok = result.status == IkStatus.OK
    reached = tcp_pose(arm, result.q[ok])
    error = np.linalg.norm(reached[:, :3, 3] - poses[ok][:, :3, 3], axis=-1)
    angle = rotation_angle(np.swapaxes(reached[:, :3, :3], -1, -2) @ poses[ok][:, :3, :3])
    assert error.max() <= 1e-4 and angle.max() <= 1e-3
    assert np.allclose(error, result.position_error[ok], atol=1e-12)
    assert np.allclose(angle, result.rotation_error[ok], atol=1e-9)


def test_pinocchio_agrees_that_the_pose_is_reached(arm):
    pin = pytest.importorskip("pinocchio")
    model = pin.buildModelFromUrdf(str(robot_cases.assets() / "fr3.urdf"))
    data, frame = model.createData(), model.getFrameId("fr3_hand_tcp")
    start, poses = chunks(arm, 20, seed=7)
    result = solve_chunk(arm, start, poses, dt=DT)
    for q, pose in zip(result.q[:, -1], poses[:, -1], strict=True):
        pin.framesForwardKinematics(model, data, np.concatenate([q, [0.0, 0.0]]))
        off = pin.log6(data.oMf[frame].actInv(pin.SE3(pose))).vector
        assert np.linalg.norm(off[:3]) < 2e-4 and np.linalg.norm(off[3:]) < 1.1e-3


@pytest.mark.parametrize("name", ["panda", "six"])
def test_other_arms(name):
    arm = load_arm(robot_cases.robot_file(name))
    start, poses = chunks(arm, 60, seed=2, speed=0.3)
    result = solve_chunk(arm, start, poses, dt=DT)
    # six joints leave no way around a singularity, so a few chunks there may not be followed in time; none is called OK wrongly
    assert result.ok.mean() > 0.9
    assert np.abs(tcp_pose(arm, result.q) - poses)[result.status == IkStatus.OK].max() < 2e-3


def test_no_waypoint_called_ok_breaks_a_limit(arm):
    start, poses = chunks(arm, 300, seed=3, shrink=1.0, speed=2.0)
    result = solve_chunk(arm, start, poses, dt=DT)
    ok = result.status == IkStatus.OK
    assert 0.05 < ok.mean() < 1.0
    before = np.concatenate([start[:, None], result.q[:, :-1]], axis=1)
    speed = (result.q - before) / DT
    lo, hi = velocity_limits(arm, result.q)
    assert np.all((result.q >= arm.lower) & (result.q <= arm.upper), where=ok[..., None])
    assert np.all((speed <= hi + 1e-9) & (speed >= lo - 1e-9), where=ok[..., None])
    assert IkStatus.VELOCITY_LIMIT in result.status


def test_pose_beyond_a_limit_is_named_not_clamped(arm):
    """Joint ranges of 0.2 rad about home, the tool asked to go where only a joint beyond them can bring it."""
    narrow = with_limits(arm, lower=arm.home - 0.1, upper=arm.home + 0.1)
    q = arm.home + np.array([0.25, 0.2, 0.25, 0.2, 0.25, 0.2, 0.25])
    result = solve_chunk(narrow, arm.home, tcp_pose(arm, q)[None, None], dt=10.0, posture_gain=0.0)
    assert result.status[0, 0] == IkStatus.POSITION_LIMIT
    assert np.any((result.q[0, 0] < narrow.lower) | (result.q[0, 0] > narrow.upper))
    assert result.position_error[0, 0] <= 1e-4


def test_a_joint_at_its_limit_is_held_and_the_others_make_up(arm):
    """The redundancy allows most poses without the joint that is blocked."""
    q = arm.home.copy()
    tight = arm.upper.copy()
    tight[0] = q[0] + 0.02
    blocked = with_limits(arm, upper=tight)
    goal = q + np.array([0.15, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    result = solve_chunk(blocked, q, tcp_pose(arm, goal)[None, None], dt=1.0)
    assert result.status[0, 0] == IkStatus.OK
    assert result.q[0, 0, 0] <= tight[0]


def test_out_of_reach_and_jumps_and_speed(arm):
    far = tcp_pose(arm, arm.home).copy()
    far[:3, 3] = [2.0, 0.0, 0.5]
    result = solve_chunk(arm, arm.home, far[None, None], dt=DT)
    assert result.status[0, 0] == IkStatus.NOT_CONVERGED and result.position_error[0, 0] > 0.5
    assert np.all(np.isfinite(result.q))
    turned = arm.home + np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.4])
    result = solve_chunk(arm, arm.home, tcp_pose(arm, turned)[None, None], dt=DT)
    assert result.status[0, 0] == IkStatus.BRANCH_JUMP
    turned = arm.home + np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -0.6])
    result = solve_chunk(arm, arm.home, tcp_pose(arm, turned)[None, None], dt=0.02)
    assert result.status[0, 0] == IkStatus.VELOCITY_LIMIT
    result = solve_chunk(arm, arm.home, tcp_pose(arm, turned)[None, None], dt=0.5)
    assert result.status[0, 0] == IkStatus.OK


def test_redundancy_returns_to_the_posture(arm):
    """Standing still with the elbow away from the posture: the pull brings it back, the tool stays."""
    rng = np.random.default_rng(5)
    away = arm.home + 0.3 * rng.uniform(-1.0, 1.0, 7)
    poses = np.repeat(tcp_pose(arm, away)[None, None], 100, axis=1)
    result = solve_chunk(arm, away, poses, dt=DT)
    assert result.ok.all()
    without = solve_chunk(arm, away, poses, dt=DT, posture_gain=0.0)
    gap = np.linalg.norm(result.q[0] - arm.home, axis=1)
    assert gap[-1] < gap[0] and gap[-1] < np.linalg.norm(without.q[0, -1] - arm.home)
    # in the end only what the pose itself demands is left: no further motion
    assert np.abs(result.q[0, -1] - result.q[0, -2]).max() < 2e-3


def test_circle_is_cyclic(arm):
    """Ten rounds of a circle end where the first one did: no drift of the redundancy."""
    angle = np.linspace(0.0, 20.0 * np.pi, 801)[1:]
    poses = np.repeat(tcp_pose(arm, arm.home)[None], 800, axis=0)
    poses[:, 0, 3] += 0.05 * (np.cos(angle) - 1.0)
    poses[:, 1, 3] += 0.05 * np.sin(angle)
    result = solve_chunk(arm, arm.home, poses[None], dt=DT)
    assert result.ok.all()
    assert np.abs(result.q[0, 799] - result.q[0, 719]).max() < 5e-3


def test_nan_is_not_converged(arm):
    start, poses = chunks(arm, 4)
    poses[1, 5, 0, 0] = np.nan
    poses[2, 0] = np.inf
    start[3, 2] = np.nan
    result = solve_chunk(arm, start, poses, dt=DT)
    assert result.status[1, 5] == IkStatus.NOT_CONVERGED and np.isinf(result.position_error[1, 5])
    assert np.array_equal(result.q[1, 5], result.q[1, 4])
    assert result.status[2, 0] == IkStatus.NOT_CONVERGED
    assert np.all(result.status[3] == IkStatus.NOT_CONVERGED)
    assert result.ok.tolist() == [True, False, False, False]
    assert np.all(np.isfinite(result.q[:3]))


def test_a_matrix_that_is_no_rotation_is_not_converged(arm):
    pose = tcp_pose(arm, arm.home)
    poses = np.repeat(pose[None, None], 5, axis=1)
    poses[0, 0, :3, :3] = 0.0
    poses[0, 1, :3, 0] *= -1.0
    poses[0, 2, :3, :3] *= 1.001
    poses[0, 3, 3] = [0.0, 0.0, 0.1, 1.0]
    result = solve_chunk(arm, arm.home, poses, dt=DT)
    assert result.status[0].tolist() == [IkStatus.NOT_CONVERGED] * 4 + [IkStatus.OK] and np.all(np.isfinite(result.q))
    assert solve_chunk(arm, arm.home, poses[:, 4:].astype(np.float32), dt=DT).ok[0]


def test_half_turn_away(arm):
    """The rotation error is right at and near pi, where the skew part vanishes."""
    for angle in (np.pi, np.pi - 1e-8, np.pi - 1e-3, 1e-9, 0.5):
        axis = np.array([1.0, -2.0, 0.5]) / np.linalg.norm([1.0, -2.0, 0.5])
        current, target, e = np.eye(4), np.eye(4), np.empty(6)
        target[:3, :3] = Rotation.from_rotvec(angle * axis).as_matrix()
        pose_error(current, target, e)
        assert np.allclose(Rotation.from_rotvec(e[3:]).as_matrix(), target[:3, :3], atol=1e-6)
        assert np.linalg.norm(e[3:]) == pytest.approx(angle, abs=1e-6)


def test_cholesky_solve():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((6, 8))
    a, b = root @ root.T, rng.standard_normal(6)
    x = b.copy()
    solve6(a.copy(), x)
    assert np.allclose(a @ x, b)


def test_batch_forms_agree(arm):
    start, poses = chunks(arm, 8, seed=9)
    whole = solve_chunk(arm, start, poses, dt=DT)
    parallel = solve_chunk(arm, start, poses, dt=DT, parallel=True)
    assert np.array_equal(whole.q, parallel.q) and np.array_equal(whole.status, parallel.status)
    one = solve_chunk(arm, start[3], poses[3:4], dt=DT)
    assert np.array_equal(one.q[0], whole.q[3])
    assert solve_chunk(arm, start[:0], poses[:0], dt=DT).q.shape == (0, 16, 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"poses": np.zeros((4, 4))}, "poses"),
        ({"poses": np.zeros((2, 3, 4, 3))}, "poses"),
        ({"q_start": np.zeros(6)}, "q_start"),
        ({"q_start": np.zeros((3, 7))}, "q_start"),
        ({"q_start": "home"}, "q_start"),
        ({"dt": 0.0}, "dt"),
        ({"dt": float("nan")}, "dt"),
        ({"posture": np.full(7, np.nan)}, "posture"),
        ({"posture": np.zeros(3)}, "posture"),
        ({"posture_gain": 20.0}, "posture_gain"),
        ({"jump": -1.0}, "jump"),
        ({"position_tolerance": 0.0}, "position_tolerance"),
        ({"iterations": 0}, "iterations"),
    ],
)
def test_bad_arguments(arm, change, message):
    arguments = {"q_start": arm.home, "poses": np.repeat(tcp_pose(arm, arm.home)[None, None], 2, axis=0), "dt": DT} | change
    with pytest.raises(InputError, match=message):
        solve_chunk(arm, arguments.pop("q_start"), arguments.pop("poses"), **arguments)
