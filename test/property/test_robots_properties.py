"""Properties of kinematics and inverse kinematics over generated configurations."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tandem.core.se3 import inverse
from tandem.robots.inverse import IkStatus, solve_chunk
from tandem.robots.kinematics import fk, sphere_centers, tcp_pose
from tandem.robots.model import load_arm, velocity_limits

ARM = load_arm("fr3")
FRACTION = arrays(np.float64, 7, elements=st.floats(0.0, 1.0))
ANY = arrays(np.float64, 7, elements=st.floats(allow_nan=True, allow_infinity=True))


def within(x):
    return ARM.lower + x * (ARM.upper - ARM.lower)


@settings(max_examples=100, deadline=None)
@given(FRACTION)
def test_frames_are_rigid(x):
    frames = fk(ARM, within(x))
    assert np.allclose(frames @ inverse(frames), np.eye(4), atol=1e-12)
    assert np.all(np.linalg.det(frames[:, :3, :3]) > 0.0)


@settings(max_examples=100, deadline=None)
@given(FRACTION, FRACTION)
def test_spheres_keep_their_distance_to_their_link(x, y):
    for q in (within(x), within(y)):
        home = fk(ARM, q)[ARM.sphere_link, :3, 3]
        assert np.allclose(np.linalg.norm(sphere_centers(ARM, q) - home, axis=1), np.linalg.norm(ARM.sphere_center, axis=1))


@settings(max_examples=100, deadline=None)
@given(FRACTION, arrays(np.float64, 7, elements=st.floats(-0.05, 0.05)))
def test_a_status_is_never_a_lie(x, step):
    """Whatever the chunk: OK means that forward kinematics agrees and all limits hold."""
    start = within(x)
    poses = tcp_pose(ARM, start + np.outer(np.arange(1, 5), step))[None]
    result = solve_chunk(ARM, start, poses, dt=0.1)
    assert np.all(np.isfinite(result.q))
    before = start
    for q, status, pose in zip(result.q[0], result.status[0], poses[0], strict=True):
        off = np.linalg.norm(tcp_pose(ARM, q)[:3, 3] - pose[:3, 3])
        if status == IkStatus.OK:
            lo, hi = velocity_limits(ARM, q)
            assert off <= 1e-4 and np.all(q >= ARM.lower) and np.all(q <= ARM.upper)
            assert np.all((q - before) / 0.1 <= hi + 1e-9) and np.all((q - before) / 0.1 >= lo - 1e-9)
        elif status in (IkStatus.VELOCITY_LIMIT, IkStatus.BRANCH_JUMP, IkStatus.POSITION_LIMIT):
            assert off <= 1e-4
        before = q


@settings(max_examples=100, deadline=None)
@given(ANY, arrays(np.float64, (1, 2, 4, 4), elements=st.floats(allow_nan=True, allow_infinity=True)))
def test_rubbish_is_never_ok_and_never_an_exception(start, poses):
    result = solve_chunk(ARM, start, poses, dt=0.1)
    assert not np.any(result.status == IkStatus.OK)


@settings(max_examples=200, deadline=None)
@given(ANY)
def test_velocity_limits_contain_zero_or_are_nan(q):
    lo, hi = velocity_limits(ARM, q)
    known = ~np.isnan(q)
    assert np.all(lo[known] <= 0.0) and np.all(hi[known] >= 0.0) and np.isnan(lo[~known]).all()
