"""Safetensors headers: what the library takes is read alike, and what is unsound is refused with its reason."""

from __future__ import annotations

import contextlib
import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.checkpoint.header import HeaderError, make_header, parse_header, read_header
from tests.support.checkpoints import write_shard


def shard(path: Path, header: Any, data: bytes = b"", *, length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


def entry(begin: int, end: int, *, dtype: str = "U8", shape: list[Any] | None = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("header", "size", "reason"),
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "b overlaps a"),
        ({"a": entry(0, 8), "b": entry(0, 8)}, 8, "b overlaps a"),
        ({"a": entry(0, 8), "b": entry(9, 12)}, 12, "b leaves a hole behind a"),
        ({"a": entry(4, 8)}, 8, "hole behind the header"),
        ({"a": entry(0, 8)}, 7, "is truncated"),
        ({"a": entry(0, 8)}, 9, "bytes behind its last tensor"),
        ({"a": entry(0, 8, dtype="BF16", shape=[8])}, 8, "takes 16 bytes, its offsets span 8"),
        ({"a": entry(0, 8, dtype="F9")}, 8, "unknown dtype"),
        ({"a": entry(0, 1, dtype="F4", shape=[3])}, 1, "not a whole number of bytes"),
        ({"a": entry(0, 8, shape=[-8])}, 8, "whole numbers"),
        ({"a": entry(0, 1, shape=[True])}, 1, "whole numbers"),
        ({"a": entry(0, 8, shape=[8.0])}, 8, "whole numbers"),
        ({"a": {"dtype": "U8", "shape": [1]}}, 1, "not exactly"),
        ({"a": [1]}, 1, "not exactly"),
        ({"__metadata__": {"a": 1}}, 0, "__metadata__"),
        (b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1, "is repeated"),
        (b' {"a": 1}', 0, "does not begin with"),
        (b"{nonsense", 0, "unsound"),
        (b'{"a": NaN}', 0, "NaN"),
        (b'{"a":"\xff"}', 0, "unsound"),
        (b'{"a":' + b"[" * 100_000, 0, "unsound"),
    ],
)  # fmt: skip
def test_an_unsound_header_is_refused_with_its_reason(tmp_path: Path, header: Any, size: int, reason: str) -> None:
    with pytest.raises(HeaderError) as caught:
        read_header(shard(tmp_path / "m.safetensors", header, bytes(size)))
    assert reason in f"{caught.value.message} {caught.value.details}"


@pytest.mark.parametrize("size", [0, 1, 8, 9])
def test_a_file_too_short_for_a_header(tmp_path: Path, size: int) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(bytes(size))
    with pytest.raises(HeaderError, match="not a safetensors file"):
        read_header(path)


def test_a_header_of_100_mb_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with path.open("wb") as stream:
        stream.write((100_000_000).to_bytes(8, "little") + b"{")
        stream.truncate(8 + 100_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(HeaderError, match="header too large"):
        read_header(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    with pytest.raises(HeaderError, match="not a safetensors file"):
        read_header(shard(tmp_path / "n.safetensors", b"{}", length=2**63))
    with pytest.raises(HeaderError, match="inside its header"):
        read_header(shard(tmp_path / "o.safetensors", b"{}", length=50))


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda x: x != "__metadata__")
arrays = st.tuples(
    st.sampled_from(["uint8", "uint16", "float32", "int64"]), st.lists(st.integers(0, 5), max_size=3)
).map(lambda pair: np.zeros(pair[1], pair[0]))  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(names, arrays, max_size=6),
    st.dictionaries(names, st.text(st.characters(codec="utf-8"), max_size=9), max_size=3),
)
def test_what_the_library_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Any], metadata: dict[str, str]
) -> None:
    from safetensors.numpy import save_file

    path = tmp_path_factory.mktemp("s") / "m.safetensors"
    # With nothing at all to write, safetensors 0.8 writes JSON that is none.
    save_file(tensors, path, metadata=metadata or None)
    header = read_header(path)
    assert {name: each.shape for name, each in header.tensors.items()} == {k: v.shape for k, v in tensors.items()}
    assert header.metadata == metadata


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(names, arrays.filter(lambda x: x.dtype in ("uint8", "uint16", "float32")), min_size=1, max_size=6)
)
def test_what_is_written_the_library_reads(tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Any]) -> None:
    from safetensors import safe_open

    path = tmp_path_factory.mktemp("s") / "m.safetensors"
    ordered = dict(sorted(tensors.items(), key=lambda pair: -pair[1].dtype.itemsize))
    write_shard(path, ordered)
    header = read_header(path)
    assert header.data_start % 4096 == 0
    assert make_header(header.tensors.values(), header.metadata) == path.read_bytes()[: header.data_start]
    with safe_open(path, "np") as judge:
        assert set(judge.keys()) == set(tensors)
        for name in tensors:
            assert tuple(judge.get_slice(name).get_shape()) == header.tensors[name].shape


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 300))
def test_any_bytes_are_a_header_or_an_error(raw: bytes, size: int) -> None:
    for text in (raw, b"{" + raw):
        with contextlib.suppress(HeaderError):
            parse_header(text, path=Path("m.safetensors"), file_size=size)


def test_a_git_lfs_pointer_is_named_for_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    with pytest.raises(HeaderError, match="is a git-LFS pointer"):
        read_header(path)
