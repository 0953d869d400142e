"""A wheel is read whole once and checked against the index's digest; a member read by range proves itself by that."""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from builder.base.wheel import WheelTree
from builder.base.wheel_archive import WheelLink
from builder.documents.lock import read_lock
from builder.util.files import cache_dir, file_sha256
from tests.support.bases import command
from tests.support.smallwheel import FILES, make_project, make_wheel

DIFF = b"--- a/vllm/config.py\n+++ b/vllm/config.py\n@@ -1,2 +1,2 @@\n-option_00 = 0\n+option_00 = 1\n option_01 = 1\n"
NAME = "vllm-0.0.1-py3-none-any.whl"
# A member that ranges need not touch: the whole is much more than its parts.
LARGE = {**FILES, "vllm/data.bin": b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(40_000))}


class Index:
    """A package index with one wheel. What it sends for the whole and for ranges can differ from what it promises."""

    def __init__(self, wheel: bytes, digest: str) -> None:
        self.digest = digest
        self.whole = self.ranged = wheel
        self.wholes = self.ranges = self.sent = 0
        self.parts = True
        """Whether ranges are given."""
        self.meeting: threading.Barrier | None = None
        """Where ranges wait for each other."""


@contextmanager
def serving(index: Index) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            if not self.path.endswith(".whl"):
                page = f'<!DOCTYPE html><a href="/{NAME}#sha256={index.digest}">{NAME}</a>'.encode()
                self.reply(200, page, {"Content-Type": "text/html"})
                return
            wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if wanted is None or not index.parts:
                index.wholes += 1
                index.sent += len(index.whole)
                self.reply(200, index.whole, {})
                return
            index.ranges += 1
            if index.meeting is not None:
                index.meeting.wait(30)
            size = len(index.ranged)
            first = int(wanted[1]) if wanted[1] else max(0, size - int(wanted[2]))
            last = min(int(wanted[2]) if wanted[1] and wanted[2] else size - 1, size - 1)
            index.sent += last - first + 1
            found = {"Content-Range": f"bytes {first}-{last}/{size}"}
            self.reply(206, index.ranged[first : last + 1], found)

        def reply(self, status: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, text in {**headers, "Content-Length": str(len(data)), "Accept-Ranges": "bytes"}.items():
                self.send_header(key, text)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/simple"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    path = make_wheel(tmp_path / "index" / NAME, LARGE)
    found = Index(path.read_bytes(), file_sha256(path))
    with serving(found) as address:
        monkeypatch.setenv("PIP_INDEX_URL", address)
        yield found


def project(tmp_path: Path) -> Path:
    return make_project(tmp_path / "project", {"one.diff": DIFF}, base="wheel:vllm==0.0.1")


def other_wheel(tmp_path: Path) -> bytes:
    """A sound wheel with other content, whose RECORD agrees with it."""
    files = {**LARGE, "vllm/config.py": FILES["vllm/config.py"] + b"import os; os.system('true')\n"}
    return make_wheel(tmp_path / "evil" / NAME, files).read_bytes()


def test_lock_reads_the_whole_wheel_once_and_a_second_lock_nothing(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = project(tmp_path)
    assert command(root, capsys, "lock", "small").code == 0
    assert index.wholes == 1
    lock = root / "images/small.lock.yaml"
    assert "trust_ranges" not in lock.read_text()
    sent = index.sent
    again = make_project(tmp_path / "again", {"one.diff": DIFF}, base="wheel:vllm==0.0.1")
    assert command(again, capsys, "lock", "small").code == 0
    assert command(root, capsys, "lock", "small", "--check").code == 0
    assert command(again, capsys, "lock", "small", "--offline").code == 0
    assert index.sent == sent
    assert (again / "images/small.lock.yaml").read_bytes() == lock.read_bytes()


def test_a_build_with_a_lock_reads_what_it_needs_by_range(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project(tmp_path)
    assert command(root, capsys, "lock", "small").code == 0
    monkeypatch.setenv("BUILDER_CACHE_DIR", str(tmp_path / "fresh"))
    index.wholes = index.ranges = index.sent = 0
    assert command(root, capsys, "build", "small", "--engine", "oci").code == 0
    assert index.wholes == 0
    assert 0 < index.sent < len(index.whole)
    # Its last bytes, which have the list of members and RECORD, and the file that the overlay changes.
    assert index.ranges == 2


def test_an_index_without_ranges_is_read_whole_once_and_says_so(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = project(tmp_path)
    assert command(root, capsys, "lock", "small").code == 0
    monkeypatch.setenv("BUILDER_CACHE_DIR", str(tmp_path / "fresh"))
    index.parts, index.wholes = False, 0
    done = command(root, capsys, "check", "small")
    assert done.code == 0, done.err
    assert f"reading {NAME}" in done.err
    assert "127.0.0.1 gives no parts of it" in done.err
    # The range that was refused, and the wheel itself.
    assert index.wholes == 2


def test_another_wheel_under_the_honest_digest_is_not_locked(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = project(tmp_path)
    index.whole = index.ranged = other_wheel(tmp_path)
    outcome = command(root, capsys, "lock", "small")
    assert outcome.code == 4, outcome.message
    assert index.digest in outcome.message
    assert not (root / "images/small.lock.yaml").exists()
    assert list(cache_dir("checked").iterdir()) == []
    assert [path.name for path in cache_dir("wheels").iterdir() if path.suffix != ".json"] == []


def test_a_server_that_gives_other_ranges_than_the_whole_is_found_out(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = project(tmp_path)
    index.ranged = other_wheel(tmp_path)
    outcome = command(root, capsys, "lock", "small")
    assert outcome.code == 4, outcome.message
    assert "RECORD" in outcome.message
    assert not (root / "images/small.lock.yaml").exists()


def test_trusted_ranges_are_said_by_the_lock(index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = project(tmp_path)
    trusting = command(root, capsys, "lock", "small", "--trust-ranges")
    assert trusting.code == 0
    assert index.wholes == 0
    assert read_lock(root / "images/small.lock.yaml").base.trust_ranges
    checked = command(root, capsys, "lock", "small")
    assert index.wholes == 1
    assert not read_lock(root / "images/small.lock.yaml").base.trust_ranges
    assert trusting.document["inputs"] != checked.document["inputs"]


def test_what_is_remembered_of_a_wheel_is_bound_to_it(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fact about another wheel, or a damaged one, is no fact: the wheel is read again."""
    root = project(tmp_path)
    assert command(root, capsys, "lock", "small").code == 0
    (fact,) = cache_dir("checked").glob("wheel-*.json")
    data = fact.read_bytes()
    for wrong in (data[:-5], data.replace(b"vllm/config.py", b"vllm/konfig.py"), b"", b"{}", b"\xff" * 80):
        fact.write_bytes(wrong)
        index.wholes = 0
        assert command(root, capsys, "lock", "small", "--check").code == 0
        assert index.wholes == 1
        assert fact.read_bytes() == data
    fact.rename(fact.with_name(f"wheel-{'0' * 64}.json"))
    assert command(root, capsys, "lock", "small", "--check").code == 0
    assert index.wholes == 2


def test_offline_a_wheel_that_was_not_checked_is_refused(
    index: Index, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = project(tmp_path)
    assert command(root, capsys, "lock", "small").code == 0
    shutil.rmtree(cache_dir("checked"))
    outcome = command(root, capsys, "lock", "small", "--offline")
    assert outcome.code == 2
    assert "not checked" in outcome.message


@pytest.mark.parametrize(
    "kind", ["no zip", "truncated", "no RECORD", "repeated member", "member that is not in RECORD"]
)
def test_a_wheel_that_is_none_is_refused(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_project(tmp_path, {"one.diff": DIFF})
    path = root / NAME
    data = path.read_bytes()
    if kind == "no zip":
        path.write_bytes(b"<html>")
    elif kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        import zipfile

        with zipfile.ZipFile(path) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        record = next(name for name in members if name.endswith("RECORD"))
        if kind == "no RECORD":
            del members[record]
        if kind == "member that is not in RECORD":
            members[record] = re.sub(rb"vllm/config.py,[^\n]*\n", b"", members[record])
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
            if kind == "repeated member":
                with pytest.warns(UserWarning, match="Duplicate"):
                    archive.writestr("vllm/config.py", b"evil = 1\n")
    outcome = command(root, capsys, "lock", "small")
    assert outcome.code in (2, 4), outcome.message
    assert not (root / "images/small.lock.yaml").exists()


def test_members_that_are_near_to_each_other_come_with_one_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDER_CACHE_DIR", str(tmp_path / "cache"))
    noise = hashlib.shake_256(b"noise").digest(300_000)
    # In the archive's order: ten small files, one that is large, ten small ones, one large, and so on.
    files = {"vllm/__init__.py": b""}
    for part in range(4):
        files |= {f"vllm/part{part}/{number}.py": b"x = %d\n" % number * 50 for number in range(10)}
        files |= {f"vllm/part{part}/large.bin": noise[part:]}
    data = make_wheel(tmp_path / NAME, files).read_bytes()
    index = Index(data, hashlib.sha256(data).hexdigest())
    wanted = [path for path in files if path.endswith(".py") and "/part1/" not in path]
    with serving(index) as address:
        link = WheelLink(address.replace("/simple", f"/{NAME}"), NAME, index.digest)
        tree = WheelTree(link, "vllm")
        assert tree.has("vllm")
        index.ranges = index.sent = 0
        # All of them are on their way at once: none is given before the others have come.
        index.meeting = threading.Barrier(3)
        # Whatever the order in which they are asked for.
        found = tree.read(list(reversed(wanted)))
    assert {path: each.data for path, each in found.items()} == {path: files[path] for path in wanted}
    # The archive's list was read before, and is not read again: one range for each of three places.
    assert index.ranges == 3
    assert index.sent < 100_000
