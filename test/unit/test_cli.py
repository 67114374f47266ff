"""The command line: what is listed exists, faults are one line with the right exit code, doctor finds what is broken."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tandem.cli import doctor, lazy, main
from tandem.core.errors import InputError

runner = CliRunner()


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, with this checkout's sources."""
    env = {**os.environ, "PYTHONPATH": str(Path(main.__file__).parents[2])}
    return subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True, check=False, timeout=120)


def tandem(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The real program."""
    return python("-m", "tandem.cli.main", *arguments)


def test_help_lists_commands_without_importing_anything_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from tandem.cli import main\n"
        "r = CliRunner().invoke(main.app, ['--help']); sys.stdout.write(r.output)\n"
        "heavy = {'torch', 'mujoco', 'numba', 'rclpy', 'cv2', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy or r.exit_code else 0)"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    for word in ("demo", "doctor", "bench", "audit", "launch", "version"):
        assert word in done.stdout


def test_a_users_mistake_is_one_line_and_code_two(tmp_path: Path) -> None:
    for arguments in (["demo", "--scene", "no-such.yaml"], ["audit", str(tmp_path)], ["launch", "no-such"]):
        done = tandem(*arguments)
        assert done.returncode == 2, arguments
        assert "Traceback" not in done.stderr and done.stderr.startswith("tandem: "), done.stderr
    assert tandem("no-such-command").returncode == 2
    assert tandem("bench", "no-such-bench").returncode == 2


def test_only_modules_in_the_tree_are_listed() -> None:
    for group in (lazy.BenchGroup, lazy.TrainGroup):
        listed = group(name="x").list_commands(None)
        assert listed == [n for n, module in group.modules.items() if lazy.module_exists(module)]
    assert not lazy.module_exists("tandem.no.such.module")


def _run(function: Callable[..., Any], *arguments: str) -> Any:
    return runner.invoke(lazy.as_command(function, "x", "runs/x", "Help."), list(arguments))


def test_options_come_from_the_signature() -> None:
    seen: dict[str, Any] = {}

    def run(out: Path, quick: bool, seed: int, *, methods: str = "a,b", rate: float | None = None, keep: bool = True) -> int:
        seen.update(out=out, quick=quick, seed=seed, methods=methods, rate=rate, keep=keep)
        return 1

    assert _run(run).exit_code == 1
    assert seen == {"out": Path("runs/x"), "quick": False, "seed": 0, "methods": "a,b", "rate": None, "keep": True}
    assert _run(run, "--out", "o", "--quick", "--seed", "3", "--methods", "c", "--rate", "2.5", "--no-keep").exit_code == 1
    assert seen == {"out": Path("o"), "quick": True, "seed": 3, "methods": "c", "rate": 2.5, "keep": False}
    assert _run(run, "--seed", "x").exit_code == 2
    assert _run(run, "--unknown", "1").exit_code == 2


def test_what_a_run_made_is_named_and_its_progress_shown() -> None:
    def run(*, steps: int = 3, progress: Callable[[int, float], None] | None = None) -> Path:
        assert progress is not None
        for i in range(steps):
            progress(i + 1, 0.5)
        return Path("made.safetensors")

    result = _run(run)
    assert result.exit_code == 0 and "made.safetensors" in result.output
    assert "progress" not in _run(run, "--help").output


def test_errors_of_a_run_are_passed_on() -> None:
    def run(out: Path) -> int:
        raise InputError("methods: x: accepted: y")

    assert isinstance(_run(run).exception, InputError)


def _share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "config").mkdir()
    (tmp_path / "models").mkdir()
    monkeypatch.setenv("TANDEM_SHARE", str(tmp_path))
    return tmp_path


def test_doctor_finds_the_shipped_weights_by_their_manifests() -> None:
    assert {f.level for f in doctor.check_models()} == {"ok"}


def test_doctor_compares_weights_with_their_manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = _share(tmp_path, monkeypatch)
    assert [f.level for f in doctor.check_models()] == ["warn"]
    weights = share / "models" / "net.safetensors"
    weights.write_bytes(b"weights")
    good = {"weights": "net.safetensors", "sha256": hashlib.sha256(b"weights").hexdigest()}
    (share / "models" / "net.json").write_text(json.dumps(good))
    assert [f.level for f in doctor.check_models()] == ["ok"]
    weights.write_bytes(b"other")
    assert [f.level for f in doctor.check_models()] == ["fail"]
    weights.unlink()
    assert [f.level for f in doctor.check_models()] == ["fail"]
    (share / "models" / "net.json").write_text("{")
    assert [f.level for f in doctor.check_models()] == ["fail"]


@pytest.mark.parametrize(("k", "fine"), [
    ([697.0, 0.0, 319.5, 0.0, 697.0, 239.5, 0.0, 0.0, 1.0], True),
    ([6.97, 0.0, 319.5, 0.0, 6.97, 239.5, 0.0, 0.0, 1.0], False),
    ([697.0, 0.0, 319.5, 0.0, 400.0, 239.5, 0.0, 0.0, 1.0], False),
    ([697.0, 0.0, 10.0, 0.0, 697.0, 239.5, 0.0, 0.0, 1.0], False),
    ([697.0], False),
], ids=str)
def test_doctor_doubts_odd_calibrations(k: list[float], fine: bool) -> None:
    data = {"image_width": 640, "image_height": 480, "camera_matrix": {"data": k}}
    assert (doctor.calibration_faults(data) == []) is fine


def test_doctor_names_broken_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    share = _share(tmp_path, monkeypatch)
    (share / "config" / "bad.yaml").write_text("a: [1")
    assert any(f.level == "fail" and "bad.yaml" in f.text for f in doctor.check_configuration())


def test_doctor_checks_the_real_time_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is ready passes each check; one that lacks something is told what and how, and simulation is not refused."""
    lacking = ("real-time kernel", "real-time priority", "locked memory [MB]", "isolated CPUs")
    files = {"/sys/kernel/realtime": "1", "/sys/devices/system/cpu/isolated": "3"}
    monkeypatch.setattr(doctor, "_read", lambda path: files.get(str(path), ""))
    monkeypatch.setattr(doctor.platform, "version", lambda: "#1 SMP")
    monkeypatch.setattr(doctor.os, "geteuid", lambda: 1000)
    limit = {"value": doctor.resource.RLIM_INFINITY}
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda what: (limit["value"], limit["value"]))
    found = {f.subject: f for f in doctor.check_real_time()}
    assert all(found[name].level == "ok" for name in lacking)
    files.clear()
    limit["value"] = 0
    found = {f.subject: f for f in doctor.check_real_time()}
    assert all(found[name].level == "warn" for name in lacking)
    for name, step in zip(lacking, ("PREEMPT_RT kernel", "rtprio 99", "memlock unlimited", "isolcpus=N"), strict=True):
        assert step in found[name].advice


def test_doctor_returns_one_when_something_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(record=True, width=100)
    monkeypatch.setattr(doctor, "CHECKS", (lambda: [doctor.Finding("ok", "a", "fine")],))
    assert doctor.run(console, quick=True) == 0
    monkeypatch.setattr(doctor, "CHECKS", (lambda: [doctor.Finding("fail", "b", "broken", "mend it")],))
    assert doctor.run(console, quick=True) == 1
    assert "mend it" in console.export_text()


def test_version_names_the_libraries() -> None:
    result = runner.invoke(main.app, ["version"])
    assert result.exit_code == 0 and "numpy" in result.output and "tandem 0." in result.output
