"""Bases that tests make byte by byte: layers of any entries, and layouts whose parts can lie."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.cli.app import run
from builder.documents.reference import Platform

LINUX_AMD64 = Platform("linux", "amd64")
ROOT = "usr/local/lib/python3.12/dist-packages"
INFO = "vllm-0.0.1.dist-info"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
SOURCE = b"".join(b"x%d = %d\n" % (n, n) for n in range(1, 21))
DIFF = b"""--- a/vllm/a.py
+++ b/vllm/a.py
@@ -7,7 +7,7 @@
 x7 = 7
 x8 = 8
 x9 = 9
-x10 = 10
+x10 = 1000
 x11 = 11
 x12 = 12
 x13 = 13
"""
PATCHED = SOURCE.replace(b"x10 = 10\n", b"x10 = 1000\n")


@dataclass(frozen=True)
class Item:
    """An entry of a layer."""

    name: str
    data: bytes = b""
    kind: bytes = tarfile.REGTYPE
    target: str = ""
    mode: int = 0o644


def folder(name: str) -> Item:
    return Item(name, kind=tarfile.DIRTYPE, mode=0o755)


def symlink(name: str, target: str) -> Item:
    return Item(name, kind=tarfile.SYMTYPE, target=target)


def hardlink(name: str, target: str) -> Item:
    return Item(name, kind=tarfile.LNKTYPE, target=target)


def layer(*items: Item) -> bytes:
    """A tar of entries in this order, nothing added."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for item in items:
            info = tarfile.TarInfo(item.name)
            info.type, info.linkname, info.mode, info.size = item.kind, item.target, item.mode, len(item.data)
            archive.addfile(info, io.BytesIO(item.data))
    return buffer.getvalue()


def record_line(path: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{path},sha256={digest},{len(data)}\n"


def package(root: str = ROOT, *, source: bytes = SOURCE, without: Sequence[str] = (), info: str = INFO) -> list[Item]:
    """A small vLLM that is installed in `root`, as entries; `without` leaves files out (not out of RECORD)."""
    files = {"vllm/__init__.py": b"", "vllm/a.py": source, "vllm/b.py": b"b = 1\n"}
    record = "".join(record_line(path, data) for path, data in files.items())
    files |= {
        f"{info}/METADATA": b"Name: vllm\nVersion: 0.0.1\n",
        f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode(),
    }
    return [Item(f"{root}/{path}", data) for path, data in files.items() if path not in without]


PYTHON = [
    folder("usr"), folder("usr/bin"), folder("opt"), folder("etc"),
    Item("usr/bin/python3.12", b"\x7fELF", mode=0o755), symlink("usr/bin/python3", "python3.12"),
]  # fmt: skip


@dataclass
class Made:
    """A layout in the making: what is put into it gets its descriptor."""

    path: Path
    blobs: dict[str, bytes] = field(default_factory=dict)

    def put(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data), **more}

    def json(self, document: Any, media_type: str, **more: Any) -> dict[str, Any]:
        return self.put(json.dumps(document).encode(), media_type, **more)

    def image(
        self,
        layers: Sequence[bytes],
        *,
        env: Sequence[str] = ("PATH=/usr/local/bin:/usr/bin",),
        config: Callable[[dict[str, Any]], Any] = lambda document: None,
        manifest: Callable[[dict[str, Any]], Any] = lambda document: None,
        compress: bool = True,
        **more: Any,
    ) -> dict[str, Any]:
        """An image; `config` and `manifest` change the documents before they are written."""
        described: dict[str, Any] = {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": {"Entrypoint": ["vllm", "serve"], "Env": list(env)},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in layers]},
        }
        config(described)
        listed = [
            self.put(gzip.compress(each, 1, mtime=0), f"{LAYER}+gzip") if compress else self.put(each, LAYER)
            for each in layers
        ]
        document = {
            "schemaVersion": 2, "mediaType": MANIFEST, "config": self.json(described, CONFIG), "layers": listed,
        }  # fmt: skip
        manifest(document)
        return self.json(document, MANIFEST, **more)

    def index(self, *entries: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        return self.json({"schemaVersion": 2, "mediaType": INDEX, "manifests": list(entries)}, INDEX, **more)

    def write(self, *entries: Mapping[str, Any]) -> Path:
        """Write the layout, whose index.json has these entries."""
        folder = self.path / "blobs" / "sha256"
        folder.mkdir(parents=True, exist_ok=True)
        for digest, data in self.blobs.items():
            (folder / digest).write_bytes(data)
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(entries)}
        (self.path / "index.json").write_text(json.dumps(document))
        (self.path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        return self.path


def recipe(root: Path, *, platforms: Sequence[str] = ("linux/amd64",), diff: bytes = DIFF) -> Path:
    """A recipe `r.yaml` on `oci:base` with one diff; returns the folder."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "fix.diff").write_bytes(diff)
    text = f"name: r\nbase: oci:base\nplatforms: [{', '.join(platforms)}]\noverlays:\n  - file: fix.diff\n"
    (root / "r.yaml").write_text(text)
    return root


@dataclass(frozen=True)
class Outcome:
    """What a command gave: its exit code and its document."""

    code: int
    document: dict[str, Any]
    err: str = ""

    @property
    def message(self) -> str:
        error = self.document.get("error", {})
        details = " ".join(f"{each['label']} {each['text']}" for each in error.get("details", []))
        return f"{error.get('message', '')} {details}"


def command(root: Path, capsys: Any, *arguments: str) -> Outcome:
    """Run a command in this process, in `root`, with `--json`."""
    before = Path.cwd()
    os.chdir(root)
    try:
        capsys.readouterr()
        code = run([*arguments, "--json"])
    finally:
        os.chdir(before)
    captured = capsys.readouterr()
    return Outcome(code, json.loads(captured.out) if captured.out.strip() else {}, captured.err)


def build(root: Path, capsys: Any) -> Outcome:
    """`builder build r.yaml --engine oci` in `root`."""
    return command(root, capsys, "build", "r.yaml", "--engine", "oci")


def built_layer(root: Path, outcome: Outcome) -> dict[str, tarfile.TarInfo | bytes]:
    """The entries of the layer that was built: contents of files, headers of the rest."""
    blob = root / "dist/r/blobs/sha256" / outcome.document["layer"]["digest"].removeprefix("sha256:")
    with tarfile.open(blob) as archive:
        found: dict[str, tarfile.TarInfo | bytes] = {}
        for member in archive:
            stream = archive.extractfile(member)
            found[member.name] = stream.read() if stream is not None else member
    return found
