"""Checks of the machine that need no ROS: imports, off-screen rendering, compiled kernels. Used by ``doctor`` and the set-up."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

#: what every Tandem process may import, by part
IMPORTS: dict[str, str] = {
    "numpy": "arrays",
    "scipy": "statistics and optimisation",
    "yaml": "configuration",
    "numba": "kinematics and the safety filter",
    "torch": "networks",
    "safetensors": "weights",
    "mujoco": "simulation",
    "cv2": "ArUco markers",
    "matplotlib": "plots",
    "PIL": "pictures",
    "rosbags": "MCAP recordings",
    "rclpy": "ROS 2",
    "sensor_msgs": "ROS 2 messages",
    "trajectory_msgs": "ROS 2 messages",
    "visualization_msgs": "ROS 2 messages",
    "diagnostic_msgs": "ROS 2 messages",
}

_RENDER = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><geom type="sphere" size="0.5" rgba="1 0 0 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    picture = renderer.render()
raise SystemExit(0 if picture[16, 16, 0] > 20 else 3)
"""


def missing_imports() -> dict[str, str]:
    """Modules of :data:`IMPORTS` that cannot be imported -> the reason."""
    bad = {}
    for name in IMPORTS:
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken binary raises anything
            bad[name] = f"{type(error).__name__}: {error}"
    return bad


def renders(backend: str, timeout: float = 60.0) -> str:
    """Draw one picture with ``MUJOCO_GL=backend`` in a process of its own (a bad driver may crash it); "" or what went wrong."""
    env = {**os.environ, "MUJOCO_GL": backend}
    try:
        command = [sys.executable, "-c", _RENDER]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return f"no picture within {timeout:.0f} s"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"


def working_gl() -> tuple[str, dict[str, str]]:
    """The first of egl and osmesa that draws ("" if none), and the failures on the way."""
    failures: dict[str, str] = {}
    for backend in ("egl", "osmesa"):
        failure = renders(backend)
        if not failure:
            return backend, failures
        failures[backend] = failure
    return "", failures


def compile_kernels(robot: str = "fr3") -> list[str]:
    """Fill numba's cache for ``robot``: calls ``compile_all(arm)`` of each part that has kernels; returns the modules' names."""
    arm = importlib.import_module("tandem.robots.model").load_arm(robot)
    done = []
    for name in ("tandem.robots.compile", "tandem.safety"):
        importlib.import_module(name).compile_all(arm)
        done.append(name)
    importlib.import_module("tandem.safety.pointmass").compile_points()
    importlib.import_module("tandem.safety.clearance").compile_clearance(arm)
    importlib.import_module("tandem.diffusion.nearest").compile_nearest()
    return [*done, "tandem.safety.pointmass", "tandem.safety.clearance", "tandem.diffusion.nearest"]
