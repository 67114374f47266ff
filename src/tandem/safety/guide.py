"""A way among obstacles for the RTD planner: RRT-Connect whose every edge is a certified motion from rest to rest.

The trees grow from both ends (Kuffner and LaValle, "RRT-Connect", ICRA 2000), several samples at a time, because a batch of edges
costs little more than one. The search can be spread over several calls with a budget of certifications each: the same seed then
finds the same way whatever the machine's speed. The way found is shortened by certified short cuts.

An edge is the family's straight motion from rest to rest (all joints in step: ``q0 + k s(t)``), so the RTD planner can always
follow a way by stopping at its corners. The position-dependent speed limit is left out here, because it depends on how fast a way
is followed; the planner's own plans are certified under it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tandem.core.errors import InputError
from tandem.robots.model import ArmModel, with_limits
from tandem.safety.backup import BackupFamily
from tandem.safety.bounds import Bounds
from tandem.safety.certify import certify
from tandem.safety.geometry import PackedScene

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: longest edge, in the joint that moves most [rad]
STEP = 0.4
#: samples a round, and edges in a row towards each
SAMPLES = 8
EXTEND = 3
#: speed of edges: largest |k| an edge of STEP needs stays below this [rad/s^2]
_EDGE_K = 3.0


class StraightMotions:
    """Certification of straight motions from rest to rest in one scene; counts them in :attr:`spent`."""

    def __init__(self, arm: ArmModel, scene: PackedScene, bounds: Bounds) -> None:
        none = np.full_like(arm.velocity_position, np.nan)
        self.arm = with_limits(arm, velocity_position=none)
        self.scene, self.bounds = scene, bounds
        self.family = BackupFamily(k_max=(_EDGE_K,) * arm.n)
        self.gain = float(self.family.basis([self.family.stop])[3, 0])
        self.spent = 0

    def clear(self, a: Array, b: Array) -> Flags:
        """(B,) which motions from a (B, n) to b (B, n) are certified; their length is at most :data:`STEP`."""
        zero = np.zeros_like(a)
        times, q, v, acc = self.family.build(a, zero, zero, (b - a) / self.gain)
        self.spent += len(a)
        return certify(self.arm, times, q, v, acc, self.scene, self.bounds).certified

    def chain_clear(self, a: Array, b: Array) -> bool:
        """Whether the straight motion between two configurations (n,) of any distance is certified, piece by piece."""
        points = pieces(a, b)
        return bool(self.clear(points[:-1], points[1:]).all())


def pieces(a: Array, b: Array) -> Array:
    """(M + 1, n) points from a to b, at most :data:`STEP` apart in any joint."""
    count = max(1, int(np.ceil(float(np.abs(b - a).max()) / STEP - 1e-9)))
    return a + (b - a) * np.linspace(0.0, 1.0, count + 1)[:, None]


@dataclass
class _Tree:
    """Configurations ``q`` (``count`` rows in use) and the row each was reached from."""

    q: Array
    parent: list[int] = field(default_factory=lambda: [-1])

    @property
    def count(self) -> int:
        return len(self.parent)

    def add(self, q: Array, parent: int) -> int:
        if self.count == len(self.q):
            self.q = np.concatenate([self.q, np.empty_like(self.q)])
        self.q[self.count] = q
        self.parent.append(parent)
        return self.count - 1

    def nearest(self, q: Array) -> int:
        return int(np.argmin(((self.q[: self.count] - q) ** 2).sum(axis=1)))

    def way(self, row: int) -> list[Array]:
        """From ``row`` to the root."""
        out = []
        while row >= 0:
            out.append(self.q[row].copy())
            row = self.parent[row]
        return out


class GuideSearch:
    """The search for a way from ``start`` to ``goal`` (n,) [rad] among the obstacles of one scene."""

    def __init__(
        self, arm: ArmModel, scene: PackedScene, bounds: Bounds, start: Array, goal: Array, rng: np.random.Generator
    ) -> None:
        """Args: ``scene`` from :func:`pack_scene`; its obstacles are taken to stand where they are. ``rng``: decides everything.

        Raises:
            InputError: start or goal is not of this arm or not finite.
        """
        for name, q in (("start", start), ("goal", goal)):
            if np.shape(q) != (arm.n,) or not np.isfinite(q).all():
                raise InputError(f"guide: {name} has shape {np.shape(q)}; expected ({arm.n},), all finite")
        self.motions = StraightMotions(arm, scene, bounds)
        self.arm, self.rng = arm, rng
        self.start, self.goal = np.array(start, dtype=np.float64), np.array(goal, dtype=np.float64)
        self._trees = [self._tree(self.start), self._tree(self.goal)]
        self._turn = 0
        self._tried_straight = False

    @property
    def spent(self) -> int:
        """Motions certified so far."""
        return self.motions.spent

    @property
    def nodes(self) -> tuple[int, int]:
        """Configurations in the trees of start and goal."""
        return self._trees[0].count, self._trees[1].count

    def search(self, budget: int, deadline: float | None = None) -> Array | None:
        """Go on for about ``budget`` certifications: the way (P, n) from start to goal, or None: not found yet.

        ``deadline``: value of :func:`time.perf_counter` after which no further round is begun.
        """
        end = self.spent + budget
        if not self._tried_straight:
            self._tried_straight = True
            if self.motions.chain_clear(self.start, self.goal):
                return np.stack([self.start, self.goal])
        while self.spent < end and not _late(deadline):
            way = self._round()
            if way is not None:
                return way
        return None

    def shorten(self, way: Array, budget: int, deadline: float | None = None) -> Array:
        """A shorter way (P', n): short cuts between random points of it; ``budget``, ``deadline`` as for :meth:`search`."""
        end = self.spent + budget
        while len(way) > 2 and self.spent < end and not _late(deadline):
            s = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(way, axis=0), axis=1))])
            a, b = np.sort(self.rng.uniform(0.0, s[-1], 2))
            i, j = (int(np.clip(np.searchsorted(s, x, side="right") - 1, 0, len(way) - 2)) for x in (a, b))
            if i == j:
                self.motions.spent += 1     # ends the loop where there is nothing left to cut
                continue
            p, q = point_at(way, s, a), point_at(way, s, b)
            if self.motions.chain_clear(p, q):
                way = np.concatenate([way[: i + 1], [p, q], way[j + 1 :]])
                keep = np.concatenate([[True], np.linalg.norm(np.diff(way, axis=0), axis=1) > 1e-9])
                way = way[keep]
        return way

    def _tree(self, root: Array) -> _Tree:
        q = np.empty((256, self.arm.n))
        q[0] = root
        return _Tree(q)

    def _round(self) -> Array | None:
        """Extend one tree towards samples, then the other towards what was reached."""
        here, there = self._trees[self._turn], self._trees[1 - self._turn]
        self._turn = 1 - self._turn
        samples = self.rng.uniform(self.arm.lower, self.arm.upper, (SAMPLES, self.arm.n))
        if self.rng.uniform() < 0.2:
            samples[0] = there.q[0]
        for row in self._extend(here, samples, EXTEND):
            other = there.nearest(here.q[row])
            reached = self._connect(there, other, here.q[row])
            if reached is not None:
                parts = (here.way(row)[::-1], there.way(reached)[1:])
                way = np.array(parts[0] + parts[1])
                return way if self._turn == 1 else way[::-1].copy()
        return None

    def _extend(self, tree: _Tree, targets: Array, most: int) -> list[int]:
        """Up to ``most`` edges from the nearest row towards each target, all certified in one batch; the last rows reached."""
        chains = []
        for target in targets:
            row = tree.nearest(target)
            chains.append((row, pieces(tree.q[row], target)[: most + 1]))
        good = self.motions.clear(
            np.concatenate([points[:-1] for _, points in chains]), np.concatenate([points[1:] for _, points in chains])
        )
        out, at = [], 0
        for row, points in chains:
            reached = row
            for point, fine in zip(points[1:], good[at : at + len(points) - 1], strict=True):
                if not fine:
                    break
                reached = tree.add(point, reached)
            at += len(points) - 1
            if reached != row:
                out.append(reached)
        return out

    def _connect(self, tree: _Tree, row: int, target: Array) -> int | None:
        """Edges from ``row`` straight towards ``target`` as far as they are certified; the row of ``target`` if it is reached."""
        points = pieces(tree.q[row], target)
        for at in range(0, len(points) - 1, EXTEND):
            ahead = points[at + 1 : at + 1 + EXTEND]
            for point, fine in zip(ahead, self.motions.clear(points[at : at + len(ahead)], ahead), strict=True):
                if not fine:
                    return None
                row = tree.add(point, row)
        return row


def _late(deadline: float | None) -> bool:
    return deadline is not None and time.perf_counter() >= deadline


def point_at(way: Array, s: Array, x: float) -> Array:
    """The point (n,) at arc length ``x`` of a polyline (P, n) whose corners lie at arc lengths ``s`` (P,)."""
    return np.array([np.interp(x, s, way[:, j]) for j in range(way.shape[1])])
