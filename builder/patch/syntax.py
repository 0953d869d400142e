"""Is a changed file still Python for the base? The base's own version of the interpreter decides, in a process of its own.

A deeply nested source ends an interpreter (a stack overflow, a MemoryError), so no file is ever compiled in this process.
An interpreter of another version cannot say that a file is sound: a newer one may still refuse it, and that counts.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from builder.util.files import cache_dir, sha256
from builder.util.process import Finished, TimeLimitError, run, starting

_NEWEST = 20
_SECONDS = 120
_MEMORY = 4 << 30
_MOST_PROCESSES = 4
# What one process compiles in some 30 ms, three times as long as it takes to start.
_SHARE_BYTES = 300_000

# Reads files (length and bytes), and prints one line for each: what is wrong with it, or null. Whatever ends the process
# is what the first file without a line does.
_JUDGE = f"""
import json, struct, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, ({_MEMORY}, {_MEMORY}))
    resource.setrlimit(resource.RLIMIT_CPU, ({_SECONDS}, {_SECONDS}))
except (ImportError, ValueError, OSError):
    pass
source = sys.stdin.buffer
while head := source.read(8):
    data = source.read(struct.unpack("<Q", head)[0])
    said = None
    try:
        judge(data)
    except (RecursionError, MemoryError) as error:
        said = [0, "it is nested too deeply: " + type(error).__name__]
    except SyntaxError as error:
        said = [error.lineno or 0, error.msg or "invalid syntax"]
    except (ValueError, LookupError) as error:
        said = [0, str(error)]
    print(json.dumps(said), flush=True)
"""

_COMPILE = """
def judge(data):
    compile(data, "file", "exec", dont_inherit=True)
"""
# LibCST parses every Python up to its newest, whatever runs it.
_LIBCST = """
import libcst
def judge(data):
    try:
        libcst.parse_module(data)
    except libcst.ParserSyntaxError as error:
        raise SyntaxError(error.message, ("file", error.raw_line, 0, "")) from None
    except RecursionError:
        pass
"""


@dataclass(frozen=True)
class Problem:
    """A syntax error: its line (from 1, or 0 when it has none) and what is wrong."""

    line: int
    message: str


@dataclass(frozen=True)
class Verdict:
    """What is wrong with which file, and why the others were not judged; empty when they were."""

    problems: Mapping[str, Problem] = field(default_factory=dict)
    not_judged: str = ""


def judge(files: Mapping[str, bytes], python: str) -> Verdict:
    """Judge Python files (path to content) by the grammar of `python` (`3.12`), in child processes: one for each core at most.

    That a file is sound is remembered by its content: compiling takes longer than all the rest of a stack.
    """
    kept = f"{cache_dir('compiled')}/{python}-"
    marks = {path: kept + sha256(data) for path, data in files.items()}
    open_ = {path: data for path, data in files.items() if not os.access(marks[path], os.F_OK)}
    if not open_:
        return Verdict()
    program = interpreter(python)
    if program is not None:
        problems = _ask(program, _COMPILE, open_)
        for path in open_.keys() - problems.keys():
            Path(marks[path]).touch()
        found = {path: problem for path, problem in problems.items() if problem is not None}
        left = len(problems) - len(found)
        return Verdict(found, _not_judged(left, f"Python {python} did not end within {_SECONDS} s") if left else "")
    newer = _newer_interpreter(python)
    problems = _ask(newer, _COMPILE, open_) if newer is not None else _ask(sys.executable, _LIBCST, open_)
    # A crash says nothing here: it is not the base's interpreter that ends on the file.
    found = {path: problem for path, problem in problems.items() if problem is not None and not _crashed(problem)}
    return Verdict(found, _not_judged(len(open_) - len(found), f"there is no Python {python} on this machine"))


def syntax_problem(data: bytes, python: str) -> Problem | None:
    """The first syntax error of a Python file by the grammar of `python` (`3.12`), or None."""
    return judge({"file": data}, python).problems.get("file")


def _not_judged(count: int, why: str) -> str:
    if not count:
        return ""
    files = "1 changed Python file" if count == 1 else f"{count} changed Python files"
    return f"the syntax of {files} was not judged: {why}"


def interpreter(python: str) -> str | None:
    """An interpreter of this very version (`3.12`) on this machine: this one, on the PATH, or of pyenv or uv."""
    if python == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    return _found(python, os.environ.get("PATH", ""), os.environ.get("HOME", ""))


@cache
def _found(python: str, path: str, home: str) -> str | None:
    return next((each for each in _places(python, path, home) if _version(each) == python), None)


def _places(python: str, path: str, home: str) -> Iterator[str]:
    found = shutil.which(f"python{python}", path=path)
    # pyenv has a script of this name for each version that it could install. It takes longer to start than all the others.
    script = found is not None and _is_script(found)
    if found is not None and not script:
        yield found
    roots = [Path(os.environ.get("PYENV_ROOT") or Path(home, ".pyenv")) / "versions"]
    roots.append(Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or Path(home, ".local/share/uv/python")))
    for root in roots:
        for pattern in (f"{python}.*", f"cpython-{python}.*"):
            # What this user may not read, as the home folder of another one, has nothing for them.
            with suppress(OSError):
                yield from [str(each) for each in sorted(root.glob(f"{pattern}/bin/python{python}"))]
    if found is not None and script:
        yield found


def _is_script(path: str) -> bool:
    with suppress(OSError), Path(path).open("rb") as file:
        return file.read(2) == b"#!"
    return False


@cache
def _version(program: str) -> str:
    """The version of an interpreter, `3.12`; empty when it does not start (pyenv's shims are such)."""
    try:
        done = run([program, "-I", "-S", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], timeout=60)
    except (TimeLimitError, OSError):
        return ""
    return done.stdout.decode("ascii", "replace").strip() if done.returncode == 0 else ""


def _newer_interpreter(python: str) -> str | None:
    """An interpreter that is newer than the wanted version."""
    major, minor = (int(part) for part in python.split(".")[:2])
    versions = (f"{major}.{number}" for number in range(minor + 1, _NEWEST))
    return next((found for each in versions if (found := interpreter(each)) is not None), None)


def _crashed(problem: Problem) -> bool:
    return problem.line == 0 and "nested too deeply" in problem.message


def _ask(program: str, how: str, files: Mapping[str, bytes]) -> dict[str, Problem | None]:
    """What is wrong with files, by an interpreter; None for one on which it did not end in time."""
    found: dict[str, Problem | None] = {}
    shares = _shared(files)
    while shares:
        with ExitStack() as running:
            started = [
                (share, running.enter_context(_started(program, how, [files[path] for path in share])))
                for share in shares
            ]
            shares = []
            for share, finish in started:
                try:
                    done = finish()
                except TimeLimitError:
                    found |= dict.fromkeys(share)
                    continue
                lines = done.stdout.splitlines()
                for path, line in zip(share, lines, strict=False):
                    said = json.loads(line)
                    if said is not None:
                        found[path] = Problem(int(said[0]), str(said[1]))
                left = share[len(lines) :]
                if left:
                    # The process ended on this file, and says nothing about the others.
                    found[left[0]] = Problem(
                        0, f"it is nested too deeply: the interpreter ends with {_ending(done.returncode)}"
                    )
                shares += [left[1:]] if left[1:] else []
    return found


def _started(program: str, how: str, sources: Sequence[bytes]) -> AbstractContextManager[Callable[[], Finished]]:
    # LibCST is installed where this tool is; nothing else may be imported.
    flags = ["-I", "-W", "ignore"] if how is _LIBCST else ["-I", "-S", "-W", "ignore"]
    data = b"".join(part for each in sources for part in (struct.pack("<Q", len(each)), each))
    return starting([program, *flags, "-c", how + _JUDGE], stdin=data, timeout=2 * _SECONDS)


def _shared(files: Mapping[str, bytes]) -> list[list[str]]:
    """The files by process: as many as there are cores, when each has enough to do to be worth its start."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(cores, _MOST_PROCESSES, 1 + sum(map(len, files.values())) // _SHARE_BYTES)
    shares: list[list[str]] = [[] for _ in range(count)]
    sizes = [0] * count
    for path in sorted(files, key=lambda path: len(files[path]), reverse=True):
        least = sizes.index(min(sizes))
        shares[least].append(path)
        sizes[least] += len(files[path])
    return [share for share in shares if share]


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
