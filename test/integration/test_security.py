"""The SROS2 policy: of the documented form, as wide as the running nodes need, and no wider where it counts."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from integration.graph import START, Graph

from tandem.cli import security
from tandem.core.errors import InputError

CHILDREN = {
    "policy": {"enclaves"}, "enclaves": {"enclave"}, "enclave": {"profiles"}, "profiles": {"profile"},
    "profile": {"topics", "services", "actions"}, "topics": {"topic"}, "services": {"service"}, "topic": set(), "service": set(),
}
ATTRIBUTES = {
    "policy": {"version"}, "enclave": {"path"}, "profile": {"ns", "node"}, "topics": {"publish", "subscribe"},
    "services": {"reply", "request"},
}


def allowed(root: ET.Element, node: str, kind: str, what: str, ns: str = "/") -> set[str]:
    """Full names that a node may publish, subscribe, reply or request."""
    out = set()
    for profile in root.iter("profile"):
        if profile.get("node") == node and profile.get("ns") == ns:
            for entry in profile.findall(kind):
                if entry.get(what) == "ALLOW":
                    for name in (x.text or "" for x in entry):
                        out.add(name if name[0] == "/" else f"{ns.rstrip('/')}/{name.replace('~', node)}")
    return out


def test_the_policy_has_the_documented_form() -> None:
    """``ros2/sros2``, schema of the policy, version 0.2.0."""
    root = ET.fromstring(security.policy("left").split("\n", 1)[1])
    assert root.tag == "policy" and root.get("version") == "0.2.0"
    for element in root.iter():
        assert {child.tag for child in element} <= CHILDREN[element.tag], element.tag
        assert set(element.attrib) <= ATTRIBUTES.get(element.tag, set()), element.tag
        if element.tag in ("topics", "services"):
            assert set(element.attrib.values()) == {"ALLOW"} and len(element) >= 1
            assert all((x.text or "").strip() for x in element)
        if element.tag in ("enclave", "profile"):
            assert set(element.attrib) == ATTRIBUTES[element.tag] and len(element) >= 1
    assert {p.get("ns") for p in root.iter("profile")} == {"/left"}
    with pytest.raises(InputError, match="letters, digits"):
        security.policy("a b")


def test_only_the_filter_may_speak_to_the_bridge_and_only_an_operator_may_resume() -> None:
    root = ET.fromstring(security.policy().split("\n", 1)[1])
    nodes = {str(p.get("node")) for p in root.iter("profile")}
    for topic in security.CERTIFIED:
        assert {n for n in nodes if f"/{topic}" in allowed(root, n, "topics", "publish")} == {"safety_filter"}
        assert "/*" not in {x for n in nodes for x in allowed(root, n, "topics", "publish")}
    for service in (security.RESUME, security.STOP):
        assert {n for n in nodes if f"/{service}" in allowed(root, n, "services", "request")} == {"operator"}
    assert {n for n in nodes if "/planner/proposal" in allowed(root, n, "topics", "publish")} == {"planner", "operator"}
    for topic in security.ARM:
        speakers = {n for n in nodes if f"/{topic}" in allowed(root, n, "topics", "publish")}
        assert speakers == {"franka_bridge", "franka_controller_link"}, "one process, one enclave"


@pytest.mark.ros
def test_the_running_nodes_need_no_more_than_the_policy_allows(graph: Graph) -> None:
    graph.start_core()
    graph.start("scene_publisher")
    graph.start("perception")
    root = ET.fromstring(security.policy().split("\n", 1)[1])
    names = ("franka_bridge", "safety_filter", "planner", "scene_publisher", "perception")
    ear = graph.ear
    graph.wait(lambda: set(names) <= set(ear.get_node_names()), "all nodes are known", START)
    graph.wait(lambda: ear.get_publisher_names_and_types_by_node("perception", "/"), "and their topics", START)
    for name in names:
        for kind, what, found in (
            ("topics", "publish", ear.get_publisher_names_and_types_by_node(name, "/")),
            ("topics", "subscribe", ear.get_subscriber_names_and_types_by_node(name, "/")),
            ("services", "reply", ear.get_service_names_and_types_by_node(name, "/")),
            ("services", "request", ear.get_client_names_and_types_by_node(name, "/")),
        ):
            needed, may = {topic for topic, _ in found}, allowed(root, name, kind, what)
            assert needed <= may, f"{name} {what}: {sorted(needed - may)} is not in the policy"


def test_the_command_writes_it_and_says_what_to_do(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tandem.cli.main", "security", "--out", str(tmp_path / "policy.xml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert ET.parse(tmp_path / "policy.xml").getroot().tag == "policy"
    for text in ("create_keystore", "create_permission tandem_keystore /tandem/safety_filter", "ROS_SECURITY_STRATEGY=Enforce"):
        assert text in done.stdout
