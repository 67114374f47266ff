"""Same inputs, same digest, same verdicts to the last bit, in new processes on 1, 2 and 4 Numba threads."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from safety_cases import FAMILY, arm, motion

from tandem.core.scene import TABLE, Obstacle, Scene
from tandem.safety import Bounds, Polytope, certify_one, load_bounds, pack_scene
from tandem.safety.certify import verdict_digest

SCRIPT = """
import hashlib, sys
import numba, numpy as np
sys.path.insert(0, {tests!r})
from safety_cases import FAMILY, arm, boxes, motion
from tandem.safety import certify, certify_grid, certify_one, find_backup, load_bounds, pack_scene
rng, bounds = np.random.default_rng(0), load_bounds()
scene, t = boxes(rng, 6), motion(rng)
packed = pack_scene(scene, arm(), bounds, 0.0)
h = hashlib.sha256(certify_one(arm(), t, scene, bounds, 0.0).digest.encode())
times, q, v, a = FAMILY.build(arm().home, np.zeros(7), np.zeros(7), FAMILY.sample(160, rng))
for full in (False, True):
    found = certify(arm(), times, q, v, a, packed, bounds, full=full)
    for part in (found.code, found.clearance, found.time, found.link, found.other):
        h.update(part.tobytes())
    head = (times[:3], q[:8, :3], v[:8, :3], a[:8, :3])
    grid = certify_grid(arm(), FAMILY, *head, FAMILY.sample(16, rng), packed, bounds, full=full)
    for part in (grid.head_code, grid.feasible, grid.clearance):
        h.update(part.tobytes())
found = find_backup(arm(), FAMILY, t.sample(0.2), packed, bounds, preference=np.ones(7))
h.update(b"none" if found is None else found.k.tobytes())
sys.stdout.write(f"{{numba.get_num_threads()}} {{h.hexdigest()}}")
"""


def test_digest_and_verdicts_do_not_depend_on_threads_or_process() -> None:
    tests = Path(__file__).parents[1]
    said = []
    for threads in (1, 2, 4):
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT.format(tests=str(tests))], capture_output=True, text=True, check=False, timeout=280,
            env={**os.environ, "NUMBA_NUM_THREADS": str(threads)},
        )
        assert run.returncode == 0, run.stderr
        count, digest = run.stdout.split()
        assert int(count) == threads
        said.append(digest)
    assert len(set(said)) == 1 and len(said[0]) == 64


def test_the_digest_changes_with_every_input_and_can_be_made_again() -> None:
    bounds, t = load_bounds(), motion(np.random.default_rng(0))
    ball = Obstacle("ball", "sphere", (0.1,), (0.9, 0.0, 0.9), speed=0.1, stamp=0.0)
    zonotope = Polytope.from_zonotope("z", (0.9, 0.5, 0.9), 0.1 * np.eye(3))
    scene = Scene((TABLE, ball))

    def digest(trajectory=t, where=scene, numbers=bounds, model=arm(), start=0.0, polytopes=(zonotope,)) -> str:  # type: ignore[no-untyped-def]  # noqa: B008
        return certify_one(model, trajectory, where, numbers, 0.0, start, polytopes=polytopes).digest

    seen = [digest(), digest(start=0.01), digest(polytopes=()), digest(model=dataclasses.replace(arm(), digest="other"))]
    seen.append(digest(polytopes=(dataclasses.replace(zonotope, position_error=0.01),)))
    seen.append(digest(FAMILY.trajectory(t.q[0], t.v[0], t.a[0], np.full(7, 0.1))))
    for change in (
        {"name": "other"}, {"size": (0.11,)}, {"position": (0.9, 0.0, 0.901)}, {"position_error": 0.01}, {"speed": 0.11},
        {"stamp": -0.01}, {"kind": "halfspace", "size": ()},
    ):
        seen.append(digest(where=Scene((TABLE, dataclasses.replace(ball, **change)))))  # type: ignore[arg-type]
    for field in dataclasses.fields(Bounds):
        old = getattr(bounds, field.name)
        new = (0.005,) if field.name == "tracking_error" else old + 1 if field.name == "levels" else old + 1e-7
        seen.append(digest(numbers=dataclasses.replace(bounds, **{field.name: new})))
    assert len(set(seen)) == len(seen)
    packed = pack_scene(scene, arm(), bounds, 0.0, polytopes=(zonotope,))
    assert verdict_digest(arm(), t, packed, bounds) == seen[0] == digest()
