"""One episode of the Avoiding task: plan, play a few actions on the simulated arm, plan again; judged by the simulator."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tandem.core.errors import InputError
from tandem.diffusion.denoiser import NetworkDenoiser
from tandem.diffusion.samplers.base import Sampler
from tandem.tasks.avoiding.ahead import WayAhead
from tandem.tasks.avoiding.arm import AvoidingArm
from tandem.tasks.avoiding.config import mode
from tandem.tasks.avoiding.problem import MOVE, AvoidingProblem
from tandem.tasks.avoiding.rest import RestMotion
from tandem.tasks.avoiding.scene import Scene

Array = NDArray[np.float64]

#: how often a sampler that judges its chunks draws before the arm holds. A held arm overshoots (its response is underdamped):
#: most violations of a few millimetres came from there
DRAWS = 4


@dataclass(frozen=True)
class Episode:
    """How it went.

    Attributes:
        reached: the goal line was crossed in time and no pillar touched. touched: the pillar that was, or None.
        violations: steps in which the rod's axis left a constraint's feasible set at any time (D3IL's control steps).
        depth: deepest violation [m]. steps: steps played. plans: plans made; infeasible: those the sampler found not feasible.
        way: the gaps taken, from the left, row by row; None when a row was not passed.
        path: (S, 2) the rod's axis at every millisecond [m]. rows: network rows in all. plan_s: time of each plan, with all its
            draws [s].
    """

    reached: bool
    touched: str | None
    violations: int
    depth: float
    steps: int
    plans: int
    infeasible: int
    way: tuple[int, ...] | None
    path: Array
    rows: int
    plan_s: list[float] = field(repr=False)

    @property
    def safe(self) -> bool:
        """Whether the episode succeeded without any violation."""
        return self.reached and self.violations == 0


def play(
    sampler: Sampler[Any], denoiser: NetworkDenoiser, scene: Scene, arm: AvoidingArm, generator: torch.Generator,
    ahead: WayAhead | None = None, margin: float = 0.0, pillars: bool = False, hold: bool = False,
    rest: RestMotion | None = None, rest_first: bool = False,
) -> Episode:
    """Play one episode; the generator is the only randomness. Where a sampler returns no chunk, the arm holds for a step.

    With ``hold`` a chunk that the sampler itself says is not feasible is not played either: it draws up to ``DRAWS`` times, and
    where none is feasible the arm holds, too; unless it is outside already, or within the margin, where every way back begins
    infeasible.

    ``ahead`` gives the potential its J (see :mod:`tandem.tasks.avoiding.problem`); plans keep ``margin`` [m] more distance than
    the scene asks for, by which the episode is judged, and with ``pillars`` that distance from these, too. With ``rest`` V asks
    for the motion to rest as well, from the arm's measured velocity; with ``rest_first`` only as long as that leaves a feasible
    chunk: after ``DRAWS`` without one, V without it is asked, and without the margin, before the arm holds.

    Raises:
        InputError: ``rest_first`` without ``rest``.
    """
    if rest_first and rest is None:
        raise InputError("avoiding: rest_first: expected the motion to rest (rest), got none")
    settings = scene.settings
    known = scene.with_pillars() if pillars else scene
    asked = [(known.tightened(margin), rest), *([(known, None)] if rest_first else [])]
    arm.reset()
    pieces, previous, steps, violated, deepest = [arm.tip[None]], None, 0, 0, 0.0
    spent: list[float] = []
    rows = infeasible = 0
    while steps < settings.max_steps and arm.touched is None and arm.tip[1] < settings.goal_y:
        state, velocity = torch.from_numpy(arm.state), torch.from_numpy(arm.velocity)
        problems = [AvoidingProblem(planned, state, denoiser, previous, ahead, r, velocity) for planned, r in asked]
        began = time.perf_counter()
        for problem in problems:
            judging = hold and not problem.outside()
            for _ in range(DRAWS if judging else 1):
                result = sampler.sample(problem, denoiser, generator=generator)
                rows += result.counters.network_rows
                if result.feasible:
                    break
            if result.feasible:
                break
        spent.append(time.perf_counter() - began)
        infeasible += not result.feasible
        actions = np.zeros((1, 2))
        if result.x is not None and (result.feasible or not judging):
            actions = result.x[: settings.execute, MOVE:].cpu().numpy().astype(np.float64)
            later = result.x[settings.execute :]
            previous = torch.cat([later, result.x[-1:].expand(settings.horizon - len(later), -1)])
        else:
            previous = None
        for action in np.clip(actions, settings.action_low, settings.action_high):
            if steps >= settings.max_steps or arm.tip[1] >= settings.goal_y:
                break
            before = arm.tip
            played = arm.play(action[None]).tip
            steps += 1
            pieces.append(played)
            worst = _violation(scene, np.concatenate([before[None], played]))
            violated += worst > 0.0
            deepest = max(deepest, worst)
            if arm.touched is not None:
                break
    path = np.concatenate(pieces)
    reached = arm.touched is None and bool(arm.tip[1] >= settings.goal_y)
    return Episode(
        reached, arm.touched, int(violated), deepest, steps, len(spent), infeasible, mode(path, settings), path, rows, spent
    )


def _violation(scene: Scene, path: Array) -> float:
    """Deepest violation [m] along ``path`` (S, 2) up to the goal line, 0 where none."""
    before = path[:-1, 1] < scene.settings.goal_y
    if scene.count == 0 or not before.any():
        return 0.0
    least = scene.swept(torch.from_numpy(path).to(scene.lines.device)).amin(-1)[torch.from_numpy(before)]
    return max(0.0, -float(least.min()))
