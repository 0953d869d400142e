"""`builder schema`: the JSON Schema of recipes, profiles, suites and policies, for editors, and of records, for whoever reads images."""

from __future__ import annotations

import json

import click

from builder.cli.app import common_options
from builder.cli.console import Console


@click.command(name="schema")
@click.argument("kind", type=click.Choice(["recipe", "profile", "gate", "policy", "record"]), default="recipe")
@common_options
def command(kind: str, console: Console) -> None:
    """Print the JSON Schema of recipes, of profiles, of suites (gate), of policies, or of the record that an image holds.

    Editors with a YAML language server check a file against it: put
    `# yaml-language-server: $schema=recipe.schema.json` on the first line.
    """
    if kind == "recipe":
        from builder.documents.recipe import json_schema
    elif kind == "policy":
        from builder.documents.policy import json_schema
    elif kind == "record":
        from builder.documents.record import json_schema
    elif kind == "gate":
        from builder.gate.suite import json_schema
    else:
        from builder.documents.profile import json_schema
    console.data(json.dumps(json_schema(), indent=2))
    console.document(json_schema())
