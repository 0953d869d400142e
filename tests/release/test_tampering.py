"""Every kind of tampering with a published image: plain `builder verify REF` finds it, and names it.

Each row changes one thing in a copy of a built image and makes everything around it consistent again: digests, sizes, the
label and the ENTRYPOINT that name the record, and the lock and sources that travel with the image. The base is reachable,
and nothing but the reference is given.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.documents.lock import parse_lock
from builder.image.deflate import gzip as own_gzip
from builder.oci.artifact import LOCK, SOURCES
from tests.release.test_judges import two_platforms
from tests.support.cli import builder
from tests.support.published import ROOT, small_base
from tests.support.smallwheel import FILES, make_project
from tests.support.tampering import NAME, RECORD_LABEL, Image, Member, digest_of, encode, entry, verify
from tests.support.trees import git_diff

LONG = "vllm/model_executor/layers/quantization/utils/kernels/a_module_with_a_long_name_for_the_prefix_field.py"
PATCHED = f"{ROOT}/vllm/config.py"
RECORD = f"{ROOT}/vllm-0.0.1.dist-info/RECORD"
SERVE = "opt/builder/serve"
OWN = "opt/builder/record.json"


def edited() -> dict[str, bytes]:
    files = {**FILES, "vllm/config.py": FILES["vllm/config.py"].replace(b"= 20\n", b"= 2020\n"), LONG: b"new = 1\n"}
    del files["vllm/old.py"]
    return files


@dataclass
class Made:
    """The honest images of this module, and the cache that knows their base."""

    project: Path
    one: Image
    two: Image
    other: Image
    """Another recipe's image on the same base."""
    cache: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("tampering")
    small_base(root / "layout")
    two_platforms(root / "layout2")
    diff = git_diff(root / "git", FILES, edited())
    project = make_project(
        root / "project", {"one.diff": diff}, base="oci:../layout:base", checkpoint={"digest": "c0" * 32}
    )
    text = (project / "images/small.yaml").read_text()
    recipe = yaml.safe_load(text)
    both = {**recipe, "name": "both", "base": "oci:../layout2:base", "platforms": ["linux/amd64", "linux/arm64"]}
    (project / "images/both.yaml").write_text(yaml.safe_dump(both, sort_keys=False))
    (project / "images/other.yaml").write_text(yaml.safe_dump({**recipe, "description": "edited"}, sort_keys=False))
    found = {}
    env = {"BUILDER_CACHE_DIR": str(root / "cache")}
    for name in ("small", "both", "other"):
        done = builder(
            "build", name, "--engine", "oci", "--output", f"oci:{root}/{name}", "--json", cwd=project, env=env
        )
        assert done.code == 0, done.err
        found[name] = (root / name, done.document["tags"][0])
    two = Image(*found["both"])
    index = two.index()["manifests"]
    two.manifest = json.loads(two.blob(next(each["digest"] for each in index if "artifactType" not in each)))
    two.referrers = [
        (manifest, two.blob(manifest["layers"][0]["digest"]))
        for manifest in (json.loads(two.blob(each["digest"])) for each in index if "artifactType" in each)
        if manifest["subject"]["digest"] == digest_of(encode(two.manifest))
    ]
    assert two.referrers
    return Made(project, Image.load(*found["small"]), two, Image.load(*found["other"]), env["BUILDER_CACHE_DIR"])


@pytest.fixture(autouse=True)
def _in_the_project(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made.project)
    monkeypatch.setenv("BUILDER_CACHE_DIR", made.cache)


Tamper = Callable[[Image], object]
Row = tuple[str, Tamper, str]


# --- entries of the layer ---------------------------------------------------------------------------------------------


def add(*members: Member, first: bool = False) -> Tamper:
    def tamper(image: Image) -> None:
        held = image.members()
        image.set_members([*members, *held] if first else [*held, *members])

    return tamper


def sorted_in(*members: Member) -> Tamper:
    """Entries where the builder itself would have put them."""

    def tamper(image: Image) -> None:
        image.set_members(sorted([*image.members(), *members], key=lambda each: each.info.name.encode()))

    return tamper


def change(path: str, **fields: Any) -> Tamper:
    def tamper(image: Image) -> None:
        members = image.members()
        member = next(each for each in members if each.info.name == path)
        member.data = fields.get("data", member.data)
        for key, value in fields.items():
            if key != "data":
                setattr(member.info, key, value)
        image.set_members(members)

    return tamper


def without(path: str) -> Tamper:
    def tamper(image: Image) -> None:
        held = image.members()
        kept = [each for each in held if each.info.name != path]
        assert len(kept) == len(held) - 1
        image.set_members(kept)

    return tamper


def instead(path: str, **fields: Any) -> Tamper:
    """A link in the place of a file."""

    def tamper(image: Image) -> None:
        image.set_members([entry(path, **fields) if each.info.name == path else each for each in image.members()])

    return tamper


def reordered(image: Image) -> None:
    members = image.members()
    image.set_members([members[1], members[0], *members[2:]])


def content(path: str, old: bytes, new: bytes) -> Tamper:
    return lambda image: image.change_file(path, lambda data: data.replace(old, new))


LNK, SYM = tarfile.LNKTYPE, tarfile.SYMTYPE
INFO = f"{ROOT}/vllm-0.0.1.dist-info"
ENTRIES: list[Row] = [
    ("a link over the interpreter", add(entry("usr/bin/python3", type=SYM, linkname="/tmp/x")), "usr/bin/python3"),
    ("the same, sorted in", sorted_in(entry("usr/bin/python3", type=SYM, linkname="/tmp/x")), "a symbolic link"),
    ("a hard link over the interpreter", add(entry("usr/bin/python3", type=LNK, linkname=SERVE)), "a hard link"),
    ("a file over the interpreter", add(entry("usr/bin/python3", mode=0o755, data=b"#!/bin/sh\n")), "usr/bin/python3"),
    (
        "a link in the place of a patched file",
        instead(PATCHED, type=SYM, linkname="/opt/x"),
        "vllm/config.py, field type",
    ),
    (
        "a hard link in the place of a patched file",
        instead(PATCHED, type=LNK, linkname=SERVE),
        "vllm/config.py, field type",
    ),
    (
        "a link behind a patched file",
        add(entry(PATCHED, type=SYM, linkname="/opt/x")),
        "vllm/config.py, number of times",
    ),
    ("a link over the package", add(entry(f"{ROOT}/vllm", type=SYM, linkname="/opt/x")), f"{ROOT}/vllm"),
    ("a link over /opt/builder", add(entry("opt/builder", type=SYM, linkname="/x")), "opt/builder, number of times"),
    (
        "a link in the place of the entrypoint",
        instead(SERVE, type=SYM, linkname="/bin/sh"),
        "opt/builder/serve, field type",
    ),
    (
        "an entry that is repeated",
        add(entry(SERVE, mode=0o755, data=b"#!/bin/sh\n")),
        "opt/builder/serve, number of times",
    ),
    ("an entry that is repeated as it is", lambda i: i.set_members([*i.members(), i.file(PATCHED)]), "number of times"),
    ("a whiteout of the interpreter", add(entry("usr/bin/.wh.python3")), "a whiteout, which removes"),
    ("a whiteout of the package's init", sorted_in(entry(f"{ROOT}/vllm/.wh.__init__.py")), ".wh.__init__.py"),
    ("a whiteout of the package", sorted_in(entry(f"{ROOT}/.wh.vllm")), "a whiteout, which removes"),
    ("an opaque package", sorted_in(entry(f"{ROOT}/vllm/.wh..wh..opq")), "an opaque marker"),
    ("an opaque root", add(entry(".wh..wh..opq"), first=True), "an opaque marker"),
    ("a whiteout of aufs", add(entry(".wh..wh.plnk", type=tarfile.DIRTYPE)), ".wh..wh.plnk"),
    ("a whiteout taken away", without(f"{ROOT}/vllm/.wh.old.py"), "vllm/.wh.old.py"),
    ("a patched file taken away", without(PATCHED), "vllm/config.py"),
    ("a new file taken away", without(f"{ROOT}/{LONG}"), "for_the_prefix_field.py"),
    ("RECORD taken away", without(RECORD), "dist-info/RECORD"),
    ("the record taken away", without(OWN), "opt/builder/record.json"),
    ("the entrypoint taken away", without(SERVE), "opt/builder/serve"),
    ("a folder taken away", without("opt/builder"), "opt/builder"),
    ("a file more in the package", sorted_in(entry(f"{ROOT}/vllm/evil.py", data=b"x = 1\n")), "vllm/evil.py"),
    ("a file more in /opt/builder", sorted_in(entry("opt/builder/json.py", data=b"x = 1\n")), "opt/builder/json.py"),
    ("a folder more", sorted_in(entry("etc/cron.d", type=tarfile.DIRTYPE, mode=0o755)), "etc/cron.d"),
    ("a file more in /etc", add(entry("etc/ld.so.preload", data=b"/x.so\n")), "etc/ld.so.preload"),
    ("a .pth file", sorted_in(entry(f"{ROOT}/x.pth", data=b"import os\n")), "x.pth"),
    (
        "a .pth file called RECORD",
        sorted_in(entry(f"{ROOT}/x.dist-info/RECORD", data=b"import os\n")),
        "x.dist-info/RECORD",
    ),
    ("a sitecustomize", sorted_in(entry(f"{ROOT}/sitecustomize.py", data=b"import os\n")), "sitecustomize.py"),
    (
        "entry points of another distribution",
        sorted_in(entry(f"{INFO}/entry_points.txt", data=b"[x]\n")),
        "entry_points.txt",
    ),
    ("bytecode of a patched file", sorted_in(entry(f"{ROOT}/vllm/__pycache__/config.cpython-312.pyc")), "__pycache__"),
    ("a device", add(entry("dev/mem", type=tarfile.CHRTYPE, devmajor=1, devminor=1)), "a character device"),
    ("a block device", add(entry("dev/sda", type=tarfile.BLKTYPE, devmajor=8)), "a block device"),
    ("a FIFO", add(entry("run/x", type=tarfile.FIFOTYPE)), "a FIFO"),
    ("a path that leaves the root", add(entry("../../etc/passwd", data=b"x")), "../../etc/passwd"),
    ("an absolute path", add(entry("/etc/passwd", data=b"x")), "etc/passwd"),
    ("a path with a dot", add(entry("./usr/bin/python3", data=b"x")), "usr/bin/python3"),
    ("another order", reordered, "order of entries"),
    ("another patched file", content(PATCHED, b"2020", b"6666"), "vllm/config.py, content"),
    ("a patched file as it was", content(PATCHED, b"2020", b"20"), "vllm/config.py, content"),
    ("another new file", content(f"{ROOT}/{LONG}", b"1", b"2"), "for_the_prefix_field.py, content"),
    (
        "another entrypoint",
        content(SERVE, b"Standard library only", b"Standard library  only"),
        "opt/builder/serve, content",
    ),
    ("an empty entrypoint", change(SERVE, data=b""), "opt/builder/serve, content"),
    (
        "a digest edited in RECORD",
        content(RECORD, b"vllm/config.py,sha256=", b"vllm/config.py,sha256=A"),
        "RECORD, line",
    ),
    (
        "a line more in RECORD",
        content(RECORD, b"vllm/__init__.py,,\n", b"vllm/__init__.py,,\nvllm/evil.py,,\n"),
        "RECORD, line",
    ),
    ("a line less in RECORD", content(RECORD, b"vllm/__init__.py,,\n", b""), "RECORD, line 1"),
    ("another line ending in RECORD", content(RECORD, b"\n", b"\r\n"), "RECORD, line 1"),
    ("an empty layer", lambda image: image.set_members([]), "opt/builder/serve"),
]


# --- header fields ----------------------------------------------------------------------------------------------------


def header(path: str, start: int, raw: bytes, *, checksum: bool = True) -> Tamper:
    return lambda image: image.change_header(path, start, raw, checksum=checksum)


def in_pax(name: str, /, **headers: str) -> Tamper:
    def tamper(image: Image) -> None:
        members = image.members()
        next(each for each in members if each.info.name == name).info.pax_headers = headers
        image.set_members(members, tarfile.PAX_FORMAT)

    return tamper


def global_pax(image: Image) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x"}):
        pass
    image.set_layer(buffer.getvalue()[:1024] + image.layer)


def padding(image: Image) -> None:
    at = image.header_at(PATCHED) + 512 + len(image.file(PATCHED).data)
    image.set_layer(image.layer[:at] + b"x" + image.layer[at + 1 :])


def short_prefix(image: Image) -> None:
    """The same path, split elsewhere between name and prefix."""
    at = image.header_at(f"{ROOT}/{LONG}")
    raw = image.layer[at : at + 512]
    name, prefix = raw[:100].rstrip(b"\0"), raw[345:500].rstrip(b"\0")
    moved, _, rest = name.partition(b"/")
    fields = rest.ljust(100, b"\0") + raw[100:345] + (prefix + b"/" + moved).ljust(155, b"\0")
    image.change_header(f"{ROOT}/{LONG}", 0, fields)


def gnu_names(image: Image) -> None:
    image.set_members(image.members(), tarfile.GNU_FORMAT)


def tail(change_tail: Callable[[bytes], bytes]) -> Tamper:
    return lambda image: image.set_layer(change_tail(image.layer))


def blob(change_blob: Callable[[bytes, bytes], bytes]) -> Tamper:
    """Another blob for the same tar; it is given the blob and the tar."""
    return lambda image: image.set_blob(change_blob(own_gzip(image.layer), image.layer))


def bomb() -> bytes:
    """A gzip of 4 MB that unpacks to 4 GiB of zeros: one full block, many times."""
    pack = zlib.compressobj(9, zlib.DEFLATED, 31)
    first = pack.compress(bytes(1 << 20)) + pack.flush(zlib.Z_FULL_FLUSH)
    block = pack.compress(bytes(1 << 20)) + pack.flush(zlib.Z_FULL_FLUSH)
    return first + block * 4095


HEADERS: list[Row] = [
    ("a set-user-id entrypoint", change(SERVE, mode=0o4755), "opt/builder/serve, field mode"),
    ("a set-group-id entrypoint", change(SERVE, mode=0o2755), "opt/builder/serve, field mode"),
    ("a sticky folder", change("opt/builder", mode=0o1755), "opt/builder, field mode"),
    ("a record that all may write", change(OWN, mode=0o666), "opt/builder/record.json, field mode"),
    ("an executable patched file", change(PATCHED, mode=0o755), "vllm/config.py, field mode"),
    ("an entrypoint that is not executable", change(SERVE, mode=0o644), "opt/builder/serve, field mode"),
    ("another owner", change(SERVE, uid=1000), "opt/builder/serve, field uid"),
    ("another group", change(SERVE, gid=1000), "opt/builder/serve, field gid"),
    ("a user's name", change(SERVE, uname="root"), "opt/builder/serve, field uname"),
    ("a group's name", change(SERVE, gname="root"), "opt/builder/serve, field gname"),
    ("a later time", change(PATCHED, mtime=2_000_000_000), "vllm/config.py, field mtime"),
    ("no time", change(PATCHED, mtime=0), "vllm/config.py, field mtime"),
    ("devmajor", header(PATCHED, 329, b"0000001\0"), "field devmajor"),
    ("devminor", header(PATCHED, 337, b"0000001\0"), "field devminor"),
    ("a name split elsewhere", short_prefix, "field name"),
    ("a prefix", header(PATCHED, 345, b"etc"), f"etc/{PATCHED}"),
    ("the magic of GNU tar", header(PATCHED, 257, b"ustar  \0"), "field magic"),
    ("another version", header(PATCHED, 263, b"01"), "field version"),
    ("the type of old tars", header(PATCHED, 156, b"\0"), "field type"),
    ("a contiguous file", header(PATCHED, 156, b"7"), "field type"),
    ("a sparse file", header(PATCHED, 156, b"S"), "a sparse file"),
    ("a target of a file that is no link", header(PATCHED, 157, b"/etc/passwd"), "field linkname"),
    ("bytes behind the fields", header(PATCHED, 500, b"hidden"), "field unused bytes"),
    ("a checksum in another spelling", header(PATCHED, 155, b"\0", checksum=False), "field checksum"),
    ("a wrong checksum", header(PATCHED, 148, b"0000000\0", checksum=False), "field checksum"),
    ("a mode in another spelling", header(PATCHED, 100, b"   644 \0"), "field mode"),
    ("a size in base 256", header(SERVE, 124, b"\x80"), "layer"),
    ("an extended header with a time", in_pax(PATCHED, mtime="1.5"), "vllm/config.py, headers before it"),
    ("an extended header with another path", in_pax(PATCHED, path="etc/passwd"), "etc/passwd"),
    ("an extended header with a capability", in_pax(SERVE, **{"SCHILY.xattr.security.capability": "x"}), "PAX header"),
    ("an extended header with an owner", in_pax(SERVE, uid="0", uname="x"), "headers before it"),
    ("an extended header with a comment", in_pax(SERVE, comment="hidden"), "hidden"),
    ("an extended header for all", global_pax, "global PAX header"),
    ("GNU tar's headers", gnu_names, "field magic"),
    ("bytes in the padding", padding, "padding behind its content"),
    ("bytes behind the end", tail(lambda data: data + b"hidden".ljust(512, b"\0")), "bytes behind the last entry"),
    ("a second tar behind the end", tail(lambda data: data + data), "bytes behind the last entry"),
    ("a shorter end", tail(lambda data: data[:-512]), "end of the tar"),
    ("a longer end", tail(lambda data: data + bytes(8192)), "end of the tar"),
    ("no end", tail(lambda data: data[:-1024]), "end of the tar"),
    ("a truncated tar", tail(lambda data: data[: len(data) // 2]), "layer entry"),
    ("a layer that is not packed", blob(lambda _, tar: tar), "layer, compression"),
    ("a layer packed by zstd", blob(lambda _, tar: b"\x28\xb5\x2f\xfd" + tar), "zstd"),
    ("a layer packed by zlib", blob(lambda _, tar: gzip.compress(tar, mtime=0)), "layer, its gzip"),
    ("a layer packed twice", blob(lambda packed, _: gzip.compress(packed, mtime=0)), "layer entry"),
    ("a second tar in a member of its own", blob(lambda packed, tar: packed + gzip.compress(tar)), "layer, its gzip"),
    ("bytes behind the gzip", blob(lambda packed, _: packed + b"hidden"), "layer, its gzip"),
    (
        "a name in the gzip's header",
        blob(lambda packed, _: packed[:3] + b"\x08" + packed[4:10] + b"x\0" + packed[10:]),
        "its gzip",
    ),
    ("a time in the gzip's header", blob(lambda packed, _: packed[:4] + b"\1" + packed[5:]), "layer, its gzip"),
    ("a wrong checksum of the gzip", blob(lambda packed, _: packed[:-8] + bytes(4) + packed[-4:]), "layer"),
    ("a truncated gzip", blob(lambda packed, _: packed[: len(packed) // 2]), "layer"),
    ("a tar of 4 GiB in a gzip", blob(lambda _, __: bomb()), "layer"),
    ("no tar", tail(lambda _: b"\xff" * 2048), "layer entry"),
]


# --- the record -------------------------------------------------------------------------------------------------------


def record(*path: str, to: Any) -> Tamper:
    """Another value in the record; label, ENTRYPOINT and everything else are made to fit."""

    def tamper(image: Image) -> None:
        document = image.record()
        place: Any = document
        for key in path[:-1]:
            place = place[int(key) if isinstance(place, list) else key]
        assert place.get(path[-1]) != to
        place[path[-1]] = to
        image.set_record(document)

    return tamper


def spaced(image: Image) -> None:
    data = json.dumps(image.record(), indent=2).encode()
    image.change_file(OWN, lambda _: data)
    image.config["config"]["Labels"][RECORD_LABEL] = digest_of(data)
    image.config["config"]["Entrypoint"][1] = f"--record={digest_of(data)}"


ZEROS = "0" * 64
RECORDS: list[Row] = [
    ("the base's entrypoint", record("base", "entrypoint", to=["/bin/sh", "-c", "evil"]), "record base.entrypoint"),
    ("the base's command", record("base", "cmd", to=["evil"]), "record base.cmd"),
    ("the base's name", record("base", "reference", to="evil/image:v1"), "record base.reference"),
    ("the base's digest", record("base", "digest", to=f"sha256:{ZEROS}"), "record base.digest"),
    ("the base's manifest", record("base", "manifest", to=f"sha256:{ZEROS}"), "record base.manifest"),
    ("the name", record("name", to="evil"), "record name"),
    ("the description", record("description", to="evil"), "record description"),
    ("the lock's digest", record("inputs", to=ZEROS), "record inputs"),
    ("the platform", record("platform", to="linux/arm64"), "record platform"),
    ("the schema", record("schema", to=2), "record schema"),
    ("the package", record("package", "name", to="evil"), "record package.name"),
    ("the package's root", record("package", "root", to="tmp"), "record package.root"),
    ("the Python", record("package", "python", to="3.9"), "record package.python"),
    ("the distribution", record("package", "distribution", to="evil"), "record package.distribution"),
    ("the version", record("package", "version", to="9"), "record package.version"),
    ("an overlay's digest", record("overlays", "0", "digest", to=ZEROS), "record overlays[0].digest"),
    ("an overlay's id", record("overlays", "0", "id", to="other.diff"), "record overlays[0].id"),
    ("an overlay's title", record("overlays", "0", "title", to="harmless"), "record overlays[0].title"),
    ("no overlays", record("overlays", to=[]), "record overlays"),
    ("a file's digest", record("files", "0", "after", to=ZEROS), "record files[0].after"),
    ("a file's digest before", record("files", "0", "before", to=ZEROS), "record files[0].before"),
    ("a file's path", record("files", "0", "path", to="vllm/x.py"), "record files[0].path"),
    ("no files", record("files", to=[]), "record files"),
    ("bytecode", record("removed", to=["vllm/__pycache__/x.pyc"]), "record removed"),
    ("the entrypoint's digest", record("entrypoint", to=ZEROS), "record entrypoint"),
    ("the model", record("model", to="/tmp/model"), "record model"),
    ("a profile's flags", record("profiles", "tiny", "argv", to=["--trust-remote-code"]), "record profiles.tiny.argv"),
    ("a profile more", record("profiles", "evil", to={"description": "", "argv": []}), "record profiles.evil"),
    ("the default profile", record("default_profile", to=None), "record default_profile"),
    ("the checkpoint", record("checkpoint", "digest", to=ZEROS), "record checkpoint.digest"),
    ("what the checkpoint needs", record("checkpoint", "requires", to={}), "record checkpoint.requires"),
    ("a key more", record("evil", to=True), "record evil"),
    ("other spaces", spaced, "record, its bytes"),
    ("no JSON", lambda image: image.change_file(OWN, lambda _: b"{"), "record"),
    (
        "a deep value",
        lambda image: image.change_file(OWN, lambda _: b'{"name":' + b'{"a":' * 900 + b"1" + b"}" * 901),
        "record",
    ),
]


# --- the config -------------------------------------------------------------------------------------------------------


def put(what: str, *path: str, to: Any) -> Tamper:
    """Another value in the manifest or the config; a function makes it from the one that is there."""

    def tamper(image: Image) -> None:
        place: Any = getattr(image, what)
        for key in path[:-1]:
            place = place[int(key) if isinstance(place, list) else key]
        last: Any = int(path[-1]) if isinstance(place, list) else path[-1]
        place[last] = to(place.get(last) if isinstance(place, dict) else place[last]) if callable(to) else to

    return tamper


def config(*path: str, to: Any) -> Tamper:
    return put("config", *path, to=to)


def json_text(what: str, edit: Callable[[bytes], bytes]) -> Tamper:
    """Other bytes of config or manifest that mean the same, or nearly."""

    def tamper(image: Image) -> None:
        data = encode(getattr(image, what))
        changed = edit(data)
        assert changed != data
        setattr(image, f"{what}_bytes", changed)

    return tamper


LABELS = ("config", "Labels")
CONFIGS: list[Row] = [
    ("a variable more", config("config", "Env", to=lambda env: ["LD_PRELOAD=/x.so", *env]), "config config.Env"),
    ("another PATH", config("config", "Env", "0", to="PATH=/tmp:/usr/bin"), "config config.Env[0]"),
    ("no variables", config("config", "Env", to=[]), "config config.Env"),
    ("a user", config("config", "User", to="0:0"), "config config.User"),
    ("a command", config("config", "Cmd", to=["evil"]), "config config.Cmd"),
    ("an empty command", config("config", "Cmd", to=[]), "config config.Cmd"),
    ("an entrypoint", config("config", "Entrypoint", to=["/bin/sh"]), "config config.Entrypoint"),
    (
        "an entrypoint without the record",
        config("config", "Entrypoint", to=["/opt/builder/serve"]),
        "config config.Entrypoint",
    ),
    (
        "an entrypoint with another record",
        config("config", "Entrypoint", "1", to="--record=sha256:" + ZEROS),
        "Entrypoint[1]",
    ),
    ("a working directory", config("config", "WorkingDir", to="/tmp"), "config config.WorkingDir"),
    ("the record's label", config(*LABELS, RECORD_LABEL, to="sha256:" + ZEROS), "config config.Labels.dev.overlay"),
    ("the lock's label", config(*LABELS, "dev.overlay-image-builder.inputs", to="sha256:" + ZEROS), "builder.inputs"),
    ("the base's label", config(*LABELS, "org.opencontainers.image.base.digest", to="sha256:" + ZEROS), "base.digest"),
    ("the base's name", config(*LABELS, "org.opencontainers.image.base.name", to="evil"), "base.name"),
    ("the title", config(*LABELS, "org.opencontainers.image.title", to="evil"), "image.title"),
    ("the version", config(*LABELS, "org.opencontainers.image.version", to="evil"), "image.version"),
    ("a label more", config(*LABELS, "com.example", to="evil"), "com.example"),
    ("no labels", config(*LABELS, to=None), "config config.Labels"),
    ("a health check", config("config", "Healthcheck", to={"Test": ["CMD", "evil"]}), "config config.Healthcheck"),
    ("a volume", config("config", "Volumes", to={"/model": {}}), "config config.Volumes"),
    ("a port", config("config", "ExposedPorts", to={"22/tcp": {}}), "config config.ExposedPorts"),
    ("a stop signal", config("config", "StopSignal", to="SIGKILL"), "config config.StopSignal"),
    ("a shell", config("config", "Shell", to=["/bin/evil"]), "config config.Shell"),
    ("a trigger", config("config", "OnBuild", to=["RUN evil"]), "config config.OnBuild"),
    ("another casing of a key", config("config", "entrypoint", to=["/bin/sh"]), "config config.entrypoint"),
    ("our history", config("history", "-1", "created_by", to="evil"), "created_by"),
    ("the base's history", config("history", "0", "created_by", to="evil"), "config history[0].created_by"),
    (
        "history more",
        config("history", to=lambda history: [*history, {"created_by": "x", "empty_layer": True}]),
        "config history",
    ),
    ("history less", config("history", to=lambda history: history[:-1]), "config history"),
    ("the time", config("created", to="2030-01-01T00:00:00Z"), "config created"),
    ("an author", config("author", to="evil"), "config author"),
    ("another system", config("os", to="windows"), "config os"),
    ("another architecture", config("architecture", to="arm64"), "config architecture"),
    ("a variant", config("variant", to="v8"), "config variant"),
    ("features of the system", config("os.features", to=["x"]), "config os.features"),
    ("a version of the system", config("os.version", to="10"), "config os.version"),
    ("the first diff id", config("rootfs", "diff_ids", "0", to="sha256:" + ZEROS), "config rootfs.diff_ids[0]"),
    ("diff ids in another order", config("rootfs", "diff_ids", to=lambda ids: ids[::-1]), "config rootfs.diff_ids"),
    ("a diff id more", config("rootfs", "diff_ids", to=lambda ids: [*ids, ids[0]]), "config rootfs.diff_ids"),
    ("a diff id less", config("rootfs", "diff_ids", to=lambda ids: ids[1:]), "config rootfs.diff_ids"),
    ("the type of the root file system", config("rootfs", "type", to="other"), "config rootfs.type"),
    ("a container's settings", config("container_config", to={"Cmd": ["x"]}), "config container_config"),
    ("a key twice", json_text("config", lambda data: data[:-1] + b',"os":"linux"}'), "config, its bytes"),
    (
        "a key twice that readers take first",
        json_text("config", lambda data: b'{"os":"x",' + data[1:]),
        "config, its bytes",
    ),
    ("spaces", json_text("config", lambda data: data + b"\n"), "config, its bytes"),
    (
        "keys in another order",
        json_text("config", lambda data: json.dumps(json.loads(data), sort_keys=True).encode()),
        "its bytes",
    ),
    ("no JSON", json_text("config", lambda data: data[:-1]), "config"),
    ("a list", json_text("config", lambda _: b"[]"), "config"),
    ("a deep value", json_text("config", lambda data: data[:-1] + b',"x":' + b"[" * 900 + b"]" * 900 + b"}"), "config"),
    (
        "a deeper value",
        json_text("config", lambda data: data[:-1] + b',"x":' + b"[" * 90_000 + b"]" * 90_000 + b"}"),
        "config",
    ),
    ("nothing", json_text("config", lambda _: b""), "config"),
]


# --- the manifest -----------------------------------------------------------------------------------------------------


def manifest(*path: str, to: Any) -> Tamper:
    return put("manifest", *path, to=to)


def evil_layer(image: Image) -> dict[str, Any]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("etc/evil"))
    return {"mediaType": "application/vnd.oci.image.layer.v1.tar", **image.put(buffer.getvalue())}


def base_layer(image: Image) -> None:
    image.manifest["layers"][0].update(evil_layer(image))


def layer_above(image: Image) -> None:
    layer = evil_layer(image)
    image.manifest["layers"].append(layer)
    image.config["rootfs"]["diff_ids"].append(layer["digest"])


def layer_between(image: Image) -> None:
    layer = evil_layer(image)
    image.manifest["layers"].insert(1, layer)
    image.config["rootfs"]["diff_ids"].insert(1, layer["digest"])


def no_base(image: Image) -> None:
    del image.manifest["layers"][0], image.config["rootfs"]["diff_ids"][0]


def without_our_layer(image: Image) -> None:
    del image.manifest["layers"][-1], image.config["rootfs"]["diff_ids"][-1]


PLAIN = "application/vnd.oci.image.layer.v1.tar"
MANIFESTS: list[Row] = [
    ("another base layer", base_layer, "manifest layers[0].digest"),
    ("a layer above ours", layer_above, "manifest layers"),
    ("a layer between", layer_between, "manifest layers"),
    ("a base layer less", no_base, "manifest layers"),
    ("our layer taken away", without_our_layer, "manifest layers"),
    ("layers in another order", manifest("layers", to=lambda layers: [layers[1], layers[0], *layers[2:]]), "layers[0]"),
    ("no layers", manifest("layers", to=[]), "manifest layers"),
    ("the type of our layer", manifest("layers", "-1", "mediaType", to=PLAIN), "mediaType"),
    ("the type of a base layer", manifest("layers", "0", "mediaType", to="x/y"), "manifest layers[0].mediaType"),
    ("the size of a base layer", manifest("layers", "0", "size", to=1), "manifest layers[0].size"),
    ("the size of our layer", manifest("layers", "-1", "size", to=1), "what its descriptor names"),
    ("a foreign address", manifest("layers", "0", "urls", to=["https://evil.example/x"]), "manifest layers[0].urls"),
    (
        "an annotation of a layer",
        manifest("layers", "0", "annotations", to={"x": "y"}),
        "manifest layers[0].annotations",
    ),
    ("a layer's content in the manifest", manifest("layers", "0", "data", to="eA=="), "manifest layers[0].data"),
    ("the type of the config", manifest("config", "mediaType", to="x/y"), "manifest config.mediaType"),
    ("annotations", manifest("annotations", to={"x": "y"}), "manifest annotations"),
    ("an artifact type", manifest("artifactType", to="x/y"), "manifest artifactType"),
    ("a subject", manifest("subject", to=lambda _: {"digest": "sha256:" + ZEROS}), "manifest subject"),
    ("another schema version", manifest("schemaVersion", to=1), "manifest schemaVersion"),
    ("a key twice", json_text("manifest", lambda data: data[:-1] + b',"schemaVersion":2}'), "manifest, its bytes"),
    ("spaces", json_text("manifest", lambda data: data + b" "), "manifest, its bytes"),
    ("no JSON", json_text("manifest", lambda data: data[:-1]), "manifest"),
    ("a list", json_text("manifest", lambda _: b"[]"), "manifest"),
    ("layers of another shape", manifest("layers", to={"a": 1}), "manifest layers"),
    ("layers of words", manifest("layers", to=["a", "b", "c"]), "manifest"),
]


# --- the layout's index, and what is in it ----------------------------------------------------------------------------

INDEX = "application/vnd.oci.image.index.v1+json"


def wrapped(*, evil: bool) -> Tamper:
    """An index around the image; with `evil`, another image for the platform comes first."""

    def tamper(image: Image) -> None:
        platform = {"os": "linux", "architecture": "amd64"}
        honest = {"mediaType": image.manifest["mediaType"], **image.put(encode(image.manifest)), "platform": platform}
        image.config["config"]["Entrypoint"] = ["/bin/sh"]
        changed = {**image.manifest, "config": {**image.manifest["config"], **image.put(encode(image.config))}}
        entries = [{**honest, **image.put(encode(changed))}, honest] if evil else [honest]
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}
        image.seal_top({"mediaType": INDEX, **image.put(encode(index))})
        image.sealed = False

    return tamper


def same_name_twice(image: Image) -> None:
    index = image.index()
    named = next(each for each in index["manifests"] if each.get("annotations", {}).get(NAME) == image.tag)
    image.config["config"]["Entrypoint"] = ["/bin/sh"]
    changed = {**image.manifest, "config": {**image.manifest["config"], **image.put(encode(image.config))}}
    index["manifests"].insert(0, {**named, **image.put(encode(changed))})
    image.write_index(index)
    image.sealed = False


def in_place(which: str) -> Tamper:
    def tamper(image: Image) -> None:
        digests = {
            "manifest": digest_of(encode(image.manifest)),
            "config": image.manifest["config"]["digest"],
            "layer": image.manifest["layers"][-1]["digest"],
        }
        data = image.blob(digests[which])
        image.overwrite(digests[which], data[:-30] + bytes([data[-30] ^ 1]) + data[-29:])
        image.sealed = False

    return tamper


def gone(which: str) -> Tamper:
    def tamper(image: Image) -> None:
        image.path(
            image.manifest["layers"][-1]["digest"] if which == "layer" else image.manifest["config"]["digest"]
        ).unlink()
        image.sealed = False

    return tamper


def entry_says(**keys: Any) -> Tamper:
    return lambda image: image.entry.update(keys)


LAYOUTS: list[Row] = [
    ("an index around the image", wrapped(evil=False), "an index of 1 entries around it"),
    ("an index whose first entry is another image", wrapped(evil=True), "config config.Entrypoint"),
    ("a name that two images have", same_name_twice, "gives the name to 2 images"),
    (
        "a platform that the config contradicts",
        entry_says(platform={"os": "linux", "architecture": "arm64"}),
        "platform",
    ),
    (
        "another type of the manifest",
        entry_says(mediaType="application/vnd.docker.distribution.manifest.v2+json"),
        "media type",
    ),
    ("another size of the manifest", entry_says(size=7), "does not have the size"),
    ("a manifest changed in place", in_place("manifest"), "content that its name promises"),
    ("a config changed in place", in_place("config"), "config of"),
    ("a layer changed in place", in_place("layer"), "layer of"),
    ("no layer", gone("layer"), "layer of"),
    ("no config", gone("config"), "config of"),
]


# --- what is attached -------------------------------------------------------------------------------------------------


def attached(kind: str, edit: Callable[[bytes], bytes] | None) -> Tamper:
    def tamper(image: Image) -> None:
        data = image.document(kind)
        changed = edit(data) if edit is not None else None
        assert changed != data
        image.set_document(kind, changed)

    return tamper


def another_lock(image: Image) -> None:
    """A second lock beside the honest one."""
    manifest_, data = next(each for each in image.referrers if each[0]["artifactType"] == LOCK)
    image.referrers.append((copy.deepcopy(manifest_), data.replace(b"max-model-len: 16", b"max-model-len: 32")))


def in_sources(edit: Callable[[list[Member]], list[Member]]) -> Tamper:
    def tamper(image: Image) -> None:
        kept = image.layer, copy.deepcopy(image.manifest), copy.deepcopy(image.config)
        image.layer = image.document(SOURCES)
        image.set_members(edit(image.members()))
        data = image.layer
        image.layer, image.manifest, image.config = kept
        image.set_document(SOURCES, data)

    return tamper


def other_diff(members: list[Member]) -> list[Member]:
    for each in members:
        each.data = each.data.replace(b"2020", b"6666")
    return members


def two_documents(image: Image) -> None:
    for manifest_, _ in image.referrers:
        if manifest_["artifactType"] == SOURCES:
            manifest_["annotations"]["org.opencontainers.image.title"] = "x"
            manifest_["layers"].append(manifest_["layers"][0])


def put_under_the_tag(made: Made) -> Tamper:
    """Another recipe's image, with its own lock, under this image's immutable tag: everything fits but the tag."""

    def tamper(image: Image) -> None:
        image.manifest, image.config, image.layer = made.other.manifest, made.other.config, made.other.layer
        image.referrers = made.other.referrers
        for path in (made.other.folder / "blobs/sha256").iterdir():
            if not (image.folder / "blobs/sha256" / path.name).exists():
                os.link(path, image.folder / "blobs/sha256" / path.name)

    return tamper


ATTACHED: list[Row] = [
    ("a lock with other flags", attached(LOCK, lambda d: d.replace(b"max-model-len: 16", b"max-model-len: 32")), "record profiles"),
    ("a lock with another base", attached(LOCK, lambda d: d.replace(b"reference: oci:../layout:base", b"reference: evil/x:v1")), "record base"),
    ("a lock with another time", attached(LOCK, lambda d: d.replace(b"epoch: 17", b"epoch: 16")), "time is not when its base"),
    ("a lock with another checkpoint", attached(LOCK, lambda d: d.replace(b"c0c0", b"d0d0")), "record checkpoint.digest"),
    ("a lock with another folder", attached(LOCK, lambda d: d.replace(b"root: usr/", b"root: opt/")), "opt/local/lib"),
    ("a lock with a path that leaves the image", attached(LOCK, lambda d: d.replace(b"root: usr/", b"root: ../")), "relative path"),
    ("a lock with a base that would be run", attached(LOCK, lambda d: d.replace(b"oci:../layout:base", b"docker:evil/x:v1")), "a base in Docker"),
    ("a lock in another spelling", attached(LOCK, lambda d: d + b"# evil\n"), "not in the form"),
    ("a lock with a key more", attached(LOCK, lambda d: d + b"evil: 1\n"), "unknown key"),
    ("no YAML", attached(LOCK, lambda _: b"[["), "evidence lock"),
    ("an empty lock", attached(LOCK, lambda _: b""), "is empty"),
    ("no lock", attached(LOCK, None), "no lock travels with it"),
    ("two locks", another_lock, "2 locks travel with this image"),
    ("no sources", attached(SOURCES, None), "evidence sources"),
    ("another diff in the sources", in_sources(other_diff), "the sources lack"),
    ("a blob more in the sources", in_sources(lambda m: [*m, entry("blobs/sha256/x", data=b"x")]), "does not name"),
    ("a link in the sources", in_sources(lambda m: [*m, entry("x", type=SYM, linkname="/")]), "not a blob"),
    ("a blob less in the sources", in_sources(lambda m: m[1:]), "the sources lack"),
    ("sources that are no tar", attached(SOURCES, lambda _: b"x" * 600), "evidence sources"),
    ("sources of two documents", two_documents, "2 documents instead of one"),
]  # fmt: skip


# --- an index of two platforms ----------------------------------------------------------------------------------------


def entries(edit: Callable[[Image, list[dict[str, Any]]], list[dict[str, Any]]]) -> Tamper:
    def tamper(image: Image) -> None:
        index = copy.deepcopy(image.manifest)
        index["manifests"] = edit(image, index["manifests"])
        assert index != image.manifest
        image.manifest = index

    return tamper


def evil_image(image: Image, honest: dict[str, Any]) -> dict[str, Any]:
    document = json.loads(image.blob(honest["digest"]))
    settings = json.loads(image.blob(document["config"]["digest"]))
    settings["config"]["Entrypoint"] = ["/bin/sh"]
    document["config"].update(image.put(encode(settings)))
    return {**honest, **image.put(encode(document))}


def nested(image: Image, listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    inner = image.put(encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed[:1]}))
    return [{**listed[0], "mediaType": INDEX, **inner}, listed[1]]


def swapped(_: Image, listed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**listed[0], "platform": listed[1]["platform"]}, {**listed[1], "platform": listed[0]["platform"]}]


def with_platform(**keys: Any) -> Callable[[Image, list[dict[str, Any]]], list[dict[str, Any]]]:
    return lambda _, listed: [{**listed[0], "platform": {**listed[0]["platform"], **keys}}, listed[1]]


def index_key(key: str, value: Any) -> Tamper:
    return lambda image: image.manifest.update({key: value})


INDEXES: list[Row] = [
    ("another image first", entries(lambda i, e: [evil_image(i, e[0]), *e]), "index entry for linux/amd64"),
    ("another image last", entries(lambda i, e: [*e, evil_image(i, e[0])]), "index entry for linux/amd64"),
    ("another image instead", entries(lambda i, e: [evil_image(i, e[0]), e[1]]), "linux/amd64: config config.Entrypoint"),
    ("another image for a variant", entries(lambda i, e: [*e, {**evil_image(i, e[1]), "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}}]), "index entry for linux/arm64"),
    ("an entry that is repeated", entries(lambda _, e: [e[0], *e]), "2: sha256:"),
    ("a nested index", entries(nested), "an index inside an index"),
    ("platforms swapped", entries(swapped), "config architecture"),
    ("a variant", entries(with_platform(variant="v3")), "index manifests[0].platform.variant"),
    ("features of the system", entries(with_platform(**{"os.features": ["x"]})), "platform.os.features"),
    ("a version of the system", entries(with_platform(**{"os.version": "1"})), "platform.os.version"),
    ("an entry taken away", entries(lambda _, e: e[1:]), "index entry for linux/amd64"),
    ("an entry for another platform", entries(lambda _, e: [*e, {**e[0], "platform": {"os": "linux", "architecture": "s390x"}}]), "index manifests"),
    ("an entry without a platform", entries(lambda _, e: [{k: v for k, v in e[0].items() if k != "platform"}, e[1]]), "index entry for"),
    ("entries in another order", entries(lambda _, e: e[::-1]), "index manifests[0]"),
    ("an annotation of an entry", entries(lambda _, e: [{**e[0], "annotations": {"x": "y"}}, e[1]]), "annotations"),
    ("a foreign address", entries(lambda _, e: [{**e[0], "urls": ["https://x"]}, e[1]]), "index manifests[0].urls"),
    ("another type of an entry", entries(lambda _, e: [{**e[0], "mediaType": "x/y"}, e[1]]), "x/y"),
    ("annotations", index_key("annotations", {"x": "y"}), "index annotations"),
    ("a subject", index_key("subject", {"digest": ZEROS}), "index subject"),
    ("an artifact type", index_key("artifactType", "x/y"), "index artifactType"),
    ("Docker's type", index_key("mediaType", "application/vnd.docker.distribution.manifest.list.v2+json"), "index mediaType"),
    ("entries of another shape", index_key("manifests", {"a": 1}), "index"),
]  # fmt: skip


TABLE = {
    f"{part}: {name}": (tamper, named)
    for part, rows in (
        ("layer", ENTRIES), ("header", HEADERS), ("record", RECORDS), ("config", CONFIGS), ("manifest", MANIFESTS),
        ("layout", LAYOUTS), ("evidence", ATTACHED),
    )
    for name, tamper, named in rows
}  # fmt: skip


@pytest.fixture
def image(made: Made, tmp_path: Path) -> Iterator[Image]:
    yield made.one.copy_to(tmp_path / "image")


def test_there_are_enough_of_them() -> None:
    assert len(TABLE) + len(INDEXES) >= 112


@pytest.mark.parametrize("name", TABLE)
def test_each_tampering_is_found_and_named(image: Image, name: str) -> None:
    tamper, named = TABLE[name]
    tamper(image)
    if image.sealed:
        image.seal()
    found = verify(f"oci:{image.folder}:{image.tag}")
    assert found.code == 4, f"{found.code} {found.out} {found.err}"
    assert named in found.err, found.err
    assert "bug" not in found.err


@pytest.mark.parametrize(("name", "tamper", "named"), INDEXES, ids=[name for name, _, _ in INDEXES])
def test_each_tampering_with_an_index(made: Made, tmp_path: Path, name: str, tamper: Tamper, named: str) -> None:
    image = made.two.copy_to(tmp_path / "image")
    tamper(image)
    image.seal_top({**image.put(encode(image.manifest)), "mediaType": image.manifest["mediaType"]})
    found = verify(f"oci:{image.folder}:{image.tag}")
    assert found.code == 4, f"{found.code} {found.out} {found.err}"
    assert named in found.err, found.err


def test_another_lock_with_its_own_image_needs_a_pin(made: Made, image: Image) -> None:
    """An image and its lock that are changed together fit: the immutable tag, `--lock` and `--recipe` tell."""
    honest = parse_lock(image.document(LOCK), "lock")
    put_under_the_tag(made)(image)
    image.seal()
    by_tag = verify(f"oci:{image.folder}:{image.tag}")
    assert by_tag.code == 4
    assert f"tag {image.tag}" in by_tag.err
    top = next(each["digest"] for each in image.index()["manifests"] if "artifactType" not in each)
    alone = verify(f"oci:{image.folder}:{top}")
    assert alone.code == 0, alone.err
    first = alone.out.splitlines()[0]
    assert "not who made it" in first
    assert digest_of(image.document(LOCK)) in first
    pinned = verify(f"oci:{image.folder}:{top}", "--lock", digest_of(honest.dump()))
    assert pinned.code == 4
    assert "does not travel with this image" in pinned.err
    assert verify(f"oci:{image.folder}:{top}", "--recipe", "small").code == 4
    assert verify(f"oci:{image.folder}:{top}", "--lock", digest_of(image.document(LOCK))).code == 0


@pytest.mark.parametrize(
    "arguments", [(), ("--rebuild",), ("--quick",), ("--recipe", "small"), ("--offline",), ("--no-evidence",)]
)
def test_honest_images_pass(made: Made, arguments: tuple[str, ...]) -> None:
    done = verify(f"oci:{made.one.folder}:{made.one.tag}", *arguments)
    assert done.code == 0, done.err
    if "--recipe" not in arguments:
        both = verify(f"oci:{made.two.folder}", *arguments)
        assert both.code == 0, both.err


def test_quick_says_what_it_is(made: Made) -> None:
    done = verify(f"oci:{made.one.folder}", "--quick")
    assert done.out.splitlines()[0].startswith("quick: compared with the lock sha256:")
    assert "without the base" in done.out.splitlines()[0]


# What follows from the base, or from the diffs, is taken from the image.
NOT_QUICK = {
    "layer: a digest edited in RECORD", "layer: a line more in RECORD", "layer: a line less in RECORD",
    "layer: another line ending in RECORD", "header: an executable patched file", "record: the base's entrypoint",
    "record: the base's command",
}  # fmt: skip
OWN_PART = [name for name in TABLE if name.startswith(("layer", "header", "record")) and name not in NOT_QUICK]


@pytest.mark.parametrize("name", OWN_PART)
def test_quick_finds_what_is_in_our_own_layer(image: Image, name: str) -> None:
    tamper, _ = TABLE[name]
    tamper(image)
    if image.sealed:
        image.seal()
    found = verify(f"oci:{image.folder}:{image.tag}", "--quick")
    assert found.code == 4, f"{found.code} {found.out} {found.err}"


def test_what_cannot_be_derived_is_not_verified(
    made: Made, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere, without the cache: the layout has lock and sources, but not the base's files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BUILDER_CACHE_DIR", str(tmp_path / "empty"))
    for arguments in ((), ("--offline",)):
        done = verify(f"oci:{image.folder}:{image.tag}", "--json", *arguments)
        assert done.code == 5, done.err
        document = json.loads(done.out)["error"]
        assert document["verified"] is False
        assert document["ok"] is False
        assert "is not verified" in document["message"]
    # What differs in our own part is still found.
    TABLE["layer: a link over the interpreter"][0](image)
    image.seal()
    assert verify(f"oci:{image.folder}:{image.tag}", "--offline").code == 4
