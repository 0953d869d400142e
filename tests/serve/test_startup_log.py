"""vLLM's start-up lines, with every prefix and colour that may stand around them."""

from __future__ import annotations

import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.serve.startup_log import FATAL, PHASES, StartupLog, read_startup_log
from tests.support.wheels import wheel

LINES = [
    "Initializing a V1 LLM engine (v0.20.0) with config: model='/model'",
    "Starting to load model /model...",
    "Loading safetensors checkpoint shards:  50% Completed | 33/66 [00:05<00:05,  6.12it/s]",
    "Model loading took 26.19 GiB memory and 12.345678 seconds",
    "Available KV cache memory: 1.68 GiB",
    "GPU KV cache size: 16,640 tokens",
    "Maximum concurrency for 4,029 tokens per request: 7.00x",
    "Graph capturing finished in 3 secs, took 0.10 GiB",
    "Application startup complete.",
]
FIGURES = {
    "vllm": "0.20.0", "loaded_gib": 26.19, "load_seconds": 12.345678, "available_kv_gib": 1.68, "kv_cache_tokens": 16640,
    "max_concurrency": 7.0, "tokens_per_request": 4029, "graphs_gib": 0.10,
}  # fmt: skip
PREFIXES = [
    "{}",
    "(EngineCore pid=123) INFO 04-29 09:53:04 [gpu_model_runner.py:4880] {}",
    "\x1b[0;36m(EngineCore pid=123)\x1b[0;0m INFO \x1b[32m04-29\x1b[0m [x.py:1] {}\x1b[0m\r",
    "2026-04-29T09:53:04.123456789Z {}\n",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_figures_of_the_model_cards_start(prefix: str) -> None:
    log = read_startup_log(prefix.format(line) for line in LINES)
    assert log.figures() == FIGURES
    assert log.shards == (33, 66)
    assert log.phase == "ready"
    assert log.fatal == []


def test_the_spellings_of_other_versions() -> None:
    log = read_startup_log(
        [
            "Model loading took 26.19 GiB and 3.5 seconds",
            "GPU KV cache size: 28,203 tokens, Maximum concurrency for 4,029 tokens per request: 7.00x",
            "vLLM API server version 0.33.0",
        ]
    )
    assert log.figures() == {
        "vllm": "0.33.0", "loaded_gib": 26.19, "load_seconds": 3.5, "kv_cache_tokens": 28203, "max_concurrency": 7.0,
        "tokens_per_request": 4029,
    }  # fmt: skip


def test_of_several_workers_the_largest_load_and_the_smallest_cache_count() -> None:
    log = read_startup_log(
        [
            "Model loading took 13.1 GiB memory and 2.0 seconds", "Model loading took 13.4 GiB memory and 1.0 seconds",
            "GPU KV cache size: 1,000 tokens", "GPU KV cache size: 900 tokens", "GPU KV cache size: 1,100 tokens",
        ]
    )  # fmt: skip
    assert (log.loaded_gib, log.load_seconds, log.kv_cache_tokens) == (13.4, 2.0, 900)


def test_phases_only_go_forward() -> None:
    log = StartupLog()
    phases = []
    for line in [*LINES, LINES[1]]:
        log.feed(line)
        phases.append(log.phase)
    assert phases == sorted(phases, key=PHASES.index)
    assert phases[1] == "loading weights"
    assert phases[3] == "compiling"
    assert phases[-1] == "ready"


def test_fatal_lines_say_what_they_mean() -> None:
    line = "Parameter model.embed_tokens.weight_scale_inv not found in params_dict, skip loading"
    log = read_startup_log([PREFIXES[1].format(line)])
    assert len(log.fatal) == 1
    assert "nonsense" in log.fatal[0].meaning
    for text, meaning in FATAL:
        assert read_startup_log([f"ERROR {text} now"]).fatal[0].meaning == meaning


def test_watched_texts_keep_their_first_line() -> None:
    log = read_startup_log(["a TQ hybrid: full-attention layers [3]", "TQ hybrid: full-attention layers [7]"], watched=["TQ hybrid", "none"])  # fmt: skip
    assert log.seen == {"TQ hybrid": "a TQ hybrid: full-attention layers [3]"}


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    log = StartupLog()
    log.feed(text)
    assert log.phase in PHASES


@given(
    tokens=st.integers(0, 10**9), gib=st.floats(0, 1000).map(lambda value: round(value, 2)),
    noise=st.text(st.characters(exclude_characters="\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029\x1b")),
)  # fmt: skip
def test_figures_are_read_as_they_were_printed(tokens: int, gib: float, noise: str) -> None:
    log = read_startup_log([f"{noise} GPU KV cache size: {tokens:,} tokens", f"Model loading took {gib} GiB memory"])
    assert log.kv_cache_tokens == tokens
    assert log.loaded_gib == gib


@pytest.mark.wheels
def test_the_texts_are_those_of_the_wheel() -> None:
    """Each text that is looked for stands in the source of vLLM 0.20.0."""
    with zipfile.ZipFile(wheel("0.20.0")) as archive:
        names = (
            "v1/core/kv_cache_utils.py", "v1/worker/gpu_model_runner.py", "v1/worker/gpu_worker.py", "v1/engine/core.py",
            "v1/engine/utils.py", "v1/worker/gpu/model_runner.py", "model_executor/models/qwen3_5.py",
            "v1/worker/gpu/cudagraph_utils.py", "model_executor/model_loader/weight_utils.py", "v1/worker/utils.py",
            "v1/engine/exceptions.py",
        )  # fmt: skip
        source = "\n".join(archive.read(f"vllm/{name}").decode() for name in names)
    for text in (
        "Model loading took %s GiB memory and %.6f seconds", "Model loading took %s GiB and %.6f seconds",
        "Available KV cache memory: %s GiB", "GPU KV cache size: %s tokens",
        "Maximum concurrency for %s tokens per request: %.2fx", "Graph capturing finished in %.0f secs, took %.2f GiB",
        "V1 LLM engine (v%s)", "Starting to load model", "Loading safetensors checkpoint shards", "Capturing CUDA graphs",
        "not found in params_dict, skip loading", "Engine core initialization failed", "EngineDeadError",
        "EngineCore encountered a fatal error",
    ):  # fmt: skip
        assert text in source, text
