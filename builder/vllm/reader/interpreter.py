"""Walks the functions that add flags to vLLM's argument parser, as far as the source alone decides what they do.

Nothing is imported or run. What cannot be followed becomes `Unknown`; a flag that depends on it becomes a gap, and a gap
makes the linter say "not checked" instead of "no such flag".
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from builder.vllm.reader.configs import Configs, Table, human_names, kwargs_of
from builder.vllm.reader.modules import Found, Module, Modules, class_bodies, place
from builder.vllm.reader.values import ClassRef, FunctionRef, Opaque, ParserRef, Unknown

_DEPTH = 12
_STEPS = 60_000
_STRING_METHODS = {"replace", "lower", "upper", "strip", "removeprefix", "removesuffix", "format", "join"}
_CONSTRUCTORS: Mapping[str, Callable[..., Any]] = {
    "list": list, "dict": dict, "set": list, "sorted": sorted, "tuple": list, "int": int, "str": str, "len": len,
}  # fmt: skip

Locals = dict[str, Any]
Add = Callable[[Module, ast.Call, list[Any], dict[str, Any]], None]


class _Return(Exception):  # noqa: N818  control flow
    def __init__(self, value: Any) -> None:
        self.value = value


class Interpreter:
    """Evaluates expressions and runs the functions that build the parser. `add` gets each `add_argument` call."""

    def __init__(self, modules: Modules, add: Add, gap: Callable[[str], None]) -> None:
        self.modules = modules
        self.configs = Configs(modules, lambda module, node: self.value(module, node, {}))
        self._add = add
        self._gap = gap
        self._steps = 0
        self._human, self._optional_switch = human_names(modules)

    # --- statements -------------------------------------------------------------------------------------------------

    def call(self, function: FunctionRef, arguments: Locals, depth: int = 0) -> Any:
        """Run a function of the package with arguments by name; returns its value, None when it has none."""
        if depth > _DEPTH:
            self._gap(f"{place(function.module, function.node)}: calls go too deep")
            return Unknown("too deep")
        local = dict(arguments)
        positional = [*function.node.args.posonlyargs, *function.node.args.args]
        defaults = function.node.args.defaults
        for argument, default in zip(positional[len(positional) - len(defaults) :], defaults, strict=True):
            if argument.arg not in local:
                local[argument.arg] = self.value(function.module, default, {})
        if function.owner is not None:
            local.setdefault("cls", function.owner)
        try:
            self._body(function.module, function.node.body, local, depth, function)
        except _Return as done:
            return done.value
        return None

    def _body(self, module: Module, body: list[ast.stmt], local: Locals, depth: int, within: FunctionRef) -> None:
        for statement in body:
            self._steps += 1
            if self._steps > _STEPS:
                self._gap(f"{place(module, statement)}: more steps than a parser takes")
                raise _Return(Unknown("too long"))
            self._statement(module, statement, local, depth, within)

    def _statement(self, module: Module, node: ast.stmt, local: Locals, depth: int, within: FunctionRef) -> None:
        if isinstance(node, ast.Return):
            raise _Return(self.value(module, node.value, local, depth, within) if node.value else None)
        if isinstance(node, ast.Expr):
            self.value(module, node.value, local, depth, within)
        elif isinstance(node, ast.Assign):
            value = self.value(module, node.value, local, depth, within)
            for target in node.targets:
                self._assign(module, target, value, local, depth, within)
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            value = self.value(module, node.value, local, depth, within)
            self._assign(module, node.target, value, local, depth, within)
        elif isinstance(node, ast.AugAssign):
            joined = ast.BinOp(_loaded(node.target), node.op, node.value)
            self._assign(module, node.target, self.value(module, joined, local, depth, within), local, depth, within)
        elif isinstance(node, ast.Delete):
            for target in node.targets:
                if isinstance(target, ast.Subscript):
                    holder = self.value(module, target.value, local, depth, within)
                    key = self.value(module, target.slice, local, depth, within)
                    if isinstance(holder, dict | Table) and isinstance(key, str) and key in holder:
                        del holder[key]
        elif isinstance(node, ast.If):
            decided = self.value(module, node.test, local, depth, within)
            if isinstance(decided, Unknown | Opaque) or decided:
                self._body(module, node.body, local, depth, within)
            if isinstance(decided, Unknown | Opaque) or not decided:
                self._body(module, node.orelse, local, depth, within)
        elif isinstance(node, ast.For):
            self._loop(module, node, local, depth, within)
        elif isinstance(node, ast.With | ast.Try):
            self._body(module, node.body, local, depth, within)
        elif isinstance(node, ast.While) and _adds(node):
            self._gap(f"{place(module, node)}: flags are added in a loop that only running decides")

    def _loop(self, module: Module, node: ast.For, local: Locals, depth: int, within: FunctionRef) -> None:
        items = self.value(module, node.iter, local, depth, within)
        if not isinstance(items, list | tuple | dict):
            if _adds(node):
                self._gap(f"{place(module, node)}: flags are added for each of {ast.unparse(node.iter)[:60]}")
            return
        for item in islice(items, 5000):
            self._assign(module, node.target, item, local, depth, within)
            self._body(module, node.body, local, depth, within)

    def _assign(
        self, module: Module, target: ast.AST, value: Any, local: Locals, depth: int, within: FunctionRef | None
    ) -> None:
        if isinstance(target, ast.Name):
            local[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            parts = list(value) if isinstance(value, list | tuple) and len(value) == len(target.elts) else None
            for index, each in enumerate(target.elts):
                self._assign(module, each, parts[index] if parts else Unknown("unpacked"), local, depth, within)
        elif isinstance(target, ast.Subscript):
            holder = self.value(module, target.value, local, depth, within)
            key = self.value(module, target.slice, local, depth, within)
            if isinstance(holder, dict | Table) and isinstance(key, str):
                holder[key] = value

    # --- expressions ------------------------------------------------------------------------------------------------

    def value(
        self, module: Module, node: ast.AST | None, local: Locals, depth: int = 0, within: FunctionRef | None = None
    ) -> Any:
        """The value of an expression, or `Unknown`. Never raises for anything that the source may hold."""
        if depth > 3 * _DEPTH:
            return Unknown("too deep")
        handler = getattr(self, f"_on_{type(node).__name__.lower()}", None)
        if handler is None:
            return Unknown(ast.unparse(node)[:80] if node is not None else "nothing")
        try:
            return handler(module, node, local, depth + 1, within)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, ZeroDivisionError):
            return Unknown(ast.unparse(node)[:80] if node is not None else "nothing")

    def _on_constant(self, module: Module, node: ast.Constant, local: Locals, depth: int, within: Any) -> Any:  # noqa: ARG002
        return node.value

    def _on_lambda(self, module: Module, node: ast.Lambda, local: Locals, depth: int, within: Any) -> Any:  # noqa: ARG002
        return Opaque("lambda", ast.unparse(node.body))

    def _on_joinedstr(self, module: Module, node: ast.JoinedStr, local: Locals, depth: int, within: Any) -> Any:
        parts = []
        for part in node.values:
            inner = part.value if isinstance(part, ast.FormattedValue) else part
            value = self.value(module, inner, local, depth, within)
            if not isinstance(value, str | int):
                return Unknown("a text that only running makes")
            parts.append(str(value))
        return "".join(parts)

    def _on_name(self, module: Module, node: ast.Name, local: Locals, depth: int, within: Any) -> Any:
        if node.id in local:
            return local[node.id]
        found = self.modules.find(module, node.id)
        if found is None:
            return Opaque(node.id)
        return self._symbol(found, node.id, depth, within)

    def _symbol(self, found: Found, name: str, depth: int, within: Any) -> Any:
        symbol = found.symbol
        if isinstance(symbol.node, ast.ClassDef):
            return ClassRef(found.module, symbol.node)
        if isinstance(symbol.node, ast.FunctionDef):
            return FunctionRef(found.module, symbol.node)
        if symbol.kind == "module":
            return Opaque(symbol.module)
        if symbol.kind == "import":
            return Opaque(f"{symbol.module}.{symbol.name}")
        if symbol.kind == "value" and isinstance(symbol.node, ast.Constant | ast.List | ast.Tuple | ast.Dict | ast.BinOp | ast.Name | ast.JoinedStr | ast.UnaryOp):  # fmt: skip
            return self.value(found.module, symbol.node, {}, depth, within)
        return Opaque(f"{found.module.name}.{name}")

    def _on_attribute(self, module: Module, node: ast.Attribute, local: Locals, depth: int, within: Any) -> Any:
        owner = self.value(module, node.value, local, depth, within)
        if isinstance(owner, ClassRef):
            return self.configs.class_value(owner, node.attr)
        if isinstance(owner, Opaque):
            target = self.modules.get(owner.name)
            if target is not None:
                found = self.modules.find(target, node.attr)
                if found is not None:
                    return self._symbol(found, node.attr, depth, within)
                # An environment variable's value, say: known when the server starts, not before.
                return Unknown(f"{owner.name}.{node.attr}")
            return Opaque(f"{owner.name}.{node.attr}")
        return Unknown(ast.unparse(node)[:80])

    def _on_subscript(self, module: Module, node: ast.Subscript, local: Locals, depth: int, within: Any) -> Any:
        holder = self.value(module, node.value, local, depth, within)
        key = self.value(module, node.slice, local, depth, within)
        if isinstance(holder, dict | Table | list | tuple):
            return holder[key]
        return Unknown(ast.unparse(node)[:80])

    def _on_list(self, module: Module, node: ast.List, local: Locals, depth: int, within: Any) -> Any:
        return [self.value(module, each, local, depth, within) for each in node.elts]

    _on_tuple = _on_list
    _on_set = _on_list

    def _on_dict(self, module: Module, node: ast.Dict, local: Locals, depth: int, within: Any) -> Any:
        made: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            found = self.value(module, value, local, depth, within)
            if key is None:
                if not isinstance(found, dict | Table):
                    return Unknown(ast.unparse(value)[:80])
                made |= dict(found)
            else:
                made[self.value(module, key, local, depth, within)] = found
        return made

    def _on_unaryop(self, module: Module, node: ast.UnaryOp, local: Locals, depth: int, within: Any) -> Any:
        value = self.value(module, node.operand, local, depth, within)
        if isinstance(value, Unknown | Opaque):
            return Unknown(ast.unparse(node)[:80])
        if isinstance(node.op, ast.Not):
            return not value
        return -value if isinstance(node.op, ast.USub) else Unknown("an operator")

    def _on_binop(self, module: Module, node: ast.BinOp, local: Locals, depth: int, within: Any) -> Any:
        left, right = (self.value(module, each, local, depth, within) for each in (node.left, node.right))
        if isinstance(left, Unknown | Opaque) or isinstance(right, Unknown | Opaque):
            return Unknown(ast.unparse(node)[:80])
        if isinstance(node.op, ast.Add):
            return left + right
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if isinstance(node.op, ast.Mult) and numbers:
            return left * right
        if isinstance(node.op, ast.Sub) and numbers:
            return left - right
        if isinstance(node.op, ast.LShift) and numbers and 0 <= right < 128:
            return left << right
        if isinstance(node.op, ast.Pow) and numbers and 0 <= right < 128:
            return left**right
        return Unknown(ast.unparse(node)[:80])

    def _on_compare(self, module: Module, node: ast.Compare, local: Locals, depth: int, within: Any) -> Any:
        if len(node.ops) != 1 or not isinstance(node.ops[0], ast.In | ast.NotIn):
            return Unknown(ast.unparse(node)[:80])
        left = self.value(module, node.left, local, depth, within)
        right = self.value(module, node.comparators[0], local, depth, within)
        if not isinstance(left, str) or not isinstance(right, dict | Table | list):
            return Unknown(ast.unparse(node)[:80])
        return (left in right) == isinstance(node.ops[0], ast.In)

    # --- calls ------------------------------------------------------------------------------------------------------

    def _on_call(self, module: Module, node: ast.Call, local: Locals, depth: int, within: Any) -> Any:
        if isinstance(node.func, ast.Attribute):
            return self._method(module, node, node.func, local, depth, within)
        arguments = [self.value(module, each, local, depth, within) for each in node.args]
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "get_kwargs" and arguments:
            return self._kwargs(arguments[0])
        if name == "get_field" and len(arguments) == 2 and isinstance(arguments[0], ClassRef):
            return self.configs.fields(arguments[0])[arguments[1]].default
        if name == "get_args" and node.args:
            hints = self.configs.hints.of(module, node.args[0])
            return [value for hint in hints for value in hint.values] or Unknown(ast.unparse(node)[:80])
        if name in ("optional_type", "parse_type") and arguments:
            return Opaque("optional" if name == "optional_type" else "parsed", arguments[0])
        if name in _CONSTRUCTORS and not any(isinstance(each, Unknown | Opaque) for each in arguments):
            return _CONSTRUCTORS[name](*arguments)
        target = self.value(module, node.func, local, depth, within)
        if isinstance(target, FunctionRef):
            return self._function(target, module, node, arguments, local, depth, within)
        return Unknown(ast.unparse(node)[:80])

    def _method(
        self, module: Module, node: ast.Call, func: ast.Attribute, local: Locals, depth: int, within: Any
    ) -> Any:
        arguments = [self.value(module, each, local, depth, within) for each in node.args if not isinstance(each, ast.Starred)]  # fmt: skip
        if isinstance(func.value, ast.Call) and getattr(func.value.func, "id", "") == "super":
            return self._super(module, node, func.attr, arguments, local, depth, within)
        owner = self.value(module, func.value, local, depth, within)
        if isinstance(owner, ParserRef):
            if func.attr == "add_argument":
                self._add_argument(module, node, local, depth, within)
            return owner
        if isinstance(owner, ClassRef):
            target = self._bound(owner, func.attr)
            return (
                self._function(target, module, node, arguments, local, depth, within) if target else Unknown(func.attr)
            )
        if isinstance(owner, str) and func.attr in _STRING_METHODS:
            return getattr(owner, func.attr)(*arguments)
        if isinstance(owner, list) and func.attr in ("append", "extend", "remove"):
            if not (func.attr == "remove" and arguments[0] not in owner):
                getattr(owner, func.attr)(*arguments)
            return None
        if isinstance(owner, dict | Table) and func.attr in ("items", "keys", "values", "pop", "get", "update", "copy"):
            found = getattr(owner, func.attr)(*arguments) if func.attr != "copy" else dict(owner)
            return list(found) if func.attr in ("items", "keys", "values") else found
        given = any(isinstance(each, ParserRef) for each in arguments) and isinstance(owner, Opaque | Unknown)
        # `current_platform.pre_register_and_update(parser)` adds nothing on CUDA; anything else is a gap.
        if given and func.attr != "pre_register_and_update":
            self._gap(f"{place(module, node)}: {ast.unparse(node.func)} may add flags")
        return Unknown(ast.unparse(node)[:80])

    def _bound(self, owner: ClassRef, name: str, *, after: ClassRef | None = None) -> FunctionRef | None:
        bodies = class_bodies(self.modules, owner.module, owner.node)
        if after is not None:
            names = [node.name for _, node in bodies]
            bodies = bodies[names.index(after.node.name) + 1 :] if after.node.name in names else bodies[1:]
        for module, node in bodies:
            for statement in node.body:
                if isinstance(statement, ast.FunctionDef) and statement.name == name:
                    static = any(getattr(each, "id", "") == "staticmethod" for each in statement.decorator_list)
                    # `cls` stays the class that was called; `super()` inside continues from the class that defines the method.
                    return FunctionRef(module, statement, None if static else ClassRef(owner.module, owner.node))
        return None

    def _super(
        self, module: Module, node: ast.Call, name: str, arguments: list[Any], local: Locals, depth: int, within: Any
    ) -> Any:
        owner = local.get("cls")
        standing = self._standing(within)
        if not isinstance(owner, ClassRef) or standing is None:
            return Unknown("super()")
        target = self._bound(owner, name, after=standing)
        return self._function(target, module, node, arguments, local, depth, within) if target else Unknown(name)

    def _standing(self, within: Any) -> ClassRef | None:
        """The class whose body defines the running method."""
        if not isinstance(within, FunctionRef):
            return None
        for statement in within.module.tree.body:
            if isinstance(statement, ast.ClassDef) and within.node in statement.body:
                return ClassRef(within.module, statement)
        return None

    def _function(
        self, target: FunctionRef, module: Module, node: ast.Call, arguments: list[Any], local: Locals, depth: int, within: Any
    ) -> Any:  # fmt: skip
        keywords = {
            each.arg: self.value(module, each.value, local, depth, within) for each in node.keywords if each.arg
        }
        concerned = [*arguments, *keywords.values()]
        if not any(isinstance(each, ParserRef | Table) for each in concerned):
            return Unknown(ast.unparse(node)[:80]) if arguments or keywords else Opaque(target.node.name)
        names = [each.arg for each in [*target.node.args.posonlyargs, *target.node.args.args]]
        if names[:1] == ["cls"] or names[:1] == ["self"]:
            names = names[1:]
        bound: Locals = dict(zip(names, arguments, strict=False)) | keywords
        return self.call(target, bound, depth)

    def _kwargs(self, owner: Any) -> Any:
        if not isinstance(owner, ClassRef):
            return Unknown("get_kwargs of something unknown")
        fields = self.configs.fields(owner)
        return Table(fields, lambda each: kwargs_of(each, human=self._human, optional_switch=self._optional_switch))

    def _add_argument(self, module: Module, node: ast.Call, local: Locals, depth: int, within: Any) -> None:
        names: list[Any] = []
        for each in node.args:
            if isinstance(each, ast.Starred):
                found = self.value(module, each.value, local, depth, within)
                names += found if isinstance(found, list) else [Unknown("names")]
            else:
                names.append(self.value(module, each, local, depth, within))
        keywords: dict[str, Any] = {}
        for keyword in node.keywords:
            found = self.value(module, keyword.value, local, depth, within)
            if keyword.arg is not None:
                keywords[keyword.arg] = found
            elif isinstance(found, dict):
                keywords |= found
            else:
                keywords["_unknown"] = ast.unparse(keyword.value)[:80]
        self._add(module, node, names, keywords)


def _adds(node: ast.AST) -> bool:
    return any(getattr(each, "attr", "") in ("add_argument", "add_cli_args") for each in ast.walk(node))


def _loaded(target: ast.expr) -> ast.expr:
    return ast.parse(ast.unparse(target), mode="eval").body
