"""Diffusion models over action chunks: schedules, denoisers, networks, training, and the samplers (one method a file).

The split is diffusers': a :class:`~tandem.diffusion.schedules.Schedule` knows coefficients only, a
:class:`~tandem.diffusion.denoiser.Denoiser` turns a noisy sample into a clean estimate, a
:class:`~tandem.diffusion.samplers.base.Sampler` is one algorithm over both and a
:class:`~tandem.diffusion.problem.JointProblem`. Imports only ``tandem.core``, torch and NumPy.
"""
