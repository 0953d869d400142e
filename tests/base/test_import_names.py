"""A package is found by the name that Python imports, whatever its distribution is called and however its RECORD is stored."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import pytest

from builder.base.filter import Filter
from builder.base.layers import scan
from builder.base.model import Distribution, PackageTree
from builder.base.snapshot import Snapshot
from builder.base.together import Together, distributions, packages_beside, together
from builder.base.tree import LayeredTree
from builder.oci.blobs import LayerStream
from builder.oci.document import read_config
from builder.oci.types import OCI_LAYER, Descriptor
from builder.util.errors import InputError
from tests.support.bases import PYTHON, Item, hardlink, layer
from tests.support.severalpackages import FLASHINFER, ROOT, TRANSFORMERS, TRITON, VLLM, Small
from tests.support.trees import DictTree

RECORD = f"{ROOT}/{FLASHINFER.info}/RECORD"
CACHE = f"root/.cache/uv/archive-v0/x/{FLASHINFER.info}/RECORD"


def items(*packages: Small, without: Sequence[str] = ()) -> list[Item]:
    found = {f"{ROOT}/{path}": data for each in packages for path, data in each.installed.items()}
    return [Item(path, data) for path, data in found.items() if path not in without]


def tree_of(layers: Sequence[bytes], *packages: str, taken: list[str] | None = None) -> PackageTree:
    """The tree as a registry's base gives it, of layers bottom first."""
    known = {f"sha256:{number:064x}": data for number, data in enumerate(layers)}
    config = {
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": list(known)},
    }  # fmt: skip

    def read(descriptor: Descriptor, wanted: Filter, diff_id: str | None) -> Snapshot:
        if taken is not None:
            taken.append(descriptor.digest)
        data = known[descriptor.digest]
        made = scan(LayerStream(io.BufferedReader(io.BytesIO(data)), len(data)), wanted)
        if made.missing:
            return scan(LayerStream(io.BufferedReader(io.BytesIO(data)), len(data)), wanted.with_extra(made.missing))
        return made

    descriptors = [Descriptor(OCI_LAYER, digest, len(data)) for digest, data in known.items()]
    settings = read_config(json.dumps(config).encode(), "config")
    package, *further = packages
    first = LayeredTree(descriptors, settings, package, read, "base", further=further)
    return together({package: first, **{each: first.beside(each) for each in further}}, "base")


REST = items(FLASHINFER, without=[RECORD])
KINDS: dict[str, list[list[Item]]] = {
    "plain": [[*PYTHON, *items(VLLM, FLASHINFER)]],
    "in a lower layer": [[*PYTHON, *items(FLASHINFER)], items(VLLM)],
    "in a higher layer": [[*PYTHON, *items(VLLM)], items(FLASHINFER)],
    "RECORD linked from uv's cache": [[*PYTHON, *items(VLLM), Item(CACHE, FLASHINFER.record), *REST, hardlink(RECORD, CACHE)]],
    "RECORD linked from uv's cache in a lower layer": [
        [*PYTHON, Item(CACHE, FLASHINFER.record)], [*items(VLLM), *REST, hardlink(RECORD, CACHE)],
    ],
    "RECORD linked under another name": [
        [*PYTHON, Item("opt/r", FLASHINFER.record), *items(VLLM), *REST, hardlink(RECORD, "opt/r")]
    ],
    "RECORD first, its package in a layer above": [[*PYTHON, Item(RECORD, FLASHINFER.record), *items(VLLM)], REST],
    "another version below": [
        [*PYTHON, *items(Small("flashinfer", "flashinfer_python", "0.5.0", FLASHINFER.files))],
        [Item(f"{ROOT}/.wh.flashinfer_python-0.5.0.dist-info"), *items(VLLM, FLASHINFER)],
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_distribution_is_the_one_whose_record_lists_the_package(kind: str) -> None:
    found = tree_of([layer(*each) for each in KINDS[kind]], "vllm", "flashinfer")
    assert distributions(found, "vllm") == {
        "vllm": Distribution("vllm", "0.0.1", VLLM.info),
        "flashinfer": Distribution("flashinfer_python", "0.6.8", FLASHINFER.info),
    }
    paths = ["vllm/config.py", "flashinfer/decode.py", f"{FLASHINFER.info}/RECORD", "flashinfer/none.py"]
    read = found.read(paths)
    assert {path: entry.data for path, entry in read.items()} == {
        "vllm/config.py": VLLM.files["vllm/config.py"],
        "flashinfer/decode.py": FLASHINFER.files["flashinfer/decode.py"],
        f"{FLASHINFER.info}/RECORD": FLASHINFER.record,
    }
    assert "decode.py" in found.children("flashinfer")


def test_the_package_alone_is_found_by_its_import_name() -> None:
    found = tree_of([layer(*PYTHON, *items(VLLM, FLASHINFER))], "flashinfer")
    assert found.distribution == Distribution("flashinfer_python", "0.6.8", FLASHINFER.info)


def test_layers_are_read_once_for_all_packages() -> None:
    taken: list[str] = []
    layers = [layer(*PYTHON), layer(*items(TRITON)), layer(*items(TRANSFORMERS)), layer(*items(VLLM, FLASHINFER))]
    tree_of(layers, "vllm", "flashinfer", "transformers", taken=taken)
    assert sorted(taken) == sorted(set(taken))
    assert f"sha256:{1:064x}" not in taken, "what lies below the packages is not read"


def test_two_distributions_that_list_one_package_are_refused() -> None:
    other = Small("flashinfer", "flashinfer_fork", "1.0", {"flashinfer/__init__.py": b""})
    with pytest.raises(InputError) as caught:
        tree_of([layer(*PYTHON, *items(VLLM, FLASHINFER, other))], "vllm", "flashinfer")
    said = caught.value.message + " ".join(text for _, text in caught.value.details)
    assert "flashinfer_fork" in said and "flashinfer_python" in said


def test_a_package_beside_is_known_without_being_asked_for() -> None:
    found = tree_of([layer(*PYTHON, *items(VLLM, FLASHINFER))], "vllm")
    assert packages_beside(found, ["tests", "flashinfer", "no name"]) == ["flashinfer"]


def test_packages_of_different_folders_are_refused_with_both() -> None:
    one = DictTree({"vllm/__init__.py": b""})
    two = DictTree({"flashinfer/__init__.py": b""}, root="opt/venv/lib/python3.12/site-packages")
    with pytest.raises(InputError) as caught:
        Together({"vllm": one, "flashinfer": two}, "base")
    assert [text for label, text in caught.value.details] == [
        f"/{one.root} has vllm (Python 3.12)", f"/{two.root} has flashinfer (Python 3.12)",
    ]  # fmt: skip


def test_a_filter_of_one_package_is_the_one_that_it_was() -> None:
    """What is cached of a layer is kept by this key."""
    assert Filter("vllm").key == Filter("vllm", (), further=["vllm"]).key
    assert Filter("vllm").key != Filter("vllm", further=["flashinfer"]).key
