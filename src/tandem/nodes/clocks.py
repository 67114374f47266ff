"""How far the clocks of a running graph's nodes are from this machine's, by the stamps of their diagnostics.

``python -m tandem.nodes.clocks`` writes one line of JSON: node -> the least age [s] of its messages on arrival, which is the time
they take plus the difference of the clocks; {} where no graph is running. A negative age is a clock that is ahead.
"""

from __future__ import annotations

import json
import sys
import time

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from tandem.nodes import messages, transport
from tandem.nodes.base import RELIABLE_QOS


def measure(seconds: float = 3.0) -> dict[str, float]:
    """Listen for ``seconds``; least age of each node's messages [s]."""
    transport.prepare()
    rclpy.init()
    node = Node("tandem_clocks")
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    ages: dict[str, float] = {}

    def heard(message: DiagnosticArray) -> None:
        if not message.status:
            return
        age = node.get_clock().now().nanoseconds * 1e-9 - messages.seconds_from_stamp(message.header.stamp)
        name = message.status[-1].name.split(":")[0]
        ages[name] = min(ages.get(name, age), age)

    node.create_subscription(DiagnosticArray, "/diagnostics", heard, RELIABLE_QOS)
    try:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0.0:
            executor.spin_once(timeout_sec=left)
        return ages
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown()


def main() -> int:
    """Entry point; see the module's text."""
    sys.stdout.write(json.dumps(measure()) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
