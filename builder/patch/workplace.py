"""The private files that GNU patch changes: each is written once for a whole stack, and read once after each overlay that concerns it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from builder.patch.tree import Content, Tree

_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)
_PERMISSIONS = 0o7777


@contextmanager
def workplace() -> Iterator[Workplace]:
    """A private temporary folder, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="builder-stack-") as name:
        yield Workplace(name)


@dataclass
class Workplace:
    """The files of a stack on disk. An overlay gets a folder with the files that it concerns, and with nothing else."""

    root: str
    _folder: str = ""
    _number: int = 0
    _kept: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Path -> the folder of the last overlay that concerned it, and its mode there."""
    _present: set[str] = field(default_factory=set)
    """The paths of the files in the newest folder."""
    _made: set[str] = field(default_factory=set)
    """The folders that exist below the newest folder."""

    def prepare(self, files: Tree) -> str:
        """The folder that has these very files."""
        if not self._folder or not self._present <= files.keys():
            self._number += 1
            self._folder = f"{self.root}/{self._number}"
            Path(self._folder).mkdir()
            self._present, self._made = set(), {self._folder}
        for path, content in files.items():
            if path not in self._present:
                self._bring(path, content)
            elif self._kept[path][1] != content.mode:
                Path(self._folder, path).chmod(content.mode)
        return self._folder

    def _bring(self, path: str, content: Content) -> None:
        target = f"{self._folder}/{path}"
        parent = target.rpartition("/")[0]
        if parent not in self._made:
            Path(parent).mkdir(parents=True, exist_ok=True)
            self._made.add(parent)
        folder, mode = self._kept.get(path, ("", -1))
        if folder:
            Path(folder, path).rename(target)
        else:
            _write(target, content)
            mode = content.mode
        if mode != content.mode:
            Path(target).chmod(content.mode)

    def read(self) -> Tree:
        """Everything in the folder, links included: a stray `.orig` or `.rej` makes the comparison fail."""
        found: Tree = {}
        modes: dict[str, int] = {}
        size = len(self._folder) + 1
        left = [self._folder]
        # GNU patch removes a folder with its last file.
        self._made = set()
        while left:
            self._made.add(left[-1])
            with os.scandir(left.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
                        continue
                    data, mode = _read(entry)
                    path = entry.path[size:]
                    modes[path] = mode
                    found[path] = Content(data, bool(mode & 0o100))
        self._note(modes)
        return found

    def _note(self, modes: dict[str, int]) -> None:
        for path in self._present - modes.keys():
            self._kept.pop(path, None)
        self._kept.update((path, (self._folder, mode)) for path, mode in modes.items())
        self._present = set(modes)


def _write(target: str, content: Content) -> None:
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, content.mode)
    try:
        rest = memoryview(content.data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        # The umask has no say in what GNU patch finds.
        os.fchmod(handle, content.mode)
    finally:
        os.close(handle)


def _read(entry: os.DirEntry[str]) -> tuple[bytes, int]:
    """A file's bytes and its permissions; those of a link are empty."""
    if not entry.is_file(follow_symlinks=False):
        return b"", entry.stat(follow_symlinks=False).st_mode & _PERMISSIONS
    handle = os.open(entry.path, _READ_FLAGS)
    try:
        status = os.fstat(handle)
        data = os.read(handle, status.st_size + 1)
        while len(data) < status.st_size and (more := os.read(handle, status.st_size + 1 - len(data))):
            data += more
        return data, status.st_mode & _PERMISSIONS
    finally:
        os.close(handle)
