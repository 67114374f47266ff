"""Practice: a policy plays in the fitted response of the arm; where it fails, it tries again from shortly before, and what ends
well is data to train the next one on.

A policy trained on demonstrations alone fails in one episode of ten, mostly because it changes its mind close before a pillar:
in states that no demonstration passes through. Only these are practised. (Filtered imitation, as in Oh et al. 2018 and Chen et
al. 2020, with resets to where it matters; to imitate whole episodes that succeed makes a policy's samples grow alike.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tandem.diffusion.denoiser import NetworkDenoiser
from tandem.diffusion.reverse import SolverConfig, denoise
from tandem.tasks.avoiding.arm import Response
from tandem.tasks.avoiding.config import AvoidingConfig, mode
from tandem.tasks.avoiding.dataset import ACTION, STATE, Path
from tandem.tasks.avoiding.demonstrations import BEYOND, clearance, clearances

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
#: least distance of the rod from the pillars in what is kept [m]
PRACTICE_CLEARANCE = 0.006
#: actions played of each plan while it tries again: it keeps to what it began
EXECUTE = 4
#: where it tries again: steps before the contact; how often from each; how many of these are kept at most
BEFORE, TRIES, KEPT = (4, 7, 11, 16), 12, 3


@dataclass(frozen=True)
class Rollouts:
    """Episodes side by side: ``desired`` and ``actual`` positions (N, T, 2) [m], ``velocity`` of the latter [m/s]."""

    desired: Array
    actual: Array
    velocity: Array

    def at(self, n: Indices, step: Indices) -> tuple[Array, Array, Array]:
        """(M, 2) each: the state of episodes ``n`` (M,) at ``step`` (M,)."""
        return self.desired[n, step], self.actual[n, step], self.velocity[n, step]


def rollouts(
    policy: NetworkDenoiser, count: int, seed: int, settings: AvoidingConfig, execute: int = 1,
    start: tuple[Array, Array, Array] | None = None,
) -> Rollouts:
    """``count`` episodes without constraints. ``execute``: actions played of each plan. ``start``: desired position, actual
    one and its velocity, (count, 2) each; None: the task's own start, at rest.
    """
    generator, response = torch.Generator(policy.device).manual_seed(seed), Response(settings)
    home: Array = np.tile(np.array(settings.start), (count, 1))
    d, p, v = (home, home.copy(), np.zeros_like(home)) if start is None else start
    states = [(d, p, v)]
    with torch.inference_mode():
        while len(states) < settings.max_steps and (p[:, 1] < settings.goal_y + BEYOND).any():
            actions = _plans(policy, np.concatenate([d, p], axis=1), generator)[:, :execute, STATE:]
            for action in np.clip(actions, settings.action_low, settings.action_high).transpose(1, 0, 2):
                ps, vs = response.step(p, v, d, action)
                p, v, d = ps[-1], vs[-1], d + action
                states.append((d, p, v))
    return Rollouts(*(np.stack(s, axis=1) for s in zip(*states, strict=True)))


def _plans(policy: NetworkDenoiser, states: Array, generator: torch.Generator) -> Array:
    """(N, H, 6) a chunk for each of ``states`` (N, 4)."""
    cond = policy.normalise_cond(torch.from_numpy(states))
    shape = len(states), policy.network.horizon, STATE + ACTION
    noise = torch.randn(shape, generator=generator, device=policy.device, dtype=policy.dtype)

    def clean(x: torch.Tensor, i: int) -> torch.Tensor:
        return policy.clean(x, i, cond)

    x, _ = denoise(policy.schedule, clean, noise, policy.schedule.steps, SolverConfig(), generator)
    return policy.denormalise(x).cpu().numpy().astype(np.float64)


def contacts(played: Rollouts, settings: AvoidingConfig) -> Indices:
    """(N,) the step in which each episode first touches a pillar before the goal line, -1 where it does not."""
    found: Indices = np.full(len(played.actual), -1)
    for n, path in enumerate(played.actual):
        gap = clearances(path, settings)
        gap[path[:-1, 1] > settings.goal_y] = np.inf
        if gap.min() < 0.0:
            found[n] = int(np.argmax(gap < 0.0)) + 1
    return found


def successes(played: Rollouts, settings: AvoidingConfig) -> list[Path | None]:
    """Each episode, cut off beyond the goal line, where it gets there and keeps clear of the pillars; None where not."""
    return [_success(d, p, settings) for d, p in zip(played.desired, played.actual, strict=True)]


def _success(desired: Array, actual: Array, settings: AvoidingConfig) -> Path | None:
    """One of :func:`successes`."""
    if actual[-1, 1] < settings.goal_y:
        return None
    crossed = int(np.argmax(actual[:, 1] > settings.goal_y))
    end = int(np.argmax(actual[:, 1] > settings.goal_y + BEYOND)) or len(actual)
    if clearance(actual[: crossed + 1], settings) < PRACTICE_CLEARANCE:
        return None
    return desired[:end], actual[:end], mode(actual[:end], settings) or ()


def corrections(policy: NetworkDenoiser, count: int, seed: int, settings: AvoidingConfig) -> list[Path]:
    """What ``policy`` does well from the states shortly before its contacts in ``count`` episodes. A piece that begins beyond
    the first pillars has no way: ``()``.
    """
    played = rollouts(policy, count, seed, settings)
    hit = contacts(played, settings)
    where = np.array([(n, hit[n] - b) for n in np.flatnonzero(hit > 0) for b in BEFORE if hit[n] > b], dtype=np.int64)
    if len(where) == 0:
        return []
    tried = np.repeat(where, TRIES, axis=0)
    again = rollouts(policy, len(tried), seed + 1, settings, EXECUTE, played.at(tried[:, 0], tried[:, 1]))
    found = successes(again, settings)
    return [p for n in range(0, len(found), TRIES) for p in [p for p in found[n : n + TRIES] if p is not None][:KEPT]]
