"""Which GPU a server has, and how much of its memory is free, as `nvidia-smi` reports it where it can be run."""

from __future__ import annotations

import re
from dataclasses import dataclass

QUERY = ("nvidia-smi", "--query-gpu=name,memory.free,driver_version", "--format=csv,noheader,nounits")
_BRANDS = re.compile(r"\b(?:nvidia|geforce|tesla|quadro)\b")

_LINE = re.compile(r"(?P<name>.*),[ ]*(?P<free>[0-9]{1,12})(?:,[ ]*(?P<driver>[0-9]+(?:\.[0-9]+)*))?")


@dataclass(frozen=True)
class Gpu:
    """A GPU by its full name and its short one (`rtx-5090`); `free_gib` is the least of all that are visible."""

    name: str
    short: str
    free_gib: float
    driver: str | None = None

    def is_a(self, wanted: str) -> bool:
        """Whether a profile's name means this GPU: `h100` is an `h100-80gb-hbm3` too."""
        return self.short == wanted or self.short.startswith(f"{wanted}-")


def short_name(name: str) -> str:
    """`NVIDIA GeForce RTX 5090` as profiles write it: `rtx-5090`."""
    return re.sub(r"[^a-z0-9]+", "-", _BRANDS.sub(" ", name.lower())).strip("-")


def parse(output: str) -> Gpu | None:
    """What `QUERY` printed: a line `NAME, MIB, DRIVER` per GPU, the last part optional. None when it is nothing of the kind."""
    found = [_LINE.fullmatch(line.strip()) for line in output.strip().splitlines()]
    lines = [each for each in found if each is not None]
    if not lines or len(lines) != len(found):
        return None
    name = lines[0]["name"].strip()
    return Gpu(name, short_name(name), min(int(each["free"]) for each in lines) / 1024, lines[0]["driver"])
