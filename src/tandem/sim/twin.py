"""An arm on the Franka Control Interface whose surroundings are simulated. Factory: ``tandem.sim.twin:make``.

The arm, its controller, its reflexes and the network are whatever answers at the address: the FCI simulator, or a real arm in
an empty room. A :class:`~tandem.sim.world.MugWorld` follows the measured joints, tick by tick; the camera renders it, and its
fingers close on its mug. What is not real: nothing that the simulated arm touches is felt by the arm on the interface, and the
gripper's width is the simulated one, since the hand on the interface has no mug between its fingers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicHermiteSpline

from tandem.core.config import from_dict, setting
from tandem.execution.backends.base import BackendState
from tandem.execution.backends.fci import FciBackend
from tandem.execution.backends.fci import make as make_fci
from tandem.execution.types import ArmReport, Command
from tandem.sim.backend import MujocoBackend, WorldConfig
from tandem.sim.world import TIMESTEP

Array = NDArray[np.float64]

BACKEND = "tandem.sim.twin:make"
#: most ticks that the world is behind after lost cycles; a longer gap is left out
CATCH_UP = 50


@dataclass(frozen=True)
class TwinConfig:
    """The arm on the interface, and the scene about it."""

    fci: dict[str, Any] = field(default_factory=dict, metadata={"doc": "options of the backend fci"})
    scene: str = setting("empty.yaml", "scene file, under config/scenes or a path")
    seed: int = setting(0, "places the mug", lo=0)


class Twin:
    """See the module's text. A paced backend: the interface's arm keeps the time."""

    def __init__(self, arm: FciBackend, world: MujocoBackend) -> None:
        self.joints = arm.joints
        self._arm, self._world = arm, world
        self._elapsed = TIMESTEP
        self._last: BackendState | None = None
        self._followed: BackendState | None = None  #: the measurement that the world was brought to last

    def _seen(self, state: BackendState) -> BackendState:
        """The arm's own measurement with the world about it."""
        about = self._world.read(state.stamp)
        self._last = BackendState(state.q, state.v, about.width, state.stamp, about.world)
        return self._last

    def _place(self, state: BackendState) -> BackendState:
        """Put the world's arm where the interface's is."""
        self._world.config = WorldConfig(
            self._world.config.scene, self._world.config.seed, q=state.q.tolist(), width=self._world.config.width
        )
        self._world.connect(state.stamp)
        self._followed = state
        return self._seen(state)

    def connect(self, now: float) -> BackendState:
        """Connect to the arm; the mug stands where the scene and the seed put it."""
        return self._place(self._arm.connect(now))

    def wait(self) -> float:
        """Until the arm's next state [s]."""
        self._elapsed = self._arm.wait()
        return self._elapsed

    def read(self, now: float) -> BackendState | None:
        """The arm's newest state."""
        state = self._arm.read(now)
        return None if state is None else self._seen(state)

    def write(self, command: Command, now: float) -> None:
        """Answer the arm first; then the world follows what was measured, after lost cycles on a cubic."""
        self._arm.write(command, now)
        last, before = self._last, self._followed
        if last is None:
            return
        self._followed = last
        width = self._world.streamed(command.width)
        gap = self._elapsed if before is None or before is last else max(last.stamp - before.stamp, TIMESTEP)
        ticks = min(max(round(gap / TIMESTEP), 1), CATCH_UP)
        if ticks == 1 or before is None or before is last:
            for _ in range(ticks):
                self._world.world.step(last.q, last.v if ticks == 1 else np.zeros(7), command.a, width)
            return
        # to hold the newest one for several ticks, velocity and all, would cut corners and then drive the world past it
        scale = gap / (ticks * TIMESTEP)
        course = CubicHermiteSpline([0.0, gap], np.stack([before.q, last.q]), np.stack([before.v, last.v]))
        t = np.linspace(0.0, gap, ticks + 1)[1:]
        for q, v, a in zip(course(t), scale * course(t, 1), scale**2 * course(t, 2), strict=True):
            self._world.world.step(q, v, a, width)

    def report(self) -> ArmReport:
        """The arm's own view."""
        return self._arm.report()

    def details(self) -> bytes:
        """The arm's own view, all of it."""
        return self._arm.details()

    def recover(self, now: float) -> BackendState:
        """As the arm's; the world stays as it is."""
        self._followed = None
        return self._seen(self._arm.recover(now))

    def move_gripper(self, width: float, speed: float) -> None:
        """Both hands."""
        self._arm.move_gripper(width, speed)
        self._world.move_gripper(width, speed)

    def grasp(self, width: float, force: float) -> None:
        """Both hands."""
        self._arm.grasp(width, force)
        self._world.grasp(width, force)

    def home_gripper(self) -> None:
        """The interface's hand."""
        self._arm.home_gripper()

    def reset(self, request: dict[str, Any], now: float) -> BackendState:
        """Refused, as by the arm."""
        return self._arm.reset(request, now)

    def close(self) -> None:
        """Let go of both."""
        self._arm.close()
        self._world.close()


def make(options: dict[str, Any]) -> Twin:
    """The factory; ``options`` as in :class:`TwinConfig`."""
    config = from_dict(TwinConfig, options, "twin")
    return Twin(make_fci(config.fci), MujocoBackend(WorldConfig(config.scene, config.seed)))
