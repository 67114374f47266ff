"""Loading arms, their limits, and what a malformed file answers."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import robot_cases
import yaml

from tandem.core.errors import ConfigError, InputError
from tandem.robots.compile import compile_all
from tandem.robots.model import load_arm, load_chain, robot_config, velocity_limits, with_limits


def test_fr3_has_the_documented_limits():
    arm = load_arm("fr3")
    assert arm.joint_names == tuple(f"fr3_joint{i}" for i in range(1, 8))
    assert arm.link_names == tuple(f"fr3_link{i}" for i in range(8))
    assert arm.stroke == pytest.approx(0.08)
    assert np.all(arm.acceleration <= 10.0) and np.all(arm.jerk <= 5000.0)
    assert np.all(arm.velocity <= [2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26])
    assert np.all(arm.lower < arm.home) and np.all(arm.home < arm.upper)
    assert arm.upper[3] < 0.0 and arm.lower[5] > 0.0
    for field in dataclasses.fields(arm):
        value = getattr(arm, field.name)
        if isinstance(value, np.ndarray):
            assert value.flags.c_contiguous and value.dtype in (np.float64, np.int64), field.name


def test_velocity_limits_are_inside_both_published_sets():
    """libfranka's table (Franka documentation) and the URDF's position_based_velocity_limits, both evaluated as published."""
    arm = load_arm("fr3")
    a = np.array([0.30, 0.20, 0.20, 0.30, 0.35, 0.35, 0.35])
    b = np.array([12.0, 5.17, 7.0, 8.0, 34.0, 11.0, 34.0])
    up = np.array([2.7501, 1.7918, 2.9065, -0.1458, 2.8101, 4.5205, 3.0196])
    low = np.array([-2.7501, -1.7918, -2.9065, -3.0481, -2.8101, 0.54092, -3.0196])
    a2 = np.array([0.652, 0.25, 0.2005, 0.3542, 0.5738, 0.4885, 0.4592])
    up2 = np.array([2.9007, 1.8361, 2.9007, -0.1169, 2.8763, 4.6216, 3.0508])
    low2 = np.array([-2.9007, -1.8361, -2.9007, -3.077, -2.8763, 0.4398, -3.0508])
    const = np.array([2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26])
    q = robot_cases.random_q(arm, 2000)
    lo, hi = velocity_limits(arm, q)
    for offset, top, bottom in ((a, up, low), (a2, up2, low2)):
        fastest = np.minimum(const, np.maximum(0.0, np.sqrt(b * (top - q)) - offset))
        slowest = -np.minimum(const, np.maximum(0.0, np.sqrt(b * (q - bottom)) - offset))
        assert np.all(hi <= np.maximum(fastest - 1e-3, 0.0) + 1e-12)
        assert np.all(lo >= np.minimum(slowest + 1e-3, 0.0) - 1e-12)
    assert np.all(hi >= 0.0) and np.all(lo <= 0.0)
    lo, hi = velocity_limits(arm, arm.home)
    assert np.all(hi > 1.0) and np.all(lo < -1.0)
    past = velocity_limits(arm, np.stack([arm.upper + 1.0, arm.lower - 1.0]))
    assert np.all(past[1][0] == 0.0) and np.all(past[0][1] == 0.0)
    assert np.isnan(velocity_limits(arm, np.full(7, np.nan))[0]).all()
    with pytest.raises(InputError):
        velocity_limits(arm, np.zeros(6))


def test_arm_without_position_dependent_limits():
    arm = load_arm(robot_cases.robot_file("panda"))
    assert np.isnan(arm.velocity_position).all()
    lo, hi = velocity_limits(arm, arm.home)
    assert np.array_equal(hi, arm.velocity) and np.array_equal(lo, -arm.velocity)
    assert np.array_equal(arm.velocity, [2.175, 2.175, 2.175, 2.175, 2.61, 2.61, 2.61])


def test_the_table_is_excluded_for_the_base_only():
    arm = load_arm("fr3")
    assert arm.checked_links("table").tolist() == [False] + [True] * 7
    assert arm.checked_links("box").all()


def test_digest_covers_the_limits():
    arm = load_arm("fr3")
    assert load_arm("fr3").digest == arm.digest
    slow = with_limits(arm, velocity=0.5 * arm.velocity)
    assert slow.digest != arm.digest and np.array_equal(slow.velocity, 0.5 * arm.velocity)
    with pytest.raises(InputError, match="home"):
        with_limits(arm, home=arm.home)
    with pytest.raises(InputError, match="shape"):
        with_limits(arm, velocity=np.ones(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nonsense": 1}, "unknown key"),
        ({"urdf": "nowhere.urdf"}, "no such file"),
        ({"urdf": "no_such_package:arm.urdf"}, "no Python or ROS package"),
        ({"base": "nobody"}, "no link 'nobody'"),
        ({"tcp": "world"}, "does not hang on"),
        ({"home": [0.0] * 5}, "home"),
        ({"home": [9.0] * 6}, "home"),
        ({"spheres": "nowhere.yaml"}, "nowhere.yaml"),
        ({"exclusions": [["nobody", "table"]]}, "exclusions"),
        ({"limits": {"acceleration": [1.0] * 6}}, "jerk"),
        ({"limits": {"acceleration": [1.0] * 5, "jerk": [1.0] * 6}}, "5 values; expected 6"),
        ({"limits": {"acceleration": [-1.0] * 6, "jerk": [1.0] * 6}}, "accepted"),
        ({"limits": {"lower": [3.2] * 6, "acceleration": [1.0] * 6, "jerk": [1.0] * 6}}, "must be below upper"),
        ({"limits": {"velocity_position": [[1.0]] * 6, "acceleration": [1.0] * 6, "jerk": [1.0] * 6}}, "velocity_position"),
    ],
)
def test_malformed_robot_file(tmp_path, change, message):
    path = robot_cases.DATA / "six.yaml"
    shutil.copy(robot_cases.DATA / "six.urdf", tmp_path)
    (tmp_path / "six_spheres.yaml").write_text("{spheres: {}, self_pairs: [], self_dropped: []}")
    target = tmp_path / "six.yaml"
    target.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | change))
    with pytest.raises(ConfigError, match=message):
        load_arm(target)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "YAML|yaml|cannot be read"),
        ("{spheres: {nobody: [[0, 0, 0, 1]]}, self_pairs: [], self_dropped: []}", "nobody"),
        ("{spheres: {base_link: [[0, 0, 0]]}, self_pairs: [], self_dropped: []}", "cannot be read"),
        ("{spheres: {base_link: [[0, 0, 0, -1]]}, self_pairs: [], self_dropped: []}", "radius"),
        ("{spheres: {base_link: [[0, 0, .nan, 1]]}, self_pairs: [], self_dropped: []}", "radius"),
        ("{spheres: {}}", "self_pairs"),
    ],
)
def test_malformed_sphere_file(tmp_path, text, message):
    for name in ("six.urdf", "six.yaml"):
        shutil.copy(robot_cases.DATA / name, tmp_path)
    (tmp_path / "six_spheres.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_arm(tmp_path / "six.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</robot>", "", "cannot be read as URDF"),
        ('type="revolute"', 'type="floating"', "floating"),
        ('xyz="0 2 0"', 'xyz="0 0 0"', "must not vanish"),
        ('xyz="0 0 0.1625"', 'xyz="0 zero 0.1625"', "not a list of numbers"),
        ('xyz="0 0 0.1625"', 'xyz="0 0.1625"', "expected 3"),
        ('<child link="forearm"/>', '<child link="nobody"/>', "unknown link"),
        ('<child link="forearm"/>', "", "no <child"),
        ('<sphere radius="0.08"/>', '<cone radius="1"/>', "geometry must be"),
        ('<sphere radius="0.08"/>', '<mesh filename="nowhere.stl"/>', "no such file"),
        ('lower="-3.1"', 'lower="nan"', "finite"),
    ],
)
def test_malformed_urdf(tmp_path, old, new, message):
    text = (robot_cases.DATA / "six.urdf").read_text()
    assert old in text
    (tmp_path / "six.urdf").write_text(text.replace(old, new))
    shutil.copy(robot_cases.DATA / "six.yaml", tmp_path)
    (tmp_path / "six_spheres.yaml").write_text("{spheres: {}, self_pairs: [], self_dropped: []}")
    with pytest.raises(ConfigError, match=message):
        load_chain(*robot_config(tmp_path / "six.yaml"))


def test_unknown_robot_names_those_that_exist():
    with pytest.raises(ConfigError, match="fr3"):
        load_arm("no_such_robot")


def test_compile_all_runs():
    assert compile_all("fr3") < 300.0
