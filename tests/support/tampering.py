"""A built image in an OCI layout, taken apart so that anything in it can be changed and made consistent again.

`seal` writes whatever was changed with digests and sizes that fit, points the image's names at it, and attaches lock and
sources to it: what somebody with write access to a registry can do.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from builder.cli.app import run
from builder.image.deflate import gzip as own_gzip

NAME = "org.opencontainers.image.ref.name"
RECIPE = "dev.overlay-image-builder.name"
RECORD_LABEL = "dev.overlay-image-builder.record"


def encode(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Member:
    """An entry of a tar that will be written: its header, its content."""

    info: tarfile.TarInfo
    data: bytes = b""


@dataclass
class Verdict:
    """How `builder verify` ended, in this process."""

    code: int
    out: str
    err: str


def verify(reference: str, *arguments: str) -> Verdict:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(["verify", reference, *arguments])
    return Verdict(code, out.getvalue(), err.getvalue())


@dataclass
class Image:
    """One platform's image in a layout. `manifest` and `config` may be changed, or replaced as bytes."""

    folder: Path
    tag: str
    manifest: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    layer: bytes = b""
    """The tar of the last layer."""
    referrers: list[tuple[dict[str, Any], bytes]] = field(default_factory=list)
    manifest_bytes: bytes | None = None
    config_bytes: bytes | None = None
    entry: dict[str, Any] = field(default_factory=dict)
    """More keys of the named entries in index.json."""
    sealed: bool = True
    """Whether `seal` is still to be called by the test."""

    @classmethod
    def load(cls, folder: Path, tag: str) -> Image:
        made = cls(folder, tag)
        entries = made.index()["manifests"]
        top = next(each for each in entries if each.get("annotations", {}).get(NAME) == tag)
        made.manifest = json.loads(made.blob(top["digest"]))
        made.config = json.loads(made.blob(made.manifest["config"]["digest"]))
        made.layer = gzip.decompress(made.blob(made.manifest["layers"][-1]["digest"]))
        for each in entries:
            if "artifactType" in each:
                manifest = json.loads(made.blob(each["digest"]))
                made.referrers.append((manifest, made.blob(manifest["layers"][0]["digest"])))
        return made

    def copy_to(self, folder: Path) -> Image:
        """The same image in a layout of its own; blobs are linked."""
        shutil.copytree(self.folder, folder, copy_function=os.link)
        (folder / "index.json").unlink()
        shutil.copyfile(self.folder / "index.json", folder / "index.json")
        other = copy.deepcopy(self)
        other.folder = folder
        return other

    def index(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "index.json").read_bytes())
        return found

    def write_index(self, index: Mapping[str, Any]) -> None:
        (self.folder / "index.json").write_bytes(encode(index))

    def path(self, digest: str) -> Path:
        return self.folder / "blobs/sha256" / digest.removeprefix("sha256:")

    def blob(self, digest: str) -> bytes:
        return self.path(digest).read_bytes()

    def put(self, data: bytes) -> dict[str, Any]:
        path = self.path(digest_of(data))
        if not path.exists():
            path.write_bytes(data)
        return {"digest": digest_of(data), "size": len(data)}

    def overwrite(self, digest: str, data: bytes) -> None:
        """Other content under the same name."""
        self.path(digest).unlink()
        self.path(digest).write_bytes(data)

    def document(self, kind: str) -> bytes:
        """The attached document whose artifact type has `kind` in it."""
        return next(data for manifest, data in self.referrers if kind in manifest["artifactType"])

    def set_document(self, kind: str, data: bytes | None) -> None:
        """Replace an attached document; None takes it away."""
        kept = []
        for manifest, old in self.referrers:
            if kind not in manifest["artifactType"]:
                kept.append((manifest, old))
            elif data is not None:
                kept.append((manifest, data))
        self.referrers = kept

    def members(self) -> list[Member]:
        with tarfile.open(fileobj=io.BytesIO(self.layer)) as archive:
            return [Member(each, archive.extractfile(each).read() if each.isfile() else b"") for each in archive]  # type: ignore[union-attr]

    def set_members(self, members: list[Member], kind: int = tarfile.USTAR_FORMAT) -> None:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=kind, bufsize=512) as archive:
            for each in members:
                if each.info.isfile():
                    each.info.size = len(each.data)
                archive.addfile(each.info, io.BytesIO(each.data) if each.info.isfile() else None)
        self.set_layer(buffer.getvalue())

    def set_layer(self, data: bytes) -> None:
        """Another tar, packed as this tool packs it."""
        self.layer = data
        self.set_blob(own_gzip(data))

    def set_blob(self, data: bytes) -> None:
        """The last layer as a registry has it; its tar is `layer`."""
        self.manifest["layers"][-1].update(self.put(data))
        self.config["rootfs"]["diff_ids"][-1] = digest_of(self.layer)

    def seal(self) -> None:
        config = self.config_bytes if self.config_bytes is not None else encode(self.config)
        self.manifest["config"] = {**self.manifest["config"], **self.put(config)}
        manifest = self.manifest_bytes if self.manifest_bytes is not None else encode(self.manifest)
        self.seal_top({**self.put(manifest), "mediaType": self.manifest.get("mediaType", "")})

    def seal_top(self, top: Mapping[str, Any]) -> None:
        """Point every name of the image at `top`, and attach the referrers to it."""
        index = self.index()
        names = [each for each in index["manifests"] if "artifactType" not in each]
        listed = [{**each, **top, **self.entry} for each in names]
        subject = {key: top[key] for key in ("mediaType", "digest", "size")}
        for manifest, document in self.referrers:
            layer = {**manifest["layers"][0], **self.put(document)}
            made = {**manifest, "layers": [layer, *manifest["layers"][1:]], "subject": subject}
            entry = {
                "mediaType": made["mediaType"], **self.put(encode(made)), "artifactType": made["artifactType"],
                "annotations": {RECIPE: names[0]["annotations"][RECIPE]},
            }  # fmt: skip
            listed.append(entry)
        self.write_index({**index, "manifests": listed})

    # --- the record and what is bound to it ---

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.file("opt/builder/record.json").data)
        return found

    def file(self, path: str) -> Member:
        return next(each for each in self.members() if each.info.name == path)

    def change_file(self, path: str, change: Callable[[bytes], bytes]) -> None:
        members = self.members()
        for each in members:
            if each.info.name == path:
                changed = change(each.data)
                assert changed != each.data, path
                each.data = changed
        self.set_members(members)

    def set_record(self, record: Mapping[str, Any]) -> None:
        """Another record, with the label and the ENTRYPOINT that are bound to it."""
        data = json.dumps(record, indent=1, ensure_ascii=False).encode() + b"\n"
        self.change_file("opt/builder/record.json", lambda _: data)
        self.config["config"]["Labels"][RECORD_LABEL] = digest_of(data)
        self.config["config"]["Entrypoint"][1] = f"--record={digest_of(data)}"

    # --- raw tar headers ---

    def header_at(self, path: str) -> int:
        with tarfile.open(fileobj=io.BytesIO(self.layer)) as archive:
            return archive.getmember(path).offset

    def change_header(self, path: str, start: int, raw: bytes, *, checksum: bool = True) -> None:
        """Other bytes in a header, with a checksum that fits."""
        at = self.header_at(path)
        header = bytearray(self.layer[at : at + 512])
        assert bytes(header[start : start + len(raw)]) != raw, "nothing changes"
        header[start : start + len(raw)] = raw
        if checksum:
            total = sum(header[:148]) + 8 * 32 + sum(header[156:])
            header[148:156] = b"%06o\0 " % total
        self.set_layer(self.layer[:at] + bytes(header) + self.layer[at + 512 :])


def entry(name: str, **fields: Any) -> Member:
    """A new entry of a tar; `data` is its content."""
    data = fields.pop("data", b"")
    info = tarfile.TarInfo(name)
    info.mtime = 1_700_000_000
    for key, value in fields.items():
        setattr(info, key, value)
    return Member(info, data)
