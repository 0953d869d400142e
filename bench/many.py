"""Many of a thing: recipes checked at once beside one after another, and how a command grows with overlays, files and recipes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench.measure import OURS, Row, Used, pairs, run, used

_RECIPES = 20
# The codes of all processes count, and none is waited for before all have been started.
_AT_ONCE = (
    'for each in "$@"; do {command} "$each" & all="$all $!"; done; for each in $all; do wait "$each" || exit 1; done'
)
_IN_TURN = 'for each in "$@"; do {command} "$each" || exit 1; done'


def many() -> Iterator[Row]:
    """Nothing may be quadratic in the number of recipes, overlays, files or profiles."""
    with tempfile.TemporaryDirectory() as name:
        yield _recipes(Path(name))
    for kind, counts in (
        ("overlays", (1, 10, 100)),
        ("files", (10, 100, 1_000)),
        ("recipes", (1, 10, 100)),
        ("profiles", (1, 10, 100)),
    ):
        last = 0.0
        for count in counts:
            with tempfile.TemporaryDirectory() as name:
                row = _grown(Path(name), kind, count)
            now = sorted(each.cpu for each in row.runs["builder check"])[len(row.runs["builder check"]) // 2]
            yield replace(row, note=f"CPU of check grew {now / last:.2f} times") if last else row
            last = now


def _recipes(folder: Path) -> Row:
    names = [f"r{number}" for number in range(_RECIPES)]
    place, env = _project(folder, overlays=5, recipes=_RECIPES, profiles=2)

    def call(script: str) -> Used:
        return used("sh", "-c", script.format(command=f"{' '.join(OURS)} check"), "sh", *names, cwd=place, env=env)

    for each in names:
        run(*OURS, "lock", each, cwd=place, env=env)
    return pairs(
        f"{_RECIPES} recipes checked",
        {"at once": lambda: call(_AT_ONCE), "one after another": lambda: call(_IN_TURN)},
    )


def _grown(folder: Path, kind: str, count: int) -> Row:
    counts = {"overlays": 1, "files": 1, "recipes": 1, "profiles": 1, kind: count}
    place, env = _project(folder, **counts)
    for each in ("lock", "check"):
        run(*OURS, each, "r0", cwd=place, env=env)
    return pairs(
        f"{count:,} {kind if count > 1 else kind[:-1]}",
        {
            "builder check": lambda: used(*OURS, "check", "r0", cwd=place, env=env),
            "builder lock": lambda: used(*OURS, "lock", "r0", cwd=place, env=env),
        },
        warm=False,
    )


def _project(
    folder: Path, *, overlays: int = 1, files: int = 1, recipes: int = 1, profiles: int = 1
) -> tuple[Path, dict[str, str]]:
    """A project of recipes r0, r1, ... that share overlays, each with new files of its own, and profiles."""
    from tests.support.smallwheel import make_project

    place = folder / "project"
    diffs = {f"{number:04}.diff": _diff(number, files) for number in range(overlays)}
    names = [f"t{number}" for number in range(profiles)]
    make_project(place, diffs, profiles=names, default_profile="t0")
    recipe = (place / "images/small.yaml").read_text()
    (place / "images/small.yaml").unlink()
    for number in range(recipes):
        (place / f"images/r{number}.yaml").write_text(recipe.replace("name: small", f"name: r{number}"))
    for number, name in enumerate(names):
        text = f"name: {name}\nflags: {{max-model-len: {16 + number}, enforce-eager: true}}\n"
        (place / f"profiles/{name}.yaml").write_text(text)
    return place, {"BUILDER_CACHE_DIR": str(folder / "cache")}


def _diff(number: int, files: int) -> bytes:
    parts = []
    for each in range(files):
        name = f"vllm/part{number}/m{each}.py"
        parts.append(
            f"diff --git a/{name} b/{name}\nnew file mode 100644\n--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+x = {each}\n"
        )
    return "".join(parts).encode()
