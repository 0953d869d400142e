"""`builder verdict adr`: a verdict as a decision record."""

from __future__ import annotations

from pathlib import Path

import click

from builder.cli.app import common_options
from builder.cli.console import Console


@click.command(name="adr")
@click.argument("verdict", type=click.Path(path_type=Path))
@click.option("--output", type=click.Path(path_type=Path), help="Write the record to this file instead of printing it.")
@common_options
def command(verdict: Path, output: Path | None, console: Console) -> None:
    """Print VERDICT as a decision record with MADR's headings: what was decided, on which figures, and what they do not show."""
    from builder.gate.adr import decision_record
    from builder.gate.open import in_file
    from builder.util.files import write_file

    found = in_file(verdict)
    text = decision_record(found.verdict, str(found.signed))
    if output is not None:
        write_file(output, text.encode())
        console.say(f"written: {output}")
    else:
        console.out(text.rstrip("\n"))
    console.document({"record": text})
