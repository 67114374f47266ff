"""Configuration: dataclasses with ranges, loaded from YAML. Unknown keys, wrong types and values out of range are errors.

Declare a field with :func:`setting`, which records unit, range or choices beside the default::

    @dataclass(frozen=True)
    class Config:
        horizon: int = setting(16, "steps a chunk holds", lo=1, hi=256)
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tandem.core.errors import ConfigError

T = TypeVar("T")


def setting(
    default: Any, doc: str, *, unit: str = "", lo: float | None = None, hi: float | None = None,
    choices: tuple[Any, ...] | None = None,
) -> Any:
    """A dataclass field with its description, unit [SI] and accepted range or choices."""
    meta = {"doc": doc, "unit": unit, "lo": lo, "hi": hi, "choices": choices}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=meta)
    return dataclasses.field(default=default, metadata=meta)


def _accepted(meta: Any) -> str:
    if meta.get("choices"):
        return "one of " + ", ".join(map(repr, meta["choices"]))
    lo, hi = meta.get("lo"), meta.get("hi")
    text = f"{'-inf' if lo is None else lo} .. {'inf' if hi is None else hi}"
    return f"{text} {meta.get('unit', '')}".strip()


def _check(value: Any, meta: Any, where: str) -> None:
    if meta.get("choices") and value not in meta["choices"]:
        raise ConfigError(f"{where} = {value!r}: accepted: {_accepted(meta)}")
    numbers = value if isinstance(value, (list, tuple)) else [value]
    for x in numbers:
        if isinstance(x, (int, float)) and not isinstance(x, bool):
            lo, hi = meta.get("lo"), meta.get("hi")
            if not math.isfinite(x) or (lo is not None and x < lo) or (hi is not None and x > hi):
                raise ConfigError(f"{where} = {value!r}: accepted: {_accepted(meta)}")


def _convert(value: Any, kind: Any, where: str, meta: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in typing.get_args(kind):
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
        origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return from_dict(typing.cast(type, kind), value, where)
    bad = ConfigError(f"{where} = {value!r}: expected {getattr(kind, '__name__', kind)}; accepted: {_accepted(meta)}")
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise bad
        args = typing.get_args(kind)
        if origin is tuple and args and args[-1] is not Ellipsis and len(args) != len(value):
            raise bad
        inner = args[0] if args else Any
        return origin(_convert(v, inner, f"{where}[{i}]", meta) for i, v in enumerate(value))
    if kind is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise bad
        return float(value)
    if kind is int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise bad
        return value
    if kind in (bool, str):
        if not isinstance(value, kind):
            raise bad
        return value
    return value


def from_dict(cls: type[T], data: Any, where: str = "config") -> T:
    """Build the dataclass ``cls`` from a mapping; ``where`` (a file's name, say) begins every error message.

    Raises:
        ConfigError: unknown key, wrong type, or a value out of its range; names where, key, value and accepted range.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a mapping, got {data!r}")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = [str(k) for k in data if k not in fields]
    if unknown:
        raise ConfigError(f"{where}: unknown key(s) {', '.join(unknown)}; known: {', '.join(fields)}")
    hints = typing.get_type_hints(cls)
    values = {}
    for name, value in data.items():
        key = f"{where}: {name}"
        values[name] = _convert(value, hints[name], key, fields[name].metadata)
        _check(values[name], fields[name].metadata, key)
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from error


def to_dict(config: Any) -> dict[str, Any]:
    """The inverse of :func:`from_dict`."""
    return dataclasses.asdict(config)


def read_yaml(path: str | Path) -> Any:
    """What a YAML file holds.

    Raises:
        ConfigError: it cannot be read: no such file, another encoding, no YAML, or a value that YAML's reader cannot take.
    """
    path = Path(path)
    try:  # 30 February, a number of 5,000 digits, 2,000 brackets: not all are YAML errors
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, ArithmeticError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML: {error}") from error


def load(cls: type[T], path: str | Path) -> T:
    """Read a YAML file into the dataclass ``cls`` (see :func:`from_dict` for the errors)."""
    data = read_yaml(path)
    return from_dict(cls, {} if data is None else data, str(path))
