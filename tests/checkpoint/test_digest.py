"""The checkpoint digest: the same from this tool and from coreutils, whatever lies beside the checkpoint."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import builder.checkpoint.digest as digest_module
from builder.checkpoint.digest import combine, digest_directory
from builder.checkpoint.regular import open_regular
from builder.serve import entrypoint
from builder.util.context import Context
from builder.util.errors import InputError
from tests.support.cli import builder, builder_peak

DOCS = Path(__file__).parents[2] / "docs/checkpoint.md"
# The entrypoint has no types: it is written for any Python 3.
SERVE: Any = entrypoint
FILES = {
    "config.json": b"{}",
    "layers-0.safetensors": b"0" * 100_000,
    "layers-10.safetensors": b"1" * 100,
    "sub/tokenizer.json": b"t",
    "sub-x/a b.json": b"space",
    "žluť.txt": b"utf-8",
}
BESIDE = {
    "README.md": b"x", "LICENSE": b"x", "LICENSE.txt": b"x", ".gitattributes": b"x", ".cache/huggingface/x": b"x",
    ".git/config": b"x", "__pycache__/m.pyc": b"x", "sub/.hidden": b"x",
}  # fmt: skip


def make(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def run_shell(folder: Path) -> subprocess.CompletedProcess[str]:
    """The documented command, run as it is written."""
    match = re.search(r"```sh\n(.+?)\n```", DOCS.read_text())
    assert match is not None
    return subprocess.run(["sh", "-c", match[1]], cwd=folder, capture_output=True, text=True, check=True)


def shell(folder: Path) -> str:
    return run_shell(folder).stdout.split()[0]


def by_entrypoint(folder: Path) -> str:
    """The digest that the entrypoint of an image finds, which has no part of this tool in it."""
    found = SERVE.served_files(str(folder))
    assert {path: size for path, size in found.items() if not isinstance(size, int)} == {}
    return str(SERVE.combined({path: SERVE.digest_of(folder / path) for path in found}))


def test_coreutils_give_the_same_digest(tmp_path: Path) -> None:
    folder = make(tmp_path / "c", {**FILES, **BESIDE})
    found = digest_directory(folder, context=Context())
    assert found.digest == shell(folder) == by_entrypoint(folder)
    assert [path for path, _, _ in found.files] == sorted(FILES, key=str.encode)
    assert digest_directory(make(tmp_path / "plain", FILES), context=Context()).digest == found.digest


def test_the_hubs_cache_of_links_is_read_through(tmp_path: Path) -> None:
    plain = make(tmp_path / "plain", FILES)
    blobs = tmp_path / "hub/blobs"
    blobs.mkdir(parents=True)
    snapshot = tmp_path / "hub/snapshots/commit"
    for number, (name, data) in enumerate(FILES.items()):
        (blobs / str(number)).write_bytes(data)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / name).symlink_to(blobs / str(number))
    assert (
        digest_directory(snapshot, context=Context()).digest
        == digest_directory(plain, context=Context()).digest
        == shell(snapshot)
        == by_entrypoint(snapshot)
    )


def test_links_and_names_of_every_kind_are_read_as_the_shell_reads_them(tmp_path: Path) -> None:
    strange = {
        "-r.json": b"1", "--": b"2", "back\\slash.json": b"3", "line\nbreak.json": b"4", "a\\\nb/c\\d.json": b"5", " ": b"6",
        "*.md.json": b"7", "LICENSE-dir/model.json": b"8", "x.md/y.json": b"9", "LICENSE-dir/LICENSE-2": b"not served",
    }  # fmt: skip
    folder = make(tmp_path / "c", FILES | BESIDE | strange)
    elsewhere = make(tmp_path / "elsewhere", {"deep/tensor.bin": b"t", "deep/.hidden": b"h", "note.md": b"n"})
    (folder / "linked").symlink_to(elsewhere)
    (folder / "again").symlink_to(elsewhere / "deep")
    (folder / ".hidden-link").symlink_to(elsewhere)
    (folder / "file-link.json").symlink_to("config.json")
    # Round and round: to itself, to its parent's parent, and from the other place back here.
    (folder / "sub/loop").symlink_to("..")
    (folder / "sub/self").symlink_to(".")
    (elsewhere / "back").symlink_to(folder)
    # As a file this name is left out too.
    (folder / "x.md/__pycache__").write_bytes(b"")
    found = digest_directory(folder, context=Context(), cache=False)
    assert found.digest == shell(folder) == by_entrypoint(folder)
    assert {path: size for path, _, size in found.files} == SERVE.served_files(str(folder))
    done = builder("checkpoint", "digest", str(folder), cwd=tmp_path)
    assert done.out.split() == [found.digest]
    paths = [path for path, _, _ in found.files]
    assert {"linked/deep/tensor.bin", "again/tensor.bin", "file-link.json", *FILES} < set(paths)
    assert len(paths) == len(FILES) + len(strange) - 1 + 3
    assert combine(found.files).digest == found.digest


def test_a_link_to_nowhere_is_an_error_here_and_in_the_shell(tmp_path: Path) -> None:
    folder = make(tmp_path / "c", FILES)
    (folder / "gone.safetensors").symlink_to("../blobs/0")
    with pytest.raises(InputError, match="cannot read gone"):
        digest_directory(folder, context=Context())
    assert "gone.safetensors: No such file" in run_shell(folder).stderr
    (folder / "gone.safetensors").unlink()
    (folder / "gone.md").symlink_to("nowhere")
    assert digest_directory(folder, context=Context()).digest == shell(folder) == by_entrypoint(folder)


@pytest.mark.parametrize("name", ["a\rb.json", "-", os.fsdecode(b"\xff.json")])
def test_a_name_whose_line_differs_between_machines_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="a file's name is"):
        digest_directory(make(tmp_path / "c", {name: b""}), context=Context())
    done = builder("checkpoint", "digest", str(tmp_path / "c"), "--json", cwd=tmp_path)
    assert done.code == 2, done.err


def test_pipes_sockets_and_folders_that_cannot_be_listed_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "c", FILES)
    os.mkfifo(folder / "sub/pipe.safetensors")
    with pytest.raises(InputError, match=r"sub/pipe\.safetensors is not a regular file"):
        digest_directory(folder, context=Context())
    (folder / "sub/pipe.safetensors").unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(folder)
        listening.bind("s.json")
        with pytest.raises(InputError, match=r"s\.json is not a regular file"):
            digest_directory(folder, context=Context())
    (folder / "s.json").unlink()
    scandir = os.scandir

    def refusing(path: Path) -> Any:
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refusing)
    with pytest.raises(InputError, match=r"cannot list .*sub: Permission denied"):
        digest_directory(folder, context=Context())


def test_a_file_that_becomes_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is not a file"):
        open_regular(tmp_path / "pipe")


def test_files_are_hashed_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.cpu_count() == 1:
        pytest.skip("one processor")
    both = threading.Barrier(2, timeout=60)

    def meeting(*arguments: Any) -> str:
        both.wait()
        return read_through(*arguments)

    read_through = digest_module._read_through
    monkeypatch.setattr(digest_module, "_read_through", meeting)
    found = digest_directory(make(tmp_path / "c", FILES), context=Context(), cache=False)
    assert found.digest == shell(tmp_path / "c")


def test_memory_stays_below_100_mb_whatever_the_files(tmp_path: Path) -> None:
    """Peak in kB, as the kernel counts it, of the command from its start; the files are holes."""
    for number in range(4):
        with (tmp_path / f"layers-{number}.safetensors").open("wb") as stream:
            stream.truncate(400 << 20)
    done, peak = builder_peak("checkpoint", "digest", str(tmp_path), "--no-cache", cwd=tmp_path)
    assert done.code == 0, done.err
    assert peak < 100_000
    assert done.out.split()[0] == shell(tmp_path)


def test_any_change_changes_the_digest(tmp_path: Path) -> None:
    reference = digest_directory(make(tmp_path / "0", FILES), context=Context())
    changes = [
        {**FILES, "config.json": b"{ }"},
        {**FILES, "more.json": b""},
        {name: data for name, data in FILES.items() if name != "config.json"},
        {("moved.json" if name == "config.json" else name): data for name, data in FILES.items()},
    ]
    for number, files in enumerate(changes, 1):
        assert digest_directory(make(tmp_path / str(number), files), context=Context()).digest != reference.digest
    assert combine(reversed(reference.files)).digest == reference.digest


def test_an_lfs_pointer_an_empty_folder_and_an_unreadable_link_are_refused(tmp_path: Path) -> None:
    pointer = make(
        tmp_path / "p", {"m.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"}
    )
    with pytest.raises(InputError, match="git-LFS pointer"):
        digest_directory(pointer, context=Context())
    with pytest.raises(InputError, match="holds no checkpoint"):
        digest_directory(make(tmp_path / "e", {"README.md": b""}), context=Context())
    broken = make(tmp_path / "b", {"config.json": b""})
    (broken / "gone.safetensors").symlink_to("nowhere")
    with pytest.raises(InputError, match="cannot read gone"):
        digest_directory(broken, context=Context())


def test_hashes_are_remembered_by_size_mtime_and_inode_and_can_be_forgotten(tmp_path: Path) -> None:
    folder = make(tmp_path / "c", FILES)
    old = time.time_ns() - 10**10
    for name in FILES:
        os.utime(folder / name, ns=(old, old))

    def digest(*options: str) -> str:
        done = builder("checkpoint", "digest", str(folder), *options, cwd=tmp_path)
        assert done.code == 0, done.err
        return done.out.strip()

    first = digest()
    # The same size and time: only the cache can miss this change, and only without --no-cache.
    with (folder / "layers-10.safetensors").open("r+b") as stream:
        stream.write(b"?")
    os.utime(folder / "layers-10.safetensors", ns=(old, old))
    assert digest() == first
    changed = digest("--no-cache")
    assert changed == shell(folder) != first
    # Another time, another size, another inode: each is read again.
    os.utime(folder / "layers-10.safetensors", ns=(old + 1, old + 1))
    assert digest() == changed
    other = make(tmp_path / "other", {"layers-10.safetensors": b"2" * 100})
    os.utime(other / "layers-10.safetensors", ns=(old + 1, old + 1))
    (other / "layers-10.safetensors").replace(folder / "layers-10.safetensors")
    assert digest() == shell(folder) not in (first, changed)
    # What was written a moment ago is not remembered.
    (folder / "config.json").write_bytes(b"[]")
    fresh = digest()
    stat = (folder / "config.json").stat()
    (folder / "config.json").write_bytes(b"{}")
    os.utime(folder / "config.json", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digest() == shell(folder) != fresh
