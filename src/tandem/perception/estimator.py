"""An object's pose from the markers on it: consensus over both solutions of every marker, then one joint robust refinement.

1. IPPE (Collins & Bartoli, IJCV 2014) gives two poses per square marker. Each is a hypothesis for the object.
2. Every hypothesis is scored against all markers; the one most markers agree with wins (RANSAC, exhaustive because it is small).
3. The corners of all agreeing markers are refined jointly (Levenberg-Marquardt with Huber weights, in the base frame), which
   gives the covariance from the corner noise.
4. The best *different* solution is refined too. If the image does not tell the two apart by a likelihood ratio, nothing is
   reported: the flip ambiguity of a planar marker is resolved or refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from tandem.core import se3
from tandem.core.config import setting
from tandem.core.errors import InputError
from tandem.core.objects import Marker, MarkerObject
from tandem.core.types import ObjectPose
from tandem.perception.detector import Detection, DetectorConfig, Image, MarkerDetector, Rejected

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
_MAX_CANDIDATES = 4
#: 10 to 90 % width of a sharp edge in an image [px]
_SHARP_WIDTH = 1.4


class EstimateReason(Enum):
    """Why there is, or is not, a pose."""

    OK = "pose found"
    NO_MARKER = "no marker of the object in the image"
    POOR_MARKERS = "markers seen, but all rejected for their quality"
    DISAGREEMENT = "markers contradict each other"
    AMBIGUOUS = "two poses explain the image about equally well"
    BAD_FIT = "corners do not fit the object"
    UNCERTAIN = "pose too uncertain"
    IMPLAUSIBLE = "pose outside the accepted space"


@dataclass(frozen=True)
class EstimatorConfig:
    """Settings of :class:`MarkerPoseEstimator`."""

    detector: DetectorConfig = field(default_factory=DetectorConfig)
    corner_noise: float = setting(0.12, "standard deviation of a refined corner coordinate", unit="px", lo=0.01, hi=5.0)
    edge_bias: float = setting(0.08, "systematic shift of all edges outwards or inwards when sharp", unit="px", lo=0.0, hi=5.0)
    single_min_match: float = setting(0.93, "least correlation with the print of a marker used alone", lo=0.0, hi=1.0)
    single_max_rms: float = setting(0.25, "rms corner error of a marker used alone", unit="px", lo=0.01, hi=10.0)
    inlier_error: float = setting(2.0, "rms corner error up to which a marker agrees", unit="px", lo=0.1, hi=20.0)
    max_rms: float = setting(0.7, "rms corner error after refinement", unit="px", lo=0.05, hi=10.0)
    max_outlier_share: float = setting(0.34, "share of markers that may contradict the pose", lo=0.0, hi=0.5)
    min_likelihood_gap: float = setting(25.0, "chi-square by which the best pose must beat others", lo=0.0, hi=1e4)
    min_error_ratio: float = setting(1.5, "rms of the best different pose over rms of the best", lo=1.0, hi=100.0)
    distinct_angle: float = setting(4.0, "rotation from which two poses count as different", unit="deg", lo=0.5, hi=45.0)
    max_position_std: float = setting(5.0, "largest standard deviation of position", unit="mm", lo=0.1, hi=100.0)
    max_rotation_std: float = setting(1.6, "largest standard deviation of rotation", unit="deg", lo=0.1, hi=45.0)
    max_distance: float = setting(3.0, "distance from the camera", unit="m", lo=0.05, hi=100.0)
    max_tilt: float | None = setting(None, "gate: largest tilt of the object's z axis; null: off", unit="deg", lo=0.0, hi=180.0)
    table_tolerance: float | None = setting(None, "gate: largest |z| of the origin; null: off", unit="m", lo=0.0, hi=1.0)


@dataclass(frozen=True)
class Estimate:
    """The outcome for one image.

    Attributes:
        pose: in the base frame, or ``None``. reason: why.
        markers: ids whose corners were used. rms: their reprojection error [px], NaN without pose.
        detections: all usable markers of the image. rejected: decoded markers that were not usable, by reason.
    """

    pose: ObjectPose | None
    reason: EstimateReason
    markers: tuple[int, ...] = ()
    rms: float = float("nan")
    detections: tuple[Detection, ...] = ()
    rejected: dict[Rejected, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _View:
    """One image's measurements: undistorted corners and what they are corners of, one row a marker."""

    markers: tuple[Marker, ...]
    pixels: Array  # (M, 4, 2) as an ideal camera would see them
    points: Array  # (M, 4, 3) object frame [m]
    normals: Array  # (M, 3) object frame
    camera: Array  # (3, 3)


@dataclass(frozen=True)
class _Fit:
    """A refined pose (4, 4) of the object in the camera frame; corner errors (N, 2) [px]; information (6, 6) at 1 px noise."""

    pose: Array
    errors: Array
    information: Array
    jacobian: Array  # (N, 2, 6)
    weight: Array  # (N,)

    def shift(self, pixels: Array) -> Array:
        """(6,) by which the pose moves when the corners move by ``pixels`` (N, 2)."""
        gradient = np.einsum("nai,n,na->i", self.jacobian, self.weight, pixels)
        return np.asarray(np.linalg.solve(self.information, gradient))

    @property
    def rms(self) -> float:
        """Root mean square over corner coordinates [px]."""
        return float(np.sqrt(np.mean(self.errors**2)))


def square_corners(size: float) -> Array:
    """(4, 3) corners of a marker in its own frame (x right, y up, z out) [m], in the order of the detector."""
    h = 0.5 * size
    return np.array([[-h, h, 0.0], [h, h, 0.0], [h, -h, 0.0], [-h, -h, 0.0]])


def _exp(w: Array) -> Array:
    """(3, 3) rotation by the vector ``w`` (3,) [rad]."""
    return np.asarray(cv2.Rodrigues(np.asarray(w, dtype=np.float64).reshape(3, 1))[0], dtype=np.float64)


def _project(pose: Array, points: Array, camera: Array) -> tuple[Array, Array]:
    """Pixels (..., 2) and camera-frame points (..., 3) of object points (..., 3)."""
    p = points @ pose[:3, :3].T + pose[:3, 3]
    z = np.where(p[..., 2] > 1e-6, p[..., 2], 1e-6)
    x = p[..., :2] / z[..., None]
    skew = camera[0, 1] * x[..., 1]
    return np.stack([camera[0, 0] * x[..., 0] + skew + camera[0, 2], camera[1, 1] * x[..., 1] + camera[1, 2]], -1), p


def _marker_errors(pose: Array, view: _View) -> Array:
    """(M,) rms corner error [px] of each marker under ``pose``; infinite where its face is turned away or behind the camera."""
    pixels, p = _project(pose, view.points, view.camera)
    rms = np.sqrt(np.mean((pixels - view.pixels) ** 2, axis=(1, 2)))
    facing = np.einsum("mi,mi->m", view.normals @ pose[:3, :3].T, p.mean(axis=1)) < 0.0
    return np.where(facing & (p[..., 2].min(axis=1) > 1e-3), rms, np.inf)


def _jacobian(p: Array, rotated: Array, camera: Array) -> Array:
    """(N, 2, 6) derivative of pixels by (translation, rotation about the camera's axes) of the object."""
    x, y, inverse = p[:, 0], p[:, 1], 1.0 / p[:, 2]
    out = np.zeros((len(p), 2, 6))
    out[:, 0, 0] = camera[0, 0] * inverse
    out[:, 0, 1] = camera[0, 1] * inverse
    out[:, 0, 2] = -(camera[0, 0] * x + camera[0, 1] * y) * inverse**2
    out[:, 1, 1] = camera[1, 1] * inverse
    out[:, 1, 2] = -camera[1, 1] * y * inverse**2
    rx, ry, rz = rotated[:, None, 0], rotated[:, None, 1], rotated[:, None, 2]
    gx, gy, gz = out[:, :, 0], out[:, :, 1], out[:, :, 2]
    out[:, :, 3] = ry * gz - rz * gy
    out[:, :, 4] = rz * gx - rx * gz
    out[:, :, 5] = rx * gy - ry * gx
    return out


def _refine(start: Array, points: Array, pixels: Array, camera: Array, noise: float) -> _Fit:
    """Levenberg-Marquardt on Huber-weighted corner errors.

    Args:
        start: (4, 4) object in the camera frame. points: (N, 3) object frame [m]. pixels: (N, 2). noise: [px] for Huber's bend.
    """
    bend = 2.5 * noise

    def cost_of(e: Array) -> float:
        n = np.sqrt((e**2).sum(axis=1))
        return float(np.where(n <= bend, 0.5 * n * n, bend * (n - 0.5 * bend)).sum())

    pose, damping = start.copy(), 1e-5
    projected, p = _project(pose, points, camera)
    errors = pixels - projected
    cost = cost_of(errors)
    jacobian, weight, information = _jacobian(p, points @ pose[:3, :3].T, camera), np.ones(len(points)), np.eye(6)
    for _ in range(12):
        jacobian = _jacobian(p, points @ pose[:3, :3].T, camera)
        weight = np.minimum(1.0, bend / np.maximum(np.sqrt((errors**2).sum(axis=1)), 1e-12))
        weighted = (jacobian * weight[:, None, None]).reshape(-1, 6)
        information = weighted.T @ jacobian.reshape(-1, 6)
        gradient = weighted.T @ errors.ravel()
        step = np.linalg.solve(information + damping * np.diag(np.diag(information) + 1e-9), gradient)
        trial = pose.copy()
        trial[:3, 3] += step[:3]
        trial[:3, :3] = _exp(step[3:]) @ pose[:3, :3]
        projected, p_trial = _project(trial, points, camera)
        trial_errors = pixels - projected
        trial_cost = cost_of(trial_errors)
        gain = cost - trial_cost
        if gain >= 0.0:
            pose, p, errors, cost, damping = trial, p_trial, trial_errors, trial_cost, max(damping * 0.2, 1e-9)
        else:
            damping *= 10.0
        if float(np.abs(step).max()) < 3e-6 or 0.0 <= gain < 3e-3 * cost or damping > 1e4:
            break
    return _Fit(pose, errors, information, jacobian, weight)


def _rotate_covariance(covariance: Array, rotation: Array) -> Array:
    """(6, 6) covariance with both blocks turned from one frame's axes to another's by ``rotation`` (3, 3)."""
    block = np.zeros((6, 6))
    block[:3, :3] = block[3:, 3:] = rotation
    turned = block @ covariance @ block.T
    return np.asarray(0.5 * (turned + turned.T))


def _check_inputs(camera_matrix: Array, distortion: Array, base_from_camera: Array) -> None:
    finite = camera_matrix.shape == (3, 3) and np.all(np.isfinite(camera_matrix))
    if not finite or min(camera_matrix[0, 0], camera_matrix[1, 1]) <= 0.0:
        raise InputError(f"camera_matrix: {camera_matrix.tolist()}; expected finite (3, 3) with positive focal lengths [px]")
    if distortion.ndim != 1 or len(distortion) not in (0, 4, 5, 8, 12, 14) or not np.all(np.isfinite(distortion)):
        raise InputError(f"distortion: shape {distortion.shape}; expected 0, 4, 5, 8, 12 or 14 finite coefficients")
    if base_from_camera.shape != (4, 4) or not np.all(np.isfinite(base_from_camera)):
        raise InputError(f"base_from_camera: shape {base_from_camera.shape}; expected a finite (4, 4) pose")
    r = base_from_camera[:3, :3]
    if np.abs(r @ r.T - np.eye(3)).max() > 1e-4 or np.linalg.det(r) < 0.0:
        raise InputError("base_from_camera: the rotation is not orthonormal and right-handed")


class MarkerPoseEstimator:
    """Estimates the pose of one object that carries ArUco markers."""

    def __init__(self, target: MarkerObject, config: EstimatorConfig | None = None) -> None:
        """``target``: the object with its markers; its ids must be unique.

        Raises:
            ConfigError: unknown dictionary or ids beyond it.
            InputError: no marker, or an id twice.
        """
        self.target = target
        self.config = config or EstimatorConfig()
        self._markers = {m.id: m for m in target.markers}
        if not self._markers or len(self._markers) != len(target.markers):
            ids = [m.id for m in target.markers]
            raise InputError(f"object {target.name!r}: needs at least one marker and unique ids, got {ids}")
        self.detector = MarkerDetector(target.dictionary, frozenset(self._markers), self.config.detector)

    def estimate(self, image: Image, camera_matrix: Array, distortion: Array, base_from_camera: Array, stamp: float) -> Estimate:
        """The object's pose in one image.

        Args:
            image: (H, W, 3) RGB or (H, W) grey, uint8.
            camera_matrix: (3, 3) [px]. distortion: OpenCV's k1 k2 p1 p2 k3 (zeros: none).
            base_from_camera: (4, 4) optical frame (z forward, x right, y down) in the base frame.
            stamp: time at which the image was taken [s].

        Raises:
            InputError: an argument has the wrong shape or type, or is not finite.
        """
        camera_matrix, distortion = np.asarray(camera_matrix, dtype=np.float64), np.asarray(distortion, dtype=np.float64)
        base_from_camera = np.asarray(base_from_camera, dtype=np.float64)
        _check_inputs(camera_matrix, distortion, base_from_camera)
        found = self.detector.detect(image)
        if not found.markers:
            poor = any(k is not Rejected.UNKNOWN_ID for k in found.rejected)
            return Estimate(None, EstimateReason.POOR_MARKERS if poor else EstimateReason.NO_MARKER, rejected=found.rejected)
        view = self._view(found.markers, camera_matrix, distortion)
        pose, reason, used, rms = self._solve(found.markers, view, base_from_camera)
        result = None if pose is None else ObjectPose(pose[0], pose[1], stamp)
        return Estimate(result, reason, used, rms, found.markers, found.rejected)

    def _view(self, detections: Sequence[Detection], camera: Array, distortion: Array) -> _View:
        markers = tuple(self._markers[d.id] for d in detections)
        raw = np.stack([d.corners for d in detections])
        pixels = raw
        if np.any(distortion):
            ideal = cv2.undistortPoints(raw.reshape(-1, 1, 2), camera, distortion, P=camera)
            pixels = np.asarray(ideal, dtype=np.float64).reshape(-1, 4, 2)
        points = np.stack([m.corners() for m in markers])
        return _View(markers, pixels, points, np.stack([m.pose[:3, 2] for m in markers]), camera)

    def _hypotheses(self, view: _View) -> list[Array]:
        """Object poses in the camera frame: both IPPE solutions of every marker."""
        out: list[Array] = []
        for marker, pixels in zip(view.markers, view.pixels, strict=True):
            count, rotations, translations, _ = cv2.solvePnPGeneric(
                square_corners(marker.size), pixels.reshape(4, 1, 2), view.camera, None, flags=cv2.SOLVEPNP_IPPE_SQUARE
            )
            for i in range(count):
                t = se3.pose(np.asarray(translations[i], dtype=np.float64).ravel(), _exp(np.asarray(rotations[i])))
                if np.all(np.isfinite(t)):
                    out.append(t @ se3.inverse(marker.pose))
        return out

    def _candidates(self, view: _View) -> list[tuple[_Fit, Mask]]:
        """Refined hypotheses with their inlier masks (M,), best first: more markers, then less error."""
        config = self.config
        scored = []
        for pose in self._hypotheses(view):
            errors = _marker_errors(pose, view)
            inliers = errors < 2.0 * config.inlier_error
            if inliers.any():
                scored.append((-int(inliers.sum()), float(np.minimum(errors, 2.0 * config.inlier_error).sum()), pose, inliers))
        scored.sort(key=lambda s: s[:2])
        out: list[tuple[_Fit, Mask]] = []
        for _, _, pose, inliers in scored:
            if len(out) == _MAX_CANDIDATES:
                break
            if any(self._same(pose, other.pose) for other, _ in out):
                continue
            fit, mask = self._settle(pose, inliers, view)
            if mask.any() and not any(self._same(fit.pose, other.pose) for other, _ in out):
                out.append((fit, mask))
        out.sort(key=lambda c: (-int(c[1].sum()), c[0].rms))
        return out

    def _settle(self, pose: Array, inliers: Mask, view: _View) -> tuple[_Fit, Mask]:
        """Refine and re-select the agreeing markers until both are stable; the mask is empty when none agrees any more."""
        mask = inliers
        for _ in range(4):
            points, pixels = view.points[mask].reshape(-1, 3), view.pixels[mask].reshape(-1, 2)
            fit = _refine(pose, points, pixels, view.camera, self.config.corner_noise)
            again = _marker_errors(fit.pose, view) < self.config.inlier_error
            if not again.any() or np.array_equal(again, mask):
                return fit, again
            used, mask, pose = mask, again, fit.pose
        return fit, used

    def _same(self, a: Array, b: Array) -> bool:
        """Whether two poses are closer than ``distinct_angle`` and a centimetre."""
        angle = float(se3.rotation_angle(a[:3, :3].T @ b[:3, :3]))
        return angle < np.deg2rad(self.config.distinct_angle) and float(np.linalg.norm(a[:3, 3] - b[:3, 3])) < 0.01

    def _ambiguous(self, best: _Fit, mask: Mask, others: Sequence[tuple[_Fit, Mask]], view: _View) -> bool:
        """Whether a different pose explains the corners that ``best`` uses about as well, by chi-square gap and rms ratio."""
        config = self.config
        points, pixels = view.points[mask].reshape(-1, 3), view.pixels[mask].reshape(-1, 2)
        noise = max(config.corner_noise, best.rms)
        for other, _ in others:
            rival = _refine(other.pose, points, pixels, view.camera, config.corner_noise)
            if self._same(rival.pose, best.pose) or not np.all(np.isfinite(_marker_errors(rival.pose, view)[mask])):
                continue
            gap = float((rival.errors**2).sum() - (best.errors**2).sum()) / noise**2
            if gap < config.min_likelihood_gap or rival.rms < config.min_error_ratio * best.rms:
                return True
        return False

    def _solve(
        self, detections: Sequence[Detection], view: _View, base_from_camera: Array
    ) -> tuple[tuple[Array, Array] | None, EstimateReason, tuple[int, ...], float]:
        """Pose and covariance in the base frame or ``None``, reason, ids used, rms [px]."""
        config = self.config
        candidates = self._candidates(view)
        if not candidates:
            return None, EstimateReason.BAD_FIT, (), float("nan")
        fit, mask = candidates[0]
        used = tuple(m.id for m, inlier in zip(view.markers, mask, strict=True) if inlier)
        count, total = int(mask.sum()), len(mask)
        rival_count = max((int(m.sum()) for _, m in candidates[1:]), default=0)
        if total - count > config.max_outlier_share * total or (total > count and rival_count >= count):
            return None, EstimateReason.DISAGREEMENT, used, fit.rms
        alone = next(d.match for d, inlier in zip(detections, mask, strict=True) if inlier) if count == 1 else 1.0
        if fit.rms > (config.single_max_rms if count == 1 else config.max_rms) or alone < config.single_min_match:
            return None, EstimateReason.BAD_FIT, used, fit.rms
        if self._ambiguous(fit, mask, candidates[1:], view):
            return None, EstimateReason.AMBIGUOUS, used, fit.rms
        widths = np.array([d.edge_width for d, inlier in zip(detections, mask, strict=True) if inlier])
        covariance = self._covariance(fit, view.pixels[mask], widths)
        if covariance is None:
            return None, EstimateReason.UNCERTAIN, used, fit.rms
        covariance = _rotate_covariance(covariance, base_from_camera[:3, :3])
        position_std = np.sqrt(max(np.linalg.eigvalsh(covariance[:3, :3])[-1], 0.0)) * 1e3
        rotation_std = np.rad2deg(np.sqrt(max(np.linalg.eigvalsh(covariance[3:, 3:])[-1], 0.0)))
        if not (position_std <= config.max_position_std and rotation_std <= config.max_rotation_std):
            return None, EstimateReason.UNCERTAIN, used, fit.rms
        pose = base_from_camera @ fit.pose
        if not self._plausible(pose, fit.pose):
            return None, EstimateReason.IMPLAUSIBLE, used, fit.rms
        return (pose, covariance), EstimateReason.OK, used, fit.rms

    def _covariance(self, fit: _Fit, pixels: Array, widths: Array) -> Array | None:
        """(6, 6) in the camera's axes: independent corner noise, and the shift if all markers look larger than they are.

        ``pixels`` (M, 4, 2): the corners used. ``widths`` (M,): transition widths [px]; the bias grows with blur.
        """
        dof = max(2 * len(fit.errors) - 6, 1)
        noise = max(self.config.corner_noise, float(np.sqrt((fit.errors**2).sum() / dof)))
        outwards = pixels - pixels.mean(axis=1, keepdims=True)
        outwards *= np.sqrt(2.0) / np.linalg.norm(outwards, axis=2, keepdims=True)
        try:
            bias = self.config.edge_bias * np.maximum(1.0, widths / _SHARP_WIDTH) ** 2
            shift = fit.shift((bias[:, None, None] * outwards).reshape(-1, 2))
            covariance = noise**2 * np.linalg.inv(fit.information) + np.outer(shift, shift)
        except np.linalg.LinAlgError:
            return None
        return np.asarray(covariance) if np.all(np.isfinite(covariance)) else None

    def _plausible(self, pose: Array, in_camera: Array) -> bool:
        """Distance from the camera and, where configured, standing upright on the table."""
        config = self.config
        if not 0.0 < in_camera[2, 3] <= config.max_distance:
            return False
        if config.max_tilt is not None and np.rad2deg(np.arccos(np.clip(pose[2, 2], -1.0, 1.0))) > config.max_tilt:
            return False
        return config.table_tolerance is None or abs(float(pose[2, 3])) <= config.table_tolerance
