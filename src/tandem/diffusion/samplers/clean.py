"""Clean estimates: how chunks x_0 are made from one noisy x_i, for methods that judge noisy samples by a potential on clean ones.

JM2D, Appx. A.2, ablates four: x_i itself (``noisy``), Tweedie's mean (``steps`` with u = 0), u ancestral steps and then Tweedie
(``steps``), and the whole reverse pass (``full``, Alg. C.2). The more steps, the nearer the estimates are to the data. The first
two are one chunk, not N: they say how good k is with it, but leave nothing to choose among chunks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from tandem.core.config import setting
from tandem.diffusion.reverse import SolverConfig, step
from tandem.diffusion.samplers.base import OutOfTimeError, Run


@dataclass(frozen=True)
class CleanConfig:
    """How clean chunks are estimated."""

    clean: str = setting("full", "clean chunks: whole pass, u steps + Tweedie, or x_i itself", choices=("full", "steps", "noisy"))
    clean_steps: int = setting(2, "u: ancestral steps before Tweedie with clean: steps; 0: Tweedie at once", lo=0, hi=4000)
    inner: SolverConfig = field(default_factory=SolverConfig)


def clean_chunks(run: Run, c: CleanConfig, x: Tensor, i: int, count: int) -> Tensor:
    """Alg. C.2 lines 1-4: clean chunks (count, H, D), normalised, from one noisy ``x`` (1, H, D) at step ``i``.

    One chunk where more would only be copies: x_i itself (at the last step its Tweedie mean, which is what is returned), or its
    Tweedie mean.

    Raises:
        OutOfTimeError: the deadline passed before they were clean.
    """
    if c.clean == "noisy":
        return x if i > 1 else run.clean(x, i)
    if c.clean == "full":
        clean, level = run.denoise(x.expand(count, -1, -1), i, c.inner, stop_early=True)
        if level > 0:
            raise OutOfTimeError
        return clean
    u = min(c.clean_steps, i - 1)
    if u == 0:
        return run.clean(x, i)
    y = x.expand(count, -1, -1)
    for level in range(i, i - u, -1):
        if run.expired():
            raise OutOfTimeError
        y = step(run.schedule, y, run.clean(y, level), level, level - 1, 1.0, run.generator)
    return run.clean(y, i - u)


def step_target(run: Run, c: CleanConfig, x: Tensor, i: int, clean: Tensor) -> Tensor:
    """What the weights average for the step of ``x`` from ``i``: ``clean``; the Tweedie mean where V judged x_i in its place."""
    return run.clean(x, i) if c.clean == "noisy" and i > 1 else clean


def clean_rows(c: CleanConfig, steps: int, count: int) -> int:
    """Network rows of :func:`clean_chunks` at every step of a pass of ``steps`` steps; N I (I + 1) / 2 with ``full``."""
    if c.clean == "noisy":
        return 1
    if c.clean == "full":
        total = steps if c.inner.steps == 0 else min(c.inner.steps, steps)
        return count * sum(total if i == steps else max(1, min(i, math.ceil(total * i / steps))) for i in range(1, steps + 1))
    return sum(count * min(c.clean_steps + 1, i) if c.clean_steps and i > 1 else 1 for i in range(1, steps + 1))


def target_rows(c: CleanConfig, steps: int) -> int:
    """Network rows of :func:`step_target` at every step of a pass."""
    return steps - 1 if c.clean == "noisy" else 0
