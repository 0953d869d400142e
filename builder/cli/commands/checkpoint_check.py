"""`builder checkpoint check`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli.app import common_options
from builder.cli.commands.names import recipe_names
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import MismatchError

if TYPE_CHECKING:
    from builder.checkpoint.error import TensorError
    from builder.documents.lock import LockedCheckpointFile
    from builder.documents.recipe import OverlaySpec


@click.command(name="check")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--recipe",
    shell_complete=recipe_names,
    help="Judge for the overlays of this recipe, and against its lock when there is one.",
)
@click.option("--error-against", "source", type=click.Path(path_type=Path), metavar="SOURCE",
              help="Read the tables too, and compare them with those of SOURCE.")  # fmt: skip
@common_options
def command(folder: Path, recipe: str | None, source: Path | None, console: Console) -> None:
    """Is the checkpoint in DIR whole, and can the stack of a recipe load it? Reads headers only."""
    from builder.checkpoint.check import check_checkpoint
    from builder.documents.lock import read_lock
    from builder.documents.recipe import load_recipe
    from builder.util.project import find_project

    overlays: tuple[OverlaySpec, ...] | None = None
    locked: tuple[LockedCheckpointFile, ...] = ()
    if recipe is not None:
        project = find_project(recipe)
        overlays = load_recipe(project.recipe_path).overlays
        lock = read_lock(project.lock_path) if project.lock_path.exists() else None
        locked = lock.checkpoint.files if lock is not None and lock.checkpoint is not None else ()
    verdict = check_checkpoint(folder, overlays=overlays, locked=locked)
    document: dict[str, Any] = {
        "checkpoint": str(folder),
        "ok": not verdict.problems,
        "tensors": verdict.tensors,
        "shards": verdict.shards,
        "fp8_tables": list(verdict.fp8_tables),
        "needs": [{"overlay": need.overlay, "what": need.what, "met": need.met} for need in verdict.needs],
        "problems": [{"where": each.where, "what": each.what} for each in verdict.problems],
        "notes": [{"where": each.where, "what": each.what} for each in verdict.notes],
    }
    for note in verdict.notes:
        console.warn(f"{note.where}: {note.what}")
    if verdict.needs:
        console.table(
            ["overlay", "needs", "there"],
            [[need.overlay, need.what, "yes" if need.met else "no"] for need in verdict.needs],
        )
    if verdict.problems:
        raise MismatchError(
            f"the checkpoint at {folder} cannot be served{f' by the stack of {recipe}' if recipe else ''}",
            details=[(each.where, each.what) for each in verdict.problems],
            hint="`builder checkpoint quantize SOURCE DEST` makes one with FP8 tables; a damaged shard must be fetched again",
            data=document,
        )
    if source is not None:
        document["errors"] = _errors(folder, source, console)
    tables = ", ".join(verdict.fp8_tables) or "none"
    console.out(f"{verdict.tensors:,} tensors in {verdict.shards} shards are sound; FP8 vocabulary tables: {tables}")
    console.document(document)


def _errors(folder: Path, source: Path, console: Console) -> list[dict[str, Any]]:
    from builder.checkpoint.error import errors_against

    found = errors_against(folder, source, context=Context(console))
    for each in found:
        console.table(
            ["block's relative RMS error", "blocks", ""],
            [[label, f"{count:,}", "#" * math.ceil(40 * count / max(each.histogram))] for label, count in _bins(each)],
            title=f"{each.name}: relative RMS error {each.relative_rms_error:.4%}, worst block {each.worst_block:.4%}",
        )
    return [
        {
            "name": each.name,
            "relative_rms_error": each.relative_rms_error,
            "worst_block": each.worst_block,
            "histogram": [{"bin": label, "blocks": count} for label, count in _bins(each)],
        }
        for each in found
    ]


def _bins(error: TensorError) -> list[tuple[str, int]]:
    from builder.checkpoint.error import BINS

    begins = (0.0, *BINS[:-1])
    labels = [
        f"{begin} to {end} %" if end < math.inf else f"over {begin} %" for begin, end in zip(begins, BINS, strict=True)
    ]
    return [(label, count) for label, count in zip(labels, error.histogram, strict=True) if count]
