"""The rendered Docker context: `Dockerfile` and `rootfs/`, which plain `docker build` builds without this tool."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from builder.image.rootfs import Rootfs
from builder.util.errors import InputError

_TEMPLATE = "Dockerfile.j2"


def template_text() -> str:
    """`Dockerfile.j2`: beside this module in an installed package, at the repository's top in a checkout."""
    packaged = resources.files("builder.image") / _TEMPLATE
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    return (Path(__file__).parents[2] / _TEMPLATE).read_text(encoding="utf-8")


def quote_value(value: str) -> str:
    """A value for LABEL and ENV: in double quotes, with what Docker would expand or end the value at escaped.

    Raises `InputError` for a line break or another control character, which a Dockerfile cannot hold.
    """
    if any(ord(character) < 32 or ord(character) == 127 for character in value):
        raise InputError(
            f"a label has a line break or a control character: {value!r}",
            hint="write descriptions and names on one line",
        )
    for character in '\\"$':
        value = value.replace(character, f"\\{character}")
    return f'"{value}"'


def exec_form(words: Sequence[str]) -> str:
    """Words as the JSON array of Docker's exec form."""
    return json.dumps(list(words), ensure_ascii=True)


def dockerfile(base: str, rootfs: Rootfs, *, labels: Mapping[str, str], entrypoint: Sequence[str], name: str) -> str:
    """The Dockerfile's text. Nothing in it comes unquoted from a recipe."""
    import jinja2

    # A Dockerfile is no HTML: values go through the two filters instead.
    environment = jinja2.Environment(  # noqa: S701
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"value": quote_value, "exec_form": exec_form}
    return environment.from_string(template_text()).render(
        name=name,
        base=base,
        labels=dict(sorted(labels.items())),
        deleted=[f"/{path}" for path in rootfs.deleted],
        entrypoint=list(entrypoint),
    )


def render_context(
    target: Path, base: str, rootfs: Rootfs, *, labels: Mapping[str, str], entrypoint: Sequence[str], name: str
) -> None:
    """Write the context to `target`, whole or not at all. An earlier context there is replaced, nothing else is.

    Raises `InputError` when `target` exists and is not a context of this tool.
    """
    if target.exists() and not _is_context(target):
        raise InputError(
            f"{target} is there and is not a rendered context", hint="name another folder, or empty this one"
        )
    text = dockerfile(base, rootfs, labels=labels, entrypoint=entrypoint, name=name)
    target.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        (made / "Dockerfile").write_text(text, encoding="utf-8")
        (made / ".dockerignore").write_text("Dockerfile\n.dockerignore\n", encoding="utf-8")
        _write_rootfs(made / "rootfs", rootfs)
        for path in (made, made / "Dockerfile", made / ".dockerignore"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        if target.exists():
            shutil.rmtree(target)
        made.rename(target)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _is_context(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {"?"}
    return not names or names == {"Dockerfile", ".dockerignore", "rootfs"}


def _write_rootfs(folder: Path, rootfs: Rootfs) -> None:
    """The files, with modes that do not depend on the umask; folders too, since COPY keeps their modes."""
    folder.mkdir()
    for entry in rootfs.entries:
        path = folder / entry.path
        if entry.kind == "directory":
            path.mkdir(parents=True, exist_ok=True)
        elif entry.kind == "file":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(entry.data)
            path.chmod(entry.mode)
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
