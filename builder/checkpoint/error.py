"""How far block FP8 tables are from their BF16 source."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from builder.checkpoint.blocks import block_count, e4m3_values, from_bf16
from builder.checkpoint.header import Tensor
from builder.checkpoint.opened import Checkpoint, open_checkpoint
from builder.checkpoint.regular import open_regular
from builder.checkpoint.tables import SCALE_SUFFIX, block_of
from builder.util.context import Context
from builder.util.errors import InputError, MismatchError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    F32 = NDArray[np.float32]

# Upper ends of the histogram's bins: a block's relative RMS error in percent. Normal data lies around 2.65.
BINS = (0.5, 1.0, 1.5, 2.0, 2.2, 2.4, 2.6, 2.8, 3.0, 3.5, 4.0, 6.0, 10.0, math.inf)


@dataclass(frozen=True)
class TensorError:
    """Relative RMS error (0 to 1) of a tensor and the worst of its blocks; `histogram` counts blocks per bin of `BINS`."""

    name: str
    relative_rms_error: float
    worst_block: float
    histogram: tuple[int, ...]


def errors_against(folder: Path, source: Path, *, context: Context) -> list[TensorError]:
    """Compare each table that is FP8 in `folder` and BF16 in `source`.

    Raises `InputError` when there is none, and `MismatchError` for NaN or infinity in either.
    """
    ours, theirs = open_checkpoint(folder), open_checkpoint(source)
    pairs = [
        (name, new, old) for name in ours.weight_map if (new := ours.tensor(name)) and (old := theirs.tensor(name))
    ]
    pairs = [pair for pair in pairs if pair[1].dtype == "F8_E4M3" and pair[2].dtype == "BF16"]
    if not pairs:
        raise InputError(
            f"no tensor is BF16 in {source} and FP8 in {folder}", hint="name the checkpoint it was made of"
        )
    with context.console.progress("comparing", total=sum(old.nbytes for _, _, old in pairs)) as bar:
        found = []
        for name, new, old in pairs:
            if new.shape != old.shape or len(new.shape) != 2:
                raise InputError(f"{name} is {list(new.shape)} here and {list(old.shape)} in {source}")
            noise, signal = [], []
            for lost, power in _block_sums(ours, theirs, name, new, old):
                noise += lost
                signal += power
                bar.advance(old.nbytes // max(1, -(-new.shape[0] // block_of(ours.quantization)[0])))
            found.append(_summary(name, noise, signal))
    return found


def _summary(name: str, noise: list[float], signal: list[float]) -> TensorError:
    blocks = [math.sqrt(lost / power) for lost, power in zip(noise, signal, strict=True) if power]
    counts = [0] * len(BINS)
    for each in blocks:
        counts[next(number for number, end in enumerate(BINS) if each * 100 < end or end == math.inf)] += 1
    power = math.fsum(signal)
    return TensorError(
        name, math.sqrt(math.fsum(noise) / power) if power else 0.0, max(blocks, default=0.0), tuple(counts)
    )


def _block_sums(
    ours: Checkpoint, theirs: Checkpoint, name: str, new: Tensor, old: Tensor
) -> Iterator[tuple[list[float], list[float]]]:
    """Sums of squared error and squared value, per block, one block row at a time."""
    import numpy as np

    block = block_of(ours.quantization)
    rows, cols = new.shape
    scale = ours.tensor(name + SCALE_SUFFIX)
    shape = block_count((rows, cols), block)
    if scale is None or scale.dtype != "BF16" or scale.shape != shape:
        raise InputError(
            f"{name} has no BF16 scale {list(shape)}", hint="`builder checkpoint check DIR` has the details"
        )
    scales = _bf16(_read(ours, scale, 0, scale.nbytes)).reshape(shape)
    table = e4m3_values().astype(np.float64)
    starts = np.arange(0, cols, block[1])
    if not cols:
        return
    for number in range(shape[0]):
        top, height = number * block[0], min(block[0], rows - number * block[0])
        codes = np.frombuffer(_read(ours, new, top * cols, height * cols), np.uint8)
        wide = np.repeat(scales[number].astype(np.float64), block[1])[:cols]
        wanted = _bf16(_read(theirs, old, top * cols * 2, height * cols * 2)).reshape(height, cols).astype(np.float64)
        # Zero times infinity has its own message.
        with np.errstate(invalid="ignore"):
            found = table[codes].reshape(height, cols) * wide
            lost, power = ((wanted - found) ** 2).sum(axis=0), (wanted**2).sum(axis=0)
        if not (np.isfinite(lost).all() and np.isfinite(power).all()):
            raise MismatchError(
                f"{name} has NaN or infinity in it",
                details=[("where", f"rows {top} to {top + height - 1}, in {ours.folder} or in {theirs.folder}")],
                hint="make the checkpoint again with `builder checkpoint quantize SOURCE DEST`, which refuses such a source",
            )
        yield np.add.reduceat(lost, starts).tolist(), np.add.reduceat(power, starts).tolist()


def _bf16(data: bytes) -> F32:
    import numpy as np

    return from_bf16(np.frombuffer(data, "<u2"))


def _read(checkpoint: Checkpoint, tensor: Tensor, begin: int, count: int) -> bytes:
    shard = checkpoint.weight_map[tensor.name]
    try:
        with BufferedReader(open_regular(checkpoint.folder / shard)) as stream:
            stream.seek(checkpoint.headers[shard].data_start + tensor.begin + begin)
            data = stream.read(count)
    except OSError as error:
        raise InputError(f"cannot read {shard}: {error.strerror}", hint="fetch the shard again") from error
    if len(data) != count:
        raise InputError(f"{shard} changed while it was read", hint="wait until it is written, then try again")
    return data
