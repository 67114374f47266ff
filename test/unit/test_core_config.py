"""The configuration loader, scenes and data folders: every fault names file, key, value and what is accepted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tandem.core import paths
from tandem.core.config import from_dict, load, setting, to_dict
from tandem.core.errors import ConfigError, InputError
from tandem.core.scene import TABLE, Obstacle, Scene, load_scene


@dataclass(frozen=True)
class Inner:
    """Nested settings."""

    gain: float = setting(1.0, "gain", lo=0.0, hi=2.0)


@dataclass(frozen=True)
class Settings:
    """One of every kind."""

    steps: int = setting(4, "steps", lo=1, hi=10)
    rate: float = setting(1.0, "rate", unit="Hz", lo=0.1, hi=100.0)
    kind: str = setting("a", "kind", choices=("a", "b"))
    on: bool = setting(True, "switch")
    point: tuple[float, float] = setting((0.0, 1.0), "point", unit="m", lo=-1.0, hi=1.0)
    names: tuple[str, ...] = setting((), "names")
    cap: float | None = setting(None, "cap", lo=0.0)
    inner: Inner = field(default_factory=Inner)


def test_a_config_comes_back_as_it_went() -> None:
    config = Settings(steps=3, point=(0.5, -0.5), names=("x",), cap=2.0, inner=Inner(0.5))
    assert from_dict(Settings, to_dict(config)) == config


@pytest.mark.parametrize("content", [
    b"steps: \xff\xfe", b"steps: 2026-02-30", b"steps: [", b"steps: " + b"9" * 5000, b"[" * 2000,
    b"steps: !!python/object:os.system",
], ids=["encoding", "date", "syntax", "digits", "depth", "tag"])  # fmt: skip
def test_files_that_are_no_yaml_are_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    for read in (lambda: load(Settings, path), lambda: load_scene(path)):
        with pytest.raises(ConfigError, match=r"odd\.yaml: cannot be read"):
            read()
    with pytest.raises(ConfigError, match=r"missing\.yaml"):
        load(Settings, tmp_path / "missing.yaml")


@pytest.mark.parametrize(("key", "value"), [("size", "'123'"), ("position", "'000'"), ("size", "[1, 2, 9" + "9" * 400 + "]")])
def test_obstacles_of_odd_numbers_are_refused(key: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "scene.yaml"
    rest = {"name": "x", "kind": "box", "size": "[1, 1, 1]", "position": "[0, 0, 0]"} | {key: value}
    path.write_text("obstacles: [{" + ", ".join(f"{k}: {v}" for k, v in rest.items()) + "}]")
    with pytest.raises(ConfigError, match=r"scene\.yaml"):
        load_scene(path)


def test_integers_are_taken_for_floats_but_not_the_other_way() -> None:
    assert from_dict(Settings, {"rate": 2}).rate == 2.0
    with pytest.raises(ConfigError, match=r"steps = 2\.5"):
        from_dict(Settings, {"steps": 2.5})


@pytest.mark.parametrize(("data", "words"), [
    ({"stepps": 3}, ["unknown key(s) stepps", "steps"]),
    ({"steps": 0}, ["steps = 0", "1 .. 10"]),
    ({"steps": True}, ["steps = True"]),
    ({"rate": float("nan")}, ["rate", "0.1 .. 100.0 Hz"]),
    ({"rate": "fast"}, ["rate = 'fast'"]),
    ({"kind": "c"}, ["kind = 'c'", "'a', 'b'"]),
    ({"on": 1}, ["on = 1"]),
    ({"point": [0.0]}, ["point = [0.0]"]),
    ({"point": [0.0, 5.0]}, ["point", "-1.0 .. 1.0 m"]),
    ({"names": [1]}, ["names[0] = 1"]),
    ({"cap": -1.0}, ["cap = -1.0"]),
    ({"inner": {"gain": 3.0}}, ["inner", "gain = 3.0", "0.0 .. 2.0"]),
    ({"inner": 3}, ["inner", "expected a mapping"]),
    ([1], ["expected a mapping"]),
], ids=str)
def test_faults_name_key_value_and_range(data: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        from_dict(Settings, data, "file.yaml")
    for word in ["file.yaml", *words]:
        assert word in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for name, text in (("broken.yaml", "a: [1"), ("latin.yaml", "a: \tb: c")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=name):
            load(Settings, tmp_path / name)
    with pytest.raises(ConfigError, match="absent"):
        load(Settings, tmp_path / "absent.yaml")
    (tmp_path / "empty.yaml").write_text("")
    assert load(Settings, tmp_path / "empty.yaml") == Settings()


@pytest.mark.parametrize("values", [
    {"kind": "cone"}, {"size": (1.0, 1.0)}, {"size": (-1.0,)}, {"size": (float("inf"),)}, {"position": (0.0, 0.0)},
    {"position": (0.0, 0.0, 1e6)}, {"quaternion": (1.0, 1.0, 0.0, 0.0)}, {"position_error": -0.1}, {"speed": float("nan")},
], ids=str)
def test_impossible_obstacles_are_refused(values: dict[str, Any]) -> None:
    good: dict[str, Any] = {"name": "ball", "kind": "sphere", "size": (0.1,), "position": (0.0, 0.0, 0.5)}
    assert Obstacle(**good).rotation() == pytest.approx(np.eye(3))
    with pytest.raises(InputError, match="ball"):
        Obstacle(**{**good, **values})


def test_rotation_is_of_the_quaternion_w_x_y_z() -> None:
    turned = Obstacle("box", "box", (0.1, 0.2, 0.3), (0.0, 0.0, 0.0), (np.sqrt(0.5), 0.0, 0.0, np.sqrt(0.5)))
    np.testing.assert_allclose(turned.rotation() @ [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], atol=1e-12)


def test_scene_names_are_unique() -> None:
    assert Scene().with_obstacles(TABLE).obstacles == (TABLE,)
    with pytest.raises(InputError, match="unique"):
        Scene((TABLE, TABLE))


@pytest.mark.parametrize(("text", "words"), [
    ("obstacles: 3", ["list"]),
    ("obstacles: [{name: a, kind: sphere, size: [0.1]}]", ["obstacles[0]", "missing key(s) position"]),
    ("obstacles: [{name: a, kind: sphere, size: [0.1], position: [0, 0, 1], colour: red}]", ["unknown key(s) colour"]),
    ("obstacles: [{name: a, kind: sphere, size: [big], position: [0, 0, 1]}]", ["obstacles[0]"]),
    ("obstacles: [7]", ["obstacles[0]", "mapping"]),
], ids=str)
def test_malformed_scene_files_name_file_and_entry(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "scene.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_scene(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_data_folder_can_be_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "x.yaml").write_text("a: 1")
    monkeypatch.setenv("TANDEM_SHARE", str(tmp_path))
    assert paths.share_dir() == tmp_path
    assert paths.config_file("x.yaml").read_text() == "a: 1"
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        paths.config_file("y.yaml")
