"""The checkpoint digest: the same from this tool and from coreutils, whatever lies beside the checkpoint."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from builder.checkpoint.digest import combine, digest_directory
from builder.console import Console
from builder.errors import InputError
from tests.support.cli import builder

DOCS = Path(__file__).parents[2] / "docs/checkpoint.md"
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


def shell(folder: Path) -> str:
    """The documented command, run as it is written."""
    match = re.search(r"```sh\n(.+?)\n```", DOCS.read_text())
    assert match is not None
    done = subprocess.run(["sh", "-c", match[1]], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.split()[0]


def test_coreutils_give_the_same_digest(tmp_path: Path) -> None:
    folder = make(tmp_path / "c", {**FILES, **BESIDE})
    found = digest_directory(folder, console=Console())
    assert found.digest == shell(folder)
    assert [path for path, _, _ in found.files] == sorted(FILES, key=str.encode)
    assert digest_directory(make(tmp_path / "plain", FILES), console=Console()).digest == found.digest


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
        digest_directory(snapshot, console=Console()).digest
        == digest_directory(plain, console=Console()).digest
        == shell(snapshot)
    )


def test_any_change_changes_the_digest(tmp_path: Path) -> None:
    reference = digest_directory(make(tmp_path / "0", FILES), console=Console())
    changes = [
        {**FILES, "config.json": b"{ }"},
        {**FILES, "more.json": b""},
        {name: data for name, data in FILES.items() if name != "config.json"},
        {("moved.json" if name == "config.json" else name): data for name, data in FILES.items()},
    ]
    for number, files in enumerate(changes, 1):
        assert digest_directory(make(tmp_path / str(number), files), console=Console()).digest != reference.digest
    assert combine(reversed(reference.files)).digest == reference.digest


def test_an_lfs_pointer_an_empty_folder_and_an_unreadable_link_are_refused(tmp_path: Path) -> None:
    pointer = make(
        tmp_path / "p", {"m.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"}
    )
    with pytest.raises(InputError, match="git-LFS pointer"):
        digest_directory(pointer, console=Console())
    with pytest.raises(InputError, match="holds no checkpoint"):
        digest_directory(make(tmp_path / "e", {"README.md": b""}), console=Console())
    broken = make(tmp_path / "b", {"config.json": b""})
    (broken / "gone.safetensors").symlink_to("nowhere")
    with pytest.raises(InputError, match="cannot read gone"):
        digest_directory(broken, console=Console())


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
