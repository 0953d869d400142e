"""Environment variables of profiles: which names are refused, and why, before anything else is asked about them.

A profile is part of the image, of its record and of every manifest that is rendered: whoever may pull those reads it. So a
secret is refused by its name, and by its look where that is beyond doubt.
"""

from __future__ import annotations

import itertools
import re

_SECRET_ENDS = frozenset(
    {"TOKEN", "KEY", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIALS", "CREDENTIAL", "PAT"}
)
_SECRET_WORDS = frozenset({"SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "CREDENTIALS"})
_SECRET_PAIRS = frozenset(
    {("API", "KEY"), ("ACCESS", "KEY"), ("PRIVATE", "KEY"), ("AUTH", "TOKEN"), ("ACCESS", "TOKEN")}
)
# A path to a secret, or a number about one, tells nothing.
_NOT_THE_SECRET = frozenset({"PATH", "FILE", "DIR"})
_SECRET_LOOK = re.compile(
    r"(?:hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|gh[opsu]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}"
    r"|glpat-[A-Za-z0-9_-]{20,}|AKIA[A-Z0-9]{16}|nvapi-[A-Za-z0-9_-]{20,})"
)

# Another vLLM than the patched one would be imported.
_OTHER_CODE = frozenset({"PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE"})
# Docker sets them for the user that runs, and `builder run` and `deploy` point them at the one folder that may be written.
_CONTAINERS = frozenset({"HOME", "USER", "HOSTNAME", "PWD"})
_LONGEST = 8192


def is_secret(name: str) -> bool:
    """Whether a variable's name says that its value is a secret."""
    words = [word for word in name.upper().split("_") if word]
    if not words or words[-1] in _NOT_THE_SECRET:
        return False
    pairs = set(itertools.pairwise(words))
    return words[-1] in _SECRET_ENDS or bool(_SECRET_WORDS & set(words)) or bool(_SECRET_PAIRS & pairs)


def variable_problem(name: str) -> str | None:
    """Why a profile cannot set a variable of this name; None when it can."""
    if is_secret(name):
        return (
            "is a secret, and a profile is readable by everyone who may pull the image; "
            f"pass it when the container starts: docker run --env {name} ..."
        )
    if name in _OTHER_CODE:
        return "would have the server import other code than what was patched and checked"
    if name in _CONTAINERS:
        return "is set by the container for whichever user runs it"
    if name.startswith("BUILDER_"):
        return "is read by the image's entrypoint before it knows the profile"
    return None


def value_problem(text: str) -> str | None:
    """Why a profile cannot hold this value; None when it can."""
    if _SECRET_LOOK.search(text):
        return "looks like an access token, and a profile is readable by everyone who may pull the image"
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        return "has a line break or another control character"
    if len(text) > _LONGEST:
        return f"is longer than {_LONGEST:,} characters"
    return None
