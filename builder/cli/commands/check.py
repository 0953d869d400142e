"""`builder check`: would this recipe build, and would its profiles run? Nothing is built and nothing is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from builder.cli.app import common_options, offline_option
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import EXIT_INPUT

if TYPE_CHECKING:
    from builder.pipeline.plan import Plan
    from builder.pipeline.workspace import Workspace


@click.command(name="check")
@click.argument("recipe")
@click.option("--diff", "show_diff", is_flag=True, help="Print the change that the whole stack makes.")
@offline_option
@common_options
def command(recipe: str, show_diff: bool, context: Context, console: Console) -> None:
    """Apply RECIPE's stack to the base's real files, on a copy, report what it does, and lint the profiles against it.

    Errors in a profile exit with 2.
    """
    from builder.documents.lock import overlay_lines
    from builder.patch.unified import COLUMNS, notes, rows, unified_diff
    from builder.pipeline.workspace import open_workspace

    workspace = open_workspace(recipe, context=context)
    plans = workspace.plans()
    about = {overlay.id: overlay.about() for overlay in workspace.lock.overlays}
    document = []
    for plan in plans:
        result = plan.result
        console.table(
            COLUMNS,
            rows(result),
            title=f"{workspace.lock.name} on {workspace.lock.base.reference} ({plan.platform})",
        )
        for line in overlay_lines(overlay.summary() for overlay in workspace.lock.overlays):
            console.out(line)
        for note in notes(result):
            console.out(note)
        _show_brought(plan, console)
        if len(result.overlays) > 1:
            console.out(
                "The overlays touch different files: their order does not matter to the result."
                if result.disjoint
                else "Overlays touch the same files: their order matters."
            )
        document.append(
            {
                "platform": str(plan.platform),
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
                    for each in plan.locked.installed
                ],
                "files": [each.model_dump(mode="json") for each in plan.locked.added],
                "unmet": list(plan.locked.unmet),
                "diff": unified_diff(result) if show_diff else None,
            }
        )
        if show_diff:
            console.out(unified_diff(result).rstrip("\n"))
    profiles, failed = _lint(workspace, plans[0], console=console)
    default_note = _default_note(workspace)
    if default_note is not None:
        console.warn(default_note)
    console.document(
        {
            "name": workspace.lock.name,
            "inputs": workspace.lock.inputs,
            "platforms": document,
            "default_profile": workspace.lock.default_profile,
            "notes": [default_note] if default_note is not None else [],
            "profiles": profiles,
        }
    )
    if failed:
        raise click.exceptions.Exit(EXIT_INPUT)


def _show_brought(plan: Plan, console: Console) -> None:
    """What wheels and `files:` bring, each with its digest, and what is required in vain."""
    for each in plan.locked.installed:
        if each.file is None:
            console.out(f"wheel: {each.replaces} is removed")
            continue
        instead = f" instead of {each.replaces}" if each.replaces else ""
        console.out(f"wheel: {each.name}=={each.version}{instead}{' (native code)' if each.native else ''}")
        console.out(f"  sha256 {each.sha256}  {each.file}")
    for file in plan.locked.added:
        console.out(f"file: /{file.path} from {file.source} ({file.size:,} B)")
    for line in plan.locked.unmet:
        console.out(f"requirement: {line}")
    if plan.locked.installed and not plan.locked.unmet:
        console.out("Everything that the base's distributions and the wheels require is there.")


def _default_note(workspace: Workspace) -> str | None:
    """What `docker run IMAGE` does when the image has no default profile; None when it has one."""
    lock = workspace.lock
    if lock.default_profile is not None:
        return None
    if not lock.profiles:
        return "no profile: `docker run IMAGE` serves nothing, and exits with 2 unless a model is named"
    return (
        f"no default profile among {', '.join(profile.name for profile in lock.profiles)}: `docker run IMAGE` lists them "
        "and exits with 2 (default_profile: NAME in the recipe chooses one)"
    )


def _lint(workspace: Workspace, plan: Plan, *, console: Console) -> tuple[list[dict[str, Any]], bool]:
    """Lint the recipe's profiles against the patched package; the reports, and whether there is an error in one."""
    if not workspace.recipe.profiles:
        return [], False
    from builder.cli.show.lint import show
    from builder.pipeline.judge import judge_of_stack

    judge = judge_of_stack(
        workspace.project, workspace.recipe, workspace.lock, plan.platform, plan.result, context=workspace.context
    )
    reports = [judge.lint(workspace.project.profiles / f"{name}.yaml") for name in workspace.recipe.profiles]
    for report in reports:
        console.out("")
        show(report, console, brief=console.verbosity < 1)
    if console.verbosity < 1:
        console.out("\n`builder profile lint NAME --recipe RECIPE` has the place of each finding and what to do.")
    failed = any(report.failed for report in reports)
    for prompt, completion in judge.budgets:
        judged = [
            each
            for report in reports
            for each in report.serves
            if (each.prompt, each.completion) == (prompt, completion)
        ]
        if not any(each.serves for each in judged):
            console.out(f"error: no profile of {workspace.recipe.name} serves the envelope of its recipe")
            failed = True
    return [report.as_json() for report in reports], failed
