"""Every command that a message of this tool names is a command of this tool, with what it needs."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from builder.cli.app import cli

SOURCE = Path(__file__).parents[2] / "builder"
# A file that runs without this tool, the examples, and a page that a command writes.
APART = {"serve/entrypoint.py", "cli/examples.py", "serve/router/llm_d.py"}


def texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """String constants that are not docstrings; what an f-string fills in is `FILLED`."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    # The help of an option and the description of a key mention commands; nobody is told to run them.
    inner = {
        id(each)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg in ("help", "description")
        for each in ast.walk(node.value)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) and id(node) not in inner:
            inner |= {id(each) for each in ast.walk(node) if each is not node}
            parts = [str(each.value) if isinstance(each, ast.Constant) else "FILLED" for each in node.values]
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings | inner:
            yield node.lineno, node.value


def named() -> Iterator[tuple[str, str]]:
    for path in sorted(SOURCE.rglob("*.py")):
        where = str(path.relative_to(SOURCE))
        if where in APART:
            continue
        for line, text in texts(ast.parse(path.read_text())):
            for found in re.findall(r"`(builder [a-z][^`]*)`", text) + re.findall(r": (builder [a-z][^`;:]*)$", text):
                yield f"{where}:{line}", found


def test_every_command_in_a_message_can_be_called() -> None:
    wrong, count = [], 0
    for where, text in named():
        count += 1
        words = shlex.split(text.replace("schemaFILLED", "schema"))[1:]
        # The command line adds the recipe to `builder lock` when it prints the hint.
        if words == ["lock"]:
            continue
        command: click.Command = cli
        context = click.Context(cli, info_name="builder")
        try:
            while isinstance(command, click.Group):
                if command.name == "gate" and words and words[0] not in command.list_commands(context):
                    # It is short for `gate run`.
                    words = ["run", *words]
                name, inner, words = command.resolve_command(context, words)
                assert inner is not None
                command = inner
                context = click.Context(command, info_name=name, parent=context)
            command.make_context(command.name, words, parent=context.parent)
        except (click.ClickException, click.exceptions.Exit, IndexError) as error:
            wrong.append(f"{where}: {text}: {error}")
    assert count > 25
    assert wrong == []
