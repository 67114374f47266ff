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
from numpy.typing import NDArray

from tandem.core.errors import ConfigError, TandemError
from tandem.robots.apart import derive_pairs, self_clearance
from tandem.robots.geometry import exposed_overshoot, fit_spheres
from tandem.robots.model import ArmModel, FitConfig, GroupConfig, RobotConfig, build_arm, load_chain, robot_config
from tandem.robots.urdf import Chain, Shape

Array = NDArray[np.float64]
log = logging.getLogger("tandem.robots.fit")


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
        over = 1e3 * exposed_overshoot(shapes, center, radius)
        log.info("%s: %d spheres, overshoot mean %.1f, max %.1f mm", group.parts, len(radius), over.mean(), over.max())
        out.append((link, center, radius))
    return sorted(out, key=lambda row: row[0])


def to_yaml(arm: ArmModel, source: str, pairs: list[tuple[int, int]], dropped: list[tuple[int, int, str]]) -> str:
    """The text of a sphere file."""
    names = arm.link_names
    lines = [f"# Made by: python -m tandem.robots.fit {source}", "# [x, y, z, radius] in metres, in the link's frame", "spheres:"]
    for link, name in enumerate(names):
        rows = np.flatnonzero(arm.sphere_link == link)
        if len(rows):
            lines.append(f"  {name}:")
            table = np.column_stack([arm.sphere_center, arm.sphere_radius])[rows]
            lines += ["    - [" + ", ".join(f"{x:.5f}" for x in row) + "]" for row in table]
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
    pairs, dropped = derive_pairs(arm, chain.shapes, config.fit.margin)
    arm = build_arm(config, path, chain, spheres | {"self_pairs": np.array(pairs, dtype=np.int64).reshape(-1, 2)})
    clearance, worst = self_clearance(arm, arm.home[None])
    if clearance[0] <= 0.0:
        i, j = arm.self_pairs[worst[0]]
        log.warning("%s: home: the spheres of %s and %s overlap", path, arm.link_names[i], arm.link_names[j])
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
