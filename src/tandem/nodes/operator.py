"""What an operator does by hand: resume the arm after a stop."""

from __future__ import annotations

import time

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import Trigger


def resume(namespace: str = "", timeout: float = 8.0) -> tuple[bool, str]:
    """Call the bridge's ``franka/resume``; whether it was granted, and what was said.

    A node of its own for the moment: it may be called beside a running recorder.
    """
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    node = Node("operator", namespace=namespace, context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        client = node.create_client(Trigger, "franka/resume")
        limit = time.monotonic() + timeout
        while not client.service_is_ready():
            if time.monotonic() > limit:
                return False, "the bridge's service franka/resume is not there"
            time.sleep(0.02)
        future = client.call_async(Trigger.Request())
        executor.spin_until_future_complete(future, timeout_sec=max(limit - time.monotonic(), 0.1))
        answer: Trigger.Response | None = future.result() if future.done() else None
        return (False, f"no answer within {timeout:.0f} s") if answer is None else (bool(answer.success), str(answer.message))
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
