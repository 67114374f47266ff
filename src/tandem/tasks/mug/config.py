"""Settings of the mug task (``config/tasks/mug.yaml``)."""

from __future__ import annotations

from dataclasses import dataclass

from tandem.core import config
from tandem.core.config import setting
from tandem.core.paths import config_file


@dataclass(frozen=True)
class MugConfig:
    """Horizons, the interaction potential's constants, and what makes a candidate infeasible."""

    robot: str = setting("fr3", "arm model in config/robots/")
    safety: str = setting("default", "bounds in config/safety/")
    weights: str = setting("mug", "policy weights in models/")
    dt: float = setting(0.1, "spacing of waypoints", unit="s", lo=0.01, hi=1.0)
    horizon: int = setting(16, "waypoints a chunk holds", lo=2, hi=128)
    execute: int = setting(8, "waypoints the head executes before the backup begins", lo=1, hi=127)
    cutoff: float = setting(14.0, "waypoints are followed up to this frequency", unit="rad/s", lo=1.0, hi=100.0)
    deviation: float = setting(0.05, "largest distance of head and waypoints", unit="m", lo=0.001, hi=1.0)
    backup_peak: float = setting(2.0, "k = 1 stands for this acceleration", unit="rad/s^2", lo=0.01, hi=20.0)
    barrier_margin: float = setting(0.02, "clearance that barrier functions ask for at waypoints", unit="m", lo=0.0, hi=0.5)
    temperature: float = setting(0.005, "lambda in V = exp(-J / lambda)", unit="rad^2", lo=1e-6, hi=1e3)
    tail_penalty: float = setting(
        0.05, "added to J where the plan's own tail (after the head) is not clear of obstacles", unit="rad^2", lo=0.0, hi=1e3
    )
    posture: tuple[float, ...] = setting(
        (0.0, -0.785, 0.0, -2.356, 0.0, 1.571, 0.785), "joint posture to which redundancy is drawn", unit="rad", lo=-6.3, hi=6.3
    )
    hold_distance: float = setting(
        0.13, "closer than this to the mug the hand hides it: the last pose seen is kept", unit="m", lo=0.0, hi=1.0
    )
    hold_width: float = setting(0.06, "with the gripper closed further the last pose seen is kept", unit="m", lo=0.0, hi=0.08)
    grasp_width: float = setting(0.012, "told to close further the gripper closes fully, with force", unit="m", lo=0.0, hi=0.08)
    empty_width: float = setting(
        0.0025, "a gripper told to close and narrower than this holds nothing (half the mug's wall)", unit="m", lo=0.0, hi=0.08
    )
    retreat: float = setting(0.12, "how far the hand moves back after a failed grasp, to look again", unit="m", lo=0.01, hi=0.5)
    polish: bool = setting(True, "optimise k once more for the chunk that was chosen (JM2D Eq. 1), whatever the sampler")

    def __post_init__(self) -> None:
        if self.execute >= self.horizon:
            raise config.ConfigError(f"mug task: execute = {self.execute}: accepted: 1 .. horizon - 1 = {self.horizon - 1}")


def load_mug_config(name: str = "mug") -> MugConfig:
    """Read ``config/tasks/<name>.yaml``, or a path."""
    path = config_file("tasks", name if name.endswith(".yaml") else f"{name}.yaml")
    return config.load(MugConfig, path)
