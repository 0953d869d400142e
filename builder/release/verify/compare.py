"""Two images side by side: the first thing that differs in each part, by tar entry, header field, file and config key."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from builder.documents.reference import Platform
from builder.image.layer import Layer
from builder.oci.types import Descriptor
from builder.pipeline.build import put_together
from builder.pipeline.plan import base_image
from builder.pipeline.workspace import Workspace
from builder.release.verify.image import read_layer
from builder.release.verify.problem import Problem
from builder.release.verify.reader import Reader, manifests, read_json
from builder.util.errors import InputError
from builder.util.files import sha256

_FIELDS = ("type", "mode", "uid", "gid", "uname", "gname", "size", "mtime", "linkname", "pax_headers")
_MISSING = "(nothing)"


@dataclass(frozen=True)
class Parts:
    """One platform's image: manifest, config, and the bytes of its last layer."""

    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    layer: bytes = field(repr=False)


def read_parts(reader: Reader) -> dict[str, Parts]:
    """The parts of an image by platform."""
    found = {}
    for descriptor in manifests(reader):
        manifest = read_json(reader, descriptor)
        config = read_json(reader, Descriptor.from_json(manifest["config"]))
        layers = manifest.get("layers") or []
        layer = reader.read(Descriptor.from_json(layers[-1])) if layers else b""
        found[f"{config.get('os')}/{config.get('architecture')}"] = Parts(manifest, config, layer)
    return found


def differences(wanted: Mapping[str, Parts], found: Mapping[str, Parts]) -> list[Problem]:
    """What differs, platform by platform: the layer's entries first, since the rest follows from them."""
    problems = []
    for platform in sorted(wanted.keys() | found.keys()):
        if platform not in wanted or platform not in found:
            names = (platform if platform in each else _MISSING for each in (wanted, found))
            problems.append(Problem("platform", *names))
            continue
        prefix = f"{platform}: " if len(wanted) > 1 else ""
        left, right = wanted[platform], found[platform]
        for problem in (*layer_differences(left.layer, right.layer), *_keys("config", left.config, right.config),
                        *_keys("manifest", left.manifest, right.manifest)):  # fmt: skip
            problems.append(Problem(f"{prefix}{problem.where}", problem.wanted, problem.found))
    return problems


def layer_differences(wanted: bytes, found: bytes) -> Iterator[Problem]:
    """The entries in which two tars differ, in their order."""
    if wanted == found:
        return
    left, right = _entries(wanted), _entries(found)
    same = True
    for name in dict.fromkeys([*left, *right]):
        if name not in left or name not in right:
            same = False
            yield Problem(f"layer entry {name}", *("there" if name in each else _MISSING for each in (left, right)))
            continue
        for key in _FIELDS:
            if left[name][0][key] != right[name][0][key]:
                same = False
                yield Problem(f"layer entry {name}, field {key}", str(left[name][0][key]), str(right[name][0][key]))
        if left[name][1] != right[name][1]:
            same = False
            yield Problem(f"layer entry {name}, content", f"sha256:{left[name][1]}", f"sha256:{right[name][1]}")
    if same:
        order = [name for name, other in zip(left, right, strict=True) if name != other]
        where = f"layer, order of entries from {order[0]}" if order else "layer, bytes between entries"
        yield Problem(where, f"sha256:{sha256(wanted)}", f"sha256:{sha256(found)}")


def _entries(data: bytes) -> dict[str, tuple[dict[str, Any], str]]:
    """Name -> header fields and the content's SHA-256. A compressed layer is workspace as well."""
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.isfile() else None
                fields = {key: getattr(member, key) for key in _FIELDS}
                fields["mode"] = f"{member.mode:o}"
                found[member.name] = (fields, sha256(stream.read()) if stream else "")
    except tarfile.TarError as error:
        raise InputError(
            f"an image's last layer is not a tar that can be compared: {error}",
            hint="compare images that this tool has made",
        ) from error
    return found


def _keys(where: str, wanted: object, found: object) -> Iterator[Problem]:
    """The keys in which two JSON documents differ, as dotted paths."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key in dict.fromkeys([*wanted, *found]):
            yield from _keys(f"{where} {key}" if " " not in where else f"{where}.{key}",
                             wanted.get(key, _MISSING), found.get(key, _MISSING))  # fmt: skip
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for number, (left, right) in enumerate(zip(wanted, found, strict=True)):
            yield from _keys(f"{where}[{number}]", left, right)
    elif wanted != found:
        yield Problem(where, _short(wanted), _short(found))


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"


def base_differences(reader: Reader, workspace: Workspace) -> list[Problem]:
    """Config and manifest of an image against those that its locked base gives with the image's own last layer.

    This finds what the record does not tell of: another base layer, a changed variable, a label that was added.
    """
    problems: list[Problem] = []
    for platform, parts in read_parts(reader).items():
        known = [name for name in workspace.lock.base.platforms if name.startswith(platform)]
        record = read_layer(parts.layer).record_bytes
        for name in known[:1]:
            base = base_image(workspace.project, workspace.lock, Platform.parse(name), context=workspace.context)
            image = put_together(workspace.lock, base, Layer(parts.layer), record)
            problems += _keys("config", json.loads(image.config_bytes), parts.config)
            problems += _keys("manifest", json.loads(image.manifest_bytes), parts.manifest)
    return problems
