"""The simulated arm as a backend of the fast loop: one cycle is one tick of the world, so real time is the loop's.

Factory for the fast loop: ``tandem.sim.backend:make``. Options and :meth:`MujocoBackend.reset` requests are :class:`WorldConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandem.core.config import from_dict, setting, to_dict
from tandem.core.errors import InputError
from tandem.execution.backends.base import BackendError, BackendState, GripperTarget
from tandem.execution.types import Command
from tandem.sim.world import MugWorld

Array = NDArray[np.float64]

#: numbers after the configuration in :attr:`BackendState.world`: mug lifted (0 or 1), forbidden contacts, simulated time [s]
_TRUTH = 3


@dataclass(frozen=True)
class WorldConfig:
    """Which world, and where it starts."""

    scene: str = setting("empty.yaml", "scene file, under config/scenes or a path")
    seed: int = setting(0, "places the mug when mug_pose is empty", lo=0)
    mug_pose: list[float] = setting(
        [], "16 numbers: the mug's pose in the base frame by rows; [] for a random one", lo=-10.0, hi=10.0
    )
    q: list[float] = setting([], "joints at the start; [] for home", unit="rad", lo=-10.0, hi=10.0)
    width: float = setting(0.08, "gripper width at the start", unit="m", lo=0.0, hi=0.08)


@dataclass(frozen=True)
class WorldReport:
    """What a state's ``world`` holds: ``qpos`` for a mirror, and the simulator's truth for scoring only."""

    qpos: Array
    lifted: bool
    forbidden_contacts: int
    time: float

    @classmethod
    def of(cls, world: Array) -> WorldReport:
        """Take ``world`` (k,) apart. Raises InputError when it is not this backend's."""
        if len(world) <= _TRUTH:
            raise InputError(f"world: {len(world)} numbers; the MuJoCo backend sends more than {_TRUTH}")
        return cls(world[:-_TRUTH].copy(), bool(world[-3]), int(world[-2]), float(world[-1]))


class MujocoBackend:
    """Drives a :class:`~tandem.sim.world.MugWorld`; ``world`` may be handed in (lockstep), else it is made from ``config``."""

    joints = 7

    def __init__(self, config: WorldConfig, world: MugWorld | None = None) -> None:
        self.config = config
        self._own = world is None
        self.world = world or MugWorld(config.scene, config.seed)
        self._target = GripperTarget()

    def _start(self) -> None:
        config = self.config
        pose = np.reshape(config.mug_pose, (4, 4)) if config.mug_pose else None
        self.world.reset(pose, np.asarray(config.q) if config.q else None, config.width)
        self._target = GripperTarget()

    def connect(self, now: float) -> BackendState:
        """Put the world to its start; one that was handed in stays as it is."""
        if self._own:
            self.world.rng = np.random.default_rng(self.config.seed)
            self._start()
        return self.read(now)

    def read(self, now: float) -> BackendState:
        """Measured joints and gripper, and the world for a mirror."""
        world = self.world
        truth = np.array([float(world.lifted()), float(len(world.incidents)), world.time])
        return BackendState(
            world.joint_positions(), world.joint_velocities(), world.gripper_width(), now, np.concatenate([world.qpos, truth])
        )

    def write(self, command: Command, now: float) -> None:
        """One tick of the world."""
        self.world.step(command.q, command.v, command.a, self.streamed(command.width))

    def streamed(self, width: float) -> float:
        """The width [m] to drive to when ``width`` is streamed: that, or an explicit request until the stream changes."""
        return self._target.update(width)

    def move_gripper(self, width: float, speed: float) -> None:
        """Drive to ``width`` [m], at the world's own speed."""
        self._target.request(width)

    def grasp(self, width: float, force: float) -> None:
        """Close fully: the world's gripper presses with its own force on what is between the fingers."""
        self._target.request(0.0)

    def home_gripper(self) -> None:
        """Nothing to find."""

    def recover(self, now: float) -> BackendState:
        """A simulated arm has no errors to clear."""
        return self.read(now)

    def reset(self, request: dict[str, Any], now: float) -> BackendState:
        """Start over; keys left out of ``request`` (:class:`WorldConfig`) stay as they were, another scene is loaded anew.

        The mug stands where a new world with this seed has it; without ``seed`` in ``request`` at the generator's next place.

        Raises:
            BackendError: an unknown key or a value out of range; the world is left as it was.
        """
        try:
            config = from_dict(WorldConfig, {**to_dict(self.config), **request}, "reset")
            if config.mug_pose and len(config.mug_pose) != 16:
                raise InputError(f"reset: mug_pose has {len(config.mug_pose)} values; expected 16")
            if config.scene != self.config.scene:
                old, self.world = self.world, MugWorld(config.scene, config.seed)
                old.close()
            if "seed" in request or config.scene != self.config.scene:
                self.world.rng = np.random.default_rng(config.seed)
            self.config = replace(config)
            self._start()
        except Exception as error:
            raise BackendError(f"{type(error).__name__}: {error}") from error
        return self.read(now)

    def close(self) -> None:
        """Free the world's resources."""
        self.world.close()


def make(options: dict[str, Any]) -> MujocoBackend:
    """The factory named by ``tandem.sim.backend:make``."""
    return MujocoBackend(from_dict(WorldConfig, options, "backend options"))
