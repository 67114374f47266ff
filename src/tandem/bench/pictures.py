"""Pictures of an episode: rendered scenes with the sampled plans drawn in, the camera's view, the animation."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType

import cv2
import mujoco
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from tandem.bench.record import EpisodeRecord, PlanRecord
from tandem.core.objects import load_object
from tandem.core.paths import config_file
from tandem.core.types import Candidate
from tandem.perception import MarkerPoseEstimator
from tandem.sim.model import look_at
from tandem.sim.scene_file import CameraConfig
from tandem.sim.world import MugWorld

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
Colour = tuple[float, float, float, float]
#: points (n, 3) [m], colour (red, green, blue, opacity), thickness [px]
Line = tuple[Array, Colour, int]

#: feasible and infeasible candidates, the chosen plan, its backup, the way gone so far
FEASIBLE: Colour = (0.02, 0.62, 0.42, 0.75)
INFEASIBLE: Colour = (0.80, 0.12, 0.42, 0.45)
CHOSEN: Colour = (0.08, 0.32, 0.95, 1.0)
BACKUP: Colour = (1.0, 0.80, 0.05, 1.0)
TRAIL: Colour = (0.16, 0.18, 0.22, 0.9)
#: of a line's opacity, where something stands in front of it
HIDDEN = 0.35
BACKGROUND = np.array([236, 239, 243], dtype=np.uint8)
#: largest size of the animation [bytes]
ANIMATION_BYTES = 3_500_000


def _nearest(times: Array, t: float) -> int:
    return int(np.clip(np.searchsorted(times, t), 0, len(times) - 1))


class Stage:
    """The simulator's model of a record's scene, posed as it was at a given time, with lines drawn into it."""

    def __init__(self, record: EpisodeRecord, width: int = 960, height: int = 720) -> None:
        self.record = record
        self.world = MugWorld(record.scene)
        model = self.world.model
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        self.size = (height, width)
        self._renderer = mujoco.Renderer(model, height, width)
        known = np.flatnonzero(np.isfinite(record.mug_pose).all(axis=1))
        self._known = known
        self._tcp: Array | None = None

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._renderer.close()
        self.world.close()

    def pose_at(self, tick: int) -> None:
        """Put arm, fingers and mug where they were at ``tick`` of the record."""
        record = self.record
        qpos = self.world.qpos
        qpos[:7] = record.q_measured[tick]
        qpos[7:9] = 0.5 * record.width[tick]
        if len(self._known):
            row = record.mug_pose[self._known[np.clip(np.searchsorted(self._known, tick), 0, len(self._known) - 1)]]
            qpos[9:16] = row
        self.world.qpos = qpos

    def tcp_path(self) -> Array:
        """(T', 3) way of the fingertips' middle, 25 points a second [m]."""
        if self._tcp is None:
            ticks = self.ticks(25.0)
            path = np.zeros((len(ticks), 3))
            for i, tick in enumerate(ticks):
                self.pose_at(int(tick))
                path[i] = self.world.tcp_pose()[:3, 3]
            self._tcp = path
        return self._tcp

    def ticks(self, rate: float) -> NDArray[np.int64]:
        """Indices of the record at ``rate`` [Hz]."""
        times = self.record.time
        if not len(times):
            return np.zeros(0, dtype=np.int64)
        wanted = np.arange(times[0], times[-1] + 0.5 / rate, 1.0 / rate)
        return np.clip(np.searchsorted(times, wanted), 0, len(times) - 1)

    def draw(self, camera: CameraConfig, lines: Iterable[Line] = (), *, depth: bool = True) -> Image:
        """One picture seen from ``camera`` with ``lines`` drawn in; ``depth``: what is behind something is drawn fainter."""
        free = mujoco.MjvCamera()
        free.type = mujoco.mjtCamera.mjCAMERA_FREE
        offset = np.asarray(camera.target) - np.asarray(camera.position)
        distance = float(np.linalg.norm(offset))
        free.lookat[:] = camera.target
        free.distance = distance
        free.azimuth = math.degrees(math.atan2(offset[1], offset[0]))
        free.elevation = math.degrees(math.asin(offset[2] / distance))
        self.world.model.vis.global_.fovy = camera.fovy
        mujoco.mj_kinematics(self.world.model, self.world.data)
        mujoco.mj_camlight(self.world.model, self.world.data)
        self._renderer.update_scene(self.world.data, free)
        image: Image = self._renderer.render()
        distances = None
        if depth:
            self._renderer.enable_depth_rendering()
            distances = self._renderer.render().copy()
            self._renderer.disable_depth_rendering()
        image[_background(image)] = BACKGROUND
        return self._overlay(image, camera, lines, distances)

    def _overlay(self, image: Image, camera: CameraConfig, lines: Iterable[Line], distances: Array | None) -> Image:
        height, width = self.size
        focal = 0.5 * height / math.tan(math.radians(camera.fovy) / 2.0)
        to_camera = np.linalg.inv(look_at(camera))
        for points, colour, thickness in lines:
            dense = _resample(points)
            if not len(dense):
                continue
            local = dense @ to_camera[:3, :3].T + to_camera[:3, 3]
            front = local[:, 2] > 0.01
            pixels = focal * local[:, :2] / np.maximum(local[:, 2:], 0.01) + 0.5 * np.array([width - 1, height - 1])
            seen = front
            if distances is not None:
                column, row = (np.clip(np.round(pixels[:, k]).astype(int), 0, n - 1) for k, n in ((0, width), (1, height)))
                seen = front & (local[:, 2] <= distances[row, column] + 0.012)
            for visible, opacity in ((False, HIDDEN * colour[3]), (True, colour[3])):
                _stroke(image, pixels, front & (seen == visible), colour, opacity, thickness)
        return image

    def clearance(self, rate: float = 20.0, reach: float = 0.3) -> tuple[Array, Array]:
        """Times and distance [m] of arm and hand to the nearest obstacle by the simulator's geometry; ``reach`` if further."""
        model, data = self.world.model, self.world.data
        owner = [model.body(model.geom_bodyid[g]).name for g in range(model.ngeom)]
        solid = [g for g in range(model.ngeom) if model.geom_contype[g] or model.geom_conaffinity[g]]
        obstacles = [g for g in solid if owner[g].startswith("obstacle:")]
        arm = [g for g in solid if owner[g] not in ("world", "mug") and not owner[g].startswith("obstacle:")]
        ticks = self.ticks(rate)
        out = np.full(len(ticks), reach)
        for i, tick in enumerate(ticks):
            self.pose_at(int(tick))
            for a in arm:
                for b in obstacles:
                    gap = np.linalg.norm(data.geom_xpos[a] - data.geom_xpos[b]) - model.geom_rbound[a] - model.geom_rbound[b]
                    if gap < out[i]:
                        out[i] = min(out[i], mujoco.mj_geomDistance(model, data, a, b, out[i], None))
        return self.record.time[ticks], out


def _background(image: Image) -> NDArray[np.bool_]:
    """Where nothing was drawn: black and connected with the picture's edge (printed markers are black too)."""
    black = np.asarray(~image.any(axis=2), dtype=np.uint8)
    _, labels = cv2.connectedComponents(black, connectivity=4)
    edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    keep = np.zeros(labels.max() + 1, dtype=np.bool_)
    keep[edge] = True
    keep[0] = False
    return keep[labels]


def _resample(points: Array, step: float = 0.006) -> Array:
    """Points (m, 3) along the polyline, at most ``step`` [m] apart; rows with NaN are left out."""
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 2:
        return np.zeros((0, 3))
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0.0, length[-1], max(2, min(600, int(length[-1] / step) + 1)))
    return np.stack([np.interp(at, length, points[:, k]) for k in range(3)], axis=1)


def _stroke(image: Image, pixels: Array, use: NDArray[np.bool_], colour: Colour, opacity: float, thickness: int) -> None:
    """Draw the runs of consecutive pixels (m, 2) marked in ``use`` into ``image``, blended with ``opacity``."""
    ends = np.flatnonzero(np.diff(np.concatenate([[0], use.astype(np.int8), [0]])))
    runs = [pixels[max(a - 1, 0) : b] for a, b in ends.reshape(-1, 2)]
    strokes = [np.round(np.clip(r, -2000, 6000) * 16).astype(np.int32).reshape(-1, 1, 2) for r in runs if len(r) > 1]
    if not strokes:
        return
    height, width = image.shape[:2]
    corner = np.vstack(strokes).reshape(-1, 2) / 16.0
    low = np.clip(np.floor(corner.min(axis=0)) - thickness - 2, 0, [width, height]).astype(int)
    high = np.clip(np.ceil(corner.max(axis=0)) + thickness + 3, 0, [width, height]).astype(int)
    part = image[low[1] : high[1], low[0] : high[0]]
    if not part.size:
        return
    mask = np.zeros(part.shape[:2], dtype=np.uint8)
    shifted = [r - (low * 16).astype(np.int32) for r in strokes]
    cv2.polylines(mask, shifted, False, 255, thickness, cv2.LINE_AA, shift=4)
    weight = (mask.astype(np.float32) * (opacity / 255.0))[..., None]
    target = 255.0 * np.asarray(colour[:3], dtype=np.float32)
    part[:] = (part * (1.0 - weight) + target * weight).astype(np.uint8)


def plan_lines(candidates: Sequence[Candidate], thick: int = 1) -> list[Line]:
    """Infeasible candidates first, feasible ones, then the chosen one and its backup on top."""
    lines: list[Line] = []
    for feasible, colour in ((False, INFEASIBLE), (True, FEASIBLE)):
        lines += [(c.path, colour, thick) for c in candidates if c.feasible is feasible and not c.chosen]
    for c in candidates:
        if c.chosen:
            lines.append((c.path, CHOSEN, 4 * thick))
            if c.backup_path is not None:
                lines.append((c.backup_path, BACKUP, 5 * thick))
    return lines


def telling_plan(plans: Sequence[PlanRecord]) -> int | None:
    """The plan that shows most: certified, and with feasible and infeasible candidates in balance; None without candidates."""
    best, choice = -1.0, None
    for i, plan in enumerate(plans):
        if not plan.candidates:
            continue
        share = float(np.mean([c.feasible for c in plan.candidates]))
        score = (2.0 if plan.certified else 0.0) + min(share, 1.0 - share) + 0.001 * len(plan.candidates)
        if score > best:
            best, choice = score, i
    return choice


def views(scene_camera: CameraConfig) -> dict[str, CameraConfig]:
    """Named points of view: the scene's own overview, from the side, from above."""
    return {
        "overview": scene_camera,
        "side": CameraConfig(960, 720, 40.0, (0.42, -1.55, 0.45), (0.42, 0.0, 0.28)),
        "above": CameraConfig(960, 720, 40.0, (0.39, 0.0, 1.5), (0.4, 0.0, 0.1)),
    }


def plan_pictures(stage: Stage, plan: PlanRecord) -> dict[str, Image]:
    """The scene when ``plan`` was made, from several sides, all candidates drawn in."""
    tick = _nearest(stage.record.time, plan.switch_time)
    stage.pose_at(tick)
    lines = plan_lines(plan.candidates)
    return {name: stage.draw(camera, lines) for name, camera in views(stage.record.scene.overview).items()}


def camera_picture(record: EpisodeRecord) -> tuple[Image, str] | None:
    """The camera's image with the detected markers' outlines and the mug's axes, and a caption; None where no image was kept."""
    image = record.camera_image
    if image.size == 0:
        return None
    drawn = image.copy()
    target = load_object(config_file(record.scene.object_file))
    estimator = MarkerPoseEstimator(target)
    estimate = estimator.estimate(image, record.camera_matrix, np.zeros(5), record.camera_pose, record.camera_image_time)
    for found in estimate.detections:
        quad = np.round(found.corners.reshape(4, 1, 2) * 16).astype(np.int32)
        cv2.polylines(drawn, [quad], True, (20, 200, 60), 2, cv2.LINE_AA, shift=4)
    if estimate.pose is None:
        return drawn, f"{len(estimate.detections)} markers seen, no pose given: {estimate.reason.value}"
    in_camera = np.linalg.inv(record.camera_pose) @ estimate.pose.pose
    rotation, _ = cv2.Rodrigues(in_camera[:3, :3])
    drawn = np.ascontiguousarray(drawn[..., ::-1])      # OpenCV draws x red, y green, z blue into BGR
    cv2.drawFrameAxes(drawn, record.camera_matrix, np.zeros(5), rotation, in_camera[:3, 3], 0.06, 3)
    drawn = np.ascontiguousarray(drawn[..., ::-1])
    sigma = 1e3 * math.sqrt(float(np.trace(estimate.pose.covariance[:3, :3])))
    names = ", ".join(map(str, estimate.markers))
    return drawn, f"markers {names}; pose of the mug with a standard deviation of {sigma:.1f} mm"


def _encode(frames: list[Image], rate: float, quality: int) -> bytes:
    stream = io.BytesIO()
    pictures = [Pillow.fromarray(f) for f in frames]
    pictures[0].save(
        stream, "WEBP", save_all=True, append_images=pictures[1:], duration=round(1000 / rate), loop=0, quality=quality, method=1
    )
    return stream.getvalue()


def animation(stage: Stage, path: Path, rate: float = 8.0) -> None:
    """An animated WebP of the episode in real time with the plan in force drawn in, not larger than :data:`ANIMATION_BYTES`."""
    record = stage.record
    frames = []
    trail = stage.tcp_path()
    switch = np.array([p.switch_time for p in record.plans if p.certified])
    certified = [p for p in record.plans if p.certified]
    for tick in stage.ticks(rate):
        now = record.time[tick]
        stage.pose_at(int(tick))
        current = int(np.searchsorted(switch, now, side="right")) - 1
        lines = plan_lines(certified[current].candidates) if 0 <= current < len(certified) else []
        done = trail[: max(1, round((now - record.time[0]) * 25.0))]
        image = stage.draw(record.scene.overview, [(done, TRAIL, 2), *lines], depth=False)
        text = f"{now - record.time[0]:4.1f} s"
        cv2.putText(image, text, (12, 28), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (40, 44, 52), 2, cv2.LINE_AA)
        frames.append(image)
    if not frames:
        return
    for quality in (70, 50, 30, 15):
        data = _encode(frames, rate, quality)
        if len(data) <= ANIMATION_BYTES:
            break
        if quality == 30:
            frames, rate = frames[::2], rate / 2
    path.write_bytes(data)
