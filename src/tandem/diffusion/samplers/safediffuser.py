"""SafeDiffuser (Xiao et al. 2023, paper 003): control barrier functions in diffusion time, Alg. 1.

After each reverse step tau^{j+1} -> tau^j every waypoint's move u = (tau^j - tau^{j+1}) / dtau is replaced by the nearest one
that keeps the specifications b(x) >= 0 on their way to hold, with dtau one denoising step and alpha(b) = gain * b:

- ``robust`` (RoS, Eqs. 8, 13):        grad b . u + alpha(b) >= 0,
- ``relaxed`` (ReS, Eqs. 9, 14):       grad b . u + alpha(b) - w(j) r >= 0, with |r|^2 in the cost and w falling to 0 at j = 0,
- ``time_varying`` (TVS, Eqs. 11, 12): grad b . u - dgamma/dj + alpha(b - gamma(j)) >= 0, gamma(N) <= b(x^N), gamma(0) = 0.

``extra_steps`` (N_a of Theorem 3) repeats the last step at diffusion time 0. One specification a waypoint: closed form; several:
an exact QP a waypoint, all of them at once (:mod:`tandem.diffusion.nearest`). Values and gradients live in normalised space, with
the normaliser's scale carried over. gain = 1 asks for safety (to first order) after one step; smaller values let b approach 0
geometrically. Where a waypoint's specifications contradict each other its move stays as it was, which is counted; the
problem's own V judges the outcome.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tandem.core.config import setting
from tandem.diffusion.nearest import nearest, onto_half_space
from tandem.diffusion.result import SampleResult
from tandem.diffusion.reverse import step
from tandem.diffusion.samplers.base import Run, Sampler, finish, pair_with_prior, register


@dataclass(frozen=True)
class SafeDiffuserConfig:
    """Settings of SafeDiffuser."""

    variant: str = setting("robust", "RoS, ReS or TVS", choices=("robust", "relaxed", "time_varying"))
    gain: float = setting(1.0, "alpha(b) = gain * b, a denoising step", lo=1e-3, hi=1.0)
    margin: float = setting(0.0, "b >= margin is enforced (the public code's robust term), b's own unit", lo=0.0, hi=1e3)
    relax_weight: float = setting(100.0, "relaxed: w while j >= relax_steps", lo=0.0, hi=1e6)
    relax_steps: int = setting(10, "relaxed: w falls linearly to 0 over the last steps", lo=1, hi=4000)
    extra_steps: int = setting(0, "N_a: further steps at diffusion time 0 (the paper's ReS: 50)", lo=0, hi=4000)
    samples: int = setting(1, "chunks drawn at once; the best is chosen", lo=1, hi=100_000)
    k_samples: int = setting(128, "draws of p(k) tried with the outcome", lo=1, hi=100_000)


@register
class SafeDiffuser(Sampler[SafeDiffuserConfig]):
    """Ancestral sampling with an invariance QP after each step."""

    name: ClassVar[str] = "safediffuser"
    config_type: ClassVar[type[SafeDiffuserConfig]] = SafeDiffuserConfig

    def network_rows(self, steps: int) -> int:
        """Network rows of a call."""
        return self.config.samples * (steps + self.config.extra_steps)

    def _sample(self, run: Run) -> SampleResult:
        c, x = self.config, run.noise(self.config.samples)
        b, slope = self._specifications(run, x)
        first = b.clamp(max=0.0)  # gamma(N) of TVS: whatever b is violated by at the start
        levels = [*range(run.schedule.steps, 0, -1), *[0] * c.extra_steps]
        for n, i in enumerate(levels):
            if run.expired():
                return finish(run, None, None, False)
            j = max(i - 1, 0)
            clean = run.clean(x, max(i, 1))
            wanted = clean if j == 0 else step(run.schedule, x, clean, i, j, 1.0, run.generator)
            x = x + self._control(run, wanted - x, b, slope, first, i, j).to(x.dtype)
            if n + 1 < len(levels):
                b, slope = self._specifications(run, x)
        raw, e = run.evaluate(x)
        return finish(run, pair_with_prior(run, raw, e, c.k_samples), None, True)

    def _specifications(self, run: Run, x: Tensor) -> tuple[Tensor, Tensor]:
        b, slope = run.barrier(x, self.name)
        return b - self.config.margin, slope

    def _control(self, run: Run, u: Tensor, b: Tensor, slope: Tensor, first: Tensor, i: int, j: int) -> Tensor:
        """(N, H, D) the nearest moves to ``u`` that satisfy Eq. 8, 10 or 12 on the step from level i to level j."""
        c = self.config
        if b.shape[-1] == 0:
            return u
        gamma_i, gamma_j = (
            (first * (n / run.schedule.steps) for n in (i, j)) if c.variant == "time_varying" else (torch.zeros_like(b),) * 2
        )
        bound = (gamma_j - gamma_i) - c.gain * (b - gamma_i)
        relax = c.relax_weight * min(1.0, j / c.relax_steps) if c.variant == "relaxed" else 0.0
        moved, solvable = _nearest_moves(u.double(), slope, bound, relax)
        run.counters.solver_iterations += 1
        if not bool(solvable.all()):
            run.counters.fail("contradictory specifications at a waypoint", int((~solvable).sum()))
        return torch.where(solvable[..., None], moved, u.double())


def _nearest_moves(u: Tensor, slope: Tensor, bound: Tensor, relax: float) -> tuple[Tensor, Tensor]:
    """Eq. 13, or Eq. 14 with weight ``relax`` > 0, for every waypoint: u (N, H, D), slope (N, H, M, D), bound (N, H, M).

    A relaxation r is one more variable with a slope of -relax in its own constraint; r's sign is free, so this is +relax.
    """
    n, h, m, d = slope.shape
    if m == 1 and relax == 0.0:
        return onto_half_space(u, slope[:, :, 0], bound[:, :, 0])
    target, a = u.reshape(n * h, d), slope.reshape(n * h, m, d)
    if relax > 0.0:
        target = torch.cat([target, target.new_zeros((n * h, m))], dim=-1)
        a = torch.cat([a, relax * torch.eye(m, dtype=a.dtype, device=a.device).expand(n * h, m, m)], dim=-1)
    x, solvable = nearest(target, a, bound.reshape(n * h, m))
    return x[:, :d].reshape(n, h, d), solvable.reshape(n, h)
