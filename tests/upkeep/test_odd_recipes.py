"""Recipes in YAML that is seldom written, from the command line: they are edited as meant, or refused with what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from builder.util.files import sha256
from tests.support.cli import builder
from tests.support.smallwheel import FILES, make_wheel
from tests.support.trees import git_diff
from tests.upkeep.test_rebase import (
    ENGINE,
    HEAD,
    MERGED,
    NEW_WHEEL,
    PROFILES,
    changed,
    everything,
    project_of,
    ready,
    rewritten,
)  # fmt: skip

LIST = "overlays:\n  - file: overlays/merged.diff\n  - file: overlays/near.diff\n  - file: overlays/fits.diff\n"


@pytest.mark.parametrize("verdict", ["merges", "applies"])
def test_a_pinned_file_that_the_new_base_has_is_no_longer_pinned(verdict: str, tmp_path: Path) -> None:
    """One overlay on two files, both pinned; the new base has the change of one of them."""
    project = project_of(tmp_path)
    both = {**FILES, "vllm/config.py": MERGED, "vllm/engine/args.py": ENGINE}
    (project / "overlays/both.diff").write_bytes(git_diff(tmp_path / "5", FILES, both))
    upstream = {**both, "vllm/engine/args.py": FILES["vllm/engine/args.py"]}
    text = (
        f"{HEAD}overlays:\n  - file: overlays/both.diff\n    after:\n      vllm/config.py: {sha256(MERGED)}  # one\n"
        f"      vllm/engine/args.py: {sha256(ENGINE)}  # two\n    why: because\n"
    )
    kept = f"      vllm/engine/args.py: {sha256(ENGINE)}  # two\n"
    if verdict == "applies":
        # The overlay that is pinned stays as it is: what it no longer changes was another one's, which goes.
        (project / "overlays/first.diff").write_bytes(
            git_diff(tmp_path / "6", FILES, changed("vllm/config.py", MERGED))
        )
        (project / "overlays/both.diff").write_bytes(
            git_diff(tmp_path / "7", FILES, changed("vllm/engine/args.py", ENGINE))
        )
        text = text.replace("overlays:\n", "overlays:\n  - file: overlays/first.diff\n")
    make_wheel(project / "new-0.0.2-py3-none-any.whl", upstream)
    (project / "images/small.yaml").write_text(text + PROFILES)
    assert builder("lock", "small", cwd=project).code == 0
    told = builder("rebase", "small", "--base", NEW_WHEEL, cwd=project)
    assert told.code == 0, told.err
    assert "no longer pins vllm/config.py" in " ".join(told.out.split())
    then = rewritten(project)
    assert f"    after:\n{kept}    why: because\n" in then
    [item] = yaml.safe_load(then)["overlays"]
    assert item["after"] == {"vllm/engine/args.py": sha256(ENGINE)}


def test_pins_that_are_all_gone_take_their_key_with_them(tmp_path: Path) -> None:
    """The second overlay pins the first one's file only, and the new base has that."""
    project = project_of(tmp_path)
    (project / "images/small.yaml").write_text(
        f"{HEAD}overlays:\n  - file: overlays/merged.diff\n"
        f"  - file: overlays/fits.diff\n    after: {{vllm/config.py: {sha256(MERGED)}}}\n{PROFILES}"
    )
    make_wheel(project / "new-0.0.2-py3-none-any.whl", changed("vllm/config.py", MERGED))
    assert builder("lock", "small", cwd=project).code == 0
    assert yaml.safe_load(rewritten(project))["overlays"] == [{"file": "overlays/fits.diff"}]


@pytest.mark.parametrize(
    "text",
    [
        f"{HEAD}{LIST}{PROFILES}".replace("base: wheel", "base: >-\n  wheel"),
        f"{HEAD}{LIST}{PROFILES}".replace("  - file", "  -\n    file"),
        f"{HEAD}{LIST}{PROFILES}".replace("\n", "\r\n"),
    ],
    ids=["folded base", "dash alone", "CRLF"],
)
def test_a_recipe_is_written_as_it_was(text: str, tmp_path: Path) -> None:
    project = project_of(tmp_path)
    path = project / "images/small.yaml"
    path.write_bytes(text.encode())
    assert builder("lock", "small", cwd=project).code == 0
    rewritten(project)
    then = path.read_bytes()
    assert then.count(b"\r\n") == (then.count(b"\n") if "\r\n" in text else 0)
    assert yaml.safe_load(then)["base"] == NEW_WHEEL
    assert yaml.safe_load(then)["overlays"] == [
        {"file": "overlays/rebased/near-on-0.0.1.diff"},
        {"file": "overlays/fits.diff"},
    ]


@pytest.mark.parametrize("whole", [True, False], ids=["JSON", "one line"])
def test_a_rebase_of_a_recipe_in_braces_says_how_to_write_it(whole: bool, tmp_path: Path) -> None:
    document = yaml.safe_load(f"{HEAD}{LIST}{PROFILES}")
    text = json.dumps(document, indent=2) if whole else yaml.safe_dump(document, default_flow_style=True, width=9999)
    project = ready(tmp_path, text)
    before = everything(project)
    for more in ([], ["--write"]):
        done = builder("rebase", "small", "--base", NEW_WHEEL, *more, cwd=project)
        assert done.code == 2
        assert "written in braces or brackets" in done.err
        assert "block style" in done.err
    assert everything(project) == before


def test_a_recipe_that_this_tool_cannot_edit_is_not_blamed_for_the_edit(tmp_path: Path) -> None:
    text = f"{HEAD}{LIST}{PROFILES}".replace("  - file: overlays/near.diff", "  - ? file\n    : overlays/near.diff")
    project = ready(tmp_path, text)
    before = everything(project)
    done = builder("rebase", "small", "--base", NEW_WHEEL, "--write", cwd=project)
    assert done.code == 2
    assert "images/small.yaml cannot be edited in place" in done.err
    assert everything(project) == before


# --- taking a series in -------------------------------------------------------------------------------------------------


def series_of(tmp_path: Path) -> str:
    where = tmp_path / "series"
    where.mkdir()
    (where / "series").write_text("more.patch\n")
    (where / "more.patch").write_bytes(git_diff(tmp_path / "8", FILES, changed("vllm/old.py", b"gone = False\n")))
    return str(where)


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (b'{"name": "small", "base": "wheel:vllm==0.20.0", "overlays": []}', "written in braces or brackets"),
        (b'{"name": "small", "base": "wheel:vllm==0.20.0"}', "written in braces or brackets"),
        (b"{name: small, base: 'wheel:vllm==0.20.0', overlays: [{file: a}]}\n", "written in braces or brackets"),
        (b"name: small\nbase: [\n", "images/small.yaml:3:1"),
        (b"- name: small\n", "is not a mapping"),
        (b"small\n", "is not a mapping"),
        (b"", "is not a mapping"),
        (b"name: small\nbase: wheel:vllm==0.20.0\n---\nname: other\n", "expected a single document in the stream but found another"),
        (b"name: sm\xe4ll\n", "is not UTF-8"),
        (b"name: small\nbase: wheel:vllm==0.20.0\noverlays: {a: b}\n", "images/small.yaml:3:11: overlays"),
        (b"name: small\nbase: wheel:vllm==0.20.0\noverlays:\n", "images/small.yaml:3:10: overlays"),
        (b"name: small\nbase: wheel:vllm==0.20.0\noverlays:\n  - ? file\n    : a\nbse: x\n", "did you mean 'base'"),
        (b"name: small\nbase: nonsense:x:y:z\n", "nonsense"),
        (b"name: small\nbase: wheel:vllm==0.20.0\noverlays: [{file: overlays/small/more.diff}]\n", "is repeated"),
    ],
    ids=["JSON", "JSON without overlays", "flow", "syntax", "list", "scalar", "empty", "two", "latin", "a mapping", "null", "unknown key", "base", "twice"],
)  # fmt: skip
def test_a_series_is_not_added_to_a_recipe_that_cannot_be_read_or_edited(
    recipe: bytes, says: str, tmp_path: Path
) -> None:
    project = project_of(tmp_path)
    where = series_of(tmp_path)
    (project / "images/small.yaml").write_bytes(recipe)
    before = everything(project)
    done = builder("stack", "import", where, "--recipe", "small", cwd=project)
    assert done.code == 2, done.err
    assert says in done.err
    assert everything(project) == before


def test_a_series_is_added_with_the_line_ends_that_the_recipe_has(tmp_path: Path) -> None:
    project = project_of(tmp_path)
    path = project / "images/small.yaml"
    path.write_bytes(f"{HEAD}{LIST}# kept\n{PROFILES}".replace("\n", "\r\n").encode())
    done = builder("stack", "import", series_of(tmp_path), "--recipe", "small", cwd=project)
    assert done.code == 0, done.err
    then = f"{HEAD}{LIST}  - file: overlays/small/more.diff\n# kept\n{PROFILES}".replace("\n", "\r\n")
    assert path.read_bytes() == then.encode()
