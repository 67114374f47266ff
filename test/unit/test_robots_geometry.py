"""Enclosure of the collision shapes by spheres, how far these overshoot, and which link pairs are left to check."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest
import robot_cases

from tandem.robots.apart import joint_reach, self_clearance
from tandem.robots.fit import main
from tandem.robots.geometry import convex_hull, exposed_overshoot, find_uncovered, fit_spheres, uncovered
from tandem.robots.kinematics import fk, sphere_centers, tcp_pose
from tandem.robots.model import load_arm, load_chain, robot_config
from tandem.robots.urdf import Shape, read_mesh

CUBE = np.array(np.meshgrid([-0.1, 0.1], [-0.2, 0.2], [-0.1, 0.1])).reshape(3, -1).T


@pytest.fixture(scope="module")
def fr3():
    return load_arm("fr3")


@pytest.fixture(scope="module")
def chain():
    return load_chain(*robot_config("fr3"))


def _spheres(arm, link):
    mine = arm.sphere_link == link
    return arm.sphere_center[mine], arm.sphere_radius[mine]


def test_spheres_enclose_every_collision_shape(fr3, chain):
    """The covering proof, for the hull of each mesh, box, and finger over its stroke."""
    assert {s.link for s in chain.shapes} == set(range(8))
    for shape in chain.shapes:
        assert uncovered(shape, *_spheres(fr3, shape.link)) is None, shape.name


def test_spheres_enclose_vertices_faces_and_inside_by_sampling(fr3, chain):
    """The same without the proof's code: all vertices, random points of all faces and of the inside."""
    rng = np.random.default_rng(0)
    for shape in chain.shapes:
        hull = convex_hull(shape.vertices)
        inside = rng.dirichlet(0.3 * np.ones(len(hull.vertices)), 2000) @ hull.vertices
        faces = np.einsum("tki,tij->tkj", rng.dirichlet(np.ones(3), (len(hull.triangles), 20)), hull.triangles)
        points = np.concatenate([shape.vertices, inside, faces.reshape(-1, 3)])
        center, radius = _spheres(fr3, shape.link)
        gap = (np.linalg.norm(points[:, None] - center, axis=-1) - radius).min(axis=1)
        assert gap.max() <= 0.0, (shape.name, gap.max())


def test_spheres_enclose_what_the_simulator_collides(fr3):
    """All vertices of all MuJoCo collision geometries at random configurations and finger openings."""
    spec = mujoco.MjSpec.from_file(str(robot_cases.assets() / "fr3.xml"))
    spec.meshdir = str(robot_cases.assets() / "meshes")
    model = spec.compile()
    data = mujoco.MjData(model)
    rng = np.random.default_rng(3)
    corners = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T
    checked = 0
    for q in robot_cases.random_q(fr3, 10):
        data.qpos[:7], data.qpos[7:] = q, rng.choice([0.0, 0.04, rng.uniform(0.0, 0.04)])
        mujoco.mj_kinematics(model, data)
        centers = sphere_centers(fr3, q)
        for g in np.flatnonzero(model.geom_contype):
            mesh = model.geom_dataid[g]
            if mesh >= 0:
                start = model.mesh_vertadr[mesh]
                local = model.mesh_vert[start : start + model.mesh_vertnum[mesh]]
            else:
                assert model.geom_type[g] == mujoco.mjtGeom.mjGEOM_BOX
                local = corners * model.geom_size[g]
            points = local @ data.geom_xmat[g].reshape(3, 3).T + data.geom_xpos[g]
            gap = (np.linalg.norm(points[:, None] - centers, axis=-1) - fr3.sphere_radius).min(axis=1)
            assert gap.max() <= 0.0
            checked += 1
    assert checked >= 10 * 20


def test_few_spheres_and_little_overshoot(fr3, chain):
    assert 35 <= len(fr3.sphere_radius) <= 60
    over = [exposed_overshoot([s for s in chain.shapes if s.link == k], *_spheres(fr3, k)) for k in range(1, 8)]
    assert np.mean([o.mean() for o in over]) < 0.014
    assert max(o.max() for o in over) < 0.040


def test_fingertips_are_tight(fr3, chain):
    """Beyond the fingers' ends, towards what is grasped, the spheres reach at most 6 mm."""
    down = fr3.tool[:3, 2]
    end = max((s.vertices @ down).max() for s in chain.shapes if s.link == 7)
    center, radius = _spheres(fr3, 7)
    assert 0.0 <= (center @ down + radius).max() - end <= 0.006


def test_only_the_base_reaches_the_table(fr3):
    """Link 0 stands on the table and is excluded; link 1 only turns about the vertical and stays above."""
    assert (fr3.sphere_center - fr3.sphere_radius[:, None])[fr3.sphere_link == 0][:, 2].min() < 0.0
    z = sphere_centers(fr3, robot_cases.random_q(fr3, 50))[:, fr3.sphere_link == 1, 2] - fr3.sphere_radius[fr3.sphere_link == 1]
    assert z.min() > 0.05


def test_link_balls_contain_their_spheres(fr3):
    gap = np.linalg.norm(fr3.sphere_center - fr3.link_center[fr3.sphere_link], axis=1) + fr3.sphere_radius
    assert np.all(gap <= fr3.link_radius[fr3.sphere_link])


def test_self_pairs_cover_all_links_once(fr3):
    seen = {tuple(p) for p in fr3.self_pairs.tolist()} | {p for p, _ in fr3.self_dropped}
    assert seen == {(i, j) for i in range(8) for j in range(i + 1, 8)}
    assert len(fr3.self_pairs) + len(fr3.self_dropped) == len(seen)
    assert all(why for _, why in fr3.self_dropped)
    for p, (i, j) in enumerate(fr3.self_pairs):
        rows = fr3.self_spheres[fr3.self_offset[p] : fr3.self_offset[p + 1]]
        assert np.all(fr3.sphere_link[rows] == [i, j])
        assert len(rows) == np.sum(fr3.sphere_link == i) * np.sum(fr3.sphere_link == j)


def test_self_collision_of_known_configurations(fr3):
    clearance, _ = self_clearance(fr3, fr3.home[None])
    assert clearance[0] > 0.05
    folded = np.array([0.0, -1.5, 0.0, -3.0, 0.0, 1.0, 0.0])
    clearance, pair = self_clearance(fr3, folded[None])
    assert clearance[0] < 0.0 and pair[0] >= 0
    # most of the joint space is free of self-collision: the spheres are no blunt instrument
    assert (self_clearance(fr3, robot_cases.random_q(fr3, 4000))[0] < 0.0).mean() < 0.15


def test_dropped_pairs_never_touch_and_flagged_ones_are_found(fr3, chain):
    """Against exact hull distances: no contact of a dropped pair, no hull contact without sphere contact."""
    coal = pytest.importorskip("coal")
    solids = []
    for shape in chain.shapes:
        if shape.name.endswith("]"):
            points = coal.StdVec_Vec3s()
            points.extend(list(shape.vertices))
            solids.append((shape.link, coal.Convex.convexHull(points, True, "Qt")))
    kept = {tuple(p) for p in fr3.self_pairs.tolist()}
    request = coal.CollisionRequest()
    contacts = 0
    qs = robot_cases.random_q(fr3, 400, seed=5)
    clearance, _ = self_clearance(fr3, qs)
    for q, room in zip(qs, clearance, strict=True):
        frames = fk(fr3, q)
        for a, (i, one) in enumerate(solids):
            for j, two in solids[a + 1 :]:
                if abs(j - i) < 2:
                    continue
                at = [coal.Transform3s(frames[k, :3, :3], frames[k, :3, 3]) for k in (i, j)]
                if coal.collide(one, at[0], two, at[1], request, coal.CollisionResult()) > 0:
                    assert (i, j) in kept
                    assert room < 0.0
                    contacts += 1
    assert contacts > 0


def test_joint_reach_bounds_the_motion(fr3):
    """No sphere of link j moves more than its bound a unit of joint motion."""
    rng = np.random.default_rng(4)
    for i, j in [(0, 5), (2, 6), (5, 7), (3, 7)]:
        reach = joint_reach(fr3, i, j)
        for q in robot_cases.random_q(fr3, 20, seed=6):
            frames = fk(fr3, q)
            for k in range(i, j):
                moved = q.copy()
                moved[k] += 0.1 * rng.uniform(-1.0, 1.0)
                mine = fr3.sphere_link == j
                shift = sphere_centers(fr3, moved)[mine] - sphere_centers(fr3, q)[mine]
                assert np.linalg.norm(shift, axis=1).max() <= reach[k - i] * abs(moved[k] - q[k]) + 1e-12
            assert frames.shape == (8, 4, 4)


def test_uncovered_finds_a_hole_between_vertices():
    """Spheres at all corners cover every vertex, not the middle: the proof must see it."""
    shape = Shape(0, "box", CUBE)
    hole = uncovered(shape, CUBE, np.full(8, 0.11))
    assert hole is not None
    assert np.all(np.linalg.norm(CUBE - hole, axis=1) > 0.109)
    assert uncovered(shape, np.zeros((1, 3)), np.array([0.245])) is None
    assert uncovered(shape, np.zeros((1, 3)), np.array([0.2449])) is not None
    assert uncovered(shape, np.zeros((0, 3)), np.zeros(0)) is not None


def test_find_uncovered_survives_any_finest_size():
    hull = convex_hull(CUBE)
    point = find_uncovered(hull.planes, CUBE.min(0), CUBE.max(0), np.zeros((1, 3)), np.array([0.2]), 1e-7)
    assert np.all(np.isfinite(point))


def test_rounded_and_point_shapes():
    ball = Shape(0, "ball", np.array([[0.1, 0.0, 0.0]]), 0.05)
    assert uncovered(ball, np.array([[0.1, 0.0, 0.01]]), np.array([0.061])) is None
    assert uncovered(ball, np.array([[0.1, 0.0, 0.01]]), np.array([0.059])) is not None
    rounded = Shape(0, "box", CUBE, 0.02)
    assert uncovered(rounded, np.zeros((1, 3)), np.array([0.266])) is None
    assert uncovered(rounded, np.zeros((1, 3)), np.array([0.264])) is not None


def test_fit_is_deterministic_and_tight():
    shape = [Shape(0, "box", CUBE)]
    first = fit_spheres(shape, 3, 400, np.random.default_rng(1))
    again = fit_spheres(shape, 3, 400, np.random.default_rng(1))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])
    assert uncovered(shape[0], *first) is None
    assert first[1].max() < 0.19


@pytest.mark.parametrize("name", ["panda", "six"])
def test_other_arms(name):
    """Enclosure of primitive shapes, pairs, and home free of self-collision."""
    path = robot_cases.robot_file(name)
    arm, chain = load_arm(path), load_chain(*robot_config(path))
    for shape in chain.shapes:
        assert uncovered(shape, *_spheres(arm, shape.link)) is None, shape.name
    assert len(arm.self_pairs) + len(arm.self_dropped) == arm.n * (arm.n + 1) // 2
    assert self_clearance(arm, arm.home[None])[0][0] > 0.0
    assert arm.stroke == pytest.approx(0.08 if name == "panda" else 0.0)


@pytest.mark.slow
def test_fit_command(tmp_path):
    """From URDF to a sphere file that loads, encloses, and is the same the second time; bad input exits with 2."""
    for suffix in ("urdf", "yaml"):
        text = (robot_cases.DATA / f"six.{suffix}").read_text()
        (tmp_path / f"six.{suffix}").write_text(text.replace("steps: 200", "steps: 16").replace("spheres: 4", "spheres: 2"))
    assert main([str(tmp_path / "six.yaml")]) == 0
    arm, chain = load_arm(tmp_path / "six.yaml"), load_chain(*robot_config(tmp_path / "six.yaml"))
    for shape in chain.shapes:
        assert uncovered(shape, *_spheres(arm, shape.link)) is None, shape.name
    assert main([str(tmp_path / "six.yaml"), "--out", str(tmp_path / "again.yaml")]) == 0
    assert (tmp_path / "again.yaml").read_text() == (tmp_path / "six_spheres.yaml").read_text()
    assert main(["no_such_robot"]) == 2


def test_swept_fingers_reach_as_far_as_the_gripper_opens(chain):
    """Outermost finger points in the hand's y: finger thickness plus the full stroke of 40 mm."""
    tool = chain.tool
    fingers = [s for s in chain.shapes if "finger" in s.part]
    y = [float(x) for s in fingers for x in (s.vertices - tool[:3, 3]) @ tool[:3, 1]]
    assert max(y) == pytest.approx(0.04 + 0.026, abs=1e-3)
    assert min(y) == pytest.approx(-0.04 - 0.026, abs=1e-3)


def test_read_mesh_formats(tmp_path):
    ascii_stl = "solid a\n" + "".join(
        f"facet normal 0 0 1\nouter loop\nvertex {i} 0 0\nvertex 0 {i} 0\nvertex 0 0 {i}\nendloop\nendfacet\n" for i in (1, 2)
    )
    (tmp_path / "a.stl").write_text(ascii_stl + "endsolid a\n")
    assert len(read_mesh(tmp_path / "a.stl")) == 6
    stl = robot_cases.assets() / "meshes" / "link0_coll.stl"
    assert read_mesh(stl).shape[1] == 3
    for name, content in (("b.dae", "x"), ("b.stl", "solid b"), ("b.obj", "v 1 2"), ("c.obj", "v 1 nan 3\n" * 5)):
        (tmp_path / name).write_text(content)
        with pytest.raises(Exception, match="mesh"):
            read_mesh(tmp_path / name)


def test_tcp_lies_between_the_fingertips(fr3):
    assert np.allclose(fr3.tool[:3, 3], [0.0, 0.0, 0.107 + 0.1034])
    assert np.allclose(tcp_pose(fr3, fr3.home)[:3, 2], [0.0, 0.0, -1.0], atol=1e-9)
