"""A registry's credentials go to whom they belong: every position in which somebody else could be told, with real servers."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from builder.cli.console import Console
from builder.oci.registry.client import Registry
from builder.oci.registry.credentials import damaged_files, find_credentials
from builder.oci.registry.endpoint import endpoint
from builder.oci.registry.upload import at_hand, upload
from builder.oci.types import Descriptor
from builder.util.context import Context
from builder.util.errors import BuilderError, InputError, UnreachableError
from builder.util.files import sha256
from tests.support.clock import Owned
from tests.support.loopback import Server, serving

PASSWORD = "Tr0ub4dor"
BASIC = "Basic " + base64.b64encode(f"me:{PASSWORD}".encode()).decode()
BODY = b"{}"
DIGEST = f"sha256:{sha256(BODY)}"
BLOB = Descriptor("", DIGEST, len(BODY))
CHALLENGE = 'Bearer realm="{realm}",service="test"'


@pytest.fixture
def owned() -> Owned:
    return Owned()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Docker configuration, and nothing else that this machine knows."""
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "BUILDER_REGISTRY_MIRRORS", "BUILDER_INSECURE_REGISTRIES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("BUILDER_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def login(home: Path, *names: str, token: str | None = None) -> None:
    entry = {"identitytoken": token} if token else {"auth": BASIC.removeprefix("Basic ")}
    (home / "config.json").write_text(json.dumps({"auths": dict.fromkeys(names, entry)}))


def host(server: Server) -> str:
    return server.url.removeprefix("http://")


def told(*servers: Server) -> list[str]:
    """The secrets that servers were told, in headers and bodies."""
    headers = [h.get("Authorization", "") for each in servers for _, _, h in each.seen]
    return [text for text in headers if text] + [body for each in servers for body in each.bodies if body]


def registry(realm: str, *, kind: str = CHALLENGE) -> Any:
    """A registry that wants a token (or a password) for everything, and then has one manifest."""

    def serve(handler: Any) -> None:
        if handler.headers.get("Authorization") in ("Bearer t0ken", BASIC):
            handler.say(200, BODY, Docker_Content_Digest=DIGEST)
        else:
            handler.say(401, WWW_Authenticate=kind.format(realm=realm))

    return serve


def realm(handler: Any) -> None:
    handler.say(200, b'{"token": "t0ken"}')


@pytest.fixture
def thief() -> Iterator[Server]:
    """Another host, which would like to know: whatever it is asked, it asks for a login at itself."""

    def serve(handler: Any) -> None:
        handler.say(401, WWW_Authenticate=CHALLENGE.format(realm=f"{server.url}/token"))

    with serving(serve, "127.0.0.2") as server:
        yield server


def test_a_login_goes_to_the_realm_and_its_token_to_the_registry(home: Path, owned: Owned) -> None:
    with serving(realm) as tokens, serving(registry(f"{tokens.url}/token")) as server:
        login(home, host(server))
        assert Registry(host(server), context=owned.context).manifest("a/b", "v1")[2] == DIGEST
        assert told(tokens) == [BASIC]
        assert told(server) == ["Bearer t0ken"]


def test_basic_authentication_goes_to_the_registry(home: Path, owned: Owned) -> None:
    with serving(registry("", kind="Basic realm=x")) as server:
        login(home, host(server))
        assert Registry(host(server), context=owned.context).manifest("a/b", "v1")[2] == DIGEST
        assert told(server) == [BASIC]


@pytest.mark.parametrize("kind", [CHALLENGE, "Basic realm=x"])
@pytest.mark.parametrize("what", ["manifest", "blob", "has_blob", "has_manifest"])
def test_the_target_of_a_redirect_is_told_nothing(home: Path, owned: Owned, kind: str, what: str) -> None:
    """CVE-2020-15157's class: the challenge that is followed must be the registry's own."""

    def stranger(handler: Any) -> None:
        handler.say(401, WWW_Authenticate=kind.format(realm=f"{other.url}/token"))

    with (
        serving(stranger, "127.0.0.2") as other,
        serving(lambda handler: handler.say(307, Location=other.url)) as server,
    ):
        login(home, host(server), host(other))
        client = Registry(host(server), context=owned.context)
        with pytest.raises(UnreachableError, match="401"):
            if what == "blob":
                client.read_blob("a/b", BLOB)
            else:
                getattr(client, what)("a/b", "v1" if "manifest" in what else DIGEST)
        assert other.seen
        assert told(other, server) == []


def test_a_redirect_after_a_login_goes_without_it(home: Path, owned: Owned) -> None:
    def storage(handler: Any) -> None:
        handler.say(200, BODY)

    def serve(handler: Any) -> None:
        if handler.headers.get("Authorization") == "Bearer t0ken":
            handler.say(307, Location=f"{other.url}/signed?x=y")
        else:
            handler.say(401, WWW_Authenticate=CHALLENGE.format(realm=f"{tokens.url}/token"))

    with serving(realm) as tokens, serving(storage, "127.0.0.2") as other, serving(serve) as server:
        login(home, host(server))
        assert Registry(host(server), context=owned.context).read_blob("a/b", BLOB) == BODY
        assert other.seen
        assert told(other) == []


@pytest.mark.parametrize("size", [2, 9 << 20])
def test_a_foreign_upload_location_is_told_nothing(home: Path, owned: Owned, thief: Server, size: int) -> None:
    """Neither the token that the registry has got, nor a login of its own when it asks for one."""

    def serve(handler: Any) -> None:
        if handler.headers.get("Authorization") != "Bearer t0ken":
            handler.say(401, WWW_Authenticate=CHALLENGE.format(realm=f"{tokens.url}/token"))
        elif handler.command == "POST":
            handler.say(202, Location=f"{thief.url}/upload")
        else:
            handler.say(404)

    data = bytes(size)
    with serving(realm) as tokens, serving(serve) as server:
        login(home, host(server), host(thief))
        with pytest.raises(UnreachableError):
            upload(
                Registry(host(server), context=owned.context), "a/b",
                Descriptor("", f"sha256:{sha256(data)}", size), at_hand(data),
            )  # fmt: skip
        assert thief.seen
        assert [h for _, _, h in thief.seen if "Authorization" in h] == []


def test_a_token_server_cannot_pass_a_login_on(home: Path, owned: Owned, thief: Server) -> None:
    passing_on = serving(lambda handler: handler.say(302, Location=f"{thief.url}/token"))
    with passing_on as tokens, serving(registry(f"{tokens.url}/token")) as server:
        login(home, host(server))
        with pytest.raises(UnreachableError, match="redirect"):
            Registry(host(server), context=owned.context).manifest("a/b", "v1")
        assert thief.seen == []


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_refresh_token_is_not_sent_again_on_a_307(home: Path, owned: Owned, thief: Server, elsewhere: bool) -> None:
    def tokens_of(handler: Any) -> None:
        if handler.path == "/token":
            handler.say(307, Location=f"{thief.url if elsewhere else ''}/other")
        else:
            handler.say(200, b'{"token": "t0ken"}')

    with serving(tokens_of) as tokens, serving(registry(f"{tokens.url}/token")) as server:
        login(home, host(server), token=PASSWORD)
        with pytest.raises(UnreachableError, match="does not give a token"):
            Registry(host(server), context=owned.context).manifest("a/b", "v1")
        assert thief.seen == []
        assert [path for _, path, _ in tokens.seen] == ["/token"]
        assert PASSWORD in tokens.bodies[0]


def test_a_mirror_gets_its_own_login_or_none(home: Path, owned: Owned, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = ("https://index.docker.io/v1/", "docker.io", "registry-1.docker.io")
    with serving(registry("", kind="Basic realm=x")) as mirror:
        monkeypatch.setenv("BUILDER_REGISTRY_MIRRORS", f"docker.io={mirror.url}/hub")
        login(home, *hub)
        with pytest.raises(UnreachableError, match="without credentials") as caught:
            Registry("docker.io", context=owned.context).manifest("library/x", "v1")
        assert f"docker login {host(mirror)}" in str(caught.value.hint)
        assert told(mirror) == []
        login(home, *hub, host(mirror))
        Registry("docker.io", context=owned.context).manifest("library/x", "v1")
        assert told(mirror) == [BASIC]
        assert endpoint("docker.io").prefix == "hub/"


def test_a_mirrors_realm_gets_no_login_of_the_hub(home: Path, owned: Owned, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(realm, "127.0.0.2") as tokens, serving(registry(f"{tokens.url}/token")) as mirror:
        monkeypatch.setenv("BUILDER_REGISTRY_MIRRORS", f"docker.io={mirror.url}")
        login(home, "https://index.docker.io/v1/")
        Registry("docker.io", context=owned.context).manifest("library/x", "v1")
        assert told(tokens) == []


def test_plain_http_is_told_nothing_without_leave(home: Path, owned: Owned, monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's own name is not a loopback address to the rule, though it is reached without a network."""
    with serving(registry("", kind="Basic realm=x"), "0.0.0.0") as mirror:
        plain = f"ip6-outside:{mirror.url.rpartition(':')[2]}"
        monkeypatch.setattr("socket.getaddrinfo", _resolving(plain.partition(":")[0]))
        monkeypatch.setenv("BUILDER_REGISTRY_MIRRORS", f"docker.io=http://{plain}")
        login(home, plain)
        with pytest.raises(UnreachableError, match="plain HTTP: credentials are not sent"):
            Registry("docker.io", context=owned.context).manifest("library/x", "v1")
        assert told(mirror) == []
        monkeypatch.setenv("BUILDER_INSECURE_REGISTRIES", plain)
        Registry("docker.io", context=owned.context).manifest("library/x", "v1")
        assert told(mirror) == [BASIC]


def test_a_realm_without_tls_is_told_nothing(home: Path, owned: Owned, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(realm, "0.0.0.0") as tokens:
        plain = f"outside:{tokens.url.rpartition(':')[2]}"
        monkeypatch.setattr("socket.getaddrinfo", _resolving("outside"))
        with serving(registry(f"http://{plain}/token")) as server:
            login(home, host(server))
            with pytest.raises(UnreachableError, match="without TLS: credentials are not sent"):
                Registry(host(server), context=owned.context).manifest("a/b", "v1")
            assert tokens.seen == []
            # Without a login there is nothing to lose.
            login(home, "another.example")
            Registry(host(server), context=owned.context).manifest("a/b", "v1")


def test_a_realm_on_another_host_than_before_is_told(
    home: Path, owned: Owned, capfd: pytest.CaptureFixture[str]
) -> None:
    context = Context(Console(), limits=owned.limits)
    now: list[str] = []
    with (
        serving(realm) as first,
        serving(realm, "127.0.0.2") as second,
        serving(lambda handler: registry(now[0])(handler)) as server,  # noqa: PLW0108  it changes
        nullcontext(),
    ):
        login(home, host(server))
        for tokens, warned in ((first, 0), (first, 0), (second, 1), (second, 0)):
            now[:] = [f"{tokens.url}/token"]
            Registry(host(server), context=context).manifest("a/b", "v1")
            assert capfd.readouterr().err.count("sends logins to 127.0.0.2 now; before it was 127.0.0.1") == warned


@pytest.mark.parametrize(
    "challenge",
    ['Bearer realm="ftp://x"', "Bearer", 'Bearer realm=""', f'Bearer realm="http://me:{PASSWORD}@127.0.0.1/"', 'Bearer realm="http://["'],
)  # fmt: skip
def test_a_challenge_that_names_no_realm(home: Path, owned: Owned, challenge: str) -> None:
    with serving(lambda handler: handler.say(401, WWW_Authenticate=challenge)) as server:
        with pytest.raises(UnreachableError, match="names no token server") as caught:
            Registry(host(server), context=owned.context).manifest("a/b", "v1")
        assert PASSWORD not in str(caught.value.as_json())


@pytest.mark.parametrize("address", ["http://me:{}@{}/hub", "http://me:{}@[{}", "ftp://me:{}@{}"])
def test_a_password_in_a_mirrors_address_is_not_shown(
    owned: Owned, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], address: str
) -> None:
    """It is the mirror's own login; whatever goes wrong, no message has it."""
    statuses = iter([404, 500, 500, 500, 500])

    def serve(handler: Any) -> None:
        if handler.headers.get("Authorization") != BASIC:
            handler.say(401, WWW_Authenticate="Basic realm=x")
        else:
            handler.say(next(statuses, 403), json.dumps({"errors": [{"code": "X", "message": mirror.url}]}).encode())

    with serving(serve) as mirror:
        monkeypatch.setenv("BUILDER_REGISTRY_MIRRORS", f"docker.io={address.format(PASSWORD, host(mirror))}")
        for _ in range(3):
            with pytest.raises(BuilderError) as caught:
                Registry("docker.io", context=Context(Console(verbosity=2), limits=owned.limits)).manifest("a/b", "v1")
            printed = capfd.readouterr()
            assert PASSWORD not in str(caught.value.as_json()) + printed.out + printed.err
        if address.startswith("http://me:{}@{}"):
            assert set(told(mirror)) == {BASIC}


def _resolving(name: str) -> Any:
    """A resolver that knows one more name, of this machine."""
    import socket

    real = socket.getaddrinfo

    def resolve(wanted: Any, *arguments: Any, **options: Any) -> Any:
        return real("127.0.0.1" if wanted == name else wanted, *arguments, **options)

    return resolve


@pytest.mark.parametrize(
    "mirrors", ["https://mirror.example", "docker.io", "docker.io=", "docker.io:https://a.example"]
)
def test_a_mirror_without_a_registry_is_not_passed_over(monkeypatch: pytest.MonkeyPatch, mirrors: str) -> None:
    monkeypatch.setenv("BUILDER_REGISTRY_MIRRORS", mirrors)
    with pytest.raises(InputError, match="names no mirror") as raised:
        endpoint("docker.io")
    assert raised.value.hint == "write docker.io=https://mirror.example"


@pytest.mark.parametrize(
    "text",
    ["[]", "[" * 20_000, '{"auths": ["x"], "credHelpers": "x"}', '{"auths": {"r.example": {"auth": 5}}}',
     '{"auths": {"r.example": {"auth": "\\u00fc"}}}', '{"auths": {"r.example": "x"}}'],
)  # fmt: skip
def test_a_file_of_logins_that_is_something_else_has_none(home: Path, text: str) -> None:
    (home / "config.json").write_text(text)
    assert find_credentials("r.example") is None


@pytest.mark.parametrize(
    ("text", "why"),
    [(b'{"auths":\n {"r": "%b",}}', "it is not valid JSON: line 2, column"), (b'["%b"]', "it is not a JSON object"),
     (b'{"%b": "\xff"}', "it is not valid JSON"), (None, "it cannot be read: Is a directory")],
)  # fmt: skip
def test_a_damaged_file_of_logins_is_named_once_without_its_content(
    home: Path, owned: Owned, capfd: pytest.CaptureFixture[str], text: bytes | None, why: str
) -> None:
    if text is None:
        (home / "config.json").mkdir()
    else:
        (home / "config.json").write_bytes(text % PASSWORD.encode())
    context = Context(Console(), limits=owned.limits)
    with serving(registry("", kind="Basic realm=x")) as server:
        for _ in range(2):
            with pytest.raises(UnreachableError, match="without credentials"):
                Registry(host(server), context=context).manifest("a/b", "v1")
    printed = " ".join(capfd.readouterr().err.split())
    assert printed.count(f"the logins in {home / 'config.json'} are not used: {why}") == 1
    assert PASSWORD not in printed


def test_an_absent_or_empty_file_of_logins_is_not_damaged(home: Path) -> None:
    assert damaged_files() == []
    (home / "config.json").write_bytes(b"\n")
    assert damaged_files() == []
