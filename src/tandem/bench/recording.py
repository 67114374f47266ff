"""Reads a recording of the graph (rosbag2 folder, MCAP) back: what was said when, and the episode it makes.

Needs no ROS installation: rosbags decodes the messages.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.typesys import Stores, get_typestore

from tandem.bench.record import UNTOLD, EpisodeRecord, PlanRecord
from tandem.core.errors import InputError
from tandem.core.se3 import pose as make_pose
from tandem.core.trajectory import Trajectory
from tandem.core.types import Candidate
from tandem.sim.scene_file import MugScene

Array = NDArray[np.float64]
ARM_JOINTS = 7
#: how long before the first plan the episode begins [s]
LEAD = 1.0
#: messages sent one after the other on two topics may arrive in the other order, this far apart [s]
AROUND = 0.03
#: stamps so far from what ``/clock`` told are not by that clock [s]
NEAR_CLOCK = 10.0


@dataclass
class Recording:
    """Messages by topic (without namespace) in order of arrival: (time of arrival [s], message as rosbags decodes it).

    Where the nodes went by a clock of their own (topic ``/clock``), times of arrival are on that clock, which went ``pace`` times
    as fast as the recording machine's.
    """

    folder: Path
    topics: dict[str, list[tuple[float, Any]]] = field(default_factory=dict)
    pace: float = 1.0

    def of(self, topic: str) -> list[tuple[float, Any]]:
        """Messages of ``topic``; none is no error."""
        return self.topics.get(topic, [])


def read(folder: Path, namespace: str = "") -> Recording:
    """Read a whole recording.

    Raises:
        InputError: not a recording.
    """
    recording = Recording(folder)
    prefix = f"/{namespace.strip('/')}/" if namespace.strip("/") else "/"
    try:
        with AnyReader([folder], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
            for connection, stamp, data in reader.messages():
                name = connection.topic.removeprefix(prefix).removeprefix("/")
                message = reader.deserialize(data, connection.msgtype)
                recording.topics.setdefault(name, []).append((stamp * 1e-9, message))
    except (AnyReaderError, OSError, ValueError) as error:
        raise InputError(f"{folder}: not a recording: {error}") from error
    return on_its_clock(recording)


def on_its_clock(recording: Recording) -> Recording:
    """Times of arrival on the clock that the nodes went by."""
    clock = recording.of("clock")
    stamps = [seconds(m.header.stamp) for _, m in recording.of("franka/joint_states")]
    if len(clock) < 2 or not stamps:
        return recording
    heard, told = np.array([t for t, _ in clock]), np.array([seconds(m.clock) for _, m in clock])
    if stamps[0] > told[-1] + NEAR_CLOCK or stamps[-1] < told[0] - NEAR_CLOCK:
        return recording  # somebody else's
    for name, messages in recording.topics.items():
        when = np.array([t for t, _ in messages])
        # before the first and after the last word of it, as fast as the machine's
        there = np.interp(when, heard, told) + np.minimum(when - heard[0], 0.0) + np.maximum(when - heard[-1], 0.0)
        recording.topics[name] = [(float(t), m) for t, (_, m) in zip(there, messages, strict=True)]
    recording.pace = float((told[-1] - told[0]) / (heard[-1] - heard[0]))
    return recording


def seconds(stamp: Any) -> float:
    """A Time or Duration message [s], to the last bit as the nodes read it (digests depend on it)."""
    return (int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)) / 1_000_000_000


def values_of(status: Any) -> dict[str, str]:
    """Key values of a DiagnosticStatus."""
    return {pair.key: pair.value for pair in status.values}


def trajectory_of(message: Any) -> tuple[Trajectory, Array, float]:
    """Arm trajectory, gripper width (M,) [m] and start time [s] of a JointTrajectory."""
    times = np.array([seconds(p.time_from_start) for p in message.points])
    q, v, a = (np.array([getattr(p, k) for p in message.points]) for k in ("positions", "velocities", "accelerations"))
    n = ARM_JOINTS
    return Trajectory(times, q[:, :n], v[:, :n], a[:, :n]), 2.0 * q[:, n], seconds(message.header.stamp)


def joint_states(messages: list[tuple[float, Any]]) -> tuple[Array, Array, Array]:
    """Stamps (T,) increasing, positions (T, 7) and gripper width (T,) of JointState messages."""
    stamps = np.array([seconds(m.header.stamp) for _, m in messages])
    columns = -1 if messages else ARM_JOINTS + 1
    positions = np.array([m.position for _, m in messages], dtype=np.float64).reshape(len(messages), columns)
    keep = np.concatenate([[True], np.diff(np.maximum.accumulate(stamps)) > 0.0]) if len(stamps) else np.zeros(0, dtype=bool)
    return stamps[keep], positions[keep, :ARM_JOINTS], 2.0 * positions[keep, ARM_JOINTS]


def candidates_of(message: Any) -> list[Candidate]:
    """Sampled plans from the planner's markers (namespaces chosen, feasible, infeasible, backup)."""
    paths: dict[int, tuple[str, Array]] = {}
    backups: dict[int, Array] = {}
    for marker in message.markers:
        if not len(marker.points):
            continue
        points = np.array([(p.x, p.y, p.z) for p in marker.points])
        if marker.ns == "backup":
            backups[marker.id] = points
        else:
            paths[marker.id] = (marker.ns, points)
    return [
        Candidate(points, kind != "infeasible", math.nan, kind == "chosen", backups.get(number) if kind == "chosen" else None)
        for number, (kind, points) in sorted(paths.items())
    ]


def plans_of(recording: Recording) -> list[PlanRecord]:
    """Every planning attempt that left a trace, and every verdict on it; times are absolute [s]."""
    verdicts = {m.hardware_id: (t, m) for t, m in recording.of("safety_filter/verdict")}
    switches = {}
    for _, message in recording.of("planner/proposal"):
        try:
            trajectory, _, start = trajectory_of(message)
        except (InputError, ValueError, IndexError):
            continue
        switches[trajectory.digest()] = start
    work = [(t, values_of(s)) for t, m in recording.of("diagnostics") for s in m.status if s.name.endswith("planner: planning")]
    candidates = recording.of("planner/candidates")
    infos = recording.of("planner/proposal_info")
    plans: list[PlanRecord] = []
    used, former = set(), -math.inf
    for t, message in candidates:
        # an attempt that proposes something says so just before it shows its candidates
        since = [i for i, x in enumerate(infos) if former + AROUND < x[0] <= t + AROUND and i not in used]
        own = since[-1] if since else None
        plan = PlanRecord(t, t, math.nan, math.nan, "no plan", "", False, math.nan, candidates=candidates_of(message))
        if own is not None:
            used.add(own)
            plan = replace(_judged(infos[own], verdicts, switches, recording.pace), candidates=plan.candidates)
        plans.append(plan)
        former = t
    plans += [_judged(x, verdicts, switches, recording.pace) for i, x in enumerate(infos) if i not in used]
    for plan in plans:
        # diagnostics tell of the last plan made: the first of them after this one
        ended = plan.time + (plan.plan_ms * 1e-3 * recording.pace if math.isfinite(plan.plan_ms) else 0.0)
        told = next((values for t, values in work if t >= ended), {})
        plan.network_rows = int(told.get("network_rows", 0))
        plan.potential_evals = int(told.get("potential_evals", 0))
    return sorted(plans, key=lambda p: p.time)


def _judged(
    info: tuple[float, Any], verdicts: dict[str, tuple[float, Any]], switches: dict[str, float], pace: float
) -> PlanRecord:
    """A proposal with the filter's word on it."""
    t, message = info
    plan_ms = float(values_of(message).get("plan_ms", "nan"))
    began = t - (plan_ms * 1e-3 * pace if math.isfinite(plan_ms) else 0.0)
    plan = PlanRecord(began, switches.get(message.hardware_id, t), plan_ms, math.nan, "planned", "no answer", False, math.nan)
    if message.hardware_id in verdicts:
        answer = verdicts[message.hardware_id][1]
        values = values_of(answer)
        clearance = float(values.get("clearance", "nan"))
        plan.verdict, plan.certified = answer.message, int(answer.level) == 0
        plan.clearance = clearance if math.isfinite(clearance) else math.nan
        plan.certify_ms = float(values.get("ms", "nan"))
    return plan


def _latest(times: Array, wanted: Array) -> NDArray[np.int64]:
    """Index of the last of ``times`` not after each of ``wanted``; the first one where there is none."""
    return np.clip(np.searchsorted(times, wanted, side="right") - 1, 0, max(len(times) - 1, 0))


def _camera(record: EpisodeRecord, recording: Recording, t0: float) -> None:
    """Fill in images, intrinsics, camera pose and detections."""
    pictures = recording.of("camera/image_raw/compressed")
    if pictures:
        decoded = []
        for _, message in pictures:
            image = cv2.imdecode(np.asarray(message.data, dtype=np.uint8), cv2.IMREAD_COLOR)
            if image is None:
                raise InputError(f"{recording.folder}: a camera image cannot be decoded")
            decoded.append(np.ascontiguousarray(image[..., ::-1], dtype=np.uint8))
        stamps = np.array([seconds(m.header.stamp) for _, m in pictures]) - t0
        first = int(np.argmin(np.abs(stamps)))
        record.camera_image, record.camera_image_time = decoded[first], float(stamps[first])
        record.frames, record.frame_time = np.stack([d[::4, ::4] for d in decoded[::5]]), stamps[::5]
    for _, message in recording.of("camera/camera_info")[-1:]:
        record.camera_matrix = np.array(message.k, dtype=np.float64).reshape(3, 3)
    for _, message in recording.of("camera/pose")[-1:]:
        record.camera_pose = pose_matrix(message.pose)
    poses = recording.of("perception/object_pose")
    if poses:
        record.detection_time = np.array([seconds(m.header.stamp) for _, m in poses]) - t0
        record.detection_pose = np.stack([pose_matrix(m.pose.pose) for _, m in poses])


def pose_matrix(message: Any) -> Array:
    """(4, 4) of a Pose message."""
    o, p = message.orientation, message.position
    w, x, y, z = np.array([o.w, o.x, o.y, o.z]) / np.linalg.norm([o.w, o.x, o.y, o.z])
    rotation = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])
    return make_pose(np.array([p.x, p.y, p.z]), rotation)


def to_record(recording: Recording, scene: MugScene, meta: dict[str, Any]) -> EpisodeRecord:
    """The episode that the recording shows, from :data:`LEAD` before the first plan to its end.

    Raises:
        InputError: there are no joint states in it.
    """
    stamps, q, width = joint_states(recording.of("franka/joint_states"))
    if len(stamps) < 2:
        raise InputError(f"{recording.folder}: no joint states: did the graph start?")
    plans = plans_of(recording)
    t0 = max(float(stamps[0]), min((p.time for p in plans), default=float(stamps[0])) - LEAD)
    keep = stamps >= t0
    stamps, q, width = stamps[keep], q[keep], width[keep]
    told, commanded, _ = joint_states(recording.of("franka/commanded_joint_states"))
    target = np.stack([np.interp(stamps, told, commanded[:, j]) for j in range(ARM_JOINTS)], axis=1) if len(told) else q
    status = recording.of("franka/status")
    heard, values = np.array([t for t, _ in status]), [values_of(m) for _, m in status]
    mode = np.array([values[i].get("mode", "") for i in _latest(heard, stamps)] if values else [""] * len(stamps))
    record = EpisodeRecord(scene, meta, stamps - t0, target, q, width, mode, np.full((len(stamps), 7), np.nan))
    for plan in plans:
        plan.time, plan.switch_time = plan.time - t0, plan.switch_time - t0
    record.plans = plans
    if values:
        first, last = values[_latest(heard, stamps[:1])[0]], values[-1]
        spent = [float(x.get("backup_time", 0.0)) for x in (first, last)]
        record.intervention = (spent[1] - spent[0]) / max(record.duration, 1e-9)
        record.at_rest = last.get("mode", "") in ("IDLE", "STOPPED")
    _truth(record, recording, stamps)
    _camera(record, recording, t0)
    span = max(float(stamps[-1] - stamps[0]), 1e-9)
    record.rates = {
        name: len([t for t, _ in messages if t >= t0]) / span for name, messages in recording.topics.items() if len(messages) > 5
    }
    return record


def _truth(record: EpisodeRecord, recording: Recording, stamps: Array) -> None:
    """What the simulator says of mug, contacts, success and its own clock."""
    truths = [json.loads(m.data) for _, m in recording.of("sim/truth")]
    if not truths:
        return
    when = np.array([t["stamp"] for t in truths])
    poses = np.array([[*t["mug_position"], *t["mug_quaternion_wxyz"]] for t in truths])
    record.mug_pose = poses[_latest(when, stamps)]
    record.task_success = any(t["lifted"] for t in truths)
    contacts = max(int(t["forbidden_contacts"]) for t in truths)
    record.contacts = {UNTOLD: contacts} if contacts else {}
    inside = [t for t in truths if t["stamp"] >= stamps[0]]
    if len(inside) > 1 and inside[-1]["sim_time"] > inside[0]["sim_time"]:
        factor = (inside[-1]["sim_time"] - inside[0]["sim_time"]) / (inside[-1]["stamp"] - inside[0]["stamp"])
        record.wall_s = record.duration / (factor * recording.pace)
