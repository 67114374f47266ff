"""``tandem doctor``: is this machine fit, and what to do where it is not.

Each check returns findings (ok, warn, fail). A warning leaves the simulation usable; a failure does not.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from tandem.cli import checks
from tandem.core.config import read_yaml
from tandem.core.errors import ConfigError, TandemError
from tandem.core.paths import share_dir

Level = Literal["ok", "warn", "fail"]
#: libraries whose version ``tandem version`` shows
LIBRARIES = ("numpy", "scipy", "numba", "torch", "mujoco", "opencv-python-headless", "rosbags", "typer", "rich")
#: a node's clock may be so far ahead of this machine's, and its messages so old [s]: the obstacles' stamps allow for no more
CLOCK_AHEAD, CLOCK_BEHIND = 0.002, 0.02
STYLE = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``advice`` says what to do about a warning or failure."""

    level: Level
    subject: str
    text: str
    advice: str = ""


def judged(fine: bool, subject: str, text: str, advice: str, otherwise: Level = "warn") -> Finding:
    """ok where ``fine``; else ``otherwise`` with the advice."""
    return Finding("ok", subject, text) if fine else Finding(otherwise, subject, text, advice)


def library_versions() -> dict[str, str]:
    """Installed versions of Python and :data:`LIBRARIES`; "missing" where there is none."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def check_versions() -> list[Finding]:
    """Python and the libraries against the lock file (in a checkout) and whether they can be imported."""
    supported = (3, 11) <= sys.version_info[:2] <= (3, 12)
    out = [judged(supported, "Python", platform.python_version(), "use Python 3.11 or 3.12", "fail")]
    bad = checks.missing_imports()
    for name, reason in bad.items():
        out.append(Finding("fail", name, f"cannot be imported ({checks.IMPORTS[name]}): {reason}", "run ./tandem.sh setup"))
    lock = share_dir() / "requirements.lock"
    if lock.is_file():
        lines = [line.strip() for line in lock.read_text(encoding="utf-8").splitlines()]
        pinned = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
        have = {re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): d.version for d in importlib.metadata.distributions()}
        other = [f"{n} {have.get(n, 'missing')} (lock: {v})" for n, v in pinned.items() if have.get(n, "").split("+")[0] != v]
        text = "not the locked versions: " + ", ".join(other[:6]) if other else f"{len(pinned)} packages as locked"
        out.append(judged(not other, "libraries", text, "run through ./tandem.sh"))
    elif not bad:
        out.append(Finding("ok", "libraries", ", ".join(f"{n} {v}" for n, v in library_versions().items() if n != "python")))
    return out


def check_ros() -> list[Finding]:
    """rclpy, where it comes from, and a round trip over DDS in a process of its own."""
    distro = os.environ.get("ROS_DISTRO", "")
    source = f"installed ({distro})" if distro else "wheels"
    env = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", **os.environ}
    command = [sys.executable, "-m", "tandem.nodes.roundtrip"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=env)
    except subprocess.TimeoutExpired:
        advice = "is loopback multicast blocked? try ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST"
        return [Finding("fail", "ROS 2", f"{source}: no answer within 60 s", advice)]
    try:
        result = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return [Finding("fail", "ROS 2", f"{source}: {last}", "source /opt/ros/jazzy/setup.bash, or run through ./tandem.sh")]
    count = f"{result['returned']} of {result['sent']} messages came back"
    text = f"{source}, {result['middleware']}: {count}, median {result['p50_ms']:.2f} ms"
    advice = "check firewall and ROS_DOMAIN_ID; clear /dev/shm/fastrtps_* of killed processes"
    return [judged(done.returncode == 0, "ROS 2", text, advice, "fail")]


def check_graph_clocks() -> list[Finding]:
    """Clocks of the nodes of a running graph against this machine's: switch times are shared between hosts."""
    command = [sys.executable, "-m", "tandem.nodes.clocks"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        ages: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, json.JSONDecodeError):
        return []  # the check before this one tells what is wrong with ROS
    out = []
    for name, age in sorted(ages.items()):
        fine = -CLOCK_AHEAD <= age <= CLOCK_BEHIND
        text = f"{name}: its messages are {1e3 * age:+.1f} ms old at the least"
        advice = "let chrony or PTP keep both hosts' clocks to a millisecond (docs/hardware.md)"
        out.append(judged(fine, "clocks of the graph", text, advice, "fail"))
    return out


def check_security() -> list[Finding]:
    """Where DDS security is asked for: does this middleware have it, is the keystore there."""
    if os.environ.get("ROS_SECURITY_ENABLE", "").lower() != "true":
        return [Finding("ok", "DDS security", "not asked for (ROS_SECURITY_ENABLE); see tandem security")]
    store = Path(os.environ.get("ROS_SECURITY_KEYSTORE", ""))
    there = (store / "enclaves").is_dir() and bool(os.environ.get("ROS_SECURITY_KEYSTORE"))
    out = [judged(there, "DDS security", f"keystore {store}", "set ROS_SECURITY_KEYSTORE; see tandem security", "fail")]
    enforced = os.environ.get("ROS_SECURITY_STRATEGY", "") == "Enforce"
    text = "enforced" if enforced else "not enforced: what is not secured is let through"
    out.append(judged(enforced, "DDS security", text, "export ROS_SECURITY_STRATEGY=Enforce", "fail"))
    return out


def check_rendering() -> list[Finding]:
    """Off-screen OpenGL for the simulated camera."""
    chosen = os.environ.get("MUJOCO_GL", "")
    if chosen:
        failure = checks.renders(chosen)
        if not failure:
            return [Finding("ok", "rendering", f"off-screen with MUJOCO_GL={chosen}")]
    backend, failures = checks.working_gl()
    advice = "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri libosmesa6"
    if backend and chosen:
        text = f"MUJOCO_GL={chosen} fails ({failure}), {backend} works"
        return [Finding("warn", "rendering", text, f"set MUJOCO_GL={backend}")]
    if backend:
        return [Finding("ok", "rendering", f"off-screen with {backend} (set MUJOCO_GL={backend})")]
    return [Finding("fail", "rendering", "; ".join(f"{k}: {v}" for k, v in failures.items()), advice)]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def check_machine() -> list[Finding]:
    """Processors, memory, shared memory."""
    cores = len(os.sched_getaffinity(0))
    out = [judged(cores >= 2, "processors", f"{cores} usable", "two are needed for real time")]
    found = re.search(r"MemAvailable:\s+(\d+) kB", _read("/proc/meminfo"))
    if found:
        free = int(found.group(1)) / 1e6
        out.append(judged(free > 3.0, "memory", f"{free:.1f} GB available", "the whole graph takes about 3 GB"))
    if Path("/dev/shm").is_dir():
        free = shutil.disk_usage("/dev/shm").free / 1e6
        stale = len(list(Path("/dev/shm").glob("fastrtps_*")))
        advice = "remove /dev/shm/fastrtps_* of dead processes"
        out.append(judged(free > 50.0, "shared memory", f"{free:.0f} MB free, {stale} segments of DDS", advice))
    return out


def _limit(which: int, enough: int, unit: int = 1) -> tuple[bool, str]:
    value = resource.getrlimit(which)[0]
    if value == resource.RLIM_INFINITY or os.geteuid() == 0:
        return True, "no limit" if value == resource.RLIM_INFINITY else "no limit for root"
    return value >= enough, f"limit {value // unit}"


def check_clock() -> Finding:
    """Whether this clock is kept true: two machines share switch times."""
    advice = "only for two machines: run chrony or systemd-timesyncd on both"
    asked = (["chronyc", "-n", "tracking"], "Leap status     : Normal"), (["timedatectl", "show"], "NTPSynchronized=yes")
    for command, good in asked:
        if shutil.which(command[0]):
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
            except subprocess.TimeoutExpired:
                continue
            if done.returncode == 0:
                fine = good in done.stdout
                return judged(fine, "clock", f"{command[0]}: {'synchronised' if fine else 'not synchronised'}", advice)
    return Finding("warn", "clock", "nothing here says whether it is synchronised", advice)


def check_fci() -> list[Finding]:
    """What drives a real arm."""
    if importlib.util.find_spec("pylibfranka") is None:
        return [Finding("warn", "libfranka", "no pylibfranka", "only for a real arm: ./tandem.sh setup")]
    return [Finding("ok", "libfranka", f"pylibfranka {importlib.metadata.version('pylibfranka')}")]


def check_real_time() -> list[Finding]:
    """What a real arm needs (1 kHz in time); simulation does without, so nothing here is a failure."""
    preempt = _read("/sys/kernel/realtime") == "1" or "PREEMPT_RT" in platform.version()
    text = "PREEMPT_RT" if preempt else "the kernel is not PREEMPT_RT"
    out = [judged(preempt, "real-time kernel", text, "only for a real arm: install a PREEMPT_RT kernel")]
    limits = "only for a real arm: '{} for your user in /etc/security/limits.conf"
    fine, text = _limit(resource.RLIMIT_RTPRIO, 80)
    out.append(judged(fine, "real-time priority", text, limits.format("rtprio 99'")))
    fine, text = _limit(resource.RLIMIT_MEMLOCK, 512 * 2**20, 2**20)
    out.append(judged(fine, "locked memory [MB]", text, limits.format("memlock unlimited'")))
    isolated = _read("/sys/devices/system/cpu/isolated")
    advice = "only for a real arm: boot with isolcpus=N nohz_full=N rcu_nocbs=N, start with cpu:=N (docs/hardware.md)"
    out.append(judged(bool(isolated), "isolated CPUs", isolated or "none", advice))
    out.append(check_clock())
    governors = {_read(str(p)) for p in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")}
    if governors:
        advice = "only for a real arm: cpupower frequency-set -g performance"
        out.append(judged(governors == {"performance"}, "CPU governor", ", ".join(sorted(governors)), advice))
    return out


def check_models() -> list[Finding]:
    """Every manifest in models/ against its weights: present, and of the SHA-256 that the manifest states."""
    folder = share_dir() / "models"
    manifests = sorted(folder.rglob("*.json")) if folder.is_dir() else []
    if not manifests:
        return [Finding("warn", "weights", f"no manifest in {folder}", "train a policy: tandem train --help")]
    out = []
    for manifest in manifests:
        name = str(manifest.relative_to(folder))
        try:
            data = json.loads(manifest.read_text(encoding="utf-8"))
            weights = manifest.parent / str(data["weights"])
            expected = str(data["sha256"])
            actual = hashlib.sha256(weights.read_bytes()).hexdigest()
        except (OSError, ValueError, KeyError, TypeError) as error:
            text = f"{name}: {type(error).__name__}: {error}"
            out.append(Finding("fail", "weights", text, "restore models/ from the repository"))
            continue
        same = actual == expected
        size = weights.stat().st_size / 1e6
        text = f"{weights.name} ({size:.1f} MB): SHA-256 {'as stated in' if same else 'differs from'} {name}"
        out.append(judged(same, "weights", text, "restore models/ or train again", "fail"))
    return out


def calibration_faults(data: object) -> list[str]:
    """What is wrong with a camera calibration in ROS's camera_info YAML layout (matrix as data rows)."""
    if not isinstance(data, dict):
        return ["not a mapping"]
    try:
        width, height = int(data["image_width"]), int(data["image_height"])
        k = [float(x) for x in data["camera_matrix"]["data"]]
        fx, cx, fy, cy = k[0], k[2], k[4], k[5]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        return [f"lacks {error}"]
    faults = []
    if not 0.2 * width < fx < 10.0 * width or not 0.8 < fx / fy < 1.25:
        faults.append(f"focal lengths {fx:.1f}, {fy:.1f} px do not fit a width of {width} px")
    if not 0.25 * width < cx < 0.75 * width or not 0.25 * height < cy < 0.75 * height:
        faults.append(f"principal point ({cx:.1f}, {cy:.1f}) is far from the middle of {width} x {height}")
    return faults


def check_configuration() -> list[Finding]:
    """Every YAML file of config/ can be read; camera calibrations are plausible."""
    folder = share_dir() / "config"
    out, count = [], 0
    for path in sorted(folder.rglob("*.y*ml")):
        count += 1
        name = str(path.relative_to(folder))
        try:
            data = read_yaml(path)
        except ConfigError as error:
            out.append(Finding("fail", "configuration", str(error).replace("\n", " "), "mend the file"))
            continue
        if isinstance(data, dict) and "camera_matrix" in data:
            faults = calibration_faults(data)
            text = f"{name}: " + ("; ".join(faults) or f"{data['image_width']} x {data['image_height']}, plausible")
            out.append(judged(not faults, "camera", text, "calibrate again", "fail"))
    out.append(Finding("ok", "configuration", f"{count} YAML files in {folder}"))
    return out


def check_kernels() -> list[Finding]:
    """Compiled kernels: is there a cache that lasts."""
    folder = os.environ.get("NUMBA_CACHE_DIR", "")
    if not folder:
        text = "NUMBA_CACHE_DIR is not set: each clone compiles for itself"
        return [Finding("warn", "compiled kernels", text, "run through ./tandem.sh")]
    count = len(list(Path(folder).rglob("*.nbc")))
    return [judged(count > 0, "compiled kernels", f"{count} in the cache", "run ./tandem.sh setup")]


CHECKS: tuple[Callable[[], list[Finding]], ...] = (
    check_versions, check_machine, check_models, check_configuration, check_kernels, check_real_time, check_fci,
    check_security,
)
SLOW_CHECKS: tuple[Callable[[], list[Finding]], ...] = (check_ros, check_graph_clocks, check_rendering)


def run(console: Console, *, quick: bool = False) -> int:
    """Carry out all checks (``quick``: without DDS and rendering), print them; 1 if one failed."""
    findings: list[Finding] = []
    for check in (*CHECKS, *(() if quick else SLOW_CHECKS)):
        try:
            findings += check()
        except TandemError as error:
            findings.append(Finding("fail", check.__name__.removeprefix("check_").replace("_", " "), str(error)))
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        text = finding.text + (f"\n→ {finding.advice}" if finding.advice else "")
        table.add_row(f"[{STYLE[finding.level]}]{finding.level:4}[/]", finding.subject, text)
    console.print(table)
    failed, warned = (sum(f.level == level for f in findings) for level in ("fail", "warn"))
    console.print(f"{len(findings)} checks: {failed} failed, {warned} with a warning", highlight=False)
    return 1 if failed else 0
