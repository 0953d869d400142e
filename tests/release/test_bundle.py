"""Envelopes: a signature by key or identity, read by others, and every edit found."""

from __future__ import annotations

import base64
import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from sigstore.models import Bundle as SigstoreBundle
from sigstore_models.bundle.v1 import Bundle as Model

from builder.documents.statement import PROVENANCE_V1, make_statement
from builder.oci.artifact import BUNDLE, IN_TOTO
from builder.release.attest import keyless
from builder.release.attest.bundle import parse_bundle
from builder.release.attest.read import open_document, read
from builder.release.attest.signing import Signing, signing_of
from builder.release.attest.trust import NOBODY, Identity, Trust, trust
from builder.util.context import Context
from builder.util.errors import BuilderError, InputError, UnreachableError
from builder.util.limits import Limits
from tests.support.signing import key_pair
from tests.support.sigstore import ISSUER, Sigstore, sigstore, token

STATEMENT = make_statement(
    [("image", "sha256:" + "ab" * 32)], PROVENANCE_V1, {"buildDefinition": {}, "text": "žluťoučký"}
)


def by_key(path: Path) -> Signing:
    made = signing_of(path, keyless=False, context=Context())
    assert made is not None
    return made


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return key_pair(tmp_path_factory.mktemp("keys") / "release")


@pytest.fixture(scope="module")
def bundle(keys: tuple[Path, Path]) -> bytes:
    return by_key(keys[0]).sign(STATEMENT)


KINDS: dict[str, Callable[[], Any]] = {
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_key_signs_what_its_public_key_verifies(kind: str, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path / kind, KINDS[kind]())
    data = by_key(private).sign(STATEMENT)
    found = read(BUNDLE, data, trust([str(public)]))
    assert found is not None
    assert found[0] == STATEMENT
    assert found[1].state == "verified"
    assert str(found[1]).startswith("signed by key sha256:")
    # Somebody else's key says nothing about it.
    _, other = key_pair(tmp_path / "other", KINDS[kind]())
    assert read(BUNDLE, data, trust([str(other)]))[1].state == "unchecked"  # type: ignore[index]


def test_sigstore_and_securesystemslib_read_the_bundle(bundle: bytes, keys: tuple[Path, Path]) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

    model = Model.from_json(bundle)
    assert model.media_type == BUNDLE
    assert model.verification_material.public_key is not None
    assert model.dsse_envelope is not None
    assert model.dsse_envelope.payload == STATEMENT
    assert json.loads(model.to_json()).keys() == json.loads(bundle).keys()
    envelope = json.loads(bundle)["dsseEnvelope"]
    key = load_pem_public_key(keys[1].read_bytes())
    hint = json.loads(bundle)["verificationMaterial"]["publicKey"]["hint"]
    assert Envelope.from_dict(envelope).verify([SSlibKey.from_crypto(key, keyid=hint)], 1)
    # The signature itself, without any library of envelopes: DSSE's pre-authentication encoding.
    kind = b"application/vnd.in-toto+json"
    pae = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(STATEMENT), STATEMENT)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    from cryptography.hazmat.primitives.hashes import SHA256

    key.verify(base64.b64decode(json.loads(bundle)["dsseEnvelope"]["signatures"][0]["sig"]), pae, ec.ECDSA(SHA256()))


def accepted(data: bytes, known: Trust) -> bool:
    """Whether a document counts as signed. It may be refused, or be somebody else's."""
    try:
        found = open_document(BUNDLE, data, known)
    except InputError:
        return False
    return found is not None and found.signed.state == "verified"


def test_a_bundle_that_is_edited_in_one_byte_does_not_verify(bundle: bytes, keys: tuple[Path, Path]) -> None:
    known = trust([str(keys[1])])
    assert accepted(bundle, known)
    survivors = []
    for at in range(len(bundle)):
        for other in {bundle[at] ^ 1, bundle[at] ^ 2, bundle[at] ^ 0x20, ord("A"), ord(" "), ord("\\")} - {bundle[at]}:
            edited = bundle[:at] + bytes([other]) + bundle[at + 1 :]
            if accepted(edited, known):
                survivors.append((at, edited[max(0, at - 20) : at + 20]))
        assert not accepted(bundle[:at] + bundle[at + 1 :], known), at
    assert survivors == []


@given(data=st.data())
def test_any_edit_of_a_bundle_is_found_or_leaves_what_was_signed(
    data: st.DataObject, bundle: bytes, keys: tuple[Path, Path]
) -> None:
    known = trust([str(keys[1])])
    at = data.draw(st.integers(0, len(bundle) - 1))
    end = data.draw(st.integers(at, min(len(bundle), at + 8)))
    edited = bundle[:at] + data.draw(st.binary(max_size=8)) + bundle[end:]
    try:
        found = open_document(BUNDLE, edited, known)
    except BuilderError:
        return
    assert found is None or found.signed.state != "verified" or found.data == STATEMENT


@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["mediaType", "dsseEnvelope", "verificationMaterial", "payload"]), inner)
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_is_no_bundle_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(InputError):
        parse_bundle(data)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda b: b["dsseEnvelope"]["signatures"].append(b["dsseEnvelope"]["signatures"][0]), "exactly one signature"),
        (lambda b: b["dsseEnvelope"].update(payloadType="text/plain"), "payloadType"),
        (lambda b: b["dsseEnvelope"].update(more=1), "dsseEnvelope has the keys"),
        (lambda b: b["verificationMaterial"].update(certificate={"rawBytes": "YQ=="}), "exactly one of"),
        (lambda b: b["verificationMaterial"].pop("publicKey"), "exactly one of"),
        (lambda b: b["dsseEnvelope"]["signatures"][0].update(keyid="other"), "keyid"),
        (lambda b: b["dsseEnvelope"].update(payload=b["dsseEnvelope"]["payload"] + "\n"), "base64"),
        (lambda b: b.update(mediaType="application/vnd.dev.sigstore.bundle+json;version=0.1"), "mediaType"),
    ],
)  # fmt: skip
def test_a_bundle_of_another_shape_says_why(change: object, why: str, bundle: bytes) -> None:
    document = json.loads(bundle)
    assert callable(change)
    change(document)
    with pytest.raises(InputError) as caught:
        parse_bundle(json.dumps(document).encode())
    assert why in str(caught.value.details)


def test_a_signature_of_something_else_is_not_a_statement() -> None:
    other = {"mediaType": BUNDLE, "verificationMaterial": {}, "messageSignature": {"signature": "YQ=="}}
    assert open_document(BUNDLE, json.dumps(other).encode()) is None


def test_keys_that_cannot_be_used_say_what_to_do(
    tmp_path: Path, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = keys
    key = ed25519.Ed25519PrivateKey.generate()
    secret = tmp_path / "secret.pem"
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open")))
    with pytest.raises(InputError) as caught:
        by_key(secret)
    assert "BUILDER_KEY_PASSWORD" in (caught.value.hint or "")
    monkeypatch.setenv("BUILDER_KEY_PASSWORD", "wrong")
    with pytest.raises(InputError, match="not a private key"):
        by_key(secret)
    monkeypatch.setenv("BUILDER_KEY_PASSWORD", "open")
    assert by_key(secret).sign(STATEMENT)
    with pytest.raises(InputError, match="cannot be opened"):
        by_key(private)
    monkeypatch.delenv("BUILDER_KEY_PASSWORD")
    with pytest.raises(InputError, match="not a private key"):
        by_key(public)
    with pytest.raises(InputError, match="is a private key"):
        trust([str(private)])
    with pytest.raises(InputError, match="neither a file nor an identity"):
        trust(["nobody"])
    with pytest.raises(InputError, match="cannot read"):
        by_key(tmp_path / "absent")
    (tmp_path / "cosign.key").write_text("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n")
    with pytest.raises(InputError, match="cosign's own format"):
        by_key(tmp_path / "cosign.key")
    weak = rsa.generate_private_key(65537, 1024)
    (tmp_path / "weak.pem").write_bytes(weak.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(InputError, match="1024 bits"):
        by_key(tmp_path / "weak.pem")
    (tmp_path / "weak.pub").write_bytes(weak.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(InputError, match="1024 bits"):
        trust([str(tmp_path / "weak.pub")])
    odd: tuple[Any, ...] = (ec.generate_private_key(ec.SECP384R1()), x25519.X25519PrivateKey.generate())
    for number, other in enumerate(odd):
        private_odd, public_odd = key_pair(tmp_path / f"odd{number}", other)
        with pytest.raises(InputError, match="not every verifier takes"):
            by_key(private_odd)
        with pytest.raises(InputError, match="not every verifier takes"):
            trust([str(public_odd)])
    with pytest.raises(InputError, match="exclude each other"):
        signing_of(private, keyless=True, context=Context())


def test_without_the_packages_unsigned_documents_are_read_and_the_rest_says_what_to_install(
    bundle: bytes, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("securesystemslib.signer", "securesystemslib.dsse", "sigstore.models", "sigstore.oidc"):
        monkeypatch.setitem(sys.modules, name, None)
    assert open_document(IN_TOTO, STATEMENT) is not None
    named = read(BUNDLE, bundle, NOBODY)
    assert named is not None
    assert "signature not checked" in str(named[1])
    keyless.trust_config.cache_clear()
    for call in (
        lambda: by_key(keys[0]),
        lambda: trust([str(keys[1])]),
        lambda: keyless.trust_config(None, True),
        lambda: signing_of(None, keyless=True, context=Context()),
    ):
        with pytest.raises(InputError, match="more packages") as caught:
            call()
        assert "pip install" in (caught.value.hint or "")


# --- keyless, on loopback --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def services() -> Iterator[Sigstore]:
    with sigstore() as running:
        yield running


@pytest.fixture
def config(services: Sigstore, tmp_path: Path) -> Path:
    services.broken = ""
    return services.write(tmp_path / "trust.json")


def keyless_signing(config: Path) -> Signing:
    made = signing_of(None, keyless=True, config=config, context=Context())
    assert made is not None
    return made


@pytest.mark.parametrize(
    "identity", ["ci@example.com", "https://github.com/team/repo/.github/workflows/gate.yml@refs/heads/main"]
)
def test_an_identity_signs_and_only_that_identity_counts(
    identity: str, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(keyless.TOKEN, token(identity))
    data = keyless_signing(config).sign(STATEMENT)
    assert SigstoreBundle.from_json(data).signing_certificate is not None
    found = read(BUNDLE, data, trust([f"{identity},{ISSUER}"], config=config))
    assert found is not None
    assert (found[0], str(found[1])) == (STATEMENT, f"signed by {identity} ({ISSUER})")
    for other in (f"other@example.com,{ISSUER}", f"{identity},https://other.example"):
        state = read(BUNDLE, data, trust([other], config=config))
        assert state is not None
        assert state[1].state == "unchecked"
    unknown = read(BUNDLE, data, NOBODY)
    assert unknown is not None
    assert "signature not checked" in str(unknown[1])
    # Another payload in the same envelope.
    document = json.loads(data)
    document["dsseEnvelope"]["payload"] = base64.b64encode(STATEMENT.replace(b"ab", b"cd")).decode()
    edited = read(BUNDLE, json.dumps(document).encode(), Trust(identities=(Identity(identity, ISSUER),), config=config))
    assert edited is not None
    assert edited[1].state == "broken"


def test_another_authority_is_not_believed(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(keyless.TOKEN, token("ci@example.com"))
    with sigstore() as others:
        data = keyless_signing(others.write(tmp_path / "others.json")).sign(STATEMENT)
    found = read(BUNDLE, data, Trust(identities=(Identity("ci@example.com", ISSUER),), config=config))
    assert found is not None
    assert found[1].state == "broken"


@pytest.mark.parametrize("broken", ["fulcio", "rekor", "hang"])
def test_services_that_do_not_sign_are_an_error_without_the_token(
    broken: str, services: Sigstore, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = token("ci@example.com")
    monkeypatch.setenv(keyless.TOKEN, secret)
    context = Context(limits=Limits(silence=0.1 if broken == "hang" else 60))
    signing = signing_of(None, keyless=True, config=config, context=context)
    assert signing is not None
    services.broken = broken
    with pytest.raises(UnreachableError) as caught:
        signing.sign(STATEMENT)
    assert "keyless signing as ci@example.com failed" in caught.value.message
    assert secret not in str(caught.value.details)


def test_public_keys_need_a_network_or_the_copy_that_sigstore_brings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(*arguments: object, **options: object) -> None:
        raise socket.gaierror("no name server")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    keyless.trust_config.cache_clear()
    with pytest.raises(UnreachableError, match="public services") as caught:
        keyless.trust_config(None, False)
    assert "--trust-config" in (caught.value.hint or "")
    assert "fulcio" in keyless.trust_config(None, True).signing_config.get_fulcio().url


def test_without_an_identity_the_error_says_how_to_get_one(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITLAB_CI", "BUILDKITE", "CIRCLECI", keyless.TOKEN):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InputError, match="needs an identity") as caught:
        keyless_signing(config)
    assert "get-identity-token" in (caught.value.hint or "")
    monkeypatch.setenv(keyless.TOKEN, token("ci@example.com", audience="somebody"))
    with pytest.raises(InputError, match="identity token cannot be used"):
        keyless_signing(config)
    monkeypatch.setenv(keyless.TOKEN, token("ci@example.com", seconds=-60))
    with pytest.raises(InputError, match="identity token cannot be used"):
        keyless_signing(config)
    with pytest.raises(InputError, match="--offline"):
        signing_of(None, keyless=True, config=config, context=Context(offline=True))
    (config.parent / "no.json").write_text("{}")
    with pytest.raises(InputError, match="not a trust configuration"):
        keyless.trust_config(config.parent / "no.json", False)
