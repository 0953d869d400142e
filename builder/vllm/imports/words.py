"""Arguments of `vllm serve` as a profile's flags.

Source of the short spellings: `vllm/engine/arg_utils.py` and `vllm/entrypoints/openai/cli_args.py`, 0.20.0 to 0.33.0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from builder.vllm.imports.imported import Imported

_SHORT = {
    "q": "quantization", "tp": "tensor-parallel-size", "pp": "pipeline-parallel-size", "dp": "data-parallel-size",
    "dcp": "decode-context-parallel-size", "pcp": "prefill-context-parallel-size", "n": "nnodes", "r": "node-rank",
    "dpn": "data-parallel-rank", "dpr": "data-parallel-start-rank", "dpl": "data-parallel-size-local",
    "dpa": "data-parallel-address", "dpp": "data-parallel-rpc-port", "dpb": "data-parallel-backend",
    "dph": "data-parallel-hybrid-lb", "dpe": "data-parallel-external-lb", "dpm": "data-parallel-multi-port-external-lb",
    "ep": "enable-expert-parallel", "sc": "speculative-config", "cc": "compilation-config", "ac": "attention-config",
    "dc": "diffusion-config", "asc": "api-server-count", "O": "optimization-level",
}  # fmt: skip
_SWITCH = re.compile(
    r"(?:enable|disable|no|allow|trust|enforce|use|skip|return|async|log|calculate)-.+|language-model-only|headless|.*-only"
)
_TAKES_VALUE = frozenset({"use-tqdm-on-load", "allowed-local-media-path", "allowed-media-domains", "allowed-origins", "allowed-methods", "allowed-headers"})  # fmt: skip
_FLAG = re.compile(r"--([A-Za-z0-9][A-Za-z0-9_.-]*)(?:=(.*))?", re.DOTALL)
_SHORT_FLAG = re.compile(r"-([A-Za-z]+?)(\.[A-Za-z0-9_.]+)?(?:=(.*)|([0-9]+))?", re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)")


def take_words(found: Imported, words: Sequence[str], *, first_is_model: bool = False) -> None:
    """Take arguments over, as vLLM's parser would read them: a later flag wins over an earlier one of the same name.

    A word that belongs to no flag is the model. Where a switch is followed by a word, that word is the model too.
    """
    rest = list(words)
    if first_is_model and rest and not rest[0].startswith("-"):
        found.model = rest.pop(0)
    index = 0
    while index < len(rest):
        name, value = _flag(rest[index])
        if name is None:
            _stray(found, rest[index])
            index += 1
            continue
        index += 1
        values = [value] if value is not None else []
        if value is None:
            while index < len(rest) and not _is_flag(rest[index]):
                values.append(rest[index])
                index += 1
        if values and value is None and _is_switch(name):
            for word in values:
                _stray(found, word)
            values = []
        _take(found, name, values)


def _take(found: Imported, name: str, values: list[str]) -> None:
    name = (
        name.replace("_", "-")
        if "." not in name
        else name.partition(".")[0].replace("_", "-") + "." + name.partition(".")[2]
    )
    if name == "model":
        found.model = values[0] if values else found.model
        return
    if name == "config":
        found.lose("--config", "a profile is the whole configuration: copy what the file has into it")
        return
    if name in ("api-key", "hf-token"):
        found.lose(f"--{name}", "a secret; pass it when the container starts: docker run --env ...")
        return
    if any("$" in each for each in values):
        found.lose(f"--{name} {' '.join(values)}", "has a shell variable, whose value is not known")
        return
    plain, value = name, _value(values)
    if not values and name.startswith("no-"):
        plain, value = name[3:], False
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", plain):
        found.lose(f"--{name}", "is not spelled as a flag of a profile is: lower case, digits, dashes and dots")
        return
    for known in [each for each in found.flags if _same(each, plain)]:
        del found.flags[known]
    found.flags[plain] = value


def _same(one: str, other: str) -> bool:
    return one.replace("_", "-").removeprefix("no-") == other.replace("_", "-").removeprefix("no-")


def _value(values: list[str]) -> Any:
    if not values:
        return True
    typed = [int(each) if _NUMBER.fullmatch(each) else each for each in values]
    return typed[0] if len(typed) == 1 else typed


def _stray(found: Imported, word: str) -> None:
    if found.model is None:
        found.model = word
    elif found.model != word:
        found.lose(word, "belongs to no flag")


def _is_flag(word: str) -> bool:
    return word.startswith("-") and _NUMBER.fullmatch(word) is None and _flag(word)[0] is not None


def _flag(word: str) -> tuple[str | None, str | None]:
    """The name of a flag and its value behind `=`; (None, None) for another word."""
    if match := _FLAG.fullmatch(word):
        return match[1], match[2]
    match = _SHORT_FLAG.fullmatch(word)
    if match is not None and match[1] in _SHORT:
        return _SHORT[match[1]] + (match[2] or ""), match[3] if match[3] is not None else match[4]
    return None, None


def _is_switch(name: str) -> bool:
    plain = name.replace("_", "-")
    return plain not in _TAKES_VALUE and _SWITCH.fullmatch(plain) is not None
