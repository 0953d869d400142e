"""libyaml, where it is installed, reads what PyYAML's own parser reads: the same values at the same places."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from builder.documents.yamlfile import exact, parse_yaml, quick
from builder.util.errors import InputError

ROOT = Path(__file__).parents[2]
FILES = sorted([*ROOT.glob("images/*.yaml"), *ROOT.glob("profiles/*.yaml")])
TOKENS = (
    "a", "b", "key", ": ", ":", "- ", "-", "\n", "\n  ", "\n    ", "\n- ", " ", "  ", "#", " # c", "'", '"', "[", "]", "{", "}",
    ", ", ",", "|", "|\n", "|-\n", "|+\n", ">\n", ">-\n", "? ", "?", "a? ", "what?\n", "! ", "!x ", "&a ", "*a", "%", "@", "`", "~", "\\", "0",
    "1.5", "---", "\n---\n", "...", "\n...\n", "é", "\u2028", "\x85", "\ufeff", "''", '""', "\\n", "\\x41", "\\z", "null",
    "true", "<<", "=", "\n\n", "|2\n", ">1-\n", "- - ", "- a: b\n  c: d\n", "a:\n  b: c\n", "\t",
)  # fmt: skip

needs_libyaml = pytest.mark.skipif(not hasattr(yaml, "CSafeLoader"), reason="PyYAML has no libyaml here")


@needs_libyaml
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_files_of_this_project_are_read_by_it(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    found = quick(text, path.name)
    assert found == exact(text, path.name)


@needs_libyaml
@settings(max_examples=2000, deadline=None)
@given(st.lists(st.sampled_from(TOKENS), max_size=14).map("".join))
@example("a:\tb")
@example(" [0&a ?]")
@example("|# c")
@example("a:\nb: c")
def test_it_never_contradicts_the_exact_parser(text: str) -> None:
    found = quick(text, "x.yaml")
    if found is not None:
        assert found == exact(text, "x.yaml")


@needs_libyaml
def test_what_is_costly_is_left_to_the_exact_parser() -> None:
    for text in ("[" * 50 + "]" * 50, "a: &x 1\nb: *x\n", "a: 1\na: 2\n"):
        assert quick(text, "x.yaml") is None
        with pytest.raises(InputError):
            parse_yaml(text, "x.yaml")
