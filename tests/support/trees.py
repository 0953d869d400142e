"""Package trees and diffs that tests make at run time."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from builder.base.model import BaseFile, Distribution, EntryKind
from builder.patch.diff import parse
from builder.patch.model import Overlay


@dataclass
class DictTree:
    """A `PackageTree` over a mapping; `special` holds entries that are no regular files."""

    files: Mapping[str, bytes]
    special: Mapping[str, BaseFile] = field(default_factory=dict)
    executable: Collection[str] = ()
    root: str = "usr/local/lib/python3.12/dist-packages"
    python: str = "3.12"
    distribution: Distribution = field(default_factory=lambda: Distribution("vllm", "0.20.0", "vllm-0.20.0.dist-info"))

    def read(self, paths: Collection[str]) -> Mapping[str, BaseFile]:
        found: dict[str, BaseFile] = {}
        for path in paths:
            blocked = next((each for each in self.special if path == each or path.startswith(f"{each}/")), None)
            if blocked is not None:
                found[blocked] = self.special[blocked]
            elif path in self.files:
                found[path] = BaseFile(path, "file", 0o755 if path in self.executable else 0o644, self.files[path])
            elif any(each.startswith(f"{path}/") for each in self.files):
                found[path] = BaseFile(path, "directory", 0o755)
        return found

    def children(self, folder: str) -> Mapping[str, EntryKind]:
        prefix = f"{folder}/" if folder else ""
        below = [path.removeprefix(prefix).split("/") for path in self.files if path.startswith(prefix)]
        return {parts[0]: "file" if len(parts) == 1 else "directory" for parts in below}

    def outside(self, paths: Collection[str]) -> Mapping[str, BaseFile]:
        return {}


def git(folder: Path, *arguments: str, stdin: bytes | None = None) -> bytes:
    """Run git away from any configuration but its defaults."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, input=stdin, capture_output=True, check=True,
        env={
            "PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C",
            "GIT_AUTHOR_NAME": "A. Author", "GIT_AUTHOR_EMAIL": "author@example.org",
            "GIT_COMMITTER_NAME": "A. Author", "GIT_COMMITTER_EMAIL": "author@example.org",
            "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
        },
    )  # fmt: skip
    return done.stdout


def write_tree(folder: Path, files: Mapping[str, bytes]) -> None:
    for path, data in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)


def git_diff(tmp: Path, before: Mapping[str, bytes], after: Mapping[str, bytes], *options: str) -> bytes:
    """What `git diff` prints between two trees."""
    return git(_changed(tmp, before, after), "diff", "--cached", "--no-color", "--no-ext-diff", *options)


def git_diffs(tmp: Path, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> dict[str, bytes]:
    """What `git diff` prints of each file that differs, as if it were the only one."""
    folder = _changed(tmp, before, after)
    paths = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
    words = ("diff", "--cached", "--no-color", "--no-ext-diff", "--")
    return {path: git(folder, *words, f":(literal){path}") for path in paths}


def _changed(tmp: Path, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> Path:
    """A repository with `before` committed and `after` staged."""
    folder = tmp / "repository"
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    write_tree(folder, before)
    git(folder, "add", "-A", "-f")
    git(folder, "commit", "-q", "--allow-empty", "-m", "before")
    for path in before:
        if path not in after:
            (folder / path).unlink()
    write_tree(folder, after)
    git(folder, "add", "-A", "-f")
    return folder


def overlay(name: str, diff: bytes, *, fuzz: int = 0, accept: Mapping[str, str] | None = None) -> Overlay:
    return Overlay(name, parse(diff, name), name, fuzz, dict(accept or {}))
