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


# --- root causes ------------------------------------------------------------------------------------------------------

STOCK = """\
(Worker pid=9) ERROR 11-25 12:56:08 [multiproc_executor.py:870] Traceback (most recent call last):
(EngineCore pid=5) INFO 11-25 12:56:08 [core.py:1] something else meanwhile
(Worker pid=9) ERROR 11-25 12:56:08 [multiproc_executor.py:870]   File "/usr/local/lib/python3.12/dist-packages/vllm/v1/executor/multiproc_executor.py", line 841, in worker_main
(Worker pid=9) ERROR 11-25 12:56:08 [multiproc_executor.py:870]     worker = WorkerProc(*args, **kwargs)
(Worker pid=9) ERROR 11-25 12:56:08 [multiproc_executor.py:870]   File "/usr/local/lib/python3.12/dist-packages/vllm/model_executor/models/utils.py", line 339, in _load_module
(Worker pid=9) ERROR 11-25 12:56:08 [multiproc_executor.py:870]     raise ValueError(msg)
(Worker pid=9) ERROR 11-25 12:56:08 [multiproc_executor.py:870] ValueError: There is no module or parameter named 'lm_head.weight_scale_inv' in Qwen3ForCausalLM.
(EngineCore pid=5) Traceback (most recent call last):
(EngineCore pid=5)   File "/usr/local/lib/python3.12/dist-packages/vllm/v1/executor/multiproc_executor.py", line 747, in wait_for_ready
(EngineCore pid=5) Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace for root cause.
(APIServer pid=1) Traceback (most recent call last):
(APIServer pid=1)   File "/usr/local/lib/python3.12/dist-packages/vllm/v1/engine/utils.py", line 1178, in wait_for_engine_startup
(APIServer pid=1)     raise RuntimeError(
(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""


def test_the_cause_is_not_the_consequence() -> None:
    """The lines of a real start, in an official image's folders."""
    cause = read_startup_log(STOCK.splitlines()).root_cause()
    assert cause is not None
    assert cause.error.startswith("ValueError: There is no module or parameter named 'lm_head.weight_scale_inv'")
    assert cause.where == "vllm/model_executor/models/utils.py:339 in _load_module"
    assert cause.path == "vllm/model_executor/models/utils.py"
    assert cause.kind == "missing parameter"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("NotImplementedError: TurboQuant KV cache is not supported for hybrid (attention + Mamba) models.", "hybrid refusal"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.37 GiB.", "out of memory"),
        ("ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.", "out of memory"),
        ("RuntimeError: Found no NVIDIA driver on your system.", "no GPU"),
        ("RuntimeError: Failed to infer device type", "no GPU"),
        ("torch._inductor.exc.InductorError: InvalidCxxCompiler: No working C++ compiler found", "no compiler"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'gcc'", "no compiler"),
        ("RuntimeError: expected scalar type BFloat16 but found Half", "wrong dtype"),
        ("ValueError: lm_head.weight is torch.bfloat16, not torch.float8_e4m3fn: the config opts in to FP8 tables that the checkpoint does not have", "wrong dtype"),
        ("ValueError: lm_head.weight_scale_inv is (4, 2), not (8, 2)", "wrong checkpoint"),
        ("ModuleNotFoundError: No module named 'torchvision'", "missing module"),
        ("KeyError: 'x'", ""),
    ],
)  # fmt: skip
def test_kinds_of_causes(error: str, kind: str) -> None:
    cause = read_startup_log(["Traceback (most recent call last):", '  File "/x/vllm/a.py", line 1, in f', "    g()", error]).root_cause()  # fmt: skip
    assert cause is not None
    assert (cause.error, cause.where, cause.kind) == (error, "vllm/a.py:1 in f", kind)
    assert bool(cause.points_to) is bool(kind)


def test_the_last_of_a_chain_the_lines_of_a_validation_and_the_parsers_refusal() -> None:
    chain = ["Traceback (most recent call last):", '  File "a.py", line 1, in f', "KeyError: 'x'", "", "During handling of the above exception, another exception occurred:", "", "Traceback (most recent call last):", '  File "b.py", line 2, in g', "ValueError: no x"]  # fmt: skip
    cause = read_startup_log(chain).root_cause()
    assert cause is not None
    assert (cause.error, cause.where) == ("ValueError: no x", "b.py:2 in g")
    model = ["Traceback (most recent call last):", "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig", "  Value error, max_model_len is too large", "", "more"]  # fmt: skip
    cause = read_startup_log(model).root_cause()
    assert cause is not None
    assert cause.error.endswith("for ModelConfig Value error, max_model_len is too large")
    cause = read_startup_log(["usage: vllm serve [x]", "vllm serve: error: unrecognized arguments: --x"]).root_cause()
    assert cause is not None
    assert (cause.error, cause.kind) == ("unrecognized arguments: --x", "wrong flag")
    assert read_startup_log(["ValueError: not in a traceback"]).root_cause() is None


@given(st.lists(st.sampled_from([*STOCK.splitlines(), "", "  x", "Traceback (most recent call last):", "A: b"])))
def test_any_order_of_lines_is_read(lines: list[str]) -> None:
    cause = read_startup_log(lines).root_cause()
    assert cause is None or cause.error
