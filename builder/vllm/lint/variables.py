"""Rules about a profile's environment: names, types and choices by the patched `envs.py`, what was removed, secrets in flags."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator

from builder.vllm.lint.context import Context
from builder.vllm.lint.converted import wanted
from builder.vllm.lint.findings import Finding
from builder.vllm.lint.near import near_name
from builder.vllm.lint.removed import advice, source_of
from builder.vllm.lint.removed_variables import REMOVED_VARIABLES
from builder.vllm.reader.variables import Variable

# Families of variables that programs beside vLLM read; what is in them is not known here.
_FAMILIES = (
    "AITER_", "AMD_", "AMDGCN_", "ASCEND_", "CCL_", "CUBLAS", "CUDA_", "CUDNN_", "CUTE_", "CUTLASS_", "DG_", "FLASHINFER_",
    "FLASH_ATTENTION_", "FLA_", "GGML_", "GLOO_", "GPU_", "HABANA_", "HCCL_", "HF_", "HIP_", "HSA_", "HUGGINGFACE_", "JAX_",
    "KMP_", "LIBTPU_", "LLGUIDANCE_", "LMCACHE_", "MALLOC_", "MC_", "MIOPEN_", "MKL_", "MOONCAKE_", "NCCL_", "NIXL_", "NUMBA_",
    "NUMEXPR_", "NVIDIA_", "NVSHMEM_", "NVTE_", "OMP_", "ONEAPI_", "OPENBLAS_", "OTEL_", "OUTLINES_", "PJRT_", "PROMETHEUS_",
    "PYTHON", "PYTORCH_", "QUACK_", "RAY_", "RCCL_", "ROCM_", "ROCR_", "RUNAI_", "SAFETENSORS_", "SYCL_", "TILELANG_",
    "TIKTOKEN_", "TOKENIZERS_", "TORCH", "TPU_", "TQDM_", "TRANSFORMERS_", "TRITON_", "TVM_", "UCX_", "UR_", "XDG_", "XFORMERS_",
    "XLA_", "XPU_", "ZE_",
)  # fmt: skip
_SINGLE = frozenset({
    "LD_LIBRARY_PATH", "LD_PRELOAD", "PATH", "TZ", "LANG", "LC_ALL", "TMPDIR", "NO_COLOR", "DO_NOT_TRACK", "http_proxy",
    "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "MASTER_ADDR",
    "MASTER_PORT", "LOGLEVEL", "FORCE_COLOR", "USE_FASTSAFETENSOR",
})  # fmt: skip
_OFF = frozenset({"", "0", "false", "no", "off"})
_SECRET_FLAGS = frozenset({"api-key", "hf-token"})


def variables(context: Context) -> Iterator[Finding]:
    """Each variable of the profile against the package's `envs.py`."""
    known = context.package.variables
    for name, text in context.profile.env.items():
        if known is None:
            yield context.say(
                "unknown-variable",
                "not-checked",
                f"which variables {context.vllm} knows could not be read",
                variable=name,
            )
        elif name in known:
            yield from _known(context, known[name], text)
        elif name.startswith("VLLM_"):
            yield from _unknown(context, name, sorted(known))
        elif name not in _SINGLE and not name.startswith(_FAMILIES):
            # Names in small letters are others for the system; nobody means them.
            near = difflib.get_close_matches(name.upper(), [*known, *_SINGLE], n=1, cutoff=0.85)
            yield context.say(
                "unknown-variable", "not-checked", f"{name} is not a variable of vLLM or of a program that is known here",
                variable=name, hint=f"did you mean {near[0]}?" if near else None,
            )  # fmt: skip


def secrets(context: Context) -> Iterator[Finding]:
    """Flags whose value is a secret: the image's record would show it to everybody who may pull the image."""
    for entry in context.entries:
        if entry.name in _SECRET_FLAGS and not isinstance(entry.value, bool):
            variable = "VLLM_API_KEY" if entry.name == "api-key" else "HF_TOKEN"
            yield context.say(
                "secret", "error", f"--{entry.name} is a secret, and whoever may pull the image can read its profiles",
                entry=entry, hint=f"leave it out, and pass it when the container starts: docker run --env {variable} ...",
            )  # fmt: skip


def wants(context: Context) -> Callable[[str, object], str | None]:
    """What a flag, a key of one, or a variable takes instead of a value that this vLLM refuses; None for one that may pass."""
    variables, flags = context.package.variables or {}, context.package.catalog.lookup()

    def asked(name: str, value: object) -> str | None:
        if name in variables:
            text = "1" if value is True else str(value)
            idle = _no_effect(variables[name], text)
            return f"{' or '.join(variables[name].words)}, or 0" if idle else _refusal(variables[name], text)
        methods = context.package.registries.quantization
        if name == "speculative-config.quantization" and methods is not None and value not in methods:
            return f"one of {', '.join(sorted(methods))}"
        head, _, key = name.partition(".")
        flag, _ = flags.get(head, (None, False))
        several = value if isinstance(value, tuple) else (value,)
        found = (wanted(flag, key, each) for each in several) if flag is not None else iter(())
        return next((each for each in found if each is not None), None)

    return asked


def _unknown(context: Context, name: str, known: list[str]) -> Iterator[Finding]:
    removed = REMOVED_VARIABLES.get(name)
    if removed is not None:
        text = context.profile.env[name]
        value = {"0": False, "1": True}.get(text, text) if "_USE_" in name or removed.off else text
        hint = f"{advice(name, value, removed, context.has, context.given, wants(context))} ({source_of(removed)})"
        yield context.say("unknown-variable", "error", f"{context.vllm} no longer has {name}", variable=name, hint=hint)
        return
    if any(data is not None and name.encode() in data for data in context.package.source.over.values()):
        # An overlay reads it where it is needed.
        return
    plain = {each.lower().replace("_", "-"): each for each in known}
    near = near_name(name.lower().replace("_", "-"), list(plain))
    yield context.say(
        "unknown-variable", "error", f"{context.vllm} has no variable {name}. It warns about the name and ignores the value", variable=name,
        hint=f"did you mean {plain[near]}?" if near else "leave it out; `vllm/envs.py` lists the variables",
    )  # fmt: skip


def _known(context: Context, variable: Variable, text: str) -> Iterator[Finding]:
    name = variable.name
    if variable.deprecated is not None:
        yield context.say(
            "deprecated", "warning", f"{context.vllm} deprecates {name}", variable=name, source=variable.place,
            hint=variable.deprecated or "leave it out",
        )  # fmt: skip
    if (wanted := _refusal(variable, text)) is not None:
        yield context.say(
            "wrong-type" if not variable.words else "bad-choice", "error", f"{name} is {text!r}, and {context.vllm} wants {wanted}",
            variable=name, source=variable.place, hint=_hint(variable, text),
        )  # fmt: skip
    elif _no_effect(variable, text):
        yield context.say(
            "no-effect", "warning", f"{name} is {text!r}, which {context.vllm} reads as off", variable=name,
            source=variable.place, hint=f"{' or '.join(repr(word) for word in variable.words)} switches it on",
        )  # fmt: skip


def _no_effect(variable: Variable, text: str) -> bool:
    """Whether a text is read as off, and does not look so."""
    folded = text.lower() if variable.any_case else text
    return variable.kind == "words" and folded not in variable.words and text.lower() not in _OFF


def _refusal(variable: Variable, text: str) -> str | None:
    """What the variable must be, when vLLM raises an error for this text; None when it takes it."""
    if variable.kind in ("int", "flag"):
        return None if _parses(int, text) else "a whole number" if variable.kind == "int" else "0 or 1"
    if variable.kind == "float":
        return None if _parses(float, text) else "a number"
    if variable.kind == "json":
        return None if _parses(json.loads, text) else "JSON"
    if variable.kind in ("choice", "choices"):
        words = [word.lower() for word in variable.words] if variable.any_case else list(variable.words)
        given = [each.strip() for each in text.split(",") if each.strip()] if variable.kind == "choices" else [text]
        if any((each.lower() if variable.any_case else each) not in words for each in given):
            return f"{'some' if variable.kind == 'choices' else 'one'} of {', '.join(variable.words)}"
    return None


def _parses(convert: object, text: str) -> bool:
    assert callable(convert)  # noqa: S101
    try:
        convert(text)
    except (ValueError, RecursionError):
        return False
    return True


def _hint(variable: Variable, text: str) -> str | None:
    if variable.kind == "flag":
        on = text.strip().lower() in ("true", "yes", "on")
        return f"write {1 if on else 0}" if on or text.strip().lower() in _OFF else "write 1 or 0"
    if variable.words:
        near = difflib.get_close_matches(text, variable.words, n=1, cutoff=0.6)
        return f"did you mean {near[0]}?" if near else None
    return None
