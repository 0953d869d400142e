"""The checkpoint's speed: the digest beside sha256sum, quantizing beside copying and beside llm-compressor.

`python -m bench.checkpoint [ROWS]`. llm-compressor brings its own world of packages, so it is asked in an interpreter of
its own, which `BENCH_LLMCOMPRESSOR_PYTHON` names: one of a virtual environment with `torch` for the CPU and `llmcompressor`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.measure import Row
from builder.cli.console import Console
from builder.util.context import Context

_PIECE = 8 << 20
COLUMNS = 5120
PEER = "BENCH_LLMCOMPRESSOR_PYTHON"
# Its seconds are those of the call, with fsync as ours, and without importing torch.
_PEER_SCRIPT = """
import os, pathlib, sys, time
from llmcompressor import model_free_ptq
begun = time.perf_counter()
model_free_ptq(model_stub=sys.argv[1], save_directory=sys.argv[2], scheme="FP8_BLOCK", device="cpu")
for path in pathlib.Path(sys.argv[2]).rglob("*"):
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
print(time.perf_counter() - begun)
"""


def forget(folder: Path) -> None:
    """Drop the folder's files from the page cache, so that they are read from the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def side_by_side(
    first: Callable[[], object], second: Callable[[], object], *, times: int = 5
) -> tuple[float, float, float]:
    """Median seconds of both, taken in turns, and the median of their ratios: a busy machine is busy for both."""
    taken = []
    for _ in range(times):
        pair = []
        for call in (first, second):
            begun = time.perf_counter()
            call()
            pair.append(time.perf_counter() - begun)
        taken.append(pair)
    return (
        statistics.median(pair[0] for pair in taken),
        statistics.median(pair[1] for pair in taken),
        statistics.median(pair[0] / pair[1] for pair in taken),
    )


def digest(place: Path) -> list[Row]:
    """Eight files of 256 MiB, in the page cache: the arithmetic is what is compared."""
    from builder.checkpoint.digest import digest_directory

    folder = place / "digest"
    folder.mkdir()
    data = os.urandom(256 << 20)
    for number in range(8):
        (folder / f"layers-{number}.safetensors").write_bytes(data)
    argv = f"ls | xargs -P {os.cpu_count()} -n 1 sha256sum"
    ours, theirs, ratio = side_by_side(
        lambda: digest_directory(folder, context=Context(), cache=False),
        lambda: subprocess.run(["sh", "-c", argv], cwd=folder, check=True, capture_output=True),
    )
    return [("digest of 2 GiB", f"{ours:.2f} s", f"sha256sum in parallel: {theirs:.2f} s", f"{ratio:.2f} x")]


def quantizing(place: Path, rows: int) -> list[Row]:
    """Two tables [rows, 5120], cold, fsync included, beside reading the same bytes and writing half of them."""
    import shutil

    from builder.checkpoint.digest import digest_directory
    from builder.checkpoint.quantize.run import quantize
    from tests.support.checkpoints import EMBED, HEAD, make_checkpoint, normal

    tables = normal(rows, COLUMNS)
    shard = "outside.safetensors"
    source = make_checkpoint(place / "source", {shard: {HEAD: tables, EMBED: tables}})
    del tables
    silent = Context()

    def ours(*, cache: bool) -> None:
        shutil.rmtree(place / "dest", ignore_errors=True)
        forget(source)
        quantize(source, place / "dest", context=silent, cache=cache)

    def plain() -> None:
        (place / "plain").unlink(missing_ok=True)
        forget(source)
        with (source / shard).open("rb", buffering=0) as reader, (place / "plain").open("wb", buffering=0) as writer:
            piece = memoryview(bytearray(_PIECE))
            while count := reader.readinto(piece):
                writer.write(piece[: count // 2])
            os.fsync(writer.fileno())

    ours(cache=False)
    found = []
    size = f"2 x [{rows}, {COLUMNS}]"
    first, second, ratio = side_by_side(lambda: ours(cache=False), plain)
    peer = f"reading and writing: {second:.2f} s"
    found.append((f"quantize {size}, source hashed on the way", f"{first:.2f} s", peer, f"{ratio:.2f} x"))
    # A hash is remembered once the file is two seconds old.
    time.sleep(2)
    digest_directory(source, context=silent)
    first, second, ratio = side_by_side(lambda: ours(cache=True), plain)
    peer = f"reading and writing: {second:.2f} s"
    found.append((f"quantize {size}, source hashed before", f"{first:.2f} s", peer, f"{ratio:.2f} x"))
    return found


def beside_llmcompressor(place: Path, rows: int) -> list[Row]:
    """One table [rows, 5120], cold: both make block FP8 of it. llm-compressor's layout is another one, its arithmetic too."""
    import shutil

    from builder.checkpoint.quantize.run import quantize
    from tests.support.checkpoints import HEAD, make_checkpoint, normal

    what = f"quantize 1 x [{rows}, {COLUMNS}]"
    python = os.environ.get(PEER)
    if not python:
        return [(what, "-", f"llm-compressor: left out, {PEER} names no interpreter", "-")]
    source = make_checkpoint(place / "one", {"model.safetensors": {HEAD: normal(rows, COLUMNS)}})

    def ours() -> float:
        shutil.rmtree(place / "one-dest", ignore_errors=True)
        forget(source)
        begun = time.perf_counter()
        quantize(source, place / "one-dest", context=Context(), tensors=[HEAD], cache=False)
        return time.perf_counter() - begun

    def theirs() -> float:
        shutil.rmtree(place / "peer-dest", ignore_errors=True)
        forget(source)
        argv = [python, "-c", _PEER_SCRIPT, str(source), str(place / "peer-dest")]
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        return float(done.stdout.split()[-1])

    ours()
    pairs = [(ours(), theirs()) for _ in range(3)]
    first, second = (statistics.median(pair[number] for pair in pairs) for number in (0, 1))
    ratio = statistics.median(pair[1] / pair[0] for pair in pairs)
    return [(what, f"{first:.2f} s", f"llm-compressor's model_free_ptq: {second:.2f} s", f"{ratio:.1f} x faster")]


def checkpoint(rows: int = 65_536) -> list[Row]:
    """All of it, in a folder of its own under the temporary folder (about 4 GB with the default rows)."""
    with tempfile.TemporaryDirectory() as name:
        os.environ["BUILDER_CACHE_DIR"] = f"{name}/cache"
        try:
            place = Path(name)
            return [*digest(place), *quantizing(place, rows), *beside_llmcompressor(place, rows)]
        finally:
            del os.environ["BUILDER_CACHE_DIR"]


if __name__ == "__main__":
    Console().table(["what", "ours", "beside it", "ratio"], checkpoint(*map(int, sys.argv[1:])))
