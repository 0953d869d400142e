"""The base's grammar decides, not that of the Python that runs the tool, and never in this process."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.patch import syntax
from builder.patch.stack import apply_stack
from builder.patch.unified import notes
from tests.support.trees import DictTree, overlay

NEWER = b"type Pair[T] = tuple[T, T]\n"
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
needs_312 = pytest.mark.skipif(syntax.interpreter("3.12") is None, reason="needs a Python 3.12 on this machine")

# Sound for a newer Python, or for a parser of another make; none of it is Python 3.12.
NOT_312 = {
    "a t-string": b"x = t'{y}'\n",
    "a default of a type parameter": b"type A[T = int] = list[T]\n",
    "exceptions without brackets": b"try:\n    pass\nexcept A, B:\n    pass\n",
    "a bytes literal that is not ASCII": "x = b'ä'\n".encode(),
    "NUL": b"x = '\0'\n",
    "300 brackets": b"x = " + b"(" * 300 + b"1" + b")" * 300 + b"\n",
    "a return outside a function": b"return 1\n",
    "two arguments of one name": b"def f(a, a): pass\n",
    "an encoding that does not exist": b"# coding: nonsense\nx = 1\n",
    "bytes that are not in the encoding": b"x = '\xe4'\n",
}
DEEP = {
    "signs": b"x = " + b"-" * 200_000 + b"1\n",
    "attributes": b"x = a" + b".b" * 200_000 + b"\n",
    "sums": b"x = 1" + b" + 1" * 200_000 + b"\n",
    "conditions": b"x = " + b"1 if a else " * 50_000 + b"2\n",
}


@needs_312
@pytest.mark.parametrize("name", NOT_312)
def test_what_the_base_does_not_take_is_refused(name: str) -> None:
    problem = syntax.syntax_problem(NOT_312[name], "3.12")
    assert problem is not None
    assert problem.message


@needs_312
@pytest.mark.parametrize("name", DEEP)
def test_deep_nesting_ends_a_child_and_not_this_process(name: str) -> None:
    files = {"deep.py": DEEP[name], "broken.py": b"x = ((\n", "sound.py": b"x = 1\n"}
    verdict = syntax.judge(files, "3.12")
    assert set(verdict.problems) - {"deep.py"} == {"broken.py"}
    assert verdict.not_judged == ""
    if "deep.py" in verdict.problems:
        assert "nested too deeply" in verdict.problems["deep.py"].message


def test_a_sound_file_and_a_broken_one() -> None:
    assert syntax.syntax_problem(b"x = 1\n", OWN) is None
    problem = syntax.syntax_problem(b"x = 1\ny = ((\nz = 3\n", OWN)
    assert problem is not None
    assert problem.line >= 2


def test_files_of_one_run_are_judged_one_by_one() -> None:
    files = {f"{number}.py": b"x = ((\n" if number % 3 == 0 else b"x = %d\n" % number for number in range(10)}
    assert set(syntax.judge(files, OWN).problems) == {"0.py", "3.py", "6.py", "9.py"}


def test_many_files_are_judged_by_several_processes_as_by_one() -> None:
    filler = b"x = 1  # %s\n" % (b"-" * 200) * 1000
    files = {f"{number}.py": filler + (b"y = ((\n" if number % 3 == 0 else b"y = 1\n") for number in range(8)}
    assert len(syntax._shared(files)) > 1 or len(os.sched_getaffinity(0)) == 1
    files["deep.py"] = DEEP["sums"]
    found = syntax.judge(files, OWN).problems
    assert set(found) - {"deep.py"} == {"0.py", "3.py", "6.py"}
    assert {each.line for path, each in found.items() if path != "deep.py"} <= {1001, 1002}


def test_what_cannot_be_judged_is_not_taken_for_sound() -> None:
    """No Python 3.99 is here: what is broken for every Python is refused, the rest is said not to be judged."""
    verdict = syntax.judge({"a.py": b"x = 1\n", "b.py": b"x = ((\n"}, "3.99")
    assert set(verdict.problems) == {"b.py"}
    assert (
        verdict.not_judged
        == "the syntax of 1 changed Python file was not judged: there is no Python 3.99 on this machine"
    )
    diff = b"--- a/vllm/a.py\n+++ b/vllm/a.py\n@@ -1 +1 @@\n-x = 1\n+x = 2\n"
    result = apply_stack([overlay("x", diff)], DictTree({"vllm/a.py": b"x = 1\n"}, python="3.99"))
    assert notes(result) == [verdict.not_judged]


def test_a_base_that_is_older_refuses_what_is_newer_than_it() -> None:
    if syntax.interpreter("3.9") is None:
        pytest.skip("needs a Python 3.9 on this machine")
    assert syntax.syntax_problem(b"match x:\n    case 1: pass\n", "3.9") is not None


@needs_312
def test_a_base_that_is_newer_is_not_judged_by_this_python() -> None:
    assert syntax.syntax_problem(NEWER, "3.12") is None


def test_a_name_on_the_path_that_is_not_an_interpreter_is_passed_over(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "python3.98").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / "python3.98").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert syntax.interpreter("3.98") is None


def test_a_script_of_the_name_is_started_after_the_interpreters(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """pyenv's takes longer to say that it has no such version than an interpreter takes for a stack's files."""
    (tmp_path / "bin").mkdir()
    real = tmp_path / "versions/3.97.0/bin/python3.97"
    real.parent.mkdir(parents=True)
    for path, does in ((tmp_path / "bin/python3.97", f"touch {tmp_path}/started"), (real, "echo 3.97")):
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    assert syntax.interpreter("3.97") == str(real)
    assert not (tmp_path / "started").exists()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_are_judged(sources: list[bytes]) -> None:
    files = {f"{number}.py": data for number, data in enumerate(sources)}
    problems = syntax.judge(files, OWN).problems
    for path, data in files.items():
        try:
            compile(data, path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            assert path in problems
        else:
            assert path not in problems
