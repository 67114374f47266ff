"""The mug task's parts: conditioning and chunks, corrections, the interaction potential, the planner's rules."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from tandem.core.errors import ConfigError
from tandem.core.scene import TABLE, Obstacle, Scene
from tandem.core.trajectory import Trajectory
from tandem.core.types import Commitment, ObjectPose
from tandem.robots.inverse import solve_chunk
from tandem.robots.kinematics import tcp_pose
from tandem.robots.model import load_arm
from tandem.safety import BackupFamily, certify_one, load_bounds, pack_scene
from tandem.sim.world import START_Q, standing_pose
from tandem.tasks.mug.chunks import COND_DIM, decode, encode_steps, entered
from tandem.tasks.mug.config import MugConfig, load_mug_config
from tandem.tasks.mug.dataset import _turned, corrections, turn_far, windows
from tandem.tasks.mug.memory import RETREAT, MugMemory
from tandem.tasks.mug.planner import MugPlanner
from tandem.tasks.mug.problem import MugProblem

MUG = standing_pose(0.52, 0.05, 2.9)
PRESENT = encode_steps(MUG, tcp_pose(load_arm("fr3"), np.array(START_Q)[None])[0], np.array(0.08))


def random_poses(rng: np.random.Generator, count: int) -> np.ndarray:
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.random(count, random_state=int(rng.integers(2**31))).as_matrix()
    poses[:, :3, 3] = rng.normal(size=(count, 3))
    return poses


def test_decode_inverts_encode() -> None:
    rng = np.random.default_rng(0)
    tcp = random_poses(rng, 12)
    width = rng.uniform(0.0, 0.08, 12)
    mug = random_poses(rng, 1)[0]
    steps = encode_steps(mug, tcp, width)
    poses, widths = decode(mug, steps[None], 2.0 * steps[0] - steps[1])
    np.testing.assert_allclose(poses[0], tcp, atol=1e-12)
    np.testing.assert_allclose(widths[0], width, atol=1e-12)


def test_chunks_do_not_change_when_mug_and_hand_move_together() -> None:
    rng = np.random.default_rng(1)
    tcp, move = random_poses(rng, 5), random_poses(rng, 1)[0]
    width = np.full(5, 0.05)
    np.testing.assert_allclose(encode_steps(MUG, tcp, width), encode_steps(move @ MUG, move @ tcp, width), atol=1e-12)


def test_chunks_are_entered_at_the_present_step() -> None:
    rng = np.random.default_rng(3)
    chunk = np.cumsum(rng.normal(0.01, 0.002, (4, 16, 10)), axis=1)
    present = rng.normal(size=10)
    path = entered(chunk, present, 0.1)
    start = 2.0 * path[:, 0] - path[:, 1]
    missed = np.linalg.norm(present - (2.0 * chunk[:, 0] - chunk[:, 1]), axis=1)
    assert np.all(np.linalg.norm(start - present, axis=1) < 0.12 * missed)
    np.testing.assert_allclose(path[:, -1], chunk[:, -1], atol=1e-5)


def test_windows_continue_the_history_and_stay_at_the_end() -> None:
    tcp = np.tile(np.eye(4), (300, 1, 1))
    tcp[:, 0, 3] = 0.001 * np.arange(300)
    x, cond = windows(tcp, np.full(300, 0.08), np.eye(4), rate=100.0, dt=0.1, horizon=16)
    assert x.shape == (300, 16, 10) and cond.shape == (300, COND_DIM)
    np.testing.assert_allclose(x[50, :, 0], 0.001 * (50 + 10 * np.arange(1, 17)), atol=1e-6)
    np.testing.assert_allclose(cond[50, [9, 19]], [0.050, 0.010], atol=1e-6)
    np.testing.assert_allclose(x[-1, :, 0], 0.299, atol=1e-6)
    np.testing.assert_allclose(cond[0, [9, 19]], 0.0, atol=1e-6)


def correction_batch(count: int, **options: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tcp = np.tile(np.eye(4), (300, 1, 1))
    tcp[:, 0, 3] = 0.02 + 0.0005 * np.arange(300)
    x, cond = windows(tcp, np.full(300, 0.08), np.eye(4), rate=100.0, dt=0.1, horizon=16)
    one = torch.from_numpy(x[60:61]).expand(count, -1, -1), torch.from_numpy(cond[60:61]).expand(count, -1)
    new_x, new_cond = corrections(*one, torch.Generator().manual_seed(0), **options)
    return one[0], new_x, new_cond


def test_corrections_begin_at_the_state_and_come_back() -> None:
    old, new, cond = correction_batch(400, rest=0.0, turn=0.0, position=0.04, back=0.5)
    start = cond[:, 9:12]
    assert 0.004 < float((start - start.mean(0)).norm(dim=1).max()) < 0.03
    first_step = (new[:, 0, :3] - start).norm(dim=1)
    assert float(first_step.max()) < 0.02
    assert float((new[:, -1] - old[:, -1]).abs().max()) < 1e-4


def test_corrections_from_standstill_have_no_speed_at_first() -> None:
    old, new, cond = correction_batch(400, rest=1.0, position=0.0, rotation=0.0, turn=0.0)
    np.testing.assert_allclose(cond[:, 19:29], 0.0, atol=1e-6)
    moved = new[:, 0, 0] - cond[:, 9]
    usual = old[:, 0, 0] - 0.05
    assert float((moved / usual).mean()) < 0.3
    assert float((old[:, -1, 0] - new[:, -1, 0]).mean()) == pytest.approx(0.25 * 0.05, rel=0.1)


def test_turning_keeps_grasps_and_turns_far_steps_as_a_turned_mug_would() -> None:
    far = np.tile(np.eye(4), (6, 1, 1))
    far[:, :3, :3] = Rotation.random(6, random_state=1).as_matrix()
    far[:, :3, 3] = [0.35, -0.4, 0.3]
    angle = 0.3
    turned_mug = MUG.copy()
    turned_mug[:3, :3] = MUG[:3, :3] @ Rotation.from_euler("z", -angle).as_matrix()
    steps = torch.from_numpy(encode_steps(MUG, MUG @ far, np.full(6, 0.08)))
    expected = encode_steps(turned_mug, MUG @ far, np.full(6, 0.08))
    np.testing.assert_allclose(turn_far(steps, torch.full((6,), angle, dtype=torch.float64)), expected, atol=1e-12)
    columns = torch.from_numpy(np.concatenate([MUG[:3, 0], MUG[:3, 1]])[None])
    turned = _turned(columns, torch.tensor([-angle], dtype=torch.float64))
    np.testing.assert_allclose(turned[0], np.concatenate([turned_mug[:3, 0], turned_mug[:3, 1]]), atol=1e-12)
    near = steps.clone()
    near[:, :2] *= 0.1
    np.testing.assert_array_equal(turn_far(near, torch.full((6,), angle, dtype=torch.float64)), near)


@pytest.fixture(scope="module")
def problem() -> MugProblem:
    arm, bounds, config = load_arm("fr3"), load_bounds("default"), load_mug_config()
    scene = Scene((TABLE, Obstacle("post", "box", (0.03, 0.03, 0.15), (0.42, -0.2, 0.15))))
    family = BackupFamily(k_max=(config.backup_peak,) * 7)
    packed = pack_scene(scene, arm, bounds, 0.0)
    zero = np.zeros(7)
    state = (np.array(START_Q), zero, zero)
    made = MugProblem(arm, family, bounds, config, packed, MUG, PRESENT, state, torch.zeros(COND_DIM), np.random.default_rng(0))
    made.scene = scene  # type: ignore[attr-defined]
    return made


def straight_chunks(count: int, rng: np.random.Generator, reach: float = 0.25) -> torch.Tensor:
    """Chunks that leave the start in random directions, in the mug's frame."""
    arm = load_arm("fr3")
    start = tcp_pose(arm, np.array(START_Q)[None])[0]
    poses = np.tile(start, (count, 16, 1, 1))
    direction = rng.normal(size=(count, 1, 3))
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    t = np.linspace(0.0, 1.0, 17)[1:]
    poses[..., :3, 3] += reach * direction * (t * t * (3.0 - 2.0 * t))[None, :, None]
    return torch.from_numpy(encode_steps(MUG, poses, np.full((count, 16), 0.08)))


def test_potential_is_what_the_filter_says_of_the_whole_motion(problem: MugProblem) -> None:
    heads = problem.evaluate(straight_chunks(24, np.random.default_rng(2)))
    k = problem.sample_k(6, torch.Generator().manual_seed(0))
    grid = problem.grid(heads, k)
    own = problem.pairs(heads, k[None].expand(24, -1, -1))
    torch.testing.assert_close(grid.log_v, own.log_v, rtol=1e-9, atol=1e-9)
    feasible = torch.isfinite(grid.log_v)
    assert 0 < int(feasible.sum()) < feasible.numel()
    rows = np.flatnonzero(heads.valid_rows)
    for i in rows[:12]:
        for j in range(len(k)):
            motion, width = problem.trajectory(heads, int(i), k[j].numpy().astype(float) * problem.config.backup_peak, 0.08)
            verdict = certify_one(problem.arm, motion, problem.scene, problem.bounds, 0.0)  # type: ignore[attr-defined]
            assert verdict.certified == bool(feasible[i, j])
            assert motion.ends_at_rest() and motion.consistency() < 1e-9 and width.shape == motion.times.shape
    cost = grid.cost[feasible]
    np.testing.assert_allclose(grid.log_v[feasible], -cost / problem.config.temperature)


def test_cost_is_the_distance_between_backup_and_tail(problem: MugProblem) -> None:
    heads = problem.evaluate(straight_chunks(4, np.random.default_rng(3), reach=0.1))
    k = problem.sample_k(3, torch.Generator().manual_seed(1))
    grid = problem.grid(heads, k)
    i = int(np.flatnonzero(heads.valid_rows)[0])
    for j in range(3):
        motion, _ = problem.trajectory(heads, i, k[j].numpy().astype(float) * problem.config.backup_peak, 0.08)
        backup = motion.sample(heads.times[-1] + heads.tail_times)[0]
        expected = np.mean((backup - heads.tail[i]) ** 2) + heads.penalty[i]
        assert float(grid.cost[i, j]) == pytest.approx(expected, rel=1e-9)


def test_optimise_k_is_certified_and_no_worse_than_sampling(problem: MugProblem) -> None:
    heads = problem.evaluate(straight_chunks(12, np.random.default_rng(4), reach=0.12))
    grid = problem.grid(heads, problem.sample_k(256, torch.Generator().manual_seed(2)))
    checked = 0
    for i in np.flatnonzero(heads.valid_rows):
        k, cost, feasible = problem.optimise_k(heads, int(i))
        again = problem.grid(heads, k[None])
        assert feasible == bool(torch.isfinite(again.log_v[i, 0])) or not feasible
        if feasible:
            checked += 1
            assert cost == pytest.approx(float(again.cost[i, 0]))
            assert cost <= float(torch.where(torch.isfinite(grid.log_v[i]), grid.cost[i], torch.inf).min()) + 1e-12
    assert checked > 0


def test_unreachable_chunks_are_infeasible_never_repaired(problem: MugProblem) -> None:
    chunks = straight_chunks(3, np.random.default_rng(5), reach=0.1)
    chunks[0, :, :3] += 3.0
    chunks[1, 4:] = torch.nan
    heads = problem.evaluate(chunks)
    assert heads.valid_rows.tolist() == [False, False, True]
    grid = problem.grid(heads, problem.sample_k(4, torch.Generator().manual_seed(0)))
    assert not torch.isfinite(grid.log_v[:2]).any()
    assert not torch.isnan(grid.log_v).any()


def test_config_refuses_heads_longer_than_chunks() -> None:
    with pytest.raises(ConfigError, match="execute"):
        MugConfig(horizon=8, execute=8)


def rest_commitment() -> Commitment:
    return Commitment(Trajectory.at_rest(np.array(START_Q), 1.0), 0.0, np.full(2, 0.08))


def test_planner_plans_for_the_bounds_that_it_is_told() -> None:
    """With others than the filter's nearly everything it proposes among obstacles is refused."""
    assert MugPlanner.load("policy").bounds == load_bounds("default")
    assert MugPlanner.load("policy", bounds="simulated_arm").bounds == load_bounds("simulated_arm") != load_bounds("default")
    with pytest.raises(ConfigError, match="nothing_like_it"):
        MugPlanner.load("policy", bounds="nothing_like_it")
    with pytest.raises(ConfigError, match="device = 'cuda:77'"):
        MugPlanner.load("policy", device="cuda:77")


def test_planner_without_a_pose_proposes_nothing() -> None:
    result = MugPlanner.load("policy").plan(None, rest_commitment(), Scene((TABLE,)), 1.0, 0.5)
    assert result.proposal is None
    assert result.reason == "no valid object pose"


def test_same_seed_same_plan_and_it_starts_where_the_commitment_is() -> None:
    seen = ObjectPose(MUG, np.eye(6) * 1e-6, 0.0)
    plans = []
    for _ in range(2):
        planner = MugPlanner.load("steered", seed=5)
        plans.append(planner.plan(seen, rest_commitment(), Scene((TABLE,)), 1.0, 0.5).proposal)
    assert plans[0] is not None and plans[1] is not None
    assert plans[0].trajectory.digest() == plans[1].trajectory.digest()
    np.testing.assert_allclose(plans[0].trajectory.q[0], START_Q, atol=1e-12)
    assert plans[0].head_duration == pytest.approx(0.8)


@pytest.mark.parametrize("speed", [0.0, 0.05])
def test_obstacles_that_move_far_away_do_not_keep_it_from_planning(speed: float) -> None:
    """They are seen now; how old what is seen will be at the switch is their growth's affair."""
    cart = Obstacle("cart", "box", (0.1, 0.1, 0.1), (-2.0, 2.0, 0.3), speed=speed, stamp=0.4)
    planner = MugPlanner.load("steered", seed=5)
    result = planner.plan(ObjectPose(MUG, np.eye(6) * 1e-6, 0.4), rest_commitment(), Scene((TABLE, cart)), 1.2, 0.5)
    assert result.proposal is not None, result.reason


def hand_above(mug: np.ndarray) -> np.ndarray:
    """A hand pointing down at the mug's rim."""
    tcp = np.diag([1.0, -1.0, -1.0, 1.0])
    tcp[:3, 3] = mug[:3, 3] + [0.0, 0.04, 0.1]
    return tcp


def test_pose_is_kept_only_where_the_hand_hides_the_mug() -> None:
    memory = MugMemory(MugConfig())
    seen, moved = ObjectPose(MUG, np.eye(6), 0.0), ObjectPose(MUG, np.eye(6), 1.0)
    far, near = tcp_pose(load_arm("fr3"), np.array(START_Q)[None])[0], hand_above(MUG)
    assert memory.believe(seen, far, 0.08) is seen and not memory.kept
    assert memory.believe(None, near, 0.08) is seen and memory.kept
    assert memory.believe(moved, near, 0.02) is seen
    assert memory.believe(moved, far, 0.08) is moved and not memory.kept
    assert memory.believe(None, far, 0.08) is None


@pytest.mark.parametrize(
    ("asked", "measured", "resumed", "expected"),
    [
        (0.0, 0.0, False, True),  # closed on nothing
        (0.0, 0.0024, False, True),
        (0.0, 0.0049, False, False),  # the mug's wall between the fingers
        (0.0, 0.0049, True, False),  # held: the stop had another reason
        (0.0, None, False, False),  # not known
        (0.08, 0.0, False, False),  # told to open, and still on its way
        (0.08, 0.08, False, False),
        (0.08, 0.08, True, True),  # stopped at the mug, resumed
    ],
)
def test_what_disproves_the_belief(asked: float, measured: float | None, resumed: bool, expected: bool) -> None:
    memory = MugMemory(MugConfig())
    memory.believe(ObjectPose(MUG, np.eye(6), 0.0), hand_above(MUG), 0.08)
    if resumed:
        memory.doubt()
    assert memory.disproved(hand_above(MUG), asked, measured) is expected
    assert not memory.disproved(hand_above(MUG), 0.08, 0.08), "a doubt is settled once"


def test_after_a_resume_far_from_the_mug_it_is_only_looked_at_again() -> None:
    memory, far = MugMemory(MugConfig()), tcp_pose(load_arm("fr3"), np.array(START_Q)[None])[0]
    memory.believe(ObjectPose(MUG, np.eye(6), 0.0), far, 0.05)
    memory.doubt()
    assert not memory.disproved(far, 0.05, 0.05)
    assert memory.believe(None, far, 0.05) is None


def closed_at_the_rim() -> tuple[Commitment, np.ndarray]:
    """The arm at rest with closed fingers at the rim of the mug, and the hand's pose there."""
    arm, tcp = load_arm("fr3"), hand_above(MUG)
    found = solve_chunk(arm, np.array(START_Q), np.tile(tcp, (1, 40, 1, 1)), dt=0.1)
    assert found.status[0, -1] == 0
    q = found.q[0, -1]
    return Commitment(Trajectory.at_rest(q, 1.0), 0.0, np.zeros(2)), tcp_pose(arm, q[None])[0]


def test_a_missed_grasp_moves_back_opens_and_waits_for_a_new_look() -> None:
    planner = MugPlanner.load("policy")
    commitment, tcp = closed_at_the_rim()
    seen = ObjectPose(MUG, np.eye(6) * 1e-6, 0.0)
    holds = planner.plan(seen, commitment, Scene((TABLE,)), 1.0, 0.5, width=0.005)
    assert holds.reason == "planned"
    missed = planner.plan(seen, commitment, Scene((TABLE,)), 1.0, 0.5, width=0.0)
    assert missed.proposal is not None and missed.reason == RETREAT
    trajectory = missed.proposal.trajectory
    end = tcp_pose(planner.arm, trajectory.sample(np.array([missed.proposal.head_duration]))[0])[0]
    back = (end[:3, 3] - tcp[:3, 3]) @ -tcp[:3, 2]
    assert back == pytest.approx(planner.config.retreat, abs=0.02)
    assert np.linalg.norm(end[:3, 3] - tcp[:3, 3] + back * tcp[:3, 2]) < 0.02
    assert missed.proposal.width[-1] == pytest.approx(0.08)
    assert missed.proposal.width[: 1 + planner.config.execute // 2] == pytest.approx(0.0)
    assert certify_one(planner.arm, trajectory, Scene((TABLE,)), planner.bounds, 1.0).certified
    after = Commitment(trajectory, 1.0, missed.proposal.width)
    old, new = (dataclasses.replace(seen, stamp=t) for t in (1.7, 1.9))
    assert planner.plan(old, after, Scene((TABLE,)), 1.8, 1.75, width=0.02).proposal is None
    assert planner.plan(new, after, Scene((TABLE,)), 2.4, 1.95, width=0.05).reason == "planned"
