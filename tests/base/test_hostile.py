"""Bases that lie: each kind is refused with exit 2 or 4 and its reason, in bounded time and memory, and nothing is built."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.bases import (
    LAYER,
    PYTHON,
    ROOT,
    SOURCE,
    Item,
    Made,
    Outcome,
    build,
    layer,
    package,
    recipe,
)  # fmt: skip

GOOD = [layer(*PYTHON), layer(*package())]


def refused(root: Path, capsys: Any, *words: str, code: tuple[int, ...] = (2,)) -> Outcome:
    outcome = build(root, capsys)
    assert outcome.code in code, (outcome.code, outcome.message)
    assert all(word in outcome.message for word in words), outcome.message
    assert not (root / "dist/r/index.json").exists()
    return outcome


# --- sizes that lie -------------------------------------------------------------------------------------------------


def header(name: str, size: bytes, kind: bytes = b"0") -> bytes:
    """A USTAR header whose size field has these 12 bytes."""
    block = bytearray(512)
    block[0:100] = name.encode().ljust(100, b"\0")
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136] = size
    block[136:148] = b"00000000000\0"
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def base256(value: int) -> bytes:
    return (
        struct.pack(">12s", (value & ((1 << 96) - 1)).to_bytes(12, "big"))
        if value < 0
        else b"\x80" + value.to_bytes(11, "big")
    )


def pax(size: str) -> bytes:
    record = f" size={size}\n"
    length = len(record) + len(str(len(record) + 2))
    data = f"{length}{record}".encode()
    return header("x", b"%011o\0" % len(data), b"x") + data.ljust(512, b"\0") + header("usr/big", b"%011o\0" % 0)


SIZES = {
    "negative base 256": header("usr/x", base256(-512)),
    "2^62 in base 256": header("usr/x", base256(1 << 62)),
    "2^80 in base 256": header("usr/x", base256(1 << 80)),
    "negative PAX": pax("-512"),
    "2^62 in PAX": pax(str(1 << 62)),
    "PAX in hexadecimal": pax("0x10"),
    "PAX with underscores": pax("1_0"),
    "negative package file": header(f"{ROOT}/vllm/a.py", base256(-1)),
    "huge PAX header": header("x", b"%011o\0" % (1 << 32), b"x"),
    "huge long name": header("x", b"%011o\0" % (1 << 32), b"L"),
    "endless long names": header("x", b"%011o\0" % 4, b"L") + b"name".ljust(512, b"\0"),
    "sparse": header("usr/x", b"%011o\0" % 0, b"S"),
    "octal with letters": header("usr/x", b"0000000009x\0"),
}


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("compress", [True, False])
def test_a_size_that_lies_is_refused_at_once(
    kind: str, compress: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repeated = 50 if kind == "endless long names" else 1
    made = Made(recipe(tmp_path) / "base")
    made.write(made.image([layer(*PYTHON), SIZES[kind] * repeated + layer(*package())], compress=compress))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    refused(tmp_path, capsys, "not a sound tar")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 5


def test_a_bomb_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit grows with what is stored: here a floor of 1 MiB stands for the one of 2 GiB."""
    monkeypatch.setattr("builder.oci.blobs._EXPANDED_FLOOR", 1 << 20)
    made = Made(recipe(tmp_path) / "base")
    made.write(made.image([*GOOD, layer(Item("usr/zeros", bytes(64 << 20)))]))
    refused(tmp_path, capsys, "expands to more than")


def test_too_much_text_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builder.base.layers._KEPT_TOGETHER", 1 << 20)
    made = Made(recipe(tmp_path) / "base")
    noise = [Item(f"{ROOT}/vllm/{n}.py", os.urandom(1 << 19)) for n in range(3)]
    made.write(made.image([*GOOD, layer(*noise)]))
    refused(tmp_path, capsys, "MiB of text")


@pytest.mark.parametrize("name", ["../x", "usr/../../x", "usr/.wh.", "usr/.wh...", f"{ROOT}/vllm/\udcff.py"])
def test_a_name_that_nobody_unpacks_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Made(recipe(tmp_path) / "base")
    made.write(made.image([*GOOD, layer(Item(name, b"x"))]))
    refused(tmp_path, capsys)


@pytest.mark.parametrize("gone", [f"{ROOT}/vllm/.wh.a.py", f"{ROOT}/.wh.vllm", "usr/.wh.local"])
def test_a_file_that_its_own_layer_removes_afterwards_is_refused(
    gone: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Docker 20.10: `failed to mknod: file exists`; containerd and podman remove it; by the specification it stays."""
    made = Made(recipe(tmp_path) / "base")
    made.write(made.image([GOOD[0], layer(*package(), Item(gone))]))
    refused(tmp_path, capsys, "removes it after that")
    before = Made(recipe(tmp_path / "before") / "base")
    before.write(before.image([GOOD[0], layer(Item(gone), *package())]))
    assert build(tmp_path / "before", capsys).code == 0


HIDING = {
    f"{ROOT}/vllm/a.so": True,
    f"{ROOT}/vllm/a.abi3.so": True,
    f"{ROOT}/vllm/a.cpython-312-x86_64-linux-gnu.so": True,
    f"{ROOT}/vllm/a/__init__.py": True,
    f"{ROOT}/vllm/a.cpython-311-x86_64-linux-gnu.so": False,
    f"{ROOT}/vllm/a.pyc": False,
    f"{ROOT}/vllm/a/more.py": False,
    f"{ROOT}/vllm/ab.abi3.so": False,
}


@pytest.mark.parametrize("name", HIDING)
def test_a_change_of_a_module_that_python_does_not_import_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Made(recipe(tmp_path) / "base")
    made.write(made.image([*GOOD, layer(Item(name, b"x"))]))
    if HIDING[name]:
        refused(tmp_path, capsys, "would do nothing", name.removeprefix(f"{ROOT}/"))
    else:
        assert build(tmp_path, capsys).code == 0


# --- descriptors, diff ids, blobs -----------------------------------------------------------------------------------


def change(document: dict[str, Any], path: str, value: object) -> None:
    *parts, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in parts:
        document = document[part]  # type: ignore[index]
    if value is ...:
        del document[last]  # type: ignore[arg-type]
    else:
        document[last] = value  # type: ignore[index]


OTHER = f"sha256:{hashlib.sha256(b'other').hexdigest()}"
MANIFESTS: list[tuple[str, object]] = [
    ("layers.0.size", 5), ("layers.1.size", 1 << 40), ("layers.1.size", -1), ("layers.1.size", "12"), ("layers.1.size", True),
    ("layers.1.size", 1.5), ("config.size", 3), ("config.digest", OTHER), ("layers.1.digest", OTHER),
    ("layers.0.digest", "md5:1"), ("layers.0.digest", "sha256:../../../../etc/passwd"), ("layers.0.digest", 5),
    ("layers.0", None), ("layers.0", "x"), ("layers", None), ("layers", "abc"), ("layers", {}), ("layers", ...),
    ("layers", []), ("config", None), ("config", "x"), ("config", []), ("config", ...), ("config.mediaType", None),
    ("layers.0.mediaType", 7), ("mediaType", 5), ("mediaType", "text/html"), ("annotations", []), ("layers.0.platform", "x"),
    ("layers.0.annotations", {"a": 1}),
]  # fmt: skip
CONFIGS: list[tuple[str, object]] = [
    ("rootfs", ...), ("rootfs", None), ("rootfs", []), ("rootfs.diff_ids", ...), ("rootfs.diff_ids", None),
    ("rootfs.diff_ids", "x"), ("rootfs.diff_ids", [1, 2]), ("rootfs.diff_ids", []), ("rootfs.diff_ids.0", OTHER),
    ("rootfs.diff_ids.1", OTHER), ("rootfs.diff_ids", [OTHER] * 3), ("rootfs.diff_ids", [OTHER]), ("rootfs.type", 5),
    ("config", "x"), ("config", []), ("config.Env", "PATH=/usr/bin"), ("config.Env", [1]), ("config.Env", {"PATH": "/"}),
    ("config.Entrypoint", "vllm serve"), ("config.Cmd", "x"), ("config.Cmd", [None]), ("config.Labels", []),
    ("config.Labels", {"a": 1}), ("config.Labels", "x"), ("config.User", 0), ("config.WorkingDir", []),
    ("history", "x"), ("history", {}), ("history", [1]), ("created", 5), ("created", "9999-12-31T23:59:59-23:00"),
    ("created", "9999-12-31T23:59:59Z"), ("created", "2300-01-01T00:00:00Z"), ("created", "yesterday"), ("created", ""),
    ("created", "2024-01-01"), ("created", "2024-13-01T00:00:00Z"), ("created", "2024-01-01T00:00:00"), ("created", []),
    ("os", None), ("os", "windows"), ("os", ...), ("architecture", []), ("architecture", "arm64"), ("architecture", ...),
    ("variant", 3), ("variant", "v3"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), MANIFESTS, ids=lambda value: str(value)[:40])
def test_a_manifest_that_lies_or_has_another_shape_is_refused(
    path: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Made(recipe(tmp_path) / "base")
    made.write(made.image(GOOD, manifest=lambda document: change(document, path, value)))
    refused(tmp_path, capsys, code=(2, 4))


@pytest.mark.parametrize(("path", "value"), CONFIGS, ids=lambda value: str(value)[:40])
def test_a_config_that_lies_or_has_another_shape_is_refused(
    path: str, value: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Made(recipe(tmp_path) / "base")
    made.write(made.image(GOOD, config=lambda document: change(document, path, value)))
    outcome = refused(tmp_path, capsys, code=(2, 4))
    if path not in ("os", "architecture", "variant") and outcome.code == 2:
        assert path.split(".", maxsplit=1)[0] in outcome.message or "layers" in outcome.message


JSONS = {
    "deep": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "not JSON": b"<html>",
    "a list": b"[]",
    "NaN": b'{"mediaType": NaN}',
    "a long number": b'{"size": ' + b"9" * 10_000 + b"}",
    "repeated key": b'{"layers": [], "layers": []}',
    "repeated in another case": b'{"layers": [], "Layers": []}',
    "half a pair": b'{"mediaType": "\\ud800"}',
    "not UTF-8": b'{"a": "\xff"}',
    "empty": b"",
    "infinite": b'{"a": 1e999}',
}


@pytest.mark.parametrize("kind", JSONS)
@pytest.mark.parametrize("place", ["index.json", "index", "manifest", "config"])
def test_json_that_is_read_in_two_ways_or_not_at_all_is_refused(
    kind: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Made(recipe(tmp_path) / "base")
    data = JSONS[kind]
    if place == "config":
        config = made.put(data, "application/vnd.oci.image.config.v1+json")
        made.write(made.image(GOOD, manifest=lambda document: document.update(config=config)))
    elif place == "index.json":
        made.write(made.image(GOOD))
        (made.path / "index.json").write_bytes(data)
    else:
        made.write(made.put(data, f"application/vnd.oci.image.{place}.v1+json"))
    refused(tmp_path, capsys)


def blob_of(made: Made, content: bytes) -> Path:
    data = gzip.compress(content, 1, mtime=0)
    return made.path / "blobs/sha256" / hashlib.sha256(data).hexdigest()


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "a changed byte": lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
    "truncated": lambda data: data[:-9],
    "longer": lambda data: data + b"x",
    "empty": lambda data: b"",
}


@pytest.mark.parametrize("which", ["read for the package", "only copied"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_layer_is_never_built_on(
    kind: str, which: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = layer(Item("usr/share/noise", os.urandom(4000)))
    made = Made(recipe(tmp_path) / "base")
    made.write(made.image([GOOD[0], noise, GOOD[1]]))
    blob = blob_of(made, GOOD[1] if which == "read for the package" else noise)
    whole = blob.read_bytes()
    blob.write_bytes(DAMAGE[kind](whole))
    refused(tmp_path, capsys, code=(2, 4))
    blob.write_bytes(whole)
    assert build(tmp_path, capsys).code == 0


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_layer_that_is_damaged_after_the_lock_is_never_built_on(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A build reads files from the cache; the layers that it links are checked all the same, and again when they change."""
    made = Made(recipe(tmp_path) / "base")
    made.write(made.image(GOOD))
    assert build(tmp_path, capsys).code == 0
    blob = blob_of(made, GOOD[1])
    whole = blob.read_bytes()
    blob.write_bytes(DAMAGE[kind](whole))
    outcome = build(tmp_path, capsys)
    assert outcome.code == 4, outcome.message
    blob.write_bytes(whole)
    assert build(tmp_path, capsys).code == 0
    linked = tmp_path / "dist/r/blobs/sha256" / blob.name
    assert linked.read_bytes() == whole


@pytest.mark.parametrize("diff_id", [OTHER, None])
def test_a_diff_id_of_a_layer_that_is_only_copied_is_checked_too(
    diff_id: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine nothing of the base is in the cache: a build with a lock reads the layers to copy them."""
    noise = layer(Item("usr/share/noise", os.urandom(4000)))
    made = Made(recipe(tmp_path) / "base")
    good = made.image([GOOD[0], noise, GOOD[1]])
    made.write(good)
    assert build(tmp_path, capsys).code == 0
    if diff_id is None:
        monkeypatch.setenv("BUILDER_CACHE_DIR", str(tmp_path / "cache"))
        blob = blob_of(made, noise)
        blob.write_bytes(DAMAGE["a changed byte"](blob.read_bytes()))
        assert build(tmp_path, capsys).code == 4
        return
    other = Made(recipe(tmp_path / "other") / "base")
    other.write(
        other.image([GOOD[0], noise, GOOD[1]], config=lambda found: change(found, "rootfs.diff_ids.1", diff_id))
    )
    refused(tmp_path / "other", capsys, "diff id", code=(4,))


@pytest.mark.parametrize("what", ["blob", "index.json"])
def test_a_pipe_in_a_layout_is_refused(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Made(recipe(tmp_path) / "base")
    made.write(made.image(GOOD))
    path = blob_of(made, GOOD[1]) if what == "blob" else made.path / "index.json"
    path.unlink()
    os.mkfifo(path)
    refused(tmp_path, capsys, "not a regular file")


def test_two_diff_ids_for_one_layer_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Made(recipe(tmp_path) / "base")
    made.write(
        made.image(
            [GOOD[0], GOOD[1], GOOD[0]],
            config=lambda found: change(found, "rootfs.diff_ids.2", OTHER),
        )
    )
    refused(tmp_path, capsys, code=(2, 4))


OTHER_LAYERS: dict[str, tuple[Callable[[bytes], bytes], str, str]] = {
    "xz": (lzma.compress, LAYER, "compressed with xz"),
    "bzip2": (bz2.compress, LAYER, "compressed with bzip2"),
    "encrypted": (bytes, f"{LAYER}+gzip+encrypted", "encrypted layers"),
}


@pytest.mark.parametrize("kind", OTHER_LAYERS)
def test_a_layer_that_containerd_does_not_unpack_is_named(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack, media_type, words = OTHER_LAYERS[kind]
    made = Made(recipe(tmp_path) / "base")
    document = json.loads(made.blobs[made.image(GOOD)["digest"][7:]])
    document["layers"][1] = made.put(pack(GOOD[1]), media_type)
    made.write(made.json(document, "application/vnd.oci.image.manifest.v1+json"))
    refused(tmp_path, capsys, words)


def test_a_plain_layer_of_garbage_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for data in (os.urandom(2048), b"\x1f\x8b" + os.urandom(100), b"\x28\xb5\x2f\xfd" + os.urandom(100)):
        name = hashlib.sha256(data).hexdigest()[:8]
        made = Made(recipe(tmp_path / name) / "base")
        document = json.loads(made.blobs[made.image(GOOD)["digest"][7:]])
        document["layers"][0] = made.put(data, LAYER)
        made.write(made.json(document, "application/vnd.oci.image.manifest.v1+json"))
        refused(tmp_path / name, capsys)


# --- RECORD ---------------------------------------------------------------------------------------------------------


def with_record(tmp_path: Path, capsys: Any, extra: str, *, newline: str = "\n") -> Outcome:
    items = [*package(), Item(f"{ROOT}/vllm/a\u2028b.py", b""), Item(f"{ROOT}/vllm/a\nb.py", b"")]
    record = items.pop(4)
    text = (record.data.decode() + extra).replace("\n", newline)
    made = Made(recipe(tmp_path) / "base")
    made.write(made.image([GOOD[0], layer(*items, Item(record.name, text.encode()))]))
    return build(tmp_path, capsys)


@pytest.mark.parametrize(
    "extra",
    [f"{'x' * 200_000},,\n", '"vllm/a\nb.py",,\n', "vllm/a\u2028b.py,,\n", "vllm/a\x0cb.py,,\n", "vllm/\x85.py,,\n", '"a,b",,1\n', "\n"],
    ids=["long field", "quoted line ending", "line separator", "form feed", "next line", "comma", "empty line"],
)  # fmt: skip
def test_record_is_read_as_the_wheel_standard_says(
    extra: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = with_record(tmp_path, capsys, extra)
    assert outcome.code == 0, outcome.message
    from tests.support.bases import PATCHED, built_layer, record_line

    found = built_layer(tmp_path, outcome)[f"{ROOT}/vllm-0.0.1.dist-info/RECORD"]
    assert isinstance(found, bytes)
    assert record_line("vllm/a.py", PATCHED) in found.decode()
    assert record_line("vllm/a.py", SOURCE) not in found.decode()
    if extra.strip():
        assert found.decode().endswith(extra)


@pytest.mark.parametrize(
    "extra", ['"vllm/never closed', "vllm/\ud800".encode("utf-8", "surrogatepass").decode("latin-1")]
)
def test_a_record_that_cannot_be_read_is_refused_or_kept(
    extra: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert with_record(tmp_path, capsys, extra).code in (0, 2)


def test_a_record_that_is_not_text_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    items = package()
    made = Made(recipe(tmp_path) / "base")
    made.write(made.image([GOOD[0], layer(*items[:-1], Item(items[-1].name, items[-1].data + b"\xff,,\n"))]))
    refused(tmp_path, capsys, "not UTF-8")


@pytest.mark.parametrize(
    "kind", ["blobs is a file", "blob is a folder", "blob is a circle of links", "index.json is a folder", "no blobs"]
)
def test_a_layout_of_other_things_is_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Made(recipe(tmp_path) / "base")
    made.write(made.image(GOOD))
    blob = blob_of(made, GOOD[1])
    if kind == "blob is a folder":
        blob.unlink()
        blob.mkdir()
    elif kind == "blob is a circle of links":
        blob.unlink()
        blob.symlink_to(blob)
    elif kind == "index.json is a folder":
        (made.path / "index.json").unlink()
        (made.path / "index.json").mkdir()
    else:
        shutil.rmtree(made.path / "blobs")
        if kind == "blobs is a file":
            (made.path / "blobs").write_bytes(b"")
    refused(tmp_path, capsys)


def test_a_layer_that_is_a_link_to_a_file_elsewhere_is_checked_and_copied_as_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Made(recipe(tmp_path) / "base")
    made.write(made.image(GOOD))
    blob = blob_of(made, GOOD[1])
    blob.rename(tmp_path / "elsewhere")
    blob.symlink_to(tmp_path / "elsewhere")
    assert build(tmp_path, capsys).code == 0
    linked = tmp_path / "dist/r/blobs/sha256" / blob.name
    assert linked.is_file()
    assert not linked.is_symlink()


def test_an_archive_is_not_a_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe(tmp_path)
    (tmp_path / "base").write_bytes(layer(*PYTHON))
    outcome = refused(tmp_path, capsys, "is a file")
    assert "skopeo copy oci-archive:" in outcome.document["error"]["hint"]
