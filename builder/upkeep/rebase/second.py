"""A second opinion of a clean merge: git's whole-tree merge, which compares lines by another algorithm than `git merge-file`.

Where blocks of lines are alike, the two can put a change to different places, both without a conflict, and neither is
trusted alone.
"""

from __future__ import annotations

import difflib
import tempfile
from pathlib import Path

from builder.upkeep.rebase.threeway import Conflict, LineMerge, Merged, conflicts_of, git_failed, quiet
from builder.util.process import run

_NAME = "file"
_OTHERWISE = "git merge-file and git merge put these lines to different places"
_UNSURE = "git merge-file merges these lines, git merge does not: what they belong to is not certain"


def doubts(merged: Merged) -> tuple[Conflict, ...]:
    """What git's merge of whole trees says otherwise of the files that `git merge-file` merged. Raises `InputError` without git."""
    return tuple(conflict for each in merged.lines for conflict in _doubts(each))


def _doubts(merge: LineMerge) -> list[Conflict]:
    with tempfile.TemporaryDirectory(prefix="builder-merge-") as name:
        folder = Path(name)
        for words, data in (
            (("init", "--quiet", "--template=", "--initial-branch=ours"), b""),
            (("fast-import", "--quiet"), _commits(merge)),
            (("reset", "--quiet", "--hard"), b""),
        ):
            done = run(["git", *words], cwd=folder, stdin=data, extra_env=_environment(folder))
            if done.returncode != 0:
                raise git_failed(merge.path, done.output)
        # git merge does so by itself since 2.34.
        how = (
            "-c",
            "merge.conflictStyle=diff3",
            "merge",
            "--quiet",
            "--no-commit",
            "-X",
            "diff-algorithm=histogram",
            "theirs",
        )
        done = run(["git", *how], cwd=folder, extra_env=_environment(folder))
        if done.returncode not in (0, 1):
            raise git_failed(merge.path, done.output)
        found = (folder / _NAME).read_bytes()
    if done.returncode == 1:
        return conflicts_of(merge.path, _labelled(found, merge.labels), merge.ours, _UNSURE)
    if found == merge.result:
        return []
    return [_difference(merge, found)]


def _environment(folder: Path) -> dict[str, str]:
    people = {f"GIT_{who}_{what}": "builder" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return {**quiet(folder / ".git"), **people}


def _commits(merge: LineMerge) -> bytes:
    """For `git fast-import`: the old file, and a child of it on each side."""
    stream = []
    for mark, (branch, data) in enumerate((("ours", merge.old), ("ours", merge.ours), ("theirs", merge.theirs)), 1):
        head = f"commit refs/heads/{branch}\nmark :{mark}\ncommitter builder <builder> 0 +0000\ndata 0\n"
        parent = "from :1\n" if mark > 1 else ""
        stream.append(f"{head}{parent}M 100644 inline {_NAME}\ndata {len(data)}\n".encode() + data + b"\n\n")
    return b"".join(stream)


def _labelled(merged: bytes, labels: tuple[str, str, str]) -> bytes:
    """The file with the names of the sides behind its markers."""
    lines = []
    for line in merged.split(b"\n"):
        if line == b"<<<<<<< HEAD":
            line = f"<<<<<<< {labels[0]}".encode()  # noqa: PLW2901
        elif line.startswith(b"||||||| "):
            line = f"||||||| {labels[1]}".encode()  # noqa: PLW2901
        elif line == b">>>>>>> theirs":
            line = f">>>>>>> {labels[2]}".encode()  # noqa: PLW2901
        lines.append(line)
    return b"\n".join(lines)


def _difference(merge: LineMerge, other: bytes) -> Conflict:
    """One conflict with both results, at the first line of the new base's file that either changes and the other does not."""
    one, two, base = (data.decode("utf-8", "replace").splitlines() for data in (merge.result, other, merge.ours))
    shown = "\n".join(difflib.unified_diff(one, two, "git merge-file", "git merge", lineterm=""))
    same = next((index for index, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    # Lines above are the same in both results; in the base they are as many, less what both add there.
    before = difflib.SequenceMatcher(None, base, one[:same], autojunk=False).get_matching_blocks()
    line = max((block.a + block.size for block in before if block.size), default=0)
    return Conflict(merge.path, _OTHERWISE, min(line + 1, max(1, len(base))), shown)
