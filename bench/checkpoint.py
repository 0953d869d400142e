"""The checkpoint's speed: the digest beside OpenSSL, quantizing beside copying and beside llm-compressor.

`python -m bench.checkpoint [ROWS]`. llm-compressor brings its own world of packages, so it is asked in an interpreter of
its own, which `BENCH_LLMCOMPRESSOR_PYTHON` names: one of a virtual environment with `torch` for the CPU and `llmcompressor`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.measure import OURS, Left, Row, Table, Used, pairs, timed, used
from builder.util.context import Context

_PIECE = 8 << 20
COLUMNS = 5120
PEER = "BENCH_LLMCOMPRESSOR_PYTHON"
# With fsync as ours. The seconds and CPU that it prints are those of the call, without importing torch.
_PEER_SCRIPT = """
import os, pathlib, sys, time
from llmcompressor import model_free_ptq
begun, spent = time.perf_counter(), time.process_time()
model_free_ptq(model_stub=sys.argv[1], save_directory=sys.argv[2], scheme="FP8_BLOCK", device="cpu")
for path in pathlib.Path(sys.argv[2]).rglob("*"):
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
print(time.perf_counter() - begun, time.process_time() - spent)
"""


def forget(folder: Path) -> None:
    """Drop the folder's files from the page cache, so that they are read from the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def digest(place: Path) -> Row | Left:
    """Eight files of 256 MiB, in the page cache: the arithmetic is what is compared."""
    from builder.checkpoint.digest import digest_directory

    if not shutil.which("openssl"):
        return Left("digest of 2 GiB", "there is no openssl")
    folder = place / "digest"
    folder.mkdir()
    data = os.urandom(256 << 20)
    for number in range(8):
        (folder / f"layers-{number}.safetensors").write_bytes(data)
    argv = f"ls | xargs -P {os.cpu_count()} -n 1 openssl dgst -sha256"
    row = pairs(
        "digest of 2 GiB, warm",
        {
            "digest_directory": lambda: timed(lambda: digest_directory(folder, context=Context(), cache=False)),
            "openssl dgst in parallel": lambda: timed(
                lambda: subprocess.run(["sh", "-c", argv], cwd=folder, check=True, capture_output=True)
            ),
        },
    )
    shutil.rmtree(folder)
    return row


def quantizing(place: Path, rows: int) -> Iterator[Row | Left]:
    """Two tables [rows, 5120], cold, fsync included, beside reading the same bytes and writing half of them."""
    from builder.checkpoint.digest import digest_directory
    from builder.checkpoint.quantize.run import quantize
    from tests.support.checkpoints import EMBED, HEAD, make_checkpoint, normal

    tables = normal(rows, COLUMNS)
    shard = "outside.safetensors"
    source = make_checkpoint(place / "source", {shard: {HEAD: tables, EMBED: tables}})
    del tables
    silent = Context()

    def ours(*, cache: bool) -> Used:
        shutil.rmtree(place / "dest", ignore_errors=True)
        forget(source)
        return timed(lambda: quantize(source, place / "dest", context=silent, cache=cache))

    def plain() -> Used:
        (place / "plain").unlink(missing_ok=True)
        forget(source)
        return timed(lambda: _copied(source / shard, place / "plain"))

    size = f"2 x [{rows}, {COLUMNS}], cold, fsync"
    yield pairs(
        f"quantize {size}; source hashed on the way",
        {"quantize": lambda: ours(cache=False), "reading and writing": plain},
        times=3,
    )
    # A hash is remembered once the file is two seconds old.
    time.sleep(2)
    digest_directory(source, context=silent)
    yield pairs(
        f"quantize {size}; source hashed before",
        {"quantize": lambda: ours(cache=True), "reading and writing": plain},
        times=3,
    )


def _copied(source: Path, target: Path) -> None:
    with source.open("rb", buffering=0) as reader, target.open("wb", buffering=0) as writer:
        piece = memoryview(bytearray(_PIECE))
        while count := reader.readinto(piece):
            writer.write(piece[: count // 2])
        os.fsync(writer.fileno())


def beside_llmcompressor(place: Path, rows: int) -> Iterator[Row | Left]:
    """One table [rows, 5120], cold: both make block FP8 of it. llm-compressor's layout is another one, its arithmetic too.

    Once the two calls, with what they need imported already, and once whole processes.
    """
    from builder.checkpoint.quantize.run import quantize
    from tests.support.checkpoints import HEAD, make_checkpoint, normal

    what = f"quantize 1 x [{rows}, {COLUMNS}]"
    python = os.environ.get(PEER)
    if not python:
        yield Left(f"{what} beside llm-compressor", f"{PEER} names no interpreter")
        return
    source = make_checkpoint(place / "one", {"model.safetensors": {HEAD: normal(rows, COLUMNS)}})
    ours, theirs = place / "one-dest", place / "peer-dest"
    command = (*OURS, "checkpoint", "quantize", str(source), str(ours), "--tensor", HEAD, "--no-cache")
    peer = (python, "-c", _PEER_SCRIPT, str(source), str(theirs))

    def cold(target: Path) -> None:
        shutil.rmtree(target, ignore_errors=True)
        forget(source)

    def our_call() -> Used:
        cold(ours)
        return timed(lambda: quantize(source, ours, context=Context(), tensors=[HEAD], cache=False))

    def their_call() -> Used:
        cold(theirs)
        done = subprocess.run(peer, check=True, capture_output=True, text=True)
        seconds, cpu = map(float, done.stdout.split()[-2:])
        return Used(seconds, cpu)

    def plain() -> Used:
        (place / "plain").unlink(missing_ok=True)
        forget(source)
        return timed(lambda: _copied(source / "model.safetensors", place / "plain"))

    def process(target: Path, argv: tuple[str, ...]) -> Used:
        cold(target)
        return used(*argv)

    peers = {"llm-compressor's model_free_ptq": their_call, "reading and writing": plain}
    yield pairs(f"{what}, the call", {"quantize": our_call, **peers})
    yield pairs(
        f"{what}, whole processes",
        {
            "builder checkpoint quantize": lambda: process(ours, command),
            "python with llm-compressor": lambda: process(theirs, peer),
        },
    )


def checkpoint(rows: int = 24_576) -> Iterator[Row | Left]:
    """All of it, in a folder of its own under the temporary folder (about 3 GB with the default rows)."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        os.environ["BUILDER_CACHE_DIR"] = f"{name}/cache"
        try:
            place = Path(name)
            yield digest(place)
            yield from quantizing(place, rows)
            yield from beside_llmcompressor(place, rows)
        finally:
            del os.environ["BUILDER_CACHE_DIR"]


if __name__ == "__main__":
    Table().add(checkpoint(*map(int, sys.argv[1:])))
