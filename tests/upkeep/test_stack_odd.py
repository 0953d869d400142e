"""Stacks that are hard to hand over: git and quilt make of them what our stack makes, and they come back as they were."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from builder.documents.lock import Lock, LockedOverlay, read_lock
from builder.patch.diff import parse
from builder.upkeep.series.export import mails, quilt_series
from builder.upkeep.series.series import read_series
from builder.util.files import sha256
from builder.util.project import Project
from tests.support.cli import builder
from tests.support.smallwheel import FILES, make_project
from tests.support.trees import git, git_diff, write_tree
from tests.upkeep.test_stack_handover import files_of, repository

DEMO = read_lock(Path(__file__).parents[2] / "images/demo.lock.yaml")
BARE = DEMO.base.model_copy(
    update={"platforms": {name: each.model_copy(update={"files": ()}) for name, each in DEMO.base.platforms.items()}}
)
LONG = b"".join(b"line %d\n" % number for number in range(30))
BASE = {
    **FILES,
    "vllm/crlf.py": b"a = 1\r\nb = 2\r\nc = 3\r\n",
    "vllm/latin.py": b"# -*- coding: latin-1 -*-\nx = '\xe4'\n",
    "vllm/noeol.py": b"x = 1\ny = 2",
    "vllm/long.txt": LONG,
    "vllm/empty.py": b"",
}
REST = {path: data for path, data in BASE.items() if path != "vllm/long.txt"}
AFTER = {
    "a rename with a change": {**REST, "vllm/sub/long.txt": LONG.replace(b"line 3\n", b"line three\n")},
    "a pure rename": {**REST, "vllm/sub/long.txt": LONG},
    "a new empty file": {**BASE, "vllm/new/__init__.py": b""},
    "a deleted file": {path: data for path, data in BASE.items() if path != "vllm/old.py"},
    "a deleted empty file": {path: data for path, data in BASE.items() if path != "vllm/empty.py"},
    "carriage returns": {**BASE, "vllm/crlf.py": b"a = 1\r\nb = '" + b"x=20" * 90 + b"'  \r\nc = 3\r\n"},
    "carriage returns taken out": {**BASE, "vllm/crlf.py": b"a = 1\nb = 2\nc = 3\n"},
    "bytes that are not UTF-8": {**BASE, "vllm/latin.py": b"# -*- coding: latin-1 -*-\nx = '\xe4\xf6'\n"},
    "no newline at the end": {**BASE, "vllm/noeol.py": b"x = 1\ny = 3"},
    "a newline at the end": {**BASE, "vllm/noeol.py": b"x = 1\ny = 2\n"},
    "lines that look like a mail's": {**BASE, "vllm/long.txt": LONG + b"From x Mon Sep 17 00:00:00 2001\n-- \n---\n"},
    "a name in UTF-8 with blanks": {**BASE, "vllm/ä b.py": b"x = 1\n"},
    "a mode": BASE,
}
FACTS = {
    "title": "[Bugfix] Größe " + "sehr " * 60 + "groß:\nnow",
    "author": 'Thor, A. "Ü"',
    "why": "--- a\nFrom me\n---\nFrom abc Mon Sep 17 00:00:00 2001\ndiff --git a/x b/x\nSubject: other",
}


def project_of(tmp_path: Path, case: str) -> tuple[Path, bytes]:
    """A locked project with the case's change as its overlay."""
    after = AFTER[case]
    diff = git_diff(tmp_path / "1", BASE, after, "-M")
    if case == "a mode":
        folder = tmp_path / "1/repository"
        (folder / "vllm/config.py").chmod(0o755)
        git(folder, "add", "-A")
        diff = git(folder, "diff", "--cached")
    project = make_project(tmp_path / "project", {"one.diff": diff})
    from tests.support.smallwheel import make_wheel

    make_wheel(project / "vllm-0.0.1-py3-none-any.whl", BASE)
    path = project / "images/small.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe["overlays"][0] |= FACTS
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert builder("lock", "small", cwd=project).code == 0
    done = builder("stack", "export", "small", "--output", "out", cwd=project)
    assert done.code == 0, done.err
    return project, diff


@pytest.mark.parametrize("case", AFTER)
def test_git_and_quilt_take_it_and_it_comes_back(case: str, tmp_path: Path) -> None:
    project, diff = project_of(tmp_path, case)
    target = repository(tmp_path / "am", BASE)
    git(target, "am", "-q", "--keep-non-patch", *(str(path) for path in sorted((project / "out/mail").iterdir())))
    assert files_of(target) == AFTER[case]
    assert git(target, "status", "--porcelain") == b""
    assert git(target, "rev-list", "--count", "HEAD").strip() == b"2"
    if case == "a mode":
        assert (target / "vllm/config.py").stat().st_mode & 0o111
    subject = git(target, "log", "-1", "--format=%s").decode().strip()
    assert subject == " ".join(FACTS["title"].split())
    body = " ".join(git(target, "log", "-1", "--format=%b").decode().split())
    assert " ".join(FACTS["why"].split()) in body
    if shutil.which("quilt"):
        tree = tmp_path / "quilt"
        write_tree(tree, BASE)
        env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "QUILT_PATCHES": str(project / "out/patches")}
        subprocess.run(["quilt", "push", "-a", "-q"], cwd=tree, check=True, capture_output=True, env=env)
        assert files_of(tree) == AFTER[case]
        subprocess.run(["quilt", "pop", "-a", "-q"], cwd=tree, check=True, capture_output=True, env=env)
        # quilt keeps an empty copy for a file that was not there: it cannot bring an empty one back.
        assert files_of(tree) | {"vllm/empty.py": b""} == BASE
    for folder in ("patches", "mail"):
        where = project / "out" / folder
        (where / "series").write_text("".join(f"{path.name}\n" for path in sorted(where.glob("*.patch"))))
        [back] = read_series(where)
        assert back.diff.digest == parse(diff, "x").digest
        assert back.meta == {key: " ".join(value.split()) for key, value in FACTS.items()}


text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60).filter(str.strip)
odd = st.one_of(
    text,
    st.lists(st.sampled_from(["---", "From me", "From:", "[PATCH]x", "Why: b", "diff --git", "a", "=?", "ü"])).map(
        "\n".join
    ),
)


@given(title=odd, author=odd, why=odd, drop_when=odd, data=st.binary(max_size=200))
@example(title="a", author="b", why="c", drop_when="d", data=b"\r\r\n\x00\xff=20 \n\n")
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_what_is_exported_comes_back_the_same(
    title: str, author: str, why: str, drop_when: str, data: bytes, tmp_path: Path
) -> None:
    lines = b"".join(b"+" + line + b"\n" for line in data.split(b"\n"))
    count = lines.count(b"\n")
    diff = (
        b"diff --git a/vllm/n.py b/vllm/n.py\nnew file mode 100644\n--- /dev/null\n+++ b/vllm/n.py\n@@ -0,0 +1,%d @@\n"
        % count
    )
    found = parse(diff + lines, "x")
    (tmp_path / "n.diff").write_bytes(found.canonical)
    given_facts = {"title": title, "author": author, "why": why, "drop_when": drop_when}
    facts = {key: " ".join(value.split()) for key, value in given_facts.items()}
    overlay = LockedOverlay.model_validate({"id": "n.diff", "diff": "n.diff", "digest": found.digest, **given_facts})
    lock = Lock(
        name="x", recipe=sha256(b""), package="vllm", base=BARE,
        overlays=(overlay,), entrypoint=sha256(b""), epoch=1,
    )  # fmt: skip
    project = Project(tmp_path, tmp_path / "x.yaml")
    for name, files in (("quilt", quilt_series(project, lock)), ("mail", mails(project, lock))):
        where = tmp_path / name
        shutil.rmtree(where, ignore_errors=True)
        write_tree(
            where,
            {"series": "".join(f"{each}\n" for each in files if each != "series").encode()}
            | {k: v for k, v in files.items() if k != "series"},
        )
        [back] = read_series(where)
        assert back.diff.digest == found.digest
        for key in ("why", "drop_when"):
            assert back.meta.get(key, "") == facts[key], (name, key)


def test_nothing_is_written_when_the_third_of_five_patches_is_bad(tmp_path: Path) -> None:
    project, diff = project_of(tmp_path, "a new empty file")
    where = tmp_path / "series"
    where.mkdir()
    for number in range(1, 6):
        path = f"vllm/n{number}.py".encode()
        (where / f"{number}.patch").write_bytes(diff.replace(b"vllm/new/__init__.py", path))
    (where / "3.patch").write_bytes(b"diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n")
    (where / "series").write_text("".join(f"{number}.patch\n" for number in range(1, 6)))
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    for command in (["--recipe", "small"], ["--recipe", "fresh", "--base", "wheel:vllm==0.20.0"]):
        done = builder("stack", "import", str(where), *command, cwd=project)
        assert done.code == 2
        assert "3.patch" in done.err
        assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before
    # Neither when the folder cannot be written, which is found out last.
    (where / "3.patch").write_bytes(diff.replace(b"vllm/new/__init__.py", b"vllm/n3.py"))
    (project / "overlays/fresh").write_text("a file\n")
    done = builder("stack", "import", str(where), "--recipe", "fresh", "--base", "wheel:vllm==0.20.0", cwd=project)
    assert done.code == 2
    assert "cannot write" in done.err
    assert not (project / "images/fresh.yaml").exists()
    (project / "overlays/fresh").unlink()
    assert (
        builder("stack", "import", str(where), "--recipe", "fresh", "--base", "nonsense:x:y:z", cwd=project).code == 2
    )
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("series", "patches", "says"),
    [
        ("a.patch -R\n", {}, "an overlay goes forward"),
        ("a.patch\na.patch\n", {}, "a.patch is repeated in the series"),
        ("sub\\a.patch\n", {}, "a series has slashes between folders"),
        ("s/a.patch\ns-a.patch\n", {"s/a.patch": None, "s-a.patch": None}, "two patches of the series would both be"),
        ("empty.patch\n", {"empty.patch": b"Subject: nothing yet\n"}, "has no diff in it"),
        ("void.patch\n", {"void.patch": b""}, "void.patch is empty"),
        ("dos.patch\n", {"dos.patch": b"diff --git a/vllm/x.py b/vllm/x.py\r\n--- a/vllm/x.py\r\n+++ b/vllm/x.py\r\n@@ -1 +1 @@\r\n-a\r\n+b\r\n"}, "the diff has CRLF line endings"),
    ],
    ids=["reverse", "twice", "backslash", "one name", "header only", "empty", "dos"],
)  # fmt: skip
def test_why_a_series_is_refused(series: str, patches: dict[str, bytes | None], says: str, tmp_path: Path) -> None:
    project, diff = project_of(tmp_path, "a new empty file")
    where = tmp_path / "series"
    write_tree(where, {"a.patch": diff, **{name: data if data is not None else diff for name, data in patches.items()}})
    (where / "series").write_text(series)
    done = builder("stack", "import", str(where), "--recipe", "small", cwd=project)
    assert done.code == 2
    assert says in done.err


def test_a_series_that_is_no_text_is_refused(tmp_path: Path) -> None:
    for data, says in ((b"\xe4.patch\n", "not UTF-8"), ("a.patch\n".encode("utf-16"), "UTF-16")):
        (tmp_path / "series").write_bytes(data)
        done = builder("stack", "import", str(tmp_path), "--recipe", "x", "--base", "wheel:vllm==0.20.0", cwd=tmp_path)
        assert done.code == 2
        assert says in done.err


def test_headers_of_debian_and_of_mails_are_read(tmp_path: Path) -> None:
    diff = git_diff(tmp_path / "1", BASE, AFTER["a new empty file"])
    write_tree(tmp_path / "s", {
        "dep3.patch": b"Description: Short one\n Because of this:\n .\n and that.\nAuthor: B <b@example.org>\nOrigin: vendor\n---\n" + diff,
        "mail.patch": b"From 0 Mon Sep 17 00:00:00 2001\nFrom: =?utf-8?q?A=2E_=C3=9C=2E?= <a@example.org>\n"
        b"Subject: [PATCH v2 3/9] =?utf-8?q?Gr=C3=B6=C3=9Fe?=\n =?utf-8?q?_ist?= folded\n\nText: of it\n---\n stat\n" + diff,
        "series": b"# ours\r\ndep3.patch -p1 # first\r\n\r\nmail.patch\r\n",
    })  # fmt: skip
    first, second = read_series(tmp_path / "s")
    assert first.meta == {
        "title": "Short one", "author": "B <b@example.org>", "origin": "vendor", "why": "Because of this: and that.",
    }  # fmt: skip
    assert second.meta == {"title": "Größe ist folded", "author": "A. Ü. <a@example.org>"}
