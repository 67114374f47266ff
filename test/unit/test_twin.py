"""The scene about an arm on the interface follows it, also where cycles are lost."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("mujoco")

from tandem.execution.backends.base import BackendState
from tandem.execution.types import Command, Mode
from tandem.robots.model import load_arm
from tandem.sim.backend import MujocoBackend, WorldConfig
from tandem.sim.twin import CATCH_UP, Twin

Array = NDArray[np.float64]

HOME = load_arm("fr3").home
RATE = 2.0 * np.pi * np.linspace(0.3, 0.6, 7)
AMPLITUDE = 0.25


def motion(t: Array) -> tuple[Array, Array, Array]:
    """q, v, a at ``t`` (...,) [s]: joints that swing at frequencies of their own, from rest."""
    x = np.asarray(t)[..., None]
    share, rate, slope = x**2 / (1.0 + x**2), 2.0 * x / (1.0 + x**2) ** 2, (2.0 - 6.0 * x**2) / (1.0 + x**2) ** 3
    s, c = np.sin(RATE * x), RATE * np.cos(RATE * x)
    return (
        HOME + AMPLITUDE * share * s,
        AMPLITUDE * (rate * s + share * c),
        AMPLITUDE * (slope * s + 2.0 * rate * c - share * RATE**2 * s),
    )


class Arm:
    """An arm on the interface that is where :func:`motion` says, and is heard after so many milliseconds each time."""

    joints = 7

    def __init__(self, ticks: Iterator[int]) -> None:
        self.t, self._ticks = 0.0, ticks

    def connect(self, now: float) -> BackendState:
        return self.read(now)

    def wait(self) -> float:
        before, self.t = self.t, self.t + 1e-3 * next(self._ticks)
        return self.t - before

    def read(self, now: float) -> BackendState:
        q, v, _ = motion(np.array(self.t))
        return BackendState(q, v, 0.0, self.t)

    def write(self, command: Command, now: float) -> None:
        pass

    def close(self) -> None:
        pass


def lost(seed: int) -> Iterator[int]:
    rng = np.random.default_rng(seed)
    while True:
        yield int(rng.choice([1, 1, 1, rng.integers(2, 20), CATCH_UP]))


@pytest.mark.parametrize("ticks", [itertools.repeat(1), itertools.repeat(15), lost(0)], ids=["each", "every 15th", "at random"])
def test_the_scene_is_on_the_way_that_the_arm_has_gone(ticks: Iterator[int]) -> None:
    arm = Arm(ticks)
    world = MujocoBackend(WorldConfig("empty.yaml", 0))
    twin = Twin(arm, world)  # type: ignore[arg-type]
    try:
        twin.connect(0.0)
        while arm.t < 3.0:
            twin.wait()
            twin.read(arm.t)
            q, v, a = motion(np.array(arm.t))
            twin.write(Command(q, v, a, 0.0, Mode.HEAD), arm.t)
            gone = motion(np.linspace(0.0, arm.t, 1 + round(arm.t * 1e3)))[0]
            scene = world.read(0.0).q
            assert np.linalg.norm(gone - scene, axis=1).min() < 2.5e-3, arm.t
            assert np.abs(gone[-1] - scene).max() < 2e-3, "and is where the arm is"
        assert np.abs(gone[0] - scene).max() > 0.1, "it has moved"
        assert world.world.time == pytest.approx(arm.t, abs=1.5e-3), "in the arm's time"
    finally:
        twin.close()
