"""Reading a package out of layers: later ones win, whiteouts remove, links are not followed, hostile tars are refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.base.filter import Filter
from builder.base.layers import scan
from builder.base.open import open_base
from builder.base.snapshot import Snapshot
from builder.base.tree import LayeredTree
from builder.documents.reference import BaseReference
from builder.oci.blobs import LayerStream
from builder.oci.document import read_config
from builder.oci.types import OCI_LAYER, Descriptor
from builder.util.context import Context
from builder.util.errors import BuilderError, InputError
from builder.util.files import cache_dir
from tests.support.bases import LINUX_AMD64
from tests.support.standin import tar_of, write_layout

ROOT = "usr/local/lib/python3.12/dist-packages"
INFO = "vllm-0.0.1.dist-info"
PACKAGE = {
    f"{ROOT}/vllm/__init__.py": b"",
    f"{ROOT}/vllm/a.py": b"a = 1\n",
    f"{ROOT}/vllm/b.py": b"b = 1\n",
    f"{ROOT}/vllm/sub/c.py": b"c = 1\n",
    f"{ROOT}/vllm/__pycache__/a.cpython-312.pyc": b"old",
    f"{ROOT}/vllm/lib.so": b"\x7fELF",
    f"{ROOT}/{INFO}/METADATA": b"Name: vllm\n",
    f"{ROOT}/{INFO}/RECORD": b"vllm/__init__.py,,\nvllm/a.py,,\nvllm/b.py,,\nvllm/sub/c.py,,\nvllm/lib.so,,\n",
}
BOTTOM = tar_of({"usr/bin/python3": b"#!", "opt/tool/x": b"x", "etc/hosts": b""})


def tree(tmp_path: Path, layers: list[bytes], compress: str = "gzip", config: dict[str, object] | None = None):  # type: ignore[no-untyped-def]
    write_layout(tmp_path / "base", layers, compress=compress, config=config)
    return open_base(BaseReference.parse("oci:base"), root=tmp_path, context=Context()).tree(LINUX_AMD64, "vllm")


@pytest.mark.parametrize("compress", ["gzip", "zstd", ""])
def test_the_package_is_found_and_read(tmp_path: Path, compress: str) -> None:
    found = tree(tmp_path, [BOTTOM, tar_of(PACKAGE)], compress)
    assert (found.root, found.python) == (ROOT, "3.12")
    assert (found.distribution.name, found.distribution.version) == ("vllm", "0.0.1")
    assert found.read(["vllm/a.py", "vllm/none.py"])["vllm/a.py"].data == b"a = 1\n"
    assert "vllm/none.py" not in found.read(["vllm/none.py"])
    assert found.children("vllm/__pycache__") == {"a.cpython-312.pyc": "file"}
    assert found.outside(["opt", "opt/builder"]).keys() == {"opt"}
    with pytest.raises(InputError, match="not a text file"):
        found.read(["vllm/lib.so"])


def test_later_layers_win_and_whiteouts_remove(tmp_path: Path) -> None:
    layers = [
        BOTTOM,
        tar_of({**PACKAGE, f"{ROOT}/vllm/below.py": b"x"}),
        tar_of({f"{ROOT}/vllm/a.py": b"a = 2\n", f"{ROOT}/vllm/.wh.b.py": b"", f"{ROOT}/vllm/sub/.wh..wh..opq": b""}),
        tar_of({f"{ROOT}/vllm/sub/d.py": b"d = 1\n"}),
    ]
    found = tree(tmp_path, layers)
    read = found.read(["vllm/a.py", "vllm/b.py", "vllm/sub/c.py", "vllm/sub/d.py"])
    assert {path: entry.data for path, entry in read.items()} == {"vllm/a.py": b"a = 2\n", "vllm/sub/d.py": b"d = 1\n"}


def test_nothing_is_read_through_a_link(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo(f"{ROOT}/vllm/sub")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        archive.addfile(link)
    found = tree(tmp_path, [BOTTOM, tar_of(PACKAGE), buffer.getvalue()])
    read = found.read(["vllm/sub/c.py"])
    assert read.keys() == {"vllm/sub"}
    assert (read["vllm/sub"].kind, read["vllm/sub"].target) == ("symlink", "/etc")


def stream_of(data: bytes) -> LayerStream:
    return LayerStream(io.BufferedReader(io.BytesIO(data)), len(data))


def test_a_hard_link_is_the_file_that_it_names(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, data in PACKAGE.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo(f"{ROOT}/vllm/linked.py")
        link.type, link.linkname = tarfile.LNKTYPE, f"{ROOT}/vllm/a.py"
        archive.addfile(link)
    assert tree(tmp_path, [BOTTOM, buffer.getvalue()]).read(["vllm/linked.py"])["vllm/linked.py"].data == b"a = 1\n"


def lazily(layers: list[bytes], taken: list[str], env: list[str]) -> LayeredTree:
    """The tree over layers that are not on disk, such as a registry's; `taken` gets the name of each that is read."""
    known = {f"sha256:{hashlib.sha256(data).hexdigest()}": data for data in layers}
    config = {
        "architecture": "amd64", "os": "linux", "config": {"Env": env},
        "rootfs": {"type": "layers", "diff_ids": list(known)},
    }  # fmt: skip

    def read(descriptor: Descriptor, wanted: Filter, diff_id: str | None) -> Snapshot:
        taken.append(descriptor.digest)
        return scan(stream_of(known[descriptor.digest]), wanted)

    descriptors = [Descriptor(OCI_LAYER, digest, len(data)) for digest, data in known.items()]
    return LayeredTree(descriptors, read_config(json.dumps(config).encode(), "config"), "vllm", read, "base")


@pytest.mark.parametrize(
    ("env", "count"),
    [(["PATH=/usr/local/bin:/usr/bin"], 2), ([], 2), (["PATH=/opt/venv/bin:/usr/bin"], 3), (["PYTHONPATH=/srv"], 3)],
)
def test_layers_below_the_package_are_read_only_where_python_may_look_elsewhere(env: list[str], count: int) -> None:
    taken: list[str] = []
    found = lazily([BOTTOM, tar_of({"big": b"x" * 100}), tar_of(PACKAGE)], taken, env)
    assert found.read(["vllm/a.py", "vllm/new.py"]).keys() == {"vllm/a.py"}
    assert found.outside(["opt"]).keys() == {"opt"}
    assert len(set(taken)) == count


def test_a_cached_index_is_bound_to_its_layer_and_to_its_own_bytes(tmp_path: Path) -> None:
    cache = cache_dir("layers")
    tree(tmp_path / "1", [BOTTOM, tar_of(PACKAGE)])
    paths = sorted(cache.iterdir())
    other = tar_of({**PACKAGE, f"{ROOT}/vllm/a.py": b"a = 666\n"})
    tree(tmp_path / "2", [BOTTOM, other])
    (evil,) = set(cache.iterdir()) - set(paths)
    mine = max(paths, key=lambda path: path.stat().st_size)
    mine.write_bytes(evil.read_bytes())
    shutil.rmtree(tmp_path / "1")
    assert tree(tmp_path / "1", [BOTTOM, tar_of(PACKAGE)]).read(["vllm/a.py"])["vllm/a.py"].data == b"a = 1\n"
    damaged = bytearray(mine.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    mine.write_bytes(bytes(damaged))
    shutil.rmtree(tmp_path / "1")
    assert tree(tmp_path / "1", [BOTTOM, tar_of(PACKAGE)]).read(["vllm/a.py"])["vllm/a.py"].data == b"a = 1\n"


def test_a_layer_that_did_not_arrive_whole_is_not_kept(tmp_path: Path) -> None:
    write_layout(tmp_path / "base", [BOTTOM, tar_of(PACKAGE)], compress="")
    manifest = next(
        json.loads(path.read_bytes())
        for path in (tmp_path / "base/blobs/sha256").iterdir()
        if b'"schemaVersion"' in path.read_bytes()
    )
    blob = tmp_path / "base/blobs/sha256" / manifest["layers"][1]["digest"][7:]
    data = blob.read_bytes()
    blob.write_bytes(data.replace(b"a = 1\n", b"a = 9\n"))
    with pytest.raises(BuilderError, match="did not arrive whole"):
        open_base(BaseReference.parse("oci:base"), root=tmp_path, context=Context()).tree(LINUX_AMD64, "vllm").read(
            ["vllm/a.py"]
        )
    blob.write_bytes(data)
    assert (
        open_base(BaseReference.parse("oci:base"), root=tmp_path, context=Context())
        .tree(LINUX_AMD64, "vllm")
        .read(["vllm/a.py"])["vllm/a.py"]
        .data
        == b"a = 1\n"
    )


@pytest.mark.parametrize("name", ["../etc/passwd", "usr/../../x", "a/../../../b"])
def test_a_name_that_leaves_the_tree_is_refused(name: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(InputError, match="leaves the tree"):
        scan(stream_of(buffer.getvalue()), Filter("vllm"))


SOUND = {"plain": tar_of(PACKAGE), "gzip": gzip.compress(tar_of(PACKAGE), mtime=0)}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(SOUND)), st.data())
def test_a_damaged_layer_is_read_or_refused(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(SOUND[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del damaged[data.draw(st.integers(0, len(damaged))) :]
    try:
        found = scan(stream_of(bytes(damaged)), Filter("vllm"))
    except InputError:
        return
    for digest, content in found.contents.items():
        assert hashlib.sha256(content).hexdigest() == digest
