"""Does ROS 2 work here: a message goes out on one topic and comes back on another, between two nodes, over the DDS in use.

``python -m tandem.nodes.roundtrip`` writes one line of JSON: middleware, messages sent and returned, milliseconds there and back.
Exit codes: 0 all came back, 1 some or all were lost.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.utilities import get_rmw_implementation_identifier
from std_msgs.msg import String


def measure(count: int = 50, timeout: float = 10.0) -> dict[str, float | int | str]:
    """Send ``count`` messages, one after the other, and wait at most ``timeout`` [s] in all."""
    rclpy.init()
    far, near = Node("tandem_roundtrip_far"), Node("tandem_roundtrip_near")
    executor = SingleThreadedExecutor()
    returned: dict[str, float] = {}
    try:
        back = far.create_publisher(String, "tandem_roundtrip/back", 10)
        far.create_subscription(String, "tandem_roundtrip/out", back.publish, 10)
        out = near.create_publisher(String, "tandem_roundtrip/out", 10)

        def arrived(message: String) -> None:
            returned.setdefault(message.data, time.perf_counter())

        near.create_subscription(String, "tandem_roundtrip/back", arrived, 10)
        executor.add_node(far)
        executor.add_node(near)
        end = time.perf_counter() + timeout
        while time.perf_counter() < end and not (out.get_subscription_count() and back.get_subscription_count()):
            executor.spin_once(timeout_sec=0.05)
        durations, sent = [], 0
        while sent < count and time.perf_counter() < end:
            key, start = str(sent), time.perf_counter()
            out.publish(String(data=key))
            sent += 1
            while key not in returned and time.perf_counter() < min(end, start + 1.0):
                executor.spin_once(timeout_sec=0.05)
            if key in returned:
                durations.append((returned[key] - start) * 1e3)
        return {
            "middleware": get_rmw_implementation_identifier(), "sent": sent, "returned": len(durations),
            "p50_ms": statistics.median(durations) if durations else -1.0, "max_ms": max(durations, default=-1.0),
        }
    finally:
        executor.shutdown()
        far.destroy_node()
        near.destroy_node()
        rclpy.shutdown()


def main() -> int:
    """Entry point; see the module's text."""
    result = measure()
    sys.stdout.write(json.dumps(result) + "\n")
    return 0 if result["sent"] and result["sent"] == result["returned"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
