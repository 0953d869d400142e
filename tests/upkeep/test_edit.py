"""A recipe is edited so that it says what was meant, in whatever YAML it is written, or it is refused: nothing between."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from builder.documents.recipe import Recipe
from builder.documents.yamlfile import parse_yaml, validate_document
from builder.upkeep.rebase.edit import BlockStyleError, OverlayEdit, append_overlays, edit_recipe, edited, quoted
from builder.util.errors import InputError

PIN = "a" * 64
OTHER = "b" * 63 + "c"


def read(text: str) -> Recipe:
    return validate_document(Recipe, parse_yaml(text, "x.yaml"))


HEAD = "name: small\nbase: wheel:old==1\n"


@pytest.mark.parametrize(
    ("text", "then"),
    [
        (
            "name: small\nbase: >-\n  wheel:old==1\n\noverlays: []\n",
            "name: small\nbase: wheel:new==1\n\noverlays: []\n",
        ),
        ("base: >-  # old\n  wheel:old==1\nname: small\n", "base: wheel:new==1  # old\nname: small\n"),
        ("base: |-\n  wheel:old==1", "base: wheel:new==1"),
        ('base: "wheel:\\\n  old==1"\nname: small\n', "base: wheel:new==1\nname: small\n"),
        ("base: &b !!str\n  wheel:old==1  # x\n", "base: wheel:new==1  # x\n"),
        ('{"name": "small", "base": "wheel:old==1"}\n', '{"name": "small", "base": "wheel:new==1"}\n'),
        ("name: small\r\nbase: wheel:old==1  # x\r\n\r\n", "name: small\r\nbase: wheel:new==1  # x\r\n\r\n"),
    ],
)
def test_the_base_is_written_in_place_of_the_whole_old_one(text: str, then: str) -> None:
    assert edit_recipe(text, base="wheel:new==1") == then


@pytest.mark.parametrize(
    ("overlays", "then"),
    [
        ("overlays:\n  -\n    file: a\n  -\n    # of b\n    file: b\n", "overlays:\n  -\n    # of b\n    file: b\n"),
        ("overlays:\n  # of a\n  - # by hand - or not\n    file: a\n  - file: b\n", "overlays:\n  - file: b\n"),
        ("overlays:\n- &a\n  file: a\n  why: >-\n    x\n\n- file: b\n", "overlays:\n\n- file: b\n"),
    ],
    ids=["dash alone", "comment behind the dash", "anchor and folded text"],
)
def test_an_overlay_is_dropped_with_its_dash(overlays: str, then: str) -> None:
    assert edit_recipe(HEAD + overlays, overlays=[OverlayEdit(drop=True), OverlayEdit()]) == HEAD + then


@pytest.mark.parametrize(
    ("item", "then"),
    [
        ("file: a\n    after:\n      x.py: old\n      # of y\n      y.py: old\n    why: z",
         "file: a\n    after:\n      # of y\n      y.py: new\n    why: z"),
        ("file: a\n    after:\n      y.py: old\n      x.py: old  # of x", "file: a\n    after:\n      y.py: new"),
        ("file: a\n    after: {x.py: old, y.py: old}", "file: a\n    after: {y.py: new}"),
        ("file: a\n    after: {y.py: old, x.py: old, z.py: old}  # x", "file: a\n    after: {y.py: new}  # x"),
        ("after:\n      x.py: old\n    file: a", "file: a"),
        ("file: a\n    after: {z.py: old}\n    why: w", "file: a\n    why: w"),
        ("after:\n      x.py: old  # of x\n    # of a\n    file: a", "  # of x\n    # of a\n    file: a"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_longer_changed_leaves_the_pins(item: str, then: str) -> None:
    edit = OverlayEdit(after={"y.py": "new"}, unpinned=["x.py", "z.py"])
    text = edit_recipe(f"overlays:\n  - {item}\nprofiles: []\n", overlays=[edit])
    assert text == f"overlays:\n  - {then}\nprofiles: []\n"


def test_a_key_with_lines_of_its_own_makes_way_for_the_new_ones() -> None:
    text = f"{HEAD}overlays:\n  - accept_undelivered:\n      csrc/x.cu: y\n    # its file\n    file: >-\n      a\n    why: w\n"
    [item] = yaml.safe_load(edit_recipe(text, overlays=[OverlayEdit(replace={"file": "b"})]))["overlays"]
    assert item == {"file": "b", "why": "w"}


@pytest.mark.parametrize(
    "text",
    [
        HEAD,
        f"{HEAD}# the end",
        f"---\n{HEAD}...\n# behind\n",
        "  name: small\n  base: wheel:old==1\n",
        f"{HEAD}description: |\n  x\n\n# comment\n",
        f"{HEAD}overlays: []  # none\nprofiles: []\n",
        f"{HEAD}overlays: &all\n  - file: a\n    why: >-\n      x\n\n# then\nprofiles: []",
        f"{HEAD}overlays:\n-\n  file: a\n",
        f"{HEAD}overlays:\n- {{file: a}}  # a\n\nprofiles: []\n",
    ],
)
def test_overlays_are_added_and_nothing_else_changes(text: str) -> None:
    before = read(text)
    then = read(append_overlays(text, [{"file": "n", "title": "T: 1"}, {"file": "m"}]))
    assert [each.id for each in then.overlays] == [*(each.id for each in before.overlays), "n", "m"]
    assert then.overlays[-2].title == "T: 1"
    assert then.model_copy(update={"overlays": before.overlays}) == before
    dos = append_overlays(text.replace("\n", "\r\n"), [{"file": "n", "title": "T: 1"}, {"file": "m"}])
    assert dos.count("\r\n") == dos.count("\n")
    assert read(dos) == then


def test_a_recipe_in_braces_is_refused() -> None:
    text = json.dumps({"name": "small", "base": "wheel:old==1", "overlays": [{"file": "a"}]}, indent=2)
    with pytest.raises(BlockStyleError, match="written in braces or brackets"):
        edit_recipe(text, base="wheel:new==1", overlays=[OverlayEdit(drop=True)])
    for each in (text, "{name: small, base: wheel:old==1}"):
        with pytest.raises(BlockStyleError, match="written in braces or brackets"):
            append_overlays(each, [{"file": "b"}])


def test_overlays_in_braces_are_refused_with_their_line_and_dropped_ones_are_no_obstacle() -> None:
    drop, pinned = OverlayEdit(drop=True), OverlayEdit(replace={"file": "n"})
    item = f"{HEAD}overlays:\n  - file: a\n  - {{file: b}}\n"
    with pytest.raises(BlockStyleError, match="an overlay of the recipe is written in braces") as refused:
        edit_recipe(item, overlays=[OverlayEdit(), pinned])
    assert refused.value.details == (("where", "line 5"),)
    assert edit_recipe(item, overlays=[OverlayEdit(), drop]) == f"{HEAD}overlays:\n  - file: a\n"
    listed = f"{HEAD}overlays: [{{file: a}}]\n"
    with pytest.raises(BlockStyleError, match="list of overlays is written in braces or brackets"):
        edit_recipe(listed, overlays=[pinned])
    with pytest.raises(BlockStyleError, match="list of overlays is written in braces or brackets"):
        append_overlays(listed, [{"file": "n"}])


@pytest.mark.parametrize(
    "value",
    [
        "2001-99-99",
        "2001-01-01",
        "1:30",
        "yes",
        "null",
        "12e5",
        "...",
        "a:",
        "a\x7f\x85\u2028😀\ufeff",
        "0x1F",
        "=",
        "",
    ],
)
def test_a_scalar_is_read_back_as_the_text_that_it_is(value: str) -> None:
    written = quoted(value)
    assert yaml.safe_load(f"- {written}\n") == [value]
    assert parse_yaml(f"- {written}\n", "x").value == [value]


# --- any recipe ---------------------------------------------------------------------------------------------------------

words = st.text(st.sampled_from("ab :#-'\"\\\n{}[],ü\u20ac.?&*!|>%@0"), min_size=1, max_size=30).filter(str.strip)
paths = st.sampled_from(["vllm/a.py", "vllm/b c.py", "vllm/d.py"])


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, Any]:
    items: list[dict[str, Any]] = []
    for number in range(draw(st.integers(0, 3))):
        item: dict[str, Any] = {"file": f"overlays/{number}.diff"}
        if draw(st.booleans()):
            item["after"] = dict.fromkeys(draw(st.lists(paths, max_size=3, unique=True)), PIN)
        for key in draw(st.lists(st.sampled_from(["title", "why", "drop_when", "origin", "author"]), unique=True)):
            item[key] = draw(st.none() | words)
        if draw(st.booleans()):
            item |= {"fuzz": 1, "accept_undelivered": {"csrc/x.cu": draw(words)}}
        items.append({key: item[key] for key in draw(st.permutations(list(item)))})
    document: dict[str, Any] = {"name": "small", "base": "wheel:old==1", "description": draw(words)}
    if draw(st.booleans()) or items:
        document["overlays"] = items
    return {key: document[key] for key in draw(st.permutations(list(document)))}


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A recipe in some style of PyYAML's, with comments and blank lines where they change nothing."""
    document = draw(recipes())
    text = yaml.safe_dump(
        document, sort_keys=False, default_flow_style=draw(st.sampled_from([False, False, None, True])),
        default_style=draw(st.sampled_from([None, None, None, '"', "'", "|", ">"])), indent=draw(st.integers(2, 6)),
        width=draw(st.integers(5, 200)), allow_unicode=draw(st.booleans()),
        explicit_start=draw(st.booleans()), explicit_end=draw(st.booleans()),
    )  # fmt: skip
    try:
        meant = read(text)
    except InputError:
        assume(False)
    lines = text.splitlines(keepends=True)
    for at in draw(st.lists(st.integers(0, len(lines)), max_size=4)):
        more = draw(st.sampled_from(["# - c: d\n", "\n", "    # deep\n", "  # - {x\n"]))
        with_it = [*lines[:at], more, *lines[at:]]
        if _says("".join(with_it), meant):
            lines = with_it
    for at in draw(st.lists(st.integers(0, len(lines) - 1), max_size=3)):
        behind = [*lines[:at], lines[at].rstrip("\n") + "  # behind: - it\n", *lines[at + 1 :]]
        dash = [*lines[:at], lines[at].replace("- ", "-\n" + " " * (lines[at].find("- ") + 2), 1), *lines[at + 1 :]]
        for changed in (behind, dash):
            if len(changed) == len(lines) and _says("".join(changed), meant):
                lines = changed
    text = "".join(lines)
    if draw(st.booleans()) and _says(text.rstrip("\n"), meant):
        text = text.rstrip("\n")
    return text.replace("\n", "\r\n") if draw(st.booleans()) else text


def _says(text: str, meant: Recipe) -> bool:
    try:
        return read(text) == meant
    except InputError:
        return False


def _edit(draw: st.DrawFn, item: dict[str, Any]) -> tuple[OverlayEdit, dict[str, Any] | None]:
    """An edit of an overlay, and what it makes of the overlay."""
    if draw(st.integers(0, 3)) == 0:
        return OverlayEdit(drop=True), None
    then = dict(item)
    pins = dict(item.get("after") or {})
    unpinned = [path for path in pins if draw(st.booleans())]
    after = {path: OTHER for path in pins if path not in unpinned and draw(st.booleans())}
    if "after" in then:
        then["after"] = {**{path: pin for path, pin in pins.items() if path not in unpinned}, **after}
    if not draw(st.booleans()):
        return OverlayEdit(after=after, unpinned=unpinned), then
    new = {"file": f"{item['file']}.new", "title": draw(words)}
    for key in ("fuzz", "accept_undelivered", "origin", "title"):
        then.pop(key, None)
    return OverlayEdit(replace=new, after=after, unpinned=unpinned), {**then, **new}


def _edited_or_refused(text: str, edit: Callable[[str], str], wanted: Recipe) -> None:
    try:
        found = edited(text, edit, wanted, "x.yaml")
    except InputError as error:
        assert "edited in place" in error.message or "in braces or brackets" in error.message
        return
    assert read(found) == wanted
    if text.count("\r\n") == text.count("\n") and "\r\n" in text:
        assert found.count("\r\n") == found.count("\n")


@given(text=texts(), data=st.data())
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_any_recipe_is_edited_as_meant_or_refused(text: str, data: st.DataObject) -> None:
    value = parse_yaml(text, "x.yaml").value
    items = [{k: (v if k != "fuzz" else int(v)) for k, v in each.items()} for each in value.get("overlays") or []]
    both = data.draw(st.composite(lambda draw: [_edit(draw, each) for each in items])())
    then = [each for _, each in both if each is not None]
    wanted = Recipe.model_validate({**value, "base": "wheel:new==1", **({"overlays": then} if items else {})})
    _edited_or_refused(text, lambda text: edit_recipe(text, base="wheel:new==1", overlays=[e for e, _ in both]), wanted)
    more = [{"file": "n.diff", "why": data.draw(words)}]
    wanted = Recipe.model_validate({**value, "overlays": [*items, *more]})
    _edited_or_refused(text, lambda text: append_overlays(text, more), wanted)


BLOCK = "overlays:\n  - file: a.diff\n"


def test_an_edit_that_is_not_what_was_meant_is_refused_without_words_about_a_text_that_nobody_has() -> None:
    for wrong in (HEAD + "a: b: c\n", HEAD + "overlays:\n  -\n", HEAD + "overlays: [", HEAD):
        with pytest.raises(InputError, match=r"^x\.yaml cannot be edited in place"):
            edited(HEAD + BLOCK, lambda _text, wrong=wrong: wrong, read(HEAD + BLOCK), "x.yaml")  # type: ignore[misc]
