"""Synthetic camera views of a prism with markers, drawn with homographies: an independent check that needs no simulator."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from tandem.core import se3
from tandem.core.objects import MarkerObject

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
SHAPE = (480, 640)
CAMERA = np.array([[600.0, 0.0, 319.5], [0.0, 600.0, 239.5], [0.0, 0.0, 1.0]])
NO_DISTORTION = np.zeros(5)


def look_at(eye: Array, target: Array) -> Array:
    """(4, 4) optical frame (z forward, y down) in the base frame of a camera at ``eye`` that looks at ``target`` [m]."""
    z = (target - eye) / np.linalg.norm(target - eye)
    x = np.cross(z, np.array([0.0, 0.0, 1.0]))
    x /= np.linalg.norm(x)
    return se3.pose(eye, np.stack([x, np.cross(z, x), z], axis=1))


BASE_FROM_CAMERA = look_at(np.array([1.20, 0.0, 0.55]), np.array([0.52, 0.0, 0.05]))


def rotation(yaw: float, tilt: float = 0.0, direction: float = 0.0) -> Array:
    """(3, 3): turned by ``yaw`` [rad], then tilted by ``tilt`` about a horizontal axis at ``direction``."""
    axis = np.array([math.cos(direction), math.sin(direction), 0.0])
    turn = np.asarray(cv2.Rodrigues(np.array([0.0, 0.0, yaw]))[0])
    return np.asarray(cv2.Rodrigues(axis * tilt)[0]) @ turn


def random_pose(rng: np.random.Generator, lifted: bool = False) -> Array:
    """(4, 4) of a mug on the table in the task's range, or lifted and tilted."""
    x, y, yaw = rng.uniform(0.45, 0.60), rng.uniform(-0.15, 0.15), rng.uniform(-math.pi, math.pi)
    if not lifted:
        return se3.pose(np.array([x, y, 0.0]), rotation(yaw))
    tilt, direction = rng.uniform(0.0, 0.7), rng.uniform(-math.pi, math.pi)
    return se3.pose(np.array([x, y, rng.uniform(0.0, 0.25)]), rotation(yaw, tilt, direction))


@dataclass
class Views:
    """Draws one object. ``scale``: oversampling per axis. ``ids``: markers drawn (all when empty)."""

    target: MarkerObject
    scale: int = 4
    ids: frozenset[int] = field(default_factory=frozenset)
    mirrored: bool = False
    swap: dict[int, int] = field(default_factory=dict)

    def render(self, pose: Array, rng: np.random.Generator, noise: float = 2.0, distortion: Array = NO_DISTORTION) -> Image:
        """(480, 640, 3) RGB image of the object at ``pose`` (4, 4), base frame, with ``noise`` [grey levels] of sensor noise."""
        height, width = (n * self.scale for n in SHAPE)
        big = np.full((height, width), float(rng.uniform(90, 160)), dtype=np.float32)
        camera_from_object = se3.inverse(BASE_FROM_CAMERA) @ pose
        dictionary = cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, self.target.dictionary))
        for marker in self.target.markers:
            if self.ids and marker.id not in self.ids:
                continue
            t = camera_from_object @ marker.pose
            if float(t[:3, 2] @ t[:3, 3]) >= 0.0:
                continue
            bits = dictionary.generateImageMarker(self.swap.get(marker.id, marker.id), (dictionary.markerSize + 2) * 40)
            if self.mirrored:
                bits = bits[:, ::-1]
            n, margin = bits.shape[0], 22
            shade = 0.75 + 0.2 * abs(float(t[:3, 2] @ t[:3, 3])) / float(np.linalg.norm(t[:3, 3]))
            paper = shade * np.where(np.pad(bits, margin, constant_values=255) > 127, 235.0, 25.0).astype(np.float32)
            half = 0.5 * marker.size * (n + 2 * margin) / n
            corners = np.array([[-half, half, 0.0], [half, half, 0.0], [half, -half, 0.0], [-half, -half, 0.0]])
            seen = corners @ t[:3, :3].T + t[:3, 3]
            pixels, _ = cv2.projectPoints(seen, np.zeros(3), np.zeros(3), CAMERA, distortion)
            target = (pixels.reshape(4, 2) + 0.5) * self.scale - 0.5
            m = paper.shape[0]
            source = np.array([[0, 0], [m, 0], [m, m], [0, m]], dtype=np.float32) - 0.5
            low = np.maximum(np.floor(target.min(axis=0)).astype(int) - 1, 0)
            high = np.minimum(np.ceil(target.max(axis=0)).astype(int) + 2, [width, height])
            if np.any(high <= low):
                continue
            warp = cv2.getPerspectiveTransform(source, (target - low).astype(np.float32))
            part = np.ascontiguousarray(big[low[1] : high[1], low[0] : high[0]])
            size = (int(high[0] - low[0]), int(high[1] - low[1]))
            cv2.warpPerspective(paper, warp, size, dst=part, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_TRANSPARENT)
            big[low[1] : high[1], low[0] : high[0]] = part
        small = cv2.resize(big, (SHAPE[1], SHAPE[0]), interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), 0.5) + rng.normal(0.0, noise, SHAPE)
        grey = np.clip(np.rint(small), 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)


def errors(found: Array, truth: Array) -> tuple[float, float]:
    """Position [mm] and rotation [deg] error of a pose (4, 4)."""
    return (
        1e3 * float(np.linalg.norm(found[:3, 3] - truth[:3, 3])),
        float(np.rad2deg(se3.rotation_angle(found[:3, :3].T @ truth[:3, :3]))),
    )
