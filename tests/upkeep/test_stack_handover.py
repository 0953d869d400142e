"""The stack handed over: `git am` and quilt's own way of applying give the files that our stack gives, and it comes back."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.cli import builder
from tests.support.smallwheel import FILES, make_project, make_wheel
from tests.support.trees import git, git_diff, write_tree

EDITED = FILES["vllm/config.py"].replace(b"option_20 = 20\n", b"option_20 = 2020\n")
TWICE = EDITED.replace(b"option_21 = 21\n", b"option_21 = 2121\n")
WANTED = {
    **{k: v for k, v in FILES.items() if k != "vllm/old.py"},
    "vllm/config.py": TWICE,
    "vllm/new.py": b"new = 1\n",
}
WHY = "Because the first line\nof the reason goes on: with a colon"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    first = {**FILES, "vllm/config.py": EDITED, "tests/t.py": b"t = 1\n"}
    second = {**WANTED, "tests/t.py": b"t = 1\n"}
    made = make_project(
        tmp_path / "project",
        {
            "one.diff": git_diff(tmp_path / "1", FILES, first),
            "two.diff": git_diff(tmp_path / "2", first, second),
        },
    )
    path = made / "images/small.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe["overlays"][0] |= {
        "title": "Größer",
        "author": "A. Ü. Thor <a@example.org>",
        "why": WHY,
        "drop_when": "never",
    }
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert builder("lock", "small", cwd=made).code == 0
    done = builder("stack", "export", "small", "--output", "out", cwd=made)
    assert done.code == 0, done.err
    return made


def repository(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    git(folder, "init", "-q")
    git(folder, "config", "user.name", "x")
    git(folder, "config", "user.email", "x@example.org")
    write_tree(folder, files)
    git(folder, "add", "-A", "-f")
    git(folder, "commit", "-q", "-m", "base")
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not {".git", ".pc", "patches"} & set(path.relative_to(folder).parts)
    }


def test_git_am_takes_the_mails(project: Path, tmp_path: Path) -> None:
    target = repository(tmp_path / "am", FILES)
    git(target, "am", "-q", *(str(path) for path in sorted((project / "out/mail").iterdir())))
    assert files_of(target) == WANTED
    log = git(target, "log", "--reverse", "--format=%an <%ae>|%s", "HEAD~2..").decode().splitlines()
    assert log[0] == "A. Ü. Thor <a@example.org>|Größer"
    body = git(target, "log", "-1", "--format=%b", "HEAD~1").decode()
    assert "Drop-When: never" in body
    assert "Overlay: overlays/one.diff" in body


def test_the_series_applies_as_quilt_does_it(project: Path, tmp_path: Path) -> None:
    target = tmp_path / "quilt"
    write_tree(target, FILES)
    patches = project / "out/patches"
    if shutil.which("quilt"):
        subprocess.run(
            ["quilt", "push", "-a", "-q"], cwd=target, check=True, capture_output=True,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "QUILT_PATCHES": str(patches)},
        )  # fmt: skip
    else:
        # What quilt runs for each patch of the series.
        for name in (patches / "series").read_text().splitlines()[1:]:
            with (patches / name).open("rb") as stream:
                subprocess.run(["patch", "-p1", "-s", "-F0", "-E"], cwd=target, stdin=stream, check=True)
    assert files_of(target) == WANTED


def test_the_whole_diffs_are_for_the_source_tree(project: Path, tmp_path: Path) -> None:
    done = builder("stack", "export", "small", "--output", "all", "--whole", cwd=project)
    assert done.code == 0, done.err
    target = repository(tmp_path / "am", FILES)
    git(target, "am", "-q", *(str(path) for path in sorted((project / "all/mail").iterdir())))
    assert files_of(target) == {**WANTED, "tests/t.py": b"t = 1\n"}
    again = builder("stack", "export", "small", "--output", "all", cwd=project)
    assert again.code == 2
    assert "exists and is not an empty folder" in again.err


def test_a_picture_beside_the_package_is_left_out_with_a_word(tmp_path: Path) -> None:
    """The diff says only that it differs: git refuses a patch with such a section, and GNU patch would make an empty file."""
    before = {**FILES, "docs/old.png": b"\0\1", "docs/gone.png": b"\0\2"}
    after = {
        **FILES,
        "vllm/old.py": b"gone = 2\n",
        "docs/old.png": b"\0\3",
        "docs/new.png": b"\0\4",
        "docs/a.md": b"a\n",
    }
    root = make_project(tmp_path / "project", {"one.diff": git_diff(tmp_path / "diff", before, after)})
    assert builder("lock", "small", cwd=root).code == 0
    done = builder("stack", "export", "small", "--output", "all", "--whole", "--json", cwd=root)
    assert done.code == 0, done.err
    assert done.document["left_out"] == {"overlays/one.diff": ["docs/gone.png", "docs/new.png", "docs/old.png"]}
    assert "does not have the content of docs/gone.png, docs/new.png, docs/old.png; left out" in done.err
    target = repository(tmp_path / "am", before)
    git(target, "am", "-q", *(str(path) for path in sorted((root / "all/mail").iterdir())))
    wanted = {**before, "vllm/old.py": b"gone = 2\n", "docs/a.md": b"a\n"}
    assert files_of(target) == wanted
    small = builder("stack", "export", "small", "--output", "some", "--json", cwd=root)
    assert (small.document["left_out"], "left out" in small.err) == ({}, False)


def test_a_series_comes_in_with_its_metadata_and_builds_the_same(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    make_wheel(other / "vllm-0.0.1-py3-none-any.whl")
    base = "wheel:vllm-0.0.1-py3-none-any.whl"
    done = builder("stack", "import", str(project / "out"), "--recipe", "taken", "--base", base, cwd=other)
    assert done.code == 0, done.err
    overlays = yaml.safe_load((other / "images/taken.yaml").read_text())["overlays"]
    assert overlays[0] == {
        "file": "overlays/taken/0001-one.diff",
        "title": "Größer",
        "author": "A. Ü. Thor <a@example.org>",
        "why": " ".join(WHY.split()),
        "drop_when": "never",
    }
    here = builder("check", "small", "--json", "--diff", cwd=project).document["platforms"][0]
    there = builder("check", "taken", "--json", "--diff", cwd=other)
    assert there.code == 0, there.err
    assert there.document["platforms"][0]["diff"] == here["diff"]
    assert there.document["platforms"][0]["overlays"][0]["drop_when"] == "never"
    # A second time into the same recipe: nothing is overwritten.
    again = builder("stack", "import", str(project / "out"), "--recipe", "taken", cwd=other)
    assert again.code == 2
    assert "exists already" in again.err
    assert builder("stack", "import", str(project / "out"), "--recipe", "taken", "--base", base, cwd=other).code == 2


def test_a_series_is_added_behind_what_a_recipe_has(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "series").write_text("# ours\nsub/three.patch -p1  # the third\n\n")
    (folder / "sub").mkdir()
    diff = git_diff(tmp_path / "3", WANTED, {**WANTED, "vllm/new.py": b"new = 2\n"})
    (folder / "sub/three.patch").write_bytes(b"Description: three\n more of it\nAuthor: B\n\n" + diff)
    path = project / "images/small.yaml"
    path.write_text(path.read_text().replace("profiles:", "# kept\nprofiles:"))
    done = builder("stack", "import", str(folder / "series"), "--recipe", "small", cwd=project)
    assert done.code == 0, done.err
    text = path.read_text()
    assert "# kept\nprofiles:" in text
    last = yaml.safe_load(text)["overlays"][-1]
    assert last == {"file": "overlays/small/sub-three.diff", "title": "three", "author": "B", "why": "more of it"}
    assert builder("lock", "small", cwd=project).code == 0


@pytest.mark.parametrize(
    ("series", "says"),
    [("x.patch -p1 -E\n", "applied with -p1 -E"), ("gone.patch\n", "cannot read the patch"), ("../x.patch\n", "outside its folder"),
     ("# nothing\n", "names no patch"), ("x.patch\n", "has no diff in it")],
)  # fmt: skip
def test_a_series_that_cannot_be_taken(project: Path, tmp_path: Path, series: str, says: str) -> None:
    (tmp_path / "series").write_text(series)
    (tmp_path / "x.patch").write_text("no diff\n")
    before = (project / "images/small.yaml").read_bytes()
    done = builder("stack", "import", str(tmp_path), "--recipe", "small", cwd=project)
    assert done.code == 2
    assert says in done.err
    assert (project / "images/small.yaml").read_bytes() == before
