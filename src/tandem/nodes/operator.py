"""An operator's place at a running graph: what the tools ``home``, ``jog``, ``record``, ``stop`` and ``resume`` stand on.

An operator has no way to the arm of his own. He hears what the executor is committed to and which obstacles are known, and
proposes motions as a planner does: the safety filter certifies them, the bridge plays what is certified, and nothing else moves.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from tandem.core.errors import TandemError
from tandem.core.scene import TABLE, Scene
from tandem.core.types import Commitment, Proposal
from tandem.nodes import markers, messages, transport
from tandem.nodes.base import RELIABLE_QOS, SENSOR_QOS, command_qos

#: how old the executor's word may be [s]
FRESH = 0.5
#: how long is looked for planners that discovery has not shown yet, and what a planner may still have under way [s]
DISCOVERY, UNDER_WAY = 1.5, 1.0
#: how long a publisher may stay without its node's name [s], and the name that rmw gives it until then
NAMELESS, UNKNOWN_NODE = 6.0, "_NODE_NAME_UNKNOWN_"
#: ends of motions closer than this are one [s]: times near 2e9 s have a resolution of 2.4e-7 s
SAME = 1e-4
#: what an operator must know of the filter, so that he proposes what it can certify
FILTER_PARAMETERS = (
    "robot", "bounds", "arm_prefix", "obstacles_required", "obstacle_max_age", "obstacle_position_error", "obstacle_speed",
)
LATCHED = ("STOPPING", "STOPPED", "FAULT")
T = TypeVar("T")


def place(namespace: str = "", domain: int | None = None) -> str:
    """ROS domain and namespace in words."""
    number = os.environ.get("ROS_DOMAIN_ID", "0") if domain is None else str(domain)
    return f"ROS_DOMAIN_ID = {number}, namespace /{namespace.strip('/')}"


class GraphError(TandemError):
    """The graph is not there, or not in a state in which an operator can act: says what is missing and what to do."""


@dataclass(frozen=True)
class Answer:
    """What became of a proposal; ``text``: why it was not taken."""

    taken: bool
    text: str = ""


class Operator:
    """A node that acts for an operator; a context manager. Times are ROS time [s].

    Args:
        namespace: of the graph. name: of this node. domain: ROS domain id, None: the environment's.
    """

    def __init__(self, namespace: str = "", name: str = "operator", domain: int | None = None) -> None:
        self._namespace, self._name, self._domain = namespace, name, domain
        self._changed = threading.Condition()
        self._context = rclpy.Context()
        self._names = messages.Names()
        self._commitment: Commitment | None = None
        self._commitment_heard = self._guard_heard = float("-inf")
        self._status: DiagnosticStatus | None = None
        self._scene: markers.SceneKeeper | None = None
        self._verdicts: dict[str, DiagnosticStatus] = {}
        self._own: set[str] = set()  #: digests of what was proposed here
        self._foreign: tuple[float, str] = (float("-inf"), "")  #: when a verdict on another's proposal came, and its name
        self._claimed = float("inf")

    def __enter__(self) -> Operator:
        transport.prepare()
        rclpy.init(args=[], context=self._context, domain_id=self._domain)
        self._node = Node(self._name, namespace=self._namespace, context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="operator", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._executor.shutdown()
        self._thread.join(timeout=5.0)
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def now(self) -> float:
        """ROS time [s]."""
        return float(self._node.get_clock().now().nanoseconds * 1e-9)

    # ---- services ---------------------------------------------------------------------------------------------------------
    def _ask(self, kind: Any, service: str, request: Any, timeout: float) -> Any:
        """The service's answer, None when it is not there or silent for ``timeout`` [s]."""
        client = self._node.create_client(kind, service)
        done = threading.Event()
        try:
            limit = time.monotonic() + timeout
            while not client.service_is_ready():
                if time.monotonic() > limit:
                    return None
                time.sleep(0.02)
            future = client.call_async(request)
            future.add_done_callback(lambda _: done.set())
            return future.result() if done.wait(max(limit - time.monotonic(), 0.1)) else None
        finally:
            self._node.destroy_client(client)

    def call(self, service: str, timeout: float = 8.0) -> tuple[bool, str]:
        """Call a Trigger service of the bridge (``franka/resume``, ``franka/stop``); whether it was granted, what was said."""
        answer: Trigger.Response | None = self._ask(Trigger, service, Trigger.Request(), timeout)
        if answer is None:
            return False, f"the bridge's service {self._node.resolve_service_name(service)} does not answer ({self.where()})"
        return bool(answer.success), str(answer.message)

    def where(self) -> str:
        """The domain and namespace that is looked into, for messages."""
        return place(self._namespace, self._domain)

    # ---- taking one's place -------------------------------------------------------------------------------------------------
    def attach(self, timeout: float = 8.0) -> dict[str, Any]:
        """Connect to bridge and filter; the filter's parameters (:data:`FILTER_PARAMETERS`).

        Raises:
            GraphError: one of them is not there within ``timeout`` [s].
        """
        node = self._node
        answer = self._ask(GetParameters, "safety_filter/get_parameters", GetParameters.Request(names=FILTER_PARAMETERS), timeout)
        if answer is None:
            raise GraphError(
                f"no safety filter in {self.where()}: nothing could be certified. Start the graph, for example: "
                "tandem launch bringup backend:=mujoco planner:=false"
            )
        values = {n: parameter_value_to_python(v) for n, v in zip(FILTER_PARAMETERS, answer.values, strict=True)}
        self._names = messages.Names(values["arm_prefix"])
        self._scene = markers.SceneKeeper(
            self._names.base, values["obstacle_max_age"], values["obstacles_required"], values["obstacle_position_error"],
            values["obstacle_speed"], fixed=(TABLE,),
        )
        self._proposals = node.create_publisher(JointTrajectory, "planner/proposal", command_qos())
        self._infos = node.create_publisher(DiagnosticStatus, "planner/proposal_info", command_qos())
        node.create_subscription(JointTrajectory, "franka/commitment", self._on_commitment, SENSOR_QOS)
        node.create_subscription(DiagnosticStatus, "franka/status", self._on_status, SENSOR_QOS)
        node.create_subscription(DiagnosticStatus, "safety_filter/verdict", self._on_verdict, command_qos())
        node.create_subscription(DiagnosticStatus, "safety_filter/guard", self._on_guard, SENSOR_QOS)
        events = SubscriptionEventCallbacks(matched=self._scene.matched)
        node.create_subscription(MarkerArray, "obstacles", self._on_obstacles, RELIABLE_QOS, event_callbacks=events)
        for what, there in (
            ("the bridge says nothing on franka/commitment", lambda: self._commitment is not None and self._status is not None),
            ("the safety filter says nothing on safety_filter/guard", lambda: self._guard_heard > float("-inf")),
            ("the safety filter does not listen to proposals", lambda: bool(self._proposals.get_subscription_count())
             and bool(self._infos.get_subscription_count())),
            ("nobody tells of obstacles on the topic obstacles (none at all must be said, too: scene:=empty.yaml)",
             lambda: self._usable_scene()[0] is not None),
        ):  # fmt: skip
            if not self._wait(there, timeout):
                raise GraphError(f"{what} ({self.where()}); see tandem doctor and the nodes' logs")
        return values

    def _wait(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Whether ``condition`` comes true within ``timeout`` [s]; it is looked at with every message, and now and then."""
        limit = time.monotonic() + timeout
        with self._changed:
            while not condition():
                if time.monotonic() > limit:
                    return False
                self._changed.wait(0.02)
        return True

    def claim(self) -> None:
        """From now on nobody else is expected to propose motions; see :meth:`must_be_alone`."""
        self._claimed = self.now() + UNDER_WAY

    def must_be_alone(self) -> None:
        """Raise GraphError if somebody else has proposed motions since :meth:`claim`: the arm would not go where it is led."""
        with self._changed:
            heard, name = self._foreign
        if heard > self._claimed:
            raise GraphError(f"somebody else proposes motions ({name or 'unnamed'}); end that node, or give --take-over")

    def find_planners(self) -> list[str]:
        """Full names of the nodes that propose motions at present, given the time that discovery may take.

        A publisher may be known before its node's name is, and for a moment after its node has ended; it is asked again
        until it has a name or is gone; and longer where the filter's verdicts tell that somebody does propose.

        Raises:
            GraphError: one stays nameless for :data:`NAMELESS`; it can be neither asked nor deactivated.
        """
        begun, since = time.monotonic(), self.now()
        while True:
            active, nameless = self.planners()
            waited = time.monotonic() - begun
            with self._changed:
                somebody = self._foreign[0] >= since
            if not nameless and (active or waited > (NAMELESS if somebody else DISCOVERY)):
                return active
            if nameless and waited > NAMELESS:
                topic = self._node.resolve_topic_name("planner/proposal")
                raise GraphError(f"something that is no ROS node publishes on {topic}: end it, then try again")
            time.sleep(0.1)

    def planners(self) -> tuple[list[str], int]:
        """Full names of the nodes known to propose motions now: active planners, and whatever has no lifecycle.

        Returns:
            The names; the number of publishers of proposals whose node is not known (yet).
        """
        own = self._node.get_fully_qualified_name()
        found, nameless = set(), 0
        for info in self._node.get_publishers_info_by_topic(self._node.resolve_topic_name("planner/proposal")):
            if info.node_name == UNKNOWN_NODE:
                nameless += 1
                continue
            name = f"{info.node_namespace.rstrip('/')}/{info.node_name}"
            if name == own:
                continue
            state = self._ask(GetState, f"{name}/get_state", GetState.Request(), 2.0)
            if state is None or state.current_state.id == State.PRIMARY_STATE_ACTIVE:
                found.add(name)
        return sorted(found), nameless

    def deactivate(self, planner: str) -> None:
        """Deactivate a planner's node; it stays so.

        Raises:
            GraphError: it has no lifecycle, or refuses.
        """
        request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_DEACTIVATE))
        answer = self._ask(ChangeState, f"{planner}/change_state", request, 8.0)
        if answer is None or not answer.success:
            raise GraphError(f"{planner} cannot be deactivated: end it, then try again")

    # ---- what is heard ------------------------------------------------------------------------------------------------------
    def _heard(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _on_commitment(self, msg: JointTrajectory) -> None:
        self._commitment, self._commitment_heard = messages.commitment_from_msg(msg, self._names), self.now()
        self._heard()

    def _on_status(self, msg: DiagnosticStatus) -> None:
        self._status = msg
        self._heard()

    def _on_guard(self, msg: DiagnosticStatus) -> None:
        self._guard_heard = self.now()
        self._heard()

    def _on_verdict(self, msg: DiagnosticStatus) -> None:
        with self._changed:
            if msg.hardware_id not in self._own:
                self._foreign = (self.now(), str(messages.values_of(msg).get("name", "")))
            self._verdicts[msg.hardware_id] = msg
            while len(self._verdicts) > 32:
                del self._verdicts[next(iter(self._verdicts))]
        self._heard()

    def _on_obstacles(self, msg: MarkerArray) -> None:
        with self._changed:
            if self._scene is not None:
                self._scene.apply(msg, self.now())
        self._heard()

    def _usable_scene(self) -> tuple[Scene | None, str]:
        if self._scene is None:
            return None, "not attached"
        return self._scene.scene(self.now())

    def commitment(self) -> Commitment:
        """What the executor will do.

        Raises:
            GraphError: it is silent, or has stopped and waits for an operator to resume.
        """
        with self._changed:
            commitment, age, status = self._commitment, self.now() - self._commitment_heard, self._status
        if commitment is None or status is None or not 0.0 <= age <= FRESH:
            raise GraphError(f"the bridge has been silent for {age:.1f} s")
        if messages.values_of(status).get("mode", "") in LATCHED:
            raise GraphError(f"the arm has stopped: {status.message}; remove the cause, then: tandem resume")
        return commitment

    def width(self) -> float:
        """Measured width of the gripper [m]."""
        with self._changed:
            status = self._status
        return float(messages.values_of(status).get("gripper_width", "nan")) if status is not None else float("nan")

    def scene(self) -> Scene:
        """The obstacles as the filter knows them.

        Raises:
            GraphError: unknown, not understood or too old.
        """
        with self._changed:
            scene, why = self._usable_scene()
        if scene is None:
            raise GraphError(why)
        return scene

    # ---- acting -------------------------------------------------------------------------------------------------------------
    def propose(self, proposal: Proposal) -> Answer:
        """Propose a motion (times on the nanosecond grid: :func:`messages.quantise`), wait until it is committed or refused.

        Raises:
            GraphError: neither filter nor bridge says anything of it.
        """
        digest, end = proposal.trajectory.digest(), proposal.switch_time + proposal.trajectory.duration
        with self._changed:
            self._own.add(digest)
            self._verdicts.pop(digest, None)  # from rest the same motion is the same trajectory: an answer to an earlier proposal
        self._infos.publish(messages.info_to_status(proposal, 0.0))
        self._proposals.publish(messages.proposal_to_msg(proposal, self._names))
        patience = max(proposal.switch_time - self.now(), 0.0) + 1.0
        if not self._wait(lambda: digest in self._verdicts, patience):
            raise GraphError(f"no verdict from the safety filter within {patience:.1f} s")
        verdict = self._verdicts[digest]
        values = messages.values_of(verdict)
        if verdict.level != DiagnosticStatus.OK:
            parts = (values.get("link", ""), values.get("obstacle", ""), values.get("detail", ""))
            return Answer(False, " ".join([verdict.message, *(f"({p})" for p in parts if p)]))

        def committed() -> bool:
            return self._commitment is not None and abs(self._commitment.end - end) < SAME

        if self._wait(committed, max(proposal.switch_time - self.now(), 0.0) + 0.3):
            return Answer(True)
        told = messages.values_of(self._status).get("last_rejection", "") if self._status is not None else ""
        return Answer(False, f"certified, but not taken by the bridge ({told or 'no reason known'})")


def call(service: str, namespace: str = "", timeout: float = 8.0) -> tuple[bool, str]:
    """Call a Trigger service of the bridge: whether it was granted, what was said. May be called beside a running recorder."""
    with Operator(namespace) as operator:
        return operator.call(service, timeout)


def resume(namespace: str = "", timeout: float = 8.0) -> tuple[bool, str]:
    """Call the bridge's ``franka/resume``."""
    return call("franka/resume", namespace, timeout)
