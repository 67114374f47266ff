"""Nodes."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from launch._core import Action, LaunchContext, LaunchError, Substitution, perform, refuse, to_bool
from launch.actions import ExecuteProcess

from .parameter_descriptions import ParameterFile, ParameterValue
from .substitutions import package_prefixes

__all__ = ["LifecycleNode", "Node", "PushROSNamespace", "PushRosNamespace"]
__getattr__ = refuse("launch_ros.actions")
_SCALARS = (bool, int, float, str)


def find_executable(package: str, executable: str) -> list[str]:
    """The command that runs a package's executable.

    Order: ``lib/<package>/<executable>`` of the ament prefixes, a console script of an installed Python distribution, the module
    ``<package>.nodes.<executable>``.

    Raises:
        LaunchError: there is none.
    """
    for prefix in package_prefixes():
        path = prefix / "lib" / package / executable
        if path.is_file() and os.access(path, os.X_OK):
            return [str(path)]
    for script in importlib.metadata.entry_points(group="console_scripts", name=executable):
        module, _, function = script.value.partition(":")
        if module.split(".")[0] == package and function == "main" and importlib.util.find_spec(module) is not None:
            return [sys.executable, "-m", module]
    if importlib.util.find_spec(package) is not None:
        module = f"{package}.nodes.{executable}"
        try:
            found = importlib.util.find_spec(module)
        except ModuleNotFoundError:
            found = None
        if found is not None:
            return [sys.executable, "-m", module]
    raise LaunchError(f"executable {executable!r} of package {package!r} not found")


def _typed(context: LaunchContext, value: Any, where: str) -> Any:
    """A parameter's value as the node gets it; text is read as YAML, as the real one does."""
    kind: Any = None
    if isinstance(value, ParameterValue):
        kind, value = value.value_type, value.value
    if isinstance(value, _SCALARS) and not isinstance(value, str):
        return value if kind is None else kind(value)
    if isinstance(value, Sequence) and not isinstance(value, str) and not any(isinstance(v, Substitution) for v in value):
        return [_typed(context, v, where) for v in value]
    text = perform(context, value)
    if kind is str:
        return text
    if kind is bool:
        return to_bool(text, where)
    try:
        parsed = kind(text) if kind is not None else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise LaunchError(f"{where} = {text!r}: {error}") from error
    if isinstance(parsed, _SCALARS) or (isinstance(parsed, list) and all(isinstance(p, _SCALARS) for p in parsed)):
        return parsed
    raise LaunchError(f"{where} = {text!r}: no parameter value; for text give ParameterValue(..., value_type=str)")


class Node(ExecuteProcess):
    """A ROS node in a process of its own."""

    def __init__(
        self, *, executable: Any, package: Any = None, name: Any = None, namespace: Any = None, exec_name: Any = None,
        parameters: Sequence[Any] | None = None, remappings: Iterable[tuple[Any, Any]] | None = None,
        arguments: Iterable[Any] | None = None, ros_arguments: Iterable[Any] | None = None, **kwargs: Any,
    ) -> None:
        super().__init__(cmd=[], **kwargs)
        self.executable, self.package, self.exec_name = executable, package, exec_name
        self.node_name, self.namespace = name, namespace
        self.parameters, self.remappings = list(parameters or []), list(remappings or [])
        self.arguments, self.ros_arguments = list(arguments or []), list(ros_arguments or [])

    def label(self, context: LaunchContext, command: list[str]) -> str:
        """The executable's name, or ``exec_name``."""
        return perform(context, self.executable if self.exec_name is None else self.exec_name).rsplit("/", 1)[-1]

    def command(self, context: LaunchContext) -> list[str]:
        """The executable with its arguments, then ``--ros-args`` with name, namespace, parameters and remappings."""
        executable = perform(context, self.executable)
        command = [executable] if self.package is None else find_executable(perform(context, self.package), executable)
        command += [perform(context, a) for a in self.arguments]
        ros = [perform(context, a) for a in self.ros_arguments]
        if self.node_name is not None:
            ros += ["-r", f"__node:={perform(context, self.node_name)}"]
        space = join_namespace(context.namespace, "" if self.namespace is None else perform(context, self.namespace))
        if space:
            ros += ["-r", f"__ns:={space}"]
        for entry in self.parameters:
            ros += ["--params-file", self._parameter_file(context, entry)]
        for old, new in self.remappings:
            ros += ["-r", f"{perform(context, old)}:={perform(context, new)}"]
        return [*command, "--ros-args", *ros] if ros else command

    def _parameter_file(self, context: LaunchContext, entry: Any) -> str:
        where = f"node {self.label(context, [])}"
        if isinstance(entry, Mapping):
            values = {}
            for key, value in entry.items():
                name = perform(context, key)
                values[name] = _typed(context, value, f"{where}: parameter {name}")
            handle, path = tempfile.mkstemp(prefix="launch_params_", suffix=".yaml")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                yaml.safe_dump({"/**": {"ros__parameters": values}}, file)
            context.queue.temporary(Path(path))
            return path
        if isinstance(entry, ParameterFile):
            entry = entry.param_file
        if isinstance(entry, ParameterValue):
            raise LaunchError(f"{where}: a ParameterValue must stand in a mapping")
        path = perform(context, entry)
        if not Path(path).is_file():
            raise LaunchError(f"{where}: parameter file {path!r} does not exist")
        return path


class LifecycleNode(Node):
    """A node with managed states; name and namespace are required, as in the real one."""

    def __init__(self, *, name: Any, namespace: Any, **kwargs: Any) -> None:
        super().__init__(name=name, namespace=namespace, **kwargs)


def join_namespace(outer: str, inner: str) -> str:
    """``/outer/inner``; an absolute ``inner`` stands alone; "" when both are empty."""
    if inner.startswith("/"):
        return inner.rstrip("/")
    parts = [p for p in (outer.strip("/"), inner.strip("/")) if p]
    return "/" + "/".join(parts) if parts else ""


class PushRosNamespace(Action):
    """A namespace for the nodes that follow in this scope."""

    def __init__(self, namespace: Any, *, condition: Any = None) -> None:
        super().__init__(condition=condition)
        self.namespace = namespace

    def execute(self, context: LaunchContext) -> None:
        """Push it."""
        context.namespace = join_namespace(context.namespace, perform(context, self.namespace))


PushROSNamespace = PushRosNamespace
