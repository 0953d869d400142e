"""Sigstore's services on loopback: Fulcio (certificates with an SCT) and Rekor v1 (a log), with the trust configuration for them.

They do what a client can check: the certificate authority signs a short-lived certificate for the identity in the token, the
certificate log signs its SCT, and the transparency log signs entry, inclusion proof and checkpoint. Tokens are not verified.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ISSUER = "https://issuer.example"
_SCT_LIST = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_START = "2020-01-01T00:00:00Z"


def token(identity: str, *, audience: str = "sigstore", seconds: int = 600) -> str:
    """An identity token that nobody can verify."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": audience, "sub": identity, "iat": now, "nbf": now, "exp": now + seconds}
    return jwt.encode(claims, "x" * 32, algorithm="HS256")


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _spki(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def _new() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class Sigstore:
    """The keys of all services, what they were asked, and how they misbehave (`broken`: fulcio, rekor or hang)."""

    authority: ec.EllipticCurvePrivateKey = field(default_factory=_new)
    certificates: ec.EllipticCurvePrivateKey = field(default_factory=_new)
    log: ec.EllipticCurvePrivateKey = field(default_factory=_new)
    url: str = ""
    broken: str = ""
    entries: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root = self._root()

    def _root(self) -> x509.Certificate:
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, "loopback"),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "tests"),
            ]
        )
        now = datetime.now(UTC)
        identifier = x509.SubjectKeyIdentifier.from_public_key(self.authority.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(name).issuer_name(name).public_key(self.authority.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(identifier, critical=False)
            .sign(self.authority, hashes.SHA256())
        )  # fmt: skip

    def certificate(self, request: dict[str, Any], bearer: str) -> list[str]:
        """The chain for a signing request, leaf first, in PEM."""
        signing = x509.load_pem_x509_csr(base64.b64decode(request["certificateSigningRequest"]))
        claims = jwt.decode(bearer, options={"verify_signature": False})
        issuer = claims["iss"].encode()
        now = datetime.now(UTC).replace(microsecond=0)
        identity = claims["sub"]
        name: x509.GeneralName = (
            x509.UniformResourceIdentifier(identity) if "://" in identity else x509.RFC822Name(identity)
        )
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.authority.public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([])).issuer_name(self.root.subject).public_key(signing.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(seconds=30)).not_valid_after(now + timedelta(minutes=10))
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(authority_key, critical=False)
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_V2, bytes([0x0C, len(issuer)]) + issuer), critical=False)
        )  # fmt: skip
        bare = builder.sign(self.authority, hashes.SHA256())
        sct = self._sct(bare.tbs_certificate_bytes, now)
        whole = builder.add_extension(x509.UnrecognizedExtension(_SCT_LIST, sct), critical=False)
        chain = (whole.sign(self.authority, hashes.SHA256()), self.root)
        return [each.public_bytes(serialization.Encoding.PEM).decode() for each in chain]

    def _sct(self, certificate: bytes, now: datetime) -> bytes:
        """A signed certificate timestamp in its extension (RFC 6962, 3.3)."""
        stamp = int(now.timestamp() * 1000)
        entry = (
            hashlib.sha256(_spki(self.authority.public_key())).digest()
            + len(certificate).to_bytes(3, "big")
            + certificate
        )
        signature = _sign(self.certificates, struct.pack("!BBQH", 0, 0, stamp, 1) + entry + struct.pack("!H", 0))
        log_id = hashlib.sha256(_spki(self.certificates.public_key())).digest()
        one = (
            b"\0" + log_id + struct.pack("!QH", stamp, 0) + b"\x04\x03" + struct.pack("!H", len(signature)) + signature
        )
        listed = struct.pack("!H", len(one)) + one
        data = struct.pack("!H", len(listed)) + listed
        length = (
            bytes([len(data)])
            if len(data) < 128
            else bytes([0x81, len(data)])
            if len(data) < 256
            else b"\x82" + struct.pack("!H", len(data))
        )
        return b"\x04" + length + data

    def entry(self, proposed: dict[str, Any]) -> dict[str, Any]:
        """The log's response to a DSSE entry; each log has one entry, so that its inclusion proof is empty."""
        content = proposed["spec"]["proposedContent"]
        envelope = json.loads(content["envelope"])
        verifier = content["verifiers"][0]
        body: dict[str, Any] = {
            "apiVersion": "0.0.1",
            "kind": "dsse",
            "spec": {
                "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(content["envelope"].encode()).hexdigest()},
                "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(base64.b64decode(envelope["payload"])).hexdigest()},
                "signatures": [{"signature": envelope["signatures"][0]["sig"], "verifier": verifier}],
            },
        }  # fmt: skip
        canonical = rfc8785.dumps(body)
        self.entries.append(canonical)
        log_id = hashlib.sha256(_spki(self.log.public_key())).digest()
        root = hashlib.sha256(b"\0" + canonical).digest()
        note = f"127.0.0.1 - 1\n1\n{_b64(root)}\n"
        checkpoint = f"{note}\n\u2014 127.0.0.1 {_b64(log_id[:4] + _sign(self.log, note.encode()))}\n"
        promised: dict[str, Any] = {
            "body": _b64(canonical),
            "integratedTime": int(time.time()),
            "logID": log_id.hex(),
            "logIndex": 0,
        }
        return {
            root.hex(): {
                **promised,
                "verification": {
                    "signedEntryTimestamp": _b64(_sign(self.log, rfc8785.dumps(promised))),
                    "inclusionProof": {
                        "checkpoint": checkpoint, "hashes": [], "logIndex": 0, "rootHash": root.hex(), "treeSize": 1,
                    },
                },
            }
        }  # fmt: skip

    def trust_config(self) -> dict[str, Any]:
        """The client trust configuration of these services."""

        def instance(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
            spki = _spki(key.public_key())
            return {
                "baseUrl": self.url, "hashAlgorithm": "SHA2_256", "logId": {"keyId": _b64(hashlib.sha256(spki).digest())},
                "publicKey": {
                    "rawBytes": _b64(spki), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": {"start": _START},
                },
            }  # fmt: skip

        service = [{"url": self.url, "majorApiVersion": 1, "validFor": {"start": _START}, "operator": "tests"}]
        root = _b64(self.root.public_bytes(serialization.Encoding.DER))
        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [instance(self.log)],
                "certificateAuthorities": [
                    {
                        "subject": {"organization": "tests", "commonName": "loopback"}, "uri": self.url,
                        "certChain": {"certificates": [{"rawBytes": root}]}, "validFor": {"start": _START},
                    }
                ],
                "ctlogs": [instance(self.certificates)],
                "timestampAuthorities": [],
            },
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": service, "oidcUrls": service, "rekorTlogUrls": service, "rekorTlogConfig": {"selector": "ANY"},
                "tsaUrls": [], "tsaConfig": {"selector": "ANY"},
            },
        }  # fmt: skip

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps(self.trust_config()))
        return path


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=signs_certificates, crl_sign=signs_certificates, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip


@contextmanager
def sigstore() -> Iterator[Sigstore]:
    """The services, running."""
    services = Sigstore()
    release = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if services.broken == "hang":
                release.wait(60)
            if self.path == "/api/v2/signingCert":
                if services.broken == "fulcio":
                    return self.answer(500, {"code": 13, "message": "no certificates today"})
                bearer = self.headers["Authorization"].removeprefix("Bearer ")
                return self.answer(
                    200,
                    {"signedCertificateEmbeddedSct": {"chain": {"certificates": services.certificate(body, bearer)}}},
                )
            if services.broken == "rekor" or self.path != "/api/v1/log/entries":
                return self.answer(500, {"code": 500, "message": "the log is closed"})
            return self.answer(201, services.entry(body))

        def answer(self, status: int, document: object) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *arguments: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        services.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield services
        finally:
            release.set()
            server.shutdown()
