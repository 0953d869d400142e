"""The estimate against figures that others have published, and against checkpoints made here."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from builder.documents.model_shape import Attention, GatedDeltaNet, ModelShape, shape_of_config
from builder.documents.profile import Profile, load_profile
from builder.documents.recipe import load_recipe
from builder.util.errors import InputError
from builder.vllm.fit.estimate import ERROR_GIB, Fit, estimate
from builder.vllm.fit.gpus import find_gpu, gpus
from builder.vllm.fit.headers import read_folder
from builder.vllm.fit.kv import CacheLayout, capacity, layout, state_bytes, token_bytes, turboquant_slot
from builder.vllm.fit.weights import GIB, Part, parts_of_headers, parts_of_shape
from tests.support.cli import builder

ROOT = Path(__file__).parents[2]
FLAGSHIP = load_recipe(ROOT / "images" / "qwen3.6-27b-fp8-vocab.yaml")
assert FLAGSHIP.model is not None
SHAPE: ModelShape = FLAGSHIP.model
V0_20_0, V0_20_1 = Version("0.20.0"), Version("0.20.1")


def fit(name: str, version: Version = V0_20_0, **options: Any) -> Fit:
    return estimate(load_profile(ROOT / "profiles" / f"{name}.yaml"), SHAPE, find_gpu("rtx-5090"), version, **options)


def cache_of(shape: ModelShape, version: str, **options: Any) -> CacheLayout:
    return layout(shape, Version(version), **options)


# --- the model card -------------------------------------------------------------------------------------------------


def test_the_model_cards_two_figures_follow_from_the_shape() -> None:
    """`GPU KV cache size: 16,640 tokens`, `Maximum concurrency for 4,029 tokens per request: 7.00x` (vLLM 0.20.0)."""
    found = fit("smoke")
    assert found.held.tokens == 16_640
    assert f"{found.held.concurrency:.2f}" == "7.00"
    assert found.held.real_requests == 6
    assert found.held.blocks == 35
    # "Model loading took 26.19 GiB memory", "post-startup GPU free memory: ~2.59 GiB".
    assert found.weights_gib == pytest.approx(26.19, abs=0.1)
    assert found.free_gib == pytest.approx(2.59, abs=0.1)


def test_from_0_20_1_on_the_log_counts_otherwise() -> None:
    assert fit("smoke", V0_20_1).held.tokens == 28_203
    assert fit("smoke", V0_20_1).held.concurrency == fit("smoke").held.concurrency


def test_the_pieces_that_the_figures_are_made_of() -> None:
    assert turboquant_slot("turboquant_k8v4", 256) == 388
    assert token_bytes(SHAPE, "turboquant_k8v4") == 1_552
    assert state_bytes(SHAPE) == 61_440 + 3_145_728
    cache = cache_of(SHAPE, "0.20.0", cache_dtype="turboquant_k8v4")
    assert (cache.block_size, cache.page_bytes, cache.block_bytes, cache.groups) == (2_080, 3_228_160, 51_650_560, 4)
    assert cache.request_blocks(4_029) == 5
    assert cache.request_blocks(16_384) == 11
    assert f"{capacity(cache, 35, V0_20_0, 16_384).concurrency:.2f}" == "3.18"


@pytest.mark.parametrize(("pool", "blocks"), [(1.683, 34), (1.684, 35), (1.731, 35), (1.732, 36)])
def test_thirty_five_blocks_mean_a_pool_between_1684_and_1732_gib(pool: float, blocks: int) -> None:
    assert fit("smoke", pool_gib=pool).held.blocks == blocks


def test_the_other_profiles() -> None:
    ceiling = fit("production-ceiling")
    assert (ceiling.held.blocks, ceiling.held.tokens) == (43, 20_800)
    assert f"{ceiling.held.concurrency:.1f}" == "8.6"
    assert f"{capacity(ceiling.cache, 43, V0_20_0, 16_384).concurrency:.1f}" == "3.9"
    ours = fit("envelope-16k")
    assert ours.fits
    assert ours.at_once(16_144) == 2
    assert ours.held.real_requests == 3


@pytest.mark.parametrize(
    ("tables", "vision", "published"),
    [
        (("lm_head", "embed_tokens"), True, (26.19, 26.19)),
        ((), False, (27.66, 27.69)),
        (("lm_head",), False, (26.5, 26.5)),
    ],
)
def test_loaded_weights_of_three_published_start_ups(tables: Any, vision: bool, published: tuple[float, float]) -> None:
    """`Model loading took`: the model card; the two earlier checkpoints of the same family (FP8 head, BF16 head)."""
    shape = SHAPE.model_copy(
        update={"fp8_tables": tables, "vision_parameters": SHAPE.vision_parameters if vision else 0}
    )
    profile = load_profile(ROOT / "profiles" / "smoke.yaml")
    found = estimate(profile, shape, find_gpu("rtx-5090"), V0_20_0)
    assert published[0] - 0.1 <= found.weights_gib <= published[1] + 0.1


def test_weights_by_type() -> None:
    parts = {part.name: part.bytes for part in parts_of_shape(SHAPE)}
    assert parts["linear layers"] / GIB == pytest.approx(22.656, abs=0.001)
    assert parts["scales"] / GIB == pytest.approx(0.0055, abs=0.0001)
    assert parts["norms, gates, convolutions"] / GIB == pytest.approx(0.049, abs=0.001)
    assert (parts["lm_head"] + parts["embed_tokens"]) / GIB == pytest.approx(2.369, abs=0.001)
    assert parts["vision tower"] / GIB == pytest.approx(0.858, abs=0.001)
    plain = {
        part.name: part.bytes
        for part in parts_of_shape(SHAPE.model_copy(update={"fp8_tables": (), "quantization": None}))
    }
    assert plain["lm_head"] == 2_542_796_800
    assert plain["linear layers"] == 2 * parts["linear layers"]


# --- start-up logs that others published ----------------------------------------------------------------------------

QWEN_35B_A3B = ModelShape(
    hidden=2048, mlp=512, vocabulary=248320,
    attention=Attention(layers=10, query_heads=16, kv_heads=2, head_size=256, gated=True),
    gdn=GatedDeltaNet(layers=30, key_heads=16, value_heads=32, head_size=128),
)  # fmt: skip
LLAMA_8B = ModelShape(
    hidden=4096, mlp=14336, vocabulary=128256, attention=Attention(layers=32, query_heads=32, kv_heads=8, head_size=128)
)


def test_qwen3_8_27b_on_two_gpus() -> None:
    """github.com/mitchross/talos-argocd-proxmox/pull/1995: 2x RTX 3090, fp8 cache, 4.99 GiB pool, prefix caching.

    Published: block of 1568, 302,921 tokens, 2.31x at 131,072; 168 blocks for 262,144 tokens.
    """
    cache = cache_of(SHAPE, "0.26.0", cache_dtype="fp8_e4m3", prefix_caching=True, tensor_parallel=2)
    assert cache.block_size == 1_568
    found = capacity(cache, cache.blocks(int(4.99 * GIB)), Version("0.26.0"), 131_072)
    assert found.tokens == 302_921
    assert f"{found.concurrency:.2f}" == "2.31"
    assert cache.request_blocks(262_144) - 3 * 2 == 168


def test_qwen3_6_35b_on_one_5090() -> None:
    """github.com/noonghunna/club-3090/issues/612: vLLM 0.24.0, fp8 cache, 5.98 GiB pool, prefix caching.

    Published: 567,978 tokens, 4.33x at 131,072.
    """
    cache = cache_of(QWEN_35B_A3B, "0.24.0", cache_dtype="fp8", prefix_caching=True)
    found = capacity(cache, cache.blocks(int(5.98 * GIB)), Version("0.24.0"), 131_072)
    assert found.tokens == 567_978
    assert f"{found.concurrency:.2f}" == "4.33"


def test_qwen3_5_27b_on_an_h20() -> None:
    """github.com/vllm-project/vllm/issues/40691: vLLM 0.19.0, 290,864 tokens and 33.04x at 32,768.

    The pool is not published: some number of blocks has to give both figures, and exactly one does.
    """
    cache = cache_of(SHAPE, "0.19.0")
    counts = [capacity(cache, blocks, Version("0.19.0"), 32_768) for blocks in range(1, 4_000)]
    both = [each.blocks for each in counts if each.tokens == 290_864 and f"{each.concurrency:.2f}" == "33.04"]
    assert both == [1_487]


@pytest.mark.parametrize(
    ("pool", "blocks", "length", "concurrency"), [(3.81, 1_952, 20_000, 1.56), (2.89, 1_478, 29_000, 0.82)]
)
def test_llama_8b_on_a_3090(pool: float, blocks: int, length: int, concurrency: float) -> None:
    """github.com/vllm-project/vllm/issues/10517: pools of 3.81 and 2.89 GiB (printed with two decimals)."""
    cache = cache_of(LLAMA_8B, "0.19.0")
    low, high = (cache.blocks(int((pool + rounding) * GIB)) for rounding in (-0.005, 0.005))
    assert low <= blocks <= high
    assert capacity(cache, blocks, Version("0.19.0"), length).concurrency == pytest.approx(concurrency, abs=0.006)


def test_the_stated_error_covers_a_start_up_that_was_not_calibrated_on() -> None:
    """The two-GPU start-up above: what the estimate makes of its pool, without being told, against 4.99 GiB."""
    shape = SHAPE.model_copy(update={"fp8_tables": ()})
    profile = Profile.model_validate(
        {
            "name": "p",
            "flags": {
                "tensor-parallel-size": 2, "kv-cache-dtype": "fp8_e4m3", "gpu-memory-utilization": "0.92",
                "max-model-len": 131072, "max-num-seqs": 2, "max-num-batched-tokens": 8192,
            },
        }
    )  # fmt: skip
    found = estimate(profile, shape, find_gpu("rtx-3090"), Version("0.26.0"))
    assert abs(found.pool_gib - 4.99) <= ERROR_GIB
    assert found.error_gib == ERROR_GIB


# --- properties -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 2_000), st.integers(1, 300_000), st.sampled_from(["0.19.0", "0.20.0", "0.20.1", "0.33.0"]))
def test_real_requests_never_exceed_the_logged_concurrency(blocks: int, length: int, version: str) -> None:
    cache = cache_of(SHAPE, version, cache_dtype="turboquant_k8v4")
    found = capacity(cache, blocks, Version(version), length)
    assert found.real_requests <= found.concurrency
    assert found.real_requests * cache.request_blocks(length) <= max(0, blocks - 1)


@given(
    st.sampled_from(["auto", "fp8", "turboquant_k8v4", "turboquant_3bit_nc"]),
    st.sampled_from([1, 2, 4]),
    st.integers(1, 8),
)
def test_a_page_always_holds_a_state(cache_dtype: str, parallel: int, sixteens: int) -> None:
    cache = cache_of(SHAPE, "0.20.0", cache_dtype=cache_dtype, tensor_parallel=parallel, block_size=16 * sixteens)
    assert cache.page_bytes >= state_bytes(SHAPE, tensor_parallel=parallel)
    assert cache.block_size % 16 == 0


@given(
    st.dictionaries(
        st.sampled_from(
            ["max-model-len", "max-num-seqs", "max-num-batched-tokens", "gpu-memory-utilization", "kv-cache-dtype", "block-size",
             "tensor-parallel-size", "kv-cache-memory-bytes", "num-gpu-blocks-override", "enable-prefix-caching",
             "mamba-ssm-cache-dtype", "speculative-config", "cpu-offload-gb", "offload-group-size", "enable-lora", "nonsense"]
        ),
        st.one_of(st.integers(-2, 10**15), st.booleans(), st.sampled_from(["0.5", "nan", "1e9", "fp8", "auto", "16k", "2G"])),
        max_size=5,
    )
)  # fmt: skip
def test_an_estimate_is_made_or_refused_with_a_reason(flags: dict[str, Any]) -> None:
    profile = Profile.model_construct(name="p", flags=flags, hardware=None, envelope=None)
    try:
        found = estimate(profile, SHAPE, find_gpu("h100-80gb"), V0_20_0)
    except InputError as refused:
        assert refused.message
        return
    low, high = found.blocks_range
    assert 0 <= low <= found.held.blocks <= high
    json.dumps(found.as_json())


# --- checkpoints ----------------------------------------------------------------------------------------------------

CONFIG = {
    "architectures": ["Qwen3_5ForConditionalGeneration"],
    "tie_word_embeddings": False,
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "lm_head": True, "embed_tokens": True},
    "text_config": {
        "hidden_size": 5120, "intermediate_size": 17408, "num_hidden_layers": 64, "num_attention_heads": 24,
        "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 248320, "full_attention_interval": 4,
        "linear_num_key_heads": 16, "linear_num_value_heads": 48, "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4, "mamba_ssm_dtype": "float32", "attn_output_gate": True, "dtype": "bfloat16",
        "max_position_embeddings": 262144, "rope_parameters": {"partial_rotary_factor": 0.25, "mrope_section": [11, 11, 10]},
    },
}  # fmt: skip
TENSORS: dict[str, tuple[str, list[int]]] = {
    "lm_head.weight": ("F8_E4M3", [1024, 512]),
    "lm_head.weight_scale_inv": ("BF16", [8, 4]),
    "model.language_model.norm.weight": ("BF16", [512]),
    "model.visual.blocks.0.weight": ("BF16", [64, 64]),
    "mtp.layers.0.weight": ("F8_E4M3", [512, 512]),
}


def safetensors(path: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    """A file with a header and the bytes that it promises, of a sparse file's kind."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    document: dict[str, Any] = dict(header)
    for name, (dtype, shape) in tensors.items():
        size = {"F8_E4M3": 1, "BF16": 2}[dtype]
        for each in shape:
            size *= each
        document[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    data = json.dumps(document).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(data)) + data)
        stream.truncate(8 + len(data) + offset)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    names = list(TENSORS)
    safetensors(folder / "model-00001-of-00002.safetensors", {name: TENSORS[name] for name in names[:3]})
    safetensors(folder / "model-00002-of-00002.safetensors", {name: TENSORS[name] for name in names[3:]})
    index = {name: f"model-0000{1 if name in names[:3] else 2}-of-00002.safetensors" for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def test_the_recipes_shape_is_what_the_checkpoints_config_says() -> None:
    assert shape_of_config(CONFIG, vision_parameters=SHAPE.vision_parameters) == SHAPE


def _by_type(parts: list[Part]) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in parts:
        found[part.dtype] = found.get(part.dtype, 0) + part.bytes
    return found


def test_headers_give_weights_by_type_and_leave_the_draft_layers_out(checkpoint: Path) -> None:
    found = read_folder(checkpoint)
    assert {name: (dtype, list(shape)) for name, dtype, shape in found.tensors} == TENSORS
    parts = _by_type(parts_of_headers(found.tensors))
    assert parts == {"F8_E4M3": 1024 * 512, "fp32 scales": 8 * 4 * 4, "BF16": 512 * 2 + 64 * 64 * 2}
    with_draft = _by_type(parts_of_headers(found.tensors, speculation=True))
    assert with_draft["F8_E4M3"] == 1024 * 512 + 512 * 512


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kv_lora_rank": 512}, "qk_rope_head_dim"), ({"layer_types": ["chunked_attention"]}, "chunked_attention"),
        ({"hidden_size": None}, "does not have what"),
    ],
)  # fmt: skip
def test_what_is_not_modelled_is_said(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        shape_of_config({**CONFIG, "text_config": {**CONFIG["text_config"], **change}})  # type: ignore[dict-item]


# --- the command line -----------------------------------------------------------------------------------------------


def run(*arguments: str, **options: Any) -> Any:
    return builder("profile", "fit", "qwen3.6-27b-fp8-vocab", *arguments, cwd=ROOT, **options)


def test_the_call_and_its_document() -> None:
    ran = run("smoke", "--gpu", "rtx-5090", "--json")
    assert ran.code == 0, ran.err
    document = ran.document
    assert document["block_size"] == 2080
    assert document["blocks"] == 35
    assert document["kv_cache_tokens"] == 16640
    assert document["max_concurrency"] == 7.0
    assert document["real_requests"] == 6
    assert document["weights_gib"] == pytest.approx(26.11, abs=0.01)
    assert document["free_gib"] == pytest.approx(2.6, abs=0.1)
    assert document["error_gib"] > 0
    assert document["not_modelled"]
    assert document["envelope"] == {"tokens": 16144, "at_once": 0}
    rounded = run("smoke", "--kv-cache-gib", "1.68", "--json").document
    assert rounded["blocks"] == 34
    assert "34 to 35 blocks" in " ".join(rounded["notes"])
    later = run("envelope-16k", "--vllm-version", "v0.20.1", "--kv-cache-gib", "1.70", "--json").document
    assert (later["vllm"], later["blocks"], later["kv_cache_tokens"]) == ("0.20.1", 35, 52130)
    assert later["envelope"] == {"tokens": 16144, "at_once": 2}


def test_the_table_and_the_bars_are_for_people() -> None:
    ran = run("smoke", "--gpu", "rtx-5090")
    assert ran.code == 0
    assert "16,640 tokens" in ran.out
    assert "7.00x" in ran.out
    assert "█" in ran.out
    assert "not modelled" in ran.out


def test_a_profile_that_does_not_fit_is_said_to() -> None:
    ran = run("smoke", "--gpu", "rtx-4090")
    assert ran.code == 0
    assert "DOES NOT FIT" in ran.out
    assert run("smoke", "--gpu", "rtx-4090", "--json").document["fits"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smoke", "--gpu", "rtx-5900"), "did you mean rtx-5090"), (("smok",), "did you mean smoke"),
        (("smoke", "--vllm-version", "new"), "not a vLLM version"), (("smoke", "--checkpoint", "/nowhere"), "no checkpoint folder"),
        (("smoke", "--kv-cache-gib", "-1"), "kv-cache-gib"),
    ],
)  # fmt: skip
def test_wrong_calls_say_what_is_wrong(arguments: tuple[str, ...], message: str) -> None:
    ran = run(*arguments)
    assert ran.code == 2
    assert message in ran.err


def test_a_profile_that_vllm_refuses_is_wrong_input(tmp_path: Path) -> None:
    (tmp_path / "six.yaml").write_text("name: six\nflags: {tensor-parallel-size: 6, max-model-len: 4096}\n")
    ran = builder("profile", "fit", "qwen3.6-27b-fp8-vocab", str(tmp_path / "six.yaml"), "--gpu", "h100", cwd=ROOT)
    assert ran.code == 2
    assert "cannot divide 4 KV heads among 6 GPUs" in ran.err
    assert "six.yaml" in ran.err
    assert "write one of 1, 2, 4, 8" in ran.err


def test_a_local_checkpoint_replaces_the_recipes_shape(checkpoint: Path) -> None:
    ran = run("smoke", "--gpu", "rtx-5090", "--checkpoint", str(checkpoint), "--json")
    assert ran.code == 0, ran.err
    assert ran.document["block_size"] == 2080
    tensors = sum(part["gib"] for part in ran.document["weights"] if part["part"] == "tensors")
    assert tensors == pytest.approx(
        sum(part.bytes for part in parts_of_headers(read_folder(checkpoint).tensors)) / GIB, abs=1e-3
    )


class _Hub(BaseHTTPRequestHandler):
    """The Hub's file and model routes over a folder; `sent` counts bytes of content."""

    folder: Path
    sent: list[int]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        if "/resolve/" not in self.path:
            names = [{"rfilename": each.name} for each in sorted(self.folder.iterdir())]
            return self._send(200, json.dumps({"id": "o/n", "sha": "a" * 40, "siblings": names}).encode(), body=body)
        path = self.folder / self.path.partition("?")[0].rpartition("/")[2]
        if not path.is_file():
            return self._send(404, b"{}", body=body, extra={"X-Error-Code": "EntryNotFound"})
        data, status = path.read_bytes(), 200
        extra = {"ETag": '"x"', "X-Repo-Commit": "a" * 40, "Accept-Ranges": "bytes"}
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            extra["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, status = data[int(first) : int(last) + 1 if last else None], 206
        self.sent.append(len(data) if body else 0)
        return self._send(status, data, body=body, extra=extra)

    def _send(self, status: int, data: bytes, *, body: bool, extra: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(data)),
            "Content-Type": "application/json",
            **(extra or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(checkpoint: Path) -> Iterator[tuple[str, list[int]]]:
    sent: list[int] = []
    handler = type("Hub", (_Hub,), {"folder": checkpoint, "sent": sent})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", sent
    server.shutdown()
    server.server_close()


def test_a_checkpoint_on_the_hub_is_read_by_range(hub: tuple[str, list[int]], checkpoint: Path) -> None:
    url, sent = hub
    environment = {"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    ran = run("smoke", "--gpu", "rtx-5090", "--checkpoint", "o/n@main", "--json", env=environment)
    assert ran.code == 0, ran.err
    local = run("smoke", "--gpu", "rtx-5090", "--checkpoint", str(checkpoint), "--json").document
    assert ran.document == local
    assert sum(sent) < 600_000 < sum(each.stat().st_size for each in checkpoint.iterdir())
    gone = run("smoke", "--checkpoint", "o/n", env={**environment, "HF_ENDPOINT": "http://127.0.0.1:9"})
    assert gone.code == 5


def test_every_gpu_of_the_table_can_be_named() -> None:
    for name, gpu in gpus().items():
        assert estimate(load_profile(ROOT / "profiles" / "smoke.yaml"), SHAPE, gpu, V0_20_0).gpu.name == name


def test_the_shape_is_no_part_of_what_a_lock_pins(tmp_path: Path) -> None:
    document = yaml.safe_load((ROOT / "images" / "qwen3.6-27b-fp8-vocab.yaml").read_text())
    del document["model"]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(document))
    assert load_recipe(tmp_path / "r.yaml").digest == FLAGSHIP.digest
