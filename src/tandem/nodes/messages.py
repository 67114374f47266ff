"""Exact conversions between Tandem's types and standard ROS messages.

On the wire a trajectory is a ``trajectory_msgs/JointTrajectory``: ``header.stamp`` is the switch (or start) time, the points are
the knots, the first seven joints are the arm's and the eighth is one finger (half the gripper width; its velocity and
acceleration are sent as zero and not read). ROS times are integer nanoseconds, so both ends use times on that grid
(:func:`quantise`): a trajectory that went over the wire then has the digest it had before.

What a ``JointTrajectory`` has no field for (the head's duration, the plan's name; the verdict and its certificate) travels
beside it in a ``diagnostic_msgs/DiagnosticStatus`` whose ``hardware_id`` is the trajectory's digest (:func:`info_to_status`,
:func:`verdict_to_status`); :class:`Pairing` brings the two together.

Every decoder raises :class:`MessageError` on anything it does not understand; nothing is dropped or repaired.
"""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Generic, TypeVar

import numpy as np
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import Pose, PoseWithCovarianceStamped
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from tandem.core.errors import InputError
from tandem.core.trajectory import Trajectory
from tandem.core.types import Commitment, ObjectPose, Proposal, Reason, Verdict

Array = NDArray[np.float64]
SECOND = 1_000_000_000
MAX_POINTS = 10_000


class MessageError(InputError):
    """A message that cannot be taken for what its topic carries: names the field, its value and what is accepted."""


@dataclasses.dataclass(frozen=True)
class Names:
    """Joints and frames of one arm; ``prefix`` tells arms apart."""

    prefix: str = "fr3_"

    @property
    def joints(self) -> list[str]:
        """The arm's seven joints and, last, the finger that stands for both."""
        return [*(f"{self.prefix}joint{i}" for i in range(1, 8)), f"{self.prefix}finger_joint1"]

    @property
    def base(self) -> str:
        """The base frame."""
        return f"{self.prefix}link0"


# ------------------------------------------------------------------------------------------------------------- times
def stamp_from_seconds(t: float) -> Time:
    """ROS time of ``t`` [s], rounded to the nanosecond."""
    if not math.isfinite(t) or t < 0.0:
        raise MessageError(f"time {t!r}: must be finite and >= 0 s")
    sec = math.floor(t)
    nanosec = round((t - sec) * 1e9)
    return Time(sec=sec + nanosec // SECOND, nanosec=nanosec % SECOND)


def seconds_from_stamp(stamp: Time | Duration) -> float:
    """Seconds of a ROS time, to double precision (0.24 us today); :func:`stamp_from_seconds` keeps such a value exactly."""
    return (stamp.sec * SECOND + stamp.nanosec) / SECOND


def quantise_time(t: float) -> float:
    """``t`` [s] as the other side of the wire will read it."""
    return seconds_from_stamp(stamp_from_seconds(t))


def quantise_trajectory(trajectory: Trajectory) -> Trajectory:
    """The trajectory with its knot times on integer nanoseconds: its digest survives the wire. Idempotent."""
    return dataclasses.replace(trajectory, times=np.array([quantise_time(float(t)) for t in trajectory.times]))


def quantise(proposal: Proposal) -> Proposal:
    """The proposal with knot times, switch time and head duration on integer nanoseconds."""
    return dataclasses.replace(
        proposal,
        trajectory=quantise_trajectory(proposal.trajectory),
        switch_time=quantise_time(proposal.switch_time),
        head_duration=quantise_time(proposal.head_duration),
    )


# ------------------------------------------------------------------------------------------------------- trajectories
def trajectory_to_msg(trajectory: Trajectory, width: Array, start: float, names: Names) -> JointTrajectory:
    """A trajectory (n arm joints) with gripper ``width`` (M,) [m] at its knots, starting at ``start`` [s]."""
    if trajectory.joints != len(names.joints) - 1 or width.shape != trajectory.times.shape:
        raise MessageError(
            f"trajectory of {trajectory.joints} joints with width {width.shape}: "
            f"expected {len(names.joints) - 1} joints and {trajectory.times.shape}"
        )
    msg = JointTrajectory()
    msg.header.stamp, msg.header.frame_id = stamp_from_seconds(start), names.base
    msg.joint_names = names.joints
    for t, q, v, a, w in zip(trajectory.times, trajectory.q, trajectory.v, trajectory.a, width, strict=True):
        time = stamp_from_seconds(float(t))
        msg.points.append(JointTrajectoryPoint(
            positions=[*q.tolist(), 0.5 * float(w)], velocities=[*v.tolist(), 0.0], accelerations=[*a.tolist(), 0.0],
            time_from_start=Duration(sec=time.sec, nanosec=time.nanosec),
        ))
    return msg


def trajectory_from_msg(msg: JointTrajectory, names: Names) -> tuple[Trajectory, Array, float]:
    """Trajectory, gripper width (M,) [m] and start time [s] of a message.

    Raises:
        MessageError: another frame, other joint names or order, too few points, a point whose arrays have another length, NaN,
            times that do not start at 0 and increase.
    """
    joints = names.joints
    if msg.header.frame_id != names.base:
        raise MessageError(f"header.frame_id {msg.header.frame_id!r}: expected {names.base!r}")
    if list(msg.joint_names) != joints:
        raise MessageError(f"joint_names {list(msg.joint_names)}: expected exactly {joints}")
    if not 2 <= len(msg.points) <= MAX_POINTS:
        raise MessageError(f"points: {len(msg.points)} of them; accepted: 2 .. {MAX_POINTS}")
    for i, point in enumerate(msg.points):
        for name in ("positions", "velocities", "accelerations"):
            if len(getattr(point, name)) != len(joints):
                raise MessageError(f"points[{i}].{name}: {len(getattr(point, name))} values; expected {len(joints)}")
    times = np.array([seconds_from_stamp(p.time_from_start) for p in msg.points])
    q, v, a = (np.array([getattr(p, k) for p in msg.points]) for k in ("positions", "velocities", "accelerations"))
    n = len(joints) - 1
    if not np.isfinite(q).all() or not np.isfinite(v).all() or not np.isfinite(a).all():
        raise MessageError("points: contain NaN or infinity; every value must be finite")
    try:
        trajectory = Trajectory(times, q[:, :n].copy(), v[:, :n].copy(), a[:, :n].copy())
    except InputError as error:
        raise MessageError(str(error)) from error
    return trajectory, 2.0 * q[:, n], seconds_from_stamp(msg.header.stamp)


def proposal_to_msg(proposal: Proposal, names: Names) -> JointTrajectory:
    """The proposal's trajectory; quantise it first, and send :func:`info_to_status` beside it."""
    return trajectory_to_msg(proposal.trajectory, proposal.width, proposal.switch_time, names)


def commitment_to_msg(commitment: Commitment, names: Names) -> JointTrajectory:
    """What the executor will do: ``header.stamp`` is the trajectory's start."""
    return trajectory_to_msg(commitment.trajectory, commitment.width, commitment.start, names)


def commitment_from_msg(msg: JointTrajectory, names: Names) -> Commitment:
    """Inverse of :func:`commitment_to_msg`."""
    trajectory, width, start = trajectory_from_msg(msg, names)
    return Commitment(trajectory, start, width)


# --------------------------------------------------------------------------------------------- what travels beside them
def status(name: str, level: bytes, message: str, values: Mapping[str, object], hardware_id: str = "") -> DiagnosticStatus:
    """A DiagnosticStatus; values become strings, floats exactly (repr)."""
    pairs = [KeyValue(key=k, value=repr(float(v)) if isinstance(v, float) else str(v)) for k, v in values.items()]
    return DiagnosticStatus(level=level, name=name, message=message, hardware_id=hardware_id, values=pairs)


def values_of(msg: DiagnosticStatus) -> dict[str, str]:
    """Key values of a DiagnosticStatus."""
    return {pair.key: pair.value for pair in msg.values}


def _number(values: Mapping[str, str], key: str) -> float:
    try:
        return float(values[key])
    except (KeyError, ValueError) as error:
        raise MessageError(f"value {key!r} = {values.get(key)!r}: expected a number") from error


@dataclasses.dataclass(frozen=True)
class ProposalInfo:
    """What a proposal's JointTrajectory has no field for: head duration [s], name, planning time [ms]."""

    head_duration: float
    name: str = ""
    plan_ms: float = math.nan


def info_to_status(proposal: Proposal, plan_ms: float) -> DiagnosticStatus:
    """The companion of a (quantised) proposal."""
    values = {"head_duration": proposal.head_duration, "name": proposal.name, "plan_ms": plan_ms}
    return status("proposal", DiagnosticStatus.OK, proposal.name, values, proposal.trajectory.digest())


def info_from_status(msg: DiagnosticStatus) -> ProposalInfo:
    """Inverse of :func:`info_to_status`."""
    values = values_of(msg)
    head = _number(values, "head_duration")
    if not math.isfinite(head) or head < 0.0:
        raise MessageError(f"value 'head_duration' = {head}: must be finite and >= 0 s")
    return ProposalInfo(head, values.get("name", ""), _number(values, "plan_ms"))


def verdict_to_status(
    verdict: Verdict, trajectory_digest: str, certificate: str, head_duration: float, extra: Mapping[str, object] | None = None
) -> DiagnosticStatus:
    """The filter's word on the trajectory with that digest; ``certificate`` is empty when it is not certified."""
    values = {
        "reason": verdict.reason.name, "clearance": float(verdict.clearance), "time": float(verdict.time), "link": verdict.link,
        "obstacle": verdict.obstacle, "digest": verdict.digest, "trajectory_digest": trajectory_digest,
        "certificate": certificate, "head_duration": float(head_duration), **(extra or {}),
    }
    level = DiagnosticStatus.OK if verdict.certified else DiagnosticStatus.ERROR
    return status("verdict", level, verdict.reason.value, values, trajectory_digest)


def verdict_from_status(msg: DiagnosticStatus) -> tuple[Verdict, str, str, float]:
    """Verdict, trajectory digest, certificate and head duration [s].

    Raises:
        MessageError: missing or malformed values, or a level that contradicts the reason.
    """
    values = values_of(msg)
    missing = {"reason", "link", "obstacle", "digest", "trajectory_digest", "certificate"} - set(values)
    if missing:
        raise MessageError(f"verdict: missing value(s) {', '.join(sorted(missing))}")
    if values["reason"] not in Reason.__members__:
        raise MessageError(f"verdict: reason {values['reason']!r} is not one of {', '.join(Reason.__members__)}")
    verdict = Verdict(
        Reason[values["reason"]], _number(values, "clearance"), _number(values, "time"),
        values["link"], values["obstacle"], values["digest"],
    )
    if verdict.certified != (msg.level == DiagnosticStatus.OK):
        raise MessageError(f"verdict: level {msg.level!r} contradicts reason {values['reason']}")
    return verdict, values["trajectory_digest"], values["certificate"], _number(values, "head_duration")


A = TypeVar("A")
B = TypeVar("B")


class Pairing(Generic[A, B]):
    """Brings together two messages with one digest, in whichever order they come; remembers the last ``size`` of each."""

    def __init__(self, size: int = 8) -> None:
        self._size = size
        self._left: OrderedDict[str, A] = OrderedDict()
        self._right: OrderedDict[str, B] = OrderedDict()

    def left(self, digest: str, value: A) -> tuple[A, B] | None:
        """Take the one; the pair when the other is there."""
        if digest in self._right:
            return value, self._right.pop(digest)
        self._keep(self._left, digest, value)
        return None

    def right(self, digest: str, value: B) -> tuple[A, B] | None:
        """Take the other; the pair when the one is there."""
        if digest in self._left:
            return self._left.pop(digest), value
        self._keep(self._right, digest, value)
        return None

    def waiting(self) -> list[A]:
        """Those of the left kind whose companion has not come."""
        return list(self._left.values())

    def drop(self, digest: str) -> None:
        """Forget the left value with that digest."""
        self._left.pop(digest, None)

    def _keep(self, box: OrderedDict[str, A] | OrderedDict[str, B], digest: str, value: A | B) -> None:
        box[digest] = value  # type: ignore[assignment]
        while len(box) > self._size:
            box.popitem(last=False)


# ------------------------------------------------------------------------------------------------- poses, joints, images
def pose_to_msg(pose: Array) -> Pose:
    """(4, 4) -> Pose (quaternion x, y, z, w)."""
    msg = Pose()
    msg.position.x, msg.position.y, msg.position.z = (float(x) for x in pose[:3, 3])
    x, y, z, w = Rotation.from_matrix(pose[:3, :3]).as_quat()
    msg.orientation.x, msg.orientation.y, msg.orientation.z, msg.orientation.w = float(x), float(y), float(z), float(w)
    return msg


def pose_from_msg(msg: Pose) -> Array:
    """Inverse of :func:`pose_to_msg`; refuses NaN and quaternions that are not of unit length (1e-3)."""
    numbers = np.array([
        msg.position.x, msg.position.y, msg.position.z, msg.orientation.x, msg.orientation.y, msg.orientation.z, msg.orientation.w
    ])
    if not np.isfinite(numbers).all() or abs(float(np.linalg.norm(numbers[3:])) - 1.0) > 1e-3:
        raise MessageError(f"pose {numbers.tolist()}: must be finite with a quaternion of unit length")
    out = np.eye(4)
    out[:3, 3] = numbers[:3]
    out[:3, :3] = Rotation.from_quat(numbers[3:]).as_matrix()
    return out


def object_pose_to_msg(pose: ObjectPose, frame: str) -> PoseWithCovarianceStamped:
    """An object's pose with its (6, 6) covariance."""
    msg = PoseWithCovarianceStamped()
    msg.header.stamp, msg.header.frame_id = stamp_from_seconds(pose.stamp), frame
    msg.pose.pose = pose_to_msg(pose.pose)
    msg.pose.covariance = np.asarray(pose.covariance, dtype=np.float64).reshape(36)
    return msg


def object_pose_from_msg(msg: PoseWithCovarianceStamped, frame: str) -> ObjectPose:
    """Inverse of :func:`object_pose_to_msg`; refuses other frames than ``frame`` and NaN."""
    if msg.header.frame_id != frame:
        raise MessageError(f"header.frame_id {msg.header.frame_id!r}: expected {frame!r}")
    covariance = np.array(msg.pose.covariance, dtype=np.float64).reshape(6, 6)
    if not np.isfinite(covariance).all():
        raise MessageError("pose.covariance: contains NaN or infinity")
    return ObjectPose(pose_from_msg(msg.pose.pose), covariance, seconds_from_stamp(msg.header.stamp))


def joint_state_msg(q: Array, v: Array, effort: Array, width: float, stamp: float, names: Names) -> JointState:
    """Positions, velocities, efforts (n,) and the gripper width [m] (as one finger) as a JointState."""
    msg = JointState()
    msg.header.stamp = stamp_from_seconds(stamp)
    msg.name = names.joints
    msg.position, msg.velocity, msg.effort = [*q.tolist(), 0.5 * width], [*v.tolist(), 0.0], [*effort.tolist(), 0.0]
    return msg


def image_to_msg(image: NDArray[np.uint8], stamp: float, frame: str) -> Image:
    """(H, W, 3) RGB or (H, W) grey, 8 bit."""
    msg = Image(height=image.shape[0], width=image.shape[1], encoding="rgb8" if image.ndim == 3 else "mono8", is_bigendian=0)
    msg.header.stamp, msg.header.frame_id = stamp_from_seconds(stamp), frame
    msg.step = image.shape[1] * (3 if image.ndim == 3 else 1)
    msg.data.frombytes(np.ascontiguousarray(image).tobytes())
    return msg


def image_from_msg(msg: Image) -> NDArray[np.uint8]:
    """(H, W, 3) RGB or (H, W) grey from encodings rgb8, bgr8, rgba8, bgra8, mono8.

    Raises:
        MessageError: another encoding, or data that do not fit height, width and step.
    """
    channels = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}.get(msg.encoding)
    if channels is None:
        raise MessageError(f"encoding {msg.encoding!r}: accepted: rgb8, bgr8, rgba8, bgra8, mono8")
    data = np.frombuffer(msg.data, dtype=np.uint8)
    if msg.height < 1 or msg.width < 1 or msg.step < msg.width * channels or data.size != msg.height * msg.step:
        raise MessageError(f"image {msg.height} x {msg.width}, step {msg.step}: does not fit {data.size} bytes of {msg.encoding}")
    rows = data.reshape(msg.height, msg.step)[:, : msg.width * channels].reshape(msg.height, msg.width, channels)
    if channels == 1:
        return np.ascontiguousarray(rows[..., 0])
    rows = rows[..., :3]
    return np.ascontiguousarray(rows[..., ::-1] if msg.encoding.startswith("bgr") else rows)


def camera_info_to_msg(matrix: Array, distortion: Array, height: int, width: int, stamp: float, frame: str) -> CameraInfo:
    """Intrinsics (3, 3) and plumb_bob distortion (5,)."""
    msg = CameraInfo(height=height, width=width, distortion_model="plumb_bob", d=distortion.tolist())
    msg.header.stamp, msg.header.frame_id = stamp_from_seconds(stamp), frame
    msg.k, msg.r = matrix.reshape(9), np.eye(3).reshape(9)
    msg.p = np.hstack([matrix, np.zeros((3, 1))]).reshape(12)
    return msg


def camera_info_from_msg(msg: CameraInfo) -> tuple[Array, Array]:
    """Intrinsics (3, 3) and distortion; refuses a camera that is not calibrated and models OpenCV's ArUco does not take."""
    matrix = np.array(msg.k, dtype=np.float64).reshape(3, 3)
    distortion = np.array(msg.d, dtype=np.float64)
    if not np.isfinite(matrix).all() or matrix[0, 0] <= 0.0 or matrix[1, 1] <= 0.0 or not np.isfinite(distortion).all():
        raise MessageError(f"camera_info.k {matrix.tolist()}: not calibrated (focal lengths must be > 0)")
    if msg.distortion_model not in ("plumb_bob", "rational_polynomial", "") or distortion.size not in (0, 4, 5, 8):
        raise MessageError(
            f"camera_info: distortion {msg.distortion_model!r} with {distortion.size} values: "
            "accepted: plumb_bob, rational_polynomial"
        )
    return matrix, distortion if distortion.size else np.zeros(5)
