"""Of images that run somewhere: which digest the tag of a promotion names now, and which verdicts they have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from builder.documents.policy import LoadedPolicy, load_policy
from builder.release.attest.trust import trust
from builder.release.promote.run import Order, promote
from builder.util.context import Context
from builder.util.errors import GateError, InputError


@dataclass(frozen=True)
class Standing:
    """One image, REF@DIGEST. `promoted` is the digest that `tag` names, None when it names nothing; `verdicts` has one entry for each suite of the policy."""

    image: str
    tag: str
    promoted: str | None
    verdicts: tuple[Mapping[str, Any], ...]

    @property
    def current(self) -> bool:
        """Whether the image is the promoted one."""
        return self.image.rpartition("@")[2] == self.promoted

    def document(self) -> dict[str, Any]:
        return {"image": self.image, "tag": self.tag, "promoted": self.promoted, "verdicts": list(self.verdicts)}


def chosen(policies: Mapping[str, str], tag: str | None, root: Path) -> tuple[str, LoadedPolicy]:
    """The tag that says what is promoted, with its policy: the named one, else the recipe's only one. Raises `InputError`."""
    if tag is None and len(policies) != 1:
        raise InputError(
            "which tag names the promoted image?",
            hint=f"--tag {' or '.join(policies)}" if policies else "add to the recipe: policies: {production: gates/production.yaml}",
        )  # fmt: skip
    found = tag if tag is not None else next(iter(policies))
    if found not in policies:
        raise InputError(f"the recipe has no policy for the tag {found!r}", hint=f"it has: {', '.join(policies) or 'none'}")  # fmt: skip
    return found, load_policy(root / policies[found])


def standing(image: str, tag: str, loaded: LoadedPolicy, *, context: Context) -> Standing:
    """What the registry says now. Nothing is moved or written. Raises `UnreachableError` when it does not respond."""
    known = trust([each.option for each in loaded.policy.signers], config=None, root=loaded.root)
    try:
        found = promote(Order(image, tag, loaded, known), signing=None, dry_run=True, context=context).document()
    except GateError as error:
        found = error.data
    verdicts = tuple(
        {name: each[name] for name in ("suite", "reason", "verdict")} for each in found.get("requirements", ())
    )
    return Standing(image, tag, found["previous"], verdicts)


def standings(images: Mapping[str, str], tag: str, loaded: LoadedPolicy, *, context: Context) -> dict[str, Standing]:
    """By the names of what runs them; each image is asked for once."""
    asked = {each: standing(each, tag, loaded, context=context) for each in dict.fromkeys(images.values())}
    return {name: asked[image] for name, image in images.items()}


def state(found: Mapping[str, Standing], *, context: Context) -> dict[str, Any]:
    """What the router's hook reads: the standings by backend, and when they were asked for (UTC, RFC 3339)."""
    now = datetime.fromtimestamp(context.limits.clock.wall(), UTC)
    return {
        "checked": now.isoformat(timespec="seconds"),
        "backends": {name: each.document() for name, each in found.items()},
    }
