"""Signing an image with cosign and a key of a key service, which `builder.release.attest` does not ask."""

from __future__ import annotations

import os
from collections.abc import Callable

from builder.util.context import Context
from builder.util.errors import UnreachableError
from builder.util.process import find, run

# What cosign reads for keys, key services and keyless identities; `builder.util.process` passes nothing else on.
_PASSED = ("COSIGN_", "SIGSTORE_", "ACTIONS_ID_TOKEN_", "AWS_", "AZURE_", "GOOGLE_", "VAULT_", "TUF_")


def signer(key: str, *, context: Context) -> Callable[[str], None]:
    """Signs an image by digest with `key`, a key service's URI. Raises `InputError` without cosign."""
    hint = "install cosign (https://docs.sigstore.dev) for keys of a service, or sign with --key FILE"
    program = find("cosign", hint=hint)

    def sign(reference: str) -> None:
        context.console.detail(f"signing {reference} with {program}")
        command = [program, "sign", "--yes", "--recursive", "--key", key, reference]
        extra = {name: value for name, value in os.environ.items() if name.startswith(_PASSED)}
        done = run(command, extra_env=extra, timeout=300)
        if done.returncode != 0:
            raise UnreachableError(
                f"cosign did not sign {reference}",
                details=[("command", " ".join(command)), ("message", "\n".join(done.output.splitlines()[-8:]))],
                hint="no tag was moved; fix what cosign reports and publish again",
            )

    return sign
