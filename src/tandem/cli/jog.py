"""``tandem jog``: a step of one joint, of the tool along or about an axis, or of the gripper; or steps by keys."""

from __future__ import annotations

import logging
import math
import os
import re
import select
import sys
import termios
import threading
import tty
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy.spatial.transform import Rotation

from tandem.cli.moving import Moved, Mover
from tandem.core.errors import InputError
from tandem.nodes.operator import GraphError, Operator
from tandem.robots.inverse import IkStatus, solve_chunk
from tandem.robots.kinematics import tcp_pose
from tandem.robots.model import ArmModel

Array = NDArray[np.float64]
log = logging.getLogger(__name__)

AXES = ("x", "y", "z", "rx", "ry", "rz")
FRAMES = ("base", "tool")
GRIPPER = "gripper"
UNITS = {"m": {"": 1.0, "m": 1.0, "cm": 1e-2, "mm": 1e-3}, "rad": {"": 1.0, "rad": 1.0, "deg": math.pi / 180.0}}
#: longest step of a joint or about an axis [rad], along an axis [m]
LONGEST = {"rad": 1.0, "m": 0.25}
#: distance between the poses of a straight tool path [m, rad]
SPACING = {"m": 0.005, "rad": 0.02}
KEYS = """keys: 1 .. 7 choose a joint, + and - turn it
      w s  x    a d  y    r f  z   (capitals turn about the axis)
      o c  open, close the gripper       [ ]  half, double the step
      t    base or tool frame            space  stop (then: tandem resume)
      q    quit"""
END = "\x04"
AXIS_KEYS = {"w": ("x", 1), "s": ("x", -1), "a": ("y", 1), "d": ("y", -1), "r": ("z", 1), "f": ("z", -1)}


@dataclass(frozen=True)
class Step:
    """One step. ``what``: "joint", "axis" or "gripper"; ``index``: of the joint or in :data:`AXES`; ``amount`` [rad] or [m]."""

    what: str
    index: int
    amount: float


def parse_amount(text: str, kind: str) -> float:
    """A length ("0.05", "50mm", "5cm") or an angle ("0.1", "5deg") in SI units; ``kind``: "m" or "rad".

    Raises:
        InputError: no number, an unknown unit, or more than :data:`LONGEST`.
    """
    found = re.fullmatch(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([a-z]*)", text.strip())
    units = UNITS[kind]
    if not found or found[2] not in units:
        raise InputError(f"amount {text!r}: accepted: a number, with one of the units {', '.join(u for u in units if u)}")
    value = float(found[1]) * units[found[2]]
    if not 0.0 < abs(value) <= LONGEST[kind]:
        raise InputError(f"amount {text!r}: accepted: up to {LONGEST[kind]} {kind} either way, and not 0")
    return value


def parse_step(what: str, amount: str, arm: ArmModel) -> Step:
    """The step that ``what`` ("4", "joint4", "fr3_joint4", "x", "rz", "gripper") and ``amount`` ask for.

    Raises:
        InputError: neither joint, axis nor gripper, or a bad amount.
    """
    if what == GRIPPER:
        return Step(GRIPPER, 0, parse_amount(amount, "m"))
    if what in AXES:
        return Step("axis", AXES.index(what), parse_amount(amount, "m" if len(what) == 1 else "rad"))
    found = re.fullmatch(r"(?:\w*joint)?(\d+)", what)
    if not found or not 1 <= int(found[1]) <= arm.n:
        raise InputError(f"{what!r}: accepted: a joint 1 .. {arm.n}, an axis {', '.join(AXES)}, or {GRIPPER}")
    return Step("joint", int(found[1]) - 1, parse_amount(amount, "rad"))


def tool_way(arm: ArmModel, start: Array, axis: int, amount: float, frame: str) -> Array:
    """Joint positions (P, n) [rad] along a straight line, or a turn, of the tool from where joints (n,) put it.

    Args:
        axis: in :data:`AXES`. amount: [m] or [rad]. frame: "base": axes of the base, "tool": of the tool itself.

    Raises:
        InputError: no inverse kinematics on the way; says how far it goes and why.
    """
    kind = "m" if axis < 3 else "rad"
    count = max(2, math.ceil(abs(amount) / SPACING[kind]))
    pose = tcp_pose(arm, start)
    poses = np.repeat(pose[None], count, axis=0)
    direction = np.eye(3)[axis % 3] if frame == "base" else pose[:3, axis % 3]
    for i, part in enumerate(amount * np.arange(1, count + 1) / count):
        if axis < 3:
            poses[i, :3, 3] = pose[:3, 3] + part * direction
        else:
            poses[i, :3, :3] = Rotation.from_rotvec(part * direction).as_matrix() @ pose[:3, :3]
    # slowly enough that no joint's speed limit is in the way: the way is geometry, its speed comes later
    solved = solve_chunk(arm, start, poses[None], dt=1.0, posture=start, posture_gain=0.0)
    bad = np.flatnonzero(solved.status[0] != IkStatus.OK)
    if bad.size:
        i = int(bad[0])
        far = abs(amount) * i / count
        why = IkStatus(int(solved.status[0, i])).name.lower().replace("_", " ")
        raise InputError(f"{AXES[axis]} {amount:+.3f} {kind}: out of reach beyond {far:.3f} {kind} ({why})")
    return np.vstack([start, solved.q[0]])


def take(mover: Mover, step: Step, frame: str) -> Moved:
    """Carry out one step from where the arm rests.

    Raises:
        InputError: beyond a limit, out of reach, or the arm must not stand there. GraphError: the graph is not in order.
    """
    if step.what == GRIPPER:
        return mover.grip(mover.operator.width() + step.amount)
    mover.settle()
    start = mover.rest()
    if step.what == "axis":
        way = tool_way(mover.arm, start, step.index, step.amount, frame)
    else:
        way = np.stack([start, start])
        way[1, step.index] += step.amount
    mover.must_be_within(way[-1])
    return mover.follow(way, "jog")


def told(mover: Mover, moved: Moved) -> str:
    """One line: where the arm is now, and what kept it."""
    q = mover.rest()
    x, y, z = tcp_pose(mover.arm, q)[:3, 3]
    joints = " ".join(f"{v:.4f}" for v in q)
    where = f"joints [{joints}] rad, tool [{x:.4f} {y:.4f} {z:.4f}] m, gripper {1e3 * mover.operator.width():.1f} mm"
    return f"{'there' if moved.reached else f'stopped short: {moved.text}'}; {where}"


# ---- keys -----------------------------------------------------------------------------------------------------------------


class Keys:
    """Single keys from the terminal; a context manager.

    Raises:
        InputError: standard input is no terminal.
    """

    def __enter__(self) -> Keys:
        if not sys.stdin.isatty():
            raise InputError("jog without arguments needs a terminal; give a step, as in: tandem jog 4 5deg")
        self._before = termios.tcgetattr(sys.stdin)
        tty.setcbreak(sys.stdin)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)

    def next(self, timeout: float = 0.2) -> str:
        """The next key, empty when there is none within ``timeout`` [s]; the end of the input is Ctrl-D."""
        ready, _, _ = select.select([sys.stdin], [], [], timeout)
        return os.read(sys.stdin.fileno(), 1).decode(errors="replace") or END if ready else ""


class Watch:
    """The keys while a step is carried out, a context manager: space calls ``stop`` at once, q and the end of the input are kept.

    All others are dropped: the arm does not run after a key that was held down.

    Attributes:
        said: what ``stop`` returned; empty: it was not called. quit: whether q was pressed, or nothing more can be.
    """

    def __init__(self, keys: Keys, stop: Callable[[], str]) -> None:
        self._keys, self._stop = keys, stop
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="keys", daemon=True)
        self.said, self.quit = "", False

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        over = False
        while not over:
            over = self._over.is_set()  # what was typed before that is still looked at
            while key := self._keys.next(0.0 if over else 0.02):
                if key == " ":
                    self.said = self._stop()
                elif key in ("q", END):
                    self.quit = True
                if key == END:
                    return


@dataclass
class Desk:
    """What the keys act on: joint, frame and step size."""

    joint: int = 0
    frame: str = "base"
    scale: float = 1.0

    def step(self, key: str, joints: int) -> Step | None:
        """The step that a key asks for; None where it changes the desk, or means nothing."""
        if key.isdigit() and 1 <= int(key) <= joints:
            self.joint = int(key) - 1
        elif key == "t":
            self.frame = FRAMES[1 - FRAMES.index(self.frame)]
        elif key in "[]" and key:
            self.scale = min(max(self.scale * (0.5 if key == "[" else 2.0), 0.125), 8.0)
        elif key in "+-" and key:
            return Step("joint", self.joint, (0.05 if key == "+" else -0.05) * self.scale)
        elif key in "oc" and key:
            return Step(GRIPPER, 0, (0.01 if key == "o" else -0.01) * self.scale)
        elif key.lower() in AXIS_KEYS and key:
            axis, sign = AXIS_KEYS[key.lower()]
            turning = key.isupper()
            return Step("axis", AXES.index(f"r{axis}" if turning else axis), sign * (0.05 if turning else 0.02) * self.scale)
        return None

    def told(self) -> str:
        """One line."""
        rad, metres = 0.05 * self.scale, 0.02 * self.scale
        return f"joint {self.joint + 1}, {self.frame} frame, step {rad:.3f} rad, {1e3 * metres:.1f} mm"


def keyboard(mover: Mover, operator: Operator, console: Console, interrupted: Callable[[], bool], frame: str) -> int:
    """Steps by keys until q or Ctrl-C; 0."""
    desk = Desk(frame=frame)

    def stop() -> str:
        granted, said = operator.call("franka/stop")
        return "stopped" if granted else said

    with Keys() as keys:
        console.print(KEYS, highlight=False, markup=False)
        console.print(desk.told(), highlight=False)
        while not interrupted():
            key = keys.next()
            if key in ("q", END):
                break
            if key == " ":
                console.print(stop(), markup=False, highlight=False)
                continue
            step = desk.step(key, mover.arm.n)
            if step is None:
                if key:
                    console.print(desk.told(), highlight=False)
                continue
            with Watch(keys, stop) as watch:
                try:
                    line = told(mover, take(mover, step, desk.frame))
                except (GraphError, InputError) as error:
                    line = str(error)
            for text in filter(None, (watch.said, line)):
                console.print(text, markup=False, highlight=False, soft_wrap=True)
            if watch.quit:
                break
    return 0
