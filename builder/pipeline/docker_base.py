"""The base of an `oci:` recipe inside the Docker daemon, for the docker engine."""

from __future__ import annotations

from builder.base.oci_layout import LayoutBase
from builder.base.open import open_base
from builder.documents.lock import Lock
from builder.oci.daemon import daemon, has_image, load
from builder.oci.layout import Layout
from builder.pipeline.plan import Plan
from builder.util.context import Context
from builder.util.project import Project


def base_name(lock: Lock) -> str:
    """The name under which the base of an `oci:` recipe is brought into the daemon, since FROM cannot name a folder."""
    return f"overlay-image-builder/base:{lock.base.digest.removeprefix('sha256:')[:12]}"


def ensure_base(project: Project, lock: Lock, plan: Plan, *, context: Context) -> None:
    """Bring the base of an `oci:` recipe into the daemon, which has no other way to it."""
    base = open_base(lock.base.parsed, root=project.root, context=context)
    if not isinstance(base, LayoutBase):
        return
    name = base_name(lock)
    with daemon() as client:
        if has_image(client, name):
            return
    load(Layout(base.folder), plan.base.manifest, [name], plan.platform, context=context)
