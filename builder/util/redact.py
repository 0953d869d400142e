"""What is never printed or written: a name and password inside an address, and secrets that the caller knows."""

from __future__ import annotations

import re

# Greedy: a password may contain an unescaped `@`, and then the last one ends it.
_USERINFO = re.compile(r"(?<=://)[^/\s?#'\"<>]*@")


def without_secrets(text: str, *secrets: str | None) -> str:
    """The text without a name and password in addresses, and with `***` for each of `secrets`."""
    text = _USERINFO.sub("", text)
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return text
