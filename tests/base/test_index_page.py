"""What a package index responds when it has no page: refusals, and servers that are no index."""

from __future__ import annotations

import socket

import pytest

from builder.base.wheel import project_page
from builder.base.wheel_archive import WheelLink, open_wheel
from builder.util.context import Context
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


def test_a_proxy_that_does_not_respond_is_named_for_index_and_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:  # nobody listens
        bound.bind(("127.0.0.1", 0))
        proxy = f"127.0.0.1:{bound.getsockname()[1]}"
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://me:s3cret@{proxy}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
        link = WheelLink("https://files.example/vllm.whl", "vllm.whl", "0" * 64)
        for ask in (lambda: project_page("vllm"), lambda: open_wheel(link, context=Context()).__enter__()):
            with pytest.raises(UnreachableError, match=rf"the proxy {proxy} of HTTPS_PROXY does not respond") as raised:
                ask()
            assert "check HTTPS_PROXY" in str(raised.value.hint)
            assert "s3cret" not in str(raised.value.as_json())
