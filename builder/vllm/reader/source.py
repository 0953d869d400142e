"""The patched package, read only: the base's files with the stack's result over them. Nothing of it is imported."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.base.model import PackageTree
from builder.util.files import ContentCache, cache_dir, write_file

# Folders and files that the flags of `vllm serve` and their values come from, in one release or another. They are read
# in one go; what else turns out to be needed is read when it is.
FOLDERS = ("config", "entrypoints/common", "entrypoints/launchers", "entrypoints/openai")
_WANTED_NAMES = ("cli_args.py", "__init__.py")
FILES = (
    "engine/arg_utils.py", "entrypoints/cli/serve.py", "utils/argparse_utils.py", "envs.py",
    "entrypoints/constants.py", "entrypoints/launchers/utils/constants.py", "entrypoints/chat_utils.py",
    "entrypoints/openai/models/protocol.py", "entrypoints/anthropic/protocol.py", "renderers/chat_utils/__init__.py",
    "renderers/chat_utils/types.py", "reasoning/__init__.py", "tool_parsers/__init__.py",
    "tool_parsers/abstract_tool_parser.py", "tool_parsers/tool_strict_level.py", "plugins/__init__.py",
    "platforms/__init__.py", "transformers_utils/config.py", "v1/attention/backends/registry.py",
    "v1/attention/backends/mla/prefill/registry.py", "model_executor/layers/quantization/__init__.py",
    "model_executor/layers/quantization/fp8.py", "model_executor/layers/quantization/turboquant/config.py",
)  # fmt: skip


@dataclass
class Source:
    """Files of one package by path, such as `vllm/engine/arg_utils.py`, parsed when they are asked for."""

    name: str
    """How messages call it: the base, and the stack when there is one."""
    version: str
    package: str
    fetch: Callable[[Collection[str]], Mapping[str, bytes]] = field(repr=False)
    over: Mapping[str, bytes | None] = field(default_factory=dict, repr=False)
    """The stack's result; None for a file that it deletes."""
    _files: dict[str, bytes | None] = field(default_factory=dict, repr=False)
    _trees: dict[str, ast.Module | None] = field(default_factory=dict, repr=False)
    asked: set[str] = field(default_factory=set, repr=False)
    """The paths that were read so far, missing ones included."""

    def load(self, paths: Iterable[str]) -> None:
        """Read several files at once."""
        missing = [path for path in paths if path not in self._files and path not in self.over]
        if missing:
            found = self.fetch(missing)
            self._files |= {path: found.get(path) for path in missing}

    def read(self, path: str) -> bytes | None:
        """A file's content after the stack, or None when there is none."""
        self.asked.add(path)
        if path in self.over:
            return self.over[path]
        self.load([path])
        return self._files[path]

    def text(self, path: str) -> str | None:
        data = self.read(path)
        return data.decode("utf-8", "replace") if data is not None else None

    def tree(self, path: str) -> ast.Module | None:
        """The syntax tree of a Python file; None when it is missing or not Python for the Python that runs this."""
        if path not in self._trees:
            data = self.read(path)
            self._trees[path] = _parse(data) if data is not None else None
        return self._trees[path]


def _parse(data: bytes) -> ast.Module | None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(data)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def from_tree(
    tree: PackageTree,
    *,
    name: str,
    package: str,
    over: Mapping[str, bytes | None] | None = None,
    key: str | None = None,
) -> Source:
    """A source over a base's tree. `key` is the digest of the base: with it, what was read once is kept in the cache."""
    fetch = _cached(tree.read, key) if key is not None else _plain(tree.read)
    source = Source(name, tree.distribution.version, package, fetch, dict(over or {}))
    wanted = _wanted(tree.children, package)
    source.load(wanted)
    if key is not None:
        write_file(_wanted_path(key, package), json.dumps(wanted).encode())
    return source


def from_kept(
    opened: Callable[[], PackageTree],
    *,
    name: str,
    version: str,
    package: str,
    over: Mapping[str, bytes | None],
    key: str,
) -> Source | None:
    """A source from all that an earlier run has read of the base `key`; None when that is not complete.

    The base is opened only when something more is asked for, or what was kept is damaged.
    """
    index = _index(key)
    try:
        wanted = json.loads(_wanted_path(key, package).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(wanted, list) or any(path not in index for path in wanted):
        return None
    trees: list[PackageTree] = []

    def read(paths: Collection[str]) -> Mapping[str, object]:
        if not trees:
            trees.append(opened())
        return trees[0].read(paths)

    source = Source(name, version, package, _cached(read, key), dict(over))
    source.load(wanted)
    return source


def _wanted_path(key: str, package: str) -> Path:
    return cache_dir("sources") / f"{key.removeprefix('sha256:')}-{package}.wanted.json"


def from_cache(*, name: str, version: str, package: str, over: Mapping[str, bytes | None], key: str) -> Source | None:
    """A source from what an earlier run kept of the base `key`, without opening the base; None when nothing is kept.

    A file that was never read counts as absent, and what depends on it comes out as "not checked".
    """
    index = _index(key)
    if not index:
        return None
    cache = ContentCache()

    def fetch(paths: Collection[str]) -> Mapping[str, bytes]:
        found = {path: cache.get(digest) for path in paths if (digest := index.get(path))}
        return {path: data for path, data in found.items() if data is not None}

    return Source(name, version, package, fetch, dict(over))


def from_files(files: Mapping[str, bytes], *, version: str, package: str = "vllm", name: str = "files") -> Source:
    """A source over files at hand."""
    return Source(name, version, package, lambda paths: {path: files[path] for path in paths if path in files})


def _wanted(children: Callable[[str], Mapping[str, str]], package: str) -> list[str]:
    paths = [f"{package}/{path}" for path in FILES]
    for folder in FOLDERS:
        names = children(f"{package}/{folder}")
        everything = folder == "config"
        paths += [
            f"{package}/{folder}/{name}"
            for name in names
            if name.endswith(".py") and (everything or name in _WANTED_NAMES)
        ]
    return paths


Read = Callable[[Collection[str]], Mapping[str, object]]


def _plain(read: Callable[[Collection[str]], Mapping[str, object]]) -> Callable[[Collection[str]], dict[str, bytes]]:
    def fetch(paths: Collection[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for path, entry in read(paths).items():
            if getattr(entry, "kind", "") == "file":
                found[path] = bytes(getattr(entry, "data", b""))
        return found

    return fetch


def _index_path(key: str) -> Path:
    return cache_dir("sources") / f"{key.removeprefix('sha256:')}.json"


def _index(key: str) -> dict[str, str | None]:
    """Path -> SHA-256 of what was read of a base, None for what is not there. Damaged files count as empty."""
    try:
        document = json.loads(_index_path(key).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _cached(read: Read, key: str) -> Callable[[Collection[str]], dict[str, bytes]]:
    """`read` with a memory: the base is pinned by `key`, so that what it has at a path never changes."""
    plain = _plain(read)

    def fetch(paths: Collection[str]) -> dict[str, bytes]:
        cache = ContentCache()
        index = _index(key)
        found: dict[str, bytes] = {}
        missing = []
        for path in paths:
            digest = index.get(path, "")
            data = cache.get(digest) if digest else None
            if data is not None:
                found[path] = data
            elif digest is not None:
                missing.append(path)
        if missing:
            fresh = plain(missing)
            index |= {path: cache.put(fresh[path]) if path in fresh else None for path in missing}
            write_file(_index_path(key), json.dumps(index).encode())
            found |= fresh
        return found

    return fetch
