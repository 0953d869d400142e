"""The backends that a router chooses between, and their limits: what `--short` and `--long` name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from builder.documents.lock import Lock
from builder.documents.profile import Profile
from builder.documents.record import MODEL_FOLDER
from builder.serve.container import locked_profile
from builder.serve.deploy.service import Service, make_service, served_name
from builder.util.errors import InputError

SHORT, LONG = "short", "long"
_WHAT = "PROFILE@URL"


@dataclass(frozen=True)
class Target:
    """One backend of a router.

    `url` has no path: the server's root, below which `/tokenize` and `/v1` are. `max_prompt`, `max_model_len` and
    `completion` are in tokens; None where nothing promises them. `service` is set when the same files run the server.
    """

    name: str
    role: str
    url: str
    served: str
    profile: Profile | None = None
    max_prompt: int | None = None
    max_model_len: int | None = None
    completion: int | None = None
    service: Service | None = None
    image: str | None = None


def short_target(lock: Lock, given: str, image: str | None, *, seconds: int | None, number: int = 1) -> Target:
    """The backend of `--short PROFILE@URL`, or of `--short PROFILE` where the files run it from `image`.

    Raises `InputError` when the profile has no envelope, or cannot serve the one it has.
    """
    name, _, url = given.partition("@")
    if "://" in name:
        raise InputError(f"--short {given!r} names no profile", hint=f"the envelope is the profile's: --short {_WHAT}")
    target = _served(lock, SHORT, name, url, image, seconds=seconds, number=number)
    envelope, length = locked_profile(lock, name).envelope, target.max_model_len
    if envelope is None:
        raise InputError(f"profile {name} has no envelope: nothing says which prompts it takes", hint="add to the profile: envelope: {prompt: TOKENS, completion: TOKENS}")  # fmt: skip
    if length is None:
        raise InputError(f"profile {name} has no max-model-len", hint="pin max-model-len in the profile's flags")
    if envelope.prompt + envelope.completion > length:
        raise InputError(
            f"profile {name} cannot serve its envelope",
            details=[("envelope", f"{envelope.prompt} + {envelope.completion} tokens"), ("max-model-len", str(length))],
            hint="choose a profile that can: `builder profile list` shows the envelopes",
        )
    return target


def long_target(
    lock: Lock,
    given: str,
    image: str | None,
    *,
    seconds: int | None,
    length: int | None,
    served: str | None,
    number: int = 1,
) -> Target:
    """The backend of `--long URL`, `--long PROFILE@URL`, or `--long PROFILE` where the files run it from `image`.

    `length` is its max-model-len where no profile says it; without either the router asks the server.
    """
    if "://" in given and "@" not in given.partition("://")[0]:
        url = _url(given)
        return Target(f"{LONG}-{number}", LONG, url, served or MODEL_FOLDER, max_model_len=length)
    name, _, url = given.partition("@")
    target = _served(lock, LONG, name, url, image, seconds=seconds, number=number)
    return Target(**{**target.__dict__, "max_model_len": target.max_model_len or length, "served": served or target.served, "max_prompt": None})  # fmt: skip


def check_together(model: str, targets: Sequence[Target]) -> None:
    """Raises `InputError` when two backends are one server, or the model's name means something else to LiteLLM."""
    seen: dict[str, Target] = {}
    for each in targets:
        other = seen.setdefault(each.url, each)
        if other is not each:
            raise InputError(
                f"{other.name} and {each.name} are one server: {each.url}",
                hint="name another server or profile: a profile runs once in the same files" if each.service else "name each server once",
            )  # fmt: skip
    if not model or "," in model or not model.isprintable() or " " in model:
        raise InputError(f"{model!r} is not a model's name", hint="without spaces and commas: --model-name NAME")
    if model in {each.name for each in targets}:
        raise InputError(f"the model cannot have the name of a backend: {model}", hint="--model-name NAME")


def _served(
    lock: Lock, role: str, name: str, url: str, image: str | None, *, seconds: int | None, number: int
) -> Target:
    profile = locked_profile(lock, name)
    service = make_service(lock, name, image, seconds=seconds) if image else None
    if not url:
        if service is None:
            raise InputError(f"where is {name} served?", hint=f"--{role} {name}@URL, or --image REF@DIGEST to run it from the same files")  # fmt: skip
        url = f"http://{service.name}:{service.port}"
        owned: Service | None = service
    else:
        owned = None
    envelope = profile.envelope
    return Target(
        name=f"{role}-{number}", role=role, url=_url(url), served=served_name(profile), profile=profile,
        max_prompt=envelope.prompt if envelope else None, max_model_len=_length(profile),
        completion=envelope.completion if envelope else None, service=owned, image=service.image if service else None,
    )  # fmt: skip


def _length(profile: Profile) -> int | None:
    given = profile.flags.get("max-model-len", profile.flags.get("max_model_len"))
    return given if isinstance(given, int) and not isinstance(given, bool) else None


def _url(text: str) -> str:
    """A server's root. Raises `InputError` for anything else."""
    parts = urlsplit(text)
    path = parts.path.rstrip("/").removesuffix("/v1")
    plain = parts.scheme in ("http", "https") and parts.hostname and not (path or parts.query or parts.fragment)
    if not plain or parts.username or re.search(r"\s", text):
        raise InputError(
            f"{text!r} is not the URL of a server", hint="scheme, host and port, such as http://10.0.0.2:8000"
        )
    return f"{parts.scheme}://{parts.netloc}"
