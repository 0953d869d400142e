"""The keys of a config class, and which values pydantic takes for each, as far as the source alone decides it.

What only running tells is left out: a validator that changes a value in a way that is not recognised here, a union with a type
of another package, a class with a schema of its own.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from builder.vllm.reader.enums import Enumeration, enumeration
from builder.vllm.reader.modules import Module, Modules, class_bodies, place
from builder.vllm.reader.translations import FOLD, SAME, Translation, lets_none_pass, translation

_DEPTH = 12
_NESTED = 3
"""Levels of config classes inside one another."""

Alternative = tuple[str, tuple[object, ...]]
"""One kind of value that is taken:

`none`, `bool`, `int`, `float`, `str`, `list`, `dict`; `object`, a JSON object for another config class; `literal` and `enum`, with
the values; `folded`, texts whose letter case and dashes do not matter; `names`, texts that name a member in any case; `numbers`, the
values of an `IntEnum`; `other`, what is not a text.
"""
Limits = tuple[tuple[str, float], ...]
Key = tuple[str, tuple[Alternative, ...], Limits, str]
"""A key's name, with those of the keys around it (`pass_config.enable_sp`), what it takes, limits of a number, and its place."""

_UNKNOWN: Alternative = ("unknown", ())
_NONE: Alternative = ("none", ())
_OBJECT_AS_DICT: dict[Alternative, Alternative] = {("object", ()): ("dict", ())}
_PLAIN = ("bool", "int", "float", "str", "list", "dict")
_CONTAINERS = {
    "list": "list", "List": "list", "Sequence": "list", "set": "list", "Set": "list", "tuple": "list", "Tuple": "list",
    "frozenset": "list", "dict": "dict", "Dict": "dict", "Mapping": "dict",
}  # fmt: skip
_OPTIONS = {"extra", "arbitrary_types_allowed", "title", "validate_assignment", "validate_default"}
"""Of pydantic's `ConfigDict`: those that leave alone which values are taken when they are given."""

Body = tuple[Module, ast.ClassDef]
_Validator = tuple[ast.FunctionDef, frozenset[str], str]
"""Its function, the names of its fields, and its mode (`after` when none is written)."""


@dataclass(frozen=True)
class _Annotated:
    alternatives: tuple[Alternative, ...]
    limits: Limits = ()
    nested: tuple[Body, ...] = ()
    """The config class of an `object`, with its bases."""
    enums: tuple[Enumeration, ...] = ()


class Keys:
    """Reads config classes."""

    def __init__(self, modules: Modules) -> None:
        self.modules = modules

    def of(self, bodies: Sequence[Body], within: tuple[str, ...] = ()) -> tuple[tuple[str, ...], tuple[Key, ...]]:
        """The names of all keys, empty when more may be taken, and those keys whose values are known.

        `bodies` are a class and its bases, the class first. Keys of config classes inside it follow, with a dot.
        """
        if any(_own_schema(body) or self._more_bases(module, body) for module, body in bodies):
            return (), ()
        names: list[str] = []
        inner: list[str] = []
        typed: list[Key] = []
        forbids = self._forbids(*bodies[0])
        validators = list(_validators(bodies))
        for module, statement in _fields(bodies):
            name = statement.target.id  # type: ignore[union-attr]
            if name in names:
                continue
            names.append(name)
            if forbids is None:
                continue
            found = self._field(module, statement, name, validators)
            if found is None:
                continue
            more, below = self._inside(found.nested, within)
            # Of an object whose keys are not known, only that it is one.
            kinds = (
                found.alternatives if more else tuple(_OBJECT_AS_DICT.get(each, each) for each in found.alternatives)
            )
            typed.append((name, kinds, found.limits, place(module, statement)))
            inner += [f"{name}.{each}" for each in more]
            typed += [(f"{name}.{each[0]}", *each[1:]) for each in below]
        return ((*names, *inner) if forbids else ()), tuple(typed)

    def _inside(self, bodies: Sequence[Body], within: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[Key, ...]]:
        if not bodies or len(within) >= _NESTED or bodies[0][1].name in within:
            return (), ()
        return self.of(bodies, (*within, bodies[0][1].name))

    def _more_bases(self, module: Module, node: ast.ClassDef) -> bool:
        """Whether a class has a base that is not a class of the package, and may bring fields."""
        for base in node.bases:
            found = self.modules.find(module, base.id) if isinstance(base, ast.Name) else None
            inside = found is not None and isinstance(found.symbol.node, ast.ClassDef)
            if not inside and ast.unparse(base) not in ("ABC", "object"):
                return True
        return False

    def _forbids(self, module: Module, node: ast.ClassDef) -> bool | None:
        """Whether keys that a class does not have are refused; None when pydantic does not judge its values, or not as usual."""
        for decorator in node.decorator_list:
            called = decorator if isinstance(decorator, ast.Call) else None
            name = called.func if called else decorator
            if not isinstance(name, ast.Name):
                continue
            options = next((each.value for each in called.keywords if each.arg == "config"), None) if called else None
            given = _options(options)
            if given is None:
                continue
            found = self.modules.find(module, name.id)
            if found is None:
                continue
            if name.id == "config" and isinstance(found.symbol.node, ast.FunctionDef):
                inside = self.modules.find(found.module, "dataclass")
                pydantic = inside is not None and inside.symbol.module.startswith("pydantic")
                forbids = "extra='forbid'" in ast.unparse(found.symbol.node)
                return given.get("extra", "forbid" if forbids else "ignore") == "forbid" if pydantic else None
            if name.id == "dataclass" and found.symbol.module.startswith("pydantic"):
                return given.get("extra") == "forbid"
        return None

    def _field(
        self, module: Module, node: ast.AnnAssign, name: str, validators: Sequence[_Validator]
    ) -> _Annotated | None:
        found = self._annotation(module, node.annotation)
        before, wrapped = [], []
        for function, fields, mode in validators:
            if name in fields or "*" in fields:
                if mode == "before":
                    before.append(function)
                elif mode in ("wrap", "plain"):
                    wrapped.append(function)
        alternatives = found.alternatives
        if before:
            changed = None
            if len(before) == 1:
                changed = _translated(found, translation(before[0]))
            if changed is None:
                return None
            alternatives = changed
        if wrapped:
            if not all(lets_none_pass(each) for each in wrapped):
                return None
            alternatives = (*alternatives, _NONE)
        if any(kind in ("unknown", "member") for kind, _ in alternatives):
            return None
        return _Annotated(
            tuple(dict.fromkeys(alternatives)), found.limits + tuple(field_limits(node.value)), found.nested
        )

    # --- annotations ------------------------------------------------------------------------------------------------

    def _annotation(self, module: Module, node: ast.AST | None, depth: int = 0) -> _Annotated:
        unknown = _Annotated((_UNKNOWN,))
        if node is None or depth > _DEPTH:
            return unknown
        if isinstance(node, ast.Constant):
            if node.value is None:
                return _Annotated((_NONE,))
            if isinstance(node.value, str):
                try:
                    return self._annotation(module, ast.parse(node.value, mode="eval").body, depth + 1)
                except (SyntaxError, ValueError, RecursionError):
                    return unknown
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return self._union(module, [node.left, node.right], depth)
        if isinstance(node, ast.Subscript):
            return self._subscript(module, node, depth)
        if isinstance(node, ast.Name):
            return self._named(module, node.id, depth)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found = self.modules.find(module, node.value.id)
            if found is not None and found.symbol.kind == "module":
                target = self.modules.get(found.symbol.module)
                return self._named(target, node.attr, depth) if target is not None else unknown
        return unknown

    def _union(self, module: Module, parts: Sequence[ast.AST], depth: int) -> _Annotated:
        found = [self._annotation(module, part, depth + 1) for part in parts]
        nested = [each.nested for each in found if each.nested]
        return _Annotated(
            tuple(alternative for each in found for alternative in each.alternatives),
            tuple(limit for each in found for limit in each.limits),
            nested[0] if len(nested) == 1 else (),
            tuple(enum for each in found for enum in each.enums),
        )

    def _subscript(self, module: Module, node: ast.Subscript, depth: int) -> _Annotated:
        outer = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if outer == "Literal":
            values = self._literal(module, parts, depth)
            return _Annotated((_UNKNOWN if values is None else ("literal", tuple(values)),))
        if outer == "Union":
            return self._union(module, parts, depth)
        if outer == "Optional":
            return self._union(module, [*parts, ast.Constant(None)], depth)
        if outer == "InitVar":
            return self._annotation(module, parts[0], depth + 1)
        if outer == "Annotated":
            plain = all(
                isinstance(part, ast.Call) and getattr(part.func, "id", getattr(part.func, "attr", "")) == "Field"
                for part in parts[1:]
            )
            if not plain:
                return _Annotated((_UNKNOWN,))
            found = self._annotation(module, parts[0], depth + 1)
            limits = tuple(limit for part in parts[1:] for limit in field_limits(part))
            return _Annotated(found.alternatives, found.limits + limits, found.nested, found.enums)
        kind = _CONTAINERS.get(outer)
        return _Annotated(((kind, ()) if kind is not None else _UNKNOWN,))

    def _literal(self, module: Module, parts: Sequence[ast.AST], depth: int) -> list[object] | None:
        """The values of a `Literal`, nested ones included; None when one of them is not known."""
        values: list[object] = []
        for part in parts:
            if isinstance(part, ast.Constant):
                values.append(part.value)
                continue
            try:
                values.append(ast.literal_eval(part))
                continue
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                pass
            found = self._annotation(module, part, depth + 1).alternatives
            if any(kind != "literal" for kind, _ in found):
                return None
            values += [value for _, inner in found for value in inner]
        return values

    def _named(self, module: Module, name: str, depth: int) -> _Annotated:
        found = self.modules.find(module, name)
        if found is None:
            kind = name if name in _PLAIN else _CONTAINERS.get(name)
            return _Annotated(((kind, ()) if kind is not None else _NONE if name == "None" else _UNKNOWN,))
        symbol = found.symbol
        if symbol.kind == "value" and isinstance(symbol.node, ast.AST) and not isinstance(symbol.node, ast.Call):
            return self._annotation(found.module, symbol.node, depth + 1)
        if isinstance(symbol.node, ast.ClassDef):
            return self._class(found.module, symbol.node)
        if symbol.kind == "import" and symbol.module in ("typing", "collections.abc"):
            kind = _CONTAINERS.get(symbol.name)
            return _Annotated(((kind, ()) if kind is not None else _UNKNOWN,))
        return _Annotated((_UNKNOWN,))

    def _class(self, module: Module, node: ast.ClassDef) -> _Annotated:
        if is_dataclass(node):
            bodies = tuple(class_bodies(self.modules, module, node))
            if self._forbids(module, node) is None or any(_own_schema(body) for _, body in bodies):
                return _Annotated((_UNKNOWN,))
            return _Annotated((("object", ()),), nested=bodies)
        found = enumeration(node)
        if found is None:
            return _Annotated((_UNKNOWN,))
        return _Annotated((found.alternative,), enums=(found,))


def _translated(found: _Annotated, changed: Translation | None) -> tuple[Alternative, ...] | None:
    """What is taken before a validator that changes values; None when that is not known."""
    if changed is None:
        return None
    if changed.kind == SAME:
        return found.alternatives if any(each.name == changed.name for _, each in found.nested[:1]) else None
    if changed.kind == FOLD:
        literal = [("folded", values) if kind == "literal" else (kind, values) for kind, values in found.alternatives]
        return tuple(literal) if all(kind in ("folded", "none") for kind, _ in literal) else None
    enums = [each for each in found.enums if each.name == changed.name]
    if len(enums) != 1 or len(found.enums) != 1:
        return None
    (enum,) = enums
    rest = [each for each in found.alternatives if each != enum.alternative]
    if any(each != _NONE for each in rest):
        return None
    names = tuple(name for name in enum.members if name == name.upper())
    numbers: Alternative = ("numbers", enum.values) if enum.numbers else ("other", ())
    return (("names", (*names, *changed.words)), numbers, *rest)


# --- classes --------------------------------------------------------------------------------------------------------


def _options(node: ast.expr | None) -> dict[str, object] | None:
    """The values of a `ConfigDict(...)`; None when it changes which values are taken, or cannot be read."""
    if node is None:
        return {}
    if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith("ConfigDict") or node.args:
        return None
    given: dict[str, object] = {}
    for keyword in node.keywords:
        if keyword.arg not in _OPTIONS or not isinstance(keyword.value, ast.Constant):
            return None
        given[keyword.arg] = keyword.value.value
    return given


def _own_schema(node: ast.ClassDef) -> bool:
    """Whether a class reads its values in a way of its own, before its fields are looked at."""
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef):
            if statement.name in ("__get_pydantic_core_schema__", "__new__", "__init__"):
                return True
            for each in statement.decorator_list:
                text = ast.unparse(each)
                if "model_validator" in text and "after" not in text:
                    return True
    return False


def _fields(bodies: Sequence[Body]) -> Iterator[tuple[Module, ast.AnnAssign]]:
    """The fields that may be given, those of the class before those of its bases."""
    for module, body in bodies:
        if not is_dataclass(body):
            continue
        for statement in body.body:
            if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
                continue
            annotation = statement.annotation
            outer = annotation.value if isinstance(annotation, ast.Subscript) else annotation
            if ast.unparse(outer).rpartition(".")[2] != "ClassVar" and not _not_given(statement.value):
                yield module, statement


def _not_given(value: ast.expr | None) -> bool:
    """Whether a field is made by the class alone: `field(init=False)`."""
    return isinstance(value, ast.Call) and any(
        each.arg == "init" and isinstance(each.value, ast.Constant) and each.value.value is False
        for each in value.keywords
    )


def _validators(bodies: Sequence[Body]) -> Iterator[_Validator]:
    """The validators of fields."""
    for _, body in bodies:
        for statement in body.body:
            if not isinstance(statement, ast.FunctionDef):
                continue
            for each in statement.decorator_list:
                if isinstance(each, ast.Call) and ast.unparse(each.func).endswith("validator"):
                    fields = {arg.value for arg in each.args if isinstance(arg, ast.Constant)}
                    if ast.unparse(each.func).endswith("model_validator"):
                        continue
                    mode = next((word.value for word in each.keywords if word.arg == "mode"), ast.Constant("after"))
                    known = isinstance(mode, ast.Constant) and len(fields) == len(each.args)
                    name = str(mode.value) if isinstance(mode, ast.Constant) else "plain"
                    yield statement, frozenset(map(str, fields)) if known else frozenset("*"), name


def is_dataclass(node: ast.ClassDef) -> bool:
    """Whether a class is decorated as vLLM's configs are."""
    names = [each.func if isinstance(each, ast.Call) else each for each in node.decorator_list]
    return any(
        (each.id if isinstance(each, ast.Name) else getattr(each, "attr", "")) in ("config", "dataclass")
        for each in names
    )


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
