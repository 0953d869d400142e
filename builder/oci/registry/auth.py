"""Authentication towards one registry: a 401's challenge is followed, tokens are kept by repository and action.

Source: Docker's token authentication (https://distribution.github.io/distribution/spec/auth/token/). Secrets go to whom they
belong: the registry's credentials to the registry's own host and to the realm that it names itself, over TLS (plain HTTP
only on this machine, or where BUILDER_INSECURE_REGISTRIES allows it); never across a redirect (CVE-2020-15157), never to an
upload's foreign location, and to a mirror only its own.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlencode

from builder.net.address import basic, host_of, origin
from builder.net.client import Client, NoResponseError, Response, Rules, nobody
from builder.oci.registry.credentials import Credentials, damaged_files, find_credentials
from builder.oci.registry.endpoint import Endpoint
from builder.oci.registry.foreign import shown
from builder.util.context import Context
from builder.util.errors import UnreachableError
from builder.util.files import cache_dir, write_file
from builder.util.redact import without_secrets

_CLIENT_ID = "overlay-image-builder"
_TOKEN_SIZE = 1 << 20
_WARNED: set[Path] = set()
_WARNING = threading.Lock()


class Authenticator:
    """What is known of a registry's authentication. Threads may share it."""

    def __init__(self, name: str, endpoint: Endpoint, client: Client, context: Context) -> None:
        self._name = name
        self._endpoint = endpoint
        self._client = client
        self._context = context
        self._tokens: dict[str, str] = {}
        self._basic = False
        self._credentials: Credentials | None = None
        self._searched = False
        self._lock = threading.RLock()

    def authorization(self, scopes: Sequence[str], url: str) -> str | None:
        """The Authorization header for a request to `url` that needs `scopes`, as far as it is known.

        None for every host but the registry's own.
        """
        if not self._endpoint.is_home(url):
            return None
        if self._basic:
            secret = self._secret()
            if secret is not None and self._endpoint.may_tell(url):
                return secret
        token = self._tokens.get(" ".join(scopes))
        return f"Bearer {token}" if token else None

    def challenged(self, response: Response, scopes: Sequence[str], sent: str | None) -> None:
        """Follow a 401: remember basic authentication, or fetch a token for just these scopes.

        `sent` is the authorization that was refused; another thread may have renewed it already. A challenge of any other
        host, behind a redirect or an upload's location, is not the registry's and is ignored.
        """
        if not self._endpoint.is_home(response.url):
            return
        kind, _, rest = response.headers.get("WWW-Authenticate", "").partition(" ")
        if kind.lower() == "basic":
            self._basic = True
            if self._secret() is not None and not self._endpoint.may_tell(response.url):
                raise self._exposed(f"{self._name} is reached over plain HTTP", self._endpoint.base)
        if kind.lower() != "bearer":
            return
        fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        realm = fields.get("realm", "")
        if origin(realm)[0] not in ("http", "https") or not origin(realm)[1]:
            raise UnreachableError(
                f"{self._name} names no token server",
                details=[("message", without_secrets(rest)[:200])],
                hint="check the registry's name, and whether a proxy is in between",
            )
        with self._lock:
            if self.authorization(scopes, response.url) == sent:
                self._tokens[" ".join(scopes)] = self._fetch_token(realm, fields.get("service"), scopes)

    def denied(self, status: int, what: str) -> UnreachableError:
        """The error for an access that is refused."""
        known = "with the credentials that are stored" if self._has_secret() else "without credentials"
        return UnreachableError(
            f"{what} refuses access ({status}), {known}",
            hint=f"log in with `docker login {self._endpoint.owner}`, or check the name",
        )

    def _secret(self) -> str | None:
        """The registry's own name and password as an Authorization header; None for an identity token."""
        found = self._stored()
        if self._endpoint.basic is not None or found is None or found.identity_token:
            return self._endpoint.basic
        return basic(found.username, found.secret)

    def _stored(self) -> Credentials | None:
        with self._lock:
            if not self._searched:
                self._credentials = find_credentials(self._endpoint.owner)
                self._searched = True
                self._warn_of_damaged()
        return self._credentials

    def _warn_of_damaged(self) -> None:
        """Name the files whose logins are not used; each once, however many registries are asked."""
        for path, why in damaged_files():
            with _WARNING:
                new = path not in _WARNED
                _WARNED.add(path)
            if new:
                self._context.console.warn(f"the logins in {path} are not used: {why}. Correct the file, or remove it")

    def _has_secret(self) -> bool:
        return self._endpoint.basic is not None or self._stored() is not None

    def _fetch_token(self, realm: str, service: str | None, scopes: Sequence[str]) -> str:
        if self._has_secret():
            if not self._endpoint.may_tell(realm):
                raise self._exposed(f"{self._name} names a token server without TLS", realm)
            self._tell_new_realm(realm)
        parameters: list[tuple[str, str]] = [("scope", scope) for scope in scopes]
        if service:
            parameters.append(("service", service))
        try:
            response = self._ask_realm(realm, parameters)
        except NoResponseError as error:
            raise UnreachableError(
                f"the token server of {self._name} cannot be reached: {error.message}",
                details=[("where", realm)],
                hint=error.hint,
            ) from error
        try:
            document = response.json() if response.status == 200 else {}
        except ValueError:
            document = {}
        token = document.get("token") or document.get("access_token") if isinstance(document, dict) else None
        if response.status >= 500 or response.status in (408, 429):
            raise UnreachableError(
                f"the token server of {self._name} responds {response.status}", details=[("where", realm)],
                hint="wait, then try again",
            )  # fmt: skip
        if not isinstance(token, str) or not all("!" <= character <= "~" for character in token):
            if response.status < 400:
                raise UnreachableError(
                    f"the token server of {self._name} does not give a token",
                    details=[("where", without_secrets(response.url.partition("?")[0])), ("response", shown(response))],
                    hint="a login page of the network or a proxy may respond in its place: check the network, then try again",
                )
            raise self.denied(response.status, f"the token server of {self._name}")
        return token

    def _ask_realm(self, realm: str, parameters: list[tuple[str, str]]) -> Response:
        """Redirects within the realm's host are followed for a GET alone: a 307 would send the refresh token again."""
        secret, found = self._secret(), self._stored()
        if self._endpoint.basic is None and found is not None and found.identity_token:
            form = [
                *parameters, ("grant_type", "refresh_token"), ("refresh_token", found.secret), ("client_id", _CLIENT_ID),
            ]  # fmt: skip
            return self._client.send(
                "POST", realm, data=urlencode(form), rules=Rules(authorization=nobody), size=_TOKEN_SIZE,
                headers={"Content-Type": "application/x-www-form-urlencoded"}, attempts=self._context.limits.attempts,
            )  # fmt: skip
        rules = Rules(authorization=lambda url: secret if origin(url) == origin(realm) else None)
        joiner = "&" if "?" in realm else "?"
        return self._client.send("GET", f"{realm}{joiner}{urlencode(parameters)}", rules=rules, size=_TOKEN_SIZE)

    def _tell_new_realm(self, realm: str) -> None:
        """Warn, before credentials are sent, that the token server is on another host than it was at the last login."""
        host = host_of(realm)
        path = cache_dir("realms") / re.sub(r"[^A-Za-z0-9.-]", "_", self._endpoint.owner)
        try:
            before = path.read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            before = ""
        if before == host:
            return
        if before:
            self._context.console.warn(
                f"{self._name} sends logins to {host} now; before it was {before}. Log out if that is not expected"
            )
        elif host != host_of(self._endpoint.base):
            self._context.console.detail(f"{self._name} sends logins to {host}")
        write_file(path, host.encode())

    def _exposed(self, what: str, where: str) -> UnreachableError:
        return UnreachableError(
            f"{what}: credentials are not sent",
            details=[("where", without_secrets(where))],
            hint="use TLS; BUILDER_INSECURE_REGISTRIES names hosts for which plain HTTP is allowed",
        )
