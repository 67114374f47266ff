"""Context, entities and the helpers that every other module uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn


class LaunchError(RuntimeError):
    """A launch file asks for something impossible; one line says what."""


class UnsupportedError(LaunchError, ImportError):
    """A launch file uses a part of the real API that the stand-in does not have."""


class SubstitutionFailure(LaunchError):
    """A substitution has no value."""


def refuse(module: str) -> Callable[[str], NoReturn]:
    """A module-level ``__getattr__`` that names what is missing."""
    def missing(name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UnsupportedError(f"{module}.{name} is not supported by the launch stand-in")
    return missing


@dataclass
class LaunchContext:
    """What a launch file's run knows.

    Attributes:
        launch_configurations: name -> value. environment: of processes to be started.
        declared: arguments met so far. here: the launch file being visited. namespace: of nodes.
        handlers: registered event handlers. queue: where actions hand over processes, timers and shutdowns (see the runner).
    """

    launch_configurations: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    declared: dict[str, Any] = field(default_factory=dict)
    here: Path | None = None
    namespace: str = ""
    handlers: list[Any] = field(default_factory=list)
    queue: Any = None
    is_shutdown: bool = False

    def perform_substitution(self, substitution: Any) -> str:
        """The value of one substitution."""
        return substitution.perform(self)


class Substitution:
    """A value that is known only when the file runs."""

    def perform(self, context: LaunchContext) -> str:
        """The value."""
        raise NotImplementedError

    def describe(self) -> str:
        """For ``--show-args``."""
        return f"{type(self).__name__}(...)"


def perform(context: LaunchContext, value: Any) -> str:
    """The string that text, a path, a substitution or a sequence of them stands for.

    Raises:
        LaunchError: anything else.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Substitution):
        return value.perform(context)
    if isinstance(value, Sequence):
        return "".join(perform(context, part) for part in value)
    raise LaunchError(f"{value!r} ({type(value).__name__}): expected text, a substitution, or a list of them")


def describe(value: Any) -> str:
    """Text for people, without running substitutions."""
    if isinstance(value, Substitution):
        return value.describe()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "".join(describe(v) for v in value)
    return str(value)


def to_bool(text: str, where: str) -> bool:
    """True and false as launch writes them.

    Raises:
        LaunchError: any other text.
    """
    lowered = text.strip().lower()
    if lowered in ("true", "1"):
        return True
    if lowered in ("false", "0"):
        return False
    raise LaunchError(f"{where}: {text!r}: accepted: true, 1, false, 0")


class LaunchDescriptionEntity:
    """Anything that can be listed in a launch description."""

    def visit(self, context: LaunchContext) -> Iterable[LaunchDescriptionEntity] | None:
        """Act; what is returned is visited next."""
        raise NotImplementedError


class Action(LaunchDescriptionEntity):
    """An entity with an optional condition."""

    def __init__(self, *, condition: Any = None) -> None:
        if condition is not None and not hasattr(condition, "evaluate"):
            raise LaunchError(f"{type(self).__name__}: condition {condition!r} is not a condition")
        self.condition = condition

    def visit(self, context: LaunchContext) -> Iterable[LaunchDescriptionEntity] | None:
        """Act when the condition holds."""
        if self.condition is None or self.condition.evaluate(context):
            return self.execute(context)
        return None

    def execute(self, context: LaunchContext) -> Iterable[LaunchDescriptionEntity] | None:
        """Act; what is returned is visited next."""
        raise NotImplementedError


class LaunchDescription(LaunchDescriptionEntity):
    """A list of entities, visited in order."""

    def __init__(self, initial_entities: Iterable[LaunchDescriptionEntity] | None = None) -> None:
        self.entities: list[LaunchDescriptionEntity] = list(initial_entities or [])

    def add_action(self, action: Action) -> None:
        """Append an action."""
        self.entities.append(action)

    def add_entity(self, entity: LaunchDescriptionEntity) -> None:
        """Append an entity."""
        self.entities.append(entity)

    def visit(self, context: LaunchContext) -> Iterable[LaunchDescriptionEntity]:
        """Its entities."""
        return self.entities


def visit_all(context: LaunchContext, entities: Iterable[LaunchDescriptionEntity] | None) -> None:
    """Visit entities depth first, in order.

    Raises:
        LaunchError: something in the list is not an entity.
    """
    for entity in entities or ():
        if not isinstance(entity, LaunchDescriptionEntity):
            raise LaunchError(f"{entity!r} ({type(entity).__name__}) is not an action or launch description")
        visit_all(context, entity.visit(context))
