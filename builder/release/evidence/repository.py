"""The project's own repository, for provenance: its root, commit, state and remote, read with GitPython.

Nothing of the caller's environment decides which repository is meant, and nothing that the repository's configuration names is
run: file system monitors and hooks are off.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from git import Repo

_UNNAMED = "the provenance names no commit of the project's repository: {}"
_FOLDERS = ("images", "overlays", "profiles", "wheels", "files")
_OFF = ["core.fsmonitor=false", f"core.hooksPath={os.devnull}"]


@dataclass(frozen=True)
class Repository:
    """A work tree at a commit. `remote` has no user and no password.

    `dirty` means that tracked files differ from the commit, or that it lacks files of a project's folders.
    """

    root: Path
    commit: str
    dirty: bool
    remote: str | None


def find_repository(folder: Path, *, warn: Callable[[str], object] = lambda _text: None) -> Repository | None:
    """The repository that contains `folder`, or None. `warn` is called when there is one and its commit cannot be told."""
    place = folder.resolve()
    if not any((each / ".git").exists() for each in (place, *place.parents)):
        # GitPython takes longer to import than all the rest of a publication takes to prepare.
        return None
    try:
        import git
    except ImportError:
        # GitPython asks for git as it is imported.
        warn(_UNNAMED.format("git is not installed"))
        return None
    try:
        with git.Repo(folder, search_parent_directories=True) as repo:
            if repo.working_tree_dir is None:
                return None
            root = Path(repo.git_dir).parent if Path(repo.git_dir).name == ".git" else Path(repo.working_tree_dir)
            _pin(repo, root)
            commit = repo.head.commit.hexsha
            dirty = repo.is_dirty(untracked_files=False) or _lacks_files(repo, place)
            return Repository(root, commit, dirty, _remote(repo))
    except (git.GitError, ValueError, OSError) as error:
        warn(_UNNAMED.format(_why(error)))
        return None


def _lacks_files(repo: Repo, project: Path) -> bool:
    """Whether files of the project's folders are not tracked: the commit is not where the recipe is from."""
    places = [str(project / name) for name in _FOLDERS if (project / name).is_dir()]
    return bool(places) and bool(repo.git.ls_files("--others", "--exclude-standard", "--", *places))


def _why(error: Exception) -> str:
    """What git or GitPython reports, in one line."""
    text = str(getattr(error, "stderr", "") or error)
    if "dubious ownership" in text:
        return "it belongs to another user: git config --global --add safe.directory FOLDER"
    if "does not exist" in text and isinstance(error, ValueError):
        return "it has no commit yet"
    if "could not be resolved" in text:
        return "the object of its commit is missing or damaged"
    if type(error).__name__ == "InvalidGitRepositoryError":
        return f"git does not take {text} for a repository"
    lines = [line.strip(" '") for line in text.splitlines() if line.strip() and not line.strip().startswith("stderr:")]
    return lines[0][:200] if lines else "git cannot read it"


def _pin(repo: Repo, root: Path) -> None:
    """Have git look at this repository, whatever GIT_DIR and the like say, without locks, prompts and programs of others."""
    repo.git.update_environment(
        GIT_DIR=str(repo.git_dir),
        GIT_WORK_TREE=str(root),
        GIT_INDEX_FILE=str(Path(repo.git_dir) / "index"),
        GIT_OBJECT_DIRECTORY=str(Path(repo.common_dir) / "objects"),
        GIT_ALTERNATE_OBJECT_DIRECTORIES="",
        GIT_OPTIONAL_LOCKS="0",
        GIT_TERMINAL_PROMPT="0",
    )
    repo.git.set_persistent_git_options(c=_OFF)


def _remote(repo: Repo) -> str | None:
    """The address of `origin`, else of the only remote."""
    names = [remote.name for remote in repo.remotes]
    name = "origin" if "origin" in names else names[0] if len(names) == 1 else None
    if name is None:
        return None
    url = str(repo.config_reader().get_value(f'remote "{name}"', "url", ""))
    parts = urlsplit(url)
    if parts.scheme and parts.netloc:
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    return url or None
