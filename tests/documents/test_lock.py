"""Locks that somebody edited: every field is typed and bounded, and what is wrong is said in plain words."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builder.cli.app import run
from builder.documents.lock import HEADER, Lock, parse_lock, read_lock
from builder.util.errors import InputError
from tests.support.cli import builder
from tests.support.smallwheel import FILES, make_project
from tests.support.trees import git_diff

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lock")
    edited = {
        **FILES,
        "vllm/config.py": FILES["vllm/config.py"].replace(b"= 20\n", b"= 2020\n"),
        "vllm/new.py": b"x = 1\n",
    }
    del edited["vllm/old.py"]
    diff = git_diff(root / "git", FILES, edited)
    project = make_project(root / "project", {"one.diff": diff}, checkpoint={"digest": "c0" * 32}, description="x")
    done = builder("build", "small", "--engine", "oci", cwd=project, env={"BUILDER_CACHE_DIR": str(root / "cache")})
    assert done.code == 0, done.err
    return root


def paths(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place of a document, the inner ones too."""
    if at:
        yield at
    if isinstance(value, dict):
        for key, child in value.items():
            yield from paths(child, (*at, key))
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield from paths(child, (*at, number))


def put(document: Any, at: tuple[str | int, ...], value: object) -> Any:
    changed = copy.deepcopy(document)
    place = changed
    for key in at[:-1]:
        place = place[key]
    place[at[-1]] = value
    return changed


def get(document: Any, at: tuple[str | int, ...]) -> Any:
    for key in at:
        document = document[key]
    return document


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(1 << 70), 1 << 70), st.floats(allow_nan=False, allow_infinity=False),
    st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(["../../etc", "/etc", "a/../b", "", ".", "x" * 5000, "~", "\x00", "a\nb", "sha256:" + "0" * 64, "0" * 64, "linux/amd64"]),
    st.lists(st.text(max_size=3), max_size=2), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


def build(project: Path, output: Path) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run(
            ["build", str(project / "images/small.yaml"), "--engine", "oci", "--output", f"oci:{output}", "--json"]
        )
    return code, out.getvalue(), err.getvalue()


def test_no_mutation_of_a_lock_is_a_bug_or_another_image(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any value in any field: refused, or a lock with other inputs, whose image has another name. Never exit code 1."""
    monkeypatch.setenv("BUILDER_CACHE_DIR", str(place / "cache"))
    project = place / "project"
    file = project / "images/small.lock.yaml"
    original = file.read_bytes()
    document = yaml.safe_load(original)
    code, out, _ = build(project, tmp_path / "first")
    assert code == 0
    honest = json.loads(out)
    places = sorted(paths(document), key=str)

    @settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(at=st.sampled_from(places), value=JUNK)
    def check(at: tuple[str | int, ...], value: object) -> None:
        file.write_text(HEADER + yaml.safe_dump(put(document, at, value), sort_keys=False, allow_unicode=True))
        code, out, err = build(project, tmp_path / "again")
        assert code in (0, 2, 4), f"{at} = {value!r}: {code}\n{err}"
        if code == 0:
            found = json.loads(out)
            same = found["inputs"] == honest["inputs"]
            assert (found["digest"] == honest["digest"]) == same, f"{at} = {value!r}"
            assert get(document, at) == value or not same or value is None, (
                f"{at} = {value!r} was taken for the original"
            )

    try:
        check()
    finally:
        file.write_bytes(original)


DEMO = yaml.safe_load((ROOT / "images/demo.lock.yaml").read_bytes())
PLATFORM = ("base", "platforms", "linux/amd64")


@pytest.mark.parametrize(
    ("at", "value"),
    [
        ((*PLATFORM, "root"), "../../etc"),
        ((*PLATFORM, "root"), "/usr/lib"),
        ((*PLATFORM, "root"), "usr//lib"),
        ((*PLATFORM, "root"), "usr/./lib"),
        ((*PLATFORM, "python"), "3.12; import os"),
        ((*PLATFORM, "python"), 3.12),
        ((*PLATFORM, "python"), "2.7"),
        ((*PLATFORM, "manifest"), "0" * 64),
        ((*PLATFORM, "config"), "sha512:" + "0" * 128),
        ((*PLATFORM, "manifest_size"), True),
        ((*PLATFORM, "manifest_size"), -1),
        ((*PLATFORM, "manifest_size"), 1 << 62),
        ((*PLATFORM, "manifest_size"), 2.0),
        ((*PLATFORM, "manifest_type"), "text/plain"),
        ((*PLATFORM, "directories"), ["usr", "../usr"]),
        ((*PLATFORM, "directories"), ["usr", "usr"]),
        ((*PLATFORM, "bytecode"), ["vllm/config.py"]),
        ((*PLATFORM, "files", 0, "path"), "../x.py"),
        ((*PLATFORM, "files", 0, "executable"), 1),
        ((*PLATFORM, "files", 0, "executable"), "true"),
        ((*PLATFORM, "files", 0, "after"), "x"),
        ((*PLATFORM, "files", 0, "overlays"), ["unknown.diff"]),
        ((*PLATFORM, "files", 0, "overlays"), []),
        ((*PLATFORM, "distribution", "dist_info"), "../vllm.dist-info"),
        ((*PLATFORM, "distribution", "dist_info"), "vllm"),
        ((*PLATFORM, "distribution", "name"), "../vllm"),
        (("epoch",), -1),
        (("epoch",), 0),
        (("epoch",), True),
        (("epoch",), 1 << 40),
        (("epoch",), 1.5),
        (("schema",), 2),
        (("schema",), True),
        (("name",), "../x"),
        (("name",), "x" * 200),
        (("package",), "vllm/../x"),
        (("overlays", 0, "fuzz"), True),
        (("overlays", 0, "fuzz"), 9),
        (("overlays", 0, "diff"), "../../etc/passwd"),
        (("overlays", 0, "diff"), "/etc/passwd"),
        (("overlays", 0, "digest"), "x"),
        (("overlays", 1, "id"), DEMO["overlays"][0]["id"]),
        (("overlays", 0, "title"), "x" * 20_000),
        (("base", "digest"), "0" * 64),
        (("base", "reference"), "not a reference"),
        (("base", "reference"), "debian:12"),
        (("base", "wheel"), "../x.whl"),
        (("base", "platforms"), {}),
        (("base", "platforms"), {"nonsense": DEMO["base"]["platforms"]["linux/amd64"]}),
        (("checkpoint", "files", 0, "size"), True),
        (("checkpoint", "files", 0, "size"), -1),
        (("checkpoint", "files", 0, "path"), "../config.json"),
        (("profiles", 0, "hardware", "count"), True),
        (("profiles", 0, "envelope", "prompt"), True),
        (("profiles", 0, "expect", 0, "loaded_gib", "min"), True),
        (("profiles", 0, "expect", 0, "loaded_gib", "min"), "inf"),
        (("default_profile",), "none-such"),
        (("entrypoint",), "x"),
    ],
)
def test_a_value_out_of_bounds_is_refused(at: tuple[str | int, ...], value: object) -> None:
    text = HEADER + yaml.safe_dump(put(DEMO, at, value), sort_keys=False)
    with pytest.raises(InputError) as caught:
        parse_lock(text.encode(), "demo.lock.yaml")
    assert caught.value.exit_code == 2


def test_the_demos_lock_reads_back_to_its_bytes() -> None:
    path = ROOT / "images/demo.lock.yaml"
    assert read_lock(path).dump() == path.read_bytes()
    assert isinstance(read_lock(path), Lock)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        (
            "schema: 1\n<<<<<<< HEAD\nname: a\n=======\nname: b\n>>>>>>> other\n",
            "lock.yaml:2: a merge left its markers",
        ),
        ("name: a\n=======\n", "lock.yaml:2: a merge left its markers"),
        ("name: small\nbase: wheel:vllm==0.20.0\n", "is a recipe, not a lock"),
        ("[]", "is not a mapping"),
        ("just text", "is not a mapping"),
    ],
)
def test_what_is_no_lock_is_said_in_plain_words(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_lock(text.encode(), "lock.yaml")
    assert said in caught.value.message


def test_a_lock_given_as_a_recipe_names_the_recipe() -> None:
    done = builder("check", "images/demo.lock.yaml", cwd=ROOT)
    assert done.code == 2
    assert "is a lock, not a recipe" in done.err
    assert "demo.yaml" in done.err


def test_a_lock_that_does_not_repeat_its_recipe_was_edited(place: Path) -> None:
    file = place / "project/images/small.lock.yaml"
    original = file.read_text()
    try:
        for old, new, named in (
            ("description: x", "description: y", "description"),
            ("default_profile: tiny\n", "", "default_profile"),
            ("epoch: 315532800", "epoch: 315532801", "time is not when its base was created"),
        ):
            assert old in original
            file.write_text(original.replace(old, new))
            done = builder("build", "small", "--engine", "oci", cwd=place / "project")
            assert done.code == 4, done.err
            assert named in done.err
    finally:
        file.write_text(original)
