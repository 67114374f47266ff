"""What the filter allows for: tracking error, latency, rounding, resolution. File: ``config/safety/<name>.yaml``."""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass

from tandem.core.config import load, setting
from tandem.core.paths import config_file


@dataclass(frozen=True)
class Bounds:
    """Bounds under which a certificate holds. Outside them it says nothing: the watchdog stops the arm when tracking is worse."""

    tracking_error: tuple[float, ...] = setting(
        (0.004,), "largest difference of measured and commanded position, one value or one a joint", unit="rad", lo=0.0, hi=0.5
    )
    latency: float = setting(0.1, "time from an obstacle's motion to the filter knowing of it", unit="s", lo=0.0, hi=5.0)
    max_obstacle_age: float = setting(0.5, "oldest accepted data of an obstacle that may move", unit="s", lo=0.0, hi=60.0)
    rounding_pad: float = setting(1e-6, "added to every distance bound for float64 rounding", unit="m", lo=0.0, hi=0.1)
    joint_pad: float = setting(2e-6, "added to every joint radius: rounding, knots' inconsistency", unit="rad", lo=0.0, hi=0.1)
    min_clearance: float = setting(0.0, "least clearance to obstacles to certify", unit="m", lo=0.0, hi=1.0)
    interval: float = setting(0.125, "a trajectory is first cut into intervals no longer than this", unit="s", lo=0.005, hi=10.0)
    levels: int = setting(4, "how often an interval that is not clear may be halved (1 s: 8 x 2^4 = 128)", lo=0, hi=12)
    start_tolerance_q: float = setting(1e-4, "largest step of position at the switch", unit="rad", lo=0.0, hi=0.01)
    start_tolerance_v: float = setting(1e-3, "largest step of velocity at the switch", unit="rad/s", lo=0.0, hi=0.1)
    start_tolerance_a: float = setting(1e-2, "largest step of acceleration at the switch", unit="rad/s^2", lo=0.0, hi=1.0)

    def digest(self) -> str:
        """SHA-256 over all values."""
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()


def load_bounds(name: str = "default") -> Bounds:
    """``config/safety/<name>.yaml``, or the file at that path.

    Raises:
        ConfigError: missing, unreadable, unknown keys or values out of range.
    """
    return load(Bounds, config_file("safety", name if name.endswith(".yaml") else f"{name}.yaml") if "/" not in name else name)
