"""The tools of an operator: ``tandem home``, ``jog``, ``stop``, ``resume``. All motion goes the certified way."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

from tandem.cli import jog as jogging
from tandem.cli.moving import Mover, attached
from tandem.core.errors import InputError
from tandem.nodes.operator import GraphError, Operator, call


class Interrupted:
    """Whether the operator has asked to end; a second time ends the program at once."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        return self._asked

    def ask(self, number: int, frame: FrameType | None) -> None:
        """A signal's handler."""
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True


@contextmanager
def interruptible() -> Iterator[Interrupted]:
    """Ctrl-C and SIGTERM end the motion, not the program: nothing more is proposed, and the arm comes to rest."""
    interrupted = Interrupted()
    before = {number: signal.signal(number, interrupted.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def home(console: Console, *, speed: float, namespace: str, take_over: bool) -> int:
    """Bring the arm to its home posture; 0 there, 1 not.

    Raises:
        GraphError: no graph, or it is not in order. InputError: the arm must not stand at home now.
    """
    with interruptible() as interrupted, Operator(namespace) as operator:
        mover = Mover(operator, attached(operator, take_over), speed, interrupted)
        moved = mover.go(mover.arm.home, "home")
        console.print(jogging.told(mover, moved), markup=False, highlight=False, soft_wrap=True)
    return 0 if moved.reached else 1


def jog(
    console: Console, what: str | None, amount: str | None, *, frame: str, speed: float, namespace: str, take_over: bool
) -> int:
    """One step, or steps by keys where none is given; 0 done, 1 stopped short.

    Raises:
        GraphError: as for :func:`home`. InputError: unknown joint or axis, bad amount, beyond a limit.
    """
    if frame not in jogging.FRAMES:
        raise InputError(f"frame {frame!r}: accepted: {', '.join(jogging.FRAMES)}")
    if what is not None and amount is None:
        raise InputError(f"how far is {what} to move? As in: tandem jog {what} {'5deg' if what[-1:].isdigit() else '20mm'}")
    with interruptible() as interrupted, Operator(namespace) as operator:
        mover = Mover(operator, attached(operator, take_over), speed, interrupted)
        if what is None or amount is None:
            return jogging.keyboard(mover, operator, console, interrupted, frame)
        moved = jogging.take(mover, jogging.parse_step(what, amount, mover.arm), frame)
        console.print(jogging.told(mover, moved), markup=False, highlight=False, soft_wrap=True)
    return 0 if moved.reached else 1


def trigger(console: Console, service: str, namespace: str) -> int:
    """Call ``franka/stop`` or ``franka/resume``; 0 granted, 1 refused.

    Raises:
        GraphError: no bridge answers.
    """
    granted, said = call(service, namespace)
    if not granted and "does not answer" in said:
        raise GraphError(said)
    console.print("done" if granted else said, markup=False, highlight=False, soft_wrap=True)
    return 0 if granted else 1
