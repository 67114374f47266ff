"""Arms with prismatic joints, written as URDF and fitted on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tandem.core.scene import Obstacle, Scene
from tandem.core.trajectory import Trajectory
from tandem.robots.fit import fit_arm
from tandem.robots.kinematics import sphere_centers
from tandem.robots.model import ArmModel, load_arm
from tandem.safety import BackupFamily

Array = NDArray[np.float64]
Joint = tuple[str, str, str, float, float]

#: joints (kind, axis, origin, lower, upper) and boxes (half sizes, centre) of the links, the base's first
SCARA: tuple[list[Joint], list[tuple[Array, Array]]] = (
    [
        ("prismatic", "0 0 1", "0 0 0.3", 0.0, 0.4), ("revolute", "0 0 1", "0.1 0 0.1", -2.8, 2.8),
        ("revolute", "0 0 1", "0.4 0 0.05", -2.95, 2.95), ("prismatic", "0 0 -1", "0.38 0 0", 0.0, 0.3),
        ("revolute", "0 1 0", "0 0 -0.05", -2.0, 2.0),
    ],
    [
        (np.array([0.1, 0.1, 0.15]), np.array([0.0, 0.0, 0.15])), (np.array([0.08, 0.08, 0.05]), np.array([0.05, 0.0, 0.05])),
        (np.array([0.22, 0.05, 0.03]), np.array([0.2, 0.0, 0.0])), (np.array([0.2, 0.04, 0.03]), np.array([0.17, 0.0, 0.0])),
        (np.array([0.02, 0.02, 0.1]), np.array([0.0, 0.0, 0.05])), (np.array([0.03, 0.02, 0.12]), np.array([0.0, 0.0, -0.1])),
    ],
)
GANTRY: tuple[list[Joint], list[tuple[Array, Array]]] = (
    [
        ("prismatic", "1 0 0", "-0.4 0 1.0", 0.0, 0.8), ("prismatic", "0 1 0", "0 -0.3 0", 0.0, 0.6),
        ("prismatic", "0 0 -1", "0 0 0", 0.0, 0.7), ("revolute", "0.6 0 0.8", "0 0 -0.1", -3.0, 3.0),
    ],
    [
        (np.array([0.45, 0.03, 0.03]), np.array([0.0, -0.45, 1.0])), (np.array([0.04, 0.45, 0.04]), np.array([0.0, 0.0, 0.1])),
        (np.array([0.06, 0.06, 0.05]), np.array([0.0, 0.0, 0.0])), (np.array([0.02, 0.02, 0.1]), np.array([0.0, 0.0, 0.0])),
        (np.array([0.12, 0.02, 0.03]), np.array([0.08, 0.0, 0.0])),
    ],
)


def write_arm(folder: Path, name: str, what: tuple[list[Joint], list[tuple[Array, Array]]]) -> Path:
    """URDF, configuration and fitted spheres of a chain of boxes; the configuration's path."""
    joints, boxes = what
    lines = [f'<robot name="{name}">']
    for i, (half, center) in enumerate(boxes):
        size, at = (" ".join(map(str, x)) for x in (2.0 * half, center))
        shape = f'<collision><origin xyz="{at}"/><geometry><box size="{size}"/></geometry></collision>'
        lines.append(f'<link name="l{i}">{shape}</link>')
    for i, (kind, axis, origin, lower, upper) in enumerate(joints):
        lines.append(
            f'<joint name="j{i}" type="{kind}"><parent link="l{i}"/><child link="l{i + 1}"/><origin xyz="{origin}"/>'
            f'<axis xyz="{axis}"/><limit lower="{lower}" upper="{upper}" velocity="1.5" effort="1"/></joint>'
        )
    tip = f'<link name="tip"/><joint name="fix" type="fixed"><parent link="l{len(joints)}"/><child link="tip"/></joint>'
    (folder / f"{name}.urdf").write_text("\n".join([*lines, tip, "</robot>"]))
    path = folder / f"{name}.yaml"
    n = len(joints)
    path.write_text(
        f"{{name: {name}, urdf: {name}.urdf, base: l0, tcp: tip, spheres: {name}_spheres.yaml, fit: {{steps: 100, spheres: 5}},\n"
        f" limits: {{acceleration: {[8.0] * n}, jerk: {[2000.0] * n}}}}}\n"
    )
    text, target = fit_arm(path)
    target.write_text(text)
    load_arm(path)
    return path


def arm_motion(arm: ArmModel, rng: np.random.Generator, spread: float = 0.6) -> Trajectory:
    """A backup of 1 s from a random state, in the middle ``spread`` of the arm's joint ranges, mostly within its limits."""
    middle, half = 0.5 * (arm.lower + arm.upper), 0.5 * (arm.upper - arm.lower)
    share = np.where(arm.joint_type == 1, half, 1.0)
    family = BackupFamily(k_max=(10.0,) * arm.n)
    rows = [rng.uniform(-1.0, 1.0, arm.n) for _ in range(4)]
    return family.trajectory(middle + spread * half * rows[0], 0.6 * share * rows[1], 0.5 * share * rows[2], share * rows[3])


def around(arm: ArmModel, t: Trajectory, rng: np.random.Generator, count: int = 6) -> Scene:
    """Obstacles of all kinds near places where the arm's balls pass."""
    out = []
    for i in range(count):
        q = t.sample(rng.uniform(0.0, t.duration))[0]
        p = sphere_centers(arm, q)[rng.integers(len(arm.sphere_radius))] + rng.normal(0.0, 0.35, 3)
        turn = rng.normal(size=4)
        turn /= np.linalg.norm(turn)
        kind = ("box", "sphere", "cylinder", "capsule")[i % 4]
        size = {"box": (0.05, 0.07, 0.04), "sphere": (0.06,), "cylinder": (0.05, 0.1), "capsule": (0.05, 0.1)}[kind]
        at, way = (p[0], p[1], p[2]), (turn[0], turn[1], turn[2], turn[3])
        more = {"speed": 0.05, "stamp": -0.1} if i == 0 else {"position_error": 0.01} if i == 1 else {}
        out.append(Obstacle(f"o{i}", kind, size, at, way, **more))  # type: ignore[arg-type]
    return Scene(tuple(out))
