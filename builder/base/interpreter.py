"""Where the Python of an image imports from: the folders of its `sys.path`, in their order, without running it.

Source: CPython 3.11-3.13 `Modules/getpath.py` (prefix, `pyvenv.cfg` beside the program as it was called), `Lib/site.py`
(user site, `.pth` files) and Debian's patch of it (`dist-packages`); Docker's default PATH.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from builder.base.snapshot import LayerEntry

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SYSTEM = frozenset(each.strip("/") for each in _DEFAULT_PATH.split(":"))
_LINKS = 40
_POINTERS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONUSERBASE")
_EXECUTABLE = 0o111


class Files(Protocol):
    """An image's files, as far as they are known. Paths are from `/`, without the leading slash."""

    def entry(self, path: str) -> LayerEntry | None:
        """The entry at a path, all layers together; links are not followed."""

    def text(self, path: str) -> str:
        """The content of a small file; empty when it is unknown."""


@dataclass(frozen=True)
class Interpreter:
    """The image's `python3`. `program` is None when PATH has none; `version` is `3.12`, or empty when it is unknown."""

    program: str | None
    version: str
    places: tuple[str, ...]
    """Folders that are imported from, the first one first, as they are after following links."""


def is_plain(environment: Mapping[str, str]) -> bool:
    """Whether nothing in the environment points Python anywhere but to the system's own places."""
    path = {each.strip("/") for each in environment.get("PATH", _DEFAULT_PATH).split(":")}
    return path <= _SYSTEM and not any(environment.get(name) for name in _POINTERS)


def first_places(settings: Mapping[str, Any], environment: Mapping[str, str]) -> tuple[str, ...]:
    """What is imported from before any site folder, without the leading slash: the folders and zip files of PYTHONPATH,
    and before them the working folder, when the entrypoint is `python -m ...` or `python -c ...`."""
    parts = environment.get("PYTHONPATH", "").split(":")
    if runs_module(settings, environment):
        parts.insert(0, settings.get("WorkingDir") or "")
    return tuple(dict.fromkeys(_clean(part) for part in parts if part.startswith("/") and _clean(part)))


def runs_module(settings: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
    """Whether an image is started as `python -m ...` or `python -c ...`, which import from the working folder first."""
    command = [*(settings.get("Entrypoint") or []), *(settings.get("Cmd") or [])]
    program = command[0].rpartition("/")[2] if command else ""
    return program.startswith("python") and bool({"-m", "-c"} & set(command)) and not environment.get("PYTHONSAFEPATH")


def path_files(files: Files, places: Iterable[str], names: Callable[[str], Iterable[str]]) -> dict[str, list[str]]:
    """The absolute folders and zip files that `.pth` files add behind each of `places`. `names` lists a folder."""
    found: dict[str, list[str]] = {}
    for place in places:
        for name in sorted(names(place)):
            if not name.endswith(".pth"):
                continue
            for line in files.text(f"{place}/{name}").splitlines():
                # A line that begins with `import` is run; others that are relative begin at the place itself.
                text = line.strip()
                if not text or text.startswith(("#", "import ", "import\t")):
                    continue
                path = resolve(files, text if text.startswith("/") else f"{place}/{text}")
                if path:
                    found.setdefault(place, []).append(path)
    return found


def _clean(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def resolve(files: Files, path: str) -> str | None:
    """The path after following all links in it, those of its last part too. None for a circle of links."""
    done: list[str] = []
    waiting = [part for part in path.split("/") if part not in ("", ".")][::-1]
    links = 0
    while waiting:
        part = waiting.pop()
        if part == "..":
            del done[-1:]
            continue
        found = files.entry("/".join([*done, part]))
        if found is None or found.kind != "symlink":
            done.append(part)
            continue
        links += 1
        if links > _LINKS:
            return None
        if found.target.startswith("/"):
            done = []
        waiting += [each for each in found.target.split("/") if each not in ("", ".")][::-1]
    return "/".join(done)


def find_interpreter(
    files: Files, environment: Mapping[str, str], first: Iterable[str], user: str, versions: Iterable[str]
) -> Interpreter:
    """The Python that `python3` is in a container. `first` is what `first_places` gives, `versions` are those that the
    package's places name.

    A program that does not say which Python it is (`usr/bin/python3`) is taken for the only one of `versions`.
    """
    first = [found for part in first if (found := resolve(files, part)) is not None]
    program = _program(files, environment.get("PATH") or _DEFAULT_PATH)
    if program is None:
        return Interpreter(None, "", tuple(first))
    real = resolve(files, program) or program
    prefix = _parent(_parent(program))
    settings = _settings(files, prefix)
    version = _version(real, settings, versions)
    if settings is None:
        prefix = _parent(_parent(real))
        places = [*_user_places(environment, user, version), *_site_places(prefix, version)]
    else:
        places = _site_places(resolve(files, prefix) or prefix, version)
        if settings.get("include-system-site-packages", "").lower() == "true":
            home = resolve(files, settings.get("home", "").strip("/")) or ""
            places += [*_user_places(environment, user, version), *_site_places(_parent(home), version)]
    resolved = [found for place in places if (found := resolve(files, place)) is not None]
    return Interpreter(program, version, tuple(dict.fromkeys([*first, *resolved])))


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _program(files: Files, path: str) -> str | None:
    """The first `python3` of PATH, by the name that it is called by; one that is executable before one that is not."""
    found: list[tuple[str, int]] = []
    for part in path.split(":"):
        if not part.startswith("/"):
            continue
        folder = resolve(files, part)
        if folder is None:
            continue
        name = f"{folder}/python3" if folder else "python3"
        real = resolve(files, name)
        entry = files.entry(real) if real is not None else None
        if entry is not None and entry.kind in ("file", "hardlink"):
            found.append((name, entry.mode))
    executable = [name for name, mode in found if mode & _EXECUTABLE]
    return executable[0] if executable else found[0][0] if found else None


def _settings(files: Files, prefix: str) -> dict[str, str] | None:
    """`pyvenv.cfg` of a virtual environment, beside the program or in the folder above; None when there is none."""
    for path in (f"{prefix}/bin/pyvenv.cfg", f"{prefix}/pyvenv.cfg"):
        if files.entry(path.strip("/")) is not None:
            pairs = (line.partition("=") for line in files.text(path.strip("/")).splitlines() if "=" in line)
            return {key.strip().lower(): value.strip() for key, _, value in pairs}
    return None


def _version(real: str, settings: Mapping[str, str] | None, versions: Iterable[str]) -> str:
    named = re.search(r"python(3\.\d+)$", real)
    if named is not None:
        return named[1]
    written = (settings or {}).get("version_info") or (settings or {}).get("version") or ""
    match = re.match(r"3\.\d+", written)
    if match is not None:
        return match[0]
    known = set(versions)
    return next(iter(known)) if len(known) == 1 else ""


def _user_places(environment: Mapping[str, str], user: str, version: str) -> list[str]:
    if not version or environment.get("PYTHONNOUSERSITE"):
        return []
    name = user.partition(":")[0]
    home = environment.get("HOME", "").strip("/") or ("root" if name in ("", "0", "root") else f"home/{name}")
    base = environment.get("PYTHONUSERBASE", "").strip("/") or f"{home}/.local"
    return [f"{base}/lib/python{version}/site-packages"]


def _site_places(prefix: str, version: str) -> list[str]:
    """The site folders of a Python with this prefix, in the order in which `site.py` adds them."""
    if not version:
        return []
    name = f"python{version}"
    if prefix not in ("", "usr"):
        return [f"{prefix}/lib/{name}/site-packages", f"{prefix}/lib64/{name}/site-packages"]
    # Debian's and Fedora's own Python, which have other folders; an image has those of one of them.
    return [
        f"usr/local/lib/{name}/dist-packages",
        f"usr/local/lib64/{name}/site-packages",
        f"usr/local/lib/{name}/site-packages",
        "usr/lib/python3/dist-packages",
        f"usr/lib/{name}/dist-packages",
        f"usr/lib64/{name}/site-packages",
        f"usr/lib/{name}/site-packages",
    ]
