"""config/nodes.yaml and the nodes' declared parameters agree; wrong ones are refused with the accepted range."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import rclpy
import yaml
from integration.graph import ENVIRONMENT, free_domain
from rclpy.context import Context
from rclpy.lifecycle import LifecycleNode
from rclpy.parameter import Parameter

from tandem.core.errors import ConfigError
from tandem.nodes.base import NodeSettings, declare
from tandem.nodes.camera import CameraSettings
from tandem.nodes.franka_bridge import FrankaBridgeSettings
from tandem.nodes.perception import PerceptionSettings
from tandem.nodes.planner import PlannerSettings, load_planner
from tandem.nodes.safety_filter import SafetyFilterSettings
from tandem.nodes.scene_publisher import ScenePublisherSettings

FILE = Path(__file__).resolve().parents[2] / "config" / "nodes.yaml"
SETTINGS: dict[str, type[NodeSettings]] = {
    "perception": PerceptionSettings, "planner": PlannerSettings, "safety_filter": SafetyFilterSettings,
    "franka_bridge": FrankaBridgeSettings, "camera": CameraSettings, "scene_publisher": ScenePublisherSettings,
}


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    made = Context()
    rclpy.init(args=[], context=made, domain_id=free_domain())
    yield made
    rclpy.shutdown(context=made)


@pytest.mark.parametrize("name", SETTINGS)
def test_file_holds_every_parameter_at_its_default(name: str) -> None:
    written = yaml.safe_load(FILE.read_text(encoding="utf-8"))[f"/**/{name}"]["ros__parameters"]
    assert written == dataclasses.asdict(SETTINGS[name]())


@pytest.mark.parametrize("name", SETTINGS)
def test_every_parameter_is_described(name: str, context: Context) -> None:
    node = LifecycleNode(name, context=context)
    declare(node, SETTINGS[name])
    for field in dataclasses.fields(SETTINGS[name]):
        descriptor = node.describe_parameter(field.name)
        assert len(descriptor.description) > 3 and descriptor.read_only
        if isinstance(field.default, float):
            assert descriptor.floating_point_range, f"{field.name} has no range"
        elif isinstance(field.default, int) and not isinstance(field.default, bool):
            assert descriptor.integer_range, f"{field.name} has no range"
    node.destroy_node()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("guard_rate", 1.0, "20.0 .. 200.0"), ("guard_rate", "fast", "float"), ("gard_rate", 30.0, "unknown parameter.*guard_rate")],
)
def test_wrong_parameters_are_refused(key: str, value: object, message: str, context: Context) -> None:
    node = LifecycleNode("safety_filter", context=context, parameter_overrides=[Parameter(key, value=value)])
    with pytest.raises(ConfigError, match=message):
        declare(node, SafetyFilterSettings)
    node.destroy_node()


def asked(*, sampler: str, seed: int, bounds: str, **more: str) -> dict[str, object]:
    """A planner of someone's own."""
    return {"sampler": sampler, "seed": seed, "bounds": bounds, **more}


def without_device(*, sampler: str, seed: int, bounds: str) -> None:
    """One that knows of no device."""


def test_a_planner_hears_of_a_device_only_where_it_is_not_the_cpu() -> None:
    here = "integration.test_parameters"
    made: object = load_planner(f"{here}:asked", "steered", 3, "default")
    assert made == {"sampler": "steered", "seed": 3, "bounds": "default"}
    made = load_planner(f"{here}:asked", "steered", 3, "default", "cuda")
    assert made == {"sampler": "steered", "seed": 3, "bounds": "default", "device": "cuda"}
    assert load_planner(f"{here}:without_device", "steered", 3, "default") is None
    with pytest.raises(ConfigError, match="called with sampler, seed, bounds, device"):
        load_planner(f"{here}:without_device", "steered", 3, "default", "cuda")
