"""The flagship's stack without GitHub, made at run time from the wheels.

#39931 was merged before 0.21.0 and nothing else touched its lines in between: its change to 0.20.0 is that part of the
difference between the two wheels, and the files come out with the digests that the recipe pins. #41365 was never released;
its stand-in does what the pull request does for a reader of the source.
"""

from __future__ import annotations

import difflib
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

from builder.documents.recipe import load_recipe
from builder.util.files import sha256
from tests.support.pytrees import package_tree
from tests.support.trees import git_diff
from tests.support.wheels import python_files

RECIPE = load_recipe(Path(__file__).parents[2] / "images" / "qwen3.6-27b-fp8-vocab.yaml")
ARGUMENTS = "vllm/engine/arg_utils.py"
PLATFORM = "vllm/platforms/interface.py"
TURBOQUANT = "vllm/model_executor/layers/quantization/turboquant/config.py"
FP8 = "vllm/model_executor/layers/quantization/fp8.py"


@functools.cache
def stock() -> dict[str, bytes]:
    """All Python files of vLLM 0.20.0."""
    return python_files("0.20.0")


@functools.cache
def hybrid_overlay() -> bytes:
    """#39931 on 0.20.0: the package's three files, each with the digest that the recipe pins after it."""
    lines = stock()[ARGUMENTS].decode().splitlines()
    first = next(n for n, line in enumerate(lines) if "TurboQuant: auto-skip" in line)
    last = next(n for n, line in enumerate(lines) if n > first and "ray_runtime_env = None" in line)
    after = {
        ARGUMENTS: _taken(ARGUMENTS, lambda start, end, text: first <= start and end <= last),
        PLATFORM: _taken(PLATFORM, lambda start, end, text: "turboquant_" in text),
        TURBOQUANT: (package_tree("0.21.0") / TURBOQUANT).read_bytes(),
    }
    assert {path: sha256(data) for path, data in after.items()} == RECIPE.overlays[0].after
    return _diff(after)


def _taken(path: str, wanted: Callable[[int, int, str], bool]) -> bytes:
    """0.20.0's file with some of 0.21.0's changes: those that `wanted` picks by old lines and new text."""
    old = stock()[path].decode().splitlines(keepends=True)
    new = (package_tree("0.21.0") / path).read_text().splitlines(keepends=True)
    result: list[str] = []
    for kind, i1, i2, j1, j2 in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        take = kind != "equal" and wanted(i1, i2, "".join(new[j1:j2]))
        result += new[j1:j2] if take else old[i1:i2]
    return "".join(result).encode()


@functools.cache
def vocabulary_overlay() -> bytes:
    """The FP8 method names the two vocabulary layers, as #41365 describes itself."""
    text = stock()[FP8].decode()
    line = "logger = init_logger(__name__)\n"
    assert text.count(line) == 1
    return _diff(
        {FP8: text.replace(line, f'{line}\n_TABLES = ("ParallelLMHead", "VocabParallelEmbedding")\n').encode()}
    )


def _diff(after: dict[str, bytes]) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        return git_diff(Path(name), {path: stock()[path] for path in after}, after, "--full-index")
