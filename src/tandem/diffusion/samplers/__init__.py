"""Samplers of p(x, k) ~ p(x) p(k) V(x, k), one method a file. Importing this package registers them all."""

from tandem.diffusion.samplers import best_of_n, gibbs, jm2d, mpd, pdm, policy, sequential, steered
from tandem.diffusion.samplers.base import Sampler, load_sampler, make_sampler, register, sampler_names

__all__ = [
    "Sampler", "best_of_n", "gibbs", "jm2d", "load_sampler", "make_sampler", "mpd", "pdm", "policy", "register", "sampler_names",
    "sequential", "steered",
]
