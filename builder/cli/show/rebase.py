"""The results of a rebase, as tables and text."""

from __future__ import annotations

from collections.abc import Sequence

from builder.cli.console import Console
from builder.documents.lock import Lock, overlay_lines
from builder.pipeline.workspace import Workspace
from builder.upkeep.rebase.judge import OverlayJudgement
from builder.upkeep.rebase.plan import Rebase
from builder.upkeep.rebase.writing import RebasedFiles, fate, files_of, version_of


def cell(judged: OverlayJudgement) -> str:
    """One overlay on one base in a few words."""
    if judged.verdict == "applies":
        return f"applies ({judged.moved} of {judged.hunks} hunks moved)" if judged.moved else "applies"
    if judged.verdict == "already in":
        return "already in: drop it"
    if judged.verdict == "merges":
        part = f", {judged.present} of {judged.hunks} hunks are in already" if judged.present else ""
        return f"merges three-way{part}"
    files = len({each.path for each in judged.conflicts})
    return f"conflict ({len(judged.conflicts)} in {files} {'file' if files == 1 else 'files'})"


def show_matrix(name: str, results: Sequence[Rebase], console: Console) -> None:
    """One table for the recipe `name`: an overlay a row, a base a column."""
    names = [each.id for each in results[0].overlays]
    rows = [[name, *(cell(result.overlays[index]) for result in results)] for index, name in enumerate(names)]
    rows.append(["profiles", *(_profiles(result) for result in results)])
    shared = _shared([result.base for result in results])
    columns = [result.base.removeprefix(shared) for result in results]
    console.table(["overlay", *columns], rows, title=f"{name} on {shared}…" if shared else f"{name} on other bases")
    noted = any(each.note for result in results for each in result.overlays)
    if noted or any(result.conflicts or result.profiles.findings for result in results):
        console.out("One --base alone shows the conflicts, the findings in profiles, and what the lock would become.")


def _shared(bases: Sequence[str]) -> str:
    """What all bases begin with, up to their tag or version: it goes into the title, so that columns stay narrow."""
    first, last = min(bases), max(bases)
    same = next((index for index, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    begin = first[:same]
    return begin[: max(begin.rfind(letter) for letter in ":=/") + 1]


def _profiles(result: Rebase) -> str:
    found = result.profiles.findings
    if not found:
        return "not judged" if result.profiles.unknown is None else "all flags known"
    names = [(f"--{each.finding.flag}" if each.finding.flag else each.finding.rule, each.profile) for each in found]
    return ", ".join(dict.fromkeys(f"{name} ({profile})" for name, profile in names))


def show_one(result: Rebase, lock: Lock, console: Console) -> None:
    """The overlays one by one, their conflicts with both sides, and what the profiles lose."""
    console.table(
        ["overlay", "on this base", "note"],
        [[each.id, cell(each), each.note or "-"] for each in result.overlays],
        title=f"{lock.name} on {result.base} ({lock.package} {result.version})",
    )
    for line in overlay_lines(overlay.summary() for overlay in lock.overlays):
        console.out(line)
    for judged in result.overlays:
        for conflict in judged.conflicts:
            place = f"{conflict.path}, line {conflict.line}" if conflict.line else conflict.path
            console.out(f"conflict of {judged.id}: {place}: {conflict.why}")
            if conflict.shown:
                console.out("\n".join(f"    {line}" for line in conflict.shown.splitlines()))
    if result.profiles.unknown is None:
        console.out(f"The profiles' flags cannot all be judged: {result.profiles.gap}")
    for each in result.profiles.findings:
        hint = f"; {each.finding.hint.splitlines()[0]}" if each.finding.hint else ""
        console.out(f"profile {each.profile}: {each.finding.message}{hint}")
    broken = [each.id for each in result.overlays if each.verdict == "conflict"]
    if broken and result.profiles.findings:
        console.out(f"The profiles were judged without {', '.join(broken)}.")


def show_becomes(workspace: Workspace, result: Rebase, written: RebasedFiles | None, console: Console) -> None:
    """What recipe and lock would become; in part when something is in conflict (`written` is None)."""
    lock = workspace.lock
    rows = [["base", lock.base.reference, result.base]]
    if written is not None:
        rows.append(["digest", _short(lock.base.digest), _short(written.made.lock.base.digest)])
    rows.append([lock.package, version_of(lock), result.version])
    if written is not None:
        new = written.made.lock
        rows.append(["files changed", str(len(files_of(lock))), str(len(files_of(new)))])
        rows.append(["inputs", lock.inputs[:12], new.inputs[:12]])
    fates = written.fates if written is not None else tuple((each.id, fate(each)) for each in result.overlays)
    rows += [["overlay", *each] for each in fates]
    console.table(["lock", "now", "then"], rows)
    if broken := [each.id for each in result.overlays if each.verdict == "conflict"]:
        console.out(f"next: bring {', '.join(broken)} to {result.base} by hand, and give the diff as a local file")


def _short(digest: str) -> str:
    kind, _, value = digest.partition(":")
    return f"{kind}:{value[:12]}"
