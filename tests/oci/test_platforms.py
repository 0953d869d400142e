"""The image of a platform in an index, as containerd and Docker choose it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.documents.reference import Platform
from builder.oci.platforms import preference
from tests.support.bases import (
    PYTHON,
    ROOT,
    SOURCE,
    Made,
    build,
    built_layer,
    layer,
    package,
    recipe,
)  # fmt: skip

REF = "org.opencontainers.image.ref.name"
FIRST = SOURCE.replace(b"x1 = 1\n", b"x1 = 1001\n")
OTHER = SOURCE.replace(b"x1 = 1\n", b"x1 = 1002\n")


def plat(architecture: str = "amd64", variant: str = "", system: str = "linux") -> dict[str, Any]:
    return {"platform": {"os": system, "architecture": architecture, **({"variant": variant} if variant else {})}}


def image(made: Made, source: bytes = FIRST, *, arch: str = "amd64", variant: str = "", **more: Any) -> dict[str, Any]:
    def config(found: dict[str, Any]) -> None:
        found["architecture"] = arch
        if variant:
            found["variant"] = variant

    return made.image([layer(*PYTHON), layer(*package(source=source))], config=config, **more)


ATTESTATION = {
    "platform": {"os": "unknown", "architecture": "unknown"},
    "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
}


def attestation(made: Made, **more: Any) -> dict[str, Any]:
    """What BuildKit puts beside an image."""
    config = made.json({"architecture": "unknown", "os": "unknown", "config": {}, "rootfs": {"type": "layers", "diff_ids": []}},
                       "application/vnd.oci.image.config.v1+json")  # fmt: skip
    document = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config,
                "layers": [made.put(b"{}", "application/vnd.in-toto+json")]}  # fmt: skip
    return made.json(document, document["mediaType"], **(more or ATTESTATION))  # type: ignore[arg-type]


def artifact(made: Made, **more: Any) -> dict[str, Any]:
    """An OCI artifact, which is not an image; it has no platform unless `more` gives one."""
    document = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": made.put(b"{}", "application/vnd.oci.empty.v1+json"), "layers": []}  # fmt: skip
    return made.json(document, str(document["mediaType"]), **more)


def signature(made: Made, subject: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What refers to an image, as tools list it in a layout's index: without saying what it is."""
    document = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "subject": subject,
                "config": made.put(b"{}", "application/vnd.oci.empty.v1+json"), "layers": []}  # fmt: skip
    return made.json(document, str(document["mediaType"]), **more)


NYDUS: dict[str, Any] = {"platform": {"os": "linux", "architecture": "amd64", "os.features": ["nydus.remoteimage.v1"]}}

CASES: dict[str, Callable[[Made], list[dict[str, Any]]]] = {
    "one": lambda m: [m.index(image(m, **plat()))],
    "no platform": lambda m: [m.index(image(m))],
    "no platform, other before": lambda m: [m.index(image(m, OTHER, arch="arm64"), image(m))],
    "platform before none": lambda m: [m.index(image(m, OTHER), image(m, **plat()))],
    "plain after v3": lambda m: [m.index(image(m, OTHER, variant="v3", **plat("amd64", "v3")), image(m, **plat()))],
    "plain before v2": lambda m: [m.index(image(m, **plat()), image(m, OTHER, variant="v2", **plat("amd64", "v2")))],
    "v1 is plain": lambda m: [m.index(image(m, variant="v1", **plat("amd64", "v1")))],
    "two for one": lambda m: [m.index(image(m, **plat()), image(m, OTHER, **plat()))],
    "nested": lambda m: [m.index(m.index(m.index(image(m, **plat()))))],
    "nested with a platform": lambda m: [m.index(m.index(image(m, OTHER, arch="arm64", **plat("arm64")), **plat("arm64")),
                                                 m.index(image(m, **plat()), **plat()))],
    "nested after direct": lambda m: [m.index(m.index(image(m, OTHER, **plat())), image(m, **plat()))],
    "nested without ours first": lambda m: [m.index(m.index(image(m, OTHER, arch="arm64", **plat("arm64"))), m.index(image(m, **plat())))],
    "attestation before": lambda m: [m.index(attestation(m), image(m, **plat()))],
    "attestation after": lambda m: [m.index(image(m, **plat()), attestation(m))],
    "attestation without a platform": lambda m: [m.index(attestation(m, annotations=ATTESTATION["annotations"]), image(m))],
    "unmarked attestation": lambda m: [m.index(attestation(m, artifactType="x"), image(m))],
    "artifact before": lambda m: [m.index(artifact(m), image(m))],
    "listed in index.json": lambda m: [image(m, OTHER, arch="arm64", **plat("arm64")), image(m, **plat()), attestation(m)],
    "artifact for the platform before": lambda m: [m.index(artifact(m, artifactType="x/y", **plat()), image(m, **plat()))],
    "artifact that does not say so before": lambda m: [m.index(artifact(m, **plat()), image(m, **plat()))],
    "many artifacts before": lambda m: [m.index(*[{**artifact(m), "artifactType": "x/y"}] * 300, image(m))],
    "many of others before": lambda m: [m.index(*[image(m, OTHER, arch="arm64", **plat("arm64"))] * 10_000, image(m, **plat()))],
    "os.features before": lambda m: [m.index(image(m, OTHER, **NYDUS), image(m, **plat()))],
    "os.features alone": lambda m: [m.index(image(m, **NYDUS))],
    "os.version": lambda m: [m.index(image(m, platform={"os": "linux", "architecture": "amd64", "os.version": "1"}))],
    "empty platform": lambda m: [m.index(image(m, platform={"os": "", "architecture": ""}))],
    "platform of two names": lambda m: [m.index(image(m, OTHER, arch="arm64", platform={"os": "linux"}), image(m, platform={"os": "linux"}))],
    "platform in capitals": lambda m: [m.index(image(m, arch="AMD64", platform={"os": "Linux", "architecture": "X86_64"}))],
    "a signature beside in index.json": lambda m: [image(m), signature(m, image(m))],
    "a named signature beside in index.json": lambda m: [
        {**image(m), "annotations": {REF: "v1"}}, signature(m, image(m), annotations={REF: "sha256-aa.sig"}),
    ],
    "an unknown type before": lambda m: [m.index(m.put(b"{}", "application/x"), image(m))],
}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_the_image_that_a_client_takes_is_the_base(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Made(recipe(tmp_path) / "base")
    made.write(*CASES[kind](made))
    outcome = build(tmp_path, capsys)
    assert outcome.code == 0, outcome.message
    data = built_layer(tmp_path, outcome)[f"{ROOT}/vllm/a.py"]
    assert isinstance(data, bytes)
    assert data.startswith(b"x1 = 1001\n")


def deep(made: Made) -> dict[str, Any]:
    found = image(made, **plat())
    for _ in range(6):
        found = made.index(found)
    return found


NONE: dict[str, Callable[[Made], dict[str, Any]]] = {
    "only v3": lambda m: m.index(image(m, variant="v3", **plat("amd64", "v3"))),
    "only arm64": lambda m: m.index(image(m, arch="arm64", **plat("arm64"))),
    "only attestations": lambda m: m.index(attestation(m), attestation(m)),
    "nothing": lambda m: m.index(),
    "nested too deep": deep,
    "an artifact": artifact,
    "config of another architecture": lambda m: m.index(image(m, arch="arm64", **plat())),
    "config of another variant": lambda m: m.index(image(m, variant="v3", **plat())),
    "too many without a platform": lambda m: m.index(*[artifact(m)] * 300),
    "unknown platform": lambda m: m.index(image(m, platform={"os": "unknown", "architecture": "unknown"})),
    "no platform, v3 in the config": lambda m: m.index(image(m, variant="v3")),
}


@pytest.mark.parametrize("kind", NONE)
def test_where_a_client_finds_nothing_we_find_nothing(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Made(recipe(tmp_path) / "base")
    made.write(NONE[kind](made))
    outcome = build(tmp_path, capsys)
    assert outcome.code == 2, (outcome.code, outcome.message)


WHY: dict[str, tuple[Callable[[Made], dict[str, Any]], str]] = {
    "its platform is in the config": (lambda m: m.index(image(m, arch="arm64")), "it has: linux/arm64;"),
    "artifact": (artifact, "name the image itself"),
    "schema 1": (
        lambda m: m.put(b'{"schemaVersion": 1}', f"{SCHEMA}+prettyjws"),
        "push it again with a current Docker",
    ),
}
SCHEMA = "application/vnd.docker.distribution.manifest.v1"


@pytest.mark.parametrize("kind", WHY)
def test_what_the_reference_has_instead_is_named(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, words = WHY[kind]
    made = Made(recipe(tmp_path) / "base")
    made.write(make(made))
    outcome = build(tmp_path, capsys)
    assert outcome.code == 2
    assert words in outcome.document["error"]["hint"]


@pytest.mark.parametrize(
    ("asked", "order"),
    [
        ("linux/amd64", ["", "v1"]),
        ("linux/amd64/v3", ["v3", "v2", "", "v1"]),
        ("linux/arm64", ["", "v8"]),
        ("linux/arm64/v8", ["v8", ""]),
        ("linux/arm", ["v7", "", "v6", "v5"]),
        ("linux/arm/v6", ["v6", "v5"]),
        ("linux/s390x", [""]),
    ],
)
def test_variants_are_preferred_as_containerd_does(asked: str, order: list[str]) -> None:
    """Source: `platformVector` and `Normalize` in containerd/platforms 1.0."""
    platform = Platform.parse(asked)
    ranks = {
        variant: preference(platform, {"os": "linux", "architecture": platform.architecture, "variant": variant})
        for variant in ["", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9"]
    }
    found = [variant for variant, rank in ranks.items() if rank is not None]
    assert set(found) == set(order)
    assert [ranks[variant] for variant in order] == sorted(ranks[variant] or 0 for variant in order)


def test_entries_of_a_name_that_is_repeated_are_taken_as_docker_takes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Made(recipe(tmp_path) / "base")
    named = {"annotations": {"org.opencontainers.image.ref.name": "x"}}
    made.write({**image(made), **named}, {**image(made, OTHER), **named})
    (tmp_path / "r.yaml").write_text((tmp_path / "r.yaml").read_text().replace("oci:base", "oci:base:x"))
    assert build(tmp_path, capsys).code == 0
    both = Made(tmp_path / "base")
    arm = {**image(both, OTHER, arch="arm64"), **plat("arm64"), **named}
    both.write(arm, {**image(both), **plat(), **named})
    (tmp_path / "r.lock.yaml").unlink()
    assert build(tmp_path, capsys).code == 0
