"""Sparse files in a layer: what GNU tar writes in the PAX format is read as Go's `archive/tar` reads it."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest

from builder.base.sparse import Sparse, sparse_of
from builder.base.tarstream import TarError, TarReader


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_a_sparse_file_is_the_file_that_it_was(version: str, tmp_path: Path) -> None:
    path = tmp_path / ("d" * 90) / ("s" * 90)
    path.parent.mkdir()
    with path.open("wb") as stream:
        for at in range(40):
            stream.seek(at << 17)
            stream.write(b"%d\n" % at)
        stream.truncate(6 << 20)
    (tmp_path / "z").write_bytes(b"after")
    tar = subprocess.run(
        ["tar", "-C", str(tmp_path), "--format=posix", "-S", f"--sparse-version={version}", "-cf", "-", "z", path.parent.name],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    if len(tar) > path.stat().st_size:
        pytest.skip("the file system has no holes")
    reader = TarReader(io.BytesIO(tar))
    found = {member.name: reader.content() for member in reader if member.kind == "file"}
    assert found == {"z": b"after", f"{'d' * 90}/{'s' * 90}": path.read_bytes()}
    skipped = [member.name for member in TarReader(io.BytesIO(tar))]
    assert len(skipped) == 3


@pytest.mark.parametrize(
    ("records", "stored"),
    [
        ({"major": "2", "minor": "0", "realsize": "9"}, b""),
        ({"map": "0,4", "size": "9"}, b"abc"),
        ({"map": "0,4", "size": "3"}, b"abcd"),
        ({"map": "4,2,0,2", "size": "9"}, b"abcd"),
        ({"map": "0,4,5", "size": "9"}, b"abcd"),
        ({"map": "0,-1", "size": "9"}, b""),
        ({"map": "0,1"}, b"a"),
        ({"major": "1", "minor": "0", "realsize": "9"}, b"1\n0\n"),
        ({"major": "1", "minor": "0", "realsize": "9"}, b"99999999\n"),
        ({"major": "1", "minor": "0", "realsize": "9"}, b"x\n"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(records: dict[str, str], stored: bytes) -> None:
    with pytest.raises(ValueError, match="sparse file"):
        sparse_of({f"GNU.sparse.{key}": text for key, text in records.items()}).expand(stored)  # type: ignore[union-attr]


def test_only_files_are_sparse() -> None:
    assert sparse_of({"path": "x"}) is None
    assert Sparse("", 4, ((1, 2),)).expand(b"ab") == b"\0ab\0"
    record = b"GNU.sparse.size=4\n"
    data = b"%d %b" % (len(record) + 3, record)
    from tests.base.test_hostile import header

    tar = header("x", b"%011o\0" % len(data), b"x") + data.ljust(512, b"\0") + header("usr", b"%011o\0" % 0, b"5")
    with pytest.raises(TarError, match="called a sparse file"):
        list(TarReader(io.BytesIO(tar)))
