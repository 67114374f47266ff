"""A made-up episode with a real arm model, camera image and scene: for tests of records, pictures and reports."""

from __future__ import annotations

import numpy as np

from tandem.bench.record import EpisodeRecord, PlanRecord
from tandem.core.scene import Obstacle
from tandem.core.types import Candidate
from tandem.sim.scene_file import MugScene
from tandem.sim.world import HOME, MugWorld, standing_pose

REACH = np.array([0.12, 0.25, -0.08, -2.15, 0.05, 2.42, 0.8])


def scene() -> MugScene:
    """Two obstacles beside the way to the mug."""
    return MugScene(name="made-up", kind="cluttered", obstacles=(
        Obstacle("post", "cylinder", (0.03, 0.15), (0.42, -0.18, 0.15)),
        Obstacle("crate", "box", (0.05, 0.06, 0.08), (0.38, 0.22, 0.08)),
    ))


def candidates(start: np.ndarray, goal: np.ndarray, rng: np.random.Generator, count: int = 40) -> list[Candidate]:
    """Arcs from start to goal; those that swing to the left are feasible, one is chosen and has a backup."""
    s = np.linspace(0.0, 1.0, 16)[:, None]
    out = []
    for _ in range(count):
        bow = rng.normal(0.0, 0.12, 3) * np.array([0.4, 1.0, 0.6])
        path = start + s * (goal - start) + np.sin(np.pi * s) * bow
        path[:, 2] = np.maximum(path[:, 2], 0.03)
        out.append(Candidate(path, bool(bow[1] > 0.0), float(np.abs(bow).sum()), False))
    best = min((c for c in out if c.feasible), key=lambda c: c.cost)
    backup = best.path[8] + np.linspace(0.0, 1.0, 12)[:, None] * np.array([0.02, 0.03, 0.05])
    out.append(Candidate(best.path, True, best.cost, True, backup))
    return out


def synthetic(seconds: float = 4.0, *, render: bool = True, plans: int = 5, seed: int = 0) -> EpisodeRecord:
    """An arm that goes down to the mug and up again; ``render`` False leaves the camera's pictures out (no OpenGL needed)."""
    rng = np.random.default_rng(seed)
    world = MugWorld(scene(), seed=seed)
    mug = standing_pose(0.52, 0.05, 3.0)
    world.reset(mug)
    time = np.arange(0.0, seconds, 0.01)
    phase = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.clip(time / seconds, 0.0, 1.0))
    commanded = HOME + phase[:, None] * (REACH - HOME)
    measured = commanded + 0.002 * rng.standard_normal(commanded.shape)
    poses = np.tile(world.qpos[9:16], (len(time), 1))
    poses[:, 2] += np.where(time > 0.5 * seconds, 0.4 * (time - 0.5 * seconds), 0.0) * 0.15
    width = np.where(time > 0.45 * seconds, 0.05, 0.08)
    mode = np.where(time % 1.0 < 0.85, "TRACKING", "BACKUP")
    record = EpisodeRecord(
        scene(), {"task": "mug", "method": "steered", "seed": seed, "source": "lockstep", "scene": "made-up"},
        time=time, q_commanded=commanded, q_measured=measured, width=width, mode=mode, mug_pose=poses,
        camera_matrix=world.camera_matrix(), camera_pose=world.camera_pose(),
        contacts={}, task_success=True, at_rest=True, intervention=0.15, wall_s=seconds * 1.01,
        rates={"joint_states": 100.0, "camera": 10.0},
    )
    world.reset(mug)
    start, goal = world.tcp_pose()[:3, 3], mug[:3, 3] + np.array([0.0, 0.0, 0.1])
    for i in range(plans):
        ok = i % 3 != 2
        clearance = float(rng.uniform(0.005, 0.06)) if ok else -0.01
        record.plans.append(PlanRecord(
            i * seconds / plans, i * seconds / plans + 0.4, float(rng.uniform(150, 400)), float(rng.uniform(2, 9)), "planned",
            "certified" if ok else "collision not excluded", ok, clearance, 3300, 12000, {},
            candidates(start + 0.1 * i * (goal - start), goal, rng),
        ))
    if render:
        image = world.render()
        record.camera_image, record.camera_image_time = image, 0.0
        record.frames, record.frame_time = image[None, ::4, ::4], np.zeros(1)
        record.detection_time, record.detection_pose = np.zeros(1), mug[None]
    world.close()
    return record
