"""Runs launch files: with ``ros2 launch`` where ROS is installed, else with the stand-in of the repository."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tandem.cli.lazy import module_exists
from tandem.core.errors import ConfigError
from tandem.core.paths import share_dir


def launch_file(name: str) -> Path:
    """The launch file ``name`` (``bringup`` or ``bringup.launch.py``, or a path).

    Raises:
        ConfigError: no such file; names those that are there.
    """
    direct = Path(name)
    if direct.is_file():
        return direct
    folder = share_dir() / "launch"
    for candidate in (folder / name, folder / f"{name}.launch.py"):
        if candidate.is_file():
            return candidate
    known = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.launch.py")) if folder.is_dir() else []
    raise ConfigError(f"launch file {name!r}: not found in {folder}; there are: {', '.join(known) or 'none'}")


def command(file: Path, arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Command line and environment that run ``file`` with ``name:=value`` arguments.

    Raises:
        ConfigError: neither ``ros2 launch`` nor the stand-in is there.
    """
    if shutil.which("ros2") and module_exists("launch_ros"):
        return ["ros2", "launch", str(file), *arguments], dict(os.environ)
    folder = share_dir() / "tools" / "launch_standin"
    if not folder.is_dir():
        raise ConfigError(f"neither ros2 launch nor the stand-in ({folder}) is there; source /opt/ros/jazzy/setup.bash")
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}
    return [sys.executable, "-m", "launch_standin", str(file), *arguments], environment


class Launched:
    """A running launch file and all its processes; leaving the context ends them (SIGINT, then SIGKILL)."""

    def __init__(self, file: Path, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        self.log = log
        line, base = command(file, arguments)
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                line, env={**base, **(environment or {})}, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream,
                process_group=0,  # to be ended as one; not a session of its own: niceness acts within a session
            )

    def __enter__(self) -> Launched:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def ended(self) -> bool:
        """Whether it ended by itself."""
        return self._process.poll() is not None

    def last_lines(self, count: int = 5) -> list[str]:
        """The end of what it printed."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-count:]

    def complaints(self, count: int = 3) -> list[str]:
        """The last lines that tell of an error or of a process that ended."""
        words = ("ERROR", "FATAL", "Traceback", "ended with exit code")
        return [line for line in self.last_lines(400) if any(w in line for w in words)][-count:]

    def end(self, patience: float = 15.0) -> None:
        """Ask to end, wait, then kill the whole group."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
