"""Suites that tests write: a folder `gates/` with rows whose answers are JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from builder.documents.verdict import Verdict
from builder.gate.run import About, Run, Wanted, run_suite
from builder.gate.suite import LoadedSuite, load_suite
from builder.gate.target import Target
from builder.util.context import Context
from tests.support.chatserver import ChatServer

Rows = Sequence[Mapping[str, Any]]


def row(identity: str, **expected: Any) -> dict[str, Any]:
    """A row whose prompt is its id."""
    return {"id": identity, "messages": [{"role": "user", "content": f"ask {identity}"}], "expected": expected}


def say(**fields: Any) -> str:
    return json.dumps(fields)


def write_suite(root: Path, rows: Rows, *, name: str = "small", **keys: Any) -> LoadedSuite:
    """`gates/NAME.yaml` and its rows below `root`; `keys` replace those of the suite."""
    folder = root / "gates"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows))
    document: dict[str, Any] = {
        "name": name,
        "rows": f"{name}.jsonl",
        "answer": {"format": "json"},
        "sampling": {"temperature": 0, "seed": 1, "max_tokens": 64},
        "limits": {"attempt_seconds": 30, "tries": 2, "connections": 4},
        "metrics": {"agreement": {"kind": "equal", "field": "legal"}},
        "require": [{"count": "transport", "max": 0}, {"metric": "agreement", "min": 0.5}],
    }
    document = {key: value for key, value in {**document, **keys}.items() if value is not None}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    return load_suite(name, root)


def run(
    root: Path, suite: LoadedSuite, server: ChatServer, *, reference: ChatServer | None = None, context: Context | None = None,
    about: About | None = None, key: str | None = None, **wanted: Any,
) -> Run:  # fmt: skip
    """Run a suite in this process."""
    context = context or Context()
    target = Target("target", server.url, key=key, context=context)
    other = Target("reference", reference.url, key=key, context=context) if reference is not None else None
    return run_suite(
        suite, target, other, about or About(), Wanted(output=root / "dist/gate", **wanted), context=context
    )


__all__ = ["Verdict", "row", "run", "say", "write_suite"]
