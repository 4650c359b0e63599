"""A MONAI bundle's configuration, read without executing it.

MONAI's own parser imports any class that a configuration names and evaluates every string that begins with `$` as
Python. Here a configuration is data: `@id` refers, `%id` repeats, and of expressions only literals, arithmetic and
references are understood (`_value`); a component (`_target_`) stays a name with arguments, which `monai_transforms` and
`monai_networks` know or refuse.
"""

from __future__ import annotations

import ast
import json
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from engines.importers import ImportRefused

_REFERENCE = re.compile(r"[@%]([A-Za-z_][\w]*(?:(?:::|#)\w+)*)")
_TO_DEVICE = re.compile(r"^(@[\w:#]+)\.to\(.*\)$")
_DEEPEST = 40
_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_MAX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Component:
    """What the configuration wants to be built: a class by name, and what it gets. where: its place, for refusals."""

    target: str
    arguments: Mapping[str, Any]
    where: str

    @property
    def name(self) -> str:
        """The class's bare name."""
        return self.target.rsplit(".", 1)[-1]


class Config:
    """One configuration file."""

    def __init__(self, fields: Mapping[str, Any], name: str) -> None:
        self._fields = fields
        self._name = name

    @classmethod
    def read(cls, path: Path) -> Config:
        """From a JSON or YAML file. ImportRefused if it is none."""
        try:
            raw = path.read_bytes()
            if len(raw) > _MAX_BYTES:
                raise ImportRefused(f"{path} is larger than {_MAX_BYTES} bytes")
            fields = json.loads(raw) if path.suffix == ".json" else yaml.safe_load(raw)
        except OSError as error:
            raise ImportRefused(f"can't read {path}: {error.strerror or error}") from error
        except (ValueError, yaml.YAMLError, RecursionError) as error:
            raise ImportRefused(f"{path.name} can't be parsed: {' '.join(str(error).split())[:200]}") from error
        if not isinstance(fields, dict):
            raise ImportRefused(f"{path.name} holds no fields")
        return cls(fields, path.name)

    def __contains__(self, key: str) -> bool:
        return key in self._fields

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a top-level key, references followed; components as `Component`, disabled ones left out."""
        return self._value(self._fields[key], key, 0) if key in self._fields else default

    def component(self, key: str) -> Component:
        """The component under a key. ImportRefused if there is none."""
        found = self.get(key)
        if not isinstance(found, Component):
            raise ImportRefused(f"{self._name} has no component `{key}` (an object with _target_)")
        return found

    def components(self, key: str) -> tuple[Component, ...]:
        """The transforms of a Compose under a key; () if the key is missing."""
        found = self.get(key)
        if found is None:
            return ()
        if isinstance(found, Component) and found.name == "Compose":
            found = found.arguments.get("transforms")
        parts = tuple(found) if isinstance(found, (list, tuple)) else (found,)
        for part in parts:
            if not isinstance(part, Component):
                raise ImportRefused(f"{self._name}: `{key}` is no list of transforms")
        return parts

    def _value(self, raw: Any, where: str, depth: int) -> Any:
        if depth > _DEEPEST:
            raise ImportRefused(f"{self._name}: {where} refers to itself, or is nested too deep")
        if isinstance(raw, dict):
            values = {key: self._value(value, f"{where}::{key}", depth + 1) for key, value in raw.items()}
            if "_target_" not in raw:
                return values
            arguments = {key: value for key, value in values.items() if not (key.startswith("_") and key.endswith("_"))}
            return Component(str(raw["_target_"]), arguments, where)
        if isinstance(raw, (list, tuple)):
            kept = [(i, part) for i, part in enumerate(raw) if not _disabled(part)]
            return [self._value(part, f"{where}::{i}", depth + 1) for i, part in kept]
        if isinstance(raw, str) and raw[:1] in "$@%" and raw:
            return self._expression(raw, where, depth)
        return raw

    def _expression(self, raw: str, where: str, depth: int) -> Any:
        text = raw.removeprefix("$").strip()
        if moved := _TO_DEVICE.match(text):
            text = moved.group(1)  # where a network runs is not the configuration's affair here
        if whole := _REFERENCE.fullmatch(text):
            return self._referred(whole.group(1), where, depth)
        values: dict[str, Any] = {}

        def placeholder(match: re.Match[str]) -> str:
            name = f"reference_{len(values)}"
            values[name] = self._referred(match.group(1), where, depth)
            return name

        try:
            tree = ast.parse(_REFERENCE.sub(placeholder, text), mode="eval")
            return _evaluated(tree.body, values)
        except (SyntaxError, TypeError, ValueError, ArithmeticError, RecursionError, LookupError) as error:
            raise ImportRefused(
                f"{self._name}: {where} is the expression {raw!r}; expressions are not executed here, and this one is "
                "more than literals, arithmetic and references",
                remedy="Write the value that it has into a copy of the configuration.",
            ) from error

    def _referred(self, path: str, where: str, depth: int) -> Any:
        parts = re.split("::|#", path)
        raw: Any = self._fields
        for part in parts:
            if isinstance(raw, dict) and part in raw:
                raw = raw[part]
            elif isinstance(raw, list) and part.isdigit() and int(part) < len(raw):
                raw = raw[int(part)]
            else:
                raise ImportRefused(f"{self._name}: {where} refers to {path}, which is not there")
        return self._value(raw, path, depth + 1)


def _disabled(part: Any) -> bool:
    return isinstance(part, dict) and part.get("_disabled_") in (True, "true", "$True")


def _evaluated(node: ast.expr, values: Mapping[str, Any]) -> Any:
    """Literals, arithmetic on numbers, sequences, indexing, and values by name. ValueError for everything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str, bool, type(None))):
        return node.value
    if isinstance(node, ast.Name) and node.id in values:
        return values[node.id]
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_evaluated(part, values) for part in node.elts]
    if isinstance(node, ast.Dict) and all(key is not None for key in node.keys):
        pairs = zip(node.keys, node.values, strict=True)
        return {_evaluated(key, values): _evaluated(value, values) for key, value in pairs if key is not None}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_number(_evaluated(node.operand, values))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = (_number(_evaluated(side, values)) for side in (node.left, node.right))
        return _OPERATIONS[type(node.op)](left, right)
    if isinstance(node, ast.Subscript):
        return _evaluated(node.value, values)[_evaluated(node.slice, values)]
    raise ValueError(ast.dump(node)[:80])


def _number(value: Any) -> float:
    if not isinstance(value, (int, float)):
        raise ValueError(f"{value!r} is no number")
    return value
