"""A new base from the command line: small wheels with a known answer, and what `--write` leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from builder.upkeep.rebase.edit import OverlayEdit, edit_recipe
from builder.util.errors import InputError
from builder.util.files import sha256
from builder.util.journal import write_files
from tests.support.cli import builder
from tests.support.smallwheel import FILES, make_project, make_wheel
from tests.support.trees import git_diff

OLD = FILES["vllm/config.py"]
NEW_WHEEL = "wheel:new-0.0.2-py3-none-any.whl"


def edit(data: bytes, *pairs: tuple[bytes, bytes]) -> bytes:
    for old, new in pairs:
        assert data.count(old) == 1
        data = data.replace(old, new)
    return data


def changed(path: str, data: bytes) -> dict[str, bytes]:
    return {**FILES, path: data}


MERGED = edit(OLD, (b"option_05 = 5\n", b"option_05 = 55\n"))
NEAR = edit(OLD, (b"option_20 = 20\n", b"option_20 = 2020\n"))
ENGINE = FILES["vllm/engine/args.py"].replace(b"return list(argv)", b"return sorted(argv)")
CLASH = edit(OLD, (b"option_35 = 35\n", b"option_35 = 3535\n"))


def project_of(tmp_path: Path, *, clash: bool = False) -> Path:
    """Three overlays: one that the new base has, one whose context it changed, one that fits; and with `clash` a fourth."""
    one, two = MERGED, edit(MERGED, (b"option_20 = 20\n", b"option_20 = 2020\n"))
    diffs = {
        "merged.diff": git_diff(tmp_path / "1", FILES, changed("vllm/config.py", one)),
        "near.diff": git_diff(tmp_path / "2", changed("vllm/config.py", one), changed("vllm/config.py", two)),
        "fits.diff": git_diff(tmp_path / "3", FILES, changed("vllm/engine/args.py", ENGINE)),
    }
    if clash:
        three = edit(two, (b"option_35 = 35\n", b"option_35 = 3535\n"))
        diffs["clash.diff"] = git_diff(tmp_path / "4", changed("vllm/config.py", two), changed("vllm/config.py", three))
    project = make_project(tmp_path / "project", diffs)
    upstream = edit(
        MERGED, (b"option_18 = 18\n", b"option_18 = 1818\n"), (b"option_35 = 35\n", b"option_35 = 'theirs'\n")
    )
    make_wheel(project / "new-0.0.2-py3-none-any.whl", changed("vllm/config.py", upstream))
    return project


def commented(project: Path) -> str:
    """The recipe as a person writes it, with comments that must survive."""
    text = """# What we serve.
name: small   # short
base: "wheel:vllm-0.0.1-py3-none-any.whl"  # the old one
overlays:
  # Already upstream.
  - file: overlays/merged.diff
    why: was needed once
  # Needs care.
  - title: Twenty
    file: overlays/near.diff   # by hand
    why: >-
      because
      of twenty
  - file: overlays/fits.diff
profiles: [tiny]
default_profile: tiny
"""
    (project / "images/small.yaml").write_text(text)
    return text


def test_every_verdict_and_the_recipe_that_is_written(tmp_path: Path) -> None:
    project = project_of(tmp_path)
    commented(project)
    assert builder("lock", "small", cwd=project).code == 0
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    asked = builder("rebase", "small", "--base", NEW_WHEEL, "--json", cwd=project)
    assert asked.code == 0, asked.err
    answer = asked.document["bases"][0]
    assert [each["verdict"] for each in answer["overlays"]] == ["already in", "merges", "applies"]
    assert answer["unknown_flags"] is None
    assert answer["written"] is False
    assert before == {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    done = builder("rebase", "small", "--base", NEW_WHEEL, "--write", cwd=project)
    assert done.code == 0, done.err
    text = (project / "images/small.yaml").read_text()
    assert (
        text
        == f"""# What we serve.
name: small   # short
base: {NEW_WHEEL}  # the old one
overlays:
  # Needs care.
  - file: overlays/rebased/near-on-0.0.1.diff
    title: Twenty
    why: >-
      because
      of twenty
  - file: overlays/fits.diff
profiles: [tiny]
default_profile: tiny
"""
    )
    stored = (project / "overlays/rebased/near-on-0.0.1.diff").read_text()
    assert "Origin: overlays/near.diff\n" in stored
    assert f"Rebased-Onto: {NEW_WHEEL}\n" in stored
    assert builder("lock", "small", "--check", cwd=project).code == 0
    built = builder("build", "small", "--engine", "oci", "--json", cwd=project)
    assert built.code == 0, built.err
    assert [each["path"] for each in built.document["files"]] == ["vllm/config.py", "vllm/engine/args.py"]
    again = builder("rebase", "small", "--base", NEW_WHEEL, "--json", cwd=project)
    assert [each["verdict"] for each in again.document["bases"][0]["overlays"]] == ["applies", "applies"]


def test_a_conflict_is_shown_with_both_sides_and_never_written(tmp_path: Path) -> None:
    project = project_of(tmp_path, clash=True)
    assert builder("lock", "small", cwd=project).code == 0
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    asked = builder("rebase", "small", "--base", NEW_WHEEL, cwd=project)
    assert asked.code == 3
    for line in ("<<<<<<< " + NEW_WHEEL, "option_35 = 'theirs'", "option_35 = 3535", "||||||| before"):
        assert line in asked.out
    assert "vllm/config.py, line 36" in asked.out
    refused = builder("rebase", "small", "--base", NEW_WHEEL, "--write", cwd=project)
    assert refused.code == 3
    assert "overlays/clash.diff is in conflict" in refused.err
    assert before == {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}


def ready(tmp_path: Path, text: str, **files: bytes) -> Path:
    """The project with its recipe as `text` has it, locked; then with more files."""
    project = project_of(tmp_path)
    (project / "images/small.yaml").write_text(text)
    locked = builder("lock", "small", cwd=project)
    assert locked.code == 0, locked.err
    for name, data in files.items():
        (project / "overlays/rebased").mkdir(exist_ok=True)
        (project / f"overlays/rebased/{name}").write_bytes(data)
    return project


def everything(project: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}


def rewritten(project: Path) -> str:
    """The recipe after `--write`, which must be locked and fit."""
    done = builder("rebase", "small", "--base", NEW_WHEEL, "--write", cwd=project)
    assert done.code == 0, done.err
    assert builder("lock", "small", "--check", cwd=project).code == 0
    assert builder("check", "small", cwd=project).code == 0
    return (project / "images/small.yaml").read_text()


HEAD = "name: small\nbase: wheel:vllm-0.0.1-py3-none-any.whl\n"
PROFILES = "profiles: [tiny]\ndefault_profile: tiny\n"


def test_the_lock_that_would_be_is_shown_and_nothing_is_written(tmp_path: Path) -> None:
    project = project_of(tmp_path)
    commented(project)
    assert builder("lock", "small", cwd=project).code == 0
    before = everything(project)
    told = builder("rebase", "small", "--base", NEW_WHEEL, cwd=project)
    assert told.code == 0, told.err
    rows = [line.split(maxsplit=2) for line in told.out.splitlines()]
    assert ["overlay", "overlays/merged.diff", "is dropped: the base has it"] in [[x.strip() for x in r] for r in rows]
    assert "becomes overlays/rebased/near-on-0.0.1.diff" in told.out
    assert "why: because of twenty" in told.out
    document = builder("rebase", "small", "--base", NEW_WHEEL, "--json", cwd=project).document["bases"][0]
    assert document["lock"]["inputs"][:12] in told.out
    assert document["lock"]["base"][:19] in told.out
    assert document["lock"]["about"][0]["title"] == "Twenty"
    assert everything(project) == before
    assert builder("rebase", "small", "--base", NEW_WHEEL, "--write", cwd=project).code == 0
    assert f"inputs: {document['lock']['inputs']}" not in told.err
    assert builder("lock", "small", "--json", cwd=project).document["inputs"] == document["lock"]["inputs"]


def test_a_conflict_leaves_the_other_answers_as_they_are(tmp_path: Path) -> None:
    project = project_of(tmp_path, clash=True)
    assert builder("lock", "small", cwd=project).code == 0
    done = builder("rebase", "small", "--base", NEW_WHEEL, cwd=project)
    assert done.code == 3
    for line in (
        "is dropped: the base has it", "becomes a local diff, rebased", "stays as it is", "must be brought over by hand",
        f"next: bring overlays/clash.diff to {NEW_WHEEL} by hand",
    ):  # fmt: skip
        assert line in done.out


@pytest.mark.parametrize(
    "overlays",
    [
        "overlays:\n- file: overlays/merged.diff\n- file: overlays/near.diff  # ours\n  title: 'T: 20'\n  why: \"x\\ty\"\n- file: overlays/fits.diff\n",
        "overlays: &all\n  - &first\n    file: overlays/merged.diff\n  - &second\n    file: overlays/near.diff  # ours\n    title: 'T: 20'\n    why: \"x\\ty\"\n  - {file: overlays/fits.diff}\n",
    ],
    ids=["flush", "anchors"],
)  # fmt: skip
def test_a_recipe_in_any_block_style_is_edited_and_keeps_what_it_says(overlays: str, tmp_path: Path) -> None:
    project = ready(tmp_path, f"# kept\n{HEAD}{overlays}{PROFILES}")
    assert builder("rebase", "small", "--base", NEW_WHEEL, cwd=project).code == 0
    text = rewritten(project)
    assert "# kept" in text
    assert "# ours" in text
    assert yaml.safe_load(text)["overlays"] == [
        {"file": "overlays/rebased/near-on-0.0.1.diff", "title": "T: 20", "why": "x\ty"},
        {"file": "overlays/fits.diff"},
    ]


@pytest.mark.parametrize(
    "overlays",
    [
        "overlays: [{file: overlays/merged.diff}, {file: overlays/near.diff}, {file: overlays/fits.diff}]  # ours\n",
        "overlays:\n  - file: overlays/merged.diff\n  - {file: overlays/near.diff,\n     title: T}  # ours\n  - file: overlays/fits.diff\n",
    ],
    ids=["brackets", "braces"],
)  # fmt: skip
def test_a_recipe_in_flow_style_is_not_written_and_the_line_is_named(overlays: str, tmp_path: Path) -> None:
    project = ready(tmp_path, f"{HEAD}{overlays}{PROFILES}")
    before = everything(project)
    done = builder("rebase", "small", "--base", NEW_WHEEL, "--write", cwd=project)
    assert done.code == 2
    assert "written in braces or brackets" in done.err
    assert "block style" in done.err
    assert everything(project) == before


def test_an_overlay_that_is_rebased_leaves_what_belonged_to_the_old_diff(tmp_path: Path) -> None:
    """`fuzz` and `accept_undelivered` go with it; digests after it are those on the new base."""
    project = project_of(tmp_path)
    near = project / "overlays/near.diff"
    near.write_bytes(
        near.read_bytes()
        + b"diff --git a/csrc/x.cu b/csrc/x.cu\n--- a/csrc/x.cu\n+++ b/csrc/x.cu\n@@ -1 +1 @@\n-a\n+b\n"
    )
    after = sha256(edit(MERGED, (b"option_20 = 20\n", b"option_20 = 2020\n")))
    (project / "images/small.yaml").write_text(
        f"{HEAD}overlays:\n  - file: overlays/merged.diff\n  - file: overlays/near.diff\n    fuzz: 1\n"
        f"    accept_undelivered: {{csrc/x.cu: only for other GPUs}}\n    after:\n      vllm/config.py: {after}\n{PROFILES}"
    )
    assert builder("lock", "small", cwd=project).code == 0
    [item] = yaml.safe_load(rewritten(project))["overlays"]
    assert item.keys() == {"file", "after"}
    built = builder("build", "small", "--engine", "oci", "--json", cwd=project).document
    assert {file["path"]: file["after"] for file in built["files"]} == item["after"] != {"vllm/config.py": after}
    assert b"csrc/x.cu" in (project / item["file"]).read_bytes()


def test_a_pull_request_that_is_rebased_keeps_its_name_as_origin() -> None:
    text = """overlays:
  # Why it is here.
  - why: because   # of it
    pull: o/r#1
    head: 1111111111111111111111111111111111111111
    merge_base: 2222222222222222222222222222222222222222
    drop_when: merged
    after: {vllm/a.py: old}
  - pull: o/r#2   # second
    head: 3333333333333333333333333333333333333333
  - pull: o/r#3  # gone
    # and its comment
profiles: []
"""
    edits = [
        OverlayEdit(replace={"file": "x.diff", "origin": "o/r#1@11"}, moved={"vllm/a.py": "vllm/b.py"}),
        OverlayEdit(replace={"file": "y.diff", "origin": "o/r#2@33"}),
        OverlayEdit(drop=True),
    ]
    assert (
        edit_recipe(text, overlays=edits)
        == """overlays:
  # Why it is here.
  - file: x.diff
    origin: o/r#1@11
    why: because   # of it
    drop_when: merged
    after: {vllm/b.py: old}
  - file: y.diff
    origin: o/r#2@33   # second
    # and its comment
profiles: []
"""
    )


def test_a_file_of_the_users_is_never_overwritten(tmp_path: Path) -> None:
    project = project_of(tmp_path)
    commented(project)
    assert builder("lock", "small", cwd=project).code == 0
    (project / "overlays/rebased").mkdir()
    taken = project / "overlays/rebased/near-on-0.0.1.diff"
    taken.write_text("mine\n")
    assert "file: overlays/rebased/near-on-0.0.1.2.diff" in rewritten(project)
    assert taken.read_text() == "mine\n"


def test_a_write_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    project = project_of(tmp_path)
    commented(project)
    assert builder("lock", "small", cwd=project).code == 0
    before = everything(project)
    # A folder stands where the diff's folder would be made.
    (project / "overlays/rebased").write_text("a file\n")
    done = builder("rebase", "small", "--base", NEW_WHEEL, "--write", cwd=project)
    assert done.code == 2
    assert "cannot write" in done.err
    (project / "overlays/rebased").unlink()
    assert everything(project) == before
    assert builder("lock", "small", "--check", cwd=project).code == 0


@pytest.mark.parametrize("stop", [1, 2, 3])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")], ids=["ctrl-c", "full"])
def test_an_interruption_between_two_files_puts_them_back(
    stop: int, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, new = tmp_path / "a", tmp_path / "b", tmp_path / "sub/deep/c"
    first.write_bytes(b"1")
    second.write_bytes(b"2")
    first.chmod(0o640)
    real, count = Path.replace, 0

    def replace(self: Path, target: Path) -> Path:
        nonlocal count
        count += 1
        if count == stop:
            raise error
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    wanted = InputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(wanted):
        write_files({first: b"one", second: b"two", new: b"three"})
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == {"a": b"1", "b": b"2"}
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []
    assert first.stat().st_mode & 0o777 == 0o640
    monkeypatch.undo()
    write_files({first: b"one", second: b"two", new: b"three"})
    assert new.read_bytes() == b"three"
    assert first.stat().st_mode & 0o777 == 0o640


def test_a_lock_that_was_not_reached_is_made_again_by_lock(tmp_path: Path) -> None:
    """Killed between recipe and lock: the recipe is the new one, and `builder lock` makes the lock that is missing."""
    project = project_of(tmp_path)
    commented(project)
    assert builder("lock", "small", cwd=project).code == 0
    old = (project / "images/small.lock.yaml").read_bytes()
    rewritten(project)
    whole = everything(project)
    (project / "images/small.lock.yaml").write_bytes(old)
    stale = builder("check", "small", cwd=project)
    assert stale.code == 4
    assert builder("lock", "small", cwd=project).code == 0
    assert everything(project) == whole


def test_a_matrix_is_one_table(tmp_path: Path) -> None:
    project = project_of(tmp_path)
    assert builder("lock", "small", cwd=project).code == 0
    old = "wheel:vllm-0.0.1-py3-none-any.whl"
    done = builder("rebase", "small", "--base", old, "--base", NEW_WHEEL, cwd=project)
    assert done.code == 0, done.err
    title, header = (
        line for line in done.out.splitlines() if "small on" in line or line.lstrip().startswith("overlay ")
    )
    assert title.strip() == "small on wheel:…"
    assert header.split() == ["overlay", old.removeprefix("wheel:"), NEW_WHEEL.removeprefix("wheel:")]
    document = builder("rebase", "small", "--base", old, "--base", NEW_WHEEL, "--json", cwd=project).document
    assert [[each["verdict"] for each in base["overlays"]] for base in document["bases"]] == [
        ["applies", "applies", "applies"],
        ["already in", "merges", "applies"],
    ]
    two = builder("rebase", "small", "--base", old, "--base", NEW_WHEEL, "--write", cwd=project)
    assert two.code == 2
