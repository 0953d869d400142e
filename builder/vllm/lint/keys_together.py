"""Rules about keys of one option together, and what became of keys that vLLM no longer has.

Each rule holds where the release's own text of the refusal is in its source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from builder.documents.profile import key_text
from builder.vllm.flagvalues import of_key
from builder.vllm.lint.context import Context, Entry
from builder.vllm.lint.converted import convert
from builder.vllm.lint.findings import Finding


@dataclass(frozen=True)
class _Needs:
    """`key` of `flag`, with one of the values `when` if there are any, needs `other`, with one of `values` if there are any.

    `text` is what the file says where it refuses.
    """

    flag: str
    key: str
    other: str
    values: tuple[str, ...]
    file: str
    text: str
    when: tuple[str, ...] = ()


_NEEDS = (
    _Needs("kv-transfer-config", "kv_connector", "kv_role", (), "kv_transfer", "Please specify kv_role when kv_connector"),
    _Needs("ec-transfer-config", "ec_connector", "ec_role", (), "ec_transfer", "Please specify ec_role when ec_connector"),
    _Needs(
        "structured-outputs-config", "disable_any_whitespace", "backend", ("xgrammar", "guidance"), "structured_outputs",
        "disable_any_whitespace is only supported for",
    ),
    _Needs(
        "structured-outputs-config", "disable_additional_properties", "backend", ("guidance",), "structured_outputs",
        "disable_additional_properties is only supported",
    ),
    _Needs(
        "profiler-config", "profiler", "torch_profiler_dir", (), "profiler", "torch_profiler_dir must be set when profiler is", ("torch",),
    ),
    _Needs(
        "profiler-config", "torch_profiler_dir", "profiler", ("torch",), "profiler", "torch_profiler_dir is only applicable when profiler",
    ),
)  # fmt: skip
# Keys that vLLM had, and those that took their place.
_RENAMED: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("compilation-config", "level"): ("mode",),
    ("compilation-config", "use_cudagraph"): ("cudagraph_mode",),
    ("compilation-config", "full_cuda_graph"): ("cudagraph_mode",),
    ("compilation-config", "pass_config.enable_fusion"): ("pass_config.fuse_norm_quant", "pass_config.fuse_act_quant"),
    ("compilation-config", "pass_config.enable_attn_fusion"): ("pass_config.fuse_attn_quant",),
    ("compilation-config", "pass_config.enable_noop"): ("pass_config.eliminate_noops",),
    ("compilation-config", "pass_config.enable_sequence_parallelism"): ("pass_config.enable_sp",),
    ("compilation-config", "pass_config.enable_async_tp"): ("pass_config.fuse_gemm_comms",),
    ("compilation-config", "pass_config.enable_fi_allreduce_fusion"): ("pass_config.fuse_allreduce_rms",),
    ("pooler-config", "normalize"): ("use_activation",),
    ("pooler-config", "softmax"): ("use_activation",),
    ("pooler-config", "activation"): ("use_activation",),
}


def successors(flag: str, key: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The keys that took the place of one, as far as this vLLM has them."""
    return tuple(each for each in _RENAMED.get((flag, key), ()) if each in known)


def keys_together(context: Context) -> Iterator[Finding]:
    """Keys that need each other."""
    for rule in _NEEDS:
        given, entry = _given(context, rule.flag)
        value = given.get(rule.key)
        if entry is None or value in (None, "") or str(value).lower() in ("false", "0", "no", "off", "n", "f"):
            continue
        if rule.when and value not in rule.when:
            continue
        other = given.get(rule.other)
        if other in rule.values or (not rule.values and other not in (None, "")):
            continue
        path = f"{context.package.source.package}/config/{rule.file}.py"
        if rule.text not in (context.package.source.text(path) or ""):
            continue
        one_of = f" {' or '.join(rule.values)}" if rule.values else ""
        yield context.say(
            "needs-flag", "error", f"--{rule.flag}.{rule.key} needs the {rule.other}{one_of}: the server refuses it without",
            entry=entry, source=path, hint=f"set {rule.flag}.{rule.other}" + (f" to {rule.values[0]}" if rule.values else ""),
        )  # fmt: skip


def _given(context: Context, flag: str) -> tuple[dict[str, Any], Entry | None]:
    """The keys of an option, whether they are in its JSON or in lines of their own, and where the last of them is."""
    found: dict[str, Any] = {}
    last = None
    for entry in context.entries:
        if entry.flag is None or entry.flag.name != flag:
            continue
        last = entry
        if entry.inner:
            found[entry.inner] = of_key(key_text(entry.value))
        else:
            whole = convert(entry.flag, entry.value)
            found |= whole if isinstance(whole, dict) else {}
    return found, last
