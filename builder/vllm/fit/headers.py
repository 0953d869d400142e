"""A checkpoint's config and tensor list without its bulk: from a folder, or by range from the Hub."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.checkpoint.header import START, Header, header_length, parse_header, read_header
from builder.checkpoint.hub_access import Hub, open_hub
from builder.util.context import Context
from builder.util.errors import InputError
from builder.util.files import read_regular

# Most headers are smaller, and need one request.
_FIRST_READ = 100_000
_PARALLEL = 8
_CONFIG_LIMIT = 16 << 20

Tensor = tuple[str, str, tuple[int, ...]]


@dataclass(frozen=True)
class Checkpoint:
    """`config` is config.json; `tensors` are (name, type as safetensors names it, shape)."""

    name: str
    config: dict[str, Any]
    tensors: tuple[Tensor, ...]


def read_folder(folder: Path) -> Checkpoint:
    """Read the headers of every `*.safetensors` in a folder. Raises `InputError` with the file that is not valid."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(f"{folder} has no config.json", hint="name the checkpoint's folder")
    config = _json(read_regular(path, limit=_CONFIG_LIMIT), str(path))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(
            f"{folder} has no .safetensors files", hint="download the checkpoint, or use the recipe's `model:`"
        )
    tensors = [tensor for file in files for tensor in _listed(read_header(file))]
    return Checkpoint(str(folder), config, tuple(tensors))


def _listed(header: Header) -> list[Tensor]:
    return [(each.name, each.dtype, each.shape) for each in header.tensors.values()]


def _json(data: bytes, name: str) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not valid JSON: {error}", hint="download it again") from error
    if not isinstance(document, dict):
        raise InputError(f"{name} is not a JSON object", hint="download it again")
    return document


def read_hub(repo: str, revision: str | None, *, context: Context) -> Checkpoint:
    """The same from the Hub (`HF_ENDPOINT`): config.json, and each header by range. Weights are not downloaded.

    Raises `InputError` when the repository has no safetensors weights or they are damaged, `UnreachableError` when the Hub
    does not respond or refuses.
    """
    with open_hub(repo, context=context) as hub:
        commit = hub.required_commit(revision)
        with context.console.progress(f"reading the headers of {repo}"), ThreadPoolExecutor(_PARALLEL) as pool:
            files = _weight_files(hub, commit, repo)
            headers = list(pool.map(lambda path: _listed(_remote_header(hub, commit, path)), files))
        config = hub.file(commit, "config.json")
    tensors = tuple(tensor for header in headers for tensor in header)
    return Checkpoint(repo, _json(config, "config.json"), tensors)


def _weight_files(hub: Hub, commit: str, repo: str) -> list[str]:
    """The files that transformers' naming makes the weights: one, or those of an index."""
    if hub.has_file(commit, "model.safetensors"):
        return ["model.safetensors"]
    index = "model.safetensors.index.json"
    if not hub.has_file(commit, index):
        raise InputError(f"{repo} has no safetensors weights", hint="check name and revision")
    weights = _json(hub.file(commit, index), index).get("weight_map")
    if not isinstance(weights, dict) or not all(isinstance(each, str) for each in weights.values()):
        raise InputError(f"{index} of {repo} has no weight_map", hint="check name and revision")
    return sorted(set(weights.values()))


def _remote_header(hub: Hub, commit: str, path: str) -> Header:
    start = hub.start_of_file(commit, path, _FIRST_READ)
    end = 8 + header_length(start[:START], path=Path(path))
    raw = (start if end <= len(start) else hub.start_of_file(commit, path, end))[8:end]
    return parse_header(raw, path=Path(path), file_size=None)
