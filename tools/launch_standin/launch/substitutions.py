"""Substitutions: values known when the launch file runs."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

from ._core import LaunchContext, LaunchError, Substitution, SubstitutionFailure, describe, perform, refuse, to_bool

__all__ = [
    "AndSubstitution", "EnvironmentVariable", "EqualsSubstitution", "FindExecutable", "LaunchConfiguration",
    "NotEqualsSubstitution", "NotSubstitution", "OrSubstitution", "PathJoinSubstitution", "PythonExpression",
    "SubstitutionFailure", "TextSubstitution", "ThisLaunchFile", "ThisLaunchFileDir",
]
__getattr__ = refuse("launch.substitutions")


class TextSubstitution(Substitution):
    """Text."""

    def __init__(self, *, text: str) -> None:
        if not isinstance(text, str):
            raise LaunchError(f"TextSubstitution: text {text!r} is not a string")
        self.text = text

    def perform(self, context: LaunchContext) -> str:
        """The text."""
        return self.text

    def describe(self) -> str:
        """The text."""
        return self.text


class LaunchConfiguration(Substitution):
    """The value of a launch argument."""

    def __init__(self, variable_name: Any, *, default: Any = None) -> None:
        self.variable_name, self.default = variable_name, default

    def perform(self, context: LaunchContext) -> str:
        """The value; the default when the argument is unknown."""
        name = perform(context, self.variable_name)
        if name in context.launch_configurations:
            return context.launch_configurations[name]
        if self.default is None:
            raise SubstitutionFailure(f"launch configuration {name!r} does not exist")
        return perform(context, self.default)

    def describe(self) -> str:
        """``$(var name)``."""
        return f"$(var {describe(self.variable_name)})"


class PathJoinSubstitution(Substitution):
    """Parts joined with the path separator."""

    def __init__(self, substitutions: Iterable[Any]) -> None:
        self.substitutions = list(substitutions)

    def perform(self, context: LaunchContext) -> str:
        """The path."""
        return os.path.join(*(perform(context, s) for s in self.substitutions))

    def describe(self) -> str:
        """The parts with slashes."""
        return "/".join(describe(s) for s in self.substitutions)


class EnvironmentVariable(Substitution):
    """A variable of the environment that processes get."""

    def __init__(self, name: Any, *, default_value: Any = None) -> None:
        self.name, self.default_value = name, default_value

    def perform(self, context: LaunchContext) -> str:
        """The value; the default when it is not set."""
        name = perform(context, self.name)
        if name in context.environment:
            return context.environment[name]
        if self.default_value is None:
            raise SubstitutionFailure(f"environment variable {name!r} does not exist")
        return perform(context, self.default_value)

    def describe(self) -> str:
        """``$(env name)``."""
        return f"$(env {describe(self.name)})"


class FindExecutable(Substitution):
    """The full path of a program on the PATH."""

    def __init__(self, *, name: Any) -> None:
        self.name = name

    def perform(self, context: LaunchContext) -> str:
        """The path."""
        name = perform(context, self.name)
        found = shutil.which(name, path=context.environment.get("PATH"))
        if found is None:
            raise SubstitutionFailure(f"program {name!r} is not on the PATH")
        return found


class PythonExpression(Substitution):
    """A Python expression, with the named modules."""

    def __init__(self, expression: Any, python_modules: Sequence[Any] = ("math",)) -> None:
        self.expression = expression
        self.python_modules = [python_modules] if isinstance(python_modules, str) else list(python_modules)

    def perform(self, context: LaunchContext) -> str:
        """The value as text."""
        scope: dict[str, Any] = {}
        for entry in self.python_modules:
            name = perform(context, entry)
            scope[name] = importlib.import_module(name)
            if name == "math":
                scope.update(vars(scope[name]))
        text = perform(context, self.expression)
        try:
            return str(eval(text, {}, scope))
        except Exception as error:
            raise SubstitutionFailure(f"PythonExpression {text!r}: {error}") from error


class ThisLaunchFile(Substitution):
    """Path of the launch file."""

    def perform(self, context: LaunchContext) -> str:
        """The path."""
        if context.here is None:
            raise SubstitutionFailure("ThisLaunchFile: not in a launch file")
        return str(context.here)


class ThisLaunchFileDir(Substitution):
    """Folder of the launch file."""

    def perform(self, context: LaunchContext) -> str:
        """The folder."""
        if context.here is None:
            raise SubstitutionFailure("ThisLaunchFileDir: not in a launch file")
        return str(context.here.parent)

    def describe(self) -> str:
        """``$(dirname)``."""
        return "$(dirname)"


class EqualsSubstitution(Substitution):
    """``true`` when both sides are the same text."""

    def __init__(self, left: Any, right: Any) -> None:
        self.left, self.right = left, right

    def perform(self, context: LaunchContext) -> str:
        """``true`` or ``false``."""
        return str(_text(context, self.left) == _text(context, self.right)).lower()


class NotEqualsSubstitution(EqualsSubstitution):
    """``true`` when the sides differ."""

    def perform(self, context: LaunchContext) -> str:
        """``true`` or ``false``."""
        return str(_text(context, self.left) != _text(context, self.right)).lower()


class AndSubstitution(Substitution):
    """``true`` when both sides are true."""

    def __init__(self, left: Any, right: Any) -> None:
        self.left, self.right = left, right

    def perform(self, context: LaunchContext) -> str:
        """``true`` or ``false``."""
        return str(all(to_bool(_text(context, s), type(self).__name__) for s in (self.left, self.right))).lower()


class OrSubstitution(AndSubstitution):
    """``true`` when a side is true."""

    def perform(self, context: LaunchContext) -> str:
        """``true`` or ``false``."""
        return str(any(to_bool(_text(context, s), type(self).__name__) for s in (self.left, self.right))).lower()


class NotSubstitution(Substitution):
    """The opposite."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def perform(self, context: LaunchContext) -> str:
        """``true`` or ``false``."""
        return str(not to_bool(_text(context, self.value), "NotSubstitution")).lower()


def _text(context: LaunchContext, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, float)) else perform(context, value)
