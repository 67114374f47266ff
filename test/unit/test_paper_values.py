"""The papers' problems and figures, value by value as their papers and code give them: a table beside the paper's must be of its
problem. Every literal stands here a second time on purpose; change one only when its source says something else.
"""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from tandem.bench import jm2d_avoiding, jm2d_donut, jm2d_maze
from tandem.tasks.avoiding.config import load_avoiding_config
from tandem.tasks.maze import demonstrations, episode, layout, physics
from tandem.tasks.maze.problem import MazeConfig
from tandem.tasks.maze.train import HORIZON

AVOIDING = load_avoiding_config()


# --- point maze ---------------------------------------------------------------------------------------------------------------
def test_the_maze_is_d4rls_medium_one() -> None:
    """D4RL ``maze_model.py``: map; its particle hangs at (1.2, 1.2), the wall of row 0, column 0 at (1, 1), 1 m wide."""
    assert layout.MEDIUM == (
        "########",
        "#OO##OO#",
        "#OO#OOO#",
        "##OOO###",
        "#OO#OOO#",
        "#O#OO#O#",
        "#OOO#OG#",
        "########",
    )
    assert (layout.OFFSET, layout.HALF) == (-0.2, 0.5)
    np.testing.assert_allclose(layout.centre((3, 4)), [2.8, 3.8])


def test_the_ball_is_d4rls() -> None:
    """D4RL ``maze_model.py``: Euler steps of 10 ms, damping 1, gear 100, ball of 10 cm at 1,000 kg/m^3, speed cut to 5 m/s."""
    assert (physics.DT, physics.DAMPING, physics.GEAR, physics.RADIUS, physics.SPEED) == (0.01, 1.0, 100.0, 0.1, 5.0)
    assert physics.CONTACT_MARGIN == 0.002 and pytest.approx(4.188790204786391) == physics.MASS
    m = physics.MazeWorld()._m
    assert m.opt.timestep == 0.01 and m.opt.integrator == mujoco.mjtIntegrator.mjINT_EULER
    assert m.dof_damping.tolist() == [1.0, 1.0] and m.actuator_gear[:, 0].tolist() == [100.0, 100.0]
    assert m.actuator_ctrlrange.tolist() == [[-1.0, 1.0]] * 2
    assert (m.geom_friction == [0.5, 0.1, 0.1]).all() and m.geom_size[-1, 0] == 0.1


def test_demonstrations_are_d4rls() -> None:
    """D4RL's generator: gains 10 and -1, waypoints less U(0, 0.2) passed at 0.1 m, targets at a cell's numbers + U(-0.1, 0.1)."""
    assert demonstrations.GAINS == (10.0, -1.0) and demonstrations.REACHED == 0.1
    rng, start, goal = np.random.default_rng(0), np.array([0.8, 0.8]), np.array([6.0, 6.0])
    cells = np.array(layout.way((1, 1), (6, 6))[1:-1])
    moved = np.stack([demonstrations.waypoints(start, goal, rng)[:-1] - cells for _ in range(100)])
    goals = np.stack([demonstrations.draw_goal((6, 6), rng) - 6.0 for _ in range(1000)])
    for offsets, low, high in ((moved, -0.2, 0.0), (goals, -0.1, 0.1)):
        offsets = offsets.reshape(-1, 2)
        assert (offsets >= low - 1e-12).all() and (offsets <= high + 1e-12).all()
        np.testing.assert_allclose(offsets.min(0), low, atol=0.005)
        np.testing.assert_allclose(offsets.max(0), high, atol=0.005)


def test_maze_episodes_are_rails() -> None:
    """RAIL's code: 5 of 32 controls played (JM2D E.1: H = 32), goal reached at 0.2 m, 1,000 steps in the medium maze."""
    assert HORIZON == 32 and MazeConfig().execute == 5
    assert episode.SUCCESS_RADIUS == 0.2 and episode.LONGEST == 1000 and episode.LONGEST * physics.DT == 10.0


@pytest.mark.parametrize(("name", "low", "high"), [("original", -7.5, 7.5), ("+x+y", 0.0, 7.5), ("-x-y", -7.5, 0.0)])
def test_backups_accelerate_as_their_names_say(name: str, low: float, high: float) -> None:
    """JM2D F.2: accelerate 0.5 s, brake to rest; ``+x+y`` "allows acceleration only in the positive x and y directions".

    RAIL's code: at most 7.5 m/s^2, rest after 1 s. From rest k then moves the ball by k / 4, a speed v without k by 0.75 v.
    """
    family = MazeConfig(backup=name).family()
    assert (family.accelerate, family.stop) == (0.5, 1.0)
    assert family.k_low == (low, low) and family.k_high == (high, high)
    np.testing.assert_allclose(family.basis(np.array([0.5, 1.0, 2.0])), [[1, 1, 1], [0.5, 0.75, 0.75], [0.125, 0.25, 0.25]])


# --- Avoiding -----------------------------------------------------------------------------------------------------------------
def test_avoiding_is_d3ils() -> None:
    """D3IL ``avoiding_objects.py``, ``avoiding.py``; increments of its 96 demonstrations; 200 steps (DPCC), H = 8 (JM2D E.1)."""
    assert AVOIDING.pillars == (
        (0.5, -0.1, 0.03),
        (0.425, 0.08, 0.025), (0.575, 0.08, 0.025),
        (0.35, 0.26, 0.025), (0.5, 0.26, 0.025), (0.65, 0.26, 0.025),
    )
    assert AVOIDING.start == (0.525, -0.28) and AVOIDING.goal_y == 0.35
    assert AVOIDING.dt == 0.035 and AVOIDING.max_steps == 200 and AVOIDING.horizon == 8
    assert AVOIDING.action_low == (-0.0125, 0.0) and AVOIDING.action_high == (0.0125, 0.0125)


@pytest.mark.parametrize(("name", "circles", "lines"), [
    ("free", (), ()),
    # DPCC projection_eval.yaml, "hard"
    ("top_left", ((0.4, 0.08, 0.08),), ((0.8, -0.5, 0.4, 0.5),)),
    ("top_right", ((0.6, 0.08, 0.08),), ((0.2, -0.5, 0.6, 0.5),)),
    ("both", ((0.5, -0.09, 0.08),), ((0.8, -0.3, 0.575, 0.5), (0.2, -0.3, 0.425, 0.5))),
    # a figure of JM2D's project page, +-3 mm
    (
        "cluttered", ((0.4, 0.08, 0.08), (0.6, 0.08, 0.08), (0.5, -0.1, 0.06), (0.5, 0.2, 0.02)),
        ((0.42, -0.3, 0.43, 0.4), (0.58, -0.3, 0.57, 0.4)),
    ),
    # DiRecT d3il/obstacles.py
    ("direct", ((0.5, -0.1, 0.08),), ((0.8, -0.3, 0.575, 0.5), (0.2, -0.3, 0.425, 0.5))),
])
def test_scenes_are_their_papers(name: str, circles: tuple[tuple[float, ...], ...], lines: tuple[tuple[float, ...], ...]) -> None:
    scene = AVOIDING.scene(name)
    assert scene.circles == circles and scene.lines == lines
    assert len(AVOIDING.scenes) == 6


def test_dpcc_tightens_by_its_own_margin() -> None:
    """DPCC projection_eval.yaml: ``enlarge_constraints`` 0.025."""
    assert jm2d_avoiding.METHODS["dpcc_t_tightened"]["tighten"] == 0.025


# --- figures beside ours ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("method", "metric", "padding", "value"), [
    ("policy", "safe_success", 0.25, 0.275), ("rail", "safe_success", 0.2, 0.945), ("jm2d", "safe_success", 0.25, 0.935),
    ("rail", "intervention", 0.2, 0.515), ("gibbs", "intervention", 0.25, 0.47), ("jm2d", "intervention", 0.2, 0.28),
    ("rail", "horizon_s", 0.25, 4.93), ("gibbs", "horizon_s", 0.0, 3.05), ("jm2d", "horizon_s", 0.15, 3.12),
])
def test_maze_figures_are_those_of_fig_3(method: str, metric: str, padding: float, value: float) -> None:
    """JM2D Fig. 3, read off the project page's figure; it has no marker at 0.1 m."""
    values = jm2d_maze.PAPER[method][metric]
    assert values[padding] == value and tuple(values) == (0.0, 0.05, 0.15, 0.2, 0.25)


@pytest.mark.parametrize(("method", "backup", "safe", "steps", "intervention"), [
    ("rail", "original", 0.90, 351.7, 0.52), ("rail", "+x+y", 0.62, 417.3, 0.61), ("rail", "-x-y", 0.60, 367.7, 0.72),
    ("jm2d", "original", 0.94, 297.7, 0.24), ("jm2d", "+x+y", 0.76, 259.7, 0.40), ("jm2d", "-x-y", 0.88, 366.3, 0.47),
])
def test_degraded_figures_are_those_of_table_f3(method: str, backup: str, safe: float, steps: float, intervention: float) -> None:
    """JM2D Table F.3, at a padding of 0.2 m; its horizon is in steps of 10 ms."""
    row = jm2d_maze.PAPER_DEGRADED[method][backup]
    assert (row["safe_success"], row["intervention"]) == (safe, intervention) and jm2d_maze.ABLATION_PADDING == 0.2
    assert row["horizon_s"] == pytest.approx(0.01 * steps)


@pytest.mark.parametrize(("scene", "method", "safe", "violations"), [
    # JM2D Table 1
    ("top_left", "dpcc_t_tightened", 0.87, 0.02), ("top_right", "safediffuser", 0.07, 18.27), ("both", "mpd", 0.03, 10.80),
    ("top_left", "jm2d", 0.77, 1.13), ("top_right", "jm2d", 0.83, 0.29), ("both", "jm2d", 0.84, 0.37),
    ("cluttered", "jm2d", 0.75, 0.32),
    # JM2D Table A.2
    ("top_left", "u=0", 0.06, 16.44), ("cluttered", "u=1", 0.48, 2.90), ("top_right", "u=10", 0.60, 0.95),
    ("both", "tight, u=5", 0.82, 0.59), ("top_right", "tight, u=10", 0.81, 0.41),
])
def test_avoiding_figures_are_those_of_tables_1_and_a2(scene: str, method: str, safe: float, violations: float) -> None:
    assert jm2d_avoiding.SCENES == ("top_left", "top_right", "both", "cluttered", "direct")
    assert jm2d_avoiding._paper(scene, method, 0, "paper")["paper"] == safe
    assert jm2d_avoiding._paper(scene, method, 1, "paper")["paper"] == violations


def test_direct_and_donut_figures_are_the_papers() -> None:
    """DiRecT Table 6, column SR (its SafeDiffuser is RoS, ReS, TVS); JM2D Fig. 5: 60 of 64 valid, projection 31 of 64 outside."""
    assert jm2d_avoiding.PAPER_DIRECT == {
        "policy": 0.060, "mpd_tweedie": 0.880, "pdm": 0.770, "safediffuser": 0.370, "safediffuser_res": 0.220,
        "safediffuser_tvs": 0.300,
    }
    assert jm2d_donut.PAPER_VALID == {"jm2d": 60 / 64} and jm2d_donut.PAPER_OUT == {"pdm": 31 / 64}
