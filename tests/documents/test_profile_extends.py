"""`extends:`: what a profile inherits, what it leaves out, and circles and missing parents with their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from builder.documents.profile import load_profile, read_profile
from builder.util.errors import InputError
from tests.support.cli import builder


def write(folder: Path, **profiles: str) -> Path:
    for name, text in profiles.items():
        (folder / f"{name}.yaml").write_text(f"name: {name}\n{text}\n")
    return folder


def test_a_profile_has_what_it_extends_and_its_own_wins(tmp_path: Path) -> None:
    write(
        tmp_path,
        base="description: d\nflags: {a: 1, enable-b: true, c: 3}\nenv: {X_A: '1', X_B: '2'}\nhardware: {gpu: l4}\n"
        "expect: [{vllm: 0.20.0, gpu: l4, source: s}]",
        middle="extends: base\nflags: {c: 4}\nenv: {X_B: '3'}",
        last="extends: middle\nwithout: [a, X_A]\nflags: {no-enable-b: true, d: 5}\nenvelope: {prompt: 1, completion: 1}",
    )
    found = read_profile(tmp_path / "last.yaml")
    assert found.chain == ("last", "middle", "base")
    assert found.profile.extends is None
    assert list(found.profile.flags.items()) == [("no-enable-b", True), ("c", 4), ("d", 5)]
    assert found.profile.env == {"X_B": "3"}
    assert (found.profile.description, found.profile.hardware is not None) == ("d", True)
    # What a log said belongs to the flags that it was measured with.
    assert found.profile.expect == ()
    assert found.document.at(("flags", "c"), key=True) == "profiles/middle.yaml:3:9"
    assert found.document.at(("flags", "d"), key=True).startswith("profiles/last.yaml:4:")


@pytest.mark.parametrize(
    ("profiles", "says"),
    [
        ({"p": "extends: p"}, ["profiles/p.yaml:2:10", "circle: p -> p"]),
        ({"p": "extends: q", "q": "extends: r", "r": "extends: q"}, ["profiles/r.yaml:2:10", "q -> r -> q"]),
        ({"p": "extends: bsae", "base": "flags: {}"}, ["profiles/p.yaml:2:10", "no profile 'bsae'"]),
        ({"p": "extends: base\nwithout: [x]", "base": "flags: {}"}, ["profiles/p.yaml:3:10", "'x'"]),
        ({"p": "without: [x]\nflags: {}"}, ["'without' belongs to 'extends'"]),
        ({"p": "env: {A_B: x}"}, ["'flags' is missing"]),
        ({"p": "extends: base", "base": "flags: {a: {}}"}, ["profiles/base.yaml:2:12"]),
    ],
)
def test_circles_missing_parents_and_wrong_names_have_their_place(
    tmp_path: Path, profiles: dict[str, str], says: list[str]
) -> None:
    write(tmp_path, **profiles)
    with pytest.raises(InputError) as refused:
        load_profile(tmp_path / "p.yaml")
    for text in says:
        assert text in refused.value.message


def test_a_missing_parent_suggests_the_near_one(tmp_path: Path) -> None:
    write(tmp_path, p="extends: bsae", base="flags: {}")
    with pytest.raises(InputError) as refused:
        load_profile(tmp_path / "p.yaml")
    assert "did you mean base?" in (refused.value.hint or "")


def test_show_prints_it_flattened(tmp_path: Path) -> None:
    (tmp_path / "profiles").mkdir()
    write(tmp_path / "profiles", base="flags: {a: 1}\nenv: {X_A: 'a b'}", p="extends: base\nflags: {b: 2}")
    done = builder("profile", "show", "p", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    assert done.document["argv"] == ["--a", "1", "--b", "2"]
    assert (done.document["extends"], done.document["env"]) == (["base"], {"X_A": "a b"})
    text = builder("profile", "show", "p", cwd=tmp_path).out
    assert "extends base" in text and "export X_A='a b'" in text
