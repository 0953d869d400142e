"""Speculative decoding: what a draft adds to weights, cache and state.

Sources: `vllm/config/speculative.py` (methods), `vllm/v1/spec_decode/`, the layer counts `num_nextn_predict_layers` and
`mtp_num_hidden_layers` of checkpoints, and for EAGLE the published heads: one decoder layer, a projection of two (EAGLE) or
three (EAGLE-3) hidden states onto one, and for EAGLE-3 a head over a smaller vocabulary of 32,000.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builder.documents.model_shape import DTYPE_BYTES, ModelShape
from builder.documents.profile import key_text
from builder.util.errors import InputError
from builder.vllm.fit.weights import Part
from builder.vllm.flagvalues import decimal, is_unset, of_key

_EAGLE_VOCABULARY = 32_000
_NO_WEIGHTS = frozenset({"ngram", "suffix", "ngram_gpu"})


@dataclass(frozen=True)
class Draft:
    """`layers` are attention layers beside the model's; `tokens` are drafted per step; `error_gib` is the weights' own error."""

    method: str
    layers: int
    tokens: int
    parts: tuple[Part, ...]
    error_gib: float
    note: str | None = None


_EXAMPLE = 'write it such as {"method": "mtp", "num_speculative_tokens": 1}'
# Flags of later releases that set one key.
SINGLE = {"spec-method": "method", "spec-model": "model", "spec-tokens": "num_speculative_tokens"}
NONE = Draft("", 0, 0, (), 0.0)


def draft_of(flags: Mapping[str, Any], shape: ModelShape, *, from_headers: bool) -> Draft:
    """The draft that `--speculative-config` asks for. Raises `InputError` for a value that is no such config."""
    config = _config(flags)
    if not config:
        return NONE
    method = str(config.get("method") or ("draft_model" if config.get("model") else ""))
    tokens = _tokens(config.get("num_speculative_tokens", 1))
    if tokens is None:
        given = config["num_speculative_tokens"]
        raise InputError(
            f"--speculative-config: num_speculative_tokens is {given!r}, not a number of at least 0", hint=_EXAMPLE
        )
    if method in _NO_WEIGHTS:
        return Draft(method, 0, tokens, (), 0.0)
    if "mtp" in method or method == "nextn":
        layers = shape.draft_layers or 1
        return Draft("mtp", layers, tokens, () if from_headers else tuple(_mtp(shape, layers)), 0.2)
    if "eagle" in method:
        return Draft(
            method, 1, tokens, tuple(_eagle(shape, three="3" in method)), 0.5, "the draft's own checkpoint was not read"
        )
    return Draft(
        method, 0, tokens, (), 0.0, f"the draft of --speculative-config ({method or 'no method'}) is not modelled"
    )


def _tokens(value: object) -> int | None:
    """A number of tokens as pydantic takes it, texts and whole fractions included; None for anything else."""
    number = decimal(value)
    return int(number) if number is not None and number.is_integer() and number >= 0 else None


def _config(flags: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    value = flags.get("speculative-config")
    if value is not None and value is not False and value != "":
        try:
            found = json.loads(value) if isinstance(value, str) else value
        except (ValueError, RecursionError) as error:
            raise InputError("--speculative-config is not valid JSON", hint=_EXAMPLE) from error
        if not isinstance(found, dict):
            raise InputError("--speculative-config is not a JSON object", hint=_EXAMPLE)
    prefix = "speculative-config."
    keys = {
        name.removeprefix(prefix): of_key(key_text(inner)) for name, inner in flags.items() if name.startswith(prefix)
    }
    single = {key: flags[flag] for flag, key in SINGLE.items() if flag in flags and not is_unset(flags[flag])}
    return {name.replace("-", "_"): inner for name, inner in (found | keys | single).items()}


def _layer(shape: ModelShape) -> int:
    """Parameters of one full-attention layer with a dense MLP, or with the experts of the others."""
    heads = shape.attention
    queries = heads.query_heads * heads.head_size
    attention = shape.hidden * (queries * (3 if heads.gated else 2) + 2 * heads.kv_heads * heads.head_size)
    if shape.latent is not None:
        attention = shape.latent.parameters(shape.hidden, heads.query_heads)
    mlp = 3 * shape.hidden * shape.mlp
    if shape.experts is not None:
        mlp = 3 * shape.hidden * (shape.experts.count * shape.experts.mlp + shape.experts.shared_mlp)
    return attention + mlp


def _mtp(shape: ModelShape, layers: int) -> list[Part]:
    width = 1 if shape.quantization == "fp8" else DTYPE_BYTES[shape.dtype]
    dtype = "fp8" if shape.quantization == "fp8" else shape.dtype
    return [Part("MTP layers", dtype, layers * (_layer(shape) + 2 * shape.hidden * shape.hidden) * width, "last")]


def _eagle(shape: ModelShape, *, three: bool) -> list[Part]:
    width = DTYPE_BYTES[shape.dtype]
    heads = shape.attention
    queries = heads.query_heads * heads.head_size
    inputs = 2 if three else 1
    count = inputs * shape.hidden * (queries + 2 * heads.kv_heads * heads.head_size) + queries * shape.hidden
    count += 3 * shape.hidden * shape.mlp
    count += (3 if three else 2) * shape.hidden * shape.hidden
    count += _EAGLE_VOCABULARY * shape.hidden if three else 0
    return [Part("EAGLE draft", shape.dtype, count * width, "last")]
