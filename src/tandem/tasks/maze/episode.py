"""Episodes in closed loop: plan, check, play five steps, plan again; the backup plays whenever there is nothing certified."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tandem.diffusion.denoiser import NetworkDenoiser
from tandem.diffusion.samplers import Sampler
from tandem.safety.pointmass import PointFamily
from tandem.tasks.maze.demonstrations import draw_goal
from tandem.tasks.maze.layout import HALF, centre, clearance, free_cells, way
from tandem.tasks.maze.physics import DT, RADIUS, MazeWorld, State, control_for
from tandem.tasks.maze.problem import MazeConfig, MazeProblem

Array = NDArray[np.float64]

#: the goal is reached at this distance [m]; an episode ends after so many steps (RAIL: medium maze)
SUCCESS_RADIUS, LONGEST = 0.2, 1000
#: a start and a goal lie at least so many cells apart
APART = 4
#: starts keep clear of walls padded by this, and goals can be reached among them [m]
WIDEST = 0.25


@dataclass(frozen=True)
class Task:
    """Where an episode begins, at rest, and where it goes: (2,) each [m]."""

    start: Array
    goal: Array


def draw_task(seed: int, trial: int) -> Task:
    """The task of ``trial``: every method and padding sees the same. Starts around a cell's centre, goals as D4RL draws them."""
    rng = np.random.default_rng([seed, trial, 7])
    cells = free_cells()
    while True:
        first, last = (cells[i] for i in rng.choice(len(cells), 2, replace=False))
        start, goal = centre(first) + rng.uniform(-0.1, 0.1, 2), draw_goal(last, rng)
        free = HALF - RADIUS - WIDEST
        reachable = np.linalg.norm(np.maximum(np.abs(goal - centre(last)) - free, 0.0)) < SUCCESS_RADIUS - 0.02
        if len(way(first, last)) > APART and reachable:
            return Task(start, goal)


class Backup:
    """The motion that plays when nothing else may: from ``p``, ``v`` (2,) with k (2,) [m/s^2] to rest."""

    def __init__(self, family: PointFamily, p: Array, v: Array, k: Array) -> None:
        self._family, self._p, self._v, self._k, self._step = family, p, v, k, 0

    @classmethod
    def standing(cls, family: PointFamily, p: Array) -> Backup:
        """Stay at ``p``."""
        return cls(family, p, np.zeros(2), np.zeros(2))

    def control(self, s: State) -> Array:
        """The control that brings the ball onto the backup at the end of the next step."""
        self._step += 1
        f = self._family.basis(np.array([self._step * DT]))[:, 0]
        aim = self._p * f[0] + self._v * f[1] + self._k * f[2]
        return control_for(s.v, (aim - s.p) / DT)


@dataclass(frozen=True)
class Outcome:
    """What happened. ``path`` (T + 1, 2) [m]; ``backup`` (T,) whether each step was the backup's.

    ``clearance``: least distance of ball and padded walls over the whole path, between steps too [m]; ``touched``: a contact in
    the simulator. Of every plan: ``plan_ms``, its processor time, which other work on the machine does not change, ``rows`` and
    ``evaluations``. ``refused``: plans that a sampler held to be feasible and the check did not.
    """

    reached: bool
    path: Array
    backup: NDArray[np.bool_]
    clearance: float
    touched: bool
    plan_ms: list[float]
    rows: list[int]
    evaluations: list[int]
    refused: int

    @property
    def violated(self) -> bool:
        """Whether the ball met a padded wall."""
        return self.touched or self.clearance < 0.0


def play(
    sampler: Sampler, denoiser: NetworkDenoiser, config: MazeConfig, task: Task, seed: int, filtered: bool = True,
    longest: int | None = None,
) -> Outcome:
    """One episode of at most ``longest`` steps.

    ``filtered``: play certified pairs only; otherwise whatever the sampler returns, and no backup.
    """
    world, family = MazeWorld(), config.family()
    longest = LONGEST if longest is None else longest
    s = world.reset(task.start)
    stream = np.random.SeedSequence([seed, 11])
    rng = np.random.default_rng(stream)
    generator = torch.Generator(denoiser.device).manual_seed(int(stream.generate_state(1)[0]))
    backup, path, by_backup = Backup.standing(family, s.p), [s.p], list[bool]()
    plan_ms, rows, evaluations, refused, reached = list[float](), list[int](), list[int](), 0, False
    while len(by_backup) < longest and not reached:
        problem = MazeProblem.make(config, s, task.goal, denoiser, rng)
        began = time.process_time()
        result = sampler.sample(problem, denoiser, generator=generator)
        plan_ms.append(1e3 * (time.process_time() - began))
        rows.append(result.counters.network_rows)
        evaluations.append(result.counters.potential_evals)
        head: Array | None = None
        if result.x is not None and (result.feasible or not filtered):
            head = result.x[: config.execute].detach().cpu().numpy().astype(np.float64)
            if filtered:
                if result.k is not None and problem.certified(result.x, result.k):
                    end = problem.evaluate(result.x[None])
                    k = problem.acceleration(result.k)
                    following = Backup(family, end.p[0, config.execute], end.v[0, config.execute], k)
                else:
                    head, refused = None, refused + 1
        for n in range(config.execute):
            s = world.step(backup.control(s) if head is None else head[n])
            path.append(s.p)
            by_backup.append(head is None)
            reached = bool(np.linalg.norm(s.p - task.goal) <= SUCCESS_RADIUS)
            if reached:
                break
        if head is not None and filtered:
            backup = following
    least = float(clearance(np.array(path), config.padding, RADIUS).min())
    return Outcome(reached, np.array(path), np.array(by_backup), least, world.touched, plan_ms, rows, evaluations, refused)
