"""A recipe's `wheels:` -> what of a lock: each wheel found, unpacked once, and judged against everything in the base."""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from builder.base.installed import Environment, InstalledDistribution, normal, read_environment, requirements_of
from builder.base.model import Base, PackageTree
from builder.base.requirements import Unmet, judge_requirements
from builder.base.unpack import Unpacked, record_of, unpack_wheel
from builder.base.wheel_archive import wheel_file
from builder.base.wheel_choice import check_tags, find_installable, locked_wheel
from builder.documents.lock import LockedInstall
from builder.documents.recipe import Recipe, WheelSpec
from builder.documents.reference import Platform
from builder.util.context import Context
from builder.util.errors import InputError, MismatchError
from builder.util.project import Project

_MOST_SHOWN = 10


@dataclass(frozen=True)
class Installs:
    """The distributions of one platform, and which requirements of these and of the base's are not met."""

    locked: tuple[LockedInstall, ...]
    unpacked: tuple[Unpacked, ...] = field(repr=False)
    unmet: tuple[str, ...] = ()


def lock_wheels(
    project: Project,
    recipe: Recipe,
    base: Base,
    tree: PackageTree,
    platform: Platform,
    previous: Sequence[LockedInstall],
    *,
    context: Context,
) -> Installs:
    """Pin the recipe's wheels for one platform. What `previous` pins stays pinned.

    Raises `InputError` for a wheel that does not fit the base, has what a layer must not bring, writes over another
    distribution's files, or leaves a requirement unmet; `MismatchError` for another wheel than the recipe or the lock pins.
    """
    if not recipe.wheels:
        return Installs((), ())
    environment = read_environment(base, tree, platform)
    after = dict(environment.distributions)
    locked: list[LockedInstall] = []
    unpacked: list[Unpacked] = []
    for spec in recipe.wheels:
        known = next((each for each in previous if each.id == spec.id), None)
        made, files = _one(project, recipe, spec, known, environment, tree, platform, context=context)
        if any(normal(made.name) == normal(each.name) for each in locked):
            raise InputError(f"the recipe's wheels have {made.name} twice", hint="leave one of the entries out")
        locked.append(made)
        after.pop(normal(made.name), None)
        if files is not None:
            unpacked.append(files)
            after[normal(files.name)] = _described(files)
    _check_overlaps(unpacked, environment, locked, tree)
    return Installs(tuple(locked), tuple(unpacked), _judge(recipe, environment, after, tree, platform))


def _one(
    project: Project,
    recipe: Recipe,
    spec: WheelSpec,
    known: LockedInstall | None,
    environment: Environment,
    tree: PackageTree,
    platform: Platform,
    *,
    context: Context,
) -> tuple[LockedInstall, Unpacked | None]:
    if spec.remove is not None:
        old = environment.distributions.get(normal(spec.remove))
        if old is None:
            raise InputError(
                f"the base has no distribution {spec.remove!r} to remove", hint="leave the entry out of `wheels:`"
            )
        _not_the_served(recipe, old.name, old.files)
        removed = removed_paths(old, {}, environment, tree)
        return LockedInstall(id=spec.id, name=old.name, replaces=f"{old.name}=={old.version}", removed=removed), None
    assert spec.wheel is not None  # noqa: S101  WheelSpec has one of the two
    # A file of the project is what it is now, as a local diff is; what an index has stays pinned.
    if (
        not spec.wheel.endswith(".whl")
        and known is not None
        and known.file is not None
        and known.sha256 is not None
        and spec.sha256 in (None, known.sha256)
    ):
        link = locked_wheel(spec.wheel, known.file, known.sha256, root=project.root, context=context)
    else:
        link = find_installable(spec.wheel, tree.python, platform, environment.libc, root=project.root, context=context)
    if spec.sha256 not in (None, link.sha256):
        raise MismatchError(
            f"{link.filename} is not the wheel that the recipe pins",
            details=[("wanted", str(spec.sha256)), ("found", link.sha256)],
            hint="find out which one is right before you change the recipe",
        )
    found = unpack_wheel(wheel_file(link, context=context), link.filename, tree.root)
    check_tags(link.filename, found.tags, tree.python, platform, environment.libc)
    _not_the_served(recipe, found.name, found.files, root=tree.root)
    old = environment.distributions.get(normal(found.name))
    _, record = record_of(found, tree.root)
    removed = removed_paths(old, found.files, environment, tree) if old is not None else ()
    return LockedInstall(
        id=spec.id,
        name=found.name,
        version=found.version,
        file=link.filename,
        sha256=link.sha256,
        dist_info=found.dist_info,
        record=record,
        native=found.native,
        replaces=f"{old.name}=={old.version}" if old is not None else None,
        executable=tuple(path for path, (_, mode) in found.files.items() if mode == 0o755),
        removed=removed,
    ), found


def unpack_locked(
    locked: Sequence[LockedInstall], root: str, *, project: Project, context: Context
) -> dict[str, tuple[bytes, int]]:
    """The files of the distributions that a lock names, by path from `/`. Raises `MismatchError` for what is not as locked."""
    files: dict[str, tuple[bytes, int]] = {}
    for each in locked:
        if each.file is None or each.sha256 is None:
            continue
        link = locked_wheel(each.id, each.file, each.sha256, root=project.root, context=context)
        found = unpack_wheel(wheel_file(link, context=context), each.file, root)
        _, record = record_of(found, root)
        executable = tuple(path for path, (_, mode) in found.files.items() if mode == 0o755)
        if record != each.record or executable != each.executable:
            raise MismatchError(
                f"{each.file} does not give the files that were locked",
                details=[("wanted", f"RECORD {each.record}"), ("found", f"RECORD {record}")],
                hint="the lock was edited, or this tool unpacks in another way: run `builder lock` and look at the difference",
            )
        files |= found.files
    return files


def _described(found: Unpacked) -> InstalledDistribution:
    return InstalledDistribution(found.name, found.version, found.dist_info, requirements_of(found.metadata))


def _not_the_served(recipe: Recipe, name: str, files: Collection[str], *, root: str = "") -> None:
    """Packages that overlays name are the base's own: a stack on a package that a wheel brings has nothing to be locked against."""
    prefix = f"{root}/" if root else ""
    for package in recipe.packages:
        if f"{prefix}{package}/__init__.py" in files:
            raise InputError(
                f"{name} has the package {package}, which the recipe's overlays or profiles are for",
                hint=f"take {name} from another base; `wheels:` is for what is beside it",
            )


def removed_paths(
    old: InstalledDistribution, new: Collection[str], environment: Environment, tree: PackageTree
) -> tuple[str, ...]:
    """What of a distribution in the base goes, from `/`: files that the new one does not write, and folders that only it has.

    A folder of bytecode goes with the modules that it is of: a wheel brings none.
    """
    root = tree.root
    mine = {_from_root(root, path) for path in old.files} | {f"{root}/{old.dist_info}/RECORD"}
    others = {
        _from_root(root, path)
        for each in environment.distributions.values()
        if each.dist_info != old.dist_info
        for path in each.files
    }
    kept = set(new) | others
    kept_folders = {parent for path in kept for parent in _parents(path)}
    folders = {parent for path in mine for parent in _parents(path) if parent.startswith(f"{root}/")}
    # The bytecode of modules side by side is in one folder, and not all of it is in a RECORD.
    shared = _shared(others, root)
    apart = {each for each in folders if not (each.endswith("/__pycache__") and each.rpartition("/")[0] in shared)}
    folders = {each for each in apart if each not in kept_folders}
    caches = _caches(mine, shared, tree)
    gone = (mine - kept) | folders | {each for each in caches if each not in kept_folders}
    top = sorted(each for each in gone if not any(parent in gone for parent in _parents(each)))
    if clash := sorted(set(top) & kept_folders) or sorted(path for path in new if path in folders):
        raise InputError(
            f"/{clash[0]} is a file in one version of {old.name} and a folder in the other", hint="remove it first"
        )
    return tuple(top)


def _shared(others: Collection[str], root: str) -> set[str]:
    """Folders that have modules of more than one distribution, or may have: the one of all packages is always among them."""
    return {path.rpartition("/")[0] for path in others if path.endswith(".py")} | {root}


def _caches(mine: Collection[str], shared: Collection[str], tree: PackageTree) -> set[str]:
    """Bytecode of the old modules: the folder `__pycache__` where no other distribution has modules beside it, else its files."""
    root = tree.root
    modules = [path for path in mine if path.endswith(".py") and path.startswith(f"{root}/")]
    beside = sorted({path.rpartition("/")[0] for path in modules})
    wanted = {f"{folder}/__pycache__".removeprefix(f"{root}/"): folder for folder in beside}
    present = {path for path, entry in tree.read(list(wanted)).items() if entry.kind == "directory"}
    found = {f"{root}/{path}" for path, folder in wanted.items() if path in present and folder not in shared}
    version = tree.python.replace(".", "")
    single = [
        f"{folder}/__pycache__/{module.rpartition('/')[2].removesuffix('.py')}.cpython-{version}{level}.pyc"
        for module in modules
        if (folder := module.rpartition("/")[0]) in shared
        for level in ("", ".opt-1", ".opt-2")
    ]
    found |= set(tree.outside(single)) if single else set()
    return found


def _from_root(root: str, path: str) -> str:
    return posixpath.normpath(posixpath.join("/", root, path)).lstrip("/")


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:at]) for at in range(1, len(parts))]


def _check_overlaps(
    unpacked: Sequence[Unpacked], environment: Environment, locked: Sequence[LockedInstall], tree: PackageTree
) -> None:
    """Refuse a file of another distribution: what would be right for one of them would be wrong for the other.

    Outside the packages' folder, a file of the base that belongs to no distribution is refused too.
    """
    root = tree.root
    ours = {_from_root(root, path) for each in environment.distributions.values() for path in each.files}
    outside = [path for one in unpacked for path in one.files if not path.startswith(f"{root}/") and path not in ours]
    if taken := sorted(tree.outside(outside)) if outside else []:
        raise InputError(
            f"the base has /{taken[0]}, which a wheel of the recipe would replace",
            hint="leave this wheel out of `wheels:`",
        )
    gone = {normal(each.name) for each in locked}
    owners: dict[str, tuple[str, str]] = {}
    for each in environment.distributions.values():
        if each.key not in gone:
            owners |= {_from_root(root, path): (each.name, digest) for path, digest in each.files.items()}
    for one in unpacked:
        for path, (data, _) in one.files.items():
            owner = owners.get(path)
            if owner is not None and owner[1] != digest_column(data):
                raise InputError(
                    f"{one.name} and {owner[0]} both have /{path}",
                    hint=f"add {{remove: {owner[0]}}} to `wheels:`, or a version without it",
                )
            owners[path] = (one.name, digest_column(data))


def digest_column(data: bytes) -> str:
    """The digest column of RECORD for a file."""
    import base64
    import hashlib

    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")


def _judge(
    recipe: Recipe,
    environment: Environment,
    after: Mapping[str, InstalledDistribution],
    tree: PackageTree,
    platform: Platform,
) -> tuple[str, ...]:
    judged = judge_requirements(
        environment.distributions, after, python=tree.python, platform=platform, whole=environment.whole
    )
    accepted = {normal(name): why for spec in recipe.wheels for name, why in spec.accept_unmet.items()}
    broken = [each for each in judged.broken if normal(each.by) not in accepted]
    if broken:
        raise InputError(
            f"{_count(broken)} not met with the recipe's wheels",
            details=[("unmet", str(each)) for each in broken[:_MOST_SHOWN]],
            hint="add the wheel that is asked for to `wheels:`, or say why it works: accept_unmet: {NAME: REASON}",
        )
    lines = [f"accepted: {each} ({accepted[normal(each.by)]})" for each in judged.broken]
    lines += [f"in the base already: {each}" for each in judged.before]
    if judged.unknown:
        lines.append(
            f"not checked: {len(judged.unknown)} requirements of distributions that this base does not show, such as "
            f"{judged.unknown[0].requirement} of {judged.unknown[0].by}"
        )
    return tuple(lines)


def _count(broken: Sequence[Unmet]) -> str:
    return "1 requirement is" if len(broken) == 1 else f"{len(broken)} requirements are"
