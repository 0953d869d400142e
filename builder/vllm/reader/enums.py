"""Enumerations of the package, as their source defines them."""

from __future__ import annotations

import ast
from dataclasses import dataclass


@dataclass(frozen=True)
class Enumeration:
    """An enumeration. `values` are empty when not all of them are texts, or all of them numbers."""

    name: str
    members: tuple[str, ...]
    values: tuple[object, ...]
    numbers: bool
    """Whether it is an `IntEnum`, whose values are known."""
    alternative: tuple[str, tuple[object, ...]]
    """What a field of this type takes, as `keys.Alternative`."""


def enumeration(node: ast.ClassDef) -> Enumeration | None:
    """None for a class that is no enumeration, or one whose members are not all written in it."""
    bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    if not bases & {"Enum", "StrEnum", "IntEnum"} or bases - {"Enum", "StrEnum", "IntEnum", "str", "int"}:
        return None
    members: dict[str, ast.expr] = {}
    for statement in node.body:
        if isinstance(statement, ast.Assign):
            value, target = statement.value, statement.targets[0]
            if len(statement.targets) > 1 or not isinstance(target, ast.Name) or target.id.startswith("_"):
                return None
            if isinstance(value, ast.Call) and ast.unparse(value.func) not in ("auto", "enum.auto"):
                return None
            members[target.id] = value
        elif isinstance(statement, ast.FunctionDef):
            if statement.name in ("_missing_", "__new__", "__init__", "_generate_next_value_"):
                return None
        elif not isinstance(statement, ast.Expr | ast.Pass):
            return None
    values = [each.value for each in members.values() if isinstance(each, ast.Constant)]
    numbers = "IntEnum" in bases and len(values) == len(members) and all(type(each) is int for each in values)
    texts = len(values) == len(members) and all(isinstance(each, str) for each in values) and not node.keywords
    known = tuple(values) if (numbers or texts) and members else ()
    # A class of classes of its own (`metaclass=`) may know more values.
    alternative: tuple[str, tuple[object, ...]] = ("member", (node.name,))
    if known and not node.keywords:
        alternative = ("numbers" if numbers else "enum", known)
    return Enumeration(node.name, tuple(members), known, numbers and not node.keywords, alternative)
