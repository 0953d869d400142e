"""Where this tool keeps things, and how it writes them: whole or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from builder.util.errors import InputError, MismatchError

_CHUNK = 1 << 20


def sha256(data: bytes) -> str:
    """The SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, read in pieces of 1 MiB."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of reading and writing by a handle name no file: they get `path`."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def cache_dir(*parts: str) -> Path:
    """A folder of the cache, made when missing: `BUILDER_CACHE_DIR`, else `XDG_CACHE_HOME` or `~/.cache`.

    Everything in it can be deleted at any time; nothing in it is trusted without its digest.
    """
    own = os.environ.get("BUILDER_CACHE_DIR")
    if own:
        root = Path(own)
    else:
        xdg = os.environ.get("XDG_CACHE_HOME")
        root = (Path(xdg) if xdg else Path.home() / ".cache") / "overlay-image-builder"
    folder = root.joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the cache folder {folder}: {error.strerror}",
            hint="set BUILDER_CACHE_DIR to a writable folder",
        ) from error
    return folder


@contextmanager
def replacing(path: Path, *, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """Open a temporary neighbour of `path` for writing; it takes the name `path` only when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            temporary.unlink()
        raise


def write_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write `data` to `path`, whole or not at all."""
    with replacing(path, mode=mode) as stream:
        stream.write(data)


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write several files, all or none: first each beside its place, then each into it, in the order given.

    When one cannot be written, or the run is interrupted, those before it are put back as they were. A file that has its
    content already is left alone; one that is there keeps its mode. Raises `InputError` for a folder that cannot be
    written.
    """
    staged: list[tuple[Path, Path]] = []
    done: list[tuple[Path, bytes | None]] = []
    made: list[Path] = []
    path = Path()
    try:
        for path, data in files.items():
            old = path.read_bytes() if path.is_file() else None
            if old == data:
                continue
            made += _make_folder(path.parent)
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
            staged.append((Path(name), path))
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).chmod(path.stat().st_mode & 0o777 if old is not None else 0o644)
        for temporary, path in staged:
            done.append((path, path.read_bytes() if path.is_file() else None))
            temporary.replace(path)
    except BaseException as error:
        for target, content in reversed(done):
            if content is None:
                # What could not be replaced, such as a folder of that name, is still there, and not ours.
                if target.is_file():
                    target.unlink()
            else:
                write_file(target, content, mode=target.stat().st_mode & 0o777)
        for temporary, _ in staged:
            temporary.unlink(missing_ok=True)
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise InputError(
                f"cannot write {path}: {error.strerror}", hint="nothing was written; see the folder's permissions"
            ) from error
        raise


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and its parents; those that were not there, outermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()][::-1]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


class ContentCache:
    """Bytes kept by their SHA-256. What is damaged on disk is dropped and counts as absent."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or cache_dir("content")

    def _path(self, digest: str) -> Path:
        return self._folder / digest[:2] / digest

    def get(self, digest: str) -> bytes | None:
        """The bytes whose SHA-256 is `digest` (64 hexadecimal digits), or None."""
        path = self._path(digest)
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        if sha256(data) != digest:
            with suppress(FileNotFoundError):
                path.unlink()
            return None
        return data

    def put(self, data: bytes, *, expected: str | None = None) -> str:
        """Keep `data` and return its SHA-256. Raises `MismatchError` when it is not the `expected` one."""
        digest = sha256(data)
        if expected is not None and digest != expected:
            raise MismatchError(
                "content does not have the digest it was asked for by",
                details=[("wanted", expected), ("found", digest)],
            )
        path = self._path(digest)
        if not path.exists():
            write_file(path, data)
        return digest
