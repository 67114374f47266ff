"""How the arm of the Avoiding task comes to rest when it plays the first actions of a chunk and then holds.

Its response is underdamped: a held arm overshoots by up to 30 mm, and what a chunk predicts says nothing of it. With this motion
in the potential (``+rest`` in a benchmark) no chunk is feasible from whose actions the arm could not come to rest within the
constraints, which is what a backup is for: to hold is then safe at every step, whatever the policy proposes next.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tandem.core.errors import InputError
from tandem.tasks.avoiding.arm import Response
from tandem.tasks.avoiding.config import AvoidingConfig


class RestMotion:
    """Positions of the response fitted to the demonstrations, as a linear map of state and actions.

    Args:
        settings: the response, and how many actions are played before the next plan. seconds: how long the motion is followed
            after these [s]; by then the arm should be at rest.

    Raises:
        InputError: ``seconds`` is not positive.
    """

    def __init__(self, settings: AvoidingConfig, seconds: float, device: torch.device | str = "cpu") -> None:
        if not (math.isfinite(seconds) and seconds > 0.0):
            raise InputError(f"avoiding: rest motion of {seconds} s: accepted: > 0")
        self.actions, response = settings.execute, Response(settings)
        self._low, self._high = (
            torch.tensor(v, dtype=torch.float64, device=device) for v in (settings.action_low, settings.action_high)
        )
        unit = np.eye(3 + self.actions)  # what p, v, d and each action contribute, axis by axis
        p, v, d = (np.repeat(unit[:, [n]], 2, axis=1) for n in range(3))
        rows = []
        for n in range(self.actions + math.ceil(seconds / settings.dt)):
            action = np.repeat(unit[:, [3 + n]], 2, axis=1) if n < self.actions else np.zeros_like(d)
            ps, vs = response.step(p, v, d, action)
            p, v, d = ps[-1], vs[-1], d + action
            rows.append(p)
        self._map = torch.from_numpy(np.array(rows)).to(device)  # (T, 3 + actions, 2)

    def __call__(self, state: Tensor, velocity: Tensor, actions: Tensor) -> Tensor:
        """(N, T, 2) positions [m] at the end of each step.

        Args:
            state: (4,) desired and actual position now [m]. velocity: (2,) of the actual one [m/s]. actions: (N, H, 2) changes of
                the desired position, of which the first are played, cut to what the arm accepts.
        """
        played = torch.minimum(torch.maximum(actions[:, : self.actions].double(), self._low), self._high)
        now = torch.stack([state[2:], velocity, state[:2]]).expand(len(actions), -1, -1)
        return torch.einsum("tia,nia->nta", self._map, torch.cat([now, played], dim=1))
