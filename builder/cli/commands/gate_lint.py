"""`builder gate lint`: check a suite."""

from __future__ import annotations

import click

from builder.cli.app import common_options
from builder.cli.console import Console


@click.command(name="lint")
@click.argument("suite")
@common_options
def command(suite: str, console: Console) -> None:
    """Check SUITE and its rows, and print what each threshold can show with that many rows."""
    from builder.gate.lint import lint
    from builder.gate.suite import load_suite
    from builder.util.project import project_folder

    loaded = load_suite(suite, project_folder())
    found = lint(loaded)
    for field, labels in found.labels.items():
        listed = list(labels.items())
        shown = ", ".join(f"{label} {count}" for label, count in listed[:10])
        console.out(f"{field}: {shown}{f', {len(listed) - 10} more' if len(listed) > 10 else ''}")
    console.table(["requirement", "what it can show"], found.shows)
    for warning in found.warnings:
        console.warn(warning)
    console.out(f"{loaded.name}: {len(found.rows)} rows, suite sha256:{loaded.sha256}")
    console.document(
        {
            "suite": loaded.name, "suite_digest": f"sha256:{loaded.sha256}", "rows": len(found.rows),
            "rows_sha256": found.rows.sha256, "labels": found.labels, "warnings": list(found.warnings),
            "shows": dict(found.shows),
        }
    )  # fmt: skip
