"""What the engine itself says about checkpoints, in one process: run with the engine's packages. Usage: probe.py CASES

CASES is a JSON file, a list of objects with `do` and its arguments; one JSON line is printed for each, behind `RESULT `.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "INFO")

import torch


def _config(model: str, **more: Any) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    plain = {"dtype": "bfloat16", "max_model_len": 1024, "max_num_seqs": 4, "enforce_eager": True}
    return EngineArgs(model=model, **{**plain, **more}).create_engine_config()


def config(model: str, **more: Any) -> dict[str, Any]:
    """Make the engine's configuration."""
    made = _config(model, **more)
    return {"hybrid": made.model_config.is_hybrid, "quantization": made.model_config.quantization}


def load(model: str, **more: Any) -> dict[str, Any]:
    """Load the checkpoint; report each vocabulary table's type and bytes, as the engine holds them."""
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.model_loader import get_model

    made = _config(model, **more)
    with set_current_vllm_config(made):
        _one_process()
        loaded = get_model(vllm_config=made)
    return {"tables": _tables(loaded)}


def _tables(loaded: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, parameter in loaded.named_parameters():
        table = next((each for each in ("lm_head", "embed_tokens") if f"{each}." in name), None)
        if table is not None:
            entry = found.setdefault(table, {"bytes": 0, "parameters": {}})
            entry["bytes"] += parameter.numel() * parameter.element_size()
            entry["parameters"][name.rpartition(".")[2]] = [str(parameter.dtype), list(parameter.shape)]
    return found


def _one_process() -> None:
    """A world of one process, once."""
    from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment
    from vllm.distributed.parallel_state import model_parallel_is_initialized

    if not model_parallel_is_initialized():
        where = f"file://{tempfile.mkdtemp()}/rendezvous"
        init_distributed_environment(1, 0, where, 0, backend="gloo")
        ensure_model_parallel_initialized(1, 1)


@contextmanager
def _rank(rank: int, size: int) -> Iterator[None]:
    """The vocabulary's layers as rank `rank` of `size` makes them."""
    from vllm.model_executor.layers import vocab_parallel_embedding as module

    kept = (module.get_tensor_model_parallel_rank, module.get_tensor_model_parallel_world_size)
    module.get_tensor_model_parallel_rank = lambda: rank
    module.get_tensor_model_parallel_world_size = lambda: size
    try:
        yield
    finally:
        module.get_tensor_model_parallel_rank, module.get_tensor_model_parallel_world_size = kept


def shards(vocabulary: int, hidden: int, size: int, chunk: int | None = None) -> dict[str, Any]:
    """Embedding and logits of all ranks, put together, against the table that is dequantized as a whole."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.quantization import fp8_vocab
    from vllm.model_executor.layers.quantization.fp8 import Fp8Config
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    if chunk is not None:
        fp8_vocab.CHUNK_BLOCKS = chunk
    generator = torch.Generator().manual_seed(vocabulary + size)
    blocks = (-(-vocabulary // 128), -(-hidden // 128))
    weight = torch.randn(vocabulary, hidden, generator=generator).clamp(-4, 4).to(torch.float8_e4m3fn)
    scale = torch.rand(blocks, generator=generator).to(torch.bfloat16) + 0.01
    wide = scale.float().repeat_interleave(128, 0)[:vocabulary].repeat_interleave(128, 1)[:, :hidden]
    table = (weight.float() * wide).to(torch.bfloat16)
    quantization = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    opted = Fp8Config.from_config({**quantization, "lm_head": True, "embed_tokens": True, "embeddings": True})
    ids = torch.randint(vocabulary, (64,), generator=generator)
    x = torch.randn(3, hidden, generator=generator).to(torch.bfloat16)
    rows, logits = torch.zeros(64, hidden, dtype=torch.bfloat16), []
    with set_current_vllm_config(VllmConfig()):
        _one_process()
        for rank in range(size):
            with _rank(rank, size):
                layers = [
                    kind(vocabulary, hidden, params_dtype=torch.bfloat16, quant_config=opted, prefix=f"model.{name}")
                    for kind, name in ((VocabParallelEmbedding, "embed_tokens"), (ParallelLMHead, "lm_head"))
                ]
            for layer in layers:
                layer.weight.weight_loader(layer.weight, weight)
                layer.weight_scale_inv.weight_loader(layer.weight_scale_inv, scale)
                layer.quant_method.process_weights_after_loading(layer)
            first, last = layers[0].shard_indices.org_vocab_start_index, layers[0].shard_indices.org_vocab_end_index
            mine = (ids >= first) & (ids < last)
            rows[mine] = layers[0].quant_method.embedding(layers[0], ids[mine] - first)
            logits.append(layers[1].quant_method.apply(layers[1], x)[:, : last - first])
    wanted = torch.nn.functional.linear(x, table)
    kernel = layers[1].fp8_kernel
    return {
        "kernel": None if kernel is None else type(kernel).__name__,
        "amx": bool(torch.cpu._is_amx_tile_supported()),
        "rows_equal": bool(torch.equal(rows, table[ids])),
        "logits_apart": float((torch.cat(logits, -1).float() - wanted.float()).abs().max()),
        "logits_largest": float(wanted.abs().max()),
    }


def parse(lines: list[list[str]]) -> dict[str, Any]:
    """What the engine's own parser says against command lines; None where it takes one."""
    import importlib

    import vllm
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    # It moved between the releases.
    names = ("entrypoints.openai.cli_args", "entrypoints.launchers.cli_args")
    folder = Path(vllm.__file__).parent
    name = next(each for each in names if (folder / each.replace(".", "/")).with_suffix(".py").is_file())
    make_arg_parser = importlib.import_module(f"vllm.{name}").make_arg_parser
    parser = make_arg_parser(FlexibleArgumentParser())

    class RefusedError(Exception):
        pass

    def refuse(message: str) -> None:
        raise RefusedError(message)

    parser.error = refuse
    said: list[str | None] = []
    for line in lines:
        try:
            parser.parse_args(line)
            said.append(None)
        except RefusedError as refused:
            said.append(str(refused))
    shown = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(shown):
        parser.parse_args(["--help=all"])
    return {
        "said": said,
        "flags": sorted(flag for flag in parser._option_string_actions if flag.startswith("--")),
        # The usage and the heading of each option; long ones are wrapped.
        "help": sorted(set(re.findall(r"(?<![\w-])--[a-z0-9][\w.-]*", shown.getvalue()))),
    }


def hybrid(module: str, name: str, model: str, model_type: str) -> dict[str, Any]:
    """Make and load a class of `vllm.model_executor.models` by itself, for a checkpoint that names another one.

    Qwen3.5 is a model for images too: torchvision, which its module imports, is not here, and its text part needs none.
    """
    import importlib
    from unittest.mock import MagicMock

    from vllm.config import set_current_vllm_config
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
    from vllm.model_executor.model_loader.weight_utils import safetensors_weights_iterator
    from vllm.utils.torch_utils import set_default_torch_dtype

    made = _config(model)
    for part in ("", ".transforms", ".transforms.v2", ".transforms.v2.functional", ".io"):
        sys.modules.setdefault(f"torchvision{part}", MagicMock())
    made.model_config.hf_text_config.model_type = model_type
    with set_current_vllm_config(made), set_default_torch_dtype(torch.bfloat16):
        _one_process()
        kind = getattr(importlib.import_module(f"vllm.model_executor.models.{module}"), name)
        if made.quant_config is not None:
            made.quant_config.packed_modules_mapping = dict(kind.packed_modules_mapping)
        loaded = kind(vllm_config=made)
        files = sorted(str(path) for path in Path(model).glob("*.safetensors"))
        names = loaded.load_weights(safetensors_weights_iterator(files, False))
        # Of the layers only the tables: the CPU build cannot pack the weights of a convolution.
        tables = [each for each in loaded.modules() if isinstance(each, VocabParallelEmbedding)]
        for each in tables:
            each.quant_method.process_weights_after_loading(each)
    return {
        "tables": _tables(loaded),
        "methods": [type(each.quant_method).__name__ for each in tables],
        "loaded": sorted(each for each in names if "scale" in each),
    }


STEPS: dict[str, Callable[..., dict[str, Any]]] = {
    each.__name__: each for each in (config, load, shards, parse, hybrid)
}


def main(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        arguments = {name: value for name, value in case.items() if name != "do"}
        try:
            result = STEPS[case["do"]](**arguments)
        except BaseException as error:  # noqa: BLE001  # whatever the engine raises is the result
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{frame.filename.rpartition('-packages/')[2]}:{frame.lineno}"
            result = {"error": type(error).__name__, "message": str(error)[:2000], "where": place}
            if os.environ.get("PROBE_TRACE"):
                traceback.print_exc()
        print("RESULT " + json.dumps(result), flush=True)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
