"""How people name a pull request: a number, `OWNER/REPOSITORY#NUMBER`, or its page's address."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import urlsplit

DEFAULT_REPOSITORY = "vllm-project/vllm"
"""Whose pull request a bare number names."""
_HOSTS = ("github.com", "www.github.com")
_NAME = re.compile(r"(?P<repository>[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+)#(?P<number>[1-9][0-9]{0,9})")
_NUMBER = re.compile(r"#?(?P<number>[1-9][0-9]{0,9})")
_PAGE = re.compile(
    r"/(?P<repository>[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+)/pull/(?P<number>[1-9][0-9]{0,9})"
    r"(?:\.diff|\.patch|/(?:files|commits|checks|changes)?)?"
)
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9._-]+")


def is_repository(text: str) -> bool:
    """Whether `text` is OWNER/REPOSITORY, as GitHub names one."""
    return _REPOSITORY.fullmatch(text) is not None


def pull_name(text: str, *, repository: str = DEFAULT_REPOSITORY, hosts: Collection[str] = ()) -> str:
    """`OWNER/REPOSITORY#NUMBER` of a pull request, however it was named; a bare number belongs to `repository`.

    `hosts` are GitHubs beside github.com whose addresses are taken. Raises `ValueError` for anything else: an address
    of another server, or of one commit, would otherwise name a pull request that was not meant.
    """
    text = text.strip()
    if _NAME.fullmatch(text):
        return text
    if match := _NUMBER.fullmatch(text):
        return f"{repository}#{match['number']}"
    if is_repository(text):
        raise ValueError(
            f"{text!r} has no number; write {text}#NUMBER, without a space: in YAML, ` #` begins a comment"
        )
    address = text if "://" in text else f"https://{text}"
    try:
        parts = urlsplit(address)
        host = (parts.hostname or "") + (f":{parts.port}" if parts.port else "")
    except ValueError:
        host, parts = "", urlsplit("")
    if match := _PAGE.fullmatch(parts.path):
        if host in (*_HOSTS, *hosts):
            return f"{match['repository']}#{match['number']}"
        raise ValueError(f"{text!r} is a pull request of {host}, not of {' or '.join([_HOSTS[0], *hosts])}")
    raise ValueError(
        f"{text!r} is not a pull request; write it as OWNER/REPOSITORY#NUMBER, as its address "
        f"https://github.com/OWNER/REPOSITORY/pull/NUMBER, or as a number of {repository}"
    )
