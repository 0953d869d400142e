"""Small packages in distributions of their own, as wheels and as an image: `vllm`, `flashinfer`, `transformers`, `triton`.

The names are those of the real ones: `flashinfer` is of the distribution `flashinfer-python`, which nothing but its RECORD
tells.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.standin import tar_of, write_layout

ROOT = "usr/local/lib/python3.12/dist-packages"
VENV = "opt/venv/lib/python3.12/site-packages"


def lines(word: str) -> bytes:
    """A module of forty lines."""
    return b"".join(f"{word}_{n:02d} = {n}\n".encode() for n in range(40))


@dataclass(frozen=True)
class Small:
    """A distribution with one package."""

    package: str
    distribution: str
    version: str
    files: Mapping[str, bytes]

    @property
    def info(self) -> str:
        return f"{self.distribution}-{self.version}.dist-info"

    @property
    def record(self) -> bytes:
        rows = [f"{path},{digest_of(data)},{len(data)}\n" for path, data in self.members.items()]
        return "".join([*rows, f"{self.info}/RECORD,,\n"]).encode()

    @property
    def members(self) -> dict[str, bytes]:
        """All files but RECORD."""
        name = self.distribution.replace("_", "-")
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {self.version}\n".encode()
        return {**self.files, f"{self.info}/METADATA": metadata}

    @property
    def installed(self) -> dict[str, bytes]:
        return {**self.members, f"{self.info}/RECORD": self.record}

    @property
    def wheel(self) -> str:
        return f"{self.distribution}-{self.version}-py3-none-any.whl"

    def write_wheel(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.wheel
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in self.installed.items():
                entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
                entry.external_attr = 0o100644 << 16
                archive.writestr(entry, data)
        return path


def digest_of(data: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


VLLM = Small("vllm", "vllm", "0.0.1", {"vllm/__init__.py": b"", "vllm/config.py": lines("option")})
FLASHINFER = Small(
    "flashinfer", "flashinfer_python", "0.6.8",
    {
        "flashinfer/__init__.py": b"", "flashinfer/decode.py": lines("plan"), "flashinfer/old.py": b"gone = True\n",
        "flashinfer/data/include/decode.cuh": b"#define A 1\n#define B 2\n#define C 3\n",
    },
)  # fmt: skip
TRANSFORMERS = Small(
    "transformers", "transformers", "5.2.0",
    {"transformers/__init__.py": b"", "transformers/models/qwen.py": lines("layer")},
)  # fmt: skip
TRITON = Small("triton", "triton", "3.6.0", {"triton/__init__.py": b"", "triton/jit.py": lines("cache")})
ALL = (VLLM, FLASHINFER, TRANSFORMERS, TRITON)


def files_of(packages: Sequence[Small]) -> dict[str, bytes]:
    """The files of packages, without what belongs to their distributions, as a repository would have them."""
    return {path: data for each in packages for path, data in each.files.items()}


def image(
    folder: Path, *layers: Sequence[Small], roots: Mapping[str, str] | None = None, env: Sequence[str] = ()
) -> Path:
    """A layout whose image has a root file system and a layer for each group of packages, bottom first."""
    places = dict(roots or {})
    made = [tar_of({"usr/bin/python3": b"#!", "opt/x": b"", **({"opt/venv/bin/python3": b"#!"} if places else {})})]
    for group in layers:
        made.append(
            tar_of(
                {
                    f"{places.get(each.package, ROOT)}/{path}": data
                    for each in group
                    for path, data in each.installed.items()
                }
            )
        )
    return write_layout(folder, made, config={"Env": list(env)} if env else None)
