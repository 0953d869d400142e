"""From a base as the recipe writes it to the reader for its kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builder.base.model import Base
from builder.oci.types import Reference
from builder.util.errors import InputError

if TYPE_CHECKING:
    from builder.cli.console import Console

Kind = Literal["registry", "oci", "docker", "wheel"]

_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9._+!-]*")


def parse_reference(reference: str) -> Kind:
    """Which kind of base a reference names. Raises `InputError` when it is none."""
    kind, colon, rest = reference.partition(":")
    if colon and kind == "wheel":
        if not rest.endswith(".whl") and not _RELEASE.fullmatch(rest):
            raise InputError(f"{reference!r} is not a wheel base", hint="write wheel:vllm==0.20.0 or wheel:PATH.whl")
        return "wheel"
    if colon and kind == "oci":
        if not rest:
            raise InputError(f"{reference!r} names no folder", hint="write oci:DIR or oci:DIR:NAME")
        return "oci"
    if colon and kind == "docker":
        Reference.parse(rest)
        return "docker"
    Reference.parse(reference)
    return "registry"


def open_base(reference: str, *, root: Path, console: Console, offline: bool = False) -> Base:
    """Open a base; folders and files are relative to `root`. Nothing is read yet."""
    kind = parse_reference(reference)
    if kind == "wheel":
        from builder.base.wheel import WheelBase

        return WheelBase(reference, root=root, console=console, offline=offline)
    if kind == "oci":
        from builder.base.oci_layout import LayoutBase

        return LayoutBase(reference, root=root, console=console)
    if kind == "docker":
        from builder.base.daemon import DockerBase

        return DockerBase(reference, console=console)
    from builder.base.remote import RegistryBase

    return RegistryBase(reference, console=console, offline=offline)
