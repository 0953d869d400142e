"""Names that the package registers: parsers and quantization methods. Read, never imported. Attention backends are an
enumeration, which the flags' own types lead to."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from builder.vllm.reader.source import Source


@dataclass(frozen=True)
class Registries:
    """Registered names; None where they could not be read."""

    reasoning_parsers: frozenset[str] | None
    tool_parsers: frozenset[str] | None
    quantization: frozenset[str] | None
    deprecated_quantization: frozenset[str]


def read_registries(source: Source) -> Registries:
    """Read them where vLLM 0.19 to 0.33 have them."""
    package = source.package
    quantization = source.tree(f"{package}/model_executor/layers/quantization/__init__.py")
    return Registries(
        reasoning_parsers=_registered(
            source.tree(f"{package}/reasoning/__init__.py"), "_REASONING_PARSERS_TO_REGISTER"
        ),
        tool_parsers=_registered(source.tree(f"{package}/tool_parsers/__init__.py"), "_TOOL_PARSERS_TO_REGISTER"),
        quantization=_strings(_value(quantization, "QuantizationMethods")),
        deprecated_quantization=_strings(_value(quantization, "DEPRECATED_QUANTIZATION_METHODS")) or frozenset(),
    )


def _values(tree: ast.Module | None, name: str) -> Iterator[ast.expr]:
    for statement in tree.body if tree is not None else []:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        value = getattr(statement, "value", None)
        if isinstance(value, ast.expr) and any(isinstance(each, ast.Name) and each.id == name for each in targets):
            yield value


def _value(tree: ast.Module | None, name: str) -> ast.expr | None:
    return next(_values(tree, name), None)


def _registered(tree: ast.Module | None, table: str) -> frozenset[str] | None:
    """Keys of the table of lazy parsers, and names in direct calls of `register_lazy_module` and `register_module`."""
    value = _value(tree, table)
    if tree is None or not isinstance(value, ast.Dict):
        return None
    names = {key.value for key in value.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("register_lazy_module", "register_module"):
            first = (
                node.args[0] if node.args else next((each.value for each in node.keywords if each.arg == "name"), None)
            )
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                names.add(first.value)
    # `**OTHER` in the table: what else is registered is not known.
    return frozenset(names) if names and None not in value.keys else None


def _strings(value: ast.expr | None) -> frozenset[str] | None:
    """The strings of a `Literal[...]`, a list or a tuple; None when something else is among them."""
    if isinstance(value, ast.Subscript):
        parts = value.slice.elts if isinstance(value.slice, ast.Tuple) else [value.slice]
    elif isinstance(value, ast.List | ast.Tuple | ast.Set):
        parts = value.elts
    else:
        return None
    found = [each.value for each in parts if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return frozenset(found) if found and len(found) == len(parts) else None
