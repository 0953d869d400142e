"""`builder deploy`: files that run a published image somewhere else."""

from __future__ import annotations

import click

from builder.cli.app import LazyGroup


@click.group(
    name="deploy",
    cls=LazyGroup,
    table={
        "compose": ("builder.cli.commands.deploy_compose", "Render a Compose file."),
        "kubernetes": ("builder.cli.commands.deploy_kubernetes", "Render Kubernetes manifests."),
        "helm": ("builder.cli.commands.deploy_helm", "Render values for vLLM production-stack's chart."),
        "kserve": ("builder.cli.commands.deploy_kserve", "Render KServe LLMInferenceServices."),
        "quadlet": ("builder.cli.commands.deploy_quadlet", "Render podman Quadlet units."),
        "llama-swap": ("builder.cli.commands.deploy_llama_swap", "Render a llama-swap configuration."),
        "promoted": ("builder.cli.commands.deploy_promoted", "Tell a router what is promoted."),
        "router": ("builder.cli.commands.deploy_router", "Render what routes requests above the envelope."),
    },
)
def command() -> None:
    """Render what runs a published image elsewhere, and what routes requests to it."""
