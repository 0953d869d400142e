"""How long anything may take that is not here."""

from __future__ import annotations

import math
import os

from builder.errors import InputError

_A_DAY = 86_400


def wait_limit() -> float:
    """The longest silence of a server, in seconds; `BUILDER_HTTP_TIMEOUT` sets it. Raises `InputError` for anything else."""
    text = os.environ.get("BUILDER_HTTP_TIMEOUT") or "60"
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= _A_DAY:
        raise InputError(f"BUILDER_HTTP_TIMEOUT is {text!r}", hint="give seconds, such as 60")
    return seconds
