"""The start-up log against what the profile expects of one vLLM version on one GPU."""

from __future__ import annotations

from collections.abc import Sequence

from builder.documents.profile import Expectation, Profile, Range
from builder.serve.smoke.gpu import Gpu
from builder.serve.smoke.result import Check, failed, not_checked, passed
from builder.serve.startup_log import StartupLog

FATAL_NAME = "no fatal line in the log"
_SHOWN = 10
_NO_LOG = "the server's log is not at hand: name it with --log or --container"
# (field of the expectation, what it is called, unit)
_FIGURES = (
    ("loaded_gib", "weights loaded", "GiB"),
    ("kv_cache_tokens", "KV cache", "tokens"),
    ("max_concurrency", "maximum concurrency", "x"),
)
_FREE = "free GPU memory"
# What a platform does not print, by the name that profiles have for it.
_NOT_PRINTED = {"cpu": ("loaded_gib",)}


def check_fatal(log: StartupLog | None) -> Check:
    """No line after which the server cannot be trusted, from the start to now."""
    if log is None:
        return not_checked(FATAL_NAME, _NO_LOG)
    if log.fatal:
        lines = list(dict.fromkeys((line.line, line.meaning) for line in log.fatal))
        details = [("line", f"{line}\n{meaning}") for line, meaning in lines[:_SHOWN]]
        return failed(FATAL_NAME, f"{len(log.fatal)} fatal lines", *details)
    return passed(FATAL_NAME, "none")


def expectation_for(profile: Profile | None, vllm: str | None, gpu: Gpu | None) -> Expectation | str:
    """The expectation of this version on this GPU, or why there is none."""
    if profile is None or not profile.expect:
        return "the profile expects no figures" if profile else "no profile was named"
    if vllm is None:
        return "the server's vLLM version is not known"
    if gpu is None:
        return "the server's GPU is not known: name it with --gpu"
    release = vllm.split("+")[0].removeprefix("v")
    for expectation in profile.expect:
        if expectation.vllm == release and gpu.is_a(expectation.gpu):
            return expectation
    known = ", ".join(f"{each.vllm} on {each.gpu}" for each in profile.expect)
    return f"nothing is known of {release} on {gpu.short}; the profile has {known}"


def check_figures(log: StartupLog | None, expectation: Expectation | str, free_gib: float | None) -> list[Check]:
    """One check per figure and text that is expected. `free_gib` is what the GPU had left once the server was up."""
    if isinstance(expectation, str):
        return [not_checked("start-up figures", expectation)]
    checks = []
    silent = _NOT_PRINTED.get(expectation.gpu, ())
    for field, name, unit in _FIGURES:
        wanted = getattr(expectation, field)
        if field in silent and (log is None or getattr(log, field) is None):
            checks.append(not_checked(name, f"not printed on {expectation.gpu.upper()}"))
        elif wanted is not None and log is None:
            checks.append(not_checked(name, _NO_LOG))
        elif wanted is not None:
            checks.append(_in_range(name, getattr(log, field), wanted, unit, expectation.source))
    if expectation.free_gib is not None:
        if free_gib is None:
            checks.append(not_checked(_FREE, "nvidia-smi cannot be asked"))
        else:
            checks.append(_in_range(_FREE, free_gib, expectation.free_gib, "GiB", expectation.source))
    return checks + _proofs(log, expectation.log)


def _proofs(log: StartupLog | None, texts: Sequence[str]) -> list[Check]:
    checks = []
    for text in texts:
        name = f"log says {text!r}"
        if log is None:
            checks.append(not_checked(name, _NO_LOG))
        elif text in log.seen:
            checks.append(passed(name, "it does", ("line", log.seen[text])))
        else:
            checks.append(failed(name, "no line says so"))
    return checks


def _in_range(name: str, found: float | None, wanted: Range, unit: str, source: str) -> Check:
    # The server prints two digits: binary fractions such as 2.589843 say no more than 2.59.
    text = "nothing" if found is None else f"{found:,}" if isinstance(found, int) else f"{found:.2f}"
    expected = _show_range(wanted)
    if found is None:
        return failed(name, f"was not printed; expected {expected} {unit}", ("source", source))
    if not wanted.holds(found):
        return failed(name, f"{text} {unit}, expected {expected}", ("source", source))
    return passed(name, f"{text} {unit}, expected {expected}", ("source", source))


def _show_range(wanted: Range) -> str:
    # 12 digits: fewer would print a million tokens as 1e+06.
    low = f"{wanted.min:,.12g}" if wanted.min is not None else None
    high = f"{wanted.max:,.12g}" if wanted.max is not None else None
    if low and low == high:
        return low
    if low and high:
        return f"{low} to {high}"
    return f"at least {low}" if low else f"at most {high}"
