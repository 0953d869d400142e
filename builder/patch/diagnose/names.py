"""An overlay of which nothing enters the image: which files of the package its names mean, and how to write that."""

from __future__ import annotations

from collections.abc import Sequence

from builder.base.model import PackageTree
from builder.patch.hunks import Text
from builder.patch.installed import Installed, Meant, existing_names, find_meant
from builder.patch.locate import locate_all
from builder.patch.model import FileChange, Overlay
from builder.patch.names import moved
from builder.patch.select import TEST_FOLDERS, NothingEntersError, below
from builder.util.errors import InputError

# How many ways to read the names are told apart by their files' content.
_TOLD_APART = 20


def meant_files(changes: Sequence[FileChange], installed: Installed, tree: PackageTree) -> list[Meant]:
    """The ways to read a diff's names that fit the package best: one, or several that nothing tells apart.

    Of several ways, those remain in whose files all lines of the diff are found.
    """
    found = find_meant(existing_names(changes), installed)
    if len(found) < 2:
        return found
    fitting = [each for each in found[:_TOLD_APART] if _fits(changes, each, tree)]
    return fitting or found


def ways_of_series(patches: Sequence[Sequence[FileChange]], package: str, tree: PackageTree) -> list[Meant | None]:
    """For each patch of a series the one way to read its names, or None when there is none, or more than one.

    A patch that only makes new files says nothing by itself: it is read as all the others are.
    """
    installed = Installed.of(tree, package)
    found = [meant_files(changes, installed, tree) for changes in patches]
    sure = [ways[0] for ways in found if len(ways) == 1]
    common = {(way.strip, way.under) for way in sure}
    result: list[Meant | None] = []
    for ways in found:
        fitting = [way for way in ways if (way.strip, way.under) in common] if len(common) == 1 else []
        if len(ways) == 1:
            result.append(ways[0])
        elif fitting:
            result.append(fitting[0])
        else:
            shared = not ways and len(common) == 1
            result.append(Meant(sure[0].strip, sure[0].under, 0, 0) if shared else None)
    return result


def _fits(changes: Sequence[FileChange], way: Meant, tree: PackageTree) -> bool:
    for change in changes:
        if change.old_path is None:
            continue
        path = moved(change.named, way.strip, way.under)
        entry = tree.read([path]).get(path) if path is not None else None
        if entry is None or entry.kind != "file":
            continue
        if None in locate_all(Text.of(entry.data), change.hunks):
            return False
    return True


def explained(
    error: NothingEntersError,
    overlay: Overlay,
    packages: tuple[str, ...],
    installed: Installed,
    tree: PackageTree,
    *,
    strip: int = 1,
) -> NothingEntersError:
    """The error with the files that are meant, when one of the packages has files of these names."""
    package = packages[0]
    ways = meant_files(overlay.diff.changes, installed, tree)
    # Names that fit as they are read already need no other reading.
    if not ways or (ways[0].strip, ways[0].under) == (strip, ""):
        return error
    first = ways[0]
    where = f"{first.under or package}/"
    reason = f"{first.found} of {first.total} files exist below {where}"
    if len(ways) > 1:
        reason = f"{first.found} of {first.total} files exist below each of {', '.join(f'{each.under or package}/' for each in ways[:5])}"
    lines = "\n".join(f"  {line}" for line in first.lines)
    which = "add these lines" if len(first.lines) > 1 else "add this line"
    hint = f"its names begin elsewhere: {which} to {overlay.id} in the recipe\n{lines}"
    if len(ways) > 1:
        hint += "\nor with another of these folders: the one that the change is for"
    return NothingEntersError(
        f"nothing of overlay {overlay.id} enters the image: no file of it is below {below(packages)}",
        details=[("meant", reason), *(("file", _example(each, first)) for each in overlay.diff.changes[:3])],
        hint=hint,
        data={
            "overlay": overlay.id,
            "meant": [{"strip": w.strip, "under": w.under, "found": w.found, "total": w.total} for w in ways],
        },
    )


def check_left_out(overlay: Overlay, packages: Sequence[str], installed: Installed, tree: PackageTree) -> None:
    """Raise `InputError` for a file outside the packages whose lines are in a file of the package with the rest of its name.

    A diff that was put together of several can have names of two kinds. Those of the other kind would be left out.
    """
    for change in overlay.diff.changes:
        if (
            not change.hunks
            or change.old_path is None
            or change.old_path.partition("/")[0] in (*packages, *TEST_FOLDERS)
        ):
            continue
        for way in find_meant([change.named], installed):
            path = moved(change.named, way.strip, way.under)
            # With the package's name in it, or from the package's folder: not any file that ends alike.
            near = not way.under or (way.under in packages and way.strip <= max(1, overlay.strip))
            if path is None or not near or not _fits([change], way, tree):
                continue
            raise InputError(
                f"overlay {overlay.id} has names of two kinds: {change.named} is {path}, and would be left out",
                details=[
                    ("where", f"{overlay.where}, line {change.diff_line}"),
                    ("why", f"its lines are in {path} of the base"),
                ],
                hint="give its part of the diff as an overlay of its own, with\n"
                + "\n".join(f"  {line}" for line in way.lines)
                + "\nor write the names of all files alike; if it is for another file, take it out of the diff",
                data={"overlay": overlay.id, "left_out": change.named, "meant": path},
            )


def _example(change: FileChange, way: Meant) -> str:
    path = moved(change.named, way.strip, way.under)
    return f"{change.named} is {path}" if path is not None else f"{change.named} stays outside"
