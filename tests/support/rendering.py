"""A Docker context as `builder render` writes it, of a base that only this machine has, which `render` itself refuses."""

from __future__ import annotations

from pathlib import Path

from builder.image.context import render_context
from builder.image.labels import entrypoint_of, image_labels
from builder.pipeline.build import docker_base
from builder.pipeline.workspace import open_workspace
from builder.util.context import Context


def rendered_context(project: Path, recipe: str, *, in_docker: bool = False) -> Path:
    """The folder of the recipe's context: on the base's name in Docker, else on one that nobody has."""
    workspace = open_workspace(str(project / "images" / f"{recipe}.yaml"), context=Context())
    (plan,) = workspace.plans()
    folder = project / "context"
    labels, entrypoint = image_labels(workspace.lock, plan.record), entrypoint_of(plan.record)
    base = docker_base(workspace) if in_docker else f"localhost/none@sha256:{'0' * 64}"
    render_context(folder, base, plan.rootfs, labels=labels, entrypoint=entrypoint, name=recipe)
    return folder
