"""Can the stack of a recipe load a checkpoint? From config, index and headers; no tensor is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from builder.checkpoint.opened import Checkpoint, CheckpointProblem, open_checkpoint
from builder.checkpoint.tables import OPT_INS, SCALE_SUFFIX, Table, block_of, kept_modules, module_of, same_module
from builder.util.errors import InputError

if TYPE_CHECKING:
    from builder.documents.lock import LockedCheckpointFile
    from builder.documents.recipe import OverlaySpec


@dataclass(frozen=True)
class Need:
    """What one overlay of the recipe needs of the checkpoint, and whether it is there."""

    overlay: str
    what: str
    met: bool


@dataclass(frozen=True)
class Verdict:
    """`problems` keep the checkpoint from being served right; `notes` do not."""

    problems: tuple[CheckpointProblem, ...]
    notes: tuple[CheckpointProblem, ...]
    needs: tuple[Need, ...]
    tensors: int
    shards: int
    fp8_tables: tuple[str, ...]


def check_checkpoint(
    folder: Path, *, overlays: Iterable[OverlaySpec] | None = None, locked: Iterable[LockedCheckpointFile] = ()
) -> Verdict:
    """Judge the checkpoint in `folder`, for a recipe's `overlays` when they are given, against `locked` files' sizes.

    Raises `InputError` when there is nothing to judge.
    """
    checkpoint = open_checkpoint(folder)
    tables = tuple(sorted(_fp8_tables(checkpoint)))
    found = list(checkpoint.problems)
    found += scale_problems(checkpoint)
    found += _opt_in_problems(checkpoint, tables)
    found += _size_problems(folder, locked)
    needs: list[Need] = []
    if overlays is not None:
        overlays = list(overlays)
        needs, more = _needs(checkpoint, overlays)
        found += more
        found += _unread_tables(tables, overlays)
    return Verdict(
        tuple(problem for problem in dict.fromkeys(found) if not problem.harmless),
        tuple(problem for problem in dict.fromkeys(found) if problem.harmless),
        tuple(needs), len(checkpoint.weight_map), len(checkpoint.headers), tables,
    )  # fmt: skip


def _fp8_tables(checkpoint: Checkpoint) -> Iterator[str]:
    """Vocabulary tables with FP8 values."""
    for name in checkpoint.weight_map:
        tensor = checkpoint.tensor(name)
        if tensor is not None and tensor.dtype == "F8_E4M3" and module_of(name).split(".")[-1] in OPT_INS:
            yield name


def scale_problems(checkpoint: Checkpoint) -> Iterator[CheckpointProblem]:
    """Every FP8 matrix has its scales, in the block FP8 of the config; every scale has its matrix."""
    quantization = checkpoint.quantization
    try:
        block = block_of(quantization)
    except InputError as error:
        if any(name.endswith(SCALE_SUFFIX) for name in checkpoint.weight_map):
            yield CheckpointProblem("config.json", error.message)
        return
    for name in checkpoint.weight_map:
        tensor = checkpoint.tensor(name)
        if tensor is None:
            continue
        if name.endswith(SCALE_SUFFIX):
            weight = checkpoint.tensor(name.removesuffix(SCALE_SUFFIX))
            if weight is None or weight.dtype != "F8_E4M3":
                yield CheckpointProblem(name, f"is a scale, but {name.removesuffix(SCALE_SUFFIX)} is not F8_E4M3")
        elif tensor.dtype == "F8_E4M3" and len(tensor.shape) == 2:
            table = Table(name, checkpoint.weight_map[name], (tensor.shape[0], tensor.shape[1]), block)
            yield from _scale_of(checkpoint, table)


def _scale_of(checkpoint: Checkpoint, table: Table) -> Iterator[CheckpointProblem]:
    scale = checkpoint.tensor(table.scale_name)
    # The vocabulary overlay reads BF16; vLLM's own layers take FP32 scales too.
    vocabulary = module_of(table.name).split(".")[-1] in OPT_INS
    dtypes = ("BF16",) if vocabulary else ("BF16", "F32")
    if scale is None:
        yield CheckpointProblem(table.name, f"is FP8 without {table.scale_name}: its values would be read unscaled")
    elif scale.dtype not in dtypes or scale.shape != table.scale_shape:
        wanted = f"{' or '.join(dtypes)} {list(table.scale_shape)}"
        yield CheckpointProblem(table.scale_name, f"is {scale.dtype} {list(scale.shape)}, not {wanted}")


def _opt_in_problems(checkpoint: Checkpoint, tables: Iterable[str]) -> Iterator[CheckpointProblem]:
    quantization = checkpoint.quantization
    for name in tables:
        module = module_of(name)
        for key in OPT_INS[module.split(".")[-1]]:
            if quantization.get(key) is not True:
                yield CheckpointProblem("config.json", f"{name} is FP8, but quantization_config.{key} is not true")
        for key, kept in kept_modules(quantization).items():
            for each in kept:
                if same_module(each, module):
                    yield CheckpointProblem("config.json", f"{key} lists {each}: its scale would be ignored")


def _size_problems(folder: Path, locked: Iterable[LockedCheckpointFile]) -> Iterator[CheckpointProblem]:
    for file in locked:
        try:
            size = (folder / file.path).stat().st_size
        except OSError as error:
            yield CheckpointProblem(file.path, f"cannot be read: {error.strerror}")
            continue
        if size != file.size:
            yield CheckpointProblem(file.path, f"has {size:,} bytes, locked were {file.size:,}")


def _needs(checkpoint: Checkpoint, overlays: Iterable[OverlaySpec]) -> tuple[list[Need], list[CheckpointProblem]]:
    needs, problems = [], []
    for overlay in overlays:
        if overlay.requires is None:
            continue
        for key in overlay.requires.opt_ins:
            met = checkpoint.quantization.get(key) is True
            needs.append(Need(overlay.id, f"quantization_config.{key}: true", met))
            if not met:
                problems.append(
                    CheckpointProblem("config.json", f"quantization_config.{key} is not true; {overlay.id} needs it")
                )
        for name, rule in overlay.requires.tensors.items():
            tensor = checkpoint.tensor(name)
            met = tensor is not None and (tensor.dtype, tensor.shape) == (rule.dtype, rule.shape)
            needs.append(Need(overlay.id, f"{name}: {rule.dtype} {list(rule.shape)}", met))
            if not met:
                found = f"is {tensor.dtype} {list(tensor.shape)}" if tensor else "is not there"
                problems.append(CheckpointProblem(name, f"{found}; {overlay.id} needs {rule.dtype} {list(rule.shape)}"))
    return needs, problems


def _unread_tables(tables: Iterable[str], overlays: list[OverlaySpec]) -> Iterator[CheckpointProblem]:
    """An FP8 table that no overlay reads as one: stock vLLM would load its bytes without their scale."""
    read = {name for overlay in overlays if overlay.requires for name in overlay.requires.tensors}
    for name in tables:
        if name + SCALE_SUFFIX not in read:
            yield CheckpointProblem(
                name, "is FP8, but no overlay of the recipe declares that it reads it, and stock vLLM does not"
            )
