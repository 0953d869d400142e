"""Why an overlay does not apply: for each hunk the place, what was wanted, what was found, and the cause."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from types import MappingProxyType

from builder.patch.diagnose.atonce import at_once, said_of
from builder.patch.diagnose.blanks import differs_in_blanks
from builder.patch.diagnose.overlap import advice
from builder.patch.hunks import Text, context, found_at, old_index, old_lines, result_at
from builder.patch.locate import as_placed, has_result, locate, nearest, placed
from builder.patch.model import FileChange, Hunk, HunkFailure, Overlay
from builder.patch.placement import Places, resolve
from builder.patch.select import Selection
from builder.patch.tree import StackError, Step, Tree, apply_change, change_in

_SHOWN_LINES = 3
_SHOWN_FAILURES = 12


def explain(
    overlay: Overlay,
    selection: Selection,
    before: Tree,
    steps: Sequence[Step],
    later: Sequence[Overlay],
    *,
    said: str,
) -> StackError:
    """The error for an overlay that GNU patch, or the comparison after it, refused. `said` is what patch printed."""
    failures = find_failures(selection, before, steps, later, overlay.headings)
    total = sum(max(1, len(change.hunks)) for change in selection.changes)
    details: list[tuple[str, str]] = []
    groups = _grouped(failures)
    for group in groups[:_SHOWN_FAILURES]:
        details += _details(overlay, group)
    if more := sum(len(group) for group in groups[_SHOWN_FAILURES:]):
        details.append(("more", f"{more} more hunks; --json lists all of them"))
    if not failures:
        # Every hunk fits by our own reading, and still the result is not what the hunks say.
        details = [("where", overlay.where), ("patch", said or "GNU patch printed nothing")]
    moving = at_once(selection.changes, failures, before)
    if moving is not None:
        details.append(("why", f"{overlay.where}, line {moving.diff_line}: {said_of(moving)}"))
        hint = "make the diff with `git diff --no-renames`: it says the same, and has no such order"
    elif not failures:
        hint = "make the diff as one, with `git diff --no-renames` between the first files and the last ones"
    elif (doubled := _doubled(selection, failures)) is not None:
        first, second = doubled
        hint = f"it changes {first.path} twice in the same way, at lines {first.diff_line} and {second.diff_line} of {overlay.where}: remove one"
    elif _newest_first(overlay, selection, before, steps, later):
        hint = "its commits are newest first, and apply the other way round: make it with `git log --patch --reverse`, or with\n`git format-patch`"
    else:
        hint = advice(overlay, selection, failures, total, before, steps)
    return StackError(
        f"overlay {overlay.id} does not apply to the stack ({len(failures)} of {total} hunks)",
        overlay=overlay.id,
        failures=failures,
        details=details,
        hint=f"{hint}\nnothing was written",
        data={"failures": [asdict(failure) for failure in failures], "hunks": total, "patch_output": said},
    )


def _doubled(selection: Selection, failures: Sequence[HunkFailure]) -> tuple[FileChange, FileChange] | None:
    """Two sections of a diff that are the same, of which the second cannot apply: as when a file was put together twice."""
    failed = {failure.diff_line for failure in failures}
    seen: dict[tuple[object, ...], FileChange] = {}
    for change in selection.changes:
        bodies = tuple((hunk.old_start, hunk.body) for hunk in change.hunks)
        first = seen.setdefault((change.kind, change.old_path, change.new_path, bodies), change)
        if first is not change and not failed.isdisjoint(
            {change.diff_line, *(hunk.diff_line for hunk in change.hunks)}
        ):
            return first, change
    return None


def _newest_first(
    overlay: Overlay, selection: Selection, before: Tree, steps: Sequence[Step], later: Sequence[Overlay]
) -> bool:
    """Whether all commits of a series apply from the last to the first, which is how `git log` prints them."""
    changes = tuple(sorted(selection.changes, key=lambda change: -change.commit))
    if changes == selection.changes:
        return False
    return not find_failures(replace(selection, changes=changes), before, steps, later, overlay.headings)


def find_failures(
    selection: Selection,
    before: Tree,
    steps: Sequence[Step],
    later: Sequence[Overlay],
    headings: Mapping[str, Mapping[int, str]] = MappingProxyType({}),
) -> tuple[HunkFailure, ...]:
    """Every hunk (or whole-file change, number 0) that does not fit the tree, with its cause."""
    tree = dict(before)
    base = steps[0].before if steps else before
    failures: list[HunkFailure] = []
    for change in selection.changes:
        source = tree.get(change.old_path) if change.old_path is not None else None
        places = resolve(selection, change, source.text if source else Text(()), base, steps, headings)
        found = _change_failures(change, tree, places, base, steps, later)
        if found:
            failures += found
            continue
        spots = as_placed(change.hunks, places.spots)
        if spots is not None:
            change_in(tree, change, spots)
    return tuple(_with_doubles(selection, before, failures, base, steps))


def _change_failures(
    change: FileChange, tree: Tree, places: Places, base: Tree, steps: Sequence[Step], later: Sequence[Overlay]
) -> list[HunkFailure]:
    whole = HunkFailure(change.path, 0, change.diff_line, "context", "")
    if change.kind == "add":
        return [_exists(change, whole, tree, base, steps)] if change.path in tree else []
    source = tree.get(change.old_path or "")
    if source is None and change.kind == "rename" and change.path in tree:
        return [_renamed(change, whole, tree, base, steps)]
    if source is None:
        return [_missing(change, whole, base, steps, later)]
    if change.kind in ("rename", "copy") and change.new_path in tree:
        return [replace(whole, cause="exists", explanation=f"{change.new_path} exists already")]
    text = source.text
    failures = [
        _with_header(_hunk_failure(change, hunk, number, text, base, steps, later), hunk)
        for number, (hunk, spot) in enumerate(zip(change.hunks, places.spots, strict=True), 1)
        if spot is None
    ]
    if places.failures:
        failures = sorted([*failures, *places.failures], key=lambda failure: failure.number)
    if (
        not failures
        and change.kind == "delete"
        and not change.carried_out
        and len(text.lines) != len(old_lines(change.hunks[0]) if change.hunks else ())
    ):
        failures.append(replace(whole, cause="differs", explanation="the file has more lines than the diff deletes"))
    return failures


def _present(change: FileChange, hunk: Hunk, number: int, base: Tree, steps: Sequence[Step]) -> HunkFailure | None:
    """The hunk as one whose result is there: in the base, or by the first overlay after which it is."""
    path = change.old_path or change.path

    def there(tree: Tree) -> bool:
        content = tree.get(path)
        return content is not None and bool(result_at(content.text, hunk))

    failure = HunkFailure(
        path, number, hunk.diff_line, "already-in-base", "", wanted=_shown(old_lines(hunk)),
        wanted_line=max(hunk.old_start, 1),
    )  # fmt: skip
    if there(base):
        return replace(failure, explanation="the hunk's result is already in the base: merged upstream")
    for position, step in enumerate(steps, 1):
        if there(step.after):
            said = f"the hunk's result is already there, put there by overlay {position}, {step.overlay.id}"
            return replace(failure, cause="already-supplied", supplied_by=step.overlay.id, explanation=said)
    return None


def _with_doubles(
    selection: Selection, before: Tree, failures: Sequence[HunkFailure], base: Tree, steps: Sequence[Step]
) -> list[HunkFailure]:
    """Add the hunks that would fit a second time although their result is there, when all that fails is there already."""
    # A hunk of these that fits a second time is there as the others are.
    known = {failure.diff_line: failure for failure in failures if failure.cause != "ambiguous"}
    if not known or any(each.cause not in ("already-in-base", "already-supplied") for each in known.values()):
        return list(failures)
    doubtful = {failure.diff_line: failure for failure in failures if failure.cause == "ambiguous"}
    ordered: list[HunkFailure] = []
    for change in selection.changes:
        source = before.get(change.old_path or "")
        text = Text.of(source.data if source else b"")
        if change.diff_line in known:
            ordered.append(known[change.diff_line])
        for number, hunk in enumerate(change.hunks, 1):
            if hunk.diff_line in known:
                ordered.append(known[hunk.diff_line])
            elif change.diff_line not in known and result_at(text, hunk):
                found = _present(change, hunk, number, base, steps)
                ordered += [found] if found is not None else []
            elif hunk.diff_line in doubtful:
                ordered.append(doubtful[hunk.diff_line])
    return ordered


def _exists(change: FileChange, whole: HunkFailure, tree: Tree, base: Tree, steps: Sequence[Step]) -> HunkFailure:
    wanted = apply_change({}, change, placed(Text(()), change) or [])
    same = wanted is not None and wanted[change.path].data == tree[change.path].data
    if change.path in base:
        if same and base[change.path].data == tree[change.path].data:
            return replace(
                whole, cause="already-in-base", explanation="the base has this new file already, with the same content"
            )
        return replace(
            whole, cause="exists", explanation="the diff makes this file, but the base has one with other content"
        )
    owner = next((step.overlay.id for step in steps if change.path in step.after), None)
    if owner is None:
        return replace(whole, cause="exists", explanation="an earlier part of the same diff makes this file already")
    if same:
        return replace(
            whole,
            cause="already-supplied",
            supplied_by=owner,
            explanation=f"{owner} has already made this file, with the same content",
        )
    return replace(
        whole, cause="exists", explanation=f"the diff makes this file, but {owner} has already made another one"
    )


def _renamed(change: FileChange, whole: HunkFailure, tree: Tree, base: Tree, steps: Sequence[Step]) -> HunkFailure:
    """A rename whose old name is gone and whose new one is there: it was made already, or something else was."""
    text = tree[change.path].text
    same = all(result_at(text, hunk) for hunk in change.hunks)
    renamer = next(
        (step.overlay.id for step in steps if change.path in step.after and change.path not in step.before), None
    )
    where = f"{change.old_path} is {change.path} already"
    if not same:
        return replace(whole, cause="exists", explanation=f"{where}, with other content")
    if renamer is None and change.path in base:
        return replace(whole, cause="already-in-base", explanation=f"{where} in the base, with what the diff changes")
    return replace(
        whole,
        cause="already-supplied",
        supplied_by=renamer,
        explanation=f"{where}, by {renamer}, with what the diff changes",
    )


def _missing(
    change: FileChange, whole: HunkFailure, base: Tree, steps: Sequence[Step], later: Sequence[Overlay]
) -> HunkFailure:
    path = change.old_path or change.path
    remover = next((step.overlay.id for step in steps if path in step.before and path not in step.after), None)
    verb = "deletes" if change.kind == "delete" else "changes"
    moved_to = next(
        (c.path for step in steps for c in step.selection.changes if c.kind == "rename" and c.old_path == path), None
    )
    if remover is not None and moved_to is not None:
        return replace(
            whole, cause="missing-file", explanation=f"the diff {verb} {path}, which {remover} moved to {moved_to}"
        )
    if change.kind == "delete":
        if remover is not None:
            return replace(
                whole,
                cause="already-supplied",
                supplied_by=remover,
                explanation=f"{remover} has already deleted {path}",
            )
        if path not in base:
            return replace(
                whole, cause="already-in-base", explanation=f"the diff deletes {path}, which the base does not have"
            )
    if remover is not None:
        return replace(whole, cause="missing-file", explanation=f"the diff {verb} {path}, which {remover} deleted")
    maker = next(
        (each.id for each in later if any(c.kind == "add" and c.path == path for c in each.diff.changes)), None
    )
    if maker is not None:
        return replace(
            whole, cause="blocked", explanation=f"the diff {verb} {path}, which {maker} makes: {maker} must come first"
        )
    return replace(whole, cause="missing-file", explanation=f"the diff {verb} {path}, which the base does not have")


def _hunk_failure(
    change: FileChange, hunk: Hunk, number: int, text: Text, base: Tree, steps: Sequence[Step], later: Sequence[Overlay]
) -> HunkFailure:
    path = change.old_path or change.path
    wanted = old_lines(hunk)
    failure = HunkFailure(
        path, number, hunk.diff_line, "context", "", wanted=_shown(wanted), wanted_line=max(hunk.old_start, 1)
    )
    # First of all the order: a hunk that takes back what a later overlay adds looks as if the base had it already.
    maker = _later_maker(path, wanted, text, later)
    if maker is not None:
        said = f"these lines come from {maker}, which is later in the stack: it must come first"
        return _with_nearest(replace(failure, cause="blocked", explanation=said), text, wanted, old_index(hunk))
    if has_result(text, hunk):
        if path in base and has_result(base[path].text, hunk):
            return replace(
                failure,
                cause="already-in-base",
                explanation="the hunk's result is already in the base: merged upstream",
            )
        owner = next((s.overlay.id for s in steps if path in s.after and has_result(s.after[path].text, hunk)), None)
        if owner is not None:
            position = next(i for i, s in enumerate(steps, 1) if s.overlay.id == owner)
            return replace(
                failure,
                cause="already-supplied",
                supplied_by=owner,
                explanation=f"the hunk's result is already there, put there by overlay {position}, {owner}",
            )
    breaker = _breaker(path, hunk, steps)
    edge = _edge(text, hunk)
    if edge:
        added = f", where {breaker.overlay.id} added lines" if breaker is not None else ""
        said = f"the diff shows that it belongs to the file's {edge}{added}: it is elsewhere"
        return replace(failure, explanation=said)
    if breaker is not None:
        said = f"it fits the bare base, but {breaker.overlay.id} changed these lines"
        failure = replace(failure, explanation=said)
    elif said := differs_in_blanks(text, hunk):
        return replace(failure, cause="blanks", explanation=said)
    return _with_nearest(failure, text, wanted, old_index(hunk))


def _with_header(failure: HunkFailure, hunk: Hunk) -> HunkFailure:
    """The failure with the header that was taken, where the diff's own counts a line less."""
    if not hunk.header:
        return failure
    said = f"{failure.explanation}; a line of context follows that its header does not count: `{hunk.header}` would"
    return replace(failure, explanation=said)


def _breaker(path: str, hunk: Hunk, steps: Sequence[Step]) -> Step | None:
    """The overlay after which a hunk no longer fits, when it did before."""
    fitted = False
    for step in steps:
        for tree in (step.before, step.after):
            content = tree.get(path)
            fits = content is not None and locate(content.text, hunk) is not None
            if fitted and not fits:
                return step
            fitted = fits
    return None


def _edge(text: Text, hunk: Hunk) -> str:
    """`beginning` or `end` for a hunk that would fit in the middle of the file, and goes there only."""
    if not found_at(text, hunk):
        return ""
    head, tail = context(hunk)
    return "beginning" if head < tail and hunk.old_start <= 1 else "end" if head and not tail else ""


def _later_maker(path: str, wanted: Sequence[bytes], text: Text, later: Sequence[Overlay]) -> str | None:
    """The later overlay that adds a wanted line which the file does not have."""
    absent = {line for line in wanted if line not in text.index}
    if not absent:
        return None
    for overlay in later:
        for change in overlay.diff.changes:
            if change.path == path and any(
                line[:1] == b"+" and line[1:] in absent for hunk in change.hunks for line in hunk.lines
            ):
                return overlay.id
    return None


def _with_nearest(failure: HunkFailure, text: Text, wanted: Sequence[bytes], expected: int) -> HunkFailure:
    spot = nearest(text, wanted, expected)
    if spot is None:
        said = failure.explanation or "nothing in the file resembles the lines that the hunk wants"
        found = text.lines[max(0, expected) : max(0, expected) + _SHOWN_LINES]
        return replace(failure, explanation=said, found=_shown(found), found_line=expected + 1)
    start = max(0, spot.index + spot.differs_at)
    said = failure.explanation or (
        f"{spot.agreeing} of {len(wanted)} lines are at line {max(spot.index, 0) + 1}; line {start + 1} is the first that differs"
    )
    return replace(
        failure,
        explanation=said,
        wanted=_shown(wanted[spot.differs_at :]),
        wanted_line=failure.wanted_line + spot.differs_at,
        found=_shown(text.lines[start : start + _SHOWN_LINES]),
        found_line=start + 1,
    )


def _shown(lines: Sequence[bytes]) -> tuple[str, ...]:
    return tuple(line.decode("utf-8", "replace") for line in lines[:_SHOWN_LINES])


def _grouped(failures: Sequence[HunkFailure]) -> list[list[HunkFailure]]:
    """Hunks of one file that are present already are reported together: there is nothing to look at in each."""
    groups: list[list[HunkFailure]] = []
    for failure in failures:
        last = groups[-1][-1] if groups else None
        if (
            last is not None
            and failure.cause in ("already-in-base", "already-supplied")
            and (failure.path, failure.cause, failure.explanation) == (last.path, last.cause, last.explanation)
        ):
            groups[-1].append(failure)
        else:
            groups.append([failure])
    return groups


def _details(overlay: Overlay, group: Sequence[HunkFailure]) -> list[tuple[str, str]]:
    failure = group[0]
    if len(group) > 1:
        numbers = [str(each.number) for each in group]
        hunks = f"hunks {', '.join(numbers[:-1])} and {numbers[-1]}"
        return [
            ("where", f"{failure.path}, {hunks} (from line {failure.diff_line} of {overlay.where})"),
            ("found", failure.explanation.replace("the hunk's result is", "their results are")),
        ]
    hunk = f", hunk {failure.number}" if failure.number else ""
    details = [("where", f"{failure.path}{hunk} (line {failure.diff_line} of {overlay.where})")]
    if failure.wanted:
        details.append(
            ("wanted", "\n".join([f"at line {failure.wanted_line}:", *(f"  {line}" for line in failure.wanted)]))
        )
    details.append(("found", failure.explanation))
    if failure.found:
        details.append(
            ("there", "\n".join([f"at line {failure.found_line}:", *(f"  {line}" for line in failure.found)]))
        )
    return details
