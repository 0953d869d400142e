"""The tiny model, and its twins: made once per machine by our own script, cached outside the repository."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from builder.serve.smoke import prompts
from tests.support.engine.packages import OLD, Release, Say, cache, site_packages
from tests.support.engine.questions import SAMPLE
from tests.support.engine.server import interpreter

_HERE = Path(__file__).parent
_PROJECT = _HERE.parents[2]
_LAYERS = 2
_LINEAR = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip
BLOCK = [128, 128]


def _key() -> str:
    """12 hexadecimal digits of what the model is made from."""
    sources = [
        _HERE / "train.py",
        _HERE / "questions.py",
        _HERE / "chat_template.jinja",
        Path(prompts.__file__),
        SAMPLE,
    ]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources) + OLD.key.encode()).hexdigest()[:12]


def tiny_model(say: Say = lambda _: None) -> Path:
    """The checkpoint's folder: a Qwen3 of 1.7 million parameters in BF16, 3.4 MB."""
    path = cache() / f"tiny-{_key()}"
    with (cache() / ".tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_dir():
            say("training the tiny model, eighty-eight answers by heart")
            temporary = path.with_suffix(".part")
            shutil.rmtree(temporary, ignore_errors=True)
            train(temporary)
            temporary.rename(path)
    return path


def train(folder: Path, release: Release = OLD) -> None:
    """Train the model into `folder`, with the engine's own torch and transformers."""
    folder.mkdir(parents=True)
    packages = os.pathsep.join([str(site_packages(release)), str(_PROJECT)])
    command = [interpreter(), "-S", "-m", "tests.support.engine.train", str(folder)]
    done = subprocess.run(
        command, env={"PYTHONPATH": packages, "PATH": os.environ["PATH"], "HOME": str(folder.parent)}, cwd=_PROJECT,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"the tiny model could not be trained: {done.stderr[-1500:]}")


def fp8_source(folder: Path, model: Path) -> Path:
    """The tiny model as a published FP8 checkpoint has it: tables in BF16, named among those not to convert.

    The linear layers stay in BF16 too: vLLM's CPU build has no kernel for FP8 blocks.
    """
    shutil.copytree(model, folder)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    linear = [f"model.layers.{number}.{name}" for number in range(_LAYERS) for name in _LINEAR]
    config["quantization_config"] = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "weight_block_size": BLOCK,
        "modules_to_not_convert": ["lm_head", "model.embed_tokens", *linear],
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def hybrid_checkpoint(folder: Path, model: Path, *, tables: bool = True) -> Path:
    """A tiny Qwen3-Next in `folder`, which names four layers and, with `tables`, has the vocabulary's tables only.

    vLLM's CPU build can make its configuration; the class for Qwen3.5's text takes the same one.
    """
    import numpy as np

    from tests.support.checkpoints import bf16, write_shard

    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(model / name, folder)
    layers = 4
    linear = [f"linear_attn.{name}" for name in ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "in_proj_qkvz", "in_proj_ba", "out_proj")]  # fmt: skip
    kept = [f"model.layers.{number}.{name}" for number in range(layers) for name in (*_LINEAR, *linear)]
    config = {
        "model_type": "qwen3_next", "architectures": ["Qwen3NextForCausalLM"], "vocab_size": 1024, "hidden_size": 256,
        "intermediate_size": 512, "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 128, "linear_conv_kernel_dim": 4, "linear_key_head_dim": 64, "linear_value_head_dim": 64,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "full_attention_interval": 4,
        "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
        "max_position_embeddings": 4096, "tie_word_embeddings": False, "dtype": "bfloat16", "num_experts": 0,
        "decoder_sparse_step": 1, "mlp_only_layers": list(range(layers)), "moe_intermediate_size": 64,
        "num_experts_per_tok": 1, "shared_expert_intermediate_size": 64,
        "quantization_config": {
            "quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": BLOCK,
            "modules_to_not_convert": ["lm_head", "model.embed_tokens", *kept],
        },
    }  # fmt: skip
    if tables:
        random = np.random.default_rng(0)
        names = ("lm_head.weight", "model.embed_tokens.weight")
        write_shard(
            folder / "model.safetensors",
            {name: bf16(random.standard_normal((1024, 256), np.float32) * np.float32(0.02)) for name in names},
        )
    else:
        del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder
