"""A model's shape: the few numbers that weights and KV cache follow from. A recipe's `model:` key, or a config.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from builder.documents.problems import plain
from builder.documents.values import Frozen
from builder.util.errors import InputError

Dtype = Literal["bfloat16", "float16", "float32"]
Table = Literal["lm_head", "embed_tokens"]
DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "half": 2, "float32": 4, "float": 4}


class Attention(Frozen):
    """Full-attention layers, and the heads that windowed layers have too."""

    layers: int = Field(ge=0)
    query_heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_size: int = Field(gt=0)
    gated: bool = Field(default=False, description="The query projection has an output gate beside the queries.")


class GatedDeltaNet(Frozen):
    """Linear-attention layers, whose state has a fixed size per request."""

    layers: int = Field(gt=0)
    key_heads: int = Field(gt=0)
    value_heads: int = Field(gt=0)
    head_size: int = Field(gt=0)
    convolution: int = Field(default=4, gt=1)
    state_dtype: Dtype = "float32"

    @property
    def convolved(self) -> int:
        """Channels that go through the convolution: queries, keys and values."""
        return (2 * self.key_heads + self.value_heads) * self.head_size


class Experts(Frozen):
    """Layers that are mixtures of experts; the others have the dense `mlp`."""

    layers: int = Field(gt=0)
    count: int = Field(gt=0, description="Experts of a layer that a router chooses from.")
    per_token: int = Field(gt=0)
    mlp: int = Field(gt=0, description="Width of one expert.")
    shared_mlp: int = Field(
        default=0, ge=0, description="Width of the experts that every token goes through, together."
    )


class Latent(Frozen):
    """Latent attention (MLA): one compressed key and value per token, the same on every tensor parallel rank."""

    kv_rank: int = Field(gt=0)
    rope_size: int = Field(gt=0)
    query_rank: int | None = Field(default=None, gt=0)
    nope_size: int = Field(gt=0)
    value_size: int = Field(gt=0)

    def parameters(self, hidden: int, heads: int) -> int:
        """Parameters of one layer's projections."""
        wide = heads * (self.nope_size + self.rope_size)
        queries = self.query_rank * (hidden + wide) if self.query_rank else hidden * wide
        keys = hidden * (self.kv_rank + self.rope_size) + self.kv_rank * heads * (self.nope_size + self.value_size)
        return queries + keys + heads * self.value_size * hidden


class SlidingWindow(Frozen):
    """Layers that look back over a window only, with the heads of the others."""

    layers: int = Field(gt=0)
    window: int = Field(gt=0)


class ModelShape(Frozen):
    """What decides about memory. Sizes are numbers of elements."""

    hidden: int = Field(gt=0)
    mlp: int = Field(gt=0)
    vocabulary: int = Field(gt=0)
    attention: Attention
    gdn: GatedDeltaNet | None = Field(default=None, description="Linear-attention layers of a hybrid model.")
    experts: Experts | None = None
    latent: Latent | None = None
    sliding: SlidingWindow | None = None
    draft_layers: int = Field(default=0, ge=0, description="Layers of the checkpoint that draft tokens (MTP).")
    dtype: Dtype = "bfloat16"
    quantization: Literal["fp8"] | None = Field(default=None, description="Block FP8 linear layers, 128 x 128.")
    fp8_tables: tuple[Table, ...] = Field(default=(), description="Vocabulary tables that are block FP8 as well.")
    tied: bool = Field(default=False, description="lm_head is embed_tokens.")
    context: int | None = Field(default=None, gt=0, description="Positions that the model was made for.")
    rotary_positions: int = Field(default=0, ge=0, description="Rows of the rotary cache that vLLM keeps.")
    rotary_size: int = Field(default=0, ge=0, description="Columns of the rotary cache.")
    vision_parameters: int = Field(default=0, ge=0, description="Of a vision tower, which is loaded unquantized.")

    @property
    def hybrid(self) -> bool:
        return self.gdn is not None

    @property
    def layers(self) -> int:
        windowed = self.sliding.layers if self.sliding else 0
        return self.attention.layers + windowed + (self.gdn.layers if self.gdn else 0)

    @property
    def attention_layers(self) -> int:
        """Layers with keys and values, whatever they look back over."""
        return self.attention.layers + (self.sliding.layers if self.sliding else 0)


# Rows of the rotary cache per position, for multimodal rotary embeddings (MRotaryEmbedding enlarges it fourfold).
_MROPE_FACTOR = 4


def shape_of_config(
    config: Mapping[str, Any], *, vision_parameters: int = 0, other_weights: bool = False
) -> ModelShape:
    """The shape that a checkpoint's config.json describes. With `other_weights` any quantization will do: the weights' bytes
    come from the checkpoint's headers. Raises `InputError` for a kind of model that is not modelled.
    """
    text = config.get("text_config") if isinstance(config.get("text_config"), Mapping) else config
    assert isinstance(text, Mapping)  # noqa: S101
    try:
        _check(config, text)
        return _shape(config, text, vision_parameters, other_weights=other_weights)
    except KeyError as error:
        raise _missing(f"it has no {error.args[0]}") from error
    except ValidationError as error:
        problems = error.errors(include_url=False)
        found = plain(problems, {tuple(each["loc"]) for each in problems})
        raise _missing("; ".join(text for _, text in found)) from error
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise _missing("a value has another type than in the checkpoints that are known") from error


def _missing(why: str) -> InputError:
    return InputError(f"config.json does not have what the estimate needs: {why}", hint="give the recipe a `model:`")


# Keys of a config.json that are numbers.
_ABOVE_ZERO = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_NUMBERS = (
    "intermediate_size", "moe_intermediate_size", "head_dim", "num_key_value_heads", "max_position_embeddings",
    "linear_num_key_heads", "linear_num_value_heads", "linear_value_head_dim", "linear_conv_kernel_dim",
    "full_attention_interval", "num_nextn_predict_layers",
    "mtp_num_hidden_layers", "num_experts", "num_local_experts", "n_routed_experts", "num_experts_per_tok",
    "experts_per_token", "n_shared_experts", "shared_expert_intermediate_size", "first_k_dense_replace", "kv_lora_rank",
    "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "q_lora_rank",
)  # fmt: skip


def _check(config: Mapping[str, Any], text: Mapping[str, Any]) -> None:
    for key in (*_ABOVE_ZERO, *_NUMBERS):
        value, least = text.get(key), int(key in _ABOVE_ZERO)
        if value is None and (key not in _ABOVE_ZERO or key not in text):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise _missing(f"{key} is {value!r}, not a whole number of at least {least}")
    for owner, key in ((config, "quantization_config"), (text, "rope_parameters"), (text, "rope_scaling")):
        if owner.get(key) is not None and not isinstance(owner[key], Mapping):
            raise _missing(f"{key} is {owner[key]!r}, not an object")


def _shape(
    config: Mapping[str, Any], text: Mapping[str, Any], vision_parameters: int, *, other_weights: bool
) -> ModelShape:
    kinds = layer_kinds(text)
    unknown = set(kinds) - {"attention", "gdn", "sliding"}
    if unknown:
        raise InputError(f"layers of the kind {', '.join(sorted(unknown))} are not modelled")
    heads = int(text["num_attention_heads"])
    head_size = int(text.get("head_dim") or int(text["hidden_size"]) // heads)
    quantization = config.get("quantization_config") or text.get("quantization_config") or {}
    fp8 = quantization.get("quant_method") == "fp8"
    if quantization and not fp8 and not other_weights:
        raise InputError(f"quantization {quantization.get('quant_method')!r} is not modelled", hint="fp8, or none")
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    factor = text.get("partial_rotary_factor") or rope.get("partial_rotary_factor") or 1.0
    context = text.get("max_position_embeddings")
    gdn_layers = kinds.count("gdn")
    return ModelShape(
        hidden=text["hidden_size"],
        mlp=text.get("intermediate_size") or text["moe_intermediate_size"],
        vocabulary=text["vocab_size"],
        dtype=text.get("dtype")
        or text.get("torch_dtype")
        or config.get("dtype")
        or config.get("torch_dtype")
        or "bfloat16",
        quantization="fp8" if fp8 else None,
        fp8_tables=tuple(each for each in ("lm_head", "embed_tokens") if quantization.get(each) is True),
        tied=bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))),
        context=context,
        rotary_positions=int(context or 0) * (_MROPE_FACTOR if "mrope_section" in rope else 1),
        rotary_size=int(head_size * float(factor)),
        vision_parameters=vision_parameters,
        attention=Attention(
            layers=kinds.count("attention"),
            query_heads=heads,
            kv_heads=text.get("num_key_value_heads") or heads,
            head_size=head_size,
            gated=bool(text.get("attn_output_gate")),
        ),
        gdn=GatedDeltaNet(
            layers=gdn_layers,
            key_heads=text["linear_num_key_heads"],
            value_heads=text["linear_num_value_heads"],
            head_size=text["linear_value_head_dim"],
            convolution=text["linear_conv_kernel_dim"],
            state_dtype=text.get("mamba_ssm_dtype") or "float32",
        )
        if gdn_layers
        else None,
        experts=_experts(text, len(kinds)),
        latent=_latent(text),
        sliding=SlidingWindow(layers=kinds.count("sliding"), window=text["sliding_window"])
        if "sliding" in kinds
        else None,
        draft_layers=int(text.get("num_nextn_predict_layers") or text.get("mtp_num_hidden_layers") or 0),
    )


def _experts(text: Mapping[str, Any], layers: int) -> Experts | None:
    count = next((text[key] for key in ("num_experts", "num_local_experts", "n_routed_experts") if text.get(key)), None)
    if count is None:
        return None
    dense = int(text.get("first_k_dense_replace") or 0) + len(text.get("mlp_only_layers") or [])
    step = (
        int(text.get("decoder_sparse_step") or text.get("moe_layer_freq") or 1)
        if not isinstance(text.get("moe_layer_freq"), list)
        else 1
    )
    width = int(text.get("moe_intermediate_size") or text["intermediate_size"])
    shared = int(text.get("n_shared_experts") or 0) * width or int(text.get("shared_expert_intermediate_size") or 0)
    per_token = text.get("num_experts_per_tok") or text.get("experts_per_token") or 1
    return Experts(
        layers=(layers - dense) // step, count=int(count), per_token=int(per_token), mlp=width, shared_mlp=shared
    )


def _latent(text: Mapping[str, Any]) -> Latent | None:
    if not text.get("kv_lora_rank"):
        return None
    return Latent(
        kv_rank=text["kv_lora_rank"],
        rope_size=text["qk_rope_head_dim"],
        query_rank=text.get("q_lora_rank") or None,
        nope_size=text["qk_nope_head_dim"],
        value_size=text["v_head_dim"],
    )


def layer_kinds(text: Mapping[str, Any]) -> list[str]:
    """`attention`, `gdn`, `sliding` or the config's own word for each layer."""
    words = {
        "full_attention": "attention", "attention": "attention", "linear_attention": "gdn", "sliding_attention": "sliding",
    }  # fmt: skip
    if text.get("global_head_dim") not in (None, text.get("head_dim")) or text.get("num_global_key_value_heads"):
        raise InputError(
            "windowed layers with other heads than the full ones are not modelled", hint="give the recipe a `model:`"
        )
    windowed = bool(text.get("sliding_window")) and text.get("use_sliding_window", True) is not False
    count = int(text["num_hidden_layers"])
    kinds = text.get("layer_types")
    if isinstance(kinds, list):
        named = [words.get(str(each), str(each)) for each in kinds]
        return named if windowed else ["attention" if each == "sliding" else each for each in named]
    if windowed and (pattern := text.get("sliding_window_pattern")):
        return ["attention" if (index + 1) % int(pattern) == 0 else "sliding" for index in range(count)]
    if windowed and not text.get("layer_types"):
        return ["sliding"] * count
    interval = text.get("full_attention_interval")
    if interval and text.get("linear_num_value_heads"):
        return ["attention" if (index + 1) % int(interval) == 0 else "gdn" for index in range(count)]
    return ["attention"] * count
