"""How a node ends: what closes it, and so what brings an arm to rest, is never broken off by a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from integration.graph import DIES_WITH_US, ENVIRONMENT, ROOT

pytestmark = pytest.mark.ros

NODE = """
    import sys, time
    from tandem.nodes.base import TandemNode, run

    class Probe(TandemNode):
        def __init__(self):
            super().__init__("probe")

        def setup(self):
            if {fails}:
                self.timer(0.1, self.fail)
            if {swallows}:
                self.timer(0.1, self.drop)
            else:
                print("ready", flush=True)

        def fail(self):
            raise RuntimeError("a callback's")

        def drop(self):
            class Slow:
                def __del__(self):
                    print("ready", flush=True)
                    time.sleep(2.5)  # an exception here is ignored

            Slow()

        def release(self):
            print("begins", flush=True)
            time.sleep(1.0)
            print("done", flush=True)

        def diagnose(self, now):
            return []

    sys.exit(run(Probe))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
@pytest.mark.parametrize("why", ["asked to end", "a callback fails", "asked while nothing is heard"])
def test_a_signal_does_not_break_off_the_closing(why: str, number: signal.Signals) -> None:
    fails, swallows = why == "a callback fails", why == "asked while nothing is heard"
    environment = {**os.environ, **ENVIRONMENT, "ROS_DOMAIN_ID": "97", "PYTHONPATH": str(ROOT / "src")}
    seldom = ["--ros-args", "-p", "diagnostics_rate:=0.1"]  # nothing but the signal wakes it
    command = [*DIES_WITH_US, sys.executable, "-c", textwrap.dedent(NODE.format(fails=fails, swallows=swallows)), *seldom]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as node:
        assert node.stdout is not None
        assert node.stdout.readline() == "ready\n"
        if not fails:
            time.sleep(1.0)  # until it waits
            node.send_signal(number)
        asked = time.monotonic()
        assert node.stdout.readline() == "begins\n"
        assert time.monotonic() - asked < 6.0, "not when its next timer is due, 10 s later"
        node.send_signal(number)
        assert node.stdout.read() == "done\n"
        assert node.wait(30.0) == int(fails)
