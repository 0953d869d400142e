"""Addresses with a name and password: they are sent, never shown, and bound to one origin."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.net.address import is_loopback, keeps_secrets, origin, parse_address
from builder.util.redact import without_secrets

UNRESERVED = st.text(st.sampled_from("abcXYZ019-._~!$&*+,;=:@%"), min_size=1, max_size=20)


@given(name=st.text(st.sampled_from("abz09-._~"), min_size=1, max_size=9), secret=UNRESERVED)
def test_the_name_and_password_leave_the_address(name: str, secret: str) -> None:
    text = f"https://{name}:{secret}@host.example:8443/simple/"
    found = parse_address(text)
    assert found is not None
    assert found.url == "https://host.example:8443/simple"
    assert found.basic is not None
    assert base64.b64decode(found.basic.removeprefix("Basic ")).decode().partition(":")[0] == name
    assert secret not in repr(found).replace("host.example", "") or len(secret) < 3
    assert without_secrets(f"cannot read {text} now") == "cannot read https://host.example:8443/simple/ now"


@pytest.mark.parametrize(
    "text", ["", "host", "http://", "http://[", "http://a:b", "http://a b", "http://a?b", "http://a#b", "ftp://a", "http://a:0"]
)  # fmt: skip
def test_what_is_not_an_address(text: str) -> None:
    assert parse_address(text) is None


def test_an_origin_is_scheme_host_and_port() -> None:
    assert origin("https://Host/x") == origin("https://host:443/y")
    assert origin("https://host") != origin("http://host")
    assert origin("https://host") != origin("https://host:8443")
    assert origin("https://user@host") == ("", "", None)


def test_where_a_secret_may_go() -> None:
    assert keeps_secrets("https://anywhere.example")
    assert keeps_secrets("http://127.9.9.9:1")
    assert keeps_secrets("http://[::1]:1")
    assert keeps_secrets("http://localhost")
    assert not keeps_secrets("http://anywhere.example")
    assert not keeps_secrets("http://127.0.0.1.example")
    assert not keeps_secrets("http://127.0.0.1@evil.example")
    assert is_loopback("[::1]:5000")
    assert not is_loopback("[")


def test_a_secret_that_is_known_is_replaced() -> None:
    assert without_secrets("token s3cret of https://a:b@c/d", "s3cret", None, "") == "token *** of https://c/d"
