"""The Hub's REST API, as far as a digest and a memory estimate need it, asked by `builder.net.client`.

`HF_ENDPOINT`, `HF_TOKEN` and the token file follow the rules of huggingface_hub, which is not used: its client waits for ever,
obeys any `Retry-After`, and its limits could only be set through private modules. Source of the routes: the Hub's OpenAPI
description (https://huggingface.co/.well-known/openapi.json) and what huggingface_hub 1.33 sends.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from builder.net.address import Address, host_of, keeps_secrets, origin, parse_address
from builder.net.client import Client, NoResponseError, RefusedError, Response, Rules, no_downgrade
from builder.util.context import Context
from builder.util.errors import InputError, MismatchError, UnreachableError
from builder.util.redact import without_secrets

_HUB = "https://huggingface.co"
# huggingface_hub.utils.validate_repo_id
_REPOSITORY = re.compile(r"(?:[A-Za-z0-9_][\w.-]*/)?[A-Za-z0-9_][\w.-]{0,95}")
_PAGES = 10_000
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


class Hub:
    """One repository of models on the Hub. Threads may share it.

    Every method raises `UnreachableError` when the Hub does not respond, refuses, or sends what its API does not have.
    """

    def __init__(self, repo: str, endpoint: Address, client: Client) -> None:
        self._repo = repo
        self._base = endpoint.url
        self._client = client

    def commit(self, revision: str | None) -> str | None:
        """The commit of a revision; None when the Hub has no such repository or revision."""
        path = f"revision/{quote(revision, safe='')}" if revision else ""
        response = self._client.send("GET", f"{self._base}/api/models/{self._repo}{'/' if path else ''}{path}")
        if response.headers.get("X-Error-Code") in ("RepoNotFound", "RevisionNotFound"):
            return None
        document = self._document(self._expect(response))
        found = document.get("sha") if isinstance(document, dict) else None
        if not isinstance(found, str) or not re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", found):
            raise self.shapeless("it names no commit")
        return found

    def required_commit(self, revision: str | None) -> str:
        """Like `commit`, but `UnreachableError` when there is none."""
        found = self.commit(revision)
        if found is None:
            raise UnreachableError(
                f"the Hub refuses {self._repo}: there is no such repository or revision",
                hint="check name and revision; private ones need HF_TOKEN",
            )
        return found

    def tree(self, commit: str) -> Iterator[dict[str, Any]]:
        """The entries of a commit's whole tree, page by page. Raises `MismatchError` when the pages repeat themselves."""
        url: str | None = f"{self._base}/api/models/{self._repo}/tree/{commit}?recursive=true&expand=false"
        seen: set[str] = set()
        while url is not None:
            if url in seen or len(seen) == _PAGES:
                raise MismatchError("the Hub's pages repeat themselves", hint="try again; a mirror may be out of date")
            seen.add(url)
            response = self._expect(self._client.send("GET", url))
            page = self._document(response)
            if not isinstance(page, list) or not all(isinstance(each, dict) for each in page):
                raise self.shapeless("a page of the tree is not a list of entries")
            yield from page
            url = _next_page(response)

    def file(self, revision: str, path: str) -> bytes:
        """The content of a small file."""
        return self._expect(self._client.send("GET", self._file_url(revision, path))).body

    def has_file(self, revision: str, path: str) -> bool:
        """Whether the repository has a file. By a GET: storage that a file is redirected to may refuse HEAD."""
        try:
            self.start_of_file(revision, path, 1)
        except RefusedError as error:
            if error.status == 404:
                return False
            raise
        return True

    def start_of_file(self, revision: str, path: str, count: int) -> bytes:
        """The first `count` bytes of a file, fewer when it is smaller. A server that ignores ranges is not read further."""
        data = bytearray()
        headers = {"Range": f"bytes=0-{count - 1}", "Accept-Encoding": "identity"}
        with self._client.stream(self._file_url(revision, path), headers=headers, size=count) as response:
            if response.status == 206 and not response.headers.get("Content-Range", "bytes 0-").startswith("bytes 0-"):
                raise self.shapeless("it sent another range")
            self._expect(response, (200, 206))
            for chunk in response.chunks:
                data += chunk
                if len(data) >= count:
                    break
        return bytes(data[:count])

    def shapeless(self, why: str) -> UnreachableError:
        """The error for a response that is not what the API gives."""
        return UnreachableError(
            f"the Hub's response about {self._repo} is not what its API gives: {why}",
            hint="is a proxy, or another service, at HF_ENDPOINT?",
        )

    def _file_url(self, revision: str, path: str) -> str:
        try:
            return f"{self._base}/{self._repo}/resolve/{quote(revision, safe='')}/{quote(path)}"
        except UnicodeEncodeError as error:
            raise self.shapeless("a path has half a character") from error

    def _document(self, response: Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            # The text of the error may quote the response: it is not shown.
            raise self.shapeless("it is not valid JSON") from error

    def _expect(self, response: Response, statuses: tuple[int, ...] = (200,)) -> Response:
        if response.status in statuses:
            return response
        code = response.headers.get("X-Error-Code", "")
        reason = f" ({code})" if re.fullmatch("[A-Za-z]{1,40}", code) else ""
        if response.status == 429 or response.status >= 500:
            error = RefusedError(
                f"the Hub responds {response.status}{reason}", details=[("where", self._where(response))],
                hint="wait, then try again" + ("; with HF_TOKEN the limits are higher" * (response.status == 429)),
            )  # fmt: skip
        else:
            error = RefusedError(
                f"the Hub refuses {self._repo}: {response.status}{reason}",
                details=[("where", self._where(response))],
                hint="check name and revision; private ones need HF_TOKEN",
            )
        error.status = response.status
        raise error

    def _where(self, response: Response) -> str:
        # A query may have a signature.
        return f"{host_of(response.url)} for /{response.url.partition('://')[2].partition('/')[2].partition('?')[0]}"


@contextmanager
def open_hub(repo: str, *, context: Context) -> Iterator[Hub]:
    """The Hub's repository `repo`, with the token for the Hub alone. What huggingface_hub calls a model is meant.

    Raises `InputError` when the name is not a repository's, `HF_ENDPOINT` is not an address, or no header can contain the
    token.
    """
    if not _REPOSITORY.fullmatch(repo) or "--" in repo or ".." in repo or repo.endswith((".git", "-", ".")):
        raise InputError(f"{repo!r} is not a repository's name", hint="write it as OWNER/NAME")
    endpoint = hub_endpoint()
    token = _token()
    if (token or endpoint.basic) and not keeps_secrets(endpoint.url):
        context.console.warn(f"HF_ENDPOINT is plain HTTP: no token is sent to {host_of(endpoint.url)}")
        token, endpoint = None, Address(endpoint.url)

    def authorization(url: str) -> str | None:
        if origin(url) != origin(endpoint.url):
            return None
        return f"Bearer {token}" if token else endpoint.basic

    rules = Rules(
        authorization=authorization, follows=no_downgrade,
        hint="check the network, or HF_ENDPOINT; BUILDER_HTTP_TIMEOUT sets the longest silence in seconds",
    )  # fmt: skip
    client = Client(context.limits, rules)
    try:
        yield Hub(repo, endpoint, client)
    except NoResponseError as error:
        raise UnreachableError(f"the Hub cannot be reached: {error.message}", hint=error.hint) from error
    finally:
        client.close()


def hub_endpoint() -> Address:
    """Where the Hub is; `HF_ENDPOINT` sets it. Raises `InputError` when that is not an address."""
    given = os.environ.get("HF_ENDPOINT") or _HUB
    found = parse_address(given)
    if found is None:
        raise InputError(
            f"HF_ENDPOINT is {without_secrets(given)!r}, which is not a web address", hint=f"give one, such as {_HUB}"
        )
    return found


def _token() -> str | None:
    """The token by huggingface_hub's rules: the environment, then the file that `hf auth login` writes."""
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in _TRUE:
        return None
    token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") or _stored_token()
    token = token.strip()
    if not all("!" <= character <= "~" for character in token):
        raise InputError(
            "HF_TOKEN has characters that no token has", hint="give the token alone, without quotes or line endings"
        )
    return token or None


def _stored_token() -> str:
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    path = Path(os.environ.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def _next_page(response: Response) -> str | None:
    from requests.utils import parse_header_links

    links = parse_header_links(response.headers.get("Link", ""))
    return next((each["url"] for each in links if each.get("rel") == "next"), None)
