"""Parameters with an explicit type, and parameter files."""

from __future__ import annotations

from typing import Any

from launch._core import LaunchError, refuse

__all__ = ["ParameterFile", "ParameterValue"]
__getattr__ = refuse("launch_ros.parameter_descriptions")


class ParameterValue:
    """A value whose text is read as ``value_type`` (str, int, float, bool), or as YAML when that is None."""

    def __init__(self, value: Any, *, value_type: Any = None) -> None:
        if value_type not in (None, str, int, float, bool):
            raise LaunchError(f"ParameterValue: value_type {value_type!r}: the stand-in knows str, int, float, bool, None")
        self.value, self.value_type = value, value_type


class ParameterFile:
    """A YAML file of parameters, taken as it is."""

    def __init__(self, param_file: Any, *, allow_substs: bool = False) -> None:
        if allow_substs is not False:
            raise LaunchError("ParameterFile: allow_substs is not supported by the launch stand-in")
        self.param_file = param_file
