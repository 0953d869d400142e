"""Which tensors of a checkpoint are vocabulary tables, and whether they can become block FP8."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from builder.checkpoint.blocks import block_count
from builder.checkpoint.opened import Checkpoint, quantization_of
from builder.util.errors import InputError

SCALE_SUFFIX = "_scale_inv"
# The last part of a module's name, and what its overlay reads in quantization_config.
OPT_INS = {"lm_head": ("lm_head",), "embed_tokens": ("embed_tokens", "embeddings")}
# vLLM 0.20.0's Fp8Config.from_config reads ignored_layers, and the other where that is empty or missing; transformers
# reads the other one only. builder/serve/entrypoint.py looks at the same two.
KEPT_LISTS = ("modules_to_not_convert", "ignored_layers")
# Parts of a module's name that its family puts in different orders, or leaves out: transformers 4 and 5, vLLM.
_WRAPPERS = frozenset({"model", "language_model"})


@dataclass(frozen=True)
class Table:
    """A BF16 matrix [rows, cols] that becomes F8_E4M3 with BF16 scales, one per `block`."""

    name: str
    shard: str
    shape: tuple[int, int]
    block: tuple[int, int]

    @property
    def scale_name(self) -> str:
        return self.name + SCALE_SUFFIX

    @property
    def scale_shape(self) -> tuple[int, int]:
        return block_count(self.shape, self.block)


@dataclass(frozen=True)
class TableSelection:
    """The tables to quantize, and the vocabulary tables that are block FP8 already. `block` is (rows, cols)."""

    todo: tuple[Table, ...]
    done: tuple[str, ...]
    block: tuple[int, int]


def module_of(tensor: str) -> str:
    """`model.embed_tokens.weight` -> `model.embed_tokens`."""
    return tensor.rpartition(".")[0]


def kept_modules(quantization: dict[str, Any]) -> dict[str, list[str]]:
    """The names in the config's lists of modules that stay as they are, by list."""
    lists = {key: quantization.get(key) for key in KEPT_LISTS}
    return {
        key: [name for name in found if isinstance(name, str)]
        for key, found in lists.items()
        if isinstance(found, list)
    }


def same_module(first: str, second: str) -> bool:
    """Whether two names mean one module: `model.language_model.embed_tokens` is `language_model.model.embed_tokens`, and
    vLLM, which renames both alike, would find either in a list."""
    parts = [[part for part in name.split(".") if part not in _WRAPPERS] for name in (first, second)]
    return parts[0] == parts[1]


def block_of(quantization: dict[str, Any]) -> tuple[int, int]:
    """The block size that the config's FP8 layers have. Raises `InputError` when the checkpoint is not block FP8."""
    found = quantization.get("weight_block_size")
    if quantization.get("quant_method") != "fp8" or not (
        isinstance(found, list)
        and len(found) == 2
        and all(isinstance(each, int) and not isinstance(each, bool) and 0 < each <= 4096 for each in found)
    ):
        raise InputError(
            "the checkpoint is not block FP8, so its vocabulary tables cannot join it",
            details=[
                ("where", "config.json, quantization_config"),
                ("wanted", 'quant_method "fp8" and weight_block_size [128, 128]'),
                ("found", f"{quantization.get('quant_method')!r} and {found!r}"),
            ],
            hint="take the FP8 checkpoint of the model as SOURCE",
        )
    return found[0], found[1]


def refuse_tied(config: dict[str, Any]) -> None:
    """Raises `InputError` when the output head is the embedding table itself."""
    text = config.get("text_config")
    # transformers lets the outer config win where both have an opinion.
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings") if isinstance(text, dict) else None)
    if tied:
        raise InputError(
            "the checkpoint ties lm_head to embed_tokens",
            details=[
                ("where", "config.json, tie_word_embeddings"),
                ("why", "there is one table for both, and a tied head is not loaded through the FP8 path: it would\nread FP8 bytes without their scale"),
            ],
            hint="only checkpoints with a table each can be quantized",
        )  # fmt: skip


def vocabulary_tables(checkpoint: Checkpoint) -> list[str]:
    """The `.weight` of the one lm_head and the one embed_tokens, as the config names them."""
    kept = {name for names in kept_modules(checkpoint.quantization).values() for name in names}
    found = []
    for part in OPT_INS:
        names = sorted(
            name
            for name in checkpoint.weight_map
            if name.endswith(".weight") and module_of(name).split(".")[-1] == part
        )
        listed = [name for name in names if module_of(name) in kept]
        choice = listed if len(names) > 1 and listed else names
        if len(choice) != 1:
            raise InputError(
                f"the checkpoint has {'no' if not choice else 'more than one'} {part} table",
                details=[("found", ", ".join(choice) or "none")],
                hint="name the tables yourself: --tensor NAME",
            )
        found += choice
    return found


def select_tables(checkpoint: Checkpoint, named: Iterable[str] = ()) -> TableSelection:
    """The tables to quantize: the vocabulary's, or those `named`. Raises `InputError` for what cannot be done."""
    block = block_of(checkpoint.quantization)
    refuse_tied(checkpoint.config)
    names = list(dict.fromkeys(named)) or vocabulary_tables(checkpoint)
    todo, done = [], []
    for name in names:
        tensor = checkpoint.tensor(name)
        if tensor is None:
            raise InputError(f"there is no tensor {name}", hint=_near(name, checkpoint.weight_map))
        if len(tensor.shape) != 2 or 0 in tensor.shape:
            raise InputError(f"{name} is {list(tensor.shape)}, not a table", hint="name a matrix: --tensor NAME")
        table = Table(name, checkpoint.weight_map[name], (tensor.shape[0], tensor.shape[1]), block)
        if tensor.dtype == "F8_E4M3":
            _check_done(checkpoint, table)
            done.append(name)
        elif tensor.dtype != "BF16":
            raise InputError(f"{name} is {tensor.dtype}, not BF16", hint="take a checkpoint with BF16 tables as SOURCE")
        elif table.scale_name in checkpoint.weight_map:
            raise InputError(
                f"{name} is BF16 and has {table.scale_name} beside it",
                hint="the checkpoint contradicts itself: fetch it again",
            )
        else:
            todo.append(table)
    if not todo:
        raise InputError(
            "nothing to do: the tables are block FP8 already",
            details=[("found", ", ".join(done))],
            hint="`builder checkpoint check DIR` tells whether the checkpoint can be served",
        )
    return TableSelection(tuple(todo), tuple(done), block)


def _check_done(checkpoint: Checkpoint, table: Table) -> None:
    scale = checkpoint.tensor(table.scale_name)
    found = f"{scale.dtype} {list(scale.shape)}" if scale else "none"
    if scale is None or scale.dtype != "BF16" or scale.shape != table.scale_shape:
        raise InputError(
            f"{table.name} is FP8, but its scale is not what block FP8 has",
            details=[("wanted", f"{table.scale_name}: BF16 {list(table.scale_shape)}"), ("found", found)],
            hint="take a checkpoint with a BF16 table as SOURCE",
        )


def edit_config(config: dict[str, Any], names: Iterable[str]) -> None:
    """Switch the FP8 path on, in place, for the tables `names`: opt-ins true, and out of the lists of kept modules."""
    quantization = quantization_of(config)
    modules = {module_of(name) for name in names}
    for module in sorted(modules):
        for key in OPT_INS.get(module.split(".")[-1], ()):
            quantization[key] = True
    for key, kept in kept_modules(quantization).items():
        gone = {name for name in kept if any(same_module(name, module) for module in modules)}
        quantization[key] = [name for name in quantization[key] if not (isinstance(name, str) and name in gone)]


def _near(name: str, known: Iterable[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else "see the names in the index"
