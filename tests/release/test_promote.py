"""Promotion: a tag moves to exactly the image whose verdicts meet the policy, and each refusal names its reason."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.documents.policy import load_policy
from builder.documents.statement import SUMMARY_V1
from builder.oci.artifact import BUNDLE, IN_TOTO, VERDICT, Evidence, referrer
from builder.oci.referrers import attach, find_referrers, read_referrer
from builder.oci.registry.client import Registry
from builder.oci.types import Descriptor
from builder.release.promote.vsa import LEVEL
from builder.util.errors import GateError, InputError, MismatchError, UnreachableError
from tests.release.test_judges import two_platforms
from tests.support.cli import builder
from tests.support.clock import ManualClock, Owned
from tests.support.promotion import NOW, SUITE, Stage, later, stage
from tests.support.published import patched_project
from tests.support.referrers_api import with_referrers_api
from tests.support.registry import skopeo_copy
from tests.support.signing import key_pair
from tests.support.sigstore import ISSUER, sigstore, token
from tests.support.verdicts import verdict_of


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("promote")) as made:
        yield made


@pytest.fixture
def scene(running: Stage) -> Stage:
    running.policy()
    (running.root / "gates/sample.yaml").write_bytes(SUITE)
    return running


def refused(scene: Stage, repository: str, **options: Any) -> GateError:
    with pytest.raises(GateError) as caught:
        scene.promote(repository, **options)
    assert caught.value.exit_code == 6
    return caught.value


def reasons(error: GateError) -> dict[str, str]:
    return {each["suite"]: each["reason"] for each in error.data["requirements"]}


def test_an_image_that_meets_the_policy_gets_the_tag_and_a_summary(
    scene: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDER_ID", "https://ci.example/builder")
    name = scene.repository()
    attested = scene.attach(name)
    done = scene.promote(name)
    assert (done.moved, done.previous) == (True, None)
    assert scene.holds(name) == scene.digests["one"] == done.digest
    (summary,) = scene.summaries(name)
    loaded = load_policy(scene.root / "gates/production.yaml")
    assert summary == {
        "verifier": {"id": "https://ci.example/builder"},
        "timeVerified": "2026-01-01T00:00:00Z",
        "resourceUri": f"oci://{scene.host}/{name}:production",
        "policy": {"uri": "gates/production.yaml", "digest": {"sha256": loaded.sha256}},
        "inputAttestations": [
            {
                "uri": f"oci://{scene.host}/{name}@{attested.referrer}",
                "digest": {"sha256": attested.document.removeprefix("sha256:")},
            }
        ],
        "verificationResult": "PASSED",
        "verifiedLevels": [LEVEL],
        "slsaVersion": "1.0",
    }
    assert not LEVEL.startswith("SLSA_")


def test_statement_and_summary_validate_with_in_toto(scene: Stage) -> None:
    from google.protobuf import json_format
    from in_toto_attestation.predicates.vsa.v1 import vsa_pb2
    from in_toto_attestation.v1.statement import Statement
    from in_toto_attestation.v1.statement_pb2 import Statement as Message

    name = scene.repository()
    scene.attach(name)
    scene.promote(name)
    client = Registry(scene.host)
    seen = 0
    for each in find_referrers(client, name, scene.digests["one"]):
        from builder.release.attest.bundle import parse_bundle

        bundle = parse_bundle(read_referrer(client, name, each)[1])
        assert bundle is not None
        document = json.loads(bundle.payload)
        # Strict: a field that the protobuf does not know is an error.
        Statement.copy_from_pb(json_format.ParseDict(document, Message())).validate()
        if document["predicateType"].endswith("verification_summary/v1"):
            # SLSA v1.0 has a list of levels; the protobuf of in-toto-attestation 0.9.3 has one text in its place.
            (level,) = document["predicate"]["verifiedLevels"]
            parsed = json_format.ParseDict(
                {**document["predicate"], "verifiedLevels": level}, vsa_pb2.VerificationSummary()
            )
            assert parsed.verified_levels == LEVEL
            assert parsed.verification_result == "PASSED"
            assert parsed.resource_uri == f"oci://{scene.host}/{name}:production"
        seen += 1
    assert seen == 2


def unreadable(scene: Stage, name: str, data: bytes, kind: str = VERDICT) -> None:
    client = Registry(scene.host)
    manifest, media_type, digest = client.manifest(name, "one")
    attach(client, name, [referrer(Evidence("v", kind, Descriptor(media_type, digest, len(manifest)), data))])


def edited(scene: Stage, name: str) -> None:
    """A FAILED verdict whose result somebody has edited in its envelope, whole in every other way."""
    failed: dict[str, Any] = {"ended": NOW - timedelta(hours=1), "suite_data": SUITE, "outcome": "failed"}
    signed = scene.signing().sign(verdict_of(scene.root / "v.json", scene.digests["one"], **failed).read_bytes())
    forged = verdict_of(scene.root / "w.json", scene.digests["one"], **{**failed, "outcome": "passed"}).read_bytes()
    document = json.loads(signed)
    document["dsseEnvelope"]["payload"] = base64.b64encode(forged).decode()
    unreadable(scene, name, json.dumps(document).encode(), BUNDLE)


CASES: dict[str, tuple[str, Callable[[Stage, str], object]]] = {
    "nothing attached": ("absent", lambda scene, name: None),
    "another suite's verdict": ("absent", lambda scene, name: scene.attach(name, suite="other")),
    "the suite was another file": ("other suite", lambda scene, name: scene.attach(name, suite_data=b"name: older\n")),
    "the suite was edited since": (
        "other suite",
        lambda scene, name: (scene.attach(name), (scene.root / "gates/sample.yaml").write_bytes(SUITE + b"#\n")),
    ),
    "the suite is not as the policy pins it": (
        "other suite",
        lambda scene, name: (scene.attach(name), scene.policy(suites=[{"name": "sample", "sha256": "0" * 64}])),
    ),
    "failed": ("failed", lambda scene, name: scene.attach(name, outcome="failed")),
    "warned": ("warned", lambda scene, name: scene.attach(name, outcome="warned")),
    "unsigned": ("unsigned", lambda scene, name: scene.attach(name, unsigned=True)),
    "signed by somebody else": (
        "wrong signer",
        lambda scene, name: scene.attach(name, signing=scene.signing(key_pair(scene.root / "other")[0])),
    ),
    "result edited after signing": ("edited", edited),
    "expired": ("expired", lambda scene, name: scene.attach(name, ended=NOW - timedelta(days=91))),
    "too old for the policy": (
        "expired",
        lambda scene, name: (scene.attach(name, ended=NOW - timedelta(days=8)), scene.policy(max_age_days=7)),
    ),
    "it ended in the future": ("from the future", lambda scene, name: scene.attach(name, ended=NOW + timedelta(hours=1))),
    "another profile": (
        "other profile",
        lambda scene, name: (scene.attach(name, profile="smoke"), scene.policy(profile="production-ceiling")),
    ),
    "another GPU": ("other GPU", lambda scene, name: (scene.attach(name, gpu="rtx-4090"), scene.policy(gpu="rtx-5090"))),
    "no GPU known": ("other GPU", lambda scene, name: (scene.attach(name), scene.policy(gpu="rtx-5090"))),
    "a note with the digest": (
        "absent", lambda scene, name: unreadable(scene, name, f"PASSED {scene.digests['one']}".encode())
    ),
    "not JSON": ("absent", lambda scene, name: unreadable(scene, name, b"\xff\xfe", BUNDLE)),
    "a statement that is not a verdict": (
        "absent",
        lambda scene, name: unreadable(scene, name, json.dumps({
            "_type": "https://in-toto.io/Statement/v1", "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
            "subject": [{"name": "x", "digest": {"sha256": scene.digests["one"][7:]}}], "predicate": {"result": "PASSED"},
        }).encode(), IN_TOTO),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_refusal_names_its_reason_and_moves_nothing(case: str, scene: Stage) -> None:
    reason, make = CASES[case]
    name = scene.repository()
    make(scene, name)
    error = refused(scene, name)
    assert reasons(error) == {"sample": reason}
    assert any(
        label == "sample" and text.startswith((reason, "not counted", "edited")) for label, text in error.details
    )
    assert scene.holds(name) is None
    assert scene.summaries(name) == []
    if case in ("a note with the digest", "not JSON", "a statement that is not a verdict"):
        assert any(label == "unreadable" for label, _ in error.details)


def test_a_verdict_of_another_digest_does_not_count(scene: Stage) -> None:
    """It is attached to this image by hand: `attest` refuses that."""
    name = scene.repository()
    path = verdict_of(scene.root / "v.json", scene.digests["two"], ended=NOW - timedelta(hours=1), suite_data=SUITE)
    unreadable(scene, name, scene.signing().sign(path.read_bytes()), BUNDLE)
    assert reasons(refused(scene, name)) == {"sample": "other digest"}
    # What REF resolves to is what counts: the other tag's image has no verdict.
    scene.attach(name)
    assert scene.promote(name).digest == scene.digests["one"]
    assert reasons(refused(scene, name, ref="two")) == {"sample": "absent"}
    assert scene.holds(name) == scene.digests["one"]


@pytest.mark.parametrize(
    ("older", "newer", "reason"),
    [
        ({"outcome": "failed"}, {}, "passed"),
        ({}, {"outcome": "failed"}, "failed"),
        ({}, {"outcome": "failed", "unsigned": True}, "passed"),
        ({"outcome": "failed"}, {"unsigned": True}, "failed"),
        ({}, {"suite_data": b"name: older\n"}, "passed"),
    ],
    ids=["mended", "broken", "unsigned failure", "unsigned pass", "older suite"],
)
def test_of_two_verdicts_the_newest_signed_one_counts_and_both_are_shown(
    older: dict[str, Any], newer: dict[str, Any], reason: str, scene: Stage
) -> None:
    name = scene.repository()
    scene.attach(name, **{"ended": NOW - timedelta(hours=2), **older})
    scene.attach(name, **{"ended": NOW - timedelta(hours=1), **newer})
    if reason == "passed":
        lines = scene.promote(name).findings[0].lines()
    else:
        error = refused(scene, name)
        assert reasons(error) == {"sample": reason}
        lines = error.data["requirements"][0]["lines"]
    assert len(lines) == 2
    assert lines[0].startswith(reason)
    assert lines[1].startswith("not counted")


def test_of_two_in_the_same_second_the_failed_one_counts(scene: Stage) -> None:
    name = scene.repository()
    scene.attach(name)
    scene.attach(name, outcome="failed")
    assert reasons(refused(scene, name)) == {"sample": "failed"}


def test_what_a_policy_may_allow(scene: Stage) -> None:
    name = scene.repository()
    scene.attach(name, unsigned=True, outcome="warned", gpu="rtx-5090", profile="tiny")
    scene.policy(signers=None, allow_unsigned=True, allow_warned=True, gpu="rtx-5090", profile="tiny")
    done = scene.promote(name, signed=False)
    assert done.signed_by == "unsigned"
    assert "unsigned" in done.findings[0].lines()[0]
    assert scene.holds(name) == scene.digests["one"]


def test_every_requirement_is_listed(scene: Stage) -> None:
    name = scene.repository()
    scene.attach(name)
    pinned = [{"name": "sample"}, {"name": "more", "sha256": "0" * 64}, {"name": "smoke:tiny", "sha256": "1" * 64}]
    scene.policy(suites=pinned)
    assert reasons(refused(scene, name)) == {"sample": "passed", "more": "absent", "smoke:tiny": "absent"}
    scene.policy(suites=[{"name": "nowhere"}])
    with pytest.raises(InputError, match="no suite 'nowhere'"):
        scene.promote(name)


OPEN = b"name: sample\nrows: sample.jsonl\nanswer: {format: json, schema: sample.schema.json}\n"
PINNED = OPEN + b"rows_sha256: " + b"0" * 64 + b"\n"


@pytest.mark.parametrize(
    ("suite", "edited", "reason"),
    [
        (OPEN, None, "passed"), (OPEN, "sample.jsonl", "other rows"), (OPEN, "sample.schema.json", "other answer schema"),
        (PINNED, "sample.jsonl", "passed"), (PINNED, "sample.schema.json", "other answer schema"),
    ],
)  # fmt: skip
def test_files_beside_the_suite_are_todays_too(scene: Stage, suite: bytes, edited: str | None, reason: str) -> None:
    """The suite's digest does not cover its schema, nor rows that it does not pin. Private rows may be absent where it is promoted."""
    gates, files = scene.root / "gates", {"sample.jsonl": b"{}\n", "sample.schema.json": b"{}"}
    (gates / "sample.yaml").write_bytes(suite)
    name = scene.repository()
    scene.attach(
        name, suite_data=suite, files={"rows": files["sample.jsonl"], "answer schema": files["sample.schema.json"]}
    )
    try:
        for file, data in files.items():
            (gates / file).write_bytes(data + b" " if file == edited else data)
        if reason == "passed":
            scene.promote(name)
        else:
            assert reasons(refused(scene, name)) == {"sample": reason}
        for file in files:
            (gates / file).unlink()
        assert scene.promote(name).digest == scene.digests["one"]
    finally:
        for file in files:
            (gates / file).unlink(missing_ok=True)


def test_dry_run_writes_nothing_and_record_writes_the_refusal(scene: Stage) -> None:
    name = scene.repository()
    refused(scene, name, dry_run=True)
    assert scene.summaries(name) == []
    refused(scene, name, record=True)
    (summary,) = scene.summaries(name)
    assert (summary["verificationResult"], summary["verifiedLevels"], summary["inputAttestations"]) == (
        "FAILED",
        ["FAILED"],
        [],
    )
    scene.attach(name)
    done = scene.promote(name, dry_run=True)
    assert (done.moved, done.summary) == (False, None)
    assert scene.holds(name) is None
    assert len(scene.summaries(name)) == 1


def test_promoting_again_writes_nothing_new_until_the_tag_moves(scene: Stage) -> None:
    name = scene.repository()
    scene.attach(name)
    for signed in (False, True):
        first = scene.promote(name, signed=signed)
        again = scene.promote(name, signed=signed, context=later(Owned(), hours=1))
        assert (again.moved, again.summary) == (False, first.summary)
    assert len(scene.summaries(name)) == 2
    scene.attach(name, tag="two")
    back = scene.promote(name, ref="two")
    assert (back.previous, scene.holds(name)) == (scene.digests["one"], scene.digests["two"])
    # Another time, another summary: what held then says nothing of today.
    third = scene.promote(name, context=later(Owned(), hours=2))
    assert third.moved
    assert len(scene.summaries(name)) == 3
    # A verdict that expires is not promoted again.
    refused(scene, name, context=later(Owned(), days=90))


def test_a_summary_for_staging_says_nothing_about_production(scene: Stage) -> None:
    from builder.release.promote.run import promote

    name = scene.repository()
    scene.attach(name)
    promote(scene.order(name, tag="staging"), signing=scene.signing(), context=Owned().context)
    assert scene.holds(name) is None
    scene.promote(name)
    assert {each["resourceUri"].rpartition(":")[2] for each in scene.summaries(name)} == {"staging", "production"}


@pytest.mark.parametrize(
    "tag", ["ckpt-000000000000", "ckpt-000000000000-111111111111", "sha256-" + "0" * 64, "inputs-0123456789ab"]
)
def test_tags_that_follow_from_digests_are_not_promoted_to(tag: str, scene: Stage) -> None:
    from builder.release.promote.run import promote

    with pytest.raises(InputError, match="follows from digests"):
        promote(scene.order("team/x", tag=tag), signing=None, context=Owned().context)


def test_a_tag_that_somebody_moves_meanwhile_is_not_moved(scene: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the first look and the end: before it is set, and after it."""
    name = scene.repository()
    scene.attach(name)
    manifest, media_type, _ = Registry(scene.host).manifest(name, "two")
    calls = 0

    def moved_before(*arguments: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            Registry(scene.host).put_manifest(name, "production", manifest, media_type)
        return attach(*arguments)

    monkeypatch.setattr("builder.release.promote.run.attach", moved_before)
    with pytest.raises(MismatchError, match="moved by somebody else") as caught:
        scene.promote(name)
    assert caught.value.exit_code == 4
    assert scene.holds(name) == scene.digests["two"]
    monkeypatch.setattr("builder.release.promote.run.attach", attach)
    put = Registry.put_manifest

    def moved_after(self: Registry, repository: str, reference: str, data: bytes, kind: str, **further: Any) -> bool:
        done = put(self, repository, reference, data, kind, **further)
        if reference == "production":
            put(self, repository, reference, manifest, media_type)
        return done

    monkeypatch.setattr(Registry, "put_manifest", moved_after)
    scene.attach(name)
    other = scene.repository()
    scene.attach(other)
    with pytest.raises(MismatchError, match="names another image than was just set"):
        scene.promote(other)


def test_two_promotes_at_once(scene: Stage) -> None:
    """Of one image both succeed; of two, the tag is at one of them, and whoever did not get it knows."""
    for refs in (("one", "one"), ("one", "two")):
        name = scene.repository()
        for tag in set(refs):
            scene.attach(name, tag=tag)
        outcomes: dict[int, object] = {}

        def run(number: int, ref: str, name: str = name, outcomes: dict[int, object] = outcomes) -> None:
            try:
                # Debian's registry responds 500 while another request writes the tag: a pause here is a pause.
                waiting = Owned(ManualClock(on_sleep=time.sleep))
                outcomes[number] = scene.promote(name, ref=ref, context=waiting.context)
            except BaseException as error:  # noqa: BLE001  judged below
                outcomes[number] = error

        threads = [threading.Thread(target=run, args=each) for each in enumerate(refs * 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(not isinstance(each, Exception) or isinstance(each, MismatchError) for each in outcomes.values()), (
            outcomes
        )
        holder = next(tag for tag in refs if scene.digests[tag] == scene.holds(name))
        assert [each["verificationResult"] for each in scene.summaries(name, holder)]
        if refs == ("one", "one"):
            assert not any(isinstance(each, Exception) for each in outcomes.values())


def test_a_registry_with_the_referrers_api(scene: Stage) -> None:
    from builder.release.attest.store import attest

    name = scene.repository()
    with with_referrers_api(scene.host) as front:
        path = verdict_of(scene.root / "v.json", scene.digests["one"], suite_data=SUITE, ended=NOW - timedelta(hours=1))
        image = f"{front}/{name}:one"
        attest(path.read_bytes(), "v.json", image, signing=scene.signing(), context=Owned().context)
        done = scene.promote(name, host=front)
        listed = {each.digest: each for each in find_referrers(Registry(front), name, scene.digests["one"])}
        assert done.summary in listed
        assert listed[done.summary].annotations["dev.sigstore.bundle.predicateType"] == SUMMARY_V1
        assert scene.promote(name, host=front).summary == done.summary
    assert scene.holds(name) == scene.digests["one"]


def test_an_index_is_promoted_by_a_verdict_that_names_it(scene: Stage, tmp_path: Path) -> None:
    """A run is of one platform's manifest; its verdict names the index as well, and may be attached to either."""
    skopeo_copy(f"oci:{two_platforms(tmp_path / 'layout')}:base", f"docker://{scene.host}/team/index:one")
    data, _, digest = Registry(scene.host).manifest("team/index", "one")
    child = json.loads(data)["manifests"][0]["digest"]
    scene.digests["one"] = digest
    scene.attach("team/index", digest=child)
    assert reasons(refused(scene, "team/index")) == {"sample": "other digest"}
    scene.attach("team/index", digest=child, index=digest, ended=NOW - timedelta(hours=2))
    done = scene.promote("team/index")
    assert (done.digest, scene.holds("team/index")) == (digest, digest)


def test_identities_may_sign_verdicts_and_summaries(
    scene: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from builder.release.attest.signing import signing_of
    from builder.release.attest.trust import trust
    from builder.release.promote.run import Order, promote
    from builder.util.context import Context

    scene.policy(signers=[{"identity": "ci@example.com", "issuer": ISSUER}])
    name = scene.repository()
    with sigstore() as services:
        config = services.write(tmp_path / "trust.json")
        loaded = load_policy(scene.root / "gates/production.yaml")
        known = trust([each.option for each in loaded.policy.signers], config=config, root=loaded.root)
        order = Order(f"{scene.host}/{name}:one", "production", loaded, known)

        def by(identity: str) -> Any:
            monkeypatch.setenv("SIGSTORE_ID_TOKEN", token(identity))
            return signing_of(None, keyless=True, config=config, context=Context())

        scene.attach(name, signing=by("somebody@example.com"))
        with pytest.raises(GateError) as caught:
            promote(order, signing=None, context=Owned().context)
        assert reasons(caught.value) == {"sample": "wrong signer"}
        scene.attach(name, signing=by("ci@example.com"))
        done = promote(order, signing=by("ci@example.com"), context=Owned().context)
        again = promote(order, signing=by("ci@example.com"), context=Owned().context)
    assert (done.moved, again.moved, again.summary) == (True, False, done.summary)
    assert done.signed_by == f"ci@example.com ({ISSUER})"


# --- the command line ------------------------------------------------------------------------------------------------


def test_the_command_line(scene: Stage, tmp_path: Path) -> None:
    import datetime as dates

    name = scene.repository()
    image = f"{scene.host}/{name}:one"
    now = dates.datetime.now(dates.UTC)
    document = verdict_of(
        scene.root / "v.json", scene.digests["one"], suite_data=SUITE, ended=now - timedelta(minutes=1)
    )
    key = str(scene.key)
    policy = ("--policy", "gates/production.yaml")
    absent = builder("promote", image, "--to", "production", *policy, cwd=scene.root)
    assert absent.code == 6
    assert "sample  absent" in absent.err
    assert builder("attest", str(document), "--image", image, "--key", key, cwd=scene.root).code == 0
    dry = builder("promote", image, "--to", "production", *policy, "--dry-run", cwd=scene.root)
    assert (dry.code, scene.holds(name)) == (0, None)
    done = builder("promote", image, "--to", "production", *policy, "--key", key, "--json", cwd=scene.root)
    assert done.code == 0, done.err
    assert done.document["moved"] is True
    assert scene.holds(name) == scene.digests["one"]
    required = ("--require", "sample", "--signer", "gates/gate.pub")
    staging = builder("promote", image, "--to", "staging", *required, cwd=scene.root)
    assert staging.code == 0, staging.err
    assert "unsigned" in staging.out
    wrong = {
        ("--require", "sample"): "who may sign",
        ("--require", ""): "--require",
        ("--require", "sample", *policy): "either --policy FILE or --require",
        (*policy, "--signer", "gates/gate.pub"): "go with --require",
        (*policy, "--dry-run", "--record"): "exclude each other",
        ("--policy", "gates/none.yaml"): "cannot read",
        ("--require", "sample", "--signer", "nobody"): "neither a file nor an identity",
        ("--require", "smoke:x", "--allow-unsigned"): "has no file here",
    }
    for options, message in wrong.items():
        ran = builder("promote", image, "--to", "x", *options, cwd=scene.root)
        assert (ran.code, message in ran.err) == (2, True), (options, ran.err)
    assert builder("promote", f"{scene.host}/team/none:x", "--to", "x", *policy, cwd=scene.root).code == 5


def test_publish_leaves_a_tag_with_a_policy_alone(scene: Stage, tmp_path: Path) -> None:
    skopeo_copy(f"oci:{scene.layouts[0]}:base", f"docker://{scene.host}/base/image:v1")
    project = patched_project(
        tmp_path / "project", f"{scene.host}/base/image:v1", policies={"production": "gates/production.yaml"},
        checkpoint={"digest": "c0" * 32},
    )  # fmt: skip
    name = f"{scene.host}/team/refused"
    ran = builder("publish", "small", "--to", name, "--tag", "production", cwd=project)
    assert ran.code == 2
    assert "has a policy for the tag 'production'" in ran.err
    assert "builder promote" in ran.err
    assert builder("publish", "small", "--to", name, "--tag", "latest", cwd=project).code == 0
    # The recipe's digest says what is built: tags have no part in it.
    plain = patched_project(tmp_path / "plain", f"{scene.host}/base/image:v1", checkpoint={"digest": "c0" * 32})
    assert builder("lock", "small", cwd=plain).code == 0
    locks = [yaml.safe_load((each / "images/small.lock.yaml").read_text()) for each in (project, plain)]
    assert locks[0]["recipe"] == locks[1]["recipe"]


def test_verify_shows_who_promoted_what(scene: Stage, tmp_path: Path) -> None:
    import datetime as dates

    skopeo_copy(f"oci:{scene.layouts[0]}:base", f"docker://{scene.host}/base/image:v1")
    project = patched_project(tmp_path / "project", f"{scene.host}/base/image:v1", checkpoint={"digest": "c0" * 32})
    name, key = f"{scene.host}/team/whole", str(scene.key)
    image = builder("publish", "small", "--to", name, "--sign", "--key", key, "--json", cwd=project).document
    now = dates.datetime.now(dates.UTC)
    document = verdict_of(tmp_path / "v.json", image["digest"], suite_data=SUITE, ended=now - timedelta(minutes=1))
    assert builder("attest", str(document), "--image", image["reference"], "--key", key, cwd=project).code == 0
    promoted = builder(
        "promote",
        image["reference"],
        "--to",
        "production",
        "--policy",
        "gates/production.yaml",
        "--key",
        key,
        cwd=scene.root,
    )
    assert promoted.code == 0, promoted.err
    done = builder("verify", f"{name}:production", "--signer", "gates/gate.pub", "--json", cwd=scene.root)
    assert done.code == 0, done.err
    assert {(each["kind"], each["state"]) for each in done.document["signed"]} == {
        (kind, "verified") for kind in ("provenance", "SBOM", "verdict", "promotion")
    }
    shown = builder("verify", f"{name}:production", "--signer", "gates/gate.pub", cwd=scene.root)
    assert "promotion: signed by key sha256:" in shown.out


def test_a_registry_that_is_gone_is_exit_code_five(scene: Stage) -> None:
    with pytest.raises(UnreachableError):
        scene.promote("team/x", host="127.0.0.1:9")
