"""The whole publication to registries as they are: every vendor's quirks, and every quirk that stops it named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from builder.documents.reference import Reference
from builder.oci.registry import upload
from builder.release.publish import Prepared, Published, PublishOptions, publish
from builder.util.errors import UnreachableError
from tests.release.test_judges import two_platforms
from tests.support.clock import Owned
from tests.support.published import patched_project, prepared, small_base
from tests.support.quirks import VENDORS, Quirks, QuirkyRegistry, quirky_registry

# More than one of an upload's chunks, so that a refused mount needs chunks: of a size that GHCR refuses, and ECR takes.
FILLER = 9 << 20


@pytest.fixture(autouse=True)
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "CHUNK", 6 << 20)


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_base(tmp_path_factory.mktemp("layout") / "base", filler=FILLER)


def seed(registry: QuirkyRegistry, layout: Path) -> None:
    """Put the base there as if it had always been."""
    for path in (layout / "blobs/sha256").iterdir():
        registry.put_blob("base/image", path.read_bytes())
    [entry] = json.loads((layout / "index.json").read_text())["manifests"]
    data = registry.blobs["base/image"][entry["digest"]]
    registry.put_manifest("base/image", "v1", data, entry["mediaType"])
    registry.stale.clear()


def published_first(
    registry: QuirkyRegistry, layout: Path, tmp_path: Path, owned: Owned, **further: object
) -> tuple[Published, Prepared, PublishOptions]:
    """A publication to a repository that has nothing; the registry's requests are those of it alone."""
    seed(registry, layout)
    project = patched_project(tmp_path / "project", f"{registry.host}/base/image:v1")
    options = PublishOptions(tags=("production",), **further)  # type: ignore[arg-type]
    image = prepared(project, to=f"{registry.host}/team/out", options=options)
    registry.requests.clear()
    [done] = publish(image, options, context=owned.context)
    return done, image, options


def published(registry: QuirkyRegistry, layout: Path, tmp_path: Path, owned: Owned, **further: object) -> Published:
    done, image, options = published_first(registry, layout, tmp_path, owned, **further)
    first = len(registry.requests)
    registry.requests.clear()
    [again] = publish(image, options, context=owned.context)
    assert (again.digest, again.moved.uploaded, again.moved.streamed, again.moved.evidence) == (done.digest, 0, 0, 0)
    assert not [each for each in registry.requests if each.split()[0] in ("PUT", "POST", "PATCH")]
    assert len(registry.requests) < first
    return done


@pytest.mark.parametrize("vendor", VENDORS)
def test_a_publication_to_every_vendor(vendor: str, layout: Path, tmp_path: Path) -> None:
    owned = Owned()
    with quirky_registry(VENDORS[vendor]) as registry:
        done = published(registry, layout, tmp_path, owned)
        for tag in done.tags:
            assert registry.tags["team/out"][tag] == done.digest
        assert registry.complete("team/out", done.digest) == []
        referring = registry.referring("team/out", done.digest)
        # Lock, sources, SBOM and provenance.
        assert len(referring) == 4
        assert all(registry.complete("team/out", each["digest"]) == [] for each in referring)
        if not registry.quirks.referrers:
            listed = registry.tags["team/out"][done.digest.replace(":", "-")]
            assert len(json.loads(registry.manifests["team/out"][listed][0])["manifests"]) == 4
        if registry.quirks.mount == 201:
            assert done.moved.mounted == 2
        else:
            assert done.moved.streamed > FILLER


@pytest.mark.parametrize("status", [202, 400, 403, 404, 405])
def test_a_refused_mount_is_an_upload(status: int, layout: Path, tmp_path: Path) -> None:
    with quirky_registry(Quirks(mount=status)) as registry:
        done = published(registry, layout, tmp_path, Owned())
        assert done.moved.streamed > FILLER
        assert registry.complete("team/out", done.digest) == []


@pytest.mark.parametrize("late", [1, 3])
def test_a_tag_that_is_seen_late_is_read_again(late: int, layout: Path, tmp_path: Path) -> None:
    owned = Owned()
    with quirky_registry(Quirks(late=late)) as registry:
        published(registry, layout, tmp_path, owned)
        assert len(owned.clock.pauses) >= late


def test_a_tag_that_is_never_seen_is_named(layout: Path, tmp_path: Path) -> None:
    with quirky_registry(Quirks(late=1000)) as registry, pytest.raises(Exception, match="does not show it"):
        published(registry, layout, tmp_path, Owned())


@pytest.mark.parametrize(
    "quirks",
    [
        Quirks(subject=404), Quirks(subject=400), Quirks(artifact_types=False),
        Quirks(referrers=False, says_subject=False, index=400), Quirks(referrers=False, bare_entries=False, says_subject=False),
    ],
)  # fmt: skip
def test_evidence_that_is_refused_is_named_with_the_way_around(quirks: Quirks, layout: Path, tmp_path: Path) -> None:
    with quirky_registry(quirks) as registry:
        with pytest.raises(UnreachableError, match="does not accept evidence") as caught:
            published(registry, layout, tmp_path / "with", Owned())
        assert "--no-evidence" in str(caught.value.hint)
        assert not set(registry.tags.get("team/out", {})) - {"v1"}
        done = published(registry, layout, tmp_path / "without", Owned(), evidence=False)
        assert registry.tags["team/out"]["production"] == done.digest


@pytest.mark.parametrize("subject_first", [False, True])
def test_an_index_that_is_refused_is_named_and_tags_nothing(subject_first: bool, tmp_path: Path) -> None:
    """Where it comes with its tag, and where the evidence needs it first."""
    platforms = ["linux/amd64", "linux/arm64"]
    with quirky_registry(Quirks(index=400, subject_first=subject_first)) as registry:
        layout = two_platforms(tmp_path / "layout")
        for path in (layout / "blobs/sha256").iterdir():
            data = path.read_bytes()
            registry.put_blob("base/image", data)
            if b'"schemaVersion"' in data:
                kind = json.loads(data)["mediaType"]
                registry.put_manifest(
                    "base/image", "v1" if b'"manifests"' in data else f"sha256:{path.name}", data, kind
                )
        registry.stale.clear()
        project = patched_project(tmp_path / "project", f"{registry.host}/base/image:v1", platforms=platforms)
        options = PublishOptions(tags=("production",))
        image = prepared(project, to=f"{registry.host}/team/out", options=options)
        with pytest.raises(UnreachableError, match="does not accept an image index"):
            publish(image, options, context=Owned().context)
        assert registry.tags.get("team/out", {}) == {}


def test_the_requests_of_a_publication(layout: Path, tmp_path: Path) -> None:
    """Counted, so that they do not creep up: with evidence, without, and with nothing new."""
    owned = Owned()
    with quirky_registry(Quirks()) as registry:
        seed(registry, layout)
        project = patched_project(tmp_path / "project", f"{registry.host}/base/image:v1")
        counts = {}
        for evidence in (True, False):
            options = PublishOptions(evidence=evidence)
            image = prepared(project, to=f"{registry.host}/team/{str(evidence).lower()}", options=options)
            for name in ("first", "again"):
                registry.requests.clear()
                publish(image, options, context=owned.context)
                counts[evidence, name] = len(registry.requests)
        # For two layers of a base: a look at the tag before and after the blobs, two mounts, two blobs, the tag, a look at it.
        assert counts[False, "first"] == 10, counts
        # Four documents, the empty config, four manifests, and whether the registry lists them.
        assert counts[True, "first"] <= 26, counts
        assert counts[False, "again"] <= 3, counts
        assert counts[True, "again"] <= 3, counts


@pytest.mark.parametrize("quirks", [Quirks(), Quirks(referrers=False, says_subject=False), VENDORS["ECR"]])
def test_the_image_comes_with_its_tag_when_everything_else_is_there(
    quirks: Quirks, layout: Path, tmp_path: Path
) -> None:
    """One round of blobs, one of what refers to the image, and the image itself with its tag."""
    with quirky_registry(quirks) as registry:
        done, _, _ = published_first(registry, layout, tmp_path, Owned())
        writes = [
            each.rpartition("/")[2] for each in registry.requests if each.startswith("PUT") and "/manifests/" in each
        ]
        *evidence, immutable, moved = writes
        assert (immutable, moved) == done.tags
        assert len(evidence) >= 4
        assert done.digest not in evidence
        begun = registry.requests.index(f"PUT /v2/team/out/manifests/{evidence[0]}")
        assert not any("/blobs/" in each for each in registry.requests[begun:])


def test_a_registry_that_wants_the_image_before_its_evidence_gets_it_first(layout: Path, tmp_path: Path) -> None:
    owned = Owned()
    with quirky_registry(Quirks(subject_first=True)) as registry:
        done, _, _ = published_first(registry, layout, tmp_path, owned)
        assert len(registry.referring("team/out", done.digest)) == 4
        assert f"PUT /v2/team/out/manifests/{done.digest}" in registry.requests
        assert owned.clock.pauses == []


def test_the_digest_is_that_of_the_tag(layout: Path, tmp_path: Path) -> None:
    with quirky_registry(Quirks()) as registry:
        done = published(registry, layout, tmp_path, Owned())
        data = registry.manifests["team/out"][done.digest][0]
        assert done.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert Reference.parse(done.reference).digest == done.digest


def test_nothing_new_costs_one_look_at_each_tag_and_one_at_the_evidence(layout: Path, tmp_path: Path) -> None:
    owned = Owned()
    with quirky_registry(Quirks()) as registry:
        done = published(registry, layout, tmp_path, owned)
        assert [each.split()[0] for each in registry.requests] == ["HEAD", "GET", "HEAD"]
        assert registry.requests[1].endswith(f"/referrers/{done.digest}")
