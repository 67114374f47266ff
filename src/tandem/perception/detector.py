"""ArUco markers in an image, with corners refined along the marker's edges and a quality gate per marker.

OpenCV finds and decodes the markers. Its corner refinement looks at a small window round each corner; on markers 20 to 40 px
wide that window holds few pixels, so each of the four border edges is then fitted as a line to many sub-pixel edge positions
and the corners are the lines' intersections. What does not look like the printed marker is rejected with a reason: a partly
hidden or blurred marker would give a wrong corner, and a wrong corner a wrong pose.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from tandem.core.config import setting
from tandem.core.errors import ConfigError, InputError

Array = NDArray[np.float64]
Image = NDArray[np.uint8]

_PIXELS_PER_MODULE = 4
_EDGE_SAMPLES = 24
_EDGE_TAPS = 15


class Rejected(Enum):
    """Why a marker that OpenCV decoded is not used."""

    UNKNOWN_ID = "id does not belong to the object"
    DUPLICATE_ID = "the same id appears twice in the image"
    TOO_SMALL = "marker too small in the image"
    TOO_OBLIQUE = "marker seen at too flat an angle"
    LOW_CONTRAST = "too little contrast"
    OVEREXPOSED = "white is saturated and spreads over the edges"
    UNEVEN = "white or black differs between the four edges: partly hidden"
    BLURRED = "edges too soft"
    BAD_EDGES = "an edge is not straight: partly hidden or noisy"
    BAD_PATTERN = "pixels do not match the printed pattern"


@dataclass(frozen=True)
class DetectorConfig:
    """Settings of :class:`MarkerDetector`."""

    min_side: float = setting(11.0, "shortest side a marker must have in the image", unit="px", lo=6.0, hi=500.0)
    min_aspect: float = setting(0.38, "height of the marker's parallelogram over its longest side", lo=0.05, hi=1.0)
    min_contrast: float = setting(50.0, "grey levels between the border's black and the margin's white", lo=5.0, hi=255.0)
    max_white: float = setting(250.0, "brightest grey level of the white margin", lo=50.0, hi=255.0)
    max_unevenness: float = setting(0.35, "difference of white, or black, between edges over contrast", lo=0.0, hi=10.0)
    min_pattern_match: float = setting(0.90, "correlation of the rectified marker with the print", lo=0.0, hi=1.0)
    max_edge_rms: float = setting(0.30, "scatter of edge points about the fitted edge", unit="px", lo=0.05, hi=3.0)
    max_edge_width: float = setting(2.0, "width of the black-white transition (10 to 90 %)", unit="px", lo=0.5, hi=20.0)
    max_edge_share: float = setting(0.62, "width of the transition over a module's width", lo=0.05, hi=2.0)
    error_correction: float = setting(0.0, "share of the dictionary's error-correction capacity in use", lo=0.0, hi=1.0)


@dataclass(frozen=True)
class Detection:
    """One marker in the image.

    Attributes:
        id: dictionary index.
        corners: (4, 2) [px], centre of the first pixel = (0, 0); top left, top right, bottom right, bottom left as printed.
        side: shortest side [px]. contrast: [grey levels]. match: correlation with the print. edge_rms: [px]. edge_width: [px].
    """

    id: int
    corners: Array
    side: float
    contrast: float
    match: float
    edge_rms: float
    edge_width: float


@dataclass(frozen=True)
class Detections:
    """What an image shows: usable markers, and how many were rejected for which reason."""

    markers: tuple[Detection, ...]
    rejected: dict[Rejected, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _EdgeFit:
    corners: Array
    rms: float
    contrast: float
    width: float
    white: float
    unevenness: float


def _tap_positions(corners: Array, half: float, offset: Array) -> tuple[Array, Array, Array]:
    """Start points (4, S, 2) of the profiles, unit outward normals (4, 2) and offsets along them (T,)."""
    following = np.roll(corners, -1, axis=0)
    along = following - corners
    length = np.linalg.norm(along, axis=1, keepdims=True)
    normal = np.stack([along[:, 1], -along[:, 0]], axis=1) / length
    share = np.linspace(0.12, 0.88, _EDGE_SAMPLES)[None, :, None]
    points = corners[:, None] + share * along[:, None] + offset[..., None] * normal[:, None]
    return points, normal, np.linspace(-half, half, _EDGE_TAPS)


def _fit_lines(points: Array) -> tuple[Array, Array, float]:
    """Lines through four sets of points (4, S, 2): unit normals (4, 2), offsets (4,), and the worst rms scatter [px].

    Far points are left out of the second pass.
    """
    keep = np.ones(points.shape[:2])
    normal, offset, distance = np.zeros((4, 2)), np.zeros(4), np.zeros(points.shape[:2])
    for _ in range(2):
        share = keep / keep.sum(axis=1, keepdims=True)
        centre = np.einsum("es,esi->ei", share, points)
        d = points - centre[:, None]
        xx, yy, xy = np.einsum("kes,es->ke", np.stack([d[..., 0] ** 2, d[..., 1] ** 2, d[..., 0] * d[..., 1]]), share)
        angle = 0.5 * np.arctan2(2.0 * xy, xx - yy)
        normal = np.stack([-np.sin(angle), np.cos(angle)], axis=1)
        offset = np.einsum("ei,ei->e", normal, centre)
        distance = np.abs(np.einsum("esi,ei->es", points, normal) - offset[:, None])
        keep = (distance <= np.maximum(2.5 * np.median(distance, axis=1), 0.15)[:, None]).astype(np.float64)
    return normal, offset, float(np.sqrt(np.mean(distance**2, axis=1)).max())


def _normalised(profile: Array) -> tuple[Array, Array, Array]:
    """Profiles (4, S, T) of grey levels, inside to outside, as share of white; black and white level of each edge (4,).

    Black and white level come from the darkest inner and the brightest outer tap of the edge's mean profile. What lies beyond
    those taps (modules inside the border, the object behind the white margin) does not belong to the edge: it counts as 0 and 1.
    """
    mean = profile.mean(axis=1)
    middle, tap = _EDGE_TAPS // 2, np.arange(_EDGE_TAPS)
    dark = mean[:, :middle].argmin(axis=1)
    bright = middle + 1 + mean[:, middle + 1 :].argmax(axis=1)
    rows = np.arange(4)
    black, white = mean[rows, dark], mean[rows, bright]
    share = (profile - black[:, None, None]) / np.maximum(white - black, 1e-6)[:, None, None]
    share = np.where(tap < dark[:, None, None], 0.0, np.where(tap > bright[:, None, None], 1.0, share))
    return share, black, white


def _refine_edges(grey: Image, corners: Array, module: float) -> _EdgeFit | None:
    """Corners (4, 2) as intersections of the border's fitted edges; ``None`` when the edges are degenerate or leave the image.

    Along each edge, profiles run from the black border out to the white margin. The edge lies where the area under the
    profile, as share of white, puts it: ``half - integral share``, unbiased for pixels that integrate over their area.
    """
    height, width = grey.shape
    half = float(np.clip(0.5 * module, 1.5, 4.0))
    offset = np.zeros((4, _EDGE_SAMPLES))
    contrast = transition = brightest = unevenness = 0.0
    for _ in range(3):
        points, normal, taps = _tap_positions(corners, half, offset)
        where = points[:, :, None] + taps[None, None, :, None] * normal[:, None, None]
        if where.min() < 0.0 or where[..., 0].max() > width - 1 or where[..., 1].max() > height - 1:
            return None
        flat = where.reshape(4 * _EDGE_SAMPLES, _EDGE_TAPS, 2).astype(np.float32)
        profile = cv2.remap(grey, flat[..., 0], flat[..., 1], cv2.INTER_LINEAR).astype(np.float64)
        share, black, white = _normalised(profile.reshape(4, _EDGE_SAMPLES, _EDGE_TAPS))
        contrast, brightest = float((white - black).min()), float(white.max())
        if contrast <= 2.0:
            return _EdgeFit(corners, np.inf, contrast, np.inf, brightest, np.inf)
        unevenness = float(max(np.ptp(white), np.ptp(black)) / contrast)
        step = float(taps[1] - taps[0])
        offset = np.clip(offset + half - step * (share.sum(axis=2) - 0.5 * (share[:, :, 0] + share[:, :, -1])), -half, half)
        transition = float(0.8 * step / max(float(np.diff(share.mean(axis=1), axis=1).max(axis=1).min()), 1e-6))
    points, _, _ = _tap_positions(corners, half, offset)
    normal, distance, rms = _fit_lines(points)
    system = np.stack([np.roll(normal, 1, axis=0), normal], axis=1)
    if np.abs(np.linalg.det(system)).min() < 0.05:
        return None
    refined = np.linalg.solve(system, np.stack([np.roll(distance, 1), distance], axis=1)[:, :, None])[:, :, 0]
    return _EdgeFit(refined, rms, contrast, transition, brightest, unevenness)


def _shape(corners: Array) -> tuple[float, float]:
    """Shortest side [px] and flatness (area over longest side squared) of a quadrilateral (4, 2)."""
    sides = np.linalg.norm(np.roll(corners, -1, axis=0) - corners, axis=1)
    d0, d1 = corners[2] - corners[0], corners[3] - corners[1]
    area = 0.5 * abs(d0[0] * d1[1] - d0[1] * d1[0])
    return float(sides.min()), float(area / sides.max() ** 2)


class MarkerDetector:
    """Finds the markers of one dictionary; ``ids`` restricts it to the ids of an object."""

    def __init__(self, dictionary: str, ids: frozenset[int] | None = None, config: DetectorConfig | None = None) -> None:
        """``dictionary``: OpenCV's name, e.g. ``DICT_4X4_50``.

        Raises:
            ConfigError: no such dictionary, or an id beyond its size.
        """
        if not dictionary.startswith("DICT_") or not hasattr(cv2.aruco, dictionary):
            known = sorted(n for n in dir(cv2.aruco) if n.startswith("DICT_") and n.upper() == n)
            raise ConfigError(f"marker dictionary {dictionary!r}: accepted: one of {', '.join(known)}")
        self.config = config or DetectorConfig()
        self._dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, dictionary))
        size = len(self._dictionary.bytesList)
        if ids is not None and any(not 0 <= i < size for i in ids):
            raise ConfigError(f"marker ids {sorted(ids)}: {dictionary} holds 0 .. {size - 1}")
        self._ids = ids
        self._modules = self._dictionary.markerSize + 2
        parameters = cv2.aruco.DetectorParameters()
        parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
        parameters.cornerRefinementWinSize = 3
        parameters.relativeCornerRefinmentWinSize = 0.5
        parameters.cornerRefinementMaxIterations = 30
        parameters.cornerRefinementMinAccuracy = 0.02
        parameters.adaptiveThreshWinSizeMin = 5
        parameters.adaptiveThreshWinSizeMax = 21
        parameters.adaptiveThreshWinSizeStep = 8
        parameters.minMarkerPerimeterRate = 0.04
        parameters.errorCorrectionRate = self.config.error_correction
        parameters.perspectiveRemovePixelPerCell = 6
        self._detector = cv2.aruco.ArucoDetector(self._dictionary, parameters)
        self._templates: dict[int, Array] = {}

    def _template(self, marker: int) -> Array:
        """The print, black 0 and white 1, (modules * 4) squared, normalised to zero mean and unit norm."""
        if marker not in self._templates:
            print_ = self._dictionary.generateImageMarker(marker, self._modules)
            large = np.kron(print_ > 127, np.ones((_PIXELS_PER_MODULE, _PIXELS_PER_MODULE))).astype(np.float64)
            large = cv2.GaussianBlur(large, (0, 0), 1.0).astype(np.float64)
            large -= large.mean()
            self._templates[marker] = large / np.linalg.norm(large)
        return self._templates[marker]

    def pattern_match(self, grey: Image, marker: int, corners: Array) -> float:
        """Normalised cross-correlation [-1, 1] of the image inside ``corners`` (4, 2) [px] with the print of ``marker``."""
        template = self._template(marker)
        n = template.shape[0]
        target = np.array([[0, 0], [n, 0], [n, n], [0, n]], dtype=np.float32) - 0.5
        warp = cv2.getPerspectiveTransform(corners.astype(np.float32), target)
        rectified = cv2.warpPerspective(grey, warp, (n, n), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        patch = rectified.astype(np.float64) - float(rectified.mean())
        norm = float(np.linalg.norm(patch))
        return float((patch * template).sum() / norm) if norm > 1e-6 else 0.0

    def _examine(self, grey: Image, marker: int, corners: Array) -> Detection | Rejected:
        config = self.config
        side, aspect = _shape(corners)
        if side < 0.7 * config.min_side or aspect < 0.7 * config.min_aspect:
            return Rejected.TOO_SMALL if side < 0.7 * config.min_side else Rejected.TOO_OBLIQUE
        fit = _refine_edges(grey, corners, side * min(1.0, aspect) / self._modules)
        if fit is None:
            return Rejected.BAD_EDGES
        side, aspect = _shape(fit.corners)
        refusals = (
            (fit.contrast < config.min_contrast, Rejected.LOW_CONTRAST),
            (fit.white > config.max_white, Rejected.OVEREXPOSED),
            (side < config.min_side, Rejected.TOO_SMALL),
            (aspect < config.min_aspect, Rejected.TOO_OBLIQUE),
            (fit.width > min(config.max_edge_width, config.max_edge_share * side * aspect / self._modules), Rejected.BLURRED),
            (fit.rms > config.max_edge_rms, Rejected.BAD_EDGES),
            (fit.unevenness > config.max_unevenness, Rejected.UNEVEN),
        )
        for refused, reason in refusals:
            if refused:
                return reason
        match = self.pattern_match(grey, marker, fit.corners)
        if match < config.min_pattern_match:
            return Rejected.BAD_PATTERN
        return Detection(marker, fit.corners, side, fit.contrast, match, fit.rms, fit.width)

    def detect(self, image: Image) -> Detections:
        """Markers in an RGB (H, W, 3) or grey (H, W) image of uint8.

        Raises:
            InputError: another shape or type.
        """
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)) or image.size == 0:
            raise InputError(f"image: shape {image.shape}, type {image.dtype}; expected (H, W, 3) or (H, W) of uint8")
        grey: Image = image if image.ndim == 2 else np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
        found, ids, _ = self._detector.detectMarkers(grey)
        rejected: Counter[Rejected] = Counter()
        markers: list[Detection] = []
        numbers = [] if ids is None else [int(i) for i in np.asarray(ids).ravel()]
        for marker, corners in zip(numbers, found, strict=True):
            if self._ids is not None and marker not in self._ids:
                rejected[Rejected.UNKNOWN_ID] += 1
            elif numbers.count(marker) > 1:
                rejected[Rejected.DUPLICATE_ID] += 1
            else:
                result = self._examine(grey, marker, np.asarray(corners, dtype=np.float64).reshape(4, 2))
                if isinstance(result, Detection):
                    markers.append(result)
                else:
                    rejected[result] += 1
        return Detections(tuple(markers), dict(rejected))
