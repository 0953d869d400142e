"""The base's grammar decides, not that of the Python that runs the tool."""

from __future__ import annotations

import sys

import pytest

from builder.patch import syntax

NEWER = b"type Pair[T] = tuple[T, T]\n"


def test_a_sound_file_and_a_broken_one() -> None:
    assert syntax.syntax_problem(b"x = 1\n", "3.12") is None
    problem = syntax.syntax_problem(b"x = 1\ny = ((\nz = 3\n", "3.12")
    assert problem is not None
    assert problem.line >= 2
    assert syntax.syntax_problem(b"x = '\0'\n", "3.11") is not None


def test_a_base_that_is_older_refuses_what_is_newer_than_it() -> None:
    assert syntax.syntax_problem(b"match x:\n    case 1: pass\n", "3.9") is not None


def test_a_base_that_is_newer_is_not_judged_by_this_python() -> None:
    assert syntax.syntax_problem(NEWER, "3.12") is None


def test_without_another_interpreter_libcst_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syntax, "_newer_interpreter", lambda wanted: None)
    newer = f"3.{sys.version_info.minor + 1}"
    assert syntax.syntax_problem(b"x = ((\ny = 1\n", newer) is not None
    if sys.version_info < (3, 12):
        assert syntax.syntax_problem(NEWER, "3.12") is None
    # Bytes that are not in the file's encoding are a syntax error, not one of this tool.
    assert syntax.syntax_problem(b"x = '\xe4'\n", newer) is not None
    assert syntax.syntax_problem(b"# coding: nonsense\nx = (\n", newer) is not None
