"""`builder check`: would this recipe build, and would its profiles run? Nothing is built and nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from builder.cli.app import common_options, offline_option
from builder.cli.commands.names import recipe_names
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import EXIT_INPUT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from builder.documents.lock import Lock, LockedPlatform
    from builder.documents.recipe import Recipe
    from builder.documents.reference import Platform
    from builder.patch.model import StackResult
    from builder.util.project import Project


@click.command(name="check")
@click.argument("recipe", shell_complete=recipe_names)
@click.option("--diff", "show_diff", is_flag=True, help="Print the change that the whole stack makes.")
@offline_option
@common_options
def command(recipe: str, show_diff: bool, context: Context, console: Console) -> None:
    """Apply RECIPE's stack to the base's real files, on a copy, report what it does, and lint the profiles against it.

    Nothing is written: without a lock, the recipe is resolved as `builder lock` would, and that is said. Errors in a
    profile exit with 2.
    """
    from builder.documents.lock import overlay_lines
    from builder.patch.unified import COLUMNS, notes, rows, unified_diff

    opened = _open(recipe, context=context)
    lock = opened.lock
    about = {overlay.id: overlay.about() for overlay in lock.overlays}
    document = []
    for platform, result in opened.results:
        locked = lock.base.platforms[str(platform)]
        console.table(
            COLUMNS,
            rows(result),
            title=f"{lock.name} on {lock.base.reference} ({platform})",
        )
        for line in overlay_lines(overlay.summary() for overlay in lock.overlays):
            console.out(line)
        for note in notes(result):
            console.out(note)
        _show_brought(locked, console)
        if len(result.overlays) > 1:
            console.out(
                "The overlays touch different files: their order does not matter to the result."
                if result.disjoint
                else "Overlays touch the same files: their order matters."
            )
        document.append(
            {
                "platform": str(platform),
                "disjoint": result.disjoint,
                "overlays": [
                    {
                        "id": overlay.id,
                        **about[overlay.id],
                        "digest": overlay.digest,
                        "files": list(overlay.files),
                        "hunks": [
                            {
                                "path": hunk.path,
                                "hunk": hunk.number,
                                "line": hunk.line,
                                "offset": hunk.offset,
                                "fuzz": hunk.fuzz,
                                "chosen": hunk.chosen or None,
                            }
                            for hunk in overlay.hunks
                        ],
                        "dropped": [{"path": dropped.path, "reason": dropped.reason} for dropped in overlay.dropped],
                    }
                    for overlay in result.overlays
                ],
                "notes": notes(result),
                "wheels": [
                    each.model_dump(
                        mode="json", include={"id", "name", "version", "file", "sha256", "native", "replaces"}
                    )
                    for each in locked.installed
                ],
                "files": [each.model_dump(mode="json") for each in locked.added],
                "unmet": list(locked.unmet),
                "diff": unified_diff(result) if show_diff else None,
            }
        )
        if show_diff:
            console.data(unified_diff(result).rstrip("\n"))
    profiles, failed = _lint(opened, console=console, context=context)
    default_note = _default_note(lock)
    if default_note is not None:
        console.warn(default_note)
    if not opened.locked:
        console.out(
            f"{opened.project.show(opened.project.lock_path)} does not exist: nothing is pinned yet. "
            f"Next: builder lock {opened.project.recipe}"
        )
    console.document(
        {
            "name": lock.name,
            "locked": opened.locked,
            "inputs": lock.inputs,
            "platforms": document,
            "default_profile": lock.default_profile,
            "notes": [default_note] if default_note is not None else [],
            "profiles": profiles,
        }
    )
    if failed:
        raise click.exceptions.Exit(EXIT_INPUT)


def _show_brought(locked: LockedPlatform, console: Console) -> None:
    """What wheels and `files:` bring, each with its digest, and the requirements that are not met."""
    for each in locked.installed:
        if each.file is None:
            console.out(f"wheel: {each.replaces} is removed")
            continue
        instead = f" instead of {each.replaces}" if each.replaces else ""
        console.out(f"wheel: {each.name}=={each.version}{instead}{' (native code)' if each.native else ''}")
        console.out(f"  sha256 {each.sha256}  {each.file}")
    for file in locked.added:
        console.out(f"file: /{file.path} from {file.source} ({file.size:,} B)")
    for line in locked.unmet:
        console.out(f"requirement: {line}")
    if locked.installed and not locked.unmet:
        console.out("Everything that the base's distributions and the wheels require is there.")


def _default_note(lock: Lock) -> str | None:
    """What `docker run IMAGE` does when the image has no default profile; None when it has one."""
    if lock.default_profile is not None:
        return None
    if not lock.profiles:
        return "no profile: `docker run IMAGE` serves nothing, and exits with 2 unless a model is named"
    return (
        f"no default profile among {', '.join(profile.name for profile in lock.profiles)}: `docker run IMAGE` lists them "
        "and exits with 2 (default_profile: NAME in the recipe chooses one)"
    )


@dataclass(frozen=True)
class _Opened:
    """A recipe with its lock, or with the lock that it would get, and what the stack gives on each platform."""

    project: Project
    recipe: Recipe
    lock: Lock
    results: Sequence[tuple[Platform, StackResult]]
    locked: bool


def _open(name: str, *, context: Context) -> _Opened:
    from builder.documents.recipe import load_recipe
    from builder.documents.reference import Platform
    from builder.pipeline.locking.make import make_lock
    from builder.pipeline.workspace import open_workspace
    from builder.util.project import find_project

    project = find_project(name)
    if project.lock_path.is_file():
        workspace = open_workspace(name, context=context)
        results = [(plan.platform, plan.result) for plan in workspace.plans()]
        return _Opened(project, workspace.recipe, workspace.lock, results, locked=True)
    recipe = load_recipe(project.recipe_path)
    made = make_lock(project, recipe, None, context=context)
    found = [(Platform.parse(platform), result) for platform, result in made.results.items()]
    return _Opened(project, recipe, made.lock, found, locked=False)


def _lint(opened: _Opened, *, console: Console, context: Context) -> tuple[list[dict[str, Any]], bool]:
    """Lint the recipe's profiles against the patched package; the reports, and whether there is an error in one."""
    recipe = opened.recipe
    if not recipe.profiles:
        return [], False
    from builder.cli.show.lint import show
    from builder.pipeline.judge import judge_of_stack

    platform, result = opened.results[0]
    judge = judge_of_stack(opened.project, recipe, opened.lock, platform, result, context=context)
    reports = [judge.lint(opened.project.profiles / f"{name}.yaml") for name in recipe.profiles]
    for report in reports:
        console.out("")
        show(report, console, brief=console.verbosity < 1)
    if console.verbosity < 1 and any(report.findings for report in reports):
        console.out(
            f"\n`builder profile lint NAME --recipe {opened.project.recipe}` has the place of each finding and what to do."
        )
    failed = any(report.failed for report in reports)
    for prompt, completion in judge.budgets:
        judged = [
            each
            for report in reports
            for each in report.serves
            if (each.prompt, each.completion) == (prompt, completion)
        ]
        if not any(each.serves for each in judged):
            console.fail(f"no profile of {recipe.name} serves the envelope of its recipe")
            failed = True
    return [report.as_json() for report in reports], failed
