"""Several files written as one: all of them or none, also when the process is killed between two of them.

Each file is first written beside its place. Then a journal beside the outermost of them lists what takes whose place;
from here on the change is decided, and whoever comes next finishes it. Before, it has not happened.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from builder.util.errors import InputError
from builder.util.files import literal, read_regular, sha256, what_to_do, write_file
from builder.util.holding import holding

JOURNAL = ".builder-journal.json"
_LIMIT = 16 << 20
_FORMAT = 1


def write_files(files: Mapping[Path, bytes], *, root: Path | None = None) -> None:
    """Write several files, all or none: first each beside its place, then each into it, in the order given.

    When one cannot be written, or the run is interrupted, those before it are put back as they were. When the process is
    killed, `finish` on `root`, the folder that holds them all, does the rest. A file that has its content already is left
    alone; an existing one keeps its mode. Raises `InputError` for a folder that cannot be written.
    """
    if root is None:
        _write(files, None)
        return
    with holding(root):
        finish(root)
        _clear_staged(files)
        _write(files, root)


def _write(files: Mapping[Path, bytes], root: Path | None) -> None:
    staged: list[tuple[Path, Path]] = []
    done: list[tuple[Path, bytes | None, int]] = []
    made: list[Path] = []
    path = Path()
    journal: Path | None = None
    try:
        for path, data in files.items():
            old = path.read_bytes() if path.is_file() else None
            if old == data:
                continue
            made += _make_folder(path.parent)
            temporary = path.with_name(f".{path.name[:100]}.{sha256(data)[:16]}.new")
            mode = path.stat().st_mode & 0o777 if old is not None else 0o644
            staged.append((temporary, path))
            write_file(temporary, data, mode=mode)
        if root is not None and len(staged) > 1:
            path = journal = root / JOURNAL
            _write_journal(journal, root, staged, {path: sha256(files[path]) for _, path in staged})
        for temporary, path in staged:
            done.append((path, path.read_bytes() if path.is_file() else None, _mode(path)))
            temporary.replace(path)
    except BaseException as error:
        _undo(staged, done, made)
        if journal is not None:
            with suppress(OSError):
                journal.unlink()
        if isinstance(error, OSError):
            hint = f"nothing was written; {what_to_do(error)}"
            raise InputError(f"cannot write {path}: {error.strerror}", hint=hint) from error
        raise
    if journal is not None:
        _durable({path.parent for _, path in staged})
        journal.unlink(missing_ok=True)


def _clear_staged(files: Iterable[Path]) -> None:
    """Remove what runs have left that were killed before they had decided anything. Their folder is held."""
    for path in files:
        for leftover in path.parent.glob(f".{literal(path.name[:100])}.*.new"):
            with suppress(OSError):
                leftover.unlink()


def _mode(path: Path) -> int:
    return path.stat().st_mode & 0o777 if path.is_file() else 0o644


def _undo(staged: list[tuple[Path, Path]], done: list[tuple[Path, bytes | None, int]], made: list[Path]) -> None:
    for target, content, mode in reversed(done):
        if content is None:
            # What could not be replaced, such as a folder of that name, is still there, and not ours.
            if target.is_file():
                target.unlink()
        else:
            write_file(target, content, mode=mode)
    for temporary, _ in staged:
        # On a file system that is read-only, a file that does not exist cannot be removed either.
        with suppress(OSError):
            temporary.unlink()
    for folder in reversed(made):
        with suppress(OSError):
            folder.rmdir()


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and its parents; those that were missing, outermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()][::-1]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _write_journal(journal: Path, root: Path, staged: list[tuple[Path, Path]], digests: Mapping[Path, str]) -> None:
    steps = [
        {"from": os.path.relpath(temporary, root), "to": os.path.relpath(path, root), "sha256": digests[path]}
        for temporary, path in staged
    ]
    write_file(journal, json.dumps({"format": _FORMAT, "steps": steps}).encode())


def _durable(folders: set[Path]) -> None:
    """Renames reach the disk before the journal goes."""
    for folder in folders:
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def finish(root: Path, *, say: Callable[[str], object] = lambda _text: None) -> None:
    """Finish what a killed run had decided to write below `root`. Nothing is done when there is no journal.

    Raises `InputError` when the journal is damaged, or names something outside `root`.
    """
    journal = root / JOURNAL
    if not journal.is_file():
        return
    with holding(root):
        try:
            data = read_regular(journal, limit=_LIMIT)
        except FileNotFoundError:
            # Its writer was alive, and is done.
            return
        for temporary, target, digest in _steps(data, root):
            if not temporary.is_file():
                continue
            if sha256(temporary.read_bytes()) != digest:
                raise InputError(
                    f"{temporary} is not what a killed run had written",
                    hint=f"see whether {target} is as it should be, then delete {journal}",
                )
            with suppress(FileNotFoundError):
                temporary.replace(target)
                say(f"finished writing {target}, which a killed run had begun")
        with suppress(OSError):
            journal.unlink()


def _steps(data: bytes, root: Path) -> list[tuple[Path, Path, str]]:
    try:
        document = json.loads(data)
        if document["format"] != _FORMAT:
            raise ValueError("another format")
        steps = [(root / each["from"], root / each["to"], str(each["sha256"])) for each in document["steps"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{root / JOURNAL} is damaged", hint="see whether recipe and lock are as they should be, then delete it"
        ) from error
    for temporary, target, _ in steps:
        if not (_is_ours(temporary.parent, root) and _is_ours(target.parent, root)) or target.name.startswith("."):
            raise InputError(
                f"{root / JOURNAL} names {target}, which is not a file of the project",
                hint="no run of this tool wrote it: delete it",
            )
    return steps


def _is_ours(folder: Path, root: Path) -> bool:
    """Whether a folder is in the project, after links, and not in a hidden one: a journal may come with a repository, and
    must not reach `.git`."""
    real, top = folder.resolve(), root.resolve()
    return real.is_relative_to(top) and not any(part.startswith(".") for part in real.relative_to(top).parts)
