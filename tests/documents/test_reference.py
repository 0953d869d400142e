"""Names of bases: what other tools write for one is refused with what to write here, never asked of Docker Hub."""

from __future__ import annotations

import pytest

from builder.documents.recipe import Recipe
from builder.documents.reference import BaseReference
from builder.util.errors import InputError


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("docker-archive:x.tar", "skopeo copy docker-archive:x.tar oci:base"),
        ("oci-archive:images/x.tar", "skopeo copy oci-archive:images/x.tar oci:base"),
        ("containers-storage:localhost/x:1", "skopeo copy containers-storage:localhost/x:1 oci:base"),
        ("dir:x", "skopeo copy dir:x oci:base"),
        ("docker-daemon:x:1", "write docker:x:1"),
        ("docker://vllm/vllm-openai:v0.20.0", "write an image in a registry as"),
        ("https://hub.docker.com/r/vllm/vllm-openai", "write an image in a registry as"),
    ],
)
def test_the_names_of_other_tools_are_told_apart(text: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        BaseReference.parse(text)
    assert words in (refused.value.hint or "")
    with pytest.raises(ValueError, match="is not a base; "):
        Recipe.model_validate({"name": "r", "base": text})


@pytest.mark.parametrize(
    "text", ["dir/x", "registry.example.org:5000/dir:x", "localhost:5000/x", "sif", "vllm:v1", "docker:x:1"]
)
def test_registries_and_images_that_look_alike_are_taken(text: str) -> None:
    assert BaseReference.parse(text).kind in ("registry", "docker")


def test_one_platform_under_two_names_is_repeated() -> None:
    with pytest.raises(ValueError, match="platform linux/arm64 is repeated"):
        Recipe.model_validate(
            {"name": "r", "base": "x", "overlays": [{"file": "x.diff"}], "platforms": ["linux/arm64/v8", "linux/arm64"]}
        )
