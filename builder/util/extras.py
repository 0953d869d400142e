"""Optional dependencies: what to type when one is missing."""

from __future__ import annotations

import shlex
from importlib import metadata


def install_hint(extra: str) -> str:
    """A `pip install` line for the packages of `extra`, as the installed distribution lists them.

    It names packages, not `overlay-image-builder[extra]`: that needs an index that has this tool, or its checkout.
    """
    from packaging.requirements import Requirement

    try:
        listed = [Requirement(line) for line in metadata.requires("overlay-image-builder") or ()]
    except metadata.PackageNotFoundError:
        return f"install the extra '{extra}' from this tool's checkout: pip install '.[{extra}]'"
    wanted = [
        f"{each.name}{each.specifier}"
        for each in listed
        if each.marker is not None
        and each.marker.evaluate({"extra": extra})
        and not each.marker.evaluate({"extra": ""})
    ]
    return f"pip install {shlex.join(wanted)}"
