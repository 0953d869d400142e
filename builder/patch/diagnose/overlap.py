"""Overlays that carry each other's hunks, and what to do about it. What is advised was tried on the files first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from builder.patch.hunks import Text, result_at
from builder.patch.locate import placed
from builder.patch.model import HunkCause, HunkFailure, Overlay
from builder.patch.placement import in_place
from builder.patch.select import Selection
from builder.patch.tree import Step, Tree, apply_change

_PRESENT: tuple[HunkCause, ...] = ("already-in-base", "already-supplied")


def advice(
    overlay: Overlay,
    selection: Selection,
    failures: Sequence[HunkFailure],
    total: int,
    before: Tree,
    steps: Sequence[Step],
) -> str:
    """What to do next, in one or two lines."""
    causes = Counter(failure.cause for failure in failures)
    present = sum(causes[cause] for cause in _PRESENT)
    if total and present == total:
        return _all_there(overlay.id, failures, total)
    owners = _owners(failures, steps)
    if owners:
        replaced = _replaces(overlay, selection, steps, owners)
        if replaced is not None:
            return replaced
    if present and present == len(failures):
        return _some_there(overlay.id, selection, failures, total, before)
    if causes["ambiguous"]:
        return _ambiguous(overlay, selection, steps)
    if causes["blocked"]:
        return "the overlays are in the wrong order: see which one must come first, and move it up in the recipe"
    if causes["missing-file"] and causes["missing-file"] == len(failures):
        taken = _taken_away(overlay, selection, before, steps)
        if taken is not None:
            return taken
        return f"{overlay.id} is made for another version of the package: it changes files that this base does not have"
    if causes["blanks"] == len(failures):
        return (
            f"an editor, a mail or a page has changed {overlay.id} on its way, or it was made for files with other line endings:\n"
            "take it again from where it was made, as a file, or make it with `git diff` from the base's own files"
        )
    said = f"{_said(failures)}\n" if present else ""
    return f"{said}{overlay.id} is made for other lines than this base and the overlays before it have: rebase it, or use the base it was made for"


def _taken_away(overlay: Overlay, selection: Selection, before: Tree, steps: Sequence[Step]) -> str | None:
    """What to do about the first earlier overlay that deletes or moves a file which this one changes; None without one."""
    gone = [
        change.old_path for change in selection.changes if change.old_path is not None and change.old_path not in before
    ]
    for index, step in enumerate(steps):
        if not any(path in step.before and path not in step.after for path in gone):
            continue
        name = step.overlay.id
        said = f"{name} takes away a file that {overlay.id} changes: "
        if _settles(overlay, selection, steps, index):
            return f"{said}put {overlay.id} before {name} in the recipe"
        return f"{said}drop one of them, or make {overlay.id} again for the files after {name}"
    return None


def _of(count: int, total: int) -> str:
    return f"{count} of {total} hunks"


def _listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _ambiguous(overlay: Overlay, selection: Selection, steps: Sequence[Step]) -> str:
    """Where lines repeat: the order, when that settles it, else line numbers that are this base's."""
    for index in reversed(range(len(steps))):
        if _settles(overlay, selection, steps, index):
            return f"the lines repeat: put {overlay.id} before {steps[index].overlay.id} in the recipe"
    return (
        f"the lines repeat, and nothing tells which are meant: look at them in the base. Drop {overlay.id} if the change is\n"
        "there; else give it as a local file whose `@@ -LINE` names the right ones in this base"
    )


def _settles(overlay: Overlay, selection: Selection, steps: Sequence[Step], index: int) -> bool:
    """Whether all goes where it belongs when the overlay comes before the step `index`."""
    done, tree = list(steps[:index]), steps[index].before
    for each, chosen in [(overlay, selection), *((step.overlay, step.selection) for step in steps[index:])]:
        after = _applied(chosen, tree) if in_place(chosen, tree, done, each.headings) else None
        if after is None:
            return False
        done.append(Step(each, chosen, tree, after))
        tree = after
    return True


def _all_there(name: str, failures: Sequence[HunkFailure], total: int) -> str:
    owners = Counter(failure.supplied_by for failure in failures)
    if list(owners) == [None]:
        said = f"all of it ({_of(total, total)}) is already in the base: merged upstream in this base; drop {name}"
        # A diff from the new files to the old ones looks the same. One of a pull request is never that.
        return (
            said
            if "#" in name
            else f"{said};\nif it was made from the new files to the old ones, make it the other way round"
        )
    if len(owners) == 1:
        return f"{_of(total, total)} of {name} are already supplied by {next(iter(owners))}; drop {name}"
    parts = [f"{count} {f'by {owner}' if owner else 'in the base'}" for owner, count in owners.items()]
    return f"{_of(total, total)} of {name} are there already: {_listed(parts)}; drop {name}"


def _said(failures: Sequence[HunkFailure]) -> str:
    """`2 hunks are already supplied by A, 1 is already in the base`."""
    counts = Counter(failure.supplied_by for failure in failures if failure.cause in _PRESENT)
    parts = [
        f"{count} {'hunk is' if count == 1 else 'hunks are'} already {f'supplied by {owner}' if owner else 'in the base'}"
        for owner, count in counts.items()
    ]
    return _listed(parts)


def _owners(failures: Sequence[HunkFailure], steps: Sequence[Step]) -> list[str]:
    """The earlier overlays that are in the way, in the order of the stack."""
    names = {failure.supplied_by for failure in failures if failure.supplied_by}
    made = {failure.path for failure in failures if failure.cause == "exists"}
    names |= {step.overlay.id for step in steps if any(path in step.after and path not in step.before for path in made)}
    return [step.overlay.id for step in steps if step.overlay.id in names]


def _replaces(overlay: Overlay, selection: Selection, steps: Sequence[Step], owners: Sequence[str]) -> str | None:
    """That the overlay carries earlier ones, when it applies without them: all of them, else the first that it does with."""
    for names in [list(owners), *([name] for name in owners if len(owners) > 1)]:
        tree = _replayed(steps, names)
        tree = _applied(selection, tree) if tree is not None else None
        if tree is None:
            continue
        found = [(step.overlay.id, *_carried(step.selection, tree)) for step in steps if step.overlay.id in names]
        if all(count == total for _, count, total in found):
            carries = _listed([f"{f'all {n} hunks' if n > 1 else 'the one hunk'} of {name}" for name, _, n in found])
            return f"{overlay.id} carries {carries}: remove {_listed(names)} from the recipe"
        if any(count for _, count, _ in found):
            carries = _listed([f"{_of(count, total)} of {name}" for name, count, total in found])
            return (
                f"{overlay.id} carries {carries}, and applies without {'it' if len(names) == 1 else 'them'}: remove\n"
                f"{_listed(names)} if {overlay.id} takes the place; if both are needed, take out of one what both have"
            )
    return None


def _replayed(steps: Sequence[Step], without: Collection[str]) -> Tree | None:
    """The files after the stack so far without some of its overlays; None when another needs them."""
    tree: Tree | None = steps[0].before
    for step in steps:
        if tree is not None and step.overlay.id not in without:
            tree = _applied(step.selection, tree)
    return tree


def _applied(selection: Selection, tree: Tree) -> Tree | None:
    for change in selection.changes:
        source = tree.get(change.old_path) if change.old_path is not None else None
        spots = placed(Text.of(source.data if source else b""), change)
        outcome = apply_change(tree, change, spots) if spots is not None else None
        if outcome is None:
            return None
        tree = outcome
    return tree


def _carried(selection: Selection, tree: Tree) -> tuple[int, int]:
    """How many of an overlay's hunks have their result in the tree, of how many.

    What a hunk finds may be elsewhere in the file too; that its result is present is enough.
    """
    count = total = 0
    for change in selection.changes:
        hunks = max(1, len(change.hunks))
        total += hunks
        content = tree.get(change.path)
        if content is None or change.kind == "delete":
            count += hunks if content is None and change.kind == "delete" else 0
            continue
        text = content.text
        there = [bool(result_at(text, hunk)) for hunk in change.hunks]
        count += sum(there) if there else 1
    return count, total


def _some_there(name: str, selection: Selection, failures: Sequence[HunkFailure], total: int, before: Tree) -> str:
    """Some hunks are there and all others would fit: without those the overlay applies, if it does."""
    only_base = all(failure.supplied_by is None for failure in failures)
    if only_base:
        said = f"some of it ({_of(len(failures), total)}) is already in the base: part of {name} was merged upstream"
    else:
        said = f"{_of(len(failures), total)} of {name} are there already: {_said(failures)}"
    lines = {failure.diff_line for failure in failures}
    changes = []
    for change in selection.changes:
        hunks = tuple(hunk for hunk in change.hunks if hunk.diff_line not in lines)
        if change.diff_line not in lines and (hunks or not change.hunks):
            changes.append(replace(change, hunks=hunks))
    if changes and _applied(replace(selection, changes=tuple(changes)), before) is not None:
        return f"{said};\nwithout the hunks named above the rest applies: give it as a local diff that leaves them out"
    if only_base:
        return f"{said};\ntake a version of the diff that is made for this base"
    return f"{said};\nthe two overlap in part: take out of one what both have, and give it as a local diff"
