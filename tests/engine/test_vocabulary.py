"""The FP8 vocabulary on the real engine: it says what the BF16 one says, in half the memory, and nothing else gets by."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.engine.conftest import Probe, edited, packages
from tests.support.engine.observe import Observation
from tests.support.engine.packages import OLD
from tests.support.engine.rootfs import command
from tests.support.engine.server import environment

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1200)]

# Relative RMS error of a block in FP8, as `builder checkpoint quantize` reports it for normal values.
BLOCK_ERROR = 0.0266
TABLE = 1024 * 256


def bound(model: Path) -> tuple[float, float]:
    """(largest, mean) difference of a logprob that the error of the blocks explains.

    A logit is the product of a normed state, whose elements have the norm's weight as their RMS, and a row of the head;
    the error of that row moves it by sigma = 2.66 % of both norms. The embedding's error reaches the state once more, a
    logprob has a logit and the sum of all in it, and six sigma hold for tens of thousands of them.
    """
    import torch
    from safetensors.torch import load_file as load_torch

    tensors = load_torch(str(model / "model.safetensors"))
    rows = tensors["lm_head.weight"].to(torch.float32).norm(dim=1).max().item()
    norm = tensors["model.norm.weight"].to(torch.float32).square().mean().sqrt().item()
    sigma = BLOCK_ERROR * rows * norm
    return 6 * 2 * 2**0.5 * sigma, 2 * 2**0.5 * sigma


def compared(one: Observation, other: Observation) -> list[float]:
    """How far the logprobs are apart, of each place's likeliest tokens that both have; the tokens are equal."""
    apart: list[float] = []
    for first, second in zip(one.answers, other.answers, strict=True):
        assert first.tokens == second.tokens, (first.wanted, first.content, second.content)
        for left, right in zip(first.likeliest, second.likeliest, strict=True):
            apart += [abs(left[token] - right[token]) for token in set(left) & set(right)]
    return apart


def test_the_tiny_model_knows_its_answers(bf16_server: Observation) -> None:
    assert bf16_server.healthy, bf16_server.log[-3000:]
    assert len(bf16_server.answers) == 50
    for answer in bf16_server.answers:
        assert "".join(answer.tokens).removesuffix("<|im_end|>").strip() == answer.wanted.strip()


def test_greedy_answers_are_equal_and_logprobs_within_the_error_of_the_blocks(
    bf16_server: Observation, fp8_server: Observation, models: dict[str, Path], record_property: Any
) -> None:
    assert fp8_server.healthy, fp8_server.log[-3000:]
    apart = compared(bf16_server, fp8_server)
    most, mean = bound(models["bf16"])
    print(
        f"largest difference {max(apart):.4f} of {most:.4f}, mean {np.mean(apart):.5f} of {mean:.5f}, {len(apart)} logprobs"
    )
    record_property("largest", max(apart))
    record_property("mean", float(np.mean(apart)))
    # Equal to the last digit would mean that the tables were not in FP8 at all.
    assert 0 < max(apart) < most
    assert np.mean(apart) < mean


def test_the_newer_release_says_the_same(
    bf16_server: Observation, new_server: Observation, models: dict[str, Path]
) -> None:
    """By the overlay's diff for 0.32.0."""
    assert new_server.healthy, new_server.log[-3000:]
    assert max(compared(bf16_server, new_server)) < bound(models["bf16"])[0]
    assert "FP8 vocabulary table lm_head" in new_server.log


def test_the_tables_take_half_the_memory(probe: Probe, root: Path, models: dict[str, Path]) -> None:
    """As the engine holds them: 8 bits an element, and a scale of 4 bytes for a block of 128 by 128."""
    fp8, plain, untouched, third = probe(
        [
            {"do": "load", "model": str(models["fp8"])},
            {"do": "load", "model": str(models["bf16"])},
            {"do": "load", "model": str(models["source"])},
            {"do": "shards", "vocabulary": 1024, "hidden": 256, "size": 1},
        ],
        [root],
    )
    for name in ("lm_head", "embed_tokens"):
        assert fp8["tables"][name]["bytes"] == TABLE + 8 * 2 * 4
        # A BF16 checkpoint, and an FP8 one without the opt-in: as without the overlay.
        assert plain["tables"][name]["bytes"] == untouched["tables"][name]["bytes"] == TABLE * 2
        assert fp8["tables"][name]["parameters"]["weight"] == ["torch.float8_e4m3fn", [1024, 256]]
    assert third["rows_equal"]


@pytest.fixture(scope="module")
def shards(probe: Probe, root: Path) -> list[dict[str, Any]]:
    # Shards that begin at a block's border and within a block; chunks that end at, before and behind a shard's end.
    sizes = [(1024, 256, 1, None), (1024, 256, 4, 1), (1024, 256, 2, 3), (1088, 200, 2, 1), (1088, 200, 2, None), (1000, 256, 4, 2), (24832, 512, 8, 16)]  # fmt: skip
    cases = [{"do": "shards", "vocabulary": v, "hidden": h, "size": n, "chunk": c} for v, h, n, c in sizes]
    return probe(cases, [root])


def test_shards_of_any_size_are_the_whole_table(shards: list[dict[str, Any]]) -> None:
    for result in shards:
        assert result.get("rows_equal"), result
        assert result["logits_apart"] <= result["logits_largest"] / 128


def test_logits_use_the_platforms_kernel_where_it_has_one(probe: Probe, new_packages: Path) -> None:
    """vLLM 0.32.0 has one for CPUs with AMX, for shards of whole blocks; the results are those of the whole table."""
    sizes = [(1024, 256, 1), (1024, 256, 4), (1088, 256, 2), (1024, 200, 1)]
    found = probe([{"do": "shards", "vocabulary": v, "hidden": h, "size": n} for v, h, n in sizes], [new_packages])
    for result, whole in zip(found, (True, True, False, False), strict=True):
        assert result.get("rows_equal"), result
        assert result["logits_apart"] <= result["logits_largest"] / 128
        assert result["kernel"] == ("CPUFp8BlockScaledMMKernel" if whole and result["amx"] else None)


def listed(model: Path) -> list[str]:
    """The modules that the checkpoint does not convert: all linear layers."""
    config = json.loads((model / "config.json").read_text())
    names: list[str] = config["quantization_config"]["modules_to_not_convert"]
    return names


def _wrong(source: Path, target: Path, change: dict[str, Any]) -> Path:
    """A copy of the FP8 checkpoint with other tensors; None takes one out."""
    shutil.copytree(source, target)
    index = json.loads((target / "model.safetensors.index.json").read_text()) if (target / "model.safetensors.index.json").is_file() else None  # fmt: skip
    for shard in target.glob("*.safetensors"):
        from safetensors.torch import load_file as load_torch
        from safetensors.torch import save_file as save_torch

        tensors = load_torch(str(shard))
        hit = set(change) & set(tensors)
        if hit:
            for name in hit:
                if change[name] is None:
                    del tensors[name]
                else:
                    tensors[name] = change[name](tensors[name])
            shard.unlink()
            save_torch(tensors, str(shard), {"format": "pt"})
            if index is not None:
                for name in [each for each in change if change[each] is None]:
                    index["weight_map"].pop(name, None)
                (target / "model.safetensors.index.json").unlink()
                (target / "model.safetensors.index.json").write_text(json.dumps(index))
    return target


def test_what_is_not_an_opted_in_fp8_checkpoint_fails_loudly(
    probe: Probe, root: Path, models: dict[str, Path], room: Path
) -> None:
    import torch

    scale, weight = "lm_head.weight_scale_inv", "model.embed_tokens.weight"
    wrong = [
        _wrong(models["fp8"], room / "w1", {scale: lambda t: t[:4].contiguous()}),
        _wrong(models["fp8"], room / "w2", {scale: None}),
        _wrong(models["fp8"], room / "w3", {weight: lambda t: t.to(torch.float32).to(torch.bfloat16)}),
        edited(models["fp8"], room / "w4", embeddings=False),
        edited(models["fp8"], room / "w5", lm_head=None, embed_tokens=None, embeddings=None),
        edited(models["fp8"], room / "w6", modules_to_not_convert=["lm_head", *listed(models["fp8"])]),
        edited(models["fp8"], room / "w7", weight_block_size=None),
    ]
    said = [
        each.get("message", "served") for each in probe([{"do": "load", "model": str(each)} for each in wrong], [root])
    ]
    assert "lm_head.weight_scale_inv is (4, 2), not (8, 2)" in said[0]
    assert "no weight_scale_inv" in said[1] or "weight_scale_inv" in said[1]
    assert "not torch.float8_e4m3fn" in said[2]
    assert "need all of" in said[3]
    assert "weight_scale_inv" in said[4]
    assert "opted in and not to be converted" in said[5]
    assert "weight_block_size" in said[6]


def test_stock_vllm_refuses_the_checkpoint_or_would_talk_nonsense(probe: Probe, models: dict[str, Path]) -> None:
    """A plain Qwen3 fails loudly. Qwen3.5's text part skips the scale of embed_tokens and goes on: FP8 bytes as numbers."""
    qwen = {"do": "hybrid", "module": "qwen3_5", "name": "Qwen3_5ForCausalLM", "model_type": "qwen3_5_text"}
    plain, both, embed = probe(
        [
            {"do": "load", "model": str(models["fp8"])},
            {**qwen, "model": str(models["hybrid-fp8"])},
            {**qwen, "model": str(models["hybrid-embed"])},
        ],
        [packages(OLD)],
    )
    assert "There is no module or parameter named 'lm_head.weight_scale_inv'" in plain["message"]
    assert "There is no module or parameter named 'lm_head.weight_scale_inv'" in both["message"]
    assert embed["methods"] == ["UnquantizedEmbeddingMethod"] * 2
    assert embed["tables"]["embed_tokens"]["parameters"]["weight"][0] == "torch.bfloat16"
    assert "embed_tokens.weight_scale_inv not found in params_dict, skip loading" in embed["log"]


def test_the_text_part_of_qwen3_5_loads_both_tables(probe: Probe, root: Path, models: dict[str, Path]) -> None:
    (found,) = probe(
        [{"do": "hybrid", "module": "qwen3_5", "name": "Qwen3_5ForCausalLM", "model_type": "qwen3_5_text", "model": str(models["hybrid-fp8"])}],
        [root],
    )  # fmt: skip
    assert found["methods"] == ["Fp8VocabMethod"] * 2, found
    assert found["loaded"] == ["lm_head.weight_scale_inv", "model.embed_tokens.weight_scale_inv"]
    assert {table["bytes"] for table in found["tables"].values()} == {TABLE + 8 * 2 * 4}


@pytest.mark.parametrize("kind", ["bf16", "source", "no opt-in", "scale"])
def test_the_entrypoint_refuses_before_the_engine_starts(
    kind: str, image: Path, root: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    import subprocess

    import torch

    model = {
        "bf16": lambda: models["bf16"],
        "source": lambda: models["source"],
        "no opt-in": lambda: edited(models["fp8"], tmp_path / "m", embeddings=False),
        "scale": lambda: _wrong(models["fp8"], tmp_path / "m", {"lm_head.weight_scale_inv": lambda t: t[:4].contiguous().to(torch.float32)}),
    }[kind]()  # fmt: skip
    env = environment([root], tmp_path / "work") | {"BUILDER_MODEL": str(model)}
    done = subprocess.run(command(image, "smoke-cpu"), env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 4, done.stderr
    assert "is not one that this image can serve" in done.stderr
    assert "vllm" not in done.stdout
