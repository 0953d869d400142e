"""The verdicts of a published image: all are shown, the newest first, each with its signer as far as that was checked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from builder.documents.verdict import ImageIdentity
from builder.gate.open import attached
from builder.gate.published import published
from builder.release.attest.signing import KeySigning
from builder.release.attest.store import attest
from builder.release.attest.trust import trust
from builder.release.verify.reader import manifests, open_reader, read_json
from builder.util.context import Context
from builder.util.errors import InputError, MismatchError
from tests.release.test_judges import two_platforms
from tests.support.cli import builder
from tests.support.published import small_base
from tests.support.registry import registry, skopeo_copy
from tests.support.signing import key_pair
from tests.support.verdicts import verdict_of


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """An image in a registry: its name, and its digest."""
    from builder.oci.registry.client import Registry

    root = tmp_path_factory.mktemp("attached")
    with registry(root / "registry") as host:
        skopeo_copy(f"oci:{small_base(root / 'layout')}:base", f"docker://{host}/team/image:v1")
        digest = Registry(host).has_manifest("team/image", "v1")
        assert digest is not None
        yield f"{host}/team/image", digest


def test_all_are_shown_with_who_signed_them(image: tuple[str, str], tmp_path: Path) -> None:
    name, digest = image
    private, public = key_pair(tmp_path / "team")
    now = datetime.now(UTC)
    old = verdict_of(tmp_path / "old.json", digest, ended=now - timedelta(days=100))
    new = verdict_of(tmp_path / "new.json", digest, outcome="failed", ended=now - timedelta(days=3))
    context = Context()
    attest(old.read_bytes(), "old.json", f"{name}@{digest}", signing=None, context=context)
    attest(new.read_bytes(), "new.json", f"{name}@{digest}", signing=KeySigning(private), context=context)
    found = attached(f"{name}:v1", trust([str(public)]), context=context)
    assert [(each.verdict.result, each.signed.state) for each in found] == [
        ("FAILED", "verified"),
        ("PASSED", "unsigned"),
    ]
    assert [each.signed.state for each in attached(f"{name}:v1", context=context)] == ["unchecked", "unsigned"]
    shown = builder("verdict", "show", f"{name}:v1", "--signer", str(public), cwd=tmp_path)
    assert shown.code == 0, shown.err
    for text in ("signed by key sha256:", "signed   unsigned", "age      3 days", "age      100 days", "; expired ("):
        assert text in shown.out


def test_an_unbound_verdict_and_one_about_another_image_are_not_attached(
    image: tuple[str, str], tmp_path: Path
) -> None:
    name, digest = image
    for path in (
        verdict_of(tmp_path / "unbound.json", None),
        verdict_of(tmp_path / "other.json", "sha256:" + "0" * 64),
    ):
        with pytest.raises((MismatchError, InputError)):
            attest(path.read_bytes(), path.name, f"{name}@{digest}", signing=None, context=Context())


def test_an_image_without_verdicts(image: tuple[str, str], tmp_path: Path) -> None:
    host = image[0].partition("/")[0]
    skopeo_copy(f"oci:{small_base(tmp_path / 'layout')}:base", f"docker://{host}/team/bare:v1")
    shown = builder("verdict", "show", f"{host}/team/bare:v1", cwd=tmp_path)
    assert shown.code == 2
    assert "no verdict is attached" in shown.err


def test_what_runs_is_found_among_the_manifests_of_what_was_published(image: tuple[str, str], tmp_path: Path) -> None:
    """Docker knows an image by a registry's digest, by the manifest's or by the config's."""
    host = image[0].partition("/")[0]
    skopeo_copy(f"oci:{two_platforms(tmp_path / 'layout')}:base", f"docker://{host}/team/multi:v1")
    reader = open_reader(f"{host}/team/multi:v1", context=Context())
    first, second = manifests(reader)
    config = read_json(reader, second)["config"]["digest"]

    def runs(digest: str, identity: str = "sha256:" + "0" * 64) -> tuple[str, str | None]:
        found = published(ImageIdentity(reference="x", digest=digest, id=identity), reader)
        return found.digest, found.index

    assert runs(first.digest) == (first.digest, reader.top.digest)
    assert runs(config, config) == (second.digest, reader.top.digest)
    assert runs(reader.top.digest, config) == (second.digest, reader.top.digest)
    for digest in ("sha256:" + "9" * 64, reader.top.digest):
        # The index alone does not tell which of its two images runs.
        with pytest.raises(MismatchError, match="what runs is not"):
            runs(digest)
    with pytest.raises(MismatchError):
        published(None, reader)
    single = open_reader(f"{image[0]}:v1", context=Context())
    config = read_json(single, single.top)["config"]["digest"]
    found = published(ImageIdentity(reference="x", digest=config, id=config), single)
    assert (found.digest, found.index) == (image[1], None)
