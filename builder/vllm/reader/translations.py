"""Validators of fields that run before pydantic's own: what they make of a value, where they have one of a few known forms."""

from __future__ import annotations

import ast
from dataclasses import dataclass

MEMBER, FOLD, SAME = "member", "fold", "same"


@dataclass(frozen=True)
class Translation:
    """`MEMBER`: a text names a member of the enumeration `name`, in any letter case, or is one of `words`. `FOLD`: a text loses its
    capitals, and its dashes become underscores. `SAME`: a JSON object becomes the class `name`, as it would anyway."""

    kind: str
    name: str = ""
    words: tuple[str, ...] = ()


def translation(function: ast.FunctionDef) -> Translation | None:
    """What a validator with `mode="before"` makes of a value; None when it has none of the known forms.

    The forms are those of `vllm/config` from 0.19 to 0.33: `if isinstance(value, str): ...; return value`.
    """
    body = _body(function)
    arguments = function.args.args
    if len(arguments) != 2 or len(body) != 2:
        return None
    value, (test, last) = arguments[1].arg, body
    if not isinstance(test, ast.If) or test.orelse or ast.unparse(last) != f"return {value}":
        return None
    if ast.unparse(test.test) == f"isinstance({value}, dict)":
        return _same(test.body, value)
    return _of_text(test.body, value) if ast.unparse(test.test) == f"isinstance({value}, str)" else None


def lets_none_pass(function: ast.FunctionDef) -> bool:
    """Whether a validator with `mode="wrap"` takes `None`, and leaves everything else to pydantic."""
    body, arguments = _body(function), function.args.args
    if len(arguments) != 3 or len(body) != 2:
        return False
    value, handler = arguments[1].arg, arguments[2].arg
    return [ast.unparse(each) for each in body] == [
        f"if {value} is None:\n    return {value}",
        f"return {handler}({value})",
    ]


def _body(function: ast.FunctionDef) -> list[ast.stmt]:
    first = function.body[0]
    text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return function.body[1:] if text else function.body


def _same(body: list[ast.stmt], value: str) -> Translation | None:
    if len(body) != 1 or not isinstance(body[0], ast.Return) or not isinstance(body[0].value, ast.Call):
        return None
    call = body[0].value
    plain = isinstance(call.func, ast.Name) and ast.unparse(call) == f"{call.func.id}(**{value})"
    return Translation(SAME, call.func.id) if plain and isinstance(call.func, ast.Name) else None


def _of_text(body: list[ast.stmt], value: str) -> Translation | None:
    raised = {f"{value}.upper()"}
    words: list[str] = []
    for statement in body[:-1]:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.value) == f"{value}.upper()":
            raised |= {each.id for each in statement.targets if isinstance(each, ast.Name)}
        elif isinstance(statement, ast.If) and not statement.orelse and len(statement.body) == 1:
            word = _word(statement, value)
            if word is not None:
                words.append(word)
            elif not isinstance(statement.body[0], ast.Raise):
                return None
        else:
            return None
    last = body[-1].value if isinstance(body[-1], ast.Return) else None
    if last is not None and ast.unparse(last) == f"{value}.lower().replace('-', '_')":
        return Translation(FOLD) if len(body) == 1 else None
    if isinstance(last, ast.Subscript) and isinstance(last.value, ast.Name) and ast.unparse(last.slice) in raised:
        return Translation(MEMBER, last.value.id, tuple(words))
    return None


def _word(statement: ast.If, value: str) -> str | None:
    """`auto` of `if value.lower() == "auto": return None`."""
    test = statement.test
    if ast.unparse(statement.body[0]) != "return None" or not isinstance(test, ast.Compare):
        return None
    other = test.comparators[0]
    lowered = ast.unparse(test.left) == f"{value}.lower()" and isinstance(test.ops[0], ast.Eq) and len(test.ops) == 1
    return other.value if lowered and isinstance(other, ast.Constant) and isinstance(other.value, str) else None
