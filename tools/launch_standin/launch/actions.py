"""Actions of a launch file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ._core import Action, LaunchContext, LaunchDescriptionEntity, LaunchError, describe, perform, refuse, to_bool
from .event_handlers import OnProcessExit, OnProcessStart, OnShutdown
from .events import Shutdown as ShutdownEvent
from .launch_description_sources import LaunchDescriptionSource

__all__ = [
    "DeclareLaunchArgument", "EmitEvent", "ExecuteProcess", "GroupAction", "IncludeLaunchDescription", "LogInfo",
    "OpaqueFunction", "RegisterEventHandler", "SetEnvironmentVariable", "SetLaunchConfiguration", "Shutdown", "TimerAction",
    "UnsetEnvironmentVariable",
]
__getattr__ = refuse("launch.actions")
OUTPUTS = ("screen", "log", "both")


class DeclareLaunchArgument(Action):
    """An argument of the launch file."""

    def __init__(
        self, name: str, *, default_value: Any = None, description: str = "no description given",
        choices: Sequence[str] | None = None, condition: Any = None,
    ) -> None:
        super().__init__(condition=condition)
        self.name, self.default_value, self.description = name, default_value, description
        self.choices = None if choices is None else list(choices)

    def execute(self, context: LaunchContext) -> None:
        """Take the value given, or the default, and check it against the choices."""
        context.declared.setdefault(self.name, self)
        if self.name not in context.launch_configurations:
            if self.default_value is None:
                raise LaunchError(f"argument {self.name!r} is required: {self.description}")
            context.launch_configurations[self.name] = perform(context, self.default_value)
        value = context.launch_configurations[self.name]
        if self.choices is not None and value not in self.choices:
            raise LaunchError(f"argument {self.name} = {value!r}: accepted: {', '.join(self.choices)}")

    def show(self) -> str:
        """For ``--show-args``."""
        default = "(required)" if self.default_value is None else f"(default: {describe(self.default_value)!r})"
        choices = "" if self.choices is None else f" One of: {', '.join(self.choices)}"
        return f"    {self.name}:\n        {self.description.rstrip('.')}.{choices}\n        {default}"


class SetLaunchConfiguration(Action):
    """Give a launch configuration a value."""

    def __init__(self, name: Any, value: Any, *, condition: Any = None) -> None:
        super().__init__(condition=condition)
        self.name, self.value = name, value

    def execute(self, context: LaunchContext) -> None:
        """Set it."""
        context.launch_configurations[perform(context, self.name)] = perform(context, self.value)


class SetEnvironmentVariable(Action):
    """A variable for the processes that are started later."""

    def __init__(self, name: Any, value: Any, *, condition: Any = None) -> None:
        super().__init__(condition=condition)
        self.name, self.value = name, value

    def execute(self, context: LaunchContext) -> None:
        """Set it."""
        context.environment[perform(context, self.name)] = perform(context, self.value)


class UnsetEnvironmentVariable(Action):
    """Remove a variable for the processes that are started later."""

    def __init__(self, name: Any, *, condition: Any = None) -> None:
        super().__init__(condition=condition)
        self.name = name

    def execute(self, context: LaunchContext) -> None:
        """Remove it."""
        context.environment.pop(perform(context, self.name), None)


class IncludeLaunchDescription(Action):
    """Another launch file; its arguments stay set in the including scope, as in the real one."""

    def __init__(
        self, launch_description_source: LaunchDescriptionSource, *, launch_arguments: Iterable[tuple[Any, Any]] = (),
        condition: Any = None,
    ) -> None:
        super().__init__(condition=condition)
        if not isinstance(launch_description_source, LaunchDescriptionSource):
            raise LaunchError(f"IncludeLaunchDescription: {launch_description_source!r} is not a launch description source")
        self.source, self.launch_arguments = launch_description_source, list(launch_arguments)

    def execute(self, context: LaunchContext) -> Iterable[LaunchDescriptionEntity]:
        """Load the file and visit it with its arguments."""
        for name, value in self.launch_arguments:
            context.launch_configurations[perform(context, name)] = perform(context, value)
        former, path = context.here, self.source.path(context)
        description = self.source.get_launch_description(context)
        context.here = path
        return [description, _Call(lambda c: setattr(c, "here", former))]


class GroupAction(Action):
    """Actions that are visited together; configurations, environment and namespace changed inside stay inside when scoped."""

    def __init__(
        self, actions: Iterable[Action], *, scoped: bool = True, forwarding: bool = True,
        launch_configurations: Mapping[Any, Any] | None = None, condition: Any = None,
    ) -> None:
        super().__init__(condition=condition)
        self.actions, self.scoped, self.forwarding = list(actions), scoped, forwarding
        self.launch_configurations = dict(launch_configurations or {})

    def execute(self, context: LaunchContext) -> Iterable[LaunchDescriptionEntity]:
        """Visit the actions, then restore the scope."""
        given = {perform(context, k): perform(context, v) for k, v in self.launch_configurations.items()}
        if not self.scoped:
            context.launch_configurations.update(given)
            return self.actions
        saved = (context.launch_configurations, context.environment, context.namespace)
        context.launch_configurations = {**(saved[0] if self.forwarding else {}), **given}
        context.environment = dict(saved[1])

        def restore(c: LaunchContext) -> None:
            c.launch_configurations, c.environment, c.namespace = saved

        return [*self.actions, _Call(restore)]


class _Call(Action):
    """Run a function of the context."""

    def __init__(self, function: Callable[[LaunchContext], None]) -> None:
        super().__init__()
        self.function = function

    def execute(self, context: LaunchContext) -> None:
        """Run it."""
        self.function(context)


class OpaqueFunction(Action):
    """A Python function of the context that may return more actions."""

    def __init__(
        self, *, function: Callable[..., Any], args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None,
        condition: Any = None,
    ) -> None:
        super().__init__(condition=condition)
        self.function, self.args, self.kwargs = function, list(args), dict(kwargs or {})

    def execute(self, context: LaunchContext) -> Iterable[LaunchDescriptionEntity] | None:
        """Call it."""
        result: Iterable[LaunchDescriptionEntity] | None = self.function(context, *self.args, **self.kwargs)
        return result


class LogInfo(Action):
    """A line for the operator."""

    def __init__(self, *, msg: Any, condition: Any = None) -> None:
        super().__init__(condition=condition)
        self.msg = msg

    def execute(self, context: LaunchContext) -> None:
        """Say it."""
        context.queue.say(perform(context, self.msg))


class TimerAction(Action):
    """Actions that are visited after ``period`` [s]."""

    def __init__(self, *, period: Any, actions: Iterable[Action], condition: Any = None) -> None:
        super().__init__(condition=condition)
        self.period, self.actions = period, list(actions)

    def execute(self, context: LaunchContext) -> None:
        """Hand the actions over with the scope they were written in."""
        text = str(self.period) if isinstance(self.period, (int, float)) else perform(context, self.period)
        try:
            seconds = float(text)
        except ValueError:
            raise LaunchError(f"TimerAction: period {text!r}: expected seconds") from None
        context.queue.later(seconds, self.actions, context)


class RegisterEventHandler(Action):
    """Watch for an event."""

    def __init__(self, event_handler: Any, *, condition: Any = None) -> None:
        super().__init__(condition=condition)
        if not isinstance(event_handler, (OnProcessExit, OnProcessStart, OnShutdown)):
            raise LaunchError(f"RegisterEventHandler: {type(event_handler).__name__} is not supported by the launch stand-in")
        self.event_handler = event_handler

    def execute(self, context: LaunchContext) -> None:
        """Register it."""
        context.handlers.append(self.event_handler)


class EmitEvent(Action):
    """Emit an event; the stand-in knows ``Shutdown``."""

    def __init__(self, *, event: Any, condition: Any = None) -> None:
        super().__init__(condition=condition)
        if not isinstance(event, ShutdownEvent):
            raise LaunchError(f"EmitEvent: {type(event).__name__} is not supported by the launch stand-in")
        self.event = event

    def execute(self, context: LaunchContext) -> None:
        """Emit it."""
        context.queue.shutdown(self.event.reason)


class Shutdown(EmitEvent):
    """End the launch."""

    def __init__(self, *, reason: str = "reason not given", condition: Any = None) -> None:
        super().__init__(event=ShutdownEvent(reason=reason), condition=condition)


class ExecuteProcess(Action):
    """A process."""

    def __init__(
        self, *, cmd: Iterable[Any], name: Any = None, cwd: Any = None, env: Mapping[Any, Any] | None = None,
        additional_env: Mapping[Any, Any] | None = None, output: Any = "log", on_exit: Any = None, respawn: Any = False,
        respawn_delay: float | None = None, respawn_max_retries: int = -1, sigterm_timeout: Any = "5", sigkill_timeout: Any = "5",
        emulate_tty: bool = False, condition: Any = None,
    ) -> None:
        super().__init__(condition=condition)
        if isinstance(cmd, str):
            raise LaunchError(f"ExecuteProcess: cmd {cmd!r} must be a list; a shell is not supported")
        self.cmd, self.name, self.cwd, self.env, self.additional_env = list(cmd), name, cwd, env, additional_env
        self.output, self.on_exit, self.emulate_tty = output, on_exit, emulate_tty
        self.respawn, self.respawn_delay, self.respawn_max_retries = respawn, respawn_delay or 0.0, respawn_max_retries
        self.sigterm_timeout, self.sigkill_timeout = sigterm_timeout, sigkill_timeout

    def command(self, context: LaunchContext) -> list[str]:
        """The command line."""
        return [perform(context, part) for part in self.cmd]

    def label(self, context: LaunchContext, command: list[str]) -> str:
        """What its output is prefixed with."""
        return perform(context, self.name) if self.name is not None else command[0].rsplit("/", 1)[-1]

    def execute(self, context: LaunchContext) -> None:
        """Hand the process over."""
        command = self.command(context)
        output = perform(context, self.output)
        if output not in OUTPUTS:
            raise LaunchError(f"{self.label(context, command)}: output {output!r}: accepted: {', '.join(OUTPUTS)}")
        environment = dict(context.environment)
        if self.env is not None:
            environment = {perform(context, k): perform(context, v) for k, v in self.env.items()}
        environment.update({perform(context, k): perform(context, v) for k, v in (self.additional_env or {}).items()})
        respawn = self.respawn if isinstance(self.respawn, bool) else to_bool(perform(context, self.respawn), "respawn")
        timeouts = tuple(float(perform(context, t)) for t in (self.sigterm_timeout, self.sigkill_timeout))
        if self.on_exit is not None:
            context.handlers.append(OnProcessExit(target_action=self, on_exit=self.on_exit))
        context.queue.start(
            action=self, name=self.label(context, command), command=command, environment=environment, output=output,
            cwd=None if self.cwd is None else perform(context, self.cwd), timeouts=timeouts, context=context, respawn=respawn,
        )
