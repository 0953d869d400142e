"""Servers at a registry's address that are no registry: a login page, another service's JSON, an unfollowed redirect."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from builder.oci.registry.client import Registry
from builder.oci.registry.foreign import NotARegistryError
from builder.oci.registry.upload import at_hand, upload
from builder.oci.types import Descriptor
from builder.util.errors import UnreachableError
from builder.util.files import sha256
from tests.support.clock import Owned
from tests.support.loopback import Server, serving

PAGE = b"<!doctype html><title>Log in</title>"
DIGEST = f"sha256:{sha256(b'x')}"


@pytest.fixture(autouse=True)
def _no_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "BUILDER_REGISTRY_MIRRORS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=[("text/html; charset=utf-8", PAGE), ("application/json", b'{"status": "ok"}'), ("", b"ok")])
def portal(request: pytest.FixtureRequest) -> Iterator[Server]:
    """It responds 200 with the same body to everything."""
    kind, body = request.param
    headers = {"Content-Type": kind} if kind else {}
    with serving(lambda handler: handler.say(200, body, **headers)) as server:
        yield server


def by_tag(client: Registry) -> object:
    return client.manifest("a/b", "v1")


def by_digest(client: Registry) -> object:
    return client.manifest("a/b", DIGEST)


def head(client: Registry) -> object:
    return client.has_manifest("a/b", "v1")


def mount(client: Registry) -> object:
    return client.mount("a/b", DIGEST, "a/c")


def put(client: Registry) -> object:
    return client.put_manifest("a/b", "v1", b"{}", "application/json")


def send(client: Registry) -> None:
    upload(client, "a/b", Descriptor("", DIGEST, 1), at_hand(b"x"))


@pytest.mark.parametrize("ask", [by_tag, by_digest, head, mount, put, send])
def test_a_login_page_is_no_registry(portal: Server, owned: Owned, ask: Callable[[Registry], object]) -> None:
    host = portal.url.removeprefix("http://")
    with pytest.raises(NotARegistryError, match=f"{host} does not respond as a registry") as caught:
        ask(Registry(host, context=owned.context))
    kind = portal.seen and dict(caught.value.details)["response"]
    assert kind in ("200 with text/html", "200 with application/json", "200 with no content type")
    assert f"curl -i {portal.url}/v2/" in str(caught.value.hint)


def test_a_page_is_no_blob(owned: Owned) -> None:
    with (
        serving(lambda handler: handler.say(200, PAGE, Content_Type="text/html")) as server,
        pytest.raises(NotARegistryError),
    ):
        Registry(server.url.removeprefix("http://"), context=owned.context).has_blob("a/b", DIGEST)


def test_a_web_page_that_nothing_is_found_is_told(owned: Owned) -> None:
    with serving(lambda handler: handler.say(404, PAGE, Content_Type="text/html")) as server:
        client = Registry(server.url.removeprefix("http://"), context=owned.context)
        with pytest.raises(UnreachableError, match="does not exist") as caught:
            by_tag(client)
        # A tag that is to be published may be missing behind a proxy with pages of its own.
        assert client.find_manifest("a/b", "v1") is None
    assert ("response", "404 with text/html") in caught.value.details
    assert f"curl -i {server.url}/v2/" in str(caught.value.hint)


def test_a_redirect_of_an_upload_to_a_login_page_shows_no_query(owned: Owned) -> None:
    with (
        serving(lambda handler: handler.say(302, Location="https://login.example/start?session=s3cret")) as server,
        pytest.raises(NotARegistryError) as caught,
    ):
        mount(Registry(server.url.removeprefix("http://"), context=owned.context))
    assert ("leads to", "https://login.example/start") in caught.value.details
    assert "s3cret" not in str(caught.value.as_json())


def test_a_page_in_the_place_of_one_response_is_attempted_again(owned: Owned) -> None:
    manifest = json.dumps({"schemaVersion": 2}).encode()

    def serve(handler: Any) -> None:
        handler.say(200, PAGE if len(server.seen) == 1 else manifest, Content_Type="text/html")

    with serving(serve) as server:
        client = Registry(server.url.removeprefix("http://"), context=owned.context)
        assert client.manifest("a/b", "v1")[0] == manifest


def test_a_page_in_the_place_of_a_token(owned: Owned) -> None:
    def serve(handler: Any) -> None:
        if handler.path.startswith("/token"):
            handler.say(200, PAGE, Content_Type="text/html")
        else:
            handler.say(401, WWW_Authenticate=f'Bearer realm="{server.url}/token",service="x"')

    with serving(serve) as server, pytest.raises(UnreachableError, match="does not give a token") as caught:
        by_tag(Registry(server.url.removeprefix("http://"), context=owned.context))
    assert ("response", "200 with text/html") in caught.value.details


@pytest.fixture
def owned() -> Owned:
    return Owned()
