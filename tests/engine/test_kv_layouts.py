"""Cache layouts of the estimate against vLLM 0.20.0's own `kv_cache_utils`, for every kind of layer."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from packaging.version import Version

from builder.documents.model_shape import Attention, GatedDeltaNet, Latent, ModelShape, SlidingWindow
from builder.vllm.fit.kv import capacity, layout
from tests.engine.conftest import packages
from tests.support.engine import kvjudge
from tests.support.engine.packages import OLD
from tests.support.engine.server import interpreter

V0_20_0 = Version("0.20.0")
GIB = 1 << 30
PLAIN: dict[str, Any] = {"hidden": 64, "mlp": 64, "vocabulary": 64}


def shape(full: int, heads: int, size: int, **more: Any) -> ModelShape:
    return ModelShape(
        **PLAIN, attention=Attention(layers=full, query_heads=heads, kv_heads=heads, head_size=size), **more
    )


def window(layers: int, tokens: int) -> SlidingWindow:
    return SlidingWindow(layers=layers, window=tokens)


GDN = GatedDeltaNet(layers=48, key_heads=16, value_heads=48, head_size=128)
MLA = Latent(kv_rank=512, rope_size=64, nope_size=128, value_size=128)
# name: shape, tokens of a request, batched tokens, draft layers, drafted tokens
CASES: dict[str, tuple[ModelShape, int, int, int, int]] = {
    "plain": (shape(32, 8, 128), 8_192, 2_048, 0, 0),
    "gpt-oss-20b": (shape(12, 8, 64, sliding=window(12, 128)), 131_072, 8_192, 0, 0),
    "gpt-oss-20b and a draft": (shape(12, 8, 64, sliding=window(12, 128)), 131_072, 8_192, 1, 0),
    "gemma-3-27b": (shape(10, 16, 128, sliding=window(52, 1024)), 32_768, 2_048, 0, 0),
    "gemma-3-4b": (shape(5, 4, 256, sliding=window(29, 1024)), 8_192, 8_192, 0, 0),
    "windows only": (shape(0, 2, 128, sliding=window(30, 4096)), 16_384, 8_192, 0, 0),
    "latent": (shape(27, 16, 192, latent=MLA), 1_024, 2_048, 0, 0),
    "latent and MTP": (shape(61, 128, 192, latent=MLA), 32_768, 8_192, 1, 1),
    "hybrid": (shape(16, 4, 256, gdn=GDN), 32_768, 8_192, 0, 0),
    "hybrid and MTP": (shape(16, 4, 256, gdn=GDN), 32_768, 8_192, 1, 2),
}  # fmt: skip


def _case(name: str, pool: int) -> dict[str, Any]:
    model, length, batched, drafts, drafted = CASES[name]
    cache = layout(model, V0_20_0, draft_layers=drafts, drafted=drafted, batched=batched)
    heads, size = model.attention.kv_heads, model.attention.head_size
    layers: list[list[Any]] = [["full", model.attention.layers + drafts, heads, size, cache.block_size, 0]]
    if model.latent is not None:
        layers = [["latent", model.attention.layers + drafts, 1, 576, cache.block_size, 0]]
    if model.sliding is not None:
        layers.append(["window", model.sliding.layers, heads, size, cache.block_size, model.sliding.window])
    if model.gdn is not None:
        layers.append(["state", model.gdn.layers, 1, 1, 0, cache.page_bytes])
    return {"layers": layers, "length": length, "batched": batched, "pool": pool, "drafted": drafted}


def test_layouts_are_vllms_own() -> None:
    site = packages(OLD)
    pools = (3 * GIB, 8 * GIB + 12_345, 61 * GIB)
    asked = [(name, pool) for name in CASES for pool in pools]
    done = subprocess.run(
        [str(interpreter()), kvjudge.__file__], input=json.dumps([_case(*each) for each in asked]), text=True,
        capture_output=True, check=False, timeout=280, env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HOME": "/tmp"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answers = json.loads(done.stdout.splitlines()[-1])
    for (name, pool), answer in zip(asked, answers, strict=True):
        model, length, batched, drafts, drafted = CASES[name]
        cache = layout(model, V0_20_0, draft_layers=drafts, drafted=drafted, batched=batched)
        found = capacity(cache, cache.blocks(pool), V0_20_0, length)
        ours = {
            "groups": cache.groups, "layers": cache.group_layers, "blocks": found.blocks, "tokens": found.tokens,
            "concurrency": pytest.approx(found.concurrency),
        }  # fmt: skip
        assert answer == ours, name
