"""Samplers of p(x, k) ~ p(x) p(k) V(x, k), one method a file. Importing this package registers them all."""

from tandem.diffusion.samplers import (
    best_of_n,
    conditional,
    dpcc,
    gibbs,
    guidance,
    jm2d,
    jm2d_pathwise,
    mbd,
    mpd,
    pdm,
    policy,
    safediffuser,
    sequential,
    steered,
    truncation,
)
from tandem.diffusion.samplers.base import Sampler, load_sampler, make_sampler, register, sampler_names

__all__ = [
    "Sampler", "best_of_n", "conditional", "dpcc", "gibbs", "guidance", "jm2d", "jm2d_pathwise", "load_sampler", "make_sampler",
    "mbd", "mpd", "pdm", "policy", "register", "safediffuser", "sampler_names", "sequential", "steered", "truncation",
]
