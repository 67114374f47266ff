"""Seeded worlds of boxes around the arm with a random start and goal, for planners in joint space.

After the experiments of ARMTD and SPARROWS (N cubes of 0.2 m anywhere in the arm's reach, random start and goal): start and goal
are drawn first, uniformly within the joint limits, then every box uniformly over the workspace, drawn anew while it comes too
near to the arm in either. Free means free by exact mesh distances (coal), not by what a planner thinks. Nothing says that a way
exists.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import InputError
from tandem.core.scene import TABLE, Obstacle, Scene
from tandem.robots.kinematics import fk
from tandem.safety.meshes import MeshWorld

Array = NDArray[np.float64]

#: half the side of a box [m]
HALF = 0.1
#: where the centres of boxes lie [m]: the arm's reach, above the table
LOWEST, HIGHEST = np.array([-0.85, -0.85, HALF]), np.array([0.85, 0.85, 1.15])
#: what the arm keeps from boxes, table and itself at start and goal [m]
APART = 0.02
#: start and goal keep this from the joint limits, where the speed limits leave no room to move [rad]
INSIDE = 0.1


@dataclass(frozen=True)
class ClutteredWorld:
    """A world: ``scene`` (table and boxes), ``start`` and ``goal`` (n,) [rad], the ``seed`` it came from."""

    scene: Scene
    start: Array
    goal: Array
    seed: int


def cluttered_world(meshes: MeshWorld, boxes: int, seed: int) -> ClutteredWorld:
    """The world of that seed.

    Args:
        meshes: the arm's collision meshes. boxes: how many. seed: decides everything together with ``boxes``.

    Raises:
        InputError: a number of boxes outside 0 .. 200.
    """
    if not 0 <= boxes <= 200:
        raise InputError(f"boxes = {boxes}: accepted: 0 .. 200")
    rng = np.random.default_rng([boxes, seed])
    start, goal = (_posture(meshes, rng) for _ in range(2))
    ends = fk(meshes.arm, np.stack([start, goal]))
    scene = Scene((TABLE,))
    while len(scene.obstacles) < boxes + 1:
        x, y, z = rng.uniform(LOWEST, HIGHEST)
        box = Obstacle(f"box{len(scene.obstacles)}", "box", (HALF,) * 3, (x, y, z))
        if all(meshes.nearest(Scene((box,)), frames, itself=False).distance >= APART for frames in ends):
            scene = scene.with_obstacles(box)
    return ClutteredWorld(scene, start, goal, seed)


def _posture(meshes: MeshWorld, rng: np.random.Generator) -> Array:
    """A configuration clear of table and arm."""
    arm = meshes.arm
    while True:
        q = rng.uniform(arm.lower + INSIDE, arm.upper - INSIDE)
        if meshes.clearance(Scene((TABLE,)), fk(arm, q)) >= APART:
            return q
