"""GPUs by name, from the one table in gpus.yaml.

People, drivers, vLLM's own tuning files and recipes spell one GPU in many ways: `NVIDIA RTX PRO 6000 Blackwell Server Edition`,
`NVIDIA_H100_80GB_HBM3`, `dgx_spark_gb10`, `AMD Instinct MI300X`, `5090`. A name is taken apart into words; those that no GPU
of the table is told apart by are left out; what remains must be the words of one GPU. Edit distance only makes suggestions:
`rtx-pro-6000` is one letter group away from `rtx-a6000`, and another machine.
"""

from __future__ import annotations

import difflib
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from builder.documents.yamlfile import read_yaml
from builder.util.errors import InputError

_TABLE = Path(__file__).with_name("gpus.yaml")
_WORD = re.compile(r"[a-z]+\d+[a-z]*|\d+gb|\d+|[a-z]+")
# What vendors add to a name, and what tells no GPU of the table from another one.
_NOISE = frozenset({
    "nvidia", "amd", "geforce", "instinct", "tesla", "quadro", "graphics", "gpu", "blackwell", "ultra", "workstation",
    "server", "edition", "max", "q", "generation", "gen", "lovelace", "ampere", "hopper", "hbm2", "hbm2e", "hbm3", "hbm3e",
    "gddr6", "gddr7", "sxm", "sxm2", "sxm4", "sxm5", "sxm6", "pcie", "pcie5", "dgx", "hgx", "spark", "station", "grace",
    "superchip", "oam", "vf", "ac", "nvl4", "nvl72", "founders", "the", "desktop", "of", "supermicro", "asus", "gx10", "accelerator", "tensor", "core",
})  # fmt: skip
_OPTIONAL = frozenset({"rtx"})
_SIZE = re.compile(r"(\d+)gb")
_COUNT = re.compile(r"(?:^\d+x|^\d+x?(?=[-_ ]))|(?:[-_ ]\d+x$)")


@dataclass(frozen=True)
class Gpu:
    """`gib` is what CUDA reports as total memory; `measured` is the source of the figure, None when it was not measured.

    `unified` memory is shared with the machine's processes.
    """

    name: str
    gib: float
    measured: str | None = None
    vendor: Literal["nvidia", "amd"] = "nvidia"
    family: str = ""
    unified: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def words(self) -> frozenset[str]:
        """The words of the name, without its size."""
        return frozenset(word for word in _WORD.findall(self.name) if not _SIZE.fullmatch(word))

    @property
    def size(self) -> str | None:
        """The `80gb` of the name."""
        return next((word for word in _WORD.findall(self.name) if _SIZE.fullmatch(word)), None)


@functools.cache
def gpus() -> dict[str, Gpu]:
    """Every GPU in the table."""
    document = read_yaml(_TABLE).value
    return {
        name: Gpu(
            name,
            float(entry["gib"]),
            entry.get("measured"),
            entry["vendor"],
            entry["family"],
            bool(entry.get("unified")),
            tuple(entry.get("aliases", ())),
        )
        for name, entry in document.items()
    }


def match_gpu(name: str) -> list[Gpu]:
    """The GPUs that a name can mean: one, none, or several that differ in their memory only."""
    known = gpus()
    if name in known:
        return [known[name]]
    words = _words(name)
    for gpu in known.values():
        if any(words - {"nvidia", "amd"} == _words(alias) for alias in gpu.aliases):
            return [gpu]
    sizes = {word for word in words if _SIZE.fullmatch(word)}
    rest = words - sizes
    found = [
        gpu
        for gpu in known.values()
        if gpu.words - _OPTIONAL <= rest and not rest - gpu.words - _NOISE - _OPTIONAL - _redundant(gpu)
    ]
    best = max((len(gpu.words - _NOISE) for gpu in found), default=0)
    found = [gpu for gpu in found if len(gpu.words - _NOISE) == best]
    if sizes and len(found) > 1:
        return [gpu for gpu in found if gpu.size is None or gpu.size in sizes]
    if sizes and len(found) == 1 and not any(_near(found[0], size) for size in sizes):
        return []
    return found


def find_gpu(name: str) -> Gpu:
    """A GPU by any of its spellings. Raises `InputError` with the nearest known names."""
    found = match_gpu(name)
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"{name!r} has several sizes of memory", hint=f"write {' or '.join(gpu.name for gpu in found)}"
        )
    near = _suggestions(name)
    raise InputError(
        f"there is no GPU {name!r} in the table",
        hint=(f"did you mean {' or '.join(near)}? " if near else "") + f"known: {', '.join(gpus())}",
    )


def known_gpu(name: str) -> Gpu | None:
    """A GPU by any of its spellings; None when the name is none of them, or can mean several."""
    found = match_gpu(name)
    return found[0] if len(found) == 1 else None


def _words(name: str) -> frozenset[str]:
    plain = _COUNT.sub(" ", name.lower().strip())
    found = set(_WORD.findall(re.sub(r"(\d+)\s*gi?b\b", r"\1gb", plain)))
    for word in list(found):
        # `rtx5090` and `rtxpro6000` are words written together.
        if (match := re.fullmatch(r"(rtx)(pro)?(a?\d+)", word)) is not None:
            found.remove(word)
            found |= {each for each in match.groups() if each}
    return frozenset(found)


def _redundant(gpu: Gpu) -> frozenset[str]:
    """Words that say again what the GPU is: its family."""
    return frozenset({gpu.family})


def _near(gpu: Gpu, size: str) -> bool:
    """Whether a size in a name can be this GPU's: vendors count in thousands and round, CUDA reports what is left."""
    gb = int(size.removesuffix("gb"))
    return 0.9 * gpu.gib <= gb <= 1.15 * gpu.gib


def _suggestions(name: str) -> list[str]:
    """Known names by shared words, then by beginning, then by edit distance; three at most."""
    words = _words(name) - _NOISE
    known = gpus()
    shared = {each: len(words & gpu.words) for each, gpu in known.items()}
    most = max(shared.values(), default=0)
    by_words = [each for each, count in shared.items() if count == most and most > 0 and _digits(name) & _digits(each)]
    plain = "-".join(_WORD.findall(name.lower()))
    by_start = [each for each in known if len(plain) > 2 and (each.startswith(plain) or plain.startswith(each))]
    by_edit = difflib.get_close_matches(plain, known, n=1)
    return list(dict.fromkeys([*by_words, *by_start, *by_edit]))[:3]


def _digits(name: str) -> set[str]:
    return set(re.findall(r"\d{2,}", name))
