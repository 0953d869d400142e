"""Sigstore bundles v0.3 with a DSSE envelope: written for keys, and read strictly.

Sources: sigstore/protobuf-specs (`sigstore_bundle.proto`), DSSE 1.0, cosign's BUNDLE_SPEC. A bundle has one signature over one
payload. It is read so that no two readers can take it for different documents: no key is repeated or unknown, and base64 has
one spelling.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from builder.documents.statement import json_object
from builder.oci.artifact import BUNDLE, IN_TOTO
from builder.oci.types import encode
from builder.util.errors import InputError

LIMIT: Final = 64 << 20
_MEDIA_TYPES: Final = (BUNDLE, "application/vnd.dev.sigstore.bundle+json;version=0.3")
_SIGNERS: Final = {"publicKey", "certificate"}


@dataclass(frozen=True)
class Bundle:
    """A parsed bundle. Exactly one of `hint` (a key's, base64) and `certificate` (DER) is set."""

    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)
    hint: str | None
    certificate: bytes | None = field(repr=False)
    data: bytes = field(repr=False)


def hint_of(public_der: bytes) -> str:
    """The hint by which sigstore's clients name a key: base64 of the SHA-256 of its SubjectPublicKeyInfo."""
    return base64.b64encode(hashlib.sha256(public_der).digest()).decode()


def key_bundle(envelope: Mapping[str, Any], hint: str) -> bytes:
    """The bundle of an envelope that a key has signed, without a transparency log."""
    return encode(
        {
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
            "dsseEnvelope": dict(envelope),
        }
    )


def parse_bundle(data: bytes) -> Bundle | None:
    """Read a bundle; None when it holds a signature of something else than a statement. Raises `InputError`."""
    document = json_object(data, name="the bundle")
    if document.get("mediaType") not in _MEDIA_TYPES:
        raise _wrong(f"mediaType is {str(document.get('mediaType'))[:80]!r}")
    if "messageSignature" in document:
        return None
    _keys("the bundle", document, {"mediaType", "verificationMaterial", "dsseEnvelope"})
    envelope = _object(document, "dsseEnvelope")
    _keys("dsseEnvelope", envelope, {"payload", "payloadType", "signatures"})
    if envelope["payloadType"] != IN_TOTO:
        raise _wrong(f"payloadType is {str(envelope['payloadType'])[:80]!r}")
    hint, certificate = _signer(_object(document, "verificationMaterial"))
    return Bundle(_base64(envelope, "payload"), _signature(envelope, hint), hint, certificate, data)


def _signer(material: Mapping[str, Any]) -> tuple[str | None, bytes | None]:
    _keys("verificationMaterial", material, {"tlogEntries"}, {*_SIGNERS, "timestampVerificationData"})
    named = _SIGNERS & set(material)
    if len(named) != 1:
        raise _wrong("verificationMaterial has not exactly one of publicKey and certificate")
    if "certificate" in named:
        certificate = _object(material, "certificate")
        _keys("certificate", certificate, {"rawBytes"})
        return None, _base64(certificate, "rawBytes")
    public = _object(material, "publicKey")
    _keys("publicKey", public, {"hint"})
    if not isinstance(public["hint"], str):
        raise _wrong("publicKey.hint is not a text")
    return public["hint"], None


def _signature(envelope: Mapping[str, Any], hint: str | None) -> bytes:
    listed = envelope["signatures"]
    if not isinstance(listed, list) or len(listed) != 1 or not isinstance(listed[0], dict):
        raise _wrong("the envelope has not exactly one signature")
    _keys("signature", listed[0], {"sig"}, {"keyid"})
    if listed[0].get("keyid") not in (None, "", hint):
        raise _wrong("the signature's keyid is not the hint of the key")
    return _base64(listed[0], "sig")


def _object(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = document.get(key)
    if not isinstance(found, dict):
        raise _wrong(f"{key} is not an object")
    return found


def _keys(where: str, document: Mapping[str, Any], wanted: set[str], more: Collection[str] = ()) -> None:
    found = set(document)
    if not wanted <= found <= wanted | set(more):
        raise _wrong(f"{where} has the keys {', '.join(sorted(found))[:200]}")


def _base64(document: Mapping[str, Any], key: str) -> bytes:
    text = document.get(key)
    try:
        found = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError) as error:
        raise _wrong(f"{key} is not base64") from error
    if not found or base64.b64encode(found).decode() != text:
        raise _wrong(f"{key} is empty, or not base64 in its one spelling")
    return found


def _wrong(why: str) -> InputError:
    return InputError("it is not a Sigstore bundle with a statement", details=[("why", why)])
