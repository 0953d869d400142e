"""An image that is ready to be pushed, and a look at what a registry really holds, without this tool's client."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

from builder.documents.reference import Reference
from builder.pipeline.workspace import open_workspace
from builder.release.publish import Prepared, PublishOptions, prepare
from builder.util.context import Context
from builder.util.project import find_project
from tests.support.smallwheel import FILES, make_project
from tests.support.standin import tar_of, write_layout
from tests.support.trees import git_diff

ROOT = "usr/local/lib/python3.12/dist-packages"
QUIET = Context()
ACCEPT = ", ".join(
    f"application/vnd.{name}+json"
    for name in ("oci.image.manifest.v1", "oci.image.index.v1", "docker.distribution.manifest.v2")
)


def small_base(folder: Path, *, filler: int = 0) -> Path:
    """A layout of a base with the small package in two layers; `filler` more bytes that do not compress."""
    files = {f"{ROOT}/{path}": data for path, data in FILES.items()}
    record = "".join(f"{path},,\n" for path in FILES)
    files |= {
        f"{ROOT}/vllm-0.0.1.dist-info/RECORD": record.encode(),
        f"{ROOT}/vllm-0.0.1.dist-info/METADATA": b"Name: vllm\n",
        f"{ROOT}/torch-2.9.1.dist-info/METADATA": b"Name: torch\n",
    }
    noise = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(filler // 32))
    return write_layout(folder, [tar_of({"usr/bin/python3": b"#!", "opt/x": noise}), tar_of(files)])


def patched_project(root: Path, reference: str, **recipe: object) -> Path:
    edited = {**FILES, "vllm/config.py": FILES["vllm/config.py"].replace(b"= 20\n", b"= 2020\n")}
    diff = git_diff(root.parent / f"{root.name}-git", FILES, edited)
    return make_project(root, {"one.diff": diff}, base=reference, **recipe)


def prepared(project: Path, *, to: str, options: PublishOptions = PublishOptions()) -> Prepared:  # noqa: B008  frozen
    workspace = open_workspace(str(find_project(str(project / "images/small.yaml")).recipe_path), context=QUIET)
    return prepare(workspace, [to], options)


def retarget(image: Prepared, to: str) -> Prepared:
    return replace(image, targets=(Reference.parse(to),))


def fetch(host: str, path: str) -> bytes | None:
    request = urllib.request.Request(f"http://{host}/v2/{path}", headers={"Accept": ACCEPT})
    for attempt in range(5):
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                data: bytes = answer.read()
                return data
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            # Debian's registry answers 500 when a link file is written while it reads it.
            if error.code != 500 or attempt == 4:
                raise
    raise AssertionError("unreachable")


def _complete(host: str, repository: str, data: bytes) -> list[str]:
    """What an image's manifest or index names and the registry does not have, or has otherwise."""
    document: dict[str, Any] = json.loads(data)
    missing: list[str] = []
    for child in document.get("manifests", []):
        below = fetch(host, f"{repository}/manifests/{child['digest']}")
        missing += [child["digest"]] if below is None else _complete(host, repository, below)
    for blob in [*document.get("layers", []), *([document["config"]] if "config" in document else [])]:
        content = fetch(host, f"{repository}/blobs/{blob['digest']}")
        if content is None or f"sha256:{hashlib.sha256(content).hexdigest()}" != blob["digest"]:
            missing.append(blob["digest"])
    return missing


def held(host: str, repository: str, tag: str, *, evidence: int, complete: str | None = None) -> str | None:
    """The digest that a tag names, None without such a tag. Fails when the image or its evidence is not complete.

    `complete` is a digest that was found to be complete just now, by another tag.
    """
    data = fetch(host, f"{repository}/manifests/{tag}")
    if data is None:
        return None
    digest = hashlib.sha256(data).hexdigest()
    if f"sha256:{digest}" == complete:
        return complete
    assert _complete(host, repository, data) == []
    if evidence:
        listed = fetch(host, f"{repository}/manifests/sha256-{digest}")
        assert listed is not None, "the tag is there, its evidence is not"
        assert len(json.loads(listed)["manifests"]) >= evidence
        assert _complete(host, repository, listed) == []
    return f"sha256:{digest}"
