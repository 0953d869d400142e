"""Keyless signing and verification with sigstore: certificates of identities (Fulcio), noted in a transparency log (Rekor).

Only this module imports `sigstore`. Its services are Sigstore's public ones, whose addresses and keys come by TUF, or those of
a trust configuration file (`ClientTrustConfig`), as `sigstore --trust-config` takes it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from builder.util.context import Context
from builder.util.errors import BuilderError, InputError, UnreachableError
from builder.util.extras import install_hint

if TYPE_CHECKING:
    from sigstore.models import ClientTrustConfig

TOKEN: Final = "SIGSTORE_ID_TOKEN"  # noqa: S105  the variable's name, which cosign reads as well
_FULCIO_ISSUERS: Final = ("1.3.6.1.4.1.57264.1.8", "1.3.6.1.4.1.57264.1.1")
"""Extensions of Fulcio's certificates: the issuer as DER text, and, deprecated, as it is."""


class SignatureError(InputError):
    """A signature does not match, or its certificate is not one of the trusted authority."""


@lru_cache(maxsize=4)
def trust_config(path: Path | None, offline: bool) -> ClientTrustConfig:
    """The services and their keys. Raises `InputError` for a file that is not one, `UnreachableError` without a network."""
    _silence()
    try:
        from sigstore.models import ClientTrustConfig
    except ImportError as error:
        raise InputError(
            f"keyless signatures need more packages: {error.name} is not installed", hint=install_hint("sign")
        ) from error
    if path is not None:
        try:
            return ClientTrustConfig.from_json(path.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is not a trust configuration", details=[("why", str(error)[:300])]) from error
    try:
        return ClientTrustConfig.production(offline=offline)
    except Exception as error:
        raise UnreachableError(
            "the keys of Sigstore's public services cannot be read", details=[("why", _text(error))],
            hint="check the network, or name your own services with --trust-config FILE; --key needs neither",
        ) from error  # fmt: skip


class Keyless:
    """Signs as the identity of a token: `SIGSTORE_ID_TOKEN`, or that of the CI job that runs this."""

    def __init__(self, path: Path | None, *, context: Context) -> None:
        if context.offline:
            raise InputError("--offline: keyless signing asks Fulcio and Rekor", hint="sign with --key FILE")
        self._seconds = context.limits.exchange
        raw = os.environ.get(TOKEN) or _ambient()
        config = trust_config(path, False)
        from sigstore.oidc import IdentityToken
        from sigstore.sign import SigningContext

        try:
            self._token = IdentityToken(raw)
            self._context = SigningContext.from_trust_config(config)
        except Exception as error:
            raise InputError("the identity token cannot be used", details=[("why", _text(error))], hint=_HOW) from error
        self.identity = self._token.identity
        self.issuer = self._token.federated_issuer

    def sign(self, statement: bytes) -> bytes:
        """The bundle of a statement. Raises `UnreachableError` when Fulcio, Rekor or a timestamp authority does not sign."""
        from sigstore.dsse import Statement

        def made() -> bytes:
            with self._context.signer(self._token) as signer:
                return signer.sign_dsse(Statement(statement)).to_json().encode()

        try:
            return _within(self._seconds, made)
        except Exception as error:
            raise UnreachableError(
                f"keyless signing as {self.identity} failed", details=[("why", _text(error))],
                hint="nothing was attached; an identity token expires within minutes: get another and run it again",
            ) from error  # fmt: skip


def _within(seconds: float, call: Callable[[], bytes]) -> bytes:
    """The result of `call`. Raises `TimeoutError` after `seconds`: sigstore's requests have no limit of their own."""
    found: Future[bytes] = Future()

    def run() -> None:
        try:
            found.set_result(call())
        except BaseException as error:  # noqa: BLE001  raised where the result is taken
            found.set_exception(error)

    # Not a pool's thread, which would keep the process alive until the server responds.
    threading.Thread(target=run, daemon=True).start()
    try:
        return found.result(seconds)
    except TimeoutError as error:
        raise TimeoutError(f"no response within {seconds:g} seconds") from error


def verify(data: bytes, config: ClientTrustConfig) -> bytes:
    """The payload of a bundle whose certificate, log entry and signature are genuine. Raises `SignatureError`."""
    from sigstore.models import Bundle
    from sigstore.verify import Verifier
    from sigstore.verify.policy import UnsafeNoOp

    try:
        # Whose the certificate is, the caller compares with whom it trusts.
        verifier = Verifier(trusted_root=config.trusted_root)
        _, payload = verifier.verify_dsse(Bundle.from_json(data), UnsafeNoOp())
    except Exception as error:
        raise SignatureError("the signature is not genuine", details=[("why", _text(error))]) from error
    return payload


def names(certificate: bytes) -> tuple[str, str]:
    """Identity and issuer that a certificate (DER) names; empty where it has none. Nothing is verified here."""
    try:
        from cryptography import x509
    except ImportError:
        return "", ""
    try:
        found = x509.load_der_x509_certificate(certificate)
        alternative = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        listed = [*_values(alternative, x509.RFC822Name), *_values(alternative, x509.UniformResourceIdentifier)]
        identity = listed[0] if len(listed) == 1 else ""
        for oid in _FULCIO_ISSUERS:
            for extension in found.extensions:
                if extension.oid.dotted_string == oid:
                    raw = extension.value.public_bytes()
                    return identity, _der_text(raw) if oid == _FULCIO_ISSUERS[0] else raw.decode()
    except (ValueError, x509.ExtensionNotFound, UnicodeDecodeError):
        return "", ""
    return identity, ""


def _values(alternative: Any, kind: type) -> list[str]:
    return [str(each) for each in alternative.get_values_for_type(kind)]


def _der_text(raw: bytes) -> str:
    """A DER UTF8String."""
    if len(raw) < 2 or raw[0] != 0x0C:
        raise ValueError("not a UTF8String")
    length, at = raw[1], 2
    if length & 0x80:
        at += length & 0x7F
        length = int.from_bytes(raw[2:at], "big")
    return raw[at : at + length].decode()


_HOW: Final = f"{TOKEN}=$(python -m sigstore get-identity-token) builder ..., or run it in CI with `id-token: write`"


def _ambient() -> str:
    """The token of the CI job that runs this. Raises `InputError` where there is none."""
    _silence()
    try:
        from sigstore.oidc import detect_credential
    except ImportError as error:
        raise InputError(
            f"keyless signatures need more packages: {error.name} is not installed", hint=install_hint("sign")
        ) from error
    try:
        found = detect_credential()
    except Exception as error:
        raise UnreachableError("this CI job's identity cannot be read", details=[("why", _text(error))]) from error
    if not found:
        raise InputError("keyless signing needs an identity", details=[("why", f"{TOKEN} is not set")], hint=_HOW)
    return str(found)


def _silence() -> None:
    """Warnings of sigstore and tuf are for their own command line; what matters comes as an error."""
    for name in ("sigstore", "tuf", "securesystemslib"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _text(error: BaseException) -> str:
    """What an error and its causes say, the token left out."""
    found: list[str] = []
    current: BaseException | None = error
    while current is not None and len(found) < 4:
        text = str(current) or type(current).__name__
        if not isinstance(current, BuilderError) and text not in found:
            found.append(text[:300])
        current = current.__cause__ or current.__context__
    token = os.environ.get(TOKEN)
    text = ": ".join(found)
    return text.replace(token, "***") if token else text
