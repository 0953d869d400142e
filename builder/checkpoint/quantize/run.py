"""A checkpoint with BF16 vocabulary tables -> the same checkpoint with block FP8 ones, in a new folder."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from builder.checkpoint.check import scale_problems
from builder.checkpoint.digest import ChangedError, CheckpointDigest, combine, hash_file, served_files
from builder.checkpoint.hashcache import HashCache
from builder.checkpoint.opened import INDEX, Checkpoint, open_checkpoint
from builder.checkpoint.quantize.carry import Transfer, best_transfer, carry_or_copy, copy_hashed
from builder.checkpoint.quantize.kernel import fastest_kernel
from builder.checkpoint.quantize.stream import ShardLayout, ShardResult, TableResult, lay_out, rewrite_shard
from builder.checkpoint.quantize.workplace import appearing, partial_of
from builder.checkpoint.tables import Table, TableSelection, edit_config, select_tables
from builder.util.context import Context, Progress
from builder.util.errors import InputError
from builder.util.extras import install_hint
from builder.util.files import naming, sha256

RECORD = "quantization.json"
# Of the arithmetic and the layout, not of this program: bytes that change need another number.
METHOD_VERSION = 1
_SLACK = 1 << 20


@dataclass(frozen=True)
class Quantization:
    """What was made: digests of source and target, the tables, how the other files came over, sizes in bytes."""

    source: CheckpointDigest
    target: CheckpointDigest
    tables: tuple[TableResult, ...]
    done_before: tuple[str, ...]
    way: Transfer
    saved: int


@dataclass(frozen=True)
class _Job:
    """The plan: which shards are rewritten and how, and which files are carried over."""

    checkpoint: Checkpoint
    selection: TableSelection
    layouts: dict[str, ShardLayout]
    carried: tuple[str, ...]
    stats: dict[str, os.stat_result]

    def tables(self, shard: str) -> list[Table]:
        return [table for table in self.selection.todo if table.shard == shard]


def quantize(
    source: Path, target: Path, *, context: Context, tensors: Iterable[str] = (), search: bool = False,
    copy: bool = False, threads: int | None = None, cache: bool = True,
) -> Quantization:  # fmt: skip
    """Make `target` from `source`. It appears complete or not at all.

    Raises `InputError` for a source that cannot be quantized, too little disk, or a source that changes meanwhile.
    """
    _needs_numpy()
    job = _plan(source, tensors, context)
    _refuse_inside(source, target)
    hashes = HashCache(enabled=cache)
    with appearing(target) as place:
        way: Transfer = "copy" if copy else best_transfer(source / "config.json", place)
        _check_disk(target.parent, _bytes_needed(job, way, place.stat().st_dev))
        shards = _rewrite_shards(
            job, place, search=search, threads=threads or os.cpu_count() or 1, hashes=hashes, context=context
        )
        carried = _carry_over(job, place, way, hashes, context)
        before = {path: (path, digest, job.stats[path].st_size) for path, digest in carried.items()}
        before |= {shard: (shard, found.source_sha256, job.stats[shard].st_size) for shard, found in shards.items()}
        origin = combine(before.values())
        after = {path: entry for path, entry in before.items() if path in job.carried}
        after |= {shard: (shard, found.sha256, found.size) for shard, found in shards.items()}
        for name, document in _documents(job, origin, shards, search=search).items():
            data = json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
            _write(place / name, data)
            after[name] = (name, sha256(data), len(data))
        _check_unchanged(job)
        made = combine(after.values())
    for path in job.carried:
        hashes.put(target / path, (target / path).stat(), carried[path])
    tables = tuple(table for found in shards.values() for table in found.tables)
    saved = sum(job.checkpoint.headers[shard].file_size - found.size for shard, found in shards.items())
    return Quantization(origin, made, tables, job.selection.done, way, saved)


def _needs_numpy() -> None:
    try:
        import numpy as np  # noqa: F401
    except ImportError as error:
        raise InputError("quantizing needs the extra 'checkpoint'", hint=install_hint("checkpoint")) from error


def _plan(source: Path, tensors: Iterable[str], context: Context) -> _Job:
    checkpoint = open_checkpoint(source)
    # A block size that the source's own scales contradict would be carried on into the tables.
    found = (*checkpoint.problems, *scale_problems(checkpoint))
    # A tensor in two shards is read as vLLM reads it, but a table that becomes FP8 in one of them is still BF16 in the other.
    grave = [problem for problem in found if not problem.harmless or problem.where in checkpoint.weight_map]
    if grave:
        raise InputError(
            f"the checkpoint at {source} is damaged",
            details=[(problem.where, problem.what) for problem in grave[:20]],
            hint="fetch what is wrong again",
        )
    for problem in checkpoint.problems:
        context.console.warn(f"{problem.where}: {problem.what}; it will be right in what is made")
    selection = select_tables(checkpoint, tensors)
    layouts = {}
    for shard in sorted({table.shard for table in selection.todo}):
        mine = [table for table in selection.todo if table.shard == shard]
        layouts[shard] = lay_out(checkpoint.headers[shard], mine)
    paths = served_files(source)
    stats = {path: _stat(source / path) for path in paths}
    rewritten = {*layouts, "config.json", INDEX, RECORD}
    return _Job(checkpoint, selection, layouts, tuple(path for path in paths if path not in rewritten), stats)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint="fetch the file again") from error


def _refuse_inside(source: Path, target: Path) -> None:
    if target.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{target} is inside {source}", hint="name a folder outside the source")
    partial = partial_of(target)
    if source.resolve().is_relative_to(partial.resolve()):
        raise InputError(
            f"{source} is where {target} is made, and would be removed",
            details=[("where", str(partial))],
            hint="name another DEST, or move the source",
        )


def _bytes_needed(job: _Job, way: Transfer, device: int) -> int:
    """Upper bound of the bytes that will be written; a link in the source may lead to another disk than `device`."""
    needed = sum(layout.size for layout in job.layouts.values())
    needed += sum(job.stats[name].st_size for name in ("config.json", INDEX) if name in job.stats)
    copied = [job.stats[path] for path in job.carried if way == "copy" or job.stats[path].st_dev != device]
    return needed + sum(stat.st_size for stat in copied)


def _check_disk(place: Path, needed: int) -> None:
    free = shutil.disk_usage(place).free
    if needed + _SLACK > free:
        raise InputError(
            "there is too little room on the disk",
            details=[("wanted", f"{needed + _SLACK:,} bytes"), ("found", f"{free:,} bytes free at {place}")],
            hint="make room, or name a DEST on another disk",
        )


def _rewrite_shards(
    job: _Job, place: Path, *, search: bool, threads: int, hashes: HashCache, context: Context
) -> dict[str, ShardResult]:  # fmt: skip
    kernel = fastest_kernel()
    total = sum(job.checkpoint.headers[shard].file_size for shard in job.layouts)
    found = {}
    with context.console.progress("quantizing", total=total) as bar:
        for shard, layout in job.layouts.items():
            (place / shard).parent.mkdir(parents=True, exist_ok=True)
            source = job.checkpoint.folder / shard
            found[shard] = rewrite_shard(
                source, place / shard, job.checkpoint.headers[shard], layout, job.tables(shard),
                kernel=kernel, search=search, threads=threads, bar=bar, known=hashes.get(source, job.stats[shard]),
            )  # fmt: skip
            (place / shard).chmod(0o644)
            hashes.put(source, job.stats[shard], found[shard].source_sha256)
    return found


def _carry_over(job: _Job, place: Path, way: Transfer, cache: HashCache, context: Context) -> dict[str, str]:
    """Bring the other files over. SHA-256 by path of every file of the source but the rewritten shards."""
    source = job.checkpoint.folder
    paths = sorted(set(job.stats) - set(job.layouts), key=lambda path: (-job.stats[path].st_size, path))
    stop = Event()

    def one(path: str, bar: Progress) -> str:
        if path in job.carried and way == "copy" and not stop.is_set():
            digest = copy_hashed(source / path, place / path)
            bar.advance(job.stats[path].st_size)
            return digest
        digest = hash_file(source, path, bar=bar, cache=cache, stop=stop)[1]
        if path in job.carried:
            carry_or_copy(source / path, place / path, way)
        return digest

    with context.console.progress(
        "carrying the other files over", total=sum(job.stats[path].st_size for path in paths)
    ) as bar:
        pool = ThreadPoolExecutor(os.cpu_count())
        try:
            digests = list(pool.map(lambda path: one(path, bar), paths))
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
    for path in source.glob("LICENSE*"):
        if path.is_file():
            carry_or_copy(path, place / path.name, way)
    return dict(zip(paths, digests, strict=True))


def _documents(
    job: _Job, origin: CheckpointDigest, shards: dict[str, ShardResult], *, search: bool
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """The JSON files that change: config, index, and the record of what was done."""
    config = deepcopy(job.checkpoint.config)
    names = [table.name for table in job.selection.todo] + list(job.selection.done)
    edit_config(config, names)
    documents = {"config.json": config, RECORD: _record(job, origin, shards, search=search)}
    if job.checkpoint.index is not None:
        index = deepcopy(job.checkpoint.index)
        weights = dict(job.checkpoint.weight_map) | {table.scale_name: table.shard for table in job.selection.todo}
        index["weight_map"] = dict(sorted(weights.items()))
        metadata = index.get("metadata")
        index["metadata"] = {**(metadata if isinstance(metadata, dict) else {}), "total_size": _total_size(job)}
        documents[INDEX] = index
    return documents


def _total_size(job: _Job) -> int:
    kept = sum(
        tensor.nbytes
        for shard, header in job.checkpoint.headers.items()
        if shard not in job.layouts
        for tensor in header.tensors.values()
    )
    return kept + sum(tensor.nbytes for layout in job.layouts.values() for tensor in layout.tensors.values())


def _record(
    job: _Job, origin: CheckpointDigest, shards: dict[str, ShardResult], *, search: bool
) -> dict[str, Any]:  # fmt: skip
    return {
        "source": {"digest": origin.digest},
        "method": {
            "name": "block-fp8",
            "version": METHOD_VERSION,
            "dtype": "F8_E4M3",
            "scale_dtype": "BF16",
            "block": list(job.selection.block),
            "scale": "least squared error" if search else "largest magnitude / 448",
        },
        "tensors": {
            each.table.name: {
                "shard": each.table.shard,
                "shape": list(each.table.shape),
                "scale": each.table.scale_name,
                "scale_shape": list(each.table.scale_shape),
                "relative_rms_error": float(f"{each.relative_rms_error:.6g}"),
            }
            for found in shards.values()
            for each in found.tables
        },
        "quantized_before": list(job.selection.done),
    }


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as stream, naming(path):
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _check_unchanged(job: _Job) -> None:
    """The source is still what was planned with: config, index and carried files too."""
    for path, before in job.stats.items():
        now = _stat(job.checkpoint.folder / path)
        if (before.st_ino, before.st_size, before.st_mtime_ns) != (now.st_ino, now.st_size, now.st_mtime_ns):
            raise ChangedError(path)
    if served_files(job.checkpoint.folder) != sorted(job.stats):
        raise ChangedError(str(job.checkpoint.folder))
