"""Comparing tars: it never fails, and it is silent only for the same bytes."""

from __future__ import annotations

import io
import json
import tarfile

from hypothesis import given, settings
from hypothesis import strategies as st

from builder.release.verify.compare import json_differences
from builder.release.verify.tars import layer_differences, read_tar

NAMES = st.text(alphabet="ab/é.", min_size=1, max_size=120).filter(lambda name: name.strip("/."))
ENTRIES = st.lists(st.tuples(NAMES, st.binary(max_size=700), st.sampled_from([0o644, 0o755])), max_size=5)


def tar_of(entries: list[tuple[str, bytes, int]], kind: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name, data, mode in entries:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), mode
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@settings(deadline=None)
@given(entries=ENTRIES, kind=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_names_and_contents_are_those_that_a_tar_library_reads(
    entries: list[tuple[str, bytes, int]], kind: int
) -> None:
    data = tar_of(entries, kind)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        known = [(each.name.rstrip("/"), archive.extractfile(each).read(), each.mode) for each in archive]  # type: ignore[union-attr]
    assert [(each.name, each.data, each.mode) for each in read_tar(data).entries] == known


@settings(deadline=None, max_examples=300)
@given(entries=ENTRIES, at=st.integers(0, 12_000), mask=st.integers(1, 255))
def test_every_changed_byte_is_a_difference(entries: list[tuple[str, bytes, int]], at: int, mask: int) -> None:
    data = tar_of(entries)
    assert layer_differences(data, data) == []
    changed = bytearray(data)
    changed[at % len(data)] ^= mask
    assert layer_differences(data, bytes(changed))
    assert layer_differences(bytes(changed), data)


@settings(deadline=None)
@given(data=st.binary(max_size=3000), cut=st.integers(0, 3000))
def test_any_bytes_can_be_compared(data: bytes, cut: int) -> None:
    honest = tar_of([("a", b"x", 0o644)])
    for found in (data, honest[:cut] + data, data + honest):
        assert bool(layer_differences(honest, found)) == (found != honest)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(left=st.dictionaries(st.text(max_size=3), VALUES, max_size=4), right=VALUES)
def test_json_is_the_same_only_when_its_bytes_are(left: dict[str, object], right: object) -> None:
    wanted, found = json.dumps(left).encode(), json.dumps(right).encode()
    assert bool(json_differences("x", wanted, found)) == (wanted != found)
    assert json_differences("x", wanted, wanted + b" ")
