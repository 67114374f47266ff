"""Noise schedules: tables of the cumulative signal coefficient, nothing else.

``alpha_bar[i]`` is what JM2D writes as alpha_i: ``x_i = sqrt(alpha_bar_i) x_0 + sqrt(1 - alpha_bar_i) eps``, for
``i = 0 .. I`` with ``alpha_bar_0 = 1``. Four families:

- ``cosine``: Nichol & Dhariwal 2021, Eq. 17, betas capped at 0.999 (Diffusion Policy's ``squaredcos_cap_v2``).
- ``linear``: Ho et al. 2020, beta = linspace(1e-4, 0.02, 1000), read at I equally spaced levels.
- ``mbd``: model-based diffusion (Pan et al. 2024), beta = linspace(1e-4, 1e-2, 100), read at I equally spaced levels. This is the
  "linear" schedule of k in JM2D's Table A.1. Its first 25 steps alone would end at 0.88, hardly any noise; read at equally
  spaced levels it ends where MBD's does, at 0.60.
- ``log_snr``: noise to signal from 0.001 at i = 1 to 30 at i = I in equal ratios (log SNR linear, as in Lu et al. 2022, Sec.
  3.4). Cosine's last noises rise from 0 in equal *differences*: of I = 100 steps seven lie below 0.1, and what depends on
  details is settled in those.

``final`` moves the end: log alpha_bar is scaled so that ``alpha_bar_I = final``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandem.core.config import setting
from tandem.core.errors import ConfigError

MAX_BETA = 0.999
MIN_ALPHA_BAR = 1e-6
#: noise to signal at i = 1 and at i = I
LOG_SNR_RATIOS = (0.001, 30.0)


@dataclass(frozen=True)
class ScheduleConfig:
    """Which schedule; see the module's text."""

    kind: str = setting("cosine", "family of the schedule", choices=("cosine", "linear", "mbd", "log_snr"))
    steps: int = setting(25, "denoising steps I", lo=1, hi=4000)
    final: float | None = setting(None, "alpha_bar at the last step; none: the family's own", lo=MIN_ALPHA_BAR, hi=0.99)


@dataclass(frozen=True)
class Schedule:
    """A table ``alpha_bar`` of I + 1 floats that starts at 1 and decreases strictly."""

    config: ScheduleConfig
    alpha_bar: tuple[float, ...]

    def __post_init__(self) -> None:
        table = np.asarray(self.alpha_bar)
        if len(table) < 2 or table[0] != 1.0 or np.any(np.diff(table) >= 0.0) or table[-1] <= 0.0:
            raise ConfigError(f"schedule {self.config}: alpha_bar must start at 1 and decrease strictly to a value > 0")

    @property
    def steps(self) -> int:
        """Number of denoising steps I."""
        return len(self.alpha_bar) - 1

    def signal(self, i: int) -> float:
        """sqrt(alpha_bar_i)."""
        return math.sqrt(self.alpha_bar[i])

    def noise(self, i: int) -> float:
        """sqrt(1 - alpha_bar_i)."""
        return math.sqrt(1.0 - self.alpha_bar[i])

    def sigma(self, i: int, j: int, eta: float = 1.0) -> float:
        """Standard deviation of the reverse step i -> j < i (DDIM, Song et al. 2020, Eq. 16); ``eta = 1`` is DDPM's posterior."""
        a_i, a_j = self.alpha_bar[i], self.alpha_bar[j]
        return eta * math.sqrt((1.0 - a_j) / (1.0 - a_i) * (1.0 - a_i / a_j))

    def table(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float64) -> Tensor:
        """(I + 1,) tensor of alpha_bar."""
        return torch.tensor(self.alpha_bar, device=device, dtype=dtype)

    def levels(self, start: int, count: int) -> list[int]:
        """Decreasing levels ``start .. 0`` visited in at most ``count`` jumps, equally spaced, first = start, last = 0."""
        if count >= start:
            return list(range(start, -1, -1))
        return [round(start * (1.0 - n / count)) for n in range(count + 1)]


def _cosine(steps: int) -> NDArray[np.float64]:
    t = np.linspace(0.0, 1.0, steps + 1)
    f = np.cos((t + 0.008) / 1.008 * math.pi / 2.0) ** 2
    betas = np.minimum(1.0 - f[1:] / f[:-1], MAX_BETA)
    return np.concatenate([[1.0], np.cumprod(1.0 - betas)])


def _stretched(betas: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
    """Log alpha_bar of ``betas`` read at ``steps`` equally spaced levels."""
    log_table = np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])
    return np.exp(np.interp(np.linspace(0.0, len(betas), steps + 1), np.arange(len(betas) + 1), log_table))


@lru_cache(maxsize=64)
def make_schedule(config: ScheduleConfig) -> Schedule:
    """The table for ``config``.

    Raises:
        ConfigError: an unknown family, or a table that does not decrease.
    """
    if config.kind == "cosine":
        table = _cosine(config.steps)
    elif config.kind == "linear":
        table = _stretched(np.linspace(1e-4, 0.02, 1000), config.steps)
    elif config.kind == "mbd":
        table = _stretched(np.linspace(1e-4, 1e-2, 100), config.steps)
    elif config.kind == "log_snr":
        table = np.concatenate([[1.0], 1.0 / (1.0 + np.geomspace(*LOG_SNR_RATIOS, config.steps) ** 2)])
    else:
        raise ConfigError(f"schedule: kind = {config.kind!r}: accepted: one of 'cosine', 'linear', 'mbd', 'log_snr'")
    if config.final is not None:
        table = np.exp(np.log(table) * (math.log(config.final) / math.log(table[-1])))
    return Schedule(config, tuple(float(a) for a in np.concatenate([[1.0], np.maximum(table[1:], MIN_ALPHA_BAR * 1e-3)])))
