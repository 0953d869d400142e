"""A layer's index is asked in time that grows with its files: counted in function calls, so that a busy machine changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from builder.base.model import PackageTree
from builder.base.open import open_base
from builder.documents.reference import BaseReference, Platform
from builder.util.context import Context
from tests.support.counting import calls
from tests.support.standin import tar_of, write_layout

ROOT = "usr/local/lib/python3.12/dist-packages"


def layout(folder: Path, count: int) -> tuple[BaseReference, list[str]]:
    """A base whose package has `count` files, ten in each folder, and their paths."""
    paths = [f"vllm/folder{number // 10}/module{number}.py" for number in range(count)] + ["vllm/__init__.py"]
    files = {f"{ROOT}/{path}": b"x = 1\n" for path in paths}
    files[f"{ROOT}/vllm-0.0.1.dist-info/RECORD"] = "".join(f"{path},,\n" for path in paths).encode()
    write_layout(folder, [tar_of({"usr/bin/python3": b"#!"}), tar_of(files)])
    return BaseReference.parse(f"oci:{folder}"), paths


ASKED: dict[str, Callable[[PackageTree, list[str]], object]] = {
    "read": lambda tree, paths: tree.read(paths),
    "children": lambda tree, paths: [tree.children(each) for each in {path.rpartition("/")[0] for path in paths}],
    "outside": lambda tree, paths: tree.outside([f"{ROOT}/{path}" for path in paths]),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_warm_index_is_asked_in_linear_time(ask: Callable[[PackageTree, list[str]], object], tmp_path: Path) -> None:
    taken = []
    for count in (100, 400):
        reference, paths = layout(tmp_path / str(count), count)
        tree = open_base(reference, root=tmp_path, context=Context()).tree(Platform.parse("linux/amd64"), "vllm")
        assert ask(tree, paths)
        taken.append(calls(partial(ask, tree, paths)))
    assert taken[1] <= 1.05 * 4 * taken[0], taken
