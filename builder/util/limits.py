"""How long, how often and how much, for every server that is not here: GitHub, the Hub, registries."""

from __future__ import annotations

import math
import os

from builder.util.errors import InputError

TRIES = 4
SIZE_LIMIT = 64 << 20
"""Bytes of one answer that is read into memory: a diff, a page of a tree, a small file."""
LONGEST_WAIT = 30.0
"""Seconds between two tries that are sat out, whatever a server asks for."""
_EXCHANGE = 15
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


def exchange_limit() -> float:
    """Seconds that one whole answer may take, headers and redirects included: a server that trickles is never silent."""
    return _EXCHANGE * wait_limit()


def pause_before(attempt: int) -> float:
    """Seconds to wait before try number `attempt`, from 1: growing, and always less than for an answer."""
    return min(0.15 * float(1 << attempt), LONGEST_WAIT, wait_limit() / 4)
