"""A checkpoint that was opened: its config, its index, and the header of every shard. No tensor is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

from builder.checkpoint.digest import is_served
from builder.checkpoint.header import Header, HeaderError, Tensor, read_header
from builder.checkpoint.jsontext import refuse_unwritable
from builder.checkpoint.regular import open_regular
from builder.util.errors import InputError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_JSON_LIMIT = 64 << 20
# A shard's name in an index is a plain file beside it: nothing that leads out of the folder, nothing hidden.
_SHARD = re.compile(r"[^/\x00]+\.safetensors")


@dataclass(frozen=True)
class CheckpointProblem:
    """What is wrong, and where: a file's or a tensor's name. A `harmless` one is nothing that a server reads."""

    where: str
    what: str
    harmless: bool = False


@dataclass(frozen=True)
class Checkpoint:
    """`weight_map` is tensor -> shard; `index` the whole index, or None when there is one file without an index."""

    folder: Path
    config: dict[str, Any]
    index: dict[str, Any] | None
    weight_map: dict[str, str]
    headers: dict[str, Header]
    problems: tuple[CheckpointProblem, ...] = field(default=())

    def tensor(self, name: str) -> Tensor | None:
        """The tensor `name` as the header of its shard has it."""
        header = self.headers.get(self.weight_map.get(name, ""))
        return header.tensors.get(name) if header else None

    @property
    def total_size(self) -> int:
        """Bytes of all tensors."""
        return sum(each.nbytes for header in self.headers.values() for each in header.tensors.values())

    @property
    def quantization(self) -> dict[str, Any]:
        """`quantization_config`, of the config itself or of its `text_config`; empty when there is none."""
        return quantization_of(self.config)


def quantization_of(config: dict[str, Any]) -> dict[str, Any]:
    """The `quantization_config` object inside `config`, or an empty one."""
    for holder in (config, config.get("text_config")):
        if isinstance(holder, dict) and isinstance(holder.get("quantization_config"), dict):
            found: dict[str, Any] = holder["quantization_config"]
            return found
    return {}


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read config, index and headers, and compare them. What does not fit is in `problems`.

    Raises `InputError` when the folder, its config or its index cannot be read at all.
    """
    if not folder.is_dir():
        raise InputError(f"there is no checkpoint at {folder}", hint="name the folder with config.json and the shards")
    config = read_json(folder / "config.json")
    index, weight_map = _index(folder)
    headers: dict[str, Header] = {}
    problems: list[CheckpointProblem] = []
    for shard in sorted(set(weight_map.values()) if index is not None else {SINGLE}):
        try:
            headers[shard] = read_header(folder / shard)
        except HeaderError as error:
            found = dict(error.details).get("found")
            problems.append(CheckpointProblem(shard, f"{error.message}{f': {found}' if found else ''}"))
    if index is None and SINGLE in headers:
        weight_map = dict.fromkeys(headers[SINGLE].tensors, SINGLE)
    problems += _contradictions(weight_map, headers)
    opened = Checkpoint(folder, config, index, weight_map, headers, tuple(problems))
    if not problems and index is not None:
        return Checkpoint(folder, config, index, weight_map, headers, tuple(_size_problems(opened)))
    return opened


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file. Raises `InputError` with the place of the trouble."""
    try:
        with BufferedReader(open_regular(path)) as stream:
            raw = stream.read(_JSON_LIMIT + 1)
        if len(raw) > _JSON_LIMIT:
            raise InputError(f"{path.name} is too large for what it should be", details=[("where", str(path))])
        found = json.loads(raw.decode())
        refuse_unwritable(found)
    except OSError as error:
        raise InputError(
            f"cannot read {path.name}: {error.strerror}",
            details=[("where", str(path))],
            hint="name the folder with config.json and the shards",
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path.name} is not JSON that can be read: {error}",
            details=[("where", str(path))],
            hint="fetch the file again",
        ) from error
    if not isinstance(found, dict):
        raise InputError(f"{path.name} is not a JSON object", details=[("where", str(path))])
    return found


def _index(folder: Path) -> tuple[dict[str, Any] | None, dict[str, str]]:
    path = folder / INDEX
    if not path.exists():
        return None, {}
    index = read_json(path)
    weights = index.get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise InputError(f"{INDEX} has no weight_map", details=[("where", str(path))], hint="fetch the file again")
    for name, shard in weights.items():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard) or not is_served(shard):
            raise InputError(
                f"{INDEX} puts {name} into {shard!r}, which is not a shard beside it",
                details=[("where", str(path))],
                hint="fetch the file again",
            )
    return index, weights


def _contradictions(weight_map: dict[str, str], headers: dict[str, Header]) -> Iterator[CheckpointProblem]:
    for name, shard in weight_map.items():
        if shard in headers and name not in headers[shard].tensors:
            yield CheckpointProblem(name, f"is not in {shard}, though the index lists it there")
    for shard, header in headers.items():
        for name in header.tensors:
            listed = weight_map.get(name)
            if listed is None:
                yield CheckpointProblem(name, f"is in {shard}, but the index does not list it")
            elif listed != shard and name in (headers[listed].tensors if listed in headers else ()):
                yield _duplicate(name, listed, shard)
            elif listed != shard:
                yield CheckpointProblem(name, f"is in {shard}, but the index lists {listed}")


def _duplicate(name: str, listed: str, other: str) -> CheckpointProblem:
    """A tensor in two shards. vLLM reads every tensor of every shard in the index, in the natural order of the shards' names,
    and the last one wins, whichever the index lists (`safetensors_weights_iterator`, vLLM 0.20.0)."""
    last = max(listed, other, key=_natural_order)
    both = f"is in {listed}, which the index lists, and in {other}"
    if last == listed:
        return CheckpointProblem(
            name, f"{both}; vLLM reads {listed} last, so the one that is listed counts", harmless=True
        )
    return CheckpointProblem(
        name, f"{both}; vLLM reads {other} last, so the one that the index supersedes would be served"
    )


def _natural_order(shard: str) -> list[tuple[int, int | str]]:
    """`model-2` before `model-10`: numbers inside a name compare as numbers."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", shard)]


def _size_problems(checkpoint: Checkpoint) -> Iterator[CheckpointProblem]:
    metadata = (checkpoint.index or {}).get("metadata")
    size = metadata.get("total_size") if isinstance(metadata, dict) else None
    if size is not None and size != checkpoint.total_size:
        yield CheckpointProblem(
            INDEX, f"total_size is {str(size)[:40]}, the tensors have {checkpoint.total_size} bytes", True
        )
