"""Does the mug policy keep the demonstrations' modes? Shares of ways and grasps, in its samples and in its episodes.

Ways: chunks sampled from the rest at the start of a task, for many mug poses, each given to the demonstration whose first 1.6 s
are nearest (displacement in the frame of the line from hand to mug). Grasps: the plain policy's episodes without obstacles, each
given to the demonstrated grasp whose hand pose in the mug's frame is nearest when the fingers close.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from tandem.bench.lockstep import LockstepEpisode, NoFilter
from tandem.bench.statistics import share
from tandem.bench.table import write_table
from tandem.core.errors import InputError
from tandem.core.se3 import inverse
from tandem.diffusion.denoiser import NetworkDenoiser
from tandem.diffusion.reverse import SolverConfig, denoise
from tandem.perception import MarkerPoseEstimator
from tandem.robots.kinematics import tcp_pose
from tandem.sim import demonstrations
from tandem.sim.world import MugWorld
from tandem.tasks.mug.chunks import decode, encode_condition, present_step
from tandem.tasks.mug.planner import MugPlanner
from tandem.tasks.mug.policy import weights_path

Array = NDArray[np.float64]


def line_displacements(start: Array, mug: Array, path: Array) -> Array:
    """(..., H * 3) displacements of paths (..., H, 3) from ``start`` (3,): along, left of, above the line to ``mug`` (3,) [m]."""
    along = (mug - start) * np.array([1.0, 1.0, 0.0])
    along /= np.linalg.norm(along)
    left = np.array([-along[1], along[0], 0.0])
    frame = np.stack([along, left, [0.0, 0.0, 1.0]])
    moved = (path - start) @ frame.T
    return moved.reshape(*moved.shape[:-2], -1)


def _demonstrated(data: dict[str, NDArray[Any]], horizon: int) -> tuple[Array, Array]:
    """Way features (E, H * 3) and hand poses in the mug's frame when the fingers close (E, 4, 4)."""
    features, closing = [], []
    for e, begin in enumerate(data["offsets"][:-1]):
        tcp, mug = data["tcp"][begin:].astype(float), data["mug"][begin].astype(float)
        features.append(line_displacements(tcp[0, :3, 3], mug[:3, 3], tcp[1 : horizon + 1, :3, 3]))
        closing.append(inverse(mug) @ tcp[data["lift_index"][e]])
    return np.stack(features), np.stack(closing)


def _clean(denoiser: NetworkDenoiser, cond: torch.Tensor, x: torch.Tensor, i: int) -> torch.Tensor:
    return denoiser.clean(x, i, cond)


def sampled_ways(planner: MugPlanner, features: Array, labels: NDArray[np.int64], poses: int, count: int, seed: int) -> Array:
    """(poses, ways) counts of the ways of ``count`` samples at the start of a task, for ``poses`` mug poses."""
    world = MugWorld(seed=seed)
    ways = int(labels.max()) + 1
    out = np.zeros((poses, ways))
    generator = torch.Generator(device=planner.denoiser.device).manual_seed(seed)
    denoiser = planner.denoiser
    for i in range(poses):
        mug = world.random_mug_pose()
        world.reset(mug)
        tcp = tcp_pose(planner.arm, np.stack([world.joint_positions()] * 2))
        condition = encode_condition(mug, tcp, np.full(2, 0.08))
        cond = denoiser.normalise_cond(torch.as_tensor(condition, dtype=torch.float32, device=denoiser.device))
        noise = torch.randn(count, planner.config.horizon, 10, generator=generator, device=denoiser.device)
        clean = partial(_clean, denoiser, cond)
        with torch.inference_mode():
            x, _ = denoise(denoiser.schedule, clean, noise, denoiser.schedule.steps, SolverConfig(), generator)
            chunk = denoiser.denormalise(x).cpu().numpy().astype(float)
        path = decode(mug, chunk, present_step(condition))[0][..., :3, 3]
        sample = line_displacements(tcp[1, :3, 3], mug[:3, 3], path)
        nearest = np.argmin(((sample[:, None] - features[None]) ** 2).sum(-1), axis=1)
        out[i] = np.bincount(labels[nearest], minlength=ways)
    return out


def executed_grasps(
    planner: MugPlanner, closing: Array, labels: NDArray[np.int64], episodes: int, seed: int
) -> tuple[list[int], int]:
    """Grasp labels of the successful episodes of the plain policy without obstacles, and how many succeeded."""
    grasps, succeeded = [], 0
    for e in range(episodes):
        world = MugWorld(seed=seed + e)
        mug = world.random_mug_pose()
        world.reset(mug)
        planner.reset(seed + e)
        record = LockstepEpisode(world, planner, NoFilter(), MarkerPoseEstimator(world.mug)).run()
        world.close()
        succeeded += record.task_success
        if record.task_success:
            closed = int(np.argmax(record.width < 0.075)) if np.any(record.width < 0.075) else 0
            hand = inverse(mug) @ tcp_pose(planner.arm, record.q_commanded[closed][None])[0]
            far = np.linalg.norm(closing[:, :3, 3] - hand[:3, 3], axis=1)
            far += 0.05 * np.linalg.norm(closing[:, :3, 0] - hand[:3, 0], axis=1)
            grasps.append(int(labels[int(np.argmin(far))]))
    return grasps, succeeded


def run(out: Path, quick: bool = False, *, poses: int = 20, count: int = 256, episodes: int = 100, seed: int = 5000) -> int:
    """Write ``table.json`` and ``table.md``: shares of ways and grasps beside the demonstrations', success without obstacles.

    Args:
        out: folder. quick: 3 poses, 2 episodes. poses: mug poses. count: samples each. episodes: of the plain policy.

    Returns:
        0, or 1 when a demonstrated way never appears.
    """
    if min(poses, count, episodes) < 1:
        raise InputError(f"poses = {poses}, count = {count}, episodes = {episodes}: accepted: 1 or more")
    began = time.monotonic()
    poses, episodes = (3, 2) if quick else (poses, episodes)
    planner = MugPlanner.load("policy", seed)
    data = demonstrations.load(weights_path("mug").with_name("mug_demonstrations.npz"))
    features, closing = _demonstrated(data, planner.config.horizon)
    ways, grasps = data["way"].astype(int), data["grasp"].astype(int)
    counts = sampled_ways(planner, features, ways, poses, count, seed)
    done, succeeded = executed_grasps(planner, closing, grasps, episodes, seed)
    own = {"task": "mug", "method": "policy"}
    rows: list[dict[str, Any]] = [{**own, "condition": "no obstacles", "n": episodes, "task_success": share(succeeded, episodes)}]
    total = int(counts.sum())
    for i, name in enumerate(data["way_names"]):
        rows.append({
            **own, "condition": f"way {name}", "n": total, "share": share(int(counts[:, i].sum()), total),
            "demonstrated": float(np.mean(ways == i)), "poses_with_it": float(np.mean(counts[:, i] >= 0.02 * count)),
        })
    for i, name in enumerate(data["grasp_names"]):
        rows.append({
            **own, "condition": f"grasp {name}", "n": len(done), "share": share(done.count(i), len(done)),
            "demonstrated": float(np.mean(grasps == i)),
        })
    command = f"tandem bench modes --poses {poses} --count {count} --episodes {episodes} --seed {seed}"
    write_table(out, rows, command=command, seeds=[seed], wall_s=time.monotonic() - began)
    Console().print((out / "table.md").read_text(encoding="utf-8"), markup=False, highlight=False, soft_wrap=True)
    return 0 if np.all(counts.sum(0) > 0) else 1
