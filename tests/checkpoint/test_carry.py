"""How the other files come over: shared by reflink where the file system can, by hard link, or copied."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from builder.checkpoint.digest import digest_directory
from builder.checkpoint.quantize.run import quantize
from builder.util.context import Context
from tests.support.checkpoints import make_checkpoint, make_qwen, qwen_shards
from tests.support.services import leave_out, require_root

SILENT = Context()


def mounted(folder: Path, *arguments: str) -> Iterator[Path]:
    require_root()
    folder.mkdir()
    done = subprocess.run(["mount", *arguments, str(folder)], check=False, capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"cannot mount {' '.join(arguments)} here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    """A small file system that knows reflinks."""
    mkfs = shutil.which("mkfs.btrfs", path="/usr/sbin:/sbin:/usr/bin")
    if mkfs is None:
        leave_out("needs mkfs.btrfs, from Debian's btrfs-progs")
    with (tmp_path / "disk.img").open("wb") as stream:
        stream.truncate(300 << 20)
    subprocess.run([mkfs, "-q", str(tmp_path / "disk.img")], check=True)
    yield from mounted(tmp_path / "disk", "-o", "loop", str(tmp_path / "disk.img"))


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "other", "-t", "tmpfs", "-o", "size=16m", "tmpfs")


def extents(path: Path) -> str:
    return subprocess.run(["filefrag", "-v", str(path)], check=True, capture_output=True, text=True).stdout


def test_reflinks_share_the_bytes_and_no_edit_is_shared(tmp_path: Path, btrfs: Path) -> None:
    source = make_checkpoint(btrfs / "source", qwen_shards(rows=1000, cols=1280))
    plain = make_checkpoint(tmp_path / "source", qwen_shards(rows=1000, cols=1280))
    made = quantize(source, btrfs / "dest", context=SILENT)
    assert made.way == "reflink"
    assert made.target.digest == quantize(plain, tmp_path / "dest", context=SILENT, copy=True).target.digest
    assert "shared" in extents(btrfs / "dest/layers-0.safetensors")
    assert "shared" not in extents(btrfs / "dest/outside.safetensors")
    with (btrfs / "dest/layers-0.safetensors").open("r+b") as stream:
        stream.write(b"?")
    assert digest_directory(source, context=SILENT, cache=False).digest == made.source.digest
    copied = quantize(source, btrfs / "copy", context=SILENT, copy=True)
    assert (copied.way, copied.target.digest) == ("copy", made.target.digest)
    subprocess.run(["sync", "-f", str(btrfs)], check=True)
    assert "shared" not in extents(btrfs / "copy/layers-1.safetensors")


def test_a_shard_that_is_a_link_to_another_disk_is_copied(tmp_path: Path, other_disk: Path) -> None:
    source = make_qwen(tmp_path / "source")
    shutil.move(source / "layers-0.safetensors", other_disk / "blob")
    (source / "layers-0.safetensors").symlink_to(other_disk / "blob")
    made = quantize(source, tmp_path / "dest", context=SILENT)
    assert made.target.digest == digest_directory(tmp_path / "dest", context=SILENT, cache=False).digest
    carried = tmp_path / "dest/layers-0.safetensors"
    assert not carried.is_symlink()
    assert (carried.stat().st_nlink, carried.read_bytes()) == (1, (other_disk / "blob").read_bytes())
    if made.way == "hardlink":
        assert (tmp_path / "dest/layers-1.safetensors").stat().st_nlink == 2


def test_a_source_of_links_as_the_hub_keeps_it_becomes_plain_files(tmp_path: Path) -> None:
    plain = make_qwen(tmp_path / "plain")
    (tmp_path / "blobs").mkdir()
    snapshot = tmp_path / "snapshots/commit"
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(plain.iterdir())):
        shutil.copy(path, tmp_path / f"blobs/{number}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    # A folder beside it that a server reads too, and one that leads back.
    (snapshot / "extra").symlink_to(tmp_path / "blobs-of-more")
    (tmp_path / "blobs-of-more/sub").mkdir(parents=True)
    (tmp_path / "blobs-of-more/sub/vocab.json").write_text("{}")
    (tmp_path / "blobs-of-more/sub/up").symlink_to("..")
    made = quantize(snapshot, tmp_path / "dest", context=SILENT)
    assert not any(path.is_symlink() for path in (tmp_path / "dest").rglob("*"))
    assert (tmp_path / "dest/extra/sub/vocab.json").read_text() == "{}"
    assert made.target.digest == digest_directory(tmp_path / "dest", context=SILENT, cache=False).digest
