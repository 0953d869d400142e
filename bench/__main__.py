"""`make bench`, or `python -m bench [PART...] [--json FILE] [--markdown FILE]`."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

from bench.acceptance import acceptance
from bench.checkpoint import checkpoint
from bench.commands import drift, entrypoint, project, startup
from bench.many import many
from bench.measure import Table, markdown
from bench.promotion import promotion
from bench.publication import publication
from bench.router import router
from bench.stack import growth, stack

PARTS = {
    each.__name__: each
    for each in (
        startup,
        entrypoint,
        project,
        drift,
        stack,
        growth,
        many,
        checkpoint,
        publication,
        acceptance,
        promotion,
        router,
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=(__doc__ or "").strip())
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, help="write every run to this file")
    parser.add_argument("--markdown", type=Path, help="write the table to this file")
    chosen = parser.parse_args()
    table = Table()
    for name, part in PARTS.items():
        if not chosen.parts or name in chosen.parts:
            print(f"measuring: {name}", file=sys.stderr, flush=True)
            table.add(part())
            # A long run that is interrupted has kept what it had.
            if chosen.json:
                machine = {"python": sys.version, "machine": platform.machine(), "system": platform.platform()}
                document = {**machine, "rows": [each.as_json() for each in table.rows]}
                chosen.json.write_text(json.dumps(document, indent=1))
            if chosen.markdown:
                chosen.markdown.write_text(markdown(table.rows))


if __name__ == "__main__":
    main()
