"""The model card's own case, on the real 0.20.0 files: #41000, then #41365 which contains it, and #39931 on a base that has it.

The diffs have the shape of those pull requests (their files, the number of their hunks); their lines are ours.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.patch.stack import apply_stack
from builder.patch.tree import StackError
from tests.support.cli import Ran, builder
from tests.support.services import leave_out
from tests.support.smallwheel import make_project
from tests.support.trees import DictTree, git_diff, overlay
from tests.support.wheels import some_files

pytestmark = pytest.mark.wheels

FP8 = "vllm/model_executor/layers/quantization/fp8.py"
QWEN = "vllm/model_executor/models/qwen3_5.py"
EMBEDDING = "vllm/model_executor/layers/vocab_parallel_embedding.py"
ARGUMENTS = "vllm/engine/arg_utils.py"
TURBOQUANT = "vllm/model_executor/layers/quantization/turboquant/config.py"
INTERFACE = "vllm/platforms/interface.py"
PATHS = (FP8, QWEN, EMBEDDING, ARGUMENTS, TURBOQUANT, INTERFACE)


def release() -> dict[str, bytes]:
    files = some_files("0.20.0", PATHS)
    assert set(files) == set(PATHS)
    return files


def touched(files: dict[str, bytes], path: str, parts: int, word: str) -> dict[str, bytes]:
    """The files with a comment behind `parts` lines of one of them, far enough apart to be hunks of their own."""
    lines = files[path].split(b"\n")
    step = len(lines) // (parts + 1)
    assert step > 10
    for number in range(parts, 0, -1):
        lines.insert(step * number, f"# {word} {number}".encode())
    return {**files, path: b"\n".join(lines)}


def small_and_large(tmp_path: Path) -> tuple[bytes, bytes]:
    """#41000 with 5 hunks in two files, and #41365 with these and 4 more in a third."""
    base = release()
    small = touched(touched(base, FP8, 3, "head"), QWEN, 2, "head")
    large = touched(small, EMBEDDING, 4, "loader")
    return git_diff(tmp_path / "small", base, small), git_diff(tmp_path / "large", base, large)


def failure(names: list[tuple[str, bytes]], files: dict[str, bytes]) -> StackError:
    with pytest.raises(StackError) as caught:
        apply_stack([overlay(name, diff) for name, diff in names], DictTree(files))
    assert caught.value.exit_code == 3
    return caught.value


def test_the_one_that_carries_the_other_is_named_in_either_order(tmp_path: Path) -> None:
    small, large = small_and_large(tmp_path)
    first = failure([("#41000", small), ("#41365", large)], release())
    assert "(5 of 9 hunks)" in first.message
    assert "#41365 carries all 5 hunks of #41000: remove #41000" in str(first.hint)
    assert {each.supplied_by for each in first.failures} == {"#41000"}
    second = failure([("#41365", large), ("#41000", small)], release())
    assert "5 of 5 hunks of #41000 are already supplied by #41365; drop #41000" in str(second.hint)


def test_the_command_line_says_it_and_what_it_says_works(tmp_path: Path) -> None:
    small, large = small_and_large(tmp_path)

    def check(**diffs: bytes) -> Ran:
        files = {f"{name}.diff": data for name, data in diffs.items()}
        project = make_project(
            tmp_path / "-".join(diffs), files, base="wheel:vllm==0.20.0", profiles=[], default_profile=None
        )
        done = builder("check", "small", cwd=project)
        if done.code == 5:
            leave_out(f"needs the package index: {done.err.strip()[-200:]}")
        return done

    first = check(p41000=small, p41365=large)
    assert first.code == 3
    assert "overlays/p41365.diff carries all 5 hunks of overlays/p41000.diff: remove overlays/p41000.diff" in first.err
    second = check(p41365=large, p41000=small)
    assert second.code == 3
    assert "5 of 5 hunks of overlays/p41000.diff are already supplied by overlays/p41365.diff; drop" in second.err
    assert check(p41365=large).code == 0


def test_what_is_merged_in_the_base_is_told_from_what_is_half_merged(tmp_path: Path) -> None:
    base = release()
    one = touched(touched(base, ARGUMENTS, 3, "hybrid"), TURBOQUANT, 2, "hybrid")
    whole = touched(one, INTERFACE, 2, "hybrid")
    diff = git_diff(tmp_path / "39931", base, whole)
    all_of_it = failure([("#39931", diff)], whole)
    assert "all of it (7 of 7 hunks) is already in the base: merged upstream in this base; drop #39931" in str(
        all_of_it.hint
    )
    some_of_it = failure([("#39931", diff)], one)
    assert "some of it (5 of 7 hunks) is already in the base" in str(some_of_it.hint)
    assert {each.cause for each in some_of_it.failures} == {"already-in-base"}
