"""The private files that GNU patch changes: each is written once for a whole stack, and read once after each overlay that concerns it.

There are thousands, so that names stay strings: making a `Path` takes longer than the rename.
"""

# ruff: noqa: PTH101, PTH102, PTH103, PTH104

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from builder.patch.tree import Content, Tree
from builder.util.scratch import scratch

_READ_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)
_PERMISSIONS = 0o7777


@contextmanager
def workplace(files: Tree, diffs: int) -> Iterator[Workplace]:
    """A private temporary folder for these files and what `diffs` bytes of diffs add to them, removed at the end."""
    size = diffs + sum(len(each.data) for each in files.values())
    with scratch("builder-stack-", size=size, files=len(files)) as name:
        yield Workplace(name)


@dataclass
class Workplace:
    """The files of a stack on disk. An overlay finds those that it concerns in a folder, and no other file.

    What it does not concern is moved aside, and comes back when it is needed again: a rename instead of writing it anew.
    """

    root: str
    _folder: str = ""
    _number: int = 0
    _moves: int = 0
    _aside: dict[str, str] = field(default_factory=dict)
    """Path -> where the file is while no overlay concerns it."""
    _modes: dict[str, int] = field(default_factory=dict)
    """Path -> the mode of the file on disk, wherever that is."""
    _present: set[str] = field(default_factory=set)
    """The paths of the files in the folder."""
    _made: set[str] = field(default_factory=set)
    """The folders below the folder, some of them empty."""
    _only_files: bool = True
    """Whether nothing but regular files was in the folder when it was read."""

    def prepare(self, files: Tree, concerned: Collection[str]) -> str:
        """The folder with these very files. `concerned` are all paths that the overlay names, new ones included."""
        if not self._folder or any(f"{self._folder}/{path}" in self._made for path in concerned):
            # An empty folder of an earlier overlay has the name of a file.
            self._clear(())
            self._number += 1
            self._folder = f"{self.root}/{self._number}"
            os.mkdir(self._folder)
            self._made = {self._folder}
        self._clear(files)
        for path, content in files.items():
            if path not in self._present:
                self._bring(path, content)
            if self._modes[path] != content.mode:
                os.chmod(f"{self._folder}/{path}", content.mode)
        self._present = set(files)
        return self._folder

    def _clear(self, files: Collection[str]) -> None:
        """Move all but these files aside."""
        for path in self._present - set(files):
            self._moves += 1
            place = f"{self.root}/aside-{self._moves}"
            os.rename(f"{self._folder}/{path}", place)
            self._aside[path] = place
            self._present.discard(path)

    def _bring(self, path: str, content: Content) -> None:
        target = f"{self._folder}/{path}"
        parent = target.rpartition("/")[0]
        if parent not in self._made:
            os.makedirs(parent, exist_ok=True)
            while parent not in self._made:
                self._made.add(parent)
                parent = parent.rpartition("/")[0]
        place = self._aside.pop(path, "")
        if place:
            os.rename(place, target)
        else:
            _write(target, content)
            self._modes[path] = content.mode

    def read(self) -> Tree:
        """Everything in the folder, links included: a stray `.orig` or `.rej` makes the comparison fail."""
        found: Tree = {}
        modes: dict[str, int] = {}
        size = len(self._folder) + 1
        left = [self._folder]
        # GNU patch removes a folder with its last file.
        self._made = set()
        self._only_files = True
        while left:
            self._made.add(left[-1])
            with os.scandir(left.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
                        continue
                    self._only_files &= entry.is_file(follow_symlinks=False)
                    data, mode = _read(entry)
                    path = entry.path[size:]
                    modes[path] = mode
                    found[path] = Content(data, bool(mode & 0o100))
        self._note(modes)
        return found

    def holds(self, expected: Tree) -> bool:
        """Whether the folder has these very files and nothing else. The umask of whoever runs this decides the modes of new ones."""
        found = self.read()
        return (
            self._only_files
            and found.keys() == expected.keys()
            and all(content.data == expected[path].data for path, content in found.items())
        )

    def _note(self, modes: dict[str, int]) -> None:
        for path in self._present - modes.keys():
            del self._modes[path]
        self._modes.update(modes)
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
