"""The shipped policy: closed-loop grasps without physics, scale of its chunks, and the settings that reproduce it."""

import dataclasses
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

from tandem.core.errors import InputError
from tandem.core.objects import load_object
from tandem.core.paths import config_file
from tandem.core.se3 import inverse
from tandem.diffusion.denoiser import NetworkDenoiser
from tandem.diffusion.reverse import SolverConfig, denoise
from tandem.diffusion.weights import read_manifest
from tandem.robots.kinematics import tcp_pose
from tandem.robots.model import load_arm
from tandem.sim import demonstrations
from tandem.sim.world import START_Q, standing_pose
from tandem.tasks.mug import train
from tandem.tasks.mug.chunks import decode, encode_condition, present_step
from tandem.tasks.mug.config import load_mug_config
from tandem.tasks.mug.policy import load_policy, weights_path

EPISODES, PLANS = 200, 8


@pytest.fixture(scope="module")
def policy() -> NetworkDenoiser:
    return load_policy(load_mug_config())


def closing_poses(policy: NetworkDenoiser) -> np.ndarray:
    """(EPISODES, 4, 4) hand in the mug's frame when the gripper is half closed, each plan followed exactly for 8 waypoints."""
    rng, noise = np.random.default_rng(0), torch.Generator().manual_seed(0)
    mugs = np.stack([
        standing_pose(rng.uniform(0.45, 0.6), rng.uniform(-0.1, 0.2), rng.uniform(2.1, 4.18)) for _ in range(EPISODES)
    ])
    tcp = np.tile(tcp_pose(load_arm("fr3"), np.array(START_Q)[None]), (EPISODES, 2, 1, 1))
    width = np.full((EPISODES, 2), 0.08)
    closing = np.full((EPISODES, 4, 4), np.nan)
    for _ in range(PLANS):
        condition = encode_condition(mugs, tcp, width)
        cond = policy.normalise_cond(torch.as_tensor(condition, dtype=torch.float32))
        with torch.inference_mode():
            start = torch.randn(EPISODES, 16, 10, generator=noise)
            x, _ = denoise(policy.schedule, lambda y, i, c=cond: policy.clean(y, i, c), start, 25, SolverConfig(), noise)
            chunks = policy.denormalise(x).numpy().astype(float)
        moved = [decode(m, c[None], present_step(k)) for m, c, k in zip(mugs, chunks, condition, strict=True)]
        hand, opening = np.concatenate([p for p, _ in moved])[:, :8], np.concatenate([w for _, w in moved])[:, :8]
        for e in np.flatnonzero(np.isnan(closing[:, 0, 0]) & (opening < 0.04).any(axis=1)):
            closing[e] = inverse(mugs[e]) @ hand[e, int(np.argmax(opening[e] < 0.04))]
        tcp, width = hand[:, 6:8], opening[:, 6:8]
    return closing


def test_fingers_close_where_a_demonstration_closed_them(policy: NetworkDenoiser) -> None:
    data = demonstrations.load(weights_path("mug").with_name("mug_demonstrations.npz"))
    begin, close = data["offsets"][:-1], data["close_index"]
    shown = inverse(data["mug"][begin].astype(float)) @ data["tcp"][begin + close].astype(float)
    hands = closing_poses(policy)
    off = np.linalg.norm(hands[:, None, :3, 3] - shown[None, :, :3, 3], axis=-1)
    off += 0.1 * np.linalg.norm(hands[:, None, :3, :3] - shown[None, :, :3, :3], axis=(-2, -1))
    nearest = off.argmin(axis=1)
    good = off.min(axis=1) < 0.012  # the rim's opposite faces, and neighbours, are 42 mm and more apart
    assert good.mean() >= 0.98
    assert set(data["grasp"][nearest[good]].tolist()) == set(range(6))


def test_opposite_rim_faces_stay_apart_in_the_network_s_units(policy: NetworkDenoiser) -> None:
    body = load_object(config_file("objects/mug.yaml")).body
    assert float(((body.apothem - body.wall / 2) / policy.x_normaliser.scale[:2]).min()) > 0.3


def test_shipped_weights_were_trained_with_the_present_settings() -> None:
    training = read_manifest(weights_path("mug"))["training"]
    settings = dataclasses.asdict(train.training_settings())
    for key in ("seed", "steps", "batch", "rate", "ema", "weight_decay", "normaliser"):
        assert training[key] == settings[key], key


def test_training_does_not_depend_on_the_callers_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def fit(*_: object) -> None:
        seen.append(torch.get_num_threads())
        raise InputError("far enough")

    monkeypatch.setattr(train, "fit", fit)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(InputError, match="far enough"):
            train.run(tmp_path / "x.safetensors", demonstrations_file=weights_path("mug").with_name("mug_demonstrations.npz"))
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_manifest_says_which_demonstrations_to_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "my demonstrations.npz"
    given.write_bytes(weights_path("mug").with_name("mug_demonstrations.npz").read_bytes())
    whole = train.training_settings
    monkeypatch.setattr(train, "training_settings", lambda steps, seed: dataclasses.replace(whole(steps, seed), batch=8))
    out = train.run(tmp_path / "x.safetensors", demonstrations_file=given, steps=1)
    words = shlex.split(read_manifest(out)["notes"]["command"])
    assert words == ["tandem", "train", "mug", "--demonstrations-file", str(given), "--steps", "1", "--seed", "0"]
