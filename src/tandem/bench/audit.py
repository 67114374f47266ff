"""Checks a recording after the fact: was everything that moved certified, and does every certificate hold?

Independent of the nodes: it reads what went over the wire, certifies each certified trajectory anew against the obstacles heard
at that time, and compares what was commanded with the certified trajectories. Independent of the certificates: it measures the
distances of the arm's meshes (coal) from the obstacles, densely along the motion that was measured.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.bench.recording import Recording, joint_states, seconds, trajectory_of, values_of
from tandem.core.errors import InputError
from tandem.core.scene import TABLE, Obstacle, Scene
from tandem.core.trajectory import Trajectory
from tandem.robots.model import ArmModel, load_chain, robot_config
from tandem.safety.bounds import Bounds
from tandem.safety.certify import certify_one
from tandem.safety.meshes import MeshWorld, Nearest

Array = NDArray[np.float64]
log = logging.getLogger(__name__)

#: largest distance of a commanded position from a certified path [rad]
TOLERANCE = 1e-4
#: Marker.type -> kind of obstacle and how its scale gives the size
_CUBE, _SPHERE, _CYLINDER = 1, 2, 3


@dataclass(frozen=True)
class Check:
    """One line of an audit."""

    passed: bool
    subject: str
    text: str


@dataclass(frozen=True)
class Certified:
    """A trajectory that the filter let through: when it arrived, when it was to begin [s], and what it is."""

    heard: float
    start: float
    trajectory: Trajectory

    @property
    def end(self) -> float:
        """When the arm is at rest [s]."""
        return self.start + self.trajectory.duration


def certified_trajectories(recording: Recording) -> list[Certified]:
    """Everything on ``safety_filter/certified``, in order."""
    out = []
    for heard, message in recording.of("safety_filter/certified"):
        trajectory, _, start = trajectory_of(message)
        out.append(Certified(heard, start, trajectory))
    return out


def scene_at(recording: Recording, time: float) -> Scene:
    """The obstacles last heard before ``time`` [s, arrival] (every message tells all), with the table.

    Raises:
        InputError: a marker that is no obstacle.
    """
    message = None
    for heard, candidate in recording.of("obstacles"):
        if heard > time and message is not None:
            break
        message = candidate
    obstacles = [TABLE]
    for marker in message.markers if message is not None else ():
        if marker.action != 0:
            continue
        obstacles.append(_obstacle(marker))
    return Scene(tuple(obstacles))


def _obstacle(marker: Any) -> Obstacle:
    scale, p, o = marker.scale, marker.pose.position, marker.pose.orientation
    sizes: dict[int, tuple[Any, tuple[float, ...]]] = {
        _CUBE: ("box", (0.5 * scale.x, 0.5 * scale.y, 0.5 * scale.z)), _SPHERE: ("sphere", (0.5 * scale.x,)),
        _CYLINDER: ("cylinder", (0.5 * scale.x, 0.5 * scale.z)),
    }
    if marker.type not in sizes:
        raise InputError(f"obstacles: marker {marker.ns}/{marker.id} of type {marker.type}: accepted: cube, sphere, cylinder")
    kind, size = sizes[marker.type]
    bounds = dict(word.split("=") for word in marker.text.split())
    return Obstacle(
        f"{marker.ns}/{marker.id}", kind, size, (p.x, p.y, p.z), (o.w, o.x, o.y, o.z),
        float(bounds.get("position_error", 0.0)), float(bounds.get("speed", 0.0)), seconds(marker.header.stamp),
    )


def judged_at(scene: Scene, heard: float, start: float) -> float:
    """When a trajectory heard at ``heard`` was judged, on the clock of the obstacles' stamps [s]; not after its ``start``."""
    return min(max((o.stamp for o in scene.obstacles if o.stamp > 0.0), default=heard), start)


def _verdicts(recording: Recording, certified: Sequence[Certified]) -> Check:
    """Every certified trajectory has a verdict that names its digest and carries a certificate."""
    signed = {
        m.hardware_id for _, m in recording.of("safety_filter/verdict") if int(m.level) == 0 and values_of(m).get("certificate")
    }
    missing = sum(c.trajectory.digest() not in signed for c in certified)
    return Check(not missing, "verdicts", f"{len(certified)} certified trajectories, {missing} without a signed verdict")


def _again(recording: Recording, certified: Sequence[Certified], arm: ArmModel, bounds: Bounds) -> Check:
    """Each is certified once more, against the scene as it was heard when it was certified."""
    failed, least = [], math.inf
    for c in certified:
        scene = scene_at(recording, c.heard)
        verdict = certify_one(arm, c.trajectory, scene, bounds, judged_at(scene, c.heard, c.start), c.start)
        least = min(least, verdict.clearance)
        if not verdict.certified:
            failed.append(f"{verdict.reason.value} ({verdict.link} {verdict.obstacle})".strip())
    text = f"{len(certified) - len(failed)} of {len(certified)} certified again"
    text += f", least clearance {1e3 * least:.1f} mm" if math.isfinite(least) else ""
    return Check(not failed, "certificates", text + (f"; refused: {failed[0]}" if failed else ""))


def _commanded(recording: Recording, certified: Sequence[Certified]) -> Check:
    """Whatever was commanded lies on the path of a certified trajectory that had begun, or stands where the arm was at first.

    A stop slows down along the certified path, and a fast loop held up by a busy machine puts a trajectory off: then the place
    agrees and the time does not. Those are counted.
    """
    stamps, q, _ = joint_states(recording.of("franka/commanded_joint_states"))
    if not len(stamps):
        return Check(False, "commands", "no commanded joint states in the recording")
    off = np.abs(q - q[0]).max(axis=1)      # not yet moved
    off[off > 1e-6] = np.inf
    for c in certified:
        use = stamps >= c.start - 2e-3
        off[use] = np.minimum(off[use], np.abs(c.trajectory.sample(stamps[use] - c.start)[0] - q[use]).max(axis=1))
    late = np.flatnonzero(off > TOLERANCE)
    for c in certified:
        here = late[stamps[late] >= c.start - 2e-3]
        if len(here):
            off[here] = np.minimum(off[here], off_path(c.trajectory, q[here]))
    bad = int(np.sum(off > TOLERANCE))
    text = f"{len(stamps)} commands, {bad} off the certified paths, {len(late) - bad} later than planned"
    return Check(bad == 0, "commands", f"{text}, largest distance {1e3 * float(off.max()):.3f} mrad")


def off_path(trajectory: Trajectory, q: Array, step: float = 2e-3) -> Array:
    """(B,) distance [rad, largest joint] of positions (B, n) from the trajectory's path, taken as a polyline of ``step`` [s]."""
    path = trajectory.sample(np.arange(0.0, trajectory.duration + step, step))[0]
    start, way = path[:-1], np.diff(path, axis=0)
    length = np.maximum((way * way).sum(axis=-1), 1e-18)
    out = np.empty(len(q))
    for i, x in enumerate(q):
        s = np.clip(((x - start) * way).sum(axis=-1) / length, 0.0, 1.0)
        out[i] = np.abs(start + s[:, None] * way - x).max(axis=-1).min()
    return out


def _tracking(recording: Recording, bounds: Bounds) -> Check:
    """The measured arm stayed within the certified tracking error of what was commanded."""
    stamps, q, _ = joint_states(recording.of("franka/joint_states"))
    told, commanded, _ = joint_states(recording.of("franka/commanded_joint_states"))
    if len(stamps) < 2 or len(told) < 2:
        return Check(False, "tracking", "no joint states in the recording")
    inside = (stamps >= told[0]) & (stamps <= told[-1])
    target = np.stack([np.interp(stamps[inside], told, commanded[:, j]) for j in range(q.shape[1])], axis=1)
    error = np.abs(q[inside] - target).max(axis=0) if inside.any() else np.zeros(q.shape[1])
    bound = np.broadcast_to(np.asarray(bounds.tracking_error), error.shape)
    text = f"largest tracking error {1e3 * error.max():.2f} mrad, certified {1e3 * bound.min():.1f} mrad"
    return Check(bool(np.all(error <= bound)), "tracking", text)


def _meshes(recording: Recording, meshes: MeshWorld) -> Check:
    """The measured arm kept clear of obstacles, table and itself: exact mesh distances, whatever the certificates say."""
    stamps, q, _ = joint_states(recording.of("franka/joint_states"))
    if len(stamps) < 2:
        return Check(False, "meshes", "no joint states in the recording")
    scenes = [(t, scene_at(recording, t)) for t, _ in recording.of("obstacles")] or [(-math.inf, Scene((TABLE,)))]
    heard = np.array([t for t, _ in scenes])
    best, contacts = Nearest(math.inf, 0.0, "", ""), 0
    # every message tells all obstacles: the motion falls into spans with one scene each
    which = np.clip(np.searchsorted(heard, stamps, side="right") - 1, 0, len(scenes) - 1)
    for i in np.unique(which):
        rows = np.flatnonzero(which == i)
        rows = np.arange(rows[0], min(rows[-1] + 2, len(stamps)))      # up to the first sample of the next span
        found, touching = meshes.among(scenes[i][1], stamps[rows], q[rows])
        contacts += touching
        best = found if found.distance < best.distance else best
    text = f"least distance {1e3 * best.distance:.1f} mm, {best.link} to {best.other}, at {best.time - stamps[0]:.2f} s; "
    return Check(contacts == 0, "meshes", text + f"{contacts} measured positions in contact")


def _end(recording: Recording) -> Check:
    """The arm is at rest at the end."""
    stamps, q, _ = joint_states(recording.of("franka/commanded_joint_states"))
    late = stamps >= stamps[-1] - 0.05 if len(stamps) else np.zeros(0, dtype=np.bool_)
    moved = float(np.ptp(q[late], axis=0).max()) if late.any() else math.inf
    return Check(moved < 5e-3, "end", "the arm is at rest" if moved < 5e-3 else f"the arm still moves: {moved:.3f} rad in 50 ms")


def audit(
    recording: Recording, arm: ArmModel, bounds: Bounds, *, at_rest: bool = True, meshes: MeshWorld | None = None
) -> list[Check]:
    """All checks.

    ``at_rest``: the recording was to end with the arm at rest. ``meshes``: the arm's; by default those of config/robots.
    """
    if meshes is None:
        meshes = MeshWorld(arm, load_chain(*robot_config(arm.name)).shapes)
    certified = certified_trajectories(recording)
    checks = [
        _verdicts(recording, certified), _again(recording, certified, arm, bounds), _commanded(recording, certified),
        _tracking(recording, bounds), _meshes(recording, meshes),
    ]
    return [*checks, _end(recording)] if at_rest else checks
