"""How documents name images, platforms and bases. Values only: nothing is looked up here.

Source: OCI image spec 1.1 (platforms) and Docker's distribution reference grammar.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from builder.util.errors import InputError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9](?:[A-Za-z0-9._+!-]*[A-Za-z0-9])?")


def is_digest(text: str) -> bool:
    """Whether `text` is a `sha256:` digest; no other algorithm is taken."""
    return _DIGEST.fullmatch(text) is not None


def with_algorithm(text: str) -> str:
    """A digest that may be written as its 64 hexadecimal digits alone, with `sha256:` in front; other text as it is."""
    return f"sha256:{text}" if re.fullmatch(r"[0-9a-f]{64}", text) else text


@dataclass(frozen=True, order=True)
class Platform:
    """An OCI platform, `os/architecture[/variant]`."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @classmethod
    def parse(cls, text: str) -> Platform:
        parts = text.split("/")
        if len(parts) not in (2, 3) or not all(re.fullmatch(r"[a-z0-9_.]+", part) for part in parts):
            raise InputError(f"{text!r} is not a platform", hint="write it as linux/amd64 or linux/arm64")
        return cls(*parts)


@dataclass(frozen=True)
class Reference:
    """A registry reference, normalised as Docker does: `vllm/vllm-openai:v1` is `docker.io/vllm/vllm-openai:v1`."""

    registry: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Raises `InputError` when `text` is not a reference."""
        rest, digest = text, None
        if "@" in rest:
            rest, digest = rest.split("@", 1)
            digest = with_algorithm(digest)
            if not is_digest(digest):
                raise InputError(
                    f"{text!r} is not an image reference", hint="a digest is sha256: and 64 hexadecimal digits"
                )
        tag = None
        if ":" in rest.rsplit("/", 1)[-1]:
            rest, tag = rest.rsplit(":", 1)
            if not _TAG.fullmatch(tag):
                raise InputError(f"{text!r} is not an image reference", details=[("why", f"{tag!r} is not a tag")])
        registry, repository = "docker.io", rest
        head, slash, tail = rest.partition("/")
        if slash and ("." in head or ":" in head or head == "localhost"):
            registry, repository = head, tail
        if registry == "docker.io" and "/" not in repository:
            repository = f"library/{repository}"
        if not _HOST.fullmatch(registry) or not _REPOSITORY.fullmatch(repository):
            raise InputError(
                f"{text!r} is not an image reference", hint="write it as [REGISTRY/]REPOSITORY[:TAG][@DIGEST]"
            )
        if tag is None and digest is None:
            tag = "latest"
        return cls(registry, repository, tag, digest)

    @classmethod
    def is_repository(cls, text: str) -> bool:
        """Whether `text` names a repository, without tag and digest."""
        try:
            return cls.parse(text).digest is None and ":" not in text.rsplit("/", 1)[-1]
        except InputError:
            return False

    @property
    def name(self) -> str:
        """Registry and repository, without tag and digest."""
        return f"{self.registry}/{self.repository}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"

    def with_digest(self, digest: str) -> Reference:
        return Reference(self.registry, self.repository, self.tag, digest)


def check_tag(tag: str) -> None:
    """Raise `InputError` for what no image can be tagged with."""
    if not _TAG.fullmatch(tag):
        raise InputError(
            f"{tag!r} is not a tag", hint="letters, digits, `_`, `.` and `-`, at most 128, such as 'production'"
        )


def _wheels(text: str) -> tuple[str, ...] | None:
    """The wheels that `NAME==VERSION+PATH.whl` names; None when it names none.

    A version and a file name may have a `+` of their own (PEP 440, local versions): `==` and `.whl` tell the parts apart.
    """
    if _RELEASE.fullmatch(text) or (text.endswith(".whl") and ".whl+" not in text and "==" not in text):
        return (text,)
    for at, character in enumerate(text):
        first, rest = text[:at], text[at + 1 :]
        whole = _RELEASE.fullmatch(first) or (first.endswith(".whl") and "==" not in first)
        if character == "+" and whole and (others := _wheels(rest)) is not None:
            return (first, *others)
    return None


def join_wheels(texts: Sequence[str]) -> str:
    """A list of wheel bases as one. Raises `InputError` when one of them is another kind of base."""
    if len(texts) == 1:
        return texts[0]
    wheels = [text.removeprefix("wheel:") for text in texts]
    if not texts or any(
        not text.startswith("wheel:") or _wheels(wheel) is None for text, wheel in zip(texts, wheels, strict=True)
    ):
        raise InputError(
            "a list of bases holds wheels only, each as wheel:NAME==VERSION or wheel:PATH.whl",
            hint="one image has all its packages: name it alone",
        )
    joined = "wheel:" + "+".join(wheels)
    if BaseReference.parse(joined).wheels != tuple(name for wheel in wheels for name in _wheels(wheel) or ()):
        raise InputError(f"{joined!r} can be read in two ways", hint="put files before releases, or rename the file")
    return joined


_ARCHIVES = ("containers-storage", "dir", "docker-archive", "oci-archive", "ostree", "sif", "tarball")


def _other_tools(kind: str, rest: str) -> str:
    """What to write instead of the ways in which skopeo, podman and browsers name images; empty for others."""
    if kind in _ARCHIVES:
        return f"copy it into a layout, and name that: skopeo copy {shlex.quote(f'{kind}:{rest}')} oci:base"
    if kind == "docker-daemon":
        return f"write docker:{rest}"
    if kind in ("docker", "http", "https") and rest.startswith("//"):
        return "write an image in a registry as [REGISTRY/]REPOSITORY[:TAG][@DIGEST], one in Docker as docker:IMAGE"
    return ""


Kind = Literal["registry", "oci", "docker", "wheel"]


@dataclass(frozen=True)
class BaseReference:
    """A base as a recipe names it: an image in a registry, `oci:DIR[:NAME]`, `docker:REF` or `wheel:...`."""

    text: str
    """As the recipe has it."""
    kind: Kind
    target: str
    """What follows the prefix: a folder, an image's name, or the releases or files of wheels, with `+` between them."""

    @classmethod
    def parse(cls, text: str) -> BaseReference:
        """Raises `InputError` when `text` names no base."""
        kind, colon, rest = text.partition(":")
        if colon and (hint := _other_tools(kind, rest)):
            # Read as a registry's reference, `dir:x` would be whatever Docker Hub has under that name.
            raise InputError(f"{text!r} is not a base", hint=hint)
        if colon and kind == "wheel":
            wheels = _wheels(rest)
            if wheels is None or len(set(wheels)) != len(wheels):
                raise InputError(
                    f"{text!r} is not a wheel base",
                    hint="write wheel:vllm==0.20.0 or wheel:PATH.whl, or several: wheel:vllm==0.20.0+transformers==5.2.0",
                )
            return cls(text, "wheel", rest)
        if colon and kind == "oci":
            if not rest:
                raise InputError(f"{text!r} names no folder", hint="write oci:DIR or oci:DIR:NAME")
            return cls(text, "oci", rest)
        if colon and kind == "docker":
            Reference.parse(rest)
            return cls(text, "docker", rest)
        Reference.parse(text)
        return cls(text, "registry", text)

    @property
    def wheels(self) -> tuple[str, ...]:
        """The releases and files of a wheel base, each `NAME==VERSION` or `PATH.whl`."""
        return _wheels(self.target) or () if self.kind == "wheel" else ()

    @property
    def image(self) -> Reference:
        """The image's name, for a base in a registry or in Docker."""
        return Reference.parse(self.target)

    def pinned(self, digest: str) -> BaseReference:
        """The base with its digest, where its kind has one: in a registry."""
        return BaseReference.parse(str(self.image.with_digest(digest))) if self.kind == "registry" else self

    def __str__(self) -> str:
        return self.text
