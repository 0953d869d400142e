"""From a recipe or a base, as a user names them, to the package that profiles are judged against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from builder.base.model import BaseImage, PackageTree
from builder.base.open import open_base, open_locked
from builder.documents.lock import Lock
from builder.documents.model_shape import ModelShape
from builder.documents.recipe import Recipe, load_recipe
from builder.documents.reference import BaseReference, Platform
from builder.patch.model import StackResult
from builder.pipeline.locking.make import lock_or_make
from builder.pipeline.plan import make_plan
from builder.util.context import Context
from builder.util.errors import BuilderError, InputError, MismatchError
from builder.util.files import sha256
from builder.util.project import Project, find_project, project_folder
from builder.vllm.lint.context import Package
from builder.vllm.lint.run import Report, lint_file, read_package
from builder.vllm.reader.source import Source, from_cache, from_kept, from_tree


@dataclass(frozen=True)
class Judge:
    """What `lint_file` needs beside the profile: the package, the model and the envelope that the recipe promises."""

    package: Package
    shape: ModelShape | None = None
    budgets: tuple[tuple[int, int], ...] = ()

    def lint(self, path: Path) -> Report:
        return lint_file(path, self.package, shape=self.shape, budgets=self.budgets)


def judge_of_recipe(project: Project, recipe: Recipe, *, context: Context) -> Judge:
    """The package of a recipe: its locked base with its stack applied. Profiles may be newer than the lock."""
    lock = lock_or_make(project, recipe, context=context)
    if lock.recipe != recipe.digest:
        raise MismatchError(
            f"{project.show(project.lock_path)} is older than {project.show(project.recipe_path)}",
            details=project.elsewhere,
            hint=f"run `builder lock {project.recipe}` and look at the difference before you commit it",
        )
    platform = Platform.parse(recipe.platforms[0])
    plan = make_plan(project, lock, platform, context=context)
    return judge_of_stack(project, recipe, lock, platform, plan.result, context=context)


def judge_of_stack(
    project: Project,
    recipe: Recipe,
    lock: Lock,
    platform: Platform,
    result: StackResult,
    *,
    context: Context,
) -> Judge:
    """The same for a stack that was applied already."""
    locked = lock.base.platforms[str(platform)]
    over = {file.path: file.after for file in result.files}
    stack = f" with {len(result.overlays)} overlays" if result.overlays else ""
    name = f"{locked.distribution.name} {locked.distribution.version} of {recipe.base}{stack}"
    key = source_key(lock.base.digest, locked.manifest)

    def opened() -> PackageTree:
        base = open_locked(lock.base, root=project.root, context=context)
        image = base.image(platform)
        if image.digest != lock.base.digest:
            raise MismatchError(
                f"the base {lock.base.reference} is not the one that was locked",
                details=[("wanted", lock.base.digest), ("found", image.digest)],
                hint="run `builder lock` and look at the difference",
            )
        return base.tree(platform, lock.package)

    source = _source(
        opened, name=name, version=locked.distribution.version, package=lock.package, over=over, key=key, context=context,
    )  # fmt: skip
    promised = recipe.envelope
    return Judge(
        read_package(source), recipe.model, ((promised.prompt, promised.completion),) if promised is not None else ()
    )


def judge_of_base(reference: str, *, context: Context, package: str = "vllm") -> Judge:
    """The package of a base as it is, without a stack and without a model."""
    platform = Platform.parse("linux/amd64")
    base = open_base(BaseReference.parse(reference), root=Path.cwd(), context=context)
    image: BaseImage = base.image(platform)
    with context.console.progress(f"reading {reference}"):
        tree = base.tree(platform, package)
        source = from_tree(tree, name=reference, package=package, key=source_key(image.digest, image.manifest.digest))
    return Judge(read_package(source))


def recipe_of(profile: str, *, cwd: Path | None = None) -> str:
    """The one recipe here that lists a profile. Raises `InputError` when there is none, or more than one."""
    folder = project_folder(cwd) / "images"
    name = Path(profile).stem if profile.endswith((".yaml", ".yml")) else profile
    found = []
    for path in sorted(folder.glob("*.yaml")):
        if not path.name.endswith(".lock.yaml") and name in load_recipe(find_project(str(path)).recipe_path).profiles:
            found.append(path.stem)
    if len(found) != 1:
        which = f"recipes {', '.join(found)} list it" if found else "no recipe here lists it"
        raise InputError(
            f"profile {name!r} can be judged only against a vLLM, and {which}",
            hint="name one with --recipe RECIPE, or a base with --base wheel:vllm==0.20.0",
        )
    return found[0]


def source_key(*digests: str) -> str:
    """What the cache of a base's source is kept by: of the digests of its index and of its manifest."""
    return sha256("\n".join(digests).encode())


def _source(
    opened: Callable[[], PackageTree], *, name: str, version: str, package: str, over: dict[str, bytes | None], key: str,
    context: Context,
) -> Source:  # fmt: skip
    kept = from_cache(name=name, version=version, package=package, over=over, key=key)
    if kept is not None and context.offline:
        return kept
    try:
        whole = from_kept(opened, name=name, version=version, package=package, over=over, key=key)
        if whole is not None:
            return whole
        with context.console.progress(f"reading {package} from the base"):
            return from_tree(opened(), name=name, package=package, over=over, key=key)
    except BuilderError:
        if not context.offline:
            raise
        # Nothing kept and no network: every rule that needs the source says "not checked".
        return Source(name, version, package, lambda _: {}, over)
