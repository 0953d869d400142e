"""What a verdict depends on beside its suite: profile, lock and checkpoint, by digest."""

from __future__ import annotations

from builder.documents.lock import Lock
from builder.documents.profile import Profile
from builder.documents.verdict import Resource
from builder.util.files import sha256


def configuration(profile: Profile | None, lock: Lock | None = None) -> tuple[Resource, ...]:
    """The documents that are known, as a verdict's configuration names them."""
    found = []
    if profile is not None:
        found.append(Resource(name="profile", sha256=profile.sha256))
    if lock is not None:
        found.append(Resource(name="lock", sha256=sha256(lock.dump())))
    if lock is not None and lock.checkpoint is not None:
        found.append(Resource(name="checkpoint", sha256=lock.checkpoint.digest))
    return tuple(found)
