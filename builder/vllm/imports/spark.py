"""Recipes of the kind that run vLLM on DGX Spark clusters: a `command` template with `defaults`, `env`, `mods` and `container`.

Source of the format: recipes/README.md of eugr/spark-vllm-docker. `{name}` takes a default, `{{` and `}}` are braces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from builder.util.errors import InputError
from builder.vllm.imports.imported import Imported, profile_name
from builder.vllm.imports.shell import from_command

_PLACE = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}")
_LOST = {
    "build_args": "how the container is built: the recipe's `base:` and `overlays:` decide that here",
    "mods": "changes of the installed packages: make each one an overlay (a diff) of the recipe",
    "cluster_only": "several machines: a profile serves from one",
    "container": "the recipe's `base:` is the image that is patched",
}
_READ = frozenset(
    {"recipe_version", "name", "description", "model", "defaults", "env", "command", "solo_only", "metadata"}
)


def is_spark(document: Mapping[str, Any]) -> bool:
    return isinstance(document.get("command"), str)


def from_spark(document: Mapping[str, Any], *, name: str | None = None) -> Imported:
    """The profile of such a recipe. Raises `InputError` for a template that its defaults do not fill."""
    defaults = document.get("defaults")
    values = {str(key): value for key, value in defaults.items()} if isinstance(defaults, Mapping) else {}
    found = from_command(_filled(document["command"], values), name=name)
    found.name = name or profile_name(str(document.get("name") or found.name))
    found.description = str(document.get("description") or document.get("name") or "")
    found.model = found.model or (str(document["model"]) if document.get("model") else None)
    env = document.get("env")
    own, found.env = dict(found.env), {}
    found.set_variables(env if isinstance(env, Mapping) else {}, "env")
    found.env |= own
    for key, why in _LOST.items():
        if document.get(key):
            text = document[key]
            found.lose(f"{key}: {', '.join(map(str, text)) if isinstance(text, list) else text}", why)
    for key in document:
        if key not in _READ and key not in _LOST:
            found.lose(str(key), "is not a key that is known here")
    return found


def _filled(template: str, values: Mapping[str, Any]) -> str:
    def place(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        if match[1] not in values:
            raise InputError(
                f"the recipe's command has {{{match[1]}}}, and its defaults do not", hint="add it to `defaults:`"
            )
        return str(values[match[1]])

    return _PLACE.sub(place, template)
