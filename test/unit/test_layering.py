"""Dependencies point one way, and the real-time side needs neither torch nor ROS (CONTRIBUTING.md). Read from the sources."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import tandem

PACKAGE = Path(tandem.__file__).parent
#: what each part may import of Tandem, itself included
ALLOWED = {
    "core": {"core"},
    "robots": {"core", "robots"},
    "diffusion": {"core", "robots", "diffusion"},
    "safety": {"core", "robots", "safety"},
    "execution": {"core", "robots", "execution"},
    "perception": {"core", "robots", "perception"},
    "sim": {"core", "robots", "diffusion", "safety", "execution", "perception", "sim"},
    "tasks": {"core", "robots", "diffusion", "safety", "execution", "perception", "sim", "tasks"},
    "bench": {"core", "robots", "diffusion", "safety", "execution", "perception", "sim", "tasks", "bench"},
    "nodes": {"core", "robots", "diffusion", "safety", "execution", "perception", "sim", "tasks", "nodes"},
    "cli": {"core", "robots", "diffusion", "safety", "execution", "perception", "sim", "tasks", "bench", "nodes", "cli"},
}
TORCH = {"torch", "safetensors"}
ROS = {"rclpy", "launch", "launch_ros", "tf2_ros", "rosidl_runtime_py", "ament_index_python"}
#: top-level modules each part may not import
FORBIDDEN = dict.fromkeys(("core", "robots", "safety", "execution", "perception"), TORCH | ROS)
FORBIDDEN |= dict.fromkeys(("sim", "tasks", "diffusion", "bench", "cli"), ROS)
#: files of nodes/ that run beside the arm's loop
REAL_TIME_NODES = ("safety_filter.py", "franka_bridge.py")


def modules() -> list[Path]:
    """Every source file."""
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """First folder below the package, "" for its top."""
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imports(path: Path) -> list[tuple[int, str]]:
    """(line, absolute module name) of every import, those within functions included; ``if TYPE_CHECKING`` blocks are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    skip = {
        id(inner) for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in node.body for inner in ast.walk(child)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in skip:
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; Tandem's imports are absolute"
            base = node.module or ""
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_dependencies_point_one_way(path: Path) -> None:
    part = part_of(path)
    if not part:
        return
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] == "tandem" and len(parts) > 1 and (PACKAGE / parts[1]).is_dir():
            assert parts[1] in ALLOWED[part], f"{path}:{line}: {part} may not import tandem.{parts[1]}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_torch_or_ros_where_forbidden(path: Path) -> None:
    forbidden = FORBIDDEN.get(part_of(path), set())
    for line, name in imports(path):
        top = name.split(".")[0]
        message = f"{path}:{line}: {part_of(path)} may not import {top}"
        assert top not in forbidden, message
        if part_of(path) not in ("nodes", "") and not forbidden.isdisjoint(ROS):
            assert not re.fullmatch(r"\w+_(msgs|srvs|interfaces)", top), message


@pytest.mark.parametrize("name", REAL_TIME_NODES)
def test_real_time_nodes_do_not_import_torch(name: str) -> None:
    """Followed through Tandem's own modules: what these nodes import, directly or not, contains no torch."""
    start = PACKAGE / "nodes" / name
    if not start.is_file():
        pytest.skip(f"no {name}")
    waiting, seen = [start], set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for line, module in imports(path):
            parts = module.split(".")
            assert parts[0] not in TORCH, f"{path}:{line}: reached from {name}"
            if parts[0] == "tandem":
                for depth in range(len(parts), 0, -1):
                    base = PACKAGE.joinpath(*parts[1:depth])
                    found = [p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()]
                    if found:
                        waiting += found
                        break


def test_sources_do_not_print() -> None:
    """Programs log, or draw with rich; they do not print."""
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{path}:{node.lineno}: print()"
