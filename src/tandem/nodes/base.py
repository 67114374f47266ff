"""What all nodes share: lifecycle with autostart, parameters declared from a dataclass, diagnostics, QoS, a main function.

A node's settings are a frozen dataclass of :func:`tandem.core.config.setting` fields; each becomes a read-only ROS parameter with
description, unit and range.
"""

from __future__ import annotations

import dataclasses
import gc
import signal
import socket
import sys
import threading
import traceback
import typing
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.service import Service
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from rclpy.timer import Timer

from tandem.core import config
from tandem.core.config import setting
from tandem.core.errors import ConfigError, TandemError
from tandem.nodes import messages, transport
from tandem.nodes.diagnostics import rss_mb
from tandem.nodes.priority import give_way

OWN = {"use_sim_time", "start_type_description_service"}
"""Parameters that rclpy declares itself."""
FAR = 1e18
"""Stands for "no bound" in a parameter's range."""


def command_qos(lifespan: float = 1.0) -> QoSProfile:
    """Commands: reliable, the last one only, never latched, void after ``lifespan`` [s]."""
    return QoSProfile(
        reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE, history=HistoryPolicy.KEEP_LAST, depth=1,
        lifespan=Duration(nanoseconds=round(lifespan * 1e9)),
    )


SENSOR_QOS = QoSProfile(
    reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE, history=HistoryPolicy.KEEP_LAST, depth=1
)
RELIABLE_QOS = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE, history=HistoryPolicy.KEEP_LAST, depth=10
)
STATIC_QOS = QoSProfile(
    reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL, history=HistoryPolicy.KEEP_LAST, depth=1
)


@dataclasses.dataclass(frozen=True)
class NodeSettings:
    """Parameters that every node has."""

    autostart: bool = setting(True, "configure and activate at once, without a lifecycle manager")
    arm_prefix: str = setting("fr3_", "prefix of joint and frame names")
    diagnostics_rate: float = setting(2.0, "messages on /diagnostics", unit="Hz", lo=0.1, hi=50.0)
    niceness: int = setting(0, "how far the process stands back for others when CPUs are short", lo=0, hi=19)


S = typing.TypeVar("S", bound=NodeSettings)
M = typing.TypeVar("M")


def _descriptor(field: dataclasses.Field[Any], kind: Any) -> ParameterDescriptor:
    meta = field.metadata
    unit = f" [{meta['unit']}]" if meta.get("unit") else ""
    descriptor = ParameterDescriptor(description=meta["doc"] + unit, read_only=True)
    if meta.get("choices"):
        descriptor.additional_constraints = "one of " + ", ".join(map(str, meta["choices"]))
    lo, hi = meta.get("lo"), meta.get("hi")
    if lo is None and hi is None:
        return descriptor
    if kind is float:
        descriptor.floating_point_range = [FloatingPointRange(
            from_value=float(-FAR if lo is None else lo), to_value=float(FAR if hi is None else hi), step=0.0
        )]
    elif kind is int:
        descriptor.integer_range = [IntegerRange(
            from_value=int(-FAR if lo is None else lo), to_value=int(FAR if hi is None else hi), step=1
        )]
    else:
        descriptor.additional_constraints = f"each {lo} .. {hi}"
    return descriptor


def declare(node: LifecycleNode, settings: type[S]) -> S:
    """Declare every field of ``settings`` as a parameter and read them.

    Raises:
        ConfigError: an unknown parameter was given, or a value has the wrong type or is out of its range; names node, key, value
            and accepted range.
    """
    known = {f.name for f in dataclasses.fields(settings)}
    unknown = [n for n in node._parameter_overrides if n not in known | OWN and not n.startswith("qos_overrides.")]
    if unknown:
        raise ConfigError(f"{node.get_name()}: unknown parameter(s) {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    hints = typing.get_type_hints(settings)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        kind = hints[field.name]
        default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        meta = field.metadata
        accepted = getattr(kind, "__name__", str(kind))
        if meta.get("lo") is not None or meta.get("hi") is not None:
            accepted = f"{accepted} {meta['lo']} .. {meta['hi']} {meta['unit']}"
        try:
            value = node.declare_parameter(field.name, default, _descriptor(field, kind)).value
            values[field.name] = list(value) if isinstance(default, list) else value
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise ConfigError(f"{node.get_name()}: parameter {field.name}: {error}; accepted: {accepted}") from error
    return config.from_dict(settings, values, node.get_name())


class TandemNode(LifecycleNode):
    """A lifecycle node that owns a library object while it is configured.

    Subclasses set ``settings_type`` and implement :meth:`setup` (objects, publishers, subscriptions, timers), :meth:`release`
    (give back what outlives the ROS entities) and :meth:`diagnose`. Callbacks run only while the node is active.
    """

    settings_type: ClassVar[type[NodeSettings]] = NodeSettings

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.settings: Any = declare(self, self.settings_type)
        self.names = messages.Names(self.settings.arm_prefix)
        self.active = False
        self.failure = ""
        self._made_timers: list[Timer] = []
        self._made_listeners: list[Subscription] = []
        self._made_publishers: list[Publisher] = []
        self._made_services: list[Service] = []
        self._diagnostics_publisher = self.create_publisher(DiagnosticArray, "/diagnostics", RELIABLE_QOS)
        self._diagnostics_timer = self.create_timer(1.0 / self.settings.diagnostics_rate, self._publish_diagnostics)

    # ------------------------------------------------------------------------------------------------- for subclasses
    def setup(self) -> None:
        """Make everything the node needs. Raises TandemError when that is impossible."""
        raise NotImplementedError

    def release(self) -> None:
        """Give everything back; must not raise when called twice or after a failed :meth:`setup`."""

    def diagnose(self, now: float) -> list[DiagnosticStatus]:
        """Status of the node's parts."""
        raise NotImplementedError

    def now(self) -> float:
        """ROS time [s]."""
        return self.get_clock().now().nanoseconds * 1e-9

    def timer(self, period: float, callback: Callable[[], None]) -> None:
        """A timer that runs while the node is active."""
        def guarded() -> None:
            if self.active:
                callback()
        self._made_timers.append(self.create_timer(period, guarded))

    def listen(
        self, kind: type[M], topic: str, callback: Callable[[M], None], qos: QoSProfile,
        matched: Callable[[Any], None] | None = None,
    ) -> Subscription:
        """A subscription to a relative topic whose callback runs while the node is active; ``matched`` hears of publishers."""
        def guarded(msg: M) -> None:
            if self.active:
                callback(msg)
        events = SubscriptionEventCallbacks(matched=matched)
        subscription = self.create_subscription(kind, topic, guarded, qos, event_callbacks=events)
        self._made_listeners.append(subscription)
        return subscription

    def speak(self, kind: type, topic: str, qos: QoSProfile) -> Publisher:
        """A publisher on a relative topic that is silent until the node is active."""
        publisher = self.create_lifecycle_publisher(kind, topic, qos)
        self._made_publishers.append(publisher)
        return publisher

    def serve(self, kind: type, name: str, callback: Callable[[Any, Any], Any]) -> None:
        """A service on a relative name."""
        self._made_services.append(self.create_service(kind, name, callback))

    def report(self, part: str, level: bytes, message: str, values: Mapping[str, object]) -> DiagnosticStatus:
        """A status named ``<node>: <part>``."""
        return messages.status(f"{self.get_name()}: {part}", level, message, values, self.get_namespace())

    # ------------------------------------------------------------------------------------------------------ lifecycle
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Build what the node needs; a bad configuration leaves it unconfigured, with the reason in the log."""
        try:
            self.setup()
        except Exception as error:  # rclpy would swallow it
            self.failure = str(error) if isinstance(error, TandemError) else traceback.format_exc()
            self.get_logger().error(self.failure)
            self._drop()
            return TransitionCallbackReturn.FAILURE
        self.failure = ""
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start acting."""
        self.active = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop acting, keep what was built."""
        self.active = False
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give back what was built."""
        self._drop()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give back what was built."""
        self._drop()
        return super().on_shutdown(state)

    def _drop(self) -> None:
        self.active = False
        for timer in self._made_timers:
            self.destroy_timer(timer)
        for listener in self._made_listeners:
            self.destroy_subscription(listener)
        for speaker in self._made_publishers:
            self.destroy_publisher(speaker)
        for service in self._made_services:
            self.destroy_service(service)
        for made in (self._made_timers, self._made_listeners, self._made_publishers, self._made_services):
            made.clear()
        self.release()

    def close(self) -> None:
        """Release everything at the end of the process."""
        self._drop()
        self.destroy_node()

    def _publish_diagnostics(self) -> None:
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        array.status = self.diagnose(self.now()) if self.active else []
        state = "active" if self.active else self.failure or "not active"
        level = DiagnosticStatus.OK if self.active else DiagnosticStatus.ERROR if self.failure else DiagnosticStatus.STALE
        array.status.append(self.report("process", level, state, {"rss_mb": f"{rss_mb():.0f}"}))
        self._diagnostics_publisher.publish(array)


#: where KeyboardInterrupt was swallowed, as in a ``__del__``, a node ends after so long [s]
_LOOK = 1.0


def _end_on_signals(executor: SingleThreadedExecutor) -> Callable[[], bool]:
    """SIGINT and SIGTERM raise KeyboardInterrupt in the main thread, once: what closes a node must not be broken off.

    Until it has closed the context lives, so that what brings an arm to rest can still be published. Python acts on a signal
    only between its own instructions: a thread wakes ``executor``, which waits in the middleware.

    Returns: says whether that has happened.
    """
    asked = False

    def end(*_: object) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise KeyboardInterrupt

    woken, wakes = socket.socketpair()
    wakes.setblocking(False)

    def wake() -> None:
        woken.recv(1)
        executor.wake()
        while woken.recv(64):  # the others are as good as not sent; the descriptor stays open as long as the process lives
            pass

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    signal.set_wakeup_fd(wakes.detach(), warn_on_full_buffer=False)
    threading.Thread(target=wake, name="signals", daemon=True).start()
    return lambda: asked


def run(make: Callable[[], TandemNode]) -> int:
    """Main function of every node: 0 when asked to end, 2 on a configuration that cannot work."""
    transport.prepare()
    rclpy.init(args=sys.argv, signal_handler_options=SignalHandlerOptions.NO)  # its own would end the context at once
    node: TandemNode | None = None
    executor = SingleThreadedExecutor()
    try:
        asked = _end_on_signals(executor)
        node = make()
        if node.settings.niceness:
            give_way(node.settings.niceness)
        if node.settings.autostart:
            node.trigger_configure()
            if node.failure:
                return 2
            node.trigger_activate()
        gc.collect()  # what was loaded stays: a full collection of it would take a tenth of a second in the middle of a plan
        gc.freeze()
        executor.add_node(node)
        while rclpy.ok() and not asked():
            executor.spin_once(timeout_sec=_LOOK)
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except ConfigError as error:
        rclpy.logging.get_logger("tandem").fatal(str(error))
        return 2
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # what brings an arm to rest is not broken off, whatever began it
            signal.signal(number, signal.SIG_IGN)
        if node is not None:
            node.close()
        rclpy.try_shutdown()
    return 0
