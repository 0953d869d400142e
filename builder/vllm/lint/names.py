"""Rules about names that the package registers, and values that need an overlay."""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterator

from builder.vllm.lint.context import Context, Entry
from builder.vllm.lint.findings import Finding

_TURBOQUANT_OVERLAY = "vllm-project/vllm#39931"
_VOCABULARY_OVERLAY = "vllm-project/vllm#41365"
# What the FP8 path has to name before it can take a vocabulary table.
_TABLE_WORDS = {"lm_head": ("ParallelLMHead", "lm_head"), "embed_tokens": ("VocabParallelEmbedding", "embed_tokens")}


def registered(context: Context) -> Iterator[Finding]:
    """Parsers and quantization methods are registered under the profile's names."""
    names = context.package.registries
    yield from _parser(context, "reasoning-parser", names.reasoning_parsers, "reasoning-parser-plugin")
    yield from _parser(context, "tool-call-parser", names.tool_parsers, "tool-parser-plugin")
    entry = context.get("quantization")
    if entry is not None and isinstance(entry.value, str) and entry.value not in ("", "None"):
        yield from _quantization(context, entry, entry.value)


def _parser(context: Context, flag: str, known: frozenset[str] | None, plugin: str) -> Iterator[Finding]:
    entry = context.get(flag)
    if entry is None or not isinstance(entry.value, str) or entry.value.lower() in ("", "none"):
        return
    if known is None:
        yield context.say(
            "unknown-name", "not-checked", f"the names for --{flag} could not be read from the source", entry=entry
        )
    elif entry.value not in known and context.get(plugin) is not None:
        yield context.say(
            "unknown-name", "not-checked", f"{entry.value!r} may come from --{plugin}, which is not read", entry=entry
        )
    elif entry.value not in known:
        yield _missing(context, entry, known)


def _missing(context: Context, entry: Entry, known: frozenset[str]) -> Finding:
    folded = {each.lower(): each for each in sorted(known)}
    near = [folded[each] for each in difflib.get_close_matches(str(entry.value).lower(), list(folded), n=1, cutoff=0.5)]
    return context.say(
        "unknown-name", "error", f"{context.vllm} has no {entry.value!r} for --{entry.name}", entry=entry,
        hint=(f"did you mean {near[0]}? " if near else "") + f"known: {', '.join(sorted(known))}",
    )  # fmt: skip


def _quantization(context: Context, entry: Entry, value: str) -> Iterator[Finding]:
    names = context.package.registries
    if names.quantization is None:
        yield context.say(
            "unknown-name", "not-checked", "the quantization methods could not be read from the source", entry=entry
        )
        return
    if _folds_quantization(context):
        value = value.lower()
    if value not in names.quantization:
        yield _missing(context, entry, names.quantization)
        return
    if value in names.deprecated_quantization and context.value("allow-deprecated-quantization") is not True:
        yield context.say(
            "deprecated", "error", f"{context.vllm} refuses the deprecated quantization {value!r}", entry=entry,
            hint="another method, or allow-deprecated-quantization: true",
        )  # fmt: skip
    shape = context.shape
    if shape is not None and shape.quantization is not None and value != shape.quantization:
        yield context.say(
            "quantization", "error", f"the checkpoint is quantized as {shape.quantization}, not {value}", entry=entry,
            hint=f"write {shape.quantization}, or leave the line out: vLLM reads it from the checkpoint",
        )  # fmt: skip


def _folds_quantization(context: Context) -> bool:
    """Whether this vLLM takes the name of a method in any letter case: a validator of its model config says so."""
    text = context.package.source.text(f"{context.package.source.package}/config/model.py") or ""
    return (
        re.search(r'@field_validator\("quantization", mode="before"\)(?:.*\n){1,5}\s+return value\.lower\(\)', text)
        is not None
    )


def overlays(context: Context) -> Iterator[Finding]:
    """Values that stock vLLM refuses or gets wrong, and that an overlay is in the stack for."""
    entry = context.get("kv-cache-dtype")
    if entry is not None and str(entry.value).startswith("turboquant_"):
        yield from _turboquant(context, entry)
    if context.shape is not None and context.shape.fp8_tables:
        yield from _vocabulary(context)


def _turboquant(context: Context, entry: Entry) -> Iterator[Finding]:
    if context.shape is None:
        yield context.say(
            "overlay-needed", "not-checked", f"{entry.value} on a hybrid model needs {_TURBOQUANT_OVERLAY}; whether this model is one is not known",
            entry=entry, hint="give the recipe a `model:`",
        )  # fmt: skip
        return
    if not context.shape.hybrid:
        return
    refused = refuses_hybrid_turboquant(context)
    if refused is None:
        yield context.say(
            "overlay-needed", "not-checked", f"whether {context.vllm} takes {entry.value} on a hybrid model could not be read",
            entry=entry,
        )  # fmt: skip
    elif refused:
        yield context.say(
            "overlay-needed", "error", f"{context.vllm} as patched refuses {entry.value} on a hybrid model: the server dies at start",
            entry=entry, hint=f"add {_TURBOQUANT_OVERLAY} to the recipe, or take vLLM 0.21.0 or later", source=refused,
        )  # fmt: skip


def refuses_hybrid_turboquant(context: Context) -> str | None:
    """Where the patched source raises for a hybrid model with a TurboQuant cache; `""` when it does not, None when that
    cannot be told. Found by its text: an error that names both."""
    source = context.package.source
    arguments = f"{source.package}/engine/arg_utils.py"
    tree = source.tree(arguments)
    text = source.text(f"{source.package}/model_executor/layers/quantization/turboquant/config.py")
    if tree is None or text is None:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise):
            words = "".join(
                str(each.value)
                for each in ast.walk(node)
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            ).lower()
            if "turboquant" in words and "hybrid" in words:
                return f"{arguments}:{node.lineno}"
    return "" if "is_hybrid" in text else None


def _vocabulary(context: Context) -> Iterator[Finding]:
    """FP8 vocabulary tables need a path in the FP8 quantization; without one the server starts and talks nonsense."""
    source = context.package.source
    path = f"{source.package}/model_executor/layers/quantization/fp8.py"
    text = source.text(path)
    assert context.shape is not None  # noqa: S101  overlays() has looked
    missing = [
        table
        for table in context.shape.fp8_tables
        if text is not None and not any(word in text for word in _TABLE_WORDS[table])
    ]
    if text is None or (missing and path in source.over):
        yield context.say(
            "overlay-needed", "not-checked", "whether the patched vLLM loads FP8 vocabulary tables could not be read",
            source=path,
        )  # fmt: skip
    elif missing:
        yield context.say(
            "overlay-needed", "error",
            f"the checkpoint has {' and '.join(missing)} in FP8, which {context.vllm} as patched loads without their scales: the server starts and returns nonsense",
            hint=f"add {_VOCABULARY_OVERLAY} to the recipe", source=path,
        )  # fmt: skip
