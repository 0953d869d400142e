"""A checkpoint's config and tensor list without its bulk: from a folder, or by range from the Hub."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.checkpoint.header import read_header
from builder.checkpoint.hub_access import fetch, open_hub
from builder.util.context import Context
from builder.util.errors import InputError

Tensor = tuple[str, str, tuple[int, ...]]


@dataclass(frozen=True)
class Checkpoint:
    """`config` is config.json; `tensors` are (name, type as safetensors names it, shape)."""

    name: str
    config: dict[str, Any]
    tensors: tuple[Tensor, ...]


def read_folder(folder: Path) -> Checkpoint:
    """Read the headers of every `*.safetensors` in a folder. Raises `InputError` with the file that is not one."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} has no config.json", hint="name the checkpoint's folder")
    config = _json(path.read_bytes(), str(path))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(
            f"{folder} has no .safetensors files", hint="download the checkpoint, or use the recipe's `model:`"
        )
    tensors = [(each.name, each.dtype, each.shape) for file in files for each in read_header(file).tensors.values()]
    return Checkpoint(str(folder), config, tuple(tensors))


def _json(data: bytes, name: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON: {error}", hint="download it again") from error
    if not isinstance(document, dict):
        raise InputError(f"{name} is not a JSON object", hint="download it again")
    return document


def read_hub(repo: str, revision: str | None, *, context: Context) -> Checkpoint:
    """The same from the Hub (`HF_ENDPOINT`), some kilobytes per file by range; weights are not downloaded."""
    with open_hub(repo) as api:
        with context.console.progress(f"reading the headers of {repo}"):
            metadata = api.get_safetensors_metadata(repo, revision=revision)
        config = fetch(api, repo, revision, "config.json")
    tensors = [
        (name, str(tensor.dtype), tuple(tensor.shape))
        for file in metadata.files_metadata.values()
        for name, tensor in file.tensors.items()
    ]
    return Checkpoint(repo, _json(config, "config.json"), tuple(tensors))
