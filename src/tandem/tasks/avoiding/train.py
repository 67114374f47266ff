"""``tandem train avoiding [--data FILE]``: demonstrations, blends of them, the network, and some rounds of practice.

By data and seed the same on any machine. The demonstrations are those of the file, else of one that is found (``IMPORTED``,
``BESIDE``), else scripted ones of its own; these never take the place of the shipped weights unless ``--out`` says so. After the
first training, on demonstrations and blends, each of ``--rounds`` trains anew, on these and on corrections of what the policies
before failed in (:mod:`tandem.tasks.avoiding.practice`). Only the last training, whose weights are kept, is a long one: policies
that are trained less fail oftener, and leave more to correct.
"""

from __future__ import annotations

import hashlib
import logging
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import torch

from tandem.core.errors import InputError
from tandem.core.paths import share_dir
from tandem.diffusion.denoiser import NetworkDenoiser
from tandem.diffusion.networks import MLPConfig
from tandem.diffusion.schedules import ScheduleConfig
from tandem.diffusion.training import TrainingConfig, TrainingOutcome, condition_noise, train
from tandem.diffusion.weights import load_denoiser
from tandem.tasks.avoiding.config import AvoidingConfig, load_avoiding_config
from tandem.tasks.avoiding.dataset import ACTION, STATE, blends, usable, windows
from tandem.tasks.avoiding.dataset import Path as Way
from tandem.tasks.avoiding.demonstrations import read, scripted
from tandem.tasks.avoiding.practice import corrections

logger = logging.getLogger(__name__)
#: scripted demonstrations, as many as there are human ones; what ``--data`` says to have them; where their weights go
SCRIPTED, SCRIPT, SCRIPTED_WEIGHTS = 96, Path("scripted"), Path("runs/avoiding-scripted.safetensors")
#: where demonstrations are looked for: from the working directory (``tandem data import``), and from the root of the checkout
IMPORTED, BESIDE = Path("runs/avoiding_demonstrations.npz"), Path("../shared/data/d3il_avoiding/demos.npz")
#: SHA-256 of a file that needs no ``--source``, and what that would say
KNOWN = {
    "315fedcdab1a8e1417f1e4b10b82dc93593c4417ddef38111fbdf5ecfa5b0640": "D3IL's 96 human demonstrations (ALRhub/d3il) by way of "
    "azizanlab/DiRecT; MIT License, Copyright (c) 2026 Paolo Giaretta, Zeyang Li, Navid Azizan and others"
}
#: noise on the state that the policy is conditioned on, of each value's range
CONDITION_NOISE = 0.01


def weights_path(name: str | None = None) -> Path:
    """``models/avoiding.safetensors``, or those of another name."""
    return share_dir() / "models" / f"{name or load_avoiding_config().weights}.safetensors"


def load_policy(device: str = "cpu", weights: Path | None = None, settings: AvoidingConfig | None = None) -> NetworkDenoiser:
    """The shipped policy, or the one in ``weights``.

    Raises:
        ConfigError: weights missing, not matching their manifest, or made for another task.
    """
    settings = settings or load_avoiding_config()
    return load_denoiser(weights or weights_path(settings.weights), device, expected=(settings.horizon, STATE + ACTION, STATE))


def training_settings(steps: int = 120_000, seed: int = 0) -> TrainingConfig:
    """How the shipped weights are trained; 20 steps of diffusion, as DPCC's."""
    network = MLPConfig(width=192, blocks=2, embedding=64)
    return TrainingConfig(
        network=network, schedule=ScheduleConfig("cosine", 20), steps=steps, seed=seed, batch=256, ema=0.999, clip=1.0
    )


def run(
    out: Path | None = None, *, data: Path | None = None, source: str = "", blended: int = 4000, rounds: int = 4,
    played: int = 2500, practice_steps: int = 20_000, steps: int = 120_000, seed: int = 0, device: str = "cpu",
    progress: Callable[[int, float], None] | None = None,
) -> Path:
    """Make the data, train, save weights and manifest.

    Args:
        out: ``.safetensors`` to write; default the shipped weights' place, for scripted demonstrations ``SCRIPTED_WEIGHTS``.
        data: file of demonstrations, see :func:`tandem.tasks.avoiding.demonstrations.read`, or ``SCRIPT``; default the first of
            ``IMPORTED`` and ``BESIDE`` that is there, else ``SCRIPT``. source: where they are from and under what licence, for
            the manifest. blended: blends of them. rounds: of practice. played: episodes in each.
            practice_steps: optimiser steps of each training before the last. steps: of the last, which is kept.
        progress: called with (the share of all trainings' steps that is done, in units of ``steps``, loss).

    Raises:
        InputError: ``out`` is not a .safetensors file, ``data`` no file of demonstrations, or none of them can be followed.
    """
    given, file = _located(data)
    out = out or (SCRIPTED_WEIGHTS if file is None else weights_path())
    if out.suffix != ".safetensors":
        raise InputError(f"out = {out}: accepted: a file name ending in .safetensors")
    began = time.monotonic()
    settings = load_avoiding_config()
    demonstrations = scripted(SCRIPTED, seed, settings) if file is None else read(file)
    logger.info("avoiding: %d demonstrations, %s; weights go to %s", len(demonstrations), given, out)
    followed = usable(demonstrations, settings)
    if not followed:
        raise InputError(f"avoiding: none of {len(demonstrations)} demonstrations can be followed without contact")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order give other weights
    try:
        ways = [*followed, *blends(followed, blended, seed, settings)]
        lengths = [practice_steps] * rounds + [steps]
        outcome = _trained(ways, lengths[0], seed, device, _overall(progress, lengths, 0), settings)
        for n in range(rounds):
            corrected = corrections(outcome.denoiser, played, 100 * (seed + 1) + 2 * n, settings)
            logger.info("avoiding: practice %d of %d: %d corrections", n + 1, rounds, len(corrected))
            ways += corrected
            outcome = _trained(ways, lengths[n + 1], seed, device, _overall(progress, lengths, n + 1), settings)
    finally:
        torch.set_num_threads(threads)
    origin = {"kind": "scripted"}
    if file is not None:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        origin = {"kind": "file", "file": file.name, "source": source or KNOWN.get(digest, ""), "sha256": digest}
    outcome.save(
        out, task="avoiding", demonstrations=len(demonstrations), followed=len(followed), blends=blended, origin=origin,
        command=f"tandem train avoiding --data {shlex.quote(str(given))} --blended {blended} --rounds {rounds} --played {played} "
        f"--practice-steps {practice_steps} --steps {steps} --seed {seed}",
        minutes=round((time.monotonic() - began) / 60.0, 1),
    )
    return out


def _located(data: Path | None) -> tuple[Path, Path | None]:
    """What ``--data`` says, or would have to say in the root of the checkout, and the file; None: scripted demonstrations."""
    if data is not None:
        return data, None if data == SCRIPT else data
    for given, file in ((IMPORTED, IMPORTED), (BESIDE, share_dir() / BESIDE)):
        if file.is_file():
            return given, file
    logger.info("avoiding: neither %s nor %s is there: scripted demonstrations instead", IMPORTED, BESIDE)
    return SCRIPT, None


def _overall(progress: Callable[[int, float], None] | None, lengths: list[int], n: int) -> Callable[[int, float], None] | None:
    """``progress`` over all trainings, of ``lengths``, as the last one counts its steps, told from within number ``n``."""
    if progress is None:
        return None
    return lambda done, loss: progress(lengths[-1] * (sum(lengths[:n]) + done) // sum(lengths), loss)


def _trained(
    ways: list[Way], steps: int, seed: int, device: str, progress: Callable[[int, float], None] | None, settings: AvoidingConfig
) -> TrainingOutcome:
    """One training on ``ways``."""
    x, cond = windows(ways, settings)
    noise = condition_noise(CONDITION_NOISE, cond)
    return train(x, cond, training_settings(steps, seed), augment=noise, progress=progress, device=device)
