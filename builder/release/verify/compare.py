"""Images side by side: the first thing that differs in each part, by tar entry, header field, file and JSON key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from builder.oci.types import Descriptor
from builder.pipeline.locking.base import OWN_FOLDER
from builder.release.verify.problem import MISSING, Problem, short
from builder.release.verify.reader import Reader, manifests, read_json
from builder.release.verify.tars import layer_differences, layer_tar, read_tar
from builder.util.files import sha256


@dataclass(frozen=True)
class Parts:
    """One platform's image: the bytes of its manifest, its config and its last layer, as a registry has them."""

    manifest: bytes = field(repr=False)
    config: bytes = field(repr=False)
    layer: bytes = field(repr=False)


def read_parts(reader: Reader) -> dict[str, Parts]:
    """The parts of an image by platform."""
    found = {}
    for descriptor in manifests(reader):
        manifest = read_json(reader, descriptor)
        config = Descriptor.from_json(manifest["config"])
        layers = manifest.get("layers") or []
        layer = reader.read(Descriptor.from_json(layers[-1])) if layers else b""
        document = read_json(reader, config)
        platform = f"{document.get('os')}/{document.get('architecture')}"
        found[platform] = Parts(reader.read(descriptor), reader.read(config), layer)
    return found


def differences(wanted: Mapping[str, Parts], found: Mapping[str, Parts]) -> list[Problem]:
    """What differs, platform by platform."""
    problems = []
    for platform in sorted(wanted.keys() | found.keys()):
        if platform not in wanted or platform not in found:
            names = (platform if platform in each else MISSING for each in (wanted, found))
            problems.append(Problem("platform", *names))
            continue
        prefix = f"{platform}: " if len(wanted) > 1 else ""
        for problem in part_differences(wanted[platform], found[platform]):
            problems.append(Problem(f"{prefix}{problem.where}", problem.wanted, problem.found))
    return problems


def part_differences(wanted: Parts, found: Parts) -> list[Problem]:
    """What differs in one platform's image: the layer's entries first, since the rest follows from them."""
    return [
        *layer_differences(wanted.layer, found.layer),
        *_inside(wanted.layer, found.layer),
        *json_differences("config", wanted.config, found.config),
        *json_differences("manifest", wanted.manifest, found.manifest),
    ]


def _inside(wanted: bytes, found: bytes) -> Iterator[Problem]:
    """What differs inside the record and inside RECORD, for people: the digests alone say little."""
    if wanted == found:
        return
    held = {entry.name: entry.data for entry in read_tar(layer_tar(found)).entries}
    for entry in read_tar(layer_tar(wanted)).entries:
        other = held.get(entry.name, entry.data)
        if other == entry.data:
            continue
        if entry.name == f"{OWN_FOLDER}/record.json":
            yield from json_differences("record", entry.data, other)
        elif entry.name.endswith(".dist-info/RECORD"):
            left, right = entry.data.split(b"\n"), other.split(b"\n")
            pairs = enumerate(zip_longest(left, right, fillvalue=b""), 1)
            number, (line, instead) = next((number, pair) for number, pair in pairs if pair[0] != pair[1])
            yield Problem(f"RECORD, line {number}", short(repr(line)), short(repr(instead)))


def json_differences(what: str, wanted: bytes, found: bytes) -> list[Problem]:
    """The keys in which two JSON documents differ; empty only for the same bytes. `wanted` is a JSON object."""
    if wanted == found:
        return []
    try:
        document = json.loads(found)
        problems = list(key_differences(what, json.loads(wanted), document))
    except (ValueError, RecursionError) as error:
        return [Problem(what, "a JSON document", short(str(error)))]
    if not problems:
        # The same values: keys that are repeated, another order, or spaces. Readers differ in what they make of those.
        problems = [Problem(f"{what.rstrip(',')}, its bytes", _spelling(wanted), _spelling(found))]
    return problems


def _spelling(data: bytes) -> str:
    return f"{len(data)} bytes, sha256:{sha256(data)}"


def key_differences(where: str, wanted: object, found: object) -> Iterator[Problem]:
    """The keys in which two JSON values differ, as dotted paths."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key in dict.fromkeys([*wanted, *found]):
            inside = f"{where} {key}" if " " not in where or where.endswith(",") else f"{where}.{key}"
            yield from key_differences(inside, wanted.get(key, MISSING), found.get(key, MISSING))
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for number, (left, right) in enumerate(zip(wanted, found, strict=True)):
            yield from key_differences(f"{where}[{number}]", left, right)
    elif wanted != found or type(wanted) is not type(found):
        yield Problem(where, short(wanted), short(found))


def object_of(data: bytes) -> dict[str, Any]:
    """A JSON object, or an empty one for anything else."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
