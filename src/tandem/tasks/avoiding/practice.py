"""Practice: a policy's own rollouts in the fitted response of the arm; those that end well are data to train the next one on.

A policy trained on demonstrations alone fails in one episode of ten, mostly because it changes its mind close before a pillar.
Where that ends in a contact there is nothing to learn from; what remains is the same choice of ways, made in time. (Filtered
imitation, as in Oh et al. 2018 and Chen et al. 2020: clone what succeeded of one's own behaviour.)
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from tandem.diffusion.denoiser import NetworkDenoiser
from tandem.diffusion.reverse import SolverConfig, denoise
from tandem.tasks.avoiding.arm import Response
from tandem.tasks.avoiding.config import AvoidingConfig, mode
from tandem.tasks.avoiding.dataset import ACTION, STATE, Path
from tandem.tasks.avoiding.demonstrations import BEYOND, clearance

Array = NDArray[np.float64]
#: least distance of the rod from the pillars in what is kept [m]
PRACTICE_CLEARANCE = 0.006
#: actions played of each plan; one, as in the benchmark, would take four times as long
EXECUTE = 4


def rollouts(
    policy: NetworkDenoiser, count: int, seed: int, settings: AvoidingConfig, execute: int = EXECUTE
) -> tuple[Array, Array]:
    """``count`` episodes side by side without constraints: desired and actual positions, (count, T, 2) each [m].

    ``execute``: actions played of each plan.
    """
    generator, response = torch.Generator(policy.device).manual_seed(seed), Response(settings)
    d: Array = np.tile(np.array(settings.start), (count, 1))
    p, v = d.copy(), np.zeros_like(d)
    desired, actual = [d], [p]
    with torch.inference_mode():
        while len(desired) < settings.max_steps and (p[:, 1] < settings.goal_y + BEYOND).any():
            actions = _plans(policy, np.concatenate([d, p], axis=1), generator)[:, :execute, STATE:]
            for action in np.clip(actions, settings.action_low, settings.action_high).transpose(1, 0, 2):
                ps, vs = response.step(p, v, d, action)
                p, v, d = ps[-1], vs[-1], d + action
                desired.append(d)
                actual.append(p)
    return np.stack(desired, axis=1), np.stack(actual, axis=1)


def _plans(policy: NetworkDenoiser, states: Array, generator: torch.Generator) -> Array:
    """(N, H, 6) a chunk for each of ``states`` (N, 4)."""
    cond = policy.normalise_cond(torch.from_numpy(states))
    shape = len(states), policy.network.horizon, STATE + ACTION
    noise = torch.randn(shape, generator=generator, device=policy.device, dtype=policy.dtype)

    def clean(x: torch.Tensor, i: int) -> torch.Tensor:
        return policy.clean(x, i, cond)

    x, _ = denoise(policy.schedule, clean, noise, policy.schedule.steps, SolverConfig(), generator)
    return policy.denormalise(x).cpu().numpy().astype(np.float64)


def successes(desired: Array, actual: Array, settings: AvoidingConfig, a_way: int) -> list[Path]:
    """Those (count, T, 2) that reach the goal and keep clear of the pillars up to there, cut off beyond it; at most ``a_way`` of
    each way, the first.
    """
    kept: dict[tuple[int, ...], list[Path]] = {}
    for d, p in zip(desired, actual, strict=True):
        if p[-1, 1] < settings.goal_y:
            continue
        crossed = int(np.argmax(p[:, 1] > settings.goal_y))
        end = int(np.argmax(p[:, 1] > settings.goal_y + BEYOND)) or len(p)
        way = mode(p[:end], settings)
        if way is not None and clearance(p[: crossed + 1], settings) >= PRACTICE_CLEARANCE:
            kept.setdefault(way, []).append((d[:end], p[:end], way))
    return [path for way in sorted(kept) for path in kept[way][:a_way]]
