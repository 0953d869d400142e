"""Pull requests as a person names them on the command line."""

from __future__ import annotations

from urllib.parse import urlsplit

from builder.documents.pull import DEFAULT_REPOSITORY, pull_name
from builder.pulls.access import github_url
from builder.util.errors import InputError


def named_pull(text: str, *, repository: str = DEFAULT_REPOSITORY) -> str:
    """`OWNER/REPOSITORY#NUMBER`; addresses of the GitHub that the environment names are taken too."""
    try:
        return pull_name(text, repository=repository, hosts=_host(github_url()))
    except ValueError as error:
        raise InputError(str(error), hint="a bare number belongs to --repository") from error


def overlay_named(text: str, known: list[str]) -> str:
    """The overlay that is meant: its id, a pull request however it is named, or a number that one overlay has."""
    if text in known:
        return text
    digits = text.removeprefix("#")
    ending = [name for name in known if digits.isdigit() and name.endswith(f"#{digits}")]
    if len(ending) == 1:
        return ending[0]
    try:
        return pull_name(text, hosts=_host(github_url()))
    except ValueError:
        return text


def _host(url: str) -> list[str]:
    host = urlsplit(url).netloc.rpartition("@")[2]
    return [host] if host not in ("", "github.com") else []
