"""What was read of a package, kept by the digests of the files that it was read from: parsing them is most of a lint's time."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from builder.util.files import cache_dir, sha256, write_file
from builder.vllm.lint.context import Package
from builder.vllm.reader import flags as reader
from builder.vllm.reader.flags import NOT_KNOWN, Catalog, Flag, read_flags
from builder.vllm.reader.registries import Registries, read_registries
from builder.vllm.reader.source import Source
from builder.vllm.reader.variables import Variable, read_variables

_TUPLE, _SET, _DICT, _UNKNOWN = "tuple", "set", "dict", "not known"
# With fewer flags something is missing, and what is missing may be there the next time.
_FEWEST = 20


def read_package(source: Source) -> Package:
    """Everything that rules need of a package, read once for all profiles, and once for the same files."""
    path = cache_dir("lint") / _key(source)
    found = _kept(path, source)
    if found is not None:
        return found
    package = Package(source, read_flags(source), read_registries(source), read_variables(source))
    _keep(path, package)
    return package


def _key(source: Source) -> str:
    main = source.read(f"{source.package}/engine/arg_utils.py")
    return sha256(json.dumps([_code(), source.package, sha256(main or b"")]).encode())


@cache
def _code() -> list[str]:
    """What else decides the result: how this version reads, and the Python whose grammar it reads by."""
    sources = sorted(Path(reader.__file__).parent.glob("*.py"))
    return [sys.version.split()[0], sha256(b"".join(each.read_bytes() for each in [*sources, Path(__file__)]))]


def _digests(source: Source, paths: list[str]) -> dict[str, str | None]:
    source.load(paths)
    read = {path: source.read(path) for path in paths}
    return {path: sha256(data) if data is not None else None for path, data in read.items()}


def _kept(path: Path, source: Source) -> Package | None:
    """What an earlier run has read of the same files; None for what is damaged, or was read of others."""
    try:
        digest, _, body = path.read_bytes().partition(b"\n")
        if digest.decode("ascii") != sha256(body):
            return None
        document = json.loads(body)
        files: dict[str, str | None] = document["files"]
        if _digests(source, list(files)) != files:
            return None
        catalog = Catalog({each.name: each for each in map(_flag, document["flags"])}, list(document["gaps"]))
        variables = _decoded(document["variables"])
        return Package(
            source,
            catalog,
            Registries(**_decoded(document["registries"])),
            variables and {name: Variable(**each) for name, each in variables.items()},
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _keep(path: Path, package: Package) -> None:
    catalog = package.catalog
    if len(catalog.flags) < _FEWEST:
        return
    try:
        document = {
            "files": _digests(package.source, sorted(package.source.asked)),
            "flags": [_encoded(_values(flag)) for flag in catalog.flags.values()],
            "gaps": catalog.gaps,
            "registries": _encoded(_values(package.registries)),
            "variables": _encoded(
                package.variables and {name: _values(each) for name, each in package.variables.items()}
            ),
        }
        body = json.dumps(document, allow_nan=False).encode()
    except (TypeError, ValueError):
        # A value that JSON does not have is read again each time.
        return
    same = [_flag(each) for each in json.loads(body)["flags"]]
    if repr(same) == repr(list(catalog.flags.values())) and list(catalog.flags) == [each.name for each in same]:
        write_file(path, f"{sha256(body)}\n".encode() + body)


def _values(value: Flag | Registries | Variable) -> dict[str, Any]:
    return {each.name: getattr(value, each.name) for each in fields(value)}


def _flag(document: Any) -> Flag:
    return Flag(**_decoded(document))


def _encoded(value: Any) -> Any:
    """A value as JSON. What JSON does not have is an object with one key that says what it is."""
    if value is NOT_KNOWN:
        return {_UNKNOWN: True}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_encoded(each) for each in value]
    if isinstance(value, tuple):
        return {_TUPLE: [_encoded(each) for each in value]}
    if isinstance(value, frozenset):
        return {_SET: sorted(value)}
    if isinstance(value, Mapping):
        return {_DICT: [[_encoded(key), _encoded(each)] for key, each in value.items()]}
    raise TypeError(type(value).__name__)


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == _UNKNOWN:
        return NOT_KNOWN
    if kind == _TUPLE:
        return tuple(_decoded(each) for each in inner)
    if kind == _SET:
        return frozenset(inner)
    return {_decoded(key): _decoded(each) for key, each in inner}
