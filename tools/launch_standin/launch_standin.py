"""Runs Tandem's launch files where ROS 2's own ``launch`` and ``launch_ros`` are not installed.

``python -m launch_standin FILE arg:=value ... [--show-args] [--print]`` (or ``python -m launch``), this folder on PYTHONPATH.
``launch/`` and ``launch_ros/`` beside this file hold the subset of the real API that the files use, with the same meaning;
whatever else is asked for is an error that names it.

Ending: SIGINT to every process; after 5 s SIGTERM; after 5 s more SIGKILL to what is left of its process group. A process that
outlives this program is killed by the kernel (parent-death signal), so nothing leaks.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import ctypes
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import yaml
from launch._core import LaunchContext, LaunchError, visit_all
from launch.actions import DeclareLaunchArgument
from launch.event_handlers import OnProcessExit, OnProcessStart, OnShutdown, ProcessEvent, ShutdownEvent
from launch.launch_description_sources import PythonLaunchDescriptionSource

_PR_SET_PDEATHSIG = 1


@dataclass
class Process:
    """One process of the launch, through all its restarts."""

    action: Any
    name: str
    command: list[str]
    environment: dict[str, str]
    output: str
    cwd: str | None
    timeouts: tuple[float, ...]
    context: LaunchContext
    respawn: bool = False
    handle: asyncio.subprocess.Process | None = None
    returncode: int | None = None
    retries: int = 0
    stopped_by_us: bool = False
    killed: bool = False

    def code(self) -> int:
        """Exit code: 0 for what ended after our own signal, 128 + n for another signal, 1 when it had to be killed."""
        if self.killed:
            return 1
        code = self.returncode or 0
        if self.stopped_by_us and code in (-signal.SIGINT, -signal.SIGTERM, 128 + signal.SIGINT, 128 + signal.SIGTERM):
            return 0
        return 128 - code if code < 0 else code


@dataclass
class Timer:
    """Actions for later, with the scope they were written in."""

    seconds: float
    actions: list[Any]
    context: LaunchContext


@dataclass
class Plan:
    """What visiting a launch file asks for. The ``queue`` of the context."""

    say: Callable[[str], None]
    processes: list[Process] = field(default_factory=list)
    timers: list[Timer] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    ended: str | None = None

    def start(self, **values: Any) -> None:
        """Take a process."""
        names = [p.name for p in self.processes]
        name = values["name"]
        values["name"] = name if name not in names else f"{name}-{1 + sum(n == name or n.startswith(name + '-') for n in names)}"
        values["context"] = _scope(values["context"])
        self.processes.append(Process(**values))

    def later(self, seconds: float, actions: list[Any], context: LaunchContext) -> None:
        """Take a timer."""
        self.timers.append(Timer(seconds, actions, _scope(context)))

    def shutdown(self, reason: str) -> None:
        """Take a shutdown."""
        if self.ended is None:
            self.ended = reason

    def temporary(self, path: Path) -> None:
        """Take a file that goes at the end."""
        self.files.append(path)


def _scope(context: LaunchContext) -> LaunchContext:
    """The context with configurations, environment and namespace as they are now; handlers and queue stay shared."""
    scope = copy.copy(context)
    scope.launch_configurations = dict(context.launch_configurations)
    scope.environment = dict(context.environment)
    return scope


def _die_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Runner:
    """Runs the processes of a plan until all have ended."""

    def __init__(self, plan: Plan, context: LaunchContext, out: TextIO) -> None:
        self.plan, self.context, self.out = plan, context, out
        self.failure = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: set[asyncio.Task[None]] = set()
        self._started = 0
        self._armed = 0
        self._hurry = False

    # ---- the life of the launch ---------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Run; returns the worst exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupted, signal.Signals(number).name)
        try:
            self._take_up()
            while self._tasks or self._timers:
                if self.plan.ended is not None and not self.context.is_shutdown:
                    self._begin_end()
                waiting = self._tasks | self._timers
                if waiting:
                    await asyncio.wait(waiting, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
            if not self.context.is_shutdown:
                self._begin_end()
        finally:
            for process in self.plan.processes:
                _kill_group(process)
        return max([self.failure, *(p.code() for p in self.plan.processes)])

    def _interrupted(self, name: str) -> None:
        if self.plan.ended is not None:
            self.plan.say(f"{name} again: processes are ended at once")
            self._hurry = True
        else:
            self.plan.say(f"{name}: ending all processes")
        self.plan.shutdown(name)

    def _take_up(self) -> None:
        """Start what was asked for since the last time."""
        while self._started < len(self.plan.processes):
            process = self.plan.processes[self._started]
            self._started += 1
            if self.plan.ended is None:
                self._keep(self._tasks, self._live(process))
        while self._armed < len(self.plan.timers):
            timer = self.plan.timers[self._armed]
            self._armed += 1
            if self.plan.ended is None:
                self._keep(self._timers, self._wait(timer))

    def _keep(self, where: set[asyncio.Task[None]], coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        where.add(task)
        task.add_done_callback(where.discard)

    def _visit(self, context: LaunchContext, entities: Iterable[Any] | None) -> None:
        """Visit entities that an event brought; an error there ends the launch."""
        try:
            visit_all(context, entities)
        except Exception as error:
            self.failure = 2
            self.plan.say(_text_of(error))
            self.plan.shutdown("error in the launch file")
        self._take_up()

    def _begin_end(self) -> None:
        self.context.is_shutdown = True
        reason = self.plan.ended or "all processes have ended"
        self.plan.shutdown(reason)
        for task in list(self._timers):
            task.cancel()
        for handler in list(self.context.handlers):
            if isinstance(handler, OnShutdown):
                self._visit(self.context, _answer(handler, ShutdownEvent(reason), self.context, self))

    async def _wait(self, timer: Timer) -> None:
        await asyncio.sleep(timer.seconds)
        self._visit(timer.context, timer.actions)

    # ---- the life of a process ----------------------------------------------------------------------------------------------

    async def _live(self, process: Process) -> None:
        while True:
            await self._once(process)
            self.plan.say(f"{process.name}: ended with exit code {process.returncode}")
            self._event(OnProcessExit, process)
            action = process.action
            spent = action.respawn_max_retries >= 0 and process.retries >= action.respawn_max_retries
            if self.plan.ended is not None or not process.respawn or spent:
                return
            process.retries += 1
            started = time.monotonic()
            while time.monotonic() - started < action.respawn_delay:
                if self.plan.ended is not None:
                    return
                await asyncio.sleep(0.05)

    async def _once(self, process: Process) -> None:
        error_too = process.output == "log"
        try:
            process.handle = await asyncio.create_subprocess_exec(
                *process.command, env={"PYTHONUNBUFFERED": "1", **process.environment}, cwd=process.cwd,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE if error_too else asyncio.subprocess.STDOUT, process_group=0,
                preexec_fn=_die_with_parent,
            )
        except OSError as error:
            process.returncode = 127
            self.plan.say(f"{process.name}: cannot be started: {error.strerror}: {process.command[0]}")
            return
        handle = process.handle
        self.plan.say(f"{process.name}: started, pid {handle.pid}")
        self._event(OnProcessStart, process)
        readers = [asyncio.ensure_future(self._copy(process, handle.stdout, not error_too))]
        if error_too:
            readers.append(asyncio.ensure_future(self._copy(process, handle.stderr, True)))
        waiting = asyncio.ensure_future(handle.wait())
        while not waiting.done() and self.plan.ended is None:
            await asyncio.wait([waiting], timeout=0.1)
        if not waiting.done():
            await self._end(process, waiting)
        process.returncode = handle.returncode
        _kill_group(process)
        await asyncio.wait(readers, timeout=2.0)
        for reader in readers:
            reader.cancel()

    async def _end(self, process: Process, waiting: asyncio.Future[int]) -> None:
        process.stopped_by_us = True
        handle = process.handle
        assert handle is not None
        for number, seconds in ((signal.SIGINT, process.timeouts[0]), (signal.SIGTERM, process.timeouts[1])):
            if self._hurry:
                break
            with contextlib.suppress(ProcessLookupError):
                handle.send_signal(number)
            limit = time.monotonic() + seconds
            while not waiting.done() and time.monotonic() < limit and not self._hurry:
                await asyncio.wait([waiting], timeout=0.1)
            if waiting.done():
                return
            self.plan.say(f"{process.name}: still there {seconds:g} s after {number.name}")
        process.killed = True
        _kill_group(process)
        await waiting

    async def _copy(self, process: Process, stream: asyncio.StreamReader | None, screen: bool) -> None:
        assert stream is not None
        log = None if screen else _log_file(process).open("a", encoding="utf-8")
        try:
            while line := await _line(stream):
                text = line.decode("utf-8", "replace").rstrip("\n")
                if log is None:
                    self.out.write(f"[{process.name}] {text}\n")
                    self.out.flush()
                else:
                    log.write(text + "\n")
        finally:
            if log is not None:
                log.close()

    def _event(self, kind: type, process: Process) -> None:
        pid = process.handle.pid if process.handle is not None else -1
        event = ProcessEvent(process.action, process.name, pid, process.returncode)
        for handler in list(self.context.handlers):
            if isinstance(handler, kind) and handler.matches(process.action):  # type: ignore[attr-defined]
                self._visit(process.context, _answer(handler, event, process.context, self))


def _answer(handler: Any, event: Any, context: LaunchContext, runner: Runner) -> Iterable[Any]:
    try:
        return list(handler.respond(event, context))
    except Exception as error:
        runner.failure = 2
        runner.plan.say(_text_of(error))
        runner.plan.shutdown("error in an event handler")
        return ()


async def _line(stream: asyncio.StreamReader) -> bytes:
    """The next line; an overlong one comes in pieces."""
    try:
        return await stream.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        return error.partial
    except asyncio.LimitOverrunError as error:
        return await stream.read(max(error.consumed, 1))


def _log_file(process: Process) -> Path:
    folder = Path(process.environment.get("ROS_LOG_DIR") or Path.home() / ".ros" / "log")
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{process.name}-{os.getpid()}-stdout.log"


def _kill_group(process: Process) -> None:
    if process.handle is not None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.handle.pid, signal.SIGKILL)


def _text_of(error: BaseException) -> str:
    """One line for what a launch file did wrong, the traceback for anything else."""
    if isinstance(error, (LaunchError, RuntimeError, ValueError)):
        return f"error: {error}"
    return "".join(traceback.format_exception(error)).rstrip()


def _arguments(words: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    parser = argparse.ArgumentParser(prog="launch_standin", description="Run a ROS 2 Python launch file without ROS 2's launch.")
    parser.add_argument("file", type=Path, help="launch file")
    parser.add_argument("arguments", nargs="*", metavar="name:=value", help="launch arguments")
    parser.add_argument("-s", "--show-args", action="store_true", help="show the file's arguments and end")
    parser.add_argument("-p", "--print", action="store_true", help="show what would be started, as JSON, and end")
    options = parser.parse_args(words)
    given: dict[str, str] = {}
    for word in options.arguments:
        name, separator, value = word.partition(":=")
        if not separator or not name:
            parser.error(f"{word!r}: expected name:=value")
        given[name] = value
    return options, given


def _declared(entities: Iterable[Any]) -> list[DeclareLaunchArgument]:
    return [e for e in entities if isinstance(e, DeclareLaunchArgument)]


def _parameters(plan: Plan, process: Process) -> dict[str, Any]:
    """The parameters that the launch files set, without those of parameter files."""
    values: dict[str, Any] = {}
    for path in plan.files:
        if str(path) in process.command:
            values.update(yaml.safe_load(path.read_text(encoding="utf-8"))["/**"]["ros__parameters"])
    return values


def _describe(plan: Plan, context: LaunchContext, after: float = 0.0) -> list[dict[str, Any]]:
    """What would be started, for ``--print``; the actions of timers are visited too."""
    out = []
    for process in plan.processes:
        changed = {k: v for k, v in process.environment.items() if os.environ.get(k) != v}
        out.append({
            "name": process.name, "command": process.command, "environment": changed, "parameters": _parameters(plan, process),
            "output": process.output, "respawn": process.respawn, "after": after,
        })
    for timer in plan.timers:
        later = Plan(plan.say)
        timer.context.queue = later
        visit_all(timer.context, timer.actions)
        out += _describe(later, timer.context, after + timer.seconds)
        plan.files += later.files
    return out


def _clean_up(context: LaunchContext) -> None:
    """Let the shutdown handlers of a launch that never ran give back what the launch file made."""
    for handler in context.handlers:
        if isinstance(handler, OnShutdown):
            handler.respond(ShutdownEvent("nothing was run"), context)


def main(words: list[str]) -> int:
    """The command. Returns the worst exit code of the processes; 2 when the launch file or its arguments are wrong."""
    options, given = _arguments(words)

    def say(text: str) -> None:
        sys.stderr.write(f"[launch] {text}\n")
        sys.stderr.flush()

    plan = Plan(say)
    context = LaunchContext(launch_configurations=dict(given), queue=plan, here=options.file.resolve())
    try:
        description = PythonLaunchDescriptionSource(str(options.file)).get_launch_description(context)
        if options.show_args:
            shown = "\n\n".join(a.show() for a in _declared(description.entities)) or "    no arguments"
            sys.stdout.write(f"Arguments (pass arguments as '<name>:=<value>'):\n\n{shown}\n")
            return 0
        visit_all(context, [description])
        unknown = sorted(set(given) - set(context.declared))
        if unknown:
            raise LaunchError(f"unknown argument(s) {', '.join(unknown)}; known: {', '.join(context.declared)}")
        if options.print:
            sys.stdout.write(json.dumps(_describe(plan, context), indent=1) + "\n")
            return 0
        if plan.ended is not None:
            say(f"nothing is started: {plan.ended}")
            return 1
        return asyncio.run(Runner(plan, context, sys.stdout).run())
    except Exception as error:
        say(_text_of(error))
        return 2
    finally:
        if not context.is_shutdown:
            _clean_up(context)
        for path in plan.files:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
