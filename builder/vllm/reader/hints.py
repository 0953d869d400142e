"""What an annotation in the package tells about a flag's value.

The order of the questions is that of `_compute_kwargs` in `vllm/engine/arg_utils.py` (0.19 to 0.33).
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from builder.vllm.reader.keys import Key, Keys, field_limits, is_dataclass
from builder.vllm.reader.modules import Found, Module, Modules, class_bodies

_DEPTH = 12
_BUILTIN = {"bool", "int", "float", "str", "dict", "list", "tuple", "set", "bytes"}
_CONTAINERS = {
    "List": "list", "Dict": "dict", "Tuple": "tuple", "Set": "set", "Sequence": "list", "Mapping": "dict", "frozenset": "set",
}  # fmt: skip


@dataclass(frozen=True)
class Hint:
    """One possible type of a value."""

    kind: str
    """A built-in's name, or `none`, `literal`, `dataclass`, `enum`, `class`, `unknown`."""
    name: str = ""
    values: tuple[object, ...] = ()
    """Of a literal its values; of an enumeration its members' names; of a dataclass the names of its keys, empty when more
    than these may be taken."""
    inner: tuple[Hint, ...] = ()
    """Of a list, tuple or set: what its elements can be."""
    length: int | None = None
    """Of a tuple without an ellipsis."""
    constraints: tuple[tuple[str, float], ...] = ()
    keys: tuple[Key, ...] = ()
    """Of a dataclass: the keys whose values are known."""


UNKNOWN = Hint("unknown")


class Hints:
    """Reads annotations."""

    def __init__(self, modules: Modules) -> None:
        self.modules = modules
        self._keys = Keys(modules)
        self._known: dict[tuple[str, str], tuple[tuple[str, ...], tuple[Key, ...]]] = {}

    def of(self, module: Module, node: ast.AST | None, depth: int = 0) -> tuple[Hint, ...]:
        """The alternatives that an annotation allows, unions and `Annotated` taken apart."""
        if node is None or depth > _DEPTH:
            return (UNKNOWN,)
        if isinstance(node, ast.Constant):
            if node.value is None:
                return (Hint("none"),)
            if isinstance(node.value, str):
                return self._quoted(module, node.value, depth)
            return (UNKNOWN,)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return self._union(module, [node.left, node.right], depth)
        if isinstance(node, ast.Subscript):
            return self._subscript(module, node, depth)
        if isinstance(node, ast.Name):
            return self._named(module, node.id, depth)
        if isinstance(node, ast.Attribute):
            return (Hint("class", ast.unparse(node)),)
        return (UNKNOWN,)

    def _quoted(self, module: Module, text: str, depth: int) -> tuple[Hint, ...]:
        try:
            return self.of(module, ast.parse(text, mode="eval").body, depth + 1)
        except (SyntaxError, ValueError, RecursionError):
            return (UNKNOWN,)

    def _union(self, module: Module, parts: Sequence[ast.AST], depth: int) -> tuple[Hint, ...]:
        found: list[Hint] = []
        for part in parts:
            found += [each for each in self.of(module, part, depth + 1) if each not in found]
        return tuple(found)

    def _subscript(self, module: Module, node: ast.Subscript, depth: int) -> tuple[Hint, ...]:
        outer = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if outer == "Literal":
            return (Hint("literal", values=tuple(self.literal(module, parts, depth))),)
        if outer == "Union":
            return self._union(module, parts, depth)
        if outer == "Optional":
            return (*self._union(module, parts, depth), Hint("none"))
        if outer in ("Annotated", "SkipValidation", "InitVar", "ClassVar", "Final"):
            limits = tuple(limit for part in parts[1:] for limit in field_limits(part))
            return tuple(
                Hint(each.kind, each.name, each.values, each.inner, each.length, each.constraints + limits)
                for each in self.of(module, parts[0], depth + 1)
            )
        kind = _CONTAINERS.get(outer, outer)
        if kind in ("list", "set"):
            return (Hint(kind, inner=self.of(module, parts[0], depth + 1)),)
        if kind == "tuple":
            open_ended = any(isinstance(part, ast.Constant) and part.value is Ellipsis for part in parts)
            return (Hint(kind, inner=self.of(module, parts[0], depth + 1), length=None if open_ended else len(parts)),)
        if kind == "dict":
            return (Hint("dict"),)
        return (Hint("class", ast.unparse(node)),)

    def literal(self, module: Module, parts: Sequence[ast.AST], depth: int = 0) -> list[object]:
        """The values of a `Literal`, nested ones included."""
        values: list[object] = []
        for part in parts:
            if isinstance(part, ast.Constant):
                values.append(part.value)
            elif (
                isinstance(part, ast.UnaryOp)
                and isinstance(part.op, ast.USub)
                and isinstance(part.operand, ast.Constant)
            ):
                values.append(-part.operand.value)  # type: ignore[operator]
            else:
                for hint in self.of(module, part, depth + 1):
                    values += hint.values
        return values

    def _named(self, module: Module, name: str, depth: int) -> tuple[Hint, ...]:
        found = self.modules.find(module, name)
        if found is None:
            if name in _BUILTIN:
                return (Hint(name),)
            return (Hint("none"),) if name == "None" else (UNKNOWN,)
        symbol = found.symbol
        if symbol.kind == "value" and isinstance(symbol.node, ast.AST):
            if isinstance(symbol.node, ast.Call):
                return (Hint("class", name),)
            return self.of(found.module, symbol.node, depth + 1)
        if isinstance(symbol.node, ast.ClassDef):
            return (self._class(found, symbol.node),)
        if symbol.kind == "import" and symbol.name in _CONTAINERS:
            return (Hint(_CONTAINERS[symbol.name]),)
        return (Hint("class", name),)

    def _class(self, found: Found, node: ast.ClassDef) -> Hint:
        bodies = class_bodies(self.modules, found.module, node)
        if any(is_dataclass(each) for _, each in bodies):
            place = (found.module.name, node.name)
            if place not in self._known:
                self._known[place] = self._keys.of(bodies, (node.name,))
            names, typed = self._known[place]
            return Hint("dataclass", node.name, values=names, keys=typed)
        bases = {ast.unparse(base).split("[")[0].split(".")[-1] for _, each in bodies for base in each.bases}
        if bases & {"Enum", "StrEnum", "IntEnum"}:
            return Hint("enum", node.name, values=tuple(enum_members(node)))
        if bases & {"dict", "UserDict", "OrderedDict", "defaultdict"}:
            return Hint("dict", node.name)
        return Hint("class", node.name)


def enum_members(node: ast.ClassDef) -> list[str]:
    """Names of an enumeration's members; of one with numbers nothing, because its numbers are taken too."""
    found: list[str] = []
    for statement in node.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            if isinstance(statement.value, ast.Constant) and isinstance(statement.value.value, int):
                return []
            if not statement.targets[0].id.startswith("_"):
                found.append(statement.targets[0].id)
    return found
