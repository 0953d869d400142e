"""The flags that the linter knows are those that vLLM's own parser has, in releases from the oldest to the newest."""

from __future__ import annotations

import ast
import functools
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builder.documents.profile import Profile
from builder.documents.yamlfile import Document
from builder.vllm.lint.context import Context
from builder.vllm.lint.keys_together import keys_together
from builder.vllm.lint.keyvalues import takes
from builder.vllm.lint.rules import known_flags, values
from builder.vllm.lint.run import lint_file, read_package
from builder.vllm.reader import source as reading
from builder.vllm.reader.flags import NOT_KNOWN, Catalog, Flag, read_flags
from builder.vllm.reader.registries import read_registries
from builder.vllm.reader.source import Source, from_files
from tests.support import realparser
from tests.support.pytrees import LazyFiles, package_tree
from tests.support.wheels import python_files

VERSIONS = ("0.19.0", "0.20.0", "0.22.1", "0.26.0", "0.29.0", "0.33.0")
PROFILES = Path(__file__).parents[2] / "profiles"
SWITCHES = {"_StoreTrueAction", "BooleanOptionalAction", "EnableDisableAction"}
# What the parser converts with, as the linter calls it.
TYPES = {
    "int": "int", "float": "float", "str": "str", "None": "str", "union_dict_and_str": "json_or_str",
    "human_readable_int": "human_int", "human_readable_int_or_auto": "human_int_or_auto", "loads": "json",
    "parse_reasoning_parser": "str",
}  # fmt: skip

pytestmark = pytest.mark.wheels


@functools.cache
def source(version: str) -> Source:
    return from_files(LazyFiles(package_tree(version)), version=version, name=f"vllm {version}")


@functools.cache
def catalog(version: str) -> Catalog:
    return read_flags(source(version))


@functools.cache
def judged(version: str, lines: tuple[tuple[str, ...], ...] = ()) -> dict[str, Any]:
    """What vLLM's own parser says, asked in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        output, arguments, given = (Path(name) / each for each in ("output", "arguments", "values"))
        arguments.write_text(json.dumps(lines))
        given.write_text(
            json.dumps([] if lines else [(flag, key.split("."), value) for flag, key, value in of_keys(version)])
        )
        subprocess.run(
            [sys.executable, realparser.__file__, str(package_tree(version)), str(output), str(arguments), str(given)],
            check=True, capture_output=True, timeout=280,
        )  # fmt: skip
        document: dict[str, Any] = json.loads(output.read_text())
        return document


@pytest.mark.parametrize("version", VERSIONS)
def test_the_linter_knows_exactly_the_flags_of_vllms_own_parser(version: str) -> None:
    assert catalog(version).gaps == []
    real = set(judged(version)["flags"])
    assert len(real) > 280
    assert set(catalog(version).lookup()) == real


@pytest.mark.parametrize("version", VERSIONS)
def test_what_it_says_of_each_flag_is_what_the_parser_does(version: str) -> None:
    lookup = catalog(version).lookup()
    differences = [
        f"{name}: {difference}"
        for name, action in judged(version)["flags"].items()
        for difference in _differences(lookup[name][0], action)
    ]
    assert differences == []


def _differences(flag: Flag, action: dict[str, Any]) -> list[str]:
    found = []
    if flag.dest != action["dest"]:
        found.append(f"dest {flag.dest} {action['dest']}")
    if flag.switch != (action["action"] in SWITCHES):
        found.append(f"switch {flag.switch} {action['action']}")
    # Only running tells: an environment's value, a platform's, an enumeration's member, a text that suppresses it.
    if flag.default is not NOT_KNOWN and flag.default != action["default"]:
        found.append(f"default {flag.default!r} {action['default']!r}")
    if flag.switch or flag.unread:
        return found
    choices = (
        None
        if action["choices"] is None
        else sorted(str(each) for each in action["choices"] if each not in (None, "None"))
    )
    if (None if flag.choices is None else sorted(map(str, flag.choices))) != choices:
        found.append(f"choices {flag.choices} {choices}")
    if action["action"] != "_AppendAction" and flag.nargs != action["nargs"]:
        found.append(f"nargs {flag.nargs} {action['nargs']}")
    kind = action["type"].rpartition(".")[2]
    if kind in TYPES and TYPES[kind] != flag.type:
        found.append(f"type {flag.type} {action['type']}")
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_little_is_left_unread_and_it_is_named(version: str) -> None:
    unread = {flag.name for flag in catalog(version).flags.values() if flag.unread}
    assert unread <= {
        "collect-detailed-traces", "device-ids", "mm-processor-device", "lora-modules", "log-config-file",
    }  # fmt: skip
    unknown = {flag.name for flag in catalog(version).flags.values() if flag.default is NOT_KNOWN}
    assert len(unknown) < 25, unknown


@pytest.mark.parametrize("version", VERSIONS)
def test_registered_names_are_those_of_vllms_own_registries(version: str) -> None:
    found, real = read_registries(source(version)), judged(version)
    assert found.reasoning_parsers == frozenset(real["reasoning_parsers"])
    assert found.tool_parsers == frozenset(real["tool_parsers"])
    assert found.quantization == frozenset(real["quantization"])
    assert set(catalog(version).flags["attention-backend"].members) == set(real["attention_backends"])


def test_the_values_that_facts_name() -> None:
    flags = catalog("0.20.0").flags
    assert flags["kv-cache-dtype"].choices is not None
    assert "turboquant_k8v4" in flags["kv-cache-dtype"].choices
    assert flags["kv-cache-dtype"].place.startswith("vllm/config/cache.py:")
    assert flags["gpu-memory-utilization"].limits == (("gt", 0.0), ("le", 1.0))
    assert flags["block-size"].effective == 16
    assert flags["enable-chunked-prefill"].effective is True
    assert "calculate-kv-scales" in {flag.name for flag in flags.values() if flag.deprecated}
    # The deprecation of something else in a flag's text is not the flag's.
    assert flags["allow-deprecated-quantization"].deprecated is None


def test_underscores_short_options_and_pairs() -> None:
    assert "-tp" in catalog("0.20.0").flags["tensor-parallel-size"].short
    old, new = catalog("0.20.0").lookup(), catalog("0.33.0").lookup()
    assert "disable-log-requests" not in old
    assert new["disable-log-requests"] == (new["enable-log-requests"][0], True)


# --- values: whatever the linter calls an error of form, the parser refuses, and the other way round -------------------

VALUES: tuple[Any, ...] = (
    "7", "-1", "0.5", "4.5", "16k", "16K", "1.5K", "1.5k", " 3 ", "abc", "", "None", "true", "auto", "AUTO", "1_000", "1e3",
    "inf", "x y", "1,2", True, False, ("1", "2"), ("1", "x"), (), ("a",),
)  # fmt: skip
FORM = {
    "wrong-type", "bad-choice", "switch-with-value", "boolean-form", "needs-value", "wrong-count", "unknown-flag", "needs-flag",
    "unknown-key",
}  # fmt: skip
# Keys that need each other, and JSON as people write it.
CONFIGS: tuple[tuple[str, Any], ...] = (
    ("kv-transfer-config", '{"kv_connector": "NixlConnector"}'),
    ("kv-transfer-config.kv_connector", "NixlConnector"),
    ("kv-transfer-config", '{"kv_connector": "NixlConnector", "kv_role": "kv_both"}'),
    ("kv-transfer-config", '{"kv_connector_extra_config": {"cpu_bytes_to_use": 80g}}'),
    ("kv-transfer-config", '{"kv_connector_extra_config": {"cpu_bytes_to_use": 1.5G}}'),
    ("ec-transfer-config", '{"ec_connector": "X"}'),
    ("ec-transfer-config", '{"ec_connector": "X", "ec_role": "ec_both"}'),
    ("structured-outputs-config.disable_any_whitespace", True),
    ("structured-outputs-config.disable_any_whitespace", False),
    ("structured-outputs-config", '{"disable_any_whitespace": true, "backend": "guidance"}'),
    ("structured-outputs-config", '{"disable_any_whitespace": true, "backend": "outlines"}'),
    ("structured-outputs-config", '{"disable_additional_properties": "yes", "backend": "xgrammar"}'),
    ("structured-outputs-config", "{'backend': 'auto'}"),
    ("structured-outputs-config", "null"),
    ("profiler-config", '{"profiler": "torch"}'),
    ("profiler-config", '{"profiler": "torch", "torch_profiler_dir": "/x"}'),
    ("profiler-config", '{"profiler": "cuda", "torch_profiler_dir": "/x"}'),
    ("profiler-config", '{"profiler": null, "torch_profiler_dir": ""}'),
    ("kernel-config", '{"ir_op_priority": {"nothing": ["native"]}}'),
    ("kernel-config", '{"moe_backend": "Deep-GEMM"}'),
    ("attention-config.backend", "flash_attn"),
    ("attention-config.backend", "auto"),
    ("attention-config.backend", "flash"),
    ("eplb-config.window_size", "1k"),
)  # fmt: skip


@pytest.mark.parametrize("version", ["0.20.0", "0.33.0"])
def test_the_linter_and_the_parser_refuse_the_same_values(version: str) -> None:
    package = read_package(source(version))
    cases: list[tuple[str, Any]] = []
    for flag in catalog(version).flags.values():
        # JSON is parsed into configs that need torch; what is unread is not claimed.
        if (
            flag.type in ("json", "unknown")
            or flag.unread
            or flag.dest in ("model", "config", "help")
            or not flag.names
        ):
            continue
        names = [flag.name, *flag.negative[:1], flag.name.replace("-", "_")]
        # An empty list for a switch is passed as the bare switch; the linter still calls it a mistake.
        given = [value for value in VALUES if value != () or not flag.switch]
        cases += [(flag.name, value) for value in (*given, *(str(each) for each in flag.choices or ()))]
        cases += [(name, value) for name in names[1:] for value in (True, False, "x")]
    cases += CONFIGS
    profiles = [
        Profile.model_construct(name="p", flags={name: value}, hardware=None, envelope=None) for name, value in cases
    ]
    lines = tuple(("MODEL", *profile.argv()) for profile in profiles)
    complaints = judged(version, lines)["parsed"]
    document, lookup = Document("p", None), catalog(version).lookup()
    differences = []
    for profile, line, complaint in zip(profiles, lines, complaints, strict=True):
        context = Context(profile, document, package)
        found = [each for rule in (known_flags, values, keys_together) for each in rule(context)]
        refused = any(each.level == "error" and each.rule in FORM for each in found)
        option = line[1].removeprefix("--").partition("=")[0].partition(".")[0].replace("_", "-")
        if option not in lookup and any(each.startswith(option) for each in lookup):
            # The parser takes abbreviations, which the linter calls an error of their own.
            continue
        if refused != (complaint is not None):
            differences.append(f"{' '.join(line)!r}: parser {complaint}, linter {[each.message for each in found]}")
    assert len(cases) > 5_000
    assert differences == []


# --- keys: whatever the linter refuses inside JSON, pydantic refuses, with the config classes of the release -------------

OF_KEYS: tuple[Any, ...] = (
    None, True, False, 0, 1, 3, -1, 99, 2.0, 1.5, 1e9, "", " ", "x", "true", "on", "yes", "off", "1", "-1", "3.0", "1_0", "nan", "auto",
    "None", "fp8", [], ["a"], {}, {"a": 1},
)  # fmt: skip


def of_keys(version: str) -> list[tuple[str, str, Any]]:
    """Flag, key and value: each value for each key that is known, and the key's own values in several spellings."""
    cases: list[tuple[str, str, Any]] = []
    for flag in catalog(version).flags.values():
        for key in flag.typed:
            own = [value for _, values in key[1] for value in values]
            more = [spelt for each in own for spelt in _spellings(each)]
            cases += [(flag.name, key[0], value) for value in (*OF_KEYS, *own, *more)]
    return cases


def _spellings(value: object) -> list[object]:
    if isinstance(value, str):
        return [value.upper(), value.lower(), value.replace("_", "-"), f"{value}x", f" {value}"]
    return [str(value), float(value)] if isinstance(value, int) else []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_linter_knows_the_keys_of_the_config_classes(version: str) -> None:
    flags = {flag.name: flag for flag in catalog(version).flags.values() if flag.keys}
    real = judged(version)["keys"]
    assert set(flags) >= {"compilation-config", "kv-transfer-config", "speculative-config", "structured-outputs-config"}
    assert {name: {key for key in flag.keys if "." not in key} for name, flag in flags.items()} == {
        name: set(real[name]) for name in flags
    }


@pytest.mark.parametrize("version", VERSIONS)
def test_the_linter_and_pydantic_refuse_the_same_values_of_keys(version: str) -> None:
    lookup = catalog(version).lookup()
    cases, refused = of_keys(version), judged(version)["refused"]
    assert len(cases) > 5_000
    wrong, passed = [], []
    for (name, key, value), really in zip(cases, refused, strict=True):
        typed = lookup[name][0].key(key)
        assert typed is not None
        taken = takes(typed, value)
        if taken is False and not really:
            wrong.append((name, key, value))
        # What is inside an object is judged by its own keys.
        if taken is True and really and value != {"a": 1}:
            passed.append((name, key, value))
    assert wrong == []
    assert passed == []


# --- damaged sources ------------------------------------------------------------------------------------------------

READ = (
    "vllm/engine/arg_utils.py", "vllm/entrypoints/openai/cli_args.py", "vllm/config/cache.py",
    "vllm/config/scheduler.py", "vllm/reasoning/__init__.py", "vllm/tool_parsers/__init__.py",
    "vllm/model_executor/layers/quantization/__init__.py", "vllm/v1/attention/backends/registry.py",
    "vllm/model_executor/layers/quantization/turboquant/config.py", "vllm/utils/argparse_utils.py",
)  # fmt: skip


@functools.cache
def small_files() -> dict[str, bytes]:
    wanted = (
        "vllm/config/",
        "vllm/entrypoints/openai/cli_args",
        "vllm/entrypoints/chat_utils",
        "vllm/entrypoints/constants",
        "vllm/envs",
    )
    return {path: data for path, data in python_files("0.20.0").items() if path in READ or path.startswith(wanted)}


# The files that are not damaged are parsed once, by the reader's own function.
_parsed = functools.lru_cache(maxsize=500)(reading._parse)


def _cut(text: str, rng: random.Random) -> str:
    return text[: rng.randrange(len(text))]


def _drop_lines(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    for _ in range(rng.randrange(1, 30)):
        del lines[rng.randrange(len(lines))]
    return "".join(lines)


def _swap_nodes(text: str, rng: random.Random) -> str:
    """Another valid module: expressions are replaced by others of the same file."""
    tree = ast.parse(text)
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.expr)]
    for _ in range(rng.randrange(1, 40)):
        one, other = rng.choice(nodes), rng.choice(nodes)
        if type(one) is not type(other):
            continue
        one.__dict__.update(dict(other.__dict__))
    try:
        return ast.unparse(tree)
    except (RecursionError, ValueError, AttributeError, TypeError):
        return text


def _other_bytes(text: str, rng: random.Random) -> str:
    letters = list(text)
    for _ in range(rng.randrange(1, 60)):
        letters[rng.randrange(len(letters))] = rng.choice("()[]{}:,=*\n\0 \"'x9é")
    return "".join(letters)


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(READ),
    st.sampled_from([_cut, _drop_lines, _swap_nodes, _other_bytes, lambda text, rng: ""]),
    st.randoms(use_true_random=False),
)
def test_a_damaged_source_is_not_checked_and_never_a_crash(path: str, damage: Any, rng: random.Random) -> None:
    files = dict(small_files())
    text = damage(files[path].decode(), rng)
    files[path] = text.encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_parse", _parsed)
        package = read_package(from_files(files, version="0.20.0"))
    for name in ("smoke", "production-ceiling", "envelope-16k"):
        report = lint_file(PROFILES / f"{name}.yaml", package)
        assert report.profile == name
    lost = set(catalog("0.20.0").lookup()) - set(package.catalog.lookup())
    if path.endswith("arg_utils.py") and _broken(text):
        assert lost
        assert package.catalog.gaps
        assert not [each for each in report.findings if each.rule == "unknown-flag" and each.level == "error"]


def _broken(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return True
    return False


@pytest.mark.parametrize("missing", READ)
def test_a_missing_file_is_not_checked(missing: str) -> None:
    files = {path: data for path, data in small_files().items() if path != missing}
    package = read_package(from_files(files, version="0.20.0"))
    report = lint_file(PROFILES / "smoke.yaml", package)
    assert not [finding for finding in report.findings if finding.level == "error"]


def test_loops_and_calls_that_only_running_decides_are_gaps() -> None:
    text = b"""
def make_arg_parser(parser):
    parser.add_argument("--known", type=int, default=1)
    for name in read_names():
        parser.add_argument(f"--{name}")
    plugin.add_flags(parser)
    parser.add_argument(*names(), help="x")
    while True:
        parser.add_argument("--again")
    return make_arg_parser(parser)
"""
    found = read_flags(from_files({"vllm/entrypoints/openai/cli_args.py": text}, version="9"))
    assert list(found.flags) == ["known"]
    assert len(found.gaps) >= 4
