"""Mutated inputs of every reader: they are read or refused with a reason, never a crash, and never another content."""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.base.filter import Filter
from builder.base.images import resolve_image
from builder.base.layers import scan
from builder.base.record import read_record
from builder.documents.lock import HEADER, Lock
from builder.documents.recipe import Recipe
from builder.documents.yamlfile import parse_yaml, validate_document
from builder.oci.blobs import LayerStream
from builder.oci.layout import Layout
from builder.oci.types import Descriptor
from builder.util.errors import BuilderError
from tests.support.bases import LINUX_AMD64, PYTHON, ROOT, Made, hardlink, layer, package, symlink
from tests.support.mutations import mutated, mutated_json

MANY = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))

TAR = layer(*PYTHON, *package(), hardlink(f"{ROOT}/vllm/c.py", f"{ROOT}/vllm/a.py"), symlink("lib", "usr/lib"))
LAYERS = {"tar": TAR, "gzip": gzip.compress(TAR, 1, mtime=0)}


@MANY
@given(data=st.data())
def test_a_layer(data: st.DataObject) -> None:
    damaged = data.draw(mutated(LAYERS[data.draw(st.sampled_from(sorted(LAYERS)))], 512))
    import io

    try:
        found = scan(LayerStream(io.BufferedReader(io.BytesIO(damaged)), len(damaged)), Filter("vllm"))
    except BuilderError:
        return
    assert all(hashlib.sha256(content).hexdigest() == digest for digest, content in found.contents.items())
    assert not any(".." in path.split("/") or path.startswith("/") for path in found.entries)


def image() -> tuple[dict[str, bytes], bytes]:
    made = Made(Path("nowhere"))
    top = made.index(made.image([layer(*PYTHON), layer(*package())], platform={"os": "linux", "architecture": "amd64"}))
    return made.blobs, made.blobs[top["digest"].removeprefix("sha256:")]


BLOBS, TOP = image()
DOCUMENTS = {digest: data for digest, data in BLOBS.items() if data[:1] == b"{"}


@MANY
@given(data=st.data())
def test_an_index_a_manifest_or_a_config(data: st.DataObject) -> None:
    """A document is changed, and those above it get its new digest and size, as whoever means it would do."""
    blobs = dict(BLOBS)
    chosen = data.draw(st.sampled_from(sorted(DOCUMENTS)))
    document = json.loads(blobs[chosen])
    new = data.draw(mutated_json(document) if data.draw(st.booleans()) else mutated(blobs[chosen], 16))
    replaced = {chosen: new}
    top = new if blobs[chosen] == TOP else TOP
    while replaced:
        old, new = replaced.popitem()
        blobs[hashlib.sha256(new).hexdigest()] = new
        for digest, above in list(DOCUMENTS.items()):
            if old.encode() in above:
                size = f'"size": {len(BLOBS[old])}'.encode()
                text = above.replace(old.encode(), hashlib.sha256(new).hexdigest().encode())
                text = text.replace(size, f'"size": {len(new)}'.encode())
                if above == TOP:
                    top = text
                else:
                    replaced[digest] = text

    def fetch(descriptor: Descriptor) -> bytes:
        return blobs.get(descriptor.digest.removeprefix("sha256:"), b"")

    digest = f"sha256:{hashlib.sha256(top).hexdigest()}"
    try:
        found = resolve_image("x", digest, "application/vnd.oci.image.index.v1+json", top, LINUX_AMD64, fetch)
    except BuilderError:
        return
    assert (
        f"sha256:{hashlib.sha256(found.config_bytes).hexdigest()}"
        == json.loads(found.manifest_bytes)["config"]["digest"]
    )


@MANY
@given(data=st.data())
def test_a_record(data: st.DataObject) -> None:
    record = package()[-1].data + b'"a ""quoted"" one",,\nvllm/c.py,sha256=abc,1\n'
    damaged = data.draw(mutated(record, 40))
    try:
        rows = read_record(damaged, "RECORD")
    except BuilderError:
        return
    assert "".join(row.text for row in rows).strip("\n") in damaged.decode() or b"\n\n" in damaged or b"\r" in damaged


@MANY
@given(data=st.data())
def test_an_index_of_a_layout(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("layout")
    made = Made(folder)
    made.write(made.image([layer(*PYTHON)], annotations={"org.opencontainers.image.ref.name": "x"}))
    path = folder / "index.json"
    whole = path.read_bytes()
    path.write_bytes(data.draw(mutated_json(json.loads(whole)) if data.draw(st.booleans()) else mutated(whole, 16)))
    try:
        layout = Layout(folder)
        layout.read(layout.resolve(data.draw(st.sampled_from([None, "x"]))))
    except BuilderError:
        return


RECIPE = """name: demo
base: wheel:vllm==0.20.0
package: vllm
platforms: [linux/amd64]
overlays:
  - pull: vllm-project/vllm#39931
    fuzz: 1
  - file: overlays/x.diff
    why: "because: it's needed"
profiles: [a, b]
default_profile: a
checkpoint:
  digest: 0000000000000000000000000000000000000000000000000000000000000000
"""
DIGEST = "0" * 64
LOCK: dict[str, Any] = {
    "schema": 1, "name": "demo", "recipe": DIGEST, "package": "vllm", "entrypoint": DIGEST, "epoch": 315532800,
    "base": {
        "reference": "oci:base", "digest": f"sha256:{DIGEST}",
        "platforms": {
            "linux/amd64": {
                "manifest": f"sha256:{DIGEST}", "manifest_size": 1, "manifest_type": "application/x", "config": f"sha256:{DIGEST}",
                "root": ROOT, "python": "3.12", "distribution": {"name": "vllm", "version": "1", "dist_info": "vllm-1.dist-info"},
                "directories": ["usr"], "files": [{"path": "vllm/a.py", "before": DIGEST, "after": DIGEST, "overlays": ["x"]}],
            }
        },
    },
    "overlays": [{"id": "x", "diff": "x.diff", "digest": DIGEST}],
}  # fmt: skip


@MANY
@given(data=st.data())
def test_a_recipe(data: st.DataObject) -> None:
    text = data.draw(mutated(RECIPE.encode(), 20)).decode("utf-8", "surrogateescape")
    try:
        validate_document(Recipe, parse_yaml(text, "r.yaml"))
    except BuilderError:
        return


@MANY
@given(data=st.data())
def test_a_lock(data: st.DataObject) -> None:
    import yaml

    if data.draw(st.booleans()):
        text = data.draw(mutated_json(copy.deepcopy(LOCK))).decode("utf-8", "replace")
    else:
        whole = HEADER + str(yaml.safe_dump(LOCK, sort_keys=False))
        text = data.draw(mutated(whole.encode(), 20)).decode("utf-8", "replace")
    try:
        found = validate_document(Lock, parse_yaml(text, "r.lock.yaml"))
    except BuilderError:
        return
    assert len(found.inputs) == 64


@pytest.mark.parametrize(
    "text",
    ["[" * 5000 + "]" * 5000, "a: " + "{a: " * 5000 + "}" * 5000, "".join(f"{' ' * n}a:\n" for n in range(5000)),
     "- " * 5000 + "x", "? " * 5000, "a: [" + "x, " * 500_000 + "]", "&a [*a, *a]", "a: !!python/object:os.system x",
     "a: " + "9" * 100_000, "\t", "a: \x00", "--- a\n--- b", "? {a: b}\n: c", "a: 1\na: 2"],
    ids=range(14),
)  # fmt: skip
def test_yaml_that_is_deep_large_or_odd_is_refused(text: str) -> None:
    if text == "a: " + "9" * 100_000:
        parse_yaml(text, "x.yaml")
        return
    with pytest.raises(BuilderError):
        validate_document(Recipe, parse_yaml(text, "x.yaml"))
