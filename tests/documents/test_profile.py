"""Profiles: flag for flag what the model card pins, and nothing that YAML or a shell could bend."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from builder.documents.profile import Profile, load_profile
from builder.util.errors import InputError

FOLDER = Path(__file__).parents[2] / "profiles"
SMOKE = (
    "--quantization fp8 --language-model-only --kv-cache-dtype turboquant_k8v4 --gpu-memory-utilization 0.96 "
    "--max-model-len 4029 --max-num-seqs 4 --max-num-batched-tokens 10500 --max-cudagraph-capture-size 4 --block-size 16 "
    "--reasoning-parser qwen3 --tool-call-parser qwen3_coder --enable-chunked-prefill"
)
CEILING = (
    "--quantization fp8 --language-model-only --kv-cache-dtype turboquant_k8v4 --gpu-memory-utilization 0.98 "
    "--max-model-len 4029 --max-num-seqs 8 --max-num-batched-tokens 12288 --max-cudagraph-capture-size 8 "
    "--enable-chunked-prefill --reasoning-parser qwen3 --tool-call-parser qwen3_coder"
)


@pytest.mark.parametrize(("name", "flags"), [("smoke", SMOKE), ("production-ceiling", CEILING)])
def test_the_pinned_profiles_hold_exactly_the_model_cards_flags(name: str, flags: str) -> None:
    assert load_profile(FOLDER / f"{name}.yaml").argv() == flags.split()


def test_our_own_profile_can_serve_the_envelope() -> None:
    profile = load_profile(FOLDER / "envelope-16k.yaml")
    assert profile.envelope is not None
    assert (profile.envelope.prompt, profile.envelope.completion) == (10_000, 6_144)
    flags = profile.flags
    assert isinstance(flags["max-model-len"], int)
    assert flags["max-model-len"] >= profile.envelope.prompt + profile.envelope.completion
    assert isinstance(flags["max-num-batched-tokens"], int)
    assert flags["max-num-batched-tokens"] >= profile.envelope.prompt


def profile_of(tmp_path: Path, text: str) -> Profile:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    return load_profile(path)


def test_numbers_switches_and_lists_are_passed_as_they_are_written(tmp_path: Path) -> None:
    found = profile_of(
        tmp_path,
        "name: p\nflags:\n  a: 0.90\n  b: true\n  c: false\n  d: [x, 2]\n  e: -1\n  f: on\n  g: 010\n  h: 1e-5\n",
    )
    assert found.argv() == [
        "--a",
        "0.90",
        "--b",
        "--no-c",
        "--d",
        "x",
        "2",
        "--e=-1",
        "--f",
        "on",
        "--g",
        "010",
        "--h",
        "1e-5",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: q\nflags: {}\n", "calls itself 'q'"),
        ("name: p\nflags: {--a: 1}\n", "p.yaml:2:"),
        ("name: p\nflags: {a: 1, no-a: true}\n", "are the same flag"),
        ("name: p\nflags: {a_b: 1, a-b: 2}\n", "are the same flag"),
        ("name: p\nflags: {a: {b: c}}\n", "flags.a"),
        ("name: p\nflag: {}\n", "did you mean 'flags'"),
        ("name: p\nflags: {}\nenvelope: {prompt: 0, completion: 1}\n", "must be above 0, is 0"),
        ("name: p\nflags: {}\nexpect: [{vllm: '1', gpu: g, source: s, free_gib: {min: 2, max: 1}}]\n", "above max"),
    ],
)
def test_wrong_profiles_name_the_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        profile_of(tmp_path, text)
    assert message in "\n".join([caught.value.message, *(text for _, text in caught.value.details)])


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True), st.text(st.characters(codec="ascii", min_codepoint=32), max_size=20), max_size=4))  # fmt: skip
def test_any_text_stays_one_argument(tmp_path_factory: pytest.TempPathFactory, flags: dict[str, str]) -> None:
    if len({name.removeprefix("no-") for name in flags}) != len(flags):
        return
    path = tmp_path_factory.mktemp("profile") / "p.yaml"
    path.write_text(yaml.safe_dump({"name": "p", "flags": flags}))
    argv = load_profile(path).argv()
    found = []
    for argument in argv:
        name, equals, value = argument.partition("=")
        if argument.startswith("--") and name[2:] in flags and (equals or argument[2:] in flags):
            found.append([name[2:], value] if equals else [argument[2:]])
        else:
            found[-1].append(argument)
    assert {name: values[0] for name, *values in found} == flags


def refusal(path: Path, text: str) -> InputError:
    """The error for a profile with this text."""
    path.write_text(text)
    with pytest.raises(InputError) as refused:
        load_profile(path)
    return refused.value


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("flags: {x: {method: mtp}}", "2:12: flags.x: is a mapping; write one line for each key"),
        ("flags: {x: null}", "2:12: flags.x: has no value"),
        ("flags: {x: [1, [2]]}", "2:12: flags.x: is a list of more than plain values"),
        ("flags: [--x, 4]", "2:8: flags: expected keys with values, found a list"),
        ("flags:", "2:7: flags: expected keys with values, found nothing"),
        ("flags: --x 4", "2:8: flags: expected keys with values, found the text '--x 4'"),
        ("flags: {x: 1}\nhardware: rtx-5090", "3:11: hardware: expected keys with values, found the text 'rtx-5090'"),
        ("flags: {x: 1}\nenvelope: {prompt: many, completion: 1}", "3:20: envelope.prompt: expected a whole number, found the text 'many'"),
        ("flags: {x: 1}\nenvelope: {prompt: 0, completion: 1}", "3:20: envelope.prompt: must be above 0, is 0"),
        ("flags: {x: 1}\nexpect: {vllm: 0.20.0}", "3:9: expect: expected a list, found keys with values"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_shape_is_one_error_in_plain_words(tmp_path: Path, text: str, says: str) -> None:
    refused = refusal(tmp_path / "b.yaml", f"name: b\n{text}\n")
    assert f"profiles/b.yaml:{says}" in refused.message
    assert not refused.details
    assert "pydantic" not in str(refused.as_json())
    assert "schema profile" in (refused.hint or "")


def test_a_key_of_a_flag_always_has_a_value() -> None:
    """vLLM's parser takes the next argument for the value of `--flag.key`, whatever it is."""
    flags = {"a.b": True, "c.d": False, "e.f": (1, "x", "0.5", True), "g.h": -1, "i.j": "text", "k": True}
    assert Profile.model_validate({"name": "p", "flags": flags}).argv() == [
        "--a.b", "true", "--c.d", "false", "--e.f", '[1, "x", 0.5, true]', "--g.h=-1", "--i.j", "text", "--k",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("--max-model-len", "write max-model-len"), ("MAX_NUM_SEQS", "write max-num-seqs"), ("max num seqs", "write max-num-seqs"),
        ("max-num-seqs.", "write max-num-seqs"), ("-O3", "write `optimization-level: 3`"), ("O", "write optimization-level"),
        ("\N{EN DASH}x", "without dashes in front"),
    ],
)  # fmt: skip
def test_a_name_that_is_not_a_flag_gets_what_to_write(written: str, words: str, tmp_path: Path) -> None:
    refused = refusal(tmp_path / "p.yaml", f"name: p\nflags:\n  {written}: 1\n")
    assert words in refused.message
    assert "^[a-z" not in refused.message
