"""What the package index has of a project, and what else responds at its address: a refusal, a login page, another service."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

from builder.base.wheel_archive import TIMEOUT, index_endpoint, index_session
from builder.net.address import host_of, parse_address
from builder.net.trouble import explain
from builder.util.errors import InputError, UnreachableError
from builder.util.redact import without_secrets

if TYPE_CHECKING:
    import requests
    from pypi_simple import ProjectPage

_NOT_AN_INDEX = "what responds as the package index is not one: its page is neither HTML nor JSON of PEP 691"
_TITLES = re.compile(r"\blinks for\b|\bindex of\b|\bsimple\b", re.IGNORECASE)
"""In the titles that indexes and web servers give to their pages: warehouse, devpi, nexus, artifactory, Apache, nginx."""
_LARGEST = 1 << 20
"""Bytes of a page that is looked at: a login page is smaller."""


def project_page(name: str) -> ProjectPage:
    """What the package index has of a project.

    Raises `InputError` when it has no such project, `UnreachableError` when the index does not respond, or something else does.
    """
    import requests
    from bs4.exceptions import ParserRejectedMarkup
    from pypi_simple import PYPI_SIMPLE_ENDPOINT, NoSuchProjectError, PyPISimple, UnsupportedRepoVersionError

    configured = index_endpoint() or PYPI_SIMPLE_ENDPOINT
    # Links on a page are relative to its address: a password in that would be in the cache, the lock and messages.
    address = parse_address(configured)
    if address is None:
        raise InputError(
            f"the package index {without_secrets(configured)!r} is not an address",
            hint="check PIP_INDEX_URL, such as https://pypi.org/simple",
        )
    endpoint = f"{address.url}/"
    responses: list[requests.Response] = []
    try:
        with index_session() as session, PyPISimple(endpoint, session=session) as client:
            session.hooks["response"].append(lambda response, **_: responses.append(response))
            page = client.get_project_page(name, timeout=TIMEOUT)
    except NoSuchProjectError as error:
        raise InputError(f"the package index has no project {name!r}", hint="check the name in the recipe") from error
    except requests.HTTPError as error:
        raise _no_page(endpoint, f"the package index responds {error.response.status_code}") from error
    except requests.RequestException as error:
        if isinstance(error, requests.JSONDecodeError):
            raise _no_page(endpoint, _NOT_AN_INDEX) from error
        trouble = explain(error, endpoint)
        raise _no_page(endpoint, f"the package index cannot be reached: {trouble.message}", trouble.hint) from error
    except (ValueError, UnsupportedRepoVersionError, ParserRejectedMarkup) as error:
        raise _no_page(endpoint, _NOT_AN_INDEX) from error
    if responses and _is_of_others(page, responses[-1]):
        raise _web_page(endpoint, responses)
    return page


def _no_page(endpoint: str, problem: str, hint: str | None = None) -> UnreachableError:
    return UnreachableError(
        problem,
        details=[("index", host_of(endpoint))],
        hint=hint or "check the network, or PIP_INDEX_URL; with everything in the cache, --offline works without it",
    )


def _is_of_others(page: ProjectPage, response: requests.Response) -> bool:
    """Whether a page that was read as a project's is one for people: a login, or a notice.

    An index may have a project without files, and need not say that it is one (PEP 503). What is called a web page here names
    no file of a project, has none of an index's titles, and has a form, a script, a way on to another page, or only text.
    """
    if page.repository_version is not None or any(each.package_type is not None for each in page.packages):
        return False
    if _media_type(response) != "text/html" or len(response.content) > _LARGEST:
        return False
    seen = _Seen()
    try:
        seen.feed(response.text)
    except AssertionError:  # raised for markup that is not HTML
        return True
    if _TITLES.search(seen.title):
        return False
    return seen.acts or (bool(seen.text.strip()) and not seen.links)


class _Seen(HTMLParser):
    """What a web page has."""

    def __init__(self) -> None:
        super().__init__()
        self.title = self.text = ""
        self.acts = self.links = False
        self._within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = tag
        self.links = self.links or tag == "a"
        onward = tag == "meta" and (dict(attrs).get("http-equiv") or "").lower() == "refresh"
        self.acts = self.acts or onward or tag in ("form", "input", "script", "iframe", "frameset")

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002  the parser names it
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "title":
            self.title += data
        elif self._within not in ("script", "style"):
            self.text += data


def _web_page(endpoint: str, responses: list[Any]) -> UnreachableError:
    first, last = responses[0], responses[-1]
    # A query may have a secret.
    asked, led = (without_secrets(each.url.partition("?")[0])[:200] for each in (first, last))
    return UnreachableError(
        "what responds as the package index is a web page, and not a project's page",
        details=[
            ("index", host_of(endpoint)),
            ("response", f"{last.status_code} with {_media_type(last)}"),
            *([("leads to", led)] if led != asked else []),
        ],
        hint=f"a login page of the network or a proxy may respond in its place, or PIP_INDEX_URL is another address: `curl -iL {asked}` shows it",
    )


def _media_type(response: requests.Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
