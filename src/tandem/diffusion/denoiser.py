"""A denoiser: network + parametrisation + normalisation -> clean estimate ``E[x_0 | x_i]`` (Tweedie), in normalised space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tandem.core.errors import ConfigError
from tandem.diffusion.networks import ResidualMLP, Sampling
from tandem.diffusion.schedules import Schedule, ScheduleConfig

PARAMETRISATIONS = ("x0", "eps", "v")


class Denoiser(Protocol):
    """What a sampler needs of a learned (or analytic) model of p(x)."""

    schedule: Schedule

    @property
    def device(self) -> torch.device:
        """Where samples live."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the samples."""

    def clean(self, x: Tensor, i: int, cond: Tensor) -> Tensor:
        """Clean estimate (N, H, D), normalised, from noisy ``x`` (N, H, D) at step ``i`` in 1..I under ``cond`` (C,)."""

    def denormalise(self, x: Tensor) -> Tensor:
        """Chunks in the data's own units."""

    def normalise(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`denormalise`."""


class Respaced:
    """A model on fewer levels than it was trained on (Nichol & Dhariwal 2021, Sec. 4): level n here is ``levels[n]`` there.

    ``base``: the model. ``steps``: levels to keep, equally spaced, the noisiest among them.

    Raises:
        ConfigError: ``steps`` is not within 1 .. the model's own.
    """

    def __init__(self, base: Denoiser, steps: int) -> None:
        total = base.schedule.steps
        if not 1 <= steps <= total:
            raise ConfigError(f"respaced: steps = {steps}: accepted: 1 .. {total}, the model's own")
        self._base = base
        self.levels = base.schedule.levels(total, steps)[::-1]
        config = ScheduleConfig(base.schedule.config.kind, steps, base.schedule.config.final)
        self.schedule = Schedule(config, tuple(base.schedule.alpha_bar[n] for n in self.levels))

    @property
    def device(self) -> torch.device:
        """Where samples live."""
        return self._base.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the samples."""
        return self._base.dtype

    @property
    def shape(self) -> tuple[int, ...] | None:
        """What the model was made for, see :class:`NetworkDenoiser`; None: it does not say."""
        return getattr(self._base, "shape", None)

    def clean(self, x: Tensor, i: int, cond: Tensor) -> Tensor:
        """Clean estimate (N, H, D) of ``x`` at level ``i`` of this schedule."""
        return self._base.clean(x, self.levels[i], cond)

    def denormalise(self, x: Tensor) -> Tensor:
        """Chunks in the data's own units."""
        return self._base.denormalise(x)

    def normalise(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`denormalise`."""
        return self._base.normalise(x)


@dataclass(frozen=True)
class Normaliser:
    """Affine map of the last axis: ``normalised = (raw - centre) / scale``. ``centre``, ``scale``: (D,) or (H, D)."""

    centre: Tensor
    scale: Tensor

    @classmethod
    def fit(cls, data: Tensor, mode: str = "range", minimum: float = 1e-4) -> Normaliser:
        """From data (N, ..., D): ``range`` maps each value's extent to [-1, 1], ``gaussian`` to zero mean and unit variance.

        Values that (nearly) do not vary keep ``scale = 1`` around their centre, so that noise on them is not blown up.
        """
        flat = data.flatten(0, -2).to(torch.float64)
        if mode == "range":
            low, high = flat.amin(0), flat.amax(0)
            centre, scale = 0.5 * (low + high), 0.5 * (high - low)
        elif mode == "gaussian":
            centre, scale = flat.mean(0), flat.std(0, unbiased=False)
        else:
            raise ConfigError(f"normaliser: mode = {mode!r}: accepted: 'range' or 'gaussian'")
        return cls(centre, torch.where(scale < minimum, torch.ones_like(scale), scale))

    @classmethod
    def identity(cls, dim: int) -> Normaliser:
        """The map that changes nothing."""
        return cls(torch.zeros(dim, dtype=torch.float64), torch.ones(dim, dtype=torch.float64))

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Normaliser:
        """The same map elsewhere."""
        return Normaliser(self.centre.to(device, dtype), self.scale.to(device, dtype))

    def normalise(self, raw: Tensor) -> Tensor:
        """Raw -> normalised, shapes kept."""
        return (raw - self.centre) / self.scale

    def denormalise(self, normalised: Tensor) -> Tensor:
        """Normalised -> raw, shapes kept."""
        return normalised * self.scale + self.centre


def to_clean(parametrisation: str, output: Tensor, x: Tensor, signal: float | Tensor, noise: float | Tensor) -> Tensor:
    """Clean estimate from a network's output.

    ``x = signal x_0 + noise eps``; eps: ``(x - noise eps) / signal``; v (Salimans & Ho 2022): ``signal x - noise v``; x0: itself.
    """
    if parametrisation == "x0":
        return output
    if parametrisation == "eps":
        return (x - noise * output) / signal
    return signal * x - noise * output


def target(parametrisation: str, x0: Tensor, eps: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """What the network is trained to output; shapes as ``x0`` (B, H, D), ``signal`` and ``noise`` (B, 1, 1)."""
    if parametrisation == "x0":
        return x0
    if parametrisation == "eps":
        return eps
    return signal * eps - noise * x0


class NetworkDenoiser:
    """A trained network as a :class:`Denoiser`.

    Attributes:
        clip: clean estimates are clamped to [-clip, clip] in normalised space (data lies in [-1, 1]); None: not at all.
        horizon, dim, cond_dim: shape of a chunk and of its conditioning.
    """

    def __init__(
        self,
        network: ResidualMLP,
        schedule: Schedule,
        parametrisation: str,
        x_normaliser: Normaliser,
        cond_normaliser: Normaliser,
        clip: float | None = 1.0,
    ) -> None:
        if parametrisation not in PARAMETRISATIONS:
            raise ConfigError(f"denoiser: parametrisation = {parametrisation!r}: accepted: one of {', '.join(PARAMETRISATIONS)}")
        self.network = network.eval().requires_grad_(False)
        self.schedule, self.parametrisation, self.clip = schedule, parametrisation, clip
        weight = next(network.parameters())
        self._device, self._dtype = weight.device, weight.dtype
        self.x_normaliser = x_normaliser.to(self._device, self._dtype)
        self.cond_normaliser = cond_normaliser.to(self._device, self._dtype)
        self._index = torch.arange(schedule.steps + 1, device=self._device)
        self._sampling = Sampling(self.network)
        self._cond: Tensor | None = None
        self._modulations: list[Tensor] = []
        self._prepared: dict[int, list[tuple[Tensor, ...]]] = {}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self._dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, D, C): a chunk's and its conditioning's."""
        return self.network.horizon, self.network.dim, self.network.cond_dim

    def clean(self, x: Tensor, i: int, cond: Tensor) -> Tensor:
        """Clean estimate (N, H, D) of noisy ``x`` (N, H, D) at step ``i``; ``cond`` (C,) for all rows or (N, C), normalised."""
        if cond.ndim == 2:
            output = self.network(x, self._index[i : i + 1], cond)
        elif torch.is_grad_enabled():
            output = self.network.trunk(x, [m[i - 1 : i] for m in self._modulated(cond)])
        else:
            modulations = self._modulated(cond)
            if i not in self._prepared:
                self._prepared[i] = self._sampling.prepared([m[i - 1 : i] for m in modulations])
            output = self._sampling.trunk(x, self._prepared[i])
        x0 = to_clean(self.parametrisation, output, x, self.schedule.signal(i), self.schedule.noise(i))
        return x0 if self.clip is None else x0.clamp(-self.clip, self.clip)

    def _modulated(self, cond: Tensor) -> list[Tensor]:
        """The network's modulations (I, ...) at all steps, in one pass, kept as long as ``cond`` (C,) stays.

        One by one they cost a third of a plan of few rows.
        """
        if self._cond is None or not torch.equal(cond, self._cond):
            self._cond, self._prepared = cond.clone(), {}
            self._modulations = self.network.modulations(self._index[1:], cond[None])
        return self._modulations

    def normalise(self, x: Tensor) -> Tensor:
        """Chunks (..., H, D) in the data's units -> normalised."""
        return self.x_normaliser.normalise(x)

    def denormalise(self, x: Tensor) -> Tensor:
        """Normalised chunks (..., H, D) -> the data's units."""
        return self.x_normaliser.denormalise(x)

    def normalise_cond(self, cond: Tensor) -> Tensor:
        """Conditioning (..., C) in the data's units -> normalised: what ``JointProblem.cond`` holds."""
        return self.cond_normaliser.normalise(cond.to(self._device, self._dtype))
