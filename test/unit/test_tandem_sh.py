"""tandem.sh with a small environment of its own: half-made and damaged ones are rebuilt, verbs go where they belong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not shutil.which("flock"), reason="needs flock (util-linux)")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout with empty lock files, so that its environment is a bare venv, and a CLI that tells how it was called."""
    root = tmp_path / "clone"
    cli = root / "src" / "tandem" / "cli"
    cli.mkdir(parents=True)
    shutil.copy(ROOT / "tandem.sh", root)
    for name in ("requirements.lock", "requirements-dev.lock", "requirements-ros.lock"):
        (root / name).write_text("# nothing\n")
    for folder in (cli.parent, cli):
        (folder / "__init__.py").write_text("")
    (cli / "main.py").write_text("import os, sys\nprint('cli', *sys.argv[1:], sys.prefix, os.environ['PYTHONPATH'])\n")
    (cli / "warmup.py").write_text("print('warm')\n")
    return root


def call(clone: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run tandem.sh with a cache beside the clone and without an installed ROS."""
    env = {
        **os.environ, "XDG_CACHE_HOME": str(clone.parent / "cache"), "TANDEM_ROS_ROOT": str(clone.parent / "no-ros"),
        "TANDEM_NO_APT": "1", "TANDEM_PYTHON": sys.executable, "PYTHONPATH": "/somewhere/else", **environment,
    }
    return subprocess.run(
        [str(clone / "tandem.sh"), *arguments], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        timeout=240,
    )


def environment_of(clone: Path) -> Path:
    """The one environment in the cache."""
    found = [p for p in (clone.parent / "cache" / "tandem").glob("env-*") if p.is_dir()]
    assert len(found) == 1
    return found[0]


def system_packages_missing(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether this machine lacks the OpenGL libraries, which the script rightly insists on."""
    return "system packages are missing" in done.stderr


def test_environments_are_made_once_shared_and_mended(clone: Path) -> None:
    first = call(clone, "bench", "mug", "--help")
    if system_packages_missing(first):
        pytest.skip("no OpenGL libraries here")
    assert first.returncode == 0, first.stderr
    assert "making the Python environment" in first.stderr
    assert first.stdout.startswith("cli bench mug --help"), "help is told at once, nothing is compiled for it"
    assert str(environment_of(clone)) in first.stdout
    assert "/somewhere/else" not in first.stdout, "PYTHONPATH of the caller must not leak in"

    second = shutil.copytree(clone, clone.parent / "second", symlinks=True)
    again = call(second, "version")
    assert again.returncode == 0 and "making" not in again.stderr, "a second clone shares the environment"

    assert "warm" not in again.stdout
    warm = call(clone, "bench", "mug", "--quick")
    assert warm.returncode == 0 and warm.stdout.startswith("warm\ncli bench mug --quick"), "compiled before it is needed"
    ready = call(clone, "setup")
    assert "warm" not in ready.stdout and "ready" in ready.stderr, "once for each version of the sources"

    (environment_of(clone) / "ready").unlink()
    half = call(clone, "version")
    assert half.returncode == 0 and "unfinished or broken environment is removed" in half.stderr

    installed = next((environment_of(clone) / "lib").glob("python3*/site-packages/pip"))
    shutil.rmtree(installed)
    broken = call(clone, "version")
    assert broken.returncode == 0 and "lost" in broken.stderr and "making" in broken.stderr

    (environment_of(clone) / "bin" / "python").unlink()
    dead = call(clone, "version")
    assert dead.returncode == 0 and "making" in dead.stderr


def test_what_is_missing_is_said(clone: Path) -> None:
    (clone / "requirements.lock").unlink()
    done = call(clone, "version")
    assert done.returncode == 2 and "requirements.lock is missing" in done.stderr
    (clone / "requirements.lock").write_text("no-such-package-of-tandem==1.0\n")
    done = call(clone, "version", PIP_NO_INDEX="1")
    if not system_packages_missing(done):
        assert done.returncode == 2 and "could not be installed" in done.stderr and "PIP_INDEX_URL" in done.stderr
    done = call(clone, "version", TANDEM_PYTHON="/no/python")
    assert done.returncode == 2 and "no Python 3.11 or 3.12" in done.stderr


def test_the_fci_simulator_has_an_environment_of_its_own(clone: Path) -> None:
    done = call(clone, "setup-fci")
    if system_packages_missing(done):
        pytest.skip("no OpenGL libraries here")
    assert done.returncode == 2 and "requirements.lock is missing" in done.stderr
    lock = clone / "tools" / "fci_server" / "requirements.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("no-such-package-of-tandem==1.0\n")
    done = call(clone, "setup-fci", PIP_NO_INDEX="1")
    assert done.returncode == 2 and "no FCI simulator" in done.stderr and "could not be installed" in done.stderr
    assert not any(p.is_dir() for p in (clone.parent / "cache" / "tandem").glob("fci-*")), "nothing half-made is left"
    assert "no-such-package-of-tandem" in done.stderr
