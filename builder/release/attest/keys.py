"""Key files: PEM, public (SubjectPublicKeyInfo) and private (PKCS#8), of the kinds that cosign signs and verifies with too."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from builder.release.attest.bundle import hint_of
from builder.util.errors import InputError
from builder.util.extras import install_hint
from builder.util.files import read_regular

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey

PASSWORD: Final = "BUILDER_KEY_PASSWORD"  # noqa: S105  the variable's name
_LIMIT = 64 << 10
_RSA_BITS = 2048
_GENERATE = "openssl genpkey -algorithm ed25519 -out FILE"


@dataclass(frozen=True)
class PublicKey:
    """A key that is trusted. `label` is the file that it came from, `hint` how bundles name it."""

    label: str
    hint: str
    key: SSlibKey = field(repr=False, compare=False)


def public_key(path: Path, *, label: str | None = None) -> PublicKey:
    """Read a public key. Raises `InputError` when the file is not one, or is of a kind that nobody else verifies."""
    name = label or str(path)
    data = _read(path, name)
    if b"PRIVATE KEY" in data:
        raise InputError(
            f"{name} is a private key", hint=f"name the public one: openssl pkey -in {name} -pubout -out {name}.pub"
        )
    serialization = _serialization()
    try:
        found = serialization.load_pem_public_key(data)
    except Exception as error:
        raise InputError(
            f"{name} is not a public key in PEM", details=[("why", str(error)[:200])],
            hint="make one of a private key: openssl pkey -in KEY -pubout -out KEY.pub",
        ) from error  # fmt: skip
    hint = _hint(found)
    return PublicKey(name, hint, _described(found, hint, name))


def private_key(path: Path) -> CryptoSigner:
    """Read a private key; `BUILDER_KEY_PASSWORD` opens an encrypted one. Raises `InputError`."""
    data = _read(path, str(path))
    if b"ENCRYPTED COSIGN PRIVATE KEY" in data or b"ENCRYPTED SIGSTORE PRIVATE KEY" in data:
        raise InputError(
            f"{path} is a key in cosign's own format", details=[("why", "it is not PKCS#8, which this tool reads")],
            hint=f"sign with cosign itself, or make a key that both read: {_GENERATE}",
        )  # fmt: skip
    serialization = _serialization()
    password = os.environ.get(PASSWORD)
    try:
        found = serialization.load_pem_private_key(data, password.encode() if password else None)
    except TypeError as error:
        hint = f"set {PASSWORD}" if password is None else f"unset {PASSWORD}: the key is not encrypted"
        raise InputError(f"{path} cannot be opened: {error}", hint=hint) from error
    except Exception as error:
        raise InputError(
            f"{path} is not a private key in PEM (PKCS#8)",
            details=[("why", str(error)[:200])],
            hint=f"make one: {_GENERATE}",
        ) from error
    from securesystemslib.signer import CryptoSigner

    public = found.public_key()
    return CryptoSigner(found, _described(public, _hint(public), str(path)))


def _described(public: Any, hint: str, name: str) -> SSlibKey:
    """The key with the scheme that sigstore's clients use for its kind; its id is the hint."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    from securesystemslib.signer import SSlibKey

    if isinstance(public, rsa.RSAPublicKey):
        if public.key_size < _RSA_BITS:
            raise InputError(f"{name} is an RSA key of {public.key_size} bits", hint=f"make another: {_GENERATE}")
        return SSlibKey.from_crypto(public, keyid=hint, scheme="rsa-pkcs1v15-sha256")
    # Of other curves, Sigstore's clients do not agree on the hash: sigstore-js takes SHA-256, securesystemslib the curve's.
    on_p256 = isinstance(public, ec.EllipticCurvePublicKey) and isinstance(public.curve, ec.SECP256R1)
    if not on_p256 and not isinstance(public, ed25519.Ed25519PublicKey):
        kind = getattr(getattr(public, "curve", None), "name", type(public).__name__)
        raise InputError(
            f"{name} is a key that not every verifier takes ({kind})",
            hint=f"Ed25519, ECDSA on P-256, and RSA of {_RSA_BITS} bits or more are taken: {_GENERATE}",
        )
    return SSlibKey.from_crypto(public, keyid=hint)


def _hint(public: Any) -> str:
    serialization = _serialization()
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hint_of(der)


def _read(path: Path, name: str) -> bytes:
    try:
        return read_regular(path, limit=_LIMIT, name=name)
    except OSError as error:
        raise InputError(
            f"cannot read the key {name}: {error.strerror}", hint="check its name and permissions"
        ) from error


def _serialization() -> Any:
    """`cryptography` and `securesystemslib`, which only signing and checking signatures need. Raises `InputError`."""
    try:
        import securesystemslib.signer  # noqa: F401
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise InputError(
            f"signatures need more packages: {error.name} is not installed", hint=install_hint("sign")
        ) from error
    return serialization
