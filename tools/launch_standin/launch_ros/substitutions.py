"""Where packages are."""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

from launch._core import LaunchContext, Substitution, SubstitutionFailure, perform, refuse

__all__ = ["FindPackagePrefix", "FindPackageShare"]
__getattr__ = refuse("launch_ros.substitutions")


def package_prefixes() -> list[Path]:
    """The ament prefixes of this environment."""
    return [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]


def find_share(package: str) -> Path:
    """``share/<package>`` of the first prefix that has it; for an uninstalled Python package, the checkout it lies in.

    Raises:
        SubstitutionFailure: there is none.
    """
    for prefix in package_prefixes():
        if (prefix / "share" / package / "package.xml").is_file():
            return prefix / "share" / package
    if importlib.util.find_spec(package) is not None:
        paths = importlib.util.find_spec(f"{package}.core.paths")
        if paths is not None:
            share: Path = importlib.import_module(f"{package}.core.paths").share_dir()
            return share
    raise SubstitutionFailure(f"package {package!r} not found: neither in AMENT_PREFIX_PATH nor as a Python package")


class FindPackageShare(Substitution):
    """The folder with a package's data."""

    def __init__(self, package: Any) -> None:
        self.package = package

    def perform(self, context: LaunchContext) -> str:
        """The folder."""
        return str(find_share(perform(context, self.package)))

    def describe(self) -> str:
        """``$(find-pkg-share name)``."""
        return f"$(find-pkg-share {self.package})"


class FindPackagePrefix(FindPackageShare):
    """The prefix a package is installed in."""

    def perform(self, context: LaunchContext) -> str:
        """The folder."""
        package = perform(context, self.package)
        for prefix in package_prefixes():
            if (prefix / "share" / package / "package.xml").is_file():
                return str(prefix)
        raise SubstitutionFailure(f"package {package!r} is in no prefix of AMENT_PREFIX_PATH")
