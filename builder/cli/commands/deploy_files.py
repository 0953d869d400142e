"""What the commands below `builder deploy` share: options, services, and how their files are written."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from builder.cli.commands.names import profile_names, recipe_names
from builder.cli.console import Console
from builder.util.context import Context
from builder.util.errors import InputError

if TYPE_CHECKING:
    from builder.documents.lock import Lock
    from builder.pipeline.workspace import Workspace
    from builder.serve.deploy.service import Service
    from builder.serve.model import ModelImage

_COMMENTED = (".yaml", ".yml", ".container", ".volume")
IMAGE = click.option(
    "--image", required=True, metavar="REF@DIGEST", help="The published image, as `builder publish` prints it."
)
OUTPUT = click.option(
    "--output", required=True, metavar="DIR|-", help="A folder for the files, or - for standard output."
)
FORCE = click.option("--force", is_flag=True, help="Replace files of the same names.")
SECONDS = click.option(
    "--startup-seconds", type=click.IntRange(30, 86400), help="How long a start may take. Default: by the checkpoint's size."
)  # fmt: skip


MODEL_IMAGE = click.option(
    "--model-image",
    metavar="REF@DIGEST",
    help="An image volume with the checkpoint, instead of the claim. Default: the recipe's.",
)
MODEL_IMAGE_FOLDER = click.option(
    "--model-image-folder", metavar="FOLDER", help="Where the files are in that image. Default: at its root."
)
UNACCEPTED = click.option(
    "--allow-unaccepted", is_flag=True, help="Deploy an image that no policy of the recipe accepts; the files say so."
)
TAG = click.option(
    "--tag", metavar="TAG", help="The tag that names the promoted image. Default: that of the recipe's only policy."
)
MODEL = click.option("--model", metavar="DIR", help="The checkpoint's folder on the machine. Default: the recipe's.")
MODEL_CLAIM = click.option(
    "--model-claim", default="model", show_default=True, help="The claim that holds the checkpoint."
)
CACHE_GIB = click.option(
    "--cache-gib", type=click.IntRange(min=1), default=20, show_default=True, help="Size of the cache's claim."
)
PORT = click.option(
    "--port", type=click.IntRange(1, 65000), default=8000, show_default=True, help="Port of the first profile."
)

F = TypeVar("F", bound=Callable[..., Any])


def published_options(function: F) -> F:
    """RECIPE, PROFILES and the options of every command that renders a published image's files."""
    found: Any = function
    for each in (
        UNACCEPTED,
        SECONDS,
        FORCE,
        OUTPUT,
        IMAGE,
        click.argument("profiles", nargs=-1, shell_complete=profile_names),
        click.argument("recipe", shell_complete=recipe_names),
    ):
        found = each(found)
    return cast("F", found)


@dataclass(frozen=True)
class Published:
    """Profiles of a recipe as services of one published image, and where the files that serve them go."""

    workspace: Workspace
    services: list[Service]
    image: str
    output: str
    force: bool
    allow_unaccepted: bool
    console: Console

    def model(self, given: str | None) -> str | ModelImage:
        """The checkpoint's folder on the machine that serves, or the image that holds it. Raises `InputError`."""
        return model_on_machine(self.workspace, given)

    def volume(self, given: str | None, folder: str | None = None) -> ModelImage | None:
        """The OCI image that holds the checkpoint, or None. Raises `InputError`."""
        return image_volume(self.workspace, given, folder)

    def write(self, documents: Mapping[str, Any]) -> None:
        """Write the files, unless no policy accepts the image. Raises `GateError`, `UnreachableError`, `InputError`."""
        note = accepted(self.workspace, [self.image], allow=self.allow_unaccepted)
        write(documents, self.output, self.force, self.console, note)


def published(function: Callable[..., None]) -> Callable[..., None]:
    """Give the command one `Published`, its first argument, in the place of what `published_options` adds."""

    @functools.wraps(function)
    def called(
        *,
        recipe: str,
        profiles: tuple[str, ...],
        image: str,
        output: str,
        force: bool,
        startup_seconds: int | None,
        allow_unaccepted: bool,
        console: Console,
        **options: Any,
    ) -> None:
        from builder.pipeline.workspace import open_workspace

        workspace = open_workspace(recipe, context=Context(console), make=False)
        services = services_of(workspace.lock, profiles, image, startup_seconds)
        function(Published(workspace, services, image, output, force, allow_unaccepted, console), **options)

    return called


def accepted(workspace: Workspace, images: Sequence[str], *, allow: bool) -> str | None:
    """None when each image meets a policy of the recipe, or when it has none; else, with `allow`, what the files say.

    Raises `GateError` with the requirements that are not met, and `UnreachableError` when an image's registry does not respond.
    """
    from builder.documents.policy import load_policy
    from builder.release.attest.trust import trust
    from builder.release.promote.run import Order, promote
    from builder.util.errors import GateError

    policies = workspace.recipe.policies
    if not policies:
        return None
    if allow:
        return f"NOT ACCEPTED: deployed with --allow-unaccepted; not compared with {', '.join(policies.values())}"
    for image in dict.fromkeys(images):
        refusals: list[GateError] = []
        for tag, path in policies.items():
            loaded = load_policy(workspace.project.root / path)
            known = trust([each.option for each in loaded.policy.signers], config=None, root=loaded.root)
            try:
                promote(Order(image, tag, loaded, known), signing=None, dry_run=True, context=workspace.context)
                break
            except GateError as error:
                refusals.append(error)
        else:
            first = refusals[0]
            raise GateError(
                first.message,
                details=first.details,
                hint="gate and promote the image, or deploy it with --allow-unaccepted: the files then say so",
            )
    return None


def promotion_state(
    workspace: Workspace, images: Mapping[str, str], tag: str | None, *, allow: bool
) -> dict[str, Any] | None:
    """What of these images, by backend, is promoted; None when no policy says it. Unaccepted images are not asked for."""
    from builder.release.promote.standing import chosen, standings, state

    if not images or not (workspace.recipe.policies or tag):
        return None
    if allow:
        return {"backends": {name: {"image": image} for name, image in images.items()}}
    name, loaded = chosen(workspace.recipe.policies, tag, workspace.project.root)
    return state(standings(images, name, loaded, context=workspace.context), context=workspace.context)


def model_on_machine(workspace: Workspace, given: str | None) -> str | ModelImage:
    """The checkpoint's folder on the machine that serves, or the recipe's image. Raises `InputError` when it is relative, or nothing names it."""
    from builder.serve.container import model_folder
    from builder.serve.model import recipe_image

    image = recipe_image(workspace.lock) if given is None else None
    if image is not None:
        return image
    folder = given or str(model_folder(workspace.project, workspace.lock, None))
    if not folder.startswith("/"):
        raise InputError(f"--model {folder!r} is relative", hint="name the folder's whole path on that machine")
    return folder


def image_volume(workspace: Workspace, given: str | None, folder: str | None = None) -> ModelImage | None:
    """The image that holds the checkpoint: the one that was named, else the recipe's, if it is an image. Raises `InputError`."""
    from builder.checkpoint.artifact import pinned
    from builder.serve.model import ModelImage, recipe_image

    if given is None:
        if folder is not None:
            raise InputError("--model-image-folder is a folder of which image?", hint="--model-image REF@DIGEST")
        return recipe_image(workspace.lock)
    parts = (folder or "").split("/")
    if folder is not None and ("" in parts or ".." in parts or "." in parts or "," in folder):
        raise InputError(
            f"--model-image-folder {folder!r} is not a folder in an image", hint="relative to its root, such as models"
        )
    return ModelImage(str(pinned(given)), folder)


def services_of(lock: Lock, profiles: Sequence[str], image: str, seconds: int | None) -> list[Service]:
    from builder.serve.deploy.service import make_service

    chosen = list(dict.fromkeys(profiles)) or ([lock.default_profile] if lock.default_profile else [])
    if not chosen:
        raise InputError("which profile?", hint=f"{lock.name} has no default: name one")
    return [make_service(lock, name, image, seconds=seconds) for name in chosen]


def write(documents: Mapping[str, Any], output: str, force: bool, console: Console, note: str | None = None) -> None:
    """Write one file per document, or all of them as one stream. Nothing is written when a file is in the way.

    A document that is a text is written as it is. `note` becomes the first line of what is YAML or a unit.
    """
    import yaml

    texts = {
        name: document
        if isinstance(document, str)
        else str(yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120))
        for name, document in documents.items()
    }
    if note is not None:
        texts = {name: f"# {note}\n{text}" if name.endswith(_COMMENTED) else text for name, text in texts.items()}
    if output == "-":
        console.data("---\n".join(texts.values()).rstrip("\n"))
        console.document({"documents": documents})
        return
    folder = Path(output)
    _write_all({folder / name: text.encode() for name, text in texts.items()}, folder, force, console)
    for name in texts:
        console.out(f"wrote {folder / name}")
    console.document({"files": [str(folder / name) for name in texts], "documents": documents})


def _write_all(files: Mapping[Path, bytes], folder: Path, force: bool, console: Console) -> None:
    """Write all files or none. Raises `InputError` when one is in the way and is not to be replaced."""
    from builder.util.holding import holding
    from builder.util.journal import finish, write_files

    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with holding(folder, waiting=lambda who: console.say(f"waiting for {who}, which writes to {folder}")):
            finish(folder, say=console.say)
            taken = [str(path) for path in files if os.path.lexists(path)]
            if taken and not force:
                raise InputError(
                    "files are in the way", details=[("file", path) for path in taken], hint="--force replaces them"
                )
            write_files(files, root=folder)
    except BaseException:
        for each in missing:
            # One that is not empty is somebody else's by now.
            with suppress(OSError):
                each.rmdir()
        raise
