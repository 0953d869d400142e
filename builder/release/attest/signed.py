"""Who signed a document, as far as that was checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

State = Literal["unsigned", "verified", "unchecked", "broken"]


@dataclass(frozen=True)
class SignedBy:
    """The signer of a document.

    `verified`: the signature is that of a signer who was named as trusted. `unchecked`: the envelope names a signer who was
    not named, so nothing is known. `broken`: the envelope names a trusted signer, and the signature does not match.
    `key` is the SHA-256 of the public key (DER) in hexadecimal digits; `identity` and `issuer` are those of a certificate.
    """

    state: State
    key: str = ""
    identity: str = ""
    issuer: str = ""
    label: str = ""
    """How the caller names the signer: the file of the key."""
    why: str = ""

    @property
    def who(self) -> str:
        """The signer for people; empty when nobody signed."""
        if self.identity:
            return f"{self.identity} ({self.issuer})"
        name = f"key sha256:{self.key[:16]}" if self.key else ""
        return f"{name} ({self.label})" if name and self.label else name

    def __str__(self) -> str:
        if self.state == "unsigned":
            return "unsigned"
        if self.state == "verified":
            return f"signed by {self.who}"
        if self.state == "broken":
            return f"edited: it is not what {self.who} signed"
        return f"names {self.who or 'a signer'}; signature not checked"

    def document(self) -> dict[str, str]:
        """The signer for `--json`."""
        values = {
            "state": self.state,
            "key": self.key,
            "identity": self.identity,
            "issuer": self.issuer,
            "why": self.why,
        }
        return {name: value for name, value in values.items() if value}


UNSIGNED: Final = SignedBy("unsigned")
