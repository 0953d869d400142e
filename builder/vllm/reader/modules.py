"""Names in the package's modules, followed through imports, as Python would find them at run time, without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from builder.vllm.reader.source import Source

_DEPTH = 12

Kind = Literal["import", "module", "value", "class", "function"]


@dataclass(frozen=True)
class Symbol:
    """What a name refers to at the top of a module."""

    kind: Kind
    node: ast.AST | None = field(default=None, repr=False)
    module: str = ""
    """For an import: the module that is imported, or imported from."""
    name: str = ""
    """For `from MODULE import NAME`."""


@dataclass
class Module:
    """A parsed module and its top-level names."""

    name: str
    path: str
    tree: ast.Module = field(repr=False)
    symbols: dict[str, Symbol] = field(default_factory=dict, repr=False)
    stars: list[str] = field(default_factory=list, repr=False)
    """Modules of `from MODULE import *`."""


@dataclass(frozen=True)
class Found:
    """A symbol with the module that defines it."""

    module: Module
    symbol: Symbol


class Modules:
    """The package's modules, by dotted name."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._known: dict[str, Module | None] = {}

    def get(self, name: str) -> Module | None:
        """A module of the package; None when it is missing, another package's, or not readable."""
        if name not in self._known:
            self._known[name] = self._load(name)
        return self._known[name]

    def at(self, path: str) -> Module | None:
        """The module at a path, such as `vllm/engine/arg_utils.py`."""
        return self.get(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))

    def _load(self, name: str) -> Module | None:
        if name.split(".", maxsplit=1)[0] != self.source.package:
            return None
        base = name.replace(".", "/")
        for path in (f"{base}.py", f"{base}/__init__.py"):
            tree = self.source.tree(path)
            if tree is not None:
                module = Module(name, path, tree)
                module.symbols = _symbols(tree, name, is_package=path.endswith("/__init__.py"))
                module.stars = [each.module for key, each in module.symbols.items() if key.startswith("*")]
                return module
        return None

    def find(self, module: Module, name: str, depth: int = 0) -> Found | None:
        """What `name` refers to in `module`; imports are followed inside the package, others come back as they are."""
        symbol = module.symbols.get(name)
        if depth > _DEPTH:
            return None
        if symbol is None:
            starred = (self.get(each) for each in module.stars)
            found_there = (self.find(each, name, depth + 1) for each in starred if each is not None)
            return next((found for found in found_there if found is not None), None)
        if symbol.kind != "import":
            return Found(module, symbol)
        if symbol.module.split(".")[0] != self.source.package:
            return Found(module, symbol)
        target = self.get(symbol.module)
        if target is not None:
            found = self.find(target, symbol.name, depth + 1)
            if found is not None:
                return found
        if self.get(f"{symbol.module}.{symbol.name}") is not None:
            return Found(module, Symbol("module", module=f"{symbol.module}.{symbol.name}"))
        return None


def _symbols(tree: ast.Module, name: str, *, is_package: bool) -> dict[str, Symbol]:
    package = name if is_package else name.rpartition(".")[0]
    symbols: dict[str, Symbol] = {}
    for statement, typing_only in _statements(tree.body):
        for key, symbol in _defined(statement, package):
            if typing_only:
                # Imported for type checkers only: better than nothing when the name has no meaning at run time.
                symbols.setdefault(key, symbol)
            else:
                symbols[key] = symbol
    return symbols


def _statements(body: Sequence[ast.stmt], *, typing_only: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Top-level statements, those in `if` and `try` included, with whether only a type checker reaches them."""
    for statement in body:
        if isinstance(statement, ast.If):
            checking = isinstance(statement.test, ast.Name) and statement.test.id == "TYPE_CHECKING"
            yield from _statements(statement.body, typing_only=typing_only or checking)
            yield from _statements(statement.orelse, typing_only=typing_only)
        elif isinstance(statement, ast.Try):
            for part in (*(handler.body for handler in statement.handlers), statement.body):
                yield from _statements(part, typing_only=typing_only)
        else:
            yield statement, typing_only


def _defined(statement: ast.stmt, package: str) -> Iterator[tuple[str, Symbol]]:
    if isinstance(statement, ast.ClassDef):
        yield statement.name, Symbol("class", statement)
    elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        yield statement.name, Symbol("function", statement)
    elif isinstance(statement, ast.Assign):
        for target in statement.targets:
            if isinstance(target, ast.Name):
                yield target.id, Symbol("value", statement.value)
    elif isinstance(statement, ast.AnnAssign):
        if isinstance(statement.target, ast.Name) and statement.value is not None:
            yield statement.target.id, Symbol("value", statement.value)
    elif isinstance(statement, ast.Import):
        for alias in statement.names:
            if alias.asname:
                yield alias.asname, Symbol("module", module=alias.name)
            else:
                top = alias.name.split(".")[0]
                yield top, Symbol("module", module=top)
    elif isinstance(statement, ast.ImportFrom):
        origin = statement.module or ""
        if statement.level:
            parts = package.split(".")
            above = parts[: len(parts) - statement.level + 1]
            origin = ".".join([*above, origin] if origin else above)
        for alias in statement.names:
            key = f"*{origin}" if alias.name == "*" else alias.asname or alias.name
            yield key, Symbol("import", module=origin, name=alias.name)
    elif hasattr(ast, "TypeAlias") and isinstance(statement, ast.TypeAlias):
        yield statement.name.id, Symbol("value", statement.value)


def place(module: Module, node: ast.AST) -> str:
    """`vllm/config/cache.py:51`."""
    return f"{module.path}:{getattr(node, 'lineno', 1)}"


def class_bodies(
    modules: Modules, module: Module, node: ast.ClassDef, depth: int = 0
) -> list[tuple[Module, ast.ClassDef]]:
    """A class and its bases inside the package, the class itself first."""
    found = [(module, node)]
    if depth > _DEPTH:
        return found
    for base in node.bases:
        if isinstance(base, ast.Name):
            above = modules.find(module, base.id)
            if above is not None and isinstance(above.symbol.node, ast.ClassDef):
                found += class_bodies(modules, above.module, above.symbol.node, depth + 1)
    return found
