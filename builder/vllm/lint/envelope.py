"""What a profile can serve: prompts and completions against its context, its batches and the cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from builder.vllm.fit.estimate import Fit
from builder.vllm.lint.context import Context
from builder.vllm.lint.effects import is_turboquant
from builder.vllm.lint.findings import Finding

_SPLIT = "a TurboQuant prompt that is split into prefill chunks is a known crash (vllm #41726, #43357)"


@dataclass(frozen=True)
class Serves:
    """Whether a profile serves a prompt and a completion budget, and how many such requests at once."""

    prompt: int
    completion: int
    serves: bool
    reasons: tuple[str, ...]
    at_once: int | None
    """None when it is not known: no model shape or no GPU."""
    held: int | None
    """Requests that the cache holds, whatever `--max-num-seqs` lets in."""

    @property
    def tokens(self) -> int:
        return self.prompt + self.completion

    def sentence(self, profile: str) -> str:
        budget = f"{self.prompt:,} + {self.completion:,} = {self.tokens:,} tokens"
        if not self.serves:
            return f"{profile} cannot serve {budget}: {'; '.join(self.reasons)}"
        if self.at_once is None:
            return f"{profile} serves {budget}; how many requests at once is not known"
        return f"{profile} serves {budget}, {self.at_once} request{'s' if self.at_once != 1 else ''} at once (the cache holds {self.held})"

    def as_json(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt, "completion": self.completion, "tokens": self.tokens, "serves": self.serves,
            "reasons": list(self.reasons), "at_once": self.at_once, "held": self.held,
        }  # fmt: skip


def serves(context: Context, prompt: int, completion: int) -> Serves:
    """Judge one envelope."""
    tokens = prompt + completion
    reasons: list[str] = []
    fit = context.fit if isinstance(context.fit, Fit) else None
    length = context.number("max-model-len")
    if length is None or length < 1:
        known = context.shape.context if context.shape is not None else None
        length = fit.max_model_len if fit is not None else known
    batched = context.number("max-num-batched-tokens")
    if length is None:
        reasons.append("its context is not known: it has no max-model-len")
    elif tokens > length:
        reasons.append(f"max-model-len is {length:,}")
    if is_turboquant(context) and batched is not None and prompt > batched:
        reasons.append(f"max-num-batched-tokens is {batched:,}, and {_SPLIT}")
    held = max(0, fit.held.blocks - 1) // fit.cache.request_blocks(tokens) if fit is not None else None
    if held == 0:
        reasons.append("the KV cache does not hold one such request")
    return Serves(
        prompt,
        completion,
        not reasons,
        tuple(reasons),
        fit.at_once(tokens) if fit is not None and not reasons else None,
        held,
    )


def budgets(context: Context) -> Iterator[Finding]:
    """The profile's own envelope against its context and its batches."""
    promised, length, batched = (
        context.profile.envelope, context.number("max-model-len"), context.number("max-num-batched-tokens"),
    )  # fmt: skip
    context_entry, batched_entry = context.get("max-model-len"), context.get("max-num-batched-tokens")
    if promised is not None:
        tokens = promised.prompt + promised.completion
        if length is None:
            yield context.say(
                "envelope-context", "not-checked", f"the envelope needs {tokens:,} tokens; without max-model-len the context is the model's",
                entry=context_entry, hint="pin max-model-len",
            )  # fmt: skip
        elif 0 < length < tokens:
            yield context.say(
                "envelope-context", "error",
                f"the envelope promises {promised.prompt:,} + {promised.completion:,} = {tokens:,} tokens, but --max-model-len is {length:,}: such a request gets 400",
                entry=context_entry, hint=f"max-model-len of at least {tokens}, or a smaller envelope",
            )  # fmt: skip
    if not is_turboquant(context):
        return
    longest = promised.prompt if promised is not None else None
    if batched is None:
        yield context.say(
            "split-prefill", "not-checked", f"max-num-batched-tokens is left to vLLM, 2,048 on most GPUs; {_SPLIT}",
            hint="pin max-num-batched-tokens at or above the longest prompt",
        )  # fmt: skip
    elif longest is not None and batched < longest:
        yield context.say(
            "split-prefill", "error", f"prompts of {longest:,} tokens are split at --max-num-batched-tokens {batched:,}: {_SPLIT}",
            entry=batched_entry, hint=f"max-num-batched-tokens of at least {longest}",
        )  # fmt: skip
    elif length is not None and batched < length:
        yield context.say(
            "split-prefill", "warning",
            f"the context of {length:,} lets in prompts above --max-num-batched-tokens {batched:,}, which are split: {_SPLIT}",
            entry=batched_entry, hint=f"keep longer prompts away in front of the server, or raise it to {length}",
        )  # fmt: skip


def concurrency(context: Context) -> Iterator[Finding]:
    """`--max-num-seqs` and the context against what the cache holds."""
    fit, seqs = context.fit, context.number("max-num-seqs")
    if not isinstance(fit, Fit):
        yield context.say(
            "concurrency", "not-checked", f"how many requests the KV cache holds is not known: {fit}",
            hint="give the recipe a `model:` and the profile its hardware",
        )  # fmt: skip
        return
    low, _ = fit.blocks_range
    needed = fit.cache.request_blocks(fit.max_model_len)
    if fit.too_large:
        flag = "num-gpu-blocks-override" if context.get("num-gpu-blocks-override") else "kv-cache-memory-bytes"
        yield context.say(
            "does-not-fit", "error" if fit.free_gib < -fit.error_gib and not fit.may_take_less else "warning",
            f"the KV cache that --{flag} asks for is {-fit.free_gib:.2f} GiB more than the {fit.gpu.name} has left: the server runs out of memory at start",
            entry=context.get(flag), hint=f"write a smaller number, or leave {flag} out: vLLM then measures what is free",
        )  # fmt: skip
    elif not fit.fits:
        sure = (max(0, fit.blocks_range[1]) - 1) // needed < 1 and not fit.may_take_less
        yield context.say(
            "does-not-fit", "error" if sure else "warning",
            f"the estimate gives {fit.held.blocks} blocks on the {fit.gpu.name}, and one request of {fit.max_model_len:,} tokens needs {needed}: the server does not start",
            entry=context.get("max-model-len"), hint="`builder profile fit RECIPE PROFILE` shows where the memory goes",
        )  # fmt: skip
    elif seqs is not None and seqs > fit.held.real_requests:
        promised = context.profile.envelope
        tokens = (
            min(fit.max_model_len, promised.prompt + promised.completion) if promised is not None else fit.max_model_len
        )
        held = max(0, fit.held.blocks - 1) // fit.cache.request_blocks(tokens)
        if seqs > held:
            yield context.say(
                "concurrency", "warning",
                f"--max-num-seqs {seqs} lets in more requests of {tokens:,} tokens than the KV cache holds, {held} by the estimate ({low} to {fit.blocks_range[1]} blocks): the rest is preempted",
                entry=context.get("max-num-seqs"), hint=f"write {held}, or shorten the context",
            )  # fmt: skip
