"""Small checkpoints with the names and the layout of Qwen3.6-27B-FP8: written by the `safetensors` library."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from builder.checkpoint.header import Tensor, make_header

HEAD, EMBED = "lm_head.weight", "model.language_model.embed_tokens.weight"
SIZES = {"uint16": "BF16", "uint8": "F8_E4M3", "float32": "F32"}


def bf16(values: Any) -> Any:
    """FP32 -> BF16 patterns as U16, to nearest even; for finite values."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(np.uint16)


def normal(rows: int, cols: int, seed: int = 0) -> Any:
    """BF16 patterns of N(0, 0.02)."""
    return bf16(np.random.default_rng(seed).standard_normal((rows, cols), np.float32) * np.float32(0.02))


def write_shard(path: Path, tensors: Mapping[str, Any]) -> None:
    """U16 arrays are written as BF16, U8 as F8_E4M3, F32 as F32, in the order given."""
    place, entries = 0, []
    for name, data in tensors.items():
        entries.append(Tensor(name, SIZES[str(data.dtype)], data.shape, place, place + data.nbytes))
        place += data.nbytes
    with path.open("wb") as stream:
        stream.write(make_header(entries, {"format": "pt"}))
        for data in tensors.values():
            stream.write(np.ascontiguousarray(data).tobytes())


def make_checkpoint(
    folder: Path, shards: Mapping[str, Mapping[str, Any]], config: dict[str, Any] | None = None
) -> Path:
    """A checkpoint folder with config, index, tokenizer, licence and card."""
    folder.mkdir(parents=True)
    for shard, tensors in shards.items():
        write_shard(folder / shard, tensors)
    index = {
        "metadata": {"total_size": sum(data.nbytes for tensors in shards.values() for data in tensors.values())},
        "weight_map": {name: shard for shard, tensors in shards.items() for name in tensors},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(config if config is not None else qwen_config(), indent=2))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "LICENSE").write_text("Apache-2.0")
    (folder / "README.md").write_text("# card")
    return folder


def qwen_config() -> dict[str, Any]:
    return {
        "architectures": ["Qwen3_5ForConditionalGeneration"],
        "tie_word_embeddings": False,
        "text_config": {"hidden_size": 320, "vocab_size": 500, "tie_word_embeddings": False},
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
            "modules_to_not_convert": ["lm_head", "model.language_model.embed_tokens", "model.visual.merger"],
        },
    }


def qwen_shards(rows: int = 500, cols: int = 320) -> dict[str, dict[str, Any]]:
    """Two layers' shards and the one that holds both tables."""
    layer = {
        "proj.weight": np.arange(256 * 128, dtype=np.uint32).astype(np.uint8).reshape(256, 128) & np.uint8(0x77),
        "proj.weight_scale_inv": normal(2, 1, 3),
        "norm.weight": normal(1, 320, 4),
    }
    shards = {
        f"layers-{number}.safetensors": {
            f"model.language_model.layers.{number}.{name}": data for name, data in layer.items()
        }
        for number in range(2)
    }
    shards["outside.safetensors"] = {
        HEAD: normal(rows, cols, 1),
        EMBED: normal(rows, cols, 2),
        "model.language_model.norm.weight": normal(1, cols, 5),
        "model.visual.patch.weight": normal(30, 64, 6),
    }
    return shards


def make_qwen(folder: Path, *, rows: int = 500, cols: int = 320) -> Path:
    return make_checkpoint(folder, qwen_shards(rows, cols))
