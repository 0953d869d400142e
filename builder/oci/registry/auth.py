"""Authentication towards one registry: a 401's challenge is followed, tokens are kept by repository and action.

Source: Docker's token authentication. No secret is printed, and none is sent to another host.
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Sequence
from urllib.parse import urlsplit

import requests
from requests.auth import HTTPBasicAuth

from builder.oci.registry.credentials import Credentials, find_credentials
from builder.oci.registry.endpoint import timeout
from builder.util.errors import UnreachableError


class Authenticator:
    """What is known of a registry's authentication. Threads may share it."""

    def __init__(self, registry: str) -> None:
        self.registry = registry
        self._tokens: dict[str, str] = {}
        self._basic = False
        self._credentials: Credentials | None = None
        self._looked_up = False
        self._lock = threading.RLock()

    def authorization(self, scopes: Sequence[str]) -> str | None:
        """The value of the Authorization header for a request that needs `scopes`, as far as it is known."""
        if self._basic:
            credentials = self.credentials()
            if credentials is not None:
                secret = f"{credentials.username}:{credentials.secret}".encode()
                return "Basic " + base64.b64encode(secret).decode()
        token = self._tokens.get(" ".join(scopes))
        return f"Bearer {token}" if token else None

    def credentials(self) -> Credentials | None:
        with self._lock:
            if not self._looked_up:
                self._credentials = find_credentials(self.registry)
                self._looked_up = True
            return self._credentials

    def challenged(self, answer: requests.Response, scopes: Sequence[str], sent: str | None) -> None:
        """Follow a 401: remember basic authentication, or fetch a token for just these scopes.

        `sent` is the authorization that was refused; another thread may have renewed it already.
        """
        kind, _, rest = answer.headers.get("WWW-Authenticate", "").partition(" ")
        if kind.lower() == "basic":
            self._basic = True
        if kind.lower() != "bearer":
            return
        fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        realm = fields.get("realm", "")
        if urlsplit(realm).scheme not in ("http", "https"):
            raise UnreachableError(f"{self.registry} names no token server", details=[("said", rest[:200])])
        with self._lock:
            if self.authorization(scopes) == sent:
                self._tokens[" ".join(scopes)] = self._fetch_token(realm, fields.get("service"), scopes)

    def _fetch_token(self, realm: str, service: str | None, scopes: Sequence[str]) -> str:
        credentials = self.credentials()
        parameters: list[tuple[str, str]] = [("scope", scope) for scope in scopes]
        if service:
            parameters.append(("service", service))
        try:
            if credentials is not None and credentials.identity_token:
                form = [
                    *parameters,
                    ("grant_type", "refresh_token"),
                    ("refresh_token", credentials.secret),
                    ("client_id", "overlay-image-builder"),
                ]
                answer = requests.post(realm, data=form, timeout=timeout())
            else:
                auth = HTTPBasicAuth(credentials.username, credentials.secret) if credentials else None
                answer = requests.get(realm, params=parameters, auth=auth, timeout=timeout())
            document = answer.json() if answer.status_code == 200 else {}
        except (requests.RequestException, ValueError) as error:
            raise UnreachableError(
                f"the token server of {self.registry} does not answer: {type(error).__name__}",
                details=[("where", realm)],
                hint="check the network; BUILDER_HTTP_TIMEOUT is the limit in seconds",
            ) from error
        token = document.get("token") or document.get("access_token") if isinstance(document, dict) else None
        if not token:
            raise self.denied(answer.status_code, f"the token server of {self.registry}")
        return str(token)

    def denied(self, status: int, what: str) -> UnreachableError:
        """The error for an access that is refused."""
        known = "with the credentials that are stored" if self.credentials() else "without credentials"
        return UnreachableError(
            f"{what} refuses access ({status}), {known}",
            hint=f"log in with `docker login {self.registry}`, or check the name",
        )


class SameHost(requests.auth.AuthBase):
    """Sends an authorization to the host that it is for, and to no other (requests drops it on a redirect elsewhere)."""

    def __init__(self, value: str | None, url: str) -> None:
        self._value = value
        self._host = urlsplit(url).netloc

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._value is not None and urlsplit(request.url or "").netloc == self._host:
            request.headers["Authorization"] = self._value
        return request
