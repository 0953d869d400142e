"""`builder gate`: a group whose default command is the run, so that `builder gate RECIPE PROFILE --suite NAME` is one."""

from __future__ import annotations

import click

from builder.cli.app import LazyGroup


class GateGroup(LazyGroup):
    """What is not the name of a command is the beginning of a run."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.table and args[0] not in ("-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(
    name="gate",
    cls=GateGroup,
    table={
        "run": ("builder.cli.commands.gate_run", "Run suites: builder gate RECIPE PROFILE|URL --suite NAME."),
        "lint": ("builder.cli.commands.gate_lint", "Check a suite and its rows; say what its thresholds can show."),
        "import": ("builder.cli.commands.gate_import", "Judge a log of lm-eval or inspect by a suite."),
    },
)
def command() -> None:
    """Accept or refuse an image by suites under gates/. `builder gate RECIPE PROFILE --suite NAME` runs one.

    `builder gate run --help` has the options of a run.
    """
