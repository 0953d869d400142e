"""Recipes of vllm-project/recipes: `model.base_args` and `base_env`, features, variants and `hardware_overrides`.

Source of the format and of the order in which its parts apply: CONTRIBUTING.md, taxonomy.yaml and the command builder of that
repository: base, variant (but not the default one's), strategy, hardware of the recipe and then of the variant, features last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from builder.documents.profile import Hardware
from builder.util.errors import InputError
from builder.vllm.fit.gpus import Gpu, find_gpu
from builder.vllm.imports.imported import Imported, profile_name
from builder.vllm.imports.words import take_words

_STRATEGY = "single_node_tp"
_READ = frozenset({
    "meta", "model", "features", "opt_in_features", "variants", "compatible_strategies", "hardware_overrides",
    "strategy_overrides", "guide", "default_strategy", "strategy_min_gpus", "strategy_hardware", "hardware_notes",
    "hardware_opt_in_features", "kv_offload_support", "dependencies", "omni",
})  # fmt: skip
_DEPENDENCY = "a package goes into the recipe's `wheels:`; a profile installs nothing"
_FAMILIES = ("hopper", "blackwell", "ada", "ampere", "amd", "nvidia", "tpu", "cpu", "xpu", "npu")


def is_upstream(document: Mapping[str, Any]) -> bool:
    model = document.get("model")
    return isinstance(model, Mapping) and "model_id" in model


def from_upstream(
    document: Mapping[str, Any],
    *,
    name: str | None = None,
    variant: str | None = None,
    hardware: str | None = None,
    features: Sequence[str] | None = None,
    gpus: int | None = None,
) -> Imported:
    """The profile of such a recipe.

    `hardware` is a GPU, or a family such as `hopper`, `blackwell` or `amd`; `features` are those to take, by default all that
    are not opt-in. Raises `InputError` for a variant, a feature or a GPU that there is none of.
    """
    model = _mapping(document["model"])
    chosen_name = variant or "default"
    variants = _mapping(document.get("variants"))
    chosen = _mapping(_one(variants, chosen_name, "variant")) if variants or variant else {}
    keys, gpu = _hardware(hardware)
    meta = _mapping(document.get("meta"))
    title = str(meta.get("title") or model["model_id"])
    suffix = [each for each in (variant, hardware) if each and each != "default"]
    found = Imported(name or profile_name(" ".join([str(model["model_id"]).rpartition("/")[2], *suffix])))
    found.model = str(chosen.get("model_id") or model["model_id"])
    found.description = " ".join(
        f"{title}{', ' + chosen_name if variant else ''}: {meta.get('description') or ''}".split()
    )[:300]
    found.notes = f"from vllm-project/recipes, for {found.model}"
    _add(found, model.get("base_args"), model.get("base_env"), "base")
    if chosen_name != "default":
        _add(found, chosen.get("extra_args"), chosen.get("extra_env"), f"variant {chosen_name}")
    strategy = _mapping(_mapping(document.get("strategy_overrides")).get(_STRATEGY))
    count = gpus or _count(chosen.get("tp"), keys) or _count(strategy.get("tp"), keys) or 1
    if count > 1:
        take_words(found, ["--tensor-parallel-size", str(count)])
    _add(
        found,
        strategy.get("extra_args") or strategy.get("vllm_args"),
        strategy.get("extra_env") or strategy.get("env"),
        "strategy",
    )
    _overrides(found, document, chosen, strategy, keys)
    _features(found, document, features, keys)
    if gpu is not None:
        found.hardware = Hardware(gpu=gpu.name, count=count)
    _not_carried(found, document, model, chosen, hardware)
    return found


def _overrides(
    found: Imported,
    document: Mapping[str, Any],
    variant: Mapping[str, Any],
    strategy: Mapping[str, Any],
    keys: Sequence[str],
) -> None:
    special = _keyed(strategy.get("hardware_overrides"), keys[1:])
    layers = [special] if special else [
        _keyed(document.get("hardware_overrides"), keys[1:]), _keyed(variant.get("hardware_overrides"), keys[1:]),
    ]  # fmt: skip
    layers.append(_mapping(_mapping(strategy.get("hardware_overrides")).get(keys[0])) if keys else {})
    for each in layers:
        _add(found, each.get("extra_args"), each.get("extra_env"), f"hardware {keys[0] if keys else ''}")


def _features(found: Imported, document: Mapping[str, Any], wanted: Sequence[str] | None, keys: Sequence[str]) -> None:
    known = _mapping(document.get("features"))
    optional = {str(each) for each in document.get("opt_in_features") or []}
    for each in wanted or ():
        _one(known, each, "feature")
    for name, value in known.items():
        feature = _mapping(value)
        if (name not in wanted) if wanted is not None else (name in optional):
            found.lose(f"feature {name}", f"not asked for: --feature {name} takes it")
            continue
        if modes := _mapping(feature.get("modes")):
            mode = str(feature.get("default_mode") or next(iter(modes)))
            others = [each for each in modes if each != mode]
            feature = _mapping(modes.get(mode))
            found.lose(f"feature {name}, mode {' and '.join(others)}", f"its mode {mode} was taken") if others else None
        special = _keyed(feature.get("hardware_overrides"), keys)
        _add(found, special.get("args", feature.get("args")), feature.get("env"), f"feature {name}")


def _not_carried(
    found: Imported,
    document: Mapping[str, Any],
    model: Mapping[str, Any],
    variant: Mapping[str, Any],
    hardware: str | None,
) -> None:
    version = variant.get("min_vllm_version") or model.get("min_vllm_version")
    if version:
        found.lose(
            f"min_vllm_version {version}",
            "the recipe's `base:` decides the vLLM; `builder profile lint PROFILE --recipe RECIPE` judges against it",
        )
    for key in ("docker_image", "nightly_required", "install"):
        if model.get(key):
            found.lose(f"model.{key}", "the recipe's `base:` is the image that is patched")
    for each in document.get("dependencies") or []:
        command = " ".join(str(_mapping(each).get("command") or _mapping(each).get("note") or "").split())
        found.lose(
            f"dependency: {command[:150]}",
            _DEPENDENCY if "install" in command else "is another command; a variable goes under `env:`",
        )
    others = [str(each) for each in document.get("compatible_strategies") or [] if each != _STRATEGY]
    if others:
        found.lose(f"strategies {', '.join(others)}", f"{_STRATEGY} was taken: one server on one machine")
    if document.get("omni"):
        found.lose("omni", "vllm-omni is another server")
    if hardware is None and (
        overrides := [*_mapping(document.get("hardware_overrides")), *_mapping(variant.get("hardware_overrides"))]
    ):
        found.lose(
            f"hardware_overrides of {', '.join(dict.fromkeys(map(str, overrides)))}",
            "--hardware takes those of one kind",
        )
    for key in document:
        if key not in _READ:
            found.lose(str(key), "is not a key that is known here")


def _add(found: Imported, words: object, variables: object, source: str) -> None:
    if isinstance(words, list):
        take_words(found, _split(words))
    if isinstance(variables, Mapping):
        found.set_variables(variables, source)


def _split(words: Iterable[object]) -> list[str]:
    """Arguments as they are written; one that has flag and value in one text becomes two."""
    found: list[str] = []
    for each in words:
        text = str(each)
        head, space, rest = text.partition(" ")
        found += [head, rest.strip()] if text.startswith("--") and space and "=" not in head else [text]
    return found


def _hardware(text: str | None) -> tuple[list[str], Gpu | None]:
    """Under which keys a recipe may have something for a GPU, the most exact first; and the GPU, when it is one."""
    if text is None:
        return [], None
    plain = text.lower().replace("-", "_")
    if plain in _FAMILIES:
        return [plain, plain, *(["nvidia"] if plain in ("hopper", "blackwell", "ada", "ampere") else [])], None
    gpu = find_gpu(text)
    return [plain, gpu.family, "nvidia" if gpu.vendor == "nvidia" else gpu.vendor], gpu


def _keyed(value: object, keys: Sequence[str]) -> Mapping[str, Any]:
    overrides = _mapping(value)
    return next((_mapping(overrides[key]) for key in keys if overrides.get(key)), {})


def _count(value: object, keys: Sequence[str]) -> int | None:
    if isinstance(value, Mapping):
        value = next((value[key] for key in [*keys, "default"] if key in value), None)
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 64 else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _one(known: Mapping[str, Any], name: str, what: str) -> Any:
    if name not in known:
        raise InputError(f"the recipe has no {what} {name!r}", hint=f"it has: {', '.join(map(str, known)) or 'none'}")
    return known[name]
