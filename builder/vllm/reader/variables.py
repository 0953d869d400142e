"""The environment variables that the package knows: `vllm/envs.py`, read by `ast`, with the type that each is read as."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from builder.vllm.reader.source import Source

Kind = Literal["text", "flag", "int", "float", "json", "choice", "choices", "words"]
"""`flag` is read by `bool(int(...))`; `choices` is a list with commas; `words` compares with words that switch it on."""

_CHOICES: Mapping[str, Kind] = {
    "env_with_choices": "choice", "env_list_with_choices": "choices", "env_set_with_choices": "choices",
}  # fmt: skip
_CONVERSIONS: Mapping[str, Kind] = {
    "int": "int", "float": "float", "maybe_convert_int": "int", "maybe_convert_bool": "flag", "json.loads": "json",
}  # fmt: skip


@dataclass(frozen=True)
class Variable:
    """One variable. `words` are the values that it takes (`choice`) or that are compared with (`words`)."""

    name: str
    kind: Kind
    place: str
    words: tuple[str, ...] = ()
    any_case: bool = False
    deprecated: str | None = None
    """What the source says about its deprecation; empty when it says no more than that."""


def read_variables(source: Source) -> Mapping[str, Variable] | None:
    """The variables by name, None when `envs.py` cannot be read or has another form."""
    path = f"{source.package}/envs.py"
    tree, text = source.tree(path), source.text(path)
    if tree is None or text is None:
        return None
    table = _table(tree)
    if table is None:
        return None
    lines = text.splitlines()
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    found: dict[str, Variable] = {}
    for key, value in zip(table.keys, table.values, strict=True):
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            found[key.value] = _variable(key.value, key.lineno, value, lines, path, functions)
    return found or None


def _table(tree: ast.Module) -> ast.Dict | None:
    for node in tree.body:
        targets = (
            [node.target] if isinstance(node, ast.AnnAssign) else node.targets if isinstance(node, ast.Assign) else []
        )
        named = any(isinstance(each, ast.Name) and each.id == "environment_variables" for each in targets)
        if named and isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            return node.value
    return None


def _variable(
    name: str, line: int, value: ast.expr, lines: list[str], path: str, functions: Mapping[str, ast.FunctionDef]
) -> Variable:
    deprecated = _comment(lines, line)
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "deprecated_env" and len(value.args) == 4:
        texts = [
            each.value for each in value.args[1:3] if isinstance(each, ast.Constant) and isinstance(each.value, str)
        ]
        deprecated = f"it goes in {texts[0]}. {texts[1]}" if len(texts) == 2 else ""
        value = value.args[3]
    if deprecated is None and any("deprecat" in called.lower() for called in _called(value)):
        deprecated = ""
    place = f"{path}:{line}"
    if isinstance(value, ast.Call) and (kind := _CHOICES.get(ast.unparse(value.func))) is not None:
        words, any_case = _choices(value)
        return Variable(name, kind if words else "text", place, words, any_case, deprecated)
    if isinstance(value, ast.Name) and value.id in functions:
        # A function that reads the variable itself, such as `disable_compile_cache`.
        return Variable(name, _kind_of(functions[value.id], name)[0], place, deprecated=deprecated)
    kind, words = _kind_of(value, name)
    any_case = kind == "words" and ".lower()" in ast.unparse(value)
    return Variable(name, kind, place, words, any_case, deprecated)


def _comment(lines: list[str], line: int) -> str | None:
    """What the comment above a key says from the word "deprecated" on; None when it does not say it."""
    above: list[str] = []
    at = line - 2
    while at >= 0 and lines[at].strip().startswith("#"):
        above.insert(0, lines[at].strip().lstrip("# "))
        at -= 1
    text = " ".join(above)
    start = text.lower().find("deprecated")
    return text[start + len("deprecated") :].lstrip(": .-]").strip() if start >= 0 else None


def _called(value: ast.AST) -> Iterator[str]:
    return (ast.unparse(node.func) for node in ast.walk(value) if isinstance(node, ast.Call))


def _choices(call: ast.Call) -> tuple[tuple[str, ...], bool]:
    named = {each.arg: each.value for each in call.keywords}
    listed = named.get("choices", call.args[2] if len(call.args) > 2 else None)
    sensitive = named.get("case_sensitive", call.args[3] if len(call.args) > 3 else None)
    if not isinstance(listed, ast.List | ast.Tuple):
        return (), False
    words = tuple(each.value for each in listed.elts if isinstance(each, ast.Constant) and isinstance(each.value, str))
    any_case = isinstance(sensitive, ast.Constant) and sensitive.value is False
    return (words if len(words) == len(listed.elts) else ()), any_case


def _kind_of(value: ast.AST, name: str) -> tuple[Kind, tuple[str, ...]]:
    """How the text of a variable is converted where it is read; `text` where nothing that is known is done with it."""
    aliases = {
        target.id
        for node in ast.walk(value)
        if isinstance(node, ast.Assign) and _reads(node.value, name)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(value):
        if isinstance(node, ast.Compare) and _reads(node.left, name, aliases) and len(node.ops) == 1:
            words = _words(node.comparators[0])
            if words and isinstance(node.ops[0], ast.In | ast.Eq):
                return "words", words
    kinds = [
        (_CONVERSIONS[ast.unparse(node.func)], node)
        for node in ast.walk(value)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in _CONVERSIONS
        and any(_reads(each, name, aliases) for each in node.args)
    ]
    if not kinds:
        return "text", ()
    kind, inner = kinds[0]
    wrapped = any(
        isinstance(node, ast.Call) and ast.unparse(node.func) == "bool" and inner in node.args
        for node in ast.walk(value)
    )
    return ("flag" if kind == "int" and wrapped else kind), ()


def _reads(node: ast.AST, name: str, aliases: Collection[str] = ()) -> bool:
    """Whether an expression is about the variable's own text: `os.getenv(NAME, ...)`, `os.environ[NAME]`, or one of `aliases`."""
    for each in ast.walk(node):
        if isinstance(each, ast.Name) and each.id in aliases:
            return True
        arguments = (
            each.args[:1] if isinstance(each, ast.Call) else [each.slice] if isinstance(each, ast.Subscript) else []
        )
        if any(isinstance(argument, ast.Constant) and argument.value == name for argument in arguments):
            return True
    return False


def _words(node: ast.expr) -> tuple[str, ...]:
    listed = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    return tuple(each.value for each in listed if isinstance(each, ast.Constant) and isinstance(each.value, str))
