"""One episode as it happened: what a report, a replay or a later question needs. Written by the lockstep bench and by the demo.

On disk a folder: ``record.npz`` (arrays) and ``record.json`` (all else). Times are seconds since the episode's start.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import InputError
from tandem.core.types import Candidate
from tandem.sim.scene_file import MugScene, load_mug_scene, save_mug_scene
from tandem.sim.world import FORBIDDEN

Array = NDArray[np.float64]
Image = NDArray[np.uint8]
FORMAT = 1
#: key of forbidden contacts whose kind a recording does not tell
UNTOLD = "robot (kind not recorded)"


@dataclass
class PlanRecord:
    """One planning attempt.

    Attributes:
        time: when it began. switch_time: for when it was made. plan_ms, certify_ms: wall time [ms].
        reason: the planner's word. verdict: the filter's word ("" if it was not asked). certified: whether it might be played.
        clearance: certified lower bound [m], NaN if there is none.
        network_rows, potential_evals, failures: work done (``core.types.Counters``).
        candidates: the sampled plans.
    """

    time: float
    switch_time: float
    plan_ms: float
    certify_ms: float
    reason: str
    verdict: str
    certified: bool
    clearance: float
    network_rows: int = 0
    potential_evals: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    candidates: list[Candidate] = field(default_factory=list)


@dataclass
class EpisodeRecord:
    """One episode.

    Attributes:
        scene: with obstacles and cameras. meta: task, method, seed, source ("lockstep" or "ros") and whatever else explains it.
        time: (T,). q_commanded, q_measured: (T, 7) [rad]. width: (T,) measured gripper width [m]. mode: (T,) executor mode.
        mug_pose: (T, 7) true position [m] and quaternion w x y z of the mug (scoring and pictures only), NaN where unknown.
        plans: every planning attempt in order.
        frames: (F, h, w, 3) camera images, reduced. frame_time: (F,).
        camera_image: (H, W, 3) one image in full, taken at ``camera_image_time``; camera_matrix: (3, 3) of it;
        camera_pose: (4, 4) optical frame in the base frame.
        detection_time: (D,). detection_pose: (D, 4, 4), NaN where no pose was given.
        contacts: contacts by kind, counted by the simulator. task_success: mug lifted and held. at_rest: arm at rest at the end.
        intervention: share of the time under backup, fail-safe motion or stop. wall_s: wall time. rates: topics or loops [Hz].
    """

    scene: MugScene
    meta: dict[str, Any] = field(default_factory=dict)
    time: Array = field(default_factory=lambda: np.zeros(0))
    q_commanded: Array = field(default_factory=lambda: np.zeros((0, 7)))
    q_measured: Array = field(default_factory=lambda: np.zeros((0, 7)))
    width: Array = field(default_factory=lambda: np.zeros(0))
    mode: NDArray[np.str_] = field(default_factory=lambda: np.zeros(0, dtype="<U16"))
    mug_pose: Array = field(default_factory=lambda: np.zeros((0, 7)))
    plans: list[PlanRecord] = field(default_factory=list)
    frames: Image = field(default_factory=lambda: np.zeros((0, 1, 1, 3), dtype=np.uint8))
    frame_time: Array = field(default_factory=lambda: np.zeros(0))
    camera_image: Image = field(default_factory=lambda: np.zeros((0, 0, 3), dtype=np.uint8))
    camera_image_time: float = math.nan
    camera_matrix: Array = field(default_factory=lambda: np.eye(3))
    camera_pose: Array = field(default_factory=lambda: np.eye(4))
    detection_time: Array = field(default_factory=lambda: np.zeros(0))
    detection_pose: Array = field(default_factory=lambda: np.zeros((0, 4, 4)))
    contacts: dict[str, int] = field(default_factory=dict)
    task_success: bool = False
    at_rest: bool = False
    intervention: float = 0.0
    wall_s: float = math.nan
    rates: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ticks = len(self.time)
        joints = (ticks, 7)
        expected = {"q_commanded": joints, "q_measured": joints, "mug_pose": joints, "width": (ticks,), "mode": (ticks,)}
        for name, shape in expected.items():
            if np.shape(getattr(self, name)) != shape:
                raise InputError(f"episode record: {name} has shape {np.shape(getattr(self, name))}; expected {shape}")
        if len(self.frames) != len(self.frame_time) or len(self.detection_pose) != len(self.detection_time):
            raise InputError("episode record: frames and frame_time, or detection_pose and detection_time, differ in length")

    @property
    def duration(self) -> float:
        """Length [s]."""
        return float(self.time[-1] - self.time[0]) if len(self.time) > 1 else 0.0

    @property
    def robot_contacts(self) -> int:
        """Contacts of arm or hand with obstacles, table or itself."""
        return sum(n for kind, n in self.contacts.items() if kind in (*FORBIDDEN, UNTOLD))

    @property
    def certified_plans(self) -> int:
        """How many plans were certified."""
        return sum(p.certified for p in self.plans)

    def mug_lift(self) -> Array:
        """(T,) height of the mug's bottom above where it stood at first [m]."""
        return self.mug_pose[:, 2] - (self.mug_pose[0, 2] if len(self.mug_pose) else 0.0)

    # ---- on disk ------------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write ``record.npz``, ``record.json`` and ``scene.yaml`` into ``folder`` (made if need be)."""
        folder.mkdir(parents=True, exist_ok=True)
        save_mug_scene(self.scene, folder / "scene.yaml")
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        plain = []
        for i, plan in enumerate(self.plans):
            row = asdict(plan)
            row["candidates"] = [
                {"feasible": c.feasible, "cost": c.cost, "chosen": c.chosen, "backup": c.backup_path is not None}
                for c in plan.candidates
            ]
            plain.append(row)
            for j, c in enumerate(plan.candidates):
                arrays[f"plan{i}_path{j}"] = np.asarray(c.path, dtype=np.float32)
                if c.backup_path is not None:
                    arrays[f"plan{i}_backup{j}"] = np.asarray(c.backup_path, dtype=np.float32)
        np.savez_compressed(folder / "record.npz", **arrays)
        data = {"format": FORMAT, **{name: getattr(self, name) for name in _PLAIN}, "plans": plain}
        (folder / "record.json").write_text(json.dumps(data, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> EpisodeRecord:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: missing or malformed files; names them.
        """
        try:
            data = json.loads((folder / "record.json").read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise InputError(f"{folder / 'record.json'}: format = {data['format']}: accepted: {FORMAT}")
            with np.load(folder / "record.npz", allow_pickle=False) as arrays:
                stored = {name: arrays[name] for name in arrays.files}
            plans = []
            for i, row in enumerate(data["plans"]):
                candidates = [
                    Candidate(
                        stored[f"plan{i}_path{j}"].astype(np.float64), c["feasible"], c["cost"], c["chosen"],
                        stored[f"plan{i}_backup{j}"].astype(np.float64) if c["backup"] else None,
                    )
                    for j, c in enumerate(row.pop("candidates"))
                ]
                plans.append(PlanRecord(**row, candidates=candidates))
            kept = {name: stored[name] for name in _ARRAYS}
            return cls(load_mug_scene(folder / "scene.yaml"), plans=plans, **kept, **{name: data[name] for name in _PLAIN})
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise InputError(f"{folder}: not an episode record: {type(error).__name__}: {error}") from error


_ARRAYS = (
    "time", "q_commanded", "q_measured", "width", "mode", "mug_pose", "frames", "frame_time", "camera_image", "camera_matrix",
    "camera_pose", "detection_time", "detection_pose",
)
_PLAIN = ("meta", "camera_image_time", "contacts", "task_success", "at_rest", "intervention", "wall_s", "rates")


def summary(record: EpisodeRecord) -> dict[str, Any]:
    """``summary.json``: the figures of one episode, with the verdict in words. Unknown numbers are None."""
    plan = np.array([p.plan_ms for p in record.plans if math.isfinite(p.plan_ms)])
    certify = np.array([p.certify_ms for p in record.plans if math.isfinite(p.certify_ms)])
    both = np.array([p.plan_ms + p.certify_ms for p in record.plans if math.isfinite(p.plan_ms + p.certify_ms)])
    clearances = [p.clearance for p in record.plans if p.certified and math.isfinite(p.clearance)]

    def quantile(values: Array, q: float) -> float | None:
        return round(float(np.quantile(values, q)), 2) if len(values) else None

    rejected: dict[str, int] = {}
    for p in record.plans:
        if not p.certified:
            why = p.verdict or p.reason
            rejected[why] = rejected.get(why, 0) + 1
    rtf = record.duration / record.wall_s if math.isfinite(record.wall_s) and record.wall_s > 0.0 else None
    return {
        "verdict": verdict(record),
        "task_success": record.task_success,
        "safe_success": record.task_success and record.robot_contacts == 0,
        "contacts": record.robot_contacts,
        "contact_kinds": dict(record.contacts),
        "certified": record.certified_plans,
        "plans": len(record.plans),
        "rejected": rejected,
        "intervention": round(record.intervention, 4),
        "at_rest": record.at_rest,
        "episode_s": round(record.duration, 3),
        "rtf": None if rtf is None else round(rtf, 3),
        "plan_ms_p50": quantile(plan, 0.5), "plan_ms_p95": quantile(plan, 0.95), "plan_ms_max": quantile(plan, 1.0),
        "certify_ms_p50": quantile(certify, 0.5), "certify_ms_p95": quantile(certify, 0.95),
        "plan_and_certify_ms_p95": quantile(both, 0.95),
        "least_certified_clearance": min(clearances, default=None),
        "mug_lift": round(float(np.nanmax(record.mug_lift())), 4) if np.isfinite(record.mug_pose).any() else None,
        "rates": {k: round(v, 2) for k, v in record.rates.items()},
        **{k: v for k, v in record.meta.items() if isinstance(v, (str, int, float, bool)) or v is None},
    }


def verdict(record: EpisodeRecord) -> str:
    """The episode in one sentence."""
    task = "The mug was picked up" if record.task_success else "The mug was not picked up"
    touched = record.robot_contacts
    plural = "s" if touched > 1 else ""
    count = f"{touched} contact{plural}" if touched else "no contact"
    resumes = int(record.meta.get("operator_resumes", 0))
    helped = f" The arm was stopped and resumed by the operator {resumes} time{'s' if resumes > 1 else ''}." if resumes else ""
    return f"{task}; {count} with obstacles, table or itself.{helped}"
