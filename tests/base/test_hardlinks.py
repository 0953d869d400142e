"""Hard-linked package files, as uv and GNU tar write them: the file is what the link named when it was unpacked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.bases import (
    PATCHED,
    PYTHON,
    ROOT,
    SOURCE,
    Item,
    Made,
    build,
    built_layer,
    folder,
    hardlink,
    layer,
    package,
    recipe,
    symlink,
)  # fmt: skip

A = f"{ROOT}/vllm/a.py"
OTHER = SOURCE.replace(b"x1 = 1\n", b"x1 = 111\n")
REST = package(without=["vllm/a.py"])

# Each kind of hard link: the layers, bottom first, and the a.py that a container sees.
KINDS: dict[str, tuple[list[list[Item]], bytes]] = {
    "same layer": ([[*PYTHON, Item("opt/store/a", SOURCE), *REST, hardlink(A, "opt/store/a")]], SOURCE),
    "deep in a cache": (
        [[*PYTHON, Item("root/.cache/uv/archive-v0/x/vllm/a.py", SOURCE), *REST,
          hardlink(A, "root/.cache/uv/archive-v0/x/vllm/a.py")]], SOURCE,
    ),
    "lower layer": ([[*PYTHON, Item("opt/store/a", SOURCE)], [*REST, hardlink(A, "opt/store/a")]], SOURCE),
    "two layers down": (
        [[*PYTHON, Item("opt/store/a", SOURCE)], [folder("opt"), Item("opt/x", b"")], [*REST, hardlink(A, "opt/store/a")]],
        SOURCE,
    ),
    "absolute name": ([[*PYTHON, Item("opt/store/a", SOURCE), *REST, hardlink(A, "/opt/store/a")]], SOURCE),
    "leading ./": ([[*PYTHON, Item("./opt/store/a", SOURCE), *REST, hardlink(f"./{A}", "./opt/store/a")]], SOURCE),
    "target removed later": (
        [[*PYTHON, Item("opt/store/a", SOURCE), *REST, hardlink(A, "opt/store/a")], [folder("opt/store"), Item("opt/store/.wh.a")]],
        SOURCE,
    ),
    "target overwritten by a later layer": (
        [[*PYTHON, Item("opt/store/a", SOURCE), *REST, hardlink(A, "opt/store/a")], [Item("opt/store/a", b"other\n")]],
        SOURCE,
    ),
    "target overwritten later in the same tar": (
        [[*PYTHON, Item("opt/store/a", SOURCE), *REST, hardlink(A, "opt/store/a"), Item("opt/store/a", b"other\n")]], SOURCE,
    ),
    "target in the layer and below": (
        [[*PYTHON, Item("opt/store/a", b"other\n")], [Item("opt/store/a", SOURCE), *REST, hardlink(A, "opt/store/a")]], SOURCE,
    ),
    "link before its target's new version": (
        [[*PYTHON, Item("opt/store/a", SOURCE)], [*REST, hardlink(A, "opt/store/a"), Item("opt/store/a", b"other\n")]], SOURCE,
    ),
    "chain of links": (
        [[*PYTHON, Item("opt/a", SOURCE), hardlink("opt/b/c", "opt/a"), *REST, hardlink(A, "opt/b/c")]], SOURCE,
    ),
    "chain over two layers": (
        [[*PYTHON, Item("opt/s/a", SOURCE), hardlink("opt/s/b", "opt/s/a")], [*REST, hardlink(A, "opt/s/b")]], SOURCE,
    ),
    "link over a file of the layer": (
        [[*PYTHON, Item("opt/store/a", SOURCE), *package(source=OTHER), hardlink(A, "opt/store/a")]], SOURCE,
    ),
    "link over a file of a lower layer": (
        [[*PYTHON, *package(source=OTHER)], [Item("opt/store/a", SOURCE), hardlink(A, "opt/store/a")]], SOURCE,
    ),
    "file over a link": (
        [[*PYTHON, Item("opt/store/a", OTHER), *REST, hardlink(A, "opt/store/a"), Item(A, SOURCE)]], SOURCE,
    ),
    "RECORD is a link": (
        [[*PYTHON, Item("opt/r/RECORD", package()[-1].data), *package(without=["vllm-0.0.1.dist-info/RECORD"]),
          hardlink(f"{ROOT}/vllm-0.0.1.dist-info/RECORD", "opt/r/RECORD")]], SOURCE,
    ),
    "target that was a symlink before in the same tar": (
        [[*PYTHON, symlink("opt/store/a", "other"), Item("opt/store/a", SOURCE), *REST, hardlink(A, "opt/store/a")]], SOURCE,
    ),
    "target in a layer below that replaces its own symlink": (
        [[*PYTHON, Item("opt/x", SOURCE), symlink("opt/store/a", "other"), hardlink("opt/store/a", "opt/x")],
         [*REST, hardlink(A, "opt/store/a")]], SOURCE,
    ),
    "between files of the package": (
        [[*PYTHON, Item(f"{ROOT}/vllm/c.py", SOURCE), *REST, hardlink(A, f"{ROOT}/vllm/c.py")]], SOURCE,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_hard_link_is_the_file_that_it_names(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layers, wanted = KINDS[kind]
    made = Made(recipe(tmp_path) / "base")
    made.write(made.image([layer(*each) for each in layers]))
    outcome = build(tmp_path, capsys)
    assert outcome.code == 0, outcome.message
    assert built_layer(tmp_path, outcome)[A] == wanted.replace(b"x10 = 10\n", b"x10 = 1000\n") == PATCHED


@pytest.mark.parametrize(
    "layers",
    [
        [[*PYTHON, *REST, hardlink(A, "opt/store/none")]],
        [[*PYTHON, folder("opt/store"), *REST, hardlink(A, "opt/store")]],
        [[*PYTHON, Item("opt/store/a", SOURCE)], [Item("opt/store/.wh.a"), *REST, hardlink(A, "opt/store/a")]],
        [[*PYTHON, symlink("opt/store/l", "/etc/x"), *REST, hardlink(A, "opt/store/l")]],
        [[*PYTHON, *REST, hardlink(A, A)]],
    ],
    ids=["missing", "a folder", "removed before", "a symlink", "itself"],
)
def test_a_hard_link_to_what_is_not_a_file_is_refused(
    layers: list[list[Item]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Made(recipe(tmp_path) / "base")
    made.write(made.image([layer(*each) for each in layers]))
    outcome = build(tmp_path, capsys)
    assert outcome.code in (2, 3), outcome.message
    assert not (tmp_path / "dist").exists()
