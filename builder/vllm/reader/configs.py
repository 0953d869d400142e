"""Config classes of the package -> the keyword arguments that `get_kwargs` would make of their fields."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

from builder.vllm.reader.hints import Hint, Hints
from builder.vllm.reader.keys import field_limits, is_dataclass
from builder.vllm.reader.modules import Module, Modules, class_bodies, place
from builder.vllm.reader.values import ClassRef, Opaque, Unknown

Evaluate = Callable[[Module, ast.AST], Any]


@dataclass(frozen=True)
class Field:
    """One field of a config class."""

    name: str
    owner: str
    place: str
    hints: tuple[Hint, ...]
    default: Any
    doc: str
    limits: tuple[tuple[str, float], ...]
    fallback: Any = None
    """`DEFAULT_NAME` of the class, which replaces a default of "not set"."""


class Configs:
    """Fields of config classes."""

    def __init__(self, modules: Modules, evaluate: Evaluate) -> None:
        self.modules = modules
        self.hints = Hints(modules)
        self._evaluate = evaluate

    def fields(self, ref: ClassRef) -> dict[str, Field]:
        """The fields as `dataclasses.fields` gives them: bases first, an overridden one in its first place."""
        found: dict[str, Field] = {}
        for module, node in reversed(class_bodies(self.modules, ref.module, ref.node)):
            if is_dataclass(node):
                found |= {each.name: each for each in self._own(module, node)}
        return found

    def class_value(self, ref: ClassRef, name: str) -> Any:
        """`CLASS.name`: a field's default, a class variable, or a member of an enumeration."""
        for module, node in class_bodies(self.modules, ref.module, ref.node):
            for statement in node.body:
                target, value = _assigned(statement)
                if target != name or value is None:
                    continue
                if _is_enum(node):
                    return Opaque(f"{node.name}.{name}")
                return self._default(module, value, node)
        return Unknown(f"{ref.node.name}.{name}")

    def _own(self, module: Module, node: ast.ClassDef) -> Iterator[Field]:
        for index, statement in enumerate(node.body):
            if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
                continue
            outer = (
                statement.annotation.value if isinstance(statement.annotation, ast.Subscript) else statement.annotation
            )
            if isinstance(outer, ast.Name) and outer.id in ("ClassVar", "InitVar"):
                continue
            hints = self.hints.of(module, statement.annotation)
            yield Field(
                name=statement.target.id,
                owner=node.name,
                place=place(module, statement),
                hints=hints,
                default=self._default(module, statement.value, node) if statement.value else Unknown("no default"),
                doc=_doc(node.body[index + 1 : index + 2]),
                limits=tuple(field_limits(statement.value))
                + tuple(limit for each in hints for limit in each.constraints),
                fallback=self._fallback(module, node, statement.target.id),
            )

    def _fallback(self, module: Module, node: ast.ClassDef, name: str) -> Any:
        for statement in node.body:
            target, value = _assigned(statement)
            if target == f"DEFAULT_{name.upper()}" and value is not None:
                return self._evaluate(module, value)
        return None

    def _default(self, module: Module, value: ast.AST, owner: ast.ClassDef) -> Any:
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in ("Field", "field"):
            keywords = {each.arg: each.value for each in value.keywords}
            if "default" in keywords:
                return self._default(module, keywords["default"], owner)
            factory = keywords.get("default_factory")
            if factory is not None:
                return self._made(module, factory)
            return self._default(module, value.args[0], owner) if value.args else Unknown("no default")
        if isinstance(value, ast.Name):
            # A class variable of the same class: `Field(default=DEFAULT_MAX_NUM_SEQS)`.
            for statement in owner.body:
                target, assigned = _assigned(statement)
                if target == value.id and assigned is not None:
                    return self._evaluate(module, assigned)
        return self._evaluate(module, value)

    def _made(self, module: Module, factory: ast.AST) -> Any:
        if isinstance(factory, ast.Lambda):
            return self._evaluate(module, factory.body)
        if isinstance(factory, ast.Name) and factory.id in ("list", "dict", "set", "tuple"):
            return {"list": [], "dict": {}, "set": [], "tuple": []}[factory.id]
        return Unknown(f"made by {ast.unparse(factory)}")


class Table(MutableMapping[str, Any]):
    """`get_kwargs(CLASS)`: field name -> keyword arguments, made when they are asked for. What is set stays set."""

    def __init__(self, fields: dict[str, Field], make: Callable[[Field], dict[str, Any]]) -> None:
        self._fields = fields
        self._make = make
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = self._make(self._fields[name])
        return self._made[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._made[name] = value
        if name not in self._fields:
            raise KeyError(name)

    def __delitem__(self, name: str) -> None:
        self._fields = {key: value for key, value in self._fields.items() if key != name}
        self._made.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._fields))

    def __len__(self) -> int:
        return len(self._fields)


def kwargs_of(entry: Field, *, human: set[str], optional_switch: bool) -> dict[str, Any]:
    """What `_compute_kwargs` makes of one field. `_field` is ours: the field itself, for limits, text and place.

    `human` are the fields that take numbers such as `16k`; `optional_switch` tells whether this release turns
    `bool | str | None` into a flag with an optional value.
    """
    kinds = {hint.kind for hint in entry.hints}
    made: dict[str, Any] = {"default": entry.default, "help": entry.doc, "_field": entry}
    if "dataclass" in kinds:
        inner = next(hint for hint in entry.hints if hint.kind == "dataclass")
        made |= {"type": Opaque("config", inner.name), "_keys": inner.values, "_typed": inner.keys}
    elif optional_switch and kinds == {"bool", "str", "none"}:
        made |= {"type": Opaque("str"), "nargs": "?", "const": True}
    elif "bool" in kinds:
        made["action"] = Opaque("argparse.BooleanOptionalAction")
        return made
    elif "literal" in kinds:
        made |= _literal(entry.hints)
    elif kinds & {"tuple", "list", "set"}:
        made |= _sequence(next(hint for kind in ("tuple", "list", "set") for hint in entry.hints if hint.kind == kind))
    elif "int" in kinds:
        name = {"max_model_len": "human_int_or_auto"}.get(entry.name, "human_int" if entry.name in human else "int")
        made["type"] = Opaque(name)
    elif "float" in kinds:
        made["type"] = Opaque("float")
    elif "dict" in kinds:
        other = "str" in kinds or kinds & {"class", "enum", "unknown"}
        made["type"] = Opaque("union_dict_and_str" if other else "json")
    elif "enum" in kinds:
        made["type"] = Opaque("str")
        if "str" not in kinds:
            made["_members"] = next(hint.values for hint in entry.hints if hint.kind == "enum")
    elif kinds & {"str", "class"}:
        made["type"] = Opaque("str")
    else:
        made["type"] = Unknown(f"the type of {entry.owner}.{entry.name}")
    if "none" in kinds:
        made["type"] = Opaque("optional", made["type"])
    return made


def _literal(hints: tuple[Hint, ...]) -> dict[str, Any]:
    values = next(hint.values for hint in hints if hint.kind == "literal")
    kind = type(values[0]).__name__ if values else "str"
    if any(hint.kind == "str" for hint in hints):
        return {"type": Opaque(kind), "metavar": list(values)}
    return {"type": Opaque(kind), "choices": sorted(values, key=str)}


def _sequence(hint: Hint) -> dict[str, Any]:
    inner = {each.kind for each in hint.inner}
    made: dict[str, Any] = {"nargs": "+" if hint.length is None else hint.length}
    if inner == {"literal"}:
        return made | _literal(hint.inner)
    made["type"] = (
        Opaque(next(iter(inner))) if len(inner) == 1 and inner <= {"int", "float", "str", "bool"} else Opaque("str")
    )
    return made


def _assigned(statement: ast.stmt) -> tuple[str, ast.AST | None]:
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return statement.target.id, statement.value
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id, statement.value
    return "", None


def _is_enum(node: ast.ClassDef) -> bool:
    return any(ast.unparse(base).endswith("Enum") for base in node.bases)


def _doc(following: list[ast.stmt]) -> str:
    """The text under a field, as vLLM documents its options."""
    if following and isinstance(following[0], ast.Expr) and isinstance(following[0].value, ast.Constant):
        value = following[0].value.value
        return value.strip() if isinstance(value, str) else ""
    return ""


def human_names(modules: Modules) -> tuple[set[str], bool]:
    """Fields that take numbers such as `16k`, and whether `bool | str | None` makes an optional value: both are written as
    constants in the function that turns fields into keyword arguments."""
    module = modules.get(f"{modules.source.package}.engine.arg_utils")
    for name in ("_compute_kwargs", "get_kwargs"):
        symbol = module.symbols.get(name) if module is not None else None
        if symbol is None or not isinstance(symbol.node, ast.FunctionDef):
            continue
        words = {
            each.value
            for each in ast.walk(symbol.node)
            if isinstance(each, ast.Constant) and isinstance(each.value, str)
        }
        if "default" in words:
            return {each for each in words if each.isidentifier() and "_" in each}, "const" in words
    return set(), False
