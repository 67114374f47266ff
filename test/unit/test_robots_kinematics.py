"""Forward kinematics and Jacobians against pinocchio, MuJoCo and finite differences."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
import robot_cases

from tandem.core.errors import InputError
from tandem.core.se3 import inverse
from tandem.robots.kinematics import fk, fk_single, jacobian, place_spheres, sphere_centers, tcp_pose
from tandem.robots.model import ArmModel, load_arm, robot_config
from tandem.robots.urdf import resolve_source


@pytest.fixture(scope="module", params=["fr3", "panda", "six"])
def arm_file(request):
    return robot_cases.robot_file(request.param)


@pytest.fixture(scope="module")
def arm(arm_file) -> ArmModel:
    return load_arm(arm_file)


def test_fk_agrees_with_pinocchio(arm, arm_file):
    pin = pytest.importorskip("pinocchio")
    config, path = robot_config(arm_file)
    model = pin.buildModelFromUrdf(str(resolve_source(config.urdf, path)))
    data = model.createData()
    ids = [model.getJointId(name) for name in arm.joint_names]
    base, tcp = model.getFrameId(config.base), model.getFrameId(config.tcp)
    qs = robot_cases.random_q(arm, 50)
    frames, tips = fk(arm, qs), tcp_pose(arm, qs)
    for q, ours, tip in zip(qs, frames, tips, strict=True):
        full = pin.neutral(model)
        for k, joint in enumerate(ids):
            full[model.joints[joint].idx_q] = q[k]
        pin.framesForwardKinematics(model, data, full)
        to_base = inverse(data.oMf[base].homogeneous)
        theirs = np.array([to_base @ data.oMi[j].homogeneous for j in ids])
        # rpy values printed with 11 digits in the URDF; pinocchio goes through the same text
        assert np.abs(ours[1:] - theirs).max() < 1e-12
        assert np.abs(tip - to_base @ data.oMf[tcp].homogeneous).max() < 1e-12


def test_fk_agrees_with_the_simulator():
    arm = load_arm("fr3")
    spec = mujoco.MjSpec.from_file(str(robot_cases.assets() / "fr3.xml"))
    spec.meshdir = str(robot_cases.assets() / "meshes")
    model = spec.compile()
    data = mujoco.MjData(model)
    bodies = [mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name) for name in arm.link_names]
    for q in robot_cases.random_q(arm, 20):
        data.qpos[:7] = q
        mujoco.mj_kinematics(model, data)
        ours = fk(arm, q)
        assert np.abs(ours[:, :3, 3] - data.xpos[bodies]).max() < 1e-12
        assert np.abs(ours[:, :3, :3] - data.xmat[bodies].reshape(-1, 3, 3)).max() < 1e-12
    limits = [model.joint(name).range for name in arm.joint_names]
    assert np.all(arm.lower >= np.array(limits)[:, 0]) and np.all(arm.upper <= np.array(limits)[:, 1])


def test_jacobian_by_finite_differences(arm):
    h = 1e-6
    for q in robot_cases.random_q(arm, 10, seed=1):
        ours = jacobian(arm, q)
        for k in range(arm.n):
            step = np.zeros(arm.n)
            step[k] = h
            low, high = tcp_pose(arm, q - step), tcp_pose(arm, q + step)
            assert np.abs((high[:3, 3] - low[:3, 3]) / (2 * h) - ours[:3, k]).max() < 1e-8
            spin = (high[:3, :3] - low[:3, :3]) @ tcp_pose(arm, q)[:3, :3].T / (2 * h)
            assert np.abs(np.array([spin[2, 1], spin[0, 2], spin[1, 0]]) - ours[3:, k]).max() < 1e-8


def test_prismatic_joint_on_the_chain(tmp_path):
    """A lift and a turn: frames known by hand."""
    (tmp_path / "a.urdf").write_text("""<robot name="a"><link name="b"/><link name="l1"/><link name="l2"/><link name="t"/>
      <joint name="lift" type="prismatic"><origin xyz="1 0 0" rpy="0 1.5707963267948966 0"/><parent link="b"/><child link="l1"/>
        <axis xyz="0 0 1"/><limit lower="0" upper="1" velocity="1"/></joint>
      <joint name="turn" type="revolute"><parent link="l1"/><child link="l2"/>
        <axis xyz="0 1 0"/><limit lower="-1" upper="1" velocity="1"/></joint>
      <joint name="end" type="fixed"><origin xyz="0 0 0.5"/><parent link="l2"/><child link="t"/></joint></robot>""")
    (tmp_path / "a.yaml").write_text(
        "{name: a, urdf: a.urdf, base: b, tcp: t, spheres: s.yaml, limits: {acceleration: [1, 1], jerk: [1, 1]}}"
    )
    (tmp_path / "s.yaml").write_text("{spheres: {}, self_pairs: [], self_dropped: []}")
    arm = load_arm(tmp_path / "a.yaml")
    tip = tcp_pose(arm, [0.3, 0.0])
    assert np.allclose(tip[:3, 3], [1.8, 0.0, 0.0])
    tip = tcp_pose(arm, [0.3, 0.4])
    assert np.allclose(tip[:3, 3], [1.3 + 0.5 * np.cos(0.4), 0.0, -0.5 * np.sin(0.4)])
    assert np.allclose(jacobian(arm, [0.3, 0.4])[:, 0], [1, 0, 0, 0, 0, 0])


def test_batches_and_single_kernels_agree(arm):
    qs = robot_cases.random_q(arm, 12).reshape(3, 4, arm.n)
    frames = fk(arm, qs)
    assert frames.shape == (3, 4, arm.n + 1, 4, 4)
    assert np.array_equal(frames, fk(arm, qs, parallel=True))
    one = np.empty((arm.n + 1, 4, 4))
    fk_single(arm.joint_type, arm.placement, arm.axis, np.ascontiguousarray(qs[1, 2]), one)
    assert np.array_equal(one, frames[1, 2])
    centers = np.empty_like(arm.sphere_center)
    place_spheres(one, arm.sphere_link, arm.sphere_center, centers)
    assert np.allclose(centers, sphere_centers(arm, qs)[1, 2], atol=1e-14)
    rotation = frames[..., :3, :3]
    assert np.allclose(rotation @ np.swapaxes(rotation, -1, -2), np.eye(3), atol=1e-13)


def test_bad_input_is_an_error_and_nan_stays_nan(arm):
    with pytest.raises(InputError, match="last axis"):
        fk(arm, np.zeros(arm.n + 1))
    with pytest.raises(InputError, match="last axis"):
        tcp_pose(arm, np.zeros((2, 3, arm.n - 1)))
    assert np.isnan(tcp_pose(arm, np.full(arm.n, np.nan))).any()
    assert fk(arm, np.zeros((0, arm.n))).shape == (0, arm.n + 1, 4, 4)
