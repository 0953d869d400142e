"""What an annotation in the package tells about a flag's value.

The order of the questions is that of `_compute_kwargs` in `vllm/engine/arg_utils.py` (0.19 to 0.33).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from builder.vllm.reader.modules import Found, Module, Modules, class_bodies

_DEPTH = 12
_BUILTIN = {"bool", "int", "float", "str", "dict", "list", "tuple", "set", "bytes"}
_CONTAINERS = {
    "List": "list", "Dict": "dict", "Tuple": "tuple", "Set": "set", "Sequence": "list", "Mapping": "dict", "frozenset": "set",
}  # fmt: skip


# A key of a JSON object: its name, `int`, `float`, `bool` or `literal`, a literal's values, and limits of a number.
Key = tuple[str, str, tuple[object, ...], tuple[tuple[str, float], ...]]


@dataclass(frozen=True)
class Hint:
    """One possible type of a value."""

    kind: str
    """A built-in's name, or `none`, `literal`, `dataclass`, `enum`, `class`, `unknown`."""
    name: str = ""
    values: tuple[object, ...] = ()
    """Of a literal its values; of an enumeration its members' names; of a dataclass its fields' names, empty when more
    keys than these may be taken."""
    inner: tuple[Hint, ...] = ()
    """Of a list, tuple or set: what its elements can be."""
    length: int | None = None
    """Of a tuple without an ellipsis."""
    constraints: tuple[tuple[str, float], ...] = ()
    keys: tuple[Key, ...] = ()
    """Of a dataclass: the fields whose values are known."""


UNKNOWN = Hint("unknown")


class Hints:
    """Reads annotations."""

    def __init__(self, modules: Modules) -> None:
        self.modules = modules

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
            return Hint(
                "dataclass", node.name, values=_keys([each for _, each in bodies]), keys=tuple(self._typed(bodies))
            )
        bases = {ast.unparse(base).split("[")[0].split(".")[-1] for _, each in bodies for base in each.bases}
        if bases & {"Enum", "StrEnum", "IntEnum"}:
            return Hint("enum", node.name, values=tuple(enum_members(node)))
        if bases & {"dict", "UserDict", "OrderedDict", "defaultdict"}:
            return Hint("dict", node.name)
        return Hint("class", node.name)

    def _typed(self, bodies: Sequence[tuple[Module, ast.ClassDef]]) -> Iterator[Key]:
        """The fields of a config whose annotation is one plain type, or literals. Classes are not followed: they may refer
        to one another."""
        for module, body in bodies:
            for statement in body.body:
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    found = self._plain(module, statement.annotation)
                    kinds = {each.kind for each in found or ()} - {"none"}
                    if found is not None and len(kinds) == 1:
                        values = tuple(value for each in found for value in each.values)
                        yield statement.target.id, kinds.pop(), values, tuple(field_limits(statement.value))

    def _plain(self, module: Module, node: ast.AST, depth: int = 0) -> list[Hint] | None:
        """The alternatives of an annotation of plain types, `None` and literals; None for any other."""
        if depth > _DEPTH:
            return None
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            left, right = (self._plain(module, each, depth + 1) for each in (node.left, node.right))
            return None if left is None or right is None else left + right
        if isinstance(node, ast.Constant) and node.value is None:
            return [Hint("none")]
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
            parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            if node.value.id == "Literal":
                return [Hint("literal", values=tuple(self.literal(module, parts)))]
            wrapped = node.value.id in ("Optional", "SkipValidation")
            return self._plain(module, parts[0], depth + 1) if wrapped else None
        if isinstance(node, ast.Name):
            found = self.modules.find(module, node.id)
            if found is None:
                return [Hint(node.id)] if node.id in ("bool", "int", "float") else None
            if found.symbol.kind == "value" and isinstance(found.symbol.node, ast.AST):
                return self._plain(found.module, found.symbol.node, depth + 1)
        return None


def is_dataclass(node: ast.ClassDef) -> bool:
    """Whether a class is decorated as vLLM's configs are."""
    names = [each.func if isinstance(each, ast.Call) else each for each in node.decorator_list]
    return any(
        (each.id if isinstance(each, ast.Name) else getattr(each, "attr", "")) in ("config", "dataclass")
        for each in names
    )


def _keys(bodies: Sequence[ast.ClassDef]) -> tuple[str, ...]:
    names: list[str] = []
    for body in bodies:
        for statement in body.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                names.append(statement.target.id)
            elif isinstance(statement, ast.FunctionDef) and any(
                "model_validator" in (text := ast.unparse(each)) and "before" in text
                for each in statement.decorator_list
            ):
                # It may rename keys before they are checked.
                return ()
    return tuple(names)


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


def field_limits(node: ast.AST | None) -> list[tuple[str, float]]:
    """`gt`, `ge`, `lt`, `le` and `multiple_of` of a pydantic `Field(...)`."""
    if not isinstance(node, ast.Call):
        return []
    limits = []
    for keyword in node.keywords:
        if keyword.arg in ("gt", "ge", "lt", "le", "multiple_of"):
            try:
                value = ast.literal_eval(keyword.value)
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(value, int | float) and not isinstance(value, bool):
                limits.append((keyword.arg, float(value)))
    return limits
