"""What is deployed: one profile of a locked recipe, from an image that is pinned by its digest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from builder.documents.lock import Lock
from builder.documents.profile import Profile
from builder.documents.record import MODEL_FOLDER
from builder.documents.reference import Reference
from builder.serve.container import locked_profile, server_port, stack_key, startup_seconds
from builder.util.errors import InputError
from builder.util.files import sha256

# Any user will do: the entrypoint writes nothing, and every cache is in one folder that is theirs.
USER = 1000
_LABEL = 63


@dataclass(frozen=True)
class Service:
    """A server for one profile. `image` has a digest; `startup_seconds` is what its probes allow for the start."""

    recipe: str
    profile: Profile
    image: str
    port: int
    startup_seconds: int
    gpus: int
    cache_key: str

    @property
    def name(self) -> str:
        """A DNS label that begins with a letter (RFC 1035), as a Kubernetes Service must be named."""
        label = re.sub(r"[^a-z0-9]+", "-", f"{self.recipe}-{self.profile.name}".lower()).strip("-")
        label = label if label[0].isalpha() else f"vllm-{label}"
        if len(label) <= _LABEL:
            return label

        return f"{label[:54].rstrip('-')}-{sha256(label.encode())[:8]}"


def make_service(lock: Lock, profile: str, image: str, *, seconds: int | None = None) -> Service:
    """Raises `InputError` for an unknown profile, or an image without a digest."""
    reference = Reference.parse(image)
    if reference.digest is None:
        raise InputError(
            f"{image} has no digest: another image could have that name tomorrow",
            hint="REGISTRY/REPOSITORY@sha256:..., as a publication prints it",
        )
    found = locked_profile(lock, profile)
    return Service(
        recipe=lock.name,
        profile=found,
        image=str(reference),
        port=server_port(found.argv()),
        startup_seconds=seconds or startup_seconds(lock),
        gpus=_gpus(found),
        cache_key=stack_key(lock, next(iter(lock.base.platforms))),
    )


def gpu_numbers(services: Sequence[Service]) -> list[list[str] | None]:
    """The numbers of each server's GPUs on one machine, in the order of the servers; None for a server that is alone."""
    if len(services) == 1:
        return [None]
    ends = [0, *accumulate(each.gpus for each in services)]
    return [[str(number) for number in range(start, end)] for start, end in pairwise(ends)]


def _gpus(profile: Profile) -> int:
    """One where a profile does not say it; none for the engine's CPU build, whose profiles name the GPU `cpu`."""
    if profile.hardware is None:
        return 1
    return 0 if profile.hardware.gpu == "cpu" else profile.hardware.count


def served_name(profile: Profile) -> str:
    """The name under which vLLM serves the model: that of the flag, else the folder it is in."""
    given = profile.flags.get("served-model-name", profile.flags.get("served_model_name"))
    if isinstance(given, tuple):
        given = given[0]
    return str(given) if isinstance(given, str) else MODEL_FOLDER
