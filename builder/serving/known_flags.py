"""Which flags a vLLM knows, read from its source without running it.

Source of the fact: most flags of `vllm serve` come from `vllm/engine/arg_utils.py` as `add_argument("--name", ...)`, the
server's own from `vllm/entrypoints/openai/cli_args.py`, partly as fields of a dataclass whose names become flags.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Collection, Iterable

from builder.base.model import PackageTree
from builder.serving.profile import Profile

ARGUMENTS = "vllm/engine/arg_utils.py"
SERVER = "vllm/entrypoints/openai/cli_args.py"


def known_flags(tree: PackageTree) -> frozenset[str] | None:
    """The flags without their dashes; None when the base has not both files, or they are not to be understood."""
    found = tree.read([ARGUMENTS, SERVER])
    if any(path not in found or found[path].kind != "file" for path in (ARGUMENTS, SERVER)):
        return None
    flags: set[str] = set()
    for path in (ARGUMENTS, SERVER):
        try:
            module = ast.parse(found[path].data)
        except (SyntaxError, ValueError):
            return None
        flags |= set(_arguments(module))
        if path == SERVER:
            flags |= set(_fields(module))
    return frozenset(flags) or None


def unknown_flags(profiles: Iterable[Profile], flags: Collection[str]) -> list[dict[str, str | None]]:
    """Each profile's flags that are not among `flags`: `profile`, `flag`, and the nearest known one as `near`."""
    unknown: list[dict[str, str | None]] = []
    for profile in profiles:
        for flag in profile.flags:
            plain = flag.replace("_", "-")
            # A profile may spell a switch's negation out, and a dotted flag sets one key of its first part.
            if {plain, plain.removeprefix("no-"), plain.split(".")[0]}.isdisjoint(flags):
                near = difflib.get_close_matches(plain, sorted(flags), n=1, cutoff=0.7)
                unknown.append({"profile": profile.name, "flag": flag, "near": near[0] if near else None})
    return unknown


def _arguments(module: ast.Module) -> Iterable[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield argument.value.lstrip("-").replace("_", "-")


def _fields(module: ast.Module) -> Iterable[str]:
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    yield statement.target.id.replace("_", "-")
