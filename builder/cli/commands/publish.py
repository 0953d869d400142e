"""`builder publish`: build, and push what the registry lacks."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli.app import common_options, trust_config_option
from builder.cli.commands.names import recipe_names, without_locks
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import BuilderError, InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from builder.documents.recipe import Recipe
    from builder.release.publish import Prepared, Published, PublishOptions, Seal


@click.command(name="publish")
@click.argument("recipes", nargs=-1, required=True, metavar="RECIPE...", shell_complete=recipe_names)
@click.option(
    "--to", multiple=True, metavar="REGISTRY/REPOSITORY", help="Where to push. Default: the recipe's 'publish'."
)
@click.option("--move", is_flag=True, help="Move the checkpoint's tag (ckpt-HASH12) to this build as well.")
@click.option("--tag", "tags", multiple=True, metavar="NAME", help="Move this tag to this build, such as 'production'.")
@click.option("--no-evidence", is_flag=True, help="Push the image without SBOM, provenance and lock.")
@click.option(
    "--evidence", "folder", type=click.Path(path_type=Path), metavar="DIR", help="Write the evidence as files too."
)
@click.option(
    "--verdict", "verdicts", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
    help="Attach the result of `builder smoke`, which must be about this image's digest.",
)  # fmt: skip
@click.option("--allow-failed", is_flag=True, help="Move --tag also when a verdict has failed or cannot be read.")
@click.option("--sign", is_flag=True, help="Sign provenance and SBOM before any tag is set; keyless without --key.")
@click.option(
    "--key", metavar="FILE|URI", help="A private key in PEM. The URI of a key service is cosign's, and signs the image."
)
@trust_config_option
@click.option("--jobs", type=click.IntRange(1, 16), default=4, show_default=True, help="Recipes pushed at once.")
@common_options
def command(
    recipes: tuple[str, ...],
    to: tuple[str, ...],
    move: bool,
    tags: tuple[str, ...],
    no_evidence: bool,
    folder: Path | None,
    verdicts: tuple[Path, ...],
    allow_failed: bool,
    sign: bool,
    key: str | None,
    trust_config: Path | None,
    jobs: int,
    console: Console,
) -> None:
    """Build each RECIPE without Docker and push it.

    Layers of a base on the same registry are mounted; of others they are streamed through, without touching the disk.
    Tags are set last, when the image and its evidence are there. Locks among the RECIPEs are passed over, so that
    images/*.yaml can be given.
    """
    from builder.documents.recipe import load_recipe
    from builder.documents.reference import check_tag
    from builder.release.publish import PublishOptions, check_publishable
    from builder.util.project import find_project

    for tag in tags:
        check_tag(tag)
    if key and not sign:
        raise InputError("--key goes with --sign")
    by_service = key is not None and "://" in key
    if sign and not by_service and no_evidence:
        raise InputError("--sign signs the evidence", hint="leave out --no-evidence, or sign the image with cosign")
    names = without_locks(list(dict.fromkeys(recipes)), "builder publish RECIPE --to REGISTRY/REPOSITORY")
    if len(names) > 1 and (tags or verdicts):
        raise InputError("--tag and --verdict belong to one recipe", hint="publish that recipe alone")
    context = Context(console)
    options = PublishOptions(
        move=move, tags=tags, evidence=not no_evidence, evidence_folder=folder, verdicts=verdicts,
        allow_failed=allow_failed,
    )  # fmt: skip
    if sign and len(names) == 1:
        # Before an identity is asked for; without one it is checked when the recipe is opened.
        check_publishable(load_recipe(find_project(names[0]).recipe_path), to, options)
    options = replace(
        options,
        sign=_signer(key, context) if key is not None and by_service else None,
        seal=_seal(key, trust_config, context) if sign and not by_service else None,
    )
    if len(names) == 1:
        done = _one(names[0], to, options, console)
        for each in done:
            _say(each, console)
        console.document(_document(done[0]) if len(done) == 1 else {"images": [_document(each) for each in done]})
        return
    _many(names, to, options, jobs, console)


def _signer(key: str, context: Context) -> Callable[[str], None]:
    from builder.release.evidence.cosign import signer

    return signer(key, context=context)


def _seal(key: str | None, trust_config: Path | None, context: Context) -> Seal:
    from builder.release.attest.signing import KeylessSigning, KeySigning
    from builder.release.attest.store import sign_evidence

    signing = KeySigning(Path(key)) if key else KeylessSigning(trust_config, context=context)
    return lambda evidence, registry, repository: sign_evidence(evidence, signing, registry, repository)


def _prepare(name: str, to: tuple[str, ...], options: PublishOptions, console: Console) -> Prepared:
    from builder.pipeline.workspace import open_workspace
    from builder.release.publish import check_publishable, prepare

    def check(recipe: Recipe) -> None:
        check_publishable(recipe, to, options)

    return prepare(open_workspace(name, context=Context(console), check=check), to, options)


def _one(name: str, to: tuple[str, ...], options: PublishOptions, console: Console) -> list[Published]:
    from builder.release.publish import publish

    return publish(_prepare(name, to, options, console), options, context=Context(console))


def _many(names: list[str], to: tuple[str, ...], options: PublishOptions, jobs: int, console: Console) -> None:
    """Several recipes. All are built before anything is pushed, one after another, so that a base is read once."""
    from builder.release.publish import publish

    failures: dict[str, BuilderError] = {}
    prepared: dict[str, Prepared] = {}
    for name in names:
        own = (
            replace(options, evidence_folder=options.evidence_folder / Path(name).stem)
            if options.evidence_folder
            else options
        )
        try:
            prepared[name] = _prepare(name, to, own, console)
        except BuilderError as error:
            failures[name] = error
    # One bar at a time is readable; several recipes say what they did at the end.
    quiet = Console(verbosity=-1, stdout=console.stdout, stderr=console.stderr)
    with ThreadPoolExecutor(jobs) as pool, console.progress("publishing", total=len(prepared), unit="images") as bar:
        running = {name: pool.submit(publish, each, options, context=Context(quiet)) for name, each in prepared.items()}
        done: dict[str, list[Published]] = {}
        for name, future in running.items():
            try:
                done[name] = future.result()
            except BuilderError as error:
                failures[name] = error
            bar.advance(1)
    rows = []
    for name in names:
        for each in done.get(name, []):
            rows.append(
                (name, each.reference, f"{each.moved.uploaded + each.moved.evidence:,}", f"{each.moved.streamed:,}")
            )
        if name in failures:
            rows.append((name, f"failed: {failures[name].message}", "-", "-"))
    console.table(("recipe", "image", "bytes up", "streamed"), rows)
    document = {
        "images": [_document(each) for published in done.values() for each in published],
        "failed": {name: failure.as_json()["error"] for name, failure in failures.items()},
    }
    if failures:
        for failure in failures.values():
            Console(stderr=console.stderr).error(failure)
        worst = max(failures.values(), key=lambda failure: failure.exit_code)
        raise type(worst)(
            f"{len(failures)} of {len(names)} recipes were not published",
            details=[(name, failure.message) for name, failure in failures.items()],
            hint="the others are published; mend these and run it again",
            data=document,
        )
    console.document(document)


def _say(published: Published, console: Console) -> None:
    moved = published.moved
    console.out(published.reference)
    console.out(f"  tags  {', '.join(published.tags)}")
    console.out(
        f"  up    {moved.uploaded:,} bytes of image, {moved.evidence:,} of evidence; "
        f"{moved.mounted} layers mounted, {moved.streamed:,} bytes streamed"
    )


def _document(published: Published) -> dict[str, Any]:
    return {
        "name": published.name,
        "reference": published.reference,
        "digest": published.digest,
        "tags": list(published.tags),
        "uploaded_bytes": published.moved.uploaded,
        "evidence_bytes": published.moved.evidence,
        "streamed_bytes": published.moved.streamed,
        "mounted_layers": published.moved.mounted,
        "present_blobs": published.moved.present,
    }
