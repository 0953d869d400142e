"""Which GPU a server has, and how much of its memory is free, as `nvidia-smi` reports it where it can be run."""

from __future__ import annotations

import re
from dataclasses import dataclass

QUERY = ("nvidia-smi", "--query-gpu=name,memory.free", "--format=csv,noheader,nounits")
_BRANDS = re.compile(r"\b(?:nvidia|geforce|tesla|quadro)\b")


@dataclass(frozen=True)
class Gpu:
    """A GPU by its full name and its short one (`rtx-5090`); `free_gib` is the least of all that are visible."""

    name: str
    short: str
    free_gib: float

    def is_a(self, wanted: str) -> bool:
        """Whether a profile's name means this GPU: `h100` is an `h100-80gb-hbm3` too."""
        return self.short == wanted or self.short.startswith(f"{wanted}-")


def short_name(name: str) -> str:
    """`NVIDIA GeForce RTX 5090` as profiles write it: `rtx-5090`."""
    return re.sub(r"[^a-z0-9]+", "-", _BRANDS.sub(" ", name.lower())).strip("-")


def parse(output: str) -> Gpu | None:
    """What `QUERY` printed: a line `NAME, MIB` per GPU. None when it is nothing of the kind."""
    found = [line.rsplit(",", 1) for line in output.strip().splitlines()]
    if not found or any(len(parts) != 2 or not parts[1].strip().isdigit() for parts in found):
        return None
    name = found[0][0].strip()
    return Gpu(name, short_name(name), min(int(free) for _, free in found) / 1024)
