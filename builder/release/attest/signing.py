"""What signs: a key of ours, offline, or an identity, keyless. Both make the same envelope from the same statement."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from builder.oci.artifact import IN_TOTO
from builder.release.attest.bundle import key_bundle
from builder.release.attest.keyless import Keyless
from builder.release.attest.keys import PublicKey, private_key
from builder.release.attest.trust import Identity, Trust
from builder.util.context import Context
from builder.util.errors import InputError


class Signing(Protocol):
    """Makes bundles. `own` accepts what it has signed itself, so that nothing is attached twice."""

    who: str
    own: Trust

    def sign(self, statement: bytes) -> bytes:
        """The Sigstore bundle v0.3 of an in-toto statement."""


class KeySigning:
    """Signs with a private key in a file. Asks nobody."""

    def __init__(self, path: Path) -> None:
        self._signer = private_key(path)
        key = self._signer.public_key
        self.own = Trust((PublicKey(str(path), key.keyid, key),))
        self.who = str(path)

    def sign(self, statement: bytes) -> bytes:
        from securesystemslib.dsse import Envelope

        envelope = Envelope(statement, IN_TOTO, {})
        envelope.sign(self._signer)
        return key_bundle(envelope.to_dict(), self._signer.public_key.keyid)


class KeylessSigning:
    """Signs as an identity. Fulcio, Rekor and perhaps a timestamp authority are asked."""

    def __init__(self, config: Path | None, *, context: Context) -> None:
        self._keyless = Keyless(config, context=context)
        identity = Identity(self._keyless.identity, self._keyless.issuer)
        self.own = Trust(identities=(identity,), config=config)
        self.who = f"{identity.identity} ({identity.issuer})"

    def sign(self, statement: bytes) -> bytes:
        return self._keyless.sign(statement)


def signing_of(key: Path | None, *, keyless: bool, config: Path | None = None, context: Context) -> Signing | None:
    """What the options `--key` and `--keyless` ask for; None for unsigned. Raises `InputError`."""
    if key is not None and keyless:
        raise InputError("--key and --keyless exclude each other")
    if key is not None:
        return KeySigning(key)
    return KeylessSigning(config, context=context) if keyless else None
