"""Starts the real nodes as processes in a ROS domain of their own, records what they say, and judges what the arm did.

Waiting is by polling a condition; when it does not come true in time, what every node said and its log go into the message.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from tandem.core.certificate import bound_to, verify
from tandem.core.scene import Obstacle, Scene
from tandem.core.trajectory import Trajectory
from tandem.core.types import Array, Commitment, ObjectPose, Proposal, motion_digest
from tandem.execution.types import to_ns
from tandem.nodes import markers, messages
from tandem.nodes.base import RELIABLE_QOS, SENSOR_QOS, command_qos
from tandem.robots.model import load_arm
from tandem.safety.bounds import load_bounds

ROOT = Path(__file__).resolve().parents[2]
NAMES = messages.Names()
ENVIRONMENT = {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"}
"""UDP on the loopback device only: no other machine hears the tests, and a killed process leaves nothing in /dev/shm."""
DIES_WITH_US = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
"""util-linux: even a test run that is killed leaves no nodes behind."""
START = 90.0
"""How long a node may take to start [s]: a second, or many on a machine that is busy with other things."""
_numbers = itertools.count()


def free_domain() -> int:
    """A domain id in which nobody listens on this machine."""
    for _ in range(200):
        domain = 3 + (os.getpid() * 31 + next(_numbers) * 7) % 95  # ports below Linux' ephemeral range
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("127.0.0.1", 7410 + 250 * domain))
                return domain
            except OSError:
                continue
    raise RuntimeError("no free ROS domain")


class Ear(Node):
    """Hears everything, and speaks for perception and obstacle sensing until told to be silent."""

    def __init__(self, context: Context, key: bytes) -> None:
        super().__init__("ear", context=context)
        arm, bounds = load_arm("fr3"), map(load_bounds, ("default", "simulated_arm"))
        self.keys = [bound_to(key, arm.digest, b.digest(), self.get_namespace()) for b in bounds]
        self.lock = threading.Lock()
        self.commanded: list[tuple[float, np.ndarray]] = []
        self.measured: list[tuple[float, np.ndarray]] = []
        self.verdicts: list[DiagnosticStatus] = []
        self.certified: list[tuple[Trajectory, Array, float]] = []
        self.signed: dict[str, list[tuple[str, str]]] = {}  #: by digest: one trajectory may be certified for several times
        self.commitment: Commitment | None = None
        self.commitments = 0
        self.status: dict[str, str] = {}
        self.diagnostics: dict[str, tuple[float, DiagnosticStatus]] = {}
        self.said: list[tuple[float, str, str]] = []
        self.obstacles: Scene | None = Scene()
        self.pose: np.ndarray | None = np.eye(4)
        self.create_subscription(JointState, "franka/commanded_joint_states", self._on_commanded, SENSOR_QOS)
        self.create_subscription(JointState, "franka/joint_states", self._on_measured, SENSOR_QOS)
        self.create_subscription(JointTrajectory, "franka/commitment", self._on_commitment, RELIABLE_QOS)
        self.create_subscription(DiagnosticStatus, "franka/status", self._on_status, RELIABLE_QOS)
        self.create_subscription(JointTrajectory, "safety_filter/certified", self._on_certified, RELIABLE_QOS)
        self.create_subscription(DiagnosticStatus, "safety_filter/verdict", self._on_verdict, RELIABLE_QOS)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, RELIABLE_QOS)
        self.poses_heard: list[ObjectPose] = []
        self.create_subscription(PoseWithCovarianceStamped, "perception/object_pose", self._on_pose, SENSOR_QOS)
        self._poses = self.create_publisher(PoseWithCovarianceStamped, "perception/object_pose", SENSOR_QOS)
        self._scenes = self.create_publisher(MarkerArray, "obstacles", RELIABLE_QOS)
        self.create_timer(0.05, self._speak)

    def _speak(self) -> None:
        now = time.time()
        if self.pose is not None:
            self._poses.publish(messages.object_pose_to_msg(ObjectPose(self.pose, 1e-6 * np.eye(6), now), NAMES.base))
        if self.obstacles is not None:
            scene = Scene(tuple(dataclasses.replace(o, stamp=now) for o in self.obstacles.obstacles))
            self._scenes.publish(markers.scene_to_msg(scene, NAMES.base, now))

    def _on_pose(self, msg: PoseWithCovarianceStamped) -> None:
        with self.lock:
            self.poses_heard.append(messages.object_pose_from_msg(msg, NAMES.base))

    def _on_commanded(self, msg: JointState) -> None:
        with self.lock:
            self.commanded.append((messages.seconds_from_stamp(msg.header.stamp), np.array(msg.position[:7])))

    def _on_measured(self, msg: JointState) -> None:
        with self.lock:
            self.measured.append((messages.seconds_from_stamp(msg.header.stamp), np.array(msg.position[:7])))

    def _on_commitment(self, msg: JointTrajectory) -> None:
        with self.lock:
            self.commitment = messages.commitment_from_msg(msg, NAMES)
            self.commitments += 1

    def _on_status(self, msg: DiagnosticStatus) -> None:
        with self.lock:
            self.status = messages.values_of(msg)

    def _on_certified(self, msg: JointTrajectory) -> None:
        with self.lock:
            self.certified.append(messages.trajectory_from_msg(msg, NAMES))

    def _on_verdict(self, msg: DiagnosticStatus) -> None:
        with self.lock:
            self.verdicts.append(msg)
            values = messages.values_of(msg)
            if values.get("certificate"):
                self.signed.setdefault(msg.hardware_id, []).append((values["digest"], values["certificate"]))

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        with self.lock:
            now = time.time()
            for status in msg.status:
                self.diagnostics[status.name] = (now, status)
                rejection = messages.values_of(status).get("last_rejection", "")
                self.said.append((now, status.name, f"{status.message} | {rejection}"))

    def honest(self) -> list[tuple[Trajectory, float]]:
        """Trajectories heard on the certified topic whose certificate is genuine."""
        out = []
        for trajectory, width, switch in self.certified:
            motion, at = motion_digest(trajectory, width), to_ns(switch)
            signed = self.signed.get(trajectory.digest(), ())
            if any(verify(key, v, motion, at, c) for key in self.keys for v, c in signed):
                out.append((trajectory, switch))
        return out


class Graph:
    """The launched graph; use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.domain = free_domain()
        self.key = secrets.token_bytes(32)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._context = Context()

    def __enter__(self) -> Graph:
        os.environ.update(ENVIRONMENT)
        rclpy.init(args=[], context=self._context, domain_id=self.domain)
        self.ear = Ear(self._context, self.key)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.ear)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        return self

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            return

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self.processes.values():
            try:
                process.wait(8.0)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._executor.shutdown(timeout_sec=2.0)
        rclpy.shutdown(context=self._context)
        self._thread.join(5.0)
        self.ear.destroy_node()

    # ------------------------------------------------------------------------------------------------------ processes
    def start(self, name: str, *, shared_memory: bool = False, **parameters: Any) -> None:
        """Start the node ``tandem.nodes.<name>`` with parameters; ``shared_memory``: images come whole only that way."""
        arguments = [x for k, v in parameters.items() for x in ("-p", f"{k}:={self._text(v)}")]
        path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "test")])
        environment = {
            **os.environ, **ENVIRONMENT, "ROS_DOMAIN_ID": str(self.domain), "PYTHONPATH": path,
            "TANDEM_CERTIFICATE_KEY": self.key.hex(), "ROS_LOG_DIR": str(self.folder), "NUMBA_NUM_THREADS": "1",
        }
        if shared_memory:
            environment.pop("FASTDDS_BUILTIN_TRANSPORTS")
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*DIES_WITH_US, sys.executable, "-m", f"tandem.nodes.{name}", "--ros-args", *arguments],
                env=environment, stdout=log, stderr=log, start_new_session=True,
            )

    @staticmethod
    def _text(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else f"'{value}'" if isinstance(value, str) else str(value)

    def start_core(self, planner: bool = True, **bridge: Any) -> None:
        """Bridge (loopback), filter and scripted planner; returns when the arm moves (or, without planner, can be moved)."""
        self.start("franka_bridge", **bridge)
        self.start("safety_filter", **{k: v for k, v in bridge.items() if k == "bounds"})
        if planner:
            self.start_planner()
        self.wait(lambda: self.ear.commitment is not None, "the bridge commits to something", START)
        self.wait(lambda: self.level("safety_filter: guard") == DiagnosticStatus.OK, "the filter watches", START)
        if planner:
            self.wait(self.moving, "the arm moves", START)

    def start_planner(self, **parameters: Any) -> None:
        """The scripted planner in the planner node."""
        self.start("planner", planner="integration.scripted:make", plan_time=0.35, reserve=0.2, **parameters)

    def kill(self, name: str) -> None:
        """SIGKILL, as a crash would."""
        process = self.processes[name]
        process.kill()
        process.wait()

    # -------------------------------------------------------------------------------------------------------- waiting
    def wait(self, condition: Callable[[], Any], what: str, timeout: float = 30.0) -> Any:
        """Poll until the condition is true; its value."""
        limit = time.monotonic() + timeout
        while time.monotonic() < limit:
            value = condition()
            if value:
                return value
            time.sleep(0.02)
        raise AssertionError(f"not within {timeout} s: {what}\n{self.account()}")

    def account(self) -> str:
        """What every part said last, and the ends of the logs."""
        with self.ear.lock:
            lines = [f"status {self.ear.status}", *(f"{n}: {s.message}" for n, (_, s) in sorted(self.ear.diagnostics.items()))]
            lines += [f"verdict {v.message} {messages.values_of(v).get('detail', '')}" for v in self.ear.verdicts[-5:]]
        for log in sorted(self.folder.glob("*.log")):
            lines.append(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}")
        return "\n".join(lines)

    # -------------------------------------------------------------------------------------------------------- judging
    def level(self, name: str) -> bytes | None:
        """Level of a diagnostic status, None before it was heard."""
        with self.ear.lock:
            found = self.ear.diagnostics.get(name)
            return None if found is None else found[1].level

    def said(self, name: str, text: str, since: float = 0.0) -> bool:
        """Whether the part ``name`` has shown ``text`` on /diagnostics since then."""
        with self.ear.lock:
            return any(n == name and text.lower() in message.lower() for t, n, message in self.ear.said if t >= since)

    def mode(self) -> str:
        """The executor's mode."""
        with self.ear.lock:
            return self.ear.status.get("mode", "")

    def speed(self, window: float = 0.15) -> float:
        """Largest commanded joint speed over the last moments [rad/s]; infinite when nothing was heard."""
        with self.ear.lock:
            if not self.ear.commanded or time.time() - self.ear.commanded[-1][0] > 0.3:
                return float("inf")
            end = self.ear.commanded[-1][0]
            recent = [(t, q) for t, q in self.ear.commanded[-60:] if t > end - window]
        if len(recent) < 3 or recent[-1][0] <= recent[0][0]:
            return float("inf")
        return float(np.abs(recent[-1][1] - recent[0][1]).max() / (recent[-1][0] - recent[0][0]))

    def moving(self) -> bool:
        """Whether the arm is commanded to move."""
        return 0.02 < self.speed() < float("inf")

    def at_rest(self) -> bool:
        """Whether it stands."""
        return self.speed() < 1e-4

    def committed_end(self) -> float:
        """When the last of all certified plans ends [s]."""
        with self.ear.lock:
            return max(switch + trajectory.duration for trajectory, switch in self.ear.honest())

    def settled(self, since: float) -> None:
        """Wait until the arm rests; it must have come to rest by the end of what was certified."""
        self.wait(lambda: self.at_rest() and time.time() > since + 0.3, "the arm comes to rest")
        late = self.rest_time(since) - self.committed_end()
        assert late < 0.1, f"at rest {late:.2f} s after the end of what was certified"

    def rest_time(self, since: float) -> float:
        """When the arm came to rest for good after ``since`` [s], from the recorded commands."""
        with self.ear.lock:
            samples = [(t, q) for t, q in self.ear.commanded if t >= since]
        last = samples[-1][1]
        moving = [t for t, q in samples if np.abs(q - last).max() > 1e-5]
        return moving[-1] if moving else since

    def assert_only_certified(self, on_time: bool = False) -> None:
        """Every commanded position lies on the path of a genuine certified trajectory after its switch time.

        ``on_time``: and is there when the trajectory says so; a stop slows down on the path, and a fast loop held up by a
        busy machine puts the trajectory off, so the time may differ.
        """
        with self.ear.lock:
            samples, plans = list(self.ear.commanded), self.ear.honest()
        assert len(samples) > 20
        t, q = np.array([s[0] for s in samples]), np.stack([s[1] for s in samples])
        error = np.abs(q - q[0]).max(-1)  # at rest where it began
        for trajectory, switch in plans:
            played = t >= switch - 1e-6
            gap = np.abs(trajectory.sample(t - switch)[0] - q).max(-1)
            error = np.where(played, np.minimum(error, gap), error)
            odd = np.flatnonzero(played & (error > 1e-4))
            if not on_time and odd.size:
                error[odd] = np.minimum(error[odd], off_path(trajectory, q[odd]))
        worst = int(error.argmax())
        assert error[worst] <= 1e-4, f"commanded at {t[worst]:.3f} off every certified trajectory by {error[worst]:.2e} rad"

    # -------------------------------------------------------------------------------------------------------- acting
    def call(self, service: str) -> Trigger.Response:
        """Call a Trigger service of the bridge."""
        client = self.ear.create_client(Trigger, service)
        self.wait(client.service_is_ready, f"{service} is there", START)
        future = client.call_async(Trigger.Request())
        self.wait(future.done, f"{service} answers")
        self.ear.destroy_client(client)
        response: Trigger.Response = future.result()
        return response

    def propose(self, proposal: Proposal, spoil: Callable[[JointTrajectory], None] | None = None) -> None:
        """Send a proposal as a planner would; ``spoil`` changes the message first."""
        if not hasattr(self, "_proposals"):
            self._proposals = self.ear.create_publisher(JointTrajectory, "planner/proposal", command_qos())
            self._infos = self.ear.create_publisher(DiagnosticStatus, "planner/proposal_info", command_qos())
        self.wait(lambda: self._proposals.get_subscription_count() and self._infos.get_subscription_count(), "the filter listens")
        proposal = messages.quantise(proposal)
        msg = messages.proposal_to_msg(proposal, NAMES)
        if spoil is not None:
            spoil(msg)
        self._infos.publish(messages.info_to_status(proposal, 0.0))
        self._proposals.publish(msg)

    def verdict_after(self, count: int) -> DiagnosticStatus:
        """The next verdict after the first ``count`` ones."""
        self.wait(lambda: len(self.ear.verdicts) > count, "a verdict")
        with self.ear.lock:
            return self.ear.verdicts[count]


def off_path(trajectory: Trajectory, q: np.ndarray) -> np.ndarray:
    """(B,) distance [rad] of joint positions (B, n) from the trajectory's path, a polyline of 1 ms."""
    path = trajectory.sample(np.arange(0.0, trajectory.duration + 1e-3, 1e-3))[0]
    a, d = path[:-1], np.diff(path, axis=0)
    length = np.maximum((d * d).sum(-1), 1e-18)
    out = np.empty(len(q))
    for i, x in enumerate(q):
        s = np.clip(((x - a) * d).sum(-1) / length, 0.0, 1.0)
        out[i] = np.abs(a + s[:, None] * d - x).max(-1).min()
    return out


def ball(position: tuple[float, float, float], radius: float = 0.12) -> Scene:
    """One spherical obstacle."""
    return Scene((Obstacle("ball", "sphere", (radius,), position, stamp=time.time()),))
