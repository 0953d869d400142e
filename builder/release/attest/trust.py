"""Whose signatures count: keys and identities that a caller names, and what that makes of a bundle."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from builder.oci.artifact import IN_TOTO
from builder.release.attest import keyless
from builder.release.attest.bundle import Bundle
from builder.release.attest.keys import PublicKey, public_key
from builder.release.attest.signed import SignedBy
from builder.util.errors import InputError


@dataclass(frozen=True)
class Identity:
    """An identity as its issuer knows it: a mail address or the address of a CI workflow, both exactly."""

    identity: str
    issuer: str


@dataclass(frozen=True)
class Trust:
    """The signers that count. `config` is a trust configuration file for identities; `offline` uses the keys at hand."""

    keys: tuple[PublicKey, ...] = ()
    identities: tuple[Identity, ...] = ()
    config: Path | None = field(default=None)
    offline: bool = False

    @property
    def anybody(self) -> bool:
        """Whether any signer was named."""
        return bool(self.keys or self.identities)

    def check(self, bundle: Bundle) -> SignedBy:
        """Who signed a bundle. Raises `UnreachableError` when the keys of sigstore's services are needed and not at hand."""
        if bundle.hint is not None:
            return self._by_key(bundle, bundle.hint)
        assert bundle.certificate is not None  # noqa: S101  parse_bundle
        identity, issuer = keyless.names(bundle.certificate)
        found = SignedBy("unchecked", identity=identity or "a certificate", issuer=issuer or "unknown")
        if Identity(identity, issuer) not in self.identities:
            return found
        config = keyless.trust_config(self.config, self.offline)
        try:
            payload = keyless.verify(bundle.data, config)
        except keyless.SignatureError as error:
            return replace(found, state="broken", why="; ".join(text for _, text in error.details))
        return replace(found, state="verified" if payload == bundle.payload else "broken")

    def _by_key(self, bundle: Bundle, hint: str) -> SignedBy:
        key = next((each for each in self.keys if each.hint == hint), None)
        if key is None:
            return SignedBy("unchecked", key=_hex(hint))
        from securesystemslib.dsse import Envelope
        from securesystemslib.exceptions import VerificationError
        from securesystemslib.signer import Signature

        envelope = Envelope(bundle.payload, IN_TOTO, {hint: Signature(hint, bundle.signature.hex())})
        found = SignedBy("verified", key=_hex(hint), label=key.label)
        try:
            envelope.verify([key.key], 1)
        except VerificationError as error:
            return replace(found, state="broken", why=str(error))
        return found


NOBODY: Final = Trust()


def trust(
    signers: Sequence[str], *, config: Path | None = None, offline: bool = False, root: Path | None = None
) -> Trust:
    """Read `--signer` options: the file of a public key, or IDENTITY,ISSUER. Raises `InputError`.

    With `root` they are a policy's signers, whose key files are relative to it; default: the working folder.
    """
    keys: list[PublicKey] = []
    identities: list[Identity] = []
    for text in signers:
        path = (root or Path()) / text
        identity, comma, issuer = text.rpartition(",")
        if comma and issuer.startswith(("https://", "http://")) and identity:
            identities.append(Identity(identity, issuer))
        elif path.is_file():
            keys.append(public_key(path, label=text))
        else:
            raise InputError(
                f"{'--signer' if root is None else 'the signer of the policy,'} {text!r} is neither a file nor an identity",
                details=[("looked", str(path.absolute()))],
                hint="name the file of a public key, or IDENTITY,ISSUER such as you@example.com,https://accounts.google.com",
            )
    return Trust(tuple(keys), tuple(identities), config, offline)


def _hex(hint: str) -> str:
    """A hint as people write digests; one that is not a SHA-256 as it is."""
    try:
        raw = base64.b64decode(hint, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    return raw.hex() if len(raw) == 32 else hint[:64]
