"""The stand-in for ROS 2's launch: toy launch files, good and bad."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HEAD = """
import sys
from launch import LaunchDescription
from launch.actions import *
from launch.conditions import *
from launch.event_handlers import *
from launch.events import Shutdown as ShutdownEvent
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import *
from launch_ros.actions import *
from launch_ros.parameter_descriptions import ParameterFile, ParameterValue
from launch_ros.substitutions import FindPackageShare

def python(code, **more):
    return ExecuteProcess(cmd=[sys.executable, "-c", code], output="screen", **more)

def generate_launch_description():
    return LaunchDescription([
"""


def write(folder: Path, body: str, name: str = "toy.launch.py") -> Path:
    file = folder / name
    file.write_text(HEAD + textwrap.indent(textwrap.dedent(body), " " * 8) + "\n    ])\n", encoding="utf-8")
    return file


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT / "tools" / "launch_standin"), str(ROOT / "src")])
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def run(file: Path, *words: str, timeout: float = 40.0) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "launch_standin", str(file), *words]
    return subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=timeout, check=False)


def plan(file: Path, *words: str) -> list[dict[str, Any]]:
    done = run(file, *words, "--print")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(path: Path, seconds: float = 15.0) -> str:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if path.is_file() and (text := path.read_text()):
            return text
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def test_runs_processes_and_prefixes_their_output(tmp_path: Path) -> None:
    done = run(write(tmp_path, """
        DeclareLaunchArgument("word", default_value="hello", description="what to say"),
        SetEnvironmentVariable("COLOUR", "red"),
        ExecuteProcess(
            cmd=[sys.executable, "-c", "import os, sys; print(sys.argv[1], os.environ['COLOUR'])", LaunchConfiguration("word")],
            output="screen", name="speaker",
        ),
        python("import time; time.sleep(0.2)"),
    """), "word:=good day")
    assert done.returncode == 0, done.stderr
    assert "[speaker] good day red" in done.stdout


def test_worst_exit_code_is_returned(tmp_path: Path) -> None:
    done = run(write(tmp_path, 'python("pass"), python("raise SystemExit(3)"), python("raise SystemExit(1)"),'))
    assert done.returncode == 3
    assert run(write(tmp_path, 'python("import os; os.kill(os.getpid(), 9)"),')).returncode == 137
    missing = run(write(tmp_path, 'ExecuteProcess(cmd=["/no/such/program"]),'))
    assert missing.returncode == 127 and "/no/such/program" in missing.stderr


def test_arguments_are_checked(tmp_path: Path) -> None:
    file = write(tmp_path, """
        DeclareLaunchArgument("kind", default_value="a", description="which kind", choices=["a", "b"]),
        DeclareLaunchArgument("needed", description="must be given"),
        python("print('ran')"),
    """)
    for words, text in (
        (["needed:=1", "kind:=c"], "argument kind = 'c': accepted: a, b"), ([], "argument 'needed' is required: must be given"),
        (["needed:=1", "typo:=2"], "unknown argument(s) typo; known: kind, needed"), (["needed=1"], "expected name:=value"),
    ):
        done = run(file, *words)
        assert done.returncode == 2 and text in done.stderr and "ran" not in done.stdout, (words, done.stderr)
    shown = run(file, "--show-args")
    assert shown.returncode == 0 and "which kind. One of: a, b" in shown.stdout and "(required)" in shown.stdout


#: body of a launch file, part of the error
FAULTS = [
    ("(__import__('launch.actions').actions.ExecuteLocal),", "launch.actions.ExecuteLocal is not supported"),
    ("ExecuteProcess(cmd=['true'], shell=True),", "shell"),
    ("ExecuteProcess(cmd='true'),", "must be a list"),
    ("ExecuteProcess(cmd=['true'], output='full'),", "output 'full': accepted: screen, log, both"),
    ("Node(package='tandem', executable='no_such_node'),", "executable 'no_such_node' of package 'tandem' not found"),
    ("Node(package='no_such_package', executable='x'),", "package 'no_such_package' not found"),
    ("Node(package='tandem', executable='camera', parameters=['/no/such.yaml']),", "'/no/such.yaml' does not exist"),
    ("Node(package='tandem', executable='camera', parameters=[{'a': '{x: 1}'}]),", "parameter a"),
    ("Node(package='tandem', executable='camera', parameters=[{'a': ParameterValue('x', value_type=int)}]),", "parameter a"),
    ("Node(package='tandem', executable='camera', unheard_of=1),", "unheard_of"),
    ("LaunchConfiguration('x'),", "is not an action"),
    ("LogInfo(msg=LaunchConfiguration('nothing')),", "launch configuration 'nothing' does not exist"),
    ("LogInfo(msg=EnvironmentVariable('NO_SUCH_VARIABLE_HERE')),", "environment variable 'NO_SUCH_VARIABLE_HERE' does not exist"),
    ("LogInfo(msg='x', condition=IfCondition('maybe')),", "'maybe': accepted: true, 1, false, 0"),
    ("LogInfo(msg=PythonExpression('1 +')),", "PythonExpression '1 +'"),
    ("LogInfo(msg=FindPackageShare('no_such_package')),", "no_such_package"),
    ("RegisterEventHandler(object()),", "RegisterEventHandler: object is not supported"),
    ("EmitEvent(event=object()),", "EmitEvent: object is not supported"),
    ("TimerAction(period='soon', actions=[]),", "expected seconds"),
    ("IncludeLaunchDescription(PythonLaunchDescriptionSource('/no/such.launch.py')),", "/no/such.launch.py: no such launch file"),
    ("IncludeLaunchDescription('/x.launch.py'),", "is not a launch description source"),
    ("ParameterFile('x.yaml', allow_substs=True),", "allow_substs is not supported"),
    ("OpaqueFunction(function=lambda context: 1 / 0),", "ZeroDivisionError"),
]
UNSUPPORTED = [
    "launch.actions.PushEnvironment", "launch.substitutions.Command", "launch_ros.actions.SetRemap",
    "launch.event_handlers.OnProcessIO", "launch.LaunchService",
]


def run_many(files: list[Path]) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of several launch files, run after each other in one interpreter."""
    code = textwrap.dedent("""
        import contextlib, io, json, sys
        from launch_standin import main
        out = []
        for file in sys.argv[1:]:
            said, errors = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
                result = main([file])
            out.append((result, said.getvalue(), errors.getvalue()))
        print(json.dumps(out))
    """)
    line = [sys.executable, "-c", code, *map(str, files)]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=60.0, check=False)
    assert done.returncode == 0, done.stderr
    found: list[tuple[int, str, str]] = json.loads(done.stdout)
    return found


def test_what_is_not_supported_or_wrong_is_an_error_that_names_it(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    start = f"python(\"open({str(ran)!r}, 'w')\"),\n"
    files = [write(tmp_path, start + body, f"{i}.launch.py") for i, (body, _) in enumerate(FAULTS)]
    for (body, text), (code, _, said) in zip(FAULTS, run_many(files), strict=True):
        assert code == 2 and text in said, (body, said)
    assert not ran.exists()


def test_unsupported_imports_are_named(tmp_path: Path) -> None:
    files = []
    for i, name in enumerate(UNSUPPORTED):
        module, _, item = name.rpartition(".")
        files.append(tmp_path / f"{i}.launch.py")
        files[-1].write_text(f"from {module} import {item}\n")
    for name, (code, _, said) in zip(UNSUPPORTED, run_many(files), strict=True):
        assert code == 2 and f"{name} is not supported by the launch stand-in" in said, said


def test_nodes_get_parameters_names_and_remappings(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("/**:\n  ros__parameters: {a: 1}\n")
    (node, plain) = plan(write(tmp_path, f"""
        DeclareLaunchArgument("rate", default_value="12.5", description=""),
        GroupAction([
            PushRosNamespace("left"), PushRosNamespace("arm"),
            Node(
                package="tandem", executable="camera", name="eye", namespace="head", arguments=["--fast", ["x", "y"]],
                parameters=[
                    {str(tmp_path / "p.yaml")!r},
                    {{"rate": LaunchConfiguration("rate"), "on": True, "name": "text", "list": [1, 2], "seven": "7",
                      "ip": ParameterValue("1", value_type=str), "whole": ParameterValue("3", value_type=int)}},
                ],
                remappings=[("image", "camera/image")], ros_arguments=["--log-level", "info"], additional_env={{"A": "1"}},
            ),
        ]),
        Node(package="tandem", executable="camera"),
    """))
    command = node["command"]
    assert command[1:3] == ["-m", "tandem.nodes.camera"] and command[3:6] == ["--fast", "xy", "--ros-args"]
    joined = " ".join(command)
    for part in ("--log-level info", "-r __node:=eye", "-r __ns:=/left/arm/head", f"--params-file {tmp_path}/p.yaml",
                 "-r image:=camera/image"):
        assert part in joined
    assert node["parameters"] == {"rate": 12.5, "on": True, "name": "text", "list": [1, 2], "seven": 7, "ip": "1", "whole": 3}
    assert node["environment"]["A"] == "1"
    assert "__ns" not in " ".join(plain["command"]) and plain["name"] != node["name"]
    assert not any(Path(word).is_file() for word in command if "launch_params_" in word)


def test_scopes_includes_and_conditions(tmp_path: Path) -> None:
    write(tmp_path, """
        DeclareLaunchArgument("x", default_value="inner", description=""),
        ExecuteProcess(
            cmd=["inc", LaunchConfiguration("x"), ThisLaunchFileDir(), EnvironmentVariable("E", default_value="none")]
        ),
    """, "inner.launch.py")
    (tmp_path / "outer").mkdir()
    found = plan(write(tmp_path / "outer", f"""
        DeclareLaunchArgument("x", default_value="outer", description=""),
        GroupAction([
            SetEnvironmentVariable("E", "set"), SetLaunchConfiguration("x", "changed"),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(PathJoinSubstitution([{str(tmp_path)!r}, "inner.launch.py"]))),
            ExecuteProcess(cmd=["here", ThisLaunchFileDir()]),
        ]),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource({str(tmp_path / "inner.launch.py")!r}), launch_arguments=[("x", "given")],
            condition=IfCondition(EqualsSubstitution(LaunchConfiguration("x"), "outer")),
        ),
        ExecuteProcess(cmd=["never"], condition=UnlessCondition("true")),
        ExecuteProcess(cmd=["never"], condition=LaunchConfigurationNotEquals("x", "given")),
        ExecuteProcess(cmd=["equal"], condition=LaunchConfigurationEquals("x", "given")),
        OpaqueFunction(function=lambda context, word: [ExecuteProcess(cmd=[word, str(2 ** 3)])], args=["opaque"]),
        ExecuteProcess(cmd=["sum", PythonExpression(["1 + ", "2"]), AndSubstitution("true", NotSubstitution("true"))]),
        TimerAction(period=1.5, actions=[ExecuteProcess(cmd=["late"])]),
    """))
    outer = str(tmp_path / "outer")
    assert [p["command"] for p in found] == [
        ["inc", "changed", str(tmp_path), "set"], ["here", outer], ["inc", "given", str(tmp_path), "none"], ["equal"],
        ["opaque", "8"], ["sum", "3", "false"], ["late"],
    ]
    assert found[-1]["after"] == 1.5


def test_exit_and_start_handlers_timers_and_shutdown(tmp_path: Path) -> None:
    begin = time.monotonic()
    done = run(write(tmp_path, f"""
        OpaqueFunction(function=lambda context: context.launch_configurations.update(n="1")),
        python("import time; time.sleep(60)"),
        (first := python("pass", name="first")),
        RegisterEventHandler(OnProcessStart(target_action=first, on_start=[LogInfo(msg="first began")])),
        RegisterEventHandler(OnProcessExit(target_action=first, on_exit=lambda event, context: [
            LogInfo(msg=f"first ended with {{event.returncode}}"),
            TimerAction(period=0.3, actions=[EmitEvent(event=ShutdownEvent(reason="enough"))]),
        ])),
        RegisterEventHandler(OnShutdown(
            on_shutdown=lambda event, context: [open({str(tmp_path / "end")!r}, "w").write(event.reason)] and None
        )),
    """))
    assert "first began" in done.stderr and "first ended with 0" in done.stderr
    assert (tmp_path / "end").read_text() == "enough"
    assert done.returncode == 0 and time.monotonic() - begin < 20.0


def test_on_exit_shutdown_ends_the_rest(tmp_path: Path) -> None:
    done = run(write(tmp_path, """
        python("import time; time.sleep(60)"),
        python("raise SystemExit(4)", on_exit=[Shutdown(reason="vital process ended")]),
    """))
    assert done.returncode == 4


def test_respawn_with_limit(tmp_path: Path) -> None:
    done = run(write(tmp_path, """
        python("print('again'); raise SystemExit(5)", respawn="true", respawn_delay=0.05, respawn_max_retries=2),
    """))
    assert done.stdout.count("again") == 3 and done.returncode == 5


def test_log_output_goes_to_a_file_and_errors_to_the_screen(tmp_path: Path) -> None:
    done = run(write(tmp_path, f"""
        SetEnvironmentVariable("ROS_LOG_DIR", {str(tmp_path / "logs")!r}),
        ExecuteProcess(cmd=[sys.executable, "-c", "import sys; print('quiet'); sys.stderr.write('loud')"], name="p"),
    """))
    assert "loud" in done.stdout and "quiet" not in done.stdout
    assert "quiet" in next((tmp_path / "logs").glob("p-*")).read_text()


def _start(file: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "launch_standin", str(file)], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])
open(sys.argv[1], 'w').write(f'{os.getpid()} {child.pid}')
time.sleep(300)
"""


def test_stubborn_processes_and_their_children_are_killed(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    running = _start(write(tmp_path, f"""
        ExecuteProcess(
            cmd=[sys.executable, {str(tmp_path / "stubborn.py")!r}, {str(tmp_path / "pids")!r}], output="screen",
            sigterm_timeout="0.5", sigkill_timeout="0.5",
        ),
        python("import time; time.sleep(300)"),
    """))
    pids = [int(x) for x in wait_for(tmp_path / "pids").split()]
    time.sleep(0.3)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=20.0)
    assert running.returncode == 1  # one had to be killed
    assert "after SIGINT" in said and "after SIGTERM" in said
    assert not any(alive(p) for p in pids)


def test_polite_processes_end_with_code_zero(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time, pathlib; signal.signal(signal.SIGINT, lambda *_: sys.exit(0)); "
        f"pathlib.Path({str(tmp_path / 'up')!r}).write_text('up'); time.sleep(300)"
    )
    running = _start(write(tmp_path, f"python({code!r}, respawn=True),"))
    wait_for(tmp_path / "up")
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=20.0)
    assert running.returncode == 0 and said.count("started") == 1


def test_killing_the_runner_leaves_no_process(tmp_path: Path) -> None:
    code = f"import os, time, pathlib; pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(300)"
    running = _start(write(tmp_path, f"python({code!r}),"))
    pid = int(wait_for(tmp_path / "pid"))
    running.kill()
    running.communicate(timeout=10.0)
    limit = time.monotonic() + 5.0
    while alive(pid) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not alive(pid)
