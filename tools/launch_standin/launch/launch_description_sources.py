"""Where launch descriptions come from: Python files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from ._core import LaunchContext, LaunchDescription, LaunchError, perform, refuse

__all__ = ["LaunchDescriptionSource", "PythonLaunchDescriptionSource"]
__getattr__ = refuse("launch.launch_description_sources")


class LaunchDescriptionSource:
    """A launch file given by its path."""

    def __init__(self, location: Any) -> None:
        self.location = location

    def path(self, context: LaunchContext) -> Path:
        """The file."""
        return Path(perform(context, self.location))

    def get_launch_description(self, context: LaunchContext) -> LaunchDescription:
        """Run the file's ``generate_launch_description()``."""
        raise LaunchError(f"{self.path(context)}: only Python launch files are supported: use PythonLaunchDescriptionSource")


class PythonLaunchDescriptionSource(LaunchDescriptionSource):
    """A Python launch file."""

    def get_launch_description(self, context: LaunchContext) -> LaunchDescription:
        """Run the file's ``generate_launch_description()``.

        Raises:
            LaunchError: no such file, or it does not define the function, or that returns something else.
        """
        path = self.path(context)
        if not path.is_file():
            raise LaunchError(f"{path}: no such launch file")
        spec = importlib.util.spec_from_file_location("python_launch_file", path)
        if spec is None or spec.loader is None:
            raise LaunchError(f"{path}: not a Python file")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not hasattr(module, "generate_launch_description"):
            raise LaunchError(f"{path}: does not define generate_launch_description()")
        description = module.generate_launch_description()
        if not isinstance(description, LaunchDescription):
            raise LaunchError(f"{path}: generate_launch_description() returned {description!r}, not a LaunchDescription")
        return description
