"""The demo over the arm's network interface: camera to command, with a simulated controller that waits for busy machines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pylibfranka")
pytest.importorskip("mujoco")

from integration.graph import ENVIRONMENT, ROOT, free_domain

from tandem.bench.fci_server import FciServerError, server_python
from tandem.cli.checks import working_gl

pytestmark = [pytest.mark.ros, pytest.mark.fci, pytest.mark.timeout(580)]


def test_picks_up_the_mug(tmp_path: Path) -> None:
    try:
        server_python()
    except FciServerError as error:
        pytest.skip(str(error))
    backend, why = working_gl()
    if not backend:
        pytest.skip(f"nothing renders here: {why}")
    own = {"ROS_DOMAIN_ID": str(free_domain()), "PYTHONPATH": str(ROOT / "src"), "MUJOCO_GL": backend}
    environment = {**os.environ, **ENVIRONMENT, **own}
    out = tmp_path / "demo"
    words = ["demo", "--backend", "fci", "--patience", "4", "--seed", "1000", "--no-render", "--out", str(out)]
    command = [sys.executable, "-m", "tandem.cli.main", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=560)
    said = done.stdout + done.stderr
    log = out / "launch.log"
    assert done.returncode == 0, said + (log.read_text()[-3000:] if log.is_file() else "")
    figures = json.loads((out / "summary.json").read_text())
    assert figures["task_success"] and figures["audit_passed"] and figures["contacts"] == 0
    assert figures["certified"] >= 3 and 0.0 < figures["rtf"] <= 1.05
