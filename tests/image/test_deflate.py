"""The layer's own gzip: readable by everybody, and the same bytes on every machine."""

from __future__ import annotations

import gzip as standard
import subprocess
import sys
import zlib
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.image.deflate import gzip
from builder.util.files import sha256
from tests.support.counting import calls

LINES = [b"vllm/model_executor/layers/%04d.py,sha256=%s,%d\n" % (n, b"%043d" % (n * n), n) for n in range(2000)]
EMPTY = "8c4c679b2170df44d8b696e7b2237502a4108e6c22db7942ec64b081cc4be40e"
MIXED = "560e57a562bed3a1f8f4b406345eb4f9ea39e8d81b49f8d72535a9cdfd16e0ff"
WORDS = st.lists(
    st.sampled_from([b"return", b"self", b"    ", b"\n", b"def ", b"layers/", b"x", b"\0" * 300, b"word" * 80])
)


def fibonacci(count: int) -> bytes:
    """Bytes whose Huffman codes would be longer than DEFLATE allows."""
    sizes = [1, 1]
    while len(sizes) < count:
        sizes.append(sizes[-1] + sizes[-2])
    return b"".join(bytes([symbol]) * size for symbol, size in enumerate(sizes))


@pytest.mark.parametrize(
    "data",
    [b"", b"a", b"\0" * 70_000, b"abcd" * 20_000, b"".join(LINES), bytes(range(256)) * 300, fibonacci(24), b"word " + b"-" * 32_764 + b"word word"],
    ids=["empty", "one", "zeros", "run", "record", "all bytes", "long codes", "window's end"],
)  # fmt: skip
def test_what_is_packed_is_unpacked(data: bytes) -> None:
    packed = gzip(data)
    assert standard.decompress(packed) == data
    assert zlib.decompress(packed, 31) == data
    outside = subprocess.run(["gzip", "-dc"], input=packed, capture_output=True, check=True, timeout=60)
    assert outside.stdout == data


@given(st.one_of(st.binary(max_size=3000), WORDS.map(b"".join)))
def test_any_bytes_are_unpacked(data: bytes) -> None:
    assert standard.decompress(gzip(data)) == data


def test_the_bytes_are_specified() -> None:
    """Whoever changes one choice changes every image's digest: this must not happen by accident."""
    assert sha256(gzip(b"")) == EMPTY
    assert sha256(gzip(b"".join(LINES) + fibonacci(20) + b"\0" * 5000)) == MIXED


def test_another_python_makes_the_same_bytes() -> None:
    """Other hash seeds and optimisation levels: nothing depends on the order of a set or on an assertion."""
    program = (
        "import hashlib, sys; from builder.image.deflate import gzip;"
        "print(hashlib.sha256(gzip(sys.stdin.buffer.read())).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, *options, "-c", program], input=b"".join(LINES), capture_output=True, check=True, timeout=60,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed, options in (("0", []), ("1", ["-O"]), ("4711", ["-OO"]))
    }  # fmt: skip
    assert len(found) == 1


def test_a_record_is_packed_nearly_as_well_as_by_zlib() -> None:
    data = b"".join(LINES)
    assert len(gzip(data)) < 1.25 * len(zlib.compress(data, 9))


def test_the_work_grows_with_the_size() -> None:
    texts = [b"".join(LINES[:size]) for size in (500, 1000, 2000)]
    counts = [calls(partial(gzip, text)) for text in texts]
    assert all(after < 2.3 * before for before, after in pairwise(counts))
