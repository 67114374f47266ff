"""Trajectories in files: JSON, YAML or NPZ with the knots, and nothing that has to be guessed.

Keys (:class:`tandem.core.trajectory.Trajectory`): ``times`` (M,) [s] from 0, ``q`` (M, n) [rad], ``v`` (M, n) [rad/s], ``a``
(M, n) [rad/s^2]. A file may hold several plans: then ``plans`` is a list of such mappings, each with a ``name`` if it likes
(JSON, YAML only). Other keys are errors.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from tandem.core.config import read_yaml
from tandem.core.errors import ConfigError, InputError
from tandem.core.trajectory import Trajectory

_KNOTS = ("times", "q", "v", "a")
#: kinds of files
SUFFIXES = (".json", ".yaml", ".yml", ".npz")


def save_plan(trajectory: Trajectory, path: str | Path) -> None:
    """Write one trajectory so that :func:`load_plans` reads the same one (same digest) back; the suffix decides the format.

    Raises:
        ConfigError: another suffix than :data:`SUFFIXES`.
    """
    path = Path(path)
    arrays = {k: getattr(trajectory, k) for k in _KNOTS}
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".json":
        path.write_text(json.dumps({k: x.tolist() for k, x in arrays.items()}) + "\n", encoding="utf-8")
    elif path.suffix in (".yaml", ".yml"):
        plain = yaml.safe_dump({k: x.tolist() for k, x in arrays.items()}, sort_keys=False, default_flow_style=None)
        path.write_text(plain, encoding="utf-8")
    else:
        raise ConfigError(f"{path}: accepted: files that end in {', '.join(SUFFIXES)}")


def load_plans(path: str | Path) -> list[tuple[str, Trajectory]]:
    """The plans of a file as (name, trajectory); the name is the file's where the plan has none.

    Raises:
        ConfigError: unreadable, unknown or missing key, wrong shapes, NaN, times that do not rise; names file, plan and key.
    """
    path = Path(path)
    data = _read(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping with {', '.join(_KNOTS)}, or with a list under 'plans'")
    if "plans" not in data:
        return [_plan(data, str(path), path.stem)]
    rows = data["plans"]
    if set(data) != {"plans"} or not isinstance(rows, list) or not rows:
        raise ConfigError(f"{path}: plans: expected a list of one or more plans and no key beside it")
    return [_plan(row, f"{path}: plans[{i}]", f"{path.stem}[{i}]") for i, row in enumerate(rows)]


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {k: file[k] for k in file.files}
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        if path.suffix in (".yaml", ".yml"):
            return read_yaml(path)
    except (OSError, ValueError, RecursionError, EOFError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    raise ConfigError(f"{path}: accepted: files that end in {', '.join(SUFFIXES)}, or a recording")


def _plan(data: Any, where: str, name: str) -> tuple[str, Trajectory]:
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a mapping with {', '.join(_KNOTS)}")
    unknown, missing = set(data) - {*_KNOTS, "name"}, [k for k in _KNOTS if k not in data]
    if unknown or missing:
        what = f"unknown key(s) {', '.join(sorted(map(str, unknown)))}" if unknown else f"missing key(s) {', '.join(missing)}"
        raise ConfigError(f"{where}: {what}; known: {', '.join(_KNOTS)}, name")
    try:
        knots: dict[str, NDArray[np.float64]] = {k: np.asarray(data[k], dtype=np.float64) for k in _KNOTS}
        return str(data.get("name", name)), Trajectory(**knots)
    except (TypeError, ValueError, InputError) as error:
        raise ConfigError(f"{where}: {error}") from error
