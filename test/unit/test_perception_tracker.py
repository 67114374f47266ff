"""Fusion over time: averaging, outliers, a moved object, staleness."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from tandem.core.errors import InputError
from tandem.core.types import ObjectPose
from tandem.perception import PoseTracker, TrackerConfig, Update
from tandem.perception.tracker import pose_difference

Array = NDArray[np.float64]
COVARIANCE = np.diag([2e-3] * 3 + [np.deg2rad(0.5)] * 3) ** 2


def at(x: float, y: float = 0.0, yaw: float = 0.0) -> Array:
    t = np.eye(4)
    t[:3, :3] = Rotation.from_euler("z", yaw).as_matrix()
    t[:2, 3] = x, y
    return t


def noisy(pose: Array, rng: np.random.Generator, stamp: float) -> ObjectPose:
    d = rng.multivariate_normal(np.zeros(6), COVARIANCE)
    out = pose.copy()
    out[:3, 3] += d[:3]
    out[:3, :3] = Rotation.from_rotvec(d[3:]).as_matrix() @ pose[:3, :3]
    return ObjectPose(out, COVARIANCE, stamp)


def test_a_standing_object_is_averaged() -> None:
    rng, tracker, truth = np.random.default_rng(0), PoseTracker(), at(0.5, 0.1, 1.0)
    outcomes = [tracker.update(noisy(truth, rng, 0.1 * i)) for i in range(60)]
    assert outcomes[0] is Update.STARTED and outcomes.count(Update.FUSED) >= 57
    latest = tracker.latest(5.95)
    assert latest is not None and latest.stamp == pytest.approx(5.9)
    d = pose_difference(latest.pose, truth)
    assert np.linalg.norm(d[:3]) < 2e-3 and np.linalg.norm(d[3:]) < np.deg2rad(0.6)
    assert np.all(np.sqrt(np.diag(latest.covariance))[:3] >= 0.7e-3)  # systematic errors do not average out
    np.testing.assert_allclose(latest.pose[:3, :3] @ latest.pose[:3, :3].T, np.eye(3), atol=1e-12)


def test_single_outliers_are_dropped_and_do_not_move_the_track() -> None:
    rng, tracker, truth = np.random.default_rng(1), PoseTracker(), at(0.5)
    for i in range(30):
        wrong = i % 5 == 4
        seen = at(0.5 + rng.uniform(0.05, 0.2), yaw=rng.uniform(-3, 3)) if wrong else truth
        outcome = tracker.update(noisy(seen, rng, 0.1 * i))
        assert (outcome is Update.OUTLIER) == wrong
    latest = tracker.latest(2.9)
    assert latest is not None and np.linalg.norm(latest.pose[:3, 3] - truth[:3, 3]) < 3e-3


def test_scattered_outliers_do_not_restart_but_consistent_ones_do() -> None:
    rng = np.random.default_rng(2)
    tracker = PoseTracker()
    tracker.update(noisy(at(0.5), rng, 0.0))
    for i, x in enumerate((0.9, 0.1, 1.3, -0.4, 0.8)):
        assert tracker.update(noisy(at(x, yaw=float(i)), rng, 0.1 + 0.1 * i)) is Update.OUTLIER
    tracker = PoseTracker()
    tracker.update(noisy(at(0.5), rng, 0.0))
    outcomes = [tracker.update(noisy(at(0.6), rng, 0.1 + 0.1 * i)) for i in range(3)]
    assert outcomes == [Update.OUTLIER, Update.OUTLIER, Update.RESTARTED] and tracker.moving
    latest = tracker.latest(0.3)
    assert latest is not None and abs(latest.pose[0, 3] - 0.6) < 8e-3
    for i in range(10):
        tracker.update(noisy(at(0.6), rng, 0.4 + 0.1 * i))
    assert not tracker.moving


def test_a_carried_object_is_followed_closely() -> None:
    rng, tracker = np.random.default_rng(3), PoseTracker()
    for i in range(10):
        tracker.update(noisy(at(0.5), rng, 0.1 * i))
    lag = []
    for i in range(40):
        truth = at(0.5 + 0.015 * i)  # 0.15 m/s
        tracker.update(noisy(truth, rng, 1.0 + 0.1 * i))
        latest = tracker.latest(1.0 + 0.1 * i)
        assert latest is not None
        lag.append(float(np.linalg.norm(latest.pose[:3, 3] - truth[:3, 3])))
    assert max(lag[6:]) < 0.02


def test_staleness_and_growth_of_the_covariance() -> None:
    tracker = PoseTracker(TrackerConfig(max_age=0.4))
    assert tracker.latest(0.0) is None
    tracker.update(ObjectPose(at(0.5), COVARIANCE, 1.0))
    now, later = tracker.latest(1.0), tracker.latest(1.4)
    assert now is not None and later is not None and np.trace(later.covariance) > np.trace(now.covariance)
    assert tracker.latest(1.41) is None
    tracker.reset()
    assert tracker.latest(1.0) is None


def test_outliers_do_not_keep_a_track_alive() -> None:
    tracker = PoseTracker(TrackerConfig(max_age=0.5, restart_after=10))
    tracker.update(ObjectPose(at(0.5), COVARIANCE, 0.0))
    for i in range(6):
        assert tracker.update(ObjectPose(at(0.7), COVARIANCE, 0.1 * (i + 1))) is Update.OUTLIER
    assert tracker.latest(0.6) is None


def test_old_and_repeated_stamps_are_ignored() -> None:
    tracker = PoseTracker()
    tracker.update(ObjectPose(at(0.5), COVARIANCE, 1.0))
    assert tracker.update(ObjectPose(at(0.5), COVARIANCE, 1.0)) is Update.OLD
    assert tracker.update(ObjectPose(at(0.5), COVARIANCE, 0.2)) is Update.OLD


def test_bad_input_is_named() -> None:
    tracker = PoseTracker()
    with pytest.raises(InputError, match="covariance"):
        tracker.update(ObjectPose(at(0.5), np.eye(3), 0.0))
    with pytest.raises(InputError, match="NaN"):
        tracker.update(ObjectPose(np.full((4, 4), np.nan), COVARIANCE, 0.0))
    with pytest.raises(InputError, match="semi-definite"):
        tracker.update(ObjectPose(at(0.5), -COVARIANCE, 0.0))
