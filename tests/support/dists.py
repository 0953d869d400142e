"""Small distributions as wheels and as they are installed in a base: with requirements, scripts, data and bytecode."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.standin import tar_of, write_layout

ROOT = "usr/local/lib/python3.12/dist-packages"


def column(data: bytes) -> str:
    """The digest column of RECORD."""
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


@dataclass(frozen=True)
class Dist:
    """A distribution. `extra` are further members of the wheel, which are not in an installed tree."""

    name: str
    version: str
    files: Mapping[str, bytes]
    requires: Sequence[str] = ()
    tag: str = "py3-none-any"
    entry_points: str = ""
    extra: Mapping[str, bytes] = field(default_factory=dict)
    executable: frozenset[str] = frozenset()
    modes: Mapping[str, int] = field(default_factory=dict)

    @property
    def info(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}.dist-info"

    @property
    def filename(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}-{self.tag}.whl"

    @property
    def members(self) -> dict[str, bytes]:
        """Everything but RECORD."""
        requires = "".join(f"Requires-Dist: {each}\n" for each in self.requires)
        found = {
            **self.files,
            f"{self.info}/METADATA": f"Metadata-Version: 2.1\nName: {self.name}\nVersion: {self.version}\n{requires}".encode(),
            f"{self.info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: {self.tag}\n".encode(),
        }
        if self.entry_points:
            found[f"{self.info}/entry_points.txt"] = self.entry_points.encode()
        return found

    def record(self, members: Mapping[str, bytes]) -> bytes:
        rows = [f"{path},{column(data)},{len(data)}\n" for path, data in members.items()]
        return "".join([*rows, f"{self.info}/RECORD,,\n"]).encode()

    def wheel(self, folder: Path, *, record: bytes | None = None, name: str | None = None) -> Path:
        """Write the wheel; `record` and `name` in place of the right ones."""
        folder.mkdir(parents=True, exist_ok=True)
        members = {**self.members, **self.extra}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for path, data in {**members, f"{self.info}/RECORD": record or self.record(members)}.items():
                entry = zipfile.ZipInfo(path, (2020, 1, 1, 0, 0, 0))
                mode = self.modes.get(path, 0o100755 if path in self.executable else 0o100644)
                entry.external_attr = mode << 16
                archive.writestr(entry, data)
        target = folder / (name or self.filename)
        target.write_bytes(buffer.getvalue())
        return target

    def installed(self, *, bytecode: bool = True, listed: bool = True) -> dict[str, bytes]:
        """As pip installs it below the packages' folder; uv's way with `bytecode` that RECORD does not list."""
        found = dict(self.members)
        cached = {}
        if bytecode:
            for path in self.files:
                if path.endswith(".py"):
                    folder, _, name = path.rpartition("/")
                    where = f"{folder}/__pycache__" if folder else "__pycache__"
                    cached[f"{where}/{name.removesuffix('.py')}.cpython-312.pyc"] = b"\0code"
        found[f"{self.info}/RECORD"] = self.record({**found, **(cached if listed else {})})
        return {**found, **cached}


VLLM = Dist("vllm", "0.0.1", {"vllm/__init__.py": b"", "vllm/config.py": b"a = 1\n"}, ["transformers>=4", "six"])
OLD = Dist(
    "transformers", "4.9.0",
    {
        "transformers/__init__.py": b"v = 4\n", "transformers/models/old/__init__.py": b"", "transformers/models/old/m.py": b"x = 1\n",
        "transformers/utils.py": b"same = 1\n", "transformers/data/table.txt": b"1\n",
    },
    ["tokenizers<0.22"],
)  # fmt: skip
NEW = Dist(
    "transformers", "5.6.0",
    {
        "transformers/__init__.py": b"v = 5\n", "transformers/models/new/__init__.py": b"", "transformers/utils.py": b"same = 1\n",
    },
    ["tokenizers>=0.21", "tqdm; extra == 'progress'", "missing; python_version < '3'"],
    entry_points="[console_scripts]\ntransformers-cli = transformers.cli:main\n",
)  # fmt: skip
TOKENIZERS = Dist("tokenizers", "0.21.4", {"tokenizers/__init__.py": b""})
SIX = Dist("six", "1.17", {"six.py": b"s = 1\n"})
BASE = (VLLM, OLD, TOKENIZERS, SIX)
UBUNTU = b'NAME="Ubuntu"\nID=ubuntu\nVERSION_ID="22.04"\n'


def base(folder: Path, *dists: Dist, listed: bool = True, more: Mapping[str, bytes] | None = None) -> Path:
    """A layout: a root file system that says that it is Ubuntu 22.04, and a layer with the distributions."""
    installed = {
        f"{ROOT}/{path}": data for each in dists or BASE for path, data in each.installed(listed=listed).items()
    }
    system = {"usr/bin/python3": b"#!", "opt/x": b"", "etc/os-release": UBUNTU, "usr/local/bin/x": b"", **(more or {})}
    return write_layout(folder, [tar_of(system), tar_of(installed)])
