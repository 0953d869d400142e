"""GPUs by name, from the one table in gpus.yaml."""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass
from pathlib import Path

from builder.util.errors import InputError

_TABLE = Path(__file__).with_name("gpus.yaml")


@dataclass(frozen=True)
class Gpu:
    """`gib` is what CUDA reports as total memory; `measured` is the source of the figure, None when it was not measured."""

    name: str
    gib: float
    measured: str | None = None


@functools.cache
def gpus() -> dict[str, Gpu]:
    """Every GPU in the table."""
    import yaml

    document = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    return {name: Gpu(name, float(entry["gib"]), entry.get("measured")) for name, entry in document.items()}


def find_gpu(name: str) -> Gpu:
    """A GPU by name. Raises `InputError` with the nearest known name."""
    known = gpus()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise InputError(
            f"there is no GPU {name!r} in the table",
            hint=(f"did you mean {near[0]}? " if near else "") + f"known: {', '.join(known)}",
        )
    return known[name]
