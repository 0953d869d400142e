"""What only a GPU can run: the three profiles on a hybrid model with #39931, and the kernels of the FP8 vocabulary.

BUILDER_GPU_PYTHON names the python3 of an environment with vLLM 0.20.0 for CUDA, such as the official image's. Without it
these tests are left out: no machine of this project's own has a GPU.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import requests

from builder.documents.profile import Profile, load_profile
from tests.engine.test_vocabulary import bound, compared
from tests.support.engine.model import hybrid_checkpoint
from tests.support.engine.observe import Observation, observe
from tests.support.engine.server import healthy, serving
from tests.support.flagship import hybrid_overlay

pytestmark = [pytest.mark.engine, pytest.mark.gpu, pytest.mark.timeout(1800)]

HERE = Path(__file__).parents[2]
# A model of four layers: what the profiles say about a 27B model's weights, context and batch is scaled to it.
SCALED = {"gpu-memory-utilization": 0.3, "max-model-len": 4029, "max-num-batched-tokens": 4096}
NOT_FOR_IT = ("quantization", "language-model-only", "reasoning-parser", "tool-call-parser", "enable-auto-tool-choice")


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(interpreter, folder with its vLLM as #39931 and the FP8 vocabulary's overlay leave it)."""
    python = os.environ.get("BUILDER_GPU_PYTHON")
    if not python:
        pytest.skip("needs a GPU: BUILDER_GPU_PYTHON names a python3 that has vLLM 0.20.0 for CUDA")
    code = "import importlib.util as u; print(u.find_spec('vllm').submodule_search_locations[0])"
    package = Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    target = tmp_path_factory.mktemp("gpu")
    shutil.copytree(package, target / "vllm", symlinks=True)
    diff = target / "39931.diff"
    diff.write_bytes(hybrid_overlay())
    for each in (diff, HERE / "overlays/fp8-vocab/fp8-vocab.diff"):
        words = [
            "patch",
            "--forward",
            "--batch",
            "--strip=1",
            "--fuzz=0",
            "--no-backup-if-mismatch",
            "--input",
            str(each),
        ]
        subprocess.run(words, cwd=target, check=True, capture_output=True)
    return python, target


def command(python: str, model: Path, *flags: str) -> list[str]:
    start = "import sys; from vllm.entrypoints.cli.main import main; sys.argv[0] = 'vllm'; main()"
    return [python, "-c", start, "serve", str(model), *flags]


def environment(folder: Path) -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"}


def scaled(profile: Profile) -> list[str]:
    flags: dict[str, Any] = {name: value for name, value in profile.flags.items() if name not in NOT_FOR_IT}
    return Profile.model_construct(name=profile.name, flags=flags | SCALED, hardware=None, envelope=None).argv()


@pytest.mark.parametrize("name", ["smoke", "production-ceiling", "envelope-16k"])
def test_a_hybrid_model_serves_with_each_profile(
    name: str, patched: tuple[str, Path], tiny: Path, tmp_path: Path
) -> None:
    python, folder = patched
    model = hybrid_checkpoint(tmp_path / "hybrid", tiny, tables=False)
    words = command(python, model, "--load-format", "dummy", *scaled(load_profile(HERE / f"profiles/{name}.yaml")))
    with serving(words, env=environment(folder), log=tmp_path / "log") as server:
        assert healthy(server), server.text()[-3000:]
        body = {
            "model": str(model),
            "messages": [{"role": "user", "content": "1+1?"}],
            "max_tokens": 8,
            "temperature": 0,
        }
        said = [requests.post(f"{server.url}/v1/chat/completions", json=body, timeout=120) for _ in range(2)]
        assert [reply.status_code for reply in said] == [200, 200]
        assert said[0].json()["choices"][0]["message"] == said[1].json()["choices"][0]["message"]
    assert "TQ hybrid: full-attention layers [3]" in server.text()


def test_the_kernel_for_logits_says_what_the_bf16_table_says(
    patched: tuple[str, Path], models: dict[str, Path], tmp_path: Path
) -> None:
    python, folder = patched
    flags = ["--dtype", "bfloat16", "--gpu-memory-utilization", "0.3", "--max-model-len", "2048", "--enforce-eager"]
    seen: list[Observation] = []
    for name in ("bf16", "fp8"):
        words = command(python, models[name], *flags)
        seen.append(observe(words, environment(folder), tmp_path / f"{name}.log", cwd=tmp_path))
        assert seen[-1].healthy, seen[-1].log[-3000:]
    assert "for Fp8VocabMethod" in seen[1].log
    assert "is dequantized for logits" not in seen[1].log
    apart = compared(*seen)
    # The kernel quantizes the state to FP8 too: one more error of the size that the table has.
    assert 0 < max(apart) < 2 * bound(models["bf16"])[0]
