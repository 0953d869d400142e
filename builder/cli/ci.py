"""What a step of GitHub's CI does around a command: log in without Docker, and hand the result to later steps.

Called as `python -m builder.cli.ci` by action.yml. Source of the formats: GitHub's documentation of workflow commands
(`GITHUB_OUTPUT`, `GITHUB_STEP_SUMMARY`).
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from builder.documents.lock import Lock, read_lock
from builder.util.errors import BuilderError, InputError
from builder.util.files import write_file
from builder.util.project import find_project

_HEAD = 12


def login(path: Path) -> None:
    """Write a credentials file for `REGISTRY`, `REGISTRY_USER` and `REGISTRY_PASSWORD` of the environment."""
    registry, user, password = (os.environ.get(f"REGISTRY{name}", "") for name in ("", "_USER", "_PASSWORD"))
    if not user or not password:
        raise InputError(f"no username and password for {registry}", hint="give both inputs, or no registry")
    key = "https://index.docker.io/v1/" if registry == "docker.io" else registry
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    write_file(path, json.dumps({"auths": {key: {"auth": auth}}}).encode(), mode=0o600)


def report(result: Path, recipe: str, command: str, evidence: Path) -> None:
    """Write outputs and summary of a command's JSON document; a document that is missing or damaged is the text that it is."""
    text = result.read_text("utf-8", "replace") if result.is_file() else ""
    try:
        document = json.loads(text)
    except ValueError:
        document = {}
    outputs = {**_outputs(document if isinstance(document, dict) else {}), "json": text.strip()}
    predicate = _predicate(evidence)
    if predicate is not None:
        path = result.with_name("overlay-image-builder-predicate.json")
        write_file(path, json.dumps(predicate["predicate"]).encode())
        outputs |= {"predicate": str(path), "predicate-type": str(predicate["predicateType"])}
    _append("GITHUB_OUTPUT", "".join(_output(name, value) for name, value in outputs.items()))
    _append("GITHUB_STEP_SUMMARY", summary(document if isinstance(document, dict) else {}, recipe, command))


def _outputs(document: Mapping[str, Any]) -> dict[str, str]:
    """digest, image and tags of what build and publish print; of one image, or of several in their order."""
    images = document.get("images") or [document]
    return {
        "digest": "\n".join(str(each["digest"]) for each in images if each.get("digest")),
        "image": "\n".join(str(each.get("reference") or each.get("output")) for each in images if each.get("digest")),
        "tags": "\n".join(str(tag) for each in images for tag in each.get("tags") or ()),
    }


def _predicate(evidence: Path) -> dict[str, Any] | None:
    """The provenance that a publish wrote."""
    try:
        found = json.loads((evidence / "provenance.json").read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and {"predicate", "predicateType"} <= found.keys() else None


def _output(name: str, value: str) -> str:
    # A value chooses no delimiter of its own: whoever could guess it would write outputs.
    end = f"end-{secrets.token_hex(16)}"
    return f"{name}<<{end}\n{value}\n{end}\n"


def _append(variable: str, text: str) -> None:
    path = os.environ.get(variable)
    if path:
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(text)


def summary(document: Mapping[str, Any], recipe: str, command: str) -> str:
    """Markdown: the outcome, the image, and the stack as the lock has it."""
    error = document.get("error")
    lines = [f"### builder {command} {_cell(recipe)}", ""]
    if isinstance(error, Mapping):
        lines += [f"**Failed**: {_cell(error.get('message', ''))}", ""]
        lines += [f"- {_cell(each['label'])}: {_cell(each['text'])}" for each in error.get("details", ())]
        lines += [f"- next: {_cell(error['hint'])}"] if error.get("hint") else []
        lines.append("")
    elif not document:
        lines += ["**Failed**: the command printed no document", ""]
    for each in document.get("images") or [document]:
        if each.get("digest"):
            name = each.get("reference") or each.get("output") or ""
            lines += [f"`{_cell(name)}`", "", f"- digest `{_cell(each['digest'])}`"]
            lines += [f"- tags {', '.join(f'`{_cell(tag)}`' for tag in each.get('tags') or ())}", ""]
    lock = _lock(recipe)
    if lock is not None:
        lines += _stack(lock)
    return "\n".join(lines) + "\n"


def _lock(recipe: str) -> Lock | None:
    try:
        return read_lock(find_project(recipe).lock_path)
    except BuilderError:
        return None


def _stack(lock: Lock) -> list[str]:
    rows = [f"| base | {_cell(lock.base.reference)} | `{lock.base.digest[7 : 7 + _HEAD]}` | |"]
    for number, each in enumerate(lock.overlays, 1):
        name = f"[{_cell(each.id)}]({each.url})" if each.url else _cell(each.id)
        rows.append(f"| {number} | {name} | `{(each.head or each.digest)[:_HEAD]}` | {_cell(each.title or '')} |")
    return ["| | what | at | title |", "|---|---|---|---|", *rows]


def _cell(text: object) -> str:
    """Text inside a table or a line of Markdown, without what would end either or be read as HTML."""
    plain = " ".join(str(text).split())
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "'")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m builder.cli.ci`."""
    parser = argparse.ArgumentParser(prog="builder.cli.ci")
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("login").add_argument("path", type=Path)
    reporting = kinds.add_parser("report")
    reporting.add_argument("result", type=Path)
    for name in ("--recipe", "--command"):
        reporting.add_argument(name, required=True)
    reporting.add_argument("--evidence", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        if given.kind == "login":
            login(given.path)
        else:
            report(given.result, given.recipe, given.command, given.evidence)
    except BuilderError as error:
        print(f"error: {error.message}\n  next  {error.hint}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
