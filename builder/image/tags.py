"""The names of an image, by what it serves and what it was made from."""

from __future__ import annotations

from dataclasses import dataclass

from builder.documents.lock import Lock

_SHORT = 12


@dataclass(frozen=True)
class Tags:
    """`immutable` is never given to another digest; `moving` goes to the newest build for the checkpoint."""

    immutable: str
    moving: str | None

    @property
    def all(self) -> list[str]:
        return [tag for tag in (self.immutable, self.moving) if tag is not None]


def make_tags(checkpoint: str | None, inputs: str) -> Tags:
    """`ckpt-HASH12-INPUTS12` and `ckpt-HASH12` from the digests (64 hexadecimal digits) of checkpoint and lock.

    Without a checkpoint there is nothing to move along with: `inputs-INPUTS12` alone.
    """
    if checkpoint is None:
        return Tags(f"inputs-{inputs[:_SHORT]}", None)
    moving = f"ckpt-{checkpoint[:_SHORT]}"
    return Tags(f"{moving}-{inputs[:_SHORT]}", moving)


def image_tags(lock: Lock) -> Tags:
    """The tags of the image that a lock describes."""
    return make_tags(lock.checkpoint.digest if lock.checkpoint else None, lock.inputs)
