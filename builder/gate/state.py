"""An unfinished run in the output folder: what it is a run of, and whether this one may go on with it."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from builder.documents.verdict import moment, written
from builder.util.errors import InputError
from builder.util.files import read_regular, sha256, write_file

_LIMIT = 1 << 20


@dataclass(frozen=True)
class Identity:
    """What a run's answers depend on. Two runs with equal parts may share answers."""

    parts: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return sha256(json.dumps(self.parts, sort_keys=True, ensure_ascii=False).encode())


def private_folder(output: Path) -> Path:
    """Where a run with `--redact` keeps prompts and answers: beside the output folder, which can be shared then."""
    named = output if output.name not in ("", "..") else output.resolve()
    return named.with_name(f"{named.name}.private")


def keeps(path: Path) -> str:
    """For people: what a file or folder has, and how to be rid of it."""
    return f"{path} has prompts and answers; remove it with: rm -r {shlex.quote(str(path))}"


@dataclass(frozen=True)
class RunState:
    """The folder of an unfinished run. `begun` is when its first session began."""

    folder: Path
    begun: datetime
    resumed: bool

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    def spoil(self, why: str) -> None:
        """What is in the folder is no longer of one server: nobody may go on with it."""
        document = json.loads((self.folder / "run.json").read_bytes())
        write_file(self.folder / "run.json", _encoded({**document, "spoiled": why}))


def place_of(output: Path, suite: str, *, redact: bool, restart: bool) -> Path:
    """The folder of an unfinished run: in the output folder, or beside it when rows are private.

    With `restart` one in the other place is thrown away; else it is refused with `InputError`: its prompts are where they were put.
    """
    here, private = output / f"{suite}.run", private_folder(output) / f"{suite}.run"
    place, other = (private, here) if redact else (here, private)
    if other.exists() and restart:
        shutil.rmtree(other)
    elif other.exists():
        raise InputError(
            f"the unfinished run in {other} was begun {'without' if redact else 'with'} --redact",
            hint=f"go on {'without' if redact else 'with'} --redact, or begin anew with --restart",
        )
    if redact:
        private.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return place


def open_state(folder: Path, identity: Identity, *, restart: bool, now: datetime) -> RunState:
    """Begin a run in `folder`, or go on with the one that is there. With `restart` an unfinished one is thrown away.

    Raises `InputError` when the one that is there has another identity, or cannot be gone on with.
    """
    path = folder / "run.json"
    if restart and folder.exists():
        shutil.rmtree(folder)
    if not path.exists():
        if folder.exists():
            shutil.rmtree(folder)  # killed before it had asked anything
        folder.mkdir(parents=True)
        write_file(path, _encoded({"identity": identity.digest, "parts": identity.parts, "begun": written(now)}))
        return RunState(folder, now, resumed=False)
    try:
        found = json.loads(read_regular(path, limit=_LIMIT))
        digest, parts, begun = found["identity"], dict(found["parts"]), moment(found["begun"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} does not describe a run", hint="begin anew with --restart") from error
    if found.get("spoiled"):
        raise InputError(
            f"the unfinished run in {folder} cannot be continued",
            details=[("why", str(found["spoiled"]))], hint="begin anew with --restart",
        )  # fmt: skip
    if digest != identity.digest:
        raise InputError(
            f"the unfinished run in {folder} is another one",
            details=[
                ("here", digest), ("wanted", identity.digest),
                *((key, f"here {_shown(parts.get(key))}, wanted {_shown(identity.parts.get(key))}")
                  for key in sorted({*parts, *identity.parts}) if parts.get(key) != identity.parts.get(key)),
            ],
            hint="begin anew with --restart, or name another --output",
        )  # fmt: skip
    return RunState(folder, begun, resumed=True)


def _encoded(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else f"{text[:97]}..."
