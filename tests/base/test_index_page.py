"""What a package index responds when it has no page: refusals, and servers that are no index."""

from __future__ import annotations

import pytest

from builder.base.wheel import project_page
from builder.util.errors import UnreachableError
from tests.support.loopback import serving


@pytest.mark.parametrize("status", [401, 403])
def test_the_status_of_a_refusal_is_named(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    with serving(lambda asked: asked.say(status)) as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
        with pytest.raises(UnreachableError, match=f"^the package index responds {status}$"):
            project_page("vllm")


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("application/vnd.pypi.simple.v1+json", b"{}"),
        ("application/vnd.pypi.simple.v1+json", b"<html>log in to the wireless network</html>"),
        ("application/vnd.pypi.simple.v1+json", b'{"name": "vllm", "meta": {"api-version": "9.0"}, "files": []}'),
    ],
)
def test_what_is_no_index_is_named(monkeypatch: pytest.MonkeyPatch, content_type: str, body: bytes) -> None:
    with serving(lambda asked: asked.say(200, body, Content_Type=content_type)) as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
        with pytest.raises(UnreachableError, match="package index") as raised:
            project_page("vllm")
    assert raised.value.details == (("index", "127.0.0.1"),)
