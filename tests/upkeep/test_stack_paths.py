"""Series and overlays whose names do not begin at the repository's root: given the keys, or found out by the import."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.support.cli import builder
from tests.support.smallwheel import FILES, make_project, make_wheel
from tests.support.trees import git, git_diff, write_tree

BASE = "wheel:vllm-0.0.1-py3-none-any.whl"
EDITED = {
    **FILES,
    "vllm/config.py": FILES["vllm/config.py"].replace(b"option_07 = 7\n", b"option_07 = 70\n"),
    "vllm/engine/args.py": FILES["vllm/engine/args.py"].replace(b"parse([])", b"parse(['x'])"),
}
MORE = {**EDITED, "vllm/engine/new.py": b"new = 1\n"}
STAMP = b"\t2026-01-02 03:04:05.000000000 +0000"
ROOT = "usr/local/lib/python3.12/dist-packages/"


def below(files: dict[str, bytes], *, prefix: str = "", off: str = "") -> dict[str, bytes]:
    return {prefix + path.removeprefix(off): data for path, data in files.items()}


def diffs(tmp: Path, *options: str, prefix: str = "", off: str = "") -> tuple[bytes, bytes]:
    """Two patches in order; the second one only makes a file."""
    trees = [
        below({path: data for path, data in each.items() if path.startswith(off)}, prefix=prefix, off=off)
        for each in (FILES, EDITED, MORE)
    ]
    first = git_diff(tmp / "one", trees[0], trees[1], *options)
    return first, git_diff(tmp / "two", trees[1], trees[2], *options)


def plain(diff: bytes, prefix: bytes) -> bytes:
    """A git diff as `diff -u` makes one: no marks, another prefix, `.orig` behind the old names."""
    kept = (line for line in diff.split(b"\n") if not line.startswith((b"diff --git", b"index ", b"new file mode")))
    text = b"\n".join(kept)
    text = re.sub(
        rb"^--- a/(.*)$", lambda name: b"--- " + prefix + name[1] + b".orig" + STAMP, text, flags=re.MULTILINE
    )
    return re.sub(rb"^\+\+\+ b/(.*)$", lambda name: b"+++ " + prefix + name[1] + STAMP, text, flags=re.MULTILINE)


def mail(diff: bytes, number: int) -> bytes:
    return (
        b"From 0 Mon Sep 17 00:00:00 2001\nFrom: A <a@example.org>\nSubject: [PATCH %d/2] change\n\ntext\n---\n x | 2 +-\n\n"
        % number
        + diff
        + b"-- \n2.39.5\n\n"
    )


Make = Callable[[Path], tuple[bytes, ...]]
SERIES: dict[str, tuple[Make, dict[str, object], str]] = {
    "a quilt series inside the package": (lambda tmp: diffs(tmp, off="vllm/"), {"under": "vllm"}, ""),
    "a monorepo": (lambda tmp: diffs(tmp, prefix="python/"), {"strip": 2}, ""),
    "from the image's root": (lambda tmp: diffs(tmp, prefix=ROOT), {"strip": 6}, ""),
    "mails": (lambda tmp: tuple(mail(each, n) for n, each in enumerate(diffs(tmp), 1)), {}, ""),
    "mails of a monorepo": (
        lambda tmp: tuple(mail(each, n) for n, each in enumerate(diffs(tmp, prefix="python/"), 1)),
        {"strip": 2},
        "",
    ),
    "without prefixes": (lambda tmp: diffs(tmp, "--no-prefix"), {"under": "vllm"}, ""),
    "without prefixes, as the series says": (lambda tmp: diffs(tmp, "--no-prefix"), {}, " -p0"),
    "two folders, as the series says": (lambda tmp: diffs(tmp, prefix="python/"), {"strip": 2}, " -p2"),
    "absolute names": (
        lambda tmp: tuple(plain(each, b"/" + ROOT.encode()) for each in diffs(tmp)),
        {"strip": 6},
        "",
    ),
    "bare names": (lambda tmp: tuple(plain(each, b"") for each in diffs(tmp, off="vllm/engine/")), {"under": "vllm/engine"}, " -p0"),
}  # fmt: skip


@pytest.mark.parametrize("name", SERIES)
def test_an_import_finds_out_which_files_are_meant(name: str, tmp_path: Path) -> None:
    make, keys, option = SERIES[name]
    off = "vllm/engine/" if name == "bare names" else ""
    first, second = make(tmp_path)
    series = tmp_path / "series"
    write_tree(series, {"1.patch": first, "2.patch": second, "series": f"1.patch{option}\n2.patch{option}\n".encode()})
    project = tmp_path / "project"
    project.mkdir()
    make_wheel(project / "vllm-0.0.1-py3-none-any.whl")
    done = builder("stack", "import", str(series), "--recipe", "taken", "--base", BASE, cwd=project)
    assert done.code == 0, done.err
    overlays = yaml.safe_load((project / "images/taken.yaml").read_text())["overlays"]
    assert [{key: each[key] for key in ("strip", "under") if key in each} for each in overlays] == [keys, keys]
    checked = builder("check", "taken", "--json", cwd=project)
    assert checked.code == 0, checked.err
    touched = {path for each in checked.document["platforms"][0]["overlays"] for path in each["files"]}
    assert touched == {"vllm/engine/args.py", "vllm/engine/new.py", *(() if off else ("vllm/config.py",))}
    built = builder("build", "taken", "--engine", "oci", "--json", cwd=project)
    assert built.code == 0, built.err


def test_strip_and_under_can_be_given_to_the_import(tmp_path: Path) -> None:
    first, second = diffs(tmp_path, off="vllm/")
    series = tmp_path / "series"
    write_tree(series, {"1.patch": first, "2.patch": second, "series": b"1.patch\n2.patch\n"})
    project = tmp_path / "project"
    project.mkdir()
    # The base need not be there then.
    argv = ["stack", "import", str(series), "--recipe", "x", "--base", BASE, "--strip", "1", "--under", "vllm"]
    assert builder(*argv, cwd=project).code == 0
    make_wheel(project / "vllm-0.0.1-py3-none-any.whl")
    assert builder("check", "x", cwd=project).code == 0


def test_without_a_base_the_import_says_what_it_could_not_find_out(tmp_path: Path) -> None:
    first, _ = diffs(tmp_path, off="vllm/")
    series = tmp_path / "series"
    write_tree(series, {"1.patch": first, "series": b"1.patch\n"})
    project = tmp_path / "project"
    project.mkdir()
    done = builder("stack", "import", str(series), "--recipe", "x", "--base", BASE, cwd=project)
    assert done.code == 0
    assert "cannot look into the base" in done.err


def test_a_recipe_has_the_keys_and_the_lock_too(tmp_path: Path) -> None:
    first, second = diffs(tmp_path, prefix="python/")
    project = make_project(tmp_path / "project", {"1.diff": first, "2.diff": second})
    refused = builder("check", "small", cwd=project)
    assert refused.code == 2
    assert "2 of 2 files exist below vllm/" in refused.err
    assert "strip: 2" in refused.err
    assert "remove" not in refused.err
    path = project / "images/small.yaml"
    recipe = yaml.safe_load(path.read_text())
    for each in recipe["overlays"]:
        each["strip"] = 2
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert builder("lock", "small", cwd=project).code == 0
    lock = yaml.safe_load((project / "images/small.lock.yaml").read_text())
    assert [each["strip"] for each in lock["overlays"]] == [2, 2]
    done = builder("build", "small", "--engine", "oci", "--json", cwd=project)
    assert done.code == 0, done.err
    assert {file["path"] for file in done.document["files"]} == {
        "vllm/config.py", "vllm/engine/args.py", "vllm/engine/new.py",
    }  # fmt: skip
    # What is exported has the names of the package.
    assert builder("stack", "export", "small", "--output", "out", cwd=project).code == 0
    target = tmp_path / "am"
    write_tree(target, FILES)
    git(target, "init", "-q")
    git(target, "add", "-A", "-f")
    git(target, "commit", "-q", "-m", "base")
    git(target, "am", "-q", *(str(each) for each in sorted((project / "out/mail").glob("*.patch"))))
    assert (target / "vllm/engine/new.py").read_bytes() == b"new = 1\n"
    for key, value in (("strip", -1), ("under", "../x"), ("under", "/x"), ("strip", True)):
        recipe["overlays"][0] = {"file": "overlays/1.diff", key: value}
        path.write_text(yaml.safe_dump(recipe, sort_keys=False))
        done = builder("check", "small", cwd=project)
        assert done.code == 2, (key, value)
        assert key in done.err


def test_a_heading_that_settled_a_place_is_pinned_by_the_lock(tmp_path: Path) -> None:
    block = b"    def f(self):\n        a = 1\n        b = 2\n        return a\n\n"
    classes = b"".join(
        b"class C%d:\n" % n + block + b"".join(b"q%d_%d = 0\n" % (n, m) for m in range(30)) for n in range(3)
    )
    files = {**FILES, "vllm/same.py": b"".join(b"p%d = 0\n" % n for n in range(20)) + classes}
    diff = b"--- a/vllm/same.py\n+++ b/vllm/same.py\n@@ -50,3 +50,3 @@ class C1:\n         a = 1\n-        b = 2\n+        b = 22\n         return a\n"
    project = make_project(tmp_path / "project", {"1.diff": diff})
    make_wheel(project / "vllm-0.0.1-py3-none-any.whl", files)
    done = builder("lock", "small", cwd=project)
    assert done.code == 0, done.err
    assert "the heading behind @@ names one" in done.err
    lock = yaml.safe_load((project / "images/small.lock.yaml").read_text())
    assert lock["overlays"][0]["headings"] == {"vllm/same.py": {"1": "class C1:"}}
    checked = builder("check", "small", "--json", "--diff", cwd=project)
    assert checked.code == 0, checked.err
    assert "the heading behind @@ names one" in checked.document["platforms"][0]["notes"][0]
    # A heading does not identify a diff, and the lock's is what counts.
    (project / "overlays/1.diff").write_bytes(diff.replace(b"class C1:", b"class C2:"))
    again = builder("check", "small", "--json", "--diff", cwd=project)
    assert again.document["platforms"][0]["diff"] == checked.document["platforms"][0]["diff"]


def test_an_overlay_that_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", {"1.diff": b""})
    place = project / "overlays/1.diff"
    place.unlink()
    os.mkfifo(place)
    done = builder("check", "small", cwd=project)
    assert done.code == 2
    assert "is not a regular file" in done.err
    place.unlink()
    place.mkdir()
    assert builder("check", "small", cwd=project).code == 2


@pytest.mark.parametrize(
    ("name", "pack", "says"),
    [
        ("1.patch.gz", gzip.compress, "1.patch.gz is compressed with gzip"),
        ("1.patch", lambda diff: diff.decode().encode("utf-16"), "1.patch is UTF-16LE text"),
    ],
)
def test_packed_and_wide_patches_of_a_series_are_named(name: str, pack: object, says: str, tmp_path: Path) -> None:
    first, _ = diffs(tmp_path)
    write_tree(tmp_path / "series", {name: pack(first), "series": f"{name}\n".encode()})  # type: ignore[operator]
    done = builder("stack", "import", str(tmp_path / "series"), "--recipe", "x", "--base", BASE, cwd=tmp_path)
    assert done.code == 2
    assert says in done.err
    assert "fetch" not in done.err
