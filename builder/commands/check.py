"""`builder check`: would this recipe build? Nothing is built and nothing is written."""

from __future__ import annotations

import click

from builder.cli import common_options
from builder.console import Console


@click.command(name="check")
@click.argument("recipe")
@click.option("--diff", "show_diff", is_flag=True, help="Print the change that the whole stack makes.")
@click.option("--offline", is_flag=True, help="Use the vendored diffs and the cache only.")
@common_options
def command(recipe: str, show_diff: bool, offline: bool, console: Console) -> None:
    """Apply RECIPE's stack to the base's real files, on a copy, and report what it does."""
    from builder.opened import open_recipe
    from builder.overlay.show import rows, unified_diff

    opened = open_recipe(recipe, console=console, offline=offline)
    plans = opened.plans(console=console, offline=offline)
    about = {overlay.id: overlay.about() for overlay in opened.lock.overlays}
    document = []
    for plan in plans:
        result = plan.result
        console.table(
            ["overlay", "files", "hunks", "offsets", "dropped"],
            rows(result),
            title=f"{opened.lock.name} on {opened.lock.base.reference} ({plan.platform})",
        )
        for name, facts in about.items():
            said = [f"{key.replace('_', ' ')}: {value}" for key, value in facts.items() if value]
            if said:
                console.out(f"{name}  " + " · ".join(said))
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
                            }
                            for hunk in overlay.hunks
                        ],
                        "dropped": [{"path": dropped.path, "reason": dropped.reason} for dropped in overlay.dropped],
                    }
                    for overlay in result.overlays
                ],
                "diff": unified_diff(result) if show_diff else None,
            }
        )
        if show_diff:
            console.out(unified_diff(result).rstrip("\n"))
    console.document({"name": opened.lock.name, "inputs": opened.lock.inputs, "platforms": document})
