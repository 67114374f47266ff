"""Conditions on actions."""

from __future__ import annotations

from typing import Any

from ._core import LaunchContext, perform, refuse, to_bool

__all__ = ["IfCondition", "LaunchConfigurationEquals", "LaunchConfigurationNotEquals", "UnlessCondition"]
__getattr__ = refuse("launch.conditions")


class IfCondition:
    """True when the expression reads true or 1; anything but true, 1, false, 0 is an error."""

    def __init__(self, predicate_expression: Any) -> None:
        self.expression = predicate_expression

    def evaluate(self, context: LaunchContext) -> bool:
        """Whether it holds."""
        return to_bool(perform(context, self.expression), type(self).__name__)


class UnlessCondition(IfCondition):
    """The opposite of :class:`IfCondition`."""

    def evaluate(self, context: LaunchContext) -> bool:
        """Whether it holds."""
        return not super().evaluate(context)


class LaunchConfigurationEquals:
    """True when the launch argument has the value; an unknown argument equals None only."""

    def __init__(self, launch_configuration_name: str, expected_value: Any) -> None:
        self.name, self.expected = launch_configuration_name, expected_value

    def evaluate(self, context: LaunchContext) -> bool:
        """Whether it holds."""
        value = context.launch_configurations.get(self.name)
        expected = None if self.expected is None else perform(context, self.expected)
        return value == expected


class LaunchConfigurationNotEquals(LaunchConfigurationEquals):
    """The opposite of :class:`LaunchConfigurationEquals`."""

    def evaluate(self, context: LaunchContext) -> bool:
        """Whether it holds."""
        return not super().evaluate(context)
