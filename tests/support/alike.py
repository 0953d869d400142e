"""A file with two classes whose methods are alike: three lines of context are not enough to tell them apart."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

PATH = "vllm/alike.txt"
Lines = list[str]

FILLER = [f"m{number}" for number in range(30)]
TAIL = [f"t{number}" for number in range(30)]


def klass(name: str, *, guard: bool = False, go: str = "go") -> Lines:
    """A class whose method is the same in every class."""
    body = [
        "    def run(self, v):",
        "        v = int(v)",
        "        v = abs(v)",
        *(["        check(v)"] if guard else []),
    ]
    return [f"class {name}:", *body, f"        self.{go}(v)", "        self.log(v)", "        return v", ""]


def source(*, a: bool = False, b: bool = False, above: int = 0, go: str = "go") -> Lines:
    return [*(f"x{n}" for n in range(above)), *FILLER, *klass("A", guard=a), *klass("B", guard=b, go=go), *TAIL]


def data(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def diff_of(old: Sequence[str], new: Sequence[str], *, context: int = 3, path: str = PATH) -> bytes:
    lines = difflib.unified_diff(
        [f"{line}\n" for line in old], [f"{line}\n" for line in new], f"a/{path}", f"b/{path}", n=context
    )
    return f"diff --git a/{path} b/{path}\n".encode() + "".join(lines).encode()
