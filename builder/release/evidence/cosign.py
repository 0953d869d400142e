"""Signing with cosign, when it is installed. Nothing is signed by this tool itself."""

from __future__ import annotations

import os
from collections.abc import Callable

from builder.util.context import Context
from builder.util.errors import UnreachableError
from builder.util.process import find, run

# What cosign reads for keys, key services and keyless identities; `builder.util.process` passes nothing else on.
_PASSED = ("COSIGN_", "SIGSTORE_", "ACTIONS_ID_TOKEN_", "AWS_", "AZURE_", "GOOGLE_", "VAULT_", "TUF_")


def signer(key: str | None, *, context: Context) -> Callable[[str], None]:
    """Signs an image by digest: with `key` (a file or a key service's URI), else keyless. Raises `InputError` without cosign."""
    program = find("cosign", hint="install cosign (https://docs.sigstore.dev), or publish without --sign")

    def sign(reference: str) -> None:
        context.console.detail(f"signing {reference} with {program}")
        command = [program, "sign", "--yes", "--recursive", *(["--key", key] if key else []), reference]
        extra = {name: value for name, value in os.environ.items() if name.startswith(_PASSED)}
        done = run(command, extra_env=extra, timeout=300)
        if done.returncode != 0:
            raise UnreachableError(
                f"cosign did not sign {reference}",
                details=[("command", " ".join(command)), ("message", "\n".join(done.output.splitlines()[-8:]))],
                hint="no tag was moved; fix what cosign reports and publish again",
            )

    return sign
