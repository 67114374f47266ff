"""Demonstrations of the mug task: the scripted expert executed in the physics of the scene without obstacles.

``python -m tandem.sim.demonstrations --out models/mug_demonstrations.npz --count 100 --seed 0`` writes the file the shipped
weights are trained on; same seed and count give the same bytes on one machine. Only successful episodes are kept: mug lifted and
held by both fingers, nothing forbidden touched, mug not moved before the fingers close.

Arrays (E episodes; N samples at 10 Hz, M at 100 Hz, concatenated over episodes; the first sample is the start of motion, the last
ends the 0.8 s hold; float32 unless said):

====================  ==========  ===============================================================================================
``offsets``           (E+1,)      int64: episode e has the 10 Hz samples ``offsets[e]:offsets[e+1]``
``offsets_100``       (E+1,)      int64: the same for 100 Hz
``tcp``               (N, 4, 4)   commanded pose of ``fr3_hand_tcp`` in the base frame [m]
``width``             (N,)        commanded gripper width [m]
``q``                 (N, 7)      commanded joint positions [rad]
``q_measured``        (N, 7)      measured joint positions [rad]
``width_measured``    (N,)        measured gripper width [m]
``mug``               (N, 4, 4)   true mug pose in the base frame
``q_100``             (M, 7)      commanded joint positions at 100 Hz [rad]
``way``, ``grasp``    (E,)        int8: index into ``way_names``, ``grasp_names``
``lift_index``        (E,)        int64: 10 Hz sample (within the episode) at which the lift begins; from there on the mug moves
``close_index``       (E,)        int64: 10 Hz sample (within the episode) at which the fingers begin to close
``way_names``         (5,)        str: :data:`tandem.sim.expert.WAYS`
``grasp_names``       (6,)        str: :data:`tandem.sim.expert.GRASPS`
``seed``              ()          int64
====================  ==========  ===============================================================================================
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import ConfigError, InputError
from tandem.sim.expert import DT, GRASPS, START_POSITION, START_YAW, WAYS, ArmSolver, ExpertPlan, NoPlan, hand_pose, plan
from tandem.sim.world import FORBIDDEN, HOME, TIMESTEP, MugWorld, standing_pose

Array = NDArray[np.float64]
log = logging.getLogger(__name__)

#: the tcp starts within this of START_POSITION on each axis [m], the hand turned by up to this from START_YAW [rad]
START_SPREAD = 0.06
YAW_SPREAD = 0.15
#: the mug may be moved by this much before the fingers close [m]
MAX_NUDGE = 0.002
_RATIO = round(DT / TIMESTEP)
_ATTEMPTS = 200


@dataclass(frozen=True)
class Demonstration:
    """One successful episode; all arrays at 100 Hz (T samples): measured q (T, 7), width (T,), mug pose (T, 4, 4)."""

    plan: ExpertPlan
    way: int
    grasp: int
    q_measured: Array
    width_measured: Array
    mug: Array


def random_start(solver: ArmSolver, rng: np.random.Generator) -> Array:
    """(7,) posture with the hand pointing down, its tcp within :data:`START_SPREAD` of :data:`START_POSITION`."""
    offset = rng.uniform(-START_SPREAD, START_SPREAD, 3)
    return solver.solve(hand_pose(START_POSITION + offset, START_YAW + float(rng.uniform(-YAW_SPREAD, YAW_SPREAD))), HOME)


def execute(world: MugWorld, motion: ExpertPlan, mug_pose: Array) -> Demonstration | None:
    """Run ``motion`` in the physics; None when it fails (way and grasp of the result are left 0)."""
    world.reset(mug_pose, motion.q[0])
    steps = (len(motion.q) - 1) * _RATIO
    times = TIMESTEP * np.arange(1, steps + 1)
    curve = motion.trajectory()
    q, v, a = curve(times), curve(times, 1), curve(times, 2)
    width = np.interp(times, DT * np.arange(len(motion.q)), motion.width)
    rows = [(world.joint_positions(), world.gripper_width(), world.mug_pose())]
    for i in range(steps):
        world.step(q[i], v[i], a[i], float(width[i]))
        if (i + 1) % _RATIO == 0:
            rows.append((world.joint_positions(), world.gripper_width(), world.mug_pose()))
    mug = np.stack([r[2] for r in rows])
    nudge = float(np.linalg.norm(mug[motion.approach_end, :3, 3] - mug_pose[:3, 3]))
    if any(c.kind in FORBIDDEN for c in world.incidents) or nudge > MAX_NUDGE or not world.lifted():
        return None
    return Demonstration(motion, 0, 0, np.stack([r[0] for r in rows]), np.array([r[1] for r in rows]), mug)


def generate(count: int, seed: int, world: MugWorld | None = None) -> Iterator[Demonstration]:
    """``count`` successful demonstrations; every way equally often (up to one), mug, start and grasp drawn at random.

    Args:
        count: 1 or more. seed: of everything random. world: where to execute, default the scene without obstacles.

    Raises:
        InputError: ``count`` below 1, or a way that cannot be executed in this scene.
    """
    if count < 1:
        raise InputError(f"count = {count}: accepted: 1 or more")
    world = world or MugWorld()
    solver = ArmSolver(world.model)
    order = np.random.default_rng([seed, 0]).permutation(np.arange(count) % len(WAYS))
    for episode in range(count):
        for attempt in range(_ATTEMPTS):
            rng = np.random.default_rng([seed, 1, episode, attempt])
            span = world.scene.mug
            mug_pose = standing_pose(*(float(rng.uniform(*r)) for r in (span.x, span.y, span.yaw)))
            way, grasp = int(order[episode]), int(rng.integers(len(GRASPS)))
            along, deeper = float(rng.uniform(-0.005, 0.005)), float(rng.uniform(-0.003, 0.003))
            try:
                q_start = random_start(solver, rng)
                motion = plan(
                    solver, world.mug, mug_pose, q_start, WAYS[way], GRASPS[grasp], float(rng.uniform()), along, deeper
                )
            except NoPlan as reason:
                log.debug("episode %d attempt %d: %s %s: %s", episode, attempt, WAYS[way], GRASPS[grasp], reason)
                continue
            done = execute(world, motion, mug_pose)
            if done is not None:
                yield Demonstration(done.plan, way, grasp, done.q_measured, done.width_measured, done.mug)
                break
            log.info("episode %d attempt %d: %s %s failed in the physics", episode, attempt, WAYS[way], GRASPS[grasp])
        else:
            raise InputError(f"way {WAYS[int(order[episode])]!r}: no success in {_ATTEMPTS} attempts in this scene")


def pack(demonstrations: list[Demonstration], seed: int) -> dict[str, NDArray[np.generic]]:
    """The arrays of the file, see the module's text."""
    every = 10

    def join(parts: list[Array]) -> NDArray[np.float32]:
        return np.concatenate(parts).astype(np.float32)

    plans = [d.plan for d in demonstrations]
    lengths = np.array([len(p.q) for p in plans])
    return {
        "offsets": np.concatenate([[0], np.cumsum((lengths - 1) // every + 1)]).astype(np.int64),
        "offsets_100": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "tcp": join([p.tcp[::every] for p in plans]),
        "width": join([p.width[::every] for p in plans]),
        "q": join([p.q[::every] for p in plans]),
        "q_measured": join([d.q_measured[::every] for d in demonstrations]),
        "width_measured": join([d.width_measured[::every] for d in demonstrations]),
        "mug": join([d.mug[::every] for d in demonstrations]),
        "q_100": join([p.q for p in plans]),
        "way": np.array([d.way for d in demonstrations], dtype=np.int8),
        "grasp": np.array([d.grasp for d in demonstrations], dtype=np.int8),
        "lift_index": np.array([p.lift_start // every for p in plans], dtype=np.int64),
        "close_index": np.array([p.approach_end // every for p in plans], dtype=np.int64),
        "way_names": np.array(WAYS),
        "grasp_names": np.array(GRASPS),
        "seed": np.array(seed, dtype=np.int64),
    }


def save(path: str | Path, count: int, seed: int) -> dict[str, NDArray[np.generic]]:
    """Generate and write the file; returns its arrays."""
    made: list[Demonstration] = []
    for demonstration in generate(count, seed):
        made.append(demonstration)
        if len(made) % 10 == 0:
            log.info("%d of %d demonstrations", len(made), count)
    arrays = pack(made, seed)
    with Path(path).open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return arrays


def load(path: str | Path) -> dict[str, NDArray[np.generic]]:
    """Read a file written by :func:`save`.

    Raises:
        ConfigError: unreadable, an array missing, or lengths that disagree.
    """
    names = (
        "offsets", "offsets_100", "tcp", "width", "q", "q_measured", "width_measured", "mug", "q_100", "way", "grasp",
        "lift_index", "close_index", "way_names", "grasp_names", "seed",
    )
    try:
        with np.load(path, allow_pickle=False) as file:
            data = {k: file[k] for k in file.files}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as npz: {error}") from error
    missing = [n for n in names if n not in data]
    if missing:
        raise ConfigError(f"{path}: missing array(s) {', '.join(missing)}; expected {', '.join(names)}")
    total, total_100 = int(data["offsets"][-1]), int(data["offsets_100"][-1])
    for key in ("tcp", "width", "q", "q_measured", "width_measured", "mug"):
        if len(data[key]) != total:
            raise ConfigError(f"{path}: {key}: {len(data[key])} samples; offsets say {total}")
    if len(data["q_100"]) != total_100 or len(data["way"]) != len(data["offsets"]) - 1:
        raise ConfigError(f"{path}: q_100 or way: lengths {len(data['q_100'])}, {len(data['way'])} disagree with the offsets")
    return data


def main(argv: list[str] | None = None) -> None:
    """Command line: ``--out FILE --count N --seed S``."""
    parser = argparse.ArgumentParser("python -m tandem.sim.demonstrations", description="Record demonstrations of the mug task.")
    parser.add_argument("--out", type=Path, required=True, help="npz file to write")
    parser.add_argument("--count", type=int, default=100, help="successful episodes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arrays = save(options.out, options.count, options.seed)
    log.info("%s: %d episodes, %d samples at 10 Hz", options.out, options.count, len(arrays["tcp"]))


if __name__ == "__main__":
    main()
