"""Wheel bases of several distributions: one line, or a list, and the same parts in both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.documents.recipe import Recipe
from builder.documents.reference import BaseReference, join_wheels
from builder.util.errors import InputError

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
VERSIONS = st.from_regex(r"[0-9]([0-9a-z.!]{0,6}[0-9a-z])?(\+[a-z0-9.]{0,5}[a-z0-9])?", fullmatch=True)
RELEASES = st.builds("{}=={}".format, NAMES, VERSIONS)
FILES = st.from_regex(r"([a-z.]{1,4}/){0,2}[A-Za-z0-9_.]{1,6}-[0-9.]{1,4}(\+[a-z0-9]{1,5})?-py3-none-any\.whl", fullmatch=True)  # fmt: skip


@given(st.lists(st.one_of(RELEASES, FILES), min_size=1, max_size=5, unique=True))
def test_a_list_is_read_back_from_its_one_line_or_refused(wheels: list[str]) -> None:
    try:
        joined = join_wheels([f"wheel:{each}" for each in wheels])
    except InputError as error:
        assert "two ways" in error.message
        return
    assert BaseReference.parse(joined).wheels == tuple(wheels)


@given(st.lists(RELEASES, min_size=1, max_size=6, unique=True), st.lists(FILES, max_size=3, unique=True))
def test_releases_and_files_before_them_are_never_ambiguous(releases: list[str], files: list[str]) -> None:
    text = "wheel:" + "+".join([*files, *releases])
    assert BaseReference.parse(text).wheels == (*files, *releases)


@given(st.text(alphabet="a1=+./whl-", max_size=40))
def test_any_text_is_wheels_or_an_error(text: str) -> None:
    try:
        wheels = BaseReference.parse(f"wheel:{text}").wheels
    except InputError:
        return
    assert "+".join(wheels) == text


@pytest.mark.parametrize(
    "base",
    ["wheel:vllm==0.20.0+vllm==0.20.0", "wheel:vllm==0.20.0+", "wheel:+vllm==0.20.0", [], ["wheel:"], ["vllm==0.20.0"],
     ["wheel:vllm==0.20.0", "oci:DIR"], [1], ["wheel:a==1", ["wheel:b==2"]]],
)  # fmt: skip
def test_what_is_no_list_of_wheels_is_refused(base: object) -> None:
    with pytest.raises(ValueError, match="base"):
        Recipe.model_validate({"name": "x", "base": base})


def test_a_list_and_its_line_are_the_same_recipe() -> None:
    one = Recipe.model_validate({"name": "x", "base": "wheel:vllm==0.20.0+cu129+transformers==5.2.0"})
    two = Recipe.model_validate({"name": "x", "base": ["wheel:vllm==0.20.0+cu129", "wheel:transformers==5.2.0"]})
    assert one == two
    assert one.digest == two.digest
    assert Recipe.model_validate({"name": "x", "base": ["oci:DIR"]}).base == "oci:DIR"
