"""Flags and variables that left vLLM: what a profile is told to write instead works as it is printed."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from builder.vllm.lint.context import Package
from builder.vllm.lint.findings import Finding
from builder.vllm.lint.near import near_name
from builder.vllm.lint.removed import REMOVED, replacement
from builder.vllm.lint.removed_variables import REMOVED_VARIABLES
from builder.vllm.lint.run import lint_file, read_package
from builder.vllm.reader.source import from_files
from tests.support.pytrees import LazyFiles, package_tree

pytestmark = pytest.mark.wheels

VERSIONS = ("0.20.0", "0.33.0")
# Values that the flags had; the others are switches or take a number.
VALUES: dict[str, list[Any]] = {
    "cuda-graph-sizes": [8, [1, 2, 4]], "device": ["cuda"], "guided-decoding-backend": ["xgrammar", "auto"],
    "override-pooler-config": ['{"pooling_type": "MEAN"}'], "rope-scaling": ['{"rope_type": "yarn", "factor": 4.0}'],
    "rope-theta": [1_000_000], "speculative-model": ["[ngram]", "Qwen/Qwen3-0.6B"], "speculative-model-quantization": ["fp8"],
    "task": ["auto", "generate", "embed", "classify", "score", "reward", "draft"], "tokenizer-pool-type": ["ray"],
    "preemption-mode": ["swap"], "override-neuron-config": ["{}"], "spec-decoding-acceptance-method": ["rejection_sampler"],
}  # fmt: skip
VARIABLES = {
    "VLLM_ATTENTION_BACKEND": "FLASHINFER", "VLLM_ALL2ALL_BACKEND": "pplx", "VLLM_TORCH_PROFILER_DIR": "/traces",
    "VLLM_FLASH_ATTN_VERSION": "3", "VLLM_FLASHINFER_MOE_BACKEND": "latency",
}  # fmt: skip
SWITCH = ("enable-", "disable-", "use-", "expand-", "worker-use-", "engine-use-", "multi-step-stream-")


@functools.cache
def released(version: str) -> Package:
    return read_package(from_files(LazyFiles(package_tree(version)), version=version))


def errors(folder: Path, version: str, flags: dict[str, Any], env: dict[str, str] | None = None) -> list[Finding]:
    path = folder / "p.yaml"
    path.write_text(
        yaml.safe_dump({"name": "p", "flags": {"max-num-seqs": 4, **flags}, "env": env or {}}, sort_keys=False)
    )
    return [each for each in lint_file(path, released(version)).findings if each.level == "error"]


def applied(hint: str) -> dict[str, Any]:
    """The lines of a hint that says what to write, as YAML reads them."""
    if not hint.startswith("write "):
        assert "leave it out" in hint, hint
        return {}
    lines = re.findall(r"`([^`]+: [^`]+)`", hint)
    assert lines, hint
    found: dict[str, Any] = yaml.safe_load("\n".join(lines))
    return found


def values(flag: str) -> list[Any]:
    if flag in VALUES:
        return VALUES[flag]
    switch = flag.startswith(SWITCH) or flag.endswith(
        ("-fallback", "-whitespace", "-properties", "-balancedness", "-scorer")
    )
    return [True, False] if switch else [4]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_to_write_instead_of_a_removed_flag_passes(version: str, tmp_path: Path) -> None:
    lookup = released(version).catalog.lookup()
    for flag in sorted(REMOVED):
        if flag in lookup:
            continue
        for value in values(flag):
            (found,) = errors(tmp_path, version, {flag: value})
            assert found.hint is not None
            assert errors(tmp_path, version, applied(found.hint)) == [], (flag, value, found.hint)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_to_write_instead_of_a_removed_variable_passes(version: str, tmp_path: Path) -> None:
    known = released(version).variables or {}
    for name in sorted(REMOVED_VARIABLES):
        if name in known:
            continue
        for text in [VARIABLES[name]] if name in VARIABLES else ["0", "1"]:
            (found,) = errors(tmp_path, version, {}, {name: text})
            lines = applied(found.hint or "")
            env = {key: str(value) for key, value in lines.items() if key.isupper()}
            flags = {key: value for key, value in lines.items() if not key.isupper()}
            assert errors(tmp_path, version, flags, env) == [], (name, text, found.hint)


HINTS: dict[str, tuple[dict[str, Any], str]] = {
    "a switch that is off by itself": ({"disable-log-requests": True}, "leave it out, or write `enable-log-requests: false`"),
    "the same, switched off": ({"disable-log-requests": False}, "write `enable-log-requests: true`"),
    "the same, negated": ({"no-disable-log-requests": True}, "write `enable-log-requests: true`"),
    "one number": ({"cuda-graph-sizes": 8}, "`max-cudagraph-capture-size: 8`"),
    "a list": ({"cuda-graph-sizes": [1, 2]}, "`cudagraph-capture-sizes: [1, 2]`"),
    "a value that YAML would read in another way": ({"speculative-model": "[ngram]"}, "`speculative-config.model: '[ngram]'`"),
    "a key that has left too": ({"guided-decoding-disable-fallback": True}, ": leave it out"),
    "a value of its own": ({"task": "embed"}, "write `runner: pooling` and `convert: embed`"),
    "a value that has no such key": (
        {"speculative-model": "Qwen/Qwen3-0.6B", "speculative-config": '{"num_speculative_tokens": 3}'},
        'add `"model": "Qwen/Qwen3-0.6B"` to the JSON of `speculative-config`',
    ),
    "what the profile has": ({"disable-mm-preprocessor-cache": True, "mm-processor-cache-gb": 0}, "leave it out: `mm-processor"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HINTS)
def test_a_hint_has_the_value_of_the_flag(kind: str, tmp_path: Path) -> None:
    flags, words = HINTS[kind]
    found, *_ = errors(tmp_path, "0.20.0", flags)
    assert words in (found.hint or "")


WRONG: dict[str, tuple[dict[str, Any], dict[str, str], str]] = {
    "a flag's names": ({}, {"VLLM_ATTENTION_BACKEND": "x"}, "`attention-backend` has taken its place; its value is one of FLASH_ATTN, "),
    "a flag's choices": ({}, {"VLLM_ALL2ALL_BACKEND": "nonsense"}, "`all2all-backend` has taken its place; its value is one of "),
    "a key's choices": ({"guided-decoding-backend": "nonsense"}, {}, "its value is one of auto, xgrammar, guidance"),
    "a key's number": ({"num-speculative-tokens": "some"}, {}, "its value is a whole number"),
    "a key's limit": ({"num-speculative-tokens": 0}, {}, "its value is a whole number above 0"),
    "a flag's number": ({"cuda-graph-sizes": "8 of"}, {}, "its value is a whole number"),
    "one of a list": ({"cuda-graph-sizes": [1, "two"]}, {}, "its value is a whole number"),
    "a quantization": ({"speculative-model-quantization": "x"}, {}, "its value is one of "),
    "a switch": ({}, {"VLLM_V0_USE_OUTLINES_CACHE": "maybe"}, "`VLLM_V1_USE_OUTLINES_CACHE` has taken its place; its value is 1, or 0"),
    "what is checked late": ({"rope-theta": "large"}, {}, "`hf-overrides.rope_theta` has taken its place; its value is a number"),
    "an object that is checked late": ({"rope-scaling": "yarn"}, {}, "its value is a JSON object"),
    "a JSON object": ({"override-pooler-config": "MEAN"}, {}, "its value is a JSON object"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_a_hint_does_not_offer_a_value_that_is_refused(kind: str, tmp_path: Path) -> None:
    flags, env, words = WRONG[kind]
    found, *_ = errors(tmp_path, "0.20.0", flags, env)
    assert words in (found.hint or "")


def test_a_removed_flag_has_a_source_and_its_negation_is_found() -> None:
    assert all(each.source for each in REMOVED.values())
    assert replacement("no-enable-reasoning") is REMOVED["enable-reasoning"]


# What people write for a number, and the line that they are told to write.
NUMBERS = {
    ("max-model-len", "32 k"): "32k", ("max-model-len", "32,768"): "32768", ("max-model-len", "32KiB"): "32K",
    ("max-model-len", "32kb"): "32k", ("max-model-len", "1e5"): "100000", ("max-model-len", "0x8000"): "32768",
    ("max-model-len", "32768.0"): "32768", ("max-model-len", "0o17"): "15", ("max-num-seqs", "1k"): "1000",
    ("gpu-memory-utilization", "90%"): "0.9", ("gpu-memory-utilization", 90): "0.9", ("cpu-offload-gb", "4GB"): "4",
    ("kv-cache-memory-bytes", "2GB"): "2G",
}  # fmt: skip


@pytest.mark.parametrize(("flag", "value"), NUMBERS)
def test_a_number_that_is_written_in_another_way_gets_its_line(flag: str, value: Any, tmp_path: Path) -> None:
    meant = NUMBERS[flag, value]
    (found,) = errors(tmp_path, "0.20.0", {flag: value})
    assert found.hint == f"write {meant}"
    assert errors(tmp_path, "0.20.0", {flag: meant}) == []


KEYS: dict[str, tuple[dict[str, Any], str]] = {
    "a dash in a key": ({"structured-outputs-config.disable-any-whitespace": True}, "did you mean disable_any_whitespace?"),
    "a short option's key": ({"cc.mode": 3}, "write compilation-config.mode"),
    "a misspelt flag's key": ({"compilaton-config.mode": 3}, "did you mean compilation-config.mode?"),
    "a number for a config": ({"compilation-config": 3}, "`compilation-config.mode: VALUE`"),
    "a value and a key": ({"compilation-config": '{"mode": 3}', "compilation-config.backend": "x"}, "each key in a line"),
    "a key and a value": ({"hf-overrides.rope_theta": 1, "hf_overrides": "{}"}, "each key in a line"),
    "capitals": ({"quantization": "FP9"}, "did you mean fp8?"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KEYS)
def test_keys_and_names_get_what_may_be_meant(kind: str, tmp_path: Path) -> None:
    flags, words = KEYS[kind]
    (found,) = errors(tmp_path, "0.20.0", flags)
    assert words in (found.hint or "")


def test_a_flag_of_a_json_text_takes_keys(tmp_path: Path) -> None:
    assert errors(tmp_path, "0.20.0", {"hf-overrides.rope_theta": 1_000_000}) == []
    assert errors(tmp_path, "0.20.0", {"hf-overrides": "{rope_theta: 1}"})[0].rule == "wrong-type"


NEAR = {
    "max-model-lenn": "max-model-len", "max-batched-tokens": "max-num-batched-tokens",
    "tool-parser": "tool-call-parser", "reasoing-parser": "reasoning-parser", "maxmodellen": "max-model-len",
    "prefix-caching": "enable-prefix-caching", "kv-cache-type": "kv-cache-dtype", "tensor-paralel-size": "tensor-parallel-size",
    "gpu-mem-utilization": None, "gpu-memory-utilisation": "gpu-memory-utilization", "trust-remote": "trust-remote-code",
    # What one of these names is of something else, however many letters they share.
    "sleep-mode-backend": None, "linear-backend": None, "engram-config": None, "mm-encoder-attn-dtype": None,
    "eplb-step-interval": None, "logging-config": None, "cpu-distributed-timeout-seconds": None, "enable-lora-bias": None,
    "tokenizer-pool-size": None, "grpc-port": None, "min-model-len": None, "disable-log-deltas": "no-enable-log-deltas", "log-stats": None, "no-trust-remote-cod": "no-trust-remote-code", "quantization-config": None, "frobnicate": None,
}  # fmt: skip


@pytest.mark.parametrize("name", NEAR)
def test_only_a_flag_that_may_be_meant_is_near(name: str) -> None:
    assert near_name(name, list(released("0.20.0").catalog.lookup())) == NEAR[name]
