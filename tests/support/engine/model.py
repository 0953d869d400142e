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
from tests.support.engine.server import interpreter

_HERE = Path(__file__).parent
_PROJECT = _HERE.parents[2]
_LAYERS = 2
_LINEAR = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip
BLOCK = [128, 128]


def _key() -> str:
    """12 hexadecimal digits of what the model is made from."""
    sources = [_HERE / "train.py", _HERE / "questions.py", _HERE / "chat_template.jinja", Path(prompts.__file__)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources) + OLD.key.encode()).hexdigest()[:12]


def tiny_model(say: Say = lambda _: None) -> Path:
    """The checkpoint's folder: a Qwen3 of 1.7 million parameters in BF16, 3.4 MB."""
    path = cache() / f"tiny-{_key()}"
    with (cache() / ".tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_dir():
            say("training the tiny model, fifty answers by heart")
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
