"""Schedules, reverse steps, denoisers, networks, training and weights."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tandem.core.errors import ConfigError, InputError
from tandem.diffusion.denoiser import NetworkDenoiser, Normaliser, Respaced, target, to_clean
from tandem.diffusion.networks import MLPConfig, ResidualMLP
from tandem.diffusion.reverse import SolverConfig, denoise, dpmpp_step, step
from tandem.diffusion.schedules import ScheduleConfig, make_schedule
from tandem.diffusion.training import TrainingConfig, TrainingOutcome, condition_noise, train
from tandem.diffusion.weights import load_denoiser, manifest_path

NET = MLPConfig(width=64, embedding=32)


def seeded(seed: int = 0) -> torch.Generator:
    """A generator."""
    return torch.Generator().manual_seed(seed)


# --- schedules ----------------------------------------------------------------------------------------------------------------


@given(st.sampled_from(["cosine", "linear", "mbd", "log_snr"]), st.integers(1, 400), st.one_of(st.none(), st.floats(1e-3, 0.9)))
@settings(max_examples=60, deadline=None)
def test_schedules_start_at_one_and_decrease(kind: str, steps: int, final: float | None) -> None:
    schedule = make_schedule(ScheduleConfig(kind, steps, final))
    table = schedule.alpha_bar
    assert len(table) == steps + 1 and table[0] == 1.0
    assert all(a > b > 0.0 for a, b in itertools.pairwise(table))
    if final is not None:
        assert abs(table[-1] - final) < 1e-9


def test_schedules_end_where_their_sources_do() -> None:
    assert abs(make_schedule(ScheduleConfig("mbd", 25)).alpha_bar[-1] - 0.60) < 0.005
    assert abs(make_schedule(ScheduleConfig("mbd", 100)).alpha_bar[-1] - 0.60) < 0.005
    assert make_schedule(ScheduleConfig("linear", 1000)).alpha_bar[-1] == pytest.approx(4.0e-5, rel=0.02)
    assert make_schedule(ScheduleConfig("linear", 25)).alpha_bar[-1] == pytest.approx(4.0e-5, rel=0.02)
    cosine = make_schedule(ScheduleConfig("cosine", 100)).alpha_bar
    assert cosine[50] == pytest.approx(math.cos(0.508 / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2)


def test_log_snr_falls_in_equal_ratios_of_noise_to_signal() -> None:
    schedule = make_schedule(ScheduleConfig("log_snr", 40))
    ratios = [schedule.noise(i) / schedule.signal(i) for i in range(1, 41)]
    assert ratios[0] == pytest.approx(0.001) and ratios[-1] == pytest.approx(30.0)
    steps = [math.log(b / a) for a, b in itertools.pairwise(ratios)]
    assert steps == pytest.approx([math.log(30000.0) / 39] * 39)


def test_a_respaced_model_is_the_same_at_fewer_levels(outcome: TrainingOutcome) -> None:
    base = outcome.denoiser
    total = base.schedule.steps
    whole, few = Respaced(base, total), Respaced(base, 3)
    assert whole.schedule.alpha_bar == base.schedule.alpha_bar
    assert few.schedule.steps == 3 and few.levels[0] == 0 and few.levels[-1] == total
    x, cond = torch.randn((5, 4, 2), generator=seeded()), torch.zeros(1)
    with torch.inference_mode():
        for i in (1, 2, 3):
            assert few.schedule.alpha_bar[i] == base.schedule.alpha_bar[few.levels[i]]
            assert torch.equal(few.clean(x, i, cond), base.clean(x, few.levels[i], cond))
    assert torch.equal(few.denormalise(few.normalise(x)), base.denormalise(base.normalise(x))) and few.device == base.device
    for steps in (0, total + 1):
        with pytest.raises(ConfigError, match="accepted: 1"):
            Respaced(base, steps)


def test_levels_begin_and_end_right() -> None:
    schedule = make_schedule(ScheduleConfig(steps=25))
    assert schedule.levels(25, 25) == list(range(25, -1, -1))
    for start in range(1, 26):
        for count in range(1, 30):
            levels = schedule.levels(start, count)
            assert levels[0] == start and levels[-1] == 0 and len(levels) == min(start, count) + 1
            assert all(a > b for a, b in itertools.pairwise(levels))


# --- reverse steps ------------------------------------------------------------------------------------------------------------


def test_ddpm_step_is_the_posterior_of_ho_et_al() -> None:
    schedule = make_schedule(ScheduleConfig(steps=10))
    i = 6
    a_i, a_j = schedule.alpha_bar[i], schedule.alpha_bar[i - 1]
    beta = 1.0 - a_i / a_j
    x, x0 = torch.tensor([[[0.7]]], dtype=torch.float64).expand(200_000, 1, 1), torch.tensor([[[-0.2]]], dtype=torch.float64)
    got = step(schedule, x, x0, i, i - 1, 1.0, seeded())
    mean = math.sqrt(a_j) * beta / (1 - a_i) * -0.2 + math.sqrt(1 - beta) * (1 - a_j) / (1 - a_i) * 0.7
    assert float(got.mean()) == pytest.approx(mean, abs=0.01)
    assert float(got.var()) == pytest.approx((1 - a_j) / (1 - a_i) * beta, rel=0.02)


def test_ddim_keeps_the_noise_and_dpm_solver_first_order_is_ddim() -> None:
    schedule = make_schedule(ScheduleConfig(steps=10))
    x0 = torch.randn((5, 2, 3), generator=seeded(), dtype=torch.float64)
    eps = torch.randn((5, 2, 3), generator=seeded(1), dtype=torch.float64)
    x = schedule.signal(8) * x0 + schedule.noise(8) * eps
    got = step(schedule, x, x0, 8, 3, 0.0, seeded())
    assert torch.allclose(got, schedule.signal(3) * x0 + schedule.noise(3) * eps)
    assert torch.allclose(dpmpp_step(schedule, x, x0, None, 8, 3), got)


def test_solvers_reach_the_data_and_second_order_is_more_exact() -> None:
    """Gaussian data: the probability flow maps x_I linearly, so the exact end point is known."""
    schedule, std = make_schedule(ScheduleConfig("linear", 400)), 0.5

    def clean(x: Tensor, i: int) -> Tensor:
        a = schedule.alpha_bar[i]
        return math.sqrt(a) * std**2 / (a * std**2 + 1 - a) * x

    x = torch.linspace(-2.0, 2.0, 9, dtype=torch.float64)[:, None, None]
    a = schedule.alpha_bar[-1]
    exact = x * std / math.sqrt(a * std**2 + 1 - a)
    error = {
        kind: float((denoise(schedule, clean, x, 400, SolverConfig(kind, 12), seeded())[0] - exact).abs().max())
        for kind in ("ddim", "dpmpp")
    }
    assert error["dpmpp"] < error["ddim"] < 0.4
    noise = torch.randn((4000, 1, 1), generator=seeded(), dtype=torch.float64)
    y, level = denoise(schedule, clean, noise, 400, SolverConfig("ddpm", 0), seeded(1))
    assert level == 0 and float(y.std()) == pytest.approx(std, rel=0.05)


def test_stochastic_dpm_solver_keeps_the_law_and_needs_fewer_steps_than_ancestral_sampling() -> None:
    """Gaussian data: the law at the end is known; the solver's own spread converges faster than DDPM's."""
    schedule, std = make_schedule(ScheduleConfig("linear", 400)), 0.5

    def clean(x: Tensor, i: int) -> Tensor:
        a = schedule.alpha_bar[i]
        return math.sqrt(a) * std**2 / (a * std**2 + 1 - a) * x

    noise = torch.randn((40_000, 1, 1), generator=seeded(), dtype=torch.float64)
    spread = {
        kind: float(denoise(schedule, clean, noise, 400, SolverConfig(kind, 10), seeded(1))[0].std())
        for kind in ("ddpm", "dpmpp_sde")
    }
    assert abs(spread["dpmpp_sde"] - std) < 0.8 * abs(spread["ddpm"] - std)
    fine = denoise(schedule, clean, noise, 400, SolverConfig("dpmpp_sde", 200), seeded(1))[0]
    assert float(fine.std()) == pytest.approx(std, rel=0.03) and abs(float(fine.mean())) < 0.02
    # one first-order step has the exact reverse SDE's variance for a known clean sample
    x0, i, j = torch.full((40_000, 1, 1), 0.3, dtype=torch.float64), 200, 150
    x = schedule.signal(i) * x0 + schedule.noise(i) * noise
    y = dpmpp_step(schedule, x, x0, None, i, j, seeded(2))
    assert float(y.mean()) == pytest.approx(schedule.signal(j) * 0.3, abs=0.01)
    assert float(y.std()) == pytest.approx(schedule.noise(j), rel=0.02)


# --- denoiser -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parametrisation", ["x0", "eps", "v"])
def test_parametrisations_invert_their_targets(parametrisation: str) -> None:
    x0, eps = torch.randn((6, 3, 2), generator=seeded()), torch.randn((6, 3, 2), generator=seeded(1))
    signal, noise = torch.tensor(0.8), torch.tensor(0.6)
    output = target(parametrisation, x0, eps, signal, noise)
    assert torch.allclose(to_clean(parametrisation, output, signal * x0 + noise * eps, signal, noise), x0, atol=1e-5)


def test_normaliser_round_trip_and_constant_values() -> None:
    data = torch.randn((50, 4, 3), generator=seeded()) * torch.tensor([1.0, 100.0, 0.0]) + torch.tensor([0.0, 5.0, 7.0])
    for mode in ("range", "gaussian"):
        n = Normaliser.fit(data, mode).to("cpu", torch.float32)
        assert torch.allclose(n.denormalise(n.normalise(data)), data, atol=1e-4)
        assert float(n.scale[2]) == 1.0 and float(n.normalise(data)[..., 2].abs().max()) < 1e-5
    assert float(Normaliser.fit(data).to("cpu", torch.float32).normalise(data).abs().max()) <= 1.0 + 1e-5
    with pytest.raises(ConfigError, match="mode"):
        Normaliser.fit(data, "other")


@pytest.mark.parametrize("conditioning", ["film", "concat"])
def test_one_conditioning_for_all_rows_equals_its_copies(conditioning: str) -> None:
    network = ResidualMLP(4, 3, 5, MLPConfig(width=32, embedding=16, conditioning=conditioning))
    for block in network.blocks:
        torch.nn.init.normal_(block.outer.weight, std=0.1)
    x, c = torch.randn((7, 4, 3), generator=seeded()), torch.randn((1, 5), generator=seeded(1))
    one = network(x, torch.tensor([3]), c)
    many = network(x, torch.full((7,), 3), c.expand(7, -1))
    assert torch.allclose(one, many, atol=1e-6)
    assert not torch.allclose(one, network(x, torch.tensor([4]), c))
    assert not torch.allclose(one, network(x, torch.tensor([3]), c + 1.0))


def test_a_denoiser_follows_its_conditioning_when_that_changes(outcome: TrainingOutcome) -> None:
    denoiser, x = outcome.denoiser, torch.randn((3, 4, 2), generator=torch.Generator().manual_seed(0))
    cond = torch.tensor([0.3])
    for value, i in ((0.3, 2), (0.3, 2), (-0.8, 2), (-0.8, 1), (0.3, 2)):
        cond.fill_(value)  # the same tensor with another value in it
        rows = cond.expand(3, 1)  # a conditioning a row goes past what is kept
        assert torch.allclose(denoiser.clean(x, i, cond), denoiser.clean(x, i, rows), atol=1e-6)


def test_default_network_has_about_a_million_parameters() -> None:
    assert 0.8e6 < ResidualMLP(16, 10, 40).parameter_count() < 1.5e6


# --- training and weights -----------------------------------------------------------------------------------------------------


def two_modes(count: int = 1000) -> tuple[Tensor, Tensor]:
    """Chunks (N, 4, 2) that go left or right with equal odds; the conditioning (N, 1) sets their second value."""
    g = seeded()
    side = (torch.randint(0, 2, (count, 1, 1), generator=g) * 2 - 1).float()
    cond = torch.rand((count, 1), generator=g)
    x = torch.cat([(0.7 * side + 0.1 * torch.randn((count, 4, 1), generator=g)), cond[:, None].expand(-1, 4, 1)], dim=-1)
    return 10.0 * x, cond


@pytest.fixture(scope="module")
def outcome() -> TrainingOutcome:
    """A model of the two modes."""
    x, cond = two_modes()
    config = TrainingConfig(network=NET, schedule=ScheduleConfig(steps=10), steps=500, batch=128, warmup=20, ema=0.99, rate=2e-3)
    return train(x, cond, config)


def test_training_learns_both_modes_and_the_conditioning(outcome: TrainingOutcome) -> None:
    d = outcome.denoiser
    with torch.inference_mode():
        for value in (0.2, 0.8):
            cond = d.normalise_cond(torch.tensor([value]))
            noise = torch.randn((300, 4, 2), generator=seeded(1))
            x, _ = denoise(d.schedule, lambda y, i, c=cond: d.clean(y, i, c), noise, 10, SolverConfig(), seeded(2))
            raw = d.denormalise(x)
            side = raw[..., 0].mean(1)
            assert 0.35 < float((side > 0).float().mean()) < 0.65
            assert float(((side.abs() - 7.0).abs() < 2.0).float().mean()) > 0.97
            assert float(raw[..., 1].mean()) == pytest.approx(10.0 * value, abs=0.8)
    assert outcome.losses[-1] < 0.8 * outcome.losses[0]


def test_training_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    x, cond = two_modes(64)
    config = TrainingConfig(network=NET, steps=5, batch=16, seed=3)
    state = torch.random.get_rng_state()
    steps: list[int] = []
    a = train(x, cond, config, augment=condition_noise(0.03, cond), progress=lambda n, loss: steps.append(n))
    b = train(x, cond, config, augment=condition_noise(0.03, cond))
    c = train(x, cond, TrainingConfig(network=NET, steps=5, batch=16, seed=4), augment=condition_noise(0.03, cond))
    assert torch.equal(torch.random.get_rng_state(), state) and steps == [5]
    first, second, third = (next(o.denoiser.network.parameters()) for o in (a, b, c))
    assert torch.equal(first, second) and not torch.equal(first, third)
    assert a.losses == b.losses and a.data_sha256 == b.data_sha256


def test_noise_on_the_conditioning_is_made_where_the_training_is() -> None:
    """``meta`` stands for another device than that of the data."""
    away = torch.zeros((4, 3), device="meta")
    assert condition_noise(0.1, torch.rand(5, 3))(away, away, None)[1].device.type == "meta"  # type: ignore[arg-type]


def test_training_refuses_bad_data() -> None:
    x, cond = two_modes(8)
    with pytest.raises(InputError, match="expected"):
        train(x, cond[:4], TrainingConfig(network=NET, steps=1))
    with pytest.raises(InputError, match="NaN"):
        train(x * math.nan, cond, TrainingConfig(network=NET, steps=1))
    with pytest.raises(InputError, match="training: device = 'cuda:77': torch cannot use it"):
        train(x, cond, TrainingConfig(network=NET, steps=1), device="cuda:77")


def test_weights_round_trip_and_manifest(outcome: TrainingOutcome, tmp_path: Path) -> None:
    path = tmp_path / "toy.safetensors"
    outcome.save(path, modes=2)
    loaded: NetworkDenoiser = load_denoiser(path, expected=(4, 2, 1))
    x, cond = torch.randn((3, 4, 2), generator=seeded()), torch.zeros(1)
    with torch.inference_mode():
        assert torch.equal(loaded.clean(x, 4, cond), outcome.denoiser.clean(x, 4, cond))
    manifest = json.loads(manifest_path(path).read_text())
    assert manifest["training"]["seed"] == 0 and manifest["training"]["steps"] == 500 and manifest["notes"] == {"modes": 2}
    assert len(manifest["sha256"]) == len(manifest["training"]["data_sha256"]) == 64
    assert manifest["training"]["loss"] == outcome.losses[-1]


@pytest.mark.parametrize("conditioning", ["film", "concat"])
@pytest.mark.parametrize("rows", [1, 7, 128])
def test_sampling_without_gradients_gives_the_same(conditioning: str, rows: int) -> None:
    network = ResidualMLP(4, 2, 3, MLPConfig(width=64, blocks=3, embedding=32, conditioning=conditioning))
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=seeded(p.numel())) * 0.3)
    one = Normaliser.identity(2), Normaliser.identity(3)
    denoiser = NetworkDenoiser(network, make_schedule(ScheduleConfig(steps=10)), "x0", *one, clip=None)
    x, cond = torch.randn((rows, 4, 2), generator=seeded()), torch.randn(3, generator=seeded(1))
    for i in (1, 6, 10):
        asked, given = x.clone(), denoiser.clean(x, i, cond)
        with torch.no_grad():
            quick = denoiser.clean(asked, i, cond)
        assert torch.equal(asked, x), "what was handed in stays"
        assert torch.allclose(quick, given, rtol=1e-5, atol=1e-5)


def test_what_a_denoiser_keeps_of_a_condition_still_gives_gradients(outcome: TrainingOutcome) -> None:
    """JM2D comes by a step many times in inference mode; guidance asks for gradients at the same one."""
    denoiser, cond = outcome.denoiser, torch.tensor([0.3])
    x = torch.randn((3, 4, 2), generator=seeded())
    with torch.inference_mode():
        kept = denoiser.clean(x, 5, cond).clone()
    y = x.clone().requires_grad_()
    again = denoiser.clean(y, 5, cond)
    assert torch.allclose(again.detach(), kept, atol=1e-6)
    (gradient,) = torch.autograd.grad(again.sum(), y)
    h = 1e-2 * torch.randn(x.shape, generator=seeded(1))
    slope = (denoiser.clean(x + h, 5, cond) - denoiser.clean(x - h, 5, cond)).sum() / 2.0
    assert float((gradient * h).sum()) == pytest.approx(float(slope), rel=0.05, abs=1e-4)


def test_damaged_weights_are_refused_with_a_typed_error(outcome: TrainingOutcome, tmp_path: Path) -> None:
    path = tmp_path / "toy.safetensors"
    with pytest.raises(ConfigError, match="manifest"):
        load_denoiser(path)
    outcome.save(path)
    with pytest.raises(ConfigError, match="made for"):
        load_denoiser(path, expected=(16, 10, 40))
    manifest = json.loads(manifest_path(path).read_text())

    def write(**changes: object) -> None:
        manifest_path(path).write_text(json.dumps({**manifest, **changes}))

    write(model={**manifest["model"], "dim": 3})
    with pytest.raises(ConfigError, match="shape"):
        load_denoiser(path)
    write(model={**manifest["model"], "surprise": 3})
    with pytest.raises(ConfigError, match="unknown key"):
        load_denoiser(path)
    write(format=7)
    with pytest.raises(ConfigError, match="format"):
        load_denoiser(path)
    write(sha256=None)
    with pytest.raises(ConfigError, match="sha256"):
        load_denoiser(path)
    write()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ConfigError, match="sha256"):
        load_denoiser(path)
    path.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_denoiser(path)
