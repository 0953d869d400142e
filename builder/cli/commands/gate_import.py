"""`builder gate import`: a verdict from a log that somebody has already."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from builder.cli.app import common_options
from builder.cli.commands.gate_run import report
from builder.cli.console import Console


@click.command(name="import")
@click.argument("kind", type=click.Choice(["lm-eval", "inspect"]))
@click.argument("log", type=click.Path(path_type=Path))
@click.option("--suite", required=True, metavar="NAME", help="The suite whose rows the log is about.")
@click.option("--redact", is_flag=True, help="Leave private rows out of page and rows: ids and hashes only.")
@click.option("--output", type=click.Path(path_type=Path), help="Folder of the results. Default: dist/gate.")
@common_options
def command(
    kind: Literal["lm-eval", "inspect"], log: Path, suite: str, redact: bool, output: Path | None, console: Console
) -> None:
    """Judge LOG, the samples file of lm-eval or a log of inspect, by a suite.

    The verdict is unbound, unless an inspect log names the image in its metadata: image=REFERENCE@sha256:HEX.
    """
    from builder.gate.assemble import write_run
    from builder.gate.importing import import_log
    from builder.gate.suite import load_suite

    run = import_log(kind, log, load_suite(suite, Path.cwd()))
    report([write_run(run, output or Path("dist/gate"), redact=redact)], console)
