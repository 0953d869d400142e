"""`builder profile fit`: would this profile fit on this GPU, and what would it serve?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from builder.cli.app import common_options
from builder.cli.commands.names import gpu_names, profile_names, recipe_names
from builder.cli.console import Console
from builder.cli.numbers import FiniteRange
from builder.util.context import Context
from builder.util.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from packaging.version import Version

    from builder.documents.model_shape import ModelShape
    from builder.documents.profile import Profile
    from builder.documents.recipe import Recipe
    from builder.util.project import Project
    from builder.vllm.fit.estimate import Fit
    from builder.vllm.fit.weights import Part

_BAR = 40


@click.command(name="fit")
@click.argument("recipe", shell_complete=recipe_names)
@click.argument("profile", shell_complete=profile_names)
@click.option("--gpu", shell_complete=gpu_names, help="A GPU by name, such as rtx-5090; the profile's own by default.")
@click.option("--vllm-version", metavar="V", help="Estimate for another vLLM than the recipe's base.")
@click.option(
    "--checkpoint",
    metavar="DIR",
    help="Read shape and weights from a folder, or from OWNER/NAME[@REVISION] on the Hub.",
)
@click.option(
    "--kv-cache-gib",
    type=FiniteRange(min=0),
    metavar="X",
    help="The pool, from a log's `Available KV cache memory`.",
)
@common_options
def command(
    recipe: str,
    profile: str,
    gpu: str | None,
    vllm_version: str | None,
    checkpoint: str | None,
    kv_cache_gib: float | None,
    console: Console,
) -> None:
    """Estimate what PROFILE of RECIPE needs and serves on a GPU. No GPU is needed."""
    from builder.documents.profile import load_profile, profile_path
    from builder.documents.recipe import load_recipe
    from builder.util.project import find_project, from_here
    from builder.vllm.fit.estimate import estimate, parse_version
    from builder.vllm.fit.gpus import find_gpu

    project = find_project(recipe)
    loaded = load_recipe(project.recipe_path)
    path = profile_path(profile, project.profiles)
    chosen = load_profile(path)
    name = gpu or (chosen.hardware.gpu if chosen.hardware else None)
    if name is None:
        raise InputError(f"profile {chosen.name} names no hardware", hint="name a GPU with --gpu")
    version = parse_version(vllm_version) if vllm_version else version_of(project, loaded)
    shape, weights = _model(project, loaded, checkpoint, speculates(chosen), console)
    found = find_gpu(name)
    try:
        fit = estimate(chosen, shape, found, version, weights=weights, pool_gib=kv_cache_gib)
    except InputError as error:
        raise InputError(
            error.message, details=[("where", str(from_here(path))), *error.details], hint=error.hint
        ) from error
    _show(fit, console)
    document = fit.as_json()
    if loaded.envelope is not None:
        total = loaded.envelope.prompt + loaded.envelope.completion
        document["envelope"] = {"tokens": total, "at_once": fit.at_once(total) if total <= fit.max_model_len else 0}
    console.document(document)


def version_of(project: Project, recipe: Recipe) -> Version:
    """The vLLM version of a recipe's base: from its lock, else from the reference."""
    import re

    from builder.documents.lock import read_lock
    from builder.vllm.fit.estimate import parse_version

    if project.lock_path.is_file():
        lock = read_lock(project.lock_path)
        if lock.base.reference == recipe.base:
            return parse_version(next(iter(lock.base.platforms.values())).distribution.version)
    match = re.search(r"(?:==|-|:v?)(\d+\.\d+\.\d+[\w.]*?)(?:-|@|$)", recipe.base)
    if match is None:
        raise InputError(f"cannot tell the vLLM version of {recipe.base}", hint="name it with --vllm-version")
    return parse_version(match[1])


def _model(
    project: Project, recipe: Recipe, checkpoint: str | None, speculation: bool, console: Console
) -> tuple[ModelShape, Sequence[Part] | None]:
    from builder.documents.model_shape import shape_of_config
    from builder.vllm.fit.headers import read_folder, read_hub
    from builder.vllm.fit.weights import parts_of_headers, vision_parameters

    spec = recipe.checkpoint
    if checkpoint is None:
        if recipe.model is not None:
            return recipe.model, None
        if spec is not None and spec.path is not None and (project.root / spec.path / "config.json").is_file():
            found = read_folder(project.root / spec.path)
        elif spec is not None and spec.repo is not None:
            found = read_hub(spec.repo, spec.revision, context=Context(console))
        else:
            raise InputError(
                f"recipe {recipe.name} has no `model:` and no checkpoint that can be read",
                hint="name one with --checkpoint DIR, or give the recipe a `model:`",
            )
    elif Path(checkpoint).is_dir():
        found = read_folder(Path(checkpoint))
    elif checkpoint.count("/") == 1 and not checkpoint.startswith((".", "/")):
        repo, _, revision = checkpoint.partition("@")
        found = read_hub(repo, revision or None, context=Context(console))
    else:
        raise InputError(f"there is no checkpoint folder {checkpoint}", hint="a folder, or OWNER/NAME on the Hub")
    shape = shape_of_config(found.config, vision_parameters=vision_parameters(found.tensors), other_weights=True)
    draft_from = shape.layers if shape.draft_layers else None
    return shape, parts_of_headers(found.tensors, speculation=speculation, draft_from=draft_from)


def speculates(profile: Profile) -> bool:
    """Whether the checkpoint's own draft layers are loaded."""
    return any(name.partition(".")[0].replace("_", "-") == "speculative-config" for name in profile.flags)


def _show(fit: Fit, console: Console) -> None:
    low, high = fit.blocks_range
    rows = [
        ["block size", f"{fit.cache.block_size:,} tokens", f"{fit.cache.page_bytes:,} B per layer, {fit.cache.groups} groups of {fit.cache.group_layers} layers"],
        ["blocks", f"{fit.held.blocks:,}", "given" if fit.given_pool else f"{low:,} to {high:,} within the estimate's error"],
        ["KV cache", f"{fit.held.tokens:,} tokens", f"as vLLM {fit.vllm} counts them"],
        ["concurrency", f"{fit.held.concurrency:.2f}x", f"at {fit.max_model_len:,} tokens, {fit.cache.request_blocks(fit.max_model_len)} blocks each"],
        ["real requests", f"{fit.held.real_requests}", "one block is the null block and holds nothing"],
    ]  # fmt: skip
    console.table(["", fit.profile, f"on {_gpus(fit)} with vLLM {fit.vllm}"], rows)
    parts = [(part.name, part.dtype, part.bytes / (1 << 30)) for part in fit.weights]
    parts += [("fixed", "", _fixed()), ("KV cache", "", fit.kv_gib), ("free", "", fit.free_gib)]
    width = max(len(f"{name} ({dtype})") for name, dtype, _ in parts)
    for name, dtype, gib in parts:
        label = f"{name} ({dtype})" if dtype else name
        console.out(f"{label:<{width}}  {gib:7.3f} GiB  {'█' * max(0, round(_BAR * gib / fit.gpu.gib))}")
    console.out(
        f"of {fit.gpu.gib:.2f} GiB; while a full batch is computed, {fit.activation_gib:.2f} GiB of what is free is activation"
    )
    if fit.too_large:
        console.out(
            f"DOES NOT FIT: the KV cache that the profile asks for is {-fit.free_gib:.2f} GiB more than the GPU has left"
        )
    elif not fit.fits:
        console.out(f"DOES NOT FIT: no request of {fit.max_model_len:,} tokens can be held")
    for note in fit.notes:
        console.out(f"note: {note}")
    from builder.vllm.fit.estimate import NOT_MODELLED

    for missing in fit.not_modelled:
        console.out(f"not modelled: {missing}")
    console.out(f"not modelled: {'; '.join(NOT_MODELLED)}")


def _gpus(fit: Fit) -> str:
    ranks = fit.parallel
    if ranks.gpus == 1:
        return f"one {fit.gpu.name}"
    kinds = (("tensor", ranks.tensor), ("pipeline", ranks.pipeline), ("data", ranks.data))
    ways = ", ".join(f"{name} {count}" for name, count in kinds if count > 1)
    return f"{ranks.gpus} {fit.gpu.name} ({ways}), each"


def _fixed() -> float:
    from builder.vllm.fit.estimate import FIXED_GIB

    return FIXED_GIB
