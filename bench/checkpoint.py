"""The checkpoint's speed: the digest beside OpenSSL, quantizing beside copying and beside llm-compressor.

`python -m bench.checkpoint [ROWS]`: of the two tables that are quantized, 248,320 as those of Qwen3.6-27B have.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import OURS, Left, Row, Table, Used, pairs, timed, used
from bench.peers import NOT_INSTALLED, program
from builder.util.context import Context

COLUMNS = 5120
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


_COPY = """
import os, sys
with open(sys.argv[1], "rb", buffering=0) as reader, open(sys.argv[2], "wb", buffering=0) as writer:
    piece = memoryview(bytearray(8 << 20))
    while count := reader.readinto(piece):
        writer.write(piece[: count // 2])
    os.fsync(writer.fileno())
"""


def forget(folder: Path) -> None:
    """Drop the folder's files from the page cache, so that they are read from the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def _table(rows: int) -> Any:
    """The same rows again and again: to make other ones takes longer than to quantize them."""
    from tests.support.checkpoints import normal

    return np.resize(normal(min(rows, 24_832), COLUMNS), (rows, COLUMNS))


def digest(place: Path) -> Row | Left:
    """Eight files of 256 MiB, in the page cache: the arithmetic is what is compared."""
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
            "builder checkpoint digest": lambda: used(*OURS, "checkpoint", "digest", str(folder), "--no-cache"),
            "openssl dgst in parallel": lambda: used("sh", "-c", argv, cwd=folder),
        },
    )
    shutil.rmtree(folder)
    return row


def quantizing(place: Path, rows: int) -> Iterator[Row | Left]:
    """Two tables [rows, 5120], cold, fsync included, beside reading the same bytes and writing half of them."""
    from tests.support.checkpoints import EMBED, HEAD, make_checkpoint

    shard, dest = "outside.safetensors", place / "dest"
    source = make_checkpoint(place / "source", {shard: dict.fromkeys((HEAD, EMBED), _table(rows))})

    def ours(*options: str) -> Used:
        shutil.rmtree(dest, ignore_errors=True)
        forget(source)
        return used(*OURS, "checkpoint", "quantize", str(source), str(dest), *options)

    def plain() -> Used:
        (place / "plain").unlink(missing_ok=True)
        forget(source)
        return used(sys.executable, "-S", "-c", _COPY, str(source / shard), str(place / "plain"))

    size = f"2 x [{rows}, {COLUMNS}], cold, fsync"
    for known, options in (("on the way", ["--no-cache"]), ("before", [])):
        # What one run has hashed is known to the next ones; the first run of all is not measured.
        yield pairs(
            f"quantize {size}; source hashed {known}",
            {"builder checkpoint quantize": partial(ours, *options), "reading and writing": plain},
            times=3,
            note="3 pairs",
        )
    for each in (source, dest):
        shutil.rmtree(each)
    (place / "plain").unlink()


def beside_llmcompressor(place: Path, rows: int) -> Iterator[Row | Left]:
    """One table [rows, 5120], cold: both make block FP8 of it. llm-compressor's layout is another one, its arithmetic too.

    Once whole processes, and once the two calls, with what they need imported already.
    """
    from builder.checkpoint.quantize.run import quantize
    from tests.support.checkpoints import HEAD, make_checkpoint

    what = f"quantize 1 x [{rows}, {COLUMNS}]"
    python = program("python", of="llmcompressor")
    if python is None:
        yield Left(f"{what} beside llm-compressor", NOT_INSTALLED)
        return
    source = make_checkpoint(place / "one", {"model.safetensors": {HEAD: _table(rows)}})
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
        return used(sys.executable, "-S", "-c", _COPY, str(source / "model.safetensors"), str(place / "plain"))

    def process(target: Path, argv: tuple[str, ...]) -> Used:
        cold(target)
        return used(*argv)

    yield pairs(
        f"{what}, whole processes",
        {
            "builder checkpoint quantize": lambda: process(ours, command),
            "python with llm-compressor": lambda: process(theirs, peer),
            "reading and writing": plain,
        },
    )
    yield pairs(f"{what}, the call", {"quantize": our_call, "llm-compressor's model_free_ptq": their_call})
    for each in (source, ours, theirs):
        shutil.rmtree(each)


def checkpoint(rows: int = 248_320) -> Iterator[Row | Left]:
    """All of it, in a folder of its own on the disk (about 10 GB with the default rows)."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        os.environ["BUILDER_CACHE_DIR"] = f"{name}/cache"
        try:
            place = Path(name)
            yield digest(place)
            yield from quantizing(place, rows)
            for size in (24_576, 98_304):
                yield from beside_llmcompressor(place, size)
        finally:
            del os.environ["BUILDER_CACHE_DIR"]


if __name__ == "__main__":
    Table().add(checkpoint(*map(int, sys.argv[1:])))
