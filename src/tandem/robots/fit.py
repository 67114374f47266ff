"""Fit an arm's collision spheres and derive which link pairs can collide. Offline and deterministic::

    python -m tandem.robots.fit fr3 [--out FILE]

writes the YAML that ``spheres:`` of ``config/robots/<arm>.yaml`` names. Needs the URDF's meshes; the result does not.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tandem.core.errors import ConfigError, TandemError
from tandem.robots.geometry import fit_spheres
from tandem.robots.kinematics import fk_single, place_spheres
from tandem.robots.model import ArmModel, FitConfig, GroupConfig, RobotConfig, build_arm, load_chain, robot_config
from tandem.robots.urdf import Chain, Shape

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
log = logging.getLogger("tandem.robots.fit")


@njit(cache=True, error_model="numpy")
def pair_clearance(
    joint_type: IntArray, placement: Array, axis: Array, sphere_link: IntArray, sphere_center: Array, sphere_radius: Array, q: Array
) -> tuple[Array, Array]:
    """Smallest and largest sphere clearance (n+1, n+1) [m] of each pair of links over configurations q (B, n)."""
    links = joint_type.shape[0] + 1
    low, high = np.full((links, links), np.inf), np.full((links, links), -np.inf)
    frames, world = np.empty((links, 4, 4)), np.empty_like(sphere_center)
    for b in range(q.shape[0]):
        fk_single(joint_type, placement, axis, q[b], frames)
        place_spheres(frames, sphere_link, sphere_center, world)
        here = np.full((links, links), np.inf)
        for s in range(world.shape[0]):
            for t in range(s):
                i, j = sphere_link[t], sphere_link[s]
                if i != j:
                    d = np.sqrt(((world[s] - world[t]) ** 2).sum()) - sphere_radius[s] - sphere_radius[t]
                    here[i, j] = min(here[i, j], d)
                    here[j, i] = here[i, j]
        low = np.minimum(low, here)
        for i in range(links):
            for j in range(links):
                if here[i, j] < np.inf:
                    high[i, j] = max(high[i, j], here[i, j])
    return low, high


def _groups(fit: FitConfig, chain: Chain, where: str) -> list[tuple[list[Shape], GroupConfig]]:
    """Shapes by group; URDF links in no group each make their own."""
    parts = list(dict.fromkeys(s.part for s in chain.shapes))
    listed = [p for g in fit.groups for p in g.parts]
    for p in listed:
        if p not in parts or listed.count(p) > 1:
            raise ConfigError(f"{where}: fit.groups: {p!r} is listed twice or has no collision shape; parts: {', '.join(parts)}")
    groups = [*fit.groups, *(GroupConfig([p], fit.spheres) for p in parts if p not in listed)]
    out = []
    for g in groups:
        shapes = [s for s in chain.shapes if s.part in g.parts]
        if len({s.link for s in shapes}) != 1:
            raise ConfigError(f"{where}: fit.groups: {g.parts} must be rigid to one moving link")
        out.append((shapes, g))
    return out


def fit_chain(config: RobotConfig, chain: Chain, where: str) -> list[tuple[int, Array, Array]]:
    """Enclosing spheres of each group: (link index, centres (k, 3) [m], radii (k,) [m])."""
    out = []
    for k, (shapes, group) in enumerate(_groups(config.fit, chain, where)):
        rng = np.random.default_rng([config.fit.seed, k])
        link = shapes[0].link
        tip = chain.tool[:3, 2] if link == len(chain.joint_names) else None
        center, radius = fit_spheres(shapes, group.spheres, config.fit.steps, rng, tip, group.tip)
        log.info("%s: %d spheres, radii %.0f .. %.0f mm", ", ".join(group.parts), len(radius), 1e3 * radius.min(), 1e3 * radius.max())
        out.append((link, center, radius))
    return sorted(out, key=lambda row: row[0])


def derive_pairs(arm: ArmModel, samples: int, margin: float, seed: int) -> tuple[list[tuple[int, int]], list[tuple[int, int, str]]]:
    """Which links of ``arm`` can meet, from sphere clearances at random configurations within the limits.

    Returns:
        pairs to be checked, and (i, j, why) for the pairs that need not be.
    """
    rng = np.random.default_rng([seed, 10_000])
    q = arm.lower + (arm.upper - arm.lower) * rng.random((samples, arm.n))
    low, high = pair_clearance(arm.joint_type, arm.placement, arm.axis, arm.sphere_link, arm.sphere_center, arm.sphere_radius, q)
    kept, dropped = [], []
    for i in range(arm.n + 1):
        for j in range(i + 1, arm.n + 1):
            if not np.isfinite(low[i, j]):
                dropped.append((i, j, "one of them has no collision shape"))
            elif j == i + 1:
                dropped.append((i, j, "adjacent: the joint between them keeps them in contact"))
            elif low[i, j] > margin:
                dropped.append((i, j, f"never nearer than {low[i, j]:.3f} m in {samples} configurations"))
            elif high[i, j] <= 0.0:
                dropped.append((i, j, f"spheres overlap in all of {samples} configurations"))
            else:
                kept.append((i, j))
    return kept, dropped


def to_yaml(arm: ArmModel, source: str, pairs: list[tuple[int, int]], dropped: list[tuple[int, int, str]]) -> str:
    """The text of a sphere file."""
    names = arm.link_names
    lines = [f"# Made by: python -m tandem.robots.fit {source}. Spheres [x, y, z, radius] in metres, in the link's frame.", "spheres:"]
    for link, name in enumerate(names):
        rows = np.flatnonzero(arm.sphere_link == link)
        if len(rows):
            lines.append(f"  {name}:")
            lines += ["    - [" + ", ".join(f"{x:.5f}" for x in (*arm.sphere_center[s], arm.sphere_radius[s])) + "]" for s in rows]
    lines.append("self_pairs:" if pairs else "self_pairs: []")
    lines += [f"  - [{names[i]}, {names[j]}]" for i, j in pairs]
    lines.append("self_dropped:" if dropped else "self_dropped: []")
    lines += [f'  - [{names[i]}, {names[j]}, "{why}"]' for i, j, why in dropped]
    return "\n".join(lines) + "\n"


def fit_arm(name_or_path: str | Path) -> tuple[str, Path]:
    """Fit spheres and derive pairs; the sphere file's text and where it belongs.

    Raises:
        ConfigError: the arm's configuration, URDF or meshes are malformed.
    """
    config, path = robot_config(name_or_path)
    chain = load_chain(config, path)
    rows = fit_chain(config, chain, str(path))
    spheres = {
        "sphere_link": np.concatenate([np.full(len(r), link, dtype=np.int64) for link, _, r in rows]),
        "sphere_center": np.concatenate([c for _, c, _ in rows]),
        "sphere_radius": np.concatenate([r for _, _, r in rows]),
        "self_pairs": np.zeros((0, 2), dtype=np.int64),
        "self_dropped": (),
    }
    arm = build_arm(config, path, chain, spheres)
    pairs, dropped = derive_pairs(arm, config.fit.samples, config.fit.margin, config.fit.seed)
    return to_yaml(arm, path.stem, pairs, dropped), path.parent / (config.spheres or f"{path.stem}_spheres.yaml")


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 when the file was written, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m tandem.robots.fit", description="Fit an arm's enclosing collision spheres.")
    parser.add_argument("robot", help="name in config/robots/ or path of a YAML file")
    parser.add_argument("--out", type=Path, help="file to write; default: the one the robot's configuration names")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        text, target = fit_arm(options.robot)
    except TandemError as error:
        log.error("%s", error)
        return 2
    target = options.out or target
    target.write_text(text, encoding="utf-8")
    log.info("wrote %s", target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
