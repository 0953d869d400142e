"""What a package index responds when it has no page: refusals, and servers that are no index."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from builder.base.project_page import project_page
from builder.base.wheel import choose_wheel
from builder.base.wheel_archive import WheelLink, open_wheel, wheel_file
from builder.documents.reference import Platform
from builder.util.context import Context
from builder.util.errors import InputError, UnreachableError
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
        ("text/html; charset=utf-8", b"<![foo["),
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


LOGIN = b"""<!DOCTYPE html><html><head><title>Wireless network</title></head><body><form action="/login" method="post">
<input name="user"><input name="password" type="password"></form><a href="/help">Help</a></body></html>"""
LEAVING = b"<html><head><meta http-equiv='refresh' content='0; url=http://portal.example/?token=s3cret'></head></html>"
NOTICE = b"<html><body>You have to accept the terms of this network first.</body></html>"


@pytest.mark.parametrize("body", [LOGIN, LEAVING, NOTICE])
def test_a_web_page_in_the_place_of_the_index_is_told_from_a_project_without_wheels(
    monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    with serving(lambda asked: asked.say(200, body, Content_Type="text/html; charset=utf-8")) as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
        with pytest.raises(UnreachableError, match=r"^what responds as the package index is a web page") as raised:
            project_page("vllm")
    assert raised.value.exit_code == 5
    assert dict(raised.value.details)["response"] == "200 with text/html"
    assert "login page" in str(raised.value.hint)
    assert f"`curl -iL {server.url}/simple/vllm/`" in str(raised.value.hint)


def test_where_a_login_page_is_after_a_redirect_is_named_without_its_query(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(asked: Any) -> None:
        if asked.path.startswith("/simple"):
            asked.say(302, Location="/portal?token=s3cret")
        else:
            asked.say(200, LOGIN, Content_Type="text/html")

    with serving(answer) as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
        with pytest.raises(UnreachableError) as raised:
            project_page("vllm")
    assert dict(raised.value.details)["leads to"] == f"{server.url}/portal"
    assert "s3cret" not in str(raised.value.as_json())


@pytest.mark.parametrize(
    "body",
    [
        b"<!DOCTYPE html><html><body></body></html>",
        b"<html><head><title>Links for vllm</title></head><body><h1>Links for vllm</h1></body></html>",
        # devpi has a form on each page.
        b"<html><head><title>root/pypi: links for vllm</title></head><body><form action='refresh'><input type='submit'></form></body></html>",
        b"<html><head><title>Index of /simple/vllm/</title></head><body><h1>Index of /simple/vllm/</h1><a href='../'>../</a></body></html>",
        b"<html><head><meta name='pypi:repository-version' content='1.0'></head><body><script></script>none</body></html>",
        b"<html><body><script></script><a href='vllm-0.1-py3-none-any.whl#sha256=00'>vllm-0.1-py3-none-any.whl</a></body></html>",
        b"<html><body><form></form><a href='vllm-0.1.tar.gz'>vllm-0.1.tar.gz</a></body></html>",
    ],
)
def test_a_page_of_an_index_is_one_whatever_else_it_has(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    with serving(lambda asked: asked.say(200, body, Content_Type="text/html")) as server:
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
        with pytest.raises(InputError, match=r"there is no wheel of vllm 9\.9"):
            choose_wheel("vllm", "9.9", Platform.parse("linux/amd64"))


def test_a_login_page_in_the_place_of_a_wheel_is_no_wheel_that_was_changed() -> None:
    with serving(lambda asked: asked.say(200, LOGIN, Content_Type="text/html")) as server:
        link = WheelLink(f"{server.url}/vllm-9.9-py3-none-any.whl", "vllm-9.9-py3-none-any.whl", "0" * 64)
        with pytest.raises(UnreachableError, match="a web page comes in its place") as raised:
            wheel_file(link, context=Context())
    assert raised.value.exit_code == 5


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
