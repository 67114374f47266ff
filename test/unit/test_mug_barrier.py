"""The arm's barrier function, and every shipped sampler on the mug task: it plans, or says by name what the arm cannot offer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from tandem.core.errors import InputError
from tandem.core.paths import share_dir
from tandem.core.scene import TABLE, Obstacle, Scene
from tandem.core.trajectory import Trajectory
from tandem.core.types import Commitment, ObjectPose
from tandem.diffusion.constraints import hinge_cost
from tandem.diffusion.samplers import make_sampler
from tandem.diffusion.samplers.base import load_sampler
from tandem.robots.kinematics import sphere_centers, tcp_pose
from tandem.robots.model import load_arm
from tandem.safety import BackupFamily, load_bounds, pack_scene
from tandem.sim.world import START_Q, standing_pose
from tandem.tasks.mug.chunks import COND_DIM, encode_steps
from tandem.tasks.mug.config import load_mug_config
from tandem.tasks.mug.planner import MugPlanner
from tandem.tasks.mug.problem import MugProblem

MUG = standing_pose(0.52, 0.05, 2.9)
BALL = Obstacle("ball", "sphere", (0.06,), (0.48, -0.12, 0.30))


def make_problem(scene: Scene) -> MugProblem:
    """A plan from the start posture."""
    arm, bounds, config = load_arm("fr3"), load_bounds(), load_mug_config()
    present = encode_steps(MUG, tcp_pose(arm, np.array(START_Q)[None])[0], np.array(0.08))
    still = np.zeros(7)
    return MugProblem(
        arm, BackupFamily(k_max=(config.backup_peak,) * 7), bounds, config, pack_scene(scene, arm, bounds, 0.0), MUG, present,
        (np.array(START_Q), still, still), torch.zeros(COND_DIM), np.random.default_rng(0),
    )


def chunks(count: int, seed: int = 0) -> torch.Tensor:
    """Straight ways from the start towards and past the ball, with a little turn each."""
    rng = np.random.default_rng(seed)
    start = tcp_pose(load_arm("fr3"), np.array(START_Q)[None])[0]
    poses = np.tile(start, (count, 16, 1, 1))
    aim = np.array(BALL.position) + rng.normal(0.0, 0.05, (count, 3)) - start[:3, 3]
    poses[..., :3, 3] += aim[:, None] * np.linspace(0.05, 1.2, 16)[:, None]
    turn = Rotation.from_rotvec(rng.normal(0.0, 0.1, (count, 3))).as_matrix()
    poses[..., :3, :3] = turn[:, None] @ poses[..., :3, :3]
    return torch.from_numpy(encode_steps(MUG, poses, np.full((count, 16), 0.08)))


def test_barrier_is_the_arms_clearance_at_each_waypoint_and_its_gradient_leads_away() -> None:
    problem = make_problem(Scene((TABLE, BALL)))
    x = chunks(6)
    value, slope = problem.barrier(x)
    assert value.shape == (6, 16, 1) and slope.shape == (6, 16, 1, 10)
    finite = torch.isfinite(value[..., 0])
    assert float(finite.double().mean()) > 0.8 and bool((value[finite] < 0.0).any()) and not bool(slope[..., 3:].any())
    step = 1e-3 * slope[:, :, 0] / slope[:, :, 0].norm(dim=-1, keepdim=True).clamp(min=1e-9)
    rise = (problem.barrier(x + step)[0] - problem.barrier(x - step)[0])[..., 0] / 2e-3
    want = slope[:, :, 0].norm(dim=-1)
    near = finite & torch.isfinite(rise) & (want > 0.1)
    # the redundant joint may move too, and the nearest pair may change within a step: most agree, hardly any contradict
    assert float(((rise - want).abs() < 0.1 * want)[near].double().mean()) > 0.7
    assert float((rise[near] > 0.0).double().mean()) > 0.95


def test_hand_near_the_ball_has_the_distance_of_its_spheres() -> None:
    problem = make_problem(Scene((BALL,)))
    arm = problem.arm
    pose = tcp_pose(arm, np.array(START_Q)[None])[0]
    x = torch.from_numpy(np.tile(encode_steps(MUG, pose, np.array(0.08)), (1, 16, 1)))
    margin = problem.config.barrier_margin + problem.bounds.min_clearance
    gap = np.linalg.norm(sphere_centers(arm, np.array(START_Q)) - np.array(BALL.position), axis=1) - arm.sphere_radius - 0.06
    assert float(problem.barrier(x)[0][0, 0, 0]) == pytest.approx(gap.min() - margin, abs=5e-3)


def test_unreachable_waypoints_are_left_alone_and_projection_and_guidance_follow_the_barrier() -> None:
    problem = make_problem(Scene((TABLE, BALL)))
    x = chunks(4)
    x[0, :, :3] += 5.0
    x[1, 3, 3:9] = torch.nan
    value, slope = problem.barrier(x)
    assert bool(torch.isinf(value[0]).all()) and not bool(slope[0].any()) and bool(torch.isinf(value[1, 3]).all())
    x[1, 3] = x[1, 2]
    before, after = (problem.barrier(v)[0].clamp(max=1.0).amin((1, 2)) for v in (x, problem.project(x)))
    assert bool((after[1:] > before[1:] - 1e-9).all()) and bool((after[1:] > before[1:] + 0.01).any())
    assert torch.allclose(problem.guidance(x), hinge_cost(problem, x))


def test_tightened_asks_for_more_clearance_and_leaves_the_problem_as_it_was() -> None:
    problem = make_problem(Scene((TABLE, BALL)))
    k = problem.sample_k(16, torch.Generator().manual_seed(0))
    heads = problem.evaluate(chunks(24, 3))
    plain, tight = problem.grid(heads, k).feasible, problem.tightened(0.05).grid(heads, k).feasible
    assert bool((tight <= plain).all()) and 0 < int(tight.sum()) < int(plain.sum())
    assert problem.bounds == load_bounds()


@pytest.fixture(scope="module")
def planner() -> MugPlanner:
    """Made once: loading compiles."""
    return MugPlanner.load("policy", seed=1000)


SHIPPED = sorted(f.stem for f in (share_dir() / "config" / "samplers").glob("*.yaml"))
#: smaller settings than shipped: whether a method serves the arm does not depend on how many samples it draws
FEW = {"x_samples": 6, "k_samples": 8, "particles": 8, "rows": 200, "batch": 0, "sweeps": 1, "extra_steps": 2, "refine_rounds": 0}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_sampler_plans_for_the_arm_or_says_what_it_lacks(name: str, planner: MugPlanner) -> None:
    whole = load_sampler(name)
    few = {k: v for k, v in FEW.items() if k in {f.name for f in dataclasses.fields(whole.config)}}
    planner.reset(1000)
    planner.sampler = make_sampler({**whole.to_dict(), **few})
    planner.certified_only = planner.sampler.name != "policy"
    seen = ObjectPose(MUG, np.eye(6) * 1e-6, 0.0)
    still = Commitment(Trajectory.at_rest(np.array(START_Q), 1.0), 0.0, np.full(2, 0.08))

    def plan(when: float) -> object:
        return planner.plan(seen, still, Scene((TABLE, BALL)), when, when - 0.5)

    if name == "jm2d_pathwise":  # certification is a yes or no: there is no gradient to follow
        with pytest.raises(InputError, match="MugProblem offers no log_potential"):
            plan(1.0)
        return
    for when in (1.0, 1.8):  # the second plan has one before it
        result = plan(when)
        assert result.reason in ("planned", "no feasible plan and backup")  # type: ignore[attr-defined]
        assert result.counters.network_rows > 0  # type: ignore[attr-defined]


def test_the_last_plan_is_shifted_to_the_new_switch_time(planner: MugPlanner) -> None:
    planner.reset(1000)
    poses = np.tile(np.eye(4), (16, 1, 1))
    poses[:, 0, 3] = 0.01 * np.arange(16)
    planner._last = (2.0, poses, np.full(16, 0.04))
    assert planner._previous(np.eye(4), 1.0) is None and planner._previous(np.eye(4), 4.0) is None
    steps = planner._previous(np.eye(4), 2.8)
    assert steps is not None and steps.shape == (16, 10)
    np.testing.assert_allclose(steps[:, 0], 0.01 * np.minimum(np.arange(16) + 8, 15), atol=1e-6)

