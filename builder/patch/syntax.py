"""Does a file still parse, by the grammar of the base's Python, whichever Python this tool runs on?"""

from __future__ import annotations

import ast
import shutil
import sys
from dataclasses import dataclass
from functools import cache

from builder.util.files import cache_dir, sha256
from builder.util.process import run

_NEWEST = 20
_ASK = "import ast, sys\ntry: ast.parse(sys.stdin.buffer.read())\nexcept SyntaxError as e: print(e.lineno, e.msg)"


@dataclass(frozen=True)
class Problem:
    """A syntax error: its line (from 1) and what is wrong."""

    line: int
    message: str


def syntax_problem(data: bytes, python: str) -> Problem | None:
    """The first syntax error of a Python file by the grammar of `python` (`3.12`), or None.

    This process judges when it is new enough. Else another interpreter here does, and without one LibCST. That a file is
    sound is remembered by its content: parsing takes longer than all the rest of a stack.
    """
    remembered = cache_dir("syntax") / f"{python}-{sha256(data)}"
    if remembered.exists():
        return None
    problem = _find_problem(data, python)
    if problem is None:
        remembered.touch()
    return problem


def _find_problem(data: bytes, python: str) -> Problem | None:
    wanted = tuple(int(part) for part in python.split(".")[:2])
    feature = (wanted[0], wanted[1])
    try:
        ast.parse(data, feature_version=feature if feature <= sys.version_info[:2] else None)
    except SyntaxError as error:
        own = Problem(error.lineno or 0, error.msg)
    except ValueError as error:
        return Problem(0, str(error))
    else:
        return None
    if feature <= sys.version_info[:2]:
        return own
    newer = _newer_interpreter(feature)
    return _ask(newer, data) if newer is not None else _libcst_problem(data)


@cache
def _newer_interpreter(wanted: tuple[int, int]) -> str | None:
    """A Python on the PATH that is at least the wanted one, and starts."""
    for minor in range(wanted[1], _NEWEST):
        program = shutil.which(f"python{wanted[0]}.{minor}")
        if program is not None and run([program, "-I", "-S", "-c", ""], timeout=60).returncode == 0:
            return program
    return None


def _ask(program: str, data: bytes) -> Problem | None:
    said = run([program, "-I", "-S", "-c", _ASK], stdin=data, timeout=60).stdout.decode("utf-8", "replace").strip()
    line, _, message = said.partition(" ")
    return Problem(int(line) if line.isdigit() else 0, message) if said else None


def _libcst_problem(data: bytes) -> Problem | None:
    """LibCST parses every Python up to its newest, whatever runs it."""
    import libcst

    try:
        libcst.parse_module(data)
    except libcst.ParserSyntaxError as error:
        return Problem(error.raw_line, error.message)
    except (SyntaxError, UnicodeDecodeError, LookupError) as error:
        # The bytes are not in the encoding that the file names, or it names none that there is.
        return Problem(0, str(error))
    return None
