"""Each wrong profile gets the right finding; the pinned ones get those that are known, and no others."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.documents.profile import Hardware, Profile
from builder.documents.values import Envelope
from builder.documents.yamlfile import Document
from builder.patch.stack import apply_stack
from builder.vllm.fit.estimate import estimate
from builder.vllm.lint import context
from builder.vllm.lint.context import Package
from builder.vllm.lint.findings import LEVELS
from builder.vllm.lint.near import near_name, sense
from builder.vllm.lint.run import Report, lint, lint_file, read_package
from builder.vllm.reader.source import from_files
from tests.support.cli import builder
from tests.support.flagship import RECIPE as FLAGSHIP
from tests.support.flagship import hybrid_overlay, stock, vocabulary_overlay
from tests.support.pytrees import LazyFiles, package_tree
from tests.support.standin import package_files, tar_of, write_layout
from tests.support.trees import DictTree, overlay
from tests.support.wheels import wheel

ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "profiles"
REMOVED = object()

pytestmark = pytest.mark.wheels


@functools.cache
def patched(*, hybrid: bool = True, vocabulary: bool = True) -> Package:
    """vLLM 0.20.0 with the stack, or parts of it."""
    overlays = [overlay("vllm-project/vllm#39931", hybrid_overlay())] if hybrid else []
    overlays += [overlay("vllm-project/vllm#41365", vocabulary_overlay())] if vocabulary else []
    over = {file.path: file.after for file in apply_stack(overlays, DictTree(stock())).files}
    source = from_files(stock(), version="0.20.0", name="vllm 0.20.0")
    source.over = over
    return read_package(source)


@functools.cache
def released(version: str) -> Package:
    return read_package(from_files(LazyFiles(package_tree(version)), version=version))


def report(path: Path, package: Package | None = None, *, model: bool = True) -> Report:
    shape = FLAGSHIP.model if model else None
    return lint_file(path, package or patched(), shape=shape, budgets=[(10_000, 6_144)])


def changed(tmp_path: Path, base: str, flags: Mapping[str, Any], **other: Any) -> Path:
    """A copy of a real profile with flags added, changed or removed."""
    document = yaml.safe_load((PROFILES / f"{base}.yaml").read_text())
    document["flags"] |= flags
    document["flags"] = {name: value for name, value in document["flags"].items() if value is not REMOVED}
    path = tmp_path / f"{base}.yaml"
    path.write_text(yaml.safe_dump(document | other, sort_keys=False))
    return path


def said(found: Report, *levels: str) -> set[tuple[str, str | None]]:
    return {
        (each.rule, each.flag)
        for each in found.findings
        if each.level in (levels or ("error", "warning", "not-checked"))
    }


# --- the real profiles ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "smoke",
            {
                ("no-effect", "tool-call-parser"),
                ("equals-default", "block-size"),
                ("no-effect", "block-size"),
                ("equals-default", "enable-chunked-prefill"),
            },
        ),
        (
            "production-ceiling",
            {
                ("no-effect", "tool-call-parser"),
                ("equals-default", "enable-chunked-prefill"),
                ("utilization", "gpu-memory-utilization"),
            },
        ),
        (
            "envelope-16k",
            {("equals-default", "enable-chunked-prefill"), ("split-prefill", "max-num-batched-tokens")},
        ),
    ],
)
def test_the_pinned_profiles_get_the_known_findings_and_no_others(name: str, expected: set[Any]) -> None:
    found = report(PROFILES / f"{name}.yaml")
    assert said(found) == expected
    assert {finding.level for finding in found.findings} == {"warning"}
    assert all(finding.place.startswith(f"profiles/{name}.yaml:") for finding in found.findings)
    assert all((finding.source or "").startswith("vllm/") for finding in found.findings)


def test_only_the_third_profile_serves_the_16k_envelope_and_it_is_said_how_many_at_once() -> None:
    for name in ("smoke", "production-ceiling"):
        own, recipe = report(PROFILES / f"{name}.yaml").serves
        assert own.serves
        assert not recipe.serves
        assert recipe.sentence(name) == f"{name} cannot serve 10,000 + 6,144 = 16,144 tokens: max-model-len is 4,029"
    (only,) = report(PROFILES / "envelope-16k.yaml").serves
    assert only.serves
    assert (only.at_once, only.held) == (2, 3)
    assert "2 requests at once (the cache holds 3)" in only.sentence("envelope-16k")


def test_the_block_size_that_the_model_gets_is_named() -> None:
    found = [each for each in report(PROFILES / "smoke.yaml").findings if each.flag == "block-size"]
    assert any("2,080" in each.message for each in found)


# --- wrong profiles -------------------------------------------------------------------------------------------------

# name: (made from, flags, rule, level, flag, word of the message or hint)
WRONG: dict[str, tuple[str, dict[str, Any], str, str, str | None, str]] = {
    "misspelt": ("smoke", {"max-model-lenn": 4029}, "unknown-flag", "error", "max-model-lenn", "max-model-len"),
    "no such flag": ("smoke", {"frobnicate": True}, "unknown-flag", "error", "frobnicate", "no flag"),
    "of an older release": ("smoke", {"num-scheduler-steps": 8}, "unknown-flag", "error", "num-scheduler-steps", "no flag"),
    "of a newer release": ("smoke", {"linear-backend": "auto"}, "unknown-flag", "error", "linear-backend", "no flag"),
    "a short option": ("smoke", {"tp": 1}, "unknown-flag", "error", "tp", "tensor-parallel-size"),
    "abbreviated": ("smoke", {"tensor-parallel": 1}, "abbreviated-flag", "error", "tensor-parallel", "tensor-parallel-size"),
    "a number in words": ("smoke", {"max-num-seqs": "four"}, "wrong-type", "error", "max-num-seqs", "whole number"),
    "a fraction for a number": ("smoke", {"max-num-seqs": 4.5}, "wrong-type", "error", "max-num-seqs", "whole number"),
    "a percentage": ("smoke", {"gpu-memory-utilization": "96%"}, "wrong-type", "error", "gpu-memory-utilization", "a number"),
    "a wrong suffix": ("smoke", {"max-model-len": "4029kb"}, "wrong-type", "error", "max-model-len", "16k"),
    "no JSON": ("smoke", {"compilation-config": "{level: 3"}, "wrong-type", "error", "compilation-config", "JSON"),
    "cache type misspelt": ("smoke", {"kv-cache-dtype": "turboquant_k8v5"}, "bad-choice", "error", "kv-cache-dtype", "turboquant_k8v4"),
    "choice of another flag": ("smoke", {"dtype": "fp8"}, "bad-choice", "error", "dtype", "bfloat16"),
    "scheduling policy": ("smoke", {"scheduling-policy": "lifo"}, "bad-choice", "error", "scheduling-policy", "fcfs"),
    "reasoning parser": ("smoke", {"reasoning-parser": "qwen33"}, "unknown-name", "error", "reasoning-parser", "qwen3"),
    "tool parser": ("smoke", {"tool-call-parser": "qwen3-coder"}, "unknown-name", "error", "tool-call-parser", "qwen3_coder"),
    "quantization": ("smoke", {"quantization": "fp9"}, "unknown-name", "error", "quantization", "fp8"),
    "deprecated quantization": ("smoke", {"quantization": "fbgemm_fp8"}, "deprecated", "error", "quantization", "refuses"),
    "not the checkpoint's quantization": ("smoke", {"quantization": "awq"}, "quantization", "error", "quantization", "fp8"),
    "attention backend": ("smoke", {"attention-backend": "FLASH_ATN"}, "unknown-name", "error", "attention-backend", "FLASH_ATTN"),
    "a switch with a value": ("smoke", {"enable-chunked-prefill": "yes"}, "switch-with-value", "error", "enable-chunked-prefill", "true"),
    "no opposite": ("smoke", {"disable-log-stats": False}, "boolean-form", "error", "disable-log-stats", "leave the line out"),
    "twice negated": ("smoke", {"no-enable-prefix-caching": False}, "boolean-form", "error", "no-enable-prefix-caching", "no-no"),
    "false for a value": ("smoke", {"max-num-seqs": False}, "boolean-form", "error", "max-num-seqs", "takes a value"),
    "a value that is missing": ("smoke", {"max-num-seqs": True}, "needs-value", "error", "max-num-seqs", "whole number"),
    "too many values": ("smoke", {"max-num-seqs": [4, 8]}, "wrong-count", "error", "max-num-seqs", "one value"),
    "an empty list": ("smoke", {"cudagraph-capture-sizes": []}, "wrong-count", "error", "cudagraph-capture-sizes", "at least one"),
    "utilization above one": ("smoke", {"gpu-memory-utilization": 1.2}, "out-of-range", "error", "gpu-memory-utilization", "at most 1"),
    "no requests": ("smoke", {"max-num-seqs": 0}, "out-of-range", "error", "max-num-seqs", "at least 1"),
    "keys for a plain flag": ("smoke", {"max-num-seqs.low": 4}, "takes-no-keys", "error", "max-num-seqs.low", "plain value"),
    "an unknown key": ("smoke", {"kv-transfer-config.kv_conector": "x"}, "unknown-key", "error", "kv-transfer-config.kv_conector", "kv_connector"),
    "a word that a key does not know": ("smoke", {"structured-outputs-config.backend": "nonsense"}, "bad-choice", "error", "structured-outputs-config.backend", "xgrammar, guidance"),
    "a member of an enumeration": ("smoke", {"compilation-config.mode": "bogus"}, "bad-choice", "error", "compilation-config.mode", "known: NONE, STOCK_TORCH_COMPILE"),
    "a word in JSON": ("smoke", {"kv-transfer-config": '{"kv_connector": "NixlConnector", "kv_role": "both"}'}, "bad-choice", "error", "kv-transfer-config", "did you mean kv_both?"),
    "a method in JSON": ("smoke", {"speculative-config": '{"method": "nextn", "num_speculative_tokens": 1}'}, "bad-choice", "error", "speculative-config", "qwen3_next_mtp"),
    "a number below a key's limit": ("smoke", {"speculative-config.num_speculative_tokens": 0}, "out-of-range", "error", "speculative-config.num_speculative_tokens", "above 0"),
    "a word for a key's number": ("smoke", {"kv-transfer-config.kv_port": "http"}, "wrong-type", "error", "kv-transfer-config.kv_port", "a whole number, not 'http'"),
    "a key inside a key": ("smoke", {"compilation-config": '{"pass_config": {"enable_fusion": true}}'}, "unknown-key", "error", "compilation-config", "pass_config.enable_fusion"),
    "a connector without its role": ("smoke", {"kv-transfer-config.kv_connector": "NixlConnector"}, "needs-flag", "error", "kv-transfer-config.kv_connector", "set kv-transfer-config.kv_role"),
    "a profiler without its folder": ("smoke", {"profiler-config.profiler": "torch"}, "needs-flag", "error", "profiler-config.profiler", "set profiler-config.torch_profiler_dir"),
    "a folder without its profiler": ("smoke", {"profiler-config.torch_profiler_dir": "/x"}, "needs-flag", "error", "profiler-config.torch_profiler_dir", "to torch"),
    "a text that JSON reads as a number": ("smoke", {"speculative-config.revision": "123"}, "wrong-type", "error", "speculative-config.revision", """write '"123"'"""),
    "a switch of another backend": ("smoke", {"structured-outputs-config": '{"disable_any_whitespace": true, "backend": "outlines"}'}, "needs-flag", "error", "structured-outputs-config", "xgrammar or guidance"),
    "a key that has another name now": ("smoke", {"compilation-config.level": 3}, "unknown-key", "error", "compilation-config.level", "write mode"),
    "a key inside a key that has other names now": ("smoke", {"compilation-config": '{"pass_config": {"enable_noop": true}}'}, "unknown-key", "error", "compilation-config", "write pass_config.eliminate_noops"),
    "the model in the profile": ("smoke", {"model": "Qwen/Qwen3-8B"}, "model-in-profile", "error", "model", "entrypoint"),
    "deprecated": ("smoke", {"calculate-kv-scales": True}, "deprecated", "warning", "calculate-kv-scales", "Deprecated"),
    "the default": ("smoke", {"scheduling-policy": "fcfs"}, "equals-default", "warning", "scheduling-policy", "fcfs"),
    "tools without a parser": ("smoke", {"enable-auto-tool-choice": True, "tool-call-parser": REMOVED}, "needs-flag", "error", "enable-auto-tool-choice", "tool-call-parser"),
    "outputs without requests": ("smoke", {"enable-log-outputs": True}, "needs-flag", "error", "enable-log-outputs", "enable-log-requests"),
    "graphs that are never captured": ("smoke", {"enforce-eager": True}, "no-effect", "warning", "max-cudagraph-capture-size", "enforce-eager"),
    "adapters without LoRA": ("smoke", {"max-lora-rank": 32}, "no-effect", "warning", "max-lora-rank", "enable-lora"),
    "utilization and a fixed cache": ("smoke", {"kv-cache-memory-bytes": "2G"}, "no-effect", "warning", "gpu-memory-utilization", "kv-cache-memory-bytes"),
    "graphs below the batch": ("production-ceiling", {"max-cudagraph-capture-size": 4}, "capture-size", "warning", "max-cudagraph-capture-size", "8"),
    "graphs above the batch": ("smoke", {"max-cudagraph-capture-size": 64}, "capture-size", "warning", "max-cudagraph-capture-size", "memory for nothing"),
    "batch below the requests": ("smoke", {"max-num-batched-tokens": 2}, "batch", "error", "max-num-batched-tokens", "refuses"),
    "context below the envelope": ("envelope-16k", {"max-model-len": 8192}, "envelope-context", "error", "max-model-len", "16144"),
    "prompts that are split": ("envelope-16k", {"max-num-batched-tokens": 8192}, "split-prefill", "error", "max-num-batched-tokens", "#41726"),
    "more requests than the cache holds": ("envelope-16k", {"max-num-seqs": 16, "max-cudagraph-capture-size": 16}, "concurrency", "warning", "max-num-seqs", "write "),
    "more GPUs than there are": ("smoke", {"tensor-parallel-size": 2}, "hardware", "error", "tensor-parallel-size", "hardware has 1"),
    "heads that cannot be divided": ("smoke", {"tensor-parallel-size": 5}, "hardware", "error", "tensor-parallel-size", "24 attention heads"),
    "a cache that is larger than the GPU": ("smoke", {"num-gpu-blocks-override": 9000}, "does-not-fit", "error", "num-gpu-blocks-override", "more than the rtx-5090 has left"),
    "what is not modelled may make it fit": ("envelope-16k", {"max-model-len": 262144, "gpu-memory-utilization": 0.92, "hf-overrides.num_hidden_layers": 2}, "does-not-fit", "warning", "max-model-len", "does not start"),
    "a context that does not fit": ("envelope-16k", {"max-model-len": 262144, "gpu-memory-utilization": 0.92}, "does-not-fit", "error", "max-model-len", "does not start"),
    "no chunks and a short batch": ("envelope-16k", {"enable-chunked-prefill": False}, "batch", "error", "max-num-batched-tokens", "without chunked prefill"),
}  # fmt: skip


def test_there_are_at_least_forty_of_them() -> None:
    assert len(WRONG) >= 40
    assert {rule for _, _, rule, *_ in WRONG.values()} >= {
        "unknown-flag", "wrong-type", "bad-choice", "unknown-name", "boolean-form", "deprecated", "equals-default", "no-effect",
    }  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_profile_gets_the_right_finding(tmp_path: Path, case: str) -> None:
    base, flags, rule, level, flag, word = WRONG[case]
    found = report(changed(tmp_path, base, flags))
    matching = [each for each in found.findings if (each.rule, each.flag, each.level) == (rule, flag, level)]
    assert matching, said(found)
    assert any(word in f"{each.message} {each.hint}" for each in matching)
    if level == "error":
        before = said(report(PROFILES / f"{base}.yaml"), "error")
        # One mistake is not reported as several: only what follows from the same values may join it.
        assert {name for _, name in said(found, "error") - before} <= {flag, *flags}


def test_a_profile_that_is_none_is_a_finding_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("name: p\nflags:\n  max-num-seqs: 4\n  max_num_seqs: 8\n")
    (finding,) = report(path).findings
    assert (finding.rule, finding.level) == ("flag-twice", "error")
    assert finding.place.startswith("profiles/p.yaml:")
    path.write_text("name: p\nflags:\n  max-num-seqs: 4\n  max-num-seqs: 8\n")
    (finding,) = report(path).findings
    assert (finding.rule, finding.place) == ("flag-twice", "profiles/p.yaml:4:3")


def test_two_names_of_one_flag(tmp_path: Path) -> None:
    path = changed(tmp_path, "smoke", {"device-memory-utilization": 0.9})
    assert ("flag-twice", "device-memory-utilization") in said(report(path, released("0.33.0"), model=False), "error")


def test_an_unknown_gpu_is_not_checked(tmp_path: Path) -> None:
    found = report(changed(tmp_path, "smoke", {}, hardware={"gpu": "rtx-5099"}))
    assert {("hardware", None), ("concurrency", None)} <= said(found, "not-checked")
    assert not found.failed


def test_underscores_and_dotted_keys_are_understood(tmp_path: Path) -> None:
    flags = {
        "max-num-seqs": REMOVED, "max_num_seqs": "4", "compilation-config.mode": 3, "compilation-config.cudagraph_mode": "piecewise",
        "compilation-config.custom_ops": ["all"], "kv-transfer-config": '{"kv_connector": "X", "kv_role": "kv_both", "kv_buffer_size": 8g}',
    }  # fmt: skip
    found = report(changed(tmp_path, "smoke", flags))
    assert not found.failed
    # What a list contains is not looked at.
    assert {flag for rule, flag in said(found, "not-checked") if rule == "json-value"} == {
        "compilation-config.custom_ops"
    }


# Values as people write them, and what the hint says to write.
WRITTEN: tuple[tuple[str, Any, str], ...] = (
    ("max-model-len", "1.5K", "write 1.5k"),
    ("cudagraph-capture-sizes", "1,2,4", "write a list: [1, 2, 4]"),
    ("cudagraph-capture-sizes", "[1, 2, 4]", "write a list: [1, 2, 4]"),
    ("allowed-origins", ["*"], """write '["*"]'"""),
    ("allowed-origins", ["a", "b"], """write '["a", "b"]'"""),
    ("limit-mm-per-prompt", "image=2,video=1", "write `limit-mm-per-prompt.image: 2` and `limit-mm-per-prompt.video: 1`"),
    ("compilation-config", "{'mode': 3, 'cache_dir': 'x',}", """write '{"mode": 3, "cache_dir": "x"}'"""),
    ("hf-overrides", "{'a': True}", """write '{"a": true}'"""),
    ("kv-transfer-config", '{"kv_connector": Nixl}', "not valid JSON from character 18 on"),
)  # fmt: skip


@pytest.mark.parametrize(("flag", "value", "hint"), WRITTEN)
def test_a_value_as_people_write_it_gets_the_one_that_vllm_takes(
    tmp_path: Path, flag: str, value: object, hint: str
) -> None:
    (found,) = [
        each
        for each in report(changed(tmp_path, "smoke", {flag: value})).findings
        if (each.flag, each.level) == (flag, "error")
    ]
    assert hint in (found.hint or "")


@pytest.mark.parametrize("version", ["0.20.0", "0.33.0"])
def test_a_quantization_in_capitals_is_taken_as_the_release_takes_it(tmp_path: Path, version: str) -> None:
    path = changed(tmp_path, "smoke", {"quantization": "FP8", "kv-cache-dtype": "auto"})
    assert (
        said(report(path, released(version)), "error")
        & {("unknown-name", "quantization"), ("quantization", "quantization")}
        == set()
    )


def test_dashes_in_keys_where_a_release_takes_them(tmp_path: Path) -> None:
    path = changed(tmp_path, "smoke", {"speculative-config": '{"method": "mtp", "num-speculative-tokens": 1}'})
    for version, refused in (("0.20.0", True), ("0.33.0", False)):
        found = said(report(path, released(version), model=False), "error")
        assert (("unknown-key", "speculative-config") in found) == refused


def test_names_of_a_plugin_are_not_checked(tmp_path: Path) -> None:
    path = changed(tmp_path, "smoke", {"reasoning-parser": "mine", "reasoning-parser-plugin": "/plugins/mine.py"})
    assert said(report(path), "error") == set()
    assert ("unknown-name", "reasoning-parser") in said(report(path), "not-checked")


NAMES = st.sampled_from([
    "max-model-len", "max-num-seqs", "max-num-batched-tokens", "gpu-memory-utilization", "kv-cache-dtype", "block-size",
    "tensor-parallel-size", "kv-cache-memory-bytes", "num-gpu-blocks-override", "enable-prefix-caching", "quantization",
    "reasoning-parser", "tool-call-parser", "enable-auto-tool-choice", "compilation-config", "compilation-config.mode",
    "mamba-ssm-cache-dtype", "speculative-config", "max-cudagraph-capture-size", "cudagraph-capture-sizes", "no-such-flag",
    "enable-chunked-prefill", "enforce-eager", "max_num_seqs", "pipeline-parallel-size", "attention-backend", "model",
])  # fmt: skip
SCALARS = st.one_of(
    st.booleans(), st.integers(-(10**19), 10**19), st.text(max_size=8),
    st.sampled_from(["auto", "nan", "inf", "-1", "16k", "{}", '{"a": 1}', "[1]", "turboquant_k8v4", "fp8", "nvfp4", "0", "1e400"]),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(NAMES, st.one_of(SCALARS, st.lists(SCALARS, max_size=3).map(tuple)), max_size=6))
def test_no_profile_crashes_the_linter(flags: dict[str, Any]) -> None:
    profile = Profile.model_construct(
        name="p", description="", flags=flags, hardware=Hardware(gpu="rtx-5090"), expect=(), notes="",
        envelope=Envelope(prompt=10_000, completion=6_144),
    )  # fmt: skip
    for package in (patched(), patched(hybrid=False)):
        found = lint(profile, Document("p", None), package, shape=FLAGSHIP.model, budgets=[(1, 1)])
        assert all(each.level in LEVELS for each in found.findings)
        json.dumps(found.as_json())


# --- what the overlays are for --------------------------------------------------------------------------------------


def test_without_the_hybrid_overlay_a_turboquant_cache_is_an_error() -> None:
    found = report(PROFILES / "smoke.yaml", patched(hybrid=False))
    assert said(found, "error") == {("overlay-needed", "kv-cache-dtype")}
    (finding,) = [each for each in found.findings if each.level == "error"]
    assert "#39931" in str(finding.hint)
    assert str(finding.source).startswith("vllm/engine/arg_utils.py:")


def test_without_the_vocabulary_overlay_the_checkpoint_talks_nonsense() -> None:
    found = report(PROFILES / "smoke.yaml", patched(vocabulary=False))
    assert said(found, "error") == {("overlay-needed", None)}
    assert "nonsense" in found.findings[0].message


@pytest.mark.parametrize(("version", "refused"), [("0.20.2", True), ("0.21.0", False), ("0.33.0", False)])
def test_later_releases_take_turboquant_on_a_hybrid_model(version: str, refused: bool) -> None:
    found = report(PROFILES / "smoke.yaml", released(version))
    assert (("overlay-needed", "kv-cache-dtype") in said(found, "error")) == refused


def test_a_release_before_turboquant_does_not_know_the_value() -> None:
    found = report(PROFILES / "smoke.yaml", released("0.19.0"))
    assert ("bad-choice", "kv-cache-dtype") in said(found, "error")


def test_without_a_model_nothing_about_it_is_claimed() -> None:
    found = report(PROFILES / "smoke.yaml", patched(hybrid=False), model=False)
    assert not found.failed
    assert {("overlay-needed", "kv-cache-dtype"), ("no-effect", "block-size"), ("concurrency", None)} <= said(
        found, "not-checked"
    )


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose recipe is the flagship on the real wheel."""
    root = tmp_path_factory.mktemp("flagship")
    (root / "images").mkdir()
    (root / "overlays").mkdir()
    shutil.copytree(PROFILES, root / "profiles")
    (root / "overlays" / "hybrid.diff").write_bytes(hybrid_overlay())
    (root / "overlays" / "vocabulary.diff").write_bytes(vocabulary_overlay())
    recipe = yaml.safe_load((ROOT / "images" / "qwen3.6-27b-fp8-vocab.yaml").read_text())
    recipe |= {
        "name": "flagship",
        "base": f"wheel:{wheel('0.20.0')}",
        "overlays": [
            {"file": "overlays/hybrid.diff", "after": recipe["overlays"][0]["after"]},
            {"file": "overlays/vocabulary.diff"},
        ],
    }
    recipe.pop("checkpoint", None)
    (root / "images" / "flagship.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return root


def test_lint_of_a_recipe_says_who_serves_its_envelope(project: Path) -> None:
    ran = builder("profile", "lint", "smoke", "--recipe", "flagship", "--json", cwd=project)
    assert ran.code == 0, ran.err
    assert ran.document["counts"] == {"error": 0, "warning": 4, "not-checked": 0}
    assert ran.document["served_by"] == [{"profile": "envelope-16k", "at_once": 2}]
    text = builder("profile", "lint", "smoke", "--recipe", "flagship", cwd=project).out
    assert "smoke cannot serve 10,000 + 6,144 = 16,144 tokens: max-model-len is 4,029" in text
    assert "envelope-16k serves 10,000 + 6,144 = 16,144 tokens, 2 requests at once" in text


def test_warnings_fail_only_when_strict_and_errors_always(project: Path, tmp_path: Path) -> None:
    # The one recipe here that lists the profile is found without being named.
    assert builder("profile", "lint", "smoke", cwd=project).code == 0
    assert builder("profile", "lint", "smoke", "--strict", cwd=project).code == 2
    path = changed(tmp_path, "smoke", {"kv-cache-dtype": "turboquant_k8v5"})
    ran = builder("profile", "lint", str(path), "--recipe", "flagship", "--json", cwd=project)
    assert ran.code == 2
    (finding,) = [each for each in ran.document["findings"] if each["level"] == "error"]
    assert finding["rule"] == "bad-choice"
    assert finding["place"].startswith("profiles/smoke.yaml:")


def test_lint_against_a_base_alone(project: Path) -> None:
    ran = builder("profile", "lint", "envelope-16k", "--base", f"wheel:{wheel('0.20.1')}", "--json", cwd=project)
    assert ran.code == 0, ran.err
    assert ran.document["counts"]["error"] == 0
    assert builder("profile", "lint", "smoke", "--base", "x", "--recipe", "flagship", cwd=project).code == 2
    missing = builder("profile", "lint", "smok", "--recipe", "flagship", cwd=project)
    assert missing.code == 2
    assert "did you mean smoke" in missing.err


def test_check_lints_every_profile_and_fails_for_an_error(project: Path, tmp_path: Path) -> None:
    ran = builder("check", "flagship", "--json", cwd=project)
    assert ran.code == 0, ran.err
    reports = {each["profile"]: each for each in ran.document["profiles"]}
    assert set(reports) == {"smoke", "production-ceiling", "envelope-16k"}
    copy = tmp_path / "project"
    shutil.copytree(project, copy)
    changed(copy / "profiles", "smoke", {"reasoning-parser": "qwen33"})
    builder("lock", "flagship", cwd=copy)
    ran = builder("check", "flagship", "--json", cwd=copy)
    assert ran.code == 2
    assert [each["rule"] for each in ran.document["profiles"][0]["findings"] if each["level"] == "error"] == [
        "unknown-name"
    ]


def test_check_fails_when_no_profile_serves_the_recipes_envelope(project: Path, tmp_path: Path) -> None:
    copy = tmp_path / "project"
    shutil.copytree(project, copy)
    path = copy / "images" / "flagship.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe |= {"profiles": ["smoke", "production-ceiling"]}
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    assert builder("lock", "flagship", cwd=copy).code == 0
    ran = builder("check", "flagship", cwd=copy)
    assert ran.code == 2
    assert "no profile of flagship serves the envelope" in ran.out


def test_the_second_time_the_base_is_not_opened(project: Path, tmp_path: Path) -> None:
    """What was read of the base is kept by its digest, so that `--offline` needs neither network nor wheel."""
    cache = {"BUILDER_CACHE_DIR": str(tmp_path / "cache")}
    copy = tmp_path / "project"
    shutil.copytree(project, copy)
    shutil.copy(wheel("0.20.0"), copy / wheel("0.20.0").name)
    path = copy / "images" / "flagship.yaml"
    path.write_text(path.read_text().replace(str(wheel("0.20.0")), wheel("0.20.0").name))
    (copy / "images" / "flagship.lock.yaml").unlink(missing_ok=True)
    first = builder("profile", "lint", "smoke", "--recipe", "flagship", "--json", cwd=copy, env=cache)
    assert first.code == 0, first.err
    (copy / wheel("0.20.0").name).unlink()
    again = builder("profile", "lint", "smoke", "--recipe", "flagship", "--offline", "--json", cwd=copy, env=cache)
    assert again.code == 0, again.err
    assert again.document == first.document


def test_resolved_shows_what_differs_from_stock(project: Path) -> None:
    ran = builder("profile", "show", "smoke", "--resolved", "--recipe", "flagship", "--json", cwd=project)
    assert ran.code == 0, ran.err
    rows = {row["flag"]: row for row in ran.document["resolved"]}
    assert rows["gpu-memory-utilization"] == {
        "flag": "gpu-memory-utilization", "value": "0.96", "default": 0.92, "differs": True,
    }  # fmt: skip
    assert {name for name, row in rows.items() if row["differs"] is False} == {"block-size", "enable-chunked-prefill"}
    assert builder("profile", "show", "smoke", "--recipe", "flagship", cwd=project).code == 2


def test_an_image_is_read_as_the_wheel_is(tmp_path: Path) -> None:
    write_layout(tmp_path / "base", [tar_of({"usr/bin/python3": b"#!"}), tar_of(package_files())])
    shutil.copytree(PROFILES, tmp_path / "profiles")
    of_image = builder("profile", "lint", "production-ceiling", "--base", "oci:base", "--json", cwd=tmp_path)
    assert of_image.code == 0, of_image.err
    of_wheel = builder(
        "profile", "lint", "production-ceiling", "--base", f"wheel:{wheel('0.20.0')}", "--json", cwd=tmp_path
    )
    assert of_image.document["findings"] == of_wheel.document["findings"]
    assert of_image.document["counts"] == {"error": 0, "warning": 3, "not-checked": 2}


# --- hints that are never the opposite -------------------------------------------------------------------------------


def hints(tmp_path: Path, flags: Mapping[str, Any], package: Package | None = None) -> dict[str, str]:
    found = report(changed(tmp_path, "smoke", flags), package)
    return {each.flag: each.hint or "" for each in found.findings if each.rule == "unknown-flag" and each.flag}


def test_a_negation_is_never_answered_with_its_opposite(tmp_path: Path) -> None:
    wrong = ["disable-prefix-caching", "disable-chunked-prefil", "no-enable-log-request", "disable-auto-tool-choice"]
    for flag, hint in hints(tmp_path, dict.fromkeys(wrong, True)).items():
        assert "did you mean enable-" not in hint, flag
    assert "no-enable-prefix-caching" in hints(tmp_path, {"disable-prefix-caching": True})["disable-prefix-caching"]


@settings(deadline=None)
@given(st.text(alphabet="abdeghilnoprstv-", min_size=3, max_size=30))
def test_no_name_is_near_to_one_of_the_opposite_sense(name: str) -> None:
    names = list(patched().catalog.lookup())
    for word in (f"enable-{name}", f"disable-{name}", name):
        near = near_name(word, names)
        assert near is None or sense(near) * sense(word) >= 0


@pytest.mark.parametrize("length", ["auto", -1])
def test_a_context_that_is_left_to_vllm_fits(tmp_path: Path, length: object) -> None:
    found = report(changed(tmp_path, "envelope-16k", {"max-model-len": length}))
    assert not {rule for rule, _ in said(found, "error")} & {"does-not-fit", "envelope-context"}
    assert found.serves[0].serves


def test_a_fit_is_estimated_once_for_all_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    def counting(*given: Any, **options: Any) -> Any:
        made.append(given)
        return estimate(*given, **options)

    monkeypatch.setattr(context, "estimate", counting)
    report(PROFILES / "smoke.yaml")
    assert len(made) == 1
    # One that cannot be made is not attempted again to say why.
    found = report(changed(tmp_path, "smoke", {"tensor-parallel-size": 5}, hardware={"gpu": "rtx-5090", "count": 5}))
    assert len(made) == 2
    assert any("24 attention heads" in each.message for each in found.findings if each.rule == "concurrency")
