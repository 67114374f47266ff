"""Bridge node: hands certified trajectories to the fast loop (1 kHz, a process of its own) and tells the graph what the arm does.

A trajectory goes on only with a verdict that certifies exactly it, signed with this bring-up's key. Everything else is refused
and the reason shown; the fast loop checks all of it once more.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from tandem.core import certificate
from tandem.core.config import from_dict, setting
from tandem.core.errors import ConfigError, TandemError
from tandem.core.types import Proposal
from tandem.execution.backends import ros2_control
from tandem.execution.client import FastLoopClient, FastLoopError
from tandem.execution.fast_loop import LoopConfig
from tandem.execution.fci import details
from tandem.execution.fci import setup as fci_setup
from tandem.execution.messages import LoopState
from tandem.execution.types import ArmState, CertifiedTrajectory, ExecutorConfig, Mode, SubmitResult
from tandem.nodes import messages
from tandem.nodes.base import RELIABLE_QOS, SENSOR_QOS, NodeSettings, TandemNode, command_qos, run
from tandem.nodes.controller import ControllerLink
from tandem.nodes.diagnostics import Meter
from tandem.nodes.key import read_key
from tandem.nodes.robot_state import RobotStateSpeaker, message_type
from tandem.robots.model import ArmModel, load_arm
from tandem.safety.bounds import load_bounds

BACKENDS = {
    "loopback": "tandem.execution.backends.loopback:make", "mujoco": "tandem.sim.backend:make", "fci": fci_setup.BACKEND,
    "ros2_control": ros2_control.BACKEND, "twin": "tandem.sim.twin:make",
}
#: levels of a real arm's states; what is missing is an error
ARM_LEVELS = {
    ArmState.MOVING: DiagnosticStatus.OK, ArmState.IDLE: DiagnosticStatus.WARN, ArmState.RECOVERING: DiagnosticStatus.WARN,
}
#: what a real arm is driven with at the outside: answer after its state [s], its clock behind [s], share of answered cycles
LATEST_ANSWER, MOST_DRIFT, LEAST_SUCCESS = 0.01, 1.0, 0.1
#: cycles that a driver without a clock of its own is caught up on: the executor's max_step
CATCH_UP = 5
#: how often the arm's time is told on /clock [Hz]
CLOCK_RATE = 100.0
#: what to do where the fast loop has ended or hangs
GONE = "nothing commands the arm, which has stopped itself; if this stays, end the launch and start it again"
LATCHED = (Mode.STOPPING, Mode.STOPPED, Mode.FAULT)


@dataclass(frozen=True)
class FrankaBridgeSettings(NodeSettings):
    """Parameters of the bridge node."""

    robot: str = setting("fr3", "arm model in config/robots, without .yaml")
    bounds: str = setting("default", "bounds in config/safety, without .yaml: the certified tracking error is watched")
    backend: str = setting(
        "loopback", "what is driven: loopback, mujoco, fci, twin, ros2_control, or module:callable of a backend's factory"
    )
    backend_options: str = setting("{}", "options of the backend, as JSON")
    scene: str = setting("empty.yaml", "mujoco, twin: scene file, in config/scenes or a path")
    seed: int = setting(0, "mujoco, twin: places the mug", lo=0, hi=2**31 - 1)
    certificate_key_file: str = setting("", "file (mode 0600) with the key; empty: environment variable TANDEM_CERTIFICATE_KEY")
    state_rate: float = setting(50.0, "joint states", unit="Hz", lo=10.0, hi=500.0)
    commitment_rate: float = setting(20.0, "commitment and status while nothing changes", unit="Hz", lo=5.0, hi=100.0)
    world_rate: float = setting(30.0, "simulated world for the camera, and truth for scoring", unit="Hz", lo=1.0, hi=100.0)
    verdict_wait: float = setting(0.15, "how long a trajectory may wait for its verdict", unit="s", lo=0.01, hi=2.0)
    filter_silence: float = setting(0.3, "silence of the safety filter that counts as an error", unit="s", lo=0.05, hi=10.0)
    priority: int = setting(50, "SCHED_FIFO priority to ask for; 0: none", lo=0, hi=98)
    cpu: int = setting(-1, "CPU of the fast loop; -1: any", lo=-1, hi=4095)
    owner_timeout: float = setting(
        0.5, "silence of this node at which the fast loop stops the arm; mujoco: at least 3", unit="s", lo=0.05, hi=60.0
    )
    max_drift: float = setting(
        0.05, "how far the clock of an arm that keeps its own may fall behind in motion; more only in simulation", unit="s",
        lo=1e-3, hi=60.0,
    )
    publish_clock: bool = setting(
        False, "publish the arm's time as /clock, for nodes with use_sim_time; for a simulated arm that keeps a time of its own"
    )


def _on_this_machine(address: str) -> bool:
    """Whether nothing but a program on this machine can answer there."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class _Received:
    """A trajectory and when it came [s]."""

    trajectory: messages.Trajectory
    width: messages.Array
    switch_time: float
    heard: float


class FrankaBridgeNode(TandemNode):
    """See the module's text.

    In: ``safety_filter/certified`` with ``safety_filter/verdict``, ``safety_filter/guard`` (life sign), ``safety_filter/stop``.
    Out: ``franka/joint_states`` (measured), ``franka/commanded_joint_states``, ``franka/commitment``, ``franka/status``;
    Franka arms, with ``franka_msgs`` installed: ``franka/robot_state``; simulated arms: ``sim/world``, ``sim/truth``, on request
    ``/clock``. Services: ``franka/resume``, ``franka/stop``.
    """

    settings_type = FrankaBridgeSettings

    def __init__(self) -> None:
        self._client: FastLoopClient | None = None
        self._controller: ControllerLink | None = None
        super().__init__("franka_bridge")

    # ---------------------------------------------------------------------------------------------------------- set-up
    def setup(self) -> None:
        """Start the fast loop, connect."""
        s = self.settings
        arm = load_arm(s.robot)
        about = arm.digest, load_bounds(s.bounds).digest(), self.get_namespace()
        self._key = certificate.bound_to(read_key(s.certificate_key_file), *about)
        self._start_loop(arm)
        self._pairing: messages.Pairing[_Received, tuple[str, str, float, str]] = messages.Pairing()
        self._open: dict[int, tuple[float, str]] = {}
        self._taken = Meter()
        self._filter_heard = float("-inf")
        self._state: LoopState | None = None
        self._last_error = ""
        self._told = (-1, -1)
        self._latched = False
        self._said = float("-inf")
        self._loop_fault = ""
        self._world_said = self._told_time = float("-inf")
        self._joints = self.speak(JointState, "franka/joint_states", SENSOR_QOS)
        self._commanded = self.speak(JointState, "franka/commanded_joint_states", SENSOR_QOS)
        self._commitment = self.speak(JointTrajectory, "franka/commitment", RELIABLE_QOS)
        self._status = self.speak(DiagnosticStatus, "franka/status", RELIABLE_QOS)
        self._world = self.speak(Float64MultiArray, "sim/world", SENSOR_QOS)
        self._truth = self.speak(String, "sim/truth", SENSOR_QOS)
        kind = message_type() if s.backend in ("fci", "twin") else None
        self._robot_state = RobotStateSpeaker(kind, self.speak, self.names) if kind is not None else None
        self._certified_topic = self.resolve_topic_name("safety_filter/certified")
        self._verdict_topic = self.resolve_topic_name("safety_filter/verdict")
        self.listen(DiagnosticStatus, "safety_filter/verdict", self._on_verdict, command_qos())
        self.listen(JointTrajectory, "safety_filter/certified", self._on_certified, command_qos())
        self.listen(DiagnosticStatus, "safety_filter/guard", self._on_guard, SENSOR_QOS)
        self.listen(DiagnosticStatus, "safety_filter/stop", self._on_stop, command_qos())
        self.serve(Trigger, "franka/resume", self._on_resume)
        self.serve(Trigger, "franka/stop", self._on_operator_stop)
        self.timer(1.0 / s.state_rate, self._publish)
        if s.publish_clock:
            self._clock_topic = self.speak(Clock, "/clock", RELIABLE_QOS)
            self.timer(1.0 / CLOCK_RATE, self._publish_clock)

    def _start_loop(self, arm: ArmModel) -> None:
        s = self.settings
        where = f"franka_bridge: parameter backend_options = {s.backend_options!r}"
        try:
            options: Any = json.loads(s.backend_options)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}; accepted: JSON") from error
        if not isinstance(options, dict):
            raise ConfigError(f"{where}: accepted: a JSON mapping")
        entry = BACKENDS.get(s.backend, s.backend)
        if ":" not in entry:
            raise ConfigError(f"franka_bridge: parameter backend = {entry!r}: accepted: {', '.join(BACKENDS)} or module:callable")
        if s.publish_clock and not (s.backend in ("fci", "twin") and _on_this_machine(str(options.get("ip", "")))):
            raise ConfigError(
                "franka_bridge: parameter publish_clock = true: only for a controller that is simulated on this machine (fci or "
                "twin, its address in 127.0.0.0/8); a real arm goes by this machine's clock"
            )
        self._must_be_strict(options)
        if s.backend == "loopback":
            options = {"q": arm.home.tolist(), **options}
        elif s.backend == "mujoco":
            options = {"scene": s.scene, "seed": s.seed, **options}
        error_bound = load_bounds(s.bounds).tracking_error
        tracking = list(error_bound) if len(error_bound) == arm.n else float(error_bound[0])
        fds: tuple[int, ...] = ()
        if s.backend == "ros2_control":
            config, fds = self._controlled(arm, tracking, options)
        elif s.backend in ("fci", "twin"):
            options = {"details": message_type() is not None, **options}
            config = fci_setup.loop_config(arm, tracking, options, s.priority, s.cpu)
            if s.backend == "twin":
                about = {"scene": s.scene, "seed": s.seed, "fci": options}
                config = dataclasses.replace(config, backend=entry, backend_options=about)
            config = dataclasses.replace(config, max_drift=s.max_drift, own_clock=s.publish_clock)
        else:
            executor = ExecutorConfig.for_arm(arm, tracking)
            # what is caught up on goes out as a burst: not more than the executor plays through as a gap
            config = LoopConfig(
                backend=entry, backend_options=options, executor=executor, priority=s.priority, cpu=s.cpu, catch_up=CATCH_UP
            )
        config = dataclasses.replace(config, owner_timeout=s.owner_timeout)
        if s.backend in ("mujoco", "loopback"):
            # there is no arm that moves on while the loop is held up: on a busy machine it may catch up instead of stopping
            config = dataclasses.replace(config, executor=dataclasses.replace(executor, latch_step=0.5), catch_up=200)
        if s.backend == "mujoco":  # this process may be slow while the whole graph starts beside it
            config = dataclasses.replace(config, owner_timeout=max(3.0, s.owner_timeout))
        self._client = FastLoopClient(config, self._key, fds)
        self._client.start()

    def _must_be_strict(self, options: dict[str, Any]) -> None:
        """Raise ConfigError where a real arm would be driven with the leniency that a simulated controller is given."""
        s = self.settings
        address = str(options.get("ip", ""))
        if s.backend not in ("fci", "twin") or not address or _on_this_machine(address):
            return
        for key, value, low, high in (
            ("answer_within", options.get("answer_within"), 0.0, LATEST_ANSWER), ("max_drift", s.max_drift, 0.0, MOST_DRIFT),
            ("min_success_rate", options.get("min_success_rate"), LEAST_SUCCESS, 1.0),
        ):
            if isinstance(value, (int, float)) and not low <= value <= high:
                raise ConfigError(
                    f"franka_bridge: {key} = {value}: accepted for a real arm: {low} .. {high}; others (patient:=true) only for "
                    "a controller that is simulated on this machine (its address in 127.0.0.0/8)"
                )

    def _controlled(
        self, arm: ArmModel, tracking: list[float] | float, options: dict[str, Any]
    ) -> tuple[LoopConfig, tuple[int, ...]]:
        """The way to a trajectory controller; the fast loop's configuration and the descriptor it needs."""
        settings = from_dict(ros2_control.Ros2ControlOptions, {**options, "joints": arm.n}, "ros2_control")
        self._controller = link = ControllerLink(
            settings, self.names, self.get_namespace(), lambda text: self._give_up(text), self.context
        )
        link.start()
        settings = dataclasses.replace(settings, fd=link.far.fileno())
        config = ros2_control.loop_config(arm, tracking, settings, self.settings.priority, self.settings.cpu)
        return dataclasses.replace(config, max_drift=self.settings.max_drift), (settings.fd,)

    def _give_up(self, text: str) -> None:
        """Stop, latched, for a reason that the controller's link has found."""
        self._ask(lambda c: c.stop(text))

    def release(self) -> None:
        """Bring the arm to rest and end the fast loop."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._controller is not None:
            self._controller.close()
            self._controller = None

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the arm, latched."""
        self._ask(lambda c: c.stop("bridge deactivated"))
        return super().on_deactivate(state)

    # ---------------------------------------------------------------------------------------------- certified trajectories
    def _refuse(self, kind: str, detail: str) -> None:
        self._taken.reject(self.now(), kind, detail)
        self.get_logger().warning(f"trajectory refused: {kind}: {detail}", throttle_duration_sec=1.0)

    def _intruders(self) -> str:
        """What is wrong with the topics' publishers; empty when each has one at most."""
        for topic in (self._certified_topic, self._verdict_topic):
            count = self.count_publishers(topic)
            if count > 1:
                return f"{count} publishers on {topic}; accepted: the safety filter alone"
        return ""

    def _on_certified(self, msg: JointTrajectory) -> None:
        intruders = self._intruders()
        if intruders:
            self._refuse("unexpected publisher", intruders)
            return
        try:
            trajectory, width, switch_time = messages.trajectory_from_msg(msg, self.names)
        except messages.MessageError as error:
            self._refuse("malformed", str(error))
            return
        pair = self._pairing.left(trajectory.digest(), _Received(trajectory, width, switch_time, self.now()))
        if pair is not None:
            self._take(*pair)

    def _on_verdict(self, msg: DiagnosticStatus) -> None:
        self._filter_heard = self.now()
        try:
            verdict, digest, signature, head_duration = messages.verdict_from_status(msg)
        except messages.MessageError as error:
            self._refuse("malformed", str(error))
            return
        if not verdict.certified:
            return
        name = messages.values_of(msg).get("name", "")
        pair = self._pairing.right(digest, (verdict.digest, signature, head_duration, name))
        if pair is not None:
            self._take(*pair)

    def _take(self, received: _Received, verdict: tuple[str, str, float, str]) -> None:
        """Verify the certificate and hand the trajectory to the fast loop; its answer is collected later."""
        verdict_digest, signature, head_duration, name = verdict
        intruders = self._intruders()
        if intruders:
            self._refuse("unexpected publisher", intruders)
            return
        proposal = Proposal(received.trajectory, received.width, received.switch_time, head_duration, name)
        certified = CertifiedTrajectory(proposal, verdict_digest, signature)
        if not certificate.verify(self._key, verdict_digest, proposal.digest(), certified.switch_time_ns, signature):
            self._refuse(
                "forged", "the certificate does not belong to this trajectory, switch time and key; or the filter was started "
                "for another arm, other bounds or another namespace"
            )
            return
        if self._client is None:
            return
        number = self._client.send(certified)
        if number:
            self._open[number] = (self.now(), name)
        else:
            self._refuse("queue full", "the fast loop's inbox is full")

    def _collect(self, now: float) -> None:
        """Answers of the fast loop, and trajectories whose verdict did not come."""
        assert self._client is not None
        for number, (sent, name) in list(self._open.items()):
            result = self._client.reply(number)
            if result is None and now - sent < 1.0:
                continue
            del self._open[number]
            if result is None:
                self._refuse("no answer", "the fast loop did not answer")
            elif result.accepted:
                self._taken.tick(now, (now - sent) * 1e3)
            else:
                self._refuse(result.code.name, f"{name}: {result.text}")
        for received in self._pairing.waiting():
            if now - received.heard > self.settings.verdict_wait:
                self._pairing.drop(received.trajectory.digest())
                self._refuse("no verdict", "no certifying verdict with this trajectory's digest")

    # -------------------------------------------------------------------------------------------------- stop and resume
    def _on_guard(self, msg: DiagnosticStatus) -> None:
        self._filter_heard = self.now()

    def _on_stop(self, msg: DiagnosticStatus) -> None:
        self.get_logger().error(f"safety filter asks to stop: {msg.message}")
        self._ask(lambda c: c.stop(f"safety filter: {msg.message}"))

    def _ask(self, request: Callable[[FastLoopClient], SubmitResult]) -> tuple[bool, str]:
        if self._client is None:
            return False, "the fast loop is not running"
        try:
            result = request(self._client)
        except FastLoopError as error:
            return False, f"{error}; {GONE}" if self._client.fault() else str(error)
        return result.accepted, result.text or result.code.name

    def _on_resume(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._ask(lambda c: c.resume()) if self.active else (False, "bridge not active")
        return response

    def _on_operator_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._ask(lambda c: c.stop("operator"))
        return response

    # ------------------------------------------------------------------------------------------------------- what it tells
    def _publish(self) -> None:
        now = self.now()
        if self._client is None:
            return
        fault = self._client.fault()
        if fault and not self._loop_fault:
            self.get_logger().error(f"{fault}; {GONE}")
        self._loop_fault = fault
        if fault:
            return
        try:
            state = self._state = self._client.state()
            self._collect(now)
            zero = np.zeros_like(state.q)
            self._joints.publish(messages.joint_state_msg(state.q, state.v, zero, state.width, state.measured_stamp, self.names))
            self._commanded.publish(
                messages.joint_state_msg(state.command_q, state.command_v, zero, state.command_width, state.stamp, self.names)
            )
            if state.mode in LATCHED and not self._latched:
                service = self.resolve_service_name("franka/resume")
                self.get_logger().error(f"stopped: {state.text or state.reason.text}; to go on: ros2 service call {service}")
                self._last_error = f"{state.reason.name}: {state.text or state.reason.text}"
            self._latched = state.mode in LATCHED
            if self._robot_state is not None:
                said = self._client.details()
                self._robot_state.tell(details.decode(said) if said else None, state.measured_stamp)
            told = (state.revision, int(state.mode))
            if told != self._told or now - self._said >= 1.0 / self.settings.commitment_rate:
                self._told, self._said = told, now
                self._commitment.publish(messages.commitment_to_msg(self._client.commitment(), self.names))
                self._status.publish(self._executor_status(state))
        except TandemError as error:
            self._loop_fault = str(error)
            return
        if state.world.size and now - self._world_said >= 1.0 / self.settings.world_rate:
            self._world_said = now
            self._publish_world(state)

    def _publish_clock(self) -> None:
        if self._client is None or self._client.fault():
            return
        stamp = self._client.state().stamp
        if stamp > self._told_time:  # time that stands still or goes back would end what waits for it
            self._told_time = stamp
            self._clock_topic.publish(Clock(clock=messages.stamp_from_seconds(stamp)))

    def _publish_world(self, state: LoopState) -> None:
        """The simulated world for the camera, and the truth for scoring (nothing that decides may listen to it)."""
        from tandem.sim.backend import WorldReport  # only a simulated arm has a world; a real one needs no simulator installed

        report = WorldReport.of(state.world)
        self._world.publish(Float64MultiArray(data=[state.measured_stamp, *report.qpos.tolist()]))
        mug = report.qpos[9:16].tolist()
        truth = {
            "stamp": state.measured_stamp, "sim_time": report.time, "mug_position": mug[:3], "mug_quaternion_wxyz": mug[3:],
            "height": mug[2], "lifted": report.lifted, "forbidden_contacts": report.forbidden_contacts, "resets": state.resets,
        }
        self._truth.publish(String(data=json.dumps(truth)))

    def _executor_status(self, state: LoopState) -> DiagnosticStatus:
        c = state.counters
        values = {
            "mode": state.mode.name, "reason": state.reason.name, "text": state.text, "revision": state.revision,
            "gripper_width": f"{state.width:.5f}",
            "accepted": c.accepted, "splices": c.splices, "stops": c.stops, "resumes": c.resumes, "clock_jumps": c.clock_jumps,
            "head_time": c.head_time, "backup_time": c.backup_time, "last_rejection": state.last_rejection.name,
            "rejected": json.dumps({k.name: n for k, n in c.rejected.items()}),
        }
        level = DiagnosticStatus.ERROR if state.mode in LATCHED else DiagnosticStatus.OK
        text = f"{state.mode.name}: {state.text or state.reason.text}" if state.mode in LATCHED else state.mode.name
        return self.report("executor", level, text, values)

    def _arm_status(self, state: LoopState) -> DiagnosticStatus:
        """A real arm's own view: state with the reason, how well it is served, its gripper."""
        arm = state.arm
        values = {
            "state": arm.state.name, "success_rate": f"{arm.success_rate:.2f}", "lost_cycles": arm.lost_cycles,
            "rejoins": arm.rejoins, "reflexes": arm.reflexes, "recoveries": arm.recoveries, "gripper": arm.gripper,
            "last_error": self._last_error,
        }
        level = ARM_LEVELS.get(arm.state, DiagnosticStatus.ERROR)
        return self.report("arm", level, arm.text or arm.state.name, values)

    def diagnose(self, now: float) -> list[DiagnosticStatus]:
        """Executor, fast loop, trajectories, and whether the safety filter lives."""
        out: list[DiagnosticStatus] = []
        state = self._state
        if state is not None:
            out.append(self._executor_status(state))
            values = {
                "cycle": state.cycle, "missed_cycles": state.missed_cycles, "late_max_ms": f"{state.late_max * 1e3:.2f}",
                "work_max_ms": f"{state.work_max * 1e3:.2f}", "work_mean_us": f"{state.work_mean * 1e6:.0f}",
                "realtime": state.realtime, "state_age_s": f"{time.time() - state.stamp:.3f}",
            }
            level = DiagnosticStatus.ERROR if self._loop_fault else DiagnosticStatus.OK
            text = f"{self._loop_fault}; {GONE}" if self._loop_fault else "cycles at 1 kHz"
            out.append(self.report("fast loop", level, text, values))
            if state.arm.state is not ArmState.UNREPORTED:
                out.append(self._arm_status(state))
        recent = self._taken.last_rejection if now - self._taken.last_rejection_time < 3.0 else ""
        if self._controller is not None:
            wrong = self._controller.complaint
            level = DiagnosticStatus.ERROR if wrong else DiagnosticStatus.OK
            out.append(self.report("controller", level, wrong or "follows its courses", {"courses": self._controller.sent}))
        intruders = self._intruders()
        level = DiagnosticStatus.ERROR if intruders else DiagnosticStatus.WARN if recent else DiagnosticStatus.OK
        text = f"unexpected publisher: {intruders}" if intruders else recent or "only certified ones are taken"
        out.append(self.report("trajectories", level, text, self._taken.values(now)))
        silence = now - self._filter_heard
        dead = silence > self.settings.filter_silence
        text = f"safety filter silent for {silence:.1f} s: nothing new can be played" if dead else "safety filter speaks"
        level = DiagnosticStatus.ERROR if dead else DiagnosticStatus.OK
        out.append(self.report("safety filter", level, text, {"silence_s": f"{silence:.3f}"}))
        return out


def main() -> int:
    """Entry point of the executable ``franka_bridge``."""
    return run(FrankaBridgeNode)


if __name__ == "__main__":
    raise SystemExit(main())
