"""Whether what the recipes need can be reached: each server once, with short limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from builder.base.wheel_archive import index_endpoint
from builder.checkpoint.hub_access import hub_endpoint
from builder.documents.recipe import Recipe
from builder.documents.reference import Reference
from builder.net.client import Client, no_downgrade
from builder.net.client import Rules as NetRules
from builder.oci.registry.client import Registry
from builder.oci.registry.credentials import damaged_files, find_credentials
from builder.pipeline.doctor.model import Finding
from builder.pulls.access import api_url, github_url
from builder.util.context import Context
from builder.util.errors import EXIT_UNREACHABLE, BuilderError
from builder.util.redact import without_secrets

_SECONDS = 10.0


def credentials(recipes: Iterable[Recipe]) -> Iterator[Finding]:
    """Whether there is a login for each registry; never which."""
    reading = {each.base_reference.image.registry for each in recipes if each.base_reference.kind == "registry"}
    writing = {Reference.parse(each.publish).registry for each in recipes if each.publish is not None}
    for path, why in damaged_files() if reading | writing else ():
        yield Finding(f"logins in {path}", "note", f"not used: {why}", "correct the file, or remove it")
    for name in sorted(reading | writing):
        if find_credentials(name) is not None:
            yield Finding(f"login of {name}", "ok", "present")
        elif name in writing:
            hint = f"docker login {name}; or podman login {name}"
            yield Finding(f"login of {name}", "note", "none: a publication needs one", hint)
        else:
            yield Finding(f"login of {name}", "ok", "none: public images need none")


def network(recipes: Iterable[Recipe], *, context: Context) -> Iterator[Finding]:
    """Every server that a recipe needs, once."""
    limits = replace(context.limits, silence=min(context.limits.silence, _SECONDS), attempts=1)
    short = replace(context, limits=limits)
    asked: dict[str, Callable[[], object]] = {}
    for recipe in recipes:
        base = recipe.base_reference
        if base.kind == "registry":
            asked.setdefault(f"base {base.image}", lambda image=base.image: _manifest(image, short))  # type: ignore[misc]
        elif base.wheels and any("==" in each for each in base.wheels):
            asked.setdefault("package index", lambda: _respond(index_endpoint() or "https://pypi.org/simple/", short))
        if any(each.pull is not None for each in recipe.overlays):
            asked.setdefault("GitHub's API", lambda: _respond(api_url(), short))
            asked.setdefault("GitHub", lambda: _respond(github_url(), short))
        if recipe.checkpoint is not None and recipe.checkpoint.repo is not None:
            asked.setdefault("the Hub", lambda: _respond(hub_endpoint().url, short))
    for name, ask in asked.items():
        try:
            yield Finding(name, "ok", str(ask()))
        except BuilderError as error:
            details = [text for label, text in error.details if label == "why"]
            text = without_secrets("; ".join([error.message, *details]))
            yield Finding(name, "problem", text, error.hint or "check the network", EXIT_UNREACHABLE)


def _manifest(image: Reference, context: Context) -> str:
    found = Registry(image.registry, context=context).manifest(image.repository, image.digest or image.tag or "latest")
    return f"responds, {found[2][:19]}"


def _respond(url: str, context: Context) -> str:
    """Any response tells that the way is open; what it says is another command's matter."""
    if not url.startswith("http"):
        return f"{without_secrets(url)} is for git alone; not asked"
    client = Client(context.limits, NetRules(follows=no_downgrade, passing=lambda _response: False))
    try:
        response = client.send("HEAD", url)
    finally:
        client.close()
    return f"{without_secrets(url)} responds with {response.status}"
