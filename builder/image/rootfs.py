"""What the layer holds, before it becomes a tar or a Docker context."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from builder.image.record_csv import update_record
from builder.patch.model import StackResult
from builder.util.errors import InputError


@dataclass(frozen=True)
class Entry:
    """One entry: a path from `/` without the leading slash. A `whiteout` removes what the base has at the path."""

    path: str
    kind: Literal["file", "directory", "whiteout"]
    mode: int = 0o644
    data: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Rootfs:
    """All entries of a layer, sorted by path as bytes; a folder comes before its content."""

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        paths = [entry.path for entry in self.entries]
        if paths != sorted(paths, key=str.encode) or len(set(paths)) != len(paths):
            raise ValueError("entries are sorted by path, and each path occurs once")

    @property
    def deleted(self) -> tuple[str, ...]:
        return tuple(entry.path for entry in self.entries if entry.kind == "whiteout")


@dataclass(frozen=True)
class InstalledRecord:
    """A distribution's RECORD in the base, and the packages of which it lists what is new."""

    dist_info: str
    packages: Collection[str]
    data: bytes = field(repr=False)


def compose(
    result: StackResult,
    *,
    root: str,
    records: Sequence[InstalledRecord],
    bytecode: Collection[str],
    existing_directories: Collection[str],
    extra: Mapping[str, tuple[bytes, int]],
    removed: Collection[str] = (),
) -> Rootfs:
    """Put a layer together: changed files under `root`, whiteouts, each distribution's RECORD, and `extra` files.

    `records` are those of the base that the layer brings, `bytecode` the stale `__pycache__` entries under `root`,
    `extra` absolute paths without the leading slash to (content, mode), `removed` such paths of files and folders that go. A folder that is not among
    `existing_directories` gets an entry: without one, the puller's clock would be its time.
    """
    entries: dict[str, Entry] = {}
    for file in result.files:
        path = f"{root}/{file.path}"
        if file.after is None:
            entries[path] = Entry(path, "whiteout")
        else:
            entries[path] = Entry(path, "file", file.mode, file.after)
    for name in bytecode:
        entries[f"{root}/{name}"] = Entry(f"{root}/{name}", "whiteout")
    for record in records:
        path = f"{root}/{record.dist_info}/RECORD"
        others = {name for other in records if other is not record for name in other.packages}
        data = update_record(record.data, result, bytecode, root=root, not_of=others - set(record.packages))
        entries[path] = Entry(path, "file", 0o644, data)
    for path, (data, mode) in extra.items():
        if path in entries:
            raise InputError(f"an overlay and the builder both write /{path}")
        entries[path] = Entry(path, "file", mode, data)
    for path in removed:
        if path in entries:
            raise InputError(f"the layer both writes and removes /{path}")
        entries[path] = Entry(path, "whiteout")
    existing = set(existing_directories)
    for path in [entry.path for entry in entries.values() if entry.kind != "whiteout"]:
        for parent in map(str, PurePosixPath(path).parents):
            if parent != "." and parent not in existing:
                entries[parent] = Entry(parent, "directory", 0o755)
    return Rootfs(tuple(sorted(entries.values(), key=lambda entry: entry.path.encode())))
