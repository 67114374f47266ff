"""Pose estimate from markers: accuracy, honest covariance, and never a wrong pose from a corrupted view."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import pytest
from perception_views import (
    BASE_FROM_CAMERA,
    CAMERA,
    NO_DISTORTION,
    Array,
    Image,
    Views,
    errors,
    random_pose,
    rotation,
)

from tandem.core import se3
from tandem.core.errors import ConfigError, InputError
from tandem.core.objects import MarkerObject, load_object
from tandem.core.paths import config_file
from tandem.perception import (
    DetectorConfig,
    Estimate,
    EstimateReason,
    EstimatorConfig,
    MarkerDetector,
    MarkerPoseEstimator,
    Rejected,
)
from tandem.perception.tracker import pose_difference

cv2.setNumThreads(1)
WRONG = (15.0, 5.0)


@pytest.fixture(scope="module")
def mug() -> MarkerObject:
    return load_object(config_file("objects", "mug.yaml"))


@pytest.fixture(scope="module")
def estimator(mug: MarkerObject) -> MarkerPoseEstimator:
    return MarkerPoseEstimator(mug)


def look(estimator: MarkerPoseEstimator, image: Image, distortion: Array = NO_DISTORTION) -> Estimate:
    return estimator.estimate(image, CAMERA, distortion, BASE_FROM_CAMERA, 1.5)


def test_accuracy_and_covariance_on_clean_views(mug: MarkerObject, estimator: MarkerPoseEstimator) -> None:
    views, rng = Views(mug, scale=3), np.random.default_rng(0)
    found, spread = [], []
    for i in range(30):
        truth = random_pose(rng, lifted=i % 3 == 2)
        estimate = look(estimator, views.render(truth, rng))
        if estimate.pose is None:
            assert estimate.reason is not EstimateReason.OK
            continue
        assert estimate.reason is EstimateReason.OK and estimate.markers and estimate.pose.stamp == 1.5
        found.append(errors(estimate.pose.pose, truth))
        d = pose_difference(truth, estimate.pose.pose)
        spread.append(float(d @ np.linalg.solve(estimate.pose.covariance, d)))
    assert len(found) >= 27
    position, rotation_error = np.array(found).T
    assert np.median(position) <= 4.0 and np.median(rotation_error) <= 1.0
    assert position.max() <= 12.0 and rotation_error.max() <= 2.0
    assert np.mean(spread) <= 9.0  # six degrees of freedom: the covariance does not understate the error


def test_lens_distortion_is_undone(mug: MarkerObject, estimator: MarkerPoseEstimator) -> None:
    views, rng = Views(mug), np.random.default_rng(1)
    distortion = np.array([-0.25, 0.08, 0.001, -0.001, 0.0])
    for _ in range(5):
        truth = random_pose(rng)
        estimate = look(estimator, views.render(truth, rng, distortion=distortion), distortion)
        assert estimate.pose is not None
        position, angle = errors(estimate.pose.pose, truth)
        assert position < 8.0 and angle < 1.5


def _bar(image: Image, rng: np.random.Generator, centre: Array) -> Image:
    out = image.copy()
    for _ in range(int(rng.integers(1, 4))):
        box = ((*(centre + rng.uniform(-35, 35, 2)),), (rng.uniform(4, 50), rng.uniform(20, 120)), rng.uniform(0, 180))
        grey = int(rng.integers(0, 256))
        cv2.fillPoly(out, [np.rint(cv2.boxPoints(box)).astype(np.int32)], (grey, grey, grey))
    return out


def _streak(image: Image, rng: np.random.Generator) -> Image:
    kernel = np.zeros((15, 15), dtype=np.float32)
    angle, length = rng.uniform(0, math.pi), rng.uniform(1.5, 7.0)
    for s in np.linspace(-length, length, 60):
        kernel[int(np.rint(7 + s * math.sin(angle))), int(np.rint(7 + s * math.cos(angle)))] += 1.0
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), dtype=np.uint8)


def _corrupt(kind: str, image: Image, rng: np.random.Generator, centre: Array) -> Image:
    if kind == "occluded":
        return _bar(image, rng, centre)
    if kind == "blurred":
        return np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.7, 4.0)), dtype=np.uint8)
    if kind == "streaked":
        return _streak(image, rng)
    if kind == "noisy":
        return np.clip(image + rng.normal(0.0, rng.uniform(8, 30), image.shape), 0, 255).astype(np.uint8)
    return np.clip(image * float(np.exp(rng.uniform(-2.5, 1.5))), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("kind", ["occluded", "blurred", "streaked", "noisy", "exposed"])
def test_corrupted_views_never_give_a_wrong_pose(kind: str, mug: MarkerObject, estimator: MarkerPoseEstimator) -> None:
    views = Views(mug, scale=3)
    rng = np.random.default_rng(sum(map(ord, kind)))
    wrong = []
    for i in range(6):
        truth = random_pose(rng, lifted=i % 3 == 2)
        clean = views.render(truth, rng)
        middle = se3.inverse(BASE_FROM_CAMERA) @ truth @ np.array([0.0, 0.0, 0.055, 1.0])
        centre = (CAMERA @ (middle[:3] / middle[2]))[:2]
        for _ in range(6):
            estimate = look(estimator, _corrupt(kind, clean, rng, centre))
            if estimate.pose is None:
                assert estimate.reason is not EstimateReason.OK
            elif any(e > limit for e, limit in zip(errors(estimate.pose.pose, truth), WRONG, strict=True)):
                wrong.append((i, errors(estimate.pose.pose, truth), estimate.markers))
    assert not wrong


def test_mirrored_images_give_no_pose(mug: MarkerObject, estimator: MarkerPoseEstimator) -> None:
    rng = np.random.default_rng(3)
    for views in (Views(mug, scale=3), Views(mug, scale=3, mirrored=True)):
        for _ in range(8):
            image = views.render(random_pose(rng), rng)
            if not views.mirrored:
                image = np.ascontiguousarray(image[:, ::-1])
            assert look(estimator, image).pose is None


def test_markers_in_the_wrong_place_give_no_pose_or_the_right_one(mug: MarkerObject, estimator: MarkerPoseEstimator) -> None:
    """One exchanged print is outvoted or refused; many exchanged prints are refused."""
    rng = np.random.default_rng(4)
    ids = [m.id for m in mug.markers]
    one = Views(mug, scale=3, swap={ids[4]: 40})
    exchanged = Views(mug, scale=3, swap={ids[4]: ids[0]})
    shuffled = Views(mug, scale=3, swap=dict(zip(ids, ids[3:] + ids[:3], strict=True)))
    for _ in range(10):
        truth = random_pose(rng)
        for views in (one, exchanged):
            estimate = look(estimator, views.render(truth, rng))
            if estimate.pose is not None:
                assert all(e <= limit for e, limit in zip(errors(estimate.pose.pose, truth), WRONG, strict=True))
        assert look(estimator, shuffled.render(truth, rng)).pose is None


def test_a_single_marker_is_resolved_or_refused(mug: MarkerObject, estimator: MarkerPoseEstimator) -> None:
    rng = np.random.default_rng(5)
    outcomes = {"right": 0, "refused": 0}
    for i in range(40):
        marker = mug.markers[i % len(mug.markers)]
        views = Views(mug, scale=3, ids=frozenset({marker.id}))
        facing = math.atan2(marker.pose[1, 2], marker.pose[0, 2])
        place = np.array([rng.uniform(0.45, 0.6), rng.uniform(-0.15, 0.15), 0.0])
        truth = se3.pose(place, rotation(-facing + rng.uniform(-0.9, 0.9)))
        estimate = look(estimator, views.render(truth, rng, noise=6.0))
        if estimate.pose is None:
            outcomes["refused"] += 1
            continue
        outcomes["right"] += 1
        assert all(e <= limit for e, limit in zip(errors(estimate.pose.pose, truth), WRONG, strict=True)), (i, estimate.markers)
    assert outcomes["right"] >= 10


def test_far_frontal_marker_is_ambiguous_not_guessed(mug: MarkerObject) -> None:
    """From 2.5 m the perspective of a 44 mm marker is too weak to tell its two poses apart."""
    loose = EstimatorConfig(
        detector=DetectorConfig(min_side=8.0, max_edge_share=2.0, min_pattern_match=0.5, max_edge_rms=1.0),
        max_position_std=100.0, max_rotation_std=45.0, single_min_match=0.0, single_max_rms=5.0,
    )
    estimator = MarkerPoseEstimator(mug, loose)
    marker = mug.markers[4]
    views, rng = Views(mug, ids=frozenset({marker.id})), np.random.default_rng(6)
    reasons = []
    for _ in range(15):
        away = BASE_FROM_CAMERA[:3, 3] + 2.0 * BASE_FROM_CAMERA[:3, 2]
        facing = math.atan2(marker.pose[1, 2], marker.pose[0, 2])
        truth = se3.pose(away, rotation(-facing + rng.uniform(-0.4, 0.4)))
        estimate = look(estimator, views.render(truth, rng, noise=8.0))
        reasons.append(estimate.reason)
        if estimate.pose is not None:
            assert errors(estimate.pose.pose, truth)[1] < 20.0  # the flipped pose is 50 degrees and more away
    assert EstimateReason.AMBIGUOUS in reasons


def test_reasons_for_no_pose(mug: MarkerObject, estimator: MarkerPoseEstimator) -> None:
    rng = np.random.default_rng(7)
    empty = np.full((480, 640, 3), 120, dtype=np.uint8)
    assert look(estimator, empty).reason is EstimateReason.NO_MARKER
    foreign = look(estimator, Views(mug, swap={m.id: 30 + i for i, m in enumerate(mug.markers)}).render(random_pose(rng), rng))
    assert foreign.reason is EstimateReason.NO_MARKER and foreign.rejected[Rejected.UNKNOWN_ID] >= 2
    image = Views(mug).render(random_pose(rng), rng)
    assert look(estimator, image).reason is EstimateReason.OK
    dim = np.clip(image * 0.2, 0, 255).astype(np.uint8)
    dark = look(estimator, dim)
    assert dark.reason is EstimateReason.POOR_MARKERS and Rejected.LOW_CONTRAST in dark.rejected
    near = MarkerPoseEstimator(mug, dataclasses.replace(estimator.config, max_distance=0.3))
    assert look(near, image).reason is EstimateReason.IMPLAUSIBLE
    strict = MarkerPoseEstimator(mug, dataclasses.replace(estimator.config, max_position_std=0.1))
    assert look(strict, image).reason is EstimateReason.UNCERTAIN


def test_upright_gate_is_off_by_default(mug: MarkerObject, estimator: MarkerPoseEstimator) -> None:
    rng = np.random.default_rng(8)
    tilted = se3.pose(np.array([0.52, 0.0, 0.10]), rotation(2.6, 0.5))
    image = Views(mug).render(tilted, rng)
    assert look(estimator, image).pose is not None
    upright = MarkerPoseEstimator(mug, dataclasses.replace(estimator.config, max_tilt=10.0))
    assert look(upright, image).reason is EstimateReason.IMPLAUSIBLE
    standing = MarkerPoseEstimator(mug, dataclasses.replace(estimator.config, table_tolerance=0.02))
    assert look(standing, image).reason is EstimateReason.IMPLAUSIBLE


def test_bad_input_is_named(mug: MarkerObject, estimator: MarkerPoseEstimator) -> None:
    image = np.zeros((480, 640, 3), dtype=np.uint8)
    with pytest.raises(InputError, match="image"):
        look(estimator, image.astype(np.float32))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="image"):
        look(estimator, np.zeros((480, 640, 4), dtype=np.uint8))
    with pytest.raises(InputError, match="camera_matrix"):
        estimator.estimate(image, np.zeros((3, 3)), NO_DISTORTION, BASE_FROM_CAMERA, 0.0)
    with pytest.raises(InputError, match="distortion"):
        estimator.estimate(image, CAMERA, np.full(5, np.nan), BASE_FROM_CAMERA, 0.0)
    with pytest.raises(InputError, match="base_from_camera"):
        estimator.estimate(image, CAMERA, NO_DISTORTION, np.diag([1.0, 1.0, -1.0, 1.0]), 0.0)
    with pytest.raises(InputError, match="at least one marker"):
        MarkerPoseEstimator(dataclasses.replace(mug, markers=()))
    with pytest.raises(ConfigError, match="DICT_9X9"):
        MarkerDetector("DICT_9X9")
    with pytest.raises(ConfigError, match="77"):
        MarkerDetector("DICT_4X4_50", frozenset({77}))


def test_no_marker_of_the_mug_is_mirror_symmetric(mug: MarkerObject) -> None:
    """A mirrored image must not show a valid marker of the same object."""
    dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, mug.dictionary))
    n = dictionary.markerSize
    bits = {m.id: dictionary.generateImageMarker(m.id, n + 2)[1:-1, 1:-1] > 0 for m in mug.markers}
    for a, print_ in bits.items():
        for b, other in bits.items():
            assert min((np.rot90(print_[:, ::-1], k) != other).sum() for k in range(4)) >= 2, (a, b)
