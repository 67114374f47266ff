"""Fuses an object's poses over time: a constant-pose Kalman filter on SE(3) with gating, re-initialisation and staleness.

An object stands still, or is moved. While it stands, poses are averaged and what does not fit (Mahalanobis distance) is dropped.
Several poses in a row that do not fit but fit each other mean that it was moved: the filter starts again from the last of them
and follows closely until the poses settle.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

from tandem.core.config import setting
from tandem.core.errors import InputError
from tandem.core.types import ObjectPose

Array = NDArray[np.float64]


class Update(Enum):
    """What became of a measurement."""

    STARTED = "first pose"
    FUSED = "fused"
    OUTLIER = "does not fit the track; ignored"
    RESTARTED = "several consistent poses elsewhere; track restarted there"
    OLD = "not newer than the last one; ignored"


@dataclass(frozen=True)
class TrackerConfig:
    """Settings of :class:`PoseTracker`."""

    max_age: float = setting(0.5, "age from which the last seen pose counts as stale", unit="s", lo=0.01, hi=60.0)
    gate: float = setting(0.999, "probability mass of the acceptance region of a pose", lo=0.5, hi=0.999999)
    restart_after: int = setting(3, "consistent outliers in a row that restart the track", lo=2, hi=100)
    settle_after: int = setting(5, "fused poses after a restart until the object counts as standing", lo=1, hi=1000)
    position_floor: float = setting(0.7, "systematic error added to each measured position", unit="mm", lo=0.0, hi=50.0)
    rotation_floor: float = setting(0.2, "systematic error added to each measured rotation", unit="deg", lo=0.0, hi=20.0)
    still_position: float = setting(1.0, "drift of a standing object", unit="mm/sqrt(s)", lo=0.0, hi=1000.0)
    still_rotation: float = setting(0.3, "drift of a standing object", unit="deg/sqrt(s)", lo=0.0, hi=360.0)
    moving_position: float = setting(60.0, "drift of a moved object", unit="mm/sqrt(s)", lo=0.0, hi=5000.0)
    moving_rotation: float = setting(40.0, "drift of a moved object", unit="deg/sqrt(s)", lo=0.0, hi=3600.0)


def pose_difference(a: Array, b: Array) -> Array:
    """(6,) from pose ``b`` to ``a`` (4, 4): translation [m] and rotation vector [rad], both in base axes."""
    turn = Rotation.from_matrix(a[:3, :3] @ b[:3, :3].T).as_rotvec()
    return np.concatenate([a[:3, 3] - b[:3, 3], turn])


def _moved(pose: Array, step: Array) -> Array:
    out = pose.copy()
    out[:3, 3] += step[:3]
    out[:3, :3] = Rotation.from_rotvec(step[3:]).as_matrix() @ pose[:3, :3]
    return out


def _diagonal(position_mm: float, rotation_deg: float) -> Array:
    return np.diag(np.repeat([(position_mm * 1e-3) ** 2, np.deg2rad(rotation_deg) ** 2], 3))


class PoseTracker:
    """The track of one object. Not thread-safe: the caller feeds and reads it from one thread, or locks."""

    def __init__(self, config: TrackerConfig | None = None) -> None:
        self.config = config or TrackerConfig()
        self._gate = float(chi2.ppf(self.config.gate, 6))
        self._track: ObjectPose | None = None
        self._outliers: list[ObjectPose] = []
        self._unsettled = 0
        self._newest = -np.inf

    def reset(self) -> None:
        """Forget everything."""
        self._track = None
        self._outliers = []
        self._unsettled = 0
        self._newest = -np.inf

    @property
    def moving(self) -> bool:
        """Whether the object was moved and has not settled since."""
        return self._unsettled > 0

    def _drift(self, seconds: float, moving: bool) -> Array:
        c = self.config
        position, rotation = (c.moving_position, c.moving_rotation) if moving else (c.still_position, c.still_rotation)
        return _diagonal(position, rotation) * max(seconds, 0.0)

    def _distance(self, measured: ObjectPose, track: ObjectPose, moving: bool) -> float:
        """Squared Mahalanobis distance between a measurement and a track predicted to its time."""
        spread = track.covariance + self._drift(measured.stamp - track.stamp, moving) + self._noise(measured)
        d = pose_difference(measured.pose, track.pose)
        return float(d @ np.linalg.solve(spread, d))

    def _noise(self, measured: ObjectPose) -> Array:
        return measured.covariance + _diagonal(self.config.position_floor, self.config.rotation_floor)

    def update(self, measured: ObjectPose) -> Update:
        """Feed one pose.

        Raises:
            InputError: wrong shapes, not finite, or a covariance that is not positive semi-definite.
        """
        if measured.pose.shape != (4, 4) or measured.covariance.shape != (6, 6):
            raise InputError(f"pose {measured.pose.shape} and covariance {measured.covariance.shape}: expected (4, 4) and (6, 6)")
        if not (np.all(np.isfinite(measured.pose)) and np.all(np.isfinite(measured.covariance)) and np.isfinite(measured.stamp)):
            raise InputError("object pose: contains NaN or infinity")
        if np.linalg.eigvalsh(measured.covariance)[0] < -1e-12:
            raise InputError("object pose: covariance is not positive semi-definite")
        if measured.stamp <= self._newest:
            return Update.OLD
        self._newest = measured.stamp
        if self._track is None:
            self._restart(measured)
            return Update.STARTED
        if self._distance(measured, self._track, self.moving) <= self._gate:
            self._fuse(measured)
            return Update.FUSED
        return self._outlier(measured)

    def _restart(self, measured: ObjectPose) -> None:
        self._track = ObjectPose(measured.pose.copy(), self._noise(measured), measured.stamp)
        self._outliers = []

    def _fuse(self, measured: ObjectPose) -> None:
        track = self._track
        assert track is not None
        predicted = track.covariance + self._drift(measured.stamp - track.stamp, self.moving)
        noise = self._noise(measured)
        gain = np.linalg.solve(predicted + noise, predicted).T
        pose = _moved(track.pose, gain @ pose_difference(measured.pose, track.pose))
        keep = np.eye(6) - gain
        covariance = keep @ predicted @ keep.T + gain @ noise @ gain.T
        # systematic errors do not average out
        floor = _diagonal(self.config.position_floor, self.config.rotation_floor)
        covariance = 0.5 * (covariance + covariance.T)
        covariance[np.diag_indices(6)] = np.maximum(np.diag(covariance), np.diag(floor))
        self._outliers = []
        if self.moving:
            still = self._distance(measured, track, moving=False) <= self._gate
            self._unsettled = self._unsettled - 1 if still else self.config.settle_after
        self._track = ObjectPose(pose, covariance, measured.stamp)

    def _outlier(self, measured: ObjectPose) -> Update:
        if self._outliers:
            last = self._outliers[-1]
            former = ObjectPose(last.pose, self._noise(last), last.stamp)
            if self._distance(measured, former, moving=True) > self._gate:
                self._outliers = []
        self._outliers.append(measured)
        if len(self._outliers) < self.config.restart_after:
            return Update.OUTLIER
        self._restart(measured)
        self._unsettled = self.config.settle_after
        return Update.RESTARTED

    def latest(self, now: float) -> ObjectPose | None:
        """The track with its covariance grown to ``now`` [s] and the stamp of its last image; ``None`` when stale or empty."""
        track = self._track
        if track is None or now - track.stamp > self.config.max_age:
            return None
        return ObjectPose(track.pose.copy(), track.covariance + self._drift(now - track.stamp, self.moving), track.stamp)
