"""What is believed about the mug while the hand hides it, and when that belief is given up.

Near the mug, or with the gripper closing, the hand hides the mug and moves it: the last pose seen is kept. A gripper that was
told to close and has closed on nothing proves the belief wrong. So may an operator who resumed after a stop, since what stops an
arm near the mug is mostly contact. The hand then moves back (:func:`retreat_chunks`) and only a pose seen after that counts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tandem.core.types import ObjectPose
from tandem.tasks.mug.chunks import encode_steps
from tandem.tasks.mug.config import MugConfig

Array = NDArray[np.float64]

#: said of plans that move back from a mug that is not where it was believed to be
RETREAT = "moving back to look again"
#: the hand's distance from the mug's axis point at this height decides whether it hides the mug [m]
ABOVE = np.array([0.0, 0.0, 0.08])


class MugMemory:
    """The mug pose to plan with; ``pose`` is what is believed now, ``kept`` whether that is older than what the camera says."""

    def __init__(self, config: MugConfig) -> None:
        self.config = config
        self.pose: ObjectPose | None = None
        self.kept = False
        self._doubted = False
        self._seen_from = -np.inf

    def near(self, tcp: Array) -> bool:
        """Whether the hand at ``tcp`` (4, 4) is where it hides the mug."""
        if self.pose is None:
            return False
        return float(np.linalg.norm(tcp[:3, 3] - self.pose.pose[:3, 3] - ABOVE)) < self.config.hold_distance

    def believe(self, seen: ObjectPose | None, tcp: Array, width: float) -> ObjectPose | None:
        """The pose to plan with, from what the camera says, the hand's pose (4, 4) and the commanded gripper width [m]."""
        if self.pose is not None and (width < self.config.hold_width or self.near(tcp)):
            self.kept = True
            return self.pose
        self.pose = seen if seen is not None and seen.stamp >= self._seen_from else None
        self.kept = False
        return self.pose

    def doubt(self) -> None:
        """The arm was stopped and an operator resumed: look again before going on."""
        self._doubted = True

    def disproved(self, tcp: Array, asked: float, measured: float | None) -> bool:
        """Whether the hand must move back and look again.

        ``tcp``: the hand's pose (4, 4). ``asked``: the widest gripper width [m] asked for from now on. ``measured``: what it is
        [m], None if unknown.
        """
        doubted, self._doubted = self._doubted, False
        if asked < self.config.grasp_width and measured is not None:
            return measured < self.config.empty_width  # closed on something: the stop was not for a missed grasp
        if doubted and not self.near(tcp):
            self.pose = None
        return doubted and self.near(tcp)

    def forget(self, until: float) -> None:
        """Believe nothing until something is seen at ``until`` [s, the images' clock] or later."""
        self.pose, self.kept, self._seen_from = None, False, until


def retreat_chunks(mug: Array, tcp: Array, width: float, config: MugConfig) -> Array:
    """(N, H, 10) ways to move back, in the order to try: against the hand's own direction, then upwards, shorter each time.

    The fingers stay as they are for the first half, so that they clear the mug's wall before they open.
    """
    times = config.dt * np.arange(1, config.horizon + 1)
    s = np.clip(times / (config.execute * config.dt), 0.0, 1.0)
    reach = s**3 * (10.0 - 15.0 * s + 6.0 * s * s)  # minimum jerk, over the head
    widths = np.where(s <= 0.5, width, 0.08)
    out = []
    for length in (1.0, 0.6, 0.3):
        for direction in (-tcp[:3, 2], np.array([0.0, 0.0, 1.0])):
            poses = np.tile(tcp, (config.horizon, 1, 1))
            poses[:, :3, 3] += (config.retreat * length * reach)[:, None] * direction
            out.append(encode_steps(mug, poses, widths))
    return np.stack(out)
