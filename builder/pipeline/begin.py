"""A recipe's beginning: the files that a person would else write by hand. Nothing that exists is written over."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from builder.documents.profile import Profile
from builder.documents.profile import json_schema as profile_schema
from builder.documents.recipe import Recipe
from builder.documents.recipe import json_schema as recipe_schema
from builder.documents.values import Name
from builder.documents.yamlfile import parse_yaml, validate, validate_document
from builder.util.context import Context
from builder.util.errors import InputError
from builder.util.files import read_regular
from builder.util.holding import holding
from builder.util.journal import write_files
from builder.util.limits import Limits
from builder.util.project import Project

DEFAULT_BASE = "vllm/vllm-openai:v0.32.0"
"""The newest release whose source and flags this version was tested with."""
DEFAULT_PROFILE = "smoke"
_ENDINGS = (".yaml", ".yml", ".lock")
_SCHEMAS = ".schema"
_IGNORED = "/dist/"
_HUB = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+?)(?:@(?P<revision>[\w./-]+))?")
_SMOKE = """\
# yaml-language-server: $schema=../.schema/profile.json
# A first start: does the image load the checkpoint and respond? `builder profile lint {name} --recipe {recipe}` checks
# each flag against the patched vLLM; `vllm serve --help` lists them all.
name: {name}
description: A first start with a short context
flags:
  max-model-len: 4096
  max-num-seqs: 4
"""


@dataclass(frozen=True)
class Wanted:
    """What a new recipe is asked to be. `pulls` are canonical names; `files` are local diffs; both in their order."""

    name: str
    pulls: Sequence[str] = ()
    files: Sequence[str] = ()
    base: str = DEFAULT_BASE
    package: str = "vllm"
    checkpoint: str | None = None
    profile: str | None = None


@dataclass(frozen=True)
class Begun:
    """What was written and what was kept as it is, each relative to the project's root; `notes` are for the person."""

    project: Project
    written: tuple[str, ...]
    kept: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())


def begin(root: Path, wanted: Wanted, *, context: Context) -> Begun:
    """Write recipe, profile, `.gitignore` and the editors' schemas below `root`, all or none.

    Raises `InputError` when the recipe exists, or when something named does not.
    """
    check_name(wanted.name)
    project = Project(root, root / "images" / f"{wanted.name}.yaml")
    if wanted.package != "vllm" and wanted.profile is None:
        profile = None
    else:
        profile = _profile(root, DEFAULT_PROFILE if wanted.profile is None else wanted.profile, wanted.name)
    text = _recipe(root, wanted, profile[0] if profile else None)
    # Before anything is written: a name or a base that no recipe can have is an error here, not at the next command.
    recipe = _checked(text, project.show(project.recipe_path))
    files = {project.recipe_path: text.encode()}
    if profile is not None and profile[1] is not None:
        files[root / "profiles" / f"{profile[0]}.yaml"] = profile[1]
    for kind, schema in (("recipe", recipe_schema()), ("profile", profile_schema())):
        files[root / _SCHEMAS / f"{kind}.json"] = json.dumps(schema, indent=2).encode() + b"\n"
    ignoring = root / ".gitignore"
    files[ignoring] = f"{_IGNORED}\n".encode()
    with holding(root, waiting=lambda who: context.console.say(f"waiting for {who}, which writes to {root}")):
        if os.path.lexists(project.recipe_path):
            raise InputError(
                f"{project.show(project.recipe_path)} exists; it is not overwritten",
                hint=f"go on with it: builder check {project.recipe}; or choose another name",
            )
        kept = [path for path in files if os.path.lexists(path)]
        write_files({path: data for path, data in files.items() if path not in kept}, root=root)
    if profile is not None and profile[1] is None:
        kept.append(root / "profiles" / f"{profile[0]}.yaml")
    return Begun(
        project,
        tuple(project.show(path) for path in files if path not in kept),
        tuple(project.show(path) for path in kept),
        tuple(_notes(recipe, wanted, ignoring if ignoring in kept else None)),
    )


def check_name(name: str) -> None:
    """Raise `InputError` for a name that no recipe can have, or whose file would be taken for a lock or another recipe's."""
    stem = name
    while stem.endswith(_ENDINGS):
        stem = stem.rpartition(".")[0]
    if _is_name(name) and stem == name:
        return
    like = f"such as {stem}" if stem and stem != name and _is_name(stem) else "such as my-model"
    raise InputError(
        f"{name!r} cannot be the name of a recipe",
        hint=f"lower-case letters, digits, and `-`, `_` or `.` between them, without .yaml: {like}",
    )


def _is_name(text: str) -> bool:
    try:
        TypeAdapter(Name).validate_python(text)
    except ValidationError:
        return False
    return True


def _checked(text: str, name: str) -> Recipe:
    """The recipe that is about to be written. Raises `InputError` without a place: the file does not exist yet."""
    try:
        return validate_document(Recipe, parse_yaml(text, name))
    except InputError as error:
        where = re.compile(rf"{re.escape(name)}(:\d+)*: ")
        first, *rest = [where.sub("", each, count=1) for each in error.data["problems"]]
        raise InputError(
            f"no recipe can have this: {first}",
            details=[("also", each) for each in rest],
            hint="`builder help init` shows what each option takes",
        ) from error


def _notes(recipe: Recipe, wanted: Wanted, ignoring: Path | None) -> list[str]:
    notes = []
    if wanted.base == DEFAULT_BASE:
        notes.append(f"the base is {recipe.base}; `base:` in the recipe names another, such as the release before")
    if (
        ignoring is not None
        and _IGNORED.strip("/") not in ignoring.read_text("utf-8", "replace").replace("/", "").split()
    ):
        notes.append(f"add a line {_IGNORED} to .gitignore: images are built there")
    return notes


def _recipe(root: Path, wanted: Wanted, profile: str | None) -> str:
    overlays: list[dict[str, str]] = [{"pull": pull} for pull in wanted.pulls]
    for name in wanted.files:
        path = Path(name).resolve()
        if not path.is_file():
            raise InputError(f"there is no diff {name}", hint="name a file with a unified diff, such as fix.diff")
        if not path.is_relative_to(root):
            raise InputError(f"the diff {name} is outside the project", hint=f"put it below {root}")
        overlays.append({"file": str(path.relative_to(root))})
    document: dict[str, object] = {"name": wanted.name, "base": wanted.base}
    if wanted.package != "vllm":
        document["package"] = wanted.package
    document["overlays"] = overlays
    if wanted.checkpoint is not None:
        document["checkpoint"] = _checkpoint(root, wanted.checkpoint)
    if profile is not None:
        document |= {"profiles": [profile], "default_profile": profile}
    body = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False)
    return f"# yaml-language-server: $schema=../{_SCHEMAS}/recipe.json\n{body}"


def _checkpoint(root: Path, text: str) -> dict[str, str]:
    """A folder of this machine, or OWNER/NAME[@REVISION] of the Hub."""
    folder = Path(text).expanduser()
    if text and folder.is_dir():
        path = folder.resolve()
        return {"path": str(path.relative_to(root)) if path.is_relative_to(root) else str(path)}
    match = _HUB.fullmatch(text)
    if match is None:
        raise InputError(
            f"there is no checkpoint {text!r}", hint="name a folder, or OWNER/NAME[@REVISION] as the Hub has it"
        )
    return {key: value for key, value in match.groupdict().items() if value}


def _profile(root: Path, text: str, recipe: str) -> tuple[str, bytes | None]:
    """The profile's name, and its content where it is to be written: None for one that the project has."""
    if text.endswith((".yaml", ".yml")):
        path = Path(text)
        profile = validate(Profile, path, name=text)
        place = root / "profiles" / f"{profile.name}.yaml"
        data = read_regular(path, limit=Limits.size, name=text)
        if os.path.lexists(place):
            if path.resolve() != place.resolve() and place.read_bytes() != data:
                raise InputError(
                    f"profiles/{profile.name}.yaml exists, and is another one than {text}",
                    hint=f"give {text} another `name:`, or take the one that exists: --profile {profile.name}",
                )
            return profile.name, None
        return profile.name, data
    if _is_name(text) and (root / "profiles" / f"{text}.yaml").is_file():
        return text, None
    if text != DEFAULT_PROFILE:
        known = sorted({DEFAULT_PROFILE, *(each.stem for each in (root / "profiles").glob("*.yaml"))})
        raise InputError(f"there is no profile {text!r}", hint=f"name a file, or one of these: {', '.join(known)}")
    return text, _SMOKE.format(name=text, recipe=recipe).encode()
