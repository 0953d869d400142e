"""A new base from the command line: small wheels with a known answer, and what `--write` leaves behind."""

from __future__ import annotations

from pathlib import Path

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


def test_a_matrix_is_one_table(tmp_path: Path) -> None:
    project = project_of(tmp_path)
    assert builder("lock", "small", cwd=project).code == 0
    old = "wheel:vllm-0.0.1-py3-none-any.whl"
    done = builder("rebase", "small", "--base", old, "--base", NEW_WHEEL, cwd=project)
    assert done.code == 0, done.err
    header = next(line for line in done.out.splitlines() if line.lstrip().startswith("overlay"))
    assert old in header
    assert NEW_WHEEL in header
    document = builder("rebase", "small", "--base", old, "--base", NEW_WHEEL, "--json", cwd=project).document
    assert [[each["verdict"] for each in base["overlays"]] for base in document["bases"]] == [
        ["applies", "applies", "applies"],
        ["already in", "merges", "applies"],
    ]
    two = builder("rebase", "small", "--base", old, "--base", NEW_WHEEL, "--write", cwd=project)
    assert two.code == 2
