"""The flagship's stack without GitHub: overlays on the real 0.20.0 files that do what the two pull requests do for a
reader of the source. Made at run time from the wheel."""

from __future__ import annotations

import functools
import re
import tempfile
from pathlib import Path

from tests.support.trees import git_diff
from tests.support.wheels import python_files

ARGUMENTS = "vllm/engine/arg_utils.py"
TURBOQUANT = "vllm/model_executor/layers/quantization/turboquant/config.py"
FP8 = "vllm/model_executor/layers/quantization/fp8.py"


@functools.cache
def stock() -> dict[str, bytes]:
    """All Python files of vLLM 0.20.0."""
    return python_files("0.20.0")


@functools.cache
def hybrid_overlay() -> bytes:
    """No error for a hybrid model with a TurboQuant cache, as #39931 leaves it."""
    text = stock()[ARGUMENTS].decode()
    without, count = re.subn(
        r"            if model_config\.is_hybrid:\n                raise NotImplementedError\(\n(?:.*\n)*?                \)\n",
        "",
        text,
        count=1,
    )
    assert count == 1
    config = stock()[TURBOQUANT].decode()
    line = "    @staticmethod\n    def get_boundary_skip_layers("
    assert config.count(line) == 1
    added = config.replace(
        line, "    @staticmethod\n    def skips(model):\n        return not model.is_hybrid\n\n" + line
    )
    return _diff({ARGUMENTS: without.encode(), TURBOQUANT: added.encode()})


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
